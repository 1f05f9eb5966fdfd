//! A cluster as the mesh agrees on it, for tests of who may stop and of what is wanted.

use std::collections::{BTreeMap, BTreeSet};

use consensus_core::{
    Agreed, Cluster, ClusterId, ClusterStatus, Cni, Drain, DrainState, K3sBinary, K3sNode,
    K3sPhase, K3sRole, LogIndex, NetworkId, NodeId, VipId, WallMs,
};

/// Which it is.
pub(crate) const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);

/// One of its nodes, by its number.
pub(crate) fn node(n: usize) -> NodeId {
    let letter = ["a", "b", "c", "d", "e", "f"][n];
    let text = format!("12D3KooW{}", letter.repeat(44));
    text.parse().expect("52 characters of base58")
}

/// A cluster of so many servers, all ready, from node 1 on.
pub(crate) fn of(servers: usize) -> Agreed {
    let mut agreed = Agreed::default();
    for n in 1..=servers {
        let row = K3sNode {
            cluster: CLUSTER,
            role: K3sRole::Server,
            attempt: LogIndex(3),
            binary: K3sBinary::INSTALLED,
            phase: K3sPhase::Ready {
                version: "v1.31.2+k3s1".into(),
            },
            since: WallMs(0),
            token: None,
            version: Some("v1.31.2+k3s1".into()),
            generation: LogIndex(3),
            pods: BTreeSet::new(),
        };
        agreed.k3s_nodes.insert(node(n), row);
    }
    agreed
}

/// Gives the nodes the row of their cluster, which the first one of them has founded.
pub(crate) fn founded(agreed: &mut Agreed, status: ClusterStatus) {
    let cluster = Cluster {
        name: "prod".into(),
        network: NetworkId::from_bytes([1; 16]),
        cni: Cni::Flannel,
        pod_prefix: None,
        vip: VipId::from_bytes([2; 16]),
        founder: node(1),
        founded: LogIndex(3),
        status,
        version: None,
        generation: LogIndex(3),
        rollout: None,
        departed: BTreeMap::new(),
        created_at: WallMs(0),
        lost: BTreeSet::new(),
    };
    agreed.clusters.insert(CLUSTER, cluster);
}

/// A node of it is drained, or only kept free of new work.
pub(crate) fn emptied(agreed: &mut Agreed, n: usize, cordon_only: bool) {
    let drain = Drain {
        begun: LogIndex(9),
        at: WallMs(0),
        timeout_ms: 600_000,
        cordon_only,
        state: DrainState::Drained,
        forced: false,
    };
    agreed.drains.insert(node(n), drain);
}
