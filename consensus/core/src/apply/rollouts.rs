//! Changes that go round a K3s cluster: another K3s, another pod prefix (SPEC 5.7).
//!
//! Decides: whose turn it is. Servers come first and one at a time, the holder of the API's address
//! last; then agents, so many at once as was said. Never: how a node takes its turn.
//!
//! Invariants: never do two servers have their turn at once, nor more agents than was said; at the first
//! failure nobody's turn begins any more, and it is said where; a node that comes new, or comes back from
//! a drain, has the new settings already, and the new K3s.

use std::collections::{BTreeMap, BTreeSet};

use super::{Change, cluster_networks, clusters, done, invalid, k3s_binaries, k3s_nodes};
use crate::{
    Agreed, Applied, Cluster, ClusterId, ClusterStatus, Cni, DrainState, EventKind, IpPrefix,
    K3sBinary, K3sNode, K3sPhase, K3sRole, LogIndex, NetworkId, NodeId, Refusal, Rollout,
    RolloutKind, WallMs,
};

/// Agents at once: more would take a small cluster's pods from it.
const BATCH: std::ops::RangeInclusive<u16> = 1..=100;

/// Every node of a cluster is to run another K3s.
pub(super) fn upgrade(
    change: &mut Change<'_>,
    named: &str,
    binary: &K3sBinary,
    batch: u16,
) -> Applied {
    let Some((id, cluster)) = change.agreed().find_cluster(named) else {
        return Err(clusters::unknown(named));
    };
    if !BATCH.contains(&batch) {
        return Err(invalid("batch", &batch.to_string(), "from 1 to 100"));
    }
    k3s_binaries::check(binary)?;
    if binary.version.is_none() {
        return Err(invalid(
            "K3s version",
            "",
            "given, so that it can be verified",
        ));
    }
    let kind = RolloutKind::Upgrade {
        binary: binary.clone(),
    };
    refuse_busy(change, id, cluster, &kind)?;
    // Who comes later, or again, gets the new one.
    let wishes = change.agreed_mut().k3s_wishes.values_mut();
    for wish in wishes.filter(|wish| wish.cluster == id) {
        wish.binary = binary.instead_of(&wish.binary);
    }
    for node in k3s_nodes::rows(change, id).keys() {
        k3s_nodes::settle(change, node);
    }
    begin(change, id, kind, batch);
    done()
}

fn refuse_busy(
    change: &Change<'_>,
    id: ClusterId,
    cluster: &Cluster,
    kind: &RolloutKind,
) -> Result<(), Refusal> {
    let busy = |why: String| {
        Err(Refusal::ClusterBusy {
            cluster: cluster.name.clone(),
            why,
        })
    };
    if cluster.status != ClusterStatus::Active {
        return busy(format!("is {}", cluster.status.as_str()));
    }
    match &cluster.rollout {
        // The same again after a failure goes on where it stopped.
        Some(rollout) if rollout.failed.is_some() && rollout.kind == *kind => return Ok(()),
        Some(rollout) if rollout.failed.is_none() => {
            let names = rollout.turn.iter().map(|id| change.agreed().name_of(id));
            let names: Vec<String> = names.collect();
            return busy(match names.is_empty() {
                false => format!("is being changed, at {}", names.join(", ")),
                true => "is being changed, and waits for a server that is being drained".to_owned(),
            });
        }
        Some(_) | None => {}
    }
    let unready = k3s_nodes::rows(change, id);
    // Those that a change has stopped at are what another one may be for.
    let stopped = cluster.rollout.as_ref().map(|rollout| &rollout.turn);
    let unready = unready
        .iter()
        .filter(|(id, row)| !row.is_ready() && !stopped.is_some_and(|turn| turn.contains(*id)));
    let names: Vec<String> = unready.map(|(id, _)| change.agreed().name_of(id)).collect();
    if names.is_empty() {
        return Ok(());
    }
    busy(format!(
        "has nodes that are not ready: {}",
        names.join(", ")
    ))
}

/// A pod prefix came to a network: its clusters on flannel are installed anew, one node after
/// another; the others go on as they are and say so.
pub(super) fn pod_prefix(change: &mut Change<'_>, network: NetworkId, prefix: IpPrefix) {
    for (id, cni) in cluster_networks::ids_in(change, network) {
        let Some(cluster) = change.agreed_mut().clusters.get_mut(&id) else {
            continue;
        };
        if cni == Cni::OvnKubernetes {
            let name = cluster.name.clone();
            clusters::prefix_ignored(change, &name, prefix.to_string());
            continue;
        }
        cluster.pod_prefix = Some(prefix);
        begin(change, id, RolloutKind::PodSubnet, 1);
    }
}

