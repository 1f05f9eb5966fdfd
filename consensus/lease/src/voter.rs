//! The side of a lease that promises: one per server, for all virtual IPs.
//!
//! Decides: which renewals are acknowledged, and when a close is answered. Never: counts anything
//! but its own promises; who has a majority is others' business.
//!
//! Invariants:
//! - A renewal is acknowledged only while the applied state names its sender, its epoch and this
//!   voter among that epoch's voters, and the epoch is not closed. From then on, for L(1+rho), no
//!   close of the VIP is answered.
//! - A close is answered only when its closure is durable, every promise for the VIP has run out,
//!   and this life of the daemon is older than the longest promise that a former life can have given
//!   for that VIP.
//! - A closure only rises. It says "this epoch and all below", so it stays true when the applied
//!   state falls behind in a restart and names an old epoch again.
//!
//! A renewal of an epoch that the applied state does not have yet waits for it a short while: the
//! next holder often learns of its epoch before its voters do. That is as if it had come later.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use consensus_core::{Epoch, LeaseProfile, LogIndex, NodeId, Time, VipId};

use crate::{
    Assignments, Granted, Life, Message, Renewal, Timings,
    agreed::later,
    planted::{Planted, PlantedBug},
};

/// Closures of deleted VIPs that are remembered, for a restart may bring back a state in which they
/// still existed. More than were deleted during any restart.
pub const CLOSURES_OF_GONE_KEPT: usize = 1024;

/// Coordinators that may wait for one answer: there are at most seven servers, and one joins while
/// one leaves.
const WAITING_MAX: usize = 8;

/// What a voter wants done.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VoterOutput {
    /// Send it; losing it is allowed.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Write durably that the VIP is closed through this epoch, then call
    /// [`Voter::handle_persisted`]. If it cannot be written, do not call.
    PersistClosure {
        /// The virtual IP.
        vip: VipId,
        /// This epoch and all below.
        through: Epoch,
    },
    /// The closure of a VIP that is long gone may be erased from the disk.
    ForgetClosure {
        /// The virtual IP.
        vip: VipId,
    },
    /// The holder was heard: for the coordinator beside this voter
    /// ([`Coordinator::handle_renewed`](crate::Coordinator::handle_renewed)).
    Renewed {
        /// The virtual IP.
        vip: VipId,
        /// The epoch it holds.
        epoch: Epoch,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Closure {
    through: Epoch,
    durable: Option<Epoch>,
    waiting: BTreeMap<NodeId, Epoch>,
}

/// What the applied state says of one VIP.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Known {
    holder: Option<NodeId>,
    epoch: Epoch,
    profile: LeaseProfile,
    /// Whether this voter is one of that epoch's.
    votes: bool,
}

/// A renewal that came before its epoch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Early {
    from: NodeId,
    life: Life,
    sent: Time,
    renewal: Renewal,
    /// The holder has sent the next one by then.
    until: Time,
}

/// One server's voter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Voter {
    me: NodeId,
    timings: Timings,
    planted: Planted,
    quarantined_until: Time,
    revision: LogIndex,
    agreed: BTreeMap<VipId, Known>,
    promised_until: BTreeMap<VipId, Time>,
    closures: BTreeMap<VipId, Closure>,
    /// At most one of each VIP that the applied state has.
    early: BTreeMap<VipId, Early>,
    outputs: VecDeque<VoterOutput>,
}

impl Voter {
    /// A voter that starts, or starts again: what it promised before is forgotten, what it closed
    /// is given here as the disk has it. It may acknowledge at once; it answers no close until the
    /// longest forgotten promise has run out.
    ///
    /// A server whose closures cannot be read must not run a voter under its old name.
    pub fn new(me: NodeId, timings: Timings, closed: BTreeMap<VipId, Epoch>, now: Time) -> Self {
        let closure = |through| Closure {
            through,
            durable: Some(through),
            waiting: BTreeMap::new(),
        };
        Self {
            me,
            timings,
            planted: Planted::new(),
            quarantined_until: later(now, timings.quarantine_us()),
            revision: LogIndex::default(),
            agreed: BTreeMap::new(),
            promised_until: BTreeMap::new(),
            closures: (closed.into_iter())
                .map(|(vip, through)| (vip, closure(through)))
                .collect(),
            early: BTreeMap::new(),
            outputs: VecDeque::new(),
        }
    }

