//! The log and the vote, as openraft wants them.
//!
//! Decides what a reader sees: an entry is readable as soon as it is queued. Never waits for
//! the disk except for a vote.
//!
//! Invariant: entries that the writer has not yet put into the database are a suffix of the
//! log, and they are all in [`Tail::pending`].

use std::{
    collections::BTreeMap,
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use openraft::{
    LogState, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};
use tokio::sync::{mpsc, oneshot};

use super::{
    decode_entry,
    disk::{Disk, RECORD_BYTES_MAX, StoredSnapshot},
    invalid,
    writer::Write,
};
use crate::{
    raft_types::{LogEntry, LogId, SnapshotMeta, Types, Vote},
    wire::v1::{self, EntryV1, LogIdV1, VoteV1},
};

/// Record bytes read for one append request, so that messages stay small with large entries.
const READ_BYTES_MAX: usize = 1024 * 1024;

/// The log's bounds and what is not yet in the database.
pub(super) struct Tail {
    purged: Option<LogId>,
    last: Option<LogId>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    /// The first entry, or where it will be.
    first: u64,
    pending: BTreeMap<u64, (u64, Arc<[u8]>)>,
    stamp: u64,
}

impl Tail {
    pub(super) fn new(
        purged: Option<LogId>,
        last: Option<LogId>,
        vote: Option<Vote>,
        committed: Option<LogId>,
    ) -> Self {
        let first = purged.map_or(0, |purged| purged.index + 1);
        Self {
            purged,
            last,
            vote,
            committed,
            first,
            pending: BTreeMap::new(),
            stamp: 0,
        }
    }

    /// Entry `index` is in the database, unless it was replaced since `stamp`.
    pub(super) fn written(&mut self, index: u64, stamp: u64) {
        if self
            .pending
            .get(&index)
            .is_some_and(|(newest, _)| *newest == stamp)
        {
            self.pending.remove(&index);
        }
    }

    fn end(&self) -> u64 {
        self.last.map_or(0, |last| last.index + 1)
    }
}

/// A handle on the store; clones share everything.
#[derive(Clone)]
pub(crate) struct LogStore {
    tail: Arc<Mutex<Tail>>,
    disk: Arc<Disk>,
    queue: mpsc::Sender<Write>,
}

impl LogStore {
    pub(super) fn new(tail: Tail, disk: Arc<Disk>, queue: mpsc::Sender<Write>) -> Self {
        Self {
            tail: Arc::new(Mutex::new(tail)),
            disk,
            queue,
        }
    }

    pub(super) fn tail(&self) -> Arc<Mutex<Tail>> {
        Arc::clone(&self.tail)
    }

    fn lock(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write(&self, write: Write) -> io::Result<()> {
        self.queue
            .send(write)
            .await
            .map_err(|_| io::Error::other("the store is closed"))
    }

    /// Stores a snapshot durably.
    pub(super) async fn put_snapshot(&self, meta: SnapshotMeta, state: Vec<u8>) -> io::Result<()> {
        let (done, durable) = oneshot::channel();
        self.write(Write::Snapshot { meta, state, done }).await?;
        durable
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the store is closed")))
    }

    pub(super) fn snapshot(&self) -> io::Result<Option<StoredSnapshot>> {
        self.disk.snapshot().map_err(invalid)
    }

    /// Reads `first <= index < end` as far as the log has it, but no more than `bytes_max`
    /// after the first entry. The lock is held throughout, so the writer cannot move an entry
    /// between the two places while they are looked at.
    fn read(&self, first: u64, end: u64, bytes_max: usize) -> io::Result<Vec<LogEntry>> {
        let tail = self.lock();
        let first = first.max(tail.first);
        let end = end.min(tail.end());
        let mut entries = Vec::new();
        if first >= end {
            return Ok(entries);
        }
        let mut bytes = 0;
        let mut next = first;
        let mut take = |index: u64, record: &[u8]| {
            bytes += record.len();
            if next == index && (entries.is_empty() || bytes <= bytes_max) {
                entries.push(decode_entry(index, record)?);
                next += 1;
            }
            Ok(())
        };
        let pending_first = tail.pending.keys().next().copied().unwrap_or(u64::MAX);
        let stored_end = end.min(pending_first);
        if first < stored_end {
            self.disk
                .for_each_record(first, stored_end, &mut take)
                .map_err(invalid)?;
        }
        for (index, (_, record)) in tail.pending.range(first..end) {
            take(*index, record).map_err(invalid)?;
        }
        if next < end && bytes <= bytes_max {
            return Err(io::Error::other(format!("log entry {next} is missing")));
        }
        Ok(entries)
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> Result<Vec<LogEntry>, io::Error> {
        let first = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index.saturating_add(1),
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        self.read(first, end, usize::MAX)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<LogEntry>, io::Error> {
        self.read(start, end, READ_BYTES_MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.lock().vote)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let tail = self.lock();
        Ok(LogState {
            last_purged_log_id: tail.purged,
            last_log_id: tail.last,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (done, durable) = oneshot::channel();
        let record = v1::record(&VoteV1::from(vote));
        self.write(Write::Vote { record, done }).await?;
        durable
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the store is closed")))?;
        self.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.lock().committed = committed;
        match committed {
            Some(id) => {
                self.write(Write::Committed {
                    record: v1::record(&LogIdV1::from(&id)),
                })
                .await
            }
            None => Ok(()),
        }
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = LogEntry> + Send,
        I::IntoIter: Send,
    {
        let mut records: Vec<(u64, Arc<[u8]>)> = Vec::new();
        let mut last = None;
        for entry in entries {
            let record = v1::record(&EntryV1::from(&entry));
            if record.len() > RECORD_BYTES_MAX {
                return Err(io::Error::other("an entry is too large for the store"));
            }
            records.push((entry.log_id.index, record.into()));
            last = Some(entry.log_id);
        }
        let stamp = {
            let mut tail = self.lock();
            tail.stamp += 1;
            let stamp = tail.stamp;
            if let (None, Some((first, _))) = (tail.last, records.first()) {
                tail.first = *first;
            }
            let pending = records
                .iter()
                .map(|(index, record)| (*index, (stamp, record.clone())));
            tail.pending.extend(pending);
            tail.last = last.or(tail.last);
            stamp
        };
        self.write(Write::Append {
            records,
            stamp,
            done: callback,
        })
        .await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let from = last_log_id.map_or(0, |last| last.index + 1);
        {
            let mut tail = self.lock();
            if from >= tail.end() {
                return Ok(());
            }
            tail.pending.split_off(&from);
            tail.last = last_log_id.max(tail.purged);
        }
        self.write(Write::Truncate { from }).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        {
            let mut tail = self.lock();
            tail.purged = Some(log_id);
            tail.first = log_id.index + 1;
            tail.pending = tail.pending.split_off(&(log_id.index + 1));
            if tail.last.is_none_or(|last| last.index <= log_id.index) {
                tail.last = Some(log_id);
            }
        }
        let record = v1::record(&LogIdV1::from(&log_id));
        self.write(Write::Purge {
            upto: log_id.index,
            record,
        })
        .await
    }
}
