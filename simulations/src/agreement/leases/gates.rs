//! The kernels' gates of all hosts, and the thread of a daemon that drives its own.
//!
//! Decides: when an element ends in true time, and when the thread looks at the kernel, as
//! `overlay_gate`'s does: four times in the life of an element. Whether a refresh is allowed the lease's
//! own rule decides ([`GateRule`]), before the transaction, with the clock read after an element was
//! seen to live.
//!
//! Invariants: elements outlive the process that wrote them and its standstills, not the power of their
//! host; a process may stand still between any two steps of its thread.

use std::{collections::BTreeMap, time::Duration};

use consensus_core::{Epoch, LeaseProfile, Time, VipId};
use consensus_lease::{GateOrder, GateRule};
use rand::Rng;
use simulated_raft::simulation::clock;
use tokio::sync::mpsc;

use super::{Event, host::BootClock};
use crate::{
    agreement::{
        gate::KernelGate,
        world::{State, World},
    },
    random::{Span, as_micros},
};

/// Refreshes in the life of an element, as in `overlay_gate`.
const REFRESHES_PER_LIFE: u64 = 4;
/// An element may outlive its timeout by two ticks of a kernel at 250 Hz.
const LATE: Span = Span::micros(0, 8_000);
/// A message to the kernel and its answer, on a host that is not busy.
const NETLINK: Span = Span::micros(20, 150);
/// One in so many takes longer, because another thread runs first.
const BUSY_ONE_IN: u32 = 24;
/// So long it takes then.
const BUSY: Span = Span::micros(150, 12_000);
/// A million: what a right clock counts in a second.
const MILLION: u64 = 1_000_000;

/// The gates of all kernels.
#[derive(Debug, Default)]
pub(crate) struct Gates {
    all: BTreeMap<(usize, VipId), Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    kernel: KernelGate,
    epoch: Epoch,
}

impl Gates {
    /// The epoch whose element lets traffic through.
    pub(crate) fn open_epoch(&self, now_us: u64, server: usize, vip: VipId) -> Option<Epoch> {
        let gate = self.all.get(&(server, vip))?;
        gate.kernel.is_open(now_us).then_some(gate.epoch)
    }

    /// Somebody whose gate of this virtual IP is open.
    pub(crate) fn open_at(&self, now_us: u64, vip: VipId) -> Option<usize> {
        let mut open = self.all.iter();
        open.find(|((_, of), gate)| *of == vip && gate.kernel.is_open(now_us))
            .map(|((server, _), _)| *server)
    }

    /// A host's power is lost; gives whose gates it took along.
    pub(crate) fn power_off(&mut self, server: usize) -> Vec<VipId> {
        let gone = self.all.extract_if(.., |(at, _), _| *at == server);
        gone.map(|((_, vip), _)| vip).collect()
    }
}

/// The thread of one process.
pub(crate) struct GateThread {
    world: World,
    server: usize,
    rate_ppm: u64,
    clock: BootClock,
    events: mpsc::Sender<Event>,
    rules: BTreeMap<VipId, Passage>,
    #[cfg(feature = "planted-bugs")]
    bug: Option<consensus_lease::planted::PlantedBug>,
}

/// What the thread knows of one virtual IP.
struct Passage {
    rule: GateRule,
    order: GateOrder,
    /// When an element that it wrote, and that may still live, is to be looked at.
    due: Option<Time>,
    /// The lease that was known when the gate was found shut; only a later one opens again.
    stale_lease_us: u64,
    /// This epoch and all before were given up.
    shut: Option<Epoch>,
}

/// What an order is about: the rule's durations with it.
pub(crate) type Order = (GateOrder, LeaseProfile);

impl GateThread {
    pub(crate) fn new(
        world: &World,
        server: usize,
        rate_ppm: u32,
        clock: BootClock,
        events: &mpsc::Sender<Event>,
    ) -> Self {
        Self {
            world: world.clone(),
            server,
            rate_ppm: u64::from(rate_ppm),
            clock,
            events: events.clone(),
            rules: BTreeMap::new(),
            #[cfg(feature = "planted-bugs")]
            bug: world.lock().servers.bug,
        }
    }

