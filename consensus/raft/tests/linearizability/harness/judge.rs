//! What must never happen, whatever clients see, and what really did happen.
//!
//! Decides which promises were broken: agreed entries are the same on every server for ever, a
//! vote is not taken back, one ballot has one leader, a store that was treated well opens again.
//! Never interferes with a run.
//!
//! Compare the properties in figure 3 of Ongaro and Ousterhout (2014). openraft orders ballots by
//! term and then by server, so two servers may lead in one term, one after the other; what holds
//! for a term there holds for a ballot here.

use std::{collections::BTreeMap, fmt};

use consensus_raft::simulation::spy::{Ballot, Reply, Request};

use super::bugs::Bug;

/// A rule that can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rule {
    /// There is no order in which the operations on an object could have happened.
    Linearizable,
    /// All servers apply the same entries at the same places, before and after any fault.
    SameEntries,
    /// A server that gave a vote follows nobody with a lower ballot.
    VoteKept,
    /// A ballot has one leader.
    OneLeader,
    /// A store opens again after whatever its machine went through.
    StoreOpens,
    /// Raft goes on until it is told to stop.
    RaftRuns,
    /// Once all faults are over there is a leader, and everybody catches up.
    Recovers,
    /// The search for an order ends.
    Decided,
}

/// A broken rule.
#[derive(Debug, Clone)]
pub(crate) struct Violation {
    /// The rule.
    pub(crate) rule: Rule,
    /// What happened.
    pub(crate) story: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.story)
    }
}

/// How often something happened.
pub(crate) type Counts = BTreeMap<&'static str, u64>;

/// Violations written down; the first tells most.
const VIOLATIONS_MAX: usize = 16;

/// The judge of one run.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    bug: Option<Bug>,
    /// By index: the fingerprint after it, wherever it was applied first.
    applied: BTreeMap<u64, u64>,
    /// By ballot: the process that leads under it.
    leaders: BTreeMap<Ballot, u64>,
    /// By Raft id: the highest ballot it voted for, and when that was known.
    promised: BTreeMap<u64, Vec<(Ballot, u64)>>,
    /// Events seen, for an order among them.
    ticks: u64,
    /// Broken rules.
    pub(crate) violations: Vec<Violation>,
    /// What happened how often.
    pub(crate) counts: Counts,
}

impl Judge {
    /// With a bug planted, or none.
    pub(crate) fn new(bug: Option<Bug>) -> Self {
        Self {
            bug,
            ..Self::default()
        }
    }

    /// The planted bug.
    pub(crate) fn bug(&self) -> Option<Bug> {
        self.bug
    }

    /// The next moment.
    pub(crate) fn tick(&mut self) -> u64 {
        self.ticks += 1;
        self.ticks
    }

    /// Something happened.
    pub(crate) fn count(&mut self, what: &'static str) {
        self.count_by(what, 1);
    }

    /// Something happened several times.
    pub(crate) fn count_by(&mut self, what: &'static str, times: u64) {
        *self.counts.entry(what).or_default() += times;
    }

    /// A rule was broken.
    pub(crate) fn violated(&mut self, rule: Rule, story: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(Violation { rule, story });
        }
    }

    /// A machine remembered a repeated request.
    pub(crate) fn answered_again(&mut self) {
        self.count("request repeated");
    }

    /// A machine went from one index and fingerprint to the next.
    pub(crate) fn applied(&mut self, before: (u64, u64), after: (u64, u64)) {
        if after.0 <= before.0 {
            let story = format!("entry {} was applied after entry {}", after.0, before.0);
            self.violated(Rule::SameEntries, story);
        }
        let first = *self.applied.entry(after.0).or_insert(after.1);
        if first != after.1 {
            let story = format!(
                "up to entry {} two servers applied different entries",
                after.0
            );
            self.violated(Rule::SameEntries, story);
        }
    }

    /// A machine was seen at an index with a fingerprint.
    pub(crate) fn seen(&mut self, index: u64, fingerprint: u64) {
        let known = self.applied.get(&index).copied();
        if index > 0 && known != Some(fingerprint) {
            let story = format!("a server's state at entry {index} is nobody else's");
            self.violated(Rule::SameEntries, story);
        }
    }

    /// Process `process` sends `request`.
    pub(crate) fn sent(&mut self, process: u64, request: &Request) {
        if let Request::Append { ballot, .. } = request {
            let leader = *self.leaders.entry(*ballot).or_insert(process);
            if leader != process {
                let story = format!(
                    "process {process} leads as server {} in term {}, and process {leader} did",
                    ballot.server, ballot.term
                );
                self.violated(Rule::OneLeader, story);
            }
        }
    }

    /// Server `raft_id` answered `request`, which had arrived at tick `arrived`.
    pub(crate) fn replied(&mut self, raft_id: u64, request: &Request, arrived: u64, reply: Reply) {
        let (Request::Append { ballot, .. } | Request::Vote(ballot)) = *request else {
            return;
        };
        if reply == Reply::Other {
            return;
        }
        let now = self.tick();
        let promises = self.promised.entry(raft_id).or_default();
        let broken = promises
            .iter()
            .find(|(promise, at)| *promise > ballot && *at < arrived)
            .copied();
        if promises.last().is_none_or(|(last, _)| *last < ballot) {
            promises.push((ballot, now));
        }
        if let Some((promise, _)) = broken {
            let story = format!(
                "server {raft_id} followed server {} in term {} after it had promised itself to \
                 server {} in term {}",
                ballot.server, ballot.term, promise.server, promise.term
            );
            self.violated(Rule::VoteKept, story);
        }
    }
}
