//! The two devices behind one face: the kernel's and a process's.
//!
//! Decides nothing; a request goes to the backend that carries the interface.

use std::{collections::BTreeMap, io, net::SocketAddr, time::SystemTime};

use overlay_core::peers::{Cidr, PublicKey};

use crate::{kernel, key::PrivateKey, uapi};

/// What carries the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// The kernel's WireGuard.
    Kernel,
    /// A device process over TUN.
    Userspace,
}

/// A device's state, whichever backend carries it.
#[derive(Debug, Default)]
pub(crate) struct DeviceState {
    pub(crate) public_key: Option<PublicKey>,
    pub(crate) listen_port: Option<u16>,
    pub(crate) peers: BTreeMap<PublicKey, PeerState>,
}

/// One peer's state.
#[derive(Debug, Clone, Default)]
pub(crate) struct PeerState {
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) allowed_ips: Vec<Cidr>,
    pub(crate) keepalive_s: Option<u16>,
    pub(crate) last_handshake: Option<SystemTime>,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_bytes: u64,
}

/// Changes to a device, sent as one transaction.
#[derive(Default)]
pub(crate) struct DeviceChange {
    pub(crate) private_key: Option<PrivateKey>,
    pub(crate) listen_port: Option<u16>,
    pub(crate) peers: Vec<DevicePeerChange>,
}

/// Changes to one peer of a device.
pub(crate) enum DevicePeerChange {
    Remove(PublicKey),
    Set {
        key: PublicKey,
        must_exist: bool,
        endpoint: Option<SocketAddr>,
        allowed_ips: Option<Vec<Cidr>>,
        /// Allowed IPs of today that are not among the new ones.
        lost_ips: Vec<Cidr>,
        keepalive_s: Option<u16>,
    },
}

impl Backend {
    pub(crate) async fn get(self, name: &str) -> io::Result<DeviceState> {
        match self {
            Self::Kernel => kernel::get(name).await,
            Self::Userspace => uapi::get(name).await.map(|(state, _)| state),
        }
    }

    /// Applies `change`. The userspace device takes it as a whole, the kernel in several messages
    /// when it is large.
    pub(crate) async fn set(self, name: &str, change: &DeviceChange) -> io::Result<()> {
        match self {
            Self::Kernel => kernel::set(name, change).await,
            Self::Userspace => uapi::set(name, change).await,
        }
    }
}
