//! Repeated requests and bounded memories.

use super::world::*;
use crate::{
    Applied, Command, EVENTS_KEPT, Envelope, LogIndex, RequestId, Role, WallMs, apply,
    apply::ANSWERS_KEPT, wire::v1,
};

#[test]
fn a_repeated_request_answers_as_the_first_time_and_changes_only_the_index() {
    let mut world = World::of(1, 2);
    for command in [
        set_role(2, Role::Server),
        set_role(2, Role::Server),
        remove(9),
    ] {
        let envelope = world.envelope(1, command);
        let first = world.apply(&envelope);
        let mut before = world.state.clone();
        // Not even other content under the same id changes anything.
        let other = Envelope {
            command: remove(2),
            ..envelope.clone()
        };
        for repeated in [envelope, other] {
            assert_eq!(world.apply(&repeated), first);
        }
        before.applied.0 += 2;
        assert_eq!(v1::encode(&before), v1::encode(&world.state));
    }
}

#[test]
fn the_last_1024_answers_are_remembered() {
    let mut world = World::of(1, 2);
    let first = world.envelope(1, set_role(2, Role::Server));
    let answer = world.apply(&first);
    for _ in 0..ANSWERS_KEPT - 1 {
        assert!(world.give(1, attach(2)).is_err());
    }
    assert_eq!(world.apply(&first), answer);
    assert!(world.give(1, attach(2)).is_err());
    assert_eq!(world.state.answers.len(), ANSWERS_KEPT);
    let forgotten: Applied = world.apply(&first);
    assert_eq!(forgotten.unwrap_err().code(), "RoleUnchangedError");
}

#[test]
fn one_requests_answer_is_not_anothers() {
    let mut world = World::of(1, 2);
    let mut envelope = world.envelope(1, attach(9));
    assert!(world.apply(&envelope).is_err());
    envelope.request = RequestId::from_bytes([0xab; 16]);
    envelope.command = label(2, &[("a", "b")], &[]);
    assert!(world.apply(&envelope).is_ok());
}

#[test]
fn refused_texts_are_not_remembered_whole() {
    let mut world = World::of(1, 2);
    let long = "x".repeat(40_000);
    let commands = [
        Command::DetachPeer {
            node: long.clone(),
            network: "default".into(),
        },
        attach_to(2, &long),
        Command::CreateNetwork(new_network(&world, &long)),
        Command::DeleteNetwork {
            network: long.clone(),
        },
        Command::UnregisterDocker { name: long.clone() },
        Command::UnassignModule(docker_where(&[("k", &long)])),
        Command::RegisterDocker {
            name: "a".into(),
            endpoint: long.clone(),
        },
        label(2, &[(&long, "v")], &[]),
        label(2, &[("k", &long)], &[]),
    ];
    for command in commands {
        let name = command.name();
        let refusal = world.refused(1, command);
        assert!(v1::encode(&Applied::Err(refusal)).len() < 300, "{name}");
    }
}

#[test]
fn the_event_log_keeps_the_newest() {
    let mut world = World::of(1, 2);
    let silence = |silent| Command::RecordSilence {
        node: id(2),
        silent,
    };
    for n in 0..EVENTS_KEPT + 10 {
        world.ok(1, silence(n % 2 == 0));
    }
    assert_eq!(world.state.events.len(), EVENTS_KEPT);
    assert_eq!(
        world.state.events.back().unwrap().index,
        world.state.applied
    );
}

#[test]
fn events_of_one_entry_are_numbered() {
    let world = World::founded();
    let ordinals: Vec<_> = world
        .state
        .events
        .iter()
        .map(|event| event.ordinal)
        .collect();
    assert_eq!(ordinals, [0, 1, 2]);
    assert!(
        world
            .state
            .events
            .iter()
            .all(|event| event.index == LogIndex(1))
    );
}

#[test]
fn a_long_reason_fills_the_row_and_not_the_event_log() {
    let mut world = World::of(1, 2);
    world.ok(1, Command::AssignModule(docker_on(2)));
    let reason = "y".repeat(2000);
    world.report(2, failed(&reason, WallMs(0)));
    assert_eq!(world.host(2).phase, failed(&reason, WallMs(0)));
    assert_eq!(
        world.state.events.back().unwrap().payload["reason"].len(),
        512
    );
}

#[test]
#[should_panic(expected = "applied after")]
fn an_entry_is_never_applied_twice() {
    let mut world = World::founded();
    let envelope = world.envelope(1, attach(1));
    let _ = apply(&mut world.state, LogIndex(1), &envelope);
}
