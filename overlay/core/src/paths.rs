//! Which way a node's overlay packets take to another: straight, or by a hub.
//!
//! WireGuard needs one end that the other can send to first. A node that cannot be dialled opens the
//! way to every node that can, by sending first and keeping the way open. Two nodes that both
//! cannot be dialled have their packets forwarded by a hub: each gives the other's addresses to the
//! hub's peer, and the hub forwards between its peers.
//!
//! Two nodes of which one says that the other's packets do not come straight (`straight` finds that
//! out) have theirs forwarded by a hub that forwards for anybody. They stay each other's WireGuard peers
//! meanwhile, so that the first answer on the straight way is seen.
//!
//! A network in hub mode has no straight ways between spokes at all: they have hubs for peers, and
//! the hubs forward.
//!
//! Decides: the hub of a pair, from what both say of themselves, or from the pair itself. Never:
//! measures anything.
//!
//! Invariant: both ends of a pair that know the same records choose the same hub. WireGuard accepts
//! a packet only from the peer that owns its source, so two opinions would be no path at all.

use std::{collections::BTreeMap, net::Ipv6Addr};

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
    /// The nodes whose packets do not come straight from it or to it.
    pub unreachable: &'a [NodeId],
}

impl End<'_> {
    /// Whether one of the two says that the straight way between them carries nothing.
    pub fn is_apart_from(&self, other: &End<'_>) -> bool {
        self.unreachable.contains(other.node) || other.unreachable.contains(self.node)
    }

    /// Whether neither of the two can be dialled.
    pub fn is_hidden_from(&self, other: &End<'_>) -> bool {
        !self.relays.is_empty() && !other.relays.is_empty()
    }
}

/// The way of a pair that has no straight one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detour {
    /// Who forwards.
    pub hub: NodeId,
    /// Whether the straight way is tried meanwhile: it may come back.
    pub retried: bool,
}

