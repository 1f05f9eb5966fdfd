//! The kernel's WireGuard, through wireguard-control (generic netlink).
//!
//! Decides: how a device that does not fit one netlink message is cut and put together. A message
//! holds some tens of peers; the kernel then shows a peer with its first prefixes at the end of one
//! and again, with nothing but its key and the other prefixes, at the beginning of the next. And:
//! how a peer loses a prefix. The kernel knows no such request before 6.16, only "replace all",
//! and while it replaces, packets to the prefixes that stay find no peer. So prefixes are never
//! replaced: one that is lost moves to a peer that is removed at once, in the same request.
//!
//! Calls block for the time of a few system calls and therefore run on tokio's blocking threads.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io,
    str::FromStr as _,
};

use overlay_core::peers::{Cidr, PublicKey};
use wireguard_control::{
    Backend, Device, DeviceUpdate, InterfaceName, Key, PeerConfigBuilder, PeerInfo,
};

use crate::backend::{DeviceChange, DevicePeerChange, DeviceState, PeerState};

/// A peer has to fit a message of 8 KiB together with the device's name; an IPv6 prefix takes 40
/// bytes. Half of what fits leaves room for the peer's other attributes.
const PREFIXES_PER_MESSAGE: usize = 100;

/// The peer that takes prefixes away. Nobody knows a private key for it, and it has no endpoint.
/// Should it ever stay behind, it is a peer that no plan wants, and the next pass removes it.
const LOST_PREFIXES: Key = Key(*b"shoal: allowed IPs being removed");

pub(crate) async fn get(name: &str) -> io::Result<DeviceState> {
    let name = InterfaceName::from_str(name)?;
    let device = blocking(move || Device::get(&name, Backend::Kernel)).await?;
    let public_key = device.public_key.map(|key| PublicKey::from_bytes(key.0));
    Ok(DeviceState {
        public_key,
        listen_port: device.listen_port.filter(|port| *port != 0),
        peers: together(device.peers.into_iter().map(read_peer)),
    })
}

/// One peer of the parts in which the kernel showed it; the first has everything but prefixes.
fn together(parts: impl Iterator<Item = (PublicKey, PeerState)>) -> BTreeMap<PublicKey, PeerState> {
    let mut peers = BTreeMap::new();
    for (key, part) in parts {
        match peers.entry(key) {
            Entry::Vacant(place) => {
                place.insert(part);
            }
            Entry::Occupied(mut peer) => peer.get_mut().allowed_ips.extend(part.allowed_ips),
        }
    }
    peers
}

pub(crate) async fn set(name: &str, change: &DeviceChange) -> io::Result<()> {
    let name = InterfaceName::from_str(name)?;
    let update = translate(change);
    blocking(move || update.apply(&name, Backend::Kernel)).await
}

async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(call)
        .await
        .map_err(io::Error::other)?
}

fn read_peer(peer: PeerInfo) -> (PublicKey, PeerState) {
    let allowed_ips = peer.config.allowed_ips.iter();
    let state = PeerState {
        endpoint: peer.config.endpoint,
        allowed_ips: allowed_ips
            .filter_map(|ip| Cidr::new(ip.address, ip.cidr))
            .collect(),
        keepalive_s: peer
            .config
            .persistent_keepalive_interval
            .filter(|interval| *interval != 0),
        last_handshake: peer.stats.last_handshake_time,
        rx_bytes: peer.stats.rx_bytes,
        tx_bytes: peer.stats.tx_bytes,
    };
    (PublicKey::from_bytes(peer.config.public_key.0), state)
}

fn translate(change: &DeviceChange) -> DeviceUpdate {
    let mut update = DeviceUpdate::new();
    if let Some(key) = &change.private_key {
        update = update.set_private_key(Key(*key.as_bytes()));
    }
    if let Some(port) = change.listen_port {
        update = update.set_listen_port(port);
    }
    for peer in change.peers.iter().flat_map(translate_peer) {
        update = update.add_peer(peer);
    }
    update
}

/// The change, in as many parts as its prefixes need.
fn translate_peer(change: &DevicePeerChange) -> Vec<PeerConfigBuilder> {
    match change {
        DevicePeerChange::Remove(key) => vec![PeerConfigBuilder::new(&wire_key(key)).remove()],
        DevicePeerChange::Set {
            key,
            must_exist: _,
            endpoint,
            allowed_ips,
            lost_ips,
            keepalive_s,
        } => {
            let mut parts = take_away(lost_ips);
            let mut first = PeerConfigBuilder::new(&wire_key(key));
            if let Some(endpoint) = endpoint {
                first = first.set_endpoint(*endpoint);
            }
            if let Some(interval) = keepalive_s {
                first = first.set_persistent_keepalive_interval(*interval);
            }
            parts.push(first);
            let prefixes = allowed_ips.as_deref().unwrap_or_default();
            parts.extend(in_parts(&wire_key(key), prefixes));
            parts
        }
    }
}

