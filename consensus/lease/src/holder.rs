//! The side of a lease that holds: one per node, for all virtual IPs assigned to it.
//!
//! Decides: when renewals go out, how far the lease runs, what the kernel's gate is told, when the
//! node gives up asking, and when it may ask to be released. Never: opens a gate itself, or judges its own readiness.
//!
//! Invariants:
//! - A lease runs to t + L, where t is when the renewal was *sent* and a majority of the epoch's
//!   voters ([`LeaseVoters::renewal_majority`]) acknowledged that very renewal in this life.
//! - Epoch and set never go back, not even over a restart: what matters of them is durable before
//!   anyone is told ([`HolderRecord`]).
//! - A release is asked for only when the kernel's gate is confirmed shut and it is durable that
//!   this node never again renews the epoch.
//!
//! A restarted holder resumes the epoch it held: leases are promises of voters, and whatever element
//! still lives in the kernel rests on promises that still bind. It does not resume what it let go.
//!
//! A holder that has no majority for twice the lease lets go by itself. Some of its voters may have
//! closed its epoch for a coordinator that is gone; then it never has one again, and no other
//! coordinator need notice. Released, it can be given a new epoch.

#[cfg(feature = "model")]
use std::collections::BTreeSet;
use std::collections::{BTreeMap, VecDeque};

use consensus_core::{Epoch, LeaseVoters, LogIndex, NodeId, Time, VipId};

use crate::{
    Assignment, Assignments, GateOrder, Granted, HolderOutput, Life, Message,
    RENEWALS_PER_MESSAGE_MAX, Renewal, Timings,
    agreed::later,
    held::{Held, Leaving, Report, carries},
    planted::{Planted, PlantedBug},
};

/// Records of deleted VIPs that are remembered, for a restart may bring back a state in which they
/// still existed.
const RECORDS_OF_GONE_KEPT: usize = 1024;

/// What a holder must not forget of one VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HolderRecord {
    /// No lower epoch is ever held again.
    pub epoch: Epoch,
    /// In that epoch, no set written before this index is ever renewed with again.
    pub voters_since: LogIndex,
    /// That epoch is never held again.
    pub let_go: bool,
}

/// One node's holder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder {
    me: NodeId,
    life: Life,
    timings: Timings,
    planted: Planted,
    revision: LogIndex,
    records: BTreeMap<VipId, HolderRecord>,
    held: BTreeMap<VipId, Held>,
    outputs: VecDeque<HolderOutput>,
}

impl Holder {
    /// A holder that starts, or starts again, with what its disk remembers.
    ///
    /// `life` is drawn at random for each start.
    pub const fn new(
        me: NodeId,
        life: Life,
        timings: Timings,
        records: BTreeMap<VipId, HolderRecord>,
    ) -> Self {
        Self {
            me,
            life,
            timings,
            planted: Planted::new(),
            revision: LogIndex(0),
            records,
            held: BTreeMap::new(),
            outputs: VecDeque::new(),
        }
    }

    /// The state as this node knows it; older revisions than the last are ignored.
    pub fn handle_assignments(&mut self, revision: LogIndex, agreed: &Assignments, now: Time) {
        if revision < self.revision {
            return;
        }
        self.revision = revision;
        let lost: Vec<VipId> = (self.held.iter())
            .filter(|(vip, held)| {
                !(agreed.get(vip)).is_some_and(|one| {
                    one.epoch < held.epoch || one.holder.as_ref() == Some(&self.me)
                })
            })
            .map(|(vip, _)| *vip)
            .collect();
        for vip in lost {
            if let Some(held) = self.held.remove(&vip) {
                self.order(vip, held.epoch, 0);
            }
        }
        for (vip, assignment) in agreed {
            if assignment.holder.as_ref() == Some(&self.me) {
                self.learn(*vip, assignment, now);
            }
        }
        self.forget_gone(agreed);
        self.handle_timeout(now);
    }

