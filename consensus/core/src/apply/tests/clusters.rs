//! K3s clusters: one founder, a token for who asked, and a server as long as anybody is in it.

use std::collections::BTreeSet;

use super::world::*;
use crate::{
    Assignment, BinaryOrigin, Cluster, ClusterCommand, ClusterId, ClusterStatus, Cni, Command,
    DrainCommand, DrainState, Enrolment, EventKind, K3sBinary, K3sNode, K3sPhase, K3sRole,
    LogIndex, NetworkChange, NetworkProfile, PrefixChange, Refusal, Role, RolloutKind, SealedKey,
    Target, VirtualIp, limits::CLUSTERS_MAX,
};

pub(super) fn provision(n: u32, role: K3sRole, cluster: Option<&str>) -> Command {
    with_binary(n, role, cluster, K3sBinary::INSTALLED)
}

pub(super) fn with_binary(
    n: u32,
    role: K3sRole,
    cluster: Option<&str>,
    binary: K3sBinary,
) -> Command {
    Command::Cluster(ClusterCommand::Assign {
        assignment: Assignment::to_node(role.module(), id(n)),
        cluster: cluster.map(str::to_owned),
        network: None,
        cni: Some(Cni::Flannel).filter(|_| role == K3sRole::Server),
        binary,
        profile: None,
        reachable: everybody(),
        consent: true,
    })
}

pub(super) fn selecting(role: K3sRole, pairs: &[(&str, &str)], cluster: Option<&str>) -> Command {
    Command::Cluster(ClusterCommand::Assign {
        assignment: Assignment {
            module: role.module(),
            target: Target::Selector(labels(pairs)),
        },
        cluster: cluster.map(str::to_owned),
        network: None,
        cni: None,
        binary: K3sBinary::INSTALLED,
        profile: None,
        reachable: everybody(),
        consent: true,
    })
}

pub(super) fn unassign(n: u32, role: K3sRole) -> Command {
    unassigning(Assignment::to_node(role.module(), id(n)), &everybody_of(20))
}

pub(super) fn unassigning(assignment: Assignment, heard: &BTreeSet<crate::NodeId>) -> Command {
    Command::Cluster(ClusterCommand::Unassign {
        assignment,
        reachable: heard.clone(),
        consent: true,
    })
}

pub(super) fn version() -> K3sPhase {
    K3sPhase::Ready {
        version: "v1.31.2+k3s1".into(),
    }
}

pub(super) fn broken() -> K3sPhase {
    K3sPhase::Failed {
        reason: "no etcd".into(),
        code: "K3sStartError".into(),
        retry_at: START,
    }
}

pub(super) fn token_for(n: u32) -> SealedKey {
    sealed(BTreeSet::from([recipient(n)]))
}

pub(super) fn upgrade(to: &str) -> Command {
    Command::Cluster(ClusterCommand::Upgrade {
        cluster: "prod".into(),
        binary: K3sBinary {
            origin: Some(BinaryOrigin::Path("/srv/k3s".into())),
            version: Some(to.into()),
            images: None,
        },
        batch: 2,
    })
}

pub(super) fn drain(n: u32, force: bool) -> Command {
    Command::Drain(DrainCommand::Begin {
        node: name(n),
        timeout_ms: 600_000,
        cordon_only: false,
        force,
        reachable: everybody(),
    })
}

/// Lets nothing new come to a node.
pub(super) fn cordon(n: u32) -> Command {
    Command::Drain(DrainCommand::Begin {
        node: name(n),
        timeout_ms: 600_000,
        cordon_only: true,
        force: false,
        reachable: everybody(),
    })
}

impl World {
    /// Three servers of the mesh and three agents; nothing assigned.
    pub(super) fn for_clusters() -> Self {
        Self::of(3, 6)
    }

    /// The same, with a cluster `prod` of node 1, which is ready.
    pub(super) fn with_cluster() -> Self {
        let mut world = Self::for_clusters();
        world.ok(1, provision(1, K3sRole::Server, Some("prod")));
        world.k3s(1, K3sPhase::Installing);
        world.k3s(1, K3sPhase::Bootstrap);
        world.k3s(1, version());
        world
    }

    /// Lets node `n` join `prod` all the way.
    pub(super) fn k3s_join(&mut self, n: u32, role: K3sRole) {
        self.ok(1, provision(n, role, Some("prod")));
        self.k3s(n, K3sPhase::Installing);
        self.k3s(n, K3sPhase::JoinRequest);
        let command = self.issuing(n);
        self.ok(1, command);
        self.k3s(n, K3sPhase::Starting);
        self.k3s(n, version());
    }

    pub(super) fn row(&self, n: u32) -> &K3sNode {
        &self.agreed().k3s_nodes[&id(n)]
    }

    pub(super) fn prod(&self) -> &Cluster {
        self.agreed().find_cluster("prod").unwrap().1
    }

    pub(super) fn prod_vip(&self) -> &VirtualIp {
        &self.agreed().virtual_ips[&self.prod().vip]
    }

    pub(super) fn saying(&self, n: u32, phase: K3sPhase) -> Command {
        let row = self.row(n);
        Command::Cluster(ClusterCommand::Report {
            attempt: row.attempt,
            phase,
            generation: self.agreed().clusters[&row.cluster].generation,
            pods: BTreeSet::new(),
        })
    }

