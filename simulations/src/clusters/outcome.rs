//! What a run of clusters showed, in numbers.
//!
//! Decides nothing; equal runs have equal outcomes.

use std::time::Duration;

use crate::{invariants::Violation, timeline::Line};

/// How much of what happened: a run in which nothing did proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Counts {
    /// Datastores that were initialised.
    pub founded: u64,
    /// Nodes that were ready for the first time in a stay.
    pub ready: u64,
    /// Tokens that were agreed.
    pub tokens: u64,
    /// Stays that ended with a clean host.
    pub left: u64,
    /// Stays that began again because a disk was lost.
    pub lost: u64,
    /// Clusters that ended in error.
    pub failed: u64,
    /// Changes that went round to their end.
    pub rollouts: u64,
    /// Strikes that hit something in the middle of a step.
    pub mid_step: u64,
    /// Strikes.
    pub strikes: u64,
    /// Commands that changed nothing because they were late, doubled or refused.
    pub idle: u64,
    /// Commands that were agreed.
    pub commands: u64,
}

impl Counts {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.founded += other.founded;
        self.ready += other.ready;
        self.tokens += other.tokens;
        self.left += other.left;
        self.lost += other.lost;
        self.failed += other.failed;
        self.rollouts += other.rollouts;
        self.mid_step += other.mid_step;
        self.strikes += other.strikes;
        self.idle += other.idle;
        self.commands += other.commands;
    }
}

/// What is kept of a run once its world is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Of the run.
    pub seed: u64,
    /// Equal for equal histories.
    pub trace: String,
    /// The first invariant that broke.
    pub violation: Option<Violation>,
    /// How much of what happened.
    pub counts: Counts,
    /// From the end of all faults and wishes until nothing was left to do.
    pub settled_after: Option<Duration>,
    /// How long it was, in the world's time.
    pub simulated: Duration,
    /// What happened.
    pub story: Vec<Line>,
}
