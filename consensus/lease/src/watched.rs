//! What a coordinator does about one virtual IP.
//!
//! Decides: whether the holder stays, is asked to let go or is closed out, who is proposed, and
//! when its voters change. Never: acts without leadership; the [`Coordinator`](crate::Coordinator)
//! sees to that.

mod effort;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use consensus_core::{Epoch, LeaseTiming, LeaseVoters, LogIndex, NodeId, Time, VipId};

pub(crate) use self::effort::Effort;
use crate::{
    Assignment, Candidate, CoordinatorOutput, Message, MoveReason, Rejected, Unfit, agreed::later,
    choose,
};

/// Unheard for so long, and lost for membership as well, a holder is closed out even if nobody can
/// replace it: otherwise it would pin its lease's voters for ever. Longer than a daemon's restart.
const ABANDONED_AFTER_US: u64 = 10_000_000;

/// So long others come before whom it was taken from unheard. Membership knows of the dead by then,
/// also where its probes are patient; and whoever lives after all has its place again.
const PASSED_OVER_FOR_US: u64 = 10_000_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Watched {
    pub(crate) assignment: Assignment,
    pub(crate) timing: LeaseTiming,
    pub(crate) heard: Time,
    /// Whether this epoch's holder was heard at all.
    renewed: bool,
    /// Whether this leader saw the epoch begin, and has not heard its holder yet.
    begun: bool,
    /// Whether a stall of this node was held against nobody since the holder was last heard.
    pub(crate) excused: bool,
    /// Whether the holder's renewals come here: whether this node is one of the lease's voters.
    hears: bool,
    /// When that was sent which a majority answered last; none where nobody is to answer.
    pub(crate) majority: Option<Time>,
    /// Through which epoch the voter beside is closed.
    pub(crate) closed_here: Option<Epoch>,
    /// When silence was last judged.
    judged_at: Time,
    /// Nobody is given it before: what was promised by whom nobody here remembers.
    free_at: Time,
    /// None before the first are told.
    pub(crate) candidates: Option<Vec<Candidate>>,
    pub(crate) wanted: Option<NodeId>,
    pub(crate) effort: Effort,
    /// When an unheld VIP's next holder is proposed again.
    pub(crate) propose_at: Time,
    /// When a change of voters is proposed again.
    pub(crate) change_at: Time,
    pub(crate) rests_on: Option<LogIndex>,
    /// Whom it was taken from because he was not heard, and when. What membership still believes of
    /// him is not tried again before everybody else was.
    pub(crate) unheard: BTreeMap<NodeId, Time>,
    pub(crate) complaint: Option<(MoveReason, Vec<Rejected>)>,
}

impl Watched {
    pub(crate) const fn new(assignment: Assignment, timing: LeaseTiming, now: Time) -> Self {
        Self {
            assignment,
            timing,
            heard: now,
            renewed: false,
            begun: true,
            excused: false,
            hears: false,
            majority: None,
            closed_here: None,
            judged_at: Time::ZERO,
            free_at: later(now, timing.promise_us()),
            candidates: None,
            wanted: None,
            effort: Effort::Watching,
            propose_at: now,
            change_at: now,
            rests_on: None,
            unheard: BTreeMap::new(),
            complaint: None,
        }
    }

    pub(crate) fn start_over(&mut self, now: Time) {
        self.heard = now;
        self.renewed = false;
        self.begun = false;
        self.excused = false;
        self.judged_at = Time::ZERO;
        self.effort = Effort::Watching;
        self.propose_at = now;
        self.change_at = now;
        self.rests_on = None;
        self.complaint = None;
    }

    /// Leadership was won or lost. What the voter beside it heard before counts: the silence of a
    /// holder that died with the leader began then. It has one renewal's time more to be heard.
    pub(crate) fn begin_again(&mut self, now: Time) {
        let (heard, renewed) = (self.heard, self.renewed);
        self.start_over(now);
        self.unheard.clear();
        if renewed {
            let grace = self.timing.missed_us() - self.timing.renew_every_us;
            let least = Time::from_micros(now.as_micros().saturating_sub(grace));
            self.heard = heard.max(least);
            self.renewed = true;
        }
    }

