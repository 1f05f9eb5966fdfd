//! Networks and their peers: who has which overlay address.

use super::{Change, docker, done};
use crate::{
    Applied, EventKind, Ipv4Prefix, Ipv6Prefix64, MeshId, Network, NetworkId, NodeId, Peer, Refusal,
};

/// The handle of the network that `init` makes.
const DEFAULT_HANDLE: &str = "default";

pub(super) fn create_default(
    change: &mut Change<'_>,
    mesh: MeshId,
    id: NetworkId,
    ipv4: Ipv4Prefix,
    wireguard_port: u16,
) {
    let network = Network {
        handle: DEFAULT_HANDLE.to_owned(),
        ipv6: Ipv6Prefix64::of(mesh, id),
        ipv4,
        wireguard_port,
    };
    change.agreed_mut().networks.insert(id, network);
}

pub(super) fn default_network(change: &Change<'_>) -> Result<NetworkId, Refusal> {
    find(change, DEFAULT_HANDLE)
}

fn find(change: &Change<'_>, handle: &str) -> Result<NetworkId, Refusal> {
    match change.agreed().find_network(handle) {
        Some((id, _)) => Ok(*id),
        None => Err(Refusal::NetworkUnknown {
            network: super::excerpt(handle),
        }),
    }
}

/// The addresses that `node` would get. Changes nothing.
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
            network: network.handle.clone(),
        });
    }
    let others = || agreed.peers.iter().filter(|((of, _), _)| *of == id);
    let ipv6 = network.ipv6.host(node);
    if let Some(((_, by), _)) = others().find(|(_, peer)| peer.ipv6 == ipv6) {
        return Err(Refusal::AddressCollision {
            address: ipv6.to_string(),
            node: name.to_owned(),
            by: agreed.name_of(by),
        });
    }
    let taken: std::collections::BTreeSet<_> = others().map(|(_, peer)| peer.ipv4).collect();
    let ipv4 = network
        .ipv4
        .hosts()
        .find(|address| !taken.contains(address))
        .ok_or_else(|| Refusal::AddressesExhausted {
            network: network.handle.clone(),
            prefix: network.ipv4.to_string(),
        })?;
    Ok(Peer { ipv6, ipv4 })
}

pub(super) fn attach(change: &mut Change<'_>, node: &NodeId, id: NetworkId) -> Applied {
    let name = change.agreed().name_of(node);
    let peer = check_attach(change, node, &name, id)?;
    let handle = change.agreed().networks[&id].handle.clone();
    let address = peer.ipv6.to_string();
    change.agreed_mut().peers.insert((id, node.clone()), peer);
    change.event(
        EventKind::PeerAttached,
        Some(node),
        [("network", handle), ("address", address)],
    );
    done()
}

pub(super) fn attach_by_name(change: &mut Change<'_>, node: &str, network: &str) -> Applied {
    let id = change.find_node(node)?;
    let network = find(change, network)?;
    attach(change, &id, network)
}

pub(super) fn detach(change: &mut Change<'_>, node: &str, network: &str) -> Applied {
    let id = change.find_node(node)?;
    let network_id = find(change, network)?;
    let name = change.agreed().name_of(&id);
    let key = (network_id, id.clone());
    if !change.agreed().peers.contains_key(&key) {
        return Err(Refusal::PeerUnknown {
            node: name,
            network: network.to_owned(),
        });
    }
    if docker::is_active(change, &id) {
        return Err(Refusal::PeerInUse {
            node: name,
            network: network.to_owned(),
        });
    }
    change.agreed_mut().peers.remove(&key);
    change.event(
        EventKind::PeerDetached,
        Some(&id),
        [("network", network.to_owned())],
    );
    done()
}
