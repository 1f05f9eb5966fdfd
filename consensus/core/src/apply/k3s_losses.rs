//! What K3s clusters cannot do without (SPEC 5.10, 7.1, 7.2).
//!
//! Decides: that a cluster that others are in keeps a server that was ready, and that neither a drain
//! nor a server that is taken out stops more of its etcd than it can spare; unless somebody insists.
//! What etcd is: [`Agreed::etcd`]. And that K3s is wiped off no node unasked.
//!
//! Who is alive is said by whoever asks. A dead machine's row stays ready, but its server serves nobody;
//! and taking a dead one out costs its cluster nothing.

use std::collections::BTreeSet;

use super::Change;
use crate::{Agreed, ClusterId, Etcd, K3sNode, K3sRole, NodeId, Refusal, k3s_wishes::Supposed};

/// A refusal is remembered: of many nodes so many are named.
const NAMED_MAX: usize = 8;

/// A node leaves the mesh, or founds a cluster elsewhere.
pub(super) fn refuse_removal(
    change: &Change<'_>,
    node: &NodeId,
    reachable: &BTreeSet<NodeId>,
    force: bool,
) -> Result<(), Refusal> {
    if force {
        return Ok(());
    }
    refuse_loss(change.agreed(), &BTreeSet::from([node.clone()]), reachable)
}

/// A removed node is shut out of the overlay at once. It takes its own member out of etcd no more, and
/// the others can only as a majority of all that etcd still counts: of two, the one that is left
/// would stand still for good.
pub(super) fn refuse_removal_with_member(
    change: &Change<'_>,
    node: &NodeId,
    reachable: &BTreeSet<NodeId>,
    force: bool,
) -> Result<(), Refusal> {
    let agreed = change.agreed();
    let Some(row) = agreed.k3s_nodes.get(node).filter(|_| !force) else {
        return Ok(());
    };
    let mut etcd = agreed.etcd(row.cluster).heard(reachable);
    let was_member = row.role == K3sRole::Server && row.has_been_ready();
    if was_member && row.is_leaving() && reachable.contains(node) {
        etcd = etcd.with(node);
    }
    if etcd.members.len() < 2 || !etcd.serving.contains(node) {
        return Ok(());
    }
    refuse_minority(agreed, node, row.cluster, etcd.stopped(node))
}

/// A wish or a label changes: nodes that are wanted elsewhere then, or nowhere, leave. Whether that may be
/// comes first, and then whether whoever asked for it knows what it costs: what hangs on a label, or on a
/// selector, is not seen where it is written.
pub(super) fn refuse_change(
    change: &Change<'_>,
    supposed: Supposed<'_>,
    reachable: &BTreeSet<NodeId>,
    consent: bool,
) -> Result<(), Refusal> {
    let agreed = change.agreed();
    let stays = |id: &NodeId, row: &K3sNode| {
        let wanted = agreed.wanted_k3s_if(id, supposed);
        wanted.is_some_and(|wanted| (wanted.role, wanted.cluster) == (row.role, row.cluster))
    };
    let here = agreed.k3s_nodes.iter().filter(|(_, row)| !row.is_leaving());
    let losing: Vec<(&NodeId, &K3sNode)> = here.filter(|(id, row)| !stays(id, row)).collect();
    let servers = losing.iter().filter(|(_, row)| is_server(row));
    let servers = servers.map(|(id, _)| (*id).clone()).collect();
    refuse_loss(agreed, &servers, reachable)?;
    match consent {
        true => Ok(()),
        false => refuse_unasked(agreed, &losing),
    }
}

/// Who founds a cluster leaves the one that it is in.
pub(super) fn refuse_founding_unasked(
    change: &Change<'_>,
    founder: &NodeId,
) -> Result<(), Refusal> {
    let agreed = change.agreed();
    let row = agreed.k3s_nodes.get(founder);
    let row = row.filter(|row| !row.is_leaving());
    let losing: Vec<(&NodeId, &K3sNode)> = row.map(|row| (founder, row)).into_iter().collect();
    refuse_unasked(agreed, &losing)
}

fn refuse_unasked(agreed: &Agreed, losing: &[(&NodeId, &K3sNode)]) -> Result<(), Refusal> {
    if losing.is_empty() {
        return Ok(());
    }
    let named = losing.iter().take(NAMED_MAX).map(|(id, row)| {
        let cluster = &agreed.clusters[&row.cluster].name;
        format!(
            "{} ({} of {cluster})",
            agreed.name_of(id),
            row.role.as_str()
        )
    });
    let mut nodes = named.collect::<Vec<String>>().join(", ");
    if losing.len() > NAMED_MAX {
        nodes += &format!(" and {} others", losing.len() - NAMED_MAX);
    }
    Err(Refusal::ConsentRequired { nodes })
}