    /// A message from another node, or from this one's own voter or coordinator. Only what is
    /// addressed to holders is looked at; whether the sender may say it is the shell's to check.
    pub fn handle_message(&mut self, from: &NodeId, message: &Message, now: Time) {
        match message {
            Message::Ack {
                life,
                sent,
                granted,
            } => {
                if *life == self.life {
                    for one in granted {
                        self.acked(from, *sent, *one, now);
                    }
                }
            }
            Message::LetGo { vip, epoch } => self.let_go(*vip, *epoch, now),
            Message::Renew { .. }
            | Message::Close { .. }
            | Message::Closed { .. }
            | Message::RestsOnJoint { .. } => {}
        }
    }

    /// Lets a VIP go: renews it no more, writes that down, shuts the gate, and asks to be released
    /// once it is shut for certain. Until it is written the gate runs on with its lease. The node's own readiness check or drain may ask for it as well as a coordinator.
    pub fn let_go(&mut self, vip: VipId, epoch: Epoch, now: Time) {
        self.leave(vip, epoch, now);
        self.handle_timeout(now);
    }

    fn leave(&mut self, vip: VipId, epoch: Epoch, now: Time) {
        let undurable = self.planted.has(PlantedBug::ReleaseNotDurable);
        let early = self.planted.has(PlantedBug::ReleaseBeforeShut);
        let Some(held) = self.held.get_mut(&vip) else {
            return;
        };
        if held.epoch != epoch || held.leaving.is_some() {
            return;
        }
        held.leave(Leaving {
            shut: early,
            recorded: undurable,
            ask_at: now,
        });
        let record = HolderRecord {
            epoch,
            voters_since: held.voters_since,
            let_go: true,
        };
        // First the disk, then the gate: what is written while the lease still runs is no outage.
        if undurable {
            self.order(vip, epoch, 0);
        } else {
            self.record(vip, record);
        }
    }

    /// The kernel's gate of this VIP is shut: its elements are deleted, and no transaction is on
    /// its way that could add one.
    pub fn handle_gate_shut(&mut self, vip: VipId, epoch: Epoch, now: Time) {
        if let Some(leaving) = self.leaving(vip, epoch) {
            leaving.shut = true;
        }
        self.handle_timeout(now);
    }

    /// The disk has the record.
    pub fn handle_persisted(&mut self, vip: VipId, record: HolderRecord, now: Time) {
        if let Some(held) = self.held.get_mut(&vip)
            && held.epoch == record.epoch
        {
            if held.report == Report::Recording && held.voters_since == record.voters_since {
                held.report = Report::At(now);
            }
            if let Some(leaving) = &mut held.leaving
                && record.let_go
                && !std::mem::replace(&mut leaving.recorded, true)
            {
                self.order(vip, record.epoch, 0);
            }
        }
        self.handle_timeout(now);
    }

    /// Time has passed: sends what is due, and lets go what has had no majority for too long.
    pub fn handle_timeout(&mut self, now: Time) {
        self.renew(now);
        let in_vain: Vec<(VipId, Epoch)> = (self.held.iter())
            .filter(|(_, held)| held.leaving.is_none() && held.give_up_at <= now)
            .map(|(vip, held)| (*vip, held.epoch))
            .collect();
        for (vip, epoch) in in_vain {
            self.leave(vip, epoch, now);
        }
        let mut said = Vec::new();
        for (vip, held) in &mut self.held {
            held.ask(*vip, &self.timings, now, &mut said);
        }
        self.outputs.extend(said);
    }

