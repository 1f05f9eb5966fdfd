//! What becomes of the agreed state when the majority of its servers is lost, or all of them.
//!
//! Decides who is what afterwards: one server goes on, the others become agents (they come back as
//! such, and may be promoted again). Not a command: it is done to a state outside of any agreement,
//! because agreement is what was lost. Never decides whether that is right; an operator does.
//!
//! Invariant: afterwards exactly one node is a server.

use std::collections::{BTreeMap, BTreeSet};

use super::{Change, authority, certificates, leases, networks, nodes, peers, removal};
use crate::{
    Enrolment, EventKind, LogIndex, NewCertificate, NewIntermediate, NodeId, RaftId, Refusal, Role,
    RootFingerprint, SealedKey, State, WallMs,
};

/// What a machine brings that takes a mesh over from a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restorer {
    /// Who it is.
    pub enrolment: Enrolment,
    /// Its own authority, under the backup's active root.
    pub intermediate: NewIntermediate,
    /// Its own certificate, signed with that.
    pub certificate: NewCertificate,
    /// The root keys, sealed to it and to the recovery recipient.
    pub root_keys: BTreeMap<RootFingerprint, SealedKey>,
}

/// Makes `survivor` the only server, with a Raft id that was never used. Gives those who were
/// servers until now.
///
/// # Errors
/// When the survivor is no member. Nothing is changed then.
pub fn go_on_alone(
    state: &mut State,
    at: LogIndex,
    time: WallMs,
    survivor: &NodeId,
    raft_id: RaftId,
) -> Result<Vec<NodeId>, Refusal> {
    if !state.agreed.nodes.contains_key(survivor) {
        return Err(Refusal::NodeUnknown {
            node: survivor.to_string(),
        });
    }
    let mut change = begin(state, at, time);
    let demoted = demote_all(&mut change, Some(survivor));
    if let Some(node) = change.agreed_mut().nodes.get_mut(survivor) {
        node.role = Role::Server;
        node.raft_id = Some(raft_id);
        node.has_served = true;
    }
    leases::new_era(&mut change);
    let names = names(&change, &demoted);
    change.event(
        EventKind::MeshRecovered,
        Some(survivor),
        [("demoted", names)],
    );
    Ok(demoted)
}

/// Makes the restoring machine the only server of a mesh that a backup holds. A member of the same
/// name is replaced by it.
///
/// # Errors
/// When what the machine brings does not fit the backup. The state is then of no use.
pub fn restore(
    state: &mut State,
    at: LogIndex,
    time: WallMs,
    raft_id: RaftId,
    restorer: &Restorer,
) -> Result<(), Refusal> {
    let enrolment = &restorer.enrolment;
    let me = &enrolment.node;
    let mut change = begin(state, at, time);
    let demoted = demote_all(&mut change, None);
    let namesake = change.agreed().find_node(&enrolment.name);
    let namesake = namesake.map(|(id, _)| id.clone()).filter(|id| id != me);
    if let Some(other) = namesake {
        let reason = "replaced by the machine that restored the mesh from a backup";
        // Nobody votes at this moment, so no vote can be lost.
        removal::remove(
            &mut change,
            other.as_str(),
            reason,
            false,
            &BTreeSet::new(),
            true,
        )?;
    }
    let network = networks::default_network(&change)?;
    let has_place = change.agreed().peers.contains_key(&(network, me.clone()));
    if !has_place {
        peers::check_attach(&change, me, &enrolment.name, network)?;
    }
    let row = nodes::row(enrolment, Role::Server, Some(raft_id), time);
    change.agreed_mut().nodes.insert(me.clone(), row);
    change.agreed_mut().removed.remove(me);
    change.agreed_mut().key_rotations.remove(me);
    if !has_place {
        peers::attach(&mut change, me, network, &peers::Placement::default())?;
    }
    authority::record_intermediate(&mut change, me, &restorer.intermediate)?;
    certificates::check(&change, me, &restorer.certificate)?;
    certificates::record(&mut change, &restorer.certificate);
    let wanted = change.state.sealing_recipients();
    if !change.state.root_keys.keys().eq(restorer.root_keys.keys()) {
        return Err(Refusal::RootUnknown {
            root: "of the backup".to_owned(),
        });
    }
    for key in restorer.root_keys.values() {
        authority::check_sealed(key, &wanted)?;
    }
    change.state.root_keys = restorer.root_keys.clone();
    leases::new_era(&mut change);
    let names = names(&change, &demoted);
    change.event(EventKind::MeshRestored, Some(me), [("demoted", names)]);
    Ok(())
}

/// A change outside of the log, at a place that no entry has had.
fn begin(state: &mut State, at: LogIndex, time: WallMs) -> Change<'_> {
    state.applied = at;
    // Whoever repeats a request asks another group.
    state.answers.clear();
    Change {
        state,
        index: at,
        time,
        ordinal: 0,
        by: None,
    }
}

fn demote_all(change: &mut Change<'_>, but: Option<&NodeId>) -> Vec<NodeId> {
    let servers = change.agreed().servers();
    let others: Vec<NodeId> = servers
        .map(|(id, _)| id.clone())
        .filter(|id| Some(id) != but)
        .collect();
    for id in &others {
        if let Some(node) = change.agreed_mut().nodes.get_mut(id) {
            node.role = Role::Agent;
            node.raft_id = None;
        }
        certificates::retire(change, id);
        change.event(
            EventKind::NodeRoleChanged,
            Some(id),
            [("role", Role::Agent.as_str().to_owned())],
        );
    }
    others
}

fn names(change: &Change<'_>, nodes: &[NodeId]) -> String {
    let names: Vec<String> = nodes.iter().map(|id| change.agreed().name_of(id)).collect();
    names.join(",")
}