fn refuse_loss(
    agreed: &Agreed,
    losing: &BTreeSet<NodeId>,
    reachable: &BTreeSet<NodeId>,
) -> Result<(), Refusal> {
    for node in losing {
        let Some(row) = agreed.k3s_nodes.get(node).filter(|row| is_server(row)) else {
            continue;
        };
        let mut nodes = agreed.k3s_nodes_of(row.cluster);
        if nodes.all(|(id, _)| losing.contains(id)) {
            continue;
        }
        let founder = agreed.clusters[&row.cluster].is_founded_by(node, row);
        if !row.has_been_ready() && !founder {
            // etcd never knew it.
            continue;
        }
        let before = agreed.etcd(row.cluster);
        let after = losing.iter().fold(before.clone(), Etcd::without);
        if after.members.is_empty() {
            return Err(last(agreed, node, row));
        }
        if before.heard(reachable).serving.contains(node) {
            refuse_minority(agreed, node, row.cluster, after.heard(reachable))?;
        }
    }
    Ok(())
}

fn is_server(row: &K3sNode) -> bool {
    row.role == K3sRole::Server && !row.is_leaving()
}

/// A server that is emptied is stopped, and stays a member of its cluster's etcd: with too few of the
/// others the API would go with it. One that is being changed has to end that first.
pub(super) fn refuse_drain(
    change: &Change<'_>,
    node: &NodeId,
    reachable: &BTreeSet<NodeId>,
    force: bool,
) -> Result<(), Refusal> {
    let agreed = change.agreed();
    let Some(row) = agreed.k3s_nodes.get(node) else {
        return Ok(());
    };
    if force || row.is_leaving() {
        return Ok(());
    }
    let rollout = agreed.clusters[&row.cluster].rollout.as_ref();
    if rollout.is_some_and(|rollout| rollout.is_at(node)) {
        return Err(busy(agreed, row.cluster, &[node]));
    }
    if row.role == K3sRole::Agent {
        return Ok(());
    }
    let etcd = agreed.etcd(row.cluster).stopped(node);
    let founds = agreed.clusters[&row.cluster].is_founded_by(node, row);
    if !etcd.members.contains(node) && !founds {
        // etcd never knew it.
        return Ok(());
    }
    if etcd.serving.is_empty() {
        return Err(last(agreed, node, row));
    }
    refuse_minority(agreed, node, row.cluster, etcd.heard(reachable))
}

/// Whether etcd goes on like this, also while the server stops whose turn it is in an upgrade.
fn refuse_minority(
    agreed: &Agreed,
    node: &NodeId,
    id: ClusterId,
    etcd: Etcd,
) -> Result<(), Refusal> {
    let cluster = &agreed.clusters[&id];
    if !etcd.has_majority() {
        return Err(Refusal::ClusterMajorityAtRisk {
            node: agreed.name_of(node),
            cluster: cluster.name.clone(),
            serving: etcd.serving.len() as u64,
            servers: etcd.counted() as u64,
            needed: etcd.needed() as u64,
        });
    }
    let rollout = cluster.rollout.as_ref();
    let stopping = etcd.serving.iter();
    let stopping = stopping.filter(|id| rollout.is_some_and(|rollout| rollout.is_at(id)));
    let stopping: Vec<&NodeId> = stopping.collect();
    let meanwhile = stopping
        .iter()
        .fold(etcd.clone(), |etcd, id| etcd.stopped(id));
    match meanwhile.has_majority() {
        true => Ok(()),
        false => Err(busy(agreed, id, &stopping)),
    }
}

fn last(agreed: &Agreed, node: &NodeId, row: &K3sNode) -> Refusal {
    Refusal::ClusterLastServer {
        node: agreed.name_of(node),
        cluster: agreed.clusters[&row.cluster].name.clone(),
    }
}

fn busy(agreed: &Agreed, cluster: ClusterId, at: &[&NodeId]) -> Refusal {
    let names: Vec<String> = at.iter().map(|id| agreed.name_of(id)).collect();
    Refusal::ClusterBusy {
        cluster: agreed.clusters[&cluster].name.clone(),
        why: format!("is being changed, at {}", names.join(", ")),
    }
}
