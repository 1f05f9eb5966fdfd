//! The table of docs/benchmarks.md for simulated meshes: detection, false deaths, bandwidth and the
//! simulator's own speed.
//!
//! `SHOAL_SIM_NODES=10,100` measures these sizes alone, the argument `speed` the speed alone. One thread; the speed is that of a calm
//! mesh with the network and clocks of a LAN.

#![expect(clippy::print_stdout, reason = "a program for people who want figures")]

use std::time::{Duration, Instant};

use consensus_core::Time;
use simulations::{Detections, Disk, Nodes, Outcome, Percentiles, Scenario, What, World, run};

/// Sizes with the seeds that each is run with: small meshes vary more and cost less.
const SIZES: [(usize, u64); 4] = [(10, 100), (100, 20), (1_000, 4), (10_000, 1)];
/// Shares of all messages that are lost, in percent.
const LOSSES: [u32; 3] = [0, 5, 20];
/// A mesh is watched so many node-seconds long while messages are lost, and a minute at most: what
/// loss costs grows with the square of the mesh.
const LOSSY_NODE_SECONDS: u64 = 5_000;
/// Above so many nodes a fifth of all messages is not lost: the suspicions of a second would take
/// minutes to simulate.
const LOSSY_NODES_MAX: usize = 100;
/// How long a calm mesh of a thousand is timed; larger ones shorter.
const TIMED_NODE_SECONDS: u64 = 60_000;

fn main() {
    let wanted = std::env::var("SHOAL_SIM_NODES").ok();
    let asked = |nodes: usize| {
        let of = |list: &String| list.split(',').any(|one| one == nodes.to_string());
        wanted.as_ref().is_none_or(of)
    };
    let sizes = SIZES.into_iter().filter(|(nodes, _)| asked(*nodes));
    if std::env::args().nth(1).as_deref() == Some("speed") {
        for (nodes, _) in sizes {
            println!("{nodes} nodes: {:.0} times real time", speed(nodes));
        }
        return;
    }
    println!(
        "| nodes | seeds | death known by all: median | most | false deaths at {} % loss | \
         sent per node, calm | simulator, calm |",
        LOSSES.map(|loss| loss.to_string()).join(" / ")
    );
    println!("|---|---|---|---|---|---|---|");
    for (nodes, seeds) in sizes {
        row(nodes, seeds);
    }
    if wanted.is_none() {
        println!();
        crowd();
    }
}

fn crash(nodes: usize, count: usize) -> Scenario {
    let mut scenario = Scenario::calm("figures", nodes);
    scenario.calm = Duration::from_secs(20);
    let what = What::Crash {
        nodes: Nodes::Count(count),
        disk: Disk::Kept,
    };
    scenario.with(Duration::ZERO, None, what)
}

/// All runs; a broken invariant is told and counted by nobody.
fn runs(scenario: &Scenario, seeds: u64) -> Vec<Outcome> {
    let outcomes: Vec<_> = (0..seeds).map(|seed| run(scenario, seed).outcome).collect();
    for outcome in &outcomes {
        if let Some(violation) = &outcome.violation {
            println!("seed {}: {violation}", outcome.seed);
        }
    }
    outcomes
}

fn by_all(outcomes: &[Outcome]) -> Option<Percentiles> {
    let mut all = Detections::default();
    for outcome in outcomes {
        all.merge(&outcome.detections);
    }
    all.all.percentiles()
}

fn row(nodes: usize, seeds: u64) {
    let calm = runs(&crash(nodes, 1), seeds);
    let known = by_all(&calm);
    let (median, most) = known.map_or((0, 0), |known| (known.p50, known.max));
    let sent = calm.iter().map(|one| one.bandwidth.calm).sum::<u64>() / seeds;
    let deaths = LOSSES.map(|loss| deaths(nodes, seeds, loss));
    println!(
        "| {nodes} | {seeds} | {median} ms | {most} ms | {} | {sent} B/s | {:.0} times real time |",
        deaths.join(" / "),
        speed(nodes)
    );
}

/// False deaths while so many of a hundred messages are lost; one seed of a large mesh.
fn deaths(nodes: usize, seeds: u64, loss: u32) -> String {
    if loss >= 20 && nodes > LOSSY_NODES_MAX {
        return "not run".into();
    }
    let mut scenario = crash(nodes, 1).losing(loss * 10_000);
    let span = (LOSSY_NODE_SECONDS / nodes as u64).clamp(3, 60);
    scenario.calm = Duration::from_secs(2);
    scenario.settle = Duration::from_secs(span);
    // Agreement is not asked for while messages are lost; false deaths are counted, not judged.
    scenario.bounds.false_deaths_max = u64::MAX;
    let seeds = if nodes > LOSSY_NODES_MAX { 1 } else { seeds };
    let outcomes = (0..seeds).map(|seed| run(&scenario, seed).outcome);
    outcomes
        .map(|one| one.false_deaths)
        .sum::<u64>()
        .to_string()
}

/// How many times faster than the clock a calm mesh runs.
fn speed(nodes: usize) -> f64 {
    let scenario = Scenario::calm("speed", nodes);
    let mut world = World::new(&scenario, 0);
    let begin = Time::ZERO + scenario.calm;
    world.run_until(begin);
    let span = Duration::from_secs((TIMED_NODE_SECONDS / nodes as u64).clamp(6, 600));
    let begun = Instant::now();
    world.run_until(begin + span);
    span.as_secs_f64() / begun.elapsed().as_secs_f64()
}

/// Fifty of a thousand at once.
fn crowd() {
    println!(
        "| 50 of 1,000 at once | death known by all: median | most | false deaths | undetected |"
    );
    println!("|---|---|---|---|---|");
    let outcomes = runs(&crash(1_000, 50), 3);
    let known = by_all(&outcomes);
    let (median, most) = known.map_or((0, 0), |known| (known.p50, known.max));
    let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
    println!(
        "| {} seeds | {median} ms | {most} ms | {} | {} |",
        outcomes.len(),
        sum(|one| one.false_deaths),
        sum(|one| one.detections.missed)
    );
}
