//! The report as one HTML page.
//!
//! Decides: what stands where. Invariant: the page loads nothing, runs no script, and everything
//! from a scenario file is text in it.

use super::{
    BrokenRun, FaultRow, Report,
    svg::{Plot, escaped},
};
use crate::{
    distribution::{Distribution, Percentiles},
    timeline::{Happening, Line},
};

/// Columns of a histogram.
const COLUMNS: u64 = 60;
/// Runs shown one by one; broken ones come first.
const RUNS_MAX: usize = 200;

const STYLE: &str = include_str!("style.css");

pub(super) fn page(report: &Report) -> String {
    let plots = [detection(report), bandwidth(report), beliefs(report)].concat();
    let body = [
        head(report),
        tiles(report),
        plots,
        faults(&report.faults),
        steps(report.timeline_seed, &report.timeline),
        all_runs(report),
    ];
    document(&report.scenario, &body.concat())
}

/// A whole page around its contents.
pub(crate) fn document(name: &str, body: &str) -> String {
    let name = escaped(name);
    format!(
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>\
         <meta name='viewport' content='width=device-width, initial-scale=1'>\
         <title>{name}: shoal simulation</title><style>{STYLE}</style></head><body><main>\n\
         {body}\n</main></body></html>\n"
    )
}

fn head(report: &Report) -> String {
    Head {
        scenario: &report.scenario,
        about: &report.about,
        of: format!("{} nodes", report.nodes),
        seeds: (report.first_seed, report.seeds),
        simulated_s: report.simulated_s,
        real_s: report.real_s,
        speed: report.speed,
        trace_hash: &report.trace_hash,
        violations: &report.violations,
    }
    .html()
}

/// What every page begins with.
pub(crate) struct Head<'a> {
    pub(crate) scenario: &'a str,
    pub(crate) about: &'a str,
    /// What was simulated, in a few words.
    pub(crate) of: String,
    /// The first one, and how many.
    pub(crate) seeds: (u64, u64),
    pub(crate) simulated_s: f64,
    pub(crate) real_s: f64,
    pub(crate) speed: f64,
    pub(crate) trace_hash: &'a str,
    pub(crate) violations: &'a [BrokenRun],
}

impl Head<'_> {
    pub(crate) fn html(&self) -> String {
        let (first, count) = self.seeds;
        let verdict = match self.violations.len() {
            0 => "<span class='verdict good'>every invariant held</span>".to_owned(),
            broken => {
                format!("<span class='verdict bad'>broken in {broken} of {count} runs</span>")
            }
        };
        let text = format!(
            "<header><h1>{}</h1>{verdict}<p>{}</p><p class='facts'>{} · {} · {:.0} s simulated in \
             {:.1} s ({:.0} times real time) · trace <code>{}</code></p></header>",
            escaped(self.scenario),
            escaped(self.about),
            self.of,
            seeds(first, count),
            self.simulated_s,
            self.real_s,
            self.speed,
            &self.trace_hash[..16.min(self.trace_hash.len())]
        );
        text + &broken(self.violations)
    }
}

/// Broken runs, one after the other; the first tell most.
fn broken(violations: &[BrokenRun]) -> String {
    let mut text = String::new();
    for broken in violations.iter().take(5) {
        text += &format!(
            "<section class='broken'><b>seed {}, {} ms: {}</b><p>{}</p><pre>{}</pre></section>",
            broken.seed,
            broken.at_ms,
            escaped(&broken.invariant),
            escaped(&broken.detail),
            escaped(&broken.replay)
        );
    }
    text
}

/// Which seeds there were.
fn seeds(first: u64, count: u64) -> String {
    match count {
        1 => format!("seed {first}"),
        count => format!("{count} seeds, {first} to {}", first + count - 1),
    }
}

fn tiles(report: &Report) -> String {
    let each = report.detection_ms.as_ref();
    let last = report.detection_all_ms.as_ref();
    let tiles = [
        ("a death is known, median", ms(|p| p.p50, each), false),
        ("99 of 100 know after", ms(|p| p.p99, each), false),
        ("the last knows after, at most", ms(|p| p.max, last), false),
        (
            "never knew",
            grouped(report.undetected),
            report.undetected > 0,
        ),
        (
            "false deaths",
            grouped(report.false_deaths),
            report.false_deaths > 0,
        ),
        (
            "calm, per node",
            format!("{} B/s", grouped(report.bytes_per_second.calm)),
            false,
        ),
        (
            "busiest second, per node",
            format!("{} B/s", grouped(report.bytes_per_second.peak)),
            false,
        ),
        (
            "whole again after, at most",
            ms(|p| p.max, report.healed_ms.as_ref()),
            false,
        ),
    ];
    mosaic(&tiles)
}

