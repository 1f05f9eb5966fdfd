//! Status, founding, joining, tokens.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use consensus_authority::{Certificate, words};
use consensus_core::{Agreed, Command, DEFAULT_NETWORK, NodeId, Role, TokenId, WallMs};
use node_api::{
    ApiError,
    types::{InitRequest, JoinRequest, Joined, Status, TokenCreated, TokenRequest},
};
use overlay_core::membership::Condition;

use super::{Answer, Body, Freshness, Member, rfc3339};
use crate::{
    mesh::{Mesh, overlay::OverlayStatus, proposer::wall_now},
    node::{Node, invalid_text},
    token::Token,
};

/// A token's life unless asked otherwise (SPEC 1.2).
const TOKEN_TTL_S: u64 = 24 * 3600;
/// A token that lives longer than a year is a standing invitation.
const TOKEN_TTL_S_MAX: u64 = 366 * 24 * 3600;
/// Addresses in a token: a joiner tries them in turn.
const TOKEN_ADDRESSES_MAX: usize = 8;

pub(super) async fn status(
    State(node): State<Arc<Node>>,
    freshness: Option<Extension<Freshness>>,
) -> Json<Status> {
    let config = &node.host.config;
    let listen = config.listen.iter().map(ToString::to_string).collect();
    let Some(mesh) = node.mesh() else {
        return Json(Status {
            mesh_id: None,
            mesh: None,
            node: config.name.clone(),
            node_id: node.host.me().to_string(),
            role: None,
            leader: None,
            raft_index: 0,
            voters: Vec::new(),
            reachable: 0,
            members: 0,
            issuers: Vec::new(),
            freshness: "no mesh".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            listen,
            wireguard: None,
            connections: 0,
            relayed: 0,
            dialable: None,
            relays: Vec::new(),
            certificate_expires_ms: None,
            conditions: vec![
                "this node has no mesh yet: `shoal init` makes one, `shoal join` joins one".into(),
            ],
        });
    };
    let freshness = freshness.map(|Extension(Freshness(text))| text);
    Json(member_status(&mesh, listen, freshness.unwrap_or_default()))
}

fn member_status(mesh: &Mesh, configured: Vec<String>, freshness: String) -> Status {
    let view = mesh.proposer.views.view();
    let agreed = &view.agreed;
    let standing = mesh.proposer.views.standing();
    let members = mesh.proposer.members.borrow().clone();
    let alive = |id: &NodeId| {
        members
            .get(id)
            .is_some_and(|member| member.condition == Condition::Alive)
    };
    let reachable = agreed
        .nodes
        .keys()
        .filter(|id| **id == mesh.me || alive(id))
        .count();
    let names = |ids: &[NodeId]| ids.iter().map(|id| agreed.name_of(id)).collect::<Vec<_>>();
    let leaf = mesh.credentials.borrow().leaf().to_vec();
    let row = agreed.mesh.as_ref();
    // Taken once: a second borrow while the first lives waits for a writer that waits for it.
    let overlay = mesh.overlay.borrow().clone();
    let connections = mesh.proposer.net.connections().borrow().clone();
    let paths: Vec<_> = connections.into_values().map(|one| one.path).collect();
    let relays = mesh.proposer.net.relays().borrow().clone();
    let listeners = mesh
        .proposer
        .net
        .listeners()
        .borrow()
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>();
    Status {
        mesh_id: Some(mesh.id.to_string()),
        mesh: row.map(|row| row.name.clone()),
        node: agreed.name_of(&mesh.me),
        node_id: mesh.me.to_string(),
        role: agreed
            .nodes
            .get(&mesh.me)
            .map(|node| node.role.as_str().to_owned()),
        leader: standing.leader.as_ref().map(|id| agreed.name_of(id)),
        raft_index: view.revision.0,
        voters: names(&standing.voters),
        reachable: reachable as u64,
        members: agreed.nodes.len() as u64,
        issuers: issuers(agreed),
        freshness,
        version: env!("CARGO_PKG_VERSION").into(),
        listen: if listeners.is_empty() {
            configured
        } else {
            listeners
        },
        wireguard: overlay.backend.map(str::to_owned),
        connections: paths.len() as u64,
        relayed: paths.iter().filter(|path| path.remote().is_none()).count() as u64,
        dialable: mesh.proposer.net.reachability().borrow().dialable,
        relays: names(&relays),
        certificate_expires_ms: Certificate::read(&leaf).ok().map(|leaf| leaf.not_after().0),
        conditions: conditions(mesh, &overlay),
    }
}

/// The servers that can sign now.
fn issuers(agreed: &Agreed) -> Vec<String> {
    let now = wall_now();
    agreed
        .servers()
        .filter(|(id, _)| agreed.signing_intermediate(id, now).is_some())
        .map(|(id, _)| agreed.name_of(id))
        .collect()
}

