//! Asks an address who answers, each millisecond, and judges what several such watches saw.
//!
//! `vip-watch probe` writes a log until it is killed; `vip-watch report` reads all logs of one
//! machine; `vip-watch now` is the time they are written in. What follows from the logs is decided
//! in `vip_bench::judge`. `vip-watch connect` connects again and again, and writes how each
//! connection went.

use std::{
    fs::{self, File},
    io::{self, BufWriter, ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    ops::Range,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use vip_bench::{
    Micros,
    judge::{Outage, outages, overlaps, stale},
    log::{Answer, Line, Log},
    wire::{self, ANSWER_BYTES_MAX},
};

/// How long answers may lie in the buffer before they are in the file.
const FLUSH_EVERY: Duration = Duration::from_millis(50);

#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Asks until it is killed
    Probe(Probe),
    /// Connects to a responder by TCP, one connection after the other, until it is killed
    Connect(Connect),
    /// Prints what follows from logs, one line per span and observer that watched all of it, and one
    /// per span for all
    Report(Report),
    /// Prints the time that logs are written in
    Now,
}

#[derive(Args)]
struct Probe {
    /// Who asks
    #[arg(long)]
    observer: String,
    /// The virtual address, of either family
    #[arg(long)]
    address: IpAddr,
    /// Its port
    #[arg(long, default_value_t = 7441)]
    port: u16,
    /// The log
    #[arg(long)]
    out: PathBuf,
    /// Between two probes
    #[arg(long, default_value_t = 1000)]
    interval_us: u64,
    /// A probe that leaves so much too late tells of a stall of the observer itself
    #[arg(long, default_value_t = 5000)]
    blind_us: u64,
}

#[derive(Args)]
struct Connect {
    /// The virtual address, of either family
    #[arg(long)]
    address: IpAddr,
    /// Its port
    #[arg(long, default_value_t = 7441)]
    port: u16,
    /// Where lines of STARTED ENDED HOW go; HOW is the responder's name, or `refused`,
    /// `unreachable`, `timeout`, or `cut` when the connection ended before the name came
    #[arg(long)]
    out: PathBuf,
    /// Between the end of one and the begin of the next: with less, the responder's ports would not
    /// suffice for those that it closed within the last minute
    #[arg(long, default_value_t = 5)]
    pause_ms: u64,
    /// After so long a connection has failed
    #[arg(long, default_value_t = 10_000)]
    patience_ms: u64,
}

#[derive(Args)]
struct Report {
    /// Logs of all observers
    #[arg(required = true)]
    logs: Vec<PathBuf>,
    /// Spans that are judged each by itself: lines of LABEL FROM UNTIL
    #[arg(long)]
    spans: PathBuf,
    /// Less without an answer is no outage
    #[arg(long, default_value_t = 10_000)]
    outage_us: u64,
    /// What no holder can lose and get again within
    #[arg(long, default_value_t = 10_000)]
    window_us: u64,
}

fn main() -> anyhow::Result<()> {
    match Options::parse().command {
        Command::Probe(options) => watch(options),
        Command::Connect(options) => connect(&options),
        Command::Report(options) => report(&options),
        Command::Now => Ok(writeln!(io::stdout(), "{}", Micros::now().0)?),
    }
}

type Out = Arc<Mutex<BufWriter<File>>>;

fn write(out: &Out, line: &Line) -> io::Result<()> {
    let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
    writeln!(out, "{line}")
}

fn watch(options: Probe) -> anyhow::Result<()> {
    let file = File::create(&options.out)
        .with_context(|| format!("{} cannot be written", options.out.display()))?;
    let out: Out = Arc::new(Mutex::new(BufWriter::new(file)));
    write(
        &out,
        &Line::Observer(options.observer.clone(), Micros::now()),
    )?;
    let any: IpAddr = match options.address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // Not connected: that would fix a source address, which may be the one that moves.
    let socket = UdpSocket::bind((any, 0))?;
    let receiver = socket.try_clone()?;
    let target = SocketAddr::new(options.address, options.port);
    let heard = Arc::clone(&out);
    let flushed = Arc::clone(&out);
    thread::spawn(move || {
        loop {
            thread::sleep(FLUSH_EVERY);
            // A disk that is full shows at the next line.
            let _ = write(&flushed, &Line::Watching(Micros::now()));
            let _ = flushed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .flush();
        }
    });
    thread::spawn(move || listen(&receiver, target, &heard));
    ask(&socket, target, &options, &out)
}

fn ask(socket: &UdpSocket, target: SocketAddr, options: &Probe, out: &Out) -> anyhow::Result<()> {
    let mut due = Micros::now();
    loop {
        let now = Micros::now();
        if now < due {
            thread::sleep(Duration::from_micros(due.since(now)));
            continue;
        }
        if now.since(due) > options.blind_us {
            write(out, &Line::Blind(due, now))?;
            due = now;
        }
        // No route, no neighbour, a full queue: a probe that is not answered.
        let _ = socket.send_to(&wire::probe(now), target);
        due = Micros(due.0 + options.interval_us);
    }
}

fn listen(socket: &UdpSocket, target: SocketAddr, out: &Out) -> anyhow::Result<()> {
    let mut buffer = [0; ANSWER_BYTES_MAX];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let answered = Micros::now();
        if from.ip() != target.ip() {
            continue;
        }
        if let Some(reply) = wire::read_answer(&buffer[..length]) {
            let answer = Answer {
                sent: reply.sent,
                answered,
                epoch: reply.epoch,
                responder: reply.name,
            };
            write(out, &Line::Answer(answer))?;
        }
    }
}

