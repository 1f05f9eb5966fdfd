//! What the gate of one address may do next.
//!
//! Decides: whether the latest order permits to arm, open, refresh; when to close; which epochs are
//! over. Never: talks to a kernel, reads a clock.
//!
//! Invariants:
//! - No opening or refresh is begun that could end outside the lease (`life`): what is replaced ends
//!   at a time that is known from when the kernel had acknowledged it.
//! - An opening follows an arm, and the clock is read for its check after the arm was written.
//! - No epoch below the highest that was opened is opened, and none that was released.
//! - What was found lapsed is opened again only by a lease renewed since.

use crate::{
    life,
    order::{GateKind, GateOrder},
};

/// Refreshes in the life of an element: three may be late before it dies.
const REFRESHES_PER_LIFE: u64 = 4;
/// What the kernel says of an element's remaining life is rounded down: by a tick where there are 100
/// a second.
const ROUNDED_US: u64 = 10_000;
/// Arms in a row that took too long to be used, before that is said: one is a busy moment.
const VAIN_ARMS_TOLD: u8 = 2;

/// Why an address was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClosedWhy {
    /// It was asked for.
    Released,
    /// The lease was not renewed, and the kernel closed the gate by itself.
    LeaseEnded,
    /// The kernel had closed the gate by itself when this thread came to refresh it, though the
    /// lease went on: the thread stood still too long.
    Late,
    /// The kernel's answer came so late that the element could outlive the lease; it was deleted.
    Overdue,
    /// Somebody removed the gate's rules; they were put back.
    RulesRemoved,
    /// The kernel refused to give the address another lifetime until there was nothing left of the last.
    AddressLost,
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Make one opening possible, within this time.
    Arm { epoch: u64, life_us: u64 },
    /// Consume the arm and let packets through for so long; `previous` is the epoch whose element
    /// makes room.
    Open {
        epoch: u64,
        life_us: u64,
        previous: Option<u64>,
    },
    /// Let packets through for another life.
    Refresh { epoch: u64, life_us: u64 },
    /// Stop letting packets through.
    Close { epoch: u64, why: ClosedWhy },
    /// The kernel has closed it by itself; nothing to send.
    Lapse { epoch: u64, why: ClosedWhy },
    /// Nothing, until then; without a time, until an order comes.
    Wait { until_us: Option<u64> },
}

/// What is known of the kernel's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passage {
    Closed,
    Open {
        epoch: u64,
        written_us: u64,
        dead_by_us: u64,
    },
}

/// The gate of one address.
#[derive(Debug, Clone)]
pub(crate) struct Decision {
    kind: GateKind,
    order: Option<GateOrder>,
    passage: Passage,
    /// The highest epoch that was opened here.
    highest: u64,
    /// Epochs up to this one were given up for good.
    released: u64,
    /// The lease that was known when the gate was found shut; only a later one opens again.
    stale_lease_us: u64,
    /// Asked to close what is open.
    closing: bool,
    /// When the last arm has expired, at the latest.
    armed_until_us: u64,
    /// An earlier process may have left arms, of whole lives.
    arms_unknown: bool,
    /// Arms since the last opening that took so long that too little of the lease was left.
    vain_arms: u8,
}

impl Decision {
    /// An address that is closed; `highest` and `released` are what the kernel remembers.
    pub(crate) fn new(kind: GateKind, highest: u64, released: u64) -> Self {
        Self {
            kind,
            order: None,
            passage: Passage::Closed,
            highest,
            released,
            stale_lease_us: 0,
            closing: false,
            armed_until_us: 0,
            arms_unknown: false,
            vain_arms: 0,
        }
    }

    /// An address that an earlier process guarded; `highest` and `released` are what the kernel
    /// remembers.
    pub(crate) fn inherited(kind: GateKind, highest: u64, released: u64) -> Self {
        Self {
            arms_unknown: true,
            ..Self::new(kind, highest, released)
        }
    }

    /// Takes over an element that an earlier process wrote.
    pub(crate) fn adopt(&mut self, epoch: u64, now_us: u64, left_us: u64) {
        self.highest = self.highest.max(epoch);
        self.passage = Passage::Open {
            epoch,
            // Due for a refresh as soon as an order permits one.
            written_us: 0,
            dead_by_us: now_us.saturating_add(left_us).saturating_add(ROUNDED_US),
        };
    }

