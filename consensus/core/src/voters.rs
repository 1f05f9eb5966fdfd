//! From the agreed servers to Raft's membership, one step at a time.
//!
//! Decides the next membership change that the leader makes. A new server is a learner first and
//! becomes a voter only when it has caught up, so that adding it never costs the majority; a
//! removed one leaves the voters before it leaves the group. Raft dissertation (Ongaro 2014), 4.2.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Agreed, LogIndex, NodeId, RaftId};

/// How far behind a learner may be and still become a voter: a fraction of a second of a busy log.
const LAG_MAX: u64 = 64;

/// One change of Raft's membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VoterStep {
    /// Start replicating to a server that does not vote yet.
    AddLearner(RaftId, NodeId),
    /// Replace the set of voters.
    ChangeVoters(BTreeSet<RaftId>),
    /// Stop replicating to a server that is none any more.
    DropLearner(RaftId),
}

/// The next step, or none when Raft's membership is what was agreed.
///
/// `matched` is how far each learner's log is known to reach, `last` the leader's own log.
pub fn voter_step(
    agreed: &Agreed,
    voters: &BTreeSet<RaftId>,
    learners: &BTreeSet<RaftId>,
    matched: &BTreeMap<RaftId, LogIndex>,
    last: LogIndex,
) -> Option<VoterStep> {
    let wanted: BTreeMap<RaftId, &NodeId> = agreed.servers().map(|(id, raft)| (raft, id)).collect();
    if let Some((raft, id)) = wanted
        .iter()
        .find(|(raft, _)| !voters.contains(raft) && !learners.contains(raft))
    {
        return Some(VoterStep::AddLearner(*raft, (*id).clone()));
    }
    let caught_up = |raft: &RaftId| {
        let at = matched.get(raft);
        at.is_some_and(|at| at.0.saturating_add(LAG_MAX) >= last.0)
    };
    let mut next: BTreeSet<RaftId> = voters
        .iter()
        .copied()
        .filter(|raft| wanted.contains_key(raft))
        .collect();
    // One joins at a time: each has to be seen to work before the majority rests on the next.
    // Replacements come together, or replacing all servers would leave one alone for a while.
    let leaving = voters.len() - next.len();
    let ready = wanted
        .keys()
        .filter(|raft| learners.contains(raft) && !voters.contains(raft) && caught_up(raft));
    next.extend(ready.take(leaving.max(1)));
    if next != *voters && !next.is_empty() {
        return Some(VoterStep::ChangeVoters(next));
    }
    let stray = learners
        .iter()
        .find(|raft| !wanted.contains_key(raft) && !voters.contains(raft));
    stray.map(|raft| VoterStep::DropLearner(*raft))
}
