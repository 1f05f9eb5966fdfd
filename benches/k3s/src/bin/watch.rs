//! Asks the API of a K3s cluster again and again, and says when it was away or since when it is there.
//!
//! `api-watch probe` asks it at a fixed pace and `api-watch loop` runs a program such as `kubectl`
//! over and over; both write a log until they are killed, which `api-watch outages` judges.
//! `api-watch ready` waits until K3s runs on this host and its node is ready. `api-watch now` is the
//! time that all of them write, and `api-watch stamp` puts it before what others print.
//! What follows from logs is decided in `k3s_bench::attempts`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, Write as _},
    ops::Range,
    path::{Path, PathBuf},
    process::{Command as Program, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use k3s_bench::{
    attempts::{self, Attempt},
    client::Client,
    kubeconfig::Kubeconfig,
    nodes,
};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use vip_bench::Micros;

/// Whether an API server takes part in what it is there for.
const READYZ: &str = "/readyz";
/// One question whether a node is ready takes no longer; the next one may be answered at once.
const READY_ASKED_WITHIN: Duration = Duration::from_secs(1);

#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Asks at a fixed pace, whatever becomes of the questions before, until it is killed
    Probe(Probe),
    /// Runs a program again each time it has ended, until it is killed
    Loop(Loop),
    /// Waits until K3s runs and is ready, and prints when that was: `process TIME`, `ready TIME`
    Ready(Ready),
    /// Prints a line for each span and log: SPAN LOG OUTAGE STEADY-AFTER FAILED UNASKED, in
    /// microseconds and divided by tabs
    Outages(Outages),
    /// Prints lines of its input with the time before each
    Stamp,
    /// Prints the time
    Now,
}

#[derive(Args)]
struct Probe {
    /// Where the API is and who asks
    #[arg(long)]
    kubeconfig: PathBuf,
    /// The log
    #[arg(long)]
    out: PathBuf,
    /// Between the begin of one question and the next
    #[arg(long, default_value_t = 10)]
    interval_ms: u64,
    /// After so long a question has failed. Less than what TCP waits before it repeats its first
    /// packet: an answer after that would count as if it had come at once
    #[arg(long, default_value_t = 250)]
    timeout_ms: u64,
}

#[derive(Args)]
struct Loop {
    /// The log
    #[arg(long)]
    out: PathBuf,
    /// The program and its arguments
    #[arg(required = true, last = true)]
    command: Vec<String>,
}

#[derive(Args)]
struct Ready {
    /// The kubeconfig that K3s writes on this host
    #[arg(long)]
    kubeconfig: PathBuf,
    /// The node's name
    #[arg(long)]
    node: String,
    /// This host's own API must say that it is ready, too
    #[arg(long)]
    server: bool,
    /// Between two questions
    #[arg(long, default_value_t = 20)]
    interval_ms: u64,
}

#[derive(Args)]
struct Outages {
    /// Spans that are judged each by itself: lines of LABEL FROM UNTIL
    #[arg(long)]
    spans: PathBuf,
    /// Logs of `probe` and `loop`
    #[arg(required = true)]
    logs: Vec<PathBuf>,
}

/// One thread: it must not take the processors from what it watches.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    match Options::parse().command {
        Command::Probe(options) => probe(options).await,
        Command::Loop(options) => run_again_and_again(&options),
        Command::Ready(options) => until_ready(&options).await,
        Command::Outages(options) => outages(&options),
        Command::Stamp => stamp(),
        Command::Now => Ok(writeln!(io::stdout(), "{}", Micros::now().0)?),
    }
}

fn log_file(path: &Path) -> anyhow::Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.with_context(|| format!("{} cannot be written", path.display()))
}

/// A line in one piece: several may be written at the same time.
fn write(mut log: &File, attempt: &Attempt) -> io::Result<()> {
    log.write_all(format!("{attempt}\n").as_bytes())
}

fn client(kubeconfig: &Path) -> anyhow::Result<Client> {
    let read = || {
        anyhow::Ok(Client::new(&Kubeconfig::read(&fs::read_to_string(
            kubeconfig,
        )?)?)?)
    };
    read().with_context(|| format!("{} is of no use", kubeconfig.display()))
}