    /// When [`Holder::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.held.values().filter_map(Held::due).min()
    }

    /// What is to be done next.
    pub fn poll_output(&mut self) -> Option<HolderOutput> {
        self.outputs.pop_front()
    }

    /// The end of the lease of a VIP that is held and not being let go.
    pub fn lease_until(&self, vip: VipId) -> Option<Time> {
        self.held.get(&vip)?.lease_until
    }

    fn learn(&mut self, vip: VipId, assignment: &Assignment, now: Time) {
        let record = self.records.get(&vip).copied();
        let stale = |record: HolderRecord| {
            (assignment.epoch, assignment.voters_since) < (record.epoch, record.voters_since)
        };
        if record.is_some_and(stale) {
            return;
        }
        let sight = self.planted.has(PlantedBug::JointEndsOnSight);
        if let Some(held) = self.held.get_mut(&vip)
            && assignment.epoch <= held.epoch
        {
            let newer = assignment.voters_since > held.voters_since;
            if assignment.epoch == held.epoch && newer {
                held.adopt(assignment, now);
                held.report = if sight { Report::At(now) } else { Report::Not };
            }
            return;
        }
        let mut held = Held::new(assignment, &self.timings, now);
        let gone = |record: HolderRecord| record.let_go && record.epoch == assignment.epoch;
        if record.is_some_and(gone) {
            held.leave(Leaving {
                shut: false,
                recorded: true,
                ask_at: now,
            });
            self.order(vip, assignment.epoch, 0);
        }
        self.held.insert(vip, held);
    }

    fn acked(&mut self, from: &NodeId, sent: Time, granted: Granted, now: Time) {
        let planted = self.planted;
        let Some(held) = self.held.get_mut(&granted.vip) else {
            return;
        };
        if held.epoch != granted.epoch || held.leaving.is_some() {
            return;
        }
        let Some(acks) = held.open.get_mut(&sent) else {
            return;
        };
        acks.insert(from.clone());
        let counts = if planted.has(PlantedBug::LeaseFromReceipt) {
            now
        } else {
            sent
        };
        let until = later(counts, self.timings.of(held.profile).lease_us);
        if until <= now || !carries(&held.voters, acks, planted) {
            return;
        }
        held.carried(sent, until, &self.timings);
        let (epoch, until) = (held.epoch, held.lease_until.unwrap_or_default());
        self.order(granted.vip, epoch, until.as_micros());
        self.rests(granted.vip, now);
    }

    /// The lease rests on the present voters. In a joint phase that is worth a report, once no
    /// later life of this node can go back behind it.
    fn rests(&mut self, vip: VipId, now: Time) {
        let Some(held) = self.held.get_mut(&vip) else {
            return;
        };
        let joint = matches!(held.voters, LeaseVoters::Joint { .. });
        if !joint || held.report != Report::Not {
            return;
        }
        if self.planted.has(PlantedBug::ReportNotDurable) {
            held.report = Report::At(now);
            return;
        }
        held.report = Report::Recording;
        let record = HolderRecord {
            epoch: held.epoch,
            voters_since: held.voters_since,
            let_go: false,
        };
        self.record(vip, record);
    }

    /// One message to each voter for all VIPs that are due or will be in a quarter of R, so that
    /// VIPs assigned at different times soon share their messages.
    fn renew(&mut self, now: Time) {
        let mut due: BTreeMap<NodeId, Vec<Renewal>> = BTreeMap::new();
        for (vip, held) in &mut self.held {
            let timing = self.timings.of(held.profile);
            if held.leaving.is_some() || held.renew_at > later(now, timing.renew_every_us / 4) {
                continue;
            }
            held.renew(&self.timings, now);
            let (vip, epoch, profile) = (*vip, held.epoch, held.profile);
            for voter in held.voters.everyone() {
                due.entry(voter).or_default().push(Renewal {
                    vip,
                    epoch,
                    profile,
                });
            }
        }
        for (to, renewals) in due {
            for batch in renewals.chunks(RENEWALS_PER_MESSAGE_MAX) {
                let message = Message::Renew {
                    life: self.life,
                    sent: now,
                    renewals: batch.to_vec(),
                };
                let to = to.clone();
                self.outputs.push_back(HolderOutput::Send { to, message });
            }
        }
    }

    fn leaving(&mut self, vip: VipId, epoch: Epoch) -> Option<&mut Leaving> {
        let held = self.held.get_mut(&vip)?;
        held.leaving.as_mut().filter(|_| held.epoch == epoch)
    }

    fn order(&mut self, vip: VipId, epoch: Epoch, lease_until_us: u64) {
        self.outputs.push_back(HolderOutput::Gate(GateOrder {
            vip,
            epoch,
            lease_until_us,
        }));
    }

    fn record(&mut self, vip: VipId, record: HolderRecord) {
        self.records.insert(vip, record);
        let write = HolderOutput::Persist { vip, record };
        self.outputs.push_back(write);
    }

    /// Keeps what deleted VIPs left behind within its limit.
    fn forget_gone(&mut self, agreed: &Assignments) {
        let gone: Vec<VipId> = (self.records.keys())
            .filter(|vip| !agreed.contains_key(vip))
            .copied()
            .collect();
        let surplus = gone.len().saturating_sub(RECORDS_OF_GONE_KEPT);
        for vip in gone.into_iter().take(surplus) {
            self.records.remove(&vip);
            self.outputs.push_back(HolderOutput::ForgetRecord { vip });
        }
    }
}

