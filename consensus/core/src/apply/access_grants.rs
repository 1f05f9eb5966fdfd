//! Access grants: made, moved to another gateway, suspended, resumed, revoked (SPEC 3.8).
//!
//! Decides: who may be a gateway, and that an address and a key are one's alone. A revoked grant is
//! forgotten: nothing of it is accepted anywhere.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
};

use super::{Change, check_name, done, excerpt, invalid, networks, too_large, virtual_ips};
use crate::{
    AccessGrant, Applied, EventKind, NetworkId, NewGrant, Node, NodeId, Refusal,
    limits::ACCESS_GRANTS_MAX,
};

pub(super) fn create(change: &mut Change<'_>, new: &NewGrant) -> Applied {
    let grant = check_new(change, new)?;
    change
        .agreed_mut()
        .access_grants
        .insert(new.name.clone(), grant.clone());
    event(change, EventKind::AccessGranted, &new.name, &grant);
    done()
}

/// The grant that would be made. Changes nothing.
fn check_new(change: &Change<'_>, new: &NewGrant) -> Result<AccessGrant, Refusal> {
    check_name("access grant name", &new.name)?;
    let agreed = change.agreed();
    if agreed.access_grants.contains_key(&new.name) {
        return Err(Refusal::GrantExists {
            name: new.name.clone(),
        });
    }
    if agreed.access_grants.len() >= ACCESS_GRANTS_MAX {
        return Err(too_large("the number of access grants", ACCESS_GRANTS_MAX));
    }
    let network = networks::find(change, &new.network)?;
    let gateway = check_gateway(change, network, &new.gateway)?;
    if new.public_key == [0; 32] {
        let rule = "a WireGuard public key, which is never all zeros";
        return Err(invalid("public key", "all zeros", rule));
    }
    if let Some(by) = owner_of_key(change, &new.public_key) {
        return Err(Refusal::GrantKeyTaken { by });
    }
    if let Some(end) = new.expires_at.filter(|end| *end <= change.time) {
        let rule = "later than now";
        return Err(invalid("end of the grant", &end.0.to_string(), rule));
    }
    let mesh = agreed.mesh.as_ref().ok_or(Refusal::NoMesh)?.id;
    let row = &agreed.networks[&network];
    let ipv6 = AccessGrant::address(mesh, change.index, row.ipv6);
    if let Some(by) = taken_by(change, network, ipv6) {
        return Err(Refusal::GrantCollision {
            grant: new.name.clone(),
            address: ipv6.to_string(),
            by,
        });
    }
    Ok(AccessGrant {
        network,
        gateway,
        public_key: new.public_key,
        ipv6,
        ipv4: free_ipv4(change, network)?,
        suspended: false,
        expires_at: new.expires_at,
        created_at: change.time,
    })
}

/// The lowest IPv4 address that no peer and no device of the network has.
pub(super) fn free_ipv4(change: &Change<'_>, network: NetworkId) -> Result<Ipv4Addr, Refusal> {
    let agreed = change.agreed();
    let row = &agreed.networks[&network];
    let peers = agreed.peers_of(network).map(|(_, peer)| peer.ipv4);
    let grants = agreed.access_grants.values();
    let grants = grants.filter(|grant| grant.network == network);
    let taken: BTreeSet<_> = peers.chain(grants.map(|grant| grant.ipv4)).collect();
    row.ipv4
        .hosts()
        .find(|address| !taken.contains(address))
        .ok_or_else(|| Refusal::AddressesExhausted {
            network: row.name.clone(),
            prefix: row.ipv4.to_string(),
        })
}

/// A gateway is a peer of the network, and keeps the key that its devices are given.
fn check_gateway(
    change: &Change<'_>,
    network: NetworkId,
    gateway: &str,
) -> Result<NodeId, Refusal> {
    let node = change.find_node(gateway)?;
    let agreed = change.agreed();
    if agreed.key_rotations.contains_key(&node) {
        let node = agreed.name_of(&node);
        return Err(Refusal::KeyRotationUnderWay { node });
    }
    if agreed.peers.contains_key(&(network, node.clone())) {
        return Ok(node);
    }
    Err(Refusal::PeerUnknown {
        node: agreed.name_of(&node),
        network: agreed.networks[&network].name.clone(),
    })
}

/// Whose WireGuard key it is, in words. A node has one key for all its networks.
pub(super) fn owner_of_key(change: &Change<'_>, key: &[u8; 32]) -> Option<String> {
    let agreed = change.agreed();
    let has = |(id, node): &(&NodeId, &Node)| {
        node.wireguard_public_key == *key || agreed.announced_key(id) == Some(*key)
    };
    let node = agreed.nodes.iter().find(has);
    let node = node.map(|(_, node)| format!("node {}", node.name));
    node.or_else(|| grant_of_key(change, key))
}

