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
    // The last entry is its intermediate, the one before it admitted it.
    assert_eq!(raft, Some(RaftId(world.state.applied.0 - 1)));
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
fn a_server_that_is_removed_and_joins_again_has_another_raft_id() {
    let mut world = World::of(2, 2);
    let before = world.agreed().nodes[&id(2)].raft_id;
    world.ok(1, remove(2));
    let token = world.token(Role::Server, false);
    world.ok(1, admit_as(enrolment(2), token, "b2"));
    let after = world.agreed().nodes[&id(2)].raft_id;
    assert_eq!(after, Some(RaftId(world.state.applied.0)));
    assert!(after > before, "{after:?} after {before:?}");
}

/// Node `n` is demoted while only these servers are seen.
fn demote_seeing(n: u32, seen: &[u32], force: bool) -> Command {
    Command::SetRole {
        node: name(n),
        role: Role::Agent,
        reachable: seen.iter().map(|n| id(*n)).collect(),
        force,
    }
}

fn remove_seeing(n: u32, seen: &[u32], force: bool) -> Command {
    Command::RemoveNode {
        node: name(n),
        reason: "dead".into(),
        compromised: false,
        reachable: seen.iter().map(|n| id(*n)).collect(),
        force,
    }
}

#[test]
fn a_server_that_the_living_majority_rests_on_stays_unless_it_is_forced() {
    // Of three servers the third is dead: without the second, one of two would be left.
    let mut world = World::of(3, 3);
    let refusal = Refusal::MajorityAtRisk {
        node: "n2".into(),
        reachable: 1,
        servers: 2,
        needed: 2,
    };
    for command in [
        demote_seeing(2, &[1, 2], false),
        remove_seeing(2, &[1, 2], false),
    ] {
        assert_eq!(world.refused(1, command), refusal);
    }
    assert_eq!(
        refusal.to_string(),
        "without n2 only 1 of 2 servers would be reachable, and 2 are needed to agree on anything"
    );
    let mut forced = world.clone();
    forced.ok(1, demote_seeing(2, &[1, 2], true));
    // The dead one may go.
    world.ok(1, remove_seeing(3, &[1, 2], false));
    assert_eq!(world.agreed().servers().count(), 2);
}

#[test]
fn a_majority_is_counted_among_the_servers_that_stay() {
    for (servers, seen, ok) in [
        (2, &[1_u32, 2][..], true),
        (2, &[2], false),
        (5, &[1, 2, 3, 4], true),
        (5, &[1, 2, 3], false),
        (4, &[1, 3, 4], true),
        (4, &[1, 3], true),
        (4, &[1, 2], false),
    ] {
        let mut world = World::of(servers, servers);
        let answer = world.give(1, remove_seeing(2, seen, false));
        assert_eq!(answer.is_ok(), ok, "{servers} servers, {seen:?} seen");
    }
    // An agent's going costs no vote, whoever is seen.
    let mut world = World::of(1, 2);
    world.ok(1, remove_seeing(2, &[], false));
}

#[test]
fn not_even_force_takes_the_last_server() {
    let mut world = World::of(1, 2);
    let last = Refusal::LastServer { node: "n1".into() };
    assert_eq!(world.refused(1, demote_seeing(1, &[1], true)), last);
    assert_eq!(world.refused(1, remove_seeing(1, &[1], true)), last);
}

#[test]
fn seven_servers_are_enough() {
    let mut world = World::of(7, 8);
    let token = world.token(Role::Server, false);
    for command in [set_role(8, Role::Server), admit(9, token)] {
        let refusal = world.refused(1, command);
        assert_eq!(refusal.code(), "TooLargeError");
    }
    // The founder may go like any other.
    world.ok(2, set_role(1, Role::Agent));
    world.ok(2, set_role(8, Role::Server));
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
