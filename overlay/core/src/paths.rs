//! Which way a node's overlay packets take to another: straight, or by a hub.
//!
//! WireGuard needs one end that the other can send to first. A node that cannot be dialled opens the
//! way to every node that can, by sending first and keeping the way open. Two nodes that both
//! cannot be dialled have their packets forwarded by a hub: each gives the other's addresses to the
//! hub's peer, and the hub forwards between its peers.
//!
//! A network in hub mode has no straight ways between spokes at all: they have hubs for peers, and
//! the hubs forward.
//!
//! Decides: the hub of a pair, from what both say of themselves, or from the pair itself. Never:
//! measures anything.
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

/// The hub by which two spokes of a network in hub mode reach each other: of the `hubs` that are
/// `usable`, which must say the same at both ends, the one that the pair itself draws. So hubs share
/// the pairs, and one that goes takes along only its own.
pub fn spoke_hub<'a>(
    one: &NodeId,
    other: &NodeId,
    hubs: impl IntoIterator<Item = &'a NodeId>,
    usable: impl Fn(&NodeId) -> bool,
) -> Option<&'a NodeId> {
    let (first, second) = (one.min(other), one.max(other));
    let draw = |hub: &&NodeId| (drawn([first, second, hub]), (*hub).clone());
    let candidates = hubs.into_iter().filter(|hub| usable(hub));
    candidates.max_by_key(draw)
}

/// A number out of names: highest random weight hashing (Thaler and Ravishankar, 1998) needs no
/// more than one that spreads. FNV-1a, 64 bits.
fn drawn(names: [&NodeId; 3]) -> u64 {
    let bytes = names.iter().flat_map(|name| name.as_str().bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // The last name's last bytes reach the upper bits only by another round.
    (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Takes away the peers that are spokes as this node is, and gives what was allowed to each to its
/// hub's peer. A spoke without a hub is allowed nothing.
pub fn only_by_hubs(
    peers: &mut BTreeMap<PublicKey, PeerPlan>,
    spokes: &BTreeMap<PublicKey, Option<PublicKey>>,
) {
    for (spoke, hub) in spokes {
        let Some(plan) = peers.remove(spoke) else {
            continue;
        };
        if let Some(hub) = hub.and_then(|hub| peers.get_mut(&hub)) {
            hub.allowed_ips.extend(plan.allowed_ips);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        let digit = |n: u8| char::from(b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdef"[usize::from(n)]);
        let text = format!("12D3KooW{}", digit(n).to_string().repeat(44));
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
    fn both_spokes_draw_the_same_hub_and_the_pairs_are_shared_out() {
        let hubs: Vec<NodeId> = (30..33).map(node).collect();
        let mut drawn = BTreeMap::new();
        for a in 0..20 {
            for b in 0..a {
                let (one, other) = (node(a), node(b));
                let chosen = spoke_hub(&one, &other, &hubs, |_| true).unwrap();
                assert_eq!(
                    spoke_hub(&other, &one, hubs.iter().rev(), |_| true),
                    Some(chosen)
                );
                *drawn.entry(chosen.clone()).or_insert(0) += 1;
                // A hub that goes moves its own pairs only.
                for gone in hubs.iter().filter(|hub| *hub != chosen) {
                    let left = spoke_hub(&one, &other, &hubs, |hub| hub != gone);
                    assert_eq!(left, Some(chosen));
                }
            }
        }
        assert_eq!(drawn.values().sum::<u32>(), 190);
        assert!(
            drawn.len() == 3 && drawn.values().all(|pairs| *pairs >= 30),
            "{drawn:?}"
        );
        assert_eq!(spoke_hub(&node(0), &node(1), &hubs, |_| false), None);
    }

    #[test]
    fn a_spoke_has_hubs_for_peers_and_nobody_else() {
        let key = |n| PublicKey::from_bytes([n; 32]);
        let address = |n: u8| Cidr::host([100, 96, 0, n].into());
        let peer = |n| PeerPlan {
            endpoint: Some(([192, 0, 2, n], 7441).into()),
            allowed_ips: [address(n)].into(),
            keepalive_s: None,
        };
        let mut peers: BTreeMap<_, _> = [1, 2, 3, 4].map(|n| (key(n), peer(n))).into();
        let spokes = [
            (key(2), Some(key(1))),
            (key(3), Some(key(1))),
            (key(4), None),
        ]
        .into();
        only_by_hubs(&mut peers, &spokes);
        assert_eq!(peers.keys().copied().collect::<Vec<_>>(), [key(1)]);
        let all = [address(1), address(2), address(3)].into();
        assert_eq!(peers[&key(1)].allowed_ips, all);
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
