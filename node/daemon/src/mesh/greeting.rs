//! The first packet to a new WireGuard peer.
//!
//! Decides who is greeted: every peer that was just added.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use consensus_core::Peer;
use overlay_core::peers::Step;

/// Where a greeting goes: the discard service (RFC 863), which nobody runs.
const DISCARD_PORT: u16 = 9;

/// Sends one datagram to each peer that was just added. WireGuard shakes hands when there is
/// something to send, and drops a handshake from a peer it does not know yet; the sender then
/// waits five seconds (whitepaper, 6.1). Of two nodes that learn of each other the later one so
/// always has its handshake answered at once.
pub(super) fn greet_added(steps: &[Step], own: &Peer) {
    let added = steps.iter().filter_map(|step| {
        let Step::AddPeer { peer, .. } = step else {
            return None;
        };
        peer.allowed_ips
            .iter()
            .map(|cidr| cidr.address())
            .find(IpAddr::is_ipv6)
    });
    for address in added {
        let sent = UdpSocket::bind(SocketAddr::from((own.ipv6, 0))).and_then(|socket| {
            socket.set_nonblocking(true)?;
            socket.send_to(&[0], SocketAddr::from((address, DISCARD_PORT)))
        });
        if let Err(error) = sent {
            tracing::debug!(%address, %error, "a new peer was not greeted");
        }
    }
}
