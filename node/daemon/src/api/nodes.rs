//! Nodes: listed, labelled, promoted, removed.

use std::time::Duration;

use axum::{Json, extract::Path};
use consensus_core::{Agreed, Command, DrainState, Module, Node, NodeId, Refusal};
use futures::future::join_all;
use node_api::types::{
    Changed, LabelRequest, NodeView, PingRequest, PingView, RemoveRequest, Revoked, RoleRequest,
};
use overlay_core::membership::Condition;
use tokio::time::Instant;

use crate::node::invalid_text;

use super::{
    Answer, Body, Failure, Member,
    ca::revoking,
    change,
    cluster_changes::{Foresight, change_clusters, heard_servers},
    mesh::parse_role,
};
use crate::mesh::{
    Mesh,
    peer_wire::PathTaken,
    probe::{path, probe_from},
};

/// After these a command may be agreed yet.
const OUTCOME_UNKNOWN: [&str; 3] = ["NoMajorityError", "PeerMessageError", "InternalError"];
/// Moves take milliseconds, elections seconds. Whoever waits longer has a dead holder before him.
const MOVED_WITHIN: Duration = Duration::from_secs(5);

pub(super) async fn list(Member(mesh): Member) -> Json<Vec<NodeView>> {
    let view = mesh.proposer.views.view();
    let mut nodes: Vec<_> = view
        .agreed
        .nodes
        .iter()
        .map(|(id, node)| show_node(&mesh, id, node))
        .collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    Json(nodes)
}

pub(super) async fn show(Member(mesh): Member, Path(name): Path<String>) -> Answer<NodeView> {
    let view = mesh.proposer.views.view();
    let found = view
        .agreed
        .find_node(&name)
        .ok_or(Refusal::NodeUnknown { node: name.clone() })?;
    Ok(Json(show_node(&mesh, found.0, found.1)))
}

fn show_node(mesh: &Mesh, id: &NodeId, node: &Node) -> NodeView {
    let view = mesh.proposer.views.view();
    let peer = view.agreed.first_peer(id).map(|(_, peer)| peer);
    let members = mesh.proposer.members.borrow().clone();
    let member = members.get(id);
    let own = *id == mesh.me;
    let age_ms = |at| u64::try_from(mesh.clock.now().since(at).as_millis()).unwrap_or(u64::MAX);
    let modules = Module::ALL
        .iter()
        .filter(|module| view.agreed.assigned(id, **module));
    NodeView {
        id: id.to_string(),
        name: node.name.clone(),
        role: node.role.as_str().into(),
        state: state(&view.agreed, id, node).into(),
        silent: !own
            && member.is_none_or(|member| {
                matches!(member.condition, Condition::Dead | Condition::Unknown)
            }),
        labels: node.labels.clone(),
        overlay_ipv6: peer.map(|peer| peer.ipv6),
        overlay_ipv4: peer.map(|peer| peer.ipv4),
        last_seen_ms: if own {
            Some(0)
        } else {
            member.and_then(|member| member.last_heard).map(age_ms)
        },
        rtt_us: member
            .and_then(|member| member.rtt)
            .map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
        path: path(&mesh.proposer.net, id).map(|path| path_text(&view.agreed, &path)),
        lifecycle_class: node.lifecycle_class.as_str().into(),
        network_profile: node.network_profile.as_str().into(),
        tmpfs_store: node.tmpfs_store,
        metadata: node.metadata.clone(),
        addresses: node.addresses.iter().map(ToString::to_string).collect(),
        modules: modules.map(|module| module.as_str().to_owned()).collect(),
        key_rotation: key_rotation(&view.agreed, id),
    }
}

/// Where a node is in its life. One that nothing new comes to otherwise works on.
fn state(agreed: &Agreed, id: &NodeId, node: &Node) -> &'static str {
    let drain = agreed.drains.get(id).filter(|drain| !drain.cordon_only);
    match drain.map(|drain| &drain.state) {
        Some(DrainState::Drained | DrainState::DrainedExcept { .. }) => "drained",
        Some(DrainState::Draining { .. } | DrainState::Failed { .. }) => "draining",
        None => node.state.as_str(),
    }
}

/// How far a node is with its next WireGuard key.
fn key_rotation(agreed: &Agreed, node: &NodeId) -> Option<String> {
    let rotation = agreed.key_rotations.get(node)?;
    let word = match rotation.announced {
        None => "wanted",
        Some(_) => "announced",
    };
    Some(word.to_owned())
}

/// `direct`, or through whom.
fn path_text(agreed: &Agreed, path: &PathTaken) -> String {
    match path {
        PathTaken::Direct => "direct".to_owned(),
        PathTaken::Relayed(Some(via)) => format!("relayed via {}", agreed.name_of(via)),
        PathTaken::Relayed(None) => "relayed".to_owned(),
    }
}

