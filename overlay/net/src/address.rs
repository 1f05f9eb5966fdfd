//! Socket addresses and libp2p's multiaddresses, translated both ways.
//!
//! Decides nothing. Only the two forms that shoal speaks exist: UDP with QUIC v1, and TCP.

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

/// The socket address and transport of a multiaddress; `None` for forms shoal does not speak.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "multiaddresses have forty forms, of which shoal speaks two"
)]
pub(crate) fn socket_address(address: &Multiaddr) -> Option<(SocketAddr, Transport)> {
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
