//! What a log is after a crash.
//!
//! Decides what a crash may have left and what must be damage. Never changes a damaged log.
//!
//! Frames that were never synced may be on the drive in any part: the second without the first, a
//! page in the middle of one missing. So a frame that is not whole, in the last segment, ends the
//! log, and whole frames behind it do not count, unless one of them says that the broken one was
//! durable when it was written. Then an acknowledged frame was damaged later. In any other
//! segment every frame was synced before the next segment began.
//!
//! What recovery keeps it writes once more and syncs, as far as it is not known to have been
//! synced. A failed sync leaves pages in the kernel's cache that can be read, count as clean and
//! never reach the drive.

use std::{io, sync::Arc};

use crate::{
    Disk, DiskFile,
    index::{Index, Place},
    log::{Active, SEGMENT_PREFIX, position, segment_name},
    wire::v1::{self, ALIGNMENT, FRAME_HEAD_BYTES, Frame, HEAD_BYTES, Head},
};

/// The number of no segment's first frame is above this: at a million frames a second it would be
/// reached after three hundred thousand years, and as many are left to be counted.
const FRAMES_MAX: u64 = 1 << 63;

/// Why a log's content cannot be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// A frame that was durable is not whole any more.
    #[error("segment {segment} of the log is damaged at byte {offset}")]
    Frame {
        /// The segment.
        segment: u64,
        /// Where the frame begins.
        offset: usize,
    },
    /// The head of a segment cannot be read.
    #[error("the head of segment {segment} of the log is damaged")]
    Head {
        /// The segment.
        segment: u64,
    },
    /// A segment was written by a newer release.
    #[error("segment {segment} of the log has format {version}, this release reads format 1")]
    Version {
        /// The segment.
        segment: u64,
        /// Its version byte.
        version: u8,
    },
    /// A segment between others is not there.
    #[error("segment {segment} of the log is missing")]
    Segment {
        /// The segment.
        segment: u64,
    },
    /// The head of a segment and what is before it contradict each other.
    #[error("segment {segment} of the log does not continue the one before it")]
    Contradiction {
        /// The segment.
        segment: u64,
    },
    /// A frame is whole but makes no sense.
    #[error("segment {segment} of the log says nonsense at byte {offset}")]
    Nonsense {
        /// The segment.
        segment: u64,
        /// Where the frame begins.
        offset: usize,
    },
    /// Entries that were never purged are not there.
    #[error("the log's entries from {first} on are missing")]
    Entries {
        /// The first that is missing.
        first: u64,
    },
}

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log is another owner's.
    #[error("the log belongs to another owner")]
    OtherOwner {
        /// Who the log says it belongs to.
        found: Vec<u8>,
    },
    /// The log's content cannot be trusted.
    #[error("the log is damaged")]
    Damaged(#[source] Damage),
    /// The disk refused.
    #[error("the log could not be opened")]
    Io(#[from] io::Error),
}

/// A log as it is after opening.
pub(crate) struct Recovered {
    pub(crate) index: Index,
    pub(crate) active: Active,
    pub(crate) number: u64,
}

impl Recovered {
    /// A log that was just made.
    pub(crate) fn empty(active: Active) -> Self {
        let mut index = Index::default();
        index.files.insert(active.segment, Arc::clone(&active.file));
        Self {
            index,
            active,
            number: 0,
        }
    }
}

/// Reads the whole log; `None` if there is none.
pub(crate) fn recover(disk: &dyn Disk, owner: &[u8]) -> Result<Option<Recovered>, OpenError> {
    let segments = segments(disk)?;
    let Some((&last, _)) = segments.split_last() else {
        return Ok(None);
    };
    let mut replay = Replay::default();
    let mut active = None;
    // One buffer for all: the system gets it back as a whole.
    let mut bytes = Vec::new();
    for segment in segments {
        let file = disk.open(&segment_name(segment))?;
        bytes.resize(usize::try_from(file.bytes()?).map_err(io::Error::other)?, 0);
        file.read_at(&mut bytes, 0)?;
        let head = Head::decode(segment, &bytes).map_err(OpenError::Damaged)?;
        if head.owner != owner {
            let found = head.owner;
            return Err(OpenError::OtherOwner { found });
        }
        replay.begin(head).map_err(OpenError::Damaged)?;
        let read = replay.frames(&bytes).map_err(OpenError::Damaged)?;
        if segment == last {
            replay.check_whole().map_err(OpenError::Damaged)?;
            // From here on the log is sound, and may be written to.
            disk.sync_dir()?;
            let torn = later_frames(segment, &read, &bytes).map_err(OpenError::Damaged)?;
            make_durable(file.as_ref(), &read, &bytes, torn)?;
            active = Some(Active {
                segment,
                file: Arc::clone(&file),
                offset: read.end,
            });
        }
        replay.index.files.insert(segment, file);
    }
    Ok(active.map(|active| Recovered {
        index: replay.index,
        active,
        number: replay.number,
    }))
}

/// The segments that there are, in order and without gaps.
fn segments(disk: &dyn Disk) -> Result<Vec<u64>, OpenError> {
    let numbers = disk.list()?.into_iter().filter_map(|name| {
        let number = name.strip_prefix(SEGMENT_PREFIX)?.parse().ok()?;
        (segment_name(number) == name).then_some(number)
    });
    let mut numbers: Vec<u64> = numbers.collect();
    numbers.sort_unstable();
    for pair in numbers.windows(2) {
        if pair[0] + 1 != pair[1] {
            let segment = pair[0] + 1;
            return Err(OpenError::Damaged(Damage::Segment { segment }));
        }
    }
    Ok(numbers)
}

/// The log as far as it was read.
#[derive(Default)]
struct Replay {
    index: Index,
    segment: u64,
    number: u64,
    /// Where the frames of the present segment end.
    end: usize,
}

/// What one segment holds.
struct Read {
    /// Where its frames end.
    end: usize,
    /// The number that the next frame would have.
    next: u64,
    /// The first byte that is not known to be durable.
    doubtful: usize,
}

impl Replay {
    fn begin(&mut self, head: Head) -> Result<(), Damage> {
        let segment = head.segment;
        if self.segment == 0 {
            if head.frame == 0 || head.frame > FRAMES_MAX || head.first > head.end {
                return Err(Damage::Head { segment });
            }
            self.number = head.frame - 1;
            self.index = Index::beginning(head.first, head.end, head.marks);
        } else if head.frame != self.number + 1 {
            return Err(Damage::Frame {
                segment: self.segment,
                offset: self.end,
            });
        } else if (head.first, head.end, &head.marks)
            != (self.index.first, self.index.end, &self.index.marks)
        {
            return Err(Damage::Contradiction { segment });
        }
        self.segment = segment;
        Ok(())
    }

    fn frames(&mut self, bytes: &[u8]) -> Result<Read, Damage> {
        let segment = self.segment;
        let mut offset = HEAD_BYTES;
        // The segment was begun when everything before it was durable.
        let mut durable = self.number;
        let mut starts = Vec::new();
        while let Some(frame) = v1::frame_at(segment, offset, bytes)
            && frame.number == self.number + 1
        {
            self.note(offset, &frame)?;
            self.number = frame.number;
            durable = durable.max(frame.durable);
            starts.push((frame.number, offset));
            let end = offset + FRAME_HEAD_BYTES + frame.records.len();
            offset = end.next_multiple_of(ALIGNMENT);
        }
        self.end = offset;
        let doubtful = starts.into_iter().find(|(number, _)| *number > durable);
        Ok(Read {
            end: offset,
            next: self.number + 1,
            doubtful: doubtful.map_or(offset, |(_, start)| start),
        })
    }

    fn note(&mut self, offset: usize, frame: &Frame<'_>) -> Result<(), Damage> {
        let segment = self.segment;
        let mut fits = true;
        let understood = v1::each_record(frame.records, |at, record| {
            let place = Place {
                segment,
                offset: position(offset + FRAME_HEAD_BYTES + at),
                bytes: frame.records.len().min(content_bytes(&record)),
            };
            fits &= self.index.note(&record, place);
        });
        if fits && understood.is_some() {
            Ok(())
        } else {
            Err(Damage::Nonsense { segment, offset })
        }
    }

    fn check_whole(&self) -> Result<(), Damage> {
        match self.index.missing() {
            Some(first) => Err(Damage::Entries { first }),
            None => Ok(()),
        }
    }
}

fn content_bytes(record: &crate::Record<'_>) -> usize {
    match record {
        crate::Record::Entry { bytes, .. } => bytes.len(),
        crate::Record::Vote(_)
        | crate::Record::Committed { .. }
        | crate::Record::Truncate { .. }
        | crate::Record::Purge { .. } => 0,
    }
}

/// Whether whole frames lie behind the end of the last segment.
///
/// # Errors
/// When one of them proves that what should be at the end was durable.
fn later_frames(segment: u64, read: &Read, bytes: &[u8]) -> Result<bool, Damage> {
    let room = bytes.len().saturating_sub(read.end) / ALIGNMENT;
    let number_max = read.next.saturating_add(position(room));
    let mut found = false;
    for offset in (read.end..bytes.len()).step_by(ALIGNMENT) {
        if !v1::plausible_at(offset, bytes, read.next, number_max) {
            continue;
        }
        let Some(frame) = v1::frame_at(segment, offset, bytes) else {
            continue;
        };
        if frame.durable >= read.next {
            let offset = read.end;
            return Err(Damage::Frame { segment, offset });
        }
        found = true;
    }
    Ok(found)
}

fn make_durable(file: &dyn DiskFile, read: &Read, bytes: &[u8], torn: bool) -> io::Result<()> {
    if torn {
        // A frame that does not count must not count again because a new one ends before it.
        file.write_at(&vec![0; bytes.len() - read.end], position(read.end))?;
    }
    // The zeroes behind the last frame may be missing: no checksum is over them.
    let end = read.end.min(bytes.len());
    if read.doubtful < end {
        file.write_at(&bytes[read.doubtful..end], position(read.doubtful))?;
    }
    if torn || read.doubtful < end {
        file.sync_data()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Log, Marks, Options, Record, simulation::SimDisk};

    const OPTIONS: Options = Options {
        segment_bytes: 3 * HEAD_BYTES,
    };

    fn head() -> Head {
        Head {
            segment: 1,
            frame: 1,
            first: 0,
            end: 0,
            owner: b"me".to_vec(),
            marks: Marks::default(),
        }
    }

    /// Opens a disk with one segment.
    fn opened(bytes: &[u8]) -> Result<Log, OpenError> {
        let disk = SimDisk::new();
        let file = disk.create(&segment_name(1)).unwrap();
        file.write_at(bytes, 0).unwrap();
        Log::open(Arc::new(disk), OPTIONS, b"me")
    }

    fn frame(number: u64) -> Vec<u8> {
        let mut frame = v1::begin_frame();
        v1::put_record(&mut frame, &Record::Vote(b"vote"));
        v1::seal(&mut frame, 1, HEAD_BYTES, number, number - 1);
        frame
    }

    #[test]
    fn a_segment_that_ends_before_the_zeroes_behind_its_last_frame_is_whole() {
        let mut segment = [head().encode(), frame(1)].concat();
        assert_eq!(segment.pop(), Some(0), "the frame needs no zeroes");
        let mut log = opened(&segment).unwrap();
        assert_eq!(log.marks().vote.as_deref(), Some(&b"vote"[..]));
        let entry = Record::Entry {
            index: 0,
            bytes: b"entry",
        };
        log.append(&[entry]).unwrap();
        log.sync().unwrap();
        let read = log.reader().read(0).unwrap();
        assert_eq!(read.as_deref(), Some(&b"entry"[..]));
    }

    #[test]
    fn numbers_that_no_log_has_are_damage() {
        let nothing = Head { frame: 0, ..head() };
        let last = Head {
            frame: u64::MAX,
            ..head()
        };
        let backwards = Head { first: 1, ..head() };
        for segment in [
            nothing.encode(),
            [last.encode(), frame(u64::MAX)].concat(),
            backwards.encode(),
        ] {
            let refused = opened(&segment).unwrap_err();
            assert!(matches!(refused, OpenError::Damaged(_)), "{refused:?}");
        }
    }
}