    /// Runs until its process ends.
    pub(crate) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        loop {
            let now = self.clock.now();
            let due = self.rules.values().filter_map(|passage| passage.due).min();
            let wait = due.map_or(Duration::MAX, |due| due.since(now));
            // Both arms only take what is there.
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(order) => self.take(order),
                    None => return,
                },
                () = clock::sleep(wait) => {}
            }
            while let Ok(order) = orders.try_recv() {
                self.take(order);
            }
            let all: Vec<VipId> = self.rules.keys().copied().collect();
            for vip in all {
                self.advance(vip).await;
                while let Ok(order) = orders.try_recv() {
                    self.take(order);
                }
            }
        }
    }

    fn take(&mut self, (order, profile): Order) {
        let rule = || {
            #[cfg_attr(
                not(feature = "planted-bugs"),
                expect(unused_mut, reason = "only bugs change it")
            )]
            let mut rule = GateRule::new(profile.timing());
            #[cfg(feature = "planted-bugs")]
            if let Some(bug) = self.bug {
                rule.plant(bug);
            }
            rule
        };
        let passage = self.rules.entry(order.vip).or_insert_with(|| Passage {
            rule: rule(),
            order,
            due: None,
            stale_lease_us: 0,
            shut: None,
        });
        if passage.shut.is_some_and(|shut| order.epoch <= shut) && !order.is_shut() {
            return;
        }
        passage.order = order;
    }

    /// Does what the latest order of one virtual IP permits.
    async fn advance(&mut self, vip: VipId) {
        let order = self.rules[&vip].order;
        if order.is_shut() {
            if self.rules[&vip].shut != Some(order.epoch) {
                self.shut(vip).await;
                self.passage(vip).shut = Some(order.epoch);
                let shut = Event::Shut(vip, order.epoch);
                // Only a driver that has ended listens no more.
                drop(self.events.send(shut).await);
            }
            return;
        }
        let open = {
            let now_us = self.world.now_us();
            let state = self.world.lock();
            state.gates.open_epoch(now_us, self.server, vip)
        };
        let now = self.clock.now();
        let passage = self.passage(vip);
        if open.is_none() && passage.due.take().is_some() {
            passage.stale_lease_us = order.lease_until_us;
        }
        match open {
            Some(epoch) if epoch > order.epoch => {}
            Some(epoch) if epoch == order.epoch => {
                if passage.due.is_some_and(|due| due > now) {
                    return;
                }
                if passage.rule.may_refresh(order, now) {
                    self.commit(vip, order).await;
                } else {
                    passage.look_after(now);
                }
            }
            Some(_) | None => {
                let is_new = order.lease_until_us > passage.stale_lease_us;
                if is_new && passage.rule.may_refresh(order, now) {
                    self.open(vip, order).await;
                }
            }
        }
    }

    fn passage(&mut self, vip: VipId) -> &mut Passage {
        self.rules.get_mut(&vip).expect("it was ordered")
    }

    /// Arms, looks at the clock again, and opens.
    async fn open(&mut self, vip: VipId, order: GateOrder) {
        {
            let now_us = self.world.now_us();
            let mut state = self.world.lock();
            let life_us = self.life_us(&mut state, order);
            let gate = state.gates.all.entry((self.server, vip)).or_default();
            gate.kernel.arm(now_us, life_us);
        }
        self.kernel().await;
        let now = self.clock.now();
        if self.passage(vip).rule.may_refresh(order, now) {
            self.commit(vip, order).await;
        }
    }

    /// The transaction, begun some time after the clock was read.
    async fn commit(&mut self, vip: VipId, order: GateOrder) {
        self.kernel().await;
        let done = {
            let now = self.world.now();
            let mut state = self.world.lock();
            let life_us = self.life_us(&mut state, order);
            let state = &mut *state;
            let gate = state.gates.all.entry((self.server, vip)).or_default();
            let done = gate.kernel.refresh(now.as_micros(), life_us);
            if done {
                gate.epoch = order.epoch;
                let until_us = now.as_micros() + life_us;
                let by = (self.server, order.epoch);
                state.evidence.gate_opened(now, vip, by, until_us);
            }
            done
        };
        if !done {
            self.passage(vip).stale_lease_us = order.lease_until_us;
            return;
        }
        self.kernel().await;
        let acked = self.clock.now();
        let life_us = self.passage(vip).rule.element_timeout_us();
        self.passage(vip).look_after(acked);
        if acked.as_micros() + life_us > order.lease_until_us && !self.is_careless() {
            self.shut(vip).await;
            self.passage(vip).stale_lease_us = order.lease_until_us;
        }
    }

    /// Deletes the elements.
    async fn shut(&mut self, vip: VipId) {
        self.kernel().await;
        let now = self.world.now();
        {
            let mut state = self.world.lock();
            let state = &mut *state;
            if let Some(gate) = state.gates.all.get_mut(&(self.server, vip)) {
                gate.kernel.shut();
                state.evidence.gate_shut(now, vip, self.server);
            }
        }
        self.passage(vip).due = None;
    }

    /// How long an element that is written now lives in true time.
    fn life_us(&self, state: &mut State, order: GateOrder) -> u64 {
        let timeout_us = self.rules[&order.vip].rule.element_timeout_us();
        let late_us = as_micros(LATE.draw(&mut state.random));
        (timeout_us * MILLION).div_ceil(self.rate_ppm) + late_us
    }

    /// Waits as long as the kernel, or the processor, takes.
    async fn kernel(&self) {
        let wait = {
            let random = &mut self.world.lock().random;
            let busy = random.random_range(0..BUSY_ONE_IN) == 0;
            if busy { BUSY } else { NETLINK }.draw(random)
        };
        clock::sleep(wait).await;
    }

    /// With a bug in the rule the thread does not make up for it.
    #[cfg(feature = "planted-bugs")]
    fn is_careless(&self) -> bool {
        self.bug == Some(consensus_lease::planted::PlantedBug::GateRefreshedTooLate)
    }

    #[cfg(not(feature = "planted-bugs"))]
    #[expect(clippy::unused_self, reason = "the same face as with the feature")]
    const fn is_careless(&self) -> bool {
        false
    }
}

impl Passage {
    /// An element that lives wants to be refreshed, or to be seen to end.
    fn look_after(&mut self, now: Time) {
        let every = self.rule.element_timeout_us() / REFRESHES_PER_LIFE;
        self.due = Some(now + Duration::from_micros(every));
    }
}
