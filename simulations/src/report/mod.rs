//! What all runs of a scenario showed together: for programs (JSON) and for people (HTML).
//!
//! Decides: which figures stand for many runs. Invariant: everything but
//! [`Report::real_s`] and what follows from it is the same for the same scenario and seeds.

pub(crate) mod html;
pub(crate) mod svg;

use std::time::Duration;

use serde::Serialize;

use crate::{
    distribution::{Distribution, Percentiles},
    fault::Fault,
    history::Second,
    invariants::Violation,
    outcome::{Detections, Outcome, wire_bytes},
    random::as_micros,
    scenario::Scenario,
    timeline::Line,
};

/// How the scenario was asked for, to be asked for again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// A shipped name or a file's path, as a shell takes it.
    pub scenario: String,
    /// The number of nodes, if it was not the scenario's own.
    pub nodes: Option<usize>,
}

/// Everything there is to say.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// What it shows.
    pub about: String,
    /// Hosts.
    pub nodes: usize,
    /// The first seed.
    pub first_seed: u64,
    /// How many seeds there were.
    pub seeds: u64,
    /// Of a single run its own; of several that of all of theirs in order.
    pub trace_hash: String,
    /// Broken invariants, at most one per seed.
    pub violations: Vec<BrokenRun>,
    /// Per death and observer, from the end of the process until the observer knew.
    pub detection_ms: Option<Percentiles>,
    /// Per death, until the first knew.
    pub detection_first_ms: Option<Percentiles>,
    /// Per death, until the last knew.
    pub detection_all_ms: Option<Percentiles>,
    /// Pairs in which the observer never knew although it had the time.
    pub undetected: u64,
    /// Beliefs in the death of a node that ran and could be talked to.
    pub false_deaths: u64,
    /// Suspicions of nodes that ran.
    pub false_suspicions: u64,
    /// What a node sends.
    pub bytes_per_second: BandwidthRow,
    /// From the end of the last fault until everybody was right.
    pub healed_ms: Option<Percentiles>,
    /// What struck.
    pub faults: Vec<FaultRow>,
    /// Simulated time of all runs together.
    pub simulated_s: f64,
    /// The time it took.
    pub real_s: f64,
    /// Simulated over real time.
    pub speed: f64,
    /// Events of all runs together.
    pub events: u64,
    /// Every run.
    pub runs: Vec<RunRow>,
    /// The seed of the run that `timeline` tells: the first that broke, else the first.
    pub timeline_seed: u64,
    /// What happened in it.
    pub timeline: Vec<Line>,
    /// Second by second.
    pub series: Vec<SeriesRow>,
    #[serde(skip)]
    detections: Detections,
}

/// A run that broke an invariant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BrokenRun {
    /// Its seed.
    pub seed: u64,
    /// Which invariant.
    pub invariant: String,
    /// When it was seen.
    pub at_ms: u64,
    /// Who and what.
    pub detail: String,
    /// The command that shows it again.
    pub replay: String,
}

/// Bytes per second and node on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BandwidthRow {
    /// On average before the first fault, over all runs.
    pub calm: u64,
    /// On average over all runs.
    pub mean: u64,
    /// In the busiest second of all runs, on average over the nodes.
    pub peak: u64,
}

/// A fault in all runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FaultRow {
    /// Its kind.
    pub kind: String,
    /// When it begins, from the beginning of the run.
    pub at_ms: u64,
    /// How long it lasts, if it ends.
    pub for_ms: Option<u64>,
    /// What it hit, in all runs together.
    pub hits: u64,
    /// What counts as a hit.
    pub evidence: String,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunRow {
    /// Its seed.
    pub seed: u64,
    /// Equal for equal histories.
    pub trace_hash: String,
    /// The invariant that broke, if one did.
    pub violation: Option<String>,
    /// Until the last knew of a death.
    pub detection_ms_max: Option<u64>,
    /// Beliefs in the death of a node that ran and could be talked to.
    pub false_deaths: u64,
    /// From the end of the last fault until everybody was right.
    pub healed_ms: Option<u64>,
    /// Bytes that a node sends per second on average.
    pub bytes_per_second: u64,
}

/// One second, over all runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SeriesRow {
    /// Which, from the beginning of the run.
    pub second: usize,
    /// What a node sent, on average over nodes and runs.
    pub bytes_per_node: u64,
    /// The same in the run in which it was most.
    pub bytes_per_node_max: u64,
    /// Suspicions that all nodes had together, on average over the runs.
    pub suspicions: u64,
    /// Deaths that all nodes believed in, on average over the runs.
    pub deaths: u64,
}

