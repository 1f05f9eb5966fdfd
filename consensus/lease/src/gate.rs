//! When the kernel's gate of a virtual IP may be opened and refreshed.
//!
//! Decides: whether a lease has enough left for one more element. Never: touches the kernel.
//!
//! The gate is an element with timeout T in a set of the kernel. Opening and refreshing follow one
//! pattern, and whoever drives the kernel must keep to it:
//!
//! 1. *An element lives.* To refresh, the gate's own; to open, an arm element with timeout T that
//!    is added now, unconditionally, before the clock is read.
//! 2. *Read the clock and ask* [`GateRule::may_refresh`], after 1.
//! 3. *One transaction* that deletes the element of 1 and adds the gate's with timeout T. The
//!    kernel refuses it when that element has expired.
//!
//! So a commit happens at most T after the question, and what it adds lasts T more; asked with
//! 2T + delta left, it ends inside the lease however long the process was stopped in between.
//!
//! Whoever knows when the element of 1 ends at the latest asks [`GateRule::may_replace`] instead, which
//! says yes wherever the other one does. `overlay-gate` asks how long the next element may live then,
//! if not for T.

use consensus_core::{Epoch, LeaseTiming, Time, VipId};

use crate::planted::{Planted, PlantedBug};

/// What the gate of one virtual IP is to be: a value of which only the latest counts.
///
/// An order for a higher epoch replaces one for a lower. Within an epoch `lease_until_us` only
/// rises, until it is 0: shut now, delete gate and arm elements, and confirm to
/// [`Holder::handle_gate_shut`](crate::Holder::handle_gate_shut). After that no order of the epoch
/// opens it again in this life of the daemon. While no order was given (just started) nothing is
/// refreshed and nothing is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GateOrder {
    /// The virtual IP.
    pub vip: VipId,
    /// The epoch it is held in.
    pub epoch: Epoch,
    /// The end of the lease on this machine's `CLOCK_BOOTTIME`, in microseconds; 0: shut now.
    pub lease_until_us: u64,
}

impl GateOrder {
    /// Whether the gate must be shut, rather than run out with its lease.
    pub const fn is_shut(self) -> bool {
        self.lease_until_us == 0
    }
}

/// The rule for one profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GateRule {
    timing: LeaseTiming,
    planted: Planted,
}

impl GateRule {
    /// The rule for these durations.
    pub const fn new(timing: LeaseTiming) -> Self {
        Self {
            timing,
            planted: Planted::new(),
        }
    }

    /// The timeout of gate and arm elements, T.
    pub const fn element_timeout_us(&self) -> u64 {
        self.timing.gate_us
    }

    /// How often a healthy gate is refreshed: a third of T, so that one attempt may be late and
    /// one more lost.
    pub const fn refresh_every_us(&self) -> u64 {
        self.timing.gate_us / 3
    }

    /// Whether one more element may be added: at least 2T + delta of the lease are left.
    pub fn may_refresh(&self, order: GateOrder, now: Time) -> bool {
        let left = order.lease_until_us.saturating_sub(now.as_micros());
        if self.planted.has(PlantedBug::GateRefreshedTooLate) {
            return left > 0;
        }
        left >= self.timing.refresh_left_us()
    }

    /// The same where the element of 1 is known to end by then: the next one is written before, and
    /// ends inside the lease, with delta to spare.
    pub const fn may_replace(&self, order: GateOrder, ends: Time) -> bool {
        let left = order.lease_until_us.saturating_sub(ends.as_micros());
        left >= self.timing.gate_us + self.timing.margin_us
    }

    /// Plants a bug.
    #[cfg(feature = "planted-bugs")]
    pub const fn plant(&mut self, bug: PlantedBug) {
        self.planted.plant(bug);
    }
}

#[cfg(test)]
mod tests {
    use consensus_core::LeaseProfile;
    use proptest::prelude::*;

    use super::*;

    fn order(lease_until_us: u64) -> GateOrder {
        GateOrder {
            vip: VipId::from_bytes([1; 16]),
            epoch: Epoch(1),
            lease_until_us,
        }
    }

    #[test]
    fn a_gate_that_was_told_to_shut_is_never_refreshed() {
        let rule = GateRule::new(LeaseProfile::Lan.timing());
        assert!(order(0).is_shut());
        assert!(!rule.may_refresh(order(0), Time::ZERO));
    }

    proptest! {
        #[test]
        fn whatever_is_committed_after_a_yes_ends_inside_the_lease(
            lease_until in 1..10_000_000_u64,
            asked in 0..10_000_000_u64,
            stall in 0..=3_000_000_u64,
        ) {
            for profile in LeaseProfile::ALL {
                let timing = profile.timing();
                let rule = GateRule::new(timing);
                if rule.may_refresh(order(lease_until), Time::from_micros(asked)) {
                    // The element of step 1 lived when the question was asked.
                    let committed = asked + stall.min(timing.gate_us);
                    prop_assert!(committed + timing.gate_us + timing.margin_us <= lease_until);
                    let ends = Time::from_micros(asked + timing.gate_us);
                    prop_assert!(rule.may_replace(order(lease_until), ends));
                }
            }
        }

        #[test]
        fn what_is_committed_before_an_element_ends_ends_inside_the_lease(
            lease_until in 1..10_000_000_u64,
            ends in 0..10_000_000_u64,
            before in 0..10_000_000_u64,
        ) {
            for profile in LeaseProfile::ALL {
                let timing = profile.timing();
                let rule = GateRule::new(timing);
                if rule.may_replace(order(lease_until), Time::from_micros(ends)) {
                    let committed = ends.saturating_sub(before);
                    prop_assert!(committed + timing.gate_us + timing.margin_us <= lease_until);
                }
            }
        }
    }
}
