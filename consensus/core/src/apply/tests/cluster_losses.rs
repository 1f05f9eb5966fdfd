//! What a cluster cannot do without: servers that are taken from it by name, by label, by selector, and
//! those that are dead already.

use std::collections::BTreeSet;

use super::{clusters::*, world::*};
use crate::{
    Assignment, ClusterCommand, Command, Etcd, K3sBinary, K3sPhase, K3sRole, LeaseProfile, Module,
    NodeId, Target,
};

/// Those nodes.
fn nodes(ns: &[u32]) -> BTreeSet<NodeId> {
    ns.iter().map(|n| id(*n)).collect()
}

fn unassign_hearing(n: u32, heard: &[u32]) -> Command {
    unassigning(Assignment::to_node(Module::K3sServer, id(n)), &nodes(heard))
}

fn remove_hearing(n: u32, heard: &[u32], force: bool) -> Command {
    Command::RemoveNode {
        node: name(n),
        reason: "broken".into(),
        compromised: false,
        reachable: nodes(heard),
        force,
    }
}

fn label_hearing(n: u32, set: &[(&str, &str)], heard: &[u32]) -> Command {
    Command::LabelNode {
        node: name(n),
        set: labels(set),
        unset: Vec::new(),
        reachable: nodes(heard),
        consent: true,
    }
}

/// `prod` with three servers, of which a selector brings the second and the third.
fn by_selector() -> World {
    let mut world = World::with_cluster();
    world.ok(1, selecting(K3sRole::Server, &[("role", "master")], None));
    for n in [2, 3] {
        world.ok(1, label(n, &[("role", "master")], &[]));
        world.k3s(n, K3sPhase::JoinRequest);
        let token = world.issuing(n);
        world.ok(1, token);
        world.k3s(n, version());
    }
    world.k3s_join(4, K3sRole::Agent);
    world
}

#[test]
fn etcd_counts_who_was_ready_and_is_served_by_who_is() {
    let mut world = World::with_servers(1);
    let prod = world.row(1).cluster;
    let of = |world: &World| world.agreed().etcd(prod);
    assert_eq!(of(&world).members, nodes(&[1, 2, 3]));
    assert_eq!(of(&world).serving, nodes(&[1, 2, 3]));
    world.k3s(2, broken());
    assert_eq!(of(&world).serving, nodes(&[1, 3]));
    assert!(of(&world).has_majority());
    assert!(!of(&world).heard(&nodes(&[1, 2])).has_majority());
    world.ok(1, cordon(3));
    assert_eq!(of(&world).serving, nodes(&[1, 3]));
    world.ok(1, drain(3, true));
    assert_eq!(of(&world).serving, nodes(&[1]));
    assert!(of(&world).missing().eq(&nodes(&[2, 3])));
    // A server that never was ready is no member, and one that leaves is none any more.
    world.ok(1, provision(5, K3sRole::Server, Some("prod")));
    world.ok(
        1,
        unassigning(Assignment::to_node(Module::K3sServer, id(2)), &nodes(&[])),
    );
    assert_eq!(of(&world).members, nodes(&[1, 3]));
    assert_eq!(of(&world).without(&id(3)).needed(), 1);
    // It takes itself off only if it lives.
    assert_eq!(of(&world).heard(&nodes(&[1, 2])).members, nodes(&[1, 3]));
    assert_eq!(of(&world).heard(&nodes(&[1])).members, nodes(&[1, 2, 3]));
    assert!(!Etcd::default().has_majority());
}

#[test]
fn a_dead_server_does_not_serve_though_its_row_is_ready() {
    let mut world = World::with_servers(1);
    let hearing = |n, heard: &[u32], force| {
        Command::Drain(crate::DrainCommand::Begin {
            node: name(n),
            timeout_ms: 600_000,
            cordon_only: false,
            force,
            reachable: nodes(heard),
        })
    };
    let refusal = world.refused(1, hearing(1, &[1, 2], false));
    assert_eq!(refusal.code(), "ClusterMajorityAtRiskError");
    let refusal = world.refused(1, hearing(1, &[1], false));
    assert_eq!(refusal.code(), "ClusterMajorityAtRiskError");
    world.ok(1, hearing(1, &[1, 2], true));
    let mut world = World::with_servers(1);
    world.ok(1, hearing(1, &[1, 2, 3], false));
}

