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

use crate::{Outcome, Scenario, run};

/// A run of more nodes than this has the machine's memory for itself.
const LARGE_NODES: usize = 1_500;

/// Runs all seeds. `progress` sees each outcome as it comes, in no order.
pub fn run_seeds(
    scenario: &Scenario,
    seeds: Range<u64>,
    mut progress: impl FnMut(&Outcome),
) -> Vec<Outcome> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = if scenario.nodes > LARGE_NODES {
        1
    } else {
        cores
    };
    let next = AtomicU64::new(seeds.start);
    let (done, finished) = mpsc::sync_channel(threads);
    let mut outcomes = thread::scope(|scope| {
        for _ in 0..threads {
            let (done, next) = (done.clone(), &next);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || done.send(run(scenario, seed).outcome).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        let mut outcomes = Vec::new();
        for outcome in finished {
            progress(&outcome);
            outcomes.push(outcome);
        }
        outcomes
    });
    outcomes.sort_by_key(|outcome| outcome.seed);
    outcomes
}
