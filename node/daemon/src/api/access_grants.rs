//! Access grants: shown with what a device is to be told, made, moved, suspended, revoked.
//!
//! Decides which node becomes a device's gateway where the operator leaves it open: a hub of the
//! network, else this server or another one, that is heard and can be reached from elsewhere. Never:
//! sees a device's private key.

use std::net::{IpAddr, SocketAddr};

use axum::{Json, extract::Path};
use base64::{Engine, engine::general_purpose::STANDARD};
use consensus_core::{
    AccessGrant, Agreed, Command, IpPrefix, Network, NetworkId, NewGrant, NodeId, Peer, Refusal,
    Role, WallMs,
};
use node_api::{
    ApiError,
    types::{
        AccessGatewayRequest, AccessGrantDetails, AccessGrantRequest, AccessGrantView,
        AccessTunnel, Changed,
    },
};
use overlay_core::{membership::Condition, mtu::OVERLAY_MTU, peers::PublicKey};

use super::{Answer, Body, Member, change};
use crate::{
    mesh::{Mesh, proposer::wall_now},
    node::invalid_text,
};

pub(super) async fn list(Member(mesh): Member) -> Json<Vec<AccessGrantView>> {
    let agreed = mesh.proposer.views.view().agreed.clone();
    let now = wall_now();
    let grants = agreed.access_grants.iter();
    Json(
        grants
            .map(|(name, grant)| view(&agreed, name, grant, now))
            .collect(),
    )
}

pub(super) async fn show(
    Member(mesh): Member,
    Path(name): Path<String>,
) -> Answer<AccessGrantDetails> {
    Ok(Json(details(&mesh, &name)?))
}

pub(super) async fn create(
    Member(mesh): Member,
    Body(request): Body<AccessGrantRequest>,
) -> Answer<AccessGrantDetails> {
    let public_key: PublicKey = request.public_key.parse().map_err(|_| {
        let rule = "32 bytes in base64, as `wg pubkey` prints them";
        invalid_text("WireGuard public key", &request.public_key, rule)
    })?;
    let gateway = match request.gateway {
        Some(gateway) => gateway,
        None => choose_gateway(&mesh, &request.network)?,
    };
    let ends = |ttl_s: u64| WallMs(wall_now().0.saturating_add(ttl_s.saturating_mul(1000)));
    let new = NewGrant {
        name: request.name.clone(),
        network: request.network,
        gateway,
        public_key: *public_key.as_bytes(),
        expires_at: request.ttl_s.map(ends),
    };
    mesh.proposer.submit(Command::CreateGrant(new)).await?;
    Ok(Json(details(&mesh, &request.name)?))
}

pub(super) async fn set_gateway(
    Member(mesh): Member,
    Path(grant): Path<String>,
    Body(request): Body<AccessGatewayRequest>,
) -> Answer<AccessGrantDetails> {
    let command = Command::MoveGrant {
        grant: grant.clone(),
        gateway: request.gateway,
    };
    mesh.proposer.submit(command).await?;
    Ok(Json(details(&mesh, &grant)?))
}

pub(super) async fn suspend(Member(mesh): Member, Path(grant): Path<String>) -> Answer<Changed> {
    change(&mesh, Command::SuspendGrant { grant }).await
}

pub(super) async fn resume(Member(mesh): Member, Path(grant): Path<String>) -> Answer<Changed> {
    change(&mesh, Command::ResumeGrant { grant }).await
}

pub(super) async fn revoke(Member(mesh): Member, Path(grant): Path<String>) -> Answer<Changed> {
    change(&mesh, Command::RevokeGrant { grant }).await
}

/// A node of the network that devices elsewhere are likely to reach.
fn choose_gateway(mesh: &Mesh, network: &str) -> Result<String, ApiError> {
    let agreed = mesh.proposer.views.view().agreed.clone();
    let found = agreed.find_network(network);
    let (id, row) = found.ok_or_else(|| Refusal::NetworkUnknown {
        network: network.to_owned(),
    })?;
    let fit = agreed.peers_of(*id).filter(|(node, peer)| {
        let serves = |node: &consensus_core::Node| node.role == Role::Server;
        (peer.hub || agreed.nodes.get(*node).is_some_and(serves))
            && is_reachable(mesh, node)
            && !endpoints(mesh, &agreed, *id, row, node).is_empty()
    });
    // Hubs forward anyway; of servers the one that was asked is surely there.
    let rank = |node: &NodeId, peer: &Peer| (!peer.hub, *node != mesh.me, node.clone());
    let best = fit.min_by_key(|(node, peer)| rank(node, peer));
    best.map(|(node, _)| node.to_string()).ok_or_else(|| {
        let text = format!("no hub or server of network {network} is reachable from elsewhere");
        ApiError::new(
            "NoGatewayError",
            text,
            "choose a node of it with --via NODE",
        )
    })
}

/// Whether devices elsewhere can send to a node first: it is heard, and not reached by relays only.
fn is_reachable(mesh: &Mesh, node: &NodeId) -> bool {
    let members = mesh.proposer.members.borrow().clone();
    match members.get(node) {
        Some(member) => {
            (*node == mesh.me || member.condition == Condition::Alive)
                && member.record.relays.is_empty()
        }
        None => *node == mesh.me,
    }
}

