//! What is answered to a command.
//!
//! Decides nothing. Answers are remembered and replicated: they are of a fixed size, but for the words
//! of a refusal, which are held short.

use serde::{Deserialize, Serialize};

use crate::{Refusal, Role, RuleNumber};

/// What a command's application yields. Refusals are answers, not failures of agreement.
pub type Applied = Result<Done, Refusal>;

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Done {
    /// Done, nothing more to say.
    Done,
    /// The node was admitted.
    Admitted {
        /// In this role.
        role: Role,
    },
    /// Done; the mesh now has so many servers.
    Servers {
        /// Servers after the change.
        count: u64,
    },
    /// So many certificates are accepted no more.
    Revoked {
        /// Leaves and intermediates.
        count: u64,
    },
    /// The firewall rule is in force.
    RuleAdded {
        /// Its number in its network.
        number: RuleNumber,
    },
}
