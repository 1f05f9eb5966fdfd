//! Whatever is said of clusters in whatever order: one founder, no token for who did not ask, and every
//! row says what is assigned.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{clusters::*, world::*};
use crate::{
    Agreed, Assignment, ClusterCommand, ClusterId, ClusterStatus, Cni, Command, DrainCommand,
    DrainState, IpPrefix, K3sBinary, K3sNode, K3sPhase, K3sRole, LogIndex, Module, NodeId,
    PrefixChange, Role, Target,
    limits::{CLUSTERS_MAX, DEPARTED_MAX},
    wire::v1,
};

/// Raw material of one command.
type Draw = (u8, u8, u8, u8);

/// Nodes that take part.
const NODES: u32 = 6;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_words_founds_twice_or_tells_a_token_to_who_did_not_ask(
        draws in prop::collection::vec(any::<Draw>(), 1..300),
    ) {
        let mut world = World::of(3, NODES);
        for draw in draws {
            step(&mut world, draw);
        }
        let bytes = v1::encode(&world.state);
        prop_assert_eq!(v1::decode::<crate::State>(&bytes).unwrap(), world.state);
    }
}

#[test]
fn the_random_words_found_join_leave_lose_and_change_clusters() {
    use crate::EventKind::*;
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let draws = prop::collection::vec(any::<Draw>(), 300);
    let mut kinds = BTreeSet::new();
    for _ in 0..50 {
        let mut world = World::of(3, NODES);
        for draw in draws.new_tree(&mut runner).unwrap().current() {
            step(&mut world, draw);
        }
        kinds.extend(world.state.events.iter().map(|event| event.kind));
    }
    for kind in [
        K3sAssigned,
        K3sInstalling,
        K3sBootstrap,
        ClusterBootstrapped,
        K3sJoinRequest,
        K3sJoinTokenIssued,
        K3sReady,
        K3sStopped,
        K3sFailed,
        ClusterFailed,
        ClusterDecommissioned,
        RolloutStarted,
        RolloutFailed,
        RolloutFinished,
        NodeDraining,
        NodeDrained,
        NodeUncordoned,
    ] {
        assert!(kinds.contains(&kind), "{kind:?} is not among {kinds:?}");
    }
}

/// Gives a command, and looks at what it changed.
fn step(world: &mut World, draw: Draw) {
    let (kind, a, _, _) = draw;
    let n = u32::from(a) % NODES + 1;
    if kind % 32 == 31 && !world.agreed().nodes.contains_key(&id(n)) {
        let token = world.token(Role::Agent, false);
        let _ = world.give(1, admit_as(enrolment(n), token, &format!("{token}")));
        return;
    }
    let (actor, command) = command(draw, world);
    let before = world.state.agreed.clone();
    let _ = world.give(actor, command);
    check_step(&before, world.agreed(), world.state.applied);
    check(world.agreed());
}

/// A command, sensible more often than not.
pub(super) fn command((kind, a, b, c): Draw, world: &World) -> (u32, Command) {
    let n = u32::from(a) % NODES + 1;
    let role = if b % 3 == 0 {
        K3sRole::Agent
    } else {
        K3sRole::Server
    };
    let cluster = [None, Some("a"), Some("b"), Some("a")][usize::from(c % 4)];
    let command = match kind % 32 {
        0..=3 => assign(n, role, cluster, b),
        4 if b % 2 == 0 => unassign(n, role),
        4 => Command::UnassignModule(Assignment::to_node(role.module(), id(n))),
        5 if b % 4 == 0 => selecting(role, &[("k", "a")], cluster),
        5 => label(n, &[("k", if b % 2 == 0 { "a" } else { "b" })], &[]),
        6..=15 => return (n, reporting(world, n, b, c)),
        16..=20 => return issuing(world, n, b, c),
        21 | 22 => return forgetting(world, n, c),
        23 if b % 8 == 0 => Command::Cluster(ClusterCommand::Decommission {
            cluster: cluster.unwrap_or("default").into(),
        }),
        23..=25 => return upgrading(world, n, b, c),
        26 => remove(n),
        27 => Command::AssignModule(Assignment::to_node(role.module(), id(n))),
        28 if b % 2 == 0 => Command::Drain(DrainCommand::Begin {
            node: name(n),
            timeout_ms: 1000,
            cordon_only: c % 2 == 0,
            force: c % 8 == 1,
            reachable: everybody(),
        }),
        28 if b % 8 == 1 => Command::Drain(DrainCommand::GiveUp {
            node: id(n),
            begun: world
                .agreed()
                .drains
                .get(&id(n))
                .map_or(LogIndex(1), |drain| drain.begun),
        }),
        28 => Command::Drain(DrainCommand::End { node: name(n) }),
        29 => return (n, draining(world, n, b)),
        _ => set_pods(match b % 4 {
            0 => PrefixChange::Clear,
            1 => pods("10.52.0.0/16"),
            _ => pods("10.42.0.0/16"),
        }),
    };
    (1, command)
}