#[test]
fn a_live_server_is_not_taken_out_while_dead_ones_stay() {
    let world = World::with_servers(1);
    for heard in [&[1, 2][..], &[1]] {
        let mut world = world.clone();
        for command in [
            unassign_hearing(1, heard),
            remove_hearing(1, heard, false),
            provision_hearing(1, "blue", heard),
        ] {
            let refusal = world.refused(2, command);
            assert_eq!(refusal.code(), "ClusterMajorityAtRiskError", "{heard:?}");
        }
        world.ok(2, remove_hearing(1, heard, true));
    }
}

#[test]
fn one_of_two_live_servers_leaves_its_cluster_before_it_leaves_the_mesh() {
    let mut world = World::with_servers(1);
    let all = [1, 2, 3];
    world.ok(1, unassign_hearing(3, &all));
    world.k3s(3, K3sPhase::Stopped);
    let refusal = world.refused(1, remove_hearing(2, &all, false));
    assert_eq!(refusal.code(), "ClusterMajorityAtRiskError");
    assert!(refusal.hint().contains("module unassign"), "{refusal}");
    world.clone().ok(1, remove_hearing(2, &all, true));
    // A dead one takes nothing with it that is not lost already.
    world.clone().ok(1, remove_hearing(2, &[1, 3], false));
    world.ok(1, unassign_hearing(2, &all));
    // It is on its way, and etcd counts it until it has come to its end.
    let refusal = world.refused(1, remove_hearing(2, &all, false));
    assert_eq!(refusal.code(), "ClusterMajorityAtRiskError");
    world.k3s(2, K3sPhase::Stopped);
    world.ok(1, remove_hearing(2, &all, false));
}

fn provision_hearing(n: u32, cluster: &str, heard: &[u32]) -> Command {
    Command::Cluster(ClusterCommand::Assign {
        assignment: Assignment::to_node(Module::K3sServer, id(n)),
        cluster: Some(cluster.to_owned()),
        network: None,
        cni: None,
        binary: K3sBinary::INSTALLED,
        profile: None,
        reachable: nodes(heard),
        consent: true,
    })
}

#[test]
fn a_dead_server_is_taken_out_and_then_a_live_one_may_go() {
    let mut world = World::with_servers(1);
    world.ok(1, unassign_hearing(3, &[1, 2]));
    assert!(world.row(3).is_leaving());
    // etcd counts it until the mesh has it taken off.
    let refusal = world.refused(1, unassign_hearing(2, &[1, 2]));
    assert_eq!(refusal.code(), "ClusterMajorityAtRiskError");
    world.ok(1, remove_hearing(3, &[1, 2], false));
    // And its cluster has done so.
    let refusal = world.refused(1, unassign_hearing(2, &[1, 2]));
    assert!(refusal.to_string().contains("1 of 2 servers"), "{refusal}");
    world.ok(1, forget_all(&world));
    world.ok(1, unassign_hearing(2, &[1, 2]));
    let refusal = world.refused(1, unassign_hearing(1, &[1, 2]));
    assert_eq!(refusal.code(), "ClusterLastServerError");
    // The last one stays also where it is dead: its disk is all that is left.
    let refusal = world.refused(1, unassign_hearing(1, &[]));
    assert_eq!(refusal.code(), "ClusterLastServerError");
}

/// Its first server has had the cluster forget who departed.
fn forget_all(world: &World) -> Command {
    Command::Cluster(ClusterCommand::ForgetNodes {
        cluster: world.row(1).cluster,
        names: world.prod().departed.clone(),
    })
}