    /// Ready as it was before, in spite of newer settings.
    fn old_ready(&self, n: u32) -> Command {
        Command::Cluster(ClusterCommand::Report {
            attempt: self.row(n).attempt,
            phase: version(),
            generation: LogIndex(1),
            pods: BTreeSet::new(),
        })
    }

    pub(super) fn with_pods(&self, n: u32, pods: &[&str]) -> Command {
        Command::Cluster(ClusterCommand::Report {
            attempt: self.row(n).attempt,
            phase: version(),
            generation: self.prod().generation,
            pods: prefixes(pods),
        })
    }

    /// Ready with the K3s that it is to run.
    pub(super) fn its_version(&self, n: u32) -> K3sPhase {
        match self.row(n).binary.version.clone() {
            Some(version) => K3sPhase::Ready { version },
            None => version(),
        }
    }

    /// Says so.
    pub(super) fn k3s_ready(&mut self, n: u32) {
        let phase = self.its_version(n);
        self.k3s(n, phase);
    }

    pub(super) fn k3s(&mut self, n: u32, phase: K3sPhase) {
        let command = self.saying(n, phase);
        self.ok(n, command);
    }

    pub(super) fn issuing(&self, n: u32) -> Command {
        Command::Cluster(ClusterCommand::IssueToken {
            node: id(n),
            attempt: self.row(n).attempt,
            token: token_for(n),
        })
    }

    pub(super) fn turn(&self) -> Vec<u32> {
        let turn = &self.prod().rollout.as_ref().unwrap().turn;
        (1..=6).filter(|n| turn.contains(&id(*n))).collect()
    }
}

#[test]
fn a_founding_makes_the_cluster_its_address_and_its_first_node_at_once() {
    let mut world = World::for_clusters();
    world.ok(1, provision(2, K3sRole::Server, Some("prod")));
    assert_eq!(
        world.kinds(),
        [EventKind::VipAllocated, EventKind::K3sAssigned]
    );
    let cluster = world.prod();
    assert_eq!(cluster.founder, id(2));
    assert_eq!(cluster.status, ClusterStatus::Bootstrapping);
    assert_eq!(world.prod_vip().holder, Some(id(2)));
    assert_eq!(world.prod_vip().name, "k3s-prod");
    let endpoint = world.agreed().api_endpoint(cluster).unwrap();
    assert_eq!(
        endpoint,
        format!("https://[{}]:6443", world.prod_vip().address)
    );
    assert_eq!(world.row(2).phase, K3sPhase::Assigned);
}

#[test]
fn a_founder_that_is_ready_makes_its_cluster_active() {
    let mut world = World::for_clusters();
    world.ok(1, provision(1, K3sRole::Server, Some("prod")));
    world.k3s(1, K3sPhase::Bootstrap);
    assert_eq!(world.kinds(), [EventKind::K3sBootstrap]);
    assert_eq!(world.prod().status, ClusterStatus::Bootstrapping);
    world.k3s(1, version());
    assert_eq!(
        world.kinds(),
        [EventKind::K3sReady, EventKind::ClusterBootstrapped]
    );
    assert_eq!(world.prod().status, ClusterStatus::Active);
    assert_eq!(world.prod().version.as_deref(), Some("v1.31.2+k3s1"));
}

#[test]
fn nobody_but_the_founder_bootstraps_and_it_does_so_once() {
    let mut world = World::for_clusters();
    world.ok(1, provision(1, K3sRole::Server, Some("prod")));
    world.ok(1, provision(2, K3sRole::Server, Some("prod")));
    let command = world.saying(2, K3sPhase::Bootstrap);
    let refusal = world.refused(2, command);
    assert_eq!(refusal.code(), "InvalidInputError");
    let command = world.saying(1, K3sPhase::JoinRequest);
    assert_eq!(world.refused(1, command).code(), "InvalidInputError");
    world.k3s(1, version());
    let command = world.saying(1, K3sPhase::Bootstrap);
    assert_eq!(world.refused(1, command).code(), "InvalidInputError");
}

#[test]
fn a_node_asks_for_a_token_only_once_its_cluster_is_active() {
    let mut world = World::for_clusters();
    world.ok(1, provision(1, K3sRole::Server, Some("prod")));
    world.ok(1, provision(4, K3sRole::Agent, Some("prod")));
    let command = world.saying(4, K3sPhase::JoinRequest);
    assert_eq!(world.refused(4, command).code(), "InvalidInputError");
    world.k3s(1, version());
    world.k3s(4, K3sPhase::JoinRequest);
    assert_eq!(world.kinds(), [EventKind::K3sJoinRequest]);
}

#[test]
fn a_token_comes_from_a_ready_server_of_the_cluster_alone() {
    let mut world = World::with_cluster();
    world.ok(1, provision(2, K3sRole::Server, Some("prod")));
    world.ok(1, provision(4, K3sRole::Agent, Some("prod")));
    world.k3s(4, K3sPhase::JoinRequest);
    for stranger in [2, 3, 4] {
        let command = world.issuing(4);
        let refusal = world.refused(stranger, command);
        assert_eq!(refusal.code(), "NotClusterServerError", "node {stranger}");
    }
    let command = world.issuing(4);
    world.ok(1, command);
    assert_eq!(world.kinds(), [EventKind::K3sJoinTokenIssued]);
    assert_eq!(world.row(4).token, Some(token_for(4)));
}

