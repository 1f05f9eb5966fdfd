//! The durable half of Raft: log, vote and snapshot, refused when damaged.
//!
//! Decides whether a store may be trusted. Never repairs one: a server with a damaged store
//! joins again under a new id. `docs/storage.md` describes what is on disk and why.
//!
//! Invariants, checked when opened:
//! - every record passes its checksum;
//! - the log has no gap, begins right after the last purged entry and reaches at least the
//!   last entry known to be agreed;
//! - what was purged is covered by the snapshot;
//! - the store belongs to the Raft id and the node that open it.

mod applied;
mod log;
mod quarantine;
pub(crate) mod snapshot;
mod writer;

use std::{
    fs::{self, File, TryLockError},
    io,
    path::Path,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use consensus_core::{LogIndex, NodeId, RaftId};
use consensus_log::{Disk, Log, Marks, Options, RealDisk};
use tokio::sync::mpsc;

pub use self::quarantine::quarantine;
pub(crate) use self::{applied::Applied, log::LogStore};
use self::{log::Tail, snapshot::StoredSnapshot, writer::Writer};
use crate::{
    errors::{OpenError, StoreDamage},
    raft_types::{LogEntry, LogId, Vote},
    wire::v1::{self, EntryV1, LogIdV1, OwnerV1, VoteV1},
};

/// Writes waiting for the writer thread; beyond it Raft waits.
const WRITES_MAX: usize = 256;
/// How long a store may still be held by an instance that is going away.
const LOCK_WAIT: Duration = Duration::from_secs(3);
/// How often the lock is tried meanwhile.
const LOCK_POLL: Duration = Duration::from_millis(20);

/// What builds before the log of our own kept: a database of sled, which is not read any more.
const OLD_DATABASE: &str = "sled";

/// An open store: its lock, its writer thread and what was found in it.
pub(crate) struct Store {
    pub(crate) log: LogStore,
    pub(crate) snapshot: Option<StoredSnapshot>,
    /// Absent in a simulated process, where the writer is a task.
    writer: Option<JoinHandle<()>>,
    /// Absent on a disk that nobody else can reach.
    _lock: Option<File>,
}

impl Store {
    /// Opens or creates the store in `dir` and checks all of it. Blocks.
    pub(crate) fn open(dir: &Path, raft_id: RaftId, node: &NodeId) -> Result<Self, OpenError> {
        let (mut store, writer) = Self::open_idle(dir, raft_id, node)?;
        let thread = thread::Builder::new()
            .name("raft-store".to_owned())
            .spawn(move || writer.run())
            .map_err(OpenError::Io)?;
        store.writer = Some(thread);
        Ok(store)
    }

    /// The same in a simulated process: no thread, the writer is one of its tasks.
    #[cfg(feature = "simulation")]
    pub(crate) fn open_in(
        process: &crate::simulation::Process,
        raft_id: RaftId,
        node: &NodeId,
    ) -> Result<Self, OpenError> {
        let (disk, options) = process.disk();
        let (store, writer) = Self::open_on(disk, options, raft_id, node)?;
        process.spawn(writer.run_in(process.clone()));
        Ok(store)
    }

    fn open_idle(dir: &Path, raft_id: RaftId, node: &NodeId) -> Result<(Self, Writer), OpenError> {
        fs::create_dir_all(dir).map_err(OpenError::Io)?;
        let Some(lock) = take_lock(dir).map_err(OpenError::Io)? else {
            return Err(OpenError::InUse(dir.display().to_string()));
        };
        if dir.join(OLD_DATABASE).exists() {
            let what = "the store (a database of sled)".to_owned();
            return Err(OpenError::Damaged(StoreDamage::Format { what, format: 0 }));
        }
        sync_names(dir).map_err(OpenError::Io)?;
        let disk = Arc::new(RealDisk::new(dir));
        let (mut store, writer) = Self::open_on(disk, Options::default(), raft_id, node)?;
        store._lock = Some(lock);
        Ok((store, writer))
    }

    /// Opens or creates the store on a disk that nobody else uses. Whoever calls runs the writer.
    fn open_on(
        disk: Arc<dyn Disk>,
        options: Options,
        raft_id: RaftId,
        node: &NodeId,
    ) -> Result<(Self, Writer), OpenError> {
        let owner = OwnerV1 {
            raft_id,
            node: node.clone(),
        };
        let snapshot = snapshot::read(disk.as_ref()).map_err(OpenError::Io)?;
        let snapshot = snapshot.map_err(OpenError::Damaged)?;
        // The log is made first and never removed.
        if snapshot.is_some() && !Log::exists(disk.as_ref()).map_err(OpenError::Io)? {
            return Err(OpenError::Damaged(StoreDamage::LogMissing));
        }
        let log = Log::open(Arc::clone(&disk), options, &v1::record(&owner)).map_err(refusal)?;
        let tail = check_log(&log, snapshot.as_ref())?;
        snapshot::drop_unfinished(disk.as_ref()).map_err(OpenError::Io)?;
        let (queue, writes) = mpsc::channel(WRITES_MAX);
        let handle = LogStore::new(tail, (&log, options), Arc::clone(&disk), queue);
        let writer = Writer::new(log, disk, writes, handle.tail(), snapshot.as_ref());
        let store = Self {
            log: handle,
            snapshot,
            writer: None,
            _lock: None,
        };
        Ok((store, writer))
    }

    /// Waits until everything queued is on disk. All clones of the
    /// log store must be gone. The lock is released last.
    pub(crate) fn close(self) {
        drop(self.log);
        if self.writer.is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the store's writer thread panicked");
        }
    }
}

