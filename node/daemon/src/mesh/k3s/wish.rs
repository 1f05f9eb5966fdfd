//! What the agreed state wants of this node's K3s.
//!
//! Decides nothing that is not agreed: it puts a row, its cluster and this node's place together.

use std::net::Ipv6Addr;

use consensus_core::{
    Agreed, Cluster, ClusterStatus, Cni, IpPrefix, K3sBinary, K3sNode, K3sPhase, K3sRole, NodeId,
    VirtualIp, WallMs,
};
use runtimes_core::k3s::{Desired, Entrance, Membership, Misfit, Place, Stay, TokenMark};

use crate::mesh::overlay::OverlayStatus;

/// All that a turn depends on beside the machine: as long as it stays, looking now and then is
/// enough.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wish {
    pub(super) desired: Desired,
    /// What the mesh believes of this node.
    pub(super) row: Option<K3sNode>,
    /// The K3s that is to be in place.
    pub(super) binary: K3sBinary,
    pub(super) role: K3sRole,
    /// Whether the overlay's interface is still on its way.
    pub(super) too_early: bool,
    /// When the change whose turn is this node's was last asked for.
    pub(super) asked: Option<WallMs>,
}

impl Wish {
    pub(super) fn of(agreed: &Agreed, me: &NodeId, overlay: &OverlayStatus) -> Self {
        let row = agreed.k3s_nodes.get(me);
        let cluster = row.and_then(|row| agreed.clusters.get(&row.cluster));
        let here = row.zip(cluster).filter(|(row, _)| !row.is_leaving());
        let stay = here.map(|(row, cluster)| stay(agreed, me, row, cluster));
        let up = here.is_none_or(|(_, cluster)| overlay.up.contains_key(&cluster.network));
        let placed = stay.as_ref().is_some_and(|stay| stay.membership.is_ok());
        Self {
            binary: stay
                .as_ref()
                .map_or(K3sBinary::INSTALLED, |s| s.binary.clone()),
            role: row.map_or(K3sRole::Agent, |row| row.role),
            row: row.cloned(),
            // After a start the interface comes up within moments; until then nothing is wrong.
            too_early: placed && !up,
            asked: here.and_then(|(_, cluster)| asked(cluster, me)),
            desired: Desired { stay },
        }
    }

    /// Whether what failed before may be tried at once: something else is wanted, or somebody has
    /// asked for the same again.
    pub(super) fn tries_anew(&self, before: Option<&Self>) -> bool {
        before.is_none_or(|before| (&before.desired, before.asked) != (&self.desired, self.asked))
    }

    /// Where the overlay routes pods' addresses (SPEC 5.7), if it does.
    pub(super) fn pod_prefix(&self) -> Option<IpPrefix> {
        let membership = self.desired.stay.as_ref()?.membership.as_ref().ok()?;
        membership.pod_prefix
    }

    /// Whether the cluster's owner installs what gives pods their network (SPEC 5.6).
    pub(super) fn brings_own_network(&self) -> bool {
        let membership = self.desired.stay.as_ref().map(|stay| &stay.membership);
        membership.is_some_and(|membership| {
            (membership.as_ref()).is_ok_and(|membership| membership.cni == Cni::OvnKubernetes)
        })
    }
}

fn asked(cluster: &Cluster, me: &NodeId) -> Option<WallMs> {
    let rollout = cluster.rollout.as_ref();
    let mine = rollout.filter(|rollout| rollout.turn.contains(me));
    mine.map(|rollout| rollout.since)
}

fn stay(agreed: &Agreed, me: &NodeId, row: &K3sNode, cluster: &Cluster) -> Stay {
    let vip = agreed.virtual_ips.get(&cluster.vip);
    let version = row
        .binary
        .version
        .clone()
        .or_else(|| cluster.version.clone());
    let turn = cluster
        .rollout
        .as_ref()
        .is_some_and(|rollout| rollout.turn.contains(me));
    Stay {
        attempt: row.attempt,
        role: row.role,
        membership: membership(agreed, me, row, cluster, vip),
        generation: cluster.generation,
        active: cluster.status != ClusterStatus::Bootstrapping,
        binary: K3sBinary {
            version,
            ..row.binary.clone()
        },
        token: row
            .token
            .as_ref()
            .map(|sealed| TokenMark(*blake3::hash(&sealed.age).as_bytes())),
        turn,
        begun: row.phase != K3sPhase::Assigned,
        settled: row.has_been_ready(),
        holds_api: vip.is_some_and(|vip| {
            let others = vip.candidates.iter().any(|candidate| candidate != me);
            others && vip.is_holder(me)
        }),
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
