//! One of everything about clusters and drains: for the tables of golden bytes, and for damaged inputs.

use std::collections::{BTreeMap, BTreeSet};

use super::{clusters::*, world::*};
use crate::{
    Assignment, BinaryOrigin, ClusterCommand, ClusterId, Cni, Command, DrainCommand, DrainState,
    Envelope, K3sBinary, K3sPhase, K3sRole, LogIndex, Refusal, wire::v1,
};

const CLUSTER: ClusterId = ClusterId::from_bytes([6; 16]);

/// One of each kind, in the order of their numbers on the wire.
pub(super) fn cluster_commands() -> Vec<ClusterCommand> {
    let binary = K3sBinary {
        origin: Some(BinaryOrigin::Url {
            url: "https://files/k3s".into(),
            sha256: [3; 32],
        }),
        version: Some("v1.31.2+k3s1".into()),
        images: Some("/srv/images".into()),
    };
    vec![
        ClusterCommand::Assign {
            assignment: Assignment::to_node(K3sRole::Server.module(), id(2)),
            cluster: Some("prod".into()),
            network: Some("default".into()),
            cni: Some(Cni::OvnKubernetes),
            binary,
            profile: Some(crate::LeaseProfile::Wan),
            reachable: BTreeSet::from([id(1), id(2)]),
            consent: true,
        },
        report(version()),
        ClusterCommand::IssueToken {
            node: id(2),
            attempt: LogIndex(7),
            token: token_for(2),
        },
        ClusterCommand::ForgetNodes {
            cluster: CLUSTER,
            names: BTreeMap::from([(name(2), LogIndex(9))]),
        },
        ClusterCommand::Decommission {
            cluster: "prod".into(),
        },
        ClusterCommand::Upgrade {
            cluster: "prod".into(),
            binary: K3sBinary {
                origin: Some(BinaryOrigin::Path("/srv/k3s".into())),
                ..K3sBinary::INSTALLED
            },
            batch: 2,
        },
        ClusterCommand::Unassign {
            assignment: Assignment::to_node(K3sRole::Agent.module(), id(2)),
            reachable: BTreeSet::from([id(1), id(2)]),
            consent: true,
        },
    ]
}

fn report(phase: K3sPhase) -> ClusterCommand {
    ClusterCommand::Report {
        attempt: LogIndex(7),
        phase,
        generation: LogIndex(8),
        pods: prefixes(&["10.42.1.0/24"]),
    }
}

/// Every phase, in the order of their numbers.
fn phases() -> Vec<K3sPhase> {
    vec![
        K3sPhase::Assigned,
        K3sPhase::Installing,
        K3sPhase::Bootstrap,
        K3sPhase::JoinRequest,
        K3sPhase::JoinTokenIssued,
        K3sPhase::Starting,
        version(),
        K3sPhase::Leaving,
        K3sPhase::Stopped,
        broken(),
        K3sPhase::Drained,
    ]
}

/// One of each kind, in the order of their numbers.
pub(super) fn drain_commands() -> Vec<DrainCommand> {
    let mut commands = vec![DrainCommand::Begin {
        node: name(2),
        timeout_ms: 600_000,
        cordon_only: true,
        force: true,
        reachable: BTreeSet::from([id(1), id(2)]),
    }];
    commands.extend(states().into_iter().take(1).map(told));
    commands.push(DrainCommand::End { node: name(2) });
    commands.push(DrainCommand::GiveUp {
        node: id(2),
        begun: LogIndex(5),
    });
    commands
}

fn told(state: DrainState) -> DrainCommand {
    DrainCommand::Report {
        begun: LogIndex(5),
        state,
    }
}

fn states() -> Vec<DrainState> {
    vec![
        DrainState::Draining {
            waits_for: "pod d/web: its budget".into(),
        },
        DrainState::Drained,
        DrainState::Failed {
            reason: "not in time".into(),
        },
    ]
}

/// What has no number of its own in the table of commands, by name.
pub(super) fn values(envelope: impl Fn(Command) -> Envelope) -> Vec<(String, Vec<u8>)> {
    let encoded = |name: String, command| (name, v1::encode(&envelope(command)));
    let mut values = Vec::new();
    for command in cluster_commands() {
        let name = format!("cluster {}", command.name());
        values.push(encoded(name, Command::Cluster(command)));
    }
    for phase in phases() {
        let name = format!("report_k3s {}", phase.as_str());
        values.push(encoded(name, Command::Cluster(report(phase))));
    }
    for command in drain_commands() {
        let name = format!("drain {}", command.name());
        values.push(encoded(name, Command::Drain(command)));
    }
    for state in states() {
        let name = format!("report_drain {}", state.as_str());
        values.push(encoded(name, Command::Drain(told(state))));
    }
    values
}

