//! Many runs of one scenario, on all cores.
//!
//! Decides: how many run at once. Invariant: the outcomes come in the order of their seeds and do
//! not depend on how many threads there were.

use std::{
    ops::Range,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use crate::{Outcome, Scenario, agreement, clusters, run};

/// A run of more nodes than this has the machine's memory for itself.
const LARGE_NODES: usize = 1_500;

/// Runs all seeds. `progress` sees each outcome as it comes, in no order.
pub fn run_seeds(
    scenario: &Scenario,
    seeds: Range<u64>,
    progress: impl FnMut(&Outcome),
) -> Vec<Outcome> {
    let one = |seed| run(scenario, seed).outcome;
    if scenario.nodes > LARGE_NODES {
        return on_threads(1, seeds, one, progress);
    }
    on_threads(cores(), seeds, one, progress)
}

/// The same for groups of servers.
pub fn run_agreement_seeds(
    scenario: &agreement::Scenario,
    seeds: Range<u64>,
    progress: impl FnMut(&agreement::Outcome),
) -> Vec<agreement::Outcome> {
    let one = |seed| agreement::run(scenario, seed);
    on_threads(cores(), seeds, one, progress)
}

/// The same for clusters, with a bug planted if one is wanted.
pub fn run_cluster_seeds(
    scenario: &clusters::Scenario,
    bug: Option<clusters::PlantedBug>,
    seeds: Range<u64>,
    progress: impl FnMut(&clusters::Outcome),
) -> Vec<clusters::Outcome> {
    let one = |seed| match bug {
        None => clusters::run(scenario, seed),
        Some(bug) => clusters::run_with_bug(scenario, seed, bug),
    };
    on_threads(cores(), seeds, one, progress)
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn on_threads<T: Send>(
    threads: usize,
    seeds: Range<u64>,
    run: impl Fn(u64) -> T + Sync,
    mut progress: impl FnMut(&T),
) -> Vec<T> {
    let next = AtomicU64::new(seeds.start);
    let (done, finished) = mpsc::sync_channel(threads);
    let mut outcomes = thread::scope(|scope| {
        for _ in 0..threads {
            let (done, next, run) = (done.clone(), &next, &run);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || done.send((seed, run(seed))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        let mut outcomes = Vec::new();
        for (seed, outcome) in finished {
            progress(&outcome);
            outcomes.push((seed, outcome));
        }
        outcomes
    });
    outcomes.sort_by_key(|(seed, _)| *seed);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}
