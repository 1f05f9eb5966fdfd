//! One simulated host: a real membership core and what its shell would keep.

use std::collections::{BTreeSet, VecDeque};

use consensus_core::{NodeId, Time};
use overlay_core::membership::{Membership, Record, Settings};

use crate::world::Event;

/// Messages that wait for a process that stands still: about what the socket buffers hold.
pub(crate) const INBOX_MAX: usize = 1024;

/// A well-formed id for each index, without any order between the two.
pub fn node_id(index: usize) -> NodeId {
    const DIGITS: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let mut bytes = [0; 44];
    blake3::Hasher::new()
        .update(&(index as u64).to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    let digits: String = bytes
        .iter()
        .map(|byte| char::from(DIGITS[usize::from(*byte) % DIGITS.len()]))
        .collect();
    format!("12D3KooW{digits}")
        .parse()
        .expect("the prefix and 44 base58 digits are a node id")
}

/// A host and its process.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) core: Membership,
    /// Counts the starts of the process; also the record's generation.
    pub(crate) boot: u64,
    pub(crate) running: bool,
    /// When the process last ended; its peers hear nothing from then on.
    pub(crate) stopped_at: Option<Time>,
    /// Until when the process stands still.
    pub(crate) stalled_until: Option<Time>,
    pub(crate) inbox: VecDeque<Event>,
    /// The connections that the core wants.
    pub(crate) wanted: BTreeSet<usize>,
    /// The earliest timer event that is under way to this node.
    pub(crate) timer_at: Option<Time>,
}

impl Node {
    pub(crate) fn new(index: usize, settings: &Settings, seed: u64, now: Time) -> Self {
        let id = node_id(index);
        Self {
            core: core(&id, index, 0, settings, seed, now),
            id,
            boot: 0,
            running: false,
            stopped_at: None,
            stalled_until: None,
            inbox: VecDeque::new(),
            wanted: BTreeSet::new(),
            timer_at: None,
        }
    }

    /// Starts the process anew; nothing but the generation survives.
    pub(crate) fn start(&mut self, index: usize, settings: &Settings, seed: u64, now: Time) {
        self.boot += 1;
        self.core = core(&self.id, index, self.boot, settings, seed ^ self.boot, now);
        self.running = true;
        self.stalled_until = None;
        self.inbox.clear();
        self.wanted.clear();
        self.timer_at = None;
    }

    pub(crate) fn is_awake(&self) -> bool {
        self.running && self.stalled_until.is_none()
    }
}

fn core(
    id: &NodeId,
    index: usize,
    generation: u64,
    settings: &Settings,
    seed: u64,
    now: Time,
) -> Membership {
    let host = u8::try_from(index % 250).unwrap_or(0) + 1;
    let record = Record {
        node: id.clone(),
        generation,
        version: 0,
        addresses: vec![([10, 0, 0, host], 4001).into()],
        wireguard: Vec::new(),
    };
    Membership::new(
        record,
        settings.clone(),
        seed.wrapping_add(index as u64),
        now,
    )
}