#[test]
fn the_tables_have_every_word_about_clusters_and_drains() {
    let numbers = |values: Vec<Vec<u8>>| -> Vec<usize> {
        values.iter().map(|bytes| usize::from(bytes[0])).collect()
    };
    let encode = |value: &dyn Fn() -> Result<Vec<u8>, postcard::Error>| value().unwrap();
    let clusters = cluster_commands();
    let clusters = clusters
        .iter()
        .map(|one| encode(&|| postcard::to_stdvec(one)));
    assert_eq!(numbers(clusters.collect()), [0, 1, 2, 3, 4, 5, 6]);
    assert!(postcard::from_bytes::<ClusterCommand>(&[7]).is_err());
    let drains = drain_commands();
    let drains = drains
        .iter()
        .map(|one| encode(&|| postcard::to_stdvec(one)));
    assert_eq!(numbers(drains.collect()), [0, 1, 2, 3]);
    let all = phases();
    let count = all.len();
    let all = all.iter().map(|one| encode(&|| postcard::to_stdvec(one)));
    assert_eq!(numbers(all.collect()), (0..count).collect::<Vec<_>>());
    // A variant that exists would ask for its fields, or be one.
    let beyond = u8::try_from(count).unwrap();
    let error = postcard::from_bytes::<K3sPhase>(&[beyond]).unwrap_err();
    assert_eq!(error, postcard::Error::SerdeDeCustom);
    // The word that came last.
    let stays = "x".to_owned();
    let except = DrainState::DrainedExcept { stays };
    assert_eq!(encode(&|| postcard::to_stdvec(&except)), [3, 1, b'x']);
}

/// One refusal of each kind, in the order of their numbers.
pub(super) fn refusals() -> Vec<Refusal> {
    let text = |text: &str| text.to_owned();
    let (node, cluster) = (|| text("n2"), || text("prod"));
    vec![
        Refusal::ClusterUnknown { cluster: cluster() },
        Refusal::ClusterNone,
        Refusal::ClusterAmbiguous {
            clusters: text("blue, prod"),
        },
        Refusal::ClusterInError {
            cluster: cluster(),
            reason: text("its last server is gone"),
        },
        Refusal::ClusterFixed {
            cluster: cluster(),
            what: text("CNI"),
            is: text("flannel"),
        },
        Refusal::ClusterBusy {
            cluster: cluster(),
            why: text("is bootstrapping"),
        },
        Refusal::ClusterLastServer {
            node: node(),
            cluster: cluster(),
        },
        Refusal::ClusterMajorityAtRisk {
            node: node(),
            cluster: cluster(),
            serving: 1,
            servers: 3,
            needed: 2,
        },
        Refusal::ClusterUsesPeer {
            node: node(),
            network: text("default"),
            cluster: cluster(),
        },
        Refusal::ClusterUsesVip {
            vip: text("k3s-prod"),
            cluster: cluster(),
        },
        Refusal::CniProfileMismatch {
            node: node(),
            profile: text("lightweight"),
            cni: text("ovn_kubernetes"),
        },
        Refusal::K3sNodeUnknown { node: node() },
        Refusal::K3sRoleTaken {
            node: node(),
            has: text("k3s-agent"),
        },
        Refusal::K3sRuns {
            node: node(),
            cluster: cluster(),
        },
        Refusal::NotClusterServer {
            node: node(),
            cluster: cluster(),
        },
        Refusal::TokenSealedToOthers { node: node() },
        Refusal::NotDrained { node: node() },
        Refusal::NodeDrained { node: node() },
        Refusal::ConsentRequired {
            nodes: text("n2 (server of prod)"),
        },
    ]
}

/// The codes of the refusals that are reached in the tests of clusters.
pub(super) fn codes() -> BTreeSet<&'static str> {
    let mut codes = codes_of_aims();
    codes.extend(codes_of_nodes());
    codes
}

fn aimed(n: u32, role: K3sRole, cluster: &str, cni: Cni) -> Command {
    Command::Cluster(ClusterCommand::Assign {
        assignment: Assignment::to_node(role.module(), id(n)),
        cluster: Some(cluster.into()),
        network: None,
        cni: Some(cni),
        binary: K3sBinary::INSTALLED,
        profile: None,
        reachable: everybody(),
        consent: true,
    })
}

