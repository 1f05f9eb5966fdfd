//! What a holder knows of one virtual IP that it holds, and what it wants done.
//!
//! Decides: when it is due, whether acknowledgements carry its lease, and who is told that it rests on
//! a joint phase: its voters, who coordinate as a rule, and where that was in vain everybody, by a
//! proposal. Never: sends, or orders a gate; the [`Holder`](crate::Holder) does.

use std::collections::{BTreeMap, BTreeSet};

use consensus_core::{Epoch, LeaseProfile, LeaseVoters, LogIndex, NodeId, Time, VipId};

use crate::{
    Assignment, GateOrder, HolderRecord, Message, Timings,
    agreed::later,
    planted::{Planted, PlantedBug},
};

/// What a holder wants done.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HolderOutput {
    /// Send it; losing it is allowed.
    Send {
        /// To whom; may be this node.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// What the gate of a VIP is to be from now on; only the latest counts.
    Gate(GateOrder),
    /// Write durably, then call [`Holder::handle_persisted`](crate::Holder::handle_persisted) with the
    /// same. If it cannot be written, do not call.
    Persist {
        /// The virtual IP.
        vip: VipId,
        /// Replaces what the disk has of it.
        record: HolderRecord,
    },
    /// The record of a VIP that is long gone may be erased.
    ForgetRecord {
        /// The virtual IP.
        vip: VipId,
    },
    /// Propose that nobody holds the VIP, provided its epoch is still this one. Comes again until
    /// the state shows it.
    ProposeRelease {
        /// The virtual IP.
        vip: VipId,
        /// The epoch let go.
        epoch: Epoch,
    },
    /// Propose that the joint phase ends with its new set, on which the lease rests: whoever
    /// coordinates has not, though it was told. It may be none of the voters, and hear nothing. Comes
    /// again until the state shows it.
    ProposeStable {
        /// The virtual IP.
        vip: VipId,
        /// The epoch whose voters change.
        epoch: Epoch,
        /// Names the joint phase.
        voters_since: LogIndex,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Held {
    pub(crate) epoch: Epoch,
    pub(crate) voters: LeaseVoters,
    pub(crate) voters_since: LogIndex,
    pub(crate) profile: LeaseProfile,
    /// Renewals on their way, by when they were sent, with who acknowledged.
    pub(crate) open: BTreeMap<Time, BTreeSet<NodeId>>,
    pub(crate) renew_at: Time,
    pub(crate) lease_until: Option<Time>,
    /// Without a majority until then it is let go.
    pub(crate) give_up_at: Time,
    pub(crate) report: Report,
    pub(crate) leaving: Option<Leaving>,
}

/// How far the end of a joint phase has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Report {
    /// The lease does not rest on both sets, or there is one set only.
    Not,
    /// It does; that no older set will be used again is being written.
    Recording,
    /// It is written; the voters are told then.
    At(Time),
    /// They were told and nothing came of it; it is said again then, and proposed.
    Told(Time),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Leaving {
    pub(crate) shut: bool,
    pub(crate) recorded: bool,
    pub(crate) ask_at: Time,
}

impl Held {
    pub(crate) fn new(assignment: &Assignment, timings: &Timings, now: Time) -> Self {
        Self {
            epoch: assignment.epoch,
            voters: assignment.voters.clone(),
            voters_since: assignment.voters_since,
            profile: assignment.profile,
            open: BTreeMap::new(),
            renew_at: now,
            lease_until: None,
            give_up_at: later(now, timings.patience_us(assignment.profile)),
            report: Report::Not,
            leaving: None,
        }
    }

    /// Goes on with a newer set. Acknowledgements under way stay what they are, promises of those
    /// who gave them; from here on they must be a majority of the newer set.
    pub(crate) fn adopt(&mut self, assignment: &Assignment, now: Time) {
        self.voters = assignment.voters.clone();
        self.voters_since = assignment.voters_since;
        self.renew_at = now;
    }

    /// A majority acknowledged what was sent then.
    pub(crate) fn carried(&mut self, sent: Time, until: Time, timings: &Timings) {
        self.open.retain(|other, _| *other > sent);
        self.lease_until = self.lease_until.max(Some(until));
        let patience = later(sent, timings.patience_us(self.profile));
        self.give_up_at = self.give_up_at.max(patience);
    }

    /// Asks for one more renewal. A holder that stood still has not asked meanwhile: nobody's
    /// silence counts.
    pub(crate) fn renew(&mut self, timings: &Timings, now: Time) {
        let timing = timings.of(self.profile);
        if later(self.renew_at, timing.renew_every_us) < now {
            let patience = later(now, timings.patience_us(self.profile));
            self.give_up_at = self.give_up_at.max(patience);
        }
        self.renew_at = later(now, timing.renew_every_us);
        (self.open).retain(|sent, _| later(*sent, timing.lease_us) > now);
        self.open.entry(now).or_default();
        while self.open.len() > timings.renewals_open_max {
            self.open.pop_first();
        }
    }

    pub(crate) fn leave(&mut self, leaving: Leaving) {
        self.open.clear();
        self.lease_until = None;
        self.leaving = Some(leaving);
    }

    /// Says again what others have not taken note of yet.
    pub(crate) fn ask(
        &mut self,
        vip: VipId,
        timings: &Timings,
        now: Time,
        said: &mut Vec<HolderOutput>,
    ) {
        let again = later(now, timings.of(self.profile).missed_us());
        let epoch = self.epoch;
        if let Some(leaving) = &mut self.leaving {
            if leaving.shut && leaving.recorded && leaving.ask_at <= now {
                leaving.ask_at = again;
                said.push(HolderOutput::ProposeRelease { vip, epoch });
            }
            return;
        }
        let (at, in_vain) = match self.report {
            Report::At(at) => (at, false),
            Report::Told(at) => (at, true),
            Report::Not | Report::Recording => return,
        };
        if at > now {
            return;
        }
        self.report = Report::Told(again);
        let voters_since = self.voters_since;
        said.extend(self.voters.everyone().into_iter().map(|to| {
            let message = Message::RestsOnJoint {
                vip,
                epoch,
                voters_since,
            };
            HolderOutput::Send { to, message }
        }));
        if in_vain {
            said.push(HolderOutput::ProposeStable {
                vip,
                epoch,
                voters_since,
            });
        }
    }

    pub(crate) fn due(&self) -> Option<Time> {
        if let Some(leaving) = self.leaving {
            return (leaving.shut && leaving.recorded).then_some(leaving.ask_at);
        }
        let due = self.renew_at.min(self.give_up_at);
        match self.report {
            Report::At(at) | Report::Told(at) => Some(at.min(due)),
            Report::Not | Report::Recording => Some(due),
        }
    }
}

/// Whether these acknowledgements carry a lease, or would with a bug planted.
pub(crate) fn carries(voters: &LeaseVoters, acks: &BTreeSet<NodeId>, planted: Planted) -> bool {
    if let LeaseVoters::Joint { old, new } = voters {
        let alone =
            |set: &BTreeSet<NodeId>| LeaseVoters::Stable(set.clone()).renewal_majority(acks);
        if planted.has(PlantedBug::JointRenewsWithOld) {
            return alone(old);
        }
        if planted.has(PlantedBug::JointRenewsWithNew) {
            return alone(new);
        }
    }
    voters.renewal_majority(acks)
}
