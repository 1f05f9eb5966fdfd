//! The first packet to a WireGuard peer.
//!
//! Decides who is greeted: every peer that has addresses only now, and every peer of an interface
//! that has a new key.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use consensus_core::Peer;
use overlay_core::peers::{InterfacePlan, ObservedInterface};

/// Where a greeting goes: the discard service (RFC 863), which nobody runs.
const DISCARD_PORT: u16 = 9;

/// One address of each peer that is to be greeted after `observed` has become as `desired`.
pub(super) fn to_greet(
    desired: &InterfacePlan,
    observed: &ObservedInterface,
    all: bool,
) -> Vec<IpAddr> {
    let had_none = |key| {
        let seen = observed.peers.get(key);
        seen.is_none_or(|peer| peer.allowed_ips.is_empty())
    };
    let peers = desired.peers.iter();
    let greeted = peers.filter(|(key, _)| all || had_none(key));
    let address = |prefixes: &std::collections::BTreeSet<overlay_core::peers::Cidr>| {
        let addresses = prefixes.iter().map(|prefix| prefix.address());
        addresses.into_iter().find(IpAddr::is_ipv6)
    };
    greeted
        .filter_map(|(_, peer)| address(&peer.allowed_ips))
        .collect()
}

/// Sends one datagram to each. WireGuard shakes hands when there is something to send, and drops a
/// handshake from a peer it does not know yet; the sender then waits five seconds (whitepaper,
/// 6.1). Of two nodes that learn of each other the later one so always has its handshake answered
/// at once.
pub(super) fn greet(addresses: &[IpAddr], own: &Peer) {
    if addresses.is_empty() {
        return;
    }
    let socket = UdpSocket::bind(SocketAddr::from((own.ipv6, 0)));
    let socket = socket.and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
    let socket = match socket {
        Ok(socket) => socket,
        Err(error) => {
            tracing::debug!(%error, "new peers were not greeted");
            return;
        }
    };
    for address in addresses {
        if let Err(error) = socket.send_to(&[0], SocketAddr::from((*address, DISCARD_PORT))) {
            tracing::debug!(%address, %error, "a new peer was not greeted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use overlay_core::{
        mtu::OVERLAY_MTU,
        peers::{ObservedPeer, PeerPlan, PublicKey},
    };

    #[test]
    fn a_peer_is_greeted_when_it_gets_its_first_address_and_all_are_after_a_new_key() {
        let prefix = |node: u8| format!("fd00::{node}/128").parse().unwrap();
        let key = |node: u8| PublicKey::from_bytes([node; 32]);
        let plan = |node: u8| PeerPlan {
            allowed_ips: [prefix(node), "10.0.0.1/32".parse().unwrap()].into(),
            ..PeerPlan::default()
        };
        let desired = InterfacePlan {
            addresses: [].into(),
            routes: [].into(),
            mtu: OVERLAY_MTU,
            listen_port: 1,
            peers: [
                (key(1), plan(1)),
                (key(2), plan(2)),
                (key(3), plan(3)),
                (key(4), PeerPlan::default()),
            ]
            .into(),
        };
        let known = ObservedPeer {
            allowed_ips: [prefix(1)].into(),
            ..ObservedPeer::default()
        };
        let observed = ObservedInterface {
            peers: [(key(1), known), (key(2), ObservedPeer::default())].into(),
            ..ObservedInterface::default()
        };
        let address = |node: u8| format!("fd00::{node}").parse::<IpAddr>().unwrap();
        let greeted = |all| to_greet(&desired, &observed, all);
        assert_eq!(greeted(false), [address(2), address(3)]);
        assert_eq!(greeted(true), [address(1), address(2), address(3)]);
    }
}
