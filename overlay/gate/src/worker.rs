//! The gate's thread.
//!
//! Decides: when it wakes, and in which order addresses are served. What is allowed, `decision`
//! says. Never: waits for anything but its mailbox, the kernel's notifications and the time.

mod letters;
mod vip;

use std::{
    collections::BTreeMap,
    net::Ipv6Addr,
    sync::{Arc, mpsc::SyncSender},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::AsFd as _,
    io::Errno,
    time::{ClockId, clock_gettime},
};
use tokio::sync::{mpsc, watch};

use self::vip::Vip;
use crate::{
    advertisement,
    decision::{ClosedWhy, Decision, Step},
    events::{GateEvent, GateStatus, RefusedWhy},
    mailbox::{ADDRESSES_MAX, Mail, Mailbox},
    nftables::Table,
    order::{ADDRESS_RENEWED_EVERY_US, ADDRESS_SURE_US, GateKind, GateOrder},
    passage::{Kernel, StepError},
    priority::{self, Priority},
};

/// After which what the kernel refused is tried again.
const RETRY_US: u64 = 10_000;
/// After which a mailbox that was being written to is looked into again.
const BUSY_US: u64 = 1_000;
/// Steps for one address before the next has its turn: close, arm, open and one to spare.
const STEPS_MAX: u8 = 4;

/// Microseconds of `CLOCK_BOOTTIME`, the clock of [`GateOrder::lease_until_us`].
pub fn now_us() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let part = |number: i64| u64::try_from(number).unwrap_or_default();
    part(now.tv_sec) * 1_000_000 + part(now.tv_nsec) / 1_000
}

/// What the thread owns.
pub(crate) struct Worker {
    pub(crate) kernel: Kernel,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) events: mpsc::Sender<GateEvent>,
    pub(crate) status: watch::Sender<BTreeMap<Ipv6Addr, GateStatus>>,
    kind: GateKind,
    vips: BTreeMap<Ipv6Addr, Vip>,
    changed: bool,
    /// The rules are gone and could not be put back yet.
    unguarded: bool,
}

impl Worker {
    /// Takes over what lives in the kernel.
    pub(crate) fn adopt(
        mut kernel: Kernel,
        mailbox: Arc<Mailbox>,
        events: mpsc::Sender<GateEvent>,
        status: watch::Sender<BTreeMap<Ipv6Addr, GateStatus>>,
    ) -> Result<Self, Errno> {
        let kind = kernel.kind();
        let (guarded, living) = kernel.inherited()?;
        let now = now_us();
        let mut vips = BTreeMap::new();
        for found in guarded.into_iter().take(ADDRESSES_MAX) {
            let released = if found.released { found.epoch } else { 0 };
            let mut vip = Vip::new(Decision::inherited(kind, found.epoch, released), now);
            vip.guarded = true;
            if let Some(it) = living.iter().find(|it| it.address == found.address) {
                vip.decision.adopt(it.epoch, now, it.left_us);
            }
            vips.insert(found.address, vip);
        }
        Ok(Self {
            kernel,
            mailbox,
            events,
            status,
            kind,
            vips,
            changed: true,
            unguarded: false,
        })
    }

    /// Works until the gate is dropped. What is open then dies by itself.
    pub(crate) fn run(mut self, lock_memory: bool, granted: &SyncSender<Priority>) {
        // Whoever started the gate may have gone already.
        let _ = granted.send(priority::claim(lock_memory));
        loop {
            let mut wake = None;
            match self.mailbox.take() {
                Mail::Stop => return,
                Mail::Busy => wake = Some(now_us() + BUSY_US),
                Mail::Letters(letters) => {
                    for (address, letter) in letters {
                        self.deliver(address, letter);
                    }
                }
            }
            self.look_after_rules();
            if self.unguarded {
                wake = earliest(wake, Some(now_us() + RETRY_US));
            }
            let addresses: Vec<_> = self.vips.keys().copied().collect();
            for address in addresses {
                wake = earliest(wake, self.advance(address));
            }
            self.publish();
            self.wait(wake);
        }
    }

