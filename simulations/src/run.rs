//! Runs a scenario and watches the invariants.
//!
//! Decides: when each invariant is looked at. First safety, while faults strike; then liveness: once
//! the last fault is over, everybody must be right within the scenario's time to settle.

use std::time::Duration;

use consensus_core::Time;

use crate::{
    Scenario, World,
    invariants::{
        Violation, agreement, bounded_bandwidth, bounded_queues, bystanders_are_trusted,
        faults_hit, no_false_death, no_forged_record, no_live_node_stays_dead,
        no_resurrected_tombstone, pruning_freezes, standstill_judges_nobody, timely_detection,
    },
    outcome::{Outcome, whole_seconds},
};

/// How often the running invariants are looked at: the report's series has one value a second.
const CHECK_PERIOD_US: u64 = 1_000_000;

/// A finished run and the world as it ended.
#[derive(Debug)]
pub struct Run {
    /// What it showed.
    pub outcome: Outcome,
    /// Where it ended: at the scenario's end, or at the first broken invariant.
    pub world: World,
}

/// Runs the scenario to its end, or to the first broken invariant.
pub fn run(scenario: &Scenario, seed: u64) -> Run {
    finish(World::new(scenario, seed), scenario, seed)
}

/// The same with a bug planted into every core.
#[cfg(feature = "planted-bugs")]
pub fn run_with_bug(
    scenario: &Scenario,
    seed: u64,
    bug: overlay_core::membership::planted::PlantedBug,
) -> Run {
    let mut world = World::new(scenario, seed);
    // No core has started yet; each is made anew when its process starts.
    world.mesh.bug = Some(bug);
    finish(world, scenario, seed)
}

fn finish(mut world: World, scenario: &Scenario, seed: u64) -> Run {
    let mut healed_after = None;
    let broken = watch(&mut world, scenario, &mut healed_after).err();
    let mut outcome = Outcome::of(&world, scenario, seed);
    outcome.healed_after = healed_after;
    let judged = judge(&world, scenario, &outcome).err();
    // What broke first is told; what the end shows of a run that broke off says little.
    outcome.violation = broken.or(judged);
    Run { outcome, world }
}

/// Safety, second by second.
fn watch(
    world: &mut World,
    scenario: &Scenario,
    healed_after: &mut Option<Duration>,
) -> Result<(), Violation> {
    let end = Time::ZERO + scenario.end();
    let healed = Time::ZERO + scenario.healed();
    let calm = Time::ZERO + scenario.calm;
    let mut calm_is_over = false;
    while world.now() < end {
        let next = (world.now().as_micros() / CHECK_PERIOD_US + 1) * CHECK_PERIOD_US;
        world.run_until(Time::from_micros(next).min(end));
        world.look_around();
        bounded_queues::check(world)?;
        no_live_node_stays_dead::check(world, scenario.bounds.stale_death_max)?;
        no_resurrected_tombstone::check(world)?;
        no_forged_record::check(world)?;
        pruning_freezes::check(world)?;
        if world.now() >= calm && !std::mem::replace(&mut calm_is_over, true) {
            let from = whole_seconds(scenario.calm) / 2;
            if let Some(bytes_max) = scenario.bounds.bytes_per_second_max {
                bounded_bandwidth::check(world, from, bytes_max)?;
            }
        }
        if world.now() >= healed {
            *healed_after = match agreement::is_reached(world) {
                true => healed_after.or(Some(world.now().since(healed))),
                false => None,
            };
        }
    }
    Ok(())
}

/// What only the end shows, and liveness.
fn judge(world: &World, scenario: &Scenario, outcome: &Outcome) -> Result<(), Violation> {
    let bounds = &scenario.bounds;
    no_false_death::check(world, bounds.false_deaths_max, bounds.no_suspicion)?;
    if let Some(allowed) = bounds.deaths_after_standstill_max {
        standstill_judges_nobody::check(world, allowed)?;
    }
    if let Some(allowed) = bounds.bystander_suspicions_max {
        bystanders_are_trusted::check(world, allowed)?;
    }
    agreement::check(world)?;
    if let Some(bound) = bounds.detection_max {
        timely_detection::check(world, &outcome.detections, bound)?;
    }
    faults_hit::check(world)
}