fn of_pods(since: WallMs) -> Rollout {
    Rollout {
        kind: RolloutKind::PodSubnet,
        turn: BTreeSet::new(),
        batch: 1,
        failed: None,
        since,
    }
}

fn begin(change: &mut Change<'_>, id: ClusterId, kind: RolloutKind, batch: u16) {
    let (index, since) = (change.index, change.time);
    let Some(cluster) = change.agreed_mut().clusters.get_mut(&id) else {
        return;
    };
    // It goes on with those whose turn it was, also with another change: some of them may be down in the
    // middle of the last one.
    let old = cluster.rollout.take();
    if old.as_ref().is_none_or(|old| old.kind != kind) {
        cluster.generation = index;
    }
    let generation = cluster.generation;
    let turn = old.map(|old| old.turn).unwrap_or_default();
    cluster.rollout = Some(Rollout {
        kind: kind.clone(),
        batch,
        turn: turn.clone(),
        ..of_pods(since)
    });
    let name = cluster.name.clone();
    change.event(EventKind::RolloutStarted, None, [("cluster", name)]);
    for node in &turn {
        equip(change, node, &kind, generation);
    }
    advance(change, id);
}

/// A node whose turn it is could not do it.
pub(super) fn note_failure(change: &mut Change<'_>, id: ClusterId, node: &NodeId, reason: &str) {
    let Some(cluster) = change.agreed_mut().clusters.get_mut(&id) else {
        return;
    };
    let Some(rollout) = &mut cluster.rollout else {
        return;
    };
    if !rollout.turn.contains(node) || rollout.failed.is_some() {
        return;
    }
    rollout.failed = Some((node.clone(), reason.to_owned()));
    let name = cluster.name.clone();
    change.event(
        EventKind::RolloutFailed,
        Some(node),
        [("cluster", name), ("reason", reason.to_owned())],
    );
}

/// The same for the cluster that a node is in.
pub(super) fn advance_at(change: &mut Change<'_>, node: &NodeId) {
    if let Some(row) = change.agreed().k3s_nodes.get(node) {
        let cluster = row.cluster;
        advance(change, cluster);
    }
}

/// Ends turns that were taken, and gives the next ones.
pub(super) fn advance(change: &mut Change<'_>, id: ClusterId) {
    let Some(cluster) = change.agreed().clusters.get(&id) else {
        return;
    };
    let generation = cluster.generation;
    let rows = k3s_nodes::rows(change, id);
    // A node that was being made when the prefix changed has come up with the old one.
    let behind = |row: &K3sNode| row.is_ready() && row.generation < generation;
    let late = || rows.values().any(behind).then(|| of_pods(change.time));
    let Some(mut rollout) = cluster.rollout.clone().or_else(late) else {
        return;
    };
    let mut to_do = rows.clone();
    to_do.retain(|_, row| rollout.kind.waits_for(row, generation));
    rollout.turn.retain(|node| to_do.contains_key(node));
    equip_drained(change, &rollout.kind, generation, &rows);
    if goes_on(&rollout, &rows, generation) {
        rollout.failed = None;
        let mut turn = rollout.turn.iter();
        // Of several that failed one was told of.
        if let Some((node, reason)) = turn.find_map(|node| failure(node, &rows)) {
            put(change, id, Some(rollout));
            note_failure(change, id, &node, &reason);
            return;
        }
    }
    if !rollout.turn.is_empty() || rollout.failed.is_some() {
        put(change, id, Some(rollout));
        return;
    }
    if to_do.is_empty() {
        finish(change, id, &rollout);
        return;
    }
    let next = next(change, id, &to_do, rollout.batch);
    for node in &next {
        equip(change, node, &rollout.kind, generation);
    }
    rollout.turn = next;
    put(change, id, Some(rollout));
}

