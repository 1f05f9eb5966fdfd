//! Nodes: admitted, reported, labelled.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use super::{
    Change, access_grants, authority, certificates, check_label, check_label_count, check_labels,
    check_name, done, invalid, k3s_losses, modules, networks, peers,
    servers::{FOUNDER_RAFT_ID, raft_id_at, refuse_one_more, refuse_passing_server},
    tokens, too_large,
};
use crate::{
    Applied, CertificateProfile, Done, Enrolment, EventKind, FoundingAuthority, Holder, Mesh,
    NewCertificate, Node, NodeId, NodeState, RaftId, Refusal, Role, TokenId, WallMs,
    k3s_wishes::Supposed,
    limits::{ADDRESSES_MAX, METADATA_BYTES_MAX, METADATA_MAX, NODES_MAX},
};

pub(super) fn create_mesh(
    change: &mut Change<'_>,
    actor: &NodeId,
    mesh: &Mesh,
    founding: &FoundingAuthority,
    first: &Enrolment,
    certificate: &NewCertificate,
) -> Result<(), Refusal> {
    if change.agreed().mesh.is_some() {
        return Err(Refusal::MeshExists);
    }
    if first.node != *actor {
        return Err(Refusal::NotYours {
            actor: actor.clone(),
            node: first.node.clone(),
        });
    }
    check_name("mesh name", &mesh.name)?;
    check_enrolment(change, first)?;
    refuse_passing_server(&first.name, first.lifecycle_class, Role::Server)?;
    let recipient = &first.sealing_recipient;
    let intermediate = authority::check_founding(change, actor, recipient, founding)?;
    check_identity(&first.node, certificate)?;
    if certificate.record.issuer != founding.intermediate.serial
        || certificate.serial == founding.intermediate.serial
    {
        let rule = "of a leaf that the founder's intermediate signed";
        return Err(invalid("serial number", &certificate.serial, rule));
    }
    certificates::check_under(change, certificate, &intermediate)?;
    change.agreed_mut().mesh = Some(mesh.clone());
    authority::found(change, founding, intermediate);
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
    change.require_server(actor)?;
    if let Some(role) = repeated(change, token, secret_hash, enrolment) {
        check_identity(&enrolment.node, certificate)?;
        certificates::check(change, actor, certificate)?;
        certificates::record(change, certificate);
        return Ok(Done::Admitted { role });
    }
    let role = tokens::check(change, token, secret_hash)?;
    check_enrolment(change, enrolment)?;
    refuse_passing_server(&enrolment.name, enrolment.lifecycle_class, role)?;
    refuse_one_more(change, role)?;
    check_identity(&enrolment.node, certificate)?;
    certificates::check(change, actor, certificate)?;
    let network = networks::default_network(change)?;
    peers::check_attach(change, &enrolment.node, &enrolment.name, network)?;
    let raft_id = (role == Role::Server).then_some(raft_id_at(change.index));
    if let Some(token) = change.state.tokens.get_mut(&token) {
        token.used_by = Some(enrolment.node.clone());
    }
    insert(change, enrolment, role, raft_id, certificate);
    peers::attach(
        change,
        &enrolment.node,
        network,
        &peers::Placement::default(),
    )?;
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

/// A node is admitted with a certificate of its own identity.
fn check_identity(node: &NodeId, certificate: &NewCertificate) -> Result<(), Refusal> {
    let record = &certificate.record;
    let own = record.holder == Holder::Node(node.clone());
    if own && record.profile == CertificateProfile::Node {
        return Ok(());
    }
    let rule = "of a certificate of the node it is recorded for";
    Err(invalid("serial number", &certificate.serial, rule))
}

fn check_enrolment(change: &Change<'_>, enrolment: &Enrolment) -> Result<(), Refusal> {
    check_name("node name", &enrolment.name)?;
    check_labels(&enrolment.labels)?;
    check_metadata(&enrolment.metadata)?;
    check_addresses(&enrolment.addresses)?;
    authority::check_recipient(&enrolment.sealing_recipient)?;
    if change.agreed().nodes.len() >= NODES_MAX {
        return Err(too_large("the number of nodes", NODES_MAX));
    }
    if change.agreed().nodes.contains_key(&enrolment.node) {
        return Err(Refusal::NodeEnrolled {
            node: enrolment.node.clone(),
        });
    }
    refuse_stolen_key(change, &enrolment.node)?;
    access_grants::refuse_key(change, &enrolment.wireguard_public_key)?;
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

/// A key that somebody else may have is no identity any more, whatever token comes with it.
fn refuse_stolen_key(change: &Change<'_>, node: &NodeId) -> Result<(), Refusal> {
    let agreed = change.agreed();
    match agreed.removed.get(node) {
        Some(removed) if removed.revoked => agreed.removal(node).map_or(Ok(()), Err),
        Some(_) | None => Ok(()),
    }
}

fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<(), Refusal> {
    let bytes: usize = metadata.iter().map(|(k, v)| k.len() + v.len()).sum();
    if bytes > METADATA_BYTES_MAX {
        return Err(too_large("node metadata", METADATA_BYTES_MAX));
    }
    if metadata.len() > METADATA_MAX {
        return Err(too_large("the number of facts in metadata", METADATA_MAX));
    }
    Ok(())
}

fn check_addresses(addresses: &[SocketAddr]) -> Result<(), Refusal> {
    if addresses.len() > ADDRESSES_MAX {
        return Err(too_large("the number of addresses", ADDRESSES_MAX));
    }
    Ok(())
}

/// A member as it begins.
pub(super) fn row(
    enrolment: &Enrolment,
    role: Role,
    raft_id: Option<RaftId>,
    joined_at: WallMs,
) -> Node {
    Node {
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
        sealing_recipient: enrolment.sealing_recipient.clone(),
        has_served: role == Role::Server,
        joined_at,
    }
}

fn insert(
    change: &mut Change<'_>,
    enrolment: &Enrolment,
    role: Role,
    raft_id: Option<RaftId>,
    certificate: &NewCertificate,
) {
    let node = row(enrolment, role, raft_id, change.time);
    let agreed = change.agreed_mut();
    agreed.nodes.insert(enrolment.node.clone(), node);
    agreed.removed.remove(&enrolment.node);
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

/// Labels are changed in their place: a node may have many, and all but these stay as they are.
pub(super) fn label(
    change: &mut Change<'_>,
    node: &str,
    set: &BTreeMap<String, String>,
    unset: &[String],
    reachable: &BTreeSet<NodeId>,
    consent: bool,
) -> Applied {
    let id = change.find_node(node)?;
    let present = &change.agreed().nodes[&id].labels;
    let stays = |key: &str| !unset.iter().any(|unset| unset == key);
    let kept = present.keys().filter(|key| stays(key)).count();
    let set: Vec<_> = set.iter().filter(|(key, _)| stays(key)).collect();
    let new = set.iter().filter(|(key, _)| !present.contains_key(*key));
    check_label_count(kept + new.count())?;
    // Those that are there were looked at when they were set.
    for (key, value) in &set {
        check_label(key, value)?;
    }
    if change.agreed().k3s_nodes.contains_key(&id) {
        let mut labels = present.clone();
        relabel(&mut labels, &set, unset);
        let supposed = Supposed::Labelled(&id, &labels);
        k3s_losses::refuse_change(change, supposed, reachable, consent)?;
    }
    if let Some(node) = change.agreed_mut().nodes.get_mut(&id) {
        relabel(&mut node.labels, &set, unset);
    }
    modules::settle(change);
    done()
}

fn relabel(labels: &mut BTreeMap<String, String>, set: &[(&String, &String)], unset: &[String]) {
    for key in unset {
        labels.remove(key);
    }
    for (key, value) in set {
        match labels.get_mut(*key) {
            Some(present) => present.clone_from(value),
            None => drop(labels.insert((*key).clone(), (*value).clone())),
        }
    }
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
