//! Nodes of clusters that are emptied: what comes to them, what they hold, and how a drain ends.

use super::{clusters::*, world::*};
use crate::{
    Command, DrainCommand, DrainState, EventKind, K3sPhase, K3sRole, LogIndex, Unfit, WallMs,
};

fn said(begun: LogIndex, state: DrainState) -> Command {
    Command::Drain(DrainCommand::Report { begun, state })
}

fn end(n: u32) -> Command {
    Command::Drain(DrainCommand::End { node: name(n) })
}

fn give_up(world: &World, n: u32) -> Command {
    Command::Drain(DrainCommand::GiveUp {
        node: id(n),
        begun: world.agreed().drains[&id(n)].begun,
    })
}

#[test]
fn what_is_said_after_a_drains_end_changes_nothing() {
    let failed = DrainState::Failed {
        reason: "a pod stays".into(),
    };
    let except = DrainState::DrainedExcept {
        stays: "a pod came later".into(),
    };
    for last in [DrainState::Drained, except, failed.clone()] {
        let mut world = World::with_servers(1);
        world.ok(1, drain(4, false));
        let begun = world.agreed().drains[&id(4)].begun;
        world.ok(4, said(begun, last));
        for late in [
            DrainState::Drained,
            failed.clone(),
            DrainState::Draining {
                waits_for: String::new(),
            },
        ] {
            world.ignored(4, said(begun, late));
        }
    }
}

#[test]
fn who_came_later_and_stays_is_told_with_the_end_of_a_drain() {
    let mut world = World::with_servers(1);
    world.ok(1, drain(4, false));
    let begun = world.agreed().drains[&id(4)].begun;
    let stays = "a pod came later".to_owned();
    world.ok(4, said(begun, DrainState::DrainedExcept { stays }));
    assert_eq!(world.kinds(), [EventKind::NodeDrained]);
    let event = world.state.events.back().unwrap();
    assert_eq!(event.payload["stays"], "a pod came later");
    let stays = "\u{1f433}".repeat(5_000);
    let refused = world.refused(4, said(begun, DrainState::DrainedExcept { stays }));
    assert_eq!(refused.code(), "TooLargeError");
}

#[test]
fn a_drained_node_is_let_work_again_by_its_own_command_alone() {
    let mut world = World::with_servers(1);
    world.ok(1, drain(4, false));
    let refusal = world.refused(1, cordon(4));
    assert_eq!(refusal.code(), "NodeDrainedError");
    assert!(refusal.hint().contains("uncordon n4"), "{}", refusal.hint());
    world.ok(1, end(4));
    world.ok(1, cordon(4));
    world.ok(1, cordon(4));
    // More than nothing new: what is there goes as well.
    world.ok(1, drain(4, false));
}

#[test]
fn a_drained_node_becomes_no_server() {
    let mut world = World::with_cluster();
    for command in [
        provision(2, K3sRole::Server, Some("prod")),
        provision(2, K3sRole::Server, Some("blue")),
    ] {
        world.ok(1, drain(2, false));
        assert_eq!(world.refused(1, command.clone()).code(), "NodeDrainedError");
        world.ok(1, end(2));
        world.ok(1, cordon(2));
        let mut cordoned = world.clone();
        cordoned.ok(1, command);
        world.ok(1, end(2));
    }
    world.k3s_join(2, K3sRole::Server);
    world.k3s_join(3, K3sRole::Server);
    world.ok(1, drain(2, false));
    // It is one already.
    world.ok(1, provision(2, K3sRole::Server, Some("prod")));
}

#[test]
fn a_server_gives_a_drain_up_that_nobody_tells_the_end_of() {
    let mut world = World::with_servers(1);
    world.ok(1, drain(4, false));
    let give = give_up(&world, 4);
    world.now = WallMs(world.now.0 + 600_000 + 59_000);
    world.ignored(1, give.clone());
    world.now = WallMs(world.now.0 + 2_000);
    assert_eq!(world.refused(5, give.clone()).code(), "NotServerError");
    world.ok(1, give.clone());
    assert_eq!(world.kinds(), [EventKind::NodeDrainFailed]);
    world.ignored(1, give.clone());
    world.ok(1, end(4));
    world.ignored(1, give.clone());
    world.ok(1, drain(4, false));
    world.now = WallMs(world.now.0 + 700_000);
    world.ignored(1, give);
}

#[test]
fn a_turn_that_waits_for_a_silent_drain_comes_when_it_is_given_up() {
    let mut world = World::with_servers(0);
    world.ok(1, upgrade("v1.32.0+k3s1"));
    let first = world.turn()[0];
    let other = if first == 2 { 3 } else { 2 };
    world.ok(1, drain(other, true));
    for n in [first, 1] {
        world.k3s(n, K3sPhase::Starting);
        world.k3s_ready(n);
    }
    assert_eq!(world.turn(), [0; 0]);
    world.now = WallMs(world.now.0 + 700_000);
    let give = give_up(&world, other);
    world.ok(1, give);
    assert_eq!(world.turn(), [other]);
}

#[test]
fn a_cordoned_server_takes_its_clusters_address_when_nobody_else_can() {
    let mut world = World::with_cluster();
    world.k3s_join(2, K3sRole::Server);
    for n in [1, 2] {
        let ready = Command::ReportReadiness {
            vip: world.prod().vip,
            ready: true,
            reason: String::new(),
        };
        world.ok(n, ready);
    }
    world.ok(1, cordon(2));
    let unfit = |world: &World, heard: &[u32]| {
        let heard = heard.iter().map(|n| id(*n)).collect();
        world.agreed().unfit(world.prod_vip(), &id(2), &heard)
    };
    assert_eq!(unfit(&world, &[1, 2]), Some(Unfit::Draining));
    // The other one is dead, or emptied.
    assert_eq!(unfit(&world, &[2]), None);
    world.ok(1, drain(1, true));
    assert_eq!(unfit(&world, &[1, 2]), None);
    let release = Command::ReleaseVip {
        vip: world.prod().vip,
        epoch: world.prod_vip().epoch,
        to: None,
        reason: "draining".into(),
    };
    world.ok(1, release);
    assert_eq!(world.prod_vip().holder, Some(id(2)));
    // One that is emptied itself takes nothing.
    world.ok(1, drain(2, true));
    assert_eq!(unfit(&world, &[2]), Some(Unfit::Draining));
}

#[test]
fn a_holder_may_name_a_cordoned_server_where_it_hears_no_other() {
    let mut world = World::with_servers(0);
    for n in [1, 2, 3] {
        let ready = Command::ReportReadiness {
            vip: world.prod().vip,
            ready: true,
            reason: String::new(),
        };
        world.ok(n, ready);
    }
    world.ok(1, cordon(2));
    let release = Command::ReleaseVip {
        vip: world.prod().vip,
        epoch: world.prod_vip().epoch,
        to: Some(id(2)),
        reason: "draining".into(),
    };
    world.ok(1, release);
    assert_eq!(world.prod_vip().holder, Some(id(2)));
}
