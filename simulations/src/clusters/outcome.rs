//! What a run of clusters showed, in numbers.
//!
//! Decides nothing; equal runs have equal outcomes.

use std::time::Duration;

use consensus_core::K3sPhase;

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
    /// Pod prefixes that came to a cluster that was there already.
    pub pod_prefixes: u64,
    /// Strikes that hit something in the middle of a step.
    pub mid_step: u64,
    /// Strikes.
    pub strikes: u64,
    /// Those that ended shoald or K3s of a node, by how far the node was.
    pub struck: Struck,
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
        self.pod_prefixes += other.pod_prefixes;
        self.mid_step += other.mid_step;
        self.strikes += other.strikes;
        self.struck.add(&other.struck);
        self.idle += other.idle;
        self.commands += other.commands;
    }
}

/// In which agreed phase nodes were struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Struck {
    /// It had not answered yet.
    pub assigned: u64,
    /// K3s was looked for, or the cluster's founder waited for.
    pub installing: u64,
    /// It had started its cluster.
    pub bootstrap: u64,
    /// It had asked for the token.
    pub join_request: u64,
    /// It had the token, and had not said so.
    pub join_token_issued: u64,
    /// K3s was started.
    pub starting: u64,
    /// K3s was ready.
    pub ready: u64,
    /// K3s was being taken off.
    pub leaving: u64,
    /// A step had failed.
    pub failed: u64,
}

impl Struck {
    /// One more.
    pub(super) fn count(&mut self, phase: &K3sPhase) {
        let count = match phase {
            K3sPhase::Assigned => &mut self.assigned,
            K3sPhase::Installing => &mut self.installing,
            K3sPhase::Bootstrap => &mut self.bootstrap,
            K3sPhase::JoinRequest => &mut self.join_request,
            K3sPhase::JoinTokenIssued => &mut self.join_token_issued,
            K3sPhase::Starting => &mut self.starting,
            K3sPhase::Ready { .. } => &mut self.ready,
            K3sPhase::Leaving => &mut self.leaving,
            K3sPhase::Failed { .. } => &mut self.failed,
            // The row goes with the first, and nobody is drained here.
            K3sPhase::Stopped | K3sPhase::Drained => return,
        };
        *count += 1;
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.assigned += other.assigned;
        self.installing += other.installing;
        self.bootstrap += other.bootstrap;
        self.join_request += other.join_request;
        self.join_token_issued += other.join_token_issued;
        self.starting += other.starting;
        self.ready += other.ready;
        self.leaving += other.leaving;
        self.failed += other.failed;
    }

    /// All of them, by the phase's name.
    pub fn by_phase(&self) -> [(&'static str, u64); 9] {
        [
            ("assigned", self.assigned),
            ("installing", self.installing),
            ("bootstrap", self.bootstrap),
            ("join_request", self.join_request),
            ("join_token_issued", self.join_token_issued),
            ("starting", self.starting),
            ("ready", self.ready),
            ("leaving", self.leaving),
            ("failed", self.failed),
        ]
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
