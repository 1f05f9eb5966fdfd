//! How far each node of a K3s cluster is (SPEC 5.1 to 5.3).
//!
//! Decides: which row a node's assignments give it, what its reports and its token change, and what
//! stays behind when it leaves. Which cluster is meant: [`clusters`](super::clusters).
//!
//! Invariants: a node leaves a cluster before it enters another; a token is accepted from a ready
//! server of the same cluster, for the attempt that asked for it, sealed to that node alone; a
//! cluster is active only after its founder was ready, and before that nobody else is; what is said
//! of an earlier stay changes nothing, and a node that lost its disk begins another stay.

use std::collections::{BTreeMap, BTreeSet};

use super::{Change, cluster_lifecycle, clusters, done, invalid, rollouts, too_large, virtual_ips};
use crate::{
    Applied, Assignment, Cluster, ClusterId, ClusterStatus, EventKind, IpPrefix, K3sNode, K3sPhase,
    K3sRole, LogIndex, NodeId, Refusal, SealedKey, Target, WantedK3s,
    limits::{
        DEPARTED_MAX, POD_SUBNETS_MAX, REASON_BYTES_MAX, SEALED_KEY_BYTES_MAX, TEXT_BYTES_MAX,
    },
};

/// What a node says of itself.
pub(super) struct Said<'a> {
    /// Of which stay.
    pub(super) attempt: LogIndex,
    /// How far it is.
    pub(super) phase: &'a K3sPhase,
    /// With which settings of its cluster K3s runs.
    pub(super) generation: LogIndex,
    /// Where its pods have their addresses.
    pub(super) pods: &'a BTreeSet<IpPrefix>,
}

/// How a stay ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Departure {
    /// It came to its end, where a server has itself taken out of etcd.
    InPeace,
    /// It was removed from the mesh, or lost its disk.
    Lost,
}

/// Makes the node's row say what its assignments say.
pub(super) fn settle(change: &mut Change<'_>, id: &NodeId) {
    let agreed = change.agreed();
    let wanted = agreed.wanted_k3s(id);
    match (agreed.k3s_nodes.get(id), wanted) {
        (None, None) => {}
        (None, Some(wanted)) => enter(change, id, wanted),
        (Some(row), Some(wanted)) if is_there(row, &wanted) => {
            // One that has been ready gets another K3s in its turn only.
            if !row.has_been_ready() && row.binary != wanted.binary {
                edit(change, id, |row| row.binary = wanted.binary);
            }
        }
        (Some(row), _) if row.is_leaving() => {}
        (Some(_), _) => leave(change, id),
    }
}

fn is_there(row: &K3sNode, wanted: &WantedK3s) -> bool {
    !row.is_leaving() && (row.cluster, row.role) == (wanted.cluster, wanted.role)
}

fn enter(change: &mut Change<'_>, id: &NodeId, wanted: WantedK3s) {
    let role = wanted.role;
    let cluster = change.agreed().clusters[&wanted.cluster].name.clone();
    let row = K3sNode {
        cluster: wanted.cluster,
        role,
        attempt: change.index,
        binary: wanted.binary,
        phase: K3sPhase::Assigned,
        since: change.time,
        token: None,
        version: None,
        generation: LogIndex::default(),
        pods: BTreeSet::new(),
    };
    change.agreed_mut().k3s_nodes.insert(id.clone(), row);
    cluster_lifecycle::note_founding(change, wanted.cluster, id, role);
    change.event(
        EventKind::K3sAssigned,
        Some(id),
        [
            ("module", role.module().as_str().to_owned()),
            ("cluster", cluster),
        ],
    );
}

/// It is to stop. Its API is given to others first: it is no candidate from now on.
fn leave(change: &mut Change<'_>, id: &NodeId) {
    set_phase(change, id, K3sPhase::Leaving);
    let Some(cluster) = change.agreed().k3s_nodes.get(id).map(|row| row.cluster) else {
        return;
    };
    if let Some(vip) = change.agreed().clusters.get(&cluster).map(|row| row.vip) {
        virtual_ips::drop_candidate(change, vip, id);
    }
    rollouts::advance(change, cluster);
    cluster_lifecycle::settle(change, cluster);
}

