//! The report of agreement as one HTML page.
//!
//! Decides: what stands where. Invariant: the page loads nothing, runs no script, and everything from a
//! scenario file is text in it.

use super::report::{Report, RunRow, SeriesRow};
use crate::report::{
    html::{
        Captions, Head, RunLine, document, faults, grouped, histogram, millis, mosaic, ms, runs,
        section, steps, to_f64,
    },
    svg::Plot,
};

pub(super) fn page(report: &Report) -> String {
    let body = [
        head(report),
        tiles(report),
        outages(report),
        failovers(report),
        writes(report),
        faults(&report.faults),
        steps(report.timeline_seed, &report.timeline),
        all_runs(report),
    ];
    document(&report.scenario, &body.concat())
}

fn head(report: &Report) -> String {
    Head {
        scenario: &report.scenario,
        about: &report.about,
        of: format!("{} servers, timers {}", report.servers, report.profile),
        seeds: (report.first_seed, report.seeds),
        simulated_s: report.simulated_s,
        real_s: report.real_s,
        speed: report.speed,
        trace_hash: &report.trace_hash,
        violations: &report.violations,
    }
    .html()
}

fn tiles(report: &Report) -> String {
    let write = report.write_ms.as_ref();
    let all = &report.operations;
    let lost = (
        "broken runs",
        grouped(report.violations.len() as u64),
        !report.violations.is_empty(),
    );
    let healed = ms(|p| p.max, report.healed_ms.as_ref());
    let rest = [
        ("a write, median", ms(|p| p.p50, write), false),
        ("writes acknowledged", grouped(all.writes), false),
        ("outcome never known", grouped(all.unknown), false),
        lost,
        ("whole again after, at most", healed, false),
    ];
    let (first, times) = match &report.outage_ms {
        Some(outages) => ("nobody's gate open, median", Some(outages)),
        None => (
            "leader hit to next write, median",
            report.failover_ms.as_ref(),
        ),
    };
    let times = [
        (first, ms(|p| p.p50, times), false),
        ("99 of 100 within", ms(|p| p.p99, times), false),
        ("the longest", ms(|p| p.max, times), false),
    ];
    mosaic(&[&times[..], &rest].concat())
}

fn outages(report: &Report) -> String {
    let captions = Captions {
        title: "How long a virtual IP is held by nobody",
        below: "milliseconds of true time from the end of one holder's gate to the next one's opening",
        beside: "failovers",
    };
    let Some((svg, count)) = histogram(&report.outages, &captions) else {
        return String::new();
    };
    let stayed = report.lapse_ms.as_ref().map_or_else(String::new, |lapses| {
        format!(
            " {} times the holder stayed and its gate was shut meanwhile, for {} ms at most.",
            grouped(lapses.count),
            grouped(lapses.max)
        )
    });
    let about = format!("{} times a new holder took over.{stayed}", grouped(count));
    section("Outage", &about, &svg)
}

fn failovers(report: &Report) -> String {
    let captions = Captions {
        title: "How long it takes until writes go on",
        below: "milliseconds from a blow to the leader until the next write was acknowledged",
        beside: "failovers",
    };
    let Some((svg, count)) = histogram(&report.failovers, &captions) else {
        return String::new();
    };
    let about = format!("{} times a fault hit whoever led.", grouped(count));
    section("Failover", &about, &svg)
}

fn writes(report: &Report) -> String {
    let points = |of: fn(&SeriesRow) -> u64| -> Vec<(f64, f64)> {
        let rows = report.series.iter();
        rows.map(|row| (to_f64(row.second as u64) + 0.5, to_f64(of(row))))
            .collect()
    };
    let (mean, least) = (points(|row| row.writes), points(|row| row.writes_min));
    let most = mean.iter().map(|(_, y)| *y).fold(1.0, f64::max);
    let mut plot = Plot::new((0.0, to_f64(report.series.len() as u64)), most);
    plot.area("most", &least);
    plot.line("first", &mean);
    let svg = plot.finish(
        "What clients get done",
        "seconds",
        "writes acknowledged per second",
    );
    section(
        "Writes",
        "The line is the mean of all runs; the shade reaches up to the run in which they were fewest.",
        &svg,
    )
}

fn all_runs(report: &Report) -> String {
    let columns = ["failovers", "longest", "leaders", "writes", "whole again"];
    let line = |run: &RunRow| RunLine {
        seed: run.seed,
        figures: vec![
            grouped(run.failovers),
            millis(run.failover_ms_max),
            grouped(run.leaders),
            grouped(run.writes),
            millis(run.healed_ms),
        ],
        trace_hash: run.trace_hash.clone(),
        violation: run.violation.clone(),
    };
    let lines = report.runs.iter().map(line).collect();
    runs(&columns, lines, "The same seed gives the same trace.")
}
