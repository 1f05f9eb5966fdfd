//! Claims about the decisions of a gate.

use std::net::Ipv6Addr;

use proptest::prelude::*;

use super::*;
use crate::order::{ADDRESS_LIFE_US, InvalidOrder, Timing};

#[test]
fn an_opening_is_armed_first_and_checked_after() {
    let mut gate = Decision::new(GateKind::Nftables, 0, 0);
    gate.command(order(1, 400_000)).unwrap();
    assert_eq!(gate.next(0), arm(1, T));
    // The arm was written so late that an element after it has room for half a life only.
    let late = 400_000 - DELTA - T / 2 - T;
    assert_eq!(gate.armed(1, T, late), open(1, T / 2, None));
    assert!(matches!(gate.armed(1, T, late + 1), Step::Wait { .. }));
    assert_eq!(gate.opened(1, T / 2, 10, 30), None);
    assert_eq!(gate.dead_by_us(), Some(30 + T / 2));
}

#[test]
fn an_arm_that_is_there_already_may_outlive_the_next_one() {
    let mut gate = Decision::new(GateKind::Nftables, 0, 0);
    gate.command(order(1, 10 * LEFT)).unwrap();
    gate.note_arm(T, 0);
    gate.command(order(1, LEFT)).unwrap();
    let room = LEFT - DELTA - T;
    assert_eq!(gate.armed(1, T / 4, 10), open(1, room, None));
    // So may one that an earlier process left.
    let mut gate = Decision::inherited(GateKind::Nftables, 0, 0);
    gate.command(order(1, LEFT)).unwrap();
    assert_eq!(gate.armed(1, T / 4, 10), open(1, room - 10, None));
}

#[test]
fn what_was_armed_in_vain_is_armed_again_for_a_later_lease_only() {
    let mut gate = Decision::inherited(GateKind::Nftables, 0, 0);
    gate.command(order(1, 250_000)).unwrap();
    let Step::Arm { epoch, life_us } = gate.next(0) else {
        panic!("there is room for a short arm")
    };
    // An earlier process may have left a longer one.
    assert!(matches!(gate.armed(epoch, life_us, 10), Step::Wait { .. }));
    for now in [10, 1_000, T, 250_000] {
        assert_eq!(gate.next(now), Step::Wait { until_us: None });
    }
    gate.command(order(1, 290_000)).unwrap();
    assert!(matches!(gate.next(40_000), Step::Arm { .. }));
}

#[test]
fn a_host_that_takes_too_long_to_open_again_and_again_is_known_by_it() {
    let mut gate = Decision::new(GateKind::Nftables, 0, 0);
    let lease = LEFT + 75_000;
    let vainly = |gate: &mut Decision, from: u64| {
        gate.command(order(1, from + lease)).unwrap();
        assert_eq!(gate.next(from), arm(1, T));
        // The arm took a microsecond more than the lease can spare.
        let armed = gate.armed(1, T, from + 75_000 + T / 2 + 1);
        assert!(matches!(armed, Step::Wait { .. }));
    };
    vainly(&mut gate, 0);
    assert!(!gate.arms_in_vain(), "a busy moment");
    vainly(&mut gate, 500_000);
    assert!(gate.arms_in_vain());
    assert_eq!(gate.opened(1, T, 600_000, 600_000), None);
    assert!(!gate.arms_in_vain());
}

#[test]
fn an_element_lives_for_what_the_lease_has_left_after_the_one_before_it() {
    let mut gate = open_gate(1, 0);
    gate.command(order(1, LEFT)).unwrap();
    assert_eq!(gate.next(T / 4), refresh(1, T));
    // A microsecond less, and what there is is used up late.
    gate.command(order(1, LEFT - 1)).unwrap();
    let until_us = Some(T - T / 4);
    assert_eq!(gate.next(T / 4), Step::Wait { until_us });
    assert_eq!(gate.next(T - T / 4), refresh(1, T - 1));
    gate.command(order(1, T + DELTA + T / 2)).unwrap();
    assert_eq!(gate.next(T - 1), refresh(1, T / 2));
    gate.command(order(1, T + DELTA + T / 2 - 1)).unwrap();
    assert_eq!(gate.next(T - 1), Step::Wait { until_us: Some(T) });
    let why = ClosedWhy::LeaseEnded;
    assert_eq!(gate.next(T), Step::Lapse { epoch: 1, why });
}

