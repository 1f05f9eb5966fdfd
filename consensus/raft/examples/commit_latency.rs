//! What one durable record costs, side by side on one disk.
//!
//! Measures a bare `fdatasync` in three forms (of a growing file, of a file reserved with
//! `fallocate`, of a file filled with zeroes before), sled as a log, and the write-ahead log. The
//! contestants take turns in short rounds, so that a disk that is slow for a while is slow for all.
//! The figures in `docs/storage.md` come from here:
//!
//! ```text
//! cargo run --release -p consensus-raft --example commit_latency -- /var/tmp
//! ```

use std::{
    env,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use consensus_log::{Log, Options, RealDisk, Record};

/// Rounds, in each of which every contestant has its turn.
const ROUNDS: usize = 50;
/// With 50 rounds, 20,000 commits of each: the log fills a segment, prepares the next one while it
/// does, and begins it.
const COMMITS_PER_ROUND: usize = 400;
/// A command with its request id, actor and time.
const RECORD_BYTES: usize = 200;
/// Room for every record of a run.
const FILE_BYTES: u64 = 16 * 1024 * 1024;

/// Makes a numbered record durable.
type Commit = dyn FnMut(u64, &[u8]) -> io::Result<()>;

/// One way to make a record durable.
struct Contestant {
    name: &'static str,
    commit: Box<Commit>,
    took: Vec<Duration>,
}

fn contestant(
    name: &'static str,
    commit: impl FnMut(u64, &[u8]) -> io::Result<()> + 'static,
) -> Contestant {
    Contestant {
        name,
        commit: Box::new(commit),
        took: Vec::new(),
    }
}

fn created(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create_new(true).open(path)
}

/// Appends to a file and syncs it; the file is made as long as `reserve` makes it.
fn bare(
    name: &'static str,
    path: &Path,
    reserve: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<Contestant> {
    let file = created(path)?;
    reserve(&file)?;
    file.sync_all()?;
    let mut end = 0;
    Ok(contestant(name, move |_, record| {
        file.write_all_at(record, end)?;
        end += u64::try_from(record.len()).map_err(io::Error::other)?;
        file.sync_data()
    }))
}

fn zeroes(file: &File) -> io::Result<()> {
    let block = vec![0; 1024 * 1024];
    let mut at = 0;
    while at < FILE_BYTES {
        file.write_all_at(&block, at)?;
        at += u64::try_from(block.len()).map_err(io::Error::other)?;
    }
    Ok(())
}

/// sled as a log: one batch, `flush`, and what its flush leaves out.
fn sled_log(dir: &Path) -> io::Result<Contestant> {
    let config = sled::Config::new().path(dir).cache_capacity(1024 * 1024);
    let db = config.flush_every_ms(None).open()?;
    let data = File::open(dir.join("db"))?;
    Ok(contestant(
        "sled: apply_batch, flush, fdatasync",
        move |index, record| {
            let mut batch = sled::Batch::default();
            let mut key = [b'l'; 11];
            key[1..9].copy_from_slice(&index.to_be_bytes());
            batch.insert(&key, record);
            db.apply_batch(batch)?;
            db.flush()?;
            data.sync_data()
        },
    ))
}

/// The log: one frame, `fdatasync`, and what is done between two commits.
fn own_log(dir: &Path) -> io::Result<Contestant> {
    fs::create_dir(dir)?;
    let disk = Arc::new(RealDisk::new(dir));
    let log = Log::open(disk, Options::default(), b"measured");
    let mut log = log.map_err(io::Error::other)?;
    Ok(contestant(
        "log: append, sync, prepare",
        move |index, bytes| {
            log.append(&[Record::Entry { index, bytes }])?;
            log.sync()?;
            log.prepare()
        },
    ))
}

fn contestants(dir: &Path) -> io::Result<Vec<Contestant>> {
    Ok(vec![
        bare("bare: growing file", &dir.join("growing"), |_| Ok(()))?,
        bare("bare: fallocate", &dir.join("reserved"), |file| {
            let mode = rustix::fs::FallocateFlags::empty();
            rustix::fs::fallocate(file, mode, 0, FILE_BYTES).map_err(io::Error::from)
        })?,
        bare("bare: zero-filled", &dir.join("zeroes"), zeroes)?,
        sled_log(&dir.join("sled"))?,
        own_log(&dir.join("log"))?,
    ])
}

fn at_percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

fn main() -> anyhow::Result<()> {
    let parent: PathBuf = env::args_os().nth(1).unwrap_or("/var/tmp".into()).into();
    let dir = tempfile::Builder::new()
        .prefix("commit-latency")
        .tempdir_in(parent)?;
    fs::create_dir_all(dir.path())?;
    let mut contestants = contestants(dir.path())?;
    for round in 0..ROUNDS {
        for contestant in &mut contestants {
            for commit in 0..COMMITS_PER_ROUND {
                let number = u64::try_from(round * COMMITS_PER_ROUND + commit)?;
                let record = vec![u8::try_from(number % 251)?; RECORD_BYTES];
                let began = Instant::now();
                (contestant.commit)(number, &record)?;
                contestant.took.push(began.elapsed());
            }
        }
    }
    let mut out = io::stdout();
    writeln!(out, "| contestant | p50 µs | p99 µs | commits/s |")?;
    writeln!(out, "|---|---:|---:|---:|")?;
    for contestant in &mut contestants {
        let total: Duration = contestant.took.iter().sum();
        let per_second = contestant.took.len() as f64 / total.as_secs_f64();
        contestant.took.sort_unstable();
        let half = at_percentile(&contestant.took, 50).as_micros();
        let late = at_percentile(&contestant.took, 99).as_micros();
        let name = contestant.name;
        writeln!(out, "| {name} | {half} | {late} | {per_second:.0} |")?;
    }
    Ok(())
}