/// It has left, or will never be heard of again: the cluster is to forget its name too.
fn left(change: &mut Change<'_>, id: &NodeId, how: Departure) {
    let Some(row) = change.agreed_mut().k3s_nodes.remove(id) else {
        return;
    };
    depart(change, id, &row, how);
    if let Some(vip) = change
        .agreed()
        .clusters
        .get(&row.cluster)
        .map(|row| row.vip)
    {
        virtual_ips::drop_candidate(change, vip, id);
    }
    rollouts::advance(change, row.cluster);
    cluster_lifecycle::settle(change, row.cluster);
}

/// Nothing of its stay is on the node any more, though it had begun: its disk was lost. To its cluster
/// it is another node from now on, of a name that has to be forgotten first.
fn begin_again(change: &mut Change<'_>, id: &NodeId) {
    let Some(row) = change.agreed().k3s_nodes.get(id).cloned() else {
        return;
    };
    depart(change, id, &row, Departure::Lost);
    let cluster = change.agreed().clusters.get(&row.cluster);
    if let Some(vip) = cluster.filter(|_| row.has_been_ready()).map(|row| row.vip) {
        virtual_ips::drop_candidate(change, vip, id);
    }
    let K3sNode {
        cluster,
        role,
        binary,
        ..
    } = row;
    // With what is wanted by now, which an upgrade may have changed meanwhile.
    let wanted = change.agreed().wanted_k3s(id);
    let wanted = wanted.filter(|wanted| (wanted.cluster, wanted.role) == (cluster, role));
    let wanted = wanted.unwrap_or(WantedK3s {
        role,
        cluster,
        binary,
    });
    enter(change, id, wanted);
    rollouts::advance(change, cluster);
    cluster_lifecycle::settle(change, cluster);
}

/// Whoever was a node of the cluster is one until the cluster has forgotten its name. Without a token
/// it never was; and a founder that was not ready founds anew.
fn depart(change: &mut Change<'_>, id: &NodeId, row: &K3sNode, how: Departure) {
    if row.token.is_none() && !row.has_been_ready() {
        return;
    }
    let (name, index) = (change.agreed().name_of(id), change.index);
    let Some(cluster) = change.agreed_mut().clusters.get_mut(&row.cluster) else {
        return;
    };
    let is_member = row.role == K3sRole::Server && row.has_been_ready();
    if is_member && how == Departure::Lost {
        cluster.lost.insert(name.clone());
    }
    cluster.departed.insert(name, index);
    while cluster.departed.len() > DEPARTED_MAX {
        let oldest = cluster.departed.iter().min_by_key(|(_, went)| **went);
        let Some(oldest) = oldest.map(|(name, _)| name.clone()) else {
            break;
        };
        cluster.departed.remove(&oldest);
        cluster.lost.remove(&oldest);
    }
}

/// A node is removed from the mesh.
pub(super) fn forget(change: &mut Change<'_>, id: &NodeId) {
    let own = |assignment: &Assignment| assignment.target == Target::Node(id.clone());
    change
        .agreed_mut()
        .k3s_wishes
        .retain(|assignment, _| !own(assignment));
    left(change, id, Departure::Lost);
}

