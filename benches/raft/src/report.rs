//! The tables: medians over rounds, ratios to etcd's of the same round, and the goals.
//!
//! Decides whether a goal is met. Measures nothing.

use std::{collections::BTreeSet, fmt::Write as _};

use crate::figures::{Figure, median};

/// What the tables call each system, etcd first: the others are compared with it.
const SYSTEMS: [(&str, &str); 4] = [
    ("etcd", "etcd 3.4, gRPC"),
    (ETCD_TLS, "etcd 3.4, TLS between members"),
    ("raft", "shoal, Raft layer"),
    ("shoald", "shoal, operator API"),
];
/// etcd whose members encrypt what they say to each other, as our daemons do.
const ETCD_TLS: &str = "etcd-tls";
/// etcd with the patience of our profile for one place and good disks.
pub(crate) const ETCD_LAN: &str = "etcd-lan";
/// What the tables call those whose leaders are killed.
const ELECTIONS: [(&str, &str); 3] = [
    (
        "etcd",
        "etcd 3.4 by default: heartbeat 100 ms, election 1,000 ms",
    ),
    (ETCD_LAN, "etcd 3.4 with heartbeat 20 ms, election 120 ms"),
    ("raft", "shoal, Raft layer, profile `lan`"),
];
/// What the tables call each way of appending.
const DISKS: [(&str, &str); 3] = [
    ("disk-append", "appended to a growing file"),
    ("disk-filled", "into a file filled before"),
    ("disk-three", "appended by three writers at once"),
];
/// With one client, p50 may be this many times the disk's own.
const DISK_RATIO_MAX: f64 = 2.0;
/// From the leader's death to the next commit, in 99 of 100 cases.
const FAILOVER_MS_MAX: f64 = 500.0;

/// All tables, in Markdown.
pub(crate) fn tables(figures: &[Figure]) -> String {
    let sheet = Sheet(figures);
    let parts = [
        disk_table(&sheet),
        load_table(&sheet),
        memory_table(&sheet),
        syncs_table(&sheet),
        failover_table(&sheet),
        goals(&sheet),
    ];
    let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join("\n")
}

struct Sheet<'a>(&'a [Figure]);

impl Sheet<'_> {
    fn values(&self, system: &str, clients: usize, metric: &str) -> Vec<f64> {
        let wanted = |f: &&Figure| f.system == system && f.clients == clients && f.metric == metric;
        self.0.iter().filter(wanted).map(|f| f.value).collect()
    }

    fn median(&self, system: &str, clients: usize, metric: &str) -> Option<f64> {
        median(&self.values(system, clients, metric))
    }

    /// The median over the rounds that have both of one's figure divided by the other's.
    fn ratio(&self, one: (&str, usize), other: (&str, usize), metric: &str) -> Option<f64> {
        let of = |(system, clients): (&str, usize), round| {
            let found = self.0.iter().find(|f| {
                f.round == round && f.system == system && f.clients == clients && f.metric == metric
            });
            found.map(|f| f.value)
        };
        let rounds: BTreeSet<u32> = self.0.iter().map(|f| f.round).collect();
        let ratios = rounds
            .into_iter()
            .filter_map(|round| Some(of(one, round)? / of(other, round)?));
        median(&ratios.collect::<Vec<_>>())
    }

    fn client_counts(&self) -> BTreeSet<usize> {
        let loads = self.0.iter().filter(|f| f.metric == "writes_per_s");
        loads.map(|f| f.clients).collect()
    }
}

/// A number as a table shows it; nothing where there is none.
fn shown(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(String::new, |value| format!("{value:.decimals$}"))
}

