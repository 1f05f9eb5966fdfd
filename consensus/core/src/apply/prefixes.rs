//! Who claims which addresses, so that one address means one place in the whole mesh.
//!
//! Decides: whether a prefix is free (SPEC 3.7, 3.10). Claims of different networks may not meet
//! either: a node can be in several, and has one routing table. Virtual addresses need no claim of
//! their own, being taken out of a network's prefixes.

use std::collections::BTreeSet;

use super::excerpt;
use crate::{Agreed, IpPrefix, Network, NetworkId, NodeId, Refusal};

/// A prefix that is somebody's.
pub(super) struct Claim {
    /// Whose: of a network itself, or of one of its peers.
    network: NetworkId,
    peer: Option<NodeId>,
    /// What it is, as a refusal names it when it is proposed.
    pub(super) what: String,
    /// Whose it is, in words.
    whose: String,
    pub(super) prefix: IpPrefix,
}

impl Claim {
    /// Every claim of the mesh.
    pub(super) fn all(agreed: &Agreed) -> Vec<Self> {
        let networks = agreed
            .networks
            .iter()
            .flat_map(|(id, network)| Self::of_network(*id, network));
        let peers = agreed
            .peers
            .iter()
            .flat_map(|((id, node), peer)| Self::of_peer(agreed, *id, node, &peer.lan_subnets));
        networks.chain(peers).collect()
    }

    /// What a network claims for itself.
    pub(super) fn of_network(id: NetworkId, network: &Network) -> Vec<Self> {
        [
            ("the IPv6 prefix", Some(network.ipv6.into())),
            ("the IPv4 prefix", Some(network.ipv4.into())),
            ("the pod subnet prefix", network.pod_subnet_prefix),
            (
                "the container subnet prefix",
                network.container_subnet_prefix,
            ),
        ]
        .into_iter()
        .filter_map(|(what, prefix)| {
            Some(Self {
                network: id,
                peer: None,
                what: what.to_owned(),
                whose: format!("of network {}", network.name),
                prefix: prefix?,
            })
        })
        .collect()
    }

    /// What a peer claims for the networks behind it.
    pub(super) fn of_peer(
        agreed: &Agreed,
        id: NetworkId,
        node: &NodeId,
        subnets: &BTreeSet<IpPrefix>,
    ) -> Vec<Self> {
        if subnets.is_empty() {
            return Vec::new();
        }
        let network = agreed.networks.get(&id);
        let network = network.map_or("", |network| network.name.as_str());
        let whose = format!("of {} in network {network}", agreed.name_of(node));
        subnets
            .iter()
            .map(|prefix| Self {
                network: id,
                peer: Some(node.clone()),
                what: "the LAN subnet".to_owned(),
                whose: whose.clone(),
                prefix: *prefix,
            })
            .collect()
    }

    /// Whether a network makes it for itself.
    pub(super) fn is_of_network(&self, id: NetworkId) -> bool {
        self.network == id && self.peer.is_none()
    }

    /// Whether a peer makes it.
    pub(super) fn is_of_peer(&self, id: NetworkId, node: &NodeId) -> bool {
        self.network == id && self.peer.as_ref() == Some(node)
    }
}

/// Refuses a prefix of which something is taken, naming by what.
pub(super) fn refuse_overlap(taken: &[Claim], what: &str, prefix: IpPrefix) -> Result<(), Refusal> {
    match taken.iter().find(|claim| claim.prefix.overlaps(prefix)) {
        None => Ok(()),
        Some(claim) => Err(Refusal::PrefixOverlap {
            what: what.to_owned(),
            prefix: prefix.to_string(),
            with: excerpt(&format!("{} {} {}", claim.what, claim.prefix, claim.whose)),
        }),
    }
}
