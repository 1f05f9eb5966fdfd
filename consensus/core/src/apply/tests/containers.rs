//! Container subnets: given to Docker hosts, kept, taken back, and not used again at once.

use super::world::*;
use crate::{Command, DockerPhase, EventKind, NetworkChange, PrefixChange, Refusal, Role};

/// `default` has 10.43.0.0/22 for containers, room for four hosts; n1 to `nodes` are members.
fn world(nodes: u32) -> World {
    let mut world = World::of(1, nodes);
    world.ok(1, set_prefix(Some("10.43.0.0/22")));
    world
}

fn set_prefix(prefix: Option<&str>) -> Command {
    let change = match prefix {
        Some(prefix) => PrefixChange::Set(prefix.parse().unwrap()),
        None => PrefixChange::Clear,
    };
    Command::SetNetwork {
        network: "default".into(),
        change: NetworkChange {
            container_subnet_prefix: Some(change),
            ..NetworkChange::default()
        },
    }
}

fn assign(world: &mut World, n: u32) {
    world.ok(1, Command::AssignModule(docker_on(n)));
}

fn subnet(world: &World, n: u32) -> Option<String> {
    world
        .peer(n)
        .container_subnet
        .map(|subnet| subnet.to_string())
}

#[test]
fn docker_hosts_get_a_subnet_each_and_others_none() {
    let mut world = world(4);
    assign(&mut world, 3);
    assert_eq!(
        world.kinds(),
        [EventKind::DockerAssigned, EventKind::PeerChanged]
    );
    assign(&mut world, 2);
    assert_eq!(subnet(&world, 3).as_deref(), Some("10.43.0.0/24"));
    assert_eq!(subnet(&world, 2).as_deref(), Some("10.43.1.0/24"));
    assert_eq!((subnet(&world, 1), subnet(&world, 4)), (None, None));
}

#[test]
fn whoever_becomes_a_host_by_label_prefix_or_place_gets_one_too() {
    let mut world = World::of(1, 3);
    world.ok(1, Command::AssignModule(docker_where(&[("zone", "a")])));
    world.ok(1, label(2, &[("zone", "a")], &[]));
    assert_eq!(subnet(&world, 2), None, "the network has no prefix yet");
    world.ok(1, set_prefix(Some("10.43.0.0/22")));
    assert_eq!(subnet(&world, 2).as_deref(), Some("10.43.0.0/24"));
    world.ok(1, label(3, &[("zone", "a")], &[]));
    assert_eq!(subnet(&world, 3).as_deref(), Some("10.43.1.0/24"));
    let blue = crate::NewNetwork {
        container_subnet_prefix: Some("10.44.0.0/16".parse().unwrap()),
        ..new_network(&world, "blue")
    };
    let id_of_blue = blue.id;
    world.ok(1, Command::CreateNetwork(blue));
    world.ok(1, attach_to(3, "blue"));
    let place = &world.agreed().peers[&(id_of_blue, id(3))];
    let text = place.container_subnet.map(|subnet| subnet.to_string());
    assert_eq!(text.as_deref(), Some("10.44.0.0/24"));
}

#[test]
fn a_host_keeps_its_subnet_when_it_is_unassigned_or_decommissioned() {
    let mut world = world(3);
    assign(&mut world, 2);
    let had = subnet(&world, 2);
    world.ok(1, Command::UnassignModule(docker_on(2)));
    world.report(2, DockerPhase::Stopped);
    assert_eq!(subnet(&world, 2), had, "its containers are on its disk");
    assign(&mut world, 2);
    world.ok(1, decommission(2));
    assert_eq!(subnet(&world, 2), had);
    assign(&mut world, 3);
    assert_ne!(subnet(&world, 3), had);
    assign(&mut world, 2);
    assert_eq!(subnet(&world, 2), had);
}

#[test]
fn a_subnet_that_was_given_back_is_used_again_after_all_others() {
    let mut world = world(6);
    for n in [2, 3] {
        assign(&mut world, n);
    }
    let of_removed = subnet(&world, 2).unwrap();
    world.ok(1, remove(2));
    // A host that lost its place may come back without what it had.
    world.ok(1, decommission(3));
    world.ok(1, detach(3));
    for n in [4, 5] {
        assign(&mut world, n);
    }
    assert_eq!(subnet(&world, 4).as_deref(), Some("10.43.2.0/24"));
    assert_eq!(subnet(&world, 5).as_deref(), Some("10.43.3.0/24"));
    assign(&mut world, 6);
    assert_eq!(subnet(&world, 6), Some(of_removed), "no other is left");
}

#[test]
fn a_host_for_whom_none_is_left_gets_one_when_it_is_freed() {
    let mut world = world(6);
    for n in [2, 3, 4, 5] {
        assign(&mut world, n);
    }
    assign(&mut world, 6);
    assert_eq!(subnet(&world, 6), None);
    let freed = subnet(&world, 4);
    world.ok(1, remove(4));
    assert_eq!(subnet(&world, 6), freed);
    world.ok(1, set_prefix(Some("10.43.0.0/16")));
    world.join(7, Role::Agent);
    assign(&mut world, 7);
    assert_eq!(subnet(&world, 7).as_deref(), Some("10.43.4.0/24"));
}

#[test]
fn a_prefix_that_hosts_live_in_is_widened_and_not_taken_away() {
    let mut world = world(3);
    assign(&mut world, 2);
    for prefix in [None, Some("10.44.0.0/16"), Some("10.43.2.0/23")] {
        let refusal = world.refused(1, set_prefix(prefix));
        let by = "the containers of n2".to_owned();
        let network = "default".to_owned();
        assert_eq!(refusal, Refusal::NetworkInUse { network, by });
    }
    world.ok(1, set_prefix(Some("10.43.0.0/16")));
    assert_eq!(subnet(&world, 2).as_deref(), Some("10.43.0.0/24"));
    world.ok(1, decommission(2));
    world.ok(1, set_prefix(Some("10.44.0.0/16")));
    assert_eq!(subnet(&world, 2), None, "no Docker host any more");
    assign(&mut world, 2);
    let given = subnet(&world, 2).unwrap();
    assert!(given.starts_with("10.44."), "{given}");
}