#[test]
fn etcd_counts_who_was_lost_until_the_cluster_has_forgotten_it() {
    let all = [1, 2, 3, 4];
    let mut world = World::with_servers(1);
    // To etcd it is another one when it comes back.
    world.k3s(3, K3sPhase::Assigned);
    assert_eq!(world.prod().lost, [name(3)].into());
    let prod = world.row(1).cluster;
    let etcd = world.agreed().etcd(prod);
    assert_eq!((etcd.counted(), etcd.needed()), (3, 2));
    assert!(etcd.has_majority() && !etcd.stopped(&id(2)).has_majority());
    let refusal = world.refused(1, unassign_hearing(2, &all));
    assert_eq!(refusal.code(), "ClusterMajorityAtRiskError");
    world.ok(1, forget_all(&world));
    assert!(world.prod().lost.is_empty());
    world.ok(1, unassign_hearing(2, &all));
    // Who leaves in peace has had itself taken off, and agents are none of etcd's.
    world.k3s(2, K3sPhase::Stopped);
    world.ok(1, remove(4));
    assert!(world.prod().departed.keys().eq([&name(2), &name(4)]));
    assert!(world.prod().lost.is_empty());
}

#[test]
fn a_server_that_is_still_joining_may_be_emptied_whatever_the_others_do() {
    let mut world = World::with_cluster();
    world.ok(1, provision(2, K3sRole::Server, Some("prod")));
    world.k3s(1, broken());
    world.clone().ok(1, drain(2, false));
    let refusal = world.refused(1, drain(1, false));
    assert_eq!(refusal.code(), "ClusterLastServerError");
    // A founder is all that its cluster has.
    let mut world = World::for_clusters();
    world.ok(1, provision(1, K3sRole::Server, Some("prod")));
    let refusal = world.refused(1, drain(1, false));
    assert_eq!(refusal.code(), "ClusterLastServerError");
}

#[test]
fn a_selector_takes_no_cluster_its_servers() {
    let mut world = by_selector();
    world.ok(1, provision(5, K3sRole::Server, Some("blue")));
    world.k3s(5, version());
    let blue = |role| selecting(role, &[("role", "master")], Some("blue"));
    // As servers of another cluster they would all leave but the first.
    world.ok(1, unassign(1, K3sRole::Server));
    world.k3s(1, K3sPhase::Stopped);
    let refusal = world.refused(2, blue(K3sRole::Server));
    assert_eq!(refusal.code(), "ClusterLastServerError");
    assert!(!world.row(2).is_leaving() && !world.row(3).is_leaving());
    // What is said of a node itself counts before.
    world.ok(2, blue(K3sRole::Agent));
    assert!(!world.row(2).is_leaving() && !world.row(3).is_leaving());
}

#[test]
fn a_label_takes_no_cluster_its_servers() {
    let mut world = by_selector();
    world.ok(1, label_hearing(2, &[("role", "idle")], &[1, 2, 3]));
    assert!(world.row(2).is_leaving());
    world.k3s(2, K3sPhase::Stopped);
    // Of the two that stay one is dead.
    let refusal = world.refused(1, label_hearing(3, &[("role", "idle")], &[3]));
    assert_eq!(refusal.code(), "ClusterMajorityAtRiskError");
    world.ok(1, unassign(1, K3sRole::Server));
    world.k3s(1, K3sPhase::Stopped);
    for change in [label(3, &[("role", "idle")], &[]), label(3, &[], &["role"])] {
        let refusal = world.refused(3, change);
        assert_eq!(refusal.code(), "ClusterLastServerError");
    }
    world.ok(3, label(3, &[("zone", "a")], &[]));
    world.ok(3, label(4, &[("role", "idle")], &[]));
}

/// The same command by somebody who may not know what it wipes.
fn unasked(command: Command) -> Command {
    let Command::Cluster(mut command) = command else {
        unreachable!("only what is said of clusters")
    };
    if let ClusterCommand::Assign { consent, .. } | ClusterCommand::Unassign { consent, .. } =
        &mut command
    {
        *consent = false;
    }
    Command::Cluster(command)
}

