//! What the gate of one address may do next.
//!
//! Decides: whether the latest order permits to arm, open, refresh; when to close; which epochs are
//! over. Never: talks to a kernel, reads a clock.
//!
//! Invariants:
//! - No opening or refresh is begun with less of the lease left than [`GateKind::left_us_min`].
//! - An opening follows an arm, and the clock is read for its check after the arm was written.
//! - No epoch below the highest that was opened is opened, and none that was released.
//! - What was found lapsed is opened again only by a lease renewed since.

use std::net::Ipv6Addr;

/// Shorter gates would need refreshing more often than a loaded host wakes a thread.
const GATE_US_MIN: u64 = 20_000;
/// Longer ones would be no gate.
const GATE_US_MAX: u64 = 60_000_000;
/// The kernel's names for interfaces have at most 15 bytes.
const INTERFACE_BYTES_MAX: usize = 15;

/// Refreshes in the life of an element: three may be late before it dies.
const REFRESHES_PER_LIFE: u64 = 4;

/// The lifetime that addresses are given, in the kernel's unit.
pub(crate) const ADDRESS_LIFETIME_S: u32 = 2;
/// How long an address lives at most with [`ADDRESS_LIFETIME_S`]: the kernel counts lifetimes in
/// whole seconds and looks once a second (`addrconf_verify_rtnl`).
pub(crate) const ADDRESS_LIFE_US: u64 = 3_000_000;
/// An address whose lifetime is renewed this often outlives two lost renewals.
pub(crate) const ADDRESS_RENEWED_EVERY_US: u64 = 500_000;

/// What an address is held by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateKind {
    /// An nf_tables element with a timeout; the kernel refuses to refresh an expired one.
    Nftables,
    /// A program of ours on the overlay's interface, with a deadline in absolute time: a late order
    /// changes nothing, and neither does a suspended host. Guards what passes that interface only.
    Ebpf,
    /// The lifetime of the address alone. The kernel refuses nothing, and counts seconds.
    AddressLifetime,
}

impl GateKind {
    /// How much of a lease must be left for an opening or a refresh. A lease that is never longer
    /// than this opens nothing.
    pub const fn left_us_min(self, timing: &Timing) -> u64 {
        match self {
            Self::Nftables | Self::AddressLifetime => 2 * self.life_us(timing) + timing.delta_us,
            // The deadline keeps the margin; as much again is worth opening for.
            Self::Ebpf => 2 * timing.delta_us,
        }
    }

    /// How long the kernel lets packets through without being told again; what [`Self::Ebpf`] is
    /// told is the end instead.
    pub const fn life_us(self, timing: &Timing) -> u64 {
        match self {
            Self::Nftables | Self::Ebpf => timing.gate_us,
            Self::AddressLifetime => ADDRESS_LIFE_US,
        }
    }

    /// What it is, for people.
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::Nftables => "nftables element with a timeout, address lifetime behind it",
            Self::Ebpf => "eBPF program with a deadline, address lifetime behind it",
            Self::AddressLifetime => {
                "address lifetime only (this kernel has no nf_tables): leases must be longer than \
                 6 s, and a daemon stopped between its look at the clock and its system call can \
                 renew an address too late"
            }
        }
    }
}

/// The times of the lease protocol that concern the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// T: how long an element lives. From 20 ms to 60 s.
    pub gate_us: u64,
    /// What is kept free at the lease's end for the coarseness of the kernel's timers. An element
    /// can live one tick of the kernel longer than asked, and five more on a virtual machine whose
    /// processor that counts the ticks is not scheduled: 25 ms at 250 Hz.
    pub delta_us: u64,
}

/// That this host may hold an address until a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateOrder {
    /// The virtual address.
    pub address: Ipv6Addr,
    /// The interface that has it while it is held.
    pub interface: String,
    /// Which assignment of the address this is; from 1, only rises.
    pub epoch: u64,
    /// The end of the lease, microseconds of `CLOCK_BOOTTIME`.
    pub lease_until_us: u64,
    /// The times agreed for this lease.
    pub timing: Timing,
}