    /// Does what is due for one address; says when it wants to be looked at again.
    fn advance(&mut self, address: Ipv6Addr) -> Option<u64> {
        for _ in 0..STEPS_MAX {
            let now = now_us();
            let vip = self.vips.get_mut(&address)?;
            if !vip.guarded && now >= vip.retry_us {
                // Complained about there, and tried again after a pause.
                let _ = self.guard(address);
            }
            let vip = self.vips.get_mut(&address)?;
            if !vip.guarded {
                return Some(vip.retry_us);
            }
            let step = vip.decision.next(now);
            if let Step::Wait { until_us } = step {
                return earliest(until_us, self.renew_address(address, now));
            }
            if now < vip.retry_us {
                return Some(vip.retry_us);
            }
            self.perform(address, step, now);
        }
        Some(now_us())
    }

    fn perform(&mut self, address: Ipv6Addr, step: Step, now: u64) {
        let Some(order) = self
            .vips
            .get(&address)
            .map(|vip| vip.decision.order().cloned())
        else {
            return;
        };
        match (step, order) {
            (Step::Arm { epoch, life_us }, Some(order)) => {
                let done = self.arm(&order, life_us);
                self.judge(address, epoch, done);
            }
            (
                Step::Open {
                    epoch,
                    life_us,
                    previous,
                },
                Some(order),
            ) => {
                let done = self.open(&order, previous, life_us, now);
                self.judge(address, epoch, done);
            }
            (Step::Refresh { epoch, life_us }, Some(order)) => {
                let done = self.refresh(&order, life_us, now);
                self.judge(address, epoch, done);
            }
            (Step::Close { epoch, why } | Step::Lapse { epoch, why }, _) => {
                if let Err(errno) = self.shut(address, epoch, why) {
                    self.judge(address, epoch, Err(StepError::Kernel(errno)));
                }
            }
            (Step::Arm { .. } | Step::Open { .. } | Step::Refresh { .. }, None)
            | (Step::Wait { .. }, _) => {}
        }
    }

    fn arm(&mut self, order: &GateOrder, life_us: u64) -> Result<(), StepError> {
        let address = order.address;
        let Some(vip) = self.vips.get_mut(&address) else {
            return Ok(());
        };
        if vip
            .interface
            .as_ref()
            .is_some_and(|interface| *interface != order.interface)
        {
            self.kernel.addresses().take_everywhere(&[address])?;
        }
        vip.interface = Some(order.interface.clone());
        let open = vip.decision.open_epoch().is_some();
        let guarded = vip.remembered(address);
        let written = self.kernel.arm(order, &guarded, open, life_us);
        // The clock that counts for the check is read after the arm was written.
        let now = now_us();
        if written.is_err() {
            vip.decision.note_arm(life_us, now);
        }
        written?;
        (vip.address_put_us, vip.address_given_us) = (now, now);
        if let Step::Open {
            previous, life_us, ..
        } = vip.decision.armed(order.epoch, life_us, now)
        {
            return self.open(order, previous, life_us, now);
        }
        if vip.decision.arms_in_vain() {
            self.complain(address, order.epoch, RefusedWhy::TooSlow);
        }
        Ok(())
    }

    fn open(
        &mut self,
        order: &GateOrder,
        previous: Option<u64>,
        life_us: u64,
        now: u64,
    ) -> Result<(), StepError> {
        self.kernel.open(order, previous, life_us)?;
        let opened_us = self.opened(order, life_us, now);
        let held = self
            .vips
            .get(&order.address)
            .map(|vip| vip.decision.open_epoch());
        if held != Some(Some(order.epoch)) {
            return Ok(());
        }
        let neighbours = self.kernel.addresses().hardware(&order.interface);
        if let Some(vip) = self.vips.get_mut(&order.address) {
            vip.since_us = opened_us;
            vip.complaint = None;
            vip.neighbours = neighbours;
            vip.advertisements_left = advertisement::TIMES;
            vip.advertise(order.address);
        }
        self.changed = true;
        self.tell(GateEvent::Opened {
            address: order.address,
            epoch: order.epoch,
            at_us: opened_us,
        });
        Ok(())
    }