    pub(crate) fn learn(&mut self, assignment: &Assignment, me: &NodeId, now: Time) {
        let before = std::mem::replace(&mut self.assignment, assignment.clone());
        let hears = assignment.voters.everyone().contains(me);
        if hears && !self.hears {
            self.heard = now;
            self.renewed = false;
        }
        self.hears = hears;
        if assignment.epoch > before.epoch.next() {
            // Moved unseen, or by a recovery.
            self.free_at = later(now, self.timing.promise_us());
        } else if assignment.epoch > before.epoch {
            self.free_at = now;
        }
        if before.epoch != assignment.epoch || before.holder != assignment.holder {
            let unheard = MoveReason::Unheard;
            if matches!(&self.effort, Effort::Closing { reason, .. } if *reason == unheard) {
                self.unheard
                    .extend(before.holder.map(|holder| (holder, now)));
            }
            self.start_over(now);
            self.begun = true;
        } else if before.voters_since != assignment.voters_since {
            self.change_at = now;
        }
    }

    /// The voter beside acknowledged the holder.
    pub(crate) fn renewed(&mut self, now: Time) {
        self.heard = self.heard.max(now);
        self.renewed = true;
        self.begun = false;
        self.excused = false;
        if let Some(holder) = &self.assignment.holder {
            self.unheard.remove(holder);
        }
        if self.complains_of_silence() {
            self.complaint = None;
        }
    }

    /// Who was only just given it has to learn of that first, and then to reach its voters: a busy one
    /// would be passed over for another that is no less busy.
    const fn missed_at(&self) -> Time {
        let times = if self.begun { 2 } else { 1 };
        later(self.heard, times * self.timing.missed_us())
    }

    const fn abandoned_at(&self) -> Time {
        later(self.heard, ABANDONED_AFTER_US)
    }

    fn candidates(&self) -> &[Candidate] {
        self.candidates.as_deref().unwrap_or_default()
    }

    /// Whether the holder was not heard, though it would have been if it lived: this node is one of
    /// the lease's voters, and others were heard after the first renewal that it missed.
    fn silent(&self, holder: &NodeId, now: Time) -> bool {
        let missed_one = later(self.heard, self.timing.renew_every_us);
        let hears_others = self.majority.is_none_or(|sent| sent > missed_one);
        self.missed_at() <= now && hears_others && (self.hears || self.lost(holder))
    }

    /// Whether membership does not hear the holder either.
    fn lost(&self, holder: &NodeId) -> bool {
        let listed = self.candidates().iter().find(|one| one.node == *holder);
        let lost = |why: &Unfit| matches!(why, Unfit::Suspect | Unfit::Removed);
        listed.is_some_and(|one| one.unfit.iter().any(lost))
    }

    /// Whether the holder is as good as gone, so that nobody is better than it.
    fn abandoned(&self, holder: &NodeId, now: Time) -> bool {
        let listed = self.candidates().iter().any(|one| one.node == *holder);
        let unlisted = self.candidates.is_some() && !listed;
        self.abandoned_at() <= now && (unlisted || self.lost(holder))
    }

    /// Whether the voter beside ended this epoch, so that it cannot hear the holder.
    fn is_closed_here(&self) -> bool {
        self.closed_here >= Some(self.assignment.epoch)
    }

    /// The next holder, and otherwise, when the present one is out of the question, anyone.
    fn next(&self, leaving: Option<&NodeId>, strict: bool) -> Result<NodeId, Vec<Rejected>> {
        let wanted = choose(
            self.candidates(),
            leaving,
            self.wanted.as_ref(),
            &self.unheard,
        );
        if strict || self.wanted.is_none() {
            return wanted;
        }
        wanted.or_else(|_| choose(self.candidates(), leaving, None, &self.unheard))
    }

