//! A node that is being emptied (SPEC 7.1).
//!
//! Decides nothing: which runtime does what, the node finds out; what follows for virtual IPs is
//! said in [`crate::Unfit`].

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{LogIndex, NodeId, WallMs};

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DrainState {
    /// Things are being moved or stopped.
    Draining {
        /// What it waits for, in words; empty while nothing is in the way.
        waits_for: String,
    },
    /// Nothing that moves elsewhere is left; nothing new comes.
    Drained,
    /// It was not done in time, or could not be. Nothing new comes all the same.
    Failed {
        /// What was in the way.
        reason: String,
    },
    /// As drained; but who came after the node had been closed was not waited for.
    DrainedExcept {
        /// Who stays, in words.
        stays: String,
    },
}

impl DrainState {
    /// The word in tables and JSON.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Draining { .. } => "draining",
            Self::Drained | Self::DrainedExcept { .. } => "drained",
            Self::Failed { .. } => "failed",
        }
    }
}

/// What an operator asked for, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// The entry that began it.
    pub begun: LogIndex,
    /// When.
    pub at: WallMs,
    /// How long it may take, in milliseconds.
    pub timeout_ms: u64,
    /// Whether only nothing new comes to it.
    pub cordon_only: bool,
    /// How far it is.
    pub state: DrainState,
    /// Whether somebody insisted: a K3s server then stops also where the others are no majority.
    pub forced: bool,
}

/// About a node that is emptied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DrainCommand {
    /// Empty a node.
    Begin {
        /// The node, by name or id.
        node: String,
        /// How long it may take, in milliseconds.
        timeout_ms: u64,
        /// Whether only nothing new comes to it.
        cordon_only: bool,
        /// Whether to do it although its cluster cannot do without it now.
        force: bool,
        /// The servers that were heard when this was asked: a server is emptied only if enough of its
        /// cluster's others serve.
        reachable: BTreeSet<NodeId>,
    },
    /// A node tells how far it is emptied.
    Report {
        /// The drain that is meant, as [`Drain::begun`] tells.
        begun: LogIndex,
        /// How far.
        state: DrainState,
    },
    /// Let a node work again.
    End {
        /// The node, by name or id.
        node: String,
    },
    /// A server says of a node that is not heard that its time is over: it tells nothing of itself.
    GiveUp {
        /// The node.
        node: NodeId,
        /// The drain that is meant.
        begun: LogIndex,
    },
}

/// After its time a node that lives has this long to say how its drain ended: its last step, a stopping
/// K3s, takes seconds.
const LAST_WORD_MS: u64 = 60_000;

impl Drain {
    /// Whether the node should have told by now how it ended.
    pub const fn is_overdue(&self, now: WallMs) -> bool {
        let by = self.at.0.saturating_add(self.timeout_ms);
        matches!(self.state, DrainState::Draining { .. }) && now.0 > by.saturating_add(LAST_WORD_MS)
    }
}

impl DrainCommand {
    /// A short name for logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Begin { .. } => "drain_node",
            Self::Report { .. } => "report_drain",
            Self::End { .. } => "uncordon_node",
            Self::GiveUp { .. } => "give_up_drain",
        }
    }
}
