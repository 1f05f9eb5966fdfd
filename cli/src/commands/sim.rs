//! `shoal sim`: the membership of a mesh and the agreement of its servers under faults, in a simulated
//! world.
//!
//! Needs no daemon and touches nothing: what runs is the same code that shoald runs, with clocks,
//! network, disks and processes simulated.

mod answer;

use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
};

use node_api::ApiError;
use simulations::{Experiment, Findings, ScenarioError, report::Asked};

use crate::{
    failure::{self, Exit, Failure},
    shell_word,
    terminal::Terminal,
};

/// The longest scenario file: far more than every fault there may be.
const SCENARIO_BYTES_MAX: u64 = 256 * 1024;
/// Seeds of one command; each is kept until the report is written.
const SEEDS_MAX: u64 = 1_000_000;
/// The width of the bar of progress, in characters.
const BAR_CHARS: u64 = 30;

/// What happens to a mesh when things break, in a simulated world
#[derive(Debug, clap::Subcommand)]
#[command(disable_help_subcommand = true)]
pub(crate) enum Sim {
    /// List the scenarios that come with shoal
    Ls,
    /// Print the file of a shipped scenario, to start an own one from
    Show {
        /// Its name
        scenario: String,
    },
    /// Run a scenario with many seeds and report; fails if an invariant broke
    Run(Run),
    /// Run one seed again and tell what happened
    Replay(Replay),
}

/// The scenario and where reports go.
#[derive(Debug, clap::Args)]
pub(crate) struct Subject {
    /// A shipped scenario's name, or a file that ends in .toml
    scenario: String,
    /// So many nodes instead of the scenario's own number
    #[arg(long, value_name = "N")]
    nodes: Option<usize>,
    /// Write the report as one HTML page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the report as JSON, as --json prints it
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    #[command(flatten)]
    subject: Subject,
    /// How many seeds; they run on all cores
    #[arg(long, value_name = "N", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(1..=SEEDS_MAX))]
    seeds: u64,
    /// The first of them
    #[arg(long, value_name = "SEED", default_value_t = 0,
          value_parser = clap::value_parser!(u64).range(..=u64::MAX / 2))]
    from: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Replay {
    #[command(flatten)]
    subject: Subject,
    /// Which seed
    #[arg(long, value_name = "SEED",
          value_parser = clap::value_parser!(u64).range(..=u64::MAX / 2))]
    seed: u64,
}

impl Sim {
    pub(crate) fn run(&self, terminal: &Terminal) -> Result<Exit, Failure> {
        match self {
            Self::Ls => answer::list(terminal),
            Self::Show { scenario } => answer::show(terminal, scenario),
            Self::Run(run) => run.run(terminal),
            Self::Replay(replay) => replay.run(terminal),
        }
    }
}

impl Run {
    fn run(&self, terminal: &Terminal) -> Result<Exit, Failure> {
        let findings = self.subject.simulate(terminal, self.from, self.seeds)?;
        answer::report(terminal, &findings, answer::summary(&findings))
    }
}

impl Replay {
    fn run(&self, terminal: &Terminal) -> Result<Exit, Failure> {
        let findings = self.subject.simulate(terminal, self.seed, 1)?;
        answer::report(terminal, &findings, answer::story(&findings))
    }
}

impl Subject {
    fn read(&self) -> Result<Experiment, Failure> {
        let path = Path::new(&self.scenario);
        let is_file = self.scenario.contains('/') || path.extension().is_some_and(|e| e == "toml");
        let found = if is_file {
            Experiment::parse(&read(path)?)
        } else {
            Experiment::find(&self.scenario)
        };
        let found = match (found, self.nodes) {
            (Ok(experiment), Some(nodes)) => experiment.sized(nodes),
            (found, _) => found,
        };
        found.map_err(|error| told(&error).into())
    }

