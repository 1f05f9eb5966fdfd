//! What the agreed state wants of a node's K3s, as the daemon's shell puts it together.
//!
//! Decides nothing that is not agreed. The daemon's own is `node/daemon/src/mesh/k3s/wish.rs`; this one
//! differs in one thing: an address that is to move has moved.

use std::net::Ipv6Addr;

use consensus_core::{Agreed, Cluster, ClusterStatus, K3sBinary, K3sNode, K3sPhase, NodeId};
use runtimes_core::k3s::{Desired, Entrance, Membership, Misfit, Place, Stay, TokenMark};

/// What a node is to be.
pub(super) fn desired(agreed: &Agreed, me: &NodeId) -> Desired {
    let row = agreed.k3s_nodes.get(me).filter(|row| !row.is_leaving());
    let cluster = row.and_then(|row| agreed.clusters.get(&row.cluster));
    Desired {
        stay: row
            .zip(cluster)
            .map(|(row, cluster)| stay(agreed, me, row, cluster)),
    }
}

fn stay(agreed: &Agreed, me: &NodeId, row: &K3sNode, cluster: &Cluster) -> Stay {
    let version = row.binary.version.clone();
    let rollout = cluster.rollout.as_ref();
    Stay {
        attempt: row.attempt,
        role: row.role,
        membership: membership(agreed, me, row, cluster),
        generation: cluster.generation,
        active: cluster.status != ClusterStatus::Bootstrapping,
        binary: K3sBinary {
            version: version.or_else(|| cluster.version.clone()),
            ..row.binary.clone()
        },
        token: row.token.as_ref().map(|sealed| mark(&sealed.age)),
        turn: rollout.is_some_and(|rollout| rollout.turn.contains(me)),
        holds_api: false,
        begun: row.phase != K3sPhase::Assigned,
        settled: row.has_been_ready(),
    }
}

/// What tells a sealed token from another.
pub(super) fn mark(sealed: &[u8]) -> TokenMark {
    TokenMark(*blake3::hash(sealed).as_bytes())
}

fn membership(
    agreed: &Agreed,
    me: &NodeId,
    row: &K3sNode,
    cluster: &Cluster,
) -> Result<Membership, Misfit> {
    let node = agreed.name_of(me);
    let network = agreed.networks.get(&cluster.network);
    let peer = agreed.peers.get(&(cluster.network, me.clone()));
    let Some((network, peer)) = network.zip(peer) else {
        let network = network.map_or_else(String::new, |network| network.name.clone());
        return Err(Misfit::NoPlace { node, network });
    };
    let vip = agreed.virtual_ips.get(&cluster.vip);
    Ok(Membership {
        role: row.role,
        node_name: node,
        place: Place {
            ipv4: peer.ipv4,
            ipv6: peer.ipv6,
            interface: network.interface(),
        },
        vip: vip.map_or(Ipv6Addr::UNSPECIFIED, |vip| vip.address),
        entrance: match cluster.is_founded_by(me, row) {
            true => Entrance::Found,
            false => Entrance::Join,
        },
        cni: cluster.cni,
        pod_prefix: cluster.pod_prefix,
    })
}