fn take_away(prefixes: &[Cidr]) -> Vec<PeerConfigBuilder> {
    if prefixes.is_empty() {
        return Vec::new();
    }
    in_parts(&LOST_PREFIXES, prefixes)
        .chain([PeerConfigBuilder::new(&LOST_PREFIXES).remove()])
        .collect()
}

fn in_parts(key: &Key, prefixes: &[Cidr]) -> impl Iterator<Item = PeerConfigBuilder> {
    prefixes
        .chunks(PREFIXES_PER_MESSAGE)
        .map(|prefixes| allow(PeerConfigBuilder::new(key), prefixes))
}

fn allow(peer: PeerConfigBuilder, prefixes: &[Cidr]) -> PeerConfigBuilder {
    prefixes.iter().fold(peer, |peer, prefix| {
        peer.add_allowed_ip(prefix.address(), prefix.length())
    })
}

fn wire_key(key: &PublicKey) -> Key {
    Key(*key.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use wireguard_control::AllowedIp;

    #[test]
    fn a_kernel_peer_is_read_with_its_prefixes_and_without_a_zero_keepalive() {
        let mut info = PeerInfo::from_public_key(Key([7; 32]));
        info.config.allowed_ips = vec![AllowedIp {
            address: "fd00::7".parse().unwrap(),
            cidr: 128,
        }];
        info.config.persistent_keepalive_interval = Some(0);
        let (key, peer) = read_peer(info);
        assert_eq!(key, PublicKey::from_bytes([7; 32]));
        assert_eq!(peer.allowed_ips, ["fd00::7/128".parse().unwrap()]);
        assert_eq!(peer.keepalive_s, None);
    }

    #[test]
    fn a_peer_that_the_kernel_showed_in_two_parts_is_one_peer() {
        let key = PublicKey::from_bytes([7; 32]);
        let part = |prefix: &str, endpoint: Option<&str>| {
            let state = PeerState {
                endpoint: endpoint.map(|text| text.parse().unwrap()),
                allowed_ips: vec![prefix.parse().unwrap()],
                rx_bytes: endpoint.map_or(0, |_| 9),
                ..PeerState::default()
            };
            (key, state)
        };
        let parts = [
            part("fd00::7/128", Some("192.0.2.7:51820")),
            part("10.0.0.7/32", None),
        ];
        let peers = together(parts.into_iter());
        assert_eq!(peers.len(), 1);
        assert_eq!(peers[&key].endpoint, "192.0.2.7:51820".parse().ok());
        assert_eq!(peers[&key].allowed_ips.len(), 2);
        assert_eq!(peers[&key].rx_bytes, 9);
    }

    #[test]
    fn a_peer_with_more_prefixes_than_a_message_holds_is_cut() {
        for (count, parts) in [(0, 1), (100, 2), (101, 3), (250, 4)] {
            assert_eq!(translate_peer(&set(count, 0)).len(), parts, "{count}");
        }
    }

    #[test]
    fn lost_prefixes_go_first_by_way_of_a_peer_that_is_removed_and_none_is_replaced() {
        let peer = || PeerConfigBuilder::new(&Key([7; 32]));
        let outgoing = || PeerConfigBuilder::new(&LOST_PREFIXES);
        let kept = ([10, 0, 0, 0].into(), 32);
        let lost = ([10, 0, 1, 0].into(), 32);
        let gain = [peer(), peer().add_allowed_ip(kept.0, kept.1)];
        assert_eq!(translate_peer(&set(1, 0)), gain);
        let loss = [
            outgoing().add_allowed_ip(lost.0, lost.1),
            outgoing().remove(),
        ];
        assert_eq!(translate_peer(&set(1, 1)), [loss, gain].concat());
    }

    fn set(allowed: u8, lost: u8) -> DevicePeerChange {
        let prefixes = |net: u8, count: u8| {
            (0..count)
                .map(|n| Cidr::host([10, 0, net, n].into()))
                .collect()
        };
        DevicePeerChange::Set {
            key: PublicKey::from_bytes([7; 32]),
            must_exist: true,
            endpoint: None,
            allowed_ips: Some(prefixes(0, allowed)),
            lost_ips: prefixes(1, lost),
            keepalive_s: None,
        }
    }
}