    /// The latest order; older epochs than were opened or released here are refused with the
    /// lowest that would do.
    pub(crate) fn command(&mut self, order: GateOrder) -> Result<(), u64> {
        let lowest = self.highest.max(self.released.saturating_add(1));
        if order.epoch < lowest {
            return Err(lowest);
        }
        self.order = Some(order);
        Ok(())
    }

    /// Gives up `epoch` and all before it for good.
    pub(crate) fn release(&mut self, epoch: u64) {
        self.released = self.released.max(epoch);
        if self
            .order
            .as_ref()
            .is_some_and(|order| order.epoch <= epoch)
        {
            self.order = None;
        }
        self.closing |= self.open_epoch().is_some_and(|open| open <= epoch);
    }

    /// The epoch that is open as far as is known.
    pub(crate) fn open_epoch(&self) -> Option<u64> {
        match self.passage {
            Passage::Open { epoch, .. } => Some(epoch),
            Passage::Closed => None,
        }
    }

    /// The order in force.
    pub(crate) fn order(&self) -> Option<&GateOrder> {
        self.order.as_ref()
    }

    /// The highest epoch opened here, and whether it was given up.
    pub(crate) fn memory(&self) -> (u64, bool) {
        (
            self.highest.max(self.released),
            self.released >= self.highest && self.released > 0,
        )
    }

    /// When the kernel stops letting packets through, at the latest.
    pub(crate) fn dead_by_us(&self) -> Option<u64> {
        match self.passage {
            Passage::Open { dead_by_us, .. } => Some(dead_by_us),
            Passage::Closed => None,
        }
    }

    /// What to do at `now_us`.
    pub(crate) fn next(&self, now_us: u64) -> Step {
        match self.passage {
            Passage::Open {
                epoch,
                written_us,
                dead_by_us,
            } => self.next_open(now_us, epoch, written_us, dead_by_us),
            Passage::Closed => self.next_closed(now_us),
        }
    }

    fn next_open(&self, now_us: u64, epoch: u64, written_us: u64, dead_by_us: u64) -> Step {
        if self.closing {
            return Step::Close {
                epoch,
                why: ClosedWhy::Released,
            };
        }
        let Some(order) = &self.order else {
            return self.await_end(now_us, epoch, dead_by_us);
        };
        if order.epoch > epoch {
            // The next epoch's opening takes the place of this one's element.
            let arm = self.arm(order, now_us);
            return arm.unwrap_or_else(|| self.await_end(now_us, epoch, dead_by_us));
        }
        let life = life::of_element(self.kind, order, dead_by_us, now_us);
        let Some(life_us) = life.filter(|_| now_us < dead_by_us) else {
            return self.await_end(now_us, epoch, dead_by_us);
        };
        let whole = self.kind.life_us(&order.timing);
        let due = match self.kind {
            // What is left of the lease is used up late: the next one may come before.
            GateKind::Nftables if life_us < whole => {
                dead_by_us.saturating_sub(whole / REFRESHES_PER_LIFE)
            }
            GateKind::Nftables | GateKind::AddressLifetime => {
                written_us.saturating_add(whole / REFRESHES_PER_LIFE)
            }
            GateKind::Ebpf if order.deadline_us() > dead_by_us => now_us,
            GateKind::Ebpf => dead_by_us,
        };
        if now_us >= due {
            Step::Refresh { epoch, life_us }
        } else {
            Step::Wait {
                until_us: Some(due),
            }
        }
    }

    fn await_end(&self, now_us: u64, epoch: u64, dead_by_us: u64) -> Step {
        if now_us < dead_by_us {
            return Step::Wait {
                until_us: Some(dead_by_us),
            };
        }
        let enough = |order: &GateOrder| life::of_arm(self.kind, order, now_us).is_some();
        let why = if self.order.as_ref().is_some_and(enough) {
            ClosedWhy::Late
        } else {
            ClosedWhy::LeaseEnded
        };
        Step::Lapse { epoch, why }
    }

    fn next_closed(&self, now_us: u64) -> Step {
        let order = self.order.as_ref().filter(|order| {
            order.epoch > self.released && order.lease_until_us > self.stale_lease_us
        });
        let arm = order.and_then(|order| self.arm(order, now_us));
        arm.unwrap_or(Step::Wait { until_us: None })
    }