impl Report {
    /// Adds up the runs of a scenario; there is at least one.
    pub fn new(scenario: &Scenario, asked: &Asked, outcomes: &[Outcome], real: Duration) -> Self {
        let mut detections = Detections::default();
        let mut healed = Distribution::default();
        for outcome in outcomes {
            detections.merge(&outcome.detections);
            outcome
                .healed_after
                .into_iter()
                .for_each(|span| healed.add(span));
        }
        let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
        let count = outcomes.len().max(1) as u64;
        let simulated: Duration = outcomes.iter().map(|outcome| outcome.simulated).sum();
        let told = outcomes.iter().find(|outcome| outcome.violation.is_some());
        let told = told.or(outcomes.first());
        let broken = outcomes.iter().filter_map(|outcome| {
            let violation = outcome.violation.as_ref()?;
            Some(broken_run(asked, outcome.seed, violation))
        });
        let traces: Vec<&str> = outcomes.iter().map(|one| one.trace.as_str()).collect();
        Self {
            scenario: scenario.name.clone(),
            about: scenario.about.clone(),
            nodes: scenario.nodes,
            first_seed: outcomes.first().map_or(0, |outcome| outcome.seed),
            seeds: outcomes.len() as u64,
            trace_hash: trace_of_all(&traces),
            violations: broken.collect(),
            detection_ms: detections.each.percentiles(),
            detection_first_ms: detections.first.percentiles(),
            detection_all_ms: detections.all.percentiles(),
            undetected: detections.missed,
            false_deaths: sum(|outcome| outcome.false_deaths),
            false_suspicions: sum(|outcome| outcome.false_suspicions),
            bytes_per_second: BandwidthRow {
                calm: sum(|outcome| outcome.bandwidth.calm) / count,
                mean: sum(|outcome| outcome.bandwidth.mean) / count,
                peak: outcomes.iter().map(|o| o.bandwidth.peak).max().unwrap_or(0),
            },
            healed_ms: healed.percentiles(),
            faults: faults(scenario, outcomes),
            simulated_s: simulated.as_secs_f64(),
            real_s: real.as_secs_f64(),
            speed: simulated.as_secs_f64() / real.as_secs_f64().max(1e-9),
            events: sum(|outcome| outcome.events),
            runs: outcomes.iter().map(row).collect(),
            timeline_seed: told.map_or(0, |outcome| outcome.seed),
            timeline: told.map_or_else(Vec::new, |outcome| outcome.timeline.clone()),
            series: series(scenario.nodes, outcomes),
            detections,
        }
    }

    /// One page with everything in it, that needs nothing else.
    pub fn html(&self) -> String {
        html::page(self)
    }
}

/// The fingerprint of several runs in their order; of a single one its own.
pub(crate) fn trace_of_all(traces: &[&str]) -> String {
    if let [one] = traces {
        return (*one).to_owned();
    }
    let mut hasher = blake3::Hasher::new();
    for trace in traces {
        hasher.update(trace.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// A broken invariant with the command that shows it again.
pub(crate) fn broken_run(asked: &Asked, seed: u64, violation: &Violation) -> BrokenRun {
    let nodes = asked.nodes.map(|nodes| format!(" --nodes {nodes}"));
    let (scenario, nodes) = (&asked.scenario, nodes.unwrap_or_default());
    BrokenRun {
        seed,
        invariant: violation.invariant.to_owned(),
        at_ms: violation.at.as_micros() / 1000,
        detail: violation.detail.clone(),
        replay: format!("shoal sim replay {scenario} --seed {seed}{nodes}"),
    }
}

fn faults(scenario: &Scenario, outcomes: &[Outcome]) -> Vec<FaultRow> {
    let ms = |span: Duration| as_micros(span) / 1000;
    let row = |(place, fault): (usize, &Fault)| FaultRow {
        kind: fault.what.kind().to_owned(),
        at_ms: ms(scenario.calm + fault.at),
        for_ms: scenario.length_of(fault).map(ms),
        hits: outcomes.iter().map(|outcome| outcome.hits[place]).sum(),
        evidence: fault.what.evidence().to_owned(),
    };
    scenario.faults.iter().enumerate().map(row).collect()
}

fn row(outcome: &Outcome) -> RunRow {
    RunRow {
        seed: outcome.seed,
        trace_hash: outcome.trace.clone(),
        violation: outcome.violation.as_ref().map(ToString::to_string),
        detection_ms_max: outcome.detections.each.percentile(100),
        false_deaths: outcome.false_deaths,
        healed_ms: outcome.healed_after.map(|span| as_micros(span) / 1000),
        bytes_per_second: outcome.bandwidth.mean,
    }
}

fn series(nodes: usize, outcomes: &[Outcome]) -> Vec<SeriesRow> {
    let length = outcomes.iter().map(|outcome| outcome.seconds.len()).max();
    let nodes = nodes.max(1) as u64;
    let row = |second| {
        // Runs that broke off early have nothing to say about later seconds.
        let each = || {
            outcomes
                .iter()
                .filter_map(move |outcome| outcome.seconds.get(second))
        };
        let bytes = || each().map(|one: &Second| wire_bytes(one.messages, one.bytes) / nodes);
        let count = each().count().max(1) as u64;
        SeriesRow {
            second,
            bytes_per_node: bytes().sum::<u64>() / count,
            bytes_per_node_max: bytes().max().unwrap_or_default(),
            suspicions: each().map(|one| one.suspicions).sum::<u64>() / count,
            deaths: each().map(|one| one.deaths).sum::<u64>() / count,
        }
    };
    (0..length.unwrap_or_default()).map(row).collect()
}
