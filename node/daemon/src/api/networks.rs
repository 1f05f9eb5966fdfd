//! Networks, their peers, and the modules that need them.

use axum::{Json, extract::Path};
use base64::{Engine, engine::general_purpose::STANDARD};
use consensus_core::{Assignment, Command, Module, Network, NetworkId, Refusal, Target};
use node_api::{
    ApiError,
    types::{AssignRequest, Changed, ModuleView, NetworkView, PeerView},
};
use runtimes_core::catalogue;

use super::{Answer, Body, Member, change};
use crate::{mesh::Mesh, node::invalid_text};

pub(super) async fn list(Member(mesh): Member) -> Json<Vec<NetworkView>> {
    let view = mesh.proposer.views.view();
    Json(
        view.agreed
            .networks
            .iter()
            .map(|(id, network)| show_network(&mesh, *id, network))
            .collect(),
    )
}

pub(super) async fn show(Member(mesh): Member, Path(handle): Path<String>) -> Answer<NetworkView> {
    let view = mesh.proposer.views.view();
    let found = view
        .agreed
        .find_network(&handle)
        .ok_or(Refusal::NetworkUnknown {
            network: handle.clone(),
        })?;
    Ok(Json(show_network(&mesh, *found.0, found.1)))
}

fn show_network(mesh: &Mesh, id: NetworkId, network: &Network) -> NetworkView {
    let view = mesh.proposer.views.view();
    let overlay = mesh.overlay.borrow().clone();
    let peers = view
        .agreed
        .peers
        .iter()
        .filter(|((of, _), _)| *of == id)
        .map(|((_, node), peer)| {
            let key = view
                .agreed
                .nodes
                .get(node)
                .map(|node| node.wireguard_public_key)
                .unwrap_or_default();
            let (endpoint, handshake_s) = overlay.peers.get(&key).copied().unwrap_or_default();
            PeerView {
                node: view.agreed.name_of(node),
                ipv6: peer.ipv6,
                ipv4: peer.ipv4,
                public_key: STANDARD.encode(key),
                endpoint: endpoint.map(|endpoint| endpoint.to_string()),
                handshake_s,
            }
        });
    NetworkView {
        id: id.to_string(),
        name: network.handle.clone(),
        interface: format!("shoal-{}", network.handle),
        ipv6_prefix: network.ipv6.to_string(),
        ipv4_prefix: network.ipv4.to_string(),
        wireguard_port: network.wireguard_port,
        peers: peers.collect(),
    }
}

pub(super) async fn attach(
    Member(mesh): Member,
    Path((network, node)): Path<(String, String)>,
) -> Answer<Changed> {
    change(&mesh, Command::AttachPeer { node, network }).await
}

pub(super) async fn detach(
    Member(mesh): Member,
    Path((network, node)): Path<(String, String)>,
) -> Answer<Changed> {
    change(&mesh, Command::DetachPeer { node, network }).await
}

pub(super) async fn modules(Member(mesh): Member) -> Json<Vec<ModuleView>> {
    let view = mesh.proposer.views.view();
    let agreed = &view.agreed;
    let show = |module: Module| ModuleView {
        name: module.as_str().into(),
        variety: "subscription".into(),
        assigned_to: agreed
            .assignments
            .iter()
            .filter(|assignment| assignment.module == module)
            .map(|assignment| assignment.target.describe(agreed))
            .collect(),
        nodes: agreed
            .nodes
            .iter()
            .filter(|(id, _)| agreed.assigned(id, module))
            .map(|(_, node)| node.name.clone())
            .collect(),
    };
    Json(Module::ALL.into_iter().map(show).collect())
}

/// What an operator asked to assign or unassign.
fn assignment(mesh: &Mesh, request: AssignRequest) -> Result<Assignment, ApiError> {
    let module = Module::from_name(&request.module).ok_or_else(|| {
        match catalogue::assignable(&request.module) {
            Err(refused) => ApiError::new(refused.code(), refused.to_string(), refused.hint()),
            Ok(_) => Refusal::ModuleUnknown {
                module: request.module.clone(),
            }
            .into(),
        }
    })?;
    let target = match (request.node, request.selector) {
        (Some(name), None) => {
            let view = mesh.proposer.views.view();
            let id = view.agreed.find_node(&name).map(|(id, _)| id.clone());
            Target::Node(id.ok_or(Refusal::NodeUnknown { node: name })?)
        }
        (None, Some(labels)) => Target::Selector(labels),
        (Some(_), Some(_)) | (None, None) => {
            return Err(invalid_text("target", "", "either a node or a selector"));
        }
    };
    Ok(Assignment { module, target })
}

pub(super) async fn assign(
    Member(mesh): Member,
    Body(request): Body<AssignRequest>,
) -> Answer<Changed> {
    let assignment = assignment(&mesh, request)?;
    change(&mesh, Command::AssignModule(assignment)).await
}

pub(super) async fn unassign(
    Member(mesh): Member,
    Body(request): Body<AssignRequest>,
) -> Answer<Changed> {
    let assignment = assignment(&mesh, request)?;
    change(&mesh, Command::UnassignModule(assignment)).await
}