fn assign(n: u32, role: K3sRole, cluster: Option<&str>, b: u8) -> Command {
    let cni = match b % 16 {
        0 => None,
        1 => Some(Cni::OvnKubernetes),
        _ => Some(Cni::Flannel),
    };
    Command::Cluster(ClusterCommand::Assign {
        assignment: Assignment::to_node(role.module(), id(n)),
        cluster: cluster.map(str::to_owned),
        network: None,
        cni: cni.filter(|_| role == K3sRole::Server),
        binary: K3sBinary::INSTALLED,
        profile: None,
        reachable: everybody(),
        consent: true,
    })
}

/// A node's word: of its present stay and with what its cluster wants, most of the time.
fn reporting(world: &World, n: u32, b: u8, c: u8) -> Command {
    let row = world.agreed().k3s_nodes.get(&id(n));
    let attempt = row.map_or(LogIndex(1), |row| row.attempt);
    let cluster = row.and_then(|row| world.agreed().clusters.get(&row.cluster));
    let leaving = row.is_some_and(K3sNode::is_leaving);
    let phase = match b % 16 {
        _ if leaving && !b.is_multiple_of(4) => K3sPhase::Stopped,
        0 => K3sPhase::Assigned,
        1 | 2 => K3sPhase::Installing,
        3 => K3sPhase::Bootstrap,
        4..=7 => K3sPhase::JoinRequest,
        8 => K3sPhase::Starting,
        9 => broken(),
        10 => K3sPhase::Stopped,
        11 => K3sPhase::Drained,
        12 => version(),
        _ => match row.and_then(|row| row.binary.version.clone()) {
            Some(version) => K3sPhase::Ready { version },
            None => version(),
        },
    };
    Command::Cluster(ClusterCommand::Report {
        attempt: if c.is_multiple_of(16) {
            LogIndex(attempt.0 - 1)
        } else {
            attempt
        },
        phase,
        generation: match cluster {
            Some(cluster) if c % 8 != 1 => cluster.generation,
            Some(_) | None => LogIndex(1),
        },
        pods: match c % 4 {
            0 => prefixes(&["10.42.1.0/24"]),
            _ => prefixes(&[&format!("10.42.{}.0/24", 10 + n)]),
        },
    })
}

/// A token for a node, by a ready server of its cluster most of the time.
fn issuing(world: &World, n: u32, b: u8, c: u8) -> (u32, Command) {
    let row = world.agreed().k3s_nodes.get(&id(n));
    let attempt = row.map_or(LogIndex(1), |row| row.attempt);
    let ready = |m: &u32| {
        let server = world.agreed().k3s_nodes.get(&id(*m));
        let both = server.zip(row);
        both.is_some_and(|(server, row)| server.is_ready() && server.cluster == row.cluster)
    };
    let by = (1..=NODES).find(ready).filter(|_| !c.is_multiple_of(16));
    let command = ClusterCommand::IssueToken {
        node: id(n),
        attempt: if c % 8 == 1 {
            LogIndex(attempt.0 - 1)
        } else {
            attempt
        },
        token: token_for(if c % 32 == 2 { n + 1 } else { n }),
    };
    (
        by.unwrap_or(u32::from(b) % NODES + 1),
        Command::Cluster(command),
    )
}

