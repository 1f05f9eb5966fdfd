//! The report of agreement as one HTML page.
//!
//! Decides: what stands where. Invariant: the page loads nothing, runs no script, and everything from a
//! scenario file is text in it.

use std::collections::BTreeMap;

use super::report::Report;
use crate::{
    distribution::Percentiles,
    report::{
        html::{broken, document, faults, grouped, section, seeds, steps, to_f64},
        svg::{Plot, escaped},
    },
};

/// Columns of the histogram of failovers.
const COLUMNS: u64 = 60;
/// Runs shown one by one; broken ones come first.
const RUNS_MAX: usize = 200;

pub(super) fn page(report: &Report) -> String {
    let body = [
        head(report),
        tiles(report),
        failovers(report),
        writes(report),
        faults(&report.faults),
        steps(report.timeline_seed, &report.timeline),
        runs(report),
    ];
    document(&report.scenario, &body.concat())
}

fn head(report: &Report) -> String {
    let verdict = match report.violations.len() {
        0 => "<span class='verdict good'>every invariant held</span>".to_owned(),
        broken => format!(
            "<span class='verdict bad'>broken in {broken} of {} runs</span>",
            report.seeds
        ),
    };
    let facts = format!(
        "<header><h1>{}</h1>{verdict}<p>{}</p><p class='facts'>{} servers, timers {} · {} · \
         {:.0} s simulated in {:.1} s ({:.0} times real time) · trace <code>{}</code></p></header>",
        escaped(&report.scenario),
        escaped(&report.about),
        report.servers,
        report.profile,
        seeds(report.first_seed, report.seeds),
        report.simulated_s,
        report.real_s,
        report.speed,
        &report.trace_hash[..16.min(report.trace_hash.len())]
    );
    facts + &broken(&report.violations)
}

fn tiles(report: &Report) -> String {
    let ms = |of: fn(&Percentiles) -> u64, all: Option<&Percentiles>| {
        all.map_or("–".to_owned(), |all| format!("{} ms", grouped(of(all))))
    };
    let failover = report.failover_ms.as_ref();
    let write = report.write_ms.as_ref();
    let all = &report.operations;
    let tiles = [
        (
            "leader hit to next write, median",
            ms(|p| p.p50, failover),
            false,
        ),
        ("99 of 100 within", ms(|p| p.p99, failover), false),
        ("the longest", ms(|p| p.max, failover), false),
        ("a write, median", ms(|p| p.p50, write), false),
        ("writes acknowledged", grouped(all.writes), false),
        ("outcome never known", grouped(all.unknown), false),
        (
            "acknowledged and lost",
            grouped(report.violations.len() as u64),
            !report.violations.is_empty(),
        ),
        (
            "whole again after, at most",
            ms(|p| p.max, report.healed_ms.as_ref()),
            false,
        ),
    ];
    let tile = |(name, value, bad): (&str, String, bool)| {
        let class = if bad { "tile bad" } else { "tile" };
        format!("<div class='{class}'><b>{value}</b><span>{name}</span></div>")
    };
    let tiles: String = tiles.into_iter().map(tile).collect();
    format!("<section class='tiles'>{tiles}</section>")
}

fn failovers(report: &Report) -> String {
    let Some(all) = &report.failover_ms else {
        return String::new();
    };
    let low = all.min.saturating_sub(all.min / 20);
    let width = (all.max - low).div_ceil(COLUMNS).max(1);
    let mut columns = BTreeMap::<u64, u64>::new();
    for (ms, count) in report.failovers.counts() {
        *columns.entry((ms - low) / width).or_default() += count;
    }
    let most = columns.values().copied().max().unwrap_or(1);
    let mut plot = Plot::new(
        (to_f64(low), to_f64(low + width * (COLUMNS + 1))),
        to_f64(most),
    );
    for (column, count) in columns {
        let from = low + column * width;
        let to = from + width;
        let title = format!("{from} to {to} ms: {count}");
        plot.column(to_f64(from), to_f64(to), to_f64(count), &title);
    }
    let marks = [("p50", all.p50), ("p99", all.p99), ("max", all.max)];
    for (row, (name, ms)) in marks.into_iter().enumerate() {
        plot.mark(to_f64(ms), row, &format!("{name} {} ms", grouped(ms)));
    }
    let svg = plot.finish(
        "How long it takes until writes go on",
        "milliseconds from a blow to the leader until the next write was acknowledged",
        "failovers",
    );
    section(
        "Failover",
        &format!("{} times a fault hit whoever led.", grouped(all.count)),
        &svg,
    )
}

fn writes(report: &Report) -> String {
    let points = |of: fn(&super::report::SeriesRow) -> u64| -> Vec<(f64, f64)> {
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

fn runs(report: &Report) -> String {
    let mut runs: Vec<_> = report.runs.iter().collect();
    runs.sort_by_key(|run| run.violation.is_none());
    let ms =
        |value: Option<u64>| value.map_or("–".to_owned(), |ms| format!("{} ms", grouped(ms)));
    let mut rows = String::new();
    for run in runs.iter().take(RUNS_MAX) {
        let class = if run.violation.is_some() {
            " class='bad'"
        } else {
            ""
        };
        rows += &format!(
            "<tr{class}><td class='number'>{}</td><td class='number'>{}</td>\
             <td class='number'>{}</td><td class='number'>{}</td><td class='number'>{}</td>\
             <td class='number'>{}</td><td><code>{}</code></td><td>{}</td></tr>",
            run.seed,
            grouped(run.failovers),
            ms(run.failover_ms_max),
            grouped(run.leaders),
            grouped(run.writes),
            ms(run.healed_ms),
            &run.trace_hash[..12.min(run.trace_hash.len())],
            escaped(run.violation.as_deref().unwrap_or_default())
        );
    }
    let about = match runs.len() > RUNS_MAX {
        true => format!("{RUNS_MAX} of {}; the JSON report has all.", runs.len()),
        false => "The same seed gives the same trace.".to_owned(),
    };
    let table = format!(
        "<table><tr><th class='number'>seed</th><th class='number'>failovers</th>\
         <th class='number'>longest</th><th class='number'>leaders</th>\
         <th class='number'>writes</th><th class='number'>whole again</th><th>trace</th><th></th>\
         </tr>{rows}</table>"
    );
    section("Runs", &about, &table)
}