fn connect(options: &Connect) -> anyhow::Result<()> {
    let mut out = File::create(&options.out)
        .with_context(|| format!("{} cannot be written", options.out.display()))?;
    let target = SocketAddr::new(options.address, options.port);
    let patience = Duration::from_millis(options.patience_ms);
    loop {
        let from = Micros::now();
        let how = call(target, patience);
        writeln!(out, "{} {} {how}", from.0, Micros::now().0)?;
        thread::sleep(Duration::from_millis(options.pause_ms));
    }
}

/// Who answered, or one word for why nobody did.
fn call(target: SocketAddr, patience: Duration) -> String {
    let word = match TcpStream::connect_timeout(&target, patience) {
        Ok(stream) => return name_from(stream, patience).unwrap_or_else(|| "cut".to_owned()),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => "refused",
        Err(error) if error.kind() == ErrorKind::TimedOut => "timeout",
        Err(_) => "unreachable",
    };
    word.to_owned()
}

fn name_from(mut stream: TcpStream, patience: Duration) -> Option<String> {
    stream.set_read_timeout(Some(patience)).ok()?;
    let mut name = String::new();
    stream.read_to_string(&mut name).ok()?;
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

fn report(options: &Report) -> anyhow::Result<()> {
    let mut logs = Vec::new();
    for path in &options.logs {
        let read = || anyhow::Ok(Log::read(&fs::read_to_string(path)?)?);
        logs.push(read().with_context(|| format!("{} cannot be read", path.display()))?);
    }
    let spans = fs::read_to_string(&options.spans)
        .with_context(|| format!("{} cannot be read", options.spans.display()))?;
    let mut out = io::stdout().lock();
    for line in spans.lines() {
        let (label, span) = read_span(line).with_context(|| format!("no span: {line}"))?;
        for log in logs.iter().filter(|log| log.covers(&span)) {
            let found = outages(log, span.clone(), options.outage_us);
            let longest = found.iter().max_by_key(|outage| outage.length_us());
            let (length, blind) = longest.map_or((0, 0), |it| (it.length_us(), it.blind_us));
            let name = |of: fn(&Outage) -> &Option<String>| {
                longest
                    .and_then(|it| of(it).as_deref())
                    .unwrap_or("-")
                    .to_owned()
            };
            let (before, after) = (name(|it| &it.before), name(|it| &it.after));
            let (observer, number) = (&log.observer, found.len());
            writeln!(
                out,
                "outage\t{label}\t{observer}\t{number}\t{length}\t{blind}\t{before}\t{after}"
            )?;
        }
        let held_twice = overlaps(&logs, span.clone(), options.window_us);
        let total: u64 = held_twice.iter().map(|overlap| overlap.length_us()).sum();
        let number = held_twice.len();
        let stale = stale(&logs, span).len();
        writeln!(out, "overlap\t{label}\t{number}\t{total}\t{stale}")?;
    }
    Ok(())
}

fn read_span(line: &str) -> Option<(&str, Range<Micros>)> {
    let mut words = line.split_whitespace();
    let label = words.next()?;
    let mut time = || words.next()?.parse().ok().map(Micros);
    Some((label, time()?..time()?))
}
