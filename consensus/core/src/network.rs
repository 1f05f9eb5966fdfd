//! Networks and their peers: as they are agreed, and as they are asked for (SPEC 3).
//!
//! Decides nothing but what a network's interfaces are called.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

use crate::{IpPrefix, Ipv4Prefix, Ipv6Prefix64, LogIndex, NetworkId, Verdict};

/// Which way packets take inside a network (SPEC 3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum RoutingMode {
    /// Every peer talks to every other one; a hub helps pairs that cannot.
    #[default]
    Mesh,
    /// Peers talk to hubs only, and through one to each other.
    Hub,
}

impl RoutingMode {
    /// The word in tables, flags and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::Hub => "hub",
        }
    }

    /// The mode of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Mesh, Self::Hub]
            .into_iter()
            .find(|mode| mode.as_str() == name)
    }
}

/// The network that `init` makes and every node joins.
pub const DEFAULT_NETWORK: &str = "default";

/// One isolated overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// What people call it; unique in the mesh.
    pub name: String,
    /// What its interfaces are called: `shoal-<handle>`; unique in the mesh.
    pub handle: String,
    /// Its /64.
    pub ipv6: Ipv6Prefix64,
    /// Its IPv4 prefix.
    pub ipv4: Ipv4Prefix,
    /// The UDP port of its WireGuard interfaces; no other network's.
    pub wireguard_port: u16,
    /// Which way packets take.
    pub routing_mode: RoutingMode,
    /// Where the pods of its clusters have their addresses.
    pub pod_subnet_prefix: Option<IpPrefix>,
    /// Where the containers of its Docker hosts have their addresses.
    pub container_subnet_prefix: Option<IpPrefix>,
    /// The number, within that prefix, of the /24 from which on the next free one is looked for.
    pub container_subnets_given: u32,
}

impl Network {
    /// The name of its interfaces, at most 15 characters.
    pub fn interface(&self) -> String {
        format!("shoal-{}", self.handle)
    }

    /// The name of the bridge of its containers, at most 15 characters. The packet filter takes
    /// `br-` for the beginning of containers' bridges.
    pub fn container_bridge(&self) -> String {
        format!("br-sh-{}", self.handle)
    }

    /// What Docker calls the network of its containers.
    pub fn container_network(&self) -> String {
        format!("shoal-{}", self.name)
    }
}

/// A node's place in a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its /128.
    pub ipv6: Ipv6Addr,
    /// Its /32.
    pub ipv4: Ipv4Addr,
    /// The log entry that gave the place. A node's oldest one is where its own services listen.
    pub attached: LogIndex,
    /// Whether it forwards between the others where the network's mode is hub.
    pub hub: bool,
    /// Networks behind the node that the others reach through it.
    pub lan_subnets: BTreeSet<IpPrefix>,
    /// The /24 of its containers, while it is a Docker host and after.
    pub container_subnet: Option<IpPrefix>,
}

/// A network as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewNetwork {
    /// Its id.
    pub id: NetworkId,
    /// What people are to call it.
    pub name: String,
    /// Its IPv4 prefix.
    pub ipv4: Ipv4Prefix,
    /// The UDP port of its WireGuard interfaces.
    pub wireguard_port: u16,
    /// Which way packets take.
    pub routing_mode: RoutingMode,
    /// Where pods have their addresses.
    pub pod_subnet_prefix: Option<IpPrefix>,
    /// Where containers have their addresses.
    pub container_subnet_prefix: Option<IpPrefix>,
}

/// What becomes of a prefix that a network may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PrefixChange {
    /// It has none any more.
    Clear,
    /// It has this one from now on.
    Set(IpPrefix),
}

/// What changes in a network. `None` leaves a value as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NetworkChange {
    /// Which way packets take.
    pub routing_mode: Option<RoutingMode>,
    /// Where pods have their addresses.
    pub pod_subnet_prefix: Option<PrefixChange>,
    /// Where containers have their addresses.
    pub container_subnet_prefix: Option<PrefixChange>,
    /// What becomes of connections that no firewall rule is about.
    pub firewall_default: Option<Verdict>,
}
