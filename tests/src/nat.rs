//! Hosts behind a router that translates addresses, with nftables as a home router or a carrier does
//! it.

use std::process::Command;

use crate::{
    host::{Host, LISTEN_PORT},
    lab::Lab,
};

/// How a router translates (RFC 4787's words for what each does).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// Full cone: endpoint-independent mapping and filtering. Whoever sends to the mapped port gets
    /// through.
    FullCone,
    /// Port-restricted cone: one mapping for all destinations, which each must have been sent to
    /// before its packets pass.
    PortRestricted,
    /// Symmetric: another mapping for every destination, and only that destination's answers pass.
    Symmetric,
}

/// A network of one host behind a router.
pub struct Site {
    /// Plugged into the lab's switch, and into the host.
    pub router: Host,
    /// The host, which the lab's other hosts cannot reach by themselves.
    pub host: Host,
    address: String,
}

impl Lab {
    /// A host `name` behind a router of its own. `number` tells sites apart.
    #[track_caller]
    pub fn behind(&self, nat: Nat, name: &str, number: u8) -> Site {
        let router = self.host(&format!("nat-{name}"));
        let host = self.host(name);
        let net = format!("192.168.{number}");
        let inits = [&router, &host].map(|host| host.init().expect("a new host is on"));
        run(&format!(
            "ip link add lan0 netns {router} type veth peer name wan0 netns {inner}",
            router = inits[0],
            inner = inits[1],
        ));
        host.sh(&format!(
            "ip link del eth0 && ip link set wan0 name eth0 && ip addr add {net}.2/24 dev eth0 \
             && ip link set eth0 up && ip route add default via {net}.1"
        ))
        .ok();
        router
            .sh(&format!(
                "ip addr add {net}.1/24 dev lan0 && ip link set lan0 up \
                 && echo 1 > /proc/sys/net/ipv4/ip_forward"
            ))
            .ok();
        let rules = nat.rules(&net);
        let path = self.files().join(format!("{name}.nft"));
        std::fs::write(&path, rules).expect("the lab's directory is writable");
        router.sh(&format!("nft -f /run/lab/files/{name}.nft")).ok();
        Site {
            router,
            host,
            address: format!("{net}.2"),
        }
    }
}

impl Nat {
    /// Like a router that is for sale, it drops what nobody asked for: an answer by the router
    /// itself would take the very mapping that a punched hole needs.
    fn rules(self, net: &str) -> String {
        let (inward, mapping) = match self {
            Self::FullCone => (
                format!("iifname eth0 meta l4proto {{ tcp, udp }} dnat to {net}.2"),
                "masquerade",
            ),
            Self::PortRestricted => (String::new(), "masquerade"),
            Self::Symmetric => (String::new(), "masquerade fully-random"),
        };
        format!(
            "table ip nat {{
  chain prerouting {{ type nat hook prerouting priority dstnat; {inward}
  }}
  chain postrouting {{ type nat hook postrouting priority srcnat; oifname eth0 {mapping}; }}
}}
table ip filter {{
  chain input {{ type filter hook input priority filter; policy accept;
    iifname eth0 meta l4proto {{ tcp, udp }} ct state new drop
  }}
  chain forward {{ type filter hook forward priority filter; policy drop;
    iifname lan0 accept
    ct state established,related accept
    ct status dnat accept
  }}
}}
"
        )
    }
}

impl Site {
    /// Where the host's `shoald` listens: an address that means nothing outside.
    pub fn listen(&self) -> String {
        format!("{}:{LISTEN_PORT}", self.address)
    }
}

#[track_caller]
fn run(script: &str) {
    let output = Command::new("bash")
        .args(["-c", script])
        .output()
        .expect("bash runs");
    assert!(
        output.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
