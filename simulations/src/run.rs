//! Runs a scenario and watches the invariants.
//!
//! Decides: when each fault strikes and when each invariant is looked at.

use std::time::Duration;

use consensus_core::Time;

use crate::{
    Scenario, World,
    invariants::{Violation, agreement, bounded_queues, no_live_node_stays_dead},
};

/// How often the running invariants are looked at.
const CHECK_PERIOD: Duration = Duration::from_secs(1);

/// What a finished run leaves.
#[derive(Debug)]
pub struct Outcome {
    /// The world as it ended, with all changes of belief.
    pub world: World,
    /// Equal for equal histories.
    pub trace: String,
}

/// A broken invariant with the way to see it again.
#[derive(Debug, thiserror::Error)]
#[error("scenario {scenario}, seed {seed}; replay: SIM_SEED={seed} cargo test -p simulations")]
pub struct Failure {
    /// The scenario's name.
    pub scenario: &'static str,
    /// The run's seed.
    pub seed: u64,
    /// What broke.
    #[source]
    pub violation: Violation,
}

/// Runs the scenario to its end.
///
/// # Errors
/// At the first broken invariant.
pub fn run(scenario: &Scenario, seed: u64) -> Result<Outcome, Failure> {
    let fail = |violation| Failure {
        scenario: scenario.name,
        seed,
        violation,
    };
    let mut world = World::new(
        scenario.nodes,
        scenario.network.clone(),
        scenario.settings.clone(),
        seed,
    );
    let mut no_stale_death = no_live_node_stays_dead::NoLiveNodeStaysDead::default();
    let mut faults = scenario.faults.iter().peekable();
    let end = Time::ZERO + scenario.end;
    let mut check_at = Time::ZERO + CHECK_PERIOD;
    while world.now() < end {
        let fault_at = faults.peek().map_or(end, |(at, _)| Time::ZERO + *at);
        let stop_at = fault_at.min(check_at).min(end);
        while world.step(stop_at) {}
        while let Some((_, fault)) = faults.next_if(|(at, _)| Time::ZERO + *at <= world.now()) {
            world.strike(fault);
        }
        if check_at <= world.now() {
            check_at = check_at + CHECK_PERIOD;
            bounded_queues::check(&world).map_err(fail)?;
            no_stale_death.check(&world).map_err(fail)?;
        }
    }
    if scenario.agrees_at_end {
        agreement::check(&world).map_err(fail)?;
    }
    let trace = world.fingerprint();
    Ok(Outcome { world, trace })
}