    fn refresh(&mut self, order: &GateOrder, life_us: u64, now: u64) -> Result<(), StepError> {
        let done = self.kernel.refresh(order, life_us);
        if done.is_ok() {
            self.opened(order, life_us, now);
        } else if let Some(vip) = self.vips.get_mut(&order.address) {
            vip.decision.doubt(life_us, now_us());
        }
        done
    }

    /// The kernel has acknowledged an element for `life_us` that was asked for at `began`.
    fn opened(&mut self, order: &GateOrder, life_us: u64, began: u64) -> u64 {
        let acked = now_us();
        let vip = self.vips.get_mut(&order.address);
        let overdue = vip.and_then(|vip| vip.decision.opened(order.epoch, life_us, began, acked));
        if let Some(Step::Close { epoch, why }) = overdue
            && let Err(errno) = self.shut(order.address, epoch, why)
        {
            self.complain(order.address, epoch, RefusedWhy::Kernel(errno));
        }
        acked
    }

    /// Draws the conclusion from what the kernel said to a step.
    fn judge(&mut self, address: Ipv6Addr, epoch: u64, done: Result<(), StepError>) {
        let Err(error) = done else {
            return;
        };
        self.delay(address);
        if !matches!(error, StepError::Over) {
            self.complain(address, epoch, refused(error));
        } else if self.rules_are_gone() {
            self.restore_rules();
        } else if let Err(errno) = self.shut(address, epoch, ClosedWhy::Late) {
            self.complain(address, epoch, RefusedWhy::Kernel(errno));
        }
    }

    /// Leaves an address alone for a moment, whatever is due: this thread comes before all others.
    fn delay(&mut self, address: Ipv6Addr) {
        if let Some(vip) = self.vips.get_mut(&address) {
            vip.retry_us = now_us() + RETRY_US;
        }
    }

    /// Closes at once and takes the address away; says when that was done.
    fn shut(&mut self, address: Ipv6Addr, epoch: u64, why: ClosedWhy) -> Result<u64, Errno> {
        let Some(vip) = self.vips.get_mut(&address) else {
            return Ok(now_us());
        };
        let guarded = vip.remembered(address);
        let was_open = vip.decision.open_epoch().is_some();
        let closed = self.kernel.close(&guarded, vip.interface.as_deref());
        let at_us = now_us();
        // Overdue and released gates stay in mind until the kernel has closed them.
        closed?;
        vip.decision.closed(why);
        // What keeps it from opening again is told, though it was told before.
        vip.complaint = None;
        vip.since_us = at_us;
        vip.address_put_us = 0;
        self.changed = true;
        if was_open {
            self.tell(GateEvent::Closed {
                address,
                epoch,
                at_us,
                why,
            });
        }
        Ok(at_us)
    }

    /// Gives an open address another lifetime when it is due. One that nobody can reach any more,
    /// because the kernel refused for so long, is not held.
    fn renew_address(&mut self, address: Ipv6Addr, now: u64) -> Option<u64> {
        let vip = self.vips.get_mut(&address)?;
        vip.decision.open_epoch()?;
        let order = vip.decision.order()?;
        if self.kind == GateKind::AddressLifetime {
            return None;
        }
        let due = vip.address_put_us.saturating_add(ADDRESS_RENEWED_EVERY_US);
        if now < due {
            return Some(due);
        }
        let (epoch, interface) = (order.epoch, order.interface.clone());
        vip.interface = Some(interface.clone());
        vip.address_put_us = now;
        let put = self.kernel.renew_address(&interface, address);
        vip.advertise(address);
        let Err(error) = put else {
            vip.address_given_us = now;
            return Some(now + ADDRESS_RENEWED_EVERY_US);
        };
        let gone = now.saturating_sub(vip.address_given_us) >= ADDRESS_SURE_US;
        self.complain(address, epoch, refused(error));
        if gone && let Err(errno) = self.shut(address, epoch, ClosedWhy::AddressLost) {
            self.complain(address, epoch, RefusedWhy::Kernel(errno));
        }
        Some(now + ADDRESS_RENEWED_EVERY_US)
    }

