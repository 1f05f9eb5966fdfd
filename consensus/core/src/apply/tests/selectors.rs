//! Modules that follow labels.

use super::world::*;
use crate::{Command, DockerPhase, EventKind, Module, Role, WallMs};

#[test]
fn a_label_assigns_and_its_loss_unassigns() {
    let mut world = World::of(1, 3);
    world.ok(
        1,
        Command::AssignModule(docker_where(&[("role", "builder"), ("zone", "a")])),
    );
    assert!(world.agreed().docker_hosts.is_empty());
    world.ok(1, label(2, &[("role", "builder")], &[]));
    assert!(world.agreed().docker_hosts.is_empty());
    world.ok(1, label(2, &[("zone", "a")], &[]));
    assert_eq!(world.kinds(), [EventKind::DockerAssigned]);
    assert_eq!(world.host(2).phase, DockerPhase::Assigned);
    world.ok(1, label(2, &[("zone", "b")], &[]));
    assert_eq!(world.host(2).phase, DockerPhase::Stopping);
    world.ok(1, label(2, &[("zone", "a")], &[]));
    assert_eq!(world.host(2).phase, DockerPhase::Assigned);
    world.ok(1, label(2, &[], &["role"]));
    assert_eq!(world.host(2).phase, DockerPhase::Stopping);
}

#[test]
fn a_node_that_joins_with_the_labels_gets_the_module() {
    let mut world = World::founded();
    world.ok(
        1,
        Command::AssignModule(docker_where(&[("role", "builder")])),
    );
    let token = world.token(Role::Agent, false);
    let mut builder = enrolment(2);
    builder.labels = labels(&[("role", "builder")]);
    world.ok(1, admit_as(builder, token, "a2"));
    let kinds = [
        EventKind::NodeJoined,
        EventKind::PeerAttached,
        EventKind::DockerAssigned,
    ];
    assert_eq!(world.kinds(), kinds);
}

#[test]
fn what_a_selector_gives_is_not_taken_from_one_node() {
    let mut world = World::of(1, 2);
    world.ok(1, label(2, &[("a", "b")], &[]));
    world.ok(1, Command::AssignModule(docker_on(2)));
    world.ok(1, Command::AssignModule(docker_where(&[("a", "b")])));
    assert_eq!(world.kinds(), []);
    let refusal = world.refused(1, Command::UnassignModule(docker_on(2)));
    assert_eq!(refusal.code(), "ModuleBySelectorError");
    assert!(
        refusal.hint().ends_with("--selector a=b docker-engine`"),
        "{}",
        refusal.hint()
    );
    assert_eq!(
        world.refused(1, decommission(2)).code(),
        "ModuleBySelectorError"
    );
    world.ok(1, Command::UnassignModule(docker_where(&[("a", "b")])));
    assert_eq!(world.host(2).phase, DockerPhase::Assigned);
}

#[test]
fn a_selected_node_without_a_place_in_the_overlay_says_so_and_goes_on_when_it_has_one() {
    let mut world = World::of(1, 2);
    world.ok(1, detach(2));
    let direct = Command::AssignModule(docker_on(2));
    let refusal = world.refused(1, direct);
    assert_eq!(refusal.code(), "MissingSdwanPeerError");
    assert_eq!(
        refusal.hint(),
        "attach one: `shoal network attach n2 default`"
    );
    world.ok(1, label(2, &[("a", "b")], &[]));
    world.ok(1, Command::AssignModule(docker_where(&[("a", "b")])));
    assert_eq!(world.host(2).phase, DockerPhase::Assigned);
    world.report(2, failed("no overlay peer", WallMs(0)));
    assert_eq!(world.host(2).api_endpoint(), None);
    world.ok(1, attach(2));
    world.docker_ready(2, "d1");
    assert_eq!(world.host(2).status(), "connected");
}

#[test]
fn what_a_node_found_otherwise_than_it_had_left_it_is_an_event_and_nothing_else() {
    let mut world = World::of(1, 3);
    let drifted = |module, what: &str| Command::ReportDrift {
        module,
        what: what.to_owned(),
    };
    world.ok(1, Command::AssignModule(docker_on(2)));
    let before = world.state.agreed.clone();
    world.ok(2, drifted(Module::DockerEngine, "daemon.json"));
    assert_eq!(world.kinds(), [EventKind::ModuleDrifted]);
    let event = world.state.events.iter().next_back().unwrap();
    let said = ["module", "what"].map(|key| event.payload[key].as_str());
    assert_eq!(
        (event.node.as_deref(), said),
        (Some("n2"), ["docker-engine", "daemon.json"])
    );
    // Of what is not, or not any more, there is nothing to say.
    world.ok(2, drifted(Module::K3sServer, "settings"));
    world.ok(3, drifted(Module::DockerEngine, "daemon.json"));
    assert_eq!(world.kinds(), []);
    assert_eq!(world.state.agreed, before);
    let long = "x".repeat(crate::limits::TEXT_BYTES_MAX + 1);
    let refusal = world.refused(2, drifted(Module::DockerEngine, &long));
    assert_eq!(refusal.code(), "TooLargeError");
    let refusal = world.refused(9, drifted(Module::DockerEngine, "daemon.json"));
    assert_eq!(refusal.code(), "NodeNotFoundError");
}

#[test]
fn selectors_are_checked_and_limited() {
    let mut world = World::founded();
    let empty = Command::AssignModule(docker_where(&[]));
    assert_eq!(world.refused(1, empty).code(), "InvalidInputError");
    let bad = Command::AssignModule(docker_where(&[("a b", "c")]));
    assert_eq!(world.refused(1, bad).code(), "InvalidInputError");
    for n in 0..256 {
        world.ok(
            1,
            Command::AssignModule(docker_where(&[("n", &n.to_string())])),
        );
    }
    let more = Command::AssignModule(docker_where(&[("n", "256")]));
    assert_eq!(world.refused(1, more).code(), "TooLargeError");
    world.ok(1, Command::AssignModule(docker_on(1)));
}
