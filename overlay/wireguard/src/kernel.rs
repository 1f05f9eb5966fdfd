//! The kernel's WireGuard, through wireguard-control (generic netlink).
//!
//! Calls block for the time of a few system calls and therefore run on tokio's blocking threads.

use std::{io, str::FromStr as _};

use overlay_core::peers::{Cidr, PublicKey};
use wireguard_control::{
    Backend, Device, DeviceUpdate, InterfaceName, Key, PeerConfigBuilder, PeerInfo,
};

use crate::backend::{DeviceChange, DevicePeerChange, DeviceState, PeerState};

pub(crate) async fn get(name: &str) -> io::Result<DeviceState> {
    let name = InterfaceName::from_str(name)?;
    let device = blocking(move || Device::get(&name, Backend::Kernel)).await?;
    let public_key = device.public_key.map(|key| PublicKey::from_bytes(key.0));
    Ok(DeviceState {
        public_key,
        listen_port: device.listen_port.filter(|port| *port != 0),
        peers: device.peers.into_iter().map(read_peer).collect(),
    })
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
    for peer in &change.peers {
        update = update.add_peer(translate_peer(peer));
    }
    update
}

fn translate_peer(change: &DevicePeerChange) -> PeerConfigBuilder {
    match change {
        DevicePeerChange::Remove(key) => PeerConfigBuilder::new(&Key(*key.as_bytes())).remove(),
        DevicePeerChange::Set {
            key,
            must_exist: _,
            endpoint,
            allowed_ips,
            keepalive_s,
        } => {
            let mut peer = PeerConfigBuilder::new(&Key(*key.as_bytes()));
            if let Some(endpoint) = endpoint {
                peer = peer.set_endpoint(*endpoint);
            }
            if let Some(interval) = keepalive_s {
                peer = peer.set_persistent_keepalive_interval(*interval);
            }
            if let Some(prefixes) = allowed_ips {
                peer = peer.replace_allowed_ips();
                for prefix in prefixes {
                    peer = peer.add_allowed_ip(prefix.address(), prefix.length());
                }
            }
            peer
        }
    }
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
}
