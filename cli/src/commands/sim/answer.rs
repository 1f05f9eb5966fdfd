//! How the answers of `shoal sim` read.

use serde::Serialize;
use simulations::{
    Percentiles, Scenario, ScenarioError,
    report::Report,
    scenario::{self, Shipped},
};

use super::{exit, told};
use crate::{
    failure::{Exit, Failure},
    table::{self, facts, table},
    terminal::Terminal,
};

/// Broken runs named in words.
const BROKEN_MAX: usize = 5;

#[derive(Serialize)]
struct Listed {
    name: String,
    nodes: usize,
    lasts_s: u64,
    faults: Vec<&'static str>,
    about: String,
}

fn listed(shipped: &Shipped) -> Result<Listed, ScenarioError> {
    let scenario = Scenario::parse(shipped.text)?;
    Ok(Listed {
        nodes: scenario.nodes,
        lasts_s: scenario.end().as_secs(),
        faults: scenario
            .faults
            .iter()
            .map(|fault| fault.what.kind())
            .collect(),
        about: scenario.about,
        name: scenario.name,
    })
}

pub(super) fn list(terminal: &Terminal) -> Result<Exit, Failure> {
    let scenarios = scenario::shipped().iter().map(listed);
    let scenarios: Vec<_> = scenarios
        .collect::<Result<_, _>>()
        .map_err(|error| told(&error))?;
    if terminal.json() {
        terminal.value(&scenarios)?;
        return Ok(Exit::Done);
    }
    let rows = scenarios.iter().map(|one| {
        let lasts = format!("{} s", one.lasts_s);
        vec![
            one.name.clone(),
            one.nodes.to_string(),
            lasts,
            one.about.clone(),
        ]
    });
    terminal.text(&table(&["NAME", "NODES", "LASTS", "ABOUT"], rows).trim_fmt())?;
    Ok(Exit::Done)
}

#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    text: &'a str,
}

pub(super) fn show(terminal: &Terminal, name: &str) -> Result<Exit, Failure> {
    let known = scenario::shipped();
    let Some(one) = known.iter().find(|one| one.name == name) else {
        let known = known.iter().map(|one| one.name).collect();
        let name = name.to_owned();
        return Err(told(&ScenarioError::Unknown { name, known }).into());
    };
    if terminal.json() {
        let (name, text) = (one.name, one.text);
        terminal.value(&Shown { name, text })?;
    } else {
        terminal.text(one.text)?;
    }
    Ok(Exit::Done)
}

/// The report as a document.
pub(super) fn document(report: &Report) -> Vec<u8> {
    let mut text = serde_json::to_vec(report)
        .expect("a report is structs of text and numbers, which JSON can always hold");
    text.push(b'\n');
    text
}

/// Gives the answer, then says whether all is well.
pub(super) fn report(terminal: &Terminal, report: &Report, words: String) -> Result<Exit, Failure> {
    if terminal.json() {
        terminal.value(report)?;
    } else {
        terminal.text(&words)?;
    }
    Ok(exit(terminal, report))
}

/// What all runs showed together.
pub(super) fn summary(report: &Report) -> String {
    let mut text = figures(report);
    for broken in report.violations.iter().take(BROKEN_MAX) {
        text += &format!(
            "\nseed {}: {} at {} ms: {}\n  {}\n",
            broken.seed, broken.invariant, broken.at_ms, broken.detail, broken.replay
        );
    }
    if let Some(more) = report.violations.len().checked_sub(BROKEN_MAX + 1) {
        text += &format!("\nand {} seeds more\n", more + 1);
    }
    text
}

/// What happened in a single run, then its figures.
pub(super) fn story(report: &Report) -> String {
    let mut text = String::new();
    for line in &report.timeline {
        let (s, ms) = (line.at_ms / 1000, line.at_ms % 1000);
        text += &format!("{s:>6}.{ms:03} s  {}\n", line.what);
    }
    text + "\n" + &figures(report)
}

fn figures(report: &Report) -> String {
    let verdict = match report.violations.len() {
        0 => "every invariant held".to_owned(),
        broken => format!("broken in {broken} of {}", report.seeds),
    };
    let last = report.first_seed + report.seeds.saturating_sub(1);
    let seeds = match report.seeds {
        1 => last.to_string(),
        _ => format!("{} to {last}", report.first_seed),
    };
    let sent = &report.bytes_per_second;
    let hits: Vec<_> = report
        .faults
        .iter()
        .map(|fault| format!("{}: {} {}", fault.kind, fault.hits, fault.evidence))
        .collect();
    facts(&[
        (
            "Scenario",
            format!("{}, {} nodes", report.scenario, report.nodes),
        ),
        ("Seeds", seeds),
        ("Invariants", verdict),
        ("Death known", spread(report.detection_ms.as_ref())),
        (
            "Death known by all",
            spread(report.detection_all_ms.as_ref()),
        ),
        ("Never known", report.undetected.to_string()),
        ("False deaths", report.false_deaths.to_string()),
        ("Whole again", spread(report.healed_ms.as_ref())),
        (
            "Sent per node",
            format!(
                "{} B/s when calm, {} B/s in the busiest second",
                sent.calm, sent.peak
            ),
        ),
        ("Faults hit", hits.join("; ")),
        (
            "Simulated",
            format!(
                "{:.0} s in {:.1} s, {:.0} times real time",
                report.simulated_s, report.real_s, report.speed
            ),
        ),
        ("Trace", report.trace_hash.clone()),
    ])
}

fn spread(all: Option<&Percentiles>) -> String {
    all.map_or_else(
        || table::NOTHING.to_owned(),
        |all| {
            format!(
                "after {} ms (median), {} ms (90 of 100), {} ms (99), {} ms (all)",
                all.p50, all.p90, all.p99, all.max
            )
        },
    )
}
