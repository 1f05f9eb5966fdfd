//! K3s clusters on unusual ways: founders that come late, disks that are lost, words that come too
//! late, and what a cluster cannot do without.

use std::collections::BTreeSet;

use super::{clusters::*, world::*};
use crate::{
    Assignment, ClusterCommand, ClusterId, ClusterStatus, Cni, Command, EventKind, K3sBinary,
    K3sPhase, K3sRole, Module, Refusal, limits::DEPARTED_MAX,
};

fn status(world: &World, cluster: &str) -> &'static str {
    let found = world.agreed().find_cluster(cluster);
    found.map_or("none", |(_, row)| row.status.as_str())
}

fn cluster_of(world: &World, n: u32) -> String {
    let id = world.row(n).cluster;
    world.agreed().clusters[&id].name.clone()
}

fn module(n: u32, module: Module) -> Command {
    Command::AssignModule(Assignment::to_node(module, id(n)))
}

fn decommission_of(cluster: &str) -> Command {
    Command::Cluster(ClusterCommand::Decommission {
        cluster: cluster.into(),
    })
}

/// Clusters that there are before somebody aims at one: an active one of each of these names, made by
/// nodes 1 and 2; and `broken`, which is in error.
fn with_clusters(names: &[&str]) -> World {
    let mut world = World::for_clusters();
    for (founder, cluster) in (1..).zip(names) {
        world.ok(1, provision(founder, K3sRole::Server, Some(cluster)));
        if *cluster == "broken" {
            world.ok(1, provision(6, K3sRole::Agent, Some(cluster)));
            let command = Command::RemoveNode {
                node: name(founder),
                reason: "burnt".into(),
                compromised: false,
                reachable: everybody(),
                force: true,
            };
            world.ok(3, command);
        } else {
            world.k3s(founder, version());
        }
    }
    world
}

/// The clusters that there are, who aims at which, and where it gets, or what it is told.
type Aim<'a> = (
    &'a [&'a str],
    K3sRole,
    Option<&'a str>,
    Result<&'a str, &'a str>,
);

/// SPEC 5.4, and the founding of 5.2: who aims at what, and what becomes of it.
#[test]
fn an_aim_is_met_or_refused_and_never_guessed() {
    use K3sRole::{Agent, Server};
    let id_of_none = ClusterId::from_bytes([9; 16]).to_string();
    let rows: &[Aim] = &[
        (&[], Agent, None, Err("NoClusterError")),
        (&[], Agent, Some("prod"), Err("ClusterNotFoundError")),
        (&[], Server, None, Ok("default")),
        (&[], Server, Some("prod"), Ok("prod")),
        (&[], Server, Some("Not A Name"), Err("InvalidInputError")),
        (&[], Server, Some(&id_of_none), Err("ClusterNotFoundError")),
        (&["prod"], Agent, None, Ok("prod")),
        (&["prod"], Server, None, Ok("prod")),
        (&["prod"], Agent, Some("prod"), Ok("prod")),
        (&["prod"], Agent, Some("blue"), Err("ClusterNotFoundError")),
        (&["prod"], Server, Some("blue"), Ok("blue")),
        (&["prod", "blue"], Agent, None, Err("ClusterAmbiguousError")),
        (
            &["prod", "blue"],
            Server,
            None,
            Err("ClusterAmbiguousError"),
        ),
        (&["prod", "blue"], Agent, Some("blue"), Ok("blue")),
        (&["broken"], Agent, None, Err("ClusterInErrorError")),
        (&["broken"], Server, None, Err("ClusterInErrorError")),
        (
            &["broken"],
            Agent,
            Some("broken"),
            Err("ClusterInErrorError"),
        ),
        (
            &["broken"],
            Server,
            Some("broken"),
            Err("ClusterInErrorError"),
        ),
        (&["broken", "prod"], Agent, Some("prod"), Ok("prod")),
    ];
    for (present, role, named, expected) in rows {
        let mut world = with_clusters(present);
        let command = provision(4, *role, *named);
        let said = format!("{role:?} aimed at {named:?} of {present:?}");
        match expected {
            Ok(cluster) => {
                world.ok(3, command);
                assert_eq!(cluster_of(&world, 4), *cluster, "{said}");
            }
            Err(code) => assert_eq!(world.refused(3, command).code(), *code, "{said}"),
        }
    }
}