#[test]
fn what_may_have_been_written_counts_until_its_end() {
    let mut gate = open_gate(1, 0);
    gate.command(order(1, LEFT)).unwrap();
    assert_eq!(gate.next(T / 4), refresh(1, T));
    // The kernel's answer was lost.
    gate.doubt(T, T / 4);
    assert_eq!(gate.dead_by_us(), Some(T + T / 4));
    assert_eq!(gate.next(T), refresh(1, T - T / 4));
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
    assert_eq!(gate.next(T), arm(1, T));
}

#[test]
fn an_answer_that_came_too_late_closes_the_gate() {
    let mut gate = Decision::new(GateKind::Nftables, 0, 0);
    gate.command(order(1, LEFT)).unwrap();
    let (epoch, why) = (1, ClosedWhy::Overdue);
    assert_eq!(gate.opened(1, T, 0, LEFT - T), None);
    assert_eq!(
        gate.opened(1, T, 0, LEFT - T + 1),
        Some(Step::Close { epoch, why })
    );
    assert_eq!(gate.opened(1, T - 1, 0, LEFT - T + 1), None);
}

#[test]
fn a_later_epoch_takes_the_place_of_the_earlier_in_one_step() {
    let mut gate = open_gate(1, 0);
    gate.command(order(2, 10 * LEFT)).unwrap();
    assert_eq!(gate.next(1), arm(2, T));
    assert_eq!(gate.armed(2, T, 2), open(2, T, Some(1)));
    assert_eq!(gate.opened(2, T, 2, 3), None);
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
    assert_eq!(gate.next(1), arm(4, T));
}

#[test]
fn what_an_earlier_process_opened_is_prolonged_and_nothing_older_opened() {
    let mut gate = Decision::new(GateKind::Nftables, 5, 0);
    gate.adopt(5, T, 50_000);
    assert_eq!(
        gate.next(T),
        Step::Wait {
            until_us: Some(T + 50_000 + ROUNDED_US)
        }
    );
    assert_eq!(gate.command(order(4, 10 * LEFT)), Err(5));
    gate.command(order(5, 10 * LEFT)).unwrap();
    assert_eq!(gate.next(T + 1), refresh(5, T));
}

#[test]
fn a_gate_of_lifetimes_alone_asks_for_longer_leases() {
    let mut gate = Decision::new(GateKind::AddressLifetime, 0, 0);
    gate.command(order(1, 400_000)).unwrap();
    assert_eq!(gate.next(0), Step::Wait { until_us: None });
    assert!(gate.is_too_short(0));
    gate.command(order(1, 2 * ADDRESS_LIFE_US + DELTA)).unwrap();
    assert_eq!(gate.next(0), arm(1, ADDRESS_LIFE_US));
}

#[test]
fn a_gate_that_knows_the_time_is_told_each_new_end_at_once() {
    let mut gate = Decision::new(GateKind::Ebpf, 0, 0);
    gate.command(order(1, 200_000)).unwrap();
    assert_eq!(gate.next(0), arm(1, 200_000 - DELTA));
    assert_eq!(gate.opened(1, 200_000 - DELTA, 0, 10), None);
    let until_us = Some(200_000 - DELTA);
    assert_eq!(gate.next(20), Step::Wait { until_us });
    gate.command(order(1, 240_000)).unwrap();
    let life = 240_000 - DELTA - 30;
    assert_eq!(gate.next(30), refresh(1, life));
    // However late the answer comes, the deadline is what it was.
    assert_eq!(gate.opened(1, life, 30, 300_000), None);
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
        prop_assert_eq!(World::run(&script, AS_ASKED), None);
    }

    #[test]
    fn a_gate_that_is_served_in_time_stays_open(late in 0..T / 4, renewals in 1..50_u64) {
        let mut world = World::new(AS_ASKED);
        for _ in 0..renewals {
            world.gate.command(order(1, world.now + 400_000)).unwrap();
            world.serve([0; 4]);
            prop_assert!(world.element.is_some_and(|(_, dies)| dies > world.now));
            world.now += late + 1;
            world.serve([0; 4]);
            world.now += 40_000 - late - 1;
        }
    }

    /// Leases of 400 ms whose renewals take half of that, and one every 40 ms.
    #[test]
    fn a_gate_whose_renewals_are_late_stays_open(takes in 0..200_000_u64, renewals in 1..50_u64) {
        let mut world = World::new(AS_ASKED);
        for _ in 0..renewals {
            let end = world.now + 40_000;
            let lease_us = 400_000 - takes;
            world.happen(&Event::Order { epoch: 1, lease_us });
            while world.now < end {
                world.serve([0; 4]);
                prop_assert!(world.element.is_some_and(|(_, dies)| dies > world.now));
                world.now += 1_000;
            }
        }
        prop_assert_eq!(world.broken, None);
    }
}