    /// Why the present holder ought to let go, though it is heard.
    fn grievance(&self, holder: &NodeId) -> Option<MoveReason> {
        let listed = self.candidates().iter().find(|one| one.node == *holder);
        let unfit: BTreeSet<Unfit> = match listed {
            Some(candidate) => (candidate.unfit.iter().copied())
                .filter(|reason| reason.costs_the_vip())
                .collect(),
            None if self.candidates.is_none() => BTreeSet::new(),
            None => BTreeSet::from([Unfit::NotACandidate]),
        };
        if !unfit.is_empty() {
            return Some(MoveReason::Unfit(unfit));
        }
        (self.wanted.as_ref())
            .filter(|wanted| *wanted != holder)
            .map(|_| MoveReason::Wanted)
    }

    pub(crate) fn pursue(
        &mut self,
        vip: VipId,
        now: Time,
        outputs: &mut VecDeque<CoordinatorOutput>,
    ) {
        (self.unheard).retain(|_, at| later(*at, PASSED_OVER_FOR_US) > now);
        match &self.assignment.holder {
            None => self.give_out(vip, now, outputs),
            Some(holder) => {
                let holder = holder.clone();
                self.consider(vip, &holder, now, outputs);
                self.ask(vip, &holder, now, outputs);
                self.close(vip, &holder, now, outputs);
            }
        }
    }

    /// Nobody holds it: the next epoch needs no closing.
    fn give_out(&mut self, vip: VipId, now: Time, outputs: &mut VecDeque<CoordinatorOutput>) {
        if self.propose_at.max(self.free_at) > now {
            return;
        }
        match self.next(None, false) {
            Ok(to) => {
                self.complaint = None;
                self.propose_at = later(now, self.timing.missed_us());
                outputs.push_back(CoordinatorOutput::ProposeAssign {
                    vip,
                    after: self.assignment.epoch,
                    to: Some(to),
                    closed_by: BTreeSet::new(),
                    reason: MoveReason::Unheld,
                });
            }
            Err(rejected) => self.complain(vip, MoveReason::Unheld, rejected, outputs),
        }
    }

    /// Whether to begin. A holder that nobody could replace stays, whatever is said of it, unless
    /// it is lost or cannot be heard here any more.
    fn consider(
        &mut self,
        vip: VipId,
        holder: &NodeId,
        now: Time,
        outputs: &mut VecDeque<CoordinatorOutput>,
    ) {
        if self.effort != Effort::Watching {
            return;
        }
        self.judged_at = now;
        let (reason, unheard) = if self.silent(holder, now) || self.abandoned(holder, now) {
            (MoveReason::Unheard, true)
        } else if let Some(reason) = self.grievance(holder) {
            (reason, false)
        } else {
            self.complaint = None;
            return;
        };
        let strict = reason == MoveReason::Wanted;
        let next = self.next(Some(holder), strict);
        // Closed here and irreplaceable, it may still live on the other voters: it is asked first,
        // and then may have the next epoch.
        let renewed_only = next.is_err() && self.is_closed_here() && self.next(None, false).is_ok();
        let lost = unheard && self.abandoned(holder, now);
        if let Err(rejected) = next
            && !renewed_only
            && !lost
        {
            self.complain(vip, reason, rejected, outputs);
            return;
        }
        self.effort = if unheard && !renewed_only {
            Effort::closing(reason, now)
        } else {
            let until = later(now, self.timing.missed_us());
            Effort::Asking {
                reason,
                until,
                again: now,
            }
        };
    }

    fn ask(
        &mut self,
        vip: VipId,
        holder: &NodeId,
        now: Time,
        outputs: &mut VecDeque<CoordinatorOutput>,
    ) {
        let Effort::Asking {
            reason,
            until,
            again,
        } = &mut self.effort
        else {
            return;
        };
        if *until <= now {
            self.effort = Effort::closing(reason.clone(), now);
            return;
        }
        if *again <= now {
            *again = later(now, self.timing.renew_every_us);
            let epoch = self.assignment.epoch;
            let message = Message::LetGo { vip, epoch };
            let to = holder.clone();
            outputs.push_back(CoordinatorOutput::Send { to, message });
        }
    }

