//! Networks and their peers.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// A network, as `network ls` and `network show` give it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkView {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The interface on every node: `shoal-<name>`, of a long name a part.
    pub interface: String,
    /// Its /64.
    pub ipv6_prefix: String,
    /// Its IPv4 prefix.
    pub ipv4_prefix: String,
    /// The UDP port of its WireGuard interfaces.
    pub wireguard_port: u16,
    /// `mesh`, or `hub`: then peers reach each other through those that are hubs.
    pub routing_mode: String,
    /// Where the pods of its clusters have their addresses.
    pub pod_subnet_prefix: Option<String>,
    /// Where the containers of its Docker hosts have their addresses.
    pub container_subnet_prefix: Option<String>,
    /// `allow` or `deny`: what becomes of connections that no firewall rule fits.
    #[serde(default)]
    pub firewall_default: String,
    /// How many firewall rules it has.
    #[serde(default)]
    pub firewall_rules: u64,
    /// Who has a place in it.
    pub peers: Vec<PeerView>,
}

/// `network create`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkRequest {
    /// Its name.
    pub name: String,
    /// Its IPv4 prefix inside 100.64.0.0/10; a free /16 unless given.
    #[serde(default)]
    pub ipv4_prefix: Option<String>,
    /// The UDP port of its WireGuard interfaces; a free one unless given.
    #[serde(default)]
    pub wireguard_port: Option<u16>,
    /// `mesh` unless given.
    #[serde(default)]
    pub routing_mode: Option<String>,
    /// Where pods have their addresses.
    #[serde(default)]
    pub pod_subnet_prefix: Option<String>,
    /// Where containers have their addresses.
    #[serde(default)]
    pub container_subnet_prefix: Option<String>,
}

/// The answer to `network create`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkCreated {
    /// The log index of the change.
    pub raft_index: u64,
    /// What the operator should know.
    pub warnings: Vec<String>,
    /// The network as it was made.
    pub network: NetworkView,
}

/// `network set`: what is not given stays as it is; an empty prefix takes one away.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSetRequest {
    /// `mesh` or `hub`.
    #[serde(default)]
    pub routing_mode: Option<String>,
    /// Where pods have their addresses.
    #[serde(default)]
    pub pod_subnet_prefix: Option<String>,
    /// Where containers have their addresses.
    #[serde(default)]
    pub container_subnet_prefix: Option<String>,
    /// `allow` or `deny`: what becomes of connections that no firewall rule fits.
    #[serde(default)]
    pub firewall_default: Option<String>,
}

/// What a peer is besides its addresses. What is not given stays as it is, or is not so at first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerRequest {
    /// Whether it forwards between the others where the network's mode is hub.
    #[serde(default)]
    pub hub: Option<bool>,
    /// Networks behind the node that the others reach through it.
    #[serde(default)]
    pub lan_subnets: Option<Vec<String>>,
}

/// A node's place in a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerView {
    /// The node's name.
    pub node: String,
    /// Its /128.
    pub ipv6: Ipv6Addr,
    /// Its /32.
    pub ipv4: Ipv4Addr,
    /// Its WireGuard public key, base64.
    pub public_key: String,
    /// Where this node's WireGuard sends its packets.
    pub endpoint: Option<String>,
    /// Seconds since the last handshake with this node.
    pub handshake_s: Option<u64>,
    /// Whether it forwards between the others where the network's mode is hub.
    pub hub: bool,
    /// Networks behind the node that the others reach through it.
    pub lan_subnets: Vec<String>,
    /// Where its containers have their addresses.
    #[serde(default)]
    pub container_subnet: Option<String>,
}