/// The detour of a pair; `None` where it needs none or there is none. Hidden nodes have one of their
/// relays that is `usable`. Without such a one, and where others are apart, it is one of `hubs`, who are
/// there to forward, alive and fit: the pair draws it. Nobody is chosen who is apart from either end.
/// What is handed in must be the same at both ends.
pub fn detour(
    one: End<'_>,
    other: End<'_>,
    hubs: &[End<'_>],
    usable: impl Fn(&NodeId) -> bool,
) -> Option<Detour> {
    let joins = |hub: &NodeId| {
        let named = one.unreachable.contains(hub) || other.unreachable.contains(hub);
        let mut itself = hubs.iter().filter(|end| end.node == hub);
        !named && !itself.any(|hub| hub.is_apart_from(&one) || hub.is_apart_from(&other))
    };
    if let Some(hub) = hub(one, other, |hub| usable(hub) && joins(hub)) {
        let retried = false;
        return Some(Detour { hub, retried });
    }
    let is_hidden = one.is_hidden_from(&other);
    if !is_hidden && !one.is_apart_from(&other) {
        return None;
    }
    let fit = hubs.iter().filter(|hub| hub.relays.is_empty());
    let fit = fit.map(|hub| hub.node);
    let fit = fit.filter(|hub| *hub != one.node && *hub != other.node);
    let hub = spoke_hub(one.node, other.node, fit, joins)?;
    Some(Detour {
        hub: hub.clone(),
        // Who cannot be dialled is not knocked at.
        retried: !is_hidden,
    })
}

/// The hub between two nodes; `None` where they need none, or where none of their relays is
/// `usable`, which must say the same at both ends.
pub fn hub(one: End<'_>, other: End<'_>, usable: impl Fn(&NodeId) -> bool) -> Option<NodeId> {
    if !one.is_hidden_from(&other) {
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

/// A peer that is behind a hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind {
    /// The hub's key.
    pub hub: PublicKey,
    /// The address by which the peer's own way is tried meanwhile, if it is.
    pub tried_by: Option<Ipv6Addr>,
}

/// Gives what is allowed to each peer that is behind a hub to its hub's peer instead.
pub fn by_hubs(peers: &mut BTreeMap<PublicKey, PeerPlan>, hubs: &BTreeMap<PublicKey, Behind>) {
    for (key, Behind { hub, tried_by }) in hubs {
        if !peers.contains_key(hub) || key == hub {
            continue;
        }
        let Some(peer) = peers.get_mut(key) else {
            continue;
        };
        let moved = std::mem::take(&mut peer.allowed_ips);
        if let Some(address) = tried_by {
            // Both ends knock: the first handshake that is answered tells that the way is back.
            peer.keepalive_s = Some(KEEPALIVE_S);
            peer.allowed_ips.insert(Cidr::host((*address).into()));
        } else {
            // Nobody answers there, and an endpoint would only cost handshakes.
            peer.endpoint = None;
            peer.keepalive_s = None;
        }
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
    use proptest::{collection::vec, prelude::*};

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
            unreachable: &[],
        };
        let open = End {
            node: &b,
            relays: &[],
            unreachable: &[],
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
                        unreachable: &[],
                    };
                    let other = End {
                        node: &b,
                        relays: theirs,
                        unreachable: &[],
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
        let mut peers: BTreeMap<_, _> = [1, 2, 3, 4].map(|n| (key(n), peer(n))).into();
        let knock: Ipv6Addr = "fd00::4".parse().unwrap();
        let behind = |hub, tried_by| Behind {
            hub: key(hub),
            tried_by,
        };
        let hubs = [
            (key(2), behind(1, None)),
            (key(3), behind(9, None)),
            (key(4), behind(1, Some(knock))),
        ];
        by_hubs(&mut peers, &hubs.into());
        let all = [address(1), address(2), address(4)].into();
        assert_eq!(peers[&key(1)].allowed_ips, all);
        assert_eq!(peers[&key(2)], PeerPlan::default());
        assert_eq!(peers[&key(3)], peer(3), "its hub is no peer here");
        let tried = PeerPlan {
            allowed_ips: [Cidr::host(knock.into())].into(),
            ..peer(4)
        };
        assert_eq!(peers[&key(4)], tried, "its endpoint is knocked at");
    }

    /// What all members say, by their numbers.
    #[derive(Debug, Clone, Default)]
    struct Said {
        relays: Vec<NodeId>,
        unreachable: Vec<NodeId>,
    }

    fn end<'a>(node: &'a NodeId, said: &'a Said) -> End<'a> {
        End {
            node,
            relays: &said.relays,
            unreachable: &said.unreachable,
        }
    }

    #[test]
    fn either_ends_word_gives_the_pair_a_hub_and_no_word_gives_none() {
        let nodes: Vec<NodeId> = (0..5).map(node).collect();
        let open = Said::default();
        let apart = |n| Said {
            unreachable: vec![node(n)],
            ..Said::default()
        };
        let hubs: Vec<End<'_>> = nodes[2..].iter().map(|hub| end(hub, &open)).collect();
        let way = |one: &Said, other: &Said| {
            let (one, other) = (end(&nodes[0], one), end(&nodes[1], other));
            let detour = detour(one, other, &hubs, |_| true);
            detour.inspect(|detour| assert!(detour.retried))
        };
        assert_eq!(way(&open, &open), None);
        assert_eq!(way(&apart(4), &open), None, "that is another pair's");
        let chosen = way(&apart(1), &open);
        assert!(chosen.is_some());
        assert_eq!(way(&open, &apart(0)), chosen);
        assert_eq!(way(&apart(1), &apart(0)), chosen);
    }

    #[test]
    fn hidden_nodes_whose_relays_are_of_no_use_have_another_hub_and_do_not_knock() {
        let nodes: Vec<NodeId> = (0..5).map(node).collect();
        let open = Said::default();
        let hidden = Said {
            relays: vec![node(7), node(8)],
            ..Said::default()
        };
        let hubs: Vec<End<'_>> = nodes[2..].iter().map(|hub| end(hub, &open)).collect();
        let ends = [end(&nodes[0], &hidden), end(&nodes[1], &hidden)];
        let way = |hubs: &[End<'_>], usable: bool| detour(ends[0], ends[1], hubs, |_| usable);
        let chosen = way(&hubs, false).unwrap();
        assert!(!chosen.retried && nodes[2..].contains(&chosen.hub));
        assert_eq!(
            way(&hubs, true).unwrap().hub,
            node(7),
            "its own relay first"
        );
        assert_eq!(way(&[], false), None);
    }

    #[test]
    fn a_hub_that_dies_is_replaced_and_without_any_the_pair_stays_straight() {
        let nodes: Vec<NodeId> = (0..5).map(node).collect();
        let open = Said::default();
        let apart = Said {
            unreachable: vec![node(1)],
            ..Said::default()
        };
        let (one, other) = (end(&nodes[0], &apart), end(&nodes[1], &open));
        let mut hubs: Vec<End<'_>> = nodes[2..].iter().map(|hub| end(hub, &open)).collect();
        while !hubs.is_empty() {
            let chosen = detour(one, other, &hubs, |_| true).unwrap().hub;
            let before = hubs.len();
            hubs.retain(|hub| *hub.node != chosen);
            assert_eq!(hubs.len(), before - 1, "{chosen} was there to forward");
        }
        assert_eq!(detour(one, other, &hubs, |_| true), None);
    }

    proptest! {
        #[test]
        fn both_ends_go_by_the_same_hub_whatever_anybody_says(
            relays in vec(vec(0_u8..8, 0..3), 8),
            unreachable in vec(vec(0_u8..8, 0..5), 8),
            (forwarding, usable) in (0_u8.., 0_u8..),
        ) {
            let nodes: Vec<NodeId> = (0..8).map(node).collect();
            let named = |list: &[u8]| -> Vec<NodeId> { list.iter().map(|n| node(*n)).collect() };
            let said = relays.iter().zip(&unreachable);
            let said = said.map(|(relays, unreachable)| Said {
                relays: named(relays),
                unreachable: named(unreachable),
            });
            let said: Vec<Said> = said.collect();
            let all = nodes.iter().zip(&said);
            let all: Vec<End<'_>> = all.map(|(node, said)| end(node, said)).collect();
            let is_in = |set: u8, of: &NodeId| {
                let place = nodes.iter().position(|node| node == of).unwrap();
                (set >> place) & 1 == 1
            };
            let mut hubs = all.clone();
            hubs.retain(|hub| is_in(forwarding, hub.node));
            for one in &all {
                for other in all.iter().filter(|other| other.node != one.node) {
                    let usable = |hub: &NodeId| is_in(usable, hub);
                    let chosen = detour(*one, *other, &hubs, usable);
                    let mut turned = hubs.clone();
                    turned.reverse();
                    prop_assert_eq!(&chosen, &detour(*other, *one, &turned, usable));
                    let Some(Detour { hub, retried }) = chosen else {
                        continue;
                    };
                    prop_assert!(hub != *one.node && hub != *other.node);
                    prop_assert!(!one.unreachable.contains(&hub));
                    prop_assert!(!other.unreachable.contains(&hub));
                    prop_assert!(one.is_apart_from(other) || one.is_hidden_from(other));
                    let relays = one.relays.contains(&hub) || other.relays.contains(&hub);
                    let fits = |end: &End<'_>| *end.node == hub && end.relays.is_empty();
                    prop_assert_eq!(retried, !one.is_hidden_from(other));
                    prop_assert!((relays && !retried) || hubs.iter().any(fits));
                }
            }
        }
    }
}
