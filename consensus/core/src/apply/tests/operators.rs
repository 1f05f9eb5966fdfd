//! Operators and what they may do.

use super::world::*;
use crate::{Command, EventKind, OperatorRole};

fn set(name: &str, role: OperatorRole) -> Command {
    Command::SetOperatorRole {
        name: name.into(),
        role,
    }
}

#[test]
fn an_operators_role_changes_and_he_goes() {
    let mut world = World::founded();
    let mut envelope = world.envelope(1, create_operator("ann", OperatorRole::Viewer));
    envelope.operator = Some("bob".into());
    world.apply(&envelope).unwrap();
    assert_eq!(world.kinds(), [EventKind::OperatorCreated]);
    let ann = &world.agreed().operators["ann"];
    assert_eq!((ann.role, ann.created_at), (OperatorRole::Viewer, START));
    assert_eq!(ann.created_by, "bob");
    world.ok(1, set("ann", OperatorRole::Admin));
    assert_eq!(world.kinds(), [EventKind::OperatorRoleChanged]);
    assert_eq!(world.agreed().operators["ann"].role, OperatorRole::Admin);
    assert_eq!(
        world.refused(1, set("ann", OperatorRole::Admin)).code(),
        "RoleUnchangedError"
    );
    let remove = Command::RemoveOperator { name: "ann".into() };
    world.ok(1, remove.clone());
    assert_eq!(world.kinds(), [EventKind::OperatorRemoved]);
    assert_eq!(world.refused(1, remove).code(), "OperatorNotFoundError");
    assert_eq!(
        world.refused(1, set("ann", OperatorRole::Viewer)).code(),
        "OperatorNotFoundError"
    );
}

#[test]
fn an_operators_name_is_his_alone_and_fits_a_certificate() {
    let mut world = World::founded();
    world.ok(1, create_operator("ann", OperatorRole::Viewer));
    assert_eq!(world.agreed().operators["ann"].created_by, "n1");
    let again = create_operator("ann", OperatorRole::Admin);
    assert_eq!(world.refused(1, again).code(), "OperatorExistsError");
    for bad in ["", "Ann", "a b", "a.b", &"a".repeat(64)] {
        let refusal = world.refused(1, create_operator(bad, OperatorRole::Admin));
        assert_eq!(refusal.code(), "InvalidInputError", "{bad:?}");
    }
}

#[test]
fn roles_are_known_by_their_names_and_rise() {
    for pair in OperatorRole::ALL.windows(2) {
        assert!(pair[0] < pair[1]);
    }
    for role in OperatorRole::ALL {
        assert_eq!(OperatorRole::from_name(role.as_str()), Some(role));
    }
    assert_eq!(OperatorRole::from_name("root"), None);
}

#[test]
fn events_name_the_operator_who_asked() {
    let mut world = World::of(1, 2);
    let mut envelope = world.envelope(1, remove(2));
    envelope.operator = Some("ann".into());
    world.apply(&envelope).unwrap();
    let last = world.state.applied;
    let events = world
        .state
        .events
        .iter()
        .filter(|event| event.index == last);
    let by: Vec<_> = events.map(|event| event.payload["by"].as_str()).collect();
    assert_eq!(by, ["ann"]);
    world.ok(1, create_operator("bob", OperatorRole::Viewer));
    assert!(
        !world
            .state
            .events
            .back()
            .unwrap()
            .payload
            .contains_key("by")
    );
}
