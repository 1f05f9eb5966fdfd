//! What dockerd, and a firewall of the host's own, must let pass beside this host's rules.
//!
//! Decides: dockerd has the chain FORWARD of iptables drop what it does not know. An accept elsewhere
//! does not undo that: every base chain is asked. `DOCKER-USER` is the chain that dockerd leaves to
//! others and asks before its own; where there is none, it is FORWARD itself. A firewall such as ufw has
//! INPUT drop what it does not know: containers' questions for names go there, from their bridge to a
//! bridge's own address and nowhere else. Rules of shoal are known by a comment, so that those of an
//! earlier daemon are found again.
//!
//! Never: touches a rule without the comment, or a table that is not iptables' filter.

use std::collections::BTreeSet;

use overlay_core::peers::Cidr;

use crate::{
    host::{Host, Machine},
    rules::asking,
};

/// The two programs, for IPv4 and IPv6.
pub(crate) const PROGRAMS: [&str; 2] = ["iptables", "ip6tables"];
/// Where rules about forwarded packets go, the best place first.
const FORWARDED: [&str; 2] = ["DOCKER-USER", "FORWARD"];
/// Where rules about packets to this host go.
const TAKEN: [&str; 1] = ["INPUT"];
/// All of them.
pub(crate) const CHAINS: [&str; 3] = [FORWARDED[0], FORWARDED[1], TAKEN[0]];
/// What marks a rule, and ends it.
const OURS: &str = "-m comment --comment shoal -j ACCEPT";

/// The rules that one of the programs should have, as it lists them: in the first chain that is there,
/// and in no other.
pub(crate) type Wanted = (&'static [&'static str], BTreeSet<String>);

/// What one of the programs should have.
pub(crate) fn wanted(host: &Host, machine: &Machine, program: &str) -> [Wanted; 2] {
    let ipv4 = program == PROGRAMS[0];
    [
        (&FORWARDED, forwarded(host, ipv4)),
        (&TAKEN, taken(host, machine, ipv4)),
    ]
}

/// Containers' questions for names, to a bridge's address from all bridges whose containers may be
/// told to ask there.
fn taken(host: &Host, machine: &Machine, ipv4: bool) -> BTreeSet<String> {
    let gateways = host.bridges.iter().filter_map(|bridge| bridge.gateway());
    let questions = gateways.filter(|_| ipv4).flat_map(|gateway| {
        asking(host, machine).flat_map(move |interface| {
            ["tcp", "udp"].map(|protocol| {
                let names = format!("-p {protocol} -m {protocol} --dport 53");
                format!("-d {gateway}/32 -i {interface} {names} {OURS}")
            })
        })
    });
    questions.collect()
}

fn forwarded(host: &Host, ipv4: bool) -> BTreeSet<String> {
    let is_of = |prefix: &Cidr| prefix.address().is_ipv4() == ipv4;
    let mut rules = BTreeSet::new();
    let mut add = |conditions: String| rules.insert(format!("{conditions} {OURS}"));
    for overlay in &host.overlays {
        let interface = &overlay.interface;
        if overlay.hub {
            add(format!("-i {interface} -o {interface}"));
        }
        for prefix in overlay.lan.iter().filter(|prefix| is_of(prefix)) {
            add(format!("-d {prefix} -i {interface}"));
            add(format!("-s {prefix} -o {interface}"));
        }
        let bridges = host.bridges_of(overlay);
        for bridge in bridges.filter(|bridge| is_of(&bridge.subnet)) {
            let (bridge, subnet) = (&bridge.interface, bridge.subnet);
            add(format!("-d {subnet} -i {interface} -o {bridge}"));
            add(format!("-s {subnet} -i {bridge} -o {interface}"));
        }
    }
    rules
}

/// What has to change in a chain.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) missing: Vec<String>,
    pub(crate) surplus: Vec<String>,
}

/// From a chain's rules, as `-S CHAIN` lists them, to the wanted ones.
pub(crate) fn difference(listed: &str, chain: &str, wanted: &BTreeSet<String>) -> Difference {
    let head = format!("-A {chain} ");
    let present = listed.lines().filter_map(|line| line.strip_prefix(&head));
    let mut seen = BTreeSet::new();
    let mut surplus = Vec::new();
    for rule in present.filter(|rule| rule.ends_with(OURS)) {
        // A rule that stands there twice goes once.
        if !wanted.contains(rule) || !seen.insert(rule.to_owned()) {
            surplus.push(rule.to_owned());
        }
    }
    Difference {
        missing: wanted.difference(&seen).cloned().collect(),
        surplus,
    }
}