#[test]
fn a_token_is_sealed_to_the_node_that_asked() {
    let mut world = World::with_cluster();
    world.ok(1, provision(4, K3sRole::Agent, Some("prod")));
    world.k3s(4, K3sPhase::JoinRequest);
    for recipients in [
        BTreeSet::new(),
        BTreeSet::from([recipient(5)]),
        BTreeSet::from([recipient(4), recipient(5)]),
    ] {
        let command = Command::Cluster(ClusterCommand::IssueToken {
            node: id(4),
            attempt: world.row(4).attempt,
            token: sealed(recipients),
        });
        let refusal = world.refused(1, command);
        assert_eq!(refusal.code(), "TokenSealedToOthersError");
    }
}

#[test]
fn a_token_that_comes_late_twice_or_for_an_earlier_stay_changes_nothing() {
    let mut world = World::with_cluster();
    world.ok(1, provision(4, K3sRole::Agent, Some("prod")));
    let too_early = world.issuing(4);
    world.ignored(1, too_early);
    world.k3s(4, K3sPhase::JoinRequest);
    let old = world.issuing(4);
    world.ok(1, old.clone());
    world.ignored(1, old.clone());
    // The report was on its way while the token was issued.
    let crossing = world.saying(4, K3sPhase::JoinRequest);
    world.ignored(4, crossing);
    world.ok(1, unassign(4, K3sRole::Agent));
    world.k3s(4, K3sPhase::Stopped);
    world.ok(1, provision(4, K3sRole::Agent, Some("prod")));
    world.k3s(4, K3sPhase::JoinRequest);
    world.ignored(1, old);
}

#[test]
fn a_request_that_its_token_has_overtaken_takes_nothing_away() {
    let mut world = World::with_cluster();
    world.ok(1, provision(4, K3sRole::Agent, Some("prod")));
    world.k3s(4, K3sPhase::JoinRequest);
    let late = world.saying(4, K3sPhase::JoinRequest);
    let command = world.issuing(4);
    world.ok(1, command);
    world.ignored(4, late.clone());
    world.k3s(4, version());
    world.ignored(4, late);
}

#[test]
fn a_server_that_is_ready_may_hold_the_api_address_and_an_agent_may_not() {
    let mut world = World::with_cluster();
    world.k3s_join(2, K3sRole::Server);
    world.k3s_join(4, K3sRole::Agent);
    assert_eq!(world.prod_vip().candidates, [id(1), id(2)]);
    world.ok(1, unassign(2, K3sRole::Server));
    assert_eq!(world.prod_vip().candidates, [id(1)]);
}

#[test]
fn which_cluster_is_meant_is_never_guessed() {
    let mut world = World::for_clusters();
    let refusal = world.refused(1, provision(4, K3sRole::Agent, None));
    assert_eq!(refusal, Refusal::ClusterNone);
    let refusal = world.refused(1, provision(4, K3sRole::Agent, Some("prod")));
    assert_eq!(refusal.code(), "ClusterNotFoundError");
    let stranger = ClusterId::from_bytes([9; 16]).to_string();
    let refusal = world.refused(1, provision(1, K3sRole::Server, Some(&stranger)));
    assert_eq!(refusal.code(), "ClusterNotFoundError");

    world.ok(1, provision(1, K3sRole::Server, None));
    assert!(world.agreed().find_cluster("default").is_some());
    world.ok(1, provision(2, K3sRole::Server, None));
    assert_eq!(world.agreed().clusters.len(), 1);
    world.ok(1, provision(3, K3sRole::Server, Some("blue")));

    let refusal = world.refused(1, provision(4, K3sRole::Agent, None));
    assert_eq!(
        refusal,
        Refusal::ClusterAmbiguous {
            clusters: "blue, default".into()
        }
    );
    let by_id = world.agreed().find_cluster("blue").unwrap().0.to_string();
    world.ok(1, provision(4, K3sRole::Agent, Some(&by_id)));
}

#[test]
fn a_cluster_in_error_is_joined_by_nobody() {
    let mut world = World::with_cluster();
    world.k3s_join(4, K3sRole::Agent);
    let command = Command::RemoveNode {
        node: name(1),
        reason: "burnt".into(),
        compromised: false,
        reachable: everybody(),
        force: true,
    };
    world.ok(2, command);
    assert!(matches!(world.prod().status, ClusterStatus::Error { .. }));
    let refusal = world.refused(2, provision(5, K3sRole::Agent, Some("prod")));
    assert_eq!(refusal.code(), "ClusterInErrorError");
    let refusal = world.refused(2, provision(5, K3sRole::Agent, None));
    assert_eq!(refusal.code(), "ClusterInErrorError");
}

#[test]
fn the_last_server_is_not_taken_from_a_cluster_that_others_are_in() {
    let mut world = World::with_cluster();
    world.ok(1, provision(4, K3sRole::Agent, Some("prod")));
    let refusal = world.refused(1, unassign(1, K3sRole::Server));
    assert_eq!(refusal.code(), "ClusterLastServerError");
    let refusal = world.refused(1, provision(1, K3sRole::Server, Some("other")));
    assert_eq!(refusal.code(), "ClusterLastServerError");
    let refusal = world.refused(2, remove(1));
    assert_eq!(refusal.code(), "ClusterLastServerError");
    world.k3s_join(2, K3sRole::Server);
    world.ok(1, unassign(1, K3sRole::Server));
    assert_eq!(world.row(1).phase, K3sPhase::Leaving);
}

