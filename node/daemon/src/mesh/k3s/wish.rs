//! What the agreed state wants of this node's K3s, and what else a look at it depends on.
//!
//! Decides nothing: [`runtimes_core::k3s::wish`] does.

use std::collections::BTreeSet;

use consensus_core::{Agreed, Cni, IpPrefix, K3sBinary, K3sNode, K3sRole, NodeId, WallMs};
use runtimes_core::k3s::{Desired, Stay, wish};

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
    /// Whether the node is being emptied, or only kept free of what is new.
    pub(super) drained: bool,
    /// When the change whose turn is this node's was last asked for.
    pub(super) asked: Option<WallMs>,
    /// Whether its cluster is in a change that has come to this node and has stopped nowhere yet: what goes
    /// wrong here is to stop it.
    pub(super) stops_change: bool,
}

impl Wish {
    pub(super) fn of(
        agreed: &Agreed,
        me: &NodeId,
        heard: &BTreeSet<NodeId>,
        overlay: &OverlayStatus,
    ) -> Self {
        let row = agreed.k3s_nodes.get(me);
        let here = wish::staying(agreed, me);
        let desired = wish::desired(agreed, me, heard);
        let stay = desired.stay.as_ref();
        let up = here.is_none_or(|(_, cluster)| overlay.up.contains_key(&cluster.network));
        let placed = stay.is_some_and(|stay| stay.membership.is_ok());
        Self {
            binary: stay.map_or(K3sBinary::INSTALLED, |stay| stay.binary.clone()),
            role: row.map_or(K3sRole::Agent, |row| row.role),
            row: row.cloned(),
            // After a start the interface comes up within moments; until then nothing is wrong.
            too_early: placed && !up,
            drained: agreed.drains.contains_key(me),
            asked: wish::asked(agreed, me),
            stops_change: stops_change(agreed, me),
            desired,
        }
    }

    /// Whether what failed before may be tried at once: something else is wanted, or somebody has
    /// asked for the same again.
    pub(super) fn tries_anew(&self, before: Option<&Self>) -> bool {
        let asks = |wish: &Self| (wish.wanted(), wish.asked);
        before.is_none_or(|before| asks(before) != asks(self))
    }

    /// What is wanted, without what comes and goes by itself.
    fn wanted(&self) -> Option<Stay> {
        let stay = self.desired.stay.clone();
        stay.map(|stay| Stay {
            holds_api: false,
            ..stay
        })
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

fn stops_change(agreed: &Agreed, me: &NodeId) -> bool {
    let here = wish::staying(agreed, me);
    let rollout = here.and_then(|(_, cluster)| cluster.rollout.as_ref());
    rollout.is_some_and(|rollout| rollout.is_at(me))
}
