//! sled under the store: keys, pieces, and what it takes to be durable.
//!
//! Decides how records are laid out. Never decides when to sync: the writer does.
//!
//! sled's `flush` ends in `sync_file_range`, which promises nothing about the drive's cache or
//! the file's metadata, and blobs are not synced at all. [`Disk::sync`] adds what is missing.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, File},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crate::{
    errors::{OpenError, StoreDamage},
    raft_types::SnapshotMeta,
    wire::v1::{self, SnapshotHeadV1},
};

/// Whose store this is.
pub(super) const OWNER: &[u8] = b"o";
/// Raft's vote.
pub(super) const VOTE: &[u8] = b"v";
/// The last entry known to be agreed.
pub(super) const COMMITTED: &[u8] = b"c";
/// The last purged entry.
pub(super) const PURGED: &[u8] = b"p";
/// The head of the stored snapshot.
const SNAPSHOT_HEAD: &[u8] = b"h";
/// First byte of the keys of log entries.
const ENTRY: u8 = b'l';
/// First byte of the keys of snapshot pieces.
const SNAPSHOT_PIECE: u8 = b's';

/// sled splits a leaf at more than 16 values and writes nodes above 128 KiB to files of their
/// own, which it does not sync. 17 pieces of 4 KiB stay well below.
const PIECE_BYTES: usize = 4096;
/// sled's page cache. The log is read once, soon after it is written; more would be waste.
const CACHE_BYTES: u64 = 1024 * 1024;

/// How long sled's threads may hold its file after its last handle is gone.
const SLED_LOCK_WAIT: Duration = Duration::from_secs(3);
/// How often sled's lock is tried meanwhile.
const SLED_LOCK_POLL: Duration = Duration::from_millis(5);

/// The database and the descriptors that make it durable.
pub(super) struct Disk {
    db: sled::Db,
    dir: PathBuf,
    /// A second descriptor of sled's only data file.
    data: File,
    blobs_synced: Mutex<BTreeSet<OsString>>,
    /// Held while the snapshot is replaced or read, so that nobody reads half of each.
    snapshot_gate: Mutex<()>,
}

/// A snapshot as found on disk.
pub(crate) struct StoredSnapshot {
    pub(crate) meta: SnapshotMeta,
    pub(crate) state: Vec<u8>,
    pub(crate) generation: u64,
}

impl Disk {
    /// Opens or creates the database below `dir`, whose lock the caller holds.
    pub(super) fn open(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join("sled");
        drop_unfinished_snapshots(&path).map_err(OpenError::Io)?;
        let db = open_sled(&path)?;
        let data = File::open(path.join("db")).map_err(OpenError::Io)?;
        let disk = Self {
            db,
            dir: path,
            data,
            blobs_synced: Mutex::default(),
            snapshot_gate: Mutex::default(),
        };
        disk.sync_names(dir).map_err(OpenError::Io)?;
        Ok(disk)
    }

    /// Makes the existence of sled's files durable.
    fn sync_names(&self, parent: &Path) -> io::Result<()> {
        File::open(self.dir.join("conf"))?.sync_all()?;
        self.data.sync_all()?;
        for dir in [&self.dir.join("blobs"), &self.dir, parent] {
            File::open(dir)?.sync_all()?;
        }
        // The directory above must name ours; it may not be ours to open.
        match parent.parent().map(File::open) {
            Some(Ok(above)) => above.sync_all(),
            Some(Err(_)) | None => Ok(()),
        }
    }

    pub(super) fn apply(&self, batch: sled::Batch) -> io::Result<()> {
        unpanicked(|| self.db.apply_batch(batch).map_err(io::Error::from))
    }

    /// Returns when everything applied so far is on the drive.
    pub(super) fn sync(&self) -> io::Result<()> {
        unpanicked(|| self.db.flush().map_err(io::Error::from))?;
        self.sync_blobs()?;
        self.data.sync_data()
    }

    /// Syncs large values that sled put into files of their own. There should be none.
    fn sync_blobs(&self) -> io::Result<()> {
        let blobs = self.dir.join("blobs");
        let mut synced = self
            .blobs_synced
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut present = BTreeSet::new();
        let mut fresh = false;
        for blob in fs::read_dir(&blobs)? {
            let name = blob?.file_name();
            if !synced.contains(&name) {
                File::open(blobs.join(&name))?.sync_all()?;
                fresh = true;
            }
            present.insert(name);
        }
        if fresh {
            File::open(&blobs)?.sync_all()?;
        }
        *synced = present;
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.db.is_empty()
    }

    pub(super) fn value(&self, key: &[u8]) -> Result<Option<sled::IVec>, StoreDamage> {
        self.db
            .get(key)
            .map_err(|error| StoreDamage::Database(error.to_string()))
    }

    /// Gives every entry record with `first <= index < end`, in order.
    pub(super) fn for_each_record(
        &self,
        first: u64,
        end: u64,
        mut visit: impl FnMut(u64, &[u8]) -> Result<(), StoreDamage>,
    ) -> Result<(), StoreDamage> {
        let mut record = Vec::new();
        let mut current = None;
        for pair in self.db.range(entry_key(first, 0)..entry_key(end, 0)) {
            let (key, piece) = pair.map_err(|error| StoreDamage::Database(error.to_string()))?;
            let index = entry_index(&key)?;
            if let Some(before) = current
                && before != index
            {
                visit(before, &record)?;
                record.clear();
            }
            current = Some(index);
            record.extend_from_slice(&piece);
        }
        current.map_or(Ok(()), |index| visit(index, &record))
    }