/// One of some percentiles in words, if there are any.
pub(crate) fn ms(of: fn(&Percentiles) -> u64, all: Option<&Percentiles>) -> String {
    all.map_or("–".to_owned(), |all| format!("{} ms", grouped(of(all))))
}

/// The figures that matter most: what each is, its value, and whether that is bad.
pub(crate) fn mosaic(tiles: &[(&str, String, bool)]) -> String {
    let tile = |(name, value, bad): &(&str, String, bool)| {
        let class = if *bad { "tile bad" } else { "tile" };
        format!("<div class='{class}'><b>{value}</b><span>{name}</span></div>")
    };
    let tiles: String = tiles.iter().map(tile).collect();
    format!("<section class='tiles'>{tiles}</section>")
}

/// What a histogram says around its columns.
pub(crate) struct Captions<'a> {
    pub(crate) title: &'a str,
    pub(crate) below: &'a str,
    pub(crate) beside: &'a str,
}

/// How often which time was seen; nothing without any.
pub(crate) fn histogram(times: &Distribution, captions: &Captions<'_>) -> Option<(String, u64)> {
    let all = times.percentiles()?;
    let low = all.min.saturating_sub(all.min / 20);
    let width = (all.max - low).div_ceil(COLUMNS).max(1);
    let mut columns = std::collections::BTreeMap::<u64, u64>::new();
    for (ms, count) in times.counts() {
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
    let svg = plot.finish(captions.title, captions.below, captions.beside);
    Some((svg, all.count))
}

fn detection(report: &Report) -> String {
    let captions = Captions {
        title: "How long it takes until a death is known",
        below: "milliseconds from the end of a process until another knew of it",
        beside: "observers",
    };
    let Some((svg, count)) = histogram(&report.detections.each, &captions) else {
        return String::new();
    };
    let count = grouped(count);
    let about = format!("{count} times a node came to know that another had ended.");
    section("Detection", &about, &svg)
}

fn bandwidth(report: &Report) -> String {
    let point = |of: fn(&super::SeriesRow) -> u64| -> Vec<(f64, f64)> {
        let rows = report.series.iter();
        rows.map(|row| (row.second as f64 + 0.5, to_f64(of(row))))
            .collect()
    };
    let (mean, max) = (
        point(|row| row.bytes_per_node),
        point(|row| row.bytes_per_node_max),
    );
    // The start, when everybody learns everything, would dwarf the rest.
    let shown = max.iter().skip(3).map(|(_, y)| *y).fold(1.0, f64::max);
    let clip = |points: &[(f64, f64)]| -> Vec<(f64, f64)> {
        points.iter().map(|(x, y)| (*x, y.min(shown))).collect()
    };
    let mut plot = Plot::new((0.0, report.series.len() as f64), shown);
    bands(report, &mut plot);
    plot.area("most", &clip(&max));
    plot.line("first", &clip(&mean));
    let svg = plot.finish(
        "What a node sends",
        "seconds",
        "bytes per second and node, packet headers included",
    );
    section(
        "Bandwidth",
        "The line is the mean of all nodes and runs; the shade reaches up to the run in which it was most. \
         The first seconds, in which everybody learns of everybody, are cut off above.",
        &svg,
    )
}

fn beliefs(report: &Report) -> String {
    let points = |of: fn(&super::SeriesRow) -> u64| -> Vec<(f64, f64)> {
        let rows = report.series.iter();
        rows.map(|row| (row.second as f64 + 1.0, to_f64(of(row))))
            .collect()
    };
    let (suspicions, deaths) = (points(|row| row.suspicions), points(|row| row.deaths));
    let most = suspicions.iter().chain(&deaths).map(|(_, y)| *y);
    let most = most.fold(1.0, f64::max);
    let mut plot = Plot::new((0.0, report.series.len() as f64), most);
    bands(report, &mut plot);
    plot.area("second", &deaths);
    plot.line("second", &deaths);
    plot.line("third", &suspicions);
    let svg = plot.finish(
        "What is believed",
        "seconds",
        "beliefs of all nodes together",
    );
    section(
        "Beliefs",
        "How many times somebody <span class='key second'>holds somebody dead</span> or \
         <span class='key third'>suspects somebody</span>, on average over the runs.",
        &svg,
    )
}

fn bands(report: &Report, plot: &mut Plot) {
    for (row, fault) in report.faults.iter().enumerate() {
        let from = to_f64(fault.at_ms) / 1000.0;
        let lasts = fault.for_ms.map_or(0.0, |ms| to_f64(ms) / 1000.0);
        plot.band(from, from + lasts, row, &fault.kind);
    }
}

/// What struck, as a table.
pub(crate) fn faults(faults: &[FaultRow]) -> String {
    if faults.is_empty() {
        return String::new();
    }
    let mut rows = String::new();
    for fault in faults {
        let lasts = fault.for_ms.map_or("for good".to_owned(), |ms| {
            format!("{} s", to_f64(ms) / 1000.0)
        });
        rows += &format!(
            "<tr><td>{}</td><td class='number'>{:.1} s</td><td class='number'>{lasts}</td>\
             <td class='number'>{}</td><td>{}</td></tr>",
            escaped(&fault.kind),
            to_f64(fault.at_ms) / 1000.0,
            grouped(fault.hits),
            escaped(&fault.evidence)
        );
    }
    section(
        "Faults",
        "What struck, and what it hit in all runs together. A fault that hits nothing fails its run.",
        &format!(
            "<table><tr><th>kind</th><th class='number'>at</th><th class='number'>lasts</th>\
             <th class='number'>hits</th><th>of what</th></tr>{rows}</table>"
        ),
    )
}

/// What happened in one run, as a list.
pub(crate) fn steps(seed: u64, timeline: &[Line]) -> String {
    let mut rows = String::new();
    for line in timeline {
        let class = match line.happening {
            Happening::Fault => "fault",
            Happening::Process => "process",
            Happening::Suspicion => "suspicion",
            Happening::Death => "death",
            Happening::Trust => "trust",
            Happening::Leader => "leader",
        };
        rows += &format!(
            "<li class='{class}'><time>{:.3} s</time>{}</li>",
            to_f64(line.at_ms) / 1000.0,
            escaped(&line.what)
        );
    }
    let about = format!("What happened in the run with seed {seed}.");
    section(
        "Timeline",
        &about,
        &format!("<ol class='timeline'>{rows}</ol>"),
    )
}

fn all_runs(report: &Report) -> String {
    let columns = ["last knew", "false deaths", "whole again", "per node"];
    let line = |run: &super::RunRow| RunLine {
        seed: run.seed,
        figures: vec![
            millis(run.detection_ms_max),
            grouped(run.false_deaths),
            millis(run.healed_ms),
            format!("{} B/s", grouped(run.bytes_per_second)),
        ],
        trace_hash: run.trace_hash.clone(),
        violation: run.violation.clone(),
    };
    let lines = report.runs.iter().map(line).collect();
    let same = "The same seed gives the same trace on every machine.";
    runs(&columns, lines, same)
}

/// One run in the table of all.
pub(crate) struct RunLine {
    pub(crate) seed: u64,
    /// What stands between the seed and the trace.
    pub(crate) figures: Vec<String>,
    pub(crate) trace_hash: String,
    pub(crate) violation: Option<String>,
}

/// All runs as a table, broken ones first; without the seed and the trace the heads of its columns.
pub(crate) fn runs(columns: &[&str], mut lines: Vec<RunLine>, same: &str) -> String {
    lines.sort_by_key(|run| run.violation.is_none());
    let figure = |figure: &String| format!("<td class='number'>{figure}</td>");
    let mut rows = String::new();
    for run in lines.iter().take(RUNS_MAX) {
        let class = match &run.violation {
            Some(_) => " class='bad'",
            None => "",
        };
        let figures: String = run.figures.iter().map(figure).collect();
        rows += &format!(
            "<tr{class}><td class='number'>{}</td>{figures}<td><code>{}</code></td><td>{}</td></tr>",
            run.seed,
            &run.trace_hash[..12.min(run.trace_hash.len())],
            escaped(run.violation.as_deref().unwrap_or_default())
        );
    }
    let about = match lines.len() > RUNS_MAX {
        true => format!("{RUNS_MAX} of {}; the JSON report has all.", lines.len()),
        false => same.to_owned(),
    };
    let head = |head: &&str| format!("<th class='number'>{head}</th>");
    let heads: String = columns.iter().map(head).collect();
    let table = format!(
        "<table><tr><th class='number'>seed</th>{heads}<th>trace</th><th></th></tr>{rows}</table>"
    );
    section("Runs", &about, &table)
}

/// A time in words, if there is one.
pub(crate) fn millis(value: Option<u64>) -> String {
    value.map_or("–".to_owned(), |ms| format!("{} ms", grouped(ms)))
}

/// A part of a page with its head.
pub(crate) fn section(name: &str, about: &str, body: &str) -> String {
    format!("<section><h2>{name}</h2><p>{about}</p>{body}</section>\n")
}

/// 12345 is 12,345.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A place on a plot; what is lost beyond 2^53 nobody sees.
#[expect(
    clippy::cast_precision_loss,
    reason = "a plot has a thousand places, a number has 2^53 exact ones"
)]
pub(crate) const fn to_f64(number: u64) -> f64 {
    number as f64
}
