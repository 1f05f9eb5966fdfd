//! The report of agreement as one HTML page.
//!
//! Decides: what stands where. Invariant: the page loads nothing, runs no script, and everything from a
//! scenario file is text in it.

use super::report::Report;
use crate::report::{
    html::{
        Captions, Head, document, faults, grouped, histogram, mosaic, ms, section, steps, to_f64,
    },
    svg::{Plot, escaped},
};

/// Runs shown one by one; broken ones come first.
const RUNS_MAX: usize = 200;

pub(super) fn page(report: &Report) -> String {
    let body = [
        head(report),
        tiles(report),
        outages(report),
        failovers(report),
        writes(report),
        faults(&report.faults),
        steps(report.timeline_seed, &report.timeline),
        runs(report),
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
