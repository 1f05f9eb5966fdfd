//! The client's side of WireGuard's configuration protocol, spoken to a userspace device over
//! its Unix socket (<https://www.wireguard.com/xplatform/#configuration-protocol>).
//!
//! wireguard-control's client is not used: it has no deadline, prints to the standard output,
//! and starts whatever `wireguard-go` it finds when the socket is missing.
//!
//! Never: waits longer than [`REPLY_WITHIN`], starts a process, keeps a connection.

use std::{
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use overlay_core::peers::PublicKey;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    time::timeout,
};
use zeroize::Zeroizing;

use crate::{
    backend::{DeviceChange, DevicePeerChange, DeviceState, PeerState},
    key::{PrivateKey, hex, parse_hex_bytes},
};

/// Where userspace devices have their sockets; `wg show` looks here too.
pub(crate) const SOCKET_FOLDER: &str = "/var/run/wireguard";

/// A device answers within a millisecond; five seconds later it is stuck, not busy.
const REPLY_WITHIN: Duration = Duration::from_secs(5);

/// Largest answer that is read: a thousand peers with twenty prefixes each are 1 MB.
const REPLY_BYTES_MAX: u64 = 16 << 20;

/// The socket of the device called `name`.
pub(crate) fn socket_path(name: &str) -> PathBuf {
    Path::new(SOCKET_FOLDER).join(format!("{name}.sock"))
}

/// Reads the device's state and the id of the process behind the socket.
pub(crate) async fn get(name: &str) -> io::Result<(DeviceState, Option<i32>)> {
    let (reply, pid) = exchange(name, "get=1\n\n").await?;
    let state = parse_state(&reply).ok_or(io::ErrorKind::InvalidData)?;
    Ok((state, pid))
}

/// Applies `change`.
pub(crate) async fn set(name: &str, change: &DeviceChange) -> io::Result<()> {
    exchange(name, &render(change)).await.map(|_| ())
}

