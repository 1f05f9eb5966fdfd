//! Runs a scenario of agreement and watches the invariants.
//!
//! Decides: when each is looked at. First safety, while clients work and faults strike; then liveness:
//! once the last fault is over the group must become whole, and at the end all states are compared.

use std::{sync::Arc, time::Duration};

use tokio::{runtime::Builder, task::JoinSet, time::timeout};

use super::{
    invariants::{faults_hit, held_again, keeps_running, progress, timely_failover},
    load::{Clients, longest},
    operator,
    outcome::Outcome,
    scenario::{FOUNDED_WITHIN, Scenario},
    strike::Strike,
    world::{World, pause, span},
};
use crate::random::as_micros;

/// How often it is asked whether an invariant broke, or the group is whole.
const LOOK_US: u64 = 50_000;

/// Runs the scenario to its end, or to the first broken invariant.
///
/// # Panics
/// When the system refuses what a runtime without threads and sockets needs: nothing.
pub fn run(scenario: &Scenario, seed: u64) -> Outcome {
    in_runtime(async move {
        let world = World::new(scenario, seed);
        live(world, scenario, seed).await
    })
}

/// The same with a bug planted into every process's part of the lease protocol.
#[cfg(feature = "planted-bugs")]
pub fn run_with_bug(
    scenario: &Scenario,
    seed: u64,
    bug: consensus_lease::planted::PlantedBug,
) -> Outcome {
    in_runtime(async move {
        let world = World::new(scenario, seed);
        world.lock().servers.bug = Some(bug);
        live(world, scenario, seed).await
    })
}

fn in_runtime(run: impl Future<Output = Outcome>) -> Outcome {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without threads and sockets can always be made");
    let outcome = runtime.block_on(run);
    // Tasks of the world may hold each other; they end with the runtime.
    drop(runtime);
    outcome
}

async fn live(world: World, scenario: &Scenario, seed: u64) -> Outcome {
    world.enter();
    let limit = span(as_micros(FOUNDED_WITHIN));
    let founded = timeout(limit, operator::found(&world)).await.is_ok();
    let mut healed_after = None;
    if founded {
        healed_after = storm(&world, scenario).await;
    }
    look_at_all(&world, healed_after.is_some());
    let now = world.now();
    {
        let are_held = operator::are_held(&world);
        let evidence = &mut world.lock().evidence;
        let held = held_again::at_the_end(are_held, scenario.settle);
        evidence.judge("held_again", now, held);
        let held = progress::check(healed_after, scenario.settle);
        evidence.judge("progress", now, held);
    }
    let outcome = sum_up(&world, scenario, seed, healed_after);
    let servers = world.lock().servers.len();
    for server in 0..servers {
        world.lock().servers.kill(server);
    }
    World::leave();
    outcome
}

/// Clients work and faults strike; then the group has its time to come together.
async fn storm(world: &World, scenario: &Scenario) -> Option<Duration> {
    let begun_us = world.now_us();
    let calm_us = begun_us + as_micros(scenario.calm);
    let mut faults = JoinSet::new();
    for (place, fault) in scenario.faults.iter().enumerate() {
        let strike = Strike {
            world: world.clone(),
            place,
            fault: fault.clone(),
        };
        faults.spawn(strike.carry_out(calm_us));
    }
    let clients = {
        let (clients, scenario) = (Clients::new(world, scenario), scenario.clone());
        tokio::spawn(async move { clients.work(&scenario, begun_us).await })
    };
    while !faults.is_empty() {
        while faults.try_join_next().is_some() {}
        pause(LOOK_US).await;
        if world.lock().evidence.broken().is_some() {
            return None;
        }
    }
    world.until(begun_us + as_micros(scenario.healed())).await;
    let healed = world.now();
    let settle = span(as_micros(scenario.settle));
    let is_whole = timeout(settle, whole(world)).await.is_ok();
    let took = world.now().since(healed);
    // What was begun before is seen to its end; nothing more is asked.
    world.lock().is_closing = true;
    let patience = span(as_micros(longest(scenario.profile)));
    drop(timeout(patience, clients).await);
    (is_whole && timeout(settle, whole(world)).await.is_ok()).then_some(took)
}

async fn whole(world: &World) {
    while !operator::is_whole(world).await {
        pause(LOOK_US).await;
    }
}

/// What every server that runs holds, and whether its Raft goes on. A group that is whole has all that
/// was ever acknowledged.
fn look_at_all(world: &World, is_whole: bool) {
    let now = world.now();
    let alive = world.lock().servers.alive();
    for server in alive {
        let mut state = world.lock();
        let Some(handle) = state.servers.running(server) else {
            continue;
        };
        let ledger = Arc::clone(&handle.published().borrow().machine);
        let held = keeps_running::check(server, &handle.status().borrow());
        state.evidence.judge("keeps_running", now, held);
        state.evidence.seen(now, ledger.applied, ledger.digest);
        if is_whole {
            state.evidence.ends(now, ledger.applied);
        }
    }
}

fn sum_up(
    world: &World,
    scenario: &Scenario,
    seed: u64,
    healed_after: Option<Duration>,
) -> Outcome {
    let now = world.now();
    let mut state = world.lock();
    let state = &mut *state;
    let evidence = &mut state.evidence;
    let unfinished = u64::from(evidence.is_leaderless());
    let bound = scenario.failover_max;
    let held = timely_failover::check(&evidence.failovers, unfinished, bound);
    evidence.judge("timely_failover", now, held);
    if let Some(leases) = scenario.leases {
        let held = held_again::check(&evidence.vips.outages, leases.outage_max);
        evidence.judge("held_again", now, held);
    }
    let held = faults_hit::check(&scenario.faults, &state.hits);
    evidence.judge("faults_hit", now, held);
    let seconds = now.as_micros() / 1_000_000 + 1;
    let per_second = |second| evidence.seconds.get(&second).copied().unwrap_or(0);
    Outcome {
        seed,
        trace: state.trace.fingerprint(),
        violation: evidence.broken().cloned(),
        failovers: evidence.failovers.clone(),
        unfinished,
        writes: evidence.writes.clone(),
        counts: evidence.counts,
        healed_after,
        hits: state.hits.clone(),
        outages: evidence.vips.outages.clone(),
        lapses: evidence.vips.lapses.clone(),
        messages: evidence.messages,
        seconds: (0..seconds).map(per_second).collect(),
        simulated: Duration::from_micros(now.as_micros()),
        events: state.events,
        story: evidence.story.clone(),
    }
}