#[test]
fn a_label_takes_no_node_out_of_its_cluster_unasked() {
    let mut world = by_selector();
    world.ok(1, provision(5, K3sRole::Server, Some("blue")));
    world.k3s(5, version());
    let elsewhere = [("role", "master"), ("zone", "b")];
    world.ok(1, selecting(K3sRole::Agent, &[("zone", "b")], Some("blue")));
    // Neither who goes from it, nor who would be something else there or elsewhere.
    world.ok(1, label_unasked(3, &[("rack", "r1")], &["absent"]));
    world.ok(1, label_unasked(3, &elsewhere, &[]));
    for change in [
        label_unasked(3, &[("role", "idle")], &[]),
        label_unasked(3, &[], &["role"]),
    ] {
        let refusal = world.refused(1, change);
        assert_eq!(refusal.code(), "ConsentRequiredError");
        let said = "this wipes K3s off n3 (server of prod)";
        assert_eq!(refusal.to_string(), said);
        assert!(refusal.hint().contains("--yes"), "{}", refusal.hint());
    }
    // What could not be done anyway is not asked about.
    let minority = Command::LabelNode {
        node: name(3),
        set: labels(&[("role", "idle")]),
        unset: Vec::new(),
        reachable: nodes(&[3]),
        consent: false,
    };
    let refusal = world.refused(1, minority);
    assert_eq!(refusal.code(), "ClusterMajorityAtRiskError");
    world.ok(1, label(3, &[("role", "idle")], &[]));
    assert!(world.row(3).is_leaving());
    // It is on its way: nothing more is lost.
    world.ok(1, label_unasked(3, &[("zone", "c")], &[]));
    // Who comes to a cluster by a label loses nothing.
    world.ok(1, label_unasked(6, &[("zone", "b")], &[]));
    assert_eq!(world.row(6).role, K3sRole::Agent);
}

#[test]
fn no_assignment_wipes_k3s_off_a_node_unasked() {
    let mut world = by_selector();
    world.ok(1, label(5, &[("zone", "b")], &[]));
    world.ok(1, selecting(K3sRole::Agent, &[("zone", "b")], None));
    world.ok(1, provision(6, K3sRole::Server, Some("blue")));
    world.k3s(6, version());
    let server = |pairs, cluster| selecting(K3sRole::Server, pairs, Some(cluster));
    for (command, wiped) in [
        (unassign(4, K3sRole::Agent), "n4 (agent of prod)"),
        (unassign(1, K3sRole::Server), "n1 (server of prod)"),
        // To another cluster, that is there or is founded.
        (
            provision(4, K3sRole::Agent, Some("blue")),
            "n4 (agent of prod)",
        ),
        (
            provision(1, K3sRole::Server, Some("green")),
            "n1 (server of prod)",
        ),
        // To something else in the same one, by name or by a selector.
        (
            provision(5, K3sRole::Server, Some("prod")),
            "n5 (agent of prod)",
        ),
        (server(&[("zone", "b")], "prod"), "n5 (agent of prod)"),
    ] {
        let name = format!("{command:?}");
        let refusal = world.refused(1, unasked(command.clone()));
        assert_eq!(refusal.code(), "ConsentRequiredError", "{name}");
        let said = format!("this wipes K3s off {wiped}");
        assert_eq!(refusal.to_string(), said, "{name}");
        world.clone().ok(1, command);
    }
    // Who is named himself is not meant by a selector, and the same again wipes nothing.
    world.ok(1, provision(4, K3sRole::Agent, Some("prod")));
    world.ok(1, label(4, &[("zone", "c")], &[]));
    for command in [
        server(&[("zone", "c")], "blue"),
        provision(4, K3sRole::Agent, Some("prod")),
        server(&[("role", "master")], "prod"),
    ] {
        world.ok(1, unasked(command));
    }
    assert!(!world.row(4).is_leaving());
}

#[test]
fn of_many_nodes_that_k3s_is_wiped_off_some_are_named() {
    let mut world = World::of(3, 14);
    world.ok(1, provision(1, K3sRole::Server, Some("prod")));
    world.k3s(1, version());
    let selector = [("role", "worker")];
    for n in 4..=14 {
        world.ok(1, label(n, &selector, &[]));
    }
    world.ok(1, selecting(K3sRole::Agent, &selector, None));
    let assignment = Assignment {
        module: Module::K3sAgent,
        target: Target::Selector(labels(&selector)),
    };
    let unassign = unasked(unassigning(assignment, &everybody()));
    let said = world.refused(1, unassign).to_string();
    assert_eq!(said.matches("agent of prod").count(), 8, "{said}");
    assert!(said.ends_with(" and 3 others"), "{said}");
}