#[test]
fn a_cluster_goes_with_its_last_node() {
    let mut world = World::with_cluster();
    world.ok(1, unassign(1, K3sRole::Server));
    assert_eq!(world.agreed().clusters.len(), 1);
    world.k3s(1, K3sPhase::Stopped);
    assert_eq!(
        world.kinds(),
        [
            EventKind::K3sStopped,
            EventKind::VipReleased,
            EventKind::ClusterDecommissioned
        ]
    );
    assert!(world.agreed().clusters.is_empty());
    assert!(world.agreed().k3s_nodes.is_empty());
    assert!(world.agreed().virtual_ips.is_empty());
}

#[test]
fn another_cluster_is_entered_only_after_the_first_was_left() {
    let mut world = World::with_cluster();
    world.ok(1, provision(2, K3sRole::Server, Some("blue")));
    world.k3s_join(4, K3sRole::Agent);
    world.ok(1, provision(4, K3sRole::Agent, Some("blue")));
    let prod = world.agreed().find_cluster("prod").unwrap().0;
    assert_eq!(
        (world.row(4).cluster, &world.row(4).phase),
        (prod, &K3sPhase::Leaving)
    );
    let attempt = world.row(4).attempt;
    world.k3s(4, K3sPhase::Stopped);
    assert_ne!(world.row(4).cluster, prod);
    assert_eq!(world.row(4).phase, K3sPhase::Assigned);
    assert!(world.row(4).attempt > attempt);
    assert!(world.prod().departed.keys().eq([&name(4)]));
}

#[test]
fn what_is_said_of_an_earlier_stay_changes_nothing() {
    let mut world = World::with_cluster();
    world.ok(1, provision(4, K3sRole::Agent, Some("prod")));
    let late_ready = world.saying(4, version());
    let late_stop = world.saying(4, K3sPhase::Stopped);
    // Nobody asked it to stop.
    world.ignored(4, late_stop.clone());
    world.ok(1, unassign(4, K3sRole::Agent));
    world.ignored(4, late_ready.clone());
    world.k3s(4, K3sPhase::Stopped);
    world.ok(1, provision(4, K3sRole::Agent, Some("prod")));
    world.ignored(4, late_ready);
    world.ignored(4, late_stop);
}

#[test]
fn a_name_that_the_cluster_still_knows_gets_no_token_yet() {
    let mut world = World::with_cluster();
    world.k3s_join(4, K3sRole::Agent);
    world.ok(1, unassign(4, K3sRole::Agent));
    world.k3s(4, K3sPhase::Stopped);
    world.ok(1, provision(4, K3sRole::Agent, Some("prod")));
    world.k3s(4, K3sPhase::JoinRequest);
    let command = world.issuing(4);
    world.ignored(1, command);
    let forget = Command::Cluster(ClusterCommand::ForgetNodes {
        cluster: world.row(4).cluster,
        names: world.prod().departed.clone(),
    });
    assert_eq!(
        world.refused(5, forget.clone()).code(),
        "NotClusterServerError"
    );
    world.ok(1, forget);
    let command = world.issuing(4);
    world.ok(1, command);
    assert_eq!(world.row(4).phase, K3sPhase::JoinTokenIssued);
}

#[test]
fn a_removed_node_is_to_be_forgotten_by_its_cluster_too() {
    let mut world = World::with_cluster();
    world.k3s_join(2, K3sRole::Server);
    world.k3s_join(3, K3sRole::Server);
    world.ok(1, remove(2));
    assert!(world.prod().departed.keys().eq([&name(2)]));
    assert_eq!(world.prod_vip().candidates, [id(1), id(3)]);
    assert!(!world.agreed().k3s_nodes.contains_key(&id(2)));
}

#[test]
fn a_selector_brings_agents_and_founds_nothing() {
    let mut world = World::with_cluster();
    world.ok(1, label(4, &[("role", "worker")], &[]));
    world.ok(1, selecting(K3sRole::Agent, &[("role", "worker")], None));
    assert_eq!(world.row(4).role, K3sRole::Agent);
    world.ok(1, label(5, &[("role", "worker")], &[]));
    assert_eq!(world.row(5).phase, K3sPhase::Assigned);
    world.ok(1, label(4, &[], &["role"]));
    assert_eq!(world.row(4).phase, K3sPhase::Leaving);
    let founding = selecting(K3sRole::Server, &[("role", "worker")], Some("blue"));
    assert_eq!(world.refused(1, founding).code(), "InvalidInputError");
}

#[test]
fn what_is_said_of_a_node_itself_counts_before_a_selector() {
    let mut world = World::with_cluster();
    world.ok(1, label(2, &[("role", "worker")], &[]));
    world.ok(1, selecting(K3sRole::Agent, &[("role", "worker")], None));
    assert_eq!(world.row(2).role, K3sRole::Agent);
    world.ok(1, provision(2, K3sRole::Server, None));
    assert_eq!(world.row(2).phase, K3sPhase::Leaving);
    world.k3s(2, K3sPhase::Stopped);
    assert_eq!(world.row(2).role, K3sRole::Server);
}

