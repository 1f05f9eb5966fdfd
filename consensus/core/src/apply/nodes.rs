//! Nodes: admitted, reported, labelled, promoted, removed.

use std::{collections::BTreeMap, net::SocketAddr};

use super::{
    Change, certificates, check_labels, check_name, docker, done, modules, networks, tokens,
};
use crate::{
    Applied, Done, Enrolment, EventKind, LifecycleClass, LogIndex, Mesh, NewCertificate, Node,
    NodeId, NodeState, RaftId, Refusal, Role, TokenId,
};

/// A dozen facts about a machine.
const METADATA_BYTES_MAX: usize = 4096;
/// More addresses than a machine is reached at.
const ADDRESSES_MAX: usize = 16;

/// The founder's name inside Raft. Log index 0 holds the first membership, so no join entry can
/// ever have it.
pub const FOUNDER_RAFT_ID: RaftId = RaftId(1);

pub(super) fn create_mesh(
    change: &mut Change<'_>,
    actor: &NodeId,
    mesh: &Mesh,
    first: &Enrolment,
    certificate: &NewCertificate,
) -> Result<(), Refusal> {
    if change.agreed().mesh.is_some() {
        return Err(Refusal::MeshExists);
    }
    // Were the issuer anybody else, nobody could ever be admitted.
    for founder in [&first.node, &mesh.issuer] {
        if founder != actor {
            return Err(Refusal::NotYours {
                actor: actor.clone(),
                node: founder.clone(),
            });
        }
    }
    check_name("mesh name", &mesh.name)?;
    check_enrolment(change, first)?;
    refuse_passing_server(&first.name, first.lifecycle_class, Role::Server)?;
    certificates::check(change, &first.node, certificate)?;
    change.agreed_mut().mesh = Some(mesh.clone());
    change.event(
        EventKind::MeshCreated,
        Some(&first.node),
        [("mesh", mesh.id.to_string())],
    );
    insert(
        change,
        first,
        Role::Server,
        Some(FOUNDER_RAFT_ID),
        certificate,
    );
    Ok(())
}

pub(super) fn admit(
    change: &mut Change<'_>,
    actor: &NodeId,
    token: TokenId,
    secret_hash: &[u8; 32],
    enrolment: &Enrolment,
    certificate: &NewCertificate,
) -> Applied {
    change.require_issuer(actor)?;
    if let Some(role) = repeated(change, token, secret_hash, enrolment) {
        certificates::check(change, &enrolment.node, certificate)?;
        certificates::record(change, certificate);
        return Ok(Done::Admitted { role });
    }
    let role = tokens::check(change, token, secret_hash)?;
    check_enrolment(change, enrolment)?;
    refuse_passing_server(&enrolment.name, enrolment.lifecycle_class, role)?;
    certificates::check(change, &enrolment.node, certificate)?;
    let network = networks::default_network(change)?;
    networks::check_attach(change, &enrolment.node, &enrolment.name, network)?;
    let raft_id = (role == Role::Server).then_some(raft_id_at(change.index));
    if let Some(token) = change.state.tokens.get_mut(&token) {
        token.used_by = Some(enrolment.node.clone());
    }
    insert(change, enrolment, role, raft_id, certificate);
    networks::attach(change, &enrolment.node, network)?;
    modules::settle(change);
    Ok(Done::Admitted { role })
}

/// A node that was admitted but never got the answer asks again with the same token: it gets a
/// new certificate and is otherwise left as it is. A reusable token remembers only its last user,
/// so for that one it is enough that the node has not been heard of since it was admitted.
fn repeated(
    change: &Change<'_>,
    token: TokenId,
    secret_hash: &[u8; 32],
    enrolment: &Enrolment,
) -> Option<Role> {
    let token = change.state.tokens.get(&token)?;
    let node = change.agreed().nodes.get(&enrolment.node)?;
    let same = token.secret_hash == *secret_hash
        && (token.reusable || token.used_by.as_ref() == Some(&enrolment.node))
        && node.state == NodeState::Joining
        && node.name == enrolment.name;
    same.then_some(node.role)
}