    fn close(
        &mut self,
        vip: VipId,
        holder: &NodeId,
        now: Time,
        outputs: &mut VecDeque<CoordinatorOutput>,
    ) {
        let next = (self.next(Some(holder), false)).or_else(|_| self.next(None, false));
        let Effort::Closing {
            reason,
            closed,
            again,
            propose_at,
        } = &mut self.effort
        else {
            return;
        };
        let epoch = self.assignment.epoch;
        if !self.assignment.voters.close_majority(closed) {
            if *again <= now {
                *again = later(now, self.timing.renew_every_us);
                let voters = self.assignment.voters.everyone();
                outputs.extend(voters.difference(closed).map(|to| {
                    let message = Message::Close { vip, epoch };
                    let to = to.clone();
                    CoordinatorOutput::Send { to, message }
                }));
            }
            return;
        }
        if *propose_at > now {
            return;
        }
        *propose_at = later(now, self.timing.missed_us());
        let (reason, closed_by) = (reason.clone(), closed.clone());
        match &next {
            Ok(_) => self.complaint = None,
            Err(rejected) => self.complain(vip, reason.clone(), rejected.clone(), outputs),
        }
        // Its lease is over either way. Held by nobody it no longer needs its voters, and is given
        // out as soon as anybody is fit.
        outputs.push_back(CoordinatorOutput::ProposeAssign {
            vip,
            after: epoch,
            to: next.ok(),
            closed_by,
            reason,
        });
    }

    /// Begins a joint phase when other voters are wanted, and ends one when the holder's lease
    /// rests on it. An epoch that is being closed has no use for either: the next begins anew.
    pub(crate) fn change_voters(
        &mut self,
        vip: VipId,
        wanted: &BTreeSet<NodeId>,
        now: Time,
        outputs: &mut VecDeque<CoordinatorOutput>,
    ) {
        if !self.change_due(wanted) || self.change_at > now {
            return;
        }
        self.change_at = later(now, self.timing.missed_us());
        let epoch = self.assignment.epoch;
        let voters_since = self.assignment.voters_since;
        outputs.push_back(match &self.assignment.voters {
            LeaseVoters::Stable(_) => CoordinatorOutput::ProposeJoint {
                vip,
                epoch,
                voters_since,
                new: wanted.clone(),
            },
            LeaseVoters::Joint { .. } => CoordinatorOutput::ProposeStable {
                vip,
                epoch,
                voters_since,
            },
        });
    }

    fn change_due(&self, wanted: &BTreeSet<NodeId>) -> bool {
        if self.assignment.holder.is_none() || matches!(self.effort, Effort::Closing { .. }) {
            return false;
        }
        match &self.assignment.voters {
            LeaseVoters::Stable(set) => !wanted.is_empty() && set != wanted,
            LeaseVoters::Joint { .. } => self.rests_on == Some(self.assignment.voters_since),
        }
    }

    fn complains_of_silence(&self) -> bool {
        (self.complaint.as_ref()).is_some_and(|(reason, _)| *reason == MoveReason::Unheard)
    }

    fn complain(
        &mut self,
        vip: VipId,
        reason: MoveReason,
        rejected: Vec<Rejected>,
        outputs: &mut VecDeque<CoordinatorOutput>,
    ) {
        let complaint = Some((reason.clone(), rejected.clone()));
        if self.complaint != complaint {
            self.complaint = complaint;
            outputs.push_back(CoordinatorOutput::NoCandidate {
                vip,
                reason,
                rejected,
            });
        }
    }

    /// The next moment at which something is to be done without anything being heard. Where only
    /// better candidates could help there is none.
    pub(crate) fn due(&self, wanted: &BTreeSet<NodeId>) -> Option<Time> {
        let pursued = match &self.effort {
            Effort::Watching if self.assignment.holder.is_none() => {
                let propose_at = self.propose_at.max(self.free_at);
                self.complaint.is_none().then_some(propose_at)
            }
            // Judged once, silence is judged again when it has become very long.
            Effort::Watching => [self.missed_at(), self.abandoned_at()]
                .into_iter()
                .find(|at| *at > self.judged_at),
            effort @ (Effort::Asking { .. } | Effort::Closing { .. }) => {
                effort.due(&self.assignment.voters)
            }
        };
        let changed = self.change_due(wanted).then_some(self.change_at);
        pursued.into_iter().chain(changed).min()
    }
}