    /// Adds the removal of every entry with `first <= index < end` to a batch.
    pub(super) fn remove_entries(
        &self,
        first: u64,
        end: u64,
        batch: &mut sled::Batch,
    ) -> io::Result<()> {
        for key in self.db.range(entry_key(first, 0)..entry_key(end, 0)).keys() {
            batch.remove(key.map_err(io::Error::from)?);
        }
        Ok(())
    }

    /// Reads the stored snapshot and checks all of it.
    pub(super) fn snapshot(&self) -> Result<Option<StoredSnapshot>, StoreDamage> {
        let _gate = self
            .snapshot_gate
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(head) = self.value(SNAPSHOT_HEAD)? else {
            return Ok(None);
        };
        let head: SnapshotHeadV1 = v1::open_record("the snapshot's head", &head)?;
        let mut state = Vec::new();
        for pair in self.db.scan_prefix(snapshot_prefix(head.generation)) {
            let (_, piece) = pair.map_err(|error| StoreDamage::Database(error.to_string()))?;
            state.extend_from_slice(&piece);
        }
        if u64::try_from(state.len()) != Ok(head.bytes) || crc32fast::hash(&state) != head.crc {
            return Err(StoreDamage::Checksum("the snapshot".to_owned()));
        }
        let meta = SnapshotMeta::try_from(head.meta).map_err(StoreDamage::Undecodable)?;
        Ok(Some(StoredSnapshot {
            meta,
            state,
            generation: head.generation,
        }))
    }

    /// Replaces the stored snapshot.
    pub(super) fn put_snapshot(
        &self,
        meta: &SnapshotMeta,
        state: &[u8],
        generation: u64,
    ) -> io::Result<()> {
        let _gate = self
            .snapshot_gate
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut batch = sled::Batch::default();
        for key in self.db.scan_prefix([SNAPSHOT_PIECE]).keys() {
            batch.remove(key.map_err(io::Error::from)?);
        }
        for (number, piece) in (0u32..).zip(state.chunks(PIECE_BYTES)) {
            let mut key = snapshot_prefix(generation).to_vec();
            key.extend_from_slice(&number.to_be_bytes());
            batch.insert(key, piece);
        }
        let bytes = u64::try_from(state.len()).expect("a length fits into 64 bits");
        let crc = crc32fast::hash(state);
        let head = SnapshotHeadV1 {
            meta: meta.into(),
            generation,
            bytes,
            crc,
        };
        batch.insert(SNAPSHOT_HEAD, v1::record(&head));
        self.apply(batch)
    }
}

/// Opens sled. Its own lock may outlast its handles for a moment, because its threads hold
/// the file too; ours is held already, so nobody else can be in there.
pub(super) fn open_sled(path: &Path) -> Result<sled::Db, OpenError> {
    let damaged = |why: String| Err(OpenError::Damaged(StoreDamage::Database(why)));
    let deadline = Instant::now() + SLED_LOCK_WAIT;
    loop {
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None);
        // sled panics on some kinds of corruption instead of reporting them.
        return match catch_unwind(AssertUnwindSafe(|| config.open())) {
            Ok(Ok(db)) => Ok(db),
            Ok(Err(sled::Error::Io(error))) if is_lock(&error) && Instant::now() < deadline => {
                thread::sleep(SLED_LOCK_POLL);
                continue;
            }
            Ok(Err(sled::Error::Io(error))) => Err(OpenError::Io(error)),
            Ok(Err(error)) => damaged(error.to_string()),
            Err(_) => damaged("sled panicked while opening it".to_owned()),
        };
    }
}

/// Makes an error of a panic: sled asserts where it could report, and whoever waits for the
/// disk must be told.
fn unpanicked<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let panicked = |_| Err(io::Error::other("sled panicked"));
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(panicked)
}

/// Whether sled means its lock; it has no kind of its own for that.
fn is_lock(error: &io::Error) -> bool {
    error.to_string().starts_with("could not acquire lock")
}

/// Adds an entry's record to a batch, in pieces.
pub(super) fn put_entry(batch: &mut sled::Batch, index: u64, record: &[u8]) {
    for (number, piece) in (0u16..).zip(record.chunks(PIECE_BYTES)) {
        batch.insert(&entry_key(index, number), piece);
    }
}

/// Piece numbers have 16 bits, so a record of this size still fits.
pub(super) const RECORD_BYTES_MAX: usize = PIECE_BYTES * u16::MAX as usize;

fn entry_key(index: u64, piece: u16) -> [u8; 11] {
    let mut key = [ENTRY; 11];
    key[1..9].copy_from_slice(&index.to_be_bytes());
    key[9..].copy_from_slice(&piece.to_be_bytes());
    key
}

fn entry_index(key: &[u8]) -> Result<u64, StoreDamage> {
    let index = key.get(1..9).and_then(|bytes| bytes.try_into().ok());
    let index = index.ok_or_else(|| StoreDamage::Undecodable("a log key".to_owned()))?;
    Ok(u64::from_be_bytes(index))
}

fn snapshot_prefix(generation: u64) -> [u8; 9] {
    let mut key = [SNAPSHOT_PIECE; 9];
    key[1..].copy_from_slice(&generation.to_be_bytes());
    key
}

/// A crash while sled writes its index leaves a partial `snap.*.generating`, which the next
/// start would take for the newest index and refuse. The finished one before it is still there.
fn drop_unfinished_snapshots(path: &Path) -> io::Result<()> {
    let files = match fs::read_dir(path) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for file in files {
        let file = file?;
        let name = file.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(file.path())?;
        }
    }
    Ok(())
}
