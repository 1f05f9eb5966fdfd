//! K3s clusters: founded, joined, given up (SPEC 5.1, 5.2, 5.4, 5.6, 5.9).
//!
//! Decides: which cluster an assignment means and whether this node may be in it. How far each node
//! is: [`k3s_nodes`](super::k3s_nodes); what becomes of a cluster:
//! [`cluster_lifecycle`](super::cluster_lifecycle).
//!
//! Invariants: a cluster, its virtual IP and the name of its founder come with one entry, so that no
//! two nodes ever found the same one; none is chosen for an operator who has several to choose from.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Change, NOBODY, check_name, cluster_lifecycle, cluster_networks, done, drains, excerpt,
    invalid, k3s_binaries, k3s_losses, k3s_nodes, modules, rollouts, too_large, virtual_ips,
};
use crate::{
    Applied, Assignment, Cluster, ClusterCommand, ClusterId, ClusterStatus, Cni, EventKind,
    K3sBinary, K3sRole, K3sWish, LeaseProfile, Module, NetworkId, NodeId, Probe, ReadinessCheck,
    Refusal, Target,
    cluster::{API_VIP_PREFIX, DEFAULT_CLUSTER},
    k3s_wishes::Supposed,
    limits::{CLUSTERS_MAX, NAME_BYTES_MAX},
};

/// The lease of a cluster's address, unless its founder says otherwise: servers of one cluster are
/// milliseconds apart, because etcd wants that too, and its API is to be back within a second.
const API_LEASE: LeaseProfile = LeaseProfile::Lan;

/// What an assignment of a K3s module asks for beside its target.
pub(super) struct Asked<'a> {
    /// The cluster, by name or id.
    cluster: Option<&'a str>,
    /// Where a new one is to be.
    network: Option<&'a str>,
    /// What a new one is to use.
    cni: Option<Cni>,
    /// With which K3s.
    binary: &'a K3sBinary,
    /// The durations of the lease of a new one's address.
    profile: Option<LeaseProfile>,
    /// Who was heard.
    reachable: &'a BTreeSet<NodeId>,
    /// Whether K3s may be wiped off nodes.
    consent: bool,
}

impl Asked<'_> {
    /// Nothing: the only cluster, or a new one, with the K3s that is there.
    pub(super) const NOTHING: Asked<'static> = Asked {
        cluster: None,
        network: None,
        cni: None,
        binary: &K3sBinary::INSTALLED,
        profile: None,
        reachable: NOBODY,
        consent: true,
    };
}

/// Which cluster is meant.
enum Meant {
    /// This one.
    Present(ClusterId),
    /// One that is to be made, of this name.
    New(String),
}

pub(super) fn apply(change: &mut Change<'_>, actor: &NodeId, command: &ClusterCommand) -> Applied {
    match command {
        ClusterCommand::Assign {
            assignment,
            cluster,
            network,
            cni,
            binary,
            profile,
            reachable,
            consent,
        } => {
            let asked = Asked {
                cluster: cluster.as_deref(),
                network: network.as_deref(),
                cni: *cni,
                binary,
                profile: *profile,
                reachable,
                consent: *consent,
            };
            assign(change, assignment, &asked)
        }
        ClusterCommand::Report {
            attempt,
            phase,
            generation,
            pods,
        } => {
            let said = k3s_nodes::Said {
                attempt: *attempt,
                phase,
                generation: *generation,
                pods,
            };
            k3s_nodes::report(change, actor, &said)
        }
        ClusterCommand::IssueToken {
            node,
            attempt,
            token,
        } => k3s_nodes::issue_token(change, actor, node, *attempt, token),
        ClusterCommand::ForgetNodes { cluster, names } => {
            cluster_lifecycle::forgotten(change, actor, *cluster, names)
        }
        ClusterCommand::Decommission { cluster } => {
            cluster_lifecycle::decommission(change, cluster)
        }
        ClusterCommand::Upgrade {
            cluster,
            binary,
            batch,
        } => rollouts::upgrade(change, cluster, binary, *batch),
        ClusterCommand::Unassign {
            assignment,
            reachable,
            consent,
        } => {
            role_of(assignment)?;
            modules::unassign(change, assignment, reachable, *consent)
        }
    }
}

