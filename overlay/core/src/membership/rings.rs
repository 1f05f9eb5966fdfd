//! Who watches whom.
//!
//! Decides: the order of the agreed members on K rings, by BLAKE3(salt, ring, node). In each ring a
//! node watches its next living successor. Any two nodes with the same agreed set, salt and opinion
//! of the dead compute the same edges (the monitoring overlay of Rapid: Suresh, Malkhi, Gopalan,
//! Carreiro, Lokhandwala, ATC 2018). Never: looks at addresses, connections or health.
//!
//! A member's [`Seat`] is its place among the agreed ids; everything that is kept per member is
//! kept by seat. Seats hold for one [`Rings`] only.
//!
//! Invariant: in every ring each seat has one place, and each place one seat.

use std::collections::BTreeSet;

use consensus_core::NodeId;

/// Rapid's K: eight observers per member tolerate several slow or lying ones.
pub const RINGS: usize = 8;
/// Up to this many living members everybody watches everybody: the rings of so few repeat pairs,
/// and would leave some members five observers or fewer.
pub(super) const ALL_WATCH_MAX: usize = 12;
/// Up to this many agreed members everybody is connected to everybody: the 2K edges reach all.
pub(super) const FULL_MESH_MAX: usize = 2 * RINGS + 1;
/// Bytes of a node's mark: enough that no two members of any mesh share one by chance.
const MARK_BYTES: usize = 16;

/// A member's place among the agreed ids, by rising id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seat(u32);

impl Seat {
    /// The place as a number, for tables of one's own.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The seat with this number.
    ///
    /// # Panics
    /// Above four billion, which no mesh has.
    pub fn at(index: usize) -> Self {
        Self(u32::try_from(index).expect("no mesh has four billion members"))
    }
}

/// The ring orders of one agreed set. Costs most of its making; cores of one process may share it.
#[derive(Debug, Default)]
pub struct Rings {
    salt: u64,
    /// By rising id.
    nodes: Vec<NodeId>,
    /// The last bytes of each id with its seat, sorted: ids differ there.
    finder: Vec<(u64, Seat)>,
    /// The seats in the order of each ring.
    orders: Vec<Vec<Seat>>,
    /// Each seat's place in every ring.
    places: Vec<[u32; RINGS]>,
    /// The beginning of each id's hash.
    marks: Vec<[u8; MARK_BYTES]>,
    /// The seats of each bucket of a digest.
    buckets: Vec<Vec<Seat>>,
}

/// Which way to walk along a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// To those that are watched.
    Forward,
    /// To those that watch.
    Backward,
}

impl Rings {
    /// Orders the members. The salt is agreed, so that nobody can choose whom it watches.
    pub fn new(members: &BTreeSet<NodeId>, salt: u64) -> Self {
        let nodes: Vec<NodeId> = members.iter().cloned().collect();
        let mut finder: Vec<_> = (0..)
            .map(Seat)
            .zip(&nodes)
            .map(|(s, n)| (tail(n), s))
            .collect();
        finder.sort_unstable();
        let mut places = vec![[0; RINGS]; nodes.len()];
        let orders = (0..RINGS)
            .map(|ring| {
                let drawn = (0..).map(Seat).zip(&nodes);
                let mut order: Vec<_> = drawn.map(|(s, n)| (draw(salt, ring, n), s)).collect();
                order.sort_unstable();
                for (place, (_, seat)) in (0..).zip(&order) {
                    places[seat.index()][ring] = place;
                }
                order.into_iter().map(|(_, seat)| seat).collect()
            })
            .collect();
        let marks: Vec<_> = nodes.iter().map(mark).collect();
        let mut buckets = vec![Vec::new(); 256];
        for (seat, mark) in (0..).map(Seat).zip(&marks) {
            buckets[usize::from(mark[0])].push(seat);
        }
        Self {
            salt,
            nodes,
            finder,
            orders,
            places,
            marks,
            buckets,
        }
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether nobody was agreed yet.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The members, by rising id and so by seat.
    pub fn nodes(&self) -> &[NodeId] {
        &self.nodes
    }

    /// Who has the seat.
    ///
    /// # Panics
    /// When the seat is of other rings.
    pub fn node(&self, seat: Seat) -> &NodeId {
        &self.nodes[seat.index()]
    }

    /// The member's seat; none for a stranger.
    pub fn seat(&self, node: &NodeId) -> Option<Seat> {
        let tail = tail(node);
        let first = self.finder.partition_point(|(other, _)| *other < tail);
        let alike = self.finder[first..]
            .iter()
            .take_while(|(other, _)| *other == tail);
        let mut seats = alike.map(|(_, seat)| *seat);
        seats.find(|seat| self.node(*seat) == node)
    }

    /// The member's seat, for who expects it at that place.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn seat_near(&self, place: usize, node: &NodeId) -> Option<Seat> {
        match self.nodes.get(place) {
            Some(other) if other == node => Some(Seat::at(place)),
            Some(_) | None => self.seat(node),
        }
    }

    /// Whether these are the rings of that set and salt.
    pub fn are_of(&self, members: &BTreeSet<NodeId>, salt: u64) -> bool {
        self.salt == salt && self.nodes.len() == members.len() && self.nodes.iter().eq(members)
    }

