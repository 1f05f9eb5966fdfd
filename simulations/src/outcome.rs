//! What a run showed, in numbers.
//!
//! Decides: from when on somebody is said to have known of a death, what traffic costs on the wire,
//! when the mesh was whole again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use consensus_core::Time;
use overlay_core::membership::Condition;

use crate::{
    World,
    distribution::Distribution,
    history::{End, Second},
    invariants::Violation,
    scenario::Scenario,
    timeline::{self, Line},
};

/// What carries a message costs so many bytes more: 240 were counted on the wire for an exchange of
/// 32 over a QUIC stream of libp2p, packet headers and acknowledgements included.
const CARRIER_BYTES: u64 = 104;
/// Whoever is down for the longest suspicion and this long must be known to be.
const KNOWN_AFTER: Duration = Duration::from_secs(10);

/// Bytes on the wire for these messages.
pub const fn wire_bytes(messages: u64, bytes: u64) -> u64 {
    bytes + messages * CARRIER_BYTES
}

/// How long it took to know of deaths.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Detections {
    /// Per death and observer.
    pub each: Distribution,
    /// Per death: until the first knew.
    pub first: Distribution,
    /// Per death that everybody came to know: until the last knew.
    pub all: Distribution,
    /// Pairs in which the observer never knew although it had the time.
    pub missed: u64,
}

/// Bytes per second and node, with what carries them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bandwidth {
    /// On average over the last half of the calm.
    pub calm: u64,
    /// On average over the run.
    pub mean: u64,
    /// In the busiest second of the run but for the start, on average over the nodes.
    pub peak: u64,
    /// What the busiest node sent, on average over the run, without what carries it.
    pub busiest_node: u64,
}

/// What is kept of a run once its world is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Of the run.
    pub seed: u64,
    /// Equal for equal histories.
    pub trace: String,
    /// The first invariant that broke.
    pub violation: Option<Violation>,
    /// How long it took to know of deaths.
    pub detections: Detections,
    /// Beliefs in the death of a node that ran and could be talked to.
    pub false_deaths: u64,
    /// Suspicions of nodes that ran.
    pub false_suspicions: u64,
    /// What was sent.
    pub bandwidth: Bandwidth,
    /// From the end of the last fault until everybody's doubts were right.
    pub healed_after: Option<Duration>,
    /// What each fault hit, in the scenario's order.
    pub hits: Vec<u64>,
    /// The mesh second by second.
    pub seconds: Vec<Second>,
    /// What happened.
    pub timeline: Vec<Line>,
    /// How long the simulated time was.
    pub simulated: Duration,
    /// How many events there were.
    pub events: u64,
}

impl Outcome {
    pub(crate) fn of(world: &World, scenario: &Scenario, seed: u64) -> Self {
        let history = world.history();
        Self {
            seed,
            trace: world.fingerprint(),
            violation: None,
            detections: Detections::of(world),
            false_deaths: history.false_deaths(),
            false_suspicions: history.false_suspicions(),
            bandwidth: Bandwidth::of(world, scenario),
            healed_after: None,
            hits: world.struck().iter().map(|struck| struck.hits()).collect(),
            seconds: history.seconds().to_vec(),
            timeline: timeline::tell(world),
            simulated: world.now().since(Time::ZERO),
            events: world.events(),
        }
    }
}

impl Bandwidth {
    fn of(world: &World, scenario: &Scenario) -> Self {
        let seconds = world.history().seconds();
        let nodes = world.len().max(1) as u64;
        let mean = |seconds: &[Second]| {
            let messages = seconds.iter().map(|second| second.messages).sum();
            let bytes = seconds.iter().map(|second| second.bytes).sum();
            wire_bytes(messages, bytes) / (nodes * seconds.len().max(1) as u64)
        };
        let calm = whole_seconds(scenario.calm).min(seconds.len());
        let busiest = world.nodes.iter().map(|node| node.sent_bytes).max();
        let length = seconds.len().max(1) as u64;
        Self {
            calm: mean(&seconds[calm / 2..calm]),
            mean: mean(seconds),
            peak: seconds[calm / 2..]
                .chunks(1)
                .map(mean)
                .max()
                .unwrap_or_default(),
            busiest_node: busiest.unwrap_or_default() / length,
        }
    }
}

/// Complete seconds of a time.
pub(crate) fn whole_seconds(span: Duration) -> usize {
    usize::try_from(span.as_secs()).unwrap_or(usize::MAX)
}

impl Detections {
    /// Reads them out of a world's history.
    pub fn of(world: &World) -> Self {
        let history = world.history();
        let ended: BTreeSet<usize> = history.ends().iter().map(|end| end.node).collect();
        let mut beliefs = BTreeMap::<(usize, usize), Vec<(Time, Condition)>>::new();
        for change in history.changes() {
            if ended.contains(&change.subject) {
                let pair = (change.subject, change.observer);
                let belief = (change.at, change.condition);
                beliefs.entry(pair).or_default().push(belief);
            }
        }
        let mut found = Self::default();
        for end in history.ends() {
            found.add(world, end, &beliefs);
        }
        found
    }

    fn add(
        &mut self,
        world: &World,
        end: &End,
        beliefs: &BTreeMap<(usize, usize), Vec<(Time, Condition)>>,
    ) {
        let until = end.until.unwrap_or(world.now());
        let in_time = end.at + world.mesh.settings.suspicion_max + KNOWN_AFTER;
        let (mut first, mut last, mut complete) = (None, None, true);
        for observer in (0..world.len()).filter(|node| *node != end.node) {
            if !ran_throughout(world, observer, end.at, until) {
                continue;
            }
            let held = beliefs.get(&(end.node, observer));
            let held = held.map_or(&[][..], Vec::as_slice);
            let begins = held.partition_point(|(at, _)| *at < end.at);
            let already = begins.checked_sub(1).map(|at| held[at].1) == Some(Condition::Dead);
            let mut later = held[begins..].iter().filter(|(at, _)| *at < until);
            match later.find(|(_, condition)| *condition == Condition::Dead) {
                Some((at, _)) => {
                    let after = at.since(end.at);
                    self.each.add(after);
                    first = Some(first.map_or(after, |first: Duration| first.min(after)));
                    last = last.max(Some(after));
                }
                None if already => {}
                None => {
                    complete = false;
                    self.missed += u64::from(until >= in_time);
                }
            }
        }
        first.into_iter().for_each(|after| self.first.add(after));
        if complete {
            last.into_iter().for_each(|after| self.all.add(after));
        }
    }

    /// Adds those of another run.
    pub fn merge(&mut self, other: &Self) {
        self.each.merge(&other.each);
        self.first.merge(&other.first);
        self.all.merge(&other.all);
        self.missed += other.missed;
    }
}

fn ran_throughout(world: &World, node: usize, from: Time, to: Time) -> bool {
    let mut ends = world.history().ends().iter();
    !ends.any(|end| {
        let back = end.until.unwrap_or(Time::from_micros(u64::MAX));
        end.node == node && end.at < to && back > from
    })
}