    /// The state as this server has applied it; older revisions than the last are ignored.
    pub fn handle_assignments(&mut self, revision: LogIndex, agreed: &Assignments, now: Time) {
        if revision < self.revision {
            return;
        }
        self.revision = revision;
        self.agreed = (agreed.iter())
            .map(|(vip, one)| {
                let known = Known {
                    holder: one.holder.clone(),
                    epoch: one.epoch,
                    profile: one.profile,
                    votes: one.voters.everyone().contains(&self.me),
                };
                (*vip, known)
            })
            .collect();
        self.forget_gone();
        self.handle_timeout(now);
        for (vip, early) in std::mem::take(&mut self.early) {
            if self.is_early(&early.renewal) {
                self.early.insert(vip, early);
            } else {
                self.renew(&early.from, early.life, early.sent, &[early.renewal], now);
            }
        }
    }

    /// A message from another node, or from this one's own holder or coordinator. Only what is
    /// addressed to voters is looked at.
    pub fn handle_message(&mut self, from: &NodeId, message: &Message, now: Time) {
        match message {
            Message::Renew {
                life,
                sent,
                renewals,
            } => self.renew(from, *life, *sent, renewals, now),
            Message::Close { vip, epoch } => self.close(from, *vip, *epoch, now),
            Message::Ack { .. }
            | Message::Closed { .. }
            | Message::LetGo { .. }
            | Message::RestsOnJoint { .. } => {}
        }
    }

