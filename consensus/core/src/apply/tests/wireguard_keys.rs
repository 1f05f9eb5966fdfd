//! Replacing WireGuard keys: announced before used, one at a time, by the node alone.

use std::collections::BTreeSet;

use super::{access_grants, world::*};
use crate::{
    Command, EventKind, KeysAtHand, Refusal, WireguardKeyStep, WireguardKeyStep as Step,
    wireguard_key_step,
};

pub(super) fn rotate(n: u32) -> Command {
    Command::RotateWireguardKey {
        node: name(n),
        leave_devices: false,
    }
}

pub(super) fn announce(k: u8) -> Command {
    Command::AnnounceWireguardKey { key: [k; 32] }
}

fn take(k: u8) -> Command {
    Command::TakeWireguardKey { key: [k; 32] }
}

pub(super) fn commands() -> Vec<Command> {
    vec![rotate(2), announce(21), take(21)]
}

pub(super) fn refusals() -> Vec<Refusal> {
    let node = name(2);
    vec![
        Refusal::KeyRotationUnderWay { node: node.clone() },
        Refusal::KeyInDevices {
            node: node.clone(),
            devices: 2,
            one: "ann".into(),
        },
        Refusal::KeyNotAnnounced { node },
    ]
}

/// The codes of the refusals that are reached here.
pub(super) fn codes() -> BTreeSet<&'static str> {
    let mut world = World::of(1, 2);
    let mut codes = BTreeSet::new();
    world.ok(1, access_grants::grant("ann", 20));
    codes.insert(world.refused(1, rotate(1)).code());
    codes.insert(world.refused(2, take(21)).code());
    world.ok(1, rotate(2));
    codes.insert(world.refused(1, rotate(2)).code());
    codes
}

fn key_of(world: &World, n: u32) -> [u8; 32] {
    world.agreed().nodes[&id(n)].wireguard_public_key
}

#[test]
fn a_key_is_asked_for_announced_and_taken_with_an_event_at_both_ends() {
    let mut world = World::of(1, 2);
    let before = key_of(&world, 2);
    world.ok(1, rotate(2));
    assert_eq!(world.kinds(), [EventKind::KeyRotationStarted]);
    assert_eq!(world.agreed().announced_key(&id(2)), None);
    world.ok(2, announce(21));
    assert!(world.kinds().is_empty());
    assert_eq!(world.agreed().announced_key(&id(2)), Some([21; 32]));
    assert_eq!(key_of(&world, 2), before, "announced is not taken");
    world.ignored(2, announce(21));
    world.ok(2, take(21));
    assert_eq!(world.kinds(), [EventKind::KeyRotationFinished]);
    assert_eq!(key_of(&world, 2), [21; 32]);
    assert!(world.agreed().key_rotations.is_empty());
    world.ignored(2, take(21));
    world.ignored(2, announce(21));
    assert_eq!(key_of(&world, 1), before, "nobody else's has changed");
}

#[test]
fn a_key_that_was_not_announced_by_that_node_is_not_taken() {
    let mut world = World::of(1, 3);
    world.ok(1, rotate(2));
    let refusal = Refusal::KeyNotAnnounced { node: name(2) };
    assert_eq!(world.refused(2, take(21)), refusal);
    world.ok(2, announce(21));
    assert_eq!(world.refused(2, take(22)), refusal);
    let other = Refusal::KeyNotAnnounced { node: name(3) };
    assert_eq!(world.refused(3, take(21)), other);
}

#[test]
fn a_second_request_is_refused_while_the_first_is_under_way_and_taken_after_it() {
    let mut world = World::of(1, 2);
    world.ok(1, rotate(2));
    world.refused(1, rotate(2));
    world.ok(2, announce(21));
    world.refused(1, rotate(2));
    world.ok(2, take(21));
    world.ok(1, rotate(2));
    world.ok(2, announce(22));
    world.ok(2, take(22));
    assert_eq!(key_of(&world, 2), [22; 32]);
}

#[test]
fn two_nodes_get_new_keys_at_the_same_time() {
    let mut world = World::of(1, 2);
    world.ok(1, rotate(1));
    world.ok(1, rotate(2));
    world.ok(1, announce(21));
    world.ok(2, announce(22));
    world.ok(2, take(22));
    world.ok(1, take(21));
    assert_eq!((key_of(&world, 1), key_of(&world, 2)), ([21; 32], [22; 32]));
}

#[test]
fn a_key_that_a_node_or_a_device_has_or_is_getting_is_not_announced() {
    let mut world = World::of(1, 3);
    world.ok(1, access_grants::grant("ann", 20));
    world.ok(3, announce(30));
    world.ok(1, rotate(2));
    for taken in [20, 30, 7] {
        let refusal = world.refused(2, announce(taken));
        assert!(
            matches!(
                refusal,
                Refusal::GrantKeyTaken { .. } | Refusal::Invalid { .. }
            ),
            "{refusal}"
        );
    }
    let taken = world.refused(1, access_grants::grant("bob", 30));
    assert!(matches!(taken, Refusal::GrantKeyTaken { .. }), "{taken}");
}

