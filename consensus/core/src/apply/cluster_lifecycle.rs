//! How K3s clusters come to life and how they end (SPEC 5.9).
//!
//! Decides: whether a cluster still has a founder to wait for, when it has no server left that could
//! bring it up again, and what goes with it.
//!
//! Invariants: a cluster that is bootstrapping has a founder in it or on its way to it; a cluster that
//! nobody is in goes by itself.

use std::collections::BTreeMap;

use super::{Change, clusters::unknown, done, k3s_nodes, modules, virtual_ips};
use crate::{
    Agreed, Applied, Cluster, ClusterId, ClusterStatus, EventKind, K3sRole, LogIndex, NodeId,
};

/// Gives a whole cluster up (SPEC 5.9): its row, its nodes' and its virtual IP. The machines see
/// their rows gone and take K3s off; the modules stay assigned, to nothing. Who was on its way from it
/// to another one is there now.
pub(super) fn decommission(change: &mut Change<'_>, named: &str) -> Applied {
    let Some((id, cluster)) = change.agreed().find_cluster(named) else {
        return Err(unknown(named));
    };
    let name = cluster.name.clone();
    forget(change, id);
    change.event(EventKind::ClusterDecommissioned, None, [("cluster", name)]);
    modules::settle(change);
    done()
}

/// Takes the rows of a cluster away.
fn forget(change: &mut Change<'_>, id: ClusterId) {
    let Some(cluster) = change.agreed_mut().clusters.remove(&id) else {
        return;
    };
    change
        .agreed_mut()
        .k3s_nodes
        .retain(|_, node| node.cluster != id);
    virtual_ips::remove(change, cluster.vip, "its cluster is no more");
}

/// Looks after clusters whose founders have not been ready: one may be wanted elsewhere by now.
pub(super) fn settle_foundings(change: &mut Change<'_>) {
    let clusters = change.agreed().clusters.iter();
    let bootstrapping = |cluster: &Cluster| cluster.status == ClusterStatus::Bootstrapping;
    let ids: Vec<ClusterId> = clusters
        .filter(|(_, cluster)| bootstrapping(cluster))
        .map(|(id, _)| *id)
        .collect();
    for id in ids {
        settle(change, id);
    }
}

/// Whether the node that is to found the cluster is to be its server, be it that it has to leave
/// another one first.
fn is_founder_coming(agreed: &Agreed, id: ClusterId, cluster: &Cluster) -> bool {
    let wanted = agreed.wanted_k3s(&cluster.founder);
    wanted.is_some_and(|wanted| (wanted.cluster, wanted.role) == (id, K3sRole::Server))
}

/// The founder's stay begins, and the cluster's with it.
pub(super) fn note_founding(change: &mut Change<'_>, id: ClusterId, node: &NodeId, role: K3sRole) {
    let index = change.index;
    let Some(cluster) = change.agreed_mut().clusters.get_mut(&id) else {
        return;
    };
    let founds = cluster.founder == *node && role == K3sRole::Server;
    if founds && cluster.status == ClusterStatus::Bootstrapping {
        cluster.founded = index;
    }
}

/// A cluster that nobody is in and no founder on the way to goes by itself; one without a server that
/// could bring it up again says so.
pub(super) fn settle(change: &mut Change<'_>, id: ClusterId) {
    let agreed = change.agreed();
    let Some(cluster) = agreed.clusters.get(&id) else {
        return;
    };
    let bootstrapping = cluster.status == ClusterStatus::Bootstrapping;
    let coming = bootstrapping && is_founder_coming(agreed, id, cluster);
    let (mut nodes, mut servers, mut had) = (0_usize, 0_usize, 0_usize);
    for (_, node) in agreed.k3s_nodes_of(id) {
        nodes += 1;
        if node.role == K3sRole::Server && !node.is_leaving() {
            servers += 1;
            had += usize::from(node.has_been_ready());
        }
    }
    if nodes == 0 && !coming {
        let name = cluster.name.clone();
        forget(change, id);
        change.event(EventKind::ClusterDecommissioned, None, [("cluster", name)]);
        return;
    }
    let (vip, founder) = (cluster.vip, cluster.founder.clone());
    let reason = match cluster.status {
        ClusterStatus::Active if servers == 0 || had == 0 => "its last server is gone",
        ClusterStatus::Bootstrapping if !coming => "its founder left before it was ready",
        ClusterStatus::Active | ClusterStatus::Bootstrapping | ClusterStatus::Error { .. } => {
            return;
        }
    };
    if bootstrapping {
        // One that never came has no row to take it off with.
        virtual_ips::drop_candidate(change, vip, &founder);
    }
    fail(change, id, reason);
}

fn fail(change: &mut Change<'_>, id: ClusterId, reason: &str) {
    let Some(cluster) = change.agreed_mut().clusters.get_mut(&id) else {
        return;
    };
    cluster.status = ClusterStatus::Error {
        reason: reason.to_owned(),
    };
    cluster.rollout = None;
    let name = cluster.name.clone();
    change.event(
        EventKind::ClusterFailed,
        None,
        [("cluster", name), ("reason", reason.to_owned())],
    );
}

/// A server of the cluster has made it forget these nodes. One that has come and gone again since is
/// not meant.
pub(super) fn forgotten(
    change: &mut Change<'_>,
    actor: &NodeId,
    id: ClusterId,
    names: &BTreeMap<String, LogIndex>,
) -> Applied {
    k3s_nodes::require_server_of(change, actor, id)?;
    if let Some(cluster) = change.agreed_mut().clusters.get_mut(&id) {
        let departed = &mut cluster.departed;
        departed.retain(|name, went| names.get(name) != Some(went));
        cluster.lost.retain(|name| departed.contains_key(name));
    }
    done()
}
