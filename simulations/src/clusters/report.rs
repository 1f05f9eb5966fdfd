//! What all runs of a scenario of clusters showed together: for programs (JSON) and for people (HTML).
//!
//! Decides: which figures stand for many runs. Invariant: everything but [`Report::real_s`] and what
//! follows from it is the same for the same scenario and seeds.

use std::time::Duration;

use serde::Serialize;

use super::{Counts, Outcome, Scenario};
use crate::{
    distribution::{Distribution, Percentiles},
    random::as_micros,
    report::{
        Asked, BrokenRun, broken_run,
        html::{
            Captions, Head, RunLine, document, grouped, histogram, mosaic, ms, runs, section, steps,
        },
        trace_of_all,
    },
    timeline::Line,
};

/// Everything there is to say.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Always `clusters`.
    pub kind: &'static str,
    /// The scenario's name.
    pub scenario: String,
    /// What it shows.
    pub about: String,
    /// Machines.
    pub nodes: usize,
    /// The first seed.
    pub first_seed: u64,
    /// How many seeds there were.
    pub seeds: u64,
    /// Of a single run its own; of several that of all of theirs in order.
    pub trace_hash: String,
    /// Broken invariants, at most one per seed.
    pub violations: Vec<BrokenRun>,
    /// From the end of all faults and wishes until nothing was left to do.
    pub settled_ms: Option<Percentiles>,
    /// How much of what happened.
    pub counts: Counts,
    /// Simulated time of all runs together.
    pub simulated_s: f64,
    /// The time it took.
    pub real_s: f64,
    /// Simulated over real time.
    pub speed: f64,
    /// Every run.
    pub runs: Vec<RunRow>,
    /// The seed of the run that `timeline` tells: the first that broke, else the first.
    pub timeline_seed: u64,
    /// What happened in it.
    pub timeline: Vec<Line>,
    #[serde(skip)]
    settled: Distribution,
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
    /// Until nothing was left to do.
    pub settled_ms: Option<u64>,
    /// Nodes that were ready for the first time in a stay.
    pub ready: u64,
    /// Strikes.
    pub strikes: u64,
}

impl Report {
    /// Adds up the runs of a scenario; there is at least one.
    pub fn new(scenario: &Scenario, asked: &Asked, outcomes: &[Outcome], real: Duration) -> Self {
        let mut settled = Distribution::default();
        let mut counts = Counts::default();
        for outcome in outcomes {
            outcome
                .settled_after
                .into_iter()
                .for_each(|span| settled.add(span));
            counts.add(&outcome.counts);
        }
        let simulated: Duration = outcomes.iter().map(|outcome| outcome.simulated).sum();
        let told = outcomes.iter().find(|outcome| outcome.violation.is_some());
        let told = told.or(outcomes.first());
        let broken = outcomes.iter().filter_map(|outcome| {
            let violation = outcome.violation.as_ref()?;
            Some(broken_run(asked, outcome.seed, violation))
        });
        let traces: Vec<&str> = outcomes.iter().map(|one| one.trace.as_str()).collect();
        Self {
            kind: "clusters",
            scenario: scenario.name.clone(),
            about: scenario.about.clone(),
            nodes: scenario.nodes,
            first_seed: outcomes.first().map_or(0, |outcome| outcome.seed),
            seeds: outcomes.len() as u64,
            trace_hash: trace_of_all(&traces),
            violations: broken.collect(),
            settled_ms: settled.percentiles(),
            counts,
            simulated_s: simulated.as_secs_f64(),
            real_s: real.as_secs_f64(),
            speed: simulated.as_secs_f64() / real.as_secs_f64().max(1e-9),
            runs: outcomes.iter().map(row).collect(),
            timeline_seed: told.map_or(0, |outcome| outcome.seed),
            timeline: told.map_or_else(Vec::new, |outcome| outcome.story.clone()),
            settled,
        }
    }

    /// One page with everything in it, that needs nothing else.
    pub fn html(&self) -> String {
        let head = Head {
            scenario: &self.scenario,
            about: &self.about,
            of: format!("{} machines", self.nodes),
            seeds: (self.first_seed, self.seeds),
            simulated_s: self.simulated_s,
            real_s: self.real_s,
            speed: self.speed,
            trace_hash: &self.trace_hash,
            violations: &self.violations,
        };
        let body = [
            head.html(),
            self.tiles(),
            self.settling(),
            steps(self.timeline_seed, &self.timeline),
            self.table(),
        ];
        document(&self.scenario, &body.concat())
    }

    fn tiles(&self) -> String {
        let all = &self.counts;
        let settled = ms(|p| p.max, self.settled_ms.as_ref());
        let broken = self.violations.len() as u64;
        mosaic(&[
            ("clusters founded", grouped(all.founded), false),
            ("nodes that got ready", grouped(all.ready), false),
            ("tokens agreed", grouped(all.tokens), false),
            ("nodes that left", grouped(all.left), false),
            ("disks lost in a cluster", grouped(all.lost), false),
            (
                "strikes in the middle of a step",
                grouped(all.mid_step),
                false,
            ),
            ("settled after, at most", settled, false),
            ("broken runs", grouped(broken), broken > 0),
        ])
    }

    fn settling(&self) -> String {
        let captions = Captions {
            title: "How long until nothing is left to do",
            below: "milliseconds from the end of all faults and wishes",
            beside: "runs",
        };
        let Some((svg, count)) = histogram(&self.settled, &captions) else {
            return String::new();
        };
        let about = format!("{} runs came to rest.", grouped(count));
        section("Settled", &about, &svg)
    }

    fn table(&self) -> String {
        let columns = ["strikes", "ready", "settled, ms"];
        let line = |run: &RunRow| RunLine {
            seed: run.seed,
            figures: vec![
                grouped(run.strikes),
                grouped(run.ready),
                run.settled_ms.map_or("–".to_owned(), grouped),
            ],
            trace_hash: run.trace_hash.clone(),
            violation: run.violation.clone(),
        };
        let lines = self.runs.iter().map(line).collect();
        runs(&columns, lines, "The same seed gives the same trace.")
    }
}

fn row(outcome: &Outcome) -> RunRow {
    RunRow {
        seed: outcome.seed,
        trace_hash: outcome.trace.clone(),
        violation: outcome.violation.as_ref().map(ToString::to_string),
        settled_ms: outcome.settled_after.map(|span| as_micros(span) / 1000),
        ready: outcome.counts.ready,
        strikes: outcome.counts.strikes,
    }
}
