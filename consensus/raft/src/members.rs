//! Changing who takes part: learners, voters, the leader.
//!
//! Decides when a change counts as done, and refuses one that would leave the group without a
//! majority. Never decides whom to add or remove, and never makes a voter of a server that is
//! not a learner, and one that has caught up.
//!
//! That an id which left is not given to another server is for the replicated state to see to:
//! Raft forgets who left. Here an id is only refused while its owner is in the group.

use std::{collections::BTreeSet, time::Duration};

use consensus_core::{LogIndex, NodeId, RaftId};
use openraft::{
    ChangeMembers,
    errors::{ChangeMembershipError, ClientWriteError, RaftError},
};

use crate::{
    agreement::{Agreement, Late},
    clock::timeout,
    errors::{ChangeError, TransferError},
    machine::Machine,
    raft_types::{Member, Types},
    status::{RaftStatus, Role, since},
};

/// How long a new learner may take to catch up before its adder is told to wait elsewhere.
const CATCH_UP_WAIT: Duration = Duration::from_secs(30);
/// A learner this close to the leader only lacks what is under way: a leader has this many
/// proposals waiting at most.
const CAUGHT_UP_LAG: u64 = 1024;
/// Voters in a group. More make each write slower and survive hardly more: seven survive three.
pub const VOTERS_MAX: usize = 7;
/// A server counts as there, when members change, if it answered within so many longest election
/// timeouts: a busy machine is no reason to refuse.
const HEARD_ELECTIONS: u32 = 5;
/// Leadership is handed over within so many longest election timeouts, or not at all.
const HAND_OVER_ELECTIONS: u32 = 3;

/// What becomes of voters that are not in the new set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// They leave the group.
    Leave,
    /// They go on following as learners.
    BecomeLearners,
}

type Changed = Option<Result<Result<(), RaftError<Types, ClientWriteError<Types>>>, Late>>;

impl<M: Machine> Agreement<M> {
    /// Adds a learner and waits until it has caught up.
    ///
    /// # Errors
    /// See [`ChangeError`]; after [`ChangeError::NotCaughtUp`] it is a learner all the same.
    pub async fn add_learner(&self, id: RaftId, node: NodeId) -> Result<(), ChangeError> {
        let status = self.status().borrow().clone();
        let owner = status.voters.get(&id).or_else(|| status.learners.get(&id));
        if owner.is_some_and(|owner| *owner != node) {
            return Err(ChangeError::IdTaken(id));
        }
        let (raft, again) = (self.raft(), self.again());
        let member = Member(Some(node));
        let add = async move {
            let add = || raft.add_learner(id.0, member.clone(), false);
            again.asked(add).await.map(drop)
        };
        self.outcome(self.on_raft(self.in_commit_time(add)).await)?;
        let leader = self.settings().raft_id;
        let level = move |status: &RaftStatus| id == leader || has_caught_up(status, id);
        self.wait_as_leader(CATCH_UP_WAIT, level)
            .await
            .map_err(|unmet| match unmet {
                Unmet::Late => ChangeError::NotCaughtUp(id),
                Unmet::NotLeader(leader) => ChangeError::NotLeader { leader },
                Unmet::Stopped => ChangeError::Stopped(self.failure()),
            })
    }

    /// Removes learners.
    ///
    /// # Errors
    /// See [`ChangeError`]. A voter cannot be removed this way.
    pub async fn remove_learners(&self, ids: BTreeSet<RaftId>) -> Result<(), ChangeError> {
        let ids = ids.into_iter().map(|id| id.0).collect();
        self.change(ChangeMembers::RemoveNodes(ids), true).await
    }

    /// Makes `voters` the voters; new ones must be learners that have caught up. The old and the
    /// new set agree on it together. A leader that is not among them steps down a moment later.
    ///
    /// # Errors
    /// See [`ChangeError`]. [`ChangeError::LosesMajority`] when too few of `voters` answer to
    /// go on with.
    pub async fn change_voters(
        &self,
        voters: BTreeSet<RaftId>,
        removed: Removed,
    ) -> Result<(), ChangeError> {
        check_count(&voters)?;
        self.check_voters(&voters)?;
        self.force_voters(voters, removed).await
    }

