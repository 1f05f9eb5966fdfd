//! One run of clusters, from a mesh without any to the verdict.
//!
//! Decides: when faults and wishes are over, and when nothing is left to do.

use std::time::Duration;

use super::{
    bug::PlantedBug,
    invariants::ends::{self, Found},
    outcome::Outcome,
    scenario::Scenario,
    world::{Event, World},
};
use crate::random::as_micros;

/// How often it is looked whether anything is left to do.
const LOOK_EVERY_US: u64 = 5_000_000;
/// What is settled must stay so until the last late word has come, and a heartbeat after it.
const STAYS_US: u64 = 120_000_000;

/// Runs the scenario to its end, or to the first broken invariant.
pub fn run(scenario: &Scenario, seed: u64) -> Outcome {
    live(scenario, seed, None)
}

/// The same with a bug planted.
pub fn run_with_bug(scenario: &Scenario, seed: u64, bug: PlantedBug) -> Outcome {
    live(scenario, seed, Some(bug))
}

fn live(scenario: &Scenario, seed: u64, bug: Option<PlantedBug>) -> Outcome {
    let mut world = World::new(scenario, seed, bug);
    world.first_wishes();
    world.after_some(scenario.wishes_every, Event::Wish);
    world.after_some(scenario.strikes_every, Event::Strike);
    let calm_us = as_micros(scenario.storm);
    world.run_until(calm_us);
    world.calm_down();
    let end_us = calm_us + as_micros(scenario.settle);
    let mut settled_us = None;
    while world.broken().is_none() && world.now_us < end_us {
        world.run_until(world.now_us + LOOK_EVERY_US);
        match (world.ends().is_ok(), settled_us) {
            (false, _) => settled_us = None,
            (true, None) => settled_us = Some(world.now_us),
            (true, Some(since_us)) if world.now_us >= since_us + STAYS_US => break,
            (true, Some(_)) => {}
        }
    }
    let held = world.ends();
    world.judge("ends", held);
    Outcome {
        seed,
        trace: world.trace.fingerprint(),
        violation: world.broken().cloned(),
        counts: world.counts,
        settled_after: settled_us.map(|us| Duration::from_micros(us.saturating_sub(calm_us))),
        simulated: Duration::from_micros(world.now_us),
        story: world.take_story(),
    }
}

impl World {
    /// Faults and wishes are over: who is down comes back.
    fn calm_down(&mut self) {
        self.is_calm = true;
        self.no_source_until_us = 0;
        self.silent_until_us.fill(0);
        for node in 0..self.nodes.len() {
            self.start(node);
        }
    }

    fn ends(&self) -> Result<(), String> {
        let found = |index: usize| {
            let host = &self.hosts[index];
            let ready = self.kubernetes.is_ready(&self.hosts, index);
            let of = self.kubernetes.of(host).filter(|_| ready);
            Found {
                clean: host.is_clean(),
                ready: of.map(|(cluster, _)| cluster),
            }
        };
        let found: Vec<Found> = (0..self.hosts.len()).map(found).collect();
        ends::check(self.log.agreed(), &found)
    }
}
