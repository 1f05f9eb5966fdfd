//! The table of docs/benchmarks.md for simulated meshes: detection, false deaths, bandwidth and the
//! simulator's own speed.
//!
//! `SHOAL_SIM_NODES=10,100` measures these sizes alone, the argument `speed` the speed alone, the
//! argument `crowd` fifty of a thousand that crash at once alone. One thread; the speed is that of a
//! calm mesh with the network and clocks of a LAN.

#![expect(clippy::print_stdout, reason = "a program for people who want figures")]

use std::time::{Duration, Instant};

use consensus_core::Time;
use simulations::{Detections, Disk, Nodes, Outcome, Percentiles, Run, Scenario, What, World, run};

/// Sizes with the seeds that each is run with: small meshes vary more and cost less.
const SIZES: [(usize, u64); 4] = [(10, 100), (100, 20), (1_000, 4), (10_000, 1)];
/// Shares of all messages that are lost, in percent.
const LOSSES: [u32; 3] = [0, 5, 20];
/// A mesh is watched so many node-seconds long while messages are lost: from ten seconds of the
/// largest to a minute of the others.
const LOSSY_NODE_SECONDS: u64 = 100_000;
/// Above so many nodes one seed is run with messages lost.
const LOSSY_SEEDS_NODES_MAX: usize = 100;
/// How long a calm mesh of a thousand is timed; larger ones shorter.
const TIMED_NODE_SECONDS: u64 = 60_000;

fn main() {
    let wanted = std::env::var("SHOAL_SIM_NODES").ok();
    let asked = |nodes: usize| {
        let of = |list: &String| list.split(',').any(|one| one == nodes.to_string());
        wanted.as_ref().is_none_or(of)
    };
    let sizes = SIZES.into_iter().filter(|(nodes, _)| asked(*nodes));
    match std::env::args().nth(1).as_deref() {
        Some("speed") => {
            for (nodes, _) in sizes {
                println!("{nodes} nodes: {:.0} times real time", speed(nodes));
            }
            return;
        }
        Some("crowd") => return crowd(),
        Some(_) | None => {}
    }
    let losses = LOSSES.map(|loss| loss.to_string()).join(" / ");
    println!(
        "| nodes | seeds | death known by all: median | most | false deaths at {losses} % loss | \
         wrong suspicions a minute | sent per node and second | simulator, calm |"
    );
    println!("|---|---|---|---|---|---|---|---|");
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
    let lossy = LOSSES.map(|loss| lossy(nodes, seeds, loss));
    let each = |of: fn(&Lossy) -> u64| lossy.each_ref().map(|one| of(one).to_string()).join(" / ");
    println!(
        "| {nodes} | {seeds} | {median} ms | {most} ms | {} | {} | {} B | {:.0} times real time |",
        each(|one| one.false_deaths),
        each(|one| one.suspicions_a_minute),
        each(|one| one.sent),
        speed(nodes)
    );
}

/// What the loss of messages made of a mesh.
struct Lossy {
    false_deaths: u64,
    /// Whoever is suspected refutes with a new version of its record, so those are counted.
    suspicions_a_minute: u64,
    /// Bytes per node and second, with what carries them.
    sent: u64,
}

/// While so many of a hundred messages are lost one host loses power.
fn lossy(nodes: usize, seeds: u64, loss: u32) -> Lossy {
    let mut scenario = crash(nodes, 1).losing(loss * 10_000);
    let span = (LOSSY_NODE_SECONDS / nodes as u64).clamp(10, 60);
    scenario.calm = Duration::from_secs(span);
    // Agreement is not asked for while messages are lost; false deaths are counted, not judged.
    scenario.bounds.false_deaths_max = u64::MAX;
    let seeds = if nodes > LOSSY_SEEDS_NODES_MAX {
        1
    } else {
        seeds
    };
    let (mut false_deaths, mut refutations, mut sent) = (0, 0, 0);
    for seed in 0..seeds {
        let Run { outcome, world } = run(&scenario, seed);
        false_deaths += outcome.false_deaths;
        refutations += (0..nodes)
            .map(|node| world.core(node).record().version)
            .sum::<u64>();
        sent += outcome.bandwidth.calm;
    }
    Lossy {
        false_deaths,
        suspicions_a_minute: refutations * 60 / (seeds * scenario.end().as_secs()),
        sent: sent / seeds,
    }
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