/// Raft ids are the log index of the entry that made the node a server: never reused.
fn raft_id_at(index: LogIndex) -> RaftId {
    assert!(
        index.0 > FOUNDER_RAFT_ID.0,
        "only the founder joins at index {index}"
    );
    RaftId(index.0)
}

fn check_enrolment(change: &Change<'_>, enrolment: &Enrolment) -> Result<(), Refusal> {
    check_name("node name", &enrolment.name)?;
    check_labels(&enrolment.labels)?;
    check_metadata(&enrolment.metadata)?;
    check_addresses(&enrolment.addresses)?;
    if change.agreed().nodes.contains_key(&enrolment.node) {
        return Err(Refusal::NodeEnrolled {
            node: enrolment.node.clone(),
        });
    }
    // One list of hosts names both kinds.
    if change
        .agreed()
        .external_docker_hosts
        .contains_key(&enrolment.name)
    {
        return Err(Refusal::DockerHostExists {
            name: enrolment.name.clone(),
        });
    }
    match change.agreed().find_node(&enrolment.name) {
        Some((by, _)) => Err(Refusal::NodeNameTaken {
            name: enrolment.name.clone(),
            by: by.clone(),
        }),
        None => Ok(()),
    }
}

fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<(), Refusal> {
    let bytes: usize = metadata.iter().map(|(k, v)| k.len() + v.len()).sum();
    if bytes > METADATA_BYTES_MAX {
        return Err(Refusal::TooLarge {
            what: "node metadata".into(),
            limit: METADATA_BYTES_MAX as u64,
        });
    }
    Ok(())
}

fn check_addresses(addresses: &[SocketAddr]) -> Result<(), Refusal> {
    if addresses.len() > ADDRESSES_MAX {
        return Err(Refusal::TooLarge {
            what: "the number of addresses".into(),
            limit: ADDRESSES_MAX as u64,
        });
    }
    Ok(())
}

fn insert(
    change: &mut Change<'_>,
    enrolment: &Enrolment,
    role: Role,
    raft_id: Option<RaftId>,
    certificate: &NewCertificate,
) {
    let node = Node {
        name: enrolment.name.clone(),
        role,
        raft_id,
        state: NodeState::Joining,
        labels: enrolment.labels.clone(),
        metadata: enrolment.metadata.clone(),
        lifecycle_class: enrolment.lifecycle_class,
        tmpfs_store: enrolment.tmpfs_store,
        network_profile: enrolment.network_profile,
        addresses: enrolment.addresses.clone(),
        wireguard_public_key: enrolment.wireguard_public_key,
        joined_at: change.time,
    };
    change
        .agreed_mut()
        .nodes
        .insert(enrolment.node.clone(), node);
    certificates::record(change, certificate);
    change.event(
        EventKind::NodeJoined,
        Some(&enrolment.node),
        [("role", role.as_str().to_owned())],
    );
}

pub(super) fn report(
    change: &mut Change<'_>,
    actor: &NodeId,
    state: NodeState,
    addresses: &[SocketAddr],
) -> Applied {
    check_addresses(addresses)?;
    let Some(before) = change.agreed().nodes.get(actor) else {
        return Err(Refusal::NodeUnknown {
            node: actor.to_string(),
        });
    };
    let comes_up = state == NodeState::Running && before.state != NodeState::Running;
    if let Some(node) = change.agreed_mut().nodes.get_mut(actor) {
        // A running node that restarts its daemon is still running for the mesh.
        node.state = node.state.max(state);
        node.addresses = addresses.to_vec();
    }
    if comes_up {
        change.event(EventKind::NodeRunning, Some(actor), []);
    }
    done()
}