#[test]
fn devices_are_cut_off_only_when_that_is_asked_for_and_none_is_added_meanwhile() {
    let mut world = World::of(1, 2);
    world.ok(1, access_grants::grant("ann", 20));
    let refusal = Refusal::KeyInDevices {
        node: name(1),
        devices: 1,
        one: "ann".into(),
    };
    assert_eq!(world.refused(1, rotate(1)), refusal);
    let all_the_same = Command::RotateWireguardKey {
        node: name(1),
        leave_devices: true,
    };
    world.ok(1, all_the_same);
    let under_way = Refusal::KeyRotationUnderWay { node: name(1) };
    let another = access_grants::grant("bob", 31);
    assert_eq!(world.refused(1, another.clone()), under_way);
    world.ok(1, announce(21));
    world.ok(1, take(21));
    world.ok(1, another);
}

#[test]
fn a_node_that_is_removed_takes_its_new_key_with_it() {
    let mut world = World::of(1, 2);
    world.ok(1, rotate(2));
    world.ok(2, announce(21));
    world.ok(1, remove(2));
    assert!(world.agreed().key_rotations.is_empty());
    let gone = world.refused(2, take(21));
    assert!(matches!(gone, Refusal::NodeUnknown { .. }), "{gone}");
}

/// The node's program, with a crash before any step: it remembers what is on its disk alone.
#[test]
fn a_node_goes_on_where_it_was_whatever_it_forgets() {
    let mut world = World::of(1, 2);
    let old = key_of(&world, 2);
    let next = |world: &World, current: [u8; 32], next: Option<[u8; 32]>| -> Step {
        wireguard_key_step(world.agreed(), &id(2), KeysAtHand { current, next })
    };
    let new = [21; 32];
    assert_eq!(next(&world, old, None), Step::Rest);
    assert_eq!(next(&world, old, Some(new)), Step::Rest, "nobody asked");
    world.ok(1, rotate(2));
    assert_eq!(next(&world, old, None), Step::Announce(None));
    assert_eq!(next(&world, old, Some(new)), Step::Announce(Some(new)));
    world.ok(2, announce(21));
    let since = world.state.applied;
    let switch = WireguardKeyStep::Switch { key: new, since };
    assert_eq!(next(&world, old, Some(new)), switch);
    assert_eq!(
        next(&world, old, None),
        Step::Announce(None),
        "the announced key was lost with the disk"
    );
    world.ok(2, take(21));
    assert_eq!(next(&world, old, Some(new)), Step::Rest);
    assert_eq!(next(&world, new, None), Step::Rest);
}

#[test]
fn a_node_that_has_lost_its_key_announces_one_that_nobody_has_seen() {
    let mut world = World::of(1, 2);
    // As a lost file ends: the node has made another key when it started.
    let step = |world: &World, next: Option<[u8; 32]>| {
        let current = [40; 32];
        wireguard_key_step(world.agreed(), &id(2), KeysAtHand { current, next })
    };
    assert_eq!(step(&world, None), Step::Announce(None));
    world.ok(2, announce(41));
    let since = world.state.applied;
    let key = [41; 32];
    assert_eq!(step(&world, Some(key)), Step::Switch { key, since });
    assert_eq!(step(&world, None), Step::Announce(None), "lost once more");
    world.ok(2, take(41));
    assert_eq!(step(&world, Some(key)), Step::Rest, "the overlay takes it");
    let at_hand = KeysAtHand {
        current: key,
        next: None,
    };
    let nobody = wireguard_key_step(world.agreed(), &id(9), at_hand);
    assert_eq!(nobody, Step::Rest, "a machine that is no member");
}

#[test]
fn a_node_whose_disk_was_put_back_announces_none_of_the_keys_that_it_had_then() {
    let mut world = World::of(1, 2);
    let first = key_of(&world, 2);
    for key in [21, 22] {
        world.ok(1, rotate(2));
        world.ok(2, announce(key));
        world.ok(2, take(key));
    }
    // Copied before, in the middle of, and after the first rotation.
    let copies = [
        (first, None),
        (first, Some([21; 32])),
        ([21; 32], None),
        ([21; 32], Some([31; 32])),
    ];
    for under_way in [false, true] {
        if under_way {
            world.ok(1, rotate(2));
        }
        for (current, next) in copies {
            let at_hand = KeysAtHand { current, next };
            let step = wireguard_key_step(world.agreed(), &id(2), at_hand);
            assert_eq!(step, Step::Announce(None), "{at_hand:?}");
        }
    }
    world.ok(2, announce(23));
    let (key, since) = ([23; 32], world.state.applied);
    let at_hand = KeysAtHand {
        current: first,
        next: Some(key),
    };
    let step = wireguard_key_step(world.agreed(), &id(2), at_hand);
    assert_eq!(step, Step::Switch { key, since });
}
