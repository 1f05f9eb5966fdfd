//! Networks and their peers.
//!
//! Decides what a new network gets where the operator leaves it open, out of what the mesh and this
//! machine's own routes leave free. Whether it is still free then is for its application to refuse.

use std::collections::BTreeSet;

use axum::{Json, body::Bytes, extract::Path};
use base64::{Engine, engine::general_purpose::STANDARD};
use consensus_core::{
    Command, IpPrefix, Ipv4Prefix, Network, NetworkChange, NetworkId, NewNetwork, PrefixChange,
    Refusal, RoutingMode,
};
use node_api::{
    ApiError,
    types::{
        Changed, NetworkCreated, NetworkRequest, NetworkSetRequest, NetworkView, PeerRequest,
        PeerView,
    },
};

use super::{Answer, Body, Failure, Member, change, firewall::verdict, parse_body};
use crate::{
    mesh::Mesh,
    node::{check_prefix_of, invalid, invalid_text},
};

/// What was free may be taken by the time it is agreed; who leaves the choice open is not to see
/// that.
const CHOICES_MAX: usize = 5;
/// No network's interface is called so: a new network has no routes of its own.
const NOBODYS: &str = "shoal-";

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

pub(super) async fn show(Member(mesh): Member, Path(name): Path<String>) -> Answer<NetworkView> {
    Ok(Json(view_of(&mesh, &name)?))
}

fn view_of(mesh: &Mesh, name: &str) -> Result<NetworkView, Refusal> {
    let view = mesh.proposer.views.view();
    let found = view.agreed.find_network(name);
    let (id, network) = found.ok_or_else(|| Refusal::NetworkUnknown {
        network: name.to_owned(),
    })?;
    Ok(show_network(mesh, *id, network))
}

fn show_network(mesh: &Mesh, id: NetworkId, network: &Network) -> NetworkView {
    let view = mesh.proposer.views.view();
    let overlay = mesh.overlay.borrow().clone();
    let peers = view.agreed.peers_of(id).map(|(node, peer)| {
        let key = view
            .agreed
            .nodes
            .get(node)
            .map(|node| node.wireguard_public_key)
            .unwrap_or_default();
        let (endpoint, handshake_s) = overlay.peers.get(&(id, key)).copied().unwrap_or_default();
        PeerView {
            node: view.agreed.name_of(node),
            ipv6: peer.ipv6,
            ipv4: peer.ipv4,
            public_key: STANDARD.encode(key),
            endpoint: endpoint.map(|endpoint| endpoint.to_string()),
            handshake_s,
            hub: peer.hub,
            lan_subnets: peer.lan_subnets.iter().map(IpPrefix::to_string).collect(),
            container_subnet: peer.container_subnet.map(|subnet| subnet.to_string()),
        }
    });
    let firewall = view.agreed.firewall(id);
    let shown = |prefix: Option<IpPrefix>| prefix.map(|prefix| prefix.to_string());
    NetworkView {
        id: id.to_string(),
        name: network.name.clone(),
        interface: network.interface(),
        ipv6_prefix: network.ipv6.to_string(),
        ipv4_prefix: network.ipv4.to_string(),
        wireguard_port: network.wireguard_port,
        routing_mode: network.routing_mode.as_str().into(),
        pod_subnet_prefix: shown(network.pod_subnet_prefix),
        container_subnet_prefix: shown(network.container_subnet_prefix),
        firewall_default: firewall.default.as_str().into(),
        firewall_rules: firewall.rules.len() as u64,
        peers: peers.collect(),
    }
}

pub(super) async fn create(
    Member(mesh): Member,
    Body(request): Body<NetworkRequest>,
) -> Answer<NetworkCreated> {
    let open = request.ipv4_prefix.is_none() || request.wireguard_port.is_none();
    let mut choices = 0;
    let (index, _) = loop {
        let new = new_network(&mesh, &request).await?;
        choices += 1;
        match mesh.proposer.submit(Command::CreateNetwork(new)).await {
            Err(error) if open && choices < CHOICES_MAX && is_taken(&error) => {}
            done => break done?,
        }
    };
    Ok(Json(NetworkCreated {
        raft_index: index.0,
        warnings: Vec::new(),
        network: view_of(&mesh, &request.name)?,
    }))
}

/// Whether somebody else has taken what was free.
fn is_taken(error: &ApiError) -> bool {
    ["WireguardPortTakenError", "PrefixOverlapError"].contains(&error.code.as_str())
}

