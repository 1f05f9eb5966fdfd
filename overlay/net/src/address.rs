//! Socket addresses and libp2p's multiaddresses, translated both ways.
//!
//! Decides nothing. Only the forms that shoal speaks exist: UDP with QUIC v1, TCP, and a circuit
//! through a relay that is reached by one of those.

use std::net::SocketAddr;

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

use crate::peering::Transport;

/// The multiaddress of a transport at a socket address.
pub(crate) fn multiaddr(address: SocketAddr, transport: Transport) -> Multiaddr {
    let base = Multiaddr::from(address.ip());
    match transport {
        Transport::Quic => base
            .with(Protocol::Udp(address.port()))
            .with(Protocol::QuicV1),
        Transport::Tcp => base.with(Protocol::Tcp(address.port())),
    }
}

/// The multiaddress of `to` through a relay at `at`; of the circuit's near end without `to`.
pub(crate) fn circuit(at: Multiaddr, relay: PeerId, to: Option<PeerId>) -> Multiaddr {
    let near = at.with(Protocol::P2p(relay)).with(Protocol::P2pCircuit);
    match to {
        Some(to) => near.with(Protocol::P2p(to)),
        None => near,
    }
}

/// Whether an address leads through a relay.
pub(crate) fn is_circuit(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// The relay of a circuit's address, where it is named.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "multiaddresses have forty forms, of which one names a peer"
)]
pub(crate) fn relay_of(address: &Multiaddr) -> Option<PeerId> {
    let before = address
        .iter()
        .take_while(|part| *part != Protocol::P2pCircuit);
    before
        .filter(|_| is_circuit(address))
        .find_map(|part| match part {
            Protocol::P2p(peer) => Some(peer),
            _ => None,
        })
}

/// The socket address and transport of a multiaddress; `None` for circuits and forms shoal does
/// not speak.
pub(crate) fn socket_address(address: &Multiaddr) -> Option<(SocketAddr, Transport)> {
    if is_circuit(address) {
        return None;
    }
    first_hop(address)
}

/// The socket address that bytes go to first: the peer's own, or its relay's.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "multiaddresses have forty forms, of which shoal speaks two"
)]
pub(crate) fn first_hop(address: &Multiaddr) -> Option<(SocketAddr, Transport)> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Udp(port) => match parts.next()? {
            Protocol::QuicV1 => Some((SocketAddr::new(ip, port), Transport::Quic)),
            _ => None,
        },
        Protocol::Tcp(port) => Some((SocketAddr::new(ip, port), Transport::Tcp)),
        _ => None,
    }
}

/// The peer named at a multiaddress's end.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "multiaddresses have forty forms, of which one names a peer"
)]
pub(crate) fn named_peer(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last()? {
        Protocol::P2p(peer) => Some(peer),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_translate_both_ways() {
        for text in ["127.0.0.1:7000", "[fd00::1]:65535"] {
            let address: SocketAddr = text.parse().unwrap();
            for transport in [Transport::Quic, Transport::Tcp] {
                let multi = multiaddr(address, transport);
                assert_eq!(socket_address(&multi), Some((address, transport)));
            }
        }
    }

    #[test]
    fn a_circuit_is_its_relay_and_no_address_of_its_own() {
        let peer = || {
            crate::key::NodeKey::generate()
                .keypair()
                .public()
                .to_peer_id()
        };
        let (relay, to) = (peer(), peer());
        let at: SocketAddr = "192.0.2.1:7440".parse().unwrap();
        for whom in [Some(to), None] {
            let address = circuit(multiaddr(at, Transport::Quic), relay, whom);
            assert_eq!(socket_address(&address), None);
            assert_eq!(first_hop(&address), Some((at, Transport::Quic)));
            assert_eq!(relay_of(&address), Some(relay));
            assert_eq!(named_peer(&address), whom);
        }
        assert_eq!(relay_of(&multiaddr(at, Transport::Tcp)), None);
    }

    #[test]
    fn a_foreign_form_has_no_socket_address() {
        for text in [
            "/dns4/example.org/tcp/1",
            "/ip4/1.2.3.4",
            "/ip4/1.2.3.4/udp/9",
        ] {
            assert_eq!(socket_address(&text.parse().unwrap()), None, "{text}");
        }
    }
}
