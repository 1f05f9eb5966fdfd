//! Decoders of what devices, their clients and files say, for the fuzz targets alone.
//!
//! Decides nothing and is no part of the interface.

use std::{collections::BTreeMap, net::SocketAddr, time::SystemTime};

use overlay_core::peers::{Cidr, PublicKey};

use crate::{key, uapi, written};

/// A device's answer to `get=1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Its own public key.
    pub public_key: Option<PublicKey>,
    /// Its UDP port.
    pub listen_port: Option<u16>,
    /// Its peers.
    pub peers: BTreeMap<PublicKey, ReplyPeer>,
}

/// One peer of a device's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyPeer {
    /// Where the device sends.
    pub endpoint: Option<SocketAddr>,
    /// What the peer may send from.
    pub allowed_ips: Vec<Cidr>,
    /// Seconds between keepalives.
    pub keepalive_s: Option<u16>,
    /// When the last handshake was.
    pub last_handshake: Option<SystemTime>,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
}

/// Reads a device's answer, without its last line.
pub fn reply(text: &str) -> Option<Reply> {
    let state = uapi::parse_state(text)?;
    let peers = state.peers.into_iter().map(|(key, peer)| {
        let peer = ReplyPeer {
            endpoint: peer.endpoint,
            allowed_ips: peer.allowed_ips,
            keepalive_s: peer.keepalive_s,
            last_handshake: peer.last_handshake,
            rx_bytes: peer.rx_bytes,
            tx_bytes: peer.tx_bytes,
        };
        (key, peer)
    });
    Some(Reply {
        public_key: state.public_key,
        listen_port: state.listen_port,
        peers: peers.collect(),
    })
}

/// Reads a client's request to a device; the number of peers that it speaks of.
pub fn request(text: &str) -> Option<usize> {
    crate::device::parse(text).map(|set| set.peers.len())
}

/// The public half of the key in a key file, and the file that this key is written to.
pub fn key_file(text: &str) -> Option<(PublicKey, String)> {
    let private = key::parse_hex(text.trim_end())?;
    let again = key::hex(private.as_bytes()).as_str().to_owned();
    Some((private.public(), again))
}

/// A line of the file of written endpoints.
pub fn written_endpoint(line: &str) -> Option<(PublicKey, SocketAddr)> {
    written::parse_line(line)
}
