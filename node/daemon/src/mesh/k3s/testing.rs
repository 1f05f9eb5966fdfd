//! A cluster as the mesh agrees on it, for tests of who may stop.

use std::collections::BTreeSet;

use consensus_core::{
    Agreed, ClusterId, Drain, DrainState, K3sBinary, K3sNode, K3sPhase, K3sRole, LogIndex, NodeId,
    WallMs,
};

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
            cluster: ClusterId::from_bytes([7; 16]),
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
