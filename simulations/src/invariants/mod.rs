//! What must hold whatever strikes. One invariant per file, each with its source.
//!
//! | invariant | looked at | source |
//! |---|---|---|
//! | [`no_live_node_stays_dead`] | every second | SWIM section 4.2, completeness of refutation |
//! | [`no_resurrected_tombstone`] | every second | SWIM section 4.2, precedence of incarnations |
//! | [`no_forged_record`] | every second | DESIGN, Membership: each member signs its own record |
//! | [`pruning_freezes`] | every second | DESIGN, Membership: no pruning in a mass failure |
//! | [`bounded_queues`] | every second | the core's own promise, `Load::limit` |
//! | [`bounded_bandwidth`] | before the first fault | SWIM section 2, constant load per member |
//! | [`no_false_death`] | at the end | Lifeguard section 5, false positives |
//! | [`bystanders_are_trusted`] | at the end | Lifeguard section V, false positives about healthy members |
//! | [`standstill_judges_nobody`] | at the end | Lifeguard, slow message processing |
//! | [`timely_detection`] | at the end | SWIM section 3.1, bounded detection; Lifeguard section 4 |
//! | [`agreement`] | at the end | SWIM section 3, eventual detection; Demers et al. 1987 |
//! | [`faults_hit`] | at the end | the laboratory's own: a fault that hit nothing proves nothing |
//!
//! All but the last two are safety: they hold while faults strike. Agreement is liveness: it is asked
//! for once the last fault is over and the time to settle has passed.

pub mod agreement;
pub mod bounded_bandwidth;
pub mod bounded_queues;
pub mod bystanders_are_trusted;
pub mod faults_hit;
pub mod no_false_death;
pub mod no_forged_record;
pub mod no_live_node_stays_dead;
pub mod no_resurrected_tombstone;
pub mod pruning_freezes;
pub mod standstill_judges_nobody;
pub mod timely_detection;

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