    fn simulate(&self, terminal: &Terminal, from: u64, seeds: u64) -> Result<Findings, Failure> {
        let experiment = self.read()?;
        let asked = Asked {
            scenario: shell_word::plain_or_quoted(&self.scenario),
            nodes: self.nodes,
        };
        let bar = Bar::new(terminal, seeds);
        bar.draw();
        let findings = experiment.run(&asked, from..from + seeds, |broken| bar.take(broken));
        bar.over()?;
        if let Some(file) = &self.html {
            write(file, findings.html().as_bytes())?;
        }
        if let Some(file) = &self.report {
            write(file, &answer::document(&findings))?;
        }
        Ok(findings)
    }
}

/// How far the seeds are, on a terminal.
struct Bar<'a> {
    terminal: &'a Terminal,
    seeds: u64,
    done: Cell<u64>,
    broken: Cell<u64>,
}

impl<'a> Bar<'a> {
    const fn new(terminal: &'a Terminal, seeds: u64) -> Self {
        Self {
            terminal,
            seeds,
            done: Cell::new(0),
            broken: Cell::new(0),
        }
    }

    fn take(&self, broken: bool) {
        self.done.set(self.done.get() + 1);
        self.broken.set(self.broken.get() + u64::from(broken));
        self.draw();
    }

    fn draw(&self) {
        if !self.terminal.draws_progress() {
            return;
        }
        // What cannot be drawn is no reason to stop; the answer will say why.
        drop(self.terminal.progress(&self.text()));
    }

    fn text(&self) -> String {
        let (done, broken) = (self.done.get(), self.broken.get());
        let bar: String = (0..BAR_CHARS)
            .map(|place| {
                if place * self.seeds < done * BAR_CHARS {
                    '#'
                } else {
                    '.'
                }
            })
            .collect();
        format!("[{bar}] {done} of {} seeds, {broken} broken", self.seeds)
    }

    fn over(&self) -> Result<(), Failure> {
        if self.terminal.draws_progress() {
            self.terminal.progress_over()?;
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<String, ApiError> {
    let refused = |message: String| {
        let hint = "give a readable scenario file; `shoal sim show one_crash` prints one";
        ApiError::new("ScenarioFileError", message, hint)
    };
    let shown = path.display();
    let size = fs::metadata(path).map(|file| file.len());
    if size.as_ref().is_ok_and(|size| *size > SCENARIO_BYTES_MAX) {
        let message = format!("{shown} has more than {SCENARIO_BYTES_MAX} bytes");
        return Err(refused(message));
    }
    fs::read_to_string(path)
        .map_err(|error| refused(format!("{shown} cannot be read")).caused_by(&error))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), ApiError> {
    fs::write(path, bytes).map_err(|error| {
        let message = format!("{} cannot be written", path.display());
        let hint = "name a file in a directory that you may write to";
        ApiError::new("FileWriteError", message, hint).caused_by(&error)
    })
}

fn told(error: &ScenarioError) -> ApiError {
    ApiError::new(error.code(), error.to_string(), error.hint())
}

/// The failure that a broken invariant is; the replay command is its hint.
fn violated(findings: &Findings) -> Option<ApiError> {
    let first = findings.violations().first()?;
    let broken = findings.violations().len();
    let (seeds, scenario) = (findings.seeds(), findings.scenario());
    let message = format!(
        "{broken} of {seeds} runs of {scenario} broke an invariant; the first with seed {}: {} at {} ms: {}",
        first.seed, first.invariant, first.at_ms, first.detail
    );
    Some(ApiError::new(
        "InvariantViolatedError",
        message,
        first.replay.clone(),
    ))
}

/// Ends a command whose answer was given.
fn exit(terminal: &Terminal, findings: &Findings) -> Exit {
    match violated(findings) {
        None => Exit::Done,
        Some(error) => {
            // With --json the answer itself has the violations.
            if !terminal.json() {
                terminal.failure(&error);
            }
            failure::exit_of(&error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_full_when_all_is_done_and_empty_before() {
        let terminal = Terminal::new(true);
        let bar = Bar::new(&terminal, 4);
        assert!(bar.text().starts_with("[...."));
        bar.done.set(2);
        assert_eq!(bar.text().matches('#').count(), 15);
        bar.done.set(4);
        assert_eq!(
            bar.text(),
            format!("[{}] 4 of 4 seeds, 0 broken", "#".repeat(30))
        );
    }
}
