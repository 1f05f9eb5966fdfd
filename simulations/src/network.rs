//! Which messages arrive, and when.
//!
//! Decides: delay and loss per directed link. A cut link loses everything, also what is under way
//! when the cut comes.

use std::{collections::BTreeMap, time::Duration};

use consensus_core::Time;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// What the links are like before any fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkPlan {
    /// Each directed link draws its delay between these two once.
    pub delay_min: Duration,
    /// See `delay_min`.
    pub delay_max: Duration,
    /// Added to each message, at random up to this.
    pub jitter_max: Duration,
    /// Messages lost of a thousand.
    pub loss_permille: u32,
}

impl NetworkPlan {
    /// One switch: a tenth of a millisecond to two milliseconds, no loss.
    pub const fn lan() -> Self {
        Self {
            delay_min: Duration::from_micros(100),
            delay_max: Duration::from_millis(2),
            jitter_max: Duration::from_micros(500),
            loss_permille: 0,
        }
    }

    /// The same with a share of messages lost.
    pub const fn lossy(permille: u32) -> Self {
        Self {
            loss_permille: permille,
            ..Self::lan()
        }
    }
}

/// All directed links.
#[derive(Debug)]
pub(crate) struct Network {
    plan: NetworkPlan,
    delays: BTreeMap<(usize, usize), Duration>,
    /// Cut links, and since when.
    cuts: BTreeMap<(usize, usize), Time>,
}

impl Network {
    pub(crate) fn new(plan: NetworkPlan, nodes: usize, rng: &mut ChaCha8Rng) -> Self {
        let mut delays = BTreeMap::new();
        for from in 0..nodes {
            for to in 0..nodes {
                delays.insert((from, to), between(plan.delay_min, plan.delay_max, rng));
            }
        }
        Self {
            plan,
            delays,
            cuts: BTreeMap::new(),
        }
    }

    pub(crate) fn cut(&mut self, from: usize, to: usize, now: Time) {
        self.cuts.entry((from, to)).or_insert(now);
    }

    pub(crate) fn mend(&mut self, from: usize, to: usize) {
        self.cuts.remove(&(from, to));
    }

    pub(crate) fn mend_all(&mut self) {
        self.cuts.clear();
    }

    pub(crate) fn lose(&mut self, permille: u32) {
        self.plan.loss_permille = permille;
    }

    pub(crate) fn is_open(&self, from: usize, to: usize) -> bool {
        !self.cuts.contains_key(&(from, to))
    }

    /// Whether messages pass in both directions.
    pub(crate) fn is_open_both_ways(&self, a: usize, b: usize) -> bool {
        self.is_open(a, b) && self.is_open(b, a)
    }

    /// Since when at least one direction is cut.
    pub(crate) fn broken_since(&self, a: usize, b: usize) -> Option<Time> {
        let there = self.cuts.get(&(a, b)).copied();
        there
            .into_iter()
            .chain(self.cuts.get(&(b, a)).copied())
            .min()
    }

    /// How long this message takes.
    pub(crate) fn delay(&self, from: usize, to: usize, rng: &mut ChaCha8Rng) -> Duration {
        let base = self
            .delays
            .get(&(from, to))
            .copied()
            .unwrap_or(self.plan.delay_max);
        base + between(Duration::ZERO, self.plan.jitter_max, rng)
    }

    /// Whether this message is lost although the link is open.
    pub(crate) fn loses(&self, rng: &mut ChaCha8Rng) -> bool {
        self.plan.loss_permille > 0 && rng.random_range(0..1000) < self.plan.loss_permille
    }
}

fn between(min: Duration, max: Duration, rng: &mut ChaCha8Rng) -> Duration {
    let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(rng.random_range(micros(min)..=micros(max)))
}