#[test]
fn a_node_is_given_one_role_at_a_time() {
    let mut world = World::with_cluster();
    let refusal = world.refused(1, provision(1, K3sRole::Agent, None));
    assert_eq!(refusal.code(), "K3sRoleTakenError");
}

/// A node founds `prod`, or joins the only cluster there is.
fn with_cni(n: u32, role: K3sRole, founds: bool, cni: Option<Cni>) -> Command {
    Command::Cluster(ClusterCommand::Assign {
        assignment: Assignment::to_node(role.module(), id(n)),
        cluster: founds.then(|| "prod".into()),
        network: None,
        cni,
        binary: K3sBinary::INSTALLED,
        profile: None,
        reachable: everybody(),
        consent: true,
    })
}

/// SPEC 5.6: profile of the machine, what was asked for, and what becomes of it; then who may join.
#[test]
fn a_cni_goes_with_the_machines() {
    use NetworkProfile::{Heavyweight, Lightweight};
    let rows = [
        (Heavyweight, None, Some(Cni::OvnKubernetes)),
        (Heavyweight, Some(Cni::Flannel), Some(Cni::Flannel)),
        (
            Heavyweight,
            Some(Cni::OvnKubernetes),
            Some(Cni::OvnKubernetes),
        ),
        (Lightweight, None, Some(Cni::Flannel)),
        (Lightweight, Some(Cni::Flannel), Some(Cni::Flannel)),
        (Lightweight, Some(Cni::OvnKubernetes), None),
    ];
    let joiners = [
        (3, Heavyweight, K3sRole::Server),
        (4, Heavyweight, K3sRole::Agent),
        (5, Lightweight, K3sRole::Server),
        (6, Lightweight, K3sRole::Agent),
    ];
    for (profile, asked, gets) in rows {
        let mut world = World::founded();
        world.profiled(2, profile);
        let found = with_cni(2, K3sRole::Server, true, asked);
        let Some(cni) = gets else {
            let refusal = world.refused(1, found);
            assert_eq!(refusal.code(), "CniProfileMismatchError");
            continue;
        };
        world.ok(1, found);
        assert_eq!(world.prod().cni, cni, "{profile:?}, {asked:?}");
        for (n, joiner, role) in joiners {
            world.profiled(n, joiner);
            // Whether or not it is said once more which one it is.
            for said in [None, Some(cni)] {
                let join = with_cni(n, role, false, said);
                if (joiner, cni) == (Lightweight, Cni::OvnKubernetes) {
                    let refusal = world.refused(1, join);
                    assert_eq!(refusal.code(), "CniProfileMismatchError");
                } else {
                    world.ok(1, join);
                    assert_eq!(world.row(n).role, role, "{joiner:?}, {cni:?}");
                }
            }
        }
    }
}

impl World {
    fn profiled(&mut self, n: u32, network_profile: NetworkProfile) {
        let token = self.token(Role::Agent, false);
        let enrolment = Enrolment {
            network_profile,
            ..enrolment(n)
        };
        self.ok(1, admit_as(enrolment, token, &format!("{n:02x}aa")));
    }
}

#[test]
fn network_and_cni_of_a_cluster_stay() {
    let mut world = World::with_cluster();
    let new = new_network(&world, "blue");
    world.ok(1, Command::CreateNetwork(new));
    world.ok(1, attach_to(2, "blue"));
    for (network, cni) in [(Some("blue"), None), (None, Some(Cni::OvnKubernetes))] {
        let command = Command::Cluster(ClusterCommand::Assign {
            assignment: Assignment::to_node(K3sRole::Server.module(), id(2)),
            cluster: Some("prod".into()),
            network: network.map(str::to_owned),
            cni,
            binary: K3sBinary::INSTALLED,
            profile: None,
            reachable: everybody(),
            consent: true,
        });
        assert_eq!(world.refused(1, command).code(), "ClusterFixedError");
    }
}

#[test]
fn a_cluster_lives_in_its_network() {
    let mut world = World::for_clusters();
    let new = new_network(&world, "blue");
    world.ok(1, Command::CreateNetwork(new));
    let found = |n, network: &str| {
        Command::Cluster(ClusterCommand::Assign {
            assignment: Assignment::to_node(K3sRole::Server.module(), id(n)),
            cluster: Some("prod".into()),
            network: Some(network.to_owned()),
            cni: Some(Cni::Flannel),
            binary: K3sBinary::INSTALLED,
            profile: None,
            reachable: everybody(),
            consent: true,
        })
    };
    assert_eq!(
        world.refused(1, found(1, "red")).code(),
        "NetworkNotFoundError"
    );
    assert_eq!(
        world.refused(1, found(1, "blue")).code(),
        "SdwanPeerNotFoundError"
    );
    world.ok(1, attach_to(1, "blue"));
    world.ok(1, found(1, "blue"));
    let blue = world.agreed().find_network("blue").unwrap().0;
    assert_eq!(world.prod_vip().network, *blue);
    let refusal = world.refused(1, provision(4, K3sRole::Agent, Some("prod")));
    assert_eq!(refusal.code(), "SdwanPeerNotFoundError");
    let detach = Command::DetachPeer {
        node: name(1),
        network: "blue".into(),
    };
    assert_eq!(world.refused(1, detach).code(), "ClusterUsesPeerError");
    let delete = Command::DeleteNetwork {
        network: "blue".into(),
    };
    assert_eq!(world.refused(1, delete).code(), "NetworkInUseError");
}

