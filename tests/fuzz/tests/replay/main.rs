//! Replays the corpus of every decoder, and mutations of it, without libFuzzer.
//!
//! Decides: which inputs a decoder meets in every run of the tests. Each file of `corpus` and
//! `crashers`, and a number of mutants of each, drawn with a seed that the file's name gives: the
//! same files always give the same mutants. Every run is measured against what the target may
//! allocate. More mutants on request: `SHOAL_FUZZ_MUTANTS=10000`.
#![allow(
    clippy::unwrap_used,
    reason = "the whole crate is tests, which clippy sees only inside test functions"
)]

mod certificates;
mod commands;
mod mutation;
mod seeds;
mod servers;

use std::{
    collections::BTreeSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use shoal_fuzz::{TARGETS, Target};

/// Mutants of each file: a few seconds for all of them in an unoptimised build.
const MUTANTS: u64 = 256;
/// A longer file is not one of a corpus that people look at.
const FILE_BYTES_MAX: usize = 16 * 1024;
/// All files together.
const CORPUS_BYTES_MAX: usize = 300 * 1024;
/// Input shown of a finding, in bytes; the file's name and the mutant's number give the rest.
const SHOWN_BYTES_MAX: usize = 512;

/// Findings whose fix is still to come: target, the beginning of what it says, and what is wrong.
/// The list only shrinks: an entry that is found no more fails the test.
const OPEN: &[(&str, &str, &str)] = &[];

#[test]
fn no_decoder_breaks_a_promise_on_the_corpus_or_a_mutant_of_it() {
    // Findings are told below, once, with the input.
    std::panic::set_hook(Box::new(|_| {}));
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let reports: Vec<Report> = std::thread::scope(|scope| {
        let work = || {
            let mut report = Report::default();
            while let Some(target) = TARGETS.get(next.fetch_add(1, Ordering::Relaxed)) {
                report.replay(target);
            }
            report
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running.into_iter().map(|one| one.join().unwrap()).collect()
    });
    drop(std::panic::take_hook());
    let findings: Vec<String> = reports.iter().flat_map(|r| r.findings.clone()).collect();
    let met: BTreeSet<usize> = reports.iter().flat_map(|r| r.open.clone()).collect();
    let runs: u64 = reports.iter().map(|report| report.runs).sum();
    println!("{runs} inputs to {} decoders", TARGETS.len());
    for report in &reports {
        for line in &report.peaks {
            println!("{line}");
        }
    }
    let gone = (0..OPEN.len()).filter(|entry| !met.contains(entry));
    let gone = gone.map(|entry| format!("take it off the list: {:?}", OPEN[entry]));
    let all: Vec<String> = findings.into_iter().chain(gone).collect();
    assert!(all.is_empty(), "\n{}\n", all.join("\n"));
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let named: BTreeSet<String> = TARGETS.iter().map(|t| t.name.to_owned()).collect();
    assert_eq!(folders(&root().join("corpus")), named);
    assert!(folders(&root().join("crashers")).is_subset(&named));
    let programs: BTreeSet<String> = fs::read_dir(root().join("src/bin"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_owned())
        .map(|name| name.into_string().unwrap())
        .collect();
    assert_eq!(programs, named);
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    for name in &named {
        assert!(manifest.contains(&format!("name = \"{name}\"\n")), "{name}");
    }
}

#[test]
fn the_corpus_is_small() {
    let mut sum = 0;
    for target in TARGETS {
        for (path, data) in inputs(target) {
            assert!(data.len() <= FILE_BYTES_MAX, "{}", path.display());
            sum += data.len();
        }
    }
    assert!(sum <= CORPUS_BYTES_MAX, "{sum} bytes");
}

/// What replaying some targets came to.
#[derive(Default)]
struct Report {
    runs: u64,
    findings: Vec<String>,
    kinds: BTreeSet<(&'static str, String)>,
    open: BTreeSet<usize>,
    peaks: Vec<String>,
}

impl Report {
    fn replay(&mut self, target: &Target) {
        let mutants = std::env::var("SHOAL_FUZZ_MUTANTS").ok();
        let mutants = mutants.map_or(MUTANTS, |text| text.parse().unwrap());
        // What is made once by whoever comes first is nobody's share.
        self.run(target, "nothing", &[], false);
        let files = inputs(target);
        let all: Vec<&[u8]> = files.iter().map(|(_, data)| data.as_slice()).collect();
        let mut peak = (0, 0);
        for (path, data) in &files {
            let name = path.file_name().unwrap().to_str().unwrap();
            peak = peak.max(self.run(target, name, data, true));
            for (number, mutant) in mutation::mutants(name, data, &all).enumerate() {
                if number as u64 == mutants {
                    break;
                }
                let name = format!("{name}, mutant {number}");
                peak = peak.max(self.run(target, &name, &mutant, true));
            }
        }
        let (bytes, input_bytes) = peak;
        let name = target.name;
        self.peaks
            .push(format!("{name}: at most {bytes} bytes, for {input_bytes}"));
    }

    /// What the run held at most, and for how much input.
    fn run(&mut self, target: &Target, name: &str, data: &[u8], measured: bool) -> (u64, usize) {
        self.runs += 1;
        let mut outcome = Ok(());
        let held = allocation_counter::measure(|| {
            outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(data)));
        });
        let allowed = target.memory.of(data.len());
        let finding = match outcome {
            Err(panic) => words(&*panic),
            Ok(()) if measured && held.bytes_max > allowed => {
                format!("{} bytes held, {allowed} allowed", held.bytes_max)
            }
            Ok(()) => return (held.bytes_max, data.len()),
        };
        let is_it = |(open, says, _): &(&str, &str, &str)| {
            *open == target.name && finding.starts_with(says)
        };
        match OPEN.iter().position(is_it) {
            Some(entry) => drop(self.open.insert(entry)),
            // One of a kind: mutants that break alike are legion.
            None if self.kinds.insert((target.name, kind(&finding))) => {
                let (target, data) = (target.name, hex(data));
                let finding = format!("{target} breaks on {name}: {finding}\n  {data}");
                self.findings.push(finding);
            }
            None => {}
        }
        (0, 0)
    }
}

/// What findings of one cause have in common: their first words, without the input's.
fn kind(finding: &str) -> String {
    let letters = finding.lines().next().unwrap_or_default().chars();
    letters
        .filter(|c| !c.is_ascii_digit())
        .take_while(|c| !matches!(c, '`' | '"'))
        .collect()
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default()
}

fn hex(data: &[u8]) -> String {
    let shown = &data[..data.len().min(SHOWN_BYTES_MAX)];
    let digits: String = shown.iter().map(|byte| format!("{byte:02x}")).collect();
    let more = if shown.len() < data.len() { "…" } else { "" };
    format!("{digits}{more} ({} bytes)", data.len())
}

/// The files of a target, corpus first, in a stable order.
fn inputs(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folders = ["corpus", "crashers"].map(|kind| root().join(kind).join(target.name));
    let mut all = Vec::new();
    for folder in folders.iter().filter(|folder| folder.exists()) {
        let entries = fs::read_dir(folder).unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        all.extend(paths.into_iter().map(|path| {
            let data = fs::read(&path).unwrap();
            (path, data)
        }));
    }
    all
}

fn folders(of: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(of).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
