//! What the network is told, and tells, of nodes that cannot be dialled.
//!
//! Decides nothing: values only.

use std::{collections::BTreeSet, net::SocketAddr};

use consensus_core::NodeId;

/// How this node is seen from elsewhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reachability {
    /// Whether it can be dialled: what the operator says, else what relays found; unknown until then.
    pub dialable: Option<bool>,
    /// Whether relays see it at another address than its own.
    pub address_differs: bool,
}

impl Reachability {
    /// Whether a router on the way must be reminded of this node by packets from inside.
    pub const fn is_translated(self) -> bool {
        self.address_differs || matches!(self.dialable, Some(false))
    }
}

/// How nodes are reached that cannot be dialled, and how any is found at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ways {
    /// Whether this node passes on connections of others.
    pub relaying: bool,
    /// Who may do so: they are asked whether this node can be dialled, and for a place if not.
    pub relays: BTreeSet<NodeId>,
    /// Whether this node can be dialled, where the operator says so; else it is found out.
    pub reachable: Option<bool>,
    /// Addresses to dial while no member is connected, whoever answers there.
    pub seeds: BTreeSet<SocketAddr>,
}