/// Whether what it stopped at is over. An upgrade is gone on with by itself only where the node has
/// taken it in the end: that the node was taken out says nothing about the new K3s, and the next one may
/// fail as well.
fn goes_on(rollout: &Rollout, rows: &BTreeMap<NodeId, K3sNode>, generation: LogIndex) -> bool {
    let Some((node, _)) = &rollout.failed else {
        return false;
    };
    let kind = &rollout.kind;
    let row = rows.get(node);
    match kind {
        RolloutKind::PodSubnet => !row.is_some_and(|row| kind.waits_for(row, generation)),
        RolloutKind::Upgrade { .. } => row.is_some_and(|row| kind.is_taken_by(row, generation)),
    }
}

/// What a node says that went wrong with it.
fn failure(node: &NodeId, rows: &BTreeMap<NodeId, K3sNode>) -> Option<(NodeId, String)> {
    let row = rows.get(node)?;
    if let K3sPhase::Failed { reason, .. } = &row.phase {
        return Some((node.clone(), reason.clone()));
    }
    None
}

/// Who comes next of those to whom it is still to go.
fn next(
    change: &Change<'_>,
    id: ClusterId,
    to_do: &BTreeMap<NodeId, K3sNode>,
    batch: u16,
) -> BTreeSet<NodeId> {
    let agreed = change.agreed();
    let vip = agreed.clusters.get(&id).map(|cluster| cluster.vip);
    let vip = vip.and_then(|vip| agreed.virtual_ips.get(&vip));
    let holds = |node: &NodeId| vip.is_some_and(|vip| vip.is_holder(node));
    let (mut servers, mut agents): (Vec<_>, Vec<_>) = to_do
        .iter()
        .partition(|(_, row)| row.role == K3sRole::Server);
    if !servers.is_empty() {
        // One that is just being emptied comes to rest first, and takes it when it comes back.
        servers.retain(|(node, _)| !is_emptying(agreed, node));
        // One that is down already is mended before another one stops.
        servers.sort_by_key(|(node, row)| (row.is_ready(), holds(node)));
        let first = servers.into_iter().take(1);
        return first.map(|(node, _)| node.clone()).collect();
    }
    agents.sort_by_key(|(_, row)| row.is_ready());
    let agents = agents.into_iter().take(batch.into());
    agents.map(|(node, _)| node.clone()).collect()
}

fn is_emptying(agreed: &Agreed, node: &NodeId) -> bool {
    let drain = agreed.drains.get(node).filter(|one| !one.cordon_only);
    drain.is_some_and(|drain| match drain.state {
        DrainState::Draining { .. } | DrainState::Drained | DrainState::DrainedExcept { .. } => {
            true
        }
        // It has stopped on the way, with its server running.
        DrainState::Failed { .. } => false,
    })
}

/// Gives a node whose turn begins its new K3s.
fn equip(change: &mut Change<'_>, node: &NodeId, kind: &RolloutKind, generation: LogIndex) {
    let Some(binary) = kind.binary() else { return };
    k3s_nodes::edit(change, node, |row| {
        row.binary = binary.instead_of(&row.binary);
        // It started anew before its turn, with the old one: what it said then counts no more.
        if kind.is_taken_by(row, generation) {
            row.generation = LogIndex::default();
        }
    });
}

/// A server that is drained gets the new settings and the new K3s too, and begins with them when it may
/// work again.
fn equip_drained(
    change: &mut Change<'_>,
    kind: &RolloutKind,
    generation: LogIndex,
    rows: &BTreeMap<NodeId, K3sNode>,
) {
    for (node, row) in rows {
        if row.phase == K3sPhase::Drained && row.has_been_ready() {
            k3s_nodes::edit(change, node, |row| {
                row.generation = generation;
                if let Some(binary) = kind.binary() {
                    row.binary = binary.instead_of(&row.binary);
                }
            });
        }
    }
}

fn put(change: &mut Change<'_>, id: ClusterId, rollout: Option<Rollout>) {
    if let Some(cluster) = change.agreed_mut().clusters.get_mut(&id) {
        cluster.rollout = rollout;
    }
}

fn finish(change: &mut Change<'_>, id: ClusterId, rollout: &Rollout) {
    put(change, id, None);
    let Some(cluster) = change.agreed_mut().clusters.get_mut(&id) else {
        return;
    };
    if let RolloutKind::Upgrade { binary } = &rollout.kind {
        cluster.version.clone_from(&binary.version);
    }
    let name = cluster.name.clone();
    change.event(EventKind::RolloutFinished, None, [("cluster", name)]);
}
