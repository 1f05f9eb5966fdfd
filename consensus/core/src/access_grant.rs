//! Access grants: devices that use a network without a daemon (SPEC 3.8).
//!
//! Decides: a grant's overlay address, and whether it lets its device in at a time. Never: makes or
//! sees a device's private key.
//!
//! Invariants, kept by `apply`: an address and a WireGuard key are one grant's, or one peer's, and
//! nobody else's; a network is not deleted, nor a gateway's place taken away, below a grant.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

use crate::{Agreed, Ipv6Prefix64, LogIndex, MeshId, NetworkId, NodeId, WallMs};

/// A device's place in a network.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessGrant {
    /// The network that it lets into.
    pub network: NetworkId,
    /// The node that has the device for a WireGuard peer, and forwards for it. It may have been
    /// removed from the mesh.
    pub gateway: NodeId,
    /// The device's WireGuard public key.
    pub public_key: [u8; 32],
    /// Its /128.
    pub ipv6: Ipv6Addr,
    /// Its /32.
    pub ipv4: Ipv4Addr,
    /// Whether it lets nobody in for the time being.
    pub suspended: bool,
    /// When it ends by itself.
    pub expires_at: Option<WallMs>,
    /// When it was made.
    pub created_at: WallMs,
}

/// What can be said of a grant at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GrantState {
    /// Its device is let in.
    Active,
    /// It is not, until the grant is resumed.
    Suspended,
    /// It is not any more.
    Expired,
}

impl GrantState {
    /// The word in tables and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Expired => "expired",
        }
    }
}

/// A grant as it is asked for.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewGrant {
    /// Its name, unique in the mesh.
    pub name: String,
    /// The network's name.
    pub network: String,
    /// The gateway, by name or id.
    pub gateway: String,
    /// The device's WireGuard public key.
    pub public_key: [u8; 32],
    /// When it is to end by itself.
    pub expires_at: Option<WallMs>,
}

impl fmt::Debug for AccessGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessGrant")
            .field("network", &self.network)
            .field("gateway", &self.gateway)
            .field("ipv6", &self.ipv6)
            .field("ipv4", &self.ipv4)
            .field("suspended", &self.suspended)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for NewGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewGrant")
            .field("name", &self.name)
            .field("network", &self.network)
            .field("gateway", &self.gateway)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

impl AccessGrant {
    /// What it is at this time.
    pub fn state(&self, now: WallMs) -> GrantState {
        match self.expires_at {
            Some(end) if end <= now => GrantState::Expired,
            Some(_) | None if self.suspended => GrantState::Suspended,
            Some(_) | None => GrantState::Active,
        }
    }

    /// The address of a grant that this log entry makes. No entry's place is taken twice, so a
    /// revoked grant's address is nobody's any more.
    pub(crate) fn address(mesh: MeshId, index: LogIndex, network: Ipv6Prefix64) -> Ipv6Addr {
        let mut both = [0; 24];
        both[..16].copy_from_slice(mesh.as_bytes());
        both[16..].copy_from_slice(&index.0.to_be_bytes());
        let hash = blake3::derive_key("shoal v1 access grant host part", &both);
        let (host, _) = hash.split_first_chunk().expect("a hash has 32 bytes");
        let host = u128::from(u64::from_be_bytes(*host));
        Ipv6Addr::from_bits(network.network().to_bits() | host)
    }
}

impl Agreed {
    /// The grants of a network whose devices are let in at this time.
    pub fn open_grants(
        &self,
        network: NetworkId,
        now: WallMs,
    ) -> impl Iterator<Item = &AccessGrant> {
        self.access_grants
            .values()
            .filter(move |grant| grant.network == network && grant.state(now) == GrantState::Active)
    }
}
