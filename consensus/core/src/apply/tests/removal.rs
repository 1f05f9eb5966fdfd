//! What goes with a node.

use super::world::*;
use crate::{Command, DockerPhase, EventKind, Holder, Removed, Role, WallMs, limits::REMOVED_KEPT};

#[test]
fn a_removed_node_takes_everything_with_it() {
    let mut world = World::of(1, 3);
    world.docker_ready(2, "d1");
    world.ok(1, Command::RecordCertificate(certificate("c2", 2, START)));
    world.ok(1, remove(2));
    assert_eq!(
        world.kinds(),
        [EventKind::DockerDecommissioned, EventKind::NodeRemoved]
    );
    let agreed = world.agreed();
    assert!(!agreed.nodes.contains_key(&id(2)));
    assert!(!agreed.peers.contains_key(&(NETWORK, id(2))));
    assert!(!agreed.docker_hosts.contains_key(&id(2)));
    assert!(!agreed.assignments.contains(&docker_on(2)));
    let revoked: Vec<_> = agreed.revoked.keys().map(String::as_str).collect();
    assert_eq!(revoked, ["a2", "c2", "d1"]);
    assert!(
        agreed
            .certificates
            .values()
            .all(|record| record.holder != Holder::Node(id(2)))
    );
    // The others keep theirs.
    assert!(agreed.certificates.contains_key("a3"));
    let event = world.state.events.back().unwrap();
    assert_eq!(event.node.as_deref(), Some("n2"));
    assert_eq!(event.payload["reason"], "broken");
}

#[test]
fn a_node_is_removed_while_its_dockerd_is_being_stopped() {
    let mut world = World::of(1, 2);
    world.docker_ready(2, "d1");
    world.ok(1, Command::UnassignModule(docker_on(2)));
    assert_eq!(world.host(2).phase, DockerPhase::Stopping);
    world.ok(1, remove(2));
    assert!(world.agreed().docker_hosts.is_empty());
    assert!(world.agreed().revoked.contains_key("d1"));
}

#[test]
fn a_removed_node_is_unknown_to_every_later_command() {
    let mut world = World::of(1, 2);
    world.ok(1, remove(2));
    let unknown = |world: &mut World, actor, command| {
        assert_eq!(world.refused(actor, command).code(), "NodeNotFoundError");
    };
    unknown(&mut world, 1, Command::AssignModule(docker_on(2)));
    unknown(&mut world, 1, label(2, &[("a", "b")], &[]));
    unknown(&mut world, 1, attach(2));
    unknown(&mut world, 1, remove(2));
    let renewal = Command::RecordCertificate(certificate("c2", 2, START));
    let refusal = world.refused(1, renewal);
    assert_eq!(refusal.code(), "NodeRemovedError");
    assert!(refusal.to_string().ends_with(": broken"), "{refusal}");
    unknown(
        &mut world,
        1,
        Command::RecordSilence {
            node: id(2),
            silent: true,
        },
    );
    let report = Command::ReportNode {
        state: crate::NodeState::Running,
        addresses: vec![],
    };
    unknown(&mut world, 2, report);
    let gone = Command::UnassignModule(docker_on(2));
    assert_eq!(world.refused(1, gone).code(), "ModuleNotAssignedError");
}

#[test]
fn a_removed_node_comes_back_only_by_a_new_token() {
    let mut world = World::founded();
    let token = world.token(Role::Agent, false);
    world.ok(1, admit(2, token));
    world.ok(1, remove(2));
    let again = |token| admit_as(enrolment(2), token, "b2");
    assert_eq!(
        world.refused(1, again(token)).code(),
        "BootstrapTokenUsedError"
    );
    let fresh = world.token(Role::Agent, false);
    world.ok(1, again(fresh));
    assert!(world.agreed().revoked.contains_key("a2"));
}

#[test]
fn a_long_reason_is_cut() {
    let mut world = World::of(1, 2);
    let Command::RemoveNode {
        node,
        compromised,
        reachable,
        force,
        ..
    } = remove(2)
    else {
        unreachable!()
    };
    let long = Command::RemoveNode {
        node,
        reason: "é".repeat(9000),
        compromised,
        reachable,
        force,
    };
    world.ok(1, long);
    assert_eq!(
        world.state.events.back().unwrap().payload["reason"]
            .chars()
            .count(),
        200
    );
}

#[test]
fn a_removed_node_is_remembered_until_it_joins_again() {
    let mut world = World::of(1, 2);
    world.ok(1, remove(2));
    assert_eq!(world.agreed().removed[&id(2)].name, "n2");
    let token = world.token(Role::Agent, false);
    world.ok(1, admit_as(enrolment(2), token, "b2"));
    assert!(world.agreed().removed.is_empty());
}

#[test]
fn a_node_removed_as_compromised_never_joins_with_that_key_again() {
    let mut world = World::of(1, 2);
    world.ok(1, remove_as(2, true));
    let token = world.token(Role::Agent, false);
    let again = admit_as(enrolment(2), token, "b2");
    assert_eq!(world.refused(1, again).code(), "NodeRemovedError");
    let mut fresh = enrolment(3);
    fresh.name = name(2);
    world.ok(1, admit_as(fresh, token, "b3"));
}

#[test]
fn of_removed_nodes_the_oldest_are_forgotten() {
    let mut world = World::of(1, 3);
    let agreed = std::sync::Arc::make_mut(&mut world.state.agreed);
    let nobody = Removed {
        name: "x".into(),
        at: START,
        reason: String::new(),
        revoked: false,
    };
    let kept = u32::try_from(REMOVED_KEPT).unwrap();
    agreed.removed = (0..kept)
        .map(|n| (id(100_000 + n), nobody.clone()))
        .collect();
    let oldest = id(104_711);
    agreed.removed.get_mut(&oldest).unwrap().at = WallMs(START.0 - 1);
    world.ok(1, remove(2));
    assert_eq!(world.agreed().removed.len(), REMOVED_KEPT);
    assert!(!world.agreed().removed.contains_key(&oldest));
    assert!(world.agreed().removed.contains_key(&id(2)));
}