    /// The same without asking whether the new voters are there and have caught up. If too few
    /// of them are, nothing is agreed any more, this change included, until enough are back.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn force_voters(
        &self,
        voters: BTreeSet<RaftId>,
        removed: Removed,
    ) -> Result<(), ChangeError> {
        check_count(&voters)?;
        let ids = voters.into_iter().map(|id| id.0).collect();
        let retain = removed == Removed::BecomeLearners;
        self.change(ChangeMembers::ReplaceAllVoters(ids), retain)
            .await
    }

    /// Refuses voters that would leave the group without a majority. Says nothing on a server
    /// that does not lead, which Raft refuses anyway.
    fn check_voters(&self, voters: &BTreeSet<RaftId>) -> Result<(), ChangeError> {
        let status = self.status().borrow().clone();
        let own = self.settings().raft_id;
        if status.role != Role::Leader {
            return Ok(());
        }
        let fresh = voters.iter().filter(|id| status.learners.contains_key(id));
        if let Some(id) = fresh.copied().find(|id| !has_caught_up(&status, *id)) {
            return Err(ChangeError::NotCaughtUp(id));
        }
        let span = self.settings().timers.election_max * HEARD_ELECTIONS;
        let there =
            |id: &&RaftId| **id == own || status.heard.get(id).is_some_and(|at| since(at) <= span);
        let (reachable, needed) = (voters.iter().filter(there).count(), voters.len() / 2 + 1);
        // Raft names who is no member at all.
        let known =
            |id: &RaftId| status.voters.contains_key(id) || status.learners.contains_key(id);
        if reachable < needed && voters.iter().all(known) {
            return Err(ChangeError::LosesMajority { reachable, needed });
        }
        Ok(())
    }

    async fn change(
        &self,
        changes: ChangeMembers<u64, Member>,
        retain: bool,
    ) -> Result<(), ChangeError> {
        let (raft, again) = (self.raft(), self.again());
        // What an earlier attempt has begun, the next one finishes.
        let change = async move {
            let change = || raft.change_membership(changes.clone(), retain);
            again.asked(change).await.map(drop)
        };
        self.outcome(self.on_raft(self.in_commit_time(change)).await)
    }

    /// Hands leadership to the voter that is furthest along, if this server leads and another
    /// one answers, and waits a little until it leads. Gives who it is.
    ///
    /// # Errors
    /// See [`TransferError`].
    pub async fn hand_over(&self) -> Result<Option<RaftId>, TransferError> {
        let status = self.status().borrow().clone();
        let timers = self.settings().timers;
        let own = self.settings().raft_id;
        let there = |id: &&RaftId| {
            let lately = |at: &std::time::Instant| since(at) <= timers.election_max;
            **id != own && status.heard.get(id).is_some_and(lately)
        };
        let heirs = status.voters.keys().filter(there);
        let Some(heir) = heirs.max_by_key(|id| status.matched.get(id)).copied() else {
            return Ok(None);
        };
        let limit = timers.election_max * HAND_OVER_ELECTIONS;
        self.transfer_within(heir, limit).await.map(|()| Some(heir))
    }

    /// Hands leadership to another voter and waits until it leads.
    ///
    /// # Errors
    /// See [`TransferError`]; after [`TransferError::NotTaken`] it may still happen.
    pub async fn transfer_leader(&self, to: RaftId) -> Result<(), TransferError> {
        let limit = self.settings().timers.commit_wait();
        self.transfer_within(to, limit).await
    }

    async fn transfer_within(&self, to: RaftId, limit: Duration) -> Result<(), TransferError> {
        let status = self.status().borrow().clone();
        if status.role != Role::Leader {
            return Err(TransferError::NotLeader {
                leader: status.leader,
            });
        }
        if !status.voters.contains_key(&to) {
            return Err(TransferError::NotAVoter(to));
        }
        let raft = self.raft();
        let stopped = || TransferError::Stopped(self.failure());
        let hand = async move { raft.trigger().transfer_leader(to.0).await };
        self.on_raft(hand)
            .await
            .and_then(Result::ok)
            .ok_or_else(stopped)?;
        let taken = move |status: &RaftStatus| status.leader_id == Some(to);
        match self.wait(limit, taken).await {
            Some(Ok(())) => Ok(()),
            Some(Err(Late)) => Err(TransferError::NotTaken(to)),
            None => Err(stopped()),
        }
    }

    /// Waits for a status; nothing if Raft ends first.
    async fn wait(
        &self,
        limit: Duration,
        mut done: impl FnMut(&RaftStatus) -> bool + Send + 'static,
    ) -> Option<Result<(), Late>> {
        let mut status = self.status();
        let waited = self.on_raft(async move {
            let done = |status: &RaftStatus| status.role == Role::Stopped || done(status);
            match timeout(limit, status.wait_for(done)).await {
                Ok(Ok(status)) if status.role != Role::Stopped => Some(Ok(())),
                Ok(Ok(_) | Err(_)) => None,
                Err(_) => Some(Err(Late)),
            }
        });
        waited.await.flatten()
    }

    /// Waits for a status that only a leader can see.
    async fn wait_as_leader(
        &self,
        limit: Duration,
        mut done: impl FnMut(&RaftStatus) -> bool + Send + 'static,
    ) -> Result<(), Unmet> {
        let over = move |status: &RaftStatus| status.role != Role::Leader || done(status);
        match self.wait(limit, over).await {
            Some(Ok(())) => {
                let status = self.status().borrow().clone();
                if status.role == Role::Leader {
                    Ok(())
                } else {
                    Err(Unmet::NotLeader(status.leader))
                }
            }
            Some(Err(Late)) => Err(Unmet::Late),
            None => Err(Unmet::Stopped),
        }
    }

    fn outcome(&self, changed: Changed) -> Result<(), ChangeError> {
        match changed.ok_or_else(|| ChangeError::Stopped(self.failure()))? {
            Ok(Ok(())) => Ok(()),
            Ok(Err(RaftError::Fatal(fatal))) => Err(ChangeError::Stopped(fatal.to_string())),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))) => {
                Err(self.elsewhere(to).map_or_else(
                    |(reachable, needed)| ChangeError::NoMajority { reachable, needed },
                    |leader| ChangeError::NotLeader { leader },
                ))
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error)))) => {
                Err(refusal(&error))
            }
            Ok(Err(RaftError::APIError(ClientWriteError::PreconditionFailed(error)))) => {
                Err(ChangeError::Refused(error.to_string()))
            }
            Err(Late) | Ok(Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)))) => {
                Err(ChangeError::OutcomeUnknown)
            }
        }
    }
}