/// Sends one request; gives the reply's lines before its `errno=0`.
async fn exchange(name: &str, request: &str) -> io::Result<(Zeroizing<String>, Option<i32>)> {
    let conversation = async {
        let mut stream = UnixStream::connect(socket_path(name)).await?;
        let pid = stream.peer_cred()?.pid().filter(|pid| *pid > 0);
        stream.write_all(request.as_bytes()).await?;
        let mut lines = BufReader::new(stream.take(REPLY_BYTES_MAX)).lines();
        let mut reply = Zeroizing::new(String::new());
        while let Some(line) = lines.next_line().await? {
            if let Some(errno) = line.strip_prefix("errno=") {
                return match errno.parse() {
                    Ok(0) => Ok((reply, pid)),
                    Ok(errno) => Err(io::Error::from_raw_os_error(errno)),
                    Err(_) => Err(io::ErrorKind::InvalidData.into()),
                };
            }
            reply.push_str(&line);
            reply.push('\n');
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    };
    timeout(REPLY_WITHIN, conversation)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

fn render(change: &DeviceChange) -> Zeroizing<String> {
    let mut text = Zeroizing::new("set=1\n".to_owned());
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        writeln!(text, "{key}={value}").expect("writing to a String cannot fail");
    };
    if let Some(key) = &change.private_key {
        line("private_key", &hex(key.as_bytes()).as_str());
    }
    if let Some(port) = change.listen_port {
        line("listen_port", &port);
    }
    for peer in &change.peers {
        match peer {
            DevicePeerChange::Remove(key) => {
                line("public_key", &hex(key.as_bytes()).as_str());
                line("remove", &true);
            }
            DevicePeerChange::Set {
                key,
                must_exist,
                endpoint,
                allowed_ips,
                lost_ips,
                keepalive_s,
            } => {
                line("public_key", &hex(key.as_bytes()).as_str());
                if *must_exist {
                    line("update_only", &true);
                }
                if let Some(endpoint) = endpoint {
                    line("endpoint", endpoint);
                }
                if let Some(interval) = keepalive_s {
                    line("persistent_keepalive_interval", interval);
                }
                if let Some(prefixes) = allowed_ips {
                    if !lost_ips.is_empty() {
                        line("replace_allowed_ips", &true);
                    }
                    for prefix in prefixes {
                        line("allowed_ip", prefix);
                    }
                }
            }
        }
    }
    text.push('\n');
    text
}

pub(crate) fn parse_state(reply: &str) -> Option<DeviceState> {
    let mut state = DeviceState::default();
    let mut current: Option<(PublicKey, PeerState)> = None;
    for line in reply.lines().filter(|line| !line.is_empty()) {
        let (key, value) = line.split_once('=')?;
        if key == "public_key" {
            state.peers.extend(current.take());
            let key = PublicKey::from_bytes(parse_hex_bytes(value)?);
            current = Some((key, PeerState::default()));
            continue;
        }
        match &mut current {
            None => parse_device_line(&mut state, key, value)?,
            Some((_, peer)) => parse_peer_line(peer, key, value)?,
        }
    }
    state.peers.extend(current);
    Some(state)
}

/// Unknown keys are skipped: devices add their own.
fn parse_device_line(state: &mut DeviceState, key: &str, value: &str) -> Option<()> {
    match key {
        "private_key" => {
            let private = PrivateKey::from_bytes(parse_hex_bytes(value)?);
            state.public_key = Some(private.public());
        }
        "listen_port" => state.listen_port = Some(value.parse().ok()?).filter(|port| *port != 0),
        _ => {}
    }
    Some(())
}

fn parse_peer_line(peer: &mut PeerState, key: &str, value: &str) -> Option<()> {
    match key {
        "endpoint" => peer.endpoint = Some(value.parse().ok()?),
        "allowed_ip" => peer.allowed_ips.push(value.parse().ok()?),
        "persistent_keepalive_interval" => {
            peer.keepalive_s = Some(value.parse().ok()?).filter(|interval| *interval != 0);
        }
        "last_handshake_time_sec" => {
            let at = value.parse().ok().map(Duration::from_secs)?;
            peer.last_handshake = match at.is_zero() {
                true => None,
                // Beyond what a clock can show is no time.
                false => Some(SystemTime::UNIX_EPOCH.checked_add(at)?),
            };
        }
        "last_handshake_time_nsec" => {
            let part = value.parse().ok().map(Duration::from_nanos)?;
            peer.last_handshake = match peer.last_handshake {
                None => None,
                Some(at) => Some(at.checked_add(part)?),
            };
        }
        "rx_bytes" => peer.rx_bytes = value.parse().ok()?,
        "tx_bytes" => peer.tx_bytes = value.parse().ok()?,
        _ => {}
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the protocol's own description, shortened.
    const REPLY: &str = "\
private_key=e84b5a6d2717c1003a13b431570353dbaca9146cf150c5f8575680feba52027a
listen_port=12912
public_key=b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33
preshared_key=188515093e952f5f22e865cef3012e72f8b5f0b598ac0309d5dacce3b70fcf52
allowed_ip=192.168.4.4/32
endpoint=[abcd:23::33%2]:51820
public_key=58402e695ba1772b1cc9309755f043251ea77fdcf10fbe63989ceb7e19321376
tx_bytes=38333
rx_bytes=2224
allowed_ip=192.168.4.6/32
allowed_ip=fd00::6/128
persistent_keepalive_interval=111
endpoint=182.122.22.19:3233
last_handshake_time_sec=1700000000
last_handshake_time_nsec=500000000
";

    #[test]
    fn a_devices_answer_is_understood() {
        let reply = REPLY.replace("%2", "");
        let state = parse_state(&reply).unwrap();
        assert_eq!(state.listen_port, Some(12912));
        assert!(state.public_key.is_some());
        assert_eq!(state.peers.len(), 2);
        let key = "58402e695ba1772b1cc9309755f043251ea77fdcf10fbe63989ceb7e19321376";
        let peer = &state.peers[&PublicKey::from_bytes(parse_hex_bytes(key).unwrap())];
        assert_eq!(peer.rx_bytes, 2224);
        assert_eq!(peer.keepalive_s, Some(111));
        assert_eq!(peer.allowed_ips.len(), 2);
        let at = peer.last_handshake.unwrap();
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(since, Duration::from_millis(1_700_000_000_500));
    }

    #[test]
    fn a_change_is_written_with_one_section_per_peer() {
        let key = PublicKey::from_bytes([0xab; 32]);
        let change = DeviceChange {
            private_key: None,
            listen_port: Some(51820),
            peers: vec![
                DevicePeerChange::Remove(key),
                DevicePeerChange::Set {
                    key,
                    must_exist: true,
                    endpoint: Some("192.0.2.1:7".parse().unwrap()),
                    allowed_ips: Some(vec!["fd00::1/128".parse().unwrap()]),
                    lost_ips: vec!["fd00::2/128".parse().unwrap()],
                    keepalive_s: None,
                },
            ],
        };
        let name = "ab".repeat(32);
        assert_eq!(
            render(&change).as_str(),
            format!(
                "set=1\nlisten_port=51820\npublic_key={name}\nremove=true\npublic_key={name}\n\
                 update_only=true\nendpoint=192.0.2.1:7\nreplace_allowed_ips=true\n\
                 allowed_ip=fd00::1/128\n\n"
            )
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["listen_port", "public_key=12\n", "listen_port=70000\n"] {
            assert!(parse_state(bad).is_none(), "{bad}");
        }
    }
}
