//! What all runs of a scenario of agreement showed together: for programs (JSON) and for people (HTML).
//!
//! Decides: which figures stand for many runs. Invariant: everything but [`Report::real_s`] and what
//! follows from it is the same for the same scenario and seeds.

use std::time::Duration;

use serde::Serialize;

use super::{Counts, Outcome, Scenario, fault::Fault, page};
use crate::{
    distribution::{Distribution, Percentiles},
    random::as_micros,
    report::{Asked, BrokenRun, FaultRow, broken_run, trace_of_all},
    timeline::Line,
};

/// Everything there is to say.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Always `agreement`.
    pub kind: &'static str,
    /// The scenario's name.
    pub scenario: String,
    /// What it shows.
    pub about: String,
    /// Voters.
    pub servers: usize,
    /// Their timers.
    pub profile: &'static str,
    /// The first seed.
    pub first_seed: u64,
    /// How many seeds there were.
    pub seeds: u64,
    /// Of a single run its own; of several that of all of theirs in order.
    pub trace_hash: String,
    /// Broken invariants, at most one per seed.
    pub violations: Vec<BrokenRun>,
    /// From a blow to the leader until a write was acknowledged that began after it.
    pub failover_ms: Option<Percentiles>,
    /// Blows after which none was.
    pub failovers_unfinished: u64,
    /// By failover of a virtual IP: the true time in which nobody's gate was open.
    pub outage_ms: Option<Percentiles>,
    /// The same where the holder stayed: it stood still or was cut off, and nobody took over.
    pub lapse_ms: Option<Percentiles>,
    /// How long each acknowledged write took.
    pub write_ms: Option<Percentiles>,
    /// How operations ended.
    pub operations: Counts,
    /// From the end of the last fault until the group was whole.
    pub healed_ms: Option<Percentiles>,
    /// What struck.
    pub faults: Vec<FaultRow>,
    /// Messages that servers sent each other.
    pub messages: u64,
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
    pub(super) failovers: Distribution,
    #[serde(skip)]
    pub(super) outages: Distribution,
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
    /// The longest failover.
    pub failover_ms_max: Option<u64>,
    /// Failovers.
    pub failovers: u64,
    /// Leaders that were elected.
    pub leaders: u64,
    /// Failovers of virtual IPs.
    pub vip_failovers: u64,
    /// The longest outage in one of them.
    pub outage_ms_max: Option<u64>,
    /// Writes acknowledged.
    pub writes: u64,
    /// From the end of the last fault until the group was whole.
    pub healed_ms: Option<u64>,
}

/// One second, over all runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SeriesRow {
    /// Which, from the beginning of the run.
    pub second: usize,
    /// Writes acknowledged, on average over the runs.
    pub writes: u64,
    /// The same in the run in which they were least.
    pub writes_min: u64,
}

impl Report {
    /// Adds up the runs of a scenario; there is at least one.
    pub fn new(scenario: &Scenario, asked: &Asked, outcomes: &[Outcome], real: Duration) -> Self {
        let [mut failovers, mut writes, mut healed] = <[Distribution; 3]>::default();
        let [mut outages, mut lapses] = <[Distribution; 2]>::default();
        let mut operations = Counts::default();
        for outcome in outcomes {
            failovers.merge(&outcome.failovers);
            writes.merge(&outcome.writes);
            outages.merge(&outcome.outages);
            lapses.merge(&outcome.lapses);
            outcome
                .healed_after
                .into_iter()
                .for_each(|span| healed.add(span));
            operations.add(&outcome.counts);
        }
        let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
        let simulated: Duration = outcomes.iter().map(|outcome| outcome.simulated).sum();
        let told = outcomes.iter().find(|outcome| outcome.violation.is_some());
        let told = told.or(outcomes.first());
        let broken = outcomes.iter().filter_map(|outcome| {
            let violation = outcome.violation.as_ref()?;
            Some(broken_run(asked, outcome.seed, violation))
        });
        let traces: Vec<&str> = outcomes.iter().map(|one| one.trace.as_str()).collect();
        Self {
            kind: "agreement",
            scenario: scenario.name.clone(),
            about: scenario.about.clone(),
            servers: scenario.servers,
            profile: scenario.profile.name(),
            first_seed: outcomes.first().map_or(0, |outcome| outcome.seed),
            seeds: outcomes.len() as u64,
            trace_hash: trace_of_all(&traces),
            violations: broken.collect(),
            failover_ms: failovers.percentiles(),
            failovers_unfinished: sum(|outcome| outcome.unfinished),
            outage_ms: outages.percentiles(),
            lapse_ms: lapses.percentiles(),
            write_ms: writes.percentiles(),
            operations,
            healed_ms: healed.percentiles(),
            faults: faults(scenario, outcomes),
            messages: sum(|outcome| outcome.messages),
            simulated_s: simulated.as_secs_f64(),
            real_s: real.as_secs_f64(),
            speed: simulated.as_secs_f64() / real.as_secs_f64().max(1e-9),
            events: sum(|outcome| outcome.events),
            runs: outcomes.iter().map(row).collect(),
            timeline_seed: told.map_or(0, |outcome| outcome.seed),
            timeline: told.map_or_else(Vec::new, |outcome| outcome.story.clone()),
            series: series(outcomes),
            failovers,
            outages,
        }
    }

    /// One page with everything in it, that needs nothing else.
    pub fn html(&self) -> String {
        page::page(self)
    }
}

fn faults(scenario: &Scenario, outcomes: &[Outcome]) -> Vec<FaultRow> {
    let ms = |span: Duration| as_micros(span) / 1000;
    let row = |(place, fault): (usize, &Fault)| FaultRow {
        kind: match fault.times {
            1 => fault.what.kind().to_owned(),
            times => format!("{}, {times} times", fault.what.kind()),
        },
        at_ms: ms(scenario.calm + fault.at),
        for_ms: fault.lasts.map(|lasts| ms(lasts.max)),
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
        failover_ms_max: outcome.failovers.percentile(100),
        failovers: outcome.failovers.percentiles().map_or(0, |all| all.count),
        leaders: outcome.counts.leaders,
        vip_failovers: outcome.outages.percentiles().map_or(0, |all| all.count),
        outage_ms_max: outcome.outages.percentile(100),
        writes: outcome.counts.writes,
        healed_ms: outcome.healed_after.map(|span| as_micros(span) / 1000),
    }
}

fn series(outcomes: &[Outcome]) -> Vec<SeriesRow> {
    let length = outcomes.iter().map(|outcome| outcome.seconds.len()).max();
    let row = |second| {
        // Runs that were over earlier have nothing to say about later seconds.
        let each = outcomes
            .iter()
            .filter_map(|outcome| outcome.seconds.get(second).copied());
        let each: Vec<u64> = each.collect();
        SeriesRow {
            second,
            writes: each.iter().sum::<u64>() / each.len().max(1) as u64,
            writes_min: each.into_iter().min().unwrap_or_default(),
        }
    };
    (0..length.unwrap_or_default()).map(row).collect()
}
