//! The one thread that writes to the store.
//!
//! Decides what shares a sync: everything that is waiting when a round begins. Never completes
//! a callback before the sync that covers it, and never writes again after a failed one: the
//! kernel may have dropped the pages that it could not write.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use openraft::storage::IOFlushed;
use tokio::sync::{mpsc, oneshot};

use super::{
    disk::{self, Disk, StoredSnapshot},
    log::Tail,
};
use crate::raft_types::{LogId, SnapshotMeta, Types};

/// Writes in one round, so that a flood cannot put off the first one's sync for ever.
const ROUND_MAX: usize = 256;

/// One thing to write. Writes take effect in the order in which they are queued.
pub(super) enum Write {
    /// Entries at the end of the log. Durable before `done`.
    Append {
        records: Vec<(u64, Arc<[u8]>)>,
        stamp: u64,
        done: IOFlushed<Types>,
    },
    /// The vote. Durable before `done`.
    Vote {
        record: Vec<u8>,
        done: oneshot::Sender<io::Result<()>>,
    },
    /// The last agreed entry. Nobody waits: after a crash Raft finds it out again.
    Committed { record: Vec<u8> },
    /// Removes entries from `from` on. Nobody waits: the order of writes suffices.
    Truncate { from: u64 },
    /// Removes entries up to and including `upto`. Nobody waits.
    Purge { upto: u64, record: Vec<u8> },
    /// Replaces the snapshot. Durable before `done`.
    Snapshot {
        meta: SnapshotMeta,
        state: Vec<u8>,
        done: oneshot::Sender<io::Result<()>>,
    },
}

/// Who is told when a round is durable.
enum Waiting {
    Log(IOFlushed<Types>),
    Caller(oneshot::Sender<io::Result<()>>),
}

impl Waiting {
    fn tell(self, result: io::Result<()>) {
        match self {
            Self::Log(done) => done.io_completed(result),
            // A caller that went away no longer needs to know.
            Self::Caller(done) => drop(done.send(result)),
        }
    }
}

/// The writer thread's state.
pub(super) struct Writer {
    disk: Arc<Disk>,
    writes: mpsc::Receiver<Write>,
    tail: Arc<Mutex<Tail>>,
    generation: u64,
    /// Up to where the stored snapshot reaches.
    covered: Option<LogId>,
    failure: Option<String>,
}

impl Writer {
    pub(super) fn new(
        disk: Arc<Disk>,
        writes: mpsc::Receiver<Write>,
        tail: Arc<Mutex<Tail>>,
        stored: Option<&StoredSnapshot>,
    ) -> Self {
        let generation = stored.map_or(0, |stored| stored.generation);
        let covered = stored.and_then(|stored| stored.meta.last_log_id);
        Self {
            disk,
            writes,
            tail,
            generation,
            covered,
            failure: None,
        }
    }

    /// Writes until nobody can queue any more.
    pub(super) fn run(mut self) {
        let mut round = Vec::new();
        while self.writes.blocking_recv_many(&mut round, ROUND_MAX) > 0 {
            self.write_round(std::mem::take(&mut round));
        }
        if self.failure.is_none()
            && let Err(error) = self.disk.sync()
        {
            tracing::error!(%error, "the store's last writes may be lost");
        }
    }

    fn write_round(&mut self, round: Vec<Write>) {
        let mut waiting = Vec::new();
        let result = match &self.failure {
            Some(failure) => {
                waiting.extend(round.into_iter().filter_map(waiter));
                Err(io::Error::other(failure.clone()))
            }
            None => self.write_and_sync(round, &mut waiting),
        };
        if let Err(error) = &result
            && self.failure.is_none()
        {
            tracing::error!(%error, "the store failed; nothing more is written to it");
            self.failure = Some(error.to_string());
        }
        for waiting in waiting {
            waiting.tell(match &result {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            });
        }
    }

    fn write_and_sync(&mut self, round: Vec<Write>, waiting: &mut Vec<Waiting>) -> io::Result<()> {
        let mut result = Ok(());
        let mut batch = Batch::default();
        for write in round {
            // Even after a failure everyone who waits must be told.
            if result.is_ok() {
                result = self.write(&write, &mut batch);
            }
            waiting.extend(waiter(write));
        }
        result?;
        self.flush_batch(&mut batch)?;
        if waiting.is_empty() {
            Ok(())
        } else {
            self.disk.sync()
        }
    }

    fn write(&mut self, write: &Write, batch: &mut Batch) -> io::Result<()> {
        match write {
            Write::Append { records, stamp, .. } => {
                for (index, record) in records {
                    disk::put_entry(&mut batch.changes, *index, record);
                    batch.written.push((*index, *stamp));
                }
            }
            Write::Vote { record, .. } => batch.changes.insert(disk::VOTE, record.as_slice()),
            Write::Committed { record } => {
                batch.changes.insert(disk::COMMITTED, record.as_slice());
            }
            Write::Truncate { from } => {
                // What is removed must be in the database to be found.
                self.flush_batch(batch)?;
                self.disk
                    .remove_entries(*from, u64::MAX, &mut batch.changes)?;
                self.flush_batch(batch)?;
            }
            Write::Purge { upto, record } => {
                self.flush_batch(batch)?;
                let end = upto.saturating_add(1);
                self.disk.remove_entries(0, end, &mut batch.changes)?;
                batch.changes.insert(disk::PURGED, record.as_slice());
                self.flush_batch(batch)?;
            }
            Write::Snapshot { meta, state, .. } => {
                self.flush_batch(batch)?;
                // A snapshot that was being built may come after a newer one from the leader.
                if meta.last_log_id >= self.covered {
                    self.generation += 1;
                    self.disk.put_snapshot(meta, state, self.generation)?;
                    self.covered = meta.last_log_id;
                }
            }
        }
        Ok(())
    }

    fn flush_batch(&self, batch: &mut Batch) -> io::Result<()> {
        let Batch { changes, written } = std::mem::take(batch);
        self.disk.apply(changes)?;
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, stamp) in written {
            tail.written(index, stamp);
        }
        Ok(())
    }
}

/// Changes not yet in the database, and the entries among them.
#[derive(Default)]
struct Batch {
    changes: sled::Batch,
    written: Vec<(u64, u64)>,
}

fn waiter(write: Write) -> Option<Waiting> {
    match write {
        Write::Append { done, .. } => Some(Waiting::Log(done)),
        Write::Vote { done, .. } | Write::Snapshot { done, .. } => Some(Waiting::Caller(done)),
        Write::Committed { .. } | Write::Truncate { .. } | Write::Purge { .. } => None,
    }
}
