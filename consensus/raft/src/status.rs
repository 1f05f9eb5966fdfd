//! This server's place in the group, as told to the rest of the daemon.
//!
//! Decides who counts as reachable. Never asks the network: it reads what Raft has observed.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use consensus_core::{LogIndex, NodeId, RaftId};
use openraft::ServerState;

use crate::{
    clock::{self, Scale},
    era::{self, Era},
    hearing::{Answers, Hearing},
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
    /// Who leads, if known. None where nothing that could be written has come from the leader for as long as
    /// several elections take.
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
    /// On a leader: when that was sent which each other server answered last. Empty elsewhere. Whoever
    /// follows a status is not woken for a change of this alone.
    pub heard: BTreeMap<RaftId, Instant>,
    /// On a leader: up to which entry each other server's log is known to agree.
    pub matched: BTreeMap<RaftId, LogIndex>,
    /// On a leader of others: when that was sent which a majority answered last.
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

    /// Whether there is one voter only: it is a majority by itself, at all times.
    pub fn is_alone(&self) -> bool {
        self.voters.len() == 1
    }

    /// On a leader of others: how long ago that was sent which a majority answered last, by the clock
    /// of whoever asks. None before the first answers.
    pub fn majority_ago(&self) -> Option<Duration> {
        self.majority_heard.as_ref().map(since)
    }

    /// Whether this server leads and has a majority to do it with.
    pub fn leads(&self) -> bool {
        let heard = self.majority_heard.is_some() || self.is_alone();
        self.role == Role::Leader && self.failure.is_none() && heard && !self.deaf
    }

    /// Takes the place of an older one; gives whether those who follow it are to be woken.
    pub(crate) fn replaces(mut self, last: &mut Self) -> bool {
        let heard = std::mem::take(&mut self.heard);
        last.heard.clear();
        let differs = *last != self;
        self.heard = heard;
        *last = self;
        differs
    }

    pub(crate) fn from_metrics(
        metrics: &Metrics,
        hearing: Hearing,
        answers: &Answers,
        scale: &Scale,
    ) -> Self {
        let membership = metrics.membership_config.membership();
        let named = |id: u64| Some((RaftId(id), membership.get_node(&id)?.0.clone()?));
        let matched = metrics.replication.iter().flatten();
        let matched =
            matched.filter_map(|(id, at)| Some((RaftId(*id), LogIndex(at.as_ref()?.index))));
        let failure = metrics.running_state.as_ref().err();
        // One that has just come to lead was without a leader before.
        let follows = metrics.state != ServerState::Leader;
        let lost = follows && hearing.lost == Some(metrics.current_term);
        let leader = metrics.current_leader.filter(|_| !lost);
        Self {
            role: role(metrics.state, failure.is_some()),
            era: Era::of(metrics.current_term),
            term: era::elections(metrics.current_term),
            leader: leader.and_then(named).map(|(_, node)| node),
            leader_id: leader.map(RaftId),
            last_log: metrics.last_log_index.map(LogIndex),
            applied: metrics.last_applied.map(|at| LogIndex(at.index)),
            snapshot: metrics.snapshot.map(|at| LogIndex(at.index)),
            purged: metrics.purged.map(|at| LogIndex(at.index)),
            voters: membership.voter_ids().filter_map(named).collect(),
            learners: membership.learner_ids().filter_map(named).collect(),
            needed: needed(membership.get_joint_config()),
            changing: membership.get_joint_config().len() > 1
                || metrics.membership_config != metrics.committed_membership_config,
            heard: heard(metrics, answers, scale),
            matched: matched.collect(),
            majority_heard: majority_heard(metrics, hearing, scale),
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

/// When that was sent which each server last answered, in time for Raft or too late. Nothing on a
/// server that does not lead.
fn heard(metrics: &Metrics, answers: &Answers, scale: &Scale) -> BTreeMap<RaftId, Instant> {
    let Some(on_time) = &metrics.heartbeat else {
        return BTreeMap::new();
    };
    let on_time = on_time.iter().map(|(id, at)| {
        let at = at.as_ref().map(|at| scale.at(**at));
        (*id, at.max(answers.of(*id, metrics.current_term)))
    });
    on_time
        .filter_map(|(id, at)| Some((RaftId(id), at?.into_std())))
        .collect()
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
fn majority_heard(metrics: &Metrics, hearing: Hearing, scale: &Scale) -> Option<Instant> {
    let on_time = metrics.last_quorum_acked.map(|at| scale.at(*at));
    on_time.max(hearing.answered).map(clock::Instant::into_std)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_follow_a_status_are_woken_by_all_but_single_answers() {
        let start = now();
        let heard = |id, ms| (RaftId(id), start + Duration::from_millis(ms));
        let mut last = RaftStatus {
            role: Role::Leader,
            heard: [heard(2, 1), heard(3, 1)].into(),
            majority_heard: Some(start),
            ..RaftStatus::default()
        };
        let one_answer = RaftStatus {
            heard: [heard(2, 1), heard(3, 9)].into(),
            ..last.clone()
        };
        assert!(!one_answer.clone().replaces(&mut last));
        assert_eq!(last, one_answer, "it is known all the same");
        let most = RaftStatus {
            majority_heard: Some(start + Duration::from_millis(9)),
            ..last.clone()
        };
        assert!(most.clone().replaces(&mut last));
        assert_eq!(last, most);
        let deaf = RaftStatus {
            deaf: true,
            ..last.clone()
        };
        assert!(deaf.replaces(&mut last));
        assert!(last.deaf && !last.leads());
    }

    #[test]
    fn a_single_voter_leads_with_its_own_voice_alone() {
        let node = "12D3KooWGRUVLJpQ8sJtbTNGXJFvBVnEKdGBAcQnzHqPVKqGNfc1";
        let mut status = RaftStatus {
            role: Role::Leader,
            voters: [(RaftId(1), node.parse().unwrap())].into(),
            ..RaftStatus::default()
        };
        assert!(status.is_alone() && status.leads());
        assert_eq!(status.majority_ago(), None);
        status.voters.insert(RaftId(2), node.parse().unwrap());
        assert!(!status.is_alone() && !status.leads());
        status.majority_heard = Some(now());
        assert!(status.leads());
        assert!(status.majority_ago().is_some());
    }
}