/// The network that is asked for, with what is left open filled in.
async fn new_network(mesh: &Mesh, request: &NetworkRequest) -> Result<NewNetwork, ApiError> {
    let agreed = mesh.proposer.views.view().agreed.clone();
    let ipv4 = match &request.ipv4_prefix {
        Some(text) => {
            let prefix = text.parse().map_err(|error| invalid(&error))?;
            check_prefix_of(prefix, NOBODYS).await?;
            prefix
        }
        None => free_here(agreed.free_ipv4_prefixes()).await?,
    };
    let port = request.wireguard_port;
    Ok(NewNetwork {
        id: NetworkId::from_bytes(rand::random()),
        name: request.name.clone(),
        ipv4,
        wireguard_port: port.unwrap_or_else(|| agreed.free_wireguard_port()),
        routing_mode: request
            .routing_mode
            .as_deref()
            .map_or(Ok(RoutingMode::default()), routing_mode)?,
        pod_subnet_prefix: request
            .pod_subnet_prefix
            .as_deref()
            .map(prefix)
            .transpose()?,
        container_subnet_prefix: (request.container_subnet_prefix.as_deref())
            .map(prefix)
            .transpose()?,
    })
}

/// The first prefix that this machine does not route elsewhere.
async fn free_here(prefixes: impl Iterator<Item = Ipv4Prefix>) -> Result<Ipv4Prefix, ApiError> {
    let mut refused = None;
    for prefix in prefixes {
        match check_prefix_of(prefix, NOBODYS).await {
            Ok(()) => return Ok(prefix),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    Err(refused.unwrap_or_else(|| {
        let hint = "give one with --ipv4, such as a /20 of what `shoal network ls` does not list";
        ApiError::new(
            "PrefixOverlapError",
            "no IPv4 prefix of 16 bits is free",
            hint,
        )
    }))
}

fn prefix(text: &str) -> Result<IpPrefix, ApiError> {
    text.parse().map_err(|error| invalid(&error))
}

fn routing_mode(text: &str) -> Result<RoutingMode, ApiError> {
    RoutingMode::from_name(text).ok_or_else(|| invalid_text("routing mode", text, "mesh or hub"))
}

pub(super) async fn delete(Member(mesh): Member, Path(network): Path<String>) -> Answer<Changed> {
    change(&mesh, Command::DeleteNetwork { network }).await
}

pub(super) async fn set(
    Member(mesh): Member,
    Path(network): Path<String>,
    Body(request): Body<NetworkSetRequest>,
) -> Answer<Changed> {
    let changed = |text: &str| match text {
        "" => Ok(PrefixChange::Clear),
        text => prefix(text).map(PrefixChange::Set),
    };
    let wanted = NetworkChange {
        routing_mode: request
            .routing_mode
            .as_deref()
            .map(routing_mode)
            .transpose()?,
        pod_subnet_prefix: request
            .pod_subnet_prefix
            .as_deref()
            .map(changed)
            .transpose()?,
        container_subnet_prefix: (request.container_subnet_prefix.as_deref())
            .map(changed)
            .transpose()?,
        firewall_default: (request.firewall_default.as_deref())
            .map(verdict)
            .transpose()?,
    };
    let command = Command::SetNetwork {
        network,
        change: wanted,
    };
    change(&mesh, command).await
}

fn subnets(texts: &[String]) -> Result<BTreeSet<IpPrefix>, ApiError> {
    texts.iter().map(|text| prefix(text)).collect()
}

/// An attachment without a body is one of a plain peer.
pub(super) async fn attach(
    Member(mesh): Member,
    Path((network, node)): Path<(String, String)>,
    body: Bytes,
) -> Answer<Changed> {
    let request: PeerRequest = match body.is_empty() {
        true => PeerRequest::default(),
        false => parse_body(&body)?,
    };
    refuse_route_here(&mesh, &network, &node).await?;
    let command = Command::AttachPeer {
        node,
        network,
        hub: request.hub.unwrap_or_default(),
        lan_subnets: subnets(&request.lan_subnets.unwrap_or_default())?,
    };
    change(&mesh, command).await
}

/// Refuses to give this machine itself a place where one of its routes is in the way. Another
/// machine sees that for itself, and says so in its status.
async fn refuse_route_here(mesh: &Mesh, network: &str, node: &str) -> Result<(), Failure> {
    let agreed = mesh.proposer.views.view().agreed.clone();
    let here = agreed.find_node(node).is_some_and(|(id, _)| *id == mesh.me);
    match agreed.find_network(network) {
        Some((_, network)) if here => {
            Ok(check_prefix_of(network.ipv4, &network.interface()).await?)
        }
        Some(_) | None => Ok(()),
    }
}

pub(super) async fn set_peer(
    Member(mesh): Member,
    Path((network, node)): Path<(String, String)>,
    Body(request): Body<PeerRequest>,
) -> Answer<Changed> {
    let lan_subnets = request.lan_subnets.as_deref().map(subnets).transpose()?;
    let command = Command::SetPeer {
        node,
        network,
        hub: request.hub,
        lan_subnets,
    };
    change(&mesh, command).await
}

pub(super) async fn detach(
    Member(mesh): Member,
    Path((network, node)): Path<(String, String)>,
) -> Answer<Changed> {
    change(&mesh, Command::DetachPeer { node, network }).await
}
