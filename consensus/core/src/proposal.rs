//! What a new network gets where the operator leaves it open.
//!
//! Decides: the WireGuard port and the IPv4 prefixes that no network of the mesh has. Whether the
//! machine's own routes leave a prefix free is for the daemon to look at, and whether it is still
//! free for `apply` to refuse.

use std::net::Ipv4Addr;

use crate::{Agreed, DEFAULT_IPV4_PREFIX, IpPrefix, Ipv4Prefix, OVERLAY_IPV4_SPACE};

/// Next to the first network's 7441, past the daemon's own ports.
const FIRST_PORT: u16 = 7450;

impl Agreed {
    /// The lowest UDP port of ours that no network uses.
    pub fn free_wireguard_port(&self) -> u16 {
        let taken = |port: &u16| {
            self.networks
                .values()
                .any(|network| network.wireguard_port == *port)
        };
        (FIRST_PORT..=u16::MAX)
            .find(|port| !taken(port))
            .unwrap_or(FIRST_PORT)
    }

    /// Prefixes of the first network's length that nothing in the mesh overlaps: those after the
    /// first network's own, then those before it.
    pub fn free_ipv4_prefixes(&self) -> impl Iterator<Item = Ipv4Prefix> {
        let start = DEFAULT_IPV4_PREFIX.network().octets()[1];
        let first = OVERLAY_IPV4_SPACE.network().octets()[1];
        let all = (start..first + 64).chain(first..start);
        let prefixes = all.filter_map(|second| {
            let network = Ipv4Addr::new(100, second, 0, 0);
            format!("{network}/{}", DEFAULT_IPV4_PREFIX.bits())
                .parse()
                .ok()
        });
        prefixes.filter(|prefix: &Ipv4Prefix| {
            let proposed = IpPrefix::from(*prefix);
            let networks = self.networks.values();
            let mut claims = networks
                .flat_map(|network| {
                    [
                        Some(network.ipv4.into()),
                        network.pod_subnet_prefix,
                        network.container_subnet_prefix,
                    ]
                })
                .flatten()
                .chain(
                    self.peers
                        .values()
                        .flat_map(|peer| peer.lan_subnets.clone()),
                );
            !claims.any(|claim: IpPrefix| claim.overlaps(proposed))
        })
    }
}
