//! The kernel's gate of one machine, and the thread that drives it.
//!
//! Elements live for T, which is one tick. At the tick that ends it an element lets nothing
//! through any more, but may still be replaced: whatever happened within the tick may have
//! happened just before.

use consensus_core::{Epoch, LeaseTiming};
use consensus_lease::{GateOrder, GateRule, planted::PlantedBug};

use crate::{log::VIP, machines::NOW};

/// An element of the kernel's set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) enum Element {
    #[default]
    Gone,
    Ending,
    Live,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Gate {
    pub(crate) element: Element,
    arm: Element,
    /// The thread has asked and was told yes; its transaction is still to come.
    checked: bool,
    /// How much of the lease the latest order leaves.
    left: u8,
    /// The epoch that is to be shut.
    shut: u8,
    /// Whether elements are left out: the gate then counts as open for as long as the lease of the
    /// latest order lasts, or until it is shut. That is all an element can do
    /// (`an_element_lives_only_inside_the_lease`).
    coarse: bool,
}

impl Gate {
    pub(crate) fn coarse() -> Self {
        Self {
            coarse: true,
            ..Self::default()
        }
    }

    pub(crate) fn is_open(self) -> bool {
        self.element == Element::Live || self.coarse && self.left > 0
    }

    pub(crate) fn order(&mut self, epoch: u8, left: u8) {
        if left > 0 || !self.coarse {
            self.left = left;
        }
        self.shut = if left == 0 { epoch } else { 0 };
    }

    /// One tick of this machine's clock.
    pub(crate) fn tick(&mut self) {
        self.element = self.element.older();
        self.arm = self.arm.older();
        self.left = self.left.saturating_sub(1);
        self.checked &= self.replaceable();
    }

    /// The daemon is gone; the kernel's elements stay.
    pub(crate) fn forget(&mut self) {
        self.checked = false;
        self.shut = 0;
        if !self.coarse {
            self.left = 0;
        }
    }

    /// Asks whether to refresh, or else arms and asks whether to open.
    pub(crate) fn ask(&mut self, rule: &GateRule) -> bool {
        let yes = !self.coarse && !self.checked && self.may_refresh(rule);
        if yes {
            self.checked = true;
            if self.element == Element::Gone {
                self.arm = Element::Live;
            }
        }
        yes
    }

    /// What was asked for is done, no earlier than it prolongs anything.
    pub(crate) fn commit(&mut self) -> bool {
        let done = self.checked && self.replaceable() && self.element != Element::Live;
        if done {
            self.element = Element::Live;
            self.arm = Element::Gone;
            self.checked = false;
        }
        done
    }

    /// Deletes everything, and says which epoch was to be shut.
    pub(crate) fn shut(&mut self) -> Option<u8> {
        let epoch = std::mem::take(&mut self.shut);
        if epoch == 0 {
            return None;
        }
        self.element = Element::Gone;
        self.arm = Element::Gone;
        self.checked = false;
        self.left = 0;
        Some(epoch)
    }

    fn replaceable(self) -> bool {
        self.element != Element::Gone || self.arm != Element::Gone
    }

    fn may_refresh(self, rule: &GateRule) -> bool {
        let lease_until_us = match self.left {
            0 => 0,
            left => NOW.as_micros() + u64::from(left),
        };
        let order = GateOrder {
            vip: VIP,
            epoch: Epoch(1),
            lease_until_us,
        };
        // One that ends within this tick is known to.
        let ends_now = self.element == Element::Ending;
        rule.may_refresh(order, NOW) || ends_now && rule.may_replace(order, NOW)
    }
}

impl Element {
    fn older(self) -> Self {
        match self {
            Self::Live => Self::Ending,
            Self::Ending | Self::Gone => Self::Gone,
        }
    }
}

pub(crate) fn rule(timing: LeaseTiming, bug: Option<PlantedBug>) -> GateRule {
    let mut rule = GateRule::new(timing);
    if let Some(bug) = bug {
        rule.plant(bug);
    }
    rule
}

/// Every order of ticks, renewals, questions, stalls and commits of one gate: how far its element
/// outlives the longest lease it was told of.
fn overstays(rule: &GateRule) -> bool {
    let mut met = std::collections::BTreeSet::new();
    // A gate, and how much is really left of the longest lease.
    let mut open = vec![(Gate::default(), 0_u8)];
    while let Some((gate, lease)) = open.pop() {
        if gate.is_open() && lease == 0 {
            return true;
        }
        if !met.insert((gate, lease)) {
            continue;
        }
        let mut next = |step: &dyn Fn(&mut Gate), lease: u8| {
            let mut gate = gate;
            step(&mut gate);
            open.push((gate, lease));
        };
        for renewed in lease.max(1)..=4 {
            next(&|gate| gate.order(1, renewed), renewed);
        }
        next(&Gate::tick, lease.saturating_sub(1));
        next(&Gate::forget, lease);
        next(&|gate| _ = gate.ask(rule), lease);
        next(&|gate| _ = gate.commit(), lease);
    }
    false
}

#[test]
fn an_element_lives_only_inside_the_lease() {
    let ticks = crate::machines::HOLDERS.lan;
    assert!(!overstays(&rule(ticks, None)));
    let late = rule(ticks, Some(PlantedBug::GateRefreshedTooLate));
    assert!(overstays(&late));
}

#[test]
fn a_stalled_gate_runs_out_by_itself() {
    let rule = rule(crate::machines::HOLDERS.lan, None);
    let mut gate = Gate::default();
    gate.order(1, 3);
    assert!(gate.ask(&rule) && gate.commit() && gate.is_open());
    assert!(gate.ask(&rule));
    gate.tick();
    assert!(!gate.is_open());
    // The transaction that was asked for comes too late.
    gate.tick();
    assert!(!gate.commit() && !gate.is_open());
    assert!(!gate.ask(&rule));
}
