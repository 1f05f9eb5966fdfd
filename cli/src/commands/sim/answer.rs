//! How the answers of `shoal sim` read.

use serde::Serialize;
use simulations::{
    Experiment, Findings, Percentiles, ScenarioError, agreement, clusters,
    report::{BrokenRun, FaultRow, Report},
    scenario::Shipped,
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
    kind: &'static str,
    nodes: usize,
    lasts_s: u64,
    faults: Vec<&'static str>,
    about: String,
}

fn listed(shipped: &Shipped) -> Result<Listed, ScenarioError> {
    Ok(match Experiment::parse(shipped.text)? {
        Experiment::Membership(scenario) => Listed {
            kind: "membership",
            nodes: scenario.nodes,
            lasts_s: scenario.end().as_secs(),
            faults: scenario.faults.iter().map(|one| one.what.kind()).collect(),
            about: scenario.about,
            name: scenario.name,
        },
        Experiment::Agreement(scenario) => Listed {
            kind: "agreement",
            nodes: scenario.servers,
            lasts_s: scenario.end().as_secs(),
            faults: scenario.faults.iter().map(|one| one.what.kind()).collect(),
            about: scenario.about,
            name: scenario.name,
        },
        Experiment::Clusters(scenario) => Listed {
            kind: "clusters",
            nodes: scenario.nodes,
            lasts_s: scenario.end().as_secs(),
            faults: scenario.strikes.kinds(),
            about: scenario.about,
            name: scenario.name,
        },
    })
}

pub(super) fn list(terminal: &Terminal) -> Result<Exit, Failure> {
    let scenarios = Experiment::shipped().map(listed);
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
            one.kind.to_owned(),
            one.nodes.to_string(),
            lasts,
            one.about.clone(),
        ]
    });
    terminal.text(&table(&["NAME", "KIND", "NODES", "LASTS", "ABOUT"], rows).trim_fmt())?;
    Ok(Exit::Done)
}

#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    text: &'a str,
}

