//! The log as its one writer sees it.
//!
//! Decides which bytes go where, when a segment is full, and which segments are no longer needed.
//! Never writes again after a failed call. Never reads what it wrote: [`Reader`] does.
//!
//! A segment has its full size before its first frame is written, and zeroes in it, so that
//! `fdatasync` finds nothing to do but the data: neither a new length nor a block that the
//! filesystem has to mark as written. The file for the next segment is filled bit by bit while the
//! present one is in use ([`Log::prepare`]), or is one that was purged.

use std::{fmt, io, sync::Arc};

use crate::{
    Disk, DiskFile, Marks, OpenError, Reader, Record,
    index::{Place, Shared},
    recovery::{self, Recovered},
    wire::v1::{self, ALIGNMENT, FRAME_HEAD_BYTES, HEAD_BYTES, Head, MARK_BYTES_MAX},
};

/// Large enough that a new segment is rare (20,000 small commands), small enough that a server
/// with little to remember needs little room and a slow card is filled in a moment.
const SEGMENT_BYTES: usize = 4 * 1024 * 1024;
/// What one call of [`Log::prepare`] writes: a fraction of a millisecond on a disk of today.
const PREPARED_BYTES: usize = 256 * 1024;
/// Zeroes that are written with one call.
const ZEROES_BYTES: usize = 16 * 1024;
/// A frame takes at most this part of a segment, unless it holds a single record, so that little
/// is left over where the next one does not fit.
const FRAMES_PER_SEGMENT_MIN: usize = 4;
/// The file that becomes the next segment.
pub(crate) const SPARE: &str = "spare";
/// What the names of segments begin with.
pub(crate) const SEGMENT_PREFIX: &str = "log-";

/// How a log is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The size of a segment; a multiple of 4096, and at least three times that.
    pub segment_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: SEGMENT_BYTES,
        }
    }
}

impl Options {
    /// The largest content of a single record.
    pub fn record_bytes_max(&self) -> usize {
        self.segment_bytes
            - HEAD_BYTES
            - FRAME_HEAD_BYTES
            - v1::RECORD_HEAD_BYTES
            - v1::INDEX_BYTES
            - ALIGNMENT
    }
}

/// The segment that is being written.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) segment: u64,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Where the next frame goes.
    pub(crate) offset: usize,
}

/// The file for the next segment, as far as it is made.
#[derive(Debug, Default)]
struct Spare {
    file: Option<Arc<dyn DiskFile>>,
    filled: usize,
    /// The disk refused; no more is tried until the file is needed.
    refused: bool,
}

/// An open log. One instance writes; [`Reader`]s may be anywhere.
pub struct Log {
    disk: Arc<dyn Disk>,
    options: Options,
    owner: Vec<u8>,
    shared: Shared,
    active: Active,
    /// The last frame that was written, and the last that is known to be on the drive.
    number: u64,
    durable: u64,
    spare: Spare,
    failure: Option<(io::ErrorKind, String)>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("active", &self.active)
            .field("number", &self.number)
            .field("durable", &self.durable)
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

impl Log {
    /// Opens or makes the log of `owner` and checks all of it. What it finds is durable when it
    /// returns.
    ///
    /// # Errors
    /// When the log is another owner's or damaged, or the disk refuses. Nothing is changed then.
    pub fn open(disk: Arc<dyn Disk>, options: Options, owner: &[u8]) -> Result<Self, OpenError> {
        assert!(
            options.segment_bytes >= 3 * HEAD_BYTES
                && options.segment_bytes.is_multiple_of(HEAD_BYTES)
                && u32::try_from(options.segment_bytes).is_ok(),
            "the size of a segment is a sensible constant"
        );
        assert!(owner.len() <= MARK_BYTES_MAX, "an owner is a short name");
        let mut spare = Spare::default();
        let recovered = match recovery::recover(disk.as_ref(), owner)? {
            Some(recovered) => recovered,
            None => {
                let head = Head {
                    segment: 1,
                    frame: 1,
                    first: 0,
                    end: 0,
                    owner: owner.to_vec(),
                    marks: Marks::default(),
                };
                let active = spare.become_segment(disk.as_ref(), options.segment_bytes, &head)?;
                Recovered::empty(active)
            }
        };
        let Recovered {
            index,
            active,
            number,
        } = recovered;
        Ok(Self {
            disk,
            options,
            owner: owner.to_vec(),
            shared: Shared::new(index),
            active,
            number,
            durable: number,
            spare,
            failure: None,
        })
    }

