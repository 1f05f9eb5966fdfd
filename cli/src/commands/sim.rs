//! `shoal sim`: the membership of a mesh under faults, in a simulated world.
//!
//! Needs no daemon and touches nothing: what runs is the same core that shoald runs, with clocks,
//! network and processes simulated.

mod answer;

use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use node_api::ApiError;
use simulations::{
    Outcome, Scenario, ScenarioError,
    report::{Asked, Report},
    run_seeds, scenario,
};

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
        let report = self.subject.simulate(terminal, self.from, self.seeds)?;
        answer::report(terminal, &report, answer::summary(&report))
    }
}

impl Replay {
    fn run(&self, terminal: &Terminal) -> Result<Exit, Failure> {
        let report = self.subject.simulate(terminal, self.seed, 1)?;
        answer::report(terminal, &report, answer::story(&report))
    }
}

impl Subject {
    fn read(&self) -> Result<Scenario, Failure> {
        let path = Path::new(&self.scenario);
        let is_file = self.scenario.contains('/') || path.extension().is_some_and(|e| e == "toml");
        let found = if is_file {
            Scenario::parse(&read(path)?)
        } else {
            scenario::find(&self.scenario)
        };
        let found = match (found, self.nodes) {
            (Ok(scenario), Some(nodes)) => scenario.sized(nodes),
            (found, _) => found,
        };
        found.map_err(|error| told(&error).into())
    }

    fn simulate(&self, terminal: &Terminal, from: u64, seeds: u64) -> Result<Report, Failure> {
        let scenario = self.read()?;
        let begun = Instant::now();
        let bar = Bar::new(terminal, seeds);
        bar.draw();
        let outcomes = run_seeds(&scenario, from..from + seeds, |outcome| bar.take(outcome));
        bar.over()?;
        let asked = Asked {
            scenario: shell_word::plain_or_quoted(&self.scenario),
            nodes: self.nodes,
        };
        let report = Report::new(&scenario, &asked, &outcomes, begun.elapsed());
        if let Some(file) = &self.html {
            write(file, report.html().as_bytes())?;
        }
        if let Some(file) = &self.report {
            write(file, &answer::document(&report))?;
        }
        Ok(report)
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

    fn take(&self, outcome: &Outcome) {
        self.done.set(self.done.get() + 1);
        let broken = u64::from(outcome.violation.is_some());
        self.broken.set(self.broken.get() + broken);
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
fn violated(report: &Report) -> Option<ApiError> {
    let first = report.violations.first()?;
    let broken = report.violations.len();
    let message = format!(
        "{broken} of {} runs of {} broke an invariant; the first with seed {}: {} at {} ms: {}",
        report.seeds, report.scenario, first.seed, first.invariant, first.at_ms, first.detail
    );
    Some(ApiError::new(
        "InvariantViolatedError",
        message,
        first.replay.clone(),
    ))
}

/// Ends a command whose answer was given.
fn exit(terminal: &Terminal, report: &Report) -> Exit {
    match violated(report) {
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
