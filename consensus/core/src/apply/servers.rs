//! Who votes: promoted, demoted, and kept from costing the mesh its majority.
//!
//! Decides how many servers there may be and which of them may go. Never knows who is alive: the
//! command tells whom its giver saw. Raft dissertation (Ongaro 2014), 4.2.2.
//!
//! Invariants: at least one server and at most seven; a Raft id is the log index of the entry that
//! made the node a server, so none is used twice.

use std::collections::BTreeSet;

use super::{Change, certificates, too_large};
use crate::{
    Applied, Done, EventKind, LifecycleClass, LogIndex, NodeId, RaftId, Refusal, Role,
    limits::SERVERS_MAX,
};

/// The founder's name inside Raft. Log index 0 holds the first membership, so no join entry can
/// ever have it.
pub const FOUNDER_RAFT_ID: RaftId = RaftId(1);

/// Raft ids are the log index of the entry that made the node a server: never reused.
pub(super) fn raft_id_at(index: LogIndex) -> RaftId {
    assert!(
        index.0 > FOUNDER_RAFT_ID.0,
        "only the founder joins at index {index}"
    );
    RaftId(index.0)
}

pub(super) fn set_role(
    change: &mut Change<'_>,
    node: &str,
    role: Role,
    reachable: &BTreeSet<NodeId>,
    force: bool,
) -> Applied {
    let id = change.find_node(node)?;
    let before = &change.agreed().nodes[&id];
    if before.role == role {
        return Err(Refusal::RoleUnchanged {
            node: before.name.clone(),
            role: role.as_str().to_owned(),
        });
    }
    refuse_passing_server(&before.name, before.lifecycle_class, role)?;
    match role {
        Role::Server => refuse_one_more(change, role)?,
        Role::Agent => refuse_loss(change, &id, reachable, force)?,
    }
    let raft_id = (role == Role::Server).then_some(raft_id_at(change.index));
    if let Some(node) = change.agreed_mut().nodes.get_mut(&id) {
        node.role = role;
        node.raft_id = raft_id;
        node.has_served |= role == Role::Server;
    }
    if role == Role::Agent {
        certificates::retire(change, &id);
    }
    change.event(
        EventKind::NodeRoleChanged,
        Some(&id),
        [("role", role.as_str().to_owned())],
    );
    Ok(count(change))
}

/// How many servers there are now.
pub(super) fn count(change: &Change<'_>) -> Done {
    Done::Servers {
        count: change.agreed().servers().count() as u64,
    }
}

/// A server's vote must not be pruned away.
pub(super) fn refuse_passing_server(
    name: &str,
    class: LifecycleClass,
    role: Role,
) -> Result<(), Refusal> {
    if role == Role::Agent || class == LifecycleClass::Persistent {
        return Ok(());
    }
    Err(super::invalid(
        "server",
        name,
        "a node of lifecycle class persistent, because a server's vote must not be pruned away",
    ))
}

/// Beyond seven, another vote costs more than it saves.
pub(super) fn refuse_one_more(change: &Change<'_>, role: Role) -> Result<(), Refusal> {
    if role == Role::Server && change.agreed().servers().count() >= SERVERS_MAX {
        return Err(too_large("the number of servers", SERVERS_MAX));
    }
    Ok(())
}

/// Whether a server may go: others stay, and unless it is forced, a majority of them was seen
/// alive. Without one nothing could be agreed on after this, not even its undoing.
pub(super) fn refuse_loss(
    change: &Change<'_>,
    id: &NodeId,
    reachable: &BTreeSet<NodeId>,
    force: bool,
) -> Result<(), Refusal> {
    let others = || {
        change
            .agreed()
            .servers()
            .filter(|(server, _)| *server != id)
    };
    let servers = others().count();
    let node = || change.agreed().name_of(id);
    if servers == 0 {
        return Err(Refusal::LastServer { node: node() });
    }
    let alive = others().filter(|(server, _)| reachable.contains(*server));
    let alive = alive.count();
    let needed = servers / 2 + 1;
    if alive >= needed || force {
        return Ok(());
    }
    Err(Refusal::MajorityAtRisk {
        node: node(),
        reachable: alive as u64,
        servers: servers as u64,
        needed: needed as u64,
    })
}