async fn probe(options: Probe) -> anyhow::Result<()> {
    let client = Arc::new(client(&options.kubeconfig)?);
    let log = Arc::new(log_file(&options.out)?);
    let patience = Duration::from_millis(options.timeout_ms);
    let mut pace = interval(Duration::from_millis(options.interval_ms));
    // What this program was too late for is not made up for: the log shows when nobody asked.
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        pace.tick().await;
        let (client, log) = (Arc::clone(&client), Arc::clone(&log));
        // As many as begin within its patience, and no more.
        tokio::spawn(async move {
            let started = Micros::now();
            let failure = match timeout(patience, client.get(READYZ)).await {
                Ok(Ok(answer)) if answer.status == 200 => None,
                Ok(Ok(answer)) => Some(answer.status.to_string()),
                Ok(Err(error)) => Some(error.word().to_owned()),
                Err(_) => Some("timeout".to_owned()),
            };
            let attempt = Attempt {
                started,
                ended: Micros::now(),
                failure,
            };
            // A disk that is full shows in what is missing.
            let _ = write(&log, &attempt);
        });
    }
}

fn run_again_and_again(options: &Loop) -> anyhow::Result<()> {
    let log = log_file(&options.out)?;
    let (program, arguments) = (options.command.split_first()).context("there is no program")?;
    loop {
        let mut command = Program::new(program);
        command.args(arguments).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let started = Micros::now();
        let status = command.status();
        let status = status.with_context(|| format!("{program} cannot be run"))?;
        let attempt = Attempt {
            started,
            ended: Micros::now(),
            failure: (!status.success()).then(|| "failed".to_owned()),
        };
        write(&log, &attempt)?;
    }
}

async fn until_ready(options: &Ready) -> anyhow::Result<()> {
    let pause = Duration::from_millis(options.interval_ms);
    let process = async {
        while !k3s_runs() {
            sleep(pause).await;
        }
        writeln!(io::stdout(), "process {}", Micros::now().0)
    };
    let ready = async {
        while timeout(READY_ASKED_WITHIN, is_ready(options)).await != Ok(Some(true)) {
            sleep(pause).await;
        }
        writeln!(io::stdout(), "ready {}", Micros::now().0)
    };
    tokio::try_join!(process, ready)?;
    Ok(())
}

/// Whether this host's K3s says that its node is ready; nothing while it cannot be asked.
async fn is_ready(options: &Ready) -> Option<bool> {
    // Anew each time: K3s writes it while this waits.
    let client = client(&options.kubeconfig).ok()?;
    if options.server && client.get(READYZ).await.ok()?.status != 200 {
        return Some(false);
    }
    let node = client.get(&format!("/api/v1/nodes/{}", options.node)).await;
    let node = node.ok()?;
    Some(node.status == 200 && nodes::is_ready(&node.body))
}

/// Whether a server or an agent runs on this host. A question for the program's version is none.
fn k3s_runs() -> bool {
    let Ok(processes) = fs::read_dir("/proc") else {
        return false;
    };
    processes.flatten().any(|process| {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        let program = words.next().unwrap_or_default();
        let role = words.next().unwrap_or_default();
        (program == b"k3s" || program.ends_with(b"/k3s")) && (role == b"server" || role == b"agent")
    })
}

fn outages(options: &Outages) -> anyhow::Result<()> {
    let spans = fs::read_to_string(&options.spans)
        .with_context(|| format!("{} cannot be read", options.spans.display()))?;
    let mut out = io::stdout().lock();
    for path in &options.logs {
        let read = || anyhow::Ok(attempts::read(&fs::read_to_string(path)?)?);
        let log = read().with_context(|| format!("{} cannot be read", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        for line in spans.lines() {
            let (label, span) = read_span(line).with_context(|| format!("no span: {line}"))?;
            let verdict = attempts::judge(&log, &span);
            let verdict = verdict.with_context(|| format!("{label} as {name} saw it"))?;
            writeln!(
                out,
                "{label}\t{name}\t{}\t{}\t{}\t{}",
                verdict.outage_us, verdict.steady_after_us, verdict.failed, verdict.unasked_us
            )?;
        }
    }
    Ok(())
}

fn read_span(line: &str) -> Option<(&str, Range<Micros>)> {
    let mut words = line.split_whitespace();
    let label = words.next()?;
    let mut time = || words.next()?.parse().ok().map(Micros);
    Some((label, time()?..time()?))
}

fn stamp() -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let line = line?;
        writeln!(out, "{} {line}", Micros::now().0)?;
    }
    Ok(())
}