#[test]
fn of_two_who_would_found_the_same_cluster_one_does() {
    let mut world = World::for_clusters();
    world.ok(1, provision(1, K3sRole::Server, Some("prod")));
    world.ok(2, provision(2, K3sRole::Server, Some("prod")));
    assert_eq!(world.agreed().clusters.len(), 1);
    let founds = |n| world.prod().is_founded_by(&id(n), world.row(n));
    assert_eq!([founds(1), founds(2)], [true, false]);
}

#[test]
fn a_founder_that_has_to_leave_another_cluster_first_founds_when_it_has() {
    let mut world = World::with_cluster();
    world.k3s_join(2, K3sRole::Server);
    world.ok(1, provision(2, K3sRole::Server, Some("blue")));
    assert_eq!(world.row(2).phase, K3sPhase::Leaving);
    assert_eq!(status(&world, "blue"), "bootstrapping");
    world.k3s(2, K3sPhase::Stopped);
    let (id_of_blue, blue) = world.agreed().find_cluster("blue").unwrap();
    assert_eq!(world.row(2).cluster, id_of_blue);
    assert!(blue.is_founded_by(&id(2), world.row(2)));
    world.k3s(2, K3sPhase::Bootstrap);
    world.k3s(2, version());
    assert_eq!(status(&world, "blue"), "active");
}

#[test]
fn a_cluster_whose_founder_is_sent_elsewhere_before_it_came_is_given_up() {
    let mut world = World::with_cluster();
    world.k3s_join(2, K3sRole::Server);
    world.ok(1, provision(2, K3sRole::Server, Some("blue")));
    world.ok(1, provision(2, K3sRole::Server, Some("green")));
    assert_eq!(status(&world, "blue"), "none");
    assert_eq!(status(&world, "green"), "bootstrapping");
    // Somebody waits there already: it says why nothing comes of it.
    world.ok(1, provision(4, K3sRole::Agent, Some("green")));
    world.ok(1, unassign(2, K3sRole::Server));
    assert_eq!(status(&world, "green"), "error");
    assert!(world.kinds().contains(&EventKind::ClusterFailed));
    let mut world = World::with_cluster();
    world.k3s_join(2, K3sRole::Server);
    world.k3s_join(3, K3sRole::Server);
    world.ok(1, provision(2, K3sRole::Server, Some("blue")));
    world.ok(1, remove(2));
    assert_eq!(status(&world, "blue"), "none");
}

#[test]
fn nobody_else_is_ready_before_the_founder_was() {
    let mut world = World::for_clusters();
    world.ok(1, provision(1, K3sRole::Server, Some("prod")));
    world.ok(1, provision(2, K3sRole::Server, Some("prod")));
    for phase in [K3sPhase::Starting, version()] {
        let command = world.saying(2, phase);
        assert_eq!(world.refused(2, command).code(), "InvalidInputError");
    }
}

#[test]
fn a_node_that_lost_its_disk_is_another_node_to_its_cluster() {
    let mut world = World::with_cluster();
    world.k3s_join(2, K3sRole::Server);
    let attempt = world.row(2).attempt;
    let lost = world.saying(2, K3sPhase::Assigned);
    world.ok(2, lost.clone());
    assert_eq!(world.kinds(), [EventKind::K3sAssigned]);
    let row = world.row(2);
    assert!(row.attempt > attempt && row.token.is_none() && !row.has_been_ready());
    assert_eq!(row.phase, K3sPhase::Assigned);
    assert!(world.prod().departed.contains_key(&name(2)));
    assert_eq!(world.prod_vip().candidates, [id(1)]);
    // The same word twice: it is of the earlier stay.
    world.ignored(2, lost);
    let again = world.saying(2, K3sPhase::Assigned);
    world.ignored(2, again);
    world.k3s(2, K3sPhase::JoinRequest);
    let too_early = world.issuing(2);
    world.ignored(1, too_early);
    let forget = Command::Cluster(ClusterCommand::ForgetNodes {
        cluster: world.row(2).cluster,
        names: world.prod().departed.clone(),
    });
    world.ok(1, forget);
    let command = world.issuing(2);
    world.ok(1, command);
    world.k3s(2, version());
    assert_eq!(world.prod_vip().candidates, [id(1), id(2)]);
}

