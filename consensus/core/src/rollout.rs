//! A change that goes round a K3s cluster: what it is, and who has taken it.
//!
//! Decides: whether a node runs with what the change brings. Whose turn it is, and when it is over, is
//! `apply`'s.
//!
//! Invariant: a node that came up with a cluster's newest settings but an older K3s has not taken an
//! upgrade; it may have crashed and started again before its turn.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{K3sBinary, K3sNode, K3sPhase, LogIndex, NodeId, WallMs};

/// What is done to every node, one after another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RolloutKind {
    /// Installed anew with the network's pod prefix.
    PodSubnet,
    /// Another K3s.
    Upgrade {
        /// Which.
        binary: K3sBinary,
    },
}

impl RolloutKind {
    /// The K3s that it brings, if it brings one.
    pub const fn binary(&self) -> Option<&K3sBinary> {
        match self {
            Self::PodSubnet => None,
            Self::Upgrade { binary } => Some(binary),
        }
    }

    /// Whether a node is ready with what it brings; the cluster's settings are of this generation.
    pub fn is_taken_by(&self, row: &K3sNode, generation: LogIndex) -> bool {
        let newest = row.is_ready() && row.generation >= generation;
        newest && self.binary().is_none_or(|binary| runs(row, binary))
    }

    /// Whether it is still to go to a node. One that was never ready begins with today's settings, and
    /// so does one that is drained when it starts again.
    pub fn waits_for(&self, row: &K3sNode, generation: LogIndex) -> bool {
        row.has_been_ready()
            && !row.is_leaving()
            && row.phase != K3sPhase::Drained
            && !self.is_taken_by(row, generation)
    }
}

/// Whether a node is to run this K3s and said that it does.
fn runs(row: &K3sNode, binary: &K3sBinary) -> bool {
    let said = binary.version.is_none() || row.version == binary.version;
    said && row.binary == binary.instead_of(&row.binary)
}

/// A change that goes round: servers first and one at a time, then agents in batches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// What.
    pub kind: RolloutKind,
    /// Whose turn it is.
    pub turn: BTreeSet<NodeId>,
    /// So many agents at once.
    pub batch: u16,
    /// Where it stopped, and why.
    pub failed: Option<(NodeId, String)>,
    /// Since when.
    pub since: WallMs,
}

impl Rollout {
    /// Whether this node stops being ready for it, now or at any moment.
    pub fn is_at(&self, node: &NodeId) -> bool {
        self.failed.is_none() && self.turn.contains(node)
    }
}
