//! The side of a lease that moves it: one per server, awake on the Raft leader only.
//!
//! Decides: when a holder is asked to let go, when it is closed out, who is proposed next (nobody, if
//! nobody is fit), and when an epoch's voters change. Never: makes anything true; what it proposes is checked again when it
//! is applied, and what it believes dies with its leadership. Two coordinators at once, each wrong,
//! do no harm: a close majority is a fact, and an assignment is for one epoch only.
//!
//! What applying its proposals must check, for the invariant rests on it:
//! - `ProposeAssign`: the epoch is still `after`; and nobody holds it (released), or `closed_by` is
//!   a [`close_majority`](consensus_core::LeaseVoters::close_majority) of the voters *now written*.
//!   It writes the next epoch, and as its voters the
//!   [`successor`](consensus_core::LeaseVoters::successor) set or a newer one, with a new index.
//! - `ProposeJoint`: epoch and `voters_since` are still these, and the set is stable.
//! - `ProposeStable`: epoch and `voters_since` are still these, and the phase is joint.
//! - a holder's release: the epoch is still this one.
//!
//! What it hears of a holder it hears as one of the lease's voters. Where it is none, silence says
//! nothing, and only a holder that membership takes for lost is closed out. Nor does silence say
//! anything where nobody else is heard either: a majority must have answered since, unless this server
//! is one by itself.
//!
//! Whom it has closed out unheard it tries again after the others only, unless it hears of him as a
//! voter: until membership has noticed the dead, each of them costs one epoch that nobody renews, and
//! no more.
//!
//! A state that a recovery made has forgotten who held what: the promises of servers that are gone
//! may still run for somebody. So nothing is given out that was not seen to be let go, before the
//! longest promise of its profile is over.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use consensus_core::{Epoch, LogIndex, NodeId, Time, VipId};

use crate::{
    Assignments, Candidate, Message, Rejected, Timings, Unfit,
    watched::{Effort, Watched},
};

/// Why a virtual IP moves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MoveReason {
    /// Nobody holds it: it is new, or was let go.
    Unheld,
    /// Three renewals were missed.
    Unheard,
    /// The holder is no longer fit.
    Unfit(BTreeSet<Unfit>),
    /// An operator wants another holder.
    Wanted,
}

/// Who besides this server makes up Raft's majority, and was heard when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Majority {
    /// Nobody: it is the only voter, and a majority by itself at all times.
    Alone,
    /// Others, who answered what this leader sent at that time.
    Answered(Time),
}

/// What a coordinator wants done.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CoordinatorOutput {
    /// Send it; losing it is allowed.
    Send {
        /// To whom; may be this node.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Propose the next epoch. Comes again until the state shows it.
    ProposeAssign {
        /// The virtual IP.
        vip: VipId,
        /// The epoch that has ended.
        after: Epoch,
        /// Who holds the next; nobody, if nobody is fit.
        to: Option<NodeId>,
        /// Who closed the ended one; nobody if it was released.
        closed_by: BTreeSet<NodeId>,
        /// For events.
        reason: MoveReason,
    },
    /// Propose a joint phase. Comes again until the state shows it.
    ProposeJoint {
        /// The virtual IP.
        vip: VipId,
        /// The epoch whose voters change.
        epoch: Epoch,
        /// Names the set that they change from.
        voters_since: LogIndex,
        /// The set that they change to.
        new: BTreeSet<NodeId>,
    },
    /// Propose that the joint phase ends with its new set. Comes again until the state shows it.
    ProposeStable {
        /// The virtual IP.
        vip: VipId,
        /// The epoch whose voters change.
        epoch: Epoch,
        /// Names the joint phase.
        voters_since: LogIndex,
    },
    /// The VIP ought to move and cannot: said when the reasons change.
    NoCandidate {
        /// The virtual IP.
        vip: VipId,
        /// Why it ought to move.
        reason: MoveReason,
        /// Why it cannot.
        rejected: Vec<Rejected>,
    },
}

/// One server's coordinator.
#[derive(Debug, Clone)]
pub struct Coordinator {
    me: NodeId,
    timings: Timings,
    /// Whether a voter runs beside it. Where none can, it listens to renewals itself.
    votes: bool,
    leads: bool,
    /// When that was sent which a majority answered last; none where nobody is to answer, and where
    /// the shell does not tell.
    majority: Option<Time>,
    revision: LogIndex,
    watched: BTreeMap<VipId, Watched>,
    voters_wanted: BTreeSet<NodeId>,
    /// When it last asked to be woken; waking much later means that it stood still.
    deadline: Option<Time>,
    outputs: VecDeque<CoordinatorOutput>,
}

impl Coordinator {
    /// A coordinator that does not lead yet. `votes` says whether a voter runs beside it.
    pub const fn new(me: NodeId, timings: Timings, votes: bool) -> Self {
        Self {
            me,
            timings,
            votes,
            leads: false,
            majority: None,
            revision: LogIndex(0),
            watched: BTreeMap::new(),
            voters_wanted: BTreeSet::new(),
            deadline: None,
            outputs: VecDeque::new(),
        }
    }

    /// Leadership was won or lost. Whoever wins it gives a holder one renewal's time more before it
    /// judges, three where its own voter had not heard it before; the promises run on meanwhile.
    /// Whoever loses it drops all efforts.
    pub fn handle_leadership(&mut self, leads: bool, now: Time) {
        if leads == self.leads {
            return;
        }
        self.leads = leads;
        self.outputs.clear();
        self.deadline = None;
        for watched in self.watched.values_mut() {
            watched.begin_again(now);
        }
        self.decide(now);
    }

