//! Peers: who has a place in which network, with which addresses (SPEC 3.1, 3.7).

use std::collections::BTreeSet;

use super::{
    Change, access_grants, cluster_networks, containers, docker, done, networks,
    prefixes::{Claim, refuse_overlap},
    too_large, virtual_ips,
};
use crate::{
    Applied, EventKind, IpPrefix, NetworkId, NodeId, Peer, Refusal, limits::LAN_SUBNETS_MAX,
};

/// What a peer is besides its addresses.
#[derive(Default)]
pub(super) struct Placement {
    /// Whether it forwards between the others.
    pub(super) hub: bool,
    /// Networks behind it.
    pub(super) lan_subnets: BTreeSet<IpPrefix>,
}

/// The place that `node` would get. Changes nothing.
pub(super) fn check_attach(
    change: &Change<'_>,
    node: &NodeId,
    name: &str,
    id: NetworkId,
) -> Result<Peer, Refusal> {
    let agreed = change.agreed();
    let network = &agreed.networks[&id];
    if agreed.peers.contains_key(&(id, node.clone())) {
        return Err(Refusal::PeerExists {
            node: name.to_owned(),
            network: network.name.clone(),
        });
    }
    let ipv6 = network.ipv6.host(node);
    if let Some((by, _)) = agreed.peers_of(id).find(|(_, peer)| peer.ipv6 == ipv6) {
        return Err(Refusal::AddressCollision {
            address: ipv6.to_string(),
            node: name.to_owned(),
            by: agreed.name_of(by),
        });
    }
    let other = virtual_ips::at_address(change, id, ipv6);
    if let Some(by) = other.or_else(|| access_grants::at_address(change, id, ipv6)) {
        return Err(Refusal::AddressCollision {
            address: ipv6.to_string(),
            node: name.to_owned(),
            by,
        });
    }
    let ipv4 = access_grants::free_ipv4(change, id)?;
    Ok(Peer {
        ipv6,
        ipv4,
        attached: change.index,
        hub: false,
        lan_subnets: BTreeSet::new(),
        container_subnet: None,
    })
}

pub(super) fn attach(
    change: &mut Change<'_>,
    node: &NodeId,
    id: NetworkId,
    placement: &Placement,
) -> Applied {
    let name = change.agreed().name_of(node);
    let peer = Peer {
        hub: placement.hub,
        lan_subnets: placement.lan_subnets.clone(),
        ..check_attach(change, node, &name, id)?
    };
    check_lan(change, node, id, &peer.lan_subnets)?;
    let network = change.agreed().networks[&id].name.clone();
    let address = peer.ipv6.to_string();
    change.agreed_mut().peers.insert((id, node.clone()), peer);
    change.event(
        EventKind::PeerAttached,
        Some(node),
        [("network", network), ("address", address)],
    );
    containers::settle(change, node);
    done()
}

pub(super) fn attach_by_name(
    change: &mut Change<'_>,
    node: &str,
    network: &str,
    placement: &Placement,
) -> Applied {
    let id = change.find_node(node)?;
    let network = networks::find(change, network)?;
    attach(change, &id, network, placement)
}

/// Networks behind a node are nobody else's, and none lies in another.
fn check_lan(
    change: &Change<'_>,
    node: &NodeId,
    id: NetworkId,
    subnets: &BTreeSet<IpPrefix>,
) -> Result<(), Refusal> {
    if subnets.len() > LAN_SUBNETS_MAX {
        return Err(too_large(
            "the number of LAN subnets of a peer",
            LAN_SUBNETS_MAX,
        ));
    }
    if subnets.is_empty() {
        return Ok(());
    }
    let agreed = change.agreed();
    let mut taken = Claim::all(agreed);
    taken.retain(|claim| !claim.is_of_peer(id, node));
    for claim in Claim::of_peer(agreed, id, node, subnets) {
        refuse_overlap(&taken, "the LAN subnet", claim.prefix)?;
        taken.push(claim);
    }
    Ok(())
}

/// The node and the network of a place that is there.
fn find(
    change: &Change<'_>,
    node: &str,
    network: &str,
) -> Result<(NetworkId, NodeId, Peer), Refusal> {
    let id = change.find_node(node)?;
    let network_id = networks::find(change, network)?;
    match change.agreed().peers.get(&(network_id, id.clone())) {
        Some(peer) => Ok((network_id, id, peer.clone())),
        None => Err(Refusal::PeerUnknown {
            node: change.agreed().name_of(&id),
            network: network.to_owned(),
        }),
    }
}

pub(super) fn set(
    change: &mut Change<'_>,
    node: &str,
    network: &str,
    hub: Option<bool>,
    lan_subnets: Option<&BTreeSet<IpPrefix>>,
) -> Applied {
    let (network_id, id, present) = find(change, node, network)?;
    let peer = Peer {
        hub: hub.unwrap_or(present.hub),
        lan_subnets: lan_subnets.unwrap_or(&present.lan_subnets).clone(),
        ..present.clone()
    };
    if peer == present {
        return done();
    }
    check_lan(change, &id, network_id, &peer.lan_subnets)?;
    let subnets: Vec<_> = peer.lan_subnets.iter().map(IpPrefix::to_string).collect();
    let payload = [
        ("network", network.to_owned()),
        ("hub", peer.hub.to_string()),
        ("lan_subnets", subnets.join(",")),
    ];
    let key = (network_id, id.clone());
    change.agreed_mut().peers.insert(key, peer);
    change.event(EventKind::PeerChanged, Some(&id), payload);
    done()
}

pub(super) fn detach(change: &mut Change<'_>, node: &str, network: &str) -> Applied {
    let (network_id, id, _) = find(change, node, network)?;
    // dockerd listens at the node's oldest place.
    let oldest = change.agreed().first_peer(&id).map(|(oldest, _)| *oldest);
    if oldest == Some(network_id) && docker::is_active(change, &id) {
        return Err(Refusal::PeerInUse {
            node: change.agreed().name_of(&id),
            network: network.to_owned(),
        });
    }
    cluster_networks::refuse_detach(change, &id, network_id)?;
    virtual_ips::refuse_detach(change, &id, network_id)?;
    access_grants::refuse_detach(change, &id, network_id)?;
    let key = (network_id, id.clone());
    change.agreed_mut().peers.remove(&key);
    change.event(
        EventKind::PeerDetached,
        Some(&id),
        [("network", network.to_owned())],
    );
    containers::settle_network(change, network_id);
    done()
}
