//! What goes with a node that leaves for good.
//!
//! Decides what is revoked: in peace what the node holds, while leaves that it signed for others
//! stay good; of a compromised server everything it signed. Leaves a tombstone, so that the node
//! can be told when it comes back.

use std::collections::BTreeSet;

use super::{
    Change, certificates, cluster_lifecycle, containers, docker, drains, firewalls, k3s_losses,
    k3s_nodes, revocation, servers, virtual_ips,
};
use crate::{
    Applied, EventKind, Holder, NetworkId, NodeId, Removed, Role, Target, WallMs,
    limits::REMOVED_KEPT,
};

/// A reason is a sentence.
const REASON_CHARS_MAX: usize = 200;

pub(super) fn remove(
    change: &mut Change<'_>,
    node: &str,
    reason: &str,
    compromised: bool,
    reachable: &BTreeSet<NodeId>,
    force: bool,
) -> Applied {
    let id = change.find_node(node)?;
    k3s_losses::refuse_removal(change, &id, reachable, force)?;
    k3s_losses::refuse_removal_with_member(change, &id, reachable, force)?;
    if change.agreed().nodes[&id].role == Role::Server {
        servers::refuse_loss(change, &id, reachable, force)?;
    }
    let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
    docker::forget(change, &id);
    k3s_nodes::forget(change, &id);
    drains::forget(change, &id);
    virtual_ips::forget_node(change, &id);
    firewalls::forget_node(change, &id);
    change.event(
        EventKind::NodeRemoved,
        Some(&id),
        [("reason", reason.clone())],
    );
    let holder = Holder::Node(id.clone());
    certificates::revoke(change, |_, record| record.holder == holder);
    if compromised {
        revoke_signed(change, &id, &reason);
    } else {
        certificates::retire(change, &id);
    }
    bury(change, &id, reason, compromised);
    let agreed = change.agreed_mut();
    let places: Vec<NetworkId> = agreed.networks.keys().copied().collect();
    agreed.peers.retain(|(_, peer), _| *peer != id);
    agreed
        .assignments
        .retain(|assignment| assignment.target != Target::Node(id.clone()));
    agreed.key_rotations.remove(&id);
    agreed.nodes.remove(&id);
    cluster_lifecycle::settle_foundings(change);
    for network in places {
        containers::settle_network(change, network);
    }
    Ok(servers::count(change))
}

/// Whoever has a compromised server's keys may sign with its intermediates, and may have read the
/// root's key: the first are revoked, the second has to be replaced.
fn revoke_signed(change: &mut Change<'_>, id: &NodeId, reason: &str) {
    let rows = change.agreed().authority.intermediates.iter();
    let own: Vec<String> = rows
        .filter(|(_, row)| row.node == *id)
        .map(|(serial, _)| serial.clone())
        .collect();
    let mut count = 0;
    for serial in own {
        count += certificates::revoke_intermediate(change, &serial);
    }
    if count > 0 {
        revocation::event(change, &Holder::Node(id.clone()), count, "", reason);
    }
    if change.agreed().nodes[id].has_served {
        let wanted = format!("{} was compromised: {reason}", change.agreed().name_of(id));
        change.agreed_mut().authority.rotation_wanted = Some(wanted);
    }
}

fn bury(change: &mut Change<'_>, id: &NodeId, reason: String, revoked: bool) {
    let removed = Removed {
        name: change.agreed().name_of(id),
        at: change.time,
        reason,
        revoked,
    };
    let graves = &mut change.agreed_mut().removed;
    graves.insert(id.clone(), removed);
    while graves.len() > REMOVED_KEPT {
        let age = |(id, removed): &(&NodeId, &Removed)| (removed.at, (*id).clone());
        let oldest: Option<(WallMs, NodeId)> = graves.iter().map(|grave| age(&grave)).min();
        if let Some((_, oldest)) = oldest {
            graves.remove(&oldest);
        }
    }
}