#[test]
fn an_api_address_is_its_clusters_affair() {
    let mut world = World::with_cluster();
    let vip = || "k3s-prod".to_owned();
    for command in [
        Command::DeleteVip { vip: vip() },
        Command::SetVipCandidates {
            vip: vip(),
            candidates: vec![name(4)],
        },
        Command::SetVipCheck {
            vip: vip(),
            check: None,
        },
    ] {
        assert_eq!(
            world.refused(1, command).code(),
            "ClusterUsesVirtualIpError"
        );
    }
}

#[test]
fn a_decommissioned_cluster_leaves_assignments_that_ask_for_nothing() {
    let mut world = World::with_cluster();
    world.k3s_join(4, K3sRole::Agent);
    let command = Command::Cluster(ClusterCommand::Decommission {
        cluster: "prod".into(),
    });
    world.ok(1, command.clone());
    assert!(world.agreed().clusters.is_empty() && world.agreed().k3s_nodes.is_empty());
    assert!(world.agreed().virtual_ips.is_empty());
    assert_eq!(world.agreed().assignments.len(), 2);
    assert_eq!(world.refused(1, command).code(), "ClusterNotFoundError");
    world.ok(1, label(4, &[("a", "b")], &[]));
    assert!(world.agreed().k3s_nodes.is_empty());
    // Named again it is a new one.
    world.ok(1, provision(1, K3sRole::Server, Some("prod")));
    assert_eq!(world.row(1).phase, K3sPhase::Assigned);
    assert!(!world.agreed().k3s_nodes.contains_key(&id(4)));
}

#[test]
fn wrong_binaries_are_refused() {
    let mut world = World::for_clusters();
    let url = |url: &str| {
        Some(BinaryOrigin::Url {
            url: url.into(),
            sha256: [1; 32],
        })
    };
    let path = |path: &str| Some(BinaryOrigin::Path(path.into()));
    let long = format!("http://{}", "a".repeat(1024));
    let wrong = [
        (path("k3s"), None, None),
        (path(""), None, None),
        (path("/k3s\n"), None, None),
        (url("ftp://host/k3s"), None, None),
        (url("https://host/a k3s"), None, None),
        (url(&long), None, None),
        (url("https://ann:secret@host/k3s"), None, None),
        (url("http://secret@[::1]:8080?x=@"), None, None),
        (url("ftp://ann:secret@host"), None, None),
        (None, Some("1.31"), None),
        (None, Some("v1 31"), None),
        (None, None, Some("images")),
    ];
    for (origin, version, images) in wrong {
        let binary = K3sBinary {
            origin,
            version: version.map(str::to_owned),
            images: images.map(str::to_owned),
        };
        let command = with_binary(1, K3sRole::Server, Some("prod"), binary.clone());
        let refusal = world.refused(1, command);
        assert_eq!(refusal.code(), "InvalidInputError", "{binary:?}");
        assert!(!refusal.to_string().contains("secret"), "{refusal}");
    }
    let good = K3sBinary {
        origin: url("https://host/k3s@v1.31.2?signed=a@b"),
        ..K3sBinary::INSTALLED
    };
    world.ok(1, with_binary(1, K3sRole::Server, Some("prod"), good));
}

#[test]
fn clusters_are_limited() {
    let founders = u32::try_from(CLUSTERS_MAX).unwrap();
    let mut world = World::of(1, founders + 1);
    for n in 1..=founders {
        world.ok(1, provision(n, K3sRole::Server, Some(&format!("c{n}"))));
    }
    let last = provision(founders + 1, K3sRole::Server, Some("more"));
    let refusal = world.refused(1, last);
    assert_eq!(refusal.code(), "TooLargeError");
}

#[test]
fn servers_are_upgraded_one_at_a_time_and_the_holder_last_then_agents_in_batches() {
    let mut world = World::with_cluster();
    for server in [2, 3] {
        world.k3s_join(server, K3sRole::Server);
    }
    for agent in [4, 5, 6] {
        world.k3s_join(agent, K3sRole::Agent);
    }
    assert_eq!(world.prod_vip().holder, Some(id(1)));
    world.ok(1, upgrade("v1.32.0+k3s1"));
    let mut seen = Vec::new();
    while world.prod().rollout.is_some() {
        let turn = world.turn();
        seen.push(turn.clone());
        for n in turn {
            assert_eq!(world.row(n).binary.version.as_deref(), Some("v1.32.0+k3s1"));
            world.k3s(n, K3sPhase::Starting);
            world.k3s_ready(n);
        }
    }
    // The numbers are not the order of the ids, so servers come in any order but the holder's.
    assert_eq!(seen.len(), 5);
    assert!(seen[..3].iter().all(|turn| turn.len() == 1));
    assert_eq!(seen[2], [1]);
    assert_eq!((seen[3].len(), seen[4].len()), (2, 1));
    assert_eq!(world.prod().version.as_deref(), Some("v1.32.0+k3s1"));
    assert_eq!(world.kinds().last(), Some(&EventKind::RolloutFinished));
}

