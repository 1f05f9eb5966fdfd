//! A node that is being emptied (SPEC 7.1).
//!
//! Decides nothing: which runtime does what, the node finds out; what follows for virtual IPs is
//! said in [`crate::Unfit`].

use serde::{Deserialize, Serialize};

use crate::{LogIndex, WallMs};

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
}

impl DrainState {
    /// The word in tables and JSON.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Draining { .. } => "draining",
            Self::Drained => "drained",
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
        /// Whether to do it although it is its cluster's only server.
        force: bool,
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
}

impl DrainCommand {
    /// A short name for logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Begin { .. } => "drain_node",
            Self::Report { .. } => "report_drain",
            Self::End { .. } => "uncordon_node",
        }
    }
}