    /// Puts the rules back if somebody has removed them.
    fn look_after_rules(&mut self) {
        let heard = self.kernel.table().is_some_and(Table::hear);
        if self.unguarded || (heard && self.rules_are_gone()) {
            self.restore_rules();
        }
    }

    fn rules_are_gone(&mut self) -> bool {
        self.kernel
            .table()
            .is_some_and(|table| !matches!(table.stands(), Ok(true)))
    }

    fn restore_rules(&mut self) {
        let Some(table) = self.kernel.table() else {
            return;
        };
        let all: Vec<_> = self
            .vips
            .iter()
            .map(|(it, vip)| vip.remembered(*it))
            .collect();
        let restored = table.restore(&all).and_then(|()| table.living());
        let at_us = now_us();
        let living = match restored {
            Ok(living) => living,
            Err(errno) => {
                if !std::mem::replace(&mut self.unguarded, true) {
                    self.tell(GateEvent::RulesMissing { at_us, errno });
                }
                return;
            }
        };
        self.unguarded = false;
        self.tell(GateEvent::RulesRestored { at_us });
        let mut closed = Vec::new();
        for (address, vip) in &mut self.vips {
            vip.guarded = true;
            let Some(epoch) = vip.decision.open_epoch() else {
                continue;
            };
            if !living.iter().any(|it| it.address == *address) {
                let why = ClosedWhy::RulesRemoved;
                vip.decision.closed(why);
                vip.since_us = at_us;
                closed.push(GateEvent::Closed {
                    address: *address,
                    epoch,
                    at_us,
                    why,
                });
            }
        }
        self.changed = true;
        closed.into_iter().for_each(|event| self.tell(event));
    }

    fn complain(&mut self, address: Ipv6Addr, epoch: u64, why: RefusedWhy) {
        let complaint = Some((epoch, why.code()));
        if let Some(vip) = self.vips.get_mut(&address) {
            if vip.complaint == complaint {
                return;
            }
            vip.complaint = complaint;
        }
        let at_us = now_us();
        self.tell(GateEvent::Refused {
            address,
            epoch,
            at_us,
            why,
        });
    }

    /// Whoever takes it logs it: this thread waits for no reader of a log.
    fn tell(&self, event: GateEvent) {
        if self.events.try_send(event).is_err() {
            // The status says how things are; only how they came about is lost.
            tracing::warn!("nobody takes the gate's events");
        }
    }

    fn publish(&mut self) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let all = self
            .vips
            .iter()
            .map(|(address, vip)| (*address, vip.status()));
        self.status.send_replace(all.collect());
    }

    fn wait(&self, until_us: Option<u64>) {
        let left = until_us.map(|until| Duration::from_micros(until.saturating_sub(now_us())));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let bell = PollFd::from_borrowed_fd(self.mailbox.bell(), PollFlags::IN);
        let listener = self.kernel.watched().and_then(|table| table.listener());
        // Interrupted or not, the next round looks at everything.
        let _ = match listener {
            Some(listener) => {
                let heard = PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN);
                poll(&mut [bell, heard], timeout.as_ref())
            }
            None => poll(&mut [bell], timeout.as_ref()),
        };
    }
}

impl Drop for Worker {
    /// However the thread ends, nobody waits for it in vain.
    fn drop(&mut self) {
        self.mailbox.end();
    }
}

fn refused(error: StepError) -> RefusedWhy {
    match error {
        StepError::Over => RefusedWhy::Kernel(Errno::NOENT),
        StepError::Address(error) => RefusedWhy::Address(error),
        StepError::Kernel(errno) => RefusedWhy::Kernel(errno),
    }
}

fn earliest(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, None) => one,
        (None, other) => other,
    }
}