#[test]
fn a_founder_that_lost_its_disk_founds_anew_before_it_was_ready_and_joins_after() {
    let mut world = World::for_clusters();
    world.ok(1, provision(1, K3sRole::Server, Some("prod")));
    world.k3s(1, K3sPhase::Bootstrap);
    world.k3s(1, K3sPhase::Assigned);
    assert!(world.prod().is_founded_by(&id(1), world.row(1)));
    assert!(world.prod().departed.is_empty());
    world.k3s(1, K3sPhase::Bootstrap);
    world.k3s(1, version());
    world.k3s_join(2, K3sRole::Server);
    world.k3s(1, K3sPhase::Assigned);
    assert!(!world.prod().is_founded_by(&id(1), world.row(1)));
    let again = world.saying(1, K3sPhase::Bootstrap);
    assert_eq!(world.refused(1, again).code(), "InvalidInputError");
    world.k3s(1, K3sPhase::JoinRequest);
    assert_eq!(status(&world, "prod"), "active");
}

#[test]
fn a_last_server_that_lost_its_disk_leaves_a_cluster_in_error() {
    let mut world = World::with_cluster();
    world.k3s_join(4, K3sRole::Agent);
    world.k3s(1, K3sPhase::Assigned);
    assert_eq!(status(&world, "prod"), "error");
    assert!(world.kinds().contains(&EventKind::ClusterFailed));
}

#[test]
fn a_late_word_about_who_is_forgotten_does_not_mean_who_went_since() {
    let mut world = World::with_cluster();
    world.k3s_join(4, K3sRole::Agent);
    world.ok(1, unassign(4, K3sRole::Agent));
    world.k3s(4, K3sPhase::Stopped);
    let forget = Command::Cluster(ClusterCommand::ForgetNodes {
        cluster: world.agreed().find_cluster("prod").unwrap().0,
        names: world.prod().departed.clone(),
    });
    world.ok(1, forget.clone());
    assert!(world.prod().departed.is_empty());
    world.k3s_join(4, K3sRole::Agent);
    world.ok(1, unassign(4, K3sRole::Agent));
    world.k3s(4, K3sPhase::Stopped);
    world.ignored(1, forget);
    assert!(world.prod().departed.contains_key(&name(4)));
}

#[test]
fn names_to_be_forgotten_are_limited() {
    let mut world = World::with_cluster();
    for _ in 0..3 {
        world.k3s_join(4, K3sRole::Agent);
        world.ok(1, unassign(4, K3sRole::Agent));
        world.k3s(4, K3sPhase::Stopped);
        let agreed = std::sync::Arc::make_mut(&mut world.state.agreed);
        let cluster = agreed.clusters.values_mut().next().unwrap();
        cluster.departed.clear();
        for n in 0..DEPARTED_MAX {
            cluster.departed.insert(format!("m{n}"), crate::LogIndex(1));
        }
    }
    world.k3s_join(5, K3sRole::Agent);
    world.ok(1, unassign(5, K3sRole::Agent));
    world.k3s(5, K3sPhase::Stopped);
    assert_eq!(world.prod().departed.len(), DEPARTED_MAX);
    assert!(world.prod().departed.contains_key(&name(5)));
}

#[test]
fn who_was_on_its_way_from_a_cluster_that_is_given_up_has_arrived() {
    let mut world = World::with_cluster();
    world.ok(1, provision(2, K3sRole::Server, Some("blue")));
    world.k3s_join(4, K3sRole::Agent);
    world.ok(1, provision(4, K3sRole::Agent, Some("blue")));
    assert_eq!(world.row(4).phase, K3sPhase::Leaving);
    world.ok(1, decommission_of("prod"));
    assert_eq!(cluster_of(&world, 4), "blue");
    assert_eq!(world.row(4).phase, K3sPhase::Assigned);
}

