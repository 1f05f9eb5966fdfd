//! What a run of a group of servers showed, in numbers.
//!
//! Decides nothing; equal runs have equal outcomes.

use std::time::Duration;

use super::evidence::Counts;
use crate::{distribution::Distribution, invariants::Violation, timeline::Line};

/// What is kept of a run once its world is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Of the run.
    pub seed: u64,
    /// Equal for equal histories.
    pub trace: String,
    /// The first invariant that broke.
    pub violation: Option<Violation>,
    /// From each blow to the leader until a write was acknowledged that began after it.
    pub failovers: Distribution,
    /// Blows after which none was.
    pub unfinished: u64,
    /// How long each acknowledged attempt took.
    pub writes: Distribution,
    /// How operations ended.
    pub counts: Counts,
    /// From the end of the last fault until the group was whole.
    pub healed_after: Option<Duration>,
    /// What each fault hit, in the scenario's order.
    pub hits: Vec<u64>,
    /// By failover of a virtual IP: the true time in which nobody's gate was open.
    pub outages: Distribution,
    /// The same where the same holder opened again, in the same epoch.
    pub lapses: Distribution,
    /// Messages that servers sent each other.
    pub messages: u64,
    /// Writes acknowledged in each second.
    pub seconds: Vec<u64>,
    /// How long it was, in the world's time.
    pub simulated: Duration,
    /// Events noted in the trace.
    pub events: u64,
    /// What happened.
    pub story: Vec<Line>,
}