/// A node tells how far it is.
pub(super) fn report(change: &mut Change<'_>, actor: &NodeId, said: &Said<'_>) -> Applied {
    let Some(row) = change.agreed().k3s_nodes.get(actor) else {
        return Err(Refusal::K3sNodeUnknown {
            node: change.agreed().name_of(actor),
        });
    };
    if row.attempt != said.attempt {
        return done();
    }
    let cluster = &change.agreed().clusters[&row.cluster];
    check_report(cluster, cluster.is_founded_by(actor, row), said.phase)?;
    check_pods(change, cluster, actor, said.pods)?;
    let stopped = *said.phase == K3sPhase::Stopped;
    // What crossed an assignment or its end on the way must not undo it.
    if row.is_leaving() != stopped {
        return done();
    }
    if stopped {
        change.event(EventKind::K3sStopped, Some(actor), []);
        left(change, actor, Departure::InPeace);
        settle(change, actor);
        return done();
    }
    match said.phase {
        // The token is there already; the node had not seen it yet.
        K3sPhase::JoinRequest if row.token.is_some() => return done(),
        K3sPhase::Assigned => {
            if row.phase != K3sPhase::Assigned {
                begin_again(change, actor);
            }
            return done();
        }
        K3sPhase::Installing
        | K3sPhase::Bootstrap
        | K3sPhase::JoinRequest
        | K3sPhase::JoinTokenIssued
        | K3sPhase::Starting
        | K3sPhase::Ready { .. }
        | K3sPhase::Leaving
        | K3sPhase::Stopped
        | K3sPhase::Drained
        | K3sPhase::Failed { .. } => {}
    }
    let is_news = !row.phase.tells_the_same(said.phase);
    let id = row.cluster;
    note(change, actor, said, is_news);
    if is_news {
        report_event(change, actor, said.phase);
    }
    if let K3sPhase::Ready { version } = said.phase {
        ready(change, actor, id, version);
    }
    if let K3sPhase::Failed { reason, .. } = said.phase {
        rollouts::note_failure(change, id, actor, reason);
    }
    rollouts::advance(change, id);
    done()
}

fn note(change: &mut Change<'_>, actor: &NodeId, said: &Said<'_>, is_news: bool) {
    let now = change.time;
    let cluster = change.agreed().k3s_nodes.get(actor).map(|row| row.cluster);
    let cluster = cluster.and_then(|id| change.agreed().clusters.get(&id));
    // Without a prefix pods are K3s's own affair, and nothing is routed to them.
    let routed = cluster.is_some_and(|cluster| cluster.pod_prefix.is_some());
    edit(change, actor, |row| {
        row.phase = said.phase.clone();
        if is_news {
            row.since = now;
        }
        if let K3sPhase::Ready { version } = said.phase {
            row.version = Some(version.clone());
            row.generation = said.generation;
            row.pods = if routed {
                said.pods.clone()
            } else {
                BTreeSet::new()
            };
        }
    });
    if routed {
        take_over_pods(change, actor, said.pods);
    }
}

/// Subnets that a node has now are no more those of one that is leaving.
fn take_over_pods(change: &mut Change<'_>, actor: &NodeId, pods: &BTreeSet<IpPrefix>) {
    let had = |row: &K3sNode| {
        let is_now = |theirs: &IpPrefix| pods.iter().any(|own| own.overlaps(*theirs));
        row.is_leaving() && row.pods.iter().any(is_now)
    };
    let rows = change.agreed().k3s_nodes.iter();
    let losing = rows.filter(|(id, row)| *id != actor && had(row));
    let losing: Vec<NodeId> = losing.map(|(id, _)| id.clone()).collect();
    for id in losing {
        edit(change, &id, |row| {
            row.pods
                .retain(|theirs| !pods.iter().any(|own| own.overlaps(*theirs)));
        });
    }
}

/// A ready server may hold the API's address; the founder's word makes the cluster active.
fn ready(change: &mut Change<'_>, actor: &NodeId, id: ClusterId, version: &str) {
    let agreed = change.agreed();
    let (Some(row), Some(cluster)) = (agreed.k3s_nodes.get(actor), agreed.clusters.get(&id)) else {
        return;
    };
    let (is_server, vip) = (row.role == K3sRole::Server, cluster.vip);
    let founder = cluster.is_founded_by(actor, row);
    let begins = founder && cluster.status == ClusterStatus::Bootstrapping;
    if is_server {
        virtual_ips::add_candidate(change, vip, actor);
    }
    if !begins {
        return;
    }
    let Some(cluster) = change.agreed_mut().clusters.get_mut(&id) else {
        return;
    };
    cluster.status = ClusterStatus::Active;
    cluster.version.get_or_insert_with(|| version.to_owned());
    let name = cluster.name.clone();
    let cluster = &change.agreed().clusters[&id];
    let endpoint = change.agreed().api_endpoint(cluster).unwrap_or_default();
    change.event(
        EventKind::ClusterBootstrapped,
        Some(actor),
        [("cluster", name), ("api_endpoint", endpoint)],
    );
}