/// Assigns a K3s module; repeated with another cluster or another K3s it changes what is wanted.
pub(super) fn assign(
    change: &mut Change<'_>,
    assignment: &Assignment,
    asked: &Asked<'_>,
) -> Applied {
    let role = role_of(assignment)?;
    modules::check_target(change, assignment)?;
    k3s_binaries::check(asked.binary)?;
    let wish = match meant(change, role, asked.cluster)? {
        Meant::Present(cluster) => {
            check_fixed(change, cluster, asked)?;
            let binary = binary_for(change, cluster, asked.binary)?;
            if let Target::Node(node) = &assignment.target {
                check_member(change, cluster, node)?;
                refuse_other_role(change, node, role)?;
                refuse_other_binary(change, cluster, node, asked.binary)?;
                refuse_drained(change, cluster, node, role)?;
            }
            let wish = K3sWish { cluster, binary };
            let supposed = Supposed::With(assignment, &wish);
            k3s_losses::refuse_change(change, supposed, asked.reachable, asked.consent)?;
            wish
        }
        Meant::New(name) => {
            let Target::Node(founder) = &assignment.target else {
                let rule = "one node, where the cluster is to be founded";
                let target = assignment.target.describe(change.agreed());
                return Err(invalid("target", &target, rule));
            };
            let founder = founder.clone();
            refuse_other_role(change, &founder, role)?;
            drains::refuse_emptied(change, &founder)?;
            k3s_losses::refuse_removal(change, &founder, asked.reachable, false)?;
            if !asked.consent {
                k3s_losses::refuse_founding_unasked(change, &founder)?;
            }
            K3sWish {
                cluster: found(change, &name, &founder, asked)?,
                binary: asked.binary.clone(),
            }
        }
    };
    modules::insert(change, assignment)?;
    let wishes = &mut change.agreed_mut().k3s_wishes;
    wishes.insert(assignment.clone(), wish);
    modules::settle(change);
    done()
}

/// Who comes while an upgrade goes round begins with the new K3s: it would be taken for upgraded.
fn binary_for(
    change: &Change<'_>,
    cluster: ClusterId,
    asked: &K3sBinary,
) -> Result<K3sBinary, Refusal> {
    let cluster = &change.agreed().clusters[&cluster];
    let rollout = cluster.rollout.as_ref();
    let Some(new) = rollout.and_then(|rollout| rollout.kind.binary()) else {
        return Ok(asked.clone());
    };
    let nothing = asked.origin.is_none() && asked.version.is_none();
    if nothing || (&asked.origin, &asked.version) == (&new.origin, &new.version) {
        return Ok(new.instead_of(asked));
    }
    Err(Refusal::ClusterBusy {
        cluster: cluster.name.clone(),
        why: "is being upgraded to another K3s".to_owned(),
    })
}

/// A server on a drained node would begin only when the node may work again.
fn refuse_drained(
    change: &Change<'_>,
    cluster: ClusterId,
    node: &NodeId,
    role: K3sRole,
) -> Result<(), Refusal> {
    let row = change.agreed().k3s_nodes.get(node);
    let is_there = row.is_some_and(|row| (row.cluster, row.role) == (cluster, role));
    if role == K3sRole::Agent || is_there {
        return Ok(());
    }
    drains::refuse_emptied(change, node)
}

/// A node that runs gets another K3s with its whole cluster, in its turn.
fn refuse_other_binary(
    change: &Change<'_>,
    cluster: ClusterId,
    node: &NodeId,
    binary: &K3sBinary,
) -> Result<(), Refusal> {
    let row = change.agreed().k3s_nodes.get(node);
    let runs = row
        .is_some_and(|row| row.cluster == cluster && row.has_been_ready() && row.binary != *binary);
    if runs {
        return Err(Refusal::K3sRuns {
            node: change.agreed().name_of(node),
            cluster: change.agreed().clusters[&cluster].name.clone(),
        });
    }
    Ok(())
}

fn role_of(assignment: &Assignment) -> Result<K3sRole, Refusal> {
    match assignment.module {
        Module::K3sServer => Ok(K3sRole::Server),
        Module::K3sAgent => Ok(K3sRole::Agent),
        Module::DockerEngine => Err(invalid(
            "module",
            assignment.module.as_str(),
            "k3s-server or k3s-agent",
        )),
    }
}