/// What is not as it should be.
fn conditions(mesh: &Mesh, overlay: &OverlayStatus) -> Vec<String> {
    let view = mesh.proposer.views.view();
    let mut conditions = Vec::new();
    if !view.agreed.nodes.contains_key(&mesh.me) {
        conditions.push("this node was removed from its mesh".to_owned());
    }
    for (network, reason) in &overlay.conditions {
        conditions.push(format!("network {network}: {reason}"));
    }
    conditions.extend(mesh.raft_condition.borrow().clone());
    conditions.extend(mesh.shut_out.borrow().clone());
    let lost = mesh.vips.obstacles.borrow().records.clone();
    conditions.extend(
        lost.map(|reason| {
            format!("this node neither votes for virtual IPs nor holds any: {reason}")
        }),
    );
    conditions.extend(mesh.docker.borrow().condition.clone());
    conditions.extend(mesh.k3s.borrow().condition.clone());
    conditions.extend(mesh.containers.borrow().iter().cloned());
    if mesh.proposer.views.standing().leader.is_none() {
        conditions.push("no leader is known: changes are not possible".to_owned());
    }
    let servers = view.agreed.servers().count();
    conditions.extend(crate::node::server_warnings(servers));
    conditions
}

pub(super) async fn init(
    State(node): State<Arc<Node>>,
    Body(request): Body<InitRequest>,
) -> Answer<Joined> {
    // A client that goes away must not leave a half-founded mesh: the founding runs to its end.
    finish(async move { node.init(request).await }).await
}

pub(super) async fn join(
    State(node): State<Arc<Node>>,
    Body(request): Body<JoinRequest>,
) -> Answer<Joined> {
    finish(async move { node.join(request).await }).await
}

pub(super) async fn finish(
    work: impl Future<Output = Result<Joined, ApiError>> + Send + 'static,
) -> Answer<Joined> {
    let result = tokio::spawn(work).await;
    let result = result.map_err(|error| {
        ApiError::new(
            "InternalError",
            format!("the daemon failed: {error}"),
            "report this",
        )
    })?;
    Ok(Json(result?))
}

pub(super) async fn create_token(
    Member(mesh): Member,
    Body(request): Body<TokenRequest>,
) -> Answer<TokenCreated> {
    let role = parse_role(&request.role)?;
    let ttl_s = request.ttl_s.unwrap_or(TOKEN_TTL_S);
    if ttl_s == 0 || ttl_s > TOKEN_TTL_S_MAX {
        return Err(invalid_text(
            "token lifetime",
            &format!("{ttl_s} s"),
            "from 1 s to 366 days",
        )
        .into());
    }
    let view = mesh.proposer.views.view();
    let root = view
        .agreed
        .active_root()
        .ok_or(consensus_core::Refusal::NoMesh)?;
    let token = Token {
        mesh: mesh.id,
        root_fingerprint: *root.fingerprint().as_bytes(),
        id: TokenId::from_bytes(rand::random()),
        secret: rand::random(),
        addresses: token_addresses(&mesh),
        prefixes: view
            .agreed
            .find_network(DEFAULT_NETWORK)
            .map(|(_, network)| network.ipv4)
            .into_iter()
            .collect(),
    };
    let expires_at = WallMs(wall_now().0 + ttl_s * 1000);
    let command = Command::CreateToken {
        id: token.id,
        secret_hash: token.secret_hash(),
        role,
        expires_at,
        reusable: request.reusable,
    };
    mesh.proposer.submit(command).await?;
    Ok(Json(TokenCreated {
        token: token.encode(),
        id: token.id.to_string(),
        role: role.as_str().into(),
        expires: rfc3339(expires_at),
        join_command: "shoal join --token-file FILE".into(),
        root_fingerprint: hex::encode(token.root_fingerprint),
        root_words: words(&token.root_fingerprint),
    }))
}

/// Where a joiner can reach the mesh: this node first, then other servers.
fn token_addresses(mesh: &Mesh) -> Vec<std::net::SocketAddr> {
    let view = mesh.proposer.views.view();
    let mut nodes: Vec<_> = view.agreed.nodes.iter().collect();
    nodes.sort_by_key(|(id, node)| (**id != mesh.me, node.role != Role::Server));
    let per_node = nodes.iter().map(|(_, node)| node.addresses.iter().take(2));
    per_node
        .flatten()
        .take(TOKEN_ADDRESSES_MAX)
        .copied()
        .collect()
}

/// `server` or `agent`.
pub(super) fn parse_role(text: &str) -> Result<Role, ApiError> {
    match text {
        "server" => Ok(Role::Server),
        "agent" => Ok(Role::Agent),
        other => Err(invalid_text("role", other, "server or agent")),
    }
}
