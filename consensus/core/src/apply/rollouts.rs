//! Changes that go round a K3s cluster: another K3s, another pod prefix (SPEC 5.7).
//!
//! Decides: whose turn it is. Servers come first and one at a time, the holder of the API's address
//! last; then agents, so many at once as was said. Never: how a node takes its turn.
//!
//! Invariants: never do two servers have their turn at once; at the first failure nobody's turn
//! begins any more, and it is said where; a node that comes new has the new settings already.

use std::collections::BTreeSet;

use super::{Change, cluster_networks, clusters, done, invalid, k3s_binaries, k3s_nodes};
use crate::{
    Applied, Cluster, ClusterId, ClusterStatus, Cni, EventKind, IpPrefix, K3sBinary, K3sNode,
    K3sRole, LogIndex, NetworkId, NodeId, Refusal, Rollout, RolloutKind, WallMs,
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
        wish.binary = binary.clone();
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
            return busy(format!("is being changed, at {}", names.join(", ")));
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
    let goes_on = cluster.rollout.as_ref().is_some_and(|old| old.kind == kind);
    if !goes_on {
        cluster.generation = index;
    }
    cluster.rollout = Some(Rollout {
        kind,
        batch,
        ..of_pods(since)
    });
    let name = cluster.name.clone();
    change.event(EventKind::RolloutStarted, None, [("cluster", name)]);
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

/// Ends turns that were taken, and gives the next ones.
pub(super) fn advance(change: &mut Change<'_>, id: ClusterId) {
    let Some(cluster) = change.agreed().clusters.get(&id) else {
        return;
    };
    let rows = k3s_nodes::rows(change, id);
    let to_do = |node: &NodeId| {
        rows.get(node)
            .is_some_and(|row| waits(row, cluster.generation))
    };
    // A node that was being made when the prefix changed has come up with the old one.
    let behind = |row: &K3sNode| row.is_ready() && row.generation < cluster.generation;
    let late = || rows.values().any(behind).then(|| of_pods(change.time));
    let Some(mut rollout) = cluster.rollout.clone().or_else(late) else {
        return;
    };
    rollout.turn.retain(to_do);
    if rollout
        .failed
        .as_ref()
        .is_some_and(|(node, _)| !to_do(node))
    {
        rollout.failed = None;
    }
    if !rollout.turn.is_empty() || rollout.failed.is_some() {
        put(change, id, Some(rollout));
        return;
    }
    let holder = change.agreed().virtual_ips.get(&cluster.vip);
    let holder = holder.and_then(|vip| vip.holder.clone());
    let pending = rows.iter().filter(|(node, _)| to_do(node));
    let (mut servers, agents): (Vec<_>, Vec<_>) =
        pending.partition(|(_, row)| row.role == K3sRole::Server);
    // One that is down already is mended before another one stops.
    servers.sort_by_key(|(node, row)| (row.is_ready(), holder.as_ref() == Some(*node)));
    let next: Vec<NodeId> = match servers.first() {
        Some((server, _)) => vec![(*server).clone()],
        None => {
            let agents = agents.iter().take(rollout.batch.into());
            agents.map(|(node, _)| (*node).clone()).collect()
        }
    };
    if next.is_empty() {
        finish(change, id, &rollout);
        return;
    }
    if let RolloutKind::Upgrade { binary } = &rollout.kind {
        for node in &next {
            k3s_nodes::edit(change, node, |row| row.binary = binary.clone());
        }
    }
    rollout.turn = next.into_iter().collect();
    put(change, id, Some(rollout));
}

/// Whether a node still runs with earlier settings. One that was never ready begins with today's.
fn waits(row: &K3sNode, generation: LogIndex) -> bool {
    let taken = row.is_ready() && row.generation >= generation;
    row.has_been_ready() && !row.is_leaving() && !taken
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
