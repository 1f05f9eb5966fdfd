//! Changes that go round a cluster: who has taken one, who comes next, and where it stops.

use super::{clusters::*, world::*};
use crate::{Command, EventKind, K3sBinary, K3sPhase, K3sRole, RolloutKind};

const NEW: &str = "v1.32.0+k3s1";

impl World {
    /// `prod` with three servers and so many agents from node 4 on.
    pub(super) fn with_servers(agents: u32) -> Self {
        let mut world = Self::with_cluster();
        for server in [2, 3] {
            world.k3s_join(server, K3sRole::Server);
        }
        for agent in 4..4 + agents {
            world.k3s_join(agent, K3sRole::Agent);
        }
        world
    }

    /// Takes every turn until it is one of these nodes'.
    fn upgrade_until(&mut self, nodes: &[u32]) -> Vec<u32> {
        for _ in 0..10 {
            let turn = self.turn();
            if turn.iter().any(|n| nodes.contains(n)) {
                return turn;
            }
            for n in turn {
                self.k3s(n, K3sPhase::Starting);
                self.k3s_ready(n);
            }
        }
        panic!("it is never the turn of {nodes:?}")
    }

    fn failed_at(&self) -> Option<String> {
        let failed = self.prod().rollout.as_ref()?.failed.as_ref()?;
        Some(self.agreed().former_name_of(&failed.0))
    }

    fn runs(&self, n: u32) -> Option<&str> {
        self.row(n).binary.version.as_deref()
    }
}

fn uncordon(n: u32) -> Command {
    Command::Drain(crate::DrainCommand::End { node: name(n) })
}

#[test]
fn a_node_that_crashed_before_its_turn_has_not_taken_an_upgrade() {
    let mut world = World::with_servers(1);
    world.ok(1, upgrade(NEW));
    // It comes up with the cluster's newest settings, and the old K3s.
    world.k3s(4, K3sPhase::Starting);
    world.k3s(4, version());
    assert_eq!(world.row(4).generation, world.prod().generation);
    assert_eq!(world.upgrade_until(&[4]), [4]);
    assert_eq!(world.runs(4), Some(NEW));
    world.k3s(4, version());
    assert_eq!(world.turn(), [4], "its word is of the old K3s");
    world.k3s(4, K3sPhase::Installing);
    world.k3s_ready(4);
    assert_eq!(world.prod().rollout, None);
    assert_eq!(world.prod().version.as_deref(), Some(NEW));
}

#[test]
fn a_node_that_crashed_takes_its_turn_also_for_another_file_of_the_same_version() {
    let mut world = World::with_servers(1);
    world.ok(1, upgrade("v1.31.2+k3s1"));
    world.k3s(4, K3sPhase::Starting);
    world.k3s(4, version());
    assert_eq!(world.upgrade_until(&[4]), [4]);
    world.k3s(1, version());
    assert_eq!(world.turn(), [4], "it has said nothing since");
    world.k3s(4, version());
    assert_eq!(world.prod().rollout, None);
}

#[test]
fn who_comes_during_an_upgrade_begins_with_the_new_k3s() {
    let mut world = World::with_servers(0);
    world.ok(1, upgrade(NEW));
    let other = K3sBinary {
        version: Some("v1.31.9+k3s1".into()),
        ..K3sBinary::INSTALLED
    };
    let other = with_binary(5, K3sRole::Agent, Some("prod"), other);
    assert_eq!(world.refused(1, other).code(), "ClusterBusyError");
    let turn = world.turn();
    world.k3s_join(4, K3sRole::Agent);
    assert_eq!(world.runs(4), Some(NEW));
    world.k3s_ready(4);
    assert_eq!(world.turn(), turn);
    world.ok(1, label(5, &[("role", "worker")], &[]));
    world.ok(1, selecting(K3sRole::Agent, &[("role", "worker")], None));
    assert_eq!(world.runs(5), Some(NEW));
}

#[test]
fn who_loses_its_disk_during_an_upgrade_begins_again_with_the_new_k3s() {
    let mut world = World::with_servers(1);
    world.ok(1, upgrade(NEW));
    assert_eq!(world.runs(4), None);
    world.k3s(4, K3sPhase::Assigned);
    assert_eq!(world.runs(4), Some(NEW));
}

#[test]
fn images_that_were_named_for_a_node_stay_through_an_upgrade() {
    let mut world = World::with_cluster();
    let with_images = K3sBinary {
        images: Some("/srv/images".into()),
        ..K3sBinary::INSTALLED
    };
    world.ok(1, with_binary(4, K3sRole::Agent, Some("prod"), with_images));
    world.k3s(4, K3sPhase::JoinRequest);
    let token = world.issuing(4);
    world.ok(1, token);
    world.k3s(4, version());
    world.ok(1, upgrade(NEW));
    world.upgrade_until(&[4]);
    assert_eq!(world.row(4).binary.images.as_deref(), Some("/srv/images"));
    world.k3s_ready(4);
    assert_eq!(world.prod().rollout, None);
    let wanted = world.agreed().wanted_k3s(&id(4)).unwrap();
    assert_eq!(wanted.binary, world.row(4).binary);
}

