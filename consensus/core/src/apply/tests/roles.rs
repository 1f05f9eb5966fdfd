//! Servers and agents.

use super::world::*;
use crate::{Command, Done, EventKind, RaftId, Refusal, Role};

#[test]
fn every_promotion_gives_the_log_index_as_a_new_raft_id() {
    let mut world = World::of(1, 2);
    let mut seen = vec![crate::FOUNDER_RAFT_ID];
    for _ in 0..3 {
        assert_eq!(
            world.ok(1, set_role(2, Role::Server)),
            Done::Servers { count: 2 }
        );
        assert_eq!(world.kinds(), [EventKind::NodeRoleChanged]);
        let raft = world.agreed().nodes[&id(2)].raft_id.unwrap();
        assert_eq!(raft, RaftId(world.state.applied.0));
        assert!(!seen.contains(&raft));
        seen.push(raft);
        assert_eq!(
            world.ok(1, set_role(2, Role::Agent)),
            Done::Servers { count: 1 }
        );
        assert_eq!(world.agreed().nodes[&id(2)].raft_id, None);
    }
}

#[test]
fn a_server_that_joins_has_its_entrys_index_as_raft_id() {
    let world = World::of(3, 3);
    let raft = world.agreed().nodes[&id(3)].raft_id;
    assert_eq!(raft, Some(RaftId(world.state.applied.0)));
    assert_eq!(world.agreed().servers().count(), 3);
}

#[test]
fn the_last_server_stays() {
    let mut world = World::of(1, 2);
    let last = Refusal::LastServer { node: "n1".into() };
    assert_eq!(world.refused(1, set_role(1, Role::Agent)), last);
    assert_eq!(world.refused(1, remove(1)), last);
}

#[test]
fn leaving_two_servers_is_told_so() {
    let mut world = World::of(3, 4);
    assert_eq!(world.ok(1, remove(2)), Done::Servers { count: 2 });
    world.ok(1, set_role(4, Role::Server));
    assert_eq!(
        world.ok(1, set_role(3, Role::Agent)),
        Done::Servers { count: 2 }
    );
}

#[test]
fn a_role_that_a_node_has_already_is_refused() {
    let mut world = World::of(1, 2);
    for (n, role) in [(1, Role::Server), (2, Role::Agent)] {
        assert_eq!(
            world.refused(1, set_role(n, role)).code(),
            "RoleUnchangedError"
        );
    }
}

#[test]
fn an_issuer_that_became_an_agent_still_admits_and_stays() {
    let mut world = World::of(2, 2);
    world.ok(2, set_role(1, Role::Agent));
    world.join(3, Role::Agent);
    assert_eq!(world.refused(2, remove(1)).code(), "IssuerNeededError");
}

#[test]
fn silence_is_an_event_and_changes_no_agreed_state() {
    let mut world = World::of(1, 2);
    let before = world.agreed().clone();
    for (silent, kind) in [
        (true, EventKind::NodeSilent),
        (false, EventKind::NodeRecovered),
    ] {
        world.ok(
            1,
            Command::RecordSilence {
                node: id(2),
                silent,
            },
        );
        assert_eq!(world.kinds(), [kind]);
    }
    assert_eq!(*world.agreed(), before);
}