fn disk_table(sheet: &Sheet<'_>) -> String {
    let rows = DISKS.iter().filter_map(|(disk, title)| {
        let p50 = sheet.median(disk, 1, "p50_ms")?;
        let p99 = sheet.median(disk, 1, "p99_ms");
        Some(format!(
            "| {title} | {p50:.2} ms | {} ms |\n",
            shown(p99, 2)
        ))
    });
    let calls = SYSTEMS.iter().filter_map(|(system, title)| {
        let p50 = sheet.median(system, 0, "empty_call_ms")?;
        Some(format!(
            "| an empty call and its answer: {title} | {p50:.2} ms | |\n"
        ))
    });
    headed(
        "| what a write is made of; `fdatasync` after 192 bytes | p50 | p99 |\n|---|---|---|\n",
        rows.chain(calls).collect(),
    )
}

fn load_table(sheet: &Sheet<'_>) -> String {
    let mut rows = String::new();
    for clients in sheet.client_counts() {
        for (system, title) in SYSTEMS {
            let figure =
                |metric: &str, decimals| shown(sheet.median(system, clients, metric), decimals);
            let ratio = |metric: &str| {
                let ratio = sheet.ratio((system, clients), ("etcd", clients), metric);
                shown(ratio.filter(|_| system != "etcd"), 2)
            };
            let Some(writes) = sheet.median(system, clients, "writes_per_s") else {
                continue;
            };
            let _ = writeln!(
                rows,
                "| {clients} | {title} | {writes:.0} | {} | {} ms | {} | {} ms | {} | {} ms | {} |",
                ratio("writes_per_s"),
                figure("p50_ms", 2),
                ratio("p50_ms"),
                figure("p99_ms", 2),
                ratio("p99_ms"),
                figure("cpu_ms_per_write", 3),
                ratio("cpu_ms_per_write"),
            );
        }
    }
    headed(
        "| clients | | writes/s | ×etcd | p50 | ×etcd | p99 | ×etcd | CPU of three members per write | ×etcd |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
        rows,
    )
}

fn memory_table(sheet: &Sheet<'_>) -> String {
    let Some(clients) = sheet.client_counts().last().copied() else {
        return String::new();
    };
    let rows = SYSTEMS.iter().filter_map(|(system, title)| {
        let values = sheet.values(system, clients, "rss_bytes");
        let middle = median(&values)? / 1e6;
        let most = values.iter().copied().fold(0.0, f64::max) / 1e6;
        Some(format!("| {title} | {middle:.1} | {most:.1} |\n"))
    });
    headed(
        &format!(
            "| RSS of a member after {clients} clients, MB | median | most |\n|---|---|---|\n"
        ),
        rows.collect(),
    )
}

fn syncs_table(sheet: &Sheet<'_>) -> String {
    let rows = SYSTEMS.iter().filter_map(|(system, title)| {
        let writes = sheet.median(system, 0, "sync_writes")?;
        let members = (1..).map(|member| sheet.median(system, member, "log_syncs"));
        let members: Vec<_> = members
            .map_while(|syncs| syncs.map(|syncs| format!("{syncs:.0}")))
            .collect();
        let proven = shown(sheet.median(system, 0, "sync_proven"), 0);
        let members = members.join(", ");
        Some(format!(
            "| {title} | {writes:.0} | {members} | {proven} |\n"
        ))
    });
    headed(
        "| one client, by strace | writes | syncs of each member's log | writes with a majority's sync between request and answer |\n\
         |---|---|---|---|\n",
        rows.collect(),
    )
}

fn failover_table(sheet: &Sheet<'_>) -> String {
    let rows = ELECTIONS.iter().filter_map(|(system, title)| {
        let values = sheet.values(system, 0, "failover_ms");
        let p50 = rank(&values, 0.5)?;
        let p99 = rank(&values, 0.99)?;
        let most = values.iter().copied().fold(0.0, f64::max);
        let runs = values.len();
        Some(format!(
            "| {title} | {p50:.0} ms | {p99:.0} ms | {most:.0} ms | {runs} |\n"
        ))
    });
    headed(
        "| leader killed with -9 → next commit | p50 | p99 | most | runs |\n|---|---|---|---|---|\n",
        rows.collect(),
    )
}

fn rank(values: &[f64], part: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    // A part of a count is a small number that is not negative.
    let at = (0..sorted.len()).find(|at| (*at + 1) as f64 >= part * sorted.len() as f64)?;
    sorted.get(at).copied()
}

