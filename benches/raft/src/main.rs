//! Measures shoal's agreement against etcd's, as `docs/benchmarks.md` describes.
//!
//! Each subcommand does one thing and adds figures to a file; `benches/raft.sh` decides the order;
//! `report` makes tables of the file.

mod disk;
mod etcd;
mod failover;
mod figures;
mod group;
mod load;
mod process;
mod report;
mod shoald;
mod syncs;

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    figures::{Figures, milliseconds, quantile},
    group::{Group, Kind, Settings},
    load::{Client, Plan},
};

/// Measures agreement.
#[derive(Parser)]
struct Options {
    /// The file that figures are added to
    #[arg(long)]
    results: PathBuf,
    /// Which round this is
    #[arg(long, default_value_t = 0)]
    round: u32,
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Appends and syncs, without anything above
    Disk {
        /// A directory to make and remove
        #[arg(long)]
        dir: PathBuf,
        /// Each way's time
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
    },
    /// Has clients write
    Load {
        #[command(flatten)]
        target: Target,
        /// How many at once, one figure after the other
        #[arg(long, value_delimiter = ',', default_value = "1,16,64,256")]
        clients: Vec<usize>,
        /// Measured time of each
        #[arg(long, default_value_t = 4.0)]
        seconds: f64,
        /// Time before it
        #[arg(long, default_value_t = 1.0)]
        warm_up_seconds: f64,
    },
    /// Counts syncs
    Syncs {
        #[command(flatten)]
        target: Target,
        /// How many writes, one after the other
        #[arg(long, default_value_t = 300)]
        writes: u64,
    },
    /// Kills leaders
    Failover {
        #[command(flatten)]
        target: Target,
        /// How many
        #[arg(long, default_value_t = 50)]
        repetitions: u32,
    },
    /// Prints tables of all figures
    Report,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum System {
    /// Three members of etcd's
    Etcd,
    /// The same with TLS between them
    EtcdTls,
    /// Three `raft-member`s
    Raft,
    /// Daemons that run already
    Shoald,
}

#[derive(Args)]
struct Target {
    /// What is measured
    #[arg(long)]
    system: System,
    /// A directory to make; it is left for inspection
    #[arg(long)]
    dir: PathBuf,
    /// The member's program (etcd, raft)
    #[arg(long, required_unless_present = "socket")]
    program: Option<PathBuf>,
    /// The profile for one place and good disks, and etcd with the same patience (etcd, raft)
    #[arg(long)]
    lan: bool,
    /// Connections that clients share at most (etcd, raft); both are fastest with about four
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// The leading daemon's socket (shoald)
    #[arg(long)]
    socket: Option<PathBuf>,
    /// The node that is labelled (shoald)
    #[arg(long, default_value = "s1")]
    node: String,
    /// The servers' processes (shoald)
    #[arg(long, value_delimiter = ',')]
    pids: Vec<u32>,
    /// Processes whose time counts with theirs: userspace WireGuard devices (shoald)
    #[arg(long, value_delimiter = ',')]
    beside_pids: Vec<u32>,
}

/// What is written to.
enum Running {
    Group(Group),
    Daemons(Target),
}

impl Running {
    async fn start(target: Target) -> anyhow::Result<Self> {
        let kind = match target.system {
            System::Etcd | System::EtcdTls => Kind::Etcd,
            System::Raft => Kind::Raft,
            System::Shoald => {
                std::fs::create_dir(&target.dir)?;
                return Ok(Self::Daemons(target));
            }
        };
        Group::start(group_settings(kind, &target)?)
            .await
            .map(Self::Group)
    }

    fn pids(&self) -> Vec<u32> {
        match self {
            Self::Group(group) => group.pids(),
            Self::Daemons(target) => target.pids.clone(),
        }
    }

