//! Which way a node's overlay packets take to another: straight, or by a hub.
//!
//! WireGuard needs one end that the other can send to first. A node that cannot be dialled opens the
//! way to every node that can, by sending first and keeping the way open. Two nodes that both
//! cannot be dialled have their packets forwarded by a hub: each gives the other's addresses to the
//! hub's peer, and the hub forwards between its peers.
//!
//! Decides: the hub of a pair, from what both say of themselves. Never: measures anything.
//!
//! Invariant: both ends of a pair that know the same records choose the same hub. WireGuard accepts
//! a packet only from the peer that owns its source, so two opinions would be no path at all.

use std::collections::BTreeMap;

use consensus_core::NodeId;

use crate::peers::{Cidr, PeerPlan, PublicKey};

/// Seconds between keepalives of a node behind NAT: mappings for UDP may end after 30 seconds, and
/// do with most routers after no less (RFC 4787, requirement 5; WireGuard's own recommendation).
pub const KEEPALIVE_S: u16 = 25;

/// What one end of a pair says of itself.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// The node.
    pub node: &'a NodeId,
    /// The nodes through which it is reached; empty when it can be dialled.
    pub relays: &'a [NodeId],
}

/// The hub between two nodes; `None` where they need none, or where none of their relays is
/// `usable`, which must say the same at both ends.
pub fn hub(one: End<'_>, other: End<'_>, usable: impl Fn(&NodeId) -> bool) -> Option<NodeId> {
    if one.relays.is_empty() || other.relays.is_empty() {
        return None;
    }
    // Both reach either's relays: a relay can be dialled. The smaller id's are asked first, in
    // their own order, so that both ends come to the same one.
    let (first, second) = if one.node < other.node {
        (one, other)
    } else {
        (other, one)
    };
    let shared = first.relays.iter().filter(|r| second.relays.contains(r));
    let rest = first.relays.iter().chain(second.relays);
    shared
        .chain(rest)
        .find(|hub| *hub != one.node && *hub != other.node && usable(hub))
        .cloned()
}

/// Gives what is allowed to a peer to its hub's peer instead. `hubs` has the hub's key for each
/// peer that is behind one.
pub fn by_hubs(peers: &mut BTreeMap<PublicKey, PeerPlan>, hubs: &BTreeMap<PublicKey, PublicKey>) {
    for (key, hub) in hubs {
        if !peers.contains_key(hub) || key == hub {
            continue;
        }
        let moved: Vec<Cidr> = match peers.get_mut(key) {
            Some(peer) => {
                // Nobody answers there, and an endpoint would only cost handshakes.
                peer.endpoint = None;
                peer.keepalive_s = None;
                std::mem::take(&mut peer.allowed_ips).into_iter().collect()
            }
            None => continue,
        };
        if let Some(hub) = peers.get_mut(hub) {
            hub.allowed_ips.extend(moved);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        let digit = char::from(b'1' + n);
        let text = format!("12D3KooW{}", digit.to_string().repeat(44));
        text.parse().unwrap()
    }

    #[test]
    fn whoever_can_be_dialled_needs_no_hub() {
        let (a, b) = (node(0), node(1));
        let relays = [node(7)];
        let hidden = End {
            node: &a,
            relays: &relays,
        };
        let open = End {
            node: &b,
            relays: &[],
        };
        assert_eq!(hub(hidden, open, |_| true), None);
        assert_eq!(hub(open, hidden, |_| true), None);
    }

    #[test]
    fn both_ends_of_every_pair_choose_the_same_hub() {
        let relays: Vec<NodeId> = (4..8).map(node).collect();
        let pairs: Vec<[NodeId; 2]> = (0..4)
            .flat_map(|a| (0..4).map(move |b| (a, b)))
            .map(|(a, b)| [relays[a].clone(), relays[b].clone()])
            .collect();
        for ours in &pairs {
            for theirs in &pairs {
                for gone in 4..9 {
                    let usable = |hub: &NodeId| *hub != node(gone);
                    let (a, b) = (node(0), node(1));
                    let one = End {
                        node: &a,
                        relays: ours,
                    };
                    let other = End {
                        node: &b,
                        relays: theirs,
                    };
                    let chosen = hub(one, other, usable);
                    assert_eq!(chosen, hub(other, one, usable));
                    let possible = ours.iter().chain(theirs).any(usable);
                    assert_eq!(chosen.is_some(), possible);
                    assert!(chosen.is_none_or(|hub| usable(&hub)));
                }
            }
        }
    }

    #[test]
    fn a_hub_is_allowed_what_the_hidden_peer_was_and_nothing_is_lost() {
        let key = |n| PublicKey::from_bytes([n; 32]);
        let address = |n: u8| Cidr::host([100, 96, 0, n].into());
        let peer = |n| PeerPlan {
            endpoint: Some(([192, 0, 2, n], 7441).into()),
            allowed_ips: [address(n)].into(),
            keepalive_s: Some(KEEPALIVE_S),
        };
        let mut peers: BTreeMap<_, _> = [1, 2, 3].map(|n| (key(n), peer(n))).into();
        let hubs = [(key(2), key(1)), (key(3), key(9))].into();
        by_hubs(&mut peers, &hubs);
        assert_eq!(peers[&key(1)].allowed_ips, [address(1), address(2)].into());
        assert_eq!(peers[&key(2)], PeerPlan::default());
        assert_eq!(peers[&key(3)], peer(3), "its hub is no peer here");
    }
}