/// Where a node can be reached with WireGuard, the likeliest first.
fn endpoints(
    mesh: &Mesh,
    agreed: &Agreed,
    id: NetworkId,
    network: &Network,
    node: &NodeId,
) -> Vec<SocketAddr> {
    let members = mesh.proposer.members.borrow().clone();
    let gossiped = members.get(node).and_then(|member| {
        let own = member.record.wireguard.iter().find(|(of, _)| *of == id);
        own.map(|(_, endpoints)| endpoints.clone())
    });
    let agreed = agreed.nodes.get(node).map(|row| {
        let at = |address: &SocketAddr| SocketAddr::new(address.ip(), network.wireguard_port);
        row.addresses.iter().map(at).collect()
    });
    let known = gossiped.filter(|endpoints| !endpoints.is_empty());
    ranked(known.or(agreed).unwrap_or_default())
}

/// Public addresses before private ones, and IPv4 before IPv6: nearly every device has it.
fn ranked(mut endpoints: Vec<SocketAddr>) -> Vec<SocketAddr> {
    endpoints.retain(|endpoint| {
        let ip = endpoint.ip();
        let local = match ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        !(local || ip.is_loopback() || ip.is_unspecified())
    });
    endpoints.sort_by_key(|endpoint| {
        let private = match endpoint.ip() {
            IpAddr::V4(ip) => ip.is_private(),
            IpAddr::V6(ip) => ip.is_unique_local(),
        };
        (private, endpoint.is_ipv6())
    });
    endpoints.dedup();
    endpoints
}

fn view(agreed: &Agreed, name: &str, grant: &AccessGrant, now: WallMs) -> AccessGrantView {
    let network = agreed.networks.get(&grant.network);
    AccessGrantView {
        name: name.to_owned(),
        network: network.map_or_else(|| grant.network.to_string(), |row| row.name.clone()),
        gateway: agreed.former_name_of(&grant.gateway),
        public_key: STANDARD.encode(grant.public_key),
        ipv6: grant.ipv6,
        ipv4: grant.ipv4,
        state: grant.state(now).as_str().into(),
        expires_at_ms: grant.expires_at.map(|end| end.0),
        created_at_ms: grant.created_at.0,
    }
}

fn details(mesh: &Mesh, name: &str) -> Result<AccessGrantDetails, ApiError> {
    let agreed = mesh.proposer.views.view().agreed.clone();
    let grant = agreed.access_grants.get(name);
    let grant = grant.ok_or_else(|| Refusal::GrantUnknown {
        name: name.to_owned(),
    })?;
    let overlay = mesh.overlay.borrow().clone();
    let seen = overlay.peers.get(&(grant.network, grant.public_key));
    let (device, handshake_s) = seen.copied().unwrap_or_default();
    let tunnel = tunnel(mesh, &agreed, grant);
    let gateway = agreed.former_name_of(&grant.gateway);
    let mut warnings = Vec::new();
    match &tunnel {
        None => warnings.push(format!(
            "the gateway {gateway} has no place in the network any more: choose another with `shoal access move {name} --via NODE`"
        )),
        Some(tunnel) if tunnel.endpoints.is_empty() => warnings.push(format!(
            "nobody knows where the gateway {gateway} can be reached: write its address and port {} into the configuration",
            agreed.networks.get(&grant.network).map_or(0, |row| row.wireguard_port)
        )),
        Some(_) if !is_reachable(mesh, &grant.gateway) => warnings.push(format!(
            "the gateway {gateway} is not heard, or is only reached by relays: the device may not reach it"
        )),
        Some(_) => {}
    }
    Ok(AccessGrantDetails {
        grant: view(&agreed, name, grant, wall_now()),
        tunnel,
        device_endpoint: device.map(|endpoint| endpoint.to_string()),
        handshake_s,
        warnings,
    })
}

/// What the device is told; none while its gateway could not let it in.
fn tunnel(mesh: &Mesh, agreed: &Agreed, grant: &AccessGrant) -> Option<AccessTunnel> {
    let network = agreed.networks.get(&grant.network)?;
    let gateway = agreed.nodes.get(&grant.gateway)?;
    let place = (grant.network, grant.gateway.clone());
    agreed.peers.get(&place)?;
    let endpoints = endpoints(mesh, agreed, grant.network, network, &grant.gateway);
    Some(AccessTunnel {
        public_key: STANDARD.encode(gateway.wireguard_public_key),
        endpoints: endpoints.iter().map(SocketAddr::to_string).collect(),
        allowed_ips: reached(agreed, grant.network, network),
        mtu: OVERLAY_MTU,
    })
}

/// Everything that lies in a network, or behind one of its peers.
fn reached(agreed: &Agreed, id: NetworkId, network: &Network) -> Vec<String> {
    let own: [IpPrefix; 2] = [network.ipv6.into(), network.ipv4.into()];
    let inside = [network.pod_subnet_prefix, network.container_subnet_prefix];
    let behind = agreed.peers_of(id).flat_map(|(_, peer)| &peer.lan_subnets);
    own.into_iter()
        .chain(inside.into_iter().flatten())
        .chain(behind.copied())
        .map(|prefix| prefix.to_string())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_sent_to_a_public_address_first_and_never_to_a_local_one() {
        let given = [
            "127.0.0.1:1",
            "[fe80::1]:1",
            "[fd77::1]:1",
            "10.0.0.1:1",
            "[2001:db8::1]:1",
            "203.0.113.5:1",
            "169.254.1.1:1",
        ];
        let ranked = ranked(given.iter().map(|text| text.parse().unwrap()).collect());
        let texts: Vec<_> = ranked.iter().map(SocketAddr::to_string).collect();
        assert_eq!(
            texts,
            [
                "203.0.113.5:1",
                "[2001:db8::1]:1",
                "10.0.0.1:1",
                "[fd77::1]:1"
            ]
        );
    }
}