    /// The disk has the closure.
    pub fn handle_persisted(&mut self, vip: VipId, through: Epoch, now: Time) {
        if let Some(closure) = self.closures.get_mut(&vip) {
            closure.durable = closure.durable.max(Some(through));
        }
        self.answer(vip, now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.quarantined_until <= now {
            self.quarantined_until = Time::ZERO;
        }
        self.promised_until.retain(|_, until| *until > now);
        self.early.retain(|_, early| early.until > now);
        let waited_for: Vec<VipId> = (self.closures.iter())
            .filter(|(_, closure)| !closure.waiting.is_empty())
            .map(|(vip, _)| *vip)
            .collect();
        for vip in waited_for {
            self.answer(vip, now);
        }
    }

    /// When [`Voter::handle_timeout`] wants to be called: when a promise ends that keeps a
    /// coordinator waiting.
    pub fn poll_timeout(&self) -> Option<Time> {
        (self.closures.iter())
            .filter(|(_, closure)| closure.waiting.values().any(|epoch| closure.holds(*epoch)))
            .map(|(vip, _)| self.free_from(*vip))
            .min()
    }

    /// What is to be done next.
    pub fn poll_output(&mut self) -> Option<VoterOutput> {
        self.outputs.pop_front()
    }

    /// Whether the VIP is closed through this epoch, durably or not yet.
    pub fn is_closed(&self, vip: VipId, epoch: Epoch) -> bool {
        (self.closures.get(&vip)).is_some_and(|closure| closure.through >= epoch)
    }

    /// From when this voter is bound by no promise for the VIP; the past if it is free.
    pub fn free_from(&self, vip: VipId) -> Time {
        let promised = self.promised_until.get(&vip).copied().unwrap_or_default();
        if self.planted.has(PlantedBug::NoQuarantine) {
            return promised;
        }
        promised.max(self.quarantine(vip))
    }

    /// Until when a former life's promise for the VIP may run. A VIP's profile never changes, so
    /// none lasts longer than its own; what is not known may have had the longest.
    fn quarantine(&self, vip: VipId) -> Time {
        let profile = self.agreed.get(&vip).map(|known| known.profile);
        let shorter = profile.map_or(0, |profile| {
            self.timings.quarantine_us() - self.timings.of(profile).promise_us()
        });
        Time::from_micros(self.quarantined_until.as_micros().saturating_sub(shorter))
    }

    fn renew(&mut self, from: &NodeId, life: Life, sent: Time, renewals: &[Renewal], now: Time) {
        let mut granted = Vec::new();
        for renewal in renewals {
            let timing = self.timings.of(renewal.profile);
            if !self.grants(from, renewal) {
                if self.is_early(renewal) {
                    let early = Early {
                        from: from.clone(),
                        life,
                        sent,
                        renewal: *renewal,
                        until: later(now, timing.renew_every_us),
                    };
                    self.early.insert(renewal.vip, early);
                }
                continue;
            }
            let lasts = if self.planted.has(PlantedBug::NoDriftMargin) {
                timing.lease_us
            } else {
                timing.promise_us()
            };
            let until = self.promised_until.entry(renewal.vip).or_default();
            *until = later(now, lasts).max(*until);
            let (vip, epoch) = (renewal.vip, renewal.epoch);
            granted.push(Granted { vip, epoch });
            self.outputs.push_back(VoterOutput::Renewed { vip, epoch });
        }
        if !granted.is_empty() {
            self.outputs.push_back(VoterOutput::Send {
                to: from.clone(),
                message: Message::Ack {
                    life,
                    sent,
                    granted,
                },
            });
        }
    }

    /// Whether the applied state may yet come to name this epoch.
    fn is_early(&self, renewal: &Renewal) -> bool {
        (self.agreed.get(&renewal.vip)).is_some_and(|known| known.epoch < renewal.epoch)
    }

    fn grants(&self, from: &NodeId, renewal: &Renewal) -> bool {
        let Some(Known {
            holder,
            epoch,
            profile,
            votes,
        }) = self.agreed.get(&renewal.vip)
        else {
            return false;
        };
        if self.planted.has(PlantedBug::EpochIgnored) {
            return !self.is_closed(renewal.vip, *epoch);
        }
        let closed = self.is_closed(renewal.vip, renewal.epoch)
            && !self.planted.has(PlantedBug::AckAfterClose);
        let same = *epoch == renewal.epoch && *profile == renewal.profile;
        *votes && holder.as_ref() == Some(from) && same && !closed
    }

    /// Stops acknowledging at once. What the applied state does not know yet is not closed: the
    /// coordinator asks again, and no one can fill this voter's disk or bar epochs to come. Nor is
    /// what this voter has no say in.
    fn close(&mut self, from: &NodeId, vip: VipId, epoch: Epoch, now: Time) {
        let known = self.agreed.get(&vip);
        if !known.is_some_and(|known| known.votes && epoch <= known.epoch) {
            return;
        }
        let closure = self.closures.entry(vip).or_insert_with(|| Closure {
            through: Epoch::default(),
            durable: None,
            waiting: BTreeMap::new(),
        });
        if closure.waiting.len() < WAITING_MAX || closure.waiting.contains_key(from) {
            closure.waiting.insert(from.clone(), epoch);
        }
        if closure.through < epoch {
            closure.through = epoch;
        }
        // Asked for again with each repetition: a write that failed is so tried anew.
        if !closure.holds(epoch) {
            let through = closure.through;
            let write = VoterOutput::PersistClosure { vip, through };
            self.outputs.push_back(write);
        }
        self.answer(vip, now);
    }

    fn answer(&mut self, vip: VipId, now: Time) {
        if self.free_from(vip) > now {
            return;
        }
        let Some(closure) = self.closures.get_mut(&vip) else {
            return;
        };
        let undurable = self.planted.has(PlantedBug::ClosureNotDurable);
        let ready: Vec<(NodeId, Epoch)> = (closure.waiting.iter())
            .filter(|(_, epoch)| undurable || closure.holds(**epoch))
            .map(|(to, epoch)| (to.clone(), *epoch))
            .collect();
        for (to, epoch) in ready {
            closure.waiting.remove(&to);
            let message = Message::Closed { vip, epoch };
            self.outputs.push_back(VoterOutput::Send { to, message });
        }
    }

    /// Keeps what deleted VIPs left behind within its limit.
    fn forget_gone(&mut self) {
        let gone: BTreeSet<VipId> = (self.closures.keys())
            .filter(|vip| !self.agreed.contains_key(vip))
            .copied()
            .collect();
        let surplus = gone.len().saturating_sub(CLOSURES_OF_GONE_KEPT);
        for vip in gone.into_iter().take(surplus) {
            self.closures.remove(&vip);
            self.outputs.push_back(VoterOutput::ForgetClosure { vip });
        }
    }
}

impl Closure {
    /// Whether the disk has the closure of this epoch.
    fn holds(&self, epoch: Epoch) -> bool {
        self.durable.is_some_and(|durable| durable >= epoch)
    }
}

/// For tests of the tests, and for the exhaustive search.
#[cfg(feature = "model")]
impl Voter {
    /// Lets time pass by moving everything else into the past: the machine then behaves as it
    /// would have that much later. So the states of a machine stay finitely many.
    pub fn age(&mut self, us: u64) {
        use crate::agreed::earlier;
        self.quarantined_until = earlier(self.quarantined_until, us);
        for until in self.promised_until.values_mut() {
            *until = earlier(*until, us);
        }
        for early in self.early.values_mut() {
            early.until = earlier(early.until, us);
        }
    }

    /// Forgets a quarantine that a promise outlasts: whatever waits for one waits for the other.
    pub fn settle(&mut self) {
        let outlasted = |vip: &VipId| {
            (self.promised_until.get(vip)).is_some_and(|until| *until >= self.quarantined_until)
        };
        if self.agreed.keys().all(outlasted) {
            self.quarantined_until = Time::ZERO;
        }
    }

    /// Plants a bug.
    #[cfg(feature = "planted-bugs")]
    pub const fn plant(&mut self, bug: PlantedBug) {
        self.planted.plant(bug);
    }
}

#[cfg(test)]
#[path = "voter_tests.rs"]
mod tests;
