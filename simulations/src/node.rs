//! One simulated host: a real membership core and what its shell would keep.

use std::collections::{BTreeMap, VecDeque};

use consensus_core::NodeId;
use overlay_core::membership::{Condition, Incarnation, Membership, Seat};

use crate::{
    clock::LocalClock,
    connections::Connection,
    world::{Event, Mesh},
};

/// Messages that wait for a process that stands still: about what the socket buffers hold.
pub(crate) const INBOX_MAX: usize = 1024;

/// Connections that a cache line holds.
const CONNECTIONS_A_LINE: usize = 8;

/// The digits of an id (base58, Bitcoin's alphabet).
const DIGITS: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
/// Digits of an id that have no meaning but tell it from others.
const DRAWN: usize = 40;

/// A well-formed id for each index. The first digits spell it, so that ids are in the order of
/// their nodes and a node's seat among the members is its index. Rings order them by a hash.
pub fn node_id(index: usize) -> NodeId {
    let mut bytes = [0; DRAWN];
    blake3::Hasher::new()
        .update(&(index as u64).to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    let drawn = bytes.iter().map(|byte| usize::from(*byte) % DIGITS.len());
    let base = DIGITS.len();
    let spelt = [
        index / (base * base * base),
        index / (base * base),
        index / base,
        index,
    ];
    let digits: String = spelt
        .into_iter()
        .map(|digit| digit % base)
        .chain(drawn)
        .map(|digit| char::from(DIGITS[digit]))
        .collect();
    format!("12D3KooW{digits}")
        .parse()
        .expect("the prefix and 44 base58 digits are a node id")
}

/// What a node holds against another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Doubt {
    pub(crate) condition: Condition,
    /// Since when it doubts it at all.
    pub(crate) since_us: u64,
    /// The point of the subject's history at which it is held dead, if it is.
    pub(crate) dead_at: Option<Incarnation>,
    /// Since when that has been wrong and could have been found out.
    pub(crate) wrong_since_us: Option<u64>,
}

/// A host and its process. Its parts lie in this order: first what every event needs.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Node {
    pub(crate) running: bool,
    /// Counts the starts of the process, whatever its disk remembers.
    pub(crate) boot: u64,
    /// Until when the process stands still, and because of which fault.
    pub(crate) stalled: Option<(u64, usize)>,
    pub(crate) clock: LocalClock,
    /// The earliest timer event that is under way to this node.
    pub(crate) timer_us: Option<u64>,
    /// The connections that there are, by rising peer.
    pub(crate) connections: Vec<Connection>,
    /// Bytes sent since the world began, and since the last look.
    pub(crate) sent_bytes: u64,
    pub(crate) core: Membership,
    pub(crate) id: NodeId,
    /// The generation that its disk remembers; the next start is the one after it.
    pub(crate) generation: Option<u64>,
    /// When the process last started, and last ended, in the world's time.
    pub(crate) started_us: u64,
    pub(crate) stopped_us: Option<u64>,
    /// When it last went on after a standstill.
    pub(crate) resumed_us: u64,
    pub(crate) inbox: VecDeque<Event>,
    /// The connections that the core wants, by rising index.
    pub(crate) wanted: Vec<usize>,
    /// Dials under way, by rising index.
    pub(crate) dialling: Vec<usize>,
    /// Whom it suspects or holds dead.
    pub(crate) doubts: BTreeMap<usize, Doubt>,
}

impl Node {
    pub(crate) fn new(index: usize, mesh: &Mesh, now_us: u64) -> Self {
        let id = node_id(index);
        let clock = mesh.clock(index);
        Self {
            core: mesh.core(&id, index, 0, 0, clock.at(now_us)),
            id,
            clock,
            boot: 0,
            generation: None,
            running: false,
            started_us: 0,
            stopped_us: None,
            stalled: None,
            resumed_us: 0,
            inbox: VecDeque::new(),
            wanted: Vec::new(),
            connections: Vec::new(),
            dialling: Vec::new(),
            timer_us: None,
            doubts: BTreeMap::new(),
            sent_bytes: 0,
        }
    }

    /// Starts the process anew; nothing but what its disk remembers survives.
    pub(crate) fn start(&mut self, index: usize, mesh: &Mesh, now_us: u64) {
        self.boot += 1;
        let generation = self.generation.map_or(1, |last| last + 1);
        self.generation = Some(generation);
        let local = self.clock.at(now_us);
        self.core = mesh.core(&self.id, index, generation, self.boot, local);
        self.running = true;
        self.started_us = now_us;
        self.stalled = None;
        self.inbox.clear();
        self.wanted.clear();
        self.connections.clear();
        self.dialling.clear();
        self.timer_us = None;
        self.doubts.clear();
    }

    /// The process ends; what it knew of its own generation was written.
    pub(crate) fn stop(&mut self, now_us: u64) {
        self.generation = Some(self.core.record().generation);
        self.running = false;
        self.stopped_us = Some(now_us);
        self.stalled = None;
        self.inbox.clear();
        self.wanted.clear();
    }

    /// Looks at what every event needs of it.
    pub(crate) fn glance(&self) -> u64 {
        let own = self.boot + u64::from(self.running) + self.timer_us.unwrap_or_default();
        own + self.connections.len() as u64 + self.core.glance()
    }

    /// Looks at what is kept elsewhere.
    pub(crate) fn look(&self, from: usize) -> u64 {
        let lines = self.connections.iter().step_by(CONNECTIONS_A_LINE);
        let peers: usize = lines.map(|one| one.peer()).sum();
        peers as u64 + self.core.look(Seat::at(from))
    }

    pub(crate) const fn is_awake(&self) -> bool {
        self.running && self.stalled.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_in_the_order_of_their_nodes() {
        let ids: Vec<_> = [0, 1, 57, 58, 3_363, 3_364, 9_999, 19_999]
            .map(node_id)
            .into();
        assert!(ids.is_sorted());
    }
}