#[test]
fn a_cluster_that_is_given_up_while_it_is_made_is_gone() {
    let mut world = World::for_clusters();
    world.ok(1, provision(1, K3sRole::Server, Some("prod")));
    world.ok(1, provision(4, K3sRole::Agent, Some("prod")));
    let late = world.saying(1, version());
    world.ok(1, decommission_of("prod"));
    assert_eq!(world.refused(1, late).code(), "K3sNodeNotFoundError");
    assert!(world.agreed().clusters.is_empty() && world.agreed().k3s_nodes.is_empty());
}

#[test]
fn a_k3s_module_that_is_assigned_without_a_word_means_the_only_cluster_or_a_first_one() {
    let mut world = World::for_clusters();
    let refusal = world.refused(1, module(4, Module::K3sAgent));
    assert_eq!(refusal, Refusal::ClusterNone);
    world.ok(1, module(1, Module::K3sServer));
    assert_eq!(cluster_of(&world, 1), "default");
    world.ok(1, module(4, Module::K3sAgent));
    assert_eq!(cluster_of(&world, 4), "default");
    let refusal = world.refused(1, module(4, Module::K3sAgent));
    assert_eq!(refusal.code(), "ModuleAssignedError");
    world.ok(1, provision(2, K3sRole::Server, Some("blue")));
    let refusal = world.refused(1, module(5, Module::K3sAgent));
    assert_eq!(refusal.code(), "ClusterAmbiguousError");
}

#[test]
fn a_cluster_name_leaves_room_for_that_of_its_virtual_ip() {
    let mut world = World::for_clusters();
    let long = "a".repeat(60);
    let refusal = world.refused(1, provision(1, K3sRole::Server, Some(&long)));
    assert_eq!(refusal.code(), "InvalidInputError");
    world.ok(1, provision(1, K3sRole::Server, Some(&long[1..])));
}

#[test]
fn a_selector_is_not_taken_from_the_last_servers_of_others() {
    let mut world = World::with_cluster();
    world.ok(1, label(2, &[("role", "master")], &[]));
    world.ok(1, selecting(K3sRole::Server, &[("role", "master")], None));
    let joins = |world: &mut World, n: u32| {
        world.k3s(n, K3sPhase::JoinRequest);
        let command = world.issuing(n);
        world.ok(1, command);
        world.k3s(n, version());
    };
    joins(&mut world, 2);
    world.k3s_join(4, K3sRole::Agent);
    world.ok(1, unassign(1, K3sRole::Server));
    world.k3s(1, K3sPhase::Stopped);
    let selector = Assignment {
        module: Module::K3sServer,
        target: crate::Target::Selector(labels(&[("role", "master")])),
    };
    let selector = unassigning(selector, &everybody());
    let refusal = world.refused(1, selector.clone());
    assert_eq!(refusal.code(), "ClusterLastServerError");
    world.ok(2, provision(3, K3sRole::Server, Some("prod")));
    world.k3s(3, K3sPhase::JoinRequest);
    let command = world.issuing(3);
    world.ok(2, command);
    world.k3s(3, version());
    world.ok(2, selector);
    assert_eq!(world.row(2).phase, K3sPhase::Leaving);
}

#[test]
fn a_drain_leaves_etcd_its_majority() {
    let mut world = World::with_cluster();
    world.k3s_join(2, K3sRole::Server);
    world.k3s_join(4, K3sRole::Agent);
    let refusal = world.refused(1, drain(2, false));
    assert_eq!(refusal.code(), "ClusterMajorityAtRiskError");
    world.ok(1, drain(4, false));
    world.k3s_join(3, K3sRole::Server);
    world.ok(1, drain(2, false));
    world.k3s(3, broken());
    assert_eq!(
        world.refused(1, drain(1, false)).code(),
        "ClusterLastServerError"
    );
}