/// Has one node probe another now.
pub(super) async fn ping(
    Member(mesh): Member,
    Path(from): Path<String>,
    Body(request): Body<PingRequest>,
) -> Answer<PingView> {
    let agreed = mesh.proposer.views.view().agreed.clone();
    let find = |name: &str| {
        let found = agreed.find_node(name).ok_or_else(|| Refusal::NodeUnknown {
            node: name.to_owned(),
        })?;
        Ok::<NodeId, Refusal>(found.0.clone())
    };
    let (from, to) = (find(&from)?, find(&request.to)?);
    if from == to {
        return Err(
            invalid_text("node", &request.to, "another node than the one that probes").into(),
        );
    }
    let probed = probe_from(&mesh.proposer, &from, &to).await?;
    Ok(Json(PingView {
        from: agreed.name_of(&from),
        to: agreed.name_of(&to),
        answered: probed.rtt_us.is_some(),
        rtt_us: probed.rtt_us,
        path: probed.path.map(|path| path_text(&agreed, &path)),
        reason: probed.reason,
    }))
}

pub(super) async fn label(
    Member(mesh): Member,
    Path(node): Path<String>,
    Body(request): Body<LabelRequest>,
) -> Answer<Changed> {
    let reachable = heard_servers(&mesh, Some(&node));
    let command = Command::LabelNode {
        node,
        set: request.set,
        unset: request.unset,
        reachable,
        consent: request.consent,
    };
    // A selector may take a server from a cluster, or bring it one.
    change_clusters(&mesh, command).await
}

pub(super) async fn set_role(
    Member(mesh): Member,
    Path(node): Path<String>,
    Body(request): Body<RoleRequest>,
) -> Answer<Changed> {
    let role = parse_role(&request.role)?;
    let command = Command::SetRole {
        node,
        role,
        reachable: mesh.proposer.reachable(),
        force: request.force,
    };
    change(&mesh, command).await
}

pub(super) async fn remove(
    Member(mesh): Member,
    Path(node): Path<String>,
    Body(request): Body<RemoveRequest>,
) -> Answer<Revoked> {
    let reason = request.reason;
    let command = Command::RemoveNode {
        node: node.clone(),
        reason: reason.unwrap_or_else(|| "removed by an operator".into()),
        compromised: request.compromised,
        reachable: heard_servers(&mesh, Some(&node)),
        force: request.force,
    };
    // What is going to be refused must not move anything before.
    let foresight = Foresight::of(&mesh, &command)?;
    let mut warnings = foresight.save(&mesh).await;
    warnings.extend(move_vips_off(&mesh, &node).await);
    warnings.extend(foresight.warnings());
    warnings.extend(announce(&mesh, &node, request.compromised).await);
    let mut answer = match revoking(&mesh, command).await {
        Ok(answer) => answer,
        Err(error) => {
            keep(&mesh, &node, &error).await;
            return Err(error);
        }
    };
    answer.0.warnings.extend(warnings);
    Ok(answer)
}

/// A node that was told of a removal that was refused is told that it stays. Where nobody knows what came
/// of it, it may have been agreed, and the order holds.
async fn keep(mesh: &Mesh, node: &str, Failure(error): &Failure) {
    let agreed = mesh.proposer.views.view().agreed.clone();
    let found = agreed.find_node(node).map(|(id, _)| id.clone());
    let is_over = !OUTCOME_UNKNOWN.contains(&error.code.as_str());
    let Some(id) = found.filter(|_| is_over) else {
        return;
    };
    if !mesh.departure.tell_to_stay(&mesh.proposer, &id).await {
        let node = agreed.name_of(&id);
        tracing::warn!(node, "it was not heard that this node stays");
    }
}

/// Tells a node that it is going to be removed, so that it takes itself off its host afterwards. A
/// machine that somebody has broken into is left as it is, for whoever looks into it.
async fn announce(mesh: &Mesh, node: &str, compromised: bool) -> Option<String> {
    let agreed = mesh.proposer.views.view().agreed.clone();
    let id = agreed.find_node(node).map(|(id, _)| id.clone())?;
    if compromised {
        // An earlier removal, which failed, may have told it otherwise.
        mesh.departure.tell_to_stay(&mesh.proposer, &id).await;
        return None;
    }
    if mesh.departure.tell(&mesh.proposer, &id).await {
        return None;
    }
    let name = agreed.name_of(&id);
    Some(format!(
        "{name} does not answer: what shoal put on that host stays there"
    ))
}

/// Asks a holder that lives to let go of its virtual IPs before it is removed: that costs
/// milliseconds, and waiting for its leases to run out costs all that they last. Says of which ones
/// it has not. What nobody else may take goes with the node.
async fn move_vips_off(mesh: &Mesh, node: &str) -> Vec<String> {
    let agreed = mesh.proposer.views.view().agreed.clone();
    let mut reachable = mesh.vips.heard();
    let found = agreed.find_node(node).map(|(id, _)| id.clone());
    let Some(leaving) = found.filter(|id| reachable.remove(id)) else {
        return Vec::new();
    };
    let by = Instant::now() + MOVED_WITHIN;
    let rows = agreed.virtual_ips.iter();
    let each = rows
        .filter(|(_, vip)| vip.is_holder(&leaving))
        .map(|(id, vip)| {
            let command = Command::RequestFailover {
                vip: id.to_string(),
                to: None,
                reachable: reachable.clone(),
            };
            async move {
                let why = match mesh.proposer.submit(command).await {
                    Ok(_) if mesh.vips.moved(*id, vip.epoch, by).await.is_some() => return None,
                    Ok(_) => "its lease has to run out".to_owned(),
                    Err(error) => error.message,
                };
                Some(format!("{} had not moved before: {why}", vip.name))
            }
        });
    join_all(each).await.into_iter().flatten().collect()
}