fn forgetting(world: &World, n: u32, c: u8) -> (u32, Command) {
    let row = world.agreed().k3s_nodes.get(&id(n));
    let of = |row: &K3sNode| (row.cluster, world.agreed().clusters[&row.cluster].clone());
    let Some((cluster, row)) = row.map(of) else {
        return (n, decommission(n));
    };
    let mut names = row.departed;
    if c.is_multiple_of(4) {
        names.values_mut().for_each(|went| went.0 += 1);
    }
    (
        n,
        Command::Cluster(ClusterCommand::ForgetNodes { cluster, names }),
    )
}

/// An upgrade; and with it, or it would hardly ever be allowed, a word of some node that it is ready.
fn upgrading(world: &World, n: u32, b: u8, c: u8) -> (u32, Command) {
    if b % 4 != 1 {
        return (n, reporting(world, n, 13, 3));
    }
    let cluster = ["a", "b", "default"][usize::from(c % 3)];
    let binary = K3sBinary {
        version: Some(format!("v1.{}.0+k3s1", c % 2)),
        ..K3sBinary::INSTALLED
    };
    let upgrade = ClusterCommand::Upgrade {
        cluster: cluster.into(),
        binary,
        batch: 2,
    };
    (n, Command::Cluster(upgrade))
}

fn draining(world: &World, n: u32, b: u8) -> Command {
    let begun = world.agreed().drains.get(&id(n)).map(|drain| drain.begun);
    let state = match b % 3 {
        0 => DrainState::Drained,
        1 => DrainState::Failed {
            reason: "no".into(),
        },
        _ => DrainState::Draining {
            waits_for: "a pod".into(),
        },
    };
    Command::Drain(DrainCommand::Report {
        begun: begun.unwrap_or(LogIndex(1)),
        state,
    })
}

/// What must hold from one state to the next.
fn check_step(before: &Agreed, after: &Agreed, index: LogIndex) {
    for (cluster, now) in &after.clusters {
        let Some(was) = before.clusters.get(cluster) else {
            assert_eq!(now.status, ClusterStatus::Bootstrapping);
            continue;
        };
        assert_eq!(was.founder, now.founder, "a founder stays");
        let open = was.status == ClusterStatus::Bootstrapping;
        assert!(open || was.founded == now.founded, "founded twice");
        assert!(open || now.status != ClusterStatus::Bootstrapping);
    }
    for (node, now) in after.k3s_nodes.iter() {
        let was = before.k3s_nodes.get(node);
        let same = was.filter(|was| was.attempt == now.attempt);
        match same {
            Some(was) => {
                assert_eq!((was.cluster, was.role), (now.cluster, now.role));
                let asked = was.phase == K3sPhase::JoinRequest;
                assert!(
                    was.token == now.token || asked,
                    "a token for who did not ask"
                );
            }
            None => {
                assert_eq!((now.attempt, &now.token), (index, &None));
                let left = was.is_none_or(|was| {
                    was.is_leaving()
                        || was.cluster == now.cluster
                        || !after.clusters.contains_key(&was.cluster)
                });
                assert!(left, "it entered a cluster before it had left another");
            }
        }
    }
}