fn codes_of_aims() -> BTreeSet<&'static str> {
    let mut empty = World::for_clusters();
    let mut world = World::with_cluster();
    world.k3s_join(4, K3sRole::Agent);
    let mut several = world.clone();
    several.ok(1, provision(2, K3sRole::Server, Some("blue")));
    let mut lost = world.clone();
    lost.k3s(1, K3sPhase::Assigned);
    let mut small = world.clone();
    let agreed = std::sync::Arc::make_mut(&mut small.state.agreed);
    let row = agreed.nodes.get_mut(&id(5)).unwrap();
    row.network_profile = crate::NetworkProfile::Lightweight;
    let nameless = || provision(5, K3sRole::Agent, None);
    let ovn = |role, cluster| aimed(5, role, cluster, Cni::OvnKubernetes);
    let other = K3sBinary {
        version: Some("v1.32.0+k3s1".into()),
        ..K3sBinary::INSTALLED
    };
    let other = with_binary(1, K3sRole::Server, Some("prod"), other);
    let vip = "k3s-prod".into();
    BTreeSet::from([
        empty.refused(1, nameless()).code(),
        empty
            .refused(1, provision(4, K3sRole::Agent, Some("prod")))
            .code(),
        several.refused(1, nameless()).code(),
        lost.refused(1, nameless()).code(),
        world.refused(1, ovn(K3sRole::Agent, "prod")).code(),
        small.refused(1, ovn(K3sRole::Server, "ovn")).code(),
        world.refused(1, provision(1, K3sRole::Agent, None)).code(),
        world.refused(1, other).code(),
        world.refused(1, detach(1)).code(),
        world.refused(1, Command::DeleteVip { vip }).code(),
    ])
}

fn codes_of_nodes() -> BTreeSet<&'static str> {
    let mut world = World::with_cluster();
    world.k3s_join(4, K3sRole::Agent);
    let mut two = world.clone();
    two.k3s_join(2, K3sRole::Server);
    let mut drained = world.clone();
    drained.ok(1, drain(4, false));
    let mut asks = world.clone();
    asks.ok(1, provision(2, K3sRole::Server, Some("prod")));
    asks.k3s(2, K3sPhase::JoinRequest);
    let stranger = asks.issuing(2);
    let token = |attempt| {
        Command::Cluster(ClusterCommand::IssueToken {
            node: id(2),
            attempt,
            token: token_for(3),
        })
    };
    let to_others = token(asks.row(2).attempt);
    let mut chosen = world.clone();
    chosen.ok(1, label(5, &[("role", "worker")], &[]));
    chosen.ok(1, selecting(K3sRole::Agent, &[("role", "worker")], None));
    let end = Command::Drain(DrainCommand::End { node: name(2) });
    BTreeSet::from([
        asks.refused(1, upgrade("v1.32.0+k3s1")).code(),
        world.refused(1, unassign(1, K3sRole::Server)).code(),
        two.refused(1, drain(2, false)).code(),
        world.refused(1, token(LogIndex(7))).code(),
        asks.refused(4, stranger).code(),
        asks.refused(1, to_others).code(),
        world.refused(1, end).code(),
        drained.refused(1, cordon(4)).code(),
        chosen.refused(1, label_unasked(5, &[], &["role"])).code(),
    ])
}

/// A cluster with a bit of everything: servers and an agent, one that asks and one that was lost, pods
/// that are routed, a change that stopped, and a drain.
pub(super) fn fill(world: &mut World) {
    world.ok(1, attach_to(1, "blue"));
    world.ok(1, attach_to(3, "blue"));
    let found = ClusterCommand::Assign {
        assignment: Assignment::to_node(K3sRole::Server.module(), id(1)),
        cluster: Some("prod".into()),
        network: Some("blue".into()),
        cni: Some(Cni::Flannel),
        binary: K3sBinary::INSTALLED,
        profile: None,
        reachable: everybody(),
        consent: true,
    };
    world.ok(1, Command::Cluster(found));
    world.k3s(1, K3sPhase::Bootstrap);
    let ready = world.with_pods(1, &["10.42.0.0/24"]);
    world.ok(1, ready);
    world.k3s_join(2, K3sRole::Server);
    world.k3s_join(3, K3sRole::Server);
    world.k3s(3, K3sPhase::Assigned);
    world.ok(1, unassign(3, K3sRole::Server));
    world.k3s(3, K3sPhase::Stopped);
    world.ok(1, upgrade("v1.32.0+k3s1"));
    world.k3s(2, broken());
    world.ok(1, provision(3, K3sRole::Agent, Some("prod")));
    world.k3s(3, K3sPhase::JoinRequest);
    world.ok(1, drain(3, false));
}