/// Shows that the property above can fail: a kernel whose elements live longer than they are told
/// breaks the promise, and the scripts find that.
#[test]
fn the_scripts_find_a_check_that_leaves_too_little() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let result = runner.run(&script(), |script| {
        prop_assert_eq!(World::run(&script, 3 * AS_ASKED / 2), None);
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

/// A gate, the clock, and a kernel whose elements live so many per cent of what they are told.
struct World {
    gate: Decision,
    now: u64,
    per_cent: u64,
    /// When the arm of each epoch ends.
    arms: std::collections::BTreeMap<u64, u64>,
    element: Option<(u64, u64)>,
    /// The latest lease that was given for each epoch.
    leases: std::collections::BTreeMap<u64, u64>,
    released: u64,
    broken: Option<String>,
}

impl World {
    fn new(per_cent: u64) -> Self {
        Self {
            gate: Decision::new(GateKind::Nftables, 0, 0),
            now: 1_000,
            per_cent,
            arms: std::collections::BTreeMap::new(),
            element: None,
            leases: std::collections::BTreeMap::new(),
            released: 0,
            broken: None,
        }
    }

    /// The first broken promise.
    fn run(script: &[Event], per_cent: u64) -> Option<String> {
        let mut world = Self::new(per_cent);
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
                self.gate = Decision::inherited(GateKind::Nftables, highest, released);
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
        if let Step::Arm { epoch, life_us } = step {
            // Some kernels give one that is there already a new end, others do not.
            let ends = self.arms.entry(epoch).or_default();
            *ends = (self.now + self.per_cent * life_us / 100).max(*ends);
            self.now += between;
            began = self.now;
            step = self.gate.armed(epoch, life_us, self.now);
        }
        self.now += after;
        let lives;
        let done = match step {
            Step::Open {
                epoch,
                life_us,
                previous,
            } => {
                lives = life_us;
                self.write_open(epoch, life_us, previous)
            }
            Step::Refresh { epoch, life_us } => {
                lives = life_us;
                self.living().map(|_| self.write(epoch, life_us))
            }
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
        if let Some(Step::Close { why, .. }) = self.gate.opened(epoch, lives, began, self.now) {
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
    fn write_open(&mut self, epoch: u64, life_us: u64, previous: Option<u64>) -> Option<u64> {
        let armed = self.arms.get(&epoch).is_some_and(|ends| *ends > self.now);
        if !armed || (previous.is_some() && self.living().is_none()) {
            return None;
        }
        self.arms.remove(&epoch);
        if self.element.is_some_and(|(open, _)| open > epoch) {
            self.broken = Some(format!("epoch {epoch} was opened after a later one"));
        }
        Some(self.write(epoch, life_us))
    }

    fn write(&mut self, epoch: u64, life_us: u64) -> u64 {
        // The kernel's timers may be late by what the margin is for.
        let dies = self.now + self.per_cent * life_us / 100;
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
/// Elements live as long as they are told, in per cent.
const AS_ASKED: u64 = 100;

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
    assert_eq!(gate.opened(epoch, T, now_us, now_us), None);
    gate
}

fn arm(epoch: u64, life_us: u64) -> Step {
    Step::Arm { epoch, life_us }
}

fn open(epoch: u64, life_us: u64, previous: Option<u64>) -> Step {
    Step::Open {
        epoch,
        life_us,
        previous,
    }
}

fn refresh(epoch: u64, life_us: u64) -> Step {
    Step::Refresh { epoch, life_us }
}