fn goals(sheet: &Sheet<'_>) -> String {
    let mut lines = String::new();
    let mut goal = |what: String, ratio: Option<f64>, met: fn(f64) -> bool, unit: &str| {
        if let Some(value) = ratio {
            let word = if met(value) { "met" } else { "MISSED" };
            let _ = writeln!(lines, "- {word}: {what}: {value:.2}{unit}");
        }
    };
    let ours = |system: &&(&str, &str)| !system.0.starts_with("etcd");
    for (system, title) in SYSTEMS.iter().filter(ours) {
        let peers = [("etcd", "etcd"), (ETCD_TLS, "etcd with TLS")];
        // The bare Raft layer encrypts nothing either.
        let peers = peers
            .into_iter()
            .take(if *system == "raft" { 1 } else { 2 });
        for (clients, (etcd, peer)) in sheet
            .client_counts()
            .into_iter()
            .flat_map(|clients| peers.clone().map(move |peer| (clients, peer)))
        {
            let (ours, etcd) = ((*system, clients), (etcd, clients));
            let ratio = sheet.ratio(ours, etcd, "writes_per_s");
            let what = format!("{title}, {clients} clients, more writes/s than {peer}");
            goal(what, ratio, |ratio| ratio > 1.0, " times");
            let what = format!("{title}, {clients} clients, p99 below that of {peer}");
            let ratio = sheet.ratio(ours, etcd, "p99_ms");
            goal(what, ratio, |ratio| ratio < 1.0, " times");
        }
        let what = format!("{title}, 1 client, p50 at most twice the raw append's");
        let ratio = sheet.ratio((*system, 1), ("disk-append", 1), "p50_ms");
        goal(what, ratio, |ratio| ratio <= DISK_RATIO_MAX, " times");
    }
    let slow = rank(&sheet.values("raft", 0, "failover_ms"), 0.99);
    let what = "leader killed to next commit, LAN profile, p99 at most 500 ms".to_owned();
    goal(what, slow, |slow| slow <= FAILOVER_MS_MAX, " ms");
    lines
}

/// A table, if it has rows.
fn headed(head: &str, rows: String) -> String {
    if rows.is_empty() {
        rows
    } else {
        format!("{head}{rows}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(round: u32, system: &str, metric: &str, value: f64) -> Figure {
        Figure {
            round,
            system: system.to_owned(),
            clients: 1,
            metric: metric.to_owned(),
            value,
        }
    }

    #[test]
    fn a_ratio_compares_within_a_round() {
        // The machine was ten times slower in the second.
        let figures = [
            figure(1, "etcd", "writes_per_s", 1000.0),
            figure(1, "raft", "writes_per_s", 2000.0),
            figure(2, "etcd", "writes_per_s", 100.0),
            figure(2, "raft", "writes_per_s", 200.0),
            figure(3, "raft", "writes_per_s", 9.0),
        ];
        let ratio = Sheet(&figures).ratio(("raft", 1), ("etcd", 1), "writes_per_s");
        assert_eq!(ratio, Some(2.0));
    }

    #[test]
    fn a_goal_that_is_missed_is_named_as_such() {
        let figures = [
            figure(1, "etcd", "writes_per_s", 1000.0),
            figure(1, "raft", "writes_per_s", 900.0),
            figure(1, "etcd", "p99_ms", 3.0),
            figure(1, "raft", "p99_ms", 2.0),
            figure(1, "disk-append", "p50_ms", 1.0),
            figure(1, "raft", "p50_ms", 2.5),
        ];
        let said = tables(&figures);
        assert!(
            said.contains("- MISSED: shoal, Raft layer, 1 clients, more writes/s than etcd: 0.90")
        );
        assert!(said.contains("- met: shoal, Raft layer, 1 clients, p99 below that of etcd: 0.67"));
        assert!(said.contains("- MISSED: shoal, Raft layer, 1 client, p50 at most twice"));
    }
}