fn check_report(cluster: &Cluster, founder: bool, phase: &K3sPhase) -> Result<(), Refusal> {
    let founds = founder && cluster.status == ClusterStatus::Bootstrapping;
    let rule = match phase {
        K3sPhase::JoinTokenIssued | K3sPhase::Leaving => "a phase that the node itself reaches",
        K3sPhase::Bootstrap if !founds => {
            "a phase of the cluster's founder before the cluster is active"
        }
        K3sPhase::JoinRequest if founds => "bootstrap: the founder joins nobody",
        K3sPhase::JoinRequest if cluster.status != ClusterStatus::Active => {
            "a phase of an active cluster's nodes"
        }
        // Nobody has a token yet.
        K3sPhase::Starting | K3sPhase::Ready { .. }
            if !founder && cluster.status == ClusterStatus::Bootstrapping =>
        {
            "a phase of an active cluster's nodes"
        }
        K3sPhase::Ready { version } if version.len() > TEXT_BYTES_MAX => {
            return Err(too_large("a version", TEXT_BYTES_MAX));
        }
        K3sPhase::Failed { reason, code, .. } if reason.len() + code.len() > REASON_BYTES_MAX => {
            return Err(too_large("a reason", REASON_BYTES_MAX));
        }
        K3sPhase::Assigned
        | K3sPhase::Installing
        | K3sPhase::Bootstrap
        | K3sPhase::JoinRequest
        | K3sPhase::Starting
        | K3sPhase::Ready { .. }
        | K3sPhase::Stopped
        | K3sPhase::Drained
        | K3sPhase::Failed { .. } => return Ok(()),
    };
    Err(invalid("report", phase.as_str(), rule))
}

/// Pods' addresses are routed to whom they are said to be with: they lie in the cluster's prefix
/// and are nobody else's. In a cluster without one nothing is routed, and it does not matter.
fn check_pods(
    change: &Change<'_>,
    cluster: &Cluster,
    actor: &NodeId,
    pods: &BTreeSet<IpPrefix>,
) -> Result<(), Refusal> {
    if pods.len() > POD_SUBNETS_MAX {
        return Err(too_large(
            "the number of a node's pod subnets",
            POD_SUBNETS_MAX,
        ));
    }
    let Some(all) = cluster.pod_prefix else {
        return Ok(());
    };
    let inside = |prefix: &&IpPrefix| all.contains(**prefix);
    if let Some(stray) = pods.iter().find(|prefix| !inside(prefix)) {
        let rule = "inside the pod subnet prefix of the cluster's network";
        return Err(invalid("pod subnet", &stray.to_string(), rule));
    }
    // What is leaving has had its Kubernetes node deleted, and with it its subnets: they are the next
    // one's, maybe before the old one is done on its host.
    let others = change.agreed().k3s_nodes.iter();
    for (id, other) in others.filter(|(id, other)| *id != actor && !other.is_leaving()) {
        let meets = |prefix: &&IpPrefix| other.pods.iter().any(|theirs| theirs.overlaps(**prefix));
        if let Some(prefix) = pods.iter().find(meets) {
            return Err(Refusal::PrefixOverlap {
                what: "the pod subnet".to_owned(),
                prefix: prefix.to_string(),
                with: format!("the pods of {}", change.agreed().name_of(id)),
            });
        }
    }
    Ok(())
}