/// For tests of the tests, and for the exhaustive search.
#[cfg(feature = "model")]
impl Holder {
    /// Lets time pass by moving everything else into the past: the machine then behaves as it
    /// would have that much later. So the states of a machine stay finitely many.
    pub fn age(&mut self, us: u64) {
        use crate::agreed::earlier;
        for held in self.held.values_mut() {
            held.open = (std::mem::take(&mut held.open).into_iter())
                .map(|(sent, acks)| (earlier(sent, us), acks))
                .collect();
            held.renew_at = earlier(held.renew_at, us);
            held.lease_until = held.lease_until.map(|until| earlier(until, us));
            held.give_up_at = earlier(held.give_up_at, us);
            if let Report::At(at) | Report::Told(at) = &mut held.report {
                *at = earlier(*at, us);
            }
            if let Some(leaving) = &mut held.leaving {
                leaving.ask_at = earlier(leaving.ask_at, us);
            }
        }
    }

    /// Gives up whatever is waited for.
    pub fn give_up(&mut self) {
        for held in self.held.values_mut() {
            held.open.clear();
        }
    }

    /// Everyone whose acknowledgement is counted for a renewal that is waited for.
    pub fn counted(&self) -> BTreeSet<NodeId> {
        let open = self.held.values().flat_map(|held| held.open.values());
        open.flatten().cloned().collect()
    }

    /// The same machine where voters have other names.
    pub fn rename(&mut self, name: impl Fn(&NodeId) -> NodeId) {
        let renamed = |set: &BTreeSet<NodeId>| set.iter().map(&name).collect();
        for held in self.held.values_mut() {
            for acks in held.open.values_mut() {
                *acks = renamed(acks);
            }
            held.voters = match &held.voters {
                LeaseVoters::Stable(set) => LeaseVoters::Stable(renamed(set)),
                LeaseVoters::Joint { old, new } => LeaseVoters::Joint {
                    old: renamed(old),
                    new: renamed(new),
                },
            };
        }
    }

    /// Forgets what no longer makes a difference at `now`: overdue is overdue, past is past.
    pub fn settle(&mut self, now: Time) {
        for held in self.held.values_mut() {
            let lease_us = self.timings.of(held.profile).lease_us;
            held.open.retain(|sent, _| later(*sent, lease_us) > now);
            held.lease_until = held.lease_until.filter(|until| *until > now);
            let never = self.timings.patience_us(held.profile) == u64::MAX;
            (held.renew_at, held.give_up_at) = if never {
                (held.renew_at.max(now), Time::from_micros(u64::MAX))
            } else {
                // Whether it stood still makes a difference.
                let stood = self.timings.of(held.profile).renew_every_us + 1;
                let least = Time::from_micros(now.as_micros().saturating_sub(stood));
                (held.renew_at.max(least), held.give_up_at.max(now))
            };
            if let Report::At(at) | Report::Told(at) = &mut held.report {
                *at = (*at).max(now);
            }
            if let Some(leaving) = &mut held.leaving {
                leaving.ask_at = leaving.ask_at.max(now);
            }
        }
    }

    /// Plants a bug.
    #[cfg(feature = "planted-bugs")]
    pub const fn plant(&mut self, bug: PlantedBug) {
        self.planted.plant(bug);
    }
}

#[cfg(test)]
#[path = "holder_tests.rs"]
mod tests;