/// SPEC 5.4: one that is named must be there and well. Without a name the only one is meant, and
/// of several none.
fn meant(change: &Change<'_>, role: K3sRole, named: Option<&str>) -> Result<Meant, Refusal> {
    let agreed = change.agreed();
    let Some(named) = named else {
        let mut ids = agreed.clusters.keys();
        return match (ids.next(), ids.next(), role) {
            (Some(only), None, _) => usable(change, *only).map(Meant::Present),
            (None, _, K3sRole::Server) => Ok(Meant::New(DEFAULT_CLUSTER.to_owned())),
            (None, _, K3sRole::Agent) => Err(Refusal::ClusterNone),
            (Some(_), Some(_), _) => Err(Refusal::ClusterAmbiguous {
                clusters: names(change),
            }),
        };
    };
    match (agreed.find_cluster(named), role) {
        (Some((id, _)), _) => usable(change, id).map(Meant::Present),
        // An id is nobody's wish for a name.
        (None, K3sRole::Server) if named.parse::<ClusterId>().is_err() => {
            Ok(Meant::New(named.to_owned()))
        }
        (None, K3sRole::Server | K3sRole::Agent) => Err(unknown(named)),
    }
}

fn usable(change: &Change<'_>, id: ClusterId) -> Result<ClusterId, Refusal> {
    let cluster = &change.agreed().clusters[&id];
    match &cluster.status {
        ClusterStatus::Error { reason } => Err(Refusal::ClusterInError {
            cluster: cluster.name.clone(),
            reason: excerpt(reason),
        }),
        ClusterStatus::Bootstrapping | ClusterStatus::Active => Ok(id),
    }
}

/// The names of all clusters, for the operator to choose from.
fn names(change: &Change<'_>) -> String {
    let mut names: Vec<_> = change.agreed().clusters.values().collect();
    names.sort_by(|a, b| a.name.cmp(&b.name));
    let names: Vec<&str> = names.iter().map(|cluster| cluster.name.as_str()).collect();
    names.join(", ")
}

pub(super) fn unknown(named: &str) -> Refusal {
    Refusal::ClusterUnknown {
        cluster: excerpt(named),
    }
}

/// Network and CNI are the founder's choice. Naming the same again is no mistake.
fn check_fixed(change: &Change<'_>, id: ClusterId, asked: &Asked<'_>) -> Result<(), Refusal> {
    let cluster = &change.agreed().clusters[&id];
    let is = |what: &str, is: &str| {
        Err(Refusal::ClusterFixed {
            cluster: cluster.name.clone(),
            what: what.to_owned(),
            is: is.to_owned(),
        })
    };
    if asked.cni.is_some_and(|cni| cni != cluster.cni) {
        return is("CNI", cluster.cni.as_str());
    }
    let vip = change.agreed().virtual_ips.get(&cluster.vip);
    if let Some(vip) = vip.filter(|vip| asked.profile.is_some_and(|one| one != vip.profile)) {
        return is("lease profile of the address", vip.profile.as_str());
    }
    let network = &change.agreed().networks[&cluster.network].name;
    match asked.network {
        Some(other) if other != network => is("network", network),
        Some(_) | None => Ok(()),
    }
}

/// A node needs a place in the cluster's network, and strength for its CNI.
fn check_member(change: &Change<'_>, id: ClusterId, node: &NodeId) -> Result<(), Refusal> {
    let agreed = change.agreed();
    let cluster = &agreed.clusters[&id];
    check_place(change, node, cluster.network)?;
    let profile = agreed.nodes[node].network_profile;
    if cluster.cni.runs_on(profile) {
        return Ok(());
    }
    Err(mismatch(change, node, cluster.cni))
}

fn check_place(change: &Change<'_>, node: &NodeId, network: NetworkId) -> Result<(), Refusal> {
    let agreed = change.agreed();
    if agreed.peers.contains_key(&(network, node.clone())) {
        return Ok(());
    }
    Err(Refusal::PeerUnknown {
        node: agreed.name_of(node),
        network: agreed.networks[&network].name.clone(),
    })
}

fn mismatch(change: &Change<'_>, node: &NodeId, cni: Cni) -> Refusal {
    Refusal::CniProfileMismatch {
        node: change.agreed().name_of(node),
        profile: change.agreed().nodes[node]
            .network_profile
            .as_str()
            .to_owned(),
        cni: cni.as_str().to_owned(),
    }
}