/// How many devices a node is the gateway of, and the name of one.
pub(super) fn through(change: &Change<'_>, gateway: &NodeId) -> Option<(u64, String)> {
    let grants = change.agreed().access_grants.iter();
    let mut theirs = grants.filter(|(_, grant)| grant.gateway == *gateway);
    let (first, _) = theirs.next()?;
    Some((1 + theirs.count() as u64, first.clone()))
}

fn grant_of_key(change: &Change<'_>, key: &[u8; 32]) -> Option<String> {
    let mut grants = change.agreed().access_grants.iter();
    let grant = grants.find(|(_, grant)| grant.public_key == *key);
    grant.map(|(name, _)| format!("the access grant {name}"))
}

/// Refuses a node the key that a device has.
pub(super) fn refuse_key(change: &Change<'_>, key: &[u8; 32]) -> Result<(), Refusal> {
    match grant_of_key(change, key) {
        Some(by) => Err(Refusal::GrantKeyTaken { by }),
        None => Ok(()),
    }
}

/// Whose address it is already.
fn taken_by(change: &Change<'_>, network: NetworkId, address: Ipv6Addr) -> Option<String> {
    let agreed = change.agreed();
    let mut peers = agreed.peers_of(network);
    let peer = peers.find(|(_, peer)| peer.ipv6 == address);
    let node = peer.map(|(node, _)| agreed.name_of(node));
    node.or_else(|| virtual_ips::at_address(change, network, address))
        .or_else(|| at_address(change, network, address))
}

/// The grant that has this address.
pub(super) fn at_address(
    change: &Change<'_>,
    network: NetworkId,
    address: Ipv6Addr,
) -> Option<String> {
    let mut grants = change.agreed().access_grants.iter();
    let grant = grants.find(|(_, grant)| grant.network == network && grant.ipv6 == address);
    grant.map(|(name, _)| name.clone())
}

/// A grant of this network, if there is one.
pub(super) fn in_network(change: &Change<'_>, network: NetworkId) -> Option<String> {
    let mut grants = change.agreed().access_grants.iter();
    let grant = grants.find(|(_, grant)| grant.network == network);
    grant.map(|(name, _)| name.clone())
}

/// Refuses to take a gateway's place away.
pub(super) fn refuse_detach(
    change: &Change<'_>,
    node: &NodeId,
    network: NetworkId,
) -> Result<(), Refusal> {
    let agreed = change.agreed();
    let mut grants = agreed.access_grants.iter();
    match grants.find(|(_, grant)| grant.network == network && grant.gateway == *node) {
        Some((name, _)) => Err(Refusal::GrantUsesPeer {
            node: agreed.name_of(node),
            network: agreed.networks[&network].name.clone(),
            grant: name.clone(),
        }),
        None => Ok(()),
    }
}

fn find(change: &Change<'_>, name: &str) -> Result<AccessGrant, Refusal> {
    let grant = change.agreed().access_grants.get(name).cloned();
    grant.ok_or_else(|| Refusal::GrantUnknown {
        name: excerpt(name),
    })
}

/// The device has to be told: its configuration names the gateway.
pub(super) fn move_to(change: &mut Change<'_>, name: &str, gateway: &str) -> Applied {
    let present = find(change, name)?;
    let gateway = check_gateway(change, present.network, gateway)?;
    let moved = AccessGrant {
        gateway,
        ..present.clone()
    };
    replace(change, EventKind::AccessMoved, name, &present, moved)
}

pub(super) fn suspend(change: &mut Change<'_>, name: &str, suspended: bool) -> Applied {
    let present = find(change, name)?;
    let kind = match suspended {
        true => EventKind::AccessSuspended,
        false => EventKind::AccessResumed,
    };
    let changed = AccessGrant {
        suspended,
        ..present.clone()
    };
    replace(change, kind, name, &present, changed)
}

fn replace(
    change: &mut Change<'_>,
    kind: EventKind,
    name: &str,
    present: &AccessGrant,
    grant: AccessGrant,
) -> Applied {
    if grant != *present {
        let grants = &mut change.agreed_mut().access_grants;
        grants.insert(name.to_owned(), grant.clone());
        event(change, kind, name, &grant);
    }
    done()
}

pub(super) fn revoke(change: &mut Change<'_>, name: &str) -> Applied {
    let grant = find(change, name)?;
    change.agreed_mut().access_grants.remove(name);
    event(change, EventKind::AccessRevoked, name, &grant);
    done()
}

fn event(change: &mut Change<'_>, kind: EventKind, name: &str, grant: &AccessGrant) {
    let network = change.agreed().networks.get(&grant.network);
    let network = network.map_or_else(String::new, |network| network.name.clone());
    change.event(
        kind,
        Some(&grant.gateway),
        [
            ("grant", name.to_owned()),
            ("network", network),
            ("address", grant.ipv6.to_string()),
        ],
    );
}
