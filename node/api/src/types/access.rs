//! The shapes of access grants.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// A device that is let into a network, as `access ls` gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessGrantView {
    /// Its name.
    pub name: String,
    /// The network, by name.
    pub network: String,
    /// The node that forwards for the device, by name.
    pub gateway: String,
    /// The device's WireGuard public key, base64.
    pub public_key: String,
    /// The device's /128.
    pub ipv6: Ipv6Addr,
    /// The device's /32.
    pub ipv4: Ipv4Addr,
    /// `active`, `suspended` or `expired`.
    pub state: String,
    /// When it ends by itself, milliseconds since 1970.
    pub expires_at_ms: Option<u64>,
    /// When it was made, milliseconds since 1970.
    pub created_at_ms: u64,
}

/// A grant with what its device's configuration says, as `access show` gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessGrantDetails {
    /// What `access ls` gives.
    #[serde(flatten)]
    pub grant: AccessGrantView,
    /// The device's way in; none where the gateway has no place in the network any more.
    pub tunnel: Option<AccessTunnel>,
    /// Where the device was heard from last. Only the gateway knows.
    pub device_endpoint: Option<String>,
    /// Seconds since the device's last handshake. Only the gateway knows.
    pub handshake_s: Option<u64>,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// What a device is told of its gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessTunnel {
    /// The gateway's WireGuard public key, base64.
    pub public_key: String,
    /// Where the gateway can be reached, the likeliest first.
    pub endpoints: Vec<String>,
    /// What the device reaches: the network's prefixes, and those behind it.
    pub allowed_ips: Vec<String>,
    /// The network's MTU.
    pub mtu: u32,
}

/// `POST /v1/access-grants`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessGrantRequest {
    /// Its name.
    pub name: String,
    /// The network, by name.
    pub network: String,
    /// The device's WireGuard public key, base64.
    pub public_key: String,
    /// The node that forwards for the device, by name or id; a hub or server that can be reached
    /// unless given.
    pub gateway: Option<String>,
    /// How long it is good for, in seconds; until it is revoked, unless given.
    pub ttl_s: Option<u64>,
}

/// `PUT /v1/access-grants/{grant}/gateway`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessGatewayRequest {
    /// The node that forwards for the device, by name or id.
    pub gateway: String,
}
