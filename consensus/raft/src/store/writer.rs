//! The one that writes to the store: a thread, or a task of a simulated process.
//!
//! Decides what shares a sync: everything that is waiting when a round begins. Never completes
//! a callback before the sync that covers it, and never writes again after a failed one: the
//! kernel may have dropped the pages that it could not write.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use consensus_log::{Disk, Log, Record};
use openraft::storage::IOFlushed;
use tokio::sync::{mpsc, oneshot};

use super::{
    log::Tail,
    snapshot::{self, StoredSnapshot},
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
    Committed { index: u64, record: Vec<u8> },
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

impl Write {
    /// What the log has to remember of it.
    fn records(&self) -> Vec<Record<'_>> {
        match self {
            Self::Append { records, .. } => records
                .iter()
                .map(|(index, bytes)| Record::Entry {
                    index: *index,
                    bytes,
                })
                .collect(),
            Self::Vote { record, .. } => vec![Record::Vote(record)],
            Self::Committed { index, record } => vec![Record::Committed {
                index: *index,
                bytes: record,
            }],
            Self::Truncate { from } => vec![Record::Truncate { from: *from }],
            Self::Purge { upto, record } => vec![Record::Purge {
                upto: *upto,
                bytes: record,
            }],
            Self::Snapshot { .. } => Vec::new(),
        }
    }
}

/// A round that is written and not yet synced.
struct Written {
    waiting: Vec<Waiting>,
    result: io::Result<()>,
}

/// Who is told when a round is durable.
enum Waiting {
    Log(IOFlushed<Types>),
    Caller(oneshot::Sender<io::Result<()>>),
}

impl Waiting {
    fn of(write: Write) -> Option<Self> {
        match write {
            Write::Append { done, .. } => Some(Self::Log(done)),
            Write::Vote { done, .. } | Write::Snapshot { done, .. } => Some(Self::Caller(done)),
            Write::Committed { .. } | Write::Truncate { .. } | Write::Purge { .. } => None,
        }
    }

    fn tell(self, result: io::Result<()>) {
        match self {
            Self::Log(done) => done.io_completed(result),
            // A caller that went away no longer needs to know.
            Self::Caller(done) => drop(done.send(result)),
        }
    }
}

/// The writer's state.
pub(super) struct Writer {
    log: Log,
    disk: Arc<dyn Disk>,
    writes: mpsc::Receiver<Write>,
    tail: Arc<Mutex<Tail>>,
    generation: u64,
    /// Up to where the stored snapshot reaches.
    covered: Option<LogId>,
    /// A purge was written since segments were last released.
    purged: bool,
    failure: Option<(io::ErrorKind, String)>,
}

impl Writer {
    pub(super) fn new(
        log: Log,
        disk: Arc<dyn Disk>,
        writes: mpsc::Receiver<Write>,
        tail: Arc<Mutex<Tail>>,
        stored: Option<&StoredSnapshot>,
    ) -> Self {
        let generation = stored.map_or(0, |stored| stored.generation);
        let covered = stored.and_then(|stored| stored.meta.last_log_id);
        Self {
            log,
            disk,
            writes,
            tail,
            generation,
            covered,
            purged: false,
            failure: None,
        }
    }

    /// Writes until nobody can queue any more.
    pub(super) fn run(mut self) {
        let mut round = Vec::new();
        while self.writes.blocking_recv_many(&mut round, ROUND_MAX) > 0 {
            let written = self.write_round(std::mem::take(&mut round));
            self.complete(written);
        }
        self.end();
    }

    /// The same as a task of a simulated process, whose disk takes its time to sync.
    #[cfg(feature = "simulation")]
    pub(super) async fn run_in(mut self, process: crate::simulation::Process) {
        let mut round = Vec::new();
        while self.writes.recv_many(&mut round, ROUND_MAX).await > 0 {
            let written = self.write_round(std::mem::take(&mut round));
            if !written.waiting.is_empty() {
                crate::clock::sleep(process.sync_takes()).await;
            }
            self.complete(written);
        }
        self.end();
    }

    /// Writes what is queued now, as one round.
    #[cfg(test)]
    pub(super) fn write_queued(&mut self) {
        let mut round = Vec::new();
        while let Ok(write) = self.writes.try_recv() {
            round.push(write);
        }
        let written = self.write_round(round);
        self.complete(written);
    }

    /// The number of the next snapshot.
    #[cfg(test)]
    pub(super) fn next_generation(&self) -> u64 {
        self.generation + 1
    }

    fn end(&mut self) {
        if self.failure.is_none()
            && let Err(error) = self.log.sync()
        {
            tracing::error!(%error, "the store's last writes may be lost");
        }
    }

    fn write_round(&mut self, round: Vec<Write>) -> Written {
        let result = match &self.failure {
            Some((kind, failure)) => Err(io::Error::new(*kind, failure.clone())),
            None => self.write_all(&round),
        };
        // Even after a failure everyone who waits must be told.
        let waiting = round.into_iter().filter_map(Waiting::of).collect();
        Written { waiting, result }
    }

    /// Syncs a round, if anybody waits for it, and tells those who do.
    fn complete(&mut self, written: Written) {
        let Written {
            waiting,
            mut result,
        } = written;
        if result.is_ok() && !waiting.is_empty() {
            result = self.log.sync();
        }
        self.note(&result);
        for waiting in waiting {
            waiting.tell(match &result {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            });
        }
        self.tidy();
    }

    /// What nobody waits for.
    fn tidy(&mut self) {
        if self.failure.is_some() {
            return;
        }
        if std::mem::take(&mut self.purged) {
            let released = self.log.release();
            self.note(&released);
        }
        if let Err(error) = self.log.prepare() {
            tracing::warn!(%error, "no room for the log's next segment yet");
        }
    }

    fn note(&mut self, result: &io::Result<()>) {
        if let Err(error) = result
            && self.failure.is_none()
        {
            tracing::error!(%error, "the store failed; nothing more is written to it");
            self.failure = Some((error.kind(), error.to_string()));
        }
    }

    /// Writes a round in order: to the log in as few pieces as possible.
    fn write_all(&mut self, round: &[Write]) -> io::Result<()> {
        for part in round.chunk_by(|before, _| !matches!(before, Write::Snapshot { .. })) {
            let records: Vec<Record<'_>> = part.iter().flat_map(Write::records).collect();
            self.log.append(&records)?;
            self.written(part);
            // A snapshot ends its part.
            if let Some(Write::Snapshot { meta, state, .. }) = part.last() {
                self.put_snapshot(meta, state)?;
            }
            self.purged |= part
                .iter()
                .any(|write| matches!(write, Write::Purge { .. }));
        }
        Ok(())
    }

    /// Tells readers what can be read from the log now.
    fn written(&self, part: &[Write]) {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        for write in part {
            if let Write::Append { records, stamp, .. } = write {
                for (index, _) in records {
                    tail.written(*index, *stamp);
                }
            }
        }
        tail.forget();
    }

    fn put_snapshot(&mut self, meta: &SnapshotMeta, state: &[u8]) -> io::Result<()> {
        // A snapshot that was being built may come after a newer one from the leader.
        if meta.last_log_id < self.covered {
            return Ok(());
        }
        // No snapshot speaks of what the log could still forget, the vote above all.
        self.log.sync()?;
        self.generation += 1;
        snapshot::write(self.disk.as_ref(), meta, state, self.generation)?;
        self.covered = meta.last_log_id;
        Ok(())
    }
}