/// An order says something impossible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOrder {
    /// The epoch is 0.
    #[error("epochs begin with 1")]
    Epoch,
    /// The lifetime of the element is out of range.
    #[error("a gate of {0} us is not between 20 ms and 60 s")]
    GateTime(u64),
    /// Not the name of an interface.
    #[error("an interface's name has 1 to 15 bytes, no slash and no space")]
    Interface,
    /// An address that no host can hold for itself.
    #[error("{0} is no address that one host can hold")]
    Address(Ipv6Addr),
}

impl InvalidOrder {
    /// Stable name of the failure.
    pub const fn code(&self) -> &'static str {
        "GateOrderInvalidError"
    }
}

impl GateOrder {
    /// Where a gate that knows the time closes.
    pub(crate) fn deadline_us(&self) -> u64 {
        self.lease_until_us.saturating_sub(self.timing.delta_us)
    }

    /// Refuses what the kernel could not do or would misunderstand.
    pub fn check(&self) -> Result<(), InvalidOrder> {
        let address = &self.address;
        if self.epoch == 0 {
            return Err(InvalidOrder::Epoch);
        }
        if !(GATE_US_MIN..=GATE_US_MAX).contains(&self.timing.gate_us) {
            return Err(InvalidOrder::GateTime(self.timing.gate_us));
        }
        if address.is_multicast() || address.is_unspecified() || address.is_loopback() {
            return Err(InvalidOrder::Address(*address));
        }
        let name = &self.interface;
        let odd = |c: char| c.is_whitespace() || c == '/' || c == '\0';
        if name.is_empty() || name.len() > INTERFACE_BYTES_MAX || name.contains(odd) {
            return Err(InvalidOrder::Interface);
        }
        Ok(())
    }
}

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
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Make one opening possible.
    Arm { epoch: u64 },
    /// Consume the arm and let packets through; `previous` is the epoch whose element makes room.
    Open { epoch: u64, previous: Option<u64> },
    /// Let packets through for another life.
    Refresh { epoch: u64 },
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
        }
    }

    /// Takes over an element that an earlier process wrote.
    pub(crate) fn adopt(&mut self, epoch: u64, now_us: u64, left_us: u64) {
        self.highest = self.highest.max(epoch);
        self.passage = Passage::Open {
            epoch,
            // Due for a refresh as soon as an order permits one.
            written_us: 0,
            dead_by_us: now_us.saturating_add(left_us),
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
        let enough = self.has_enough(order, now_us);
        if order.epoch > epoch {
            // The next epoch's opening takes the place of this one's element.
            return if enough {
                Step::Arm { epoch: order.epoch }
            } else {
                self.await_end(now_us, epoch, dead_by_us)
            };
        }
        if now_us >= dead_by_us || !enough {
            return self.await_end(now_us, epoch, dead_by_us);
        }
        let life = self.kind.life_us(&order.timing);
        let due = match self.kind {
            GateKind::Nftables | GateKind::AddressLifetime => {
                written_us.saturating_add(life / REFRESHES_PER_LIFE)
            }
            GateKind::Ebpf if order.deadline_us() > dead_by_us => now_us,
            GateKind::Ebpf => dead_by_us,
        };
        if now_us >= due {
            Step::Refresh { epoch }
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
        let enough = |order: &GateOrder| self.has_enough(order, now_us);
        let why = if self.order.as_ref().is_some_and(enough) {
            ClosedWhy::Late
        } else {
            ClosedWhy::LeaseEnded
        };
        Step::Lapse { epoch, why }
    }

    fn next_closed(&self, now_us: u64) -> Step {
        match &self.order {
            Some(order)
                if order.epoch > self.released
                    && order.lease_until_us > self.stale_lease_us
                    && self.has_enough(order, now_us) =>
            {
                Step::Arm { epoch: order.epoch }
            }
            Some(_) | None => Step::Wait { until_us: None },
        }
    }

    /// Whether the order's lease is too short to open anything with.
    pub(crate) fn is_too_short(&self, now_us: u64) -> bool {
        let short =
            |order: &GateOrder| order.lease_until_us > now_us && !self.has_enough(order, now_us);
        self.order.as_ref().is_some_and(short)
    }

    fn has_enough(&self, order: &GateOrder, now_us: u64) -> bool {
        let needed = self.kind.left_us_min(&order.timing);
        order.lease_until_us.saturating_sub(now_us) >= needed
    }

    /// The arm was written. Says whether to open with what is left at `now_us`, a later look at the
    /// clock than the one that led to the arm.
    pub(crate) fn armed(&self, epoch: u64, now_us: u64) -> Step {
        match &self.order {
            Some(order) if order.epoch == epoch && self.has_enough(order, now_us) => Step::Open {
                epoch,
                previous: self.open_epoch(),
            },
            // The arm dies by itself, and the next opening writes another.
            Some(_) | None => Step::Wait {
                until_us: self.dead_by_us(),
            },
        }
    }

    /// An opening or a refresh that began at `began_us` was acknowledged by `acked_us`. Says
    /// whether it came so late that the gate must be closed.
    #[must_use]
    pub(crate) fn opened(&mut self, epoch: u64, began_us: u64, acked_us: u64) -> Option<Step> {
        let (dead_by_us, lease_until) = self.order.as_ref().map_or((acked_us, 0), |order| {
            let dead_by_us = match self.kind {
                GateKind::Nftables | GateKind::AddressLifetime => {
                    acked_us.saturating_add(self.kind.life_us(&order.timing))
                }
                GateKind::Ebpf => order.deadline_us(),
            };
            (dead_by_us, order.lease_until_us)
        });
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_opening_is_armed_first_and_checked_after() {
        let mut gate = Decision::new(GateKind::Nftables, 0, 0);
        gate.command(order(1, 400_000)).unwrap();
        assert_eq!(gate.next(0), Step::Arm { epoch: 1 });
        let late = 400_000 - LEFT + 1;
        assert!(matches!(gate.armed(1, late), Step::Wait { .. }));
        let previous = None;
        assert_eq!(gate.armed(1, late - 1), Step::Open { epoch: 1, previous });
        assert_eq!(gate.opened(1, 10, 30), None);
        assert_eq!(gate.dead_by_us(), Some(30 + T));
    }

    #[test]
    fn nothing_is_prolonged_with_less_than_two_lives_and_the_margin_left() {
        let mut gate = open_gate(1, 0);
        gate.command(order(1, LEFT + T / 4)).unwrap();
        assert_eq!(gate.next(T / 4), Step::Refresh { epoch: 1 });
        gate.command(order(1, LEFT + T / 4 - 1)).unwrap();
        assert_eq!(gate.next(T / 4), Step::Wait { until_us: Some(T) });
        let why = ClosedWhy::LeaseEnded;
        assert_eq!(gate.next(T), Step::Lapse { epoch: 1, why });
    }

    #[test]
    fn a_thread_that_came_too_late_says_so_and_waits_for_a_new_lease() {
        let mut gate = open_gate(1, 0);
        gate.command(order(1, 10 * LEFT)).unwrap();
        let why = ClosedWhy::Late;
        assert_eq!(gate.next(T), Step::Lapse { epoch: 1, why });
        gate.closed(why);
        assert_eq!(gate.next(T), Step::Wait { until_us: None });
        gate.command(order(1, 10 * LEFT + 1)).unwrap();
        assert_eq!(gate.next(T), Step::Arm { epoch: 1 });
    }

    #[test]
    fn an_answer_that_came_too_late_closes_the_gate() {
        let mut gate = Decision::new(GateKind::Nftables, 0, 0);
        gate.command(order(1, LEFT)).unwrap();
        let (epoch, why) = (1, ClosedWhy::Overdue);
        assert_eq!(gate.opened(1, 0, LEFT - T), None);
        assert_eq!(
            gate.opened(1, 0, LEFT - T + 1),
            Some(Step::Close { epoch, why })
        );
    }

    #[test]
    fn a_later_epoch_takes_the_place_of_the_earlier_in_one_step() {
        let mut gate = open_gate(1, 0);
        gate.command(order(2, 10 * LEFT)).unwrap();
        assert_eq!(gate.next(1), Step::Arm { epoch: 2 });
        let previous = Some(1);
        assert_eq!(gate.armed(2, 2), Step::Open { epoch: 2, previous });
        assert_eq!(gate.opened(2, 2, 3), None);
        assert_eq!(gate.command(order(1, 10 * LEFT)), Err(2));
    }

    #[test]
    fn a_released_epoch_is_closed_and_never_opened_again() {
        let mut gate = open_gate(3, 0);
        gate.command(order(3, 10 * LEFT)).unwrap();
        gate.release(3);
        let (epoch, why) = (3, ClosedWhy::Released);
        assert_eq!(gate.next(1), Step::Close { epoch, why });
        gate.closed(why);
        assert_eq!(gate.command(order(3, 10 * LEFT)), Err(4));
        assert_eq!(gate.memory(), (3, true));
        gate.command(order(4, 10 * LEFT)).unwrap();
        assert_eq!(gate.next(1), Step::Arm { epoch: 4 });
    }

    #[test]
    fn what_an_earlier_process_opened_is_prolonged_and_nothing_older_opened() {
        let mut gate = Decision::new(GateKind::Nftables, 5, 0);
        gate.adopt(5, T, 50_000);
        assert_eq!(
            gate.next(T),
            Step::Wait {
                until_us: Some(T + 50_000)
            }
        );
        assert_eq!(gate.command(order(4, 10 * LEFT)), Err(5));
        gate.command(order(5, 10 * LEFT)).unwrap();
        assert_eq!(gate.next(T + 1), Step::Refresh { epoch: 5 });
    }

    #[test]
    fn a_gate_of_lifetimes_alone_asks_for_longer_leases() {
        let mut gate = Decision::new(GateKind::AddressLifetime, 0, 0);
        gate.command(order(1, 400_000)).unwrap();
        assert_eq!(gate.next(0), Step::Wait { until_us: None });
        assert!(gate.is_too_short(0));
        gate.command(order(1, 2 * ADDRESS_LIFE_US + DELTA)).unwrap();
        assert_eq!(gate.next(0), Step::Arm { epoch: 1 });
    }

    #[test]
    fn a_gate_that_knows_the_time_is_told_each_new_end_at_once() {
        let mut gate = Decision::new(GateKind::Ebpf, 0, 0);
        gate.command(order(1, 200_000)).unwrap();
        assert_eq!(gate.next(0), Step::Arm { epoch: 1 });
        assert_eq!(gate.opened(1, 0, 10), None);
        let until_us = Some(200_000 - DELTA);
        assert_eq!(gate.next(20), Step::Wait { until_us });
        gate.command(order(1, 240_000)).unwrap();
        assert_eq!(gate.next(30), Step::Refresh { epoch: 1 });
        // However late the answer comes, the deadline is what it was.
        assert_eq!(gate.opened(1, 30, 300_000), None);
        assert_eq!(gate.dead_by_us(), Some(240_000 - DELTA));
        let why = ClosedWhy::LeaseEnded;
        assert_eq!(gate.next(300_000), Step::Lapse { epoch: 1, why });
    }

    #[test]
    fn impossible_orders_are_refused() {
        let refused = |change: fn(&mut GateOrder)| {
            let mut order = order(1, 0);
            change(&mut order);
            order.check().unwrap_err()
        };
        assert_eq!(order(1, 0).check(), Ok(()));
        assert_eq!(refused(|it| it.epoch = 0), InvalidOrder::Epoch);
        assert_eq!(
            refused(|it| it.timing.gate_us = 1),
            InvalidOrder::GateTime(1)
        );
        for name in ["", "a b", "a/b", "sixteen-letters-"] {
            let mut order = order(1, 0);
            order.interface = name.to_owned();
            assert_eq!(order.check(), Err(InvalidOrder::Interface));
        }
        for address in ["::", "::1", "ff02::1"] {
            let mut order = order(1, 0);
            order.address = address.parse().unwrap();
            assert!(matches!(order.check(), Err(InvalidOrder::Address(_))));
        }
    }

    proptest! {
        #[test]
        fn no_element_outlives_the_leases_that_were_given(script in script()) {
            prop_assert_eq!(World::run(&script, T), None);
        }

        #[test]
        fn a_gate_that_is_served_in_time_stays_open(late in 0..T / 4, renewals in 1..50_u64) {
            let mut world = World::new(T);
            for _ in 0..renewals {
                world.gate.command(order(1, world.now + 400_000)).unwrap();
                world.serve([0; 4]);
                prop_assert!(world.element.is_some_and(|(_, dies)| dies > world.now));
                world.now += late + 1;
                world.serve([0; 4]);
                world.now += 40_000 - late - 1;
            }
        }
    }

    /// Shows that the property above can fail: a kernel whose elements live longer than the check
    /// takes into account breaks the promise, and the scripts find that.
    #[test]
    fn the_scripts_find_a_check_that_leaves_too_little() {
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let result = runner.run(&script(), |script| {
            prop_assert_eq!(World::run(&script, 3 * T / 2), None);
            Ok(())
        });
        assert!(result.is_err());
    }

    /// What happens to the gate: an order, a release, time, or a turn of the thread that stands
    /// still four times during it.
    #[derive(Debug, Clone)]
    enum Event {
        Order { epoch: u64, lease_us: u64 },
        Release { epoch: u64 },
        Pass { us: u64 },
        Turn { stalls_us: [u64; 4] },
        Restart,
    }

    fn script() -> impl Strategy<Value = Vec<Event>> {
        let stall = || prop_oneof![9 => 0..100_u64, 1 => 0..2 * LEFT];
        let turn = [stall(), stall(), stall(), stall()];
        let event = prop_oneof![
            4 => (1..5_u64, 0..2 * LEFT)
                .prop_map(|(epoch, lease_us)| Event::Order { epoch, lease_us }),
            1 => (1..5_u64).prop_map(|epoch| Event::Release { epoch }),
            4 => (0..T).prop_map(|us| Event::Pass { us }),
            8 => turn.prop_map(|stalls_us| Event::Turn { stalls_us }),
            1 => Just(Event::Restart),
        ];
        proptest::collection::vec(event, 1..80)
    }

    /// A gate, the clock, and a kernel whose elements live `life_us`.
    struct World {
        gate: Decision,
        now: u64,
        life_us: u64,
        arm: Option<(u64, u64)>,
        element: Option<(u64, u64)>,
        /// The latest lease that was given for each epoch.
        leases: std::collections::BTreeMap<u64, u64>,
        released: u64,
        broken: Option<String>,
    }

    impl World {
        fn new(life_us: u64) -> Self {
            Self {
                gate: Decision::new(GateKind::Nftables, 0, 0),
                now: 1_000,
                life_us,
                arm: None,
                element: None,
                leases: std::collections::BTreeMap::new(),
                released: 0,
                broken: None,
            }
        }

        /// The first broken promise.
        fn run(script: &[Event], life_us: u64) -> Option<String> {
            let mut world = Self::new(life_us);
            for event in script {
                world.happen(event);
            }
            world.broken
        }

        fn happen(&mut self, event: &Event) {
            match event {
                Event::Order { epoch, lease_us } => {
                    let until = self.now + lease_us;
                    if self.gate.command(order(*epoch, until)).is_ok() {
                        let known = self.leases.entry(*epoch).or_default();
                        *known = until.max(*known);
                    }
                }
                Event::Release { epoch } => {
                    self.gate.release(*epoch);
                    self.released = self.released.max(*epoch);
                    self.serve([0; 4]);
                    if self
                        .element
                        .is_some_and(|(open, dies)| open <= *epoch && dies > self.now)
                    {
                        self.broken = Some(format!("epoch {epoch} is open after its release"));
                    }
                }
                Event::Pass { us } => self.now += us,
                Event::Turn { stalls_us } => self.serve(*stalls_us),
                Event::Restart => {
                    let (highest, released) = self.gate.memory();
                    let released = if released { highest } else { 0 };
                    self.gate = Decision::new(GateKind::Nftables, highest, released);
                    if let Some((epoch, dies)) = self.element
                        && dies > self.now
                    {
                        self.gate.adopt(epoch, self.now, dies - self.now);
                    }
                }
            }
        }

        /// One turn of the thread: it stands still before and after each of two transactions.
        fn serve(&mut self, [before, between, after, end]: [u64; 4]) {
            let mut step = self.gate.next(self.now);
            let mut began = self.now;
            self.now += before;
            if let Step::Arm { epoch } = step {
                self.arm = Some((epoch, self.now + self.life_us));
                self.now += between;
                began = self.now;
                step = self.gate.armed(epoch, self.now);
            }
            self.now += after;
            let done = match step {
                Step::Open { epoch, previous } => self.write_open(epoch, previous),
                Step::Refresh { epoch } => self.living().map(|_| self.write(epoch)),
                Step::Close { why, .. } | Step::Lapse { why, .. } => {
                    self.element = None;
                    self.gate.closed(why);
                    return;
                }
                Step::Arm { .. } | Step::Wait { .. } => return,
            };
            self.now += end;
            let Some(epoch) = done else {
                self.element = None;
                self.gate.closed(ClosedWhy::Late);
                return;
            };
            if let Some(Step::Close { why, .. }) = self.gate.opened(epoch, began, self.now) {
                self.element = None;
                self.gate.closed(why);
            }
        }

        fn living(&self) -> Option<u64> {
            self.element
                .filter(|(_, dies)| *dies > self.now)
                .map(|(epoch, _)| epoch)
        }

        /// Refused, as the kernel does, when the arm is gone or the earlier element is.
        fn write_open(&mut self, epoch: u64, previous: Option<u64>) -> Option<u64> {
            let armed = self
                .arm
                .is_some_and(|arm| arm.0 == epoch && arm.1 > self.now);
            if !armed || (previous.is_some() && self.living().is_none()) {
                return None;
            }
            self.arm = None;
            if self.element.is_some_and(|(open, _)| open > epoch) {
                self.broken = Some(format!("epoch {epoch} was opened after a later one"));
            }
            Some(self.write(epoch))
        }

        fn write(&mut self, epoch: u64) -> u64 {
            // The kernel's timers may be late by what the margin is for.
            let dies = self.now + self.life_us;
            self.element = Some((epoch, dies));
            let lease = self.leases.get(&epoch).copied().unwrap_or_default();
            if dies + DELTA > lease {
                self.broken = Some(format!(
                    "lives until {dies} + {DELTA}, the lease until {lease}"
                ));
            }
            if epoch <= self.released {
                self.broken = Some(format!("epoch {epoch} was opened after its release"));
            }
            epoch
        }
    }

    const T: u64 = 150_000;
    const DELTA: u64 = 25_000;
    const LEFT: u64 = 2 * T + DELTA;

    fn order(epoch: u64, lease_until_us: u64) -> GateOrder {
        GateOrder {
            address: Ipv6Addr::new(0xfd5a, 0, 0, 0, 0, 0, 0xf, 1),
            interface: "shoal-home".to_owned(),
            epoch,
            lease_until_us,
            timing: Timing {
                gate_us: T,
                delta_us: DELTA,
            },
        }
    }

    fn open_gate(epoch: u64, now_us: u64) -> Decision {
        let mut gate = Decision::new(GateKind::Nftables, 0, 0);
        gate.command(order(epoch, now_us + 2 * LEFT)).unwrap();
        assert_eq!(gate.opened(epoch, now_us, now_us), None);
        gate
    }
}