    /// The arm to begin with, if there is room for an element after it and after one that is there
    /// already. What was armed in vain is so not armed again before a later lease.
    fn arm(&self, order: &GateOrder, now_us: u64) -> Option<Step> {
        let life_us = life::of_arm(self.kind, order, now_us)?;
        let ends_us = self.armed_until_us.max(now_us.saturating_add(life_us));
        life::of_element(self.kind, order, ends_us, now_us)?;
        Some(Step::Arm {
            epoch: order.epoch,
            life_us,
        })
    }

    /// Whether the order's lease is too short to open anything with.
    pub(crate) fn is_too_short(&self, now_us: u64) -> bool {
        self.order.as_ref().is_some_and(|order| {
            order.lease_until_us > now_us && life::of_arm(self.kind, order, now_us).is_none()
        })
    }

    /// An arm was written that lives for `life_us`. Says whether to open with what is left at
    /// `now_us`, a later look at the clock than the one that led to the arm.
    pub(crate) fn armed(&mut self, epoch: u64, life_us: u64, now_us: u64) -> Step {
        self.note_arm(life_us, now_us);
        let ends_us = self.armed_until_us;
        let order = self.order.as_ref().filter(|order| order.epoch == epoch);
        let life = order.map(|order| life::of_element(self.kind, order, ends_us, now_us));
        match life {
            Some(Some(life_us)) => {
                return Step::Open {
                    epoch,
                    life_us,
                    previous: self.open_epoch(),
                };
            }
            Some(None) => self.vain_arms = self.vain_arms.saturating_add(1),
            None => {}
        }
        // The arm dies by itself, and the next opening writes another.
        Step::Wait {
            until_us: self.dead_by_us(),
        }
    }

    /// An arm that lives for `life_us` may have been written by `now_us`. One that was there already
    /// may keep its own end.
    pub(crate) fn note_arm(&mut self, life_us: u64, now_us: u64) {
        let whole = self.order.as_ref().map_or(0, |order| order.timing.gate_us);
        let longest = if std::mem::take(&mut self.arms_unknown) {
            life_us.max(whole)
        } else {
            life_us
        };
        let ends_us = now_us.saturating_add(longest);
        self.armed_until_us = self.armed_until_us.max(ends_us);
    }

    /// Whether this host takes too long, again and again, to open within its leases.
    pub(crate) fn arms_in_vain(&self) -> bool {
        self.vain_arms >= VAIN_ARMS_TOLD
    }

    /// An opening or a refresh for `life_us` that began at `began_us` was acknowledged by `acked_us`.
    /// Says whether it came so late that the gate must be closed.
    #[must_use]
    pub(crate) fn opened(
        &mut self,
        epoch: u64,
        life_us: u64,
        began_us: u64,
        acked_us: u64,
    ) -> Option<Step> {
        let (dead_by_us, lease_until) = self.order.as_ref().map_or((acked_us, 0), |order| {
            let dead_by_us = match self.kind {
                GateKind::Nftables | GateKind::AddressLifetime => acked_us.saturating_add(life_us),
                GateKind::Ebpf => order.deadline_us(),
            };
            (dead_by_us, order.lease_until_us)
        });
        self.vain_arms = 0;
        self.highest = self.highest.max(epoch);
        self.passage = Passage::Open {
            epoch,
            written_us: began_us,
            dead_by_us,
        };
        let overdue = dead_by_us > lease_until;
        overdue.then_some(Step::Close {
            epoch,
            why: ClosedWhy::Overdue,
        })
    }

    /// The kernel said neither that it has refreshed what is open for `life_us` nor that it could
    /// not: it may live on that long from `now_us`.
    pub(crate) fn doubt(&mut self, life_us: u64, now_us: u64) {
        if let Passage::Open { dead_by_us, .. } = &mut self.passage
            && self.kind == GateKind::Nftables
        {
            *dead_by_us = (*dead_by_us).max(now_us.saturating_add(life_us));
        }
    }

    /// The gate is shut, for a reason of ours or of the kernel's.
    pub(crate) fn closed(&mut self, why: ClosedWhy) {
        self.passage = Passage::Closed;
        self.closing = false;
        if why != ClosedWhy::RulesRemoved {
            let known = self.order.as_ref().map(|order| order.lease_until_us);
            self.stale_lease_us = self.stale_lease_us.max(known.unwrap_or_default());
        }
    }
}

#[cfg(test)]
#[path = "decision_tests.rs"]
mod tests;
