//! This server's place in the group, as told to the rest of the daemon.
//!
//! Decides who counts as reachable. Never asks the network: it reads what Raft has observed.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use consensus_core::{LogIndex, NodeId, RaftId};
use openraft::{Instant as _, ServerState};

use crate::{
    clock,
    era::{self, Era},
    hearing::Hearing,
    raft_types::Metrics,
};

/// What a server is doing in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Role {
    /// Not a voter, or waiting to be added.
    #[default]
    Learner,
    /// Votes and follows.
    Follower,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
    /// Raft has stopped here; see [`RaftStatus::failure`].
    Stopped,
}

/// This server's view of its group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RaftStatus {
    /// What this server does.
    pub role: Role,
    /// How often the group was recovered.
    pub era: Era,
    /// Raft's term, counted from the beginning of the era.
    pub term: u64,
    /// Who leads, if known.
    pub leader: Option<NodeId>,
    /// The leader's Raft id, if known.
    pub leader_id: Option<RaftId>,
    /// The last entry written here.
    pub last_log: Option<LogIndex>,
    /// The last entry applied here.
    pub applied: Option<LogIndex>,
    /// The last entry that the stored snapshot covers.
    pub snapshot: Option<LogIndex>,
    /// The last entry that is no longer in the log here.
    pub purged: Option<LogIndex>,
    /// Who votes (during a change: the old and the new voters).
    pub voters: BTreeMap<RaftId, NodeId>,
    /// Who only follows.
    pub learners: BTreeMap<RaftId, NodeId>,
    /// Voters that must answer for a commit (during a change: of the larger set).
    pub needed: usize,
    /// Whether a change of members is under way.
    pub changing: bool,
    /// On a leader: when each other server last answered. Empty elsewhere.
    pub heard: BTreeMap<RaftId, Instant>,
    /// On a leader: up to which entry each other server's log is known to agree.
    pub matched: BTreeMap<RaftId, LogIndex>,
    /// On a leader: when a majority last answered.
    pub majority_heard: Option<Instant>,
    /// On a leader: no majority has answered for longer than an election takes, so others may lead by
    /// now, and what is proposed here is agreed on late if ever.
    pub deaf: bool,
    /// Why Raft has stopped, if it has.
    pub failure: Option<String>,
}

impl RaftStatus {
    /// On a leader: voters that answered within `span`, the leader included.
    pub fn reachable(&self, span: Duration) -> usize {
        let lately = |id: &RaftId| {
            Some(*id) == self.leader_id || self.heard.get(id).is_some_and(|at| since(at) <= span)
        };
        if self.role == Role::Leader {
            self.voters.keys().filter(|id| lately(id)).count()
        } else {
            0
        }
    }

    /// Whether this server leads and has a majority to do it with.
    pub fn leads(&self) -> bool {
        let heard = self.majority_heard.is_some() || self.voters.len() == 1;
        self.role == Role::Leader && self.failure.is_none() && heard && !self.deaf
    }

    pub(crate) fn from_metrics(metrics: &Metrics, hearing: Hearing) -> Self {
        let membership = metrics.membership_config.membership();
        let named = |id: u64| Some((RaftId(id), membership.get_node(&id)?.0.clone()?));
        let heard = metrics.heartbeat.iter().flatten();
        let heard =
            heard.filter_map(|(id, at)| Some((RaftId(*id), instant(at.as_ref()?.elapsed()))));
        let matched = metrics.replication.iter().flatten();
        let matched =
            matched.filter_map(|(id, at)| Some((RaftId(*id), LogIndex(at.as_ref()?.index))));
        let failure = metrics.running_state.as_ref().err();
        Self {
            role: role(metrics.state, failure.is_some()),
            era: Era::of(metrics.current_term),
            term: era::elections(metrics.current_term),
            leader: metrics.current_leader.and_then(named).map(|(_, node)| node),
            leader_id: metrics.current_leader.map(RaftId),
            last_log: metrics.last_log_index.map(LogIndex),
            applied: metrics.last_applied.map(|at| LogIndex(at.index)),
            snapshot: metrics.snapshot.map(|at| LogIndex(at.index)),
            purged: metrics.purged.map(|at| LogIndex(at.index)),
            voters: membership.voter_ids().filter_map(named).collect(),
            learners: membership.learner_ids().filter_map(named).collect(),
            needed: needed(membership.get_joint_config()),
            changing: membership.get_joint_config().len() > 1
                || metrics.membership_config != metrics.committed_membership_config,
            heard: heard.collect(),
            matched: matched.collect(),
            majority_heard: majority_heard(metrics, hearing),
            deaf: hearing.deaf,
            failure: failure.map(ToString::to_string),
        }
    }
}

pub(crate) fn role(state: ServerState, failed: bool) -> Role {
    match state {
        _ if failed => Role::Stopped,
        ServerState::Learner => Role::Learner,
        ServerState::Follower => Role::Follower,
        ServerState::Candidate => Role::Candidate,
        ServerState::Leader => Role::Leader,
        ServerState::Shutdown => Role::Stopped,
    }
}

fn needed(sets: &[std::collections::BTreeSet<u64>]) -> usize {
    sets.iter().map(|set| set.len() / 2 + 1).max().unwrap_or(0)
}

/// Now by the clock that Raft uses, which may be a simulated one.
fn now() -> Instant {
    clock::Instant::now().into_std()
}

/// How long ago something in a status was.
pub(crate) fn since(at: &Instant) -> Duration {
    now().saturating_duration_since(*at)
}

/// Answers that came too late for Raft tell of the others all the same.
fn majority_heard(metrics: &Metrics, hearing: Hearing) -> Option<Instant> {
    let on_time = metrics.last_quorum_acked.map(|at| at.elapsed());
    let late = hearing.answered.map(|at| at.elapsed());
    let ago = match (on_time, late) {
        (Some(on_time), Some(late)) => on_time.min(late),
        (on_time, late) => on_time.or(late)?,
    };
    Some(instant(ago))
}

fn instant(ago: Duration) -> Instant {
    let now = now();
    now.checked_sub(ago).unwrap_or(now)
}
