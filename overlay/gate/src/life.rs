//! How long the next arm and the next element of a gate may live.
//!
//! Decides: their lives, from what is left of a lease. Never: when they are due, nor what time it is.
//!
//! The kernel puts an element in the place of another, or of an arm, only while that lives. So one
//! that replaces what ends at `e` at the latest is written by `e`, and ends inside the lease if
//! `e` + its life + delta does: whatever the clock says now, and however long the thread stands
//! still before its transaction. With 2T + delta left that is always so for a whole life T. With
//! less, there is room for one while the element before it is about to end, and below that for a
//! shorter one: where renewals are late, by a busy processor or a slow link, elements get shorter
//! before the gate shuts.

use crate::order::{ADDRESS_LIFE_US, GateKind, GateOrder};

/// Elements live for half of T at least: shorter ones would have to be refreshed more often than a
/// loaded host wakes a thread.
const PART_MIN: u64 = 2;
/// Arms live for a quarter of T at least. They are used at once; refreshes may be as late.
const ARM_PART_MIN: u64 = 4;

/// How long an element may live that replaces what ends by `ends_us`; none if it is not worth it.
pub(crate) fn of_element(
    kind: GateKind,
    order: &GateOrder,
    ends_us: u64,
    now_us: u64,
) -> Option<u64> {
    let whole = order.timing.gate_us;
    match kind {
        GateKind::Nftables => {
            let room = room(order, ends_us);
            let life = room.min(whole);
            (life >= whole / PART_MIN).then_some(life)
        }
        GateKind::Ebpf | GateKind::AddressLifetime => fixed(kind, order, now_us),
    }
}

/// How long an arm may live that is written now, so that an element has room after it; none where
/// there is no room.
pub(crate) fn of_arm(kind: GateKind, order: &GateOrder, now_us: u64) -> Option<u64> {
    let whole = order.timing.gate_us;
    match kind {
        GateKind::Nftables => {
            let room = room(order, now_us);
            // What a whole element leaves.
            let life = room
                .saturating_sub(whole)
                .clamp(whole / ARM_PART_MIN, whole);
            (room >= life + whole / PART_MIN).then_some(life)
        }
        GateKind::Ebpf | GateKind::AddressLifetime => fixed(kind, order, now_us),
    }
}

/// What is left of the lease from a time on, without the margin.
fn room(order: &GateOrder, from_us: u64) -> u64 {
    let begins = from_us.saturating_add(order.timing.delta_us);
    order.lease_until_us.saturating_sub(begins)
}

/// The life of what the kernel does not refuse to prolong: known by the clock alone.
fn fixed(kind: GateKind, order: &GateOrder, now_us: u64) -> Option<u64> {
    let left = order.lease_until_us.saturating_sub(now_us);
    let delta = order.timing.delta_us;
    let (life, needed) = match kind {
        // The deadline keeps the margin; as much again is worth opening for.
        GateKind::Ebpf => (left.saturating_sub(delta), 2 * delta),
        GateKind::Nftables | GateKind::AddressLifetime => {
            let whole = GateKind::AddressLifetime;
            (ADDRESS_LIFE_US, whole.lease_left_us(&order.timing))
        }
    };
    (left >= needed).then_some(life)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::order::Timing;

    const T: u64 = 140_000;
    const DELTA: u64 = 25_000;

    fn order(lease_until_us: u64) -> GateOrder {
        GateOrder {
            address: Ipv6Addr::new(0xfd5a, 0, 0, 0, 0, 0, 0xf, 1),
            interface: "shoal-home".to_owned(),
            epoch: 1,
            lease_until_us,
            timing: Timing {
                gate_us: T,
                delta_us: DELTA,
            },
        }
    }

    proptest! {
        #[test]
        fn what_replaces_another_in_time_ends_inside_the_lease(
            lease_until in 0..2_000_000_u64,
            ends in 0..2_000_000_u64,
            now in 0..2_000_000_u64,
        ) {
            let life = of_element(GateKind::Nftables, &order(lease_until), ends, now);
            if let Some(life) = life {
                prop_assert!(ends + life + DELTA <= lease_until);
                prop_assert!((T / 2..=T).contains(&life));
            }
        }

        #[test]
        fn with_two_lives_and_the_margin_left_everything_lives_its_whole_life(
            now in 0..1_000_000_u64,
            age in 0..T,
            more in 0..1_000_000_u64,
        ) {
            let order = order(now + 2 * T + DELTA + more);
            let kind = GateKind::Nftables;
            prop_assert_eq!(of_arm(kind, &order, now), Some(T));
            prop_assert_eq!(of_element(kind, &order, now + T - age, now), Some(T));
        }

        #[test]
        fn an_arm_that_takes_no_time_to_write_leaves_room_for_an_element(
            lease in 0..600_000_u64,
            now in 0..1_000_000_u64,
        ) {
            let (kind, order) = (GateKind::Nftables, order(now + lease));
            let element = of_arm(kind, &order, now)
                .map(|arm| of_element(kind, &order, now + arm, now));
            prop_assert!(element != Some(None));
            let least = T / 4 + T / 2 + DELTA;
            prop_assert_eq!(element.is_some(), lease >= least);
        }
    }

    #[test]
    fn with_less_left_of_the_lease_lives_are_shorter_before_there_are_none() {
        let element = |left| of_element(GateKind::Nftables, &order(left), T / 4, 0);
        assert_eq!(element(T / 4 + T + DELTA), Some(T));
        assert_eq!(element(T / 4 + T + DELTA - 1), Some(T - 1));
        assert_eq!(element(T / 4 + T / 2 + DELTA), Some(T / 2));
        assert_eq!(element(T / 4 + T / 2 + DELTA - 1), None);
        assert_eq!(element(0), None);
    }

    #[test]
    fn an_addresss_lifetime_is_what_it_is() {
        let least = 2 * ADDRESS_LIFE_US + DELTA;
        for (left, life) in [(least, Some(ADDRESS_LIFE_US)), (least - 1, None)] {
            let kind = GateKind::AddressLifetime;
            assert_eq!(of_arm(kind, &order(left), 0), life);
            assert_eq!(of_element(kind, &order(left), 7, 0), life);
        }
    }
}
