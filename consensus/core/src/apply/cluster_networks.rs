//! What clusters mean for the networks that they live in (SPEC 3.10, 5.5, 5.7).
//!
//! Decides: that a network stays, and a node's place in it, as long as a cluster lives on them; that a
//! pod prefix stays that a cluster was built on; and which one may still come to a cluster that was
//! built without.
//!
//! That one is K3s's own choice, where its pods are already: then servers and agents only start anew,
//! one after another, to have pods routed instead of tunnelled. Any other would want every node of the
//! cluster gone at once: Kubernetes never changes a node's pod subnet, and its controller manager ends
//! with an error while a node's lies outside of `--cluster-cidr` (kubernetes,
//! `pkg/controller/nodeipam/ipam/range_allocator.go`). So it is refused, with a word about what to do.
//!
//! Invariant: two clusters never give out subnets of the same prefix.

use std::collections::BTreeMap;

use super::Change;
use crate::{
    ClusterId, ClusterStatus, Cni, IpPrefix, NetworkId, NodeId, Refusal,
    cluster::{K3S_PODS, K3S_SERVICES},
};

/// Who uses a network, in words.
pub(super) fn in_network(change: &Change<'_>, network: NetworkId) -> Option<String> {
    let mut clusters = change.agreed().clusters.values();
    clusters
        .find(|cluster| cluster.network == network)
        .map(|cluster| cluster.name.clone())
}

/// Refuses to take the place away that a node's K3s lives on.
pub(super) fn refuse_detach(
    change: &Change<'_>,
    node: &NodeId,
    network: NetworkId,
) -> Result<(), Refusal> {
    let agreed = change.agreed();
    let Some(row) = agreed.k3s_nodes.get(node) else {
        return Ok(());
    };
    match agreed.clusters.get(&row.cluster) {
        Some(cluster) if cluster.network == network => Err(Refusal::ClusterUsesPeer {
            node: agreed.name_of(node),
            network: agreed.networks[&network].name.clone(),
            cluster: cluster.name.clone(),
        }),
        Some(_) | None => Ok(()),
    }
}

/// The pod prefix that a network's clusters are built on is fixed (SPEC 3.10). One that comes to a
/// network with clusters goes round them (SPEC 5.7), if it is where their pods are already.
pub(super) fn check_pod_prefix(
    change: &Change<'_>,
    network: NetworkId,
    present: Option<IpPrefix>,
    wanted: Option<IpPrefix>,
) -> Result<(), Refusal> {
    let fixed = |cluster: String, what: &str, is: IpPrefix| Refusal::ClusterFixed {
        cluster,
        what: what.to_owned(),
        is: is.to_string(),
    };
    let mut clusters = change.agreed().clusters.values();
    let built_on = clusters.find(|one| one.network == network && one.pod_prefix.is_some());
    if let Some((prefix, cluster)) = present.zip(built_on) {
        let name = cluster.name.clone();
        return Err(fixed(name, "network's pod subnet prefix", prefix));
    }
    let Some(wanted) = wanted else { return Ok(()) };
    let on_flannel = ids_in(change, network);
    let mut on_flannel = on_flannel.iter().filter(|(_, cni)| **cni == Cni::Flannel);
    let Some((first, _)) = on_flannel.next() else {
        return Ok(());
    };
    let cluster = &change.agreed().clusters[first];
    if wanted != K3S_PODS {
        return Err(fixed(cluster.name.clone(), "pod subnet prefix", K3S_PODS));
    }
    if let Some((second, _)) = on_flannel.next() {
        let second = &change.agreed().clusters[second];
        return Err(shared(
            wanted,
            &format!("{} and {}", cluster.name, second.name),
        ));
    }
    let busy = |why: &str| {
        Err(Refusal::ClusterBusy {
            cluster: cluster.name.clone(),
            why: why.to_owned(),
        })
    };
    match (&cluster.status, &cluster.rollout) {
        (ClusterStatus::Bootstrapping, _) => busy("is bootstrapping"),
        (_, Some(_)) => busy("is being changed"),
        (ClusterStatus::Active | ClusterStatus::Error { .. }, None) => Ok(()),
    }
}

/// Refuses a new cluster on flannel where another one has the network's pod prefix: both would begin
/// with its first subnet. Nor may it be where K3s has services.
pub(super) fn refuse_shared_pods(
    change: &Change<'_>,
    network: NetworkId,
    prefix: IpPrefix,
) -> Result<(), Refusal> {
    if prefix.overlaps(K3S_SERVICES) {
        return Err(Refusal::PrefixOverlap {
            what: "the pod subnet prefix".to_owned(),
            prefix: prefix.to_string(),
            with: format!("the services of K3s, {K3S_SERVICES}"),
        });
    }
    let mut clusters = change.agreed().clusters.values();
    match clusters.find(|one| one.network == network && one.pod_prefix == Some(prefix)) {
        Some(cluster) => Err(shared(prefix, &cluster.name)),
        None => Ok(()),
    }
}

fn shared(prefix: IpPrefix, clusters: &str) -> Refusal {
    Refusal::PrefixOverlap {
        what: "the pod subnet prefix".to_owned(),
        prefix: prefix.to_string(),
        with: format!("the pods of {clusters}"),
    }
}

/// The clusters of a network by their CNI, for a prefix that has come to it.
pub(super) fn ids_in(change: &Change<'_>, network: NetworkId) -> BTreeMap<ClusterId, Cni> {
    let clusters = change.agreed().clusters.iter();
    clusters
        .filter(|(_, cluster)| cluster.network == network)
        .map(|(id, cluster)| (*id, cluster.cni))
        .collect()
}
