//! The network and the faults that both detectors get, each the same.
//!
//! Decides: whether and when a message arrives, as a pure function of seed, link and how many went
//! over that link before. Never: what it says.

use std::{collections::BTreeMap, time::Duration};

/// What happens to one mesh. Nodes are named by their index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blow {
    /// The host loses power: silence.
    Crash(usize),
    /// A crashed node is back with another life.
    Restart(usize),
    /// The process stands still; what arrives meanwhile waits.
    Stall(usize, Duration),
    /// Nothing gets from the first to the second.
    Cut(usize, usize),
    /// Nothing passes between the nodes whose indices share a parity and the others.
    Split,
    /// Everything passes again.
    Mend,
}

/// A mesh's course.
#[derive(Debug, Clone)]
pub(crate) struct Course {
    pub(crate) nodes: usize,
    pub(crate) loss_permille: u64,
    /// What strikes when, by rising time.
    pub(crate) blows: Vec<(Duration, Blow)>,
    pub(crate) end: Duration,
}

/// Links of a tenth of a millisecond to two milliseconds, with half a millisecond of jitter.
const DELAY_US: (u64, u64) = (100, 2000);
const JITTER_US: u64 = 500;

#[derive(Debug)]
pub(crate) struct Network {
    seed: u64,
    loss_permille: u64,
    cuts: BTreeMap<(usize, usize), ()>,
    split: bool,
    sent: BTreeMap<(usize, usize), u64>,
}

impl Network {
    pub(crate) fn new(course: &Course, seed: u64) -> Self {
        Self {
            seed,
            loss_permille: course.loss_permille,
            cuts: BTreeMap::new(),
            split: false,
            sent: BTreeMap::new(),
        }
    }

    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        self.cuts.insert((from, to), ());
    }

    pub(crate) fn split(&mut self) {
        self.split = true;
    }

    pub(crate) fn mend(&mut self) {
        self.cuts.clear();
        self.split = false;
    }

    /// Whether messages pass between the two in both directions.
    pub(crate) fn is_open(&self, a: usize, b: usize) -> bool {
        let cut = |from, to| self.cuts.contains_key(&(from, to));
        !(cut(a, b) || cut(b, a) || self.split && a % 2 != b % 2)
    }

    /// How many microseconds the next message takes; `None` if it is lost.
    pub(crate) fn delay_us(&mut self, from: usize, to: usize) -> Option<u64> {
        let number = self.sent.entry((from, to)).or_default();
        *number += 1;
        let link = mix(self.seed ^ (from as u64) << 32 ^ to as u64);
        let draw = mix(link ^ *number);
        let apart = self.split && from % 2 != to % 2;
        let lost = draw % 1000 < self.loss_permille;
        if apart || lost || self.cuts.contains_key(&(from, to)) {
            return None;
        }
        let (min, max) = DELAY_US;
        Some(min + link % (max - min) + (draw >> 20) % JITTER_US)
    }
}

/// SplitMix64's finaliser (Steele, Lea, Flood 2014).
pub(crate) const fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
