//! What K3s clusters cannot do without (SPEC 5.10, 7.1, 7.2).
//!
//! Decides: that a cluster that others are in keeps a server that was ready, and that no drain stops
//! more servers than its etcd can spare; unless somebody insists.

use std::collections::BTreeSet;

use super::Change;
use crate::{Agreed, Assignment, ClusterId, K3sNode, K3sRole, Module, NodeId, Refusal};

/// A cluster that others are in keeps a server: its last one is not taken from it by the way.
pub(super) fn refuse_loss_of_last_server(
    change: &Change<'_>,
    node: &NodeId,
    becomes: Option<(K3sRole, ClusterId)>,
    force: bool,
) -> Result<(), Refusal> {
    let Some(row) = change.agreed().k3s_nodes.get(node) else {
        return Ok(());
    };
    if force || becomes == Some((row.role, row.cluster)) {
        return Ok(());
    }
    refuse_loss(change, &BTreeSet::from([node.clone()]))
}

/// Taking the module from a cluster's last servers would leave its other nodes without one.
pub(super) fn refuse_unassign(change: &Change<'_>, assignment: &Assignment) -> Result<(), Refusal> {
    if assignment.module != Module::K3sServer {
        return Ok(());
    }
    let agreed = change.agreed();
    let stays = |id: &NodeId, row: &K3sNode| {
        let wanted = agreed.wanted_k3s_without(id, Some(assignment));
        wanted.is_some_and(|wanted| (wanted.role, wanted.cluster) == (row.role, row.cluster))
    };
    let rows = agreed.k3s_nodes.iter();
    let losing = rows.filter(|(id, row)| agreed.covers(&assignment.target, id) && !stays(id, row));
    refuse_loss(change, &losing.map(|(id, _)| id.clone()).collect())
}

fn refuse_loss(change: &Change<'_>, losing: &BTreeSet<NodeId>) -> Result<(), Refusal> {
    let agreed = change.agreed();
    for node in losing {
        let Some(row) = agreed.k3s_nodes.get(node) else {
            continue;
        };
        if row.role == K3sRole::Agent || row.is_leaving() {
            continue;
        }
        let stays = |(id, _): &(&NodeId, &K3sNode)| !losing.contains(*id);
        let mut others = agreed.k3s_nodes_of(row.cluster).filter(stays);
        let mut servers = agreed.k3s_servers_of(row.cluster).filter(stays);
        if servers.any(|(_, other)| is_member(other)) || others.next().is_none() {
            continue;
        }
        return Err(last(agreed, node, row));
    }
    Ok(())
}

/// Whether etcd counts it.
const fn is_member(row: &K3sNode) -> bool {
    row.has_been_ready() && !row.is_leaving()
}

fn last(agreed: &Agreed, node: &NodeId, row: &K3sNode) -> Refusal {
    Refusal::ClusterLastServer {
        node: agreed.name_of(node),
        cluster: agreed.clusters[&row.cluster].name.clone(),
    }
}

/// A server that is emptied is stopped, and stays a member of its cluster's etcd: with too few of the
/// others the API would go with it.
pub(super) fn refuse_drain(change: &Change<'_>, node: &NodeId, force: bool) -> Result<(), Refusal> {
    let agreed = change.agreed();
    let Some(row) = agreed.k3s_nodes.get(node) else {
        return Ok(());
    };
    if force || row.role == K3sRole::Agent || row.is_leaving() {
        return Ok(());
    }
    let emptied = |id: &NodeId| agreed.drains.get(id).is_some_and(|one| !one.cordon_only);
    let (mut members, mut serving) = (0_u64, 0_u64);
    for (id, other) in agreed.k3s_servers_of(row.cluster) {
        members += u64::from(is_member(other));
        serving += u64::from(id != node && other.is_ready() && !emptied(id));
    }
    let needed = members / 2 + 1;
    if serving == 0 {
        return Err(last(agreed, node, row));
    }
    if serving >= needed || !is_member(row) {
        return Ok(());
    }
    Err(Refusal::ClusterMajorityAtRisk {
        node: agreed.name_of(node),
        cluster: agreed.clusters[&row.cluster].name.clone(),
        serving,
        servers: members,
        needed,
    })
}
