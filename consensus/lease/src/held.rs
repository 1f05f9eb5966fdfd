//! What a holder knows of one virtual IP that it holds.
//!
//! Decides: when it is due, and whether acknowledgements carry its lease. Never: sends, or orders a
//! gate; the [`Holder`](crate::Holder) does.

use std::collections::{BTreeMap, BTreeSet};

use consensus_core::{Epoch, LeaseProfile, LeaseVoters, LogIndex, NodeId, Time, VipId};

use crate::{
    Assignment, HolderOutput, Message, Timings,
    agreed::later,
    planted::{Planted, PlantedBug},
};

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
    /// It is written; coordinators are told again from here on.
    At(Time),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Leaving {
    pub(crate) shut: bool,
    pub(crate) recorded: bool,
    pub(crate) ask_at: Time,
}

impl Held {
    pub(crate) fn new(assignment: &Assignment, now: Time) -> Self {
        Self {
            epoch: assignment.epoch,
            voters: assignment.voters.clone(),
            voters_since: assignment.voters_since,
            profile: assignment.profile,
            open: BTreeMap::new(),
            renew_at: now,
            lease_until: None,
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
        if let Report::At(at) = self.report
            && at <= now
        {
            self.report = Report::At(again);
            let voters_since = self.voters_since;
            said.extend(self.voters.everyone().into_iter().map(|to| {
                let message = Message::RestsOnJoint {
                    vip,
                    epoch,
                    voters_since,
                };
                HolderOutput::Send { to, message }
            }));
        }
    }

    pub(crate) fn due(&self) -> Option<Time> {
        if let Some(leaving) = self.leaving {
            return (leaving.shut && leaving.recorded).then_some(leaving.ask_at);
        }
        match self.report {
            Report::At(at) => Some(at.min(self.renew_at)),
            Report::Not | Report::Recording => Some(self.renew_at),
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
