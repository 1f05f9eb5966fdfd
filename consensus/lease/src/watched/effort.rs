//! What is being done about a holder.
//!
//! Decides: when the next step of it is due. Never: whether it is begun.

use std::collections::BTreeSet;

use consensus_core::{LeaseVoters, NodeId, Time};

use crate::MoveReason;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Nothing is to be done, or nothing can be.
    Watching,
    /// The holder is asked to let go.
    Asking {
        reason: MoveReason,
        until: Time,
        again: Time,
    },
    /// The voters are asked to close, and the next holder is proposed once enough of them have.
    Closing {
        reason: MoveReason,
        closed: BTreeSet<NodeId>,
        again: Time,
        propose_at: Time,
    },
}

impl Effort {
    pub(super) const fn closing(reason: MoveReason, now: Time) -> Self {
        Self::Closing {
            reason,
            closed: BTreeSet::new(),
            again: now,
            propose_at: now,
        }
    }

    /// When something is to be done for it next; nothing, if nothing is being done.
    pub(super) fn due(&self, voters: &LeaseVoters) -> Option<Time> {
        match self {
            Self::Watching => None,
            Self::Asking { until, again, .. } => Some(*until.min(again)),
            Self::Closing {
                closed,
                again,
                propose_at,
                ..
            } => {
                let closed = voters.close_majority(closed);
                Some(if closed { *propose_at } else { *again })
            }
        }
    }
}