/// A node is server or agent; what it is is given up first.
fn refuse_other_role(change: &Change<'_>, node: &NodeId, role: K3sRole) -> Result<(), Refusal> {
    let other = match role {
        K3sRole::Server => K3sRole::Agent,
        K3sRole::Agent => K3sRole::Server,
    };
    let other = Assignment::to_node(other.module(), node.clone());
    if !change.agreed().assignments.contains(&other) {
        return Ok(());
    }
    Err(Refusal::K3sRoleTaken {
        node: change.agreed().name_of(node),
        has: other.module.as_str().to_owned(),
    })
}

/// Makes the cluster's row and its virtual IP. The founder's own row follows from its assignment.
fn found(
    change: &mut Change<'_>,
    name: &str,
    founder: &NodeId,
    asked: &Asked<'_>,
) -> Result<ClusterId, Refusal> {
    check_cluster_name(name)?;
    let agreed = change.agreed();
    if agreed.clusters.len() >= CLUSTERS_MAX {
        return Err(too_large("the number of clusters", CLUSTERS_MAX));
    }
    let network = match asked.network {
        Some(named) => match agreed.find_network(named) {
            Some((id, _)) => *id,
            None => {
                return Err(Refusal::NetworkUnknown {
                    network: excerpt(named),
                });
            }
        },
        None => first_network(change, founder)?,
    };
    check_place(change, founder, network)?;
    let profile = agreed.nodes[founder].network_profile;
    let cni = asked.cni.unwrap_or(Cni::of_profile(profile));
    if !cni.runs_on(profile) {
        return Err(mismatch(change, founder, cni));
    }
    let prefix = agreed.networks[&network].pod_subnet_prefix;
    let flannel = cni == Cni::Flannel;
    if let Some(prefix) = prefix.filter(|_| flannel) {
        cluster_networks::refuse_shared_pods(change, network, prefix)?;
    }
    let id = ClusterId::made_at(
        agreed.mesh.as_ref().ok_or(Refusal::NoMesh)?.id,
        change.index,
    );
    let vip = virtual_ips::insert(
        change,
        virtual_ips::NewVip {
            name: format!("{API_VIP_PREFIX}{name}"),
            network,
            candidates: vec![founder.clone()],
            check: Some(ReadinessCheck::new(Probe::Runtime)),
            profile: asked.profile.unwrap_or(API_LEASE),
        },
    )?;
    let cluster = Cluster {
        name: name.to_owned(),
        network,
        cni,
        pod_prefix: prefix.filter(|_| flannel),
        vip,
        founder: founder.clone(),
        founded: change.index,
        status: ClusterStatus::Bootstrapping,
        version: asked.binary.version.clone(),
        generation: change.index,
        rollout: None,
        departed: BTreeMap::new(),
        created_at: change.time,
        lost: BTreeSet::new(),
    };
    change.agreed_mut().clusters.insert(id, cluster);
    if let Some(prefix) = prefix.filter(|_| !flannel) {
        prefix_ignored(change, name, prefix.to_string());
    }
    Ok(id)
}

/// OVN has a plan of its own for pods.
pub(super) fn prefix_ignored(change: &mut Change<'_>, cluster: &str, prefix: String) {
    change.event(
        EventKind::PodSubnetPrefixIgnored,
        None,
        [
            ("cluster", cluster.to_owned()),
            ("pod_subnet_prefix", prefix),
        ],
    );
}

/// The virtual IP of its API has its name, and something before it.
fn check_cluster_name(name: &str) -> Result<(), Refusal> {
    check_name("cluster name", name)?;
    if API_VIP_PREFIX.len() + name.len() <= NAME_BYTES_MAX {
        return Ok(());
    }
    Err(invalid("cluster name", name, "of at most 59 characters"))
}

fn first_network(change: &Change<'_>, node: &NodeId) -> Result<NetworkId, Refusal> {
    let place = change
        .agreed()
        .first_peer(node)
        .map(|(network, _)| *network);
    place.ok_or_else(|| Refusal::MissingSdwanPeer {
        node: change.agreed().name_of(node),
    })
}

/// A node gets no K3s any more, by this assignment.
pub(super) fn forget_wish(change: &mut Change<'_>, assignment: &Assignment) {
    change.agreed_mut().k3s_wishes.remove(assignment);
}
