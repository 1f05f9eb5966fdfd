//! Container subnets: which part of a network's container prefix is which Docker host's (SPEC 3.11).
//!
//! Decides: a Docker host with a place in a network that has such a prefix gets a /24 of it, and
//! keeps it as long as it has the place. Unassigning or decommissioning takes nothing back: Docker's
//! own network, and the containers in it, stay on the host's disk.
//!
//! Subnets are handed out in turn, as process ids are: one that was given back is used again only
//! after all others. A host that was cut off while its place was taken away goes on sending what is
//! for that subnet to its own bridge.
//!
//! Invariants: no two peers of the mesh have overlapping subnets (prefixes of networks don't overlap,
//! and a network gives each /24 once); a peer's subnet lies in its network's prefix.

use std::collections::BTreeSet;

use super::Change;
use crate::{EventKind, IpPrefix, NetworkId, NodeId, Refusal};

/// Gives a Docker host what it lacks in its networks.
pub(super) fn settle(change: &mut Change<'_>, node: &NodeId) {
    let agreed = change.agreed();
    if !agreed.docker_hosts.contains_key(node) {
        return;
    }
    let places = agreed.networks.keys();
    let lacking: Vec<NetworkId> = places
        .filter(|network| {
            let peer = agreed.peers.get(&(**network, node.clone()));
            peer.is_some_and(|peer| peer.container_subnet.is_none())
        })
        .copied()
        .collect();
    for network in lacking {
        give(change, network, node);
    }
}

/// Gives every Docker host of a network what it lacks there, oldest place first.
pub(super) fn settle_network(change: &mut Change<'_>, network: NetworkId) {
    let agreed = change.agreed();
    if (agreed.networks.get(&network)).is_none_or(|row| row.container_subnet_prefix.is_none()) {
        return;
    }
    let mut lacking: Vec<_> = agreed
        .peers_of(network)
        .filter(|(node, peer)| {
            peer.container_subnet.is_none() && agreed.docker_hosts.contains_key(node)
        })
        .map(|(node, peer)| (peer.attached, node.clone()))
        .collect();
    lacking.sort();
    for (_, node) in lacking {
        give(change, network, &node);
    }
}

/// Refuses to change a prefix that a Docker host's subnet would not lie in any more.
pub(super) fn refuse_change(
    change: &Change<'_>,
    id: NetworkId,
    wanted: Option<IpPrefix>,
) -> Result<(), Refusal> {
    let agreed = change.agreed();
    let left = |subnet: IpPrefix| wanted.is_none_or(|prefix| !prefix.contains(subnet));
    let mut hosts = agreed.peers_of(id).filter(|(node, peer)| {
        agreed.docker_hosts.contains_key(node) && peer.container_subnet.is_some_and(left)
    });
    match hosts.next() {
        None => Ok(()),
        Some((node, _)) => Err(Refusal::NetworkInUse {
            network: agreed.networks[&id].name.clone(),
            by: format!("the containers of {}", agreed.name_of(node)),
        }),
    }
}

/// Takes back what does not lie in the network's prefix any more, and gives what is lacking.
pub(super) fn handle_changed_prefix(change: &mut Change<'_>, id: NetworkId) {
    let agreed = change.agreed();
    let prefix = agreed.networks[&id].container_subnet_prefix;
    let left = |subnet: IpPrefix| prefix.is_none_or(|prefix| !prefix.contains(subnet));
    let gone: Vec<_> = agreed
        .peers_of(id)
        .filter(|(_, peer)| peer.container_subnet.is_some_and(left))
        .map(|(node, _)| (id, node.clone()))
        .collect();
    for key in gone {
        if let Some(peer) = change.agreed_mut().peers.get_mut(&key) {
            peer.container_subnet = None;
        }
    }
    settle_network(change, id);
}

/// Gives the node the next free subnet; none where all are given.
fn give(change: &mut Change<'_>, id: NetworkId, node: &NodeId) {
    let agreed = change.agreed();
    let row = &agreed.networks[&id];
    let Some(prefix) = row.container_subnet_prefix else {
        return;
    };
    let network = row.name.clone();
    let peers = agreed.peers_of(id);
    let taken: BTreeSet<IpPrefix> = peers
        .filter_map(|(_, peer)| peer.container_subnet)
        .collect();
    let (count, first) = (prefix.count_of_24s(), row.container_subnets_given);
    let next = (0..count)
        .map(|step| (first % count + step) % count)
        .find_map(|place| {
            let subnet = prefix.nth_24(place)?;
            (!taken.contains(&subnet)).then_some((place, subnet))
        });
    let Some((place, subnet)) = next else {
        return;
    };
    let agreed = change.agreed_mut();
    if let Some(row) = agreed.networks.get_mut(&id) {
        row.container_subnets_given = (place + 1) % count;
    }
    if let Some(peer) = agreed.peers.get_mut(&(id, node.clone())) {
        peer.container_subnet = Some(subnet);
    }
    change.event(
        EventKind::PeerChanged,
        Some(node),
        [
            ("network", network),
            ("container_subnet", subnet.to_string()),
        ],
    );
}