pub(super) fn show(terminal: &Terminal, name: &str) -> Result<Exit, Failure> {
    let Some(one) = Experiment::shipped().find(|one| one.name == name) else {
        let known = Experiment::shipped().map(|one| one.name).collect();
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
pub(super) fn document(findings: &Findings) -> Vec<u8> {
    let mut text = serde_json::to_vec(findings)
        .expect("a report is structs of text and numbers, which JSON can always hold");
    text.push(b'\n');
    text
}

/// Gives the answer, then says whether all is well.
pub(super) fn report(
    terminal: &Terminal,
    findings: &Findings,
    words: String,
) -> Result<Exit, Failure> {
    if terminal.json() {
        terminal.value(findings)?;
    } else {
        terminal.text(&words)?;
    }
    Ok(exit(terminal, findings))
}

/// What all runs showed together.
pub(super) fn summary(findings: &Findings) -> String {
    let mut text = figures(findings);
    for broken in findings.violations().iter().take(BROKEN_MAX) {
        text += &format!(
            "\nseed {}: {} at {} ms: {}\n  {}\n",
            broken.seed, broken.invariant, broken.at_ms, broken.detail, broken.replay
        );
    }
    if let Some(more) = findings.violations().len().checked_sub(BROKEN_MAX + 1) {
        text += &format!("\nand {} seeds more\n", more + 1);
    }
    text
}

/// What happened in a single run, then its figures.
pub(super) fn story(findings: &Findings) -> String {
    let timeline = match findings {
        Findings::Membership(report) => &report.timeline,
        Findings::Agreement(report) => &report.timeline,
        Findings::Clusters(report) => &report.timeline,
    };
    let mut text = String::new();
    for line in timeline {
        let (s, ms) = (line.at_ms / 1000, line.at_ms % 1000);
        text += &format!("{s:>6}.{ms:03} s  {}\n", line.what);
    }
    text + "\n" + &figures(findings)
}

fn figures(findings: &Findings) -> String {
    match findings {
        Findings::Membership(report) => of_mesh(report),
        Findings::Agreement(report) => of_servers(report),
        Findings::Clusters(report) => of_clusters(report),
    }
}

fn verdict(violations: &[BrokenRun], seeds: u64) -> String {
    match violations.len() {
        0 => "every invariant held".to_owned(),
        broken => format!("broken in {broken} of {seeds}"),
    }
}

fn span_of_seeds(first: u64, count: u64) -> String {
    let last = first + count.saturating_sub(1);
    match count {
        1 => last.to_string(),
        _ => format!("{first} to {last}"),
    }
}

fn hits(faults: &[FaultRow]) -> String {
    let all = faults.iter();
    let all = all.map(|fault| format!("{}: {} {}", fault.kind, fault.hits, fault.evidence));
    all.collect::<Vec<_>>().join("; ")
}

fn pace(simulated_s: f64, real_s: f64, speed: f64) -> String {
    format!("{simulated_s:.0} s in {real_s:.1} s, {speed:.0} times real time")
}

fn of_mesh(report: &Report) -> String {
    let sent = &report.bytes_per_second;
    facts(&[
        (
            "Scenario",
            format!("{}, {} nodes", report.scenario, report.nodes),
        ),
        ("Seeds", span_of_seeds(report.first_seed, report.seeds)),
        ("Invariants", verdict(&report.violations, report.seeds)),
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
        ("Faults hit", hits(&report.faults)),
        (
            "Simulated",
            pace(report.simulated_s, report.real_s, report.speed),
        ),
        ("Trace", report.trace_hash.clone()),
    ])
}

fn of_servers(report: &agreement::Report) -> String {
    let all = &report.operations;
    let (name, servers, profile) = (&report.scenario, report.servers, report.profile);
    facts(&[
        (
            "Scenario",
            format!("{name}, {servers} servers, timers {profile}"),
        ),
        ("Seeds", span_of_seeds(report.first_seed, report.seeds)),
        ("Invariants", verdict(&report.violations, report.seeds)),
        (
            "Failovers",
            report
                .failover_ms
                .map_or_else(|| table::NOTHING.to_owned(), |all| all.count.to_string()),
        ),
        ("Writes went on", spread(report.failover_ms.as_ref())),
        ("Never again", report.failovers_unfinished.to_string()),
        ("Nobody held it", outages(report.outage_ms.as_ref())),
        ("Its holder was late", outages(report.lapse_ms.as_ref())),
        ("A write", spread(report.write_ms.as_ref())),
        (
            "Operations",
            format!(
                "{} writes acknowledged, {} refused, {} with unknown outcome; {} reads, {} by followers",
                all.writes, all.refused, all.unknown, all.reads, all.follower_reads
            ),
        ),
        ("Leaders", all.leaders.to_string()),
        ("Whole again", spread(report.healed_ms.as_ref())),
        ("Faults hit", hits(&report.faults)),
        (
            "Simulated",
            pace(report.simulated_s, report.real_s, report.speed),
        ),
        ("Trace", report.trace_hash.clone()),
    ])
}

fn of_clusters(report: &clusters::Report) -> String {
    let all = &report.counts;
    let (name, nodes) = (&report.scenario, report.nodes);
    facts(&[
        ("Scenario", format!("{name}, {nodes} machines")),
        ("Seeds", span_of_seeds(report.first_seed, report.seeds)),
        ("Invariants", verdict(&report.violations, report.seeds)),
        (
            "Clusters",
            format!("{} founded, {} ended in error", all.founded, all.failed),
        ),
        (
            "Nodes",
            format!(
                "{} got ready with {} tokens, {} left, {} lost their disk",
                all.ready, all.tokens, all.left, all.lost
            ),
        ),
        ("Changes that went round", all.rollouts.to_string()),
        (
            "Strikes",
            format!("{}, {} in the middle of a step", all.strikes, all.mid_step),
        ),
        (
            "Commands",
            format!("{} agreed, {} changed nothing", all.commands, all.idle),
        ),
        ("Settled", spread(report.settled_ms.as_ref())),
        (
            "Simulated",
            pace(report.simulated_s, report.real_s, report.speed),
        ),
        ("Trace", report.trace_hash.clone()),
    ])
}

/// How long a virtual IP was held by nobody.
fn outages(all: Option<&Percentiles>) -> String {
    all.map_or_else(
        || table::NOTHING.to_owned(),
        |all| {
            format!(
                "{} times, for {} ms (median), {} ms (90 of 100), {} ms (99), {} ms (the longest)",
                all.count, all.p50, all.p90, all.p99, all.max
            )
        },
    )
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