/// Takes the store's lock; nothing if another process keeps it.
fn take_lock(dir: &Path) -> io::Result<Option<File>> {
    let path = dir.join("lock");
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(Some(lock)),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(LOCK_POLL),
            Err(TryLockError::WouldBlock) => return Ok(None),
        }
    }
}

/// Makes the existence of the directory durable.
fn sync_names(dir: &Path) -> io::Result<()> {
    let Some(parent) = dir.parent() else {
        return Ok(());
    };
    // An empty parent is the present directory.
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    File::open(parent)?.sync_all()?;
    // The directory above must name the parent; it may not be ours to open.
    match parent.parent().map(File::open) {
        Some(Ok(above)) => above.sync_all(),
        Some(Err(_)) | None => Ok(()),
    }
}

/// What a log's refusal means for the store.
fn refusal(error: consensus_log::OpenError) -> OpenError {
    use consensus_log::{Damage, OpenError as Refused};
    match error {
        Refused::Io(error) => OpenError::Io(error),
        Refused::Damaged(Damage::Version { segment, version }) => {
            OpenError::Damaged(StoreDamage::Format {
                what: format!("segment {segment} of the log"),
                format: version,
            })
        }
        Refused::Damaged(damage) => OpenError::Damaged(StoreDamage::Log(damage.to_string())),
        Refused::OtherOwner { found } => {
            match v1::open_record::<OwnerV1>("the owner record", &found) {
                Ok(found) => OpenError::OtherOwner {
                    found: found.raft_id,
                    found_node: found.node,
                },
                Err(damage) => OpenError::Damaged(damage),
            }
        }
    }
}

fn check_log(log: &Log, snapshot: Option<&StoredSnapshot>) -> Result<Tail, OpenError> {
    let Marks {
        vote,
        committed,
        purged,
    } = log.marks();
    let id = |mark: Option<(u64, Vec<u8>)>, what: &str| match mark {
        Some((_, bytes)) => v1::open_record::<LogIdV1>(what, &bytes).map(|id| Some(id.into())),
        None => Ok(None),
    };
    let purged: Option<LogId> = id(purged, "the purge record").map_err(OpenError::Damaged)?;
    let committed = id(committed, "the commit record").map_err(OpenError::Damaged)?;
    let vote = vote.map(|bytes| v1::open_record::<VoteV1>("the vote", &bytes));
    let vote = vote.transpose().map_err(OpenError::Damaged)?;
    let last = last_entry(log, purged)?;
    let covered = snapshot.and_then(|snapshot| snapshot.meta.last_log_id);
    check_reach(purged, covered, last, committed).map_err(OpenError::Damaged)?;
    Ok(Tail::new(purged, last, vote.map(Vote::from), committed))
}

/// Reads every entry; gives the last one, or the last that was purged.
fn last_entry(log: &Log, purged: Option<LogId>) -> Result<Option<LogId>, OpenError> {
    let (first, end) = log.bounds();
    if purged.is_none() && first > 0 {
        let damage = StoreDamage::HeadMissing(LogIndex(first));
        return Err(OpenError::Damaged(damage));
    }
    let reader = log.reader();
    let mut last = purged;
    for index in first..end {
        let record = reader.read(index).map_err(OpenError::Io)?;
        // The log knows no gaps; if it did not have the entry, its record would be empty.
        let entry = decode_entry(index, &record.unwrap_or_default());
        last = Some(entry.map_err(OpenError::Damaged)?.log_id);
    }
    Ok(last)
}

/// Checks that the log and the snapshot meet, and reach what was agreed.
fn check_reach(
    purged: Option<LogId>,
    covered: Option<LogId>,
    last: Option<LogId>,
    committed: Option<LogId>,
) -> Result<(), StoreDamage> {
    if let Some(purged) = purged
        && covered.is_none_or(|covered| covered.index < purged.index)
    {
        let (purged, snapshot) = (purged.index, covered.map_or(0, |covered| covered.index));
        return Err(StoreDamage::SnapshotBehind {
            purged: LogIndex(purged),
            snapshot: LogIndex(snapshot),
        });
    }
    #[cfg(feature = "planted-bugs")]
    {
        use crate::simulation::{PlantedBug, planted};
        if planted(PlantedBug::ShortLogAccepted) {
            return Ok(());
        }
    }
    let reach = last.max(covered).map(|id| id.index);
    if let Some(committed) = committed
        && reach.is_none_or(|reach| reach < committed.index)
    {
        let (committed, last) = (LogIndex(committed.index), LogIndex(reach.unwrap_or(0)));
        return Err(StoreDamage::TailMissing { committed, last });
    }
    Ok(())
}

/// Decodes the record of entry `index` and checks that it is that entry.
pub(crate) fn decode_entry(index: u64, bytes: &[u8]) -> Result<LogEntry, StoreDamage> {
    let what = format!("log entry {index}");
    let entry: EntryV1 = v1::open_record(&what, bytes)?;
    match entry.into_entry() {
        Ok(entry) if entry.log_id.index == index => Ok(entry),
        Ok(_) | Err(_) => Err(StoreDamage::Undecodable(what)),
    }
}

fn invalid(damage: StoreDamage) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, damage)
}

#[cfg(test)]
mod tests;