fn check_count(voters: &BTreeSet<RaftId>) -> Result<(), ChangeError> {
    match voters.len() {
        0 => Err(ChangeError::NoVoters),
        1..=VOTERS_MAX => Ok(()),
        voters => Err(ChangeError::TooManyVoters {
            voters,
            voters_max: VOTERS_MAX,
        }),
    }
}

fn has_caught_up(status: &RaftStatus, id: RaftId) -> bool {
    let goal = status.last_log.unwrap_or_default();
    let near = |at: &LogIndex| at.0 + CAUGHT_UP_LAG >= goal.0;
    status.matched.get(&id).is_some_and(near)
}

/// Why a leader could not see what it waited for.
enum Unmet {
    Late,
    NotLeader(Option<NodeId>),
    Stopped,
}

fn refusal(error: &openraft::alias::ChangeMembershipErrorOf<Types>) -> ChangeError {
    match error {
        // The leader's own first entry must be agreed before it may change anything.
        ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_) => {
            ChangeError::InProgress
        }
        ChangeMembershipError::LearnerNotFound(missing) => {
            ChangeError::NotALearner(RaftId(missing.node_id))
        }
        ChangeMembershipError::EmptyMembership(_)
        | ChangeMembershipError::UnsupportedMembershipTransition(_)
        | ChangeMembershipError::NodeMetadataChanged(_) => ChangeError::Refused(error.to_string()),
    }
}
