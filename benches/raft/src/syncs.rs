//! Counts what a write costs in syncs, with strace on every member.
//!
//! Writes one after the other and looks, for each, for syncs of the log that began after it was
//! asked for and were done before it was acknowledged: a majority of the members must have one.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    figures::Figures,
    load::{Client, value},
    process::Process,
};

/// Every call that may bring data to a disk.
const TRACED: &str = "trace=fsync,fdatasync,sync_file_range,syncfs,sync,msync";
/// Attaching takes a moment for each thread.
const ATTACH_WAIT: Duration = Duration::from_secs(10);
const ATTACH_POLL: Duration = Duration::from_millis(20);

/// Whether a path is the log's, and not a database's beside it or a cached view.
pub(crate) type IsLog = fn(&str) -> bool;

/// Who is traced.
pub(crate) struct Traced<'a> {
    pub(crate) members: &'a [u32],
    pub(crate) is_log: IsLog,
    /// Where traces are left.
    pub(crate) dir: &'a Path,
}

/// A call that succeeded, with the seconds since 1970 between which it ran.
#[derive(Debug, Clone, PartialEq)]
struct Sync {
    call: String,
    path: String,
    begin: f64,
    end: f64,
}

/// Traces the members while `writes` values are written, and notes what each has synced.
pub(crate) async fn count(
    mut client: Box<dyn Client>,
    writes: u64,
    traced: &Traced<'_>,
    figures: &mut Figures,
) -> anyhow::Result<Vec<String>> {
    // The first may have to connect.
    client.write(value(0, 0)).await?;
    let members = traced.members.iter();
    let tracers = members.map(|pid| Tracer::attach(*pid, traced.dir));
    let tracers = tracers.collect::<anyhow::Result<Vec<_>>>()?;
    for tracer in &tracers {
        tracer.wait_attached().await?;
    }
    let mut spans = Vec::new();
    for number in 1..=writes {
        let asked = now()?;
        client.write(value(0, number)).await?;
        spans.push((asked, now()?));
    }
    let mut told = Vec::new();
    let mut logs = Vec::new();
    for (number, tracer) in (1..).zip(tracers) {
        let all = tracer.detach()?;
        told.extend(by_file(number, &all));
        let mut log = all;
        log.retain(|sync| is_durable(sync) && (traced.is_log)(&sync.path));
        figures.note(number, "log_syncs", log.len() as f64)?;
        logs.push(log);
    }
    let needed = logs.len() / 2 + 1;
    let proven = spans.iter().filter(|span| synced_in(span, &logs) >= needed);
    let proven = proven.count();
    figures.note(0, "sync_writes", writes as f64)?;
    figures.note(0, "sync_proven", proven as f64)?;
    told.push(format!(
        "{proven} of {writes} writes: a sync of the log of {needed} members, begun after the \
         request and done before the answer"
    ));
    ensure!(proven as u64 == writes, "acknowledged too early: {told:#?}");
    Ok(told)
}

/// Members whose log was synced within a span.
fn synced_in(&(asked, answered): &(f64, f64), logs: &[Vec<Sync>]) -> usize {
    let within = |sync: &Sync| sync.begin >= asked && sync.end <= answered;
    logs.iter().filter(|log| log.iter().any(within)).count()
}

/// Whether a call leaves the data on the disk: `sync_file_range` promises nothing.
fn is_durable(sync: &Sync) -> bool {
    matches!(sync.call.as_str(), "fsync" | "fdatasync")
}

fn by_file(member: usize, all: &[Sync]) -> Vec<String> {
    let mut counts = BTreeMap::<_, u64>::new();
    for Sync { call, path, .. } in all {
        *counts.entry((call, path)).or_default() += 1;
    }
    let shown = counts.iter();
    let shown =
        shown.map(|((call, path), count)| format!("member {member}: {count} {call} {path}"));
    shown.collect()
}

fn now() -> anyhow::Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}

/// strace on one process.
struct Tracer {
    strace: Process,
    said: PathBuf,
    output: PathBuf,
}

impl Tracer {
    fn attach(pid: u32, dir: &Path) -> anyhow::Result<Self> {
        let output = dir.join(format!("strace-{pid}"));
        let said = dir.join(format!("strace-{pid}.log"));
        let mut command = Command::new("strace");
        command.args([
            "-f",
            "-y",
            "-ttt",
            "-T",
            "-e",
            TRACED,
            "-p",
            &pid.to_string(),
            "-o",
        ]);
        command.arg(&output);
        Ok(Self {
            strace: Process::start(&mut command, &said)?,
            said,
            output,
        })
    }

