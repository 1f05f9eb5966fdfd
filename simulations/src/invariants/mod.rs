//! What must hold whatever strikes. One invariant per file, each with its source.
//!
//! | invariant | looked at | source |
//! |---|---|---|
//! | [`no_live_node_stays_dead`] | every second | SWIM section 4.2, completeness of refutation |
//! | [`agreement`] | at the end | SWIM section 3, eventual detection; Demers et al. 1987 |
//! | [`bounded_queues`] | every second | the core's own promise, `Load::limit` |

pub mod agreement;
pub mod bounded_queues;
pub mod no_live_node_stays_dead;

use consensus_core::Time;

/// An invariant that did not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{invariant} broken at {} ms: {detail}", .at.as_micros() / 1000)]
pub struct Violation {
    /// The name of its file.
    pub invariant: &'static str,
    /// When it was seen.
    pub at: Time,
    /// Who and what.
    pub detail: String,
}