#[test]
fn a_server_that_is_drained_on_the_way_holds_an_upgrade_up_no_longer() {
    let mut world = World::with_servers(1);
    world.ok(1, upgrade(NEW));
    let first = world.turn()[0];
    let other = if first == 2 { 3 } else { 2 };
    world.ok(1, drain(other, true));
    world.k3s(first, K3sPhase::Starting);
    world.k3s_ready(first);
    // It comes to rest first: nobody stops it twice.
    assert_eq!(world.turn(), [1]);
    world.k3s(1, K3sPhase::Starting);
    world.k3s_ready(1);
    assert_eq!(world.turn(), [0; 0]);
    world.k3s(other, K3sPhase::Drained);
    assert_eq!(world.runs(other), Some(NEW));
    // What it starts with then is what its row says: nobody has to stop it once more.
    assert_eq!(world.row(other).generation, world.prod().generation);
    assert_eq!(world.turn(), [4]);
    world.k3s_ready(4);
    assert_eq!(world.prod().rollout, None);
    world.ok(1, uncordon(other));
    world.k3s(other, K3sPhase::Starting);
    world.k3s_ready(other);
    assert_eq!(world.prod().rollout, None);
}

#[test]
fn a_drain_that_ends_lets_the_turn_come() {
    let mut world = World::with_servers(0);
    world.ok(1, upgrade(NEW));
    let first = world.turn()[0];
    let other = if first == 2 { 3 } else { 2 };
    world.ok(1, drain(other, true));
    for n in [first, 1] {
        assert_eq!(world.turn(), [n]);
        world.k3s(n, K3sPhase::Starting);
        world.k3s_ready(n);
    }
    assert_eq!(world.turn(), [0; 0]);
    world.ok(1, uncordon(other));
    assert_eq!(world.turn(), [other]);
}

#[test]
fn an_upgrade_waits_to_be_asked_for_again_when_the_node_where_it_stopped_is_taken_out() {
    for gone in [false, true] {
        let mut world = World::with_servers(0);
        world.ok(1, upgrade(NEW));
        let first = world.turn()[0];
        world.k3s(first, broken());
        let out = match gone {
            true => remove(first),
            false => unassign(first, K3sRole::Server),
        };
        world.ok(1, out);
        assert_eq!(world.failed_at(), Some(name(first)));
        assert_eq!(world.turn(), [0; 0]);
        world.k3s(1, version());
        assert_eq!(world.turn(), [0; 0]);
        world.ok(1, upgrade(NEW));
        assert_eq!(world.failed_at(), None);
        assert!(world.turn().len() == 1 && world.turn() != [first]);
    }
}

#[test]
fn what_goes_on_goes_on_with_those_whose_turn_it_was() {
    let mut world = World::with_servers(3);
    world.ok(1, upgrade(NEW));
    let turn = world.upgrade_until(&[4, 5, 6]);
    let [one, other] = turn[..] else {
        panic!("{turn:?}")
    };
    world.k3s(other, K3sPhase::Starting);
    world.k3s(one, broken());
    world.ok(1, upgrade(NEW));
    assert_eq!(world.turn(), turn, "no third agent stops");
}

#[test]
fn an_agent_that_is_down_is_mended_before_another_one_stops() {
    let mut world = World::with_servers(3);
    world.ok(1, upgrade(NEW));
    for down in [4, 5, 6] {
        let mut world = world.clone();
        world.k3s(down, broken());
        let turn = world.upgrade_until(&[4, 5, 6]);
        assert!(turn.len() == 2 && turn.contains(&down), "{down}: {turn:?}");
    }
}

#[test]
fn of_two_agents_that_failed_the_second_one_is_told_of_too() {
    let mut world = World::with_servers(3);
    world.ok(1, upgrade(NEW));
    let turn = world.upgrade_until(&[4, 5, 6]);
    for n in &turn {
        world.k3s(*n, broken());
    }
    assert_eq!(world.failed_at(), Some(name(turn[0])));
    world.k3s_ready(turn[0]);
    assert_eq!(world.failed_at(), Some(name(turn[1])));
    assert!(world.kinds().contains(&EventKind::RolloutFailed));
    world.k3s_ready(turn[1]);
    assert_eq!((world.failed_at(), world.turn().len()), (None, 1));
}

#[test]
fn a_change_of_settings_asks_for_no_other_k3s() {
    let mut world = World::with_servers(0);
    world.ok(1, set_pods(pods("10.42.0.0/16")));
    let first = world.turn()[0];
    let ready = world.with_pods(first, &["10.42.1.0/24"]);
    world.ok(first, ready);
    let rollout = world.prod().rollout.as_ref().unwrap();
    assert_eq!(rollout.kind, RolloutKind::PodSubnet);
    assert_ne!(world.turn(), [first]);
}