    /// Up to when this leader is known to hear a majority of Raft's voters.
    pub fn handle_majority(&mut self, majority: Majority) {
        self.majority = match majority {
            Majority::Alone => None,
            Majority::Answered(sent) => self.majority.max(Some(sent)),
        };
    }

    /// The state as this server has applied it; older revisions than the last are ignored.
    pub fn handle_assignments(&mut self, revision: LogIndex, agreed: &Assignments, now: Time) {
        if revision < self.revision {
            return;
        }
        self.revision = revision;
        // What was late before is neither held against nor excused of an epoch that begins now.
        self.excuse_stall(now);
        self.watched.retain(|vip, _| agreed.contains_key(vip));
        for (vip, assignment) in agreed {
            let timing = self.timings.of(assignment.profile);
            let watched = (self.watched.entry(*vip))
                .or_insert_with(|| Watched::new(assignment.clone(), timing, now));
            watched.learn(assignment, &self.me, now);
        }
        self.decide(now);
    }

    /// The voter beside this coordinator acknowledged the holder.
    pub fn handle_renewed(&mut self, vip: VipId, epoch: Epoch, now: Time) {
        self.excuse_stall(now);
        if let Some(watched) = self.watched.get_mut(&vip)
            && watched.assignment.epoch == epoch
        {
            watched.renewed(now);
        }
        self.deadline = self.poll_timeout();
    }

    /// The voter beside this coordinator has closed the VIP through this epoch, now or in an
    /// earlier life: it will not hear the holder again.
    pub fn handle_closed_here(&mut self, vip: VipId, through: Epoch) {
        if let Some(watched) = self.watched.get_mut(&vip) {
            watched.closed_here = watched.closed_here.max(Some(through));
        }
    }

    /// A VIP's ordered candidates as they are now, and whom an operator wants as holder, if anyone.
    /// The wish is the shell's to withdraw when it has come true or was given up.
    pub fn handle_candidates(
        &mut self,
        vip: VipId,
        candidates: Vec<Candidate>,
        wanted: Option<NodeId>,
        now: Time,
    ) {
        if let Some(watched) = self.watched.get_mut(&vip) {
            watched.candidates = Some(candidates);
            watched.wanted = wanted;
        }
        self.decide(now);
    }

    /// Whom operators want is to be told anew: what was wanted of an older revision may have come
    /// true in the next.
    pub fn forget_wishes(&mut self) {
        for watched in self.watched.values_mut() {
            watched.wanted = None;
        }
    }

    /// Who ought to be the voters of every lease: the mesh's voting servers.
    pub fn handle_voters_wanted(&mut self, voters: BTreeSet<NodeId>, now: Time) {
        self.voters_wanted = voters;
        self.decide(now);
    }

    /// A message from another node, or from this one's own voter or holder. Only what is addressed
    /// to coordinators is looked at.
    pub fn handle_message(&mut self, from: &NodeId, message: &Message, now: Time) {
        match message {
            Message::Closed { vip, epoch } => {
                for watched in self.watched.values_mut() {
                    watched.unheard.remove(from);
                }
                if let Some(watched) = self.watched.get_mut(vip)
                    && watched.assignment.epoch == *epoch
                    && let Effort::Closing { closed, .. } = &mut watched.effort
                    && watched.assignment.voters.everyone().contains(from)
                {
                    closed.insert(from.clone());
                }
            }
            Message::RestsOnJoint {
                vip,
                epoch,
                voters_since,
            } => {
                if let Some(watched) = self.watched.get_mut(vip)
                    && watched.assignment.epoch == *epoch
                    && watched.assignment.holder.as_ref() == Some(from)
                {
                    watched.rests_on = Some(*voters_since);
                }
            }
            Message::Renew { renewals, .. } => {
                let holds = |watched: &Watched| watched.assignment.holder.as_ref() == Some(from);
                for one in renewals {
                    if !self.votes && self.watched.get(&one.vip).is_some_and(holds) {
                        self.handle_renewed(one.vip, one.epoch, now);
                    }
                }
                return;
            }
            Message::Ack { .. } | Message::Close { .. } | Message::LetGo { .. } => return,
        }
        self.decide(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Time) {
        self.decide(now);
    }

    /// When [`Coordinator::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Time> {
        if !self.leads {
            return None;
        }
        (self.watched.values())
            .filter_map(|watched| watched.due(&self.voters_wanted))
            .min()
    }

    /// What is to be done next.
    pub fn poll_output(&mut self) -> Option<CoordinatorOutput> {
        self.outputs.pop_front()
    }

    fn decide(&mut self, now: Time) {
        if !self.leads {
            return;
        }
        self.excuse_stall(now);
        for (vip, watched) in &mut self.watched {
            watched.majority = self.majority;
            watched.pursue(*vip, now, &mut self.outputs);
            watched.change_voters(*vip, &self.voters_wanted, now, &mut self.outputs);
        }
        self.deadline = self.poll_timeout();
    }

    /// A coordinator that stood still missed renewals that were sent: it waits like a new leader. But
    /// only once for each silence, or a leader that is always late would never miss the dead.
    fn excuse_stall(&mut self, now: Time) {
        let Some(deadline) = self.deadline.take() else {
            return;
        };
        let stood = u64::try_from(now.since(deadline).as_micros()).unwrap_or(u64::MAX);
        for watched in self.watched.values_mut() {
            if stood > watched.timing.renew_every_us && !watched.excused {
                watched.excused = true;
                watched.heard = now;
            }
        }
    }
}

#[cfg(test)]
#[path = "coordinator_tests.rs"]
mod tests;
