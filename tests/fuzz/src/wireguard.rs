//! WireGuard's configuration protocol, both ways, and the files beside it.
//!
//! Claims: an answer that is understood can be written in the protocol's words and is then
//! understood the same; a key file is read as the key that would be written into it; a line of the
//! written endpoints is read as what it was written from.

use std::{fmt::Write as _, time::UNIX_EPOCH};

use overlay_wireguard::fuzzing::{self, Reply};

pub(crate) fn reply(data: &[u8]) {
    let text = crate::text(data);
    if let Some(reply) = fuzzing::reply(&text) {
        let again = fuzzing::reply(&written(&reply)).expect("written in the protocol's words");
        assert_eq!(again.listen_port, reply.listen_port);
        assert_eq!(again.peers, reply.peers);
    }
}

/// The answer without the private key, of which only the public half is kept.
fn written(reply: &Reply) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        writeln!(text, "{key}={value}").expect("writing to a String cannot fail");
    };
    if let Some(port) = reply.listen_port {
        line("listen_port", &port);
    }
    for (key, peer) in &reply.peers {
        let hex: String = key.as_bytes().iter().map(|b| format!("{b:02x}")).collect();
        line("public_key", &hex);
        if let Some(endpoint) = peer.endpoint {
            line("endpoint", &endpoint);
        }
        for prefix in &peer.allowed_ips {
            line("allowed_ip", prefix);
        }
        if let Some(interval) = peer.keepalive_s {
            line("persistent_keepalive_interval", &interval);
        }
        if let Some(at) = peer.last_handshake {
            let since = at.duration_since(UNIX_EPOCH).expect("never before 1970");
            line("last_handshake_time_sec", &since.as_secs());
            line("last_handshake_time_nsec", &since.subsec_nanos());
        }
        line("rx_bytes", &peer.rx_bytes);
        line("tx_bytes", &peer.tx_bytes);
    }
    text
}

pub(crate) fn request(data: &[u8]) {
    let text = crate::text(data);
    if let Some(peers) = fuzzing::request(&text) {
        assert!(text.starts_with("set=1"));
        assert!(peers <= text.matches("public_key=").count());
    }
}

pub(crate) fn files(data: &[u8]) {
    let text = crate::text(data);
    if let Some((public, written)) = fuzzing::key_file(&text) {
        let spelt = text.trim_end().to_lowercase();
        assert_eq!(written, spelt, "two spellings of one key");
        assert_eq!(fuzzing::key_file(&written), Some((public, written.clone())));
    }
    for line in text.lines() {
        if let Some((key, endpoint)) = fuzzing::written_endpoint(line) {
            let again = fuzzing::written_endpoint(&format!("{key} {endpoint}"));
            assert_eq!(again, Some((key, endpoint)));
        }
    }
}