/// What must hold of every state.
pub(super) fn check(agreed: &Agreed) {
    assert!(agreed.clusters.len() <= CLUSTERS_MAX);
    let names: BTreeSet<_> = agreed.clusters.values().map(|one| &one.name).collect();
    assert_eq!(names.len(), agreed.clusters.len(), "names are unique");
    for id in agreed.clusters.keys() {
        check_cluster(agreed, *id);
    }
    for id in agreed.nodes.keys() {
        check_node(agreed, id);
    }
    let mut pods: BTreeMap<IpPrefix, &NodeId> = BTreeMap::new();
    for (id, row) in agreed.k3s_nodes.iter() {
        assert!(agreed.nodes.contains_key(id), "a row of nobody");
        for prefix in &row.pods {
            let inside = agreed.clusters[&row.cluster].pod_prefix;
            assert!(inside.is_some_and(|all| all.contains(*prefix)), "{prefix}");
            assert!(pods.insert(*prefix, id).is_none(), "{prefix} twice");
        }
    }
    for wish in agreed.k3s_wishes.keys() {
        assert!(agreed.assignments.contains(wish), "a wish of nobody");
    }
    for one in &agreed.assignments {
        let is_k3s = one.module != Module::DockerEngine;
        assert!(!is_k3s || agreed.k3s_wishes.contains_key(one), "{one:?}");
    }
    for node in agreed.drains.keys() {
        assert!(agreed.nodes.contains_key(node), "a drain of nobody");
    }
}

fn check_cluster(agreed: &Agreed, id: ClusterId) {
    let cluster = &agreed.clusters[&id];
    assert!(agreed.networks.contains_key(&cluster.network));
    assert!(cluster.departed.len() <= DEPARTED_MAX);
    let departed = |name: &String| cluster.departed.contains_key(name);
    assert!(cluster.lost.iter().all(departed), "lost and not departed");
    let vip = &agreed.virtual_ips[&cluster.vip];
    assert_eq!(vip.network, cluster.network);
    let bootstrapping = cluster.status == ClusterStatus::Bootstrapping;
    for candidate in &vip.candidates {
        let row = agreed.k3s_nodes.get(candidate);
        let serves = row.is_some_and(|row| {
            (row.cluster, row.role) == (id, K3sRole::Server) && !row.is_leaving()
        });
        assert!(serves || (bootstrapping && *candidate == cluster.founder));
    }
    if bootstrapping {
        let wanted = agreed.wanted_k3s(&cluster.founder);
        assert_eq!(wanted.map(|wanted| wanted.cluster), Some(id), "no founder");
    }
    for (node, row) in agreed.k3s_nodes_of(id) {
        let founds = cluster.is_founded_by(node, row);
        let inside = row.token.is_some() || row.has_been_ready();
        assert!(!bootstrapping || founds || !inside, "in before the founder");
    }
    let mut servers = agreed.k3s_servers_of(id).map(|(_, row)| row);
    let lives = servers.any(|row| row.has_been_ready() && !row.is_leaving());
    assert!(
        lives || cluster.status != ClusterStatus::Active,
        "no server"
    );
    if let Some(rollout) = &cluster.rollout {
        let row = |node: &NodeId| agreed.k3s_nodes.get(node).filter(|row| row.cluster == id);
        let servers = rollout.turn.iter().filter_map(row);
        let servers = servers.filter(|row| row.role == K3sRole::Server).count();
        assert!(servers <= 1 && rollout.turn.iter().all(|node| row(node).is_some()));
    }
}

fn check_node(agreed: &Agreed, id: &NodeId) {
    let wanted = agreed.wanted_k3s(id);
    let Some(row) = agreed.k3s_nodes.get(id) else {
        assert_eq!(wanted, None, "it is wanted and not there");
        return;
    };
    assert!(agreed.clusters.contains_key(&row.cluster), "in no cluster");
    if !row.is_leaving() {
        let wanted = wanted.map(|wanted| (wanted.cluster, wanted.role));
        assert_eq!(wanted, Some((row.cluster, row.role)), "it is not wanted");
    }
    if let Some(token) = &row.token {
        let own = BTreeSet::from([agreed.nodes[id].sealing_recipient.clone()]);
        assert_eq!(token.recipients, own, "a token for others");
    }
    let target = Target::Node(id.clone());
    let roles = [Module::K3sServer, Module::K3sAgent].map(|module| Assignment {
        module,
        target: target.clone(),
    });
    let both = roles.iter().all(|one| agreed.assignments.contains(one));
    assert!(!both, "server and agent at once");
}
