//! The log and the vote, as openraft wants them.
//!
//! Decides what a reader sees: an entry is readable as soon as it is queued. Never waits for
//! the disk except for a vote.
//!
//! Invariant: the entries in [`Tail::recent`] are a suffix of the log, and those that the writer
//! has not yet written are among them.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use consensus_log::{Disk, Log, Options, Reader};
use openraft::{
    LogState, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};
use tokio::sync::{mpsc, oneshot};

use super::{
    decode_entry, invalid,
    snapshot::{self, StoredSnapshot},
    writer::Write,
};
use crate::{
    raft_types::{LogEntry, LogId, SnapshotMeta, Types, Vote},
    wire::v1::{self, EntryV1, LogIdV1, VoteV1},
};

/// Record bytes read for one append request, so that messages stay small with large entries.
const READ_BYTES_MAX: usize = 1024 * 1024;
/// Record bytes kept in memory once they are written: what followers that keep up are still to be
/// sent, and what is about to be applied.
const RECENT_BYTES_MAX: usize = 1024 * 1024;

/// The log's bounds and its newest entries.
pub(super) struct Tail {
    purged: Option<LogId>,
    last: Option<LogId>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    /// The first entry, or where it will be.
    first: u64,
    recent: BTreeMap<u64, Recent>,
    recent_bytes: usize,
    stamp: u64,
}

/// An entry's record that need not be read from the disk.
struct Recent {
    record: Arc<[u8]>,
    /// Tells it from another entry that had the same index.
    stamp: u64,
    written: bool,
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
            recent: BTreeMap::new(),
            recent_bytes: 0,
            stamp: 0,
        }
    }

    fn end(&self) -> u64 {
        self.last.map_or(0, |last| last.index + 1)
    }

    /// Adds entries at the end; gives their stamp.
    fn append(&mut self, records: &[(u64, Arc<[u8]>)], last: Option<LogId>) -> u64 {
        self.stamp += 1;
        if let (None, Some((first, _))) = (self.last, records.first()) {
            self.first = *first;
        }
        for (index, record) in records {
            self.recent_bytes += record.len();
            let recent = Recent {
                record: Arc::clone(record),
                stamp: self.stamp,
                written: false,
            };
            if let Some(before) = self.recent.insert(*index, recent) {
                self.recent_bytes -= before.record.len();
            }
        }
        self.last = last.or(self.last);
        self.stamp
    }

    /// Entry `index` is in the log, unless it was replaced since `stamp`.
    pub(super) fn written(&mut self, index: u64, stamp: u64) {
        if let Some(recent) = self.recent.get_mut(&index) {
            recent.written |= recent.stamp == stamp;
        }
    }

    /// Forgets the oldest of what is written where there is too much of it.
    pub(super) fn forget(&mut self) {
        while self.recent_bytes > RECENT_BYTES_MAX
            && let Some(oldest) = self.recent.first_entry()
            && oldest.get().written
        {
            self.recent_bytes -= oldest.remove().record.len();
        }
    }

    fn truncate(&mut self, from: u64, last: Option<LogId>) {
        let gone = self.recent.split_off(&from);
        self.recent_bytes -= bytes(&gone);
        self.last = last.max(self.purged);
    }

    fn purge(&mut self, upto: LogId) {
        self.purged = Some(upto);
        self.first = upto.index + 1;
        let kept = self.recent.split_off(&self.first);
        self.recent_bytes = bytes(&kept);
        self.recent = kept;
        if self.last.is_none_or(|last| last.index <= upto.index) {
            self.last = Some(upto);
        }
    }
}

fn bytes(recent: &BTreeMap<u64, Recent>) -> usize {
    recent.values().map(|recent| recent.record.len()).sum()
}

/// A handle on the store; clones share everything.
#[derive(Clone)]
pub(crate) struct LogStore {
    tail: Arc<Mutex<Tail>>,
    reader: Reader,
    record_bytes_max: usize,
    disk: Arc<dyn Disk>,
    queue: mpsc::Sender<Write>,
}

impl LogStore {
    pub(super) fn new(
        tail: Tail,
        (log, options): (&Log, Options),
        disk: Arc<dyn Disk>,
        queue: mpsc::Sender<Write>,
    ) -> Self {
        Self {
            tail: Arc::new(Mutex::new(tail)),
            reader: log.reader(),
            record_bytes_max: options.record_bytes_max(),
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
        snapshot::read(self.disk.as_ref())?.map_err(invalid)
    }

    /// Reads `first <= index < end` as far as the log has it, but no more than `bytes_max`
    /// after the first entry. The lock is held throughout: what is removed from the log was
    /// removed from the tail before.
    fn read(&self, first: u64, end: u64, bytes_max: usize) -> io::Result<Vec<LogEntry>> {
        let tail = self.lock();
        let mut entries = Vec::new();
        let mut bytes = 0;
        for index in first.max(tail.first)..end.min(tail.end()) {
            let record = match tail.recent.get(&index) {
                Some(recent) => Arc::clone(&recent.record),
                None => {
                    let missing = || io::Error::other(format!("log entry {index} is missing"));
                    self.reader.read(index)?.ok_or_else(missing)?.into()
                }
            };
            bytes += record.len();
            if !entries.is_empty() && bytes > bytes_max {
                break;
            }
            entries.push(decode_entry(index, &record).map_err(invalid)?);
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
        #[cfg(feature = "planted-bugs")]
        {
            use crate::simulation::{PlantedBug, planted};
            if planted(PlantedBug::VoteNotPersisted) {
                self.lock().vote = Some(*vote);
                return Ok(());
            }
        }
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
                    index: id.index,
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
            if record.len() > self.record_bytes_max {
                return Err(io::Error::other("an entry is too large for the store"));
            }
            records.push((entry.log_id.index, record.into()));
            last = Some(entry.log_id);
        }
        let stamp = self.lock().append(&records, last);
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
            tail.truncate(from, last_log_id);
        }
        self.write(Write::Truncate { from }).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.lock().purge(log_id);
        let record = v1::record(&LogIdV1::from(&log_id));
        self.write(Write::Purge {
            upto: log_id.index,
            record,
        })
        .await
    }
}