pub(super) fn label(
    change: &mut Change<'_>,
    node: &str,
    set: &BTreeMap<String, String>,
    unset: &[String],
) -> Applied {
    let id = change.find_node(node)?;
    let mut labels = change.agreed().nodes[&id].labels.clone();
    labels.extend(set.clone());
    labels.retain(|key, _| !unset.contains(key));
    check_labels(&labels)?;
    if let Some(node) = change.agreed_mut().nodes.get_mut(&id) {
        node.labels = labels;
    }
    modules::settle(change);
    done()
}

pub(super) fn set_role(change: &mut Change<'_>, node: &str, role: Role) -> Applied {
    let id = change.find_node(node)?;
    let before = &change.agreed().nodes[&id];
    if before.role == role {
        return Err(Refusal::RoleUnchanged {
            node: before.name.clone(),
            role: role.as_str().to_owned(),
        });
    }
    refuse_passing_server(&before.name, before.lifecycle_class, role)?;
    if role == Role::Agent {
        refuse_last_server(change, &id)?;
    }
    let raft_id = (role == Role::Server).then_some(raft_id_at(change.index));
    if let Some(node) = change.agreed_mut().nodes.get_mut(&id) {
        node.role = role;
        node.raft_id = raft_id;
    }
    change.event(
        EventKind::NodeRoleChanged,
        Some(&id),
        [("role", role.as_str().to_owned())],
    );
    Ok(Done::Servers {
        count: change.agreed().servers().count() as u64,
    })
}

/// A server's vote must not be pruned away.
fn refuse_passing_server(name: &str, class: LifecycleClass, role: Role) -> Result<(), Refusal> {
    if role == Role::Agent || class == LifecycleClass::Persistent {
        return Ok(());
    }
    Err(Refusal::Invalid {
        what: "server".into(),
        text: name.to_owned(),
        rule:
            "a node of lifecycle class persistent, because a server's vote must not be pruned away"
                .into(),
    })
}

fn refuse_last_server(change: &Change<'_>, id: &NodeId) -> Result<(), Refusal> {
    let others = change
        .agreed()
        .servers()
        .filter(|(server, _)| *server != id)
        .count();
    if others == 0 {
        return Err(Refusal::LastServer {
            node: change.agreed().name_of(id),
        });
    }
    Ok(())
}

pub(super) fn remove(change: &mut Change<'_>, node: &str, reason: &str) -> Applied {
    let id = change.find_node(node)?;
    if change.agreed().nodes[&id].role == Role::Server {
        refuse_last_server(change, &id)?;
    }
    if change
        .agreed()
        .mesh
        .as_ref()
        .is_some_and(|mesh| mesh.issuer == id)
    {
        return Err(Refusal::IssuerNeeded {
            node: change.agreed().name_of(&id),
        });
    }
    docker::forget(change, &id);
    change.event(
        EventKind::NodeRemoved,
        Some(&id),
        [("reason", reason.chars().take(200).collect())],
    );
    certificates::revoke(change, |record| record.node == id);
    let agreed = change.agreed_mut();
    agreed.peers.retain(|(_, peer), _| *peer != id);
    agreed
        .assignments
        .retain(|assignment| assignment.target != crate::Target::Node(id.clone()));
    agreed.nodes.remove(&id);
    Ok(Done::Servers {
        count: change.agreed().servers().count() as u64,
    })
}

pub(super) fn record_silence(change: &mut Change<'_>, node: &NodeId, silent: bool) -> Applied {
    if !change.agreed().nodes.contains_key(node) {
        return Err(Refusal::NodeUnknown {
            node: node.to_string(),
        });
    }
    let kind = if silent {
        EventKind::NodeSilent
    } else {
        EventKind::NodeRecovered
    };
    change.event(kind, Some(node), []);
    done()
}

pub(super) fn record_certificate(
    change: &mut Change<'_>,
    actor: &NodeId,
    certificate: &NewCertificate,
) -> Applied {
    change.require_issuer(actor)?;
    if !change.agreed().nodes.contains_key(&certificate.record.node) {
        return Err(Refusal::NodeUnknown {
            node: certificate.record.node.to_string(),
        });
    }
    certificates::check(change, &certificate.record.node, certificate)?;
    certificates::record(change, certificate);
    done()
}