#[test]
fn a_server_is_not_emptied_or_taken_out_while_another_one_is_changed() {
    let mut world = World::with_servers(0);
    world.ok(1, upgrade("v1.32.0+k3s1"));
    let on = world.turn()[0];
    let other = if on == 2 { 3 } else { 2 };
    for n in [on, other] {
        let refusal = world.refused(1, drain(n, false));
        assert_eq!(
            refusal.code(),
            "ClusterBusyError",
            "n{n}, and it is n{on}'s turn"
        );
        assert!(refusal.to_string().contains(&name(on)), "{refusal}");
    }
    let refusal = world.refused(1, unassign(other, K3sRole::Server));
    assert_eq!(refusal.code(), "ClusterBusyError");
    world.ok(1, cordon(on));
    // Of five two may be missing.
    for n in [4, 5] {
        world.k3s_join(n, K3sRole::Server);
    }
    world.ok(1, drain(other, false));
}

#[test]
fn an_agent_is_not_emptied_in_its_turn() {
    let mut world = World::with_cluster();
    world.k3s_join(4, K3sRole::Agent);
    world.ok(1, upgrade("v1.32.0+k3s1"));
    world.ok(1, drain(4, false));
    world.ok(
        1,
        Command::Drain(crate::DrainCommand::End { node: name(4) }),
    );
    world.k3s_ready(1);
    assert_eq!(world.turn(), [4]);
    assert_eq!(world.refused(1, drain(4, false)).code(), "ClusterBusyError");
}

#[test]
fn of_the_names_that_are_to_be_forgotten_the_oldest_goes_first() {
    let mut world = World::with_cluster();
    world.k3s_join(4, K3sRole::Agent);
    let agreed = std::sync::Arc::make_mut(&mut world.state.agreed);
    let cluster = agreed.clusters.values_mut().next().unwrap();
    for n in 0..crate::limits::DEPARTED_MAX {
        let went = crate::LogIndex(9 - u64::from(n == 7));
        cluster.departed.insert(format!("m{n:04}"), went);
    }
    world.ok(1, unassign(4, K3sRole::Agent));
    world.k3s(4, K3sPhase::Stopped);
    let departed = &world.prod().departed;
    assert!(departed.contains_key("m0000") && departed.contains_key(&name(4)));
    assert!(!departed.contains_key("m0007"));
}

#[test]
fn the_address_of_a_clusters_api_moves_as_fast_as_its_founder_said() {
    let founded = |profile| {
        let mut world = World::for_clusters();
        world.ok(1, found_with(profile));
        world
    };
    assert_eq!(founded(None).prod_vip().profile, LeaseProfile::Lan);
    let mut world = founded(Some(LeaseProfile::Wan));
    assert_eq!(world.prod_vip().profile, LeaseProfile::Wan);
    world.ok(1, found_with(Some(LeaseProfile::Wan)));
    let refusal = world.refused(1, found_with(Some(LeaseProfile::Safe)));
    assert_eq!(refusal.code(), "ClusterFixedError");
}

fn found_with(profile: Option<LeaseProfile>) -> Command {
    Command::Cluster(ClusterCommand::Assign {
        assignment: Assignment::to_node(Module::K3sServer, id(1)),
        cluster: Some("prod".to_owned()),
        network: None,
        cni: None,
        binary: K3sBinary::INSTALLED,
        profile,
        reachable: BTreeSet::new(),
        consent: true,
    })
}

#[test]
fn only_k3s_modules_are_taken_back_from_clusters() {
    let mut world = World::with_cluster();
    let docker = Assignment {
        module: Module::DockerEngine,
        target: Target::Node(id(2)),
    };
    let refusal = world.refused(1, unassigning(docker, &nodes(&[])));
    assert_eq!(refusal.code(), "InvalidInputError");
}
