//! Who watches whom.
//!
//! Decides: the probe targets and observers of every member. K rings order the agreed members by
//! BLAKE3(salt, ring, node); in each ring a node watches its next living successor. Any two nodes
//! with the same agreed set, salt and opinion of the dead compute the same edges (the monitoring
//! overlay of Rapid, Suresh et al. 2018). Never: looks at addresses or connections.
//!
//! Invariant: `a` is a successor of `b` exactly when `b` is a predecessor of `a`.

use std::collections::{BTreeMap, BTreeSet};

use consensus_core::NodeId;

/// Rapid's K: eight observers per member tolerate several slow or lying ones.
pub(super) const RINGS: usize = 8;
/// Up to this many living members everybody watches everybody: rings would only repeat pairs.
const ALL_WATCH_MAX: usize = RINGS + 1;
/// Up to this many agreed members everybody is connected to everybody: the 2K edges reach all.
pub(super) const FULL_MESH_MAX: usize = 2 * RINGS + 1;

/// The ring orders of one agreed set.
#[derive(Debug, Default)]
pub(super) struct Rings {
    /// Members in the order of each ring.
    orders: Vec<Vec<NodeId>>,
    /// Each member's place in every ring.
    places: BTreeMap<NodeId, [usize; RINGS]>,
}

/// Which way to walk along a ring.
#[derive(Clone, Copy)]
enum Way {
    Forward,
    Backward,
}

impl Rings {
    /// Orders the members; 8 hashes each.
    pub(super) fn new(members: &BTreeSet<NodeId>, salt: u64) -> Self {
        let mut places: BTreeMap<NodeId, [usize; RINGS]> = members
            .iter()
            .map(|node| (node.clone(), [0; RINGS]))
            .collect();
        let mut orders = Vec::with_capacity(RINGS);
        for ring in 0..RINGS {
            let mut order: Vec<_> = members.iter().map(|n| (draw(salt, ring, n), n)).collect();
            order.sort();
            for (place, (_, node)) in order.iter().enumerate() {
                if let Some(at) = places.get_mut(*node) {
                    at[ring] = place;
                }
            }
            orders.push(order.into_iter().map(|(_, node)| node.clone()).collect());
        }
        Self { orders, places }
    }

    /// Whom `node` probes, given who lives.
    pub(super) fn successors(&self, node: &NodeId, live: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        self.adjacent(node, live, Way::Forward)
    }

    /// Who probes `node`, given who lives.
    pub(super) fn predecessors(&self, node: &NodeId, live: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        self.adjacent(node, live, Way::Backward)
    }

    fn adjacent(&self, node: &NodeId, live: &BTreeSet<NodeId>, way: Way) -> BTreeSet<NodeId> {
        let Some(places) = self.places.get(node) else {
            return BTreeSet::new();
        };
        if live.len() <= ALL_WATCH_MAX {
            return live
                .iter()
                .filter(|other| *other != node)
                .cloned()
                .collect();
        }
        let nearest = |(order, place): (&Vec<NodeId>, &usize)| {
            let others = order.len() - 1;
            (1..=others)
                .map(|step| match way {
                    Way::Forward => &order[(place + step) % order.len()],
                    Way::Backward => &order[(place + order.len() - step) % order.len()],
                })
                .find(|other| live.contains(*other))
                .cloned()
        };
        self.orders.iter().zip(places).filter_map(nearest).collect()
    }
}

fn draw(salt: u64, ring: usize, node: &NodeId) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(&(ring as u64).to_le_bytes());
    hasher.update(node.as_str().as_bytes());
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::super::tests::node;
    use super::*;

    fn members(count: usize) -> BTreeSet<NodeId> {
        (0..count).map(node).collect()
    }

    #[test]
    fn observers_and_targets_mirror_each_other() {
        let all = members(40);
        let rings = Rings::new(&all, 7);
        let live: BTreeSet<_> = all.iter().skip(5).cloned().collect();
        for a in &live {
            for b in &live {
                let watches = rings.successors(a, &live).contains(b);
                assert_eq!(watches, rings.predecessors(b, &live).contains(a));
            }
        }
    }

    #[test]
    fn nobody_watches_itself_or_the_dead_and_everybody_is_watched() {
        let all = members(30);
        let rings = Rings::new(&all, 1);
        let live: BTreeSet<_> = all.iter().skip(10).cloned().collect();
        for node in &live {
            let targets = rings.successors(node, &live);
            assert!(!targets.contains(node) && targets.is_subset(&live));
            assert!(targets.len() <= RINGS);
            assert!(!rings.predecessors(node, &live).is_empty());
        }
    }

    #[test]
    fn a_small_mesh_watches_everybody() {
        let all = members(9);
        let rings = Rings::new(&all, 3);
        assert_eq!(rings.successors(&node(0), &all).len(), 8);
    }

    #[test]
    fn another_salt_gives_other_edges() {
        let all = members(50);
        let (one, two) = (Rings::new(&all, 1), Rings::new(&all, 2));
        assert_ne!(
            one.successors(&node(0), &all),
            two.successors(&node(0), &all)
        );
    }

    #[test]
    fn a_stranger_has_no_edges() {
        let all = members(20);
        assert!(Rings::new(&all, 1).successors(&node(99), &all).is_empty());
    }
}