    pub(super) fn seats(&self) -> impl Iterator<Item = Seat> + use<> {
        (0..self.nodes.len()).map(Seat::at)
    }

    /// All others of a ring, the nearest first.
    pub(super) fn walk(&self, from: Seat, ring: usize, way: Way) -> impl Iterator<Item = Seat> {
        let order = &self.orders[ring];
        let place = self.places[from.index()][ring] as usize;
        (1..order.len()).map(move |step| {
            let at = match way {
                Way::Forward => place + step,
                Way::Backward => place + order.len() - step,
            };
            order[if at < order.len() {
                at
            } else {
                at - order.len()
            }]
        })
    }

    /// The nearest acceptable other in each ring, by rising seat, none twice.
    pub(super) fn nearest(&self, from: Seat, way: Way, fits: impl Fn(Seat) -> bool) -> Vec<Seat> {
        let nearest = |ring| self.walk(from, ring, way).find(|seat| fits(*seat));
        let mut seats: Vec<_> = (0..RINGS).filter_map(nearest).collect();
        seats.sort_unstable();
        seats.dedup();
        seats
    }

    pub(super) fn mark(&self, seat: Seat) -> &[u8; MARK_BYTES] {
        &self.marks[seat.index()]
    }

    /// The seat's bucket in a digest: the first byte of its id's hash.
    pub(super) fn bucket(&self, seat: Seat) -> u8 {
        self.marks[seat.index()][0]
    }

    pub(super) fn in_bucket(&self, bucket: u8) -> &[Seat] {
        self.buckets
            .get(usize::from(bucket))
            .map_or(&[], Vec::as_slice)
    }
}

/// Where the seats of one agreed set went in the next.
#[derive(Debug)]
pub(super) struct Moves(Vec<Option<Seat>>);

impl Moves {
    pub(super) fn between(old: &Rings, new: &Rings) -> Self {
        Self(old.nodes.iter().map(|node| new.seat(node)).collect())
    }

    /// The new seat; none for who is a member no more.
    pub(super) fn of(&self, seat: Seat) -> Option<Seat> {
        self.0.get(seat.index()).copied().flatten()
    }

    /// Moves a set.
    pub(super) fn set(&self, seats: &BTreeSet<Seat>) -> BTreeSet<Seat> {
        seats.iter().filter_map(|seat| self.of(*seat)).collect()
    }
}

/// The last eight characters: keys are random there, unlike in the beginning.
fn tail(node: &NodeId) -> u64 {
    let bytes = node.as_str().as_bytes();
    bytes
        .last_chunk()
        .map_or(0, |last| u64::from_be_bytes(*last))
}

fn mark(node: &NodeId) -> [u8; MARK_BYTES] {
    let hash = blake3::hash(node.as_str().as_bytes());
    let mut mark = [0; MARK_BYTES];
    mark.copy_from_slice(&hash.as_bytes()[..MARK_BYTES]);
    mark
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

    fn rings(count: usize, salt: u64) -> Rings {
        Rings::new(&(0..count).map(node).collect(), salt)
    }

    #[test]
    fn observers_and_targets_mirror_each_other() {
        let rings = rings(40, 7);
        let live = |seat: Seat| seat.index() >= 5;
        for a in rings.seats().filter(|seat| live(*seat)) {
            for b in rings.seats().filter(|seat| live(*seat)) {
                let watches = rings.nearest(a, Way::Forward, live).contains(&b);
                assert_eq!(watches, rings.nearest(b, Way::Backward, live).contains(&a));
            }
        }
    }

    #[test]
    fn nobody_watches_itself_or_the_dead_and_everybody_is_watched() {
        let rings = rings(30, 1);
        let live = |seat: Seat| seat.index() >= 10;
        for seat in rings.seats().filter(|seat| live(*seat)) {
            let targets = rings.nearest(seat, Way::Forward, live);
            assert!(!targets.contains(&seat) && targets.iter().all(|seat| live(*seat)));
            assert!(targets.len() <= RINGS);
            assert!(!rings.nearest(seat, Way::Backward, live).is_empty());
        }
    }

    #[test]
    fn another_salt_gives_other_edges() {
        let (one, two) = (rings(50, 1), rings(50, 2));
        let edges = |rings: &Rings| rings.nearest(Seat(0), Way::Forward, |_| true);
        assert_ne!(edges(&one), edges(&two));
    }

    #[test]
    fn every_member_is_found_at_its_seat_and_a_stranger_at_none() {
        let rings = rings(300, 1);
        for (index, node) in rings.nodes().iter().enumerate() {
            assert_eq!(rings.seat(node), Some(Seat::at(index)));
        }
        assert_eq!(rings.seat(&node(999)), None);
    }

    #[test]
    fn seats_follow_their_nodes_into_another_set() {
        let (old, new) = (rings(20, 1), Rings::new(&(5..30).map(node).collect(), 1));
        let moves = Moves::between(&old, &new);
        for seat in old.seats() {
            let moved = moves.of(seat).map(|seat| new.node(seat));
            assert_eq!(moved, Some(old.node(seat)).filter(|id| **id >= node(5)));
        }
    }
}
