//! The durable half of Raft: log, vote and snapshot in sled, refused when damaged.
//!
//! Decides whether a store may be trusted. Never repairs one: a server with a damaged store
//! joins again under a new id.
//!
//! Invariants, checked when opened:
//! - every record passes its checksum;
//! - the log has no gap, begins right after the last purged entry and reaches at least the
//!   last entry known to be agreed;
//! - what was purged is covered by the snapshot;
//! - the store belongs to the Raft id and the node that open it.

mod applied;
mod disk;
mod log;
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
use tokio::sync::mpsc;

pub(crate) use self::{applied::Applied, log::LogStore};
use self::{
    disk::{Disk, StoredSnapshot},
    log::Tail,
    writer::Writer,
};
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

/// An open store: its lock, its writer thread and what was found in it.
pub(crate) struct Store {
    pub(crate) log: LogStore,
    pub(crate) snapshot: Option<StoredSnapshot>,
    writer: JoinHandle<()>,
    _lock: File,
}

impl Store {
    /// Opens or creates the store in `dir` and checks all of it. Blocks.
    pub(crate) fn open(dir: &Path, raft_id: RaftId, node: &NodeId) -> Result<Self, OpenError> {
        fs::create_dir_all(dir).map_err(OpenError::Io)?;
        let lock = take_lock(dir)?;
        let disk = Disk::open(dir)?;
        let owner = OwnerV1 {
            raft_id,
            node: node.clone(),
        };
        claim(&disk, &owner)?;
        let snapshot = disk.snapshot().map_err(OpenError::Damaged)?;
        let tail = check_log(&disk, snapshot.as_ref()).map_err(OpenError::Damaged)?;
        let disk = Arc::new(disk);
        let (queue, writes) = mpsc::channel(WRITES_MAX);
        let log = LogStore::new(tail, Arc::clone(&disk), queue);
        let writer = Writer::new(disk, writes, log.tail(), snapshot.as_ref());
        let writer = thread::Builder::new()
            .name("raft-store".to_owned())
            .spawn(move || writer.run())
            .map_err(OpenError::Io)?;
        Ok(Self {
            log,
            snapshot,
            writer,
            _lock: lock,
        })
    }

    /// Waits until everything queued is on disk and the database is closed. All clones of the
    /// log store must be gone. The lock is released last.
    pub(crate) fn close(self) {
        drop(self.log);
        if self.writer.join().is_err() {
            tracing::error!("the store's writer thread panicked");
        }
    }
}

fn take_lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join("lock");
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path);
    let lock = lock.map_err(OpenError::Io)?;
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::Error(error)) => return Err(OpenError::Io(error)),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(LOCK_POLL),
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::InUse(dir.display().to_string()));
            }
        }
    }
}

fn claim(disk: &Disk, owner: &OwnerV1) -> Result<(), OpenError> {
    match disk.value(disk::OWNER).map_err(OpenError::Damaged)? {
        Some(bytes) => {
            let found: OwnerV1 =
                v1::open_record("the owner record", &bytes).map_err(OpenError::Damaged)?;
            if found == *owner {
                Ok(())
            } else {
                Err(OpenError::OtherOwner {
                    found: found.raft_id,
                    found_node: found.node,
                })
            }
        }
        None if !disk.is_empty() => Err(OpenError::Damaged(StoreDamage::Undecodable(
            "the owner record".to_owned(),
        ))),
        None => {
            let mut batch = sled::Batch::default();
            batch.insert(disk::OWNER, v1::record(owner));
            disk.apply(batch)
                .and_then(|()| disk.sync())
                .map_err(OpenError::Io)
        }
    }
}

fn check_log(disk: &Disk, snapshot: Option<&StoredSnapshot>) -> Result<Tail, StoreDamage> {
    let id = |key: &[u8], what: &str| -> Result<Option<LogId>, StoreDamage> {
        let Some(bytes) = disk.value(key)? else {
            return Ok(None);
        };
        v1::open_record::<LogIdV1>(what, &bytes).map(|id| Some(id.into()))
    };
    let purged = id(disk::PURGED, "the purge record")?;
    let committed = id(disk::COMMITTED, "the commit record")?;
    let vote = match disk.value(disk::VOTE)? {
        Some(bytes) => Some(Vote::from(v1::open_record::<VoteV1>("the vote", &bytes)?)),
        None => None,
    };
    let mut last = purged;
    disk.for_each_record(0, u64::MAX, |index, bytes| {
        let entry = decode_entry(index, bytes)?;
        match last {
            None if index > 0 => return Err(StoreDamage::HeadMissing(LogIndex(index))),
            Some(before) if before.index + 1 != index => {
                let (before, after) = (LogIndex(before.index), LogIndex(index));
                return Err(StoreDamage::Gap { before, after });
            }
            None | Some(_) => last = Some(entry.log_id),
        }
        Ok(())
    })?;
    let covered = snapshot.and_then(|snapshot| snapshot.meta.last_log_id);
    if let Some(purged) = purged
        && covered.is_none_or(|covered| covered.index < purged.index)
    {
        let (purged, snapshot) = (purged.index, covered.map_or(0, |covered| covered.index));
        return Err(StoreDamage::SnapshotBehind {
            purged: LogIndex(purged),
            snapshot: LogIndex(snapshot),
        });
    }
    let reach = last.max(covered).map(|id| id.index);
    if let Some(committed) = committed
        && reach.is_none_or(|reach| reach < committed.index)
    {
        let (committed, last) = (LogIndex(committed.index), LogIndex(reach.unwrap_or(0)));
        return Err(StoreDamage::TailMissing { committed, last });
    }
    Ok(Tail::new(purged, last, vote, committed))
}

/// Decodes the record of entry `index` and checks that it is that entry.
fn decode_entry(index: u64, bytes: &[u8]) -> Result<LogEntry, StoreDamage> {
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
