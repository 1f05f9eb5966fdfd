//! A command as it is agreed on: with who gave it, and when.
//!
//! Decides nothing.

use serde::{Deserialize, Serialize};

use crate::{Command, NodeId, RequestId, WallMs};

/// A command and who gave it when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Repeat it to learn the answer that was lost.
    pub request: RequestId,
    /// The node that took the command, as its connection proved.
    pub actor: NodeId,
    /// The operator who asked for it at that node's API; events name him.
    pub operator: Option<String>,
    /// When it took it.
    pub time: WallMs,
    /// The command.
    pub command: Command,
}