#[test]
fn an_upgrade_stops_at_its_first_failure_and_goes_on_when_asked_again() {
    let mut world = World::with_cluster();
    world.k3s_join(2, K3sRole::Server);
    world.k3s_join(4, K3sRole::Agent);
    world.ok(1, upgrade("v1.32.0+k3s1"));
    assert_eq!(world.turn(), [2]);
    assert_eq!(
        world.refused(1, upgrade("v1.32.0+k3s1")).code(),
        "ClusterBusyError"
    );
    world.k3s(2, broken());
    assert!(world.kinds().contains(&EventKind::RolloutFailed));
    let failed = world.prod().rollout.clone().unwrap().failed.unwrap();
    assert_eq!(failed, (id(2), "no etcd".into()));
    let generation = world.prod().generation;
    world.ok(1, upgrade("v1.32.0+k3s1"));
    assert_eq!(world.prod().generation, generation);
    assert_eq!(world.turn(), [2]);
    world.k3s_ready(2);
    assert_eq!(world.turn(), [1]);
}

#[test]
fn another_upgrade_begins_where_the_last_one_stopped() {
    let mut world = World::with_cluster();
    for server in [2, 3] {
        world.k3s_join(server, K3sRole::Server);
    }
    world.ok(1, upgrade("v1.32.0+k3s1"));
    let first = world.turn()[0];
    world.k3s_ready(first);
    let second = world.turn()[0];
    world.k3s(second, broken());
    world.ok(1, upgrade("v1.31.9+k3s1"));
    // With another server down as well there would be no majority left.
    assert_eq!(world.turn(), [second]);
    let wanted = world.row(second).binary.version.clone();
    assert_eq!(wanted.as_deref(), Some("v1.31.9+k3s1"));
}

#[test]
fn a_k3s_that_crashed_is_no_change_of_the_cluster() {
    let mut world = World::with_cluster();
    world.k3s_join(2, K3sRole::Server);
    world.k3s(2, broken());
    assert_eq!(world.prod().rollout, None);
    world.k3s(2, version());
    assert!(!world.kinds().contains(&EventKind::RolloutFinished));
}

#[test]
fn a_node_whose_turn_it_is_not_keeps_its_k3s() {
    let mut world = World::with_cluster();
    world.k3s_join(2, K3sRole::Server);
    let other = K3sBinary {
        version: Some("v1.32.0+k3s1".into()),
        ..K3sBinary::INSTALLED
    };
    let again = with_binary(2, K3sRole::Server, Some("prod"), other);
    assert_eq!(world.refused(1, again).code(), "K3sRunsError");
    world.ok(1, upgrade("v1.32.0+k3s1"));
    assert_eq!(world.row(1).binary, K3sBinary::INSTALLED);
}

#[test]
fn an_upgrade_wants_a_version_and_a_cluster_that_is_well() {
    let mut world = World::with_cluster();
    world.ok(1, provision(4, K3sRole::Agent, None));
    assert_eq!(
        world.refused(1, upgrade("v1.32.0+k3s1")).code(),
        "ClusterBusyError"
    );
    let command = Command::Cluster(ClusterCommand::Upgrade {
        cluster: "prod".into(),
        binary: K3sBinary::INSTALLED,
        batch: 1,
    });
    assert_eq!(world.refused(1, command).code(), "InvalidInputError");
}

pub(super) fn set_pods(prefix: PrefixChange) -> Command {
    Command::SetNetwork {
        network: "default".into(),
        change: NetworkChange {
            pod_subnet_prefix: Some(prefix),
            ..NetworkChange::default()
        },
    }
}

pub(super) fn pods(text: &str) -> PrefixChange {
    PrefixChange::Set(text.parse().unwrap())
}

#[test]
fn a_pod_prefix_that_comes_later_goes_round_and_then_stays() {
    let mut world = World::with_cluster();
    world.k3s_join(2, K3sRole::Server);
    world.ok(1, set_pods(pods("10.42.0.0/16")));
    let rollout = world.prod().rollout.clone().unwrap();
    assert_eq!(rollout.kind, RolloutKind::PodSubnet);
    assert_eq!(world.turn(), [2]);
    let command = world.old_ready(2);
    world.ok(2, command);
    assert_eq!(
        world.turn(),
        [2],
        "it says that it still has the old settings"
    );
    let command = world.with_pods(2, &["10.42.1.0/24"]);
    world.ok(2, command);
    assert_eq!(world.turn(), [1]);
    let overlapping = world.with_pods(1, &["10.42.1.0/24"]);
    assert_eq!(world.refused(1, overlapping).code(), "PrefixOverlapError");
    let command = world.with_pods(1, &["10.42.0.0/24"]);
    world.ok(1, command);
    assert!(world.prod().rollout.is_none());
    let routes = world.agreed().pod_routes(NETWORK);
    assert_eq!(routes[&id(2)], prefixes(&["10.42.1.0/24"]));
    for change in [PrefixChange::Clear, pods("10.43.0.0/16")] {
        assert_eq!(
            world.refused(1, set_pods(change)).code(),
            "ClusterFixedError"
        );
    }
}