    /// Clients of the leader.
    async fn clients(&self, count: usize) -> anyhow::Result<Vec<Box<dyn Client>>> {
        match self {
            Self::Group(group) => group.clients(group.leader(), count),
            Self::Daemons(target) => {
                let socket = target.socket.as_deref().context("--socket is missing")?;
                let mut clients: Vec<Box<dyn Client>> = Vec::new();
                for client in 0..count {
                    let writer = shoald::Writer::connect(socket, &target.node, client).await?;
                    clients.push(Box::new(writer));
                }
                Ok(clients)
            }
        }
    }
}

fn group_settings(kind: Kind, target: &Target) -> anyhow::Result<Settings> {
    Ok(Settings {
        kind,
        program: target.program.clone().context("--program is missing")?,
        dir: target.dir.clone(),
        lan: target.lan,
        peer_tls: target.system == System::EtcdTls,
        connections: target.connections,
    })
}

fn name(system: System) -> &'static str {
    match system {
        System::Etcd => "etcd",
        System::EtcdTls => "etcd-tls",
        System::Raft => "raft",
        System::Shoald => "shoald",
    }
}

/// One thread for every system's load.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let (results, round) = (options.results, options.round);
    let figures = |system| Figures::append_to(&results, round, name(system));
    match options.task {
        Task::Disk { dir, seconds } => {
            disk::measure(&dir, Duration::from_secs_f64(seconds), round, &results)
        }
        Task::Load {
            target,
            clients,
            seconds,
            warm_up_seconds,
        } => {
            let mut figures = figures(target.system)?;
            let title = name(target.system);
            let beside = target.beside_pids.clone();
            let running = Running::start(target).await?;
            if let Running::Group(group) = &running {
                let median = quantile(&mut group.empty_calls().await?, 500);
                figures.note(0, "empty_call_ms", milliseconds(median))?;
            }
            let members = running.pids();
            let plan = Plan {
                warm_up: Duration::from_secs_f64(warm_up_seconds),
                span: Duration::from_secs_f64(seconds),
                members: &members,
                beside: &beside,
            };
            for count in clients {
                let told = load::run(running.clients(count).await?, &plan, &mut figures).await?;
                say(&format!("{title}, {told}"))?;
            }
            Ok(())
        }
        Task::Syncs { target, writes } => {
            let mut figures = figures(target.system)?;
            let (title, dir) = (name(target.system), target.dir.clone());
            let is_log = is_log(target.system);
            let running = Running::start(target).await?;
            let client = running.clients(1).await?.pop().context("no client")?;
            let pids = running.pids();
            let traced = syncs::Traced {
                members: &pids,
                is_log,
                dir: &dir,
            };
            let told = syncs::count(client, writes, &traced, &mut figures).await?;
            say(&format!("{title}: {}", told.join("\n")))
        }
        Task::Failover {
            target,
            repetitions,
        } => fail_over(target, repetitions, &results).await,
        Task::Report => say(&report::tables(&figures::read(&results)?)),
    }
}

async fn fail_over(target: Target, repetitions: u32, results: &Path) -> anyhow::Result<()> {
    let title = match target.system {
        System::Etcd if target.lan => report::ETCD_LAN,
        System::Etcd | System::EtcdTls | System::Raft | System::Shoald => name(target.system),
    };
    let mut figures = Figures::append_to(results, 0, title)?;
    let Running::Group(mut group) = Running::start(target).await? else {
        anyhow::bail!("daemons are killed by `benches/run failover`");
    };
    let mut all = failover::measure(&mut group, repetitions, &mut figures).await?;
    let [median, slow, most] = [500, 990, 1000].map(|rank| milliseconds(quantile(&mut all, rank)));
    say(&format!(
        "{title}: leader killed, next commit after p50 {median:.0} ms, p99 {slow:.0} ms, at most \
         {most:.0} ms"
    ))
}

/// Which files are the log: the rest may be synced at leisure.
fn is_log(system: System) -> syncs::IsLog {
    match system {
        System::Etcd | System::EtcdTls => |path| path.contains("/member/wal/"),
        System::Raft => |_| true,
        System::Shoald => |path| path.contains("/raft-"),
    }
}

fn say(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(io::stdout(), "{text}")?)
}
