//! What the agreed state wants of a node's K3s.
//!
//! Decides nothing that is not agreed: it puts a row, its cluster and the node's place together.
//!
//! Invariant: a node that was ready is asked for the settings of a change only in its turn.

use std::{collections::BTreeSet, net::Ipv6Addr};

use consensus_core::{
    Agreed, Cluster, ClusterStatus, K3sBinary, K3sNode, K3sPhase, NodeId, VirtualIp, WallMs,
};

use super::{Desired, Entrance, Membership, Misfit, Place, Stay, TokenMark};

impl TokenMark {
    /// That of a token as it was sealed.
    pub fn of(sealed: &[u8]) -> Self {
        Self(*blake3::hash(sealed).as_bytes())
    }
}

/// What a node's K3s is to be. `heard` are the nodes that are heard, among which the API's address may
/// move.
pub fn desired(agreed: &Agreed, me: &NodeId, heard: &BTreeSet<NodeId>) -> Desired {
    let here = staying(agreed, me);
    Desired {
        stay: here.map(|(row, cluster)| stay(agreed, me, row, cluster, heard)),
    }
}

/// When the change whose turn is this node's was last asked for.
pub fn asked(agreed: &Agreed, me: &NodeId) -> Option<WallMs> {
    let (_, cluster) = staying(agreed, me)?;
    let rollout = cluster.rollout.as_ref();
    let mine = rollout.filter(|rollout| rollout.turn.contains(me));
    mine.map(|rollout| rollout.since)
}

/// A node's row, and its cluster, unless it is to leave it.
pub fn staying<'a>(agreed: &'a Agreed, me: &NodeId) -> Option<(&'a K3sNode, &'a Cluster)> {
    let row = agreed.k3s_nodes.get(me).filter(|row| !row.is_leaving())?;
    Some((row, agreed.clusters.get(&row.cluster)?))
}

fn stay(
    agreed: &Agreed,
    me: &NodeId,
    row: &K3sNode,
    cluster: &Cluster,
    heard: &BTreeSet<NodeId>,
) -> Stay {
    let vip = agreed.virtual_ips.get(&cluster.vip);
    let version = row.binary.version.clone();
    let rollout = cluster.rollout.as_ref();
    let turn = rollout.is_some_and(|rollout| rollout.turn.contains(me));
    Stay {
        attempt: row.attempt,
        role: row.role,
        membership: membership(agreed, me, row, cluster, vip),
        // The cluster's is a new one for all nodes as soon as a change begins.
        generation: match turn || !row.has_been_ready() {
            true => cluster.generation,
            false => row.generation,
        },
        active: cluster.status != ClusterStatus::Bootstrapping,
        binary: K3sBinary {
            version: version.or_else(|| cluster.version.clone()),
            ..row.binary.clone()
        },
        token: row.token.as_ref().map(|token| TokenMark::of(&token.age)),
        turn,
        // Where nobody else can take it, there is nothing to wait for.
        holds_api: vip
            .is_some_and(|vip| vip.is_holder(me) && agreed.next_holder(vip, heard).is_ok()),
        begun: row.phase != K3sPhase::Assigned,
        settled: row.has_been_ready(),
    }
}

fn membership(
    agreed: &Agreed,
    me: &NodeId,
    row: &K3sNode,
    cluster: &Cluster,
    vip: Option<&VirtualIp>,
) -> Result<Membership, Misfit> {
    let node = agreed.name_of(me);
    let network = agreed.networks.get(&cluster.network);
    let peer = agreed.peers.get(&(cluster.network, me.clone()));
    let Some((network, peer)) = network.zip(peer) else {
        let network = network.map_or_else(String::new, |network| network.name.clone());
        return Err(Misfit::NoPlace { node, network });
    };
    let profile = agreed.nodes.get(me).map(|node| node.network_profile);
    if profile.is_some_and(|profile| !cluster.cni.runs_on(profile)) {
        let cni = cluster.cni.as_str().to_owned();
        return Err(Misfit::TooSmall { node, cni });
    }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use consensus_core::{
        ClusterId, Cni, K3sRole, LogIndex, NetworkId, Rollout, RolloutKind, VipId,
    };

    use super::*;

    const BEFORE: LogIndex = LogIndex(5);
    const NOW: LogIndex = LogIndex(9);

    fn node(letter: &str) -> NodeId {
        let text = format!("12D3KooW{}", letter.repeat(44));
        text.parse().expect("52 characters of base58")
    }

    /// A cluster in the middle of a change, and a node that was ready with what was before.
    fn in_a_change(turn: bool, ready_before: bool) -> Stay {
        let (me, id) = (node("a"), ClusterId::from_bytes([7; 16]));
        let cluster = Cluster {
            name: "prod".to_owned(),
            network: NetworkId::from_bytes([2; 16]),
            cni: Cni::Flannel,
            pod_prefix: None,
            vip: VipId::from_bytes([3; 16]),
            founder: me.clone(),
            founded: LogIndex(3),
            status: ClusterStatus::Active,
            version: Some("v1.31.2+k3s1".to_owned()),
            generation: NOW,
            rollout: Some(Rollout {
                kind: RolloutKind::PodSubnet,
                turn: [node(if turn { "a" } else { "b" })].into(),
                batch: 1,
                failed: None,
                since: WallMs(4),
            }),
            departed: BTreeMap::new(),
            created_at: WallMs(1),
            lost: BTreeSet::new(),
        };
        let row = K3sNode {
            cluster: id,
            role: K3sRole::Server,
            attempt: LogIndex(3),
            binary: K3sBinary::INSTALLED,
            phase: K3sPhase::Starting,
            since: WallMs(1),
            token: None,
            version: ready_before.then(|| "v1.31.2+k3s1".to_owned()),
            generation: BEFORE,
            pods: BTreeSet::new(),
        };
        let mut agreed = Agreed::default();
        agreed.clusters.insert(id, cluster);
        agreed.k3s_nodes.insert(me.clone(), row);
        assert_eq!(asked(&agreed, &me), turn.then_some(WallMs(4)));
        desired(&agreed, &me, &BTreeSet::new()).stay.unwrap()
    }

    #[test]
    fn who_was_ready_is_to_have_a_changes_settings_in_its_turn_only() {
        for (turn, ready_before, generation) in [
            (false, true, BEFORE),
            (true, true, NOW),
            (false, false, NOW),
            (true, false, NOW),
        ] {
            let stay = in_a_change(turn, ready_before);
            assert_eq!(
                (stay.turn, stay.settled, stay.generation),
                (turn, ready_before, generation)
            );
        }
    }
}