#[test]
fn the_subnet_of_a_node_that_leaves_is_the_next_ones_before_it_is_gone() {
    let mut world = World::for_clusters();
    world.ok(1, set_pods(pods("10.42.0.0/16")));
    world.ok(1, provision(1, K3sRole::Server, Some("prod")));
    for (n, subnet) in [(1, "10.42.0.0/24"), (2, "10.42.1.0/24")] {
        if n == 2 {
            world.ok(1, provision(2, K3sRole::Agent, Some("prod")));
        }
        let command = world.with_pods(n, &[subnet]);
        world.ok(n, command);
    }
    world.ok(1, provision(3, K3sRole::Agent, Some("prod")));
    let taken = world.with_pods(3, &["10.42.1.0/24"]);
    assert_eq!(world.refused(3, taken.clone()).code(), "PrefixOverlapError");
    world.ok(1, unassign(2, K3sRole::Agent));
    assert!(world.row(2).is_leaving());
    world.ok(3, taken);
    let routes = world.agreed().pod_routes(NETWORK);
    assert_eq!(routes[&id(3)], prefixes(&["10.42.1.0/24"]));
    assert!(!routes.contains_key(&id(2)), "{routes:?}");
}

#[test]
fn a_node_that_came_up_with_an_older_prefix_gets_its_turn() {
    let mut world = World::with_cluster();
    world.ok(1, provision(2, K3sRole::Server, None));
    world.ok(1, set_pods(pods("10.42.0.0/16")));
    world.k3s(1, version());
    assert!(world.prod().rollout.is_none());
    let command = world.old_ready(2);
    world.ok(2, command);
    assert_eq!(world.turn(), [2]);
}

#[test]
fn pods_lie_in_the_prefix() {
    let mut world = World::with_cluster();
    // Without a prefix they are nobody's affair but K3s's.
    let own = world.with_pods(1, &["10.42.0.0/24"]);
    world.ok(1, own);
    assert!(world.row(1).pods.is_empty());
    world.ok(1, set_pods(pods("10.42.0.0/16")));
    for stray in [&["10.43.0.0/24"][..], &["10.0.0.0/8"]] {
        let command = world.with_pods(1, stray);
        assert_eq!(world.refused(1, command).code(), "InvalidInputError");
    }
    let many = world.with_pods(1, &["10.42.0.0/24", "10.42.1.0/24", "10.42.2.0/24"]);
    assert_eq!(world.refused(1, many).code(), "TooLargeError");
}

#[test]
fn a_pod_prefix_means_nothing_to_ovn_and_that_is_said() {
    let mut world = World::for_clusters();
    let found = |cni| {
        Command::Cluster(ClusterCommand::Assign {
            assignment: Assignment::to_node(K3sRole::Server.module(), id(1)),
            cluster: Some("prod".into()),
            network: None,
            cni: Some(cni),
            binary: K3sBinary::INSTALLED,
            profile: None,
            reachable: everybody(),
            consent: true,
        })
    };
    world.ok(1, found(Cni::OvnKubernetes));
    world.ok(1, set_pods(pods("10.42.0.0/16")));
    assert!(world.kinds().contains(&EventKind::PodSubnetPrefixIgnored));
    assert_eq!(
        (world.prod().pod_prefix, &world.prod().rollout),
        (None, &None)
    );
}

#[test]
fn a_node_that_drains_takes_no_virtual_ip() {
    let mut world = World::with_cluster();
    world.k3s_join(2, K3sRole::Server);
    world.ok(1, drain(2, true));
    let unfit = world
        .agreed()
        .unfit(world.prod_vip(), &id(2), &everybody_of(6));
    assert_eq!(unfit.unwrap().to_string(), "draining");
    let command = Command::Drain(DrainCommand::End { node: name(2) });
    world.ok(1, command.clone());
    assert_eq!(world.refused(1, command).code(), "NotDrainedError");
}

pub(super) fn everybody_of(nodes: u32) -> BTreeSet<crate::NodeId> {
    (1..=nodes).map(id).collect()
}

#[test]
fn a_clusters_only_server_is_not_drained_unless_somebody_insists() {
    let mut world = World::with_cluster();
    assert_eq!(
        world.refused(1, drain(1, false)).code(),
        "ClusterLastServerError"
    );
    world.ok(1, drain(1, true));
    world.ok(1, Command::Drain(DrainCommand::End { node: name(1) }));
    for server in [2, 3] {
        world.k3s_join(server, K3sRole::Server);
    }
    world.ok(1, drain(2, false));
    assert_eq!(
        world.refused(1, drain(1, false)).code(),
        "ClusterMajorityAtRiskError"
    );
}

#[test]
fn a_drain_is_told_by_its_node_and_an_older_one_means_nothing() {
    let mut world = World::with_cluster();
    world.ok(1, drain(4, false));
    let begun = world.agreed().drains[&id(4)].begun;
    let said = |begun, state| Command::Drain(DrainCommand::Report { begun, state });
    world.ok(1, drain(4, false));
    world.ignored(4, said(begun, DrainState::Drained));
    let begun = world.agreed().drains[&id(4)].begun;
    let waits_for = "pod web: its disruption budget".to_owned();
    world.ok(4, said(begun, DrainState::Draining { waits_for }));
    world.ignored(5, said(begun, DrainState::Drained));
    world.ok(4, said(begun, DrainState::Drained));
    assert_eq!(world.kinds(), [EventKind::NodeDrained]);
    world.ok(1, remove(4));
    assert!(world.agreed().drains.is_empty());
}