    async fn wait_attached(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + ATTACH_WAIT;
        loop {
            let said = fs::read_to_string(&self.said)?;
            if said.contains(" attached") {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "strace does not attach: {said}");
            tokio::time::sleep(ATTACH_POLL).await;
        }
    }

    fn detach(mut self) -> anyhow::Result<Vec<Sync>> {
        let pid = i32::try_from(self.strace.pid())?;
        kill_process(Pid::from_raw(pid).context("no pid")?, Signal::INT)?;
        self.strace.wait()?;
        Ok(parsed(&fs::read_to_string(&self.output)?))
    }
}

/// Reads what strace wrote: `THREAD TIME call(3</path>) = 0 <SECONDS>`. A call during which
/// another thread did something has two lines; the second, `<... call resumed>`, has the result.
fn parsed(text: &str) -> Vec<Sync> {
    let mut unfinished = BTreeMap::new();
    let mut syncs = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(thread), Some(time)) = (words.next(), words.next()) else {
            continue;
        };
        let Some((_, what)) = line.split_once(time) else {
            continue;
        };
        let what = what.trim_start();
        let begun = what.split_once('(').and_then(|(call, rest)| {
            let (_, path) = rest.split_once('<')?;
            let (path, _) = path.split_once('>')?;
            let (call, path) = (call.to_owned(), path.to_owned());
            Some((call, path, time.parse::<f64>().ok()?))
        });
        if what.contains("<unfinished") {
            unfinished.extend(begun.map(|begun| (thread, begun)));
            continue;
        }
        let begun = if what.starts_with("<...") {
            unfinished.remove(thread)
        } else {
            begun
        };
        let took = what.rsplit_once("= 0 <");
        let took = took.and_then(|(_, took)| took.strip_suffix('>')?.parse::<f64>().ok());
        if let (Some((call, path, begin)), Some(took)) = (begun, took) {
            let end = begin + took;
            syncs.push(Sync {
                call,
                path,
                begin,
                end,
            });
        }
    }
    syncs
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "\
7 100.000100 fdatasync(10</d/0.wal>) = 0 <0.000050>
8 100.000200 fdatasync(11</d/db> <unfinished ...>
7 100.000300 fdatasync(10</d/0.wal> <unfinished ...>
8 100.000400 <... fdatasync resumed>) = 0 <0.000200>
7 100.000500 <... fdatasync resumed>) = 0 <0.000200>
7 100.000600 fdatasync(10</d/0.wal>) = -1 EIO (Input/output error) <0.000200>
9 100.000700 sync_file_range(3</d/db>, 0, 0, SYNC_FILE_RANGE_WRITE) = 0 <0.000010>
7 100.000800 +++ exited with 0 +++
7 100.000900 --- SIGURG {si_signo=SIGURG, si_code=SI_TKILL} ---
";

    #[test]
    fn every_call_that_succeeded_counts_once_and_for_its_file() {
        let syncs = parsed(TRACE);
        let seen: Vec<_> = syncs
            .iter()
            .map(|sync| (&*sync.call, &*sync.path))
            .collect();
        let expected = [
            ("fdatasync", "/d/0.wal"),
            ("fdatasync", "/d/db"),
            ("fdatasync", "/d/0.wal"),
            ("sync_file_range", "/d/db"),
        ];
        assert_eq!(seen, expected);
        assert!((syncs[1].end - 100.0004).abs() < 1e-6);
        assert_eq!(syncs.iter().filter(|sync| is_durable(sync)).count(), 3);
    }

    #[test]
    fn a_sync_proves_a_write_only_between_its_request_and_its_answer() {
        let mut log = parsed(TRACE);
        log.retain(|sync| sync.path == "/d/0.wal");
        let logs = [log, vec![]];
        assert_eq!(synced_in(&(100.00025, 100.0006), &logs), 1);
        assert_eq!(
            synced_in(&(100.00035, 100.0006), &logs),
            0,
            "begun before it"
        );
        assert_eq!(synced_in(&(100.00025, 100.0004), &logs), 0, "not done yet");
    }
}