#[test]
fn a_pod_prefix_that_comes_later_is_where_pods_are_already_or_is_refused() {
    let mut world = World::with_cluster();
    for elsewhere in ["10.52.0.0/16", "10.42.0.0/17", "10.40.0.0/13"] {
        let refusal = world.refused(1, set_pods(pods(elsewhere)));
        assert_eq!(refusal.code(), "ClusterFixedError", "{elsewhere}");
        assert!(refusal.to_string().contains("10.42.0.0/16"), "{refusal}");
    }
    world.ok(1, set_pods(pods("10.42.0.0/16")));
    assert_eq!(world.turn(), [1]);
    let mut world = World::for_clusters();
    world.ok(1, provision(1, K3sRole::Server, Some("prod")));
    let refusal = world.refused(1, set_pods(pods("10.42.0.0/16")));
    assert_eq!(refusal.code(), "ClusterBusyError");
}

#[test]
fn two_clusters_never_share_a_pod_prefix() {
    let mut world = World::with_cluster();
    world.ok(1, provision(2, K3sRole::Server, Some("blue")));
    world.k3s(2, version());
    let refusal = world.refused(1, set_pods(pods("10.42.0.0/16")));
    assert_eq!(refusal.code(), "PrefixOverlapError");
    let mut world = World::for_clusters();
    world.ok(1, set_pods(pods("10.52.0.0/16")));
    world.ok(1, provision(1, K3sRole::Server, Some("prod")));
    let second = provision(2, K3sRole::Server, Some("blue"));
    assert_eq!(world.refused(1, second).code(), "PrefixOverlapError");
    let on_ovn = Command::Cluster(ClusterCommand::Assign {
        assignment: Assignment::to_node(Module::K3sServer, id(2)),
        cluster: Some("blue".into()),
        network: None,
        cni: Some(Cni::OvnKubernetes),
        binary: K3sBinary::INSTALLED,
        profile: None,
        reachable: everybody(),
        consent: true,
    });
    world.ok(1, on_ovn);
    assert!(world.kinds().contains(&EventKind::PodSubnetPrefixIgnored));
}

#[test]
fn pods_are_not_where_k3s_has_its_services() {
    let mut world = World::for_clusters();
    world.ok(1, set_pods(pods("10.43.0.0/16")));
    let refusal = world.refused(1, provision(1, K3sRole::Server, Some("prod")));
    assert_eq!(refusal.code(), "PrefixOverlapError");
}

#[test]
fn a_dead_node_goes_with_all_that_its_cluster_had_of_it() {
    let mut world = World::with_cluster();
    for server in [2, 3] {
        world.k3s_join(server, K3sRole::Server);
    }
    world.ok(1, set_pods(pods("10.42.0.0/16")));
    let on = world.turn()[0];
    let dead = if on == 2 { 3 } else { 2 };
    world.ok(1, drain(dead, true));
    world.ok(1, remove(dead));
    let agreed = world.agreed();
    assert!(!agreed.k3s_nodes.contains_key(&id(dead)) && !agreed.drains.contains_key(&id(dead)));
    assert!(
        agreed
            .k3s_wishes
            .keys()
            .all(|one| one.target != crate::Target::Node(id(dead)))
    );
    assert!(world.prod().departed.contains_key(&name(dead)));
    assert!(!world.prod_vip().candidates.contains(&id(dead)));
    assert_eq!(world.turn(), [on], "the change goes on without it");
    assert_eq!(world.prod().status, ClusterStatus::Active);
}

#[test]
fn a_removed_node_whose_turn_it_was_gives_it_to_the_next() {
    let mut world = World::with_cluster();
    for server in [2, 3] {
        world.k3s_join(server, K3sRole::Server);
    }
    world.ok(1, set_pods(pods("10.42.0.0/16")));
    let first = world.turn()[0];
    world.k3s(first, broken());
    world.ok(1, remove(first));
    let next: BTreeSet<u32> = world.turn().into_iter().collect();
    assert!(next.len() == 1 && !next.contains(&first), "{next:?}");
}