#[cfg(test)]
mod tests {
    use consensus_core::{NetworkId, Verdict};

    use super::*;
    use crate::host::{ContainerBridge, Overlay};

    fn host() -> Host {
        let overlay = |n: u8, hub, lan: &[&str]| Overlay {
            network: NetworkId::from_bytes([n; 16]),
            interface: format!("shoal-{n}"),
            prefixes: ["fd00::/64", "100.96.0.0/16"].map(|text| text.parse().unwrap()),
            hub,
            lan: lan.iter().map(|text| text.parse().unwrap()).collect(),
            devices: BTreeSet::new(),
            own_ports: BTreeSet::new(),
            default: Verdict::Allow,
            rules: Vec::new(),
        };
        let bridge = ContainerBridge {
            interface: "br-sh-3".into(),
            subnet: "10.43.3.0/24".parse().unwrap(),
            network: NetworkId::from_bytes([3; 16]),
        };
        Host {
            overlays: vec![
                overlay(1, false, &["192.168.7.0/24"]),
                overlay(2, true, &[]),
                overlay(3, false, &[]),
            ],
            bridges: [bridge].into(),
            ..Host::default()
        }
    }

    /// The rules for one row of chains, the mark shortened.
    fn rules(host: &Host, machine: &Machine, program: &str, first: &str) -> Vec<String> {
        let rows = wanted(host, machine, program).into_iter();
        let mut rows = rows.filter(|(chains, _)| chains[0] == first);
        let (_, texts) = rows.next().unwrap();
        texts
            .into_iter()
            .map(|rule| rule.replace(OURS, "OURS"))
            .collect()
    }

    #[test]
    fn questions_for_names_are_let_in_from_containers_bridges_to_a_bridges_address_alone() {
        let machine = Machine {
            tenants: ["docker0".to_owned()].into(),
            ..Machine::default()
        };
        let taken = |host: &Host, program| rules(host, &machine, program, "INPUT");
        assert_eq!(
            taken(&host(), "iptables"),
            [
                "-d 10.43.3.1/32 -i br-sh-3 -p tcp -m tcp --dport 53 OURS",
                "-d 10.43.3.1/32 -i br-sh-3 -p udp -m udp --dport 53 OURS",
                "-d 10.43.3.1/32 -i docker0 -p tcp -m tcp --dport 53 OURS",
                "-d 10.43.3.1/32 -i docker0 -p udp -m udp --dport 53 OURS",
            ]
        );
        assert!(taken(&host(), "ip6tables").is_empty());
        // Without such a bridge nobody is told to ask here.
        let plain = Host {
            bridges: BTreeSet::new(),
            ..host()
        };
        assert!(taken(&plain, "iptables").is_empty());
    }

    #[test]
    fn dockerd_lets_pass_what_is_forwarded_and_no_more() {
        let rules = |program| rules(&host(), &Machine::default(), program, "DOCKER-USER");
        assert_eq!(
            rules("iptables"),
            [
                "-d 10.43.3.0/24 -i shoal-3 -o br-sh-3 OURS",
                "-d 192.168.7.0/24 -i shoal-1 OURS",
                "-i shoal-2 -o shoal-2 OURS",
                "-s 10.43.3.0/24 -i br-sh-3 -o shoal-3 OURS",
                "-s 192.168.7.0/24 -o shoal-1 OURS",
            ]
        );
        assert_eq!(rules("ip6tables"), ["-i shoal-2 -o shoal-2 OURS"]);
    }

    #[test]
    fn what_is_missing_comes_what_is_no_more_wanted_goes_and_others_stay() {
        let rule = |interface: &str| format!("-i {interface} -o {interface} {OURS}");
        let listed = format!(
            "-N DOCKER-USER\n-A DOCKER-USER {}\n-A DOCKER-USER {}\n-A DOCKER-USER {}\n\
             -A DOCKER-USER -i eth0 -j ACCEPT\n-A DOCKER-USER -j RETURN\n",
            rule("a"),
            rule("a"),
            rule("old")
        );
        let wanted = [rule("a"), rule("new")].into();
        let found = difference(&listed, "DOCKER-USER", &wanted);
        assert_eq!(found.missing, [rule("new")]);
        assert_eq!(found.surplus, [rule("a"), rule("old")]);
        let settled = difference(
            &format!("-A X {}\n-A X {}\n", rule("a"), rule("new")),
            "X",
            &wanted,
        );
        assert!(settled.missing.is_empty() && settled.surplus.is_empty());
    }
}