    /// Whether there is a log, sound or not.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn exists(disk: &dyn Disk) -> io::Result<bool> {
        let names = disk.list()?;
        Ok(names.iter().any(|name| name.starts_with(SEGMENT_PREFIX)))
    }

    /// What there is only one of, as far as it was appended.
    pub fn marks(&self) -> Marks {
        self.shared.lock().marks.clone()
    }

    /// The first entry, or where it will be, and where the next one goes.
    pub fn bounds(&self) -> (u64, u64) {
        let index = self.shared.lock();
        (index.first, index.end)
    }

    /// Reads entries.
    pub fn reader(&self) -> Reader {
        Reader::new(self.shared.clone())
    }

    /// Adds records. They are durable after the next successful [`sync`](Self::sync); until then
    /// a crash keeps some first part of them.
    ///
    /// # Errors
    /// When the disk refuses, or a record is too large or out of order. The log takes nothing
    /// more then.
    pub fn append(&mut self, records: &[Record<'_>]) -> io::Result<()> {
        self.unless_failed(|log| log.append_frames(records))
    }

    /// Returns when everything appended is on the drive.
    ///
    /// # Errors
    /// When that is not known to be so. The log takes nothing more then.
    pub fn sync(&mut self) -> io::Result<()> {
        self.unless_failed(Self::sync_active)
    }

    /// Gives back the room of what is no longer needed. Before that, what was appended is synced.
    ///
    /// # Errors
    /// When the disk refuses. The log takes nothing more then.
    pub fn release(&mut self) -> io::Result<()> {
        self.unless_failed(Self::release_segments)
    }

    /// Does a part of the work for the next segment; best when nobody waits. Does nothing while
    /// the present one is far from full.
    ///
    /// # Errors
    /// When the disk refuses. The log is as good as before: what was refused will be tried again
    /// when it is needed.
    pub fn prepare(&mut self) -> io::Result<()> {
        let far = self.active.offset < self.options.segment_bytes / 2;
        let whole = self.spare.filled == self.options.segment_bytes;
        if far || whole || self.spare.refused || self.failure.is_some() {
            return Ok(());
        }
        let upto = self.spare.filled + PREPARED_BYTES;
        let upto = upto.min(self.options.segment_bytes);
        let prepared = self.spare.fill(self.disk.as_ref(), upto);
        let prepared = prepared.and_then(|file| file.sync_data());
        self.spare.refused = prepared.is_err();
        prepared
    }

    fn unless_failed(&mut self, work: impl FnOnce(&mut Self) -> io::Result<()>) -> io::Result<()> {
        if let Some((kind, failure)) = &self.failure {
            let failure = format!("the log failed before: {failure}");
            return Err(io::Error::new(*kind, failure));
        }
        let result = work(self);
        if let Err(error) = &result {
            self.failure = Some((error.kind(), error.to_string()));
        }
        result
    }

    fn append_frames(&mut self, records: &[Record<'_>]) -> io::Result<()> {
        let frame_bytes_max = (self.options.segment_bytes - HEAD_BYTES) / FRAMES_PER_SEGMENT_MIN;
        let mut rest = records;
        while !rest.is_empty() {
            let mut frame = v1::begin_frame();
            let mut taken = 0;
            for record in rest {
                self.check_size(record)?;
                let bytes = v1::record_bytes(record);
                if taken > 0 && frame.len() + bytes > frame_bytes_max {
                    break;
                }
                v1::put_record(&mut frame, record);
                taken += 1;
            }
            let (now, later) = rest.split_at(taken);
            self.append_frame(frame, now)?;
            rest = later;
        }
        Ok(())
    }

    fn check_size(&self, record: &Record<'_>) -> io::Result<()> {
        let (bytes, bytes_max) = match record {
            Record::Entry { bytes, .. } => (bytes.len(), self.options.record_bytes_max()),
            Record::Vote(bytes) | Record::Committed { bytes, .. } | Record::Purge { bytes, .. } => {
                (bytes.len(), MARK_BYTES_MAX)
            }
            Record::Truncate { .. } => (0, 0),
        };
        if bytes > bytes_max {
            let what = format!("a record of {bytes} bytes is too large for the log");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        Ok(())
    }

    fn append_frame(&mut self, mut frame: Vec<u8>, records: &[Record<'_>]) -> io::Result<()> {
        let bytes = frame.len().next_multiple_of(ALIGNMENT);
        if self.active.offset + bytes > self.options.segment_bytes {
            self.begin_segment()?;
        }
        let Active {
            segment, offset, ..
        } = self.active;
        let number = self.number + 1;
        v1::seal(&mut frame, segment, offset, number, self.durable);
        self.active.file.write_at(&frame, position(offset))?;
        self.number = number;
        self.active.offset += frame.len();
        // Only now can a reader find there what it looks for.
        let mut index = self.shared.lock();
        let mut at = offset + FRAME_HEAD_BYTES;
        for record in records {
            at += v1::record_bytes(record);
            let bytes = match record {
                Record::Entry { bytes, .. } => bytes.len(),
                Record::Vote(_)
                | Record::Committed { .. }
                | Record::Truncate { .. }
                | Record::Purge { .. } => 0,
            };
            let place = Place {
                segment,
                offset: position(at - bytes),
                bytes,
            };
            if !index.note(record, place) {
                let what = format!("{record:?} does not follow entry {}", index.end);
                return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
            }
        }
        Ok(())
    }

    fn sync_active(&mut self) -> io::Result<()> {
        if self.durable < self.number {
            self.active.file.sync_data()?;
            self.durable = self.number;
        }
        Ok(())
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        // A frame that is not whole is damage in any segment but the last.
        self.sync_active()?;
        let head = {
            let index = self.shared.lock();
            Head {
                segment: self.active.segment + 1,
                frame: self.number + 1,
                first: index.first,
                end: index.end,
                owner: self.owner.clone(),
                marks: index.marks.clone(),
            }
        };
        let bytes = self.options.segment_bytes;
        let active = self
            .spare
            .become_segment(self.disk.as_ref(), bytes, &head)?;
        let file = Arc::clone(&active.file);
        self.shared.lock().files.insert(active.segment, file);
        self.active = active;
        Ok(())
    }

    fn release_segments(&mut self) -> io::Result<()> {
        let needed = self.shared.lock().needed().unwrap_or(self.active.segment);
        let unneeded: Vec<u64> = {
            let index = self.shared.lock();
            let older = index.files.range(..needed.min(self.active.segment));
            older.map(|(segment, _)| *segment).collect()
        };
        if unneeded.is_empty() {
            return Ok(());
        }
        // The purge must not be forgotten when what it purged is gone.
        self.sync_active()?;
        for segment in unneeded {
            let Some(file) = self.shared.lock().files.remove(&segment) else {
                continue;
            };
            let name = segment_name(segment);
            if self.spare.file.is_none() {
                self.disk.rename(&name, SPARE)?;
                self.spare = Spare {
                    file: Some(file),
                    filled: self.options.segment_bytes,
                    refused: false,
                };
            } else {
                self.disk.remove(&name)?;
            }
            // One after the other: a later one must not be gone while an earlier one is there.
            self.disk.sync_dir()?;
        }
        Ok(())
    }
}

impl Spare {
    /// Fills the file with zeroes up to a size; gives it.
    fn fill(&mut self, disk: &dyn Disk, upto: usize) -> io::Result<Arc<dyn DiskFile>> {
        let file = match &self.file {
            Some(file) => Arc::clone(file),
            None => {
                // One that was left behind may be of another size.
                if disk.list()?.iter().any(|name| name == SPARE) {
                    disk.remove(SPARE)?;
                }
                self.filled = 0;
                Arc::clone(self.file.insert(disk.create(SPARE)?))
            }
        };
        let zeroes = [0; ZEROES_BYTES];
        while self.filled < upto {
            let bytes = ZEROES_BYTES.min(upto - self.filled);
            file.write_at(&zeroes[..bytes], position(self.filled))?;
            self.filled += bytes;
        }
        Ok(file)
    }

    /// Makes the file the segment that `head` describes. Once it has its name it has its head.
    fn become_segment(
        &mut self,
        disk: &dyn Disk,
        segment_bytes: usize,
        head: &Head,
    ) -> io::Result<Active> {
        let file = self.fill(disk, segment_bytes)?;
        *self = Self::default();
        file.write_at(&head.encode(), 0)?;
        file.sync_data()?;
        disk.rename(SPARE, &segment_name(head.segment))?;
        disk.sync_dir()?;
        Ok(Active {
            segment: head.segment,
            file,
            offset: HEAD_BYTES,
        })
    }
}

/// The name of a segment's file. Twenty digits, so that names sort as numbers do.
pub(crate) fn segment_name(segment: u64) -> String {
    format!("{SEGMENT_PREFIX}{segment:020}")
}

pub(crate) fn position(offset: usize) -> u64 {
    u64::try_from(offset).expect("an offset has at most 64 bits")
}