fn report_event(change: &mut Change<'_>, id: &NodeId, phase: &K3sPhase) {
    match phase {
        K3sPhase::Installing => change.event(EventKind::K3sInstalling, Some(id), []),
        K3sPhase::Bootstrap => change.event(EventKind::K3sBootstrap, Some(id), []),
        K3sPhase::JoinRequest => change.event(EventKind::K3sJoinRequest, Some(id), []),
        K3sPhase::Ready { version } => {
            change.event(
                EventKind::K3sReady,
                Some(id),
                [("version", version.clone())],
            );
        }
        K3sPhase::Failed { reason, code, .. } => change.event(
            EventKind::K3sFailed,
            Some(id),
            [("reason", reason.clone()), ("code", code.clone())],
        ),
        K3sPhase::Assigned
        | K3sPhase::JoinTokenIssued
        | K3sPhase::Starting
        | K3sPhase::Leaving
        | K3sPhase::Stopped
        | K3sPhase::Drained => {}
    }
}

/// A ready server of the cluster has sealed its token for a node that asked. One that comes late
/// or twice changes nothing.
pub(super) fn issue_token(
    change: &mut Change<'_>,
    actor: &NodeId,
    node: &NodeId,
    attempt: LogIndex,
    token: &SealedKey,
) -> Applied {
    let name = change.agreed().name_of(node);
    let Some(row) = change.agreed().k3s_nodes.get(node) else {
        return Err(Refusal::K3sNodeUnknown { node: name });
    };
    let cluster = row.cluster;
    require_server_of(change, actor, cluster)?;
    if row.attempt != attempt || row.phase != K3sPhase::JoinRequest {
        return done();
    }
    // The cluster still knows an earlier stay by this name, and would take the new one for it.
    let departed = &change.agreed().clusters[&cluster].departed;
    if departed.contains_key(&name) {
        return done();
    }
    let recipient = &change.agreed().nodes[node].sealing_recipient;
    if token.recipients != BTreeSet::from([recipient.clone()]) {
        return Err(Refusal::TokenSealedToOthers { node: name });
    }
    if token.age.len() > SEALED_KEY_BYTES_MAX {
        return Err(too_large("a sealed token", SEALED_KEY_BYTES_MAX));
    }
    edit(change, node, |row| row.token = Some(token.clone()));
    set_phase(change, node, K3sPhase::JoinTokenIssued);
    let by = change.agreed().name_of(actor);
    change.event(EventKind::K3sJoinTokenIssued, Some(node), [("issuer", by)]);
    done()
}

/// Only who is a ready server of the cluster speaks for it.
pub(super) fn require_server_of(
    change: &Change<'_>,
    actor: &NodeId,
    cluster: ClusterId,
) -> Result<(), Refusal> {
    let agreed = change.agreed();
    let is_one = agreed
        .k3s_nodes
        .get(actor)
        .is_some_and(|row| row.cluster == cluster && row.role == K3sRole::Server && row.is_ready());
    match (is_one, agreed.clusters.get(&cluster)) {
        (true, _) => Ok(()),
        (false, Some(cluster)) => Err(Refusal::NotClusterServer {
            node: agreed.name_of(actor),
            cluster: cluster.name.clone(),
        }),
        (false, None) => Err(clusters::unknown(&cluster.to_string())),
    }
}

fn set_phase(change: &mut Change<'_>, id: &NodeId, phase: K3sPhase) {
    let now = change.time;
    edit(change, id, |row| {
        row.phase = phase;
        row.since = now;
    });
}

pub(super) fn edit(change: &mut Change<'_>, id: &NodeId, with: impl FnOnce(&mut K3sNode)) {
    if let Some(row) = change.agreed_mut().k3s_nodes.get_mut(id) {
        with(row);
    }
}

/// Every node's row, for changes that go round.
pub(super) fn rows(change: &Change<'_>, cluster: ClusterId) -> BTreeMap<NodeId, K3sNode> {
    let rows = change.agreed().k3s_nodes_of(cluster);
    rows.map(|(id, row)| (id.clone(), row.clone())).collect()
}
