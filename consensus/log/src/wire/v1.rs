//! Format 1 of segments.
//!
//! Decides which bytes mean what. Never reads or writes a file.
//!
//! A segment is a head of [`HEAD_BYTES`] and frames up to its fixed size; all numbers are little
//! endian. What lies after the last frame means nothing: zeroes, or what the file held before it
//! was used again.
//!
//! ```text
//! head   magic "shoallog" · version u8 = 1 · 3 zero bytes · crc u32 · length u32 · body · zeroes
//! body   segment u64 · frame u64 · first u64 · end u64 · owner · vote · committed · purged
//!        owner: length u32, bytes; the others: 0, or 1 and (index u64, not for the vote)
//!        and length u32, bytes
//! frame  crc u32 · length u32 · number u64 · durable u64 · records · zeroes up to 8 bytes
//! record kind u8 · length u32 · payload
//!        1 entry: index u64, bytes      2 vote: bytes           3 committed: index u64, bytes
//!        4 truncate: from u64           5 purge: upto u64, bytes
//! ```
//!
//! A head's checksum covers everything in it but itself. A frame's covers the segment's number, the
//! frame's place in it, and everything of the frame but itself: a frame that lies anywhere but
//! where it was written is none.
//!
//! `number` counts frames across segments. `durable` is the number of the last frame that was
//! known to be on the drive when this one was written; it tells a tail that was never synced from
//! damage (see [`recovery`](crate::recovery)).

use crate::{Damage, Marks, Record};

/// Room for the head: a page of its own, so that no frame is written into it.
pub(crate) const HEAD_BYTES: usize = 4096;
/// Frames begin at multiples of this, so that a search for them has few places to look at.
pub(crate) const ALIGNMENT: usize = 8;
/// Checksum, length, number, durable.
pub(crate) const FRAME_HEAD_BYTES: usize = 24;
/// Kind and length of a record.
pub(crate) const RECORD_HEAD_BYTES: usize = 5;
/// The index before a payload.
pub(crate) const INDEX_BYTES: usize = 8;
/// Owner, vote, committed and purged must fit into a head together.
pub(crate) const MARK_BYTES_MAX: usize = 512;

const MAGIC: [u8; 8] = *b"shoallog";
const VERSION: u8 = 1;
/// Magic, version, zeroes, checksum, length.
const HEAD_FIXED_BYTES: usize = 20;

const ENTRY: u8 = 1;
const VOTE: u8 = 2;
const COMMITTED: u8 = 3;
const TRUNCATE: u8 = 4;
const PURGE: u8 = 5;

/// A segment's head: whose it is, and what was true where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) segment: u64,
    /// The number of its first frame.
    pub(crate) frame: u64,
    /// The first entry of the log, or where it will be.
    pub(crate) first: u64,
    /// Where the next entry goes.
    pub(crate) end: u64,
    pub(crate) owner: Vec<u8>,
    pub(crate) marks: Marks,
}

/// A frame as found in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) number: u64,
    pub(crate) durable: u64,
    pub(crate) records: &'a [u8],
}

impl Head {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for number in [self.segment, self.frame, self.first, self.end] {
            body.extend_from_slice(&number.to_le_bytes());
        }
        put_bytes(&mut body, &self.owner);
        match &self.marks.vote {
            None => body.push(0),
            Some(vote) => {
                body.push(1);
                put_bytes(&mut body, vote);
            }
        }
        for mark in [&self.marks.committed, &self.marks.purged] {
            match mark {
                None => body.push(0),
                Some((index, bytes)) => {
                    body.push(1);
                    body.extend_from_slice(&index.to_le_bytes());
                    put_bytes(&mut body, bytes);
                }
            }
        }
        let mut head = MAGIC.to_vec();
        head.extend_from_slice(&[VERSION, 0, 0, 0, 0, 0, 0, 0]);
        put_bytes(&mut head, &body);
        let crc = head_checksum(&head);
        head[12..16].copy_from_slice(&crc.to_le_bytes());
        assert!(head.len() <= HEAD_BYTES, "the marks are bounded");
        head.resize(HEAD_BYTES, 0);
        head
    }

    /// Reads the head of the file that is named `segment`.
    pub(crate) fn decode(segment: u64, bytes: &[u8]) -> Result<Self, Damage> {
        let unreadable = || Damage::Head { segment };
        let bytes = bytes.get(..HEAD_BYTES).ok_or_else(unreadable)?;
        if bytes[..8] != MAGIC {
            return Err(unreadable());
        }
        if bytes[8] != VERSION {
            let version = bytes[8];
            return Err(Damage::Version { segment, version });
        }
        let mut rest = Parts(&bytes[16..]);
        let body = rest.sized().ok_or_else(unreadable)?;
        let end = HEAD_FIXED_BYTES + body.len();
        if bytes[12..16] != head_checksum(&bytes[..end]).to_le_bytes() {
            return Err(unreadable());
        }
        let head = Self::body(body).ok_or_else(unreadable)?;
        if head.segment == segment {
            Ok(head)
        } else {
            Err(unreadable())
        }
    }

    fn body(bytes: &[u8]) -> Option<Self> {
        let mut parts = Parts(bytes);
        let segment = parts.number()?;
        let frame = parts.number()?;
        let first = parts.number()?;
        let end = parts.number()?;
        let owner = parts.sized()?.to_vec();
        let vote = match parts.byte()? {
            0 => None,
            _ => Some(parts.sized()?.to_vec()),
        };
        let mut mark = || match parts.byte()? {
            0 => Some(None),
            _ => Some(Some((parts.number()?, parts.sized()?.to_vec()))),
        };
        let marks = Marks {
            vote,
            committed: mark()?,
            purged: mark()?,
        };
        parts.0.is_empty().then_some(Self {
            segment,
            frame,
            first,
            end,
            owner,
            marks,
        })
    }
}

/// Everything before the checksum and everything after it.
fn head_checksum(head: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head[..12]);
    hasher.update(&head[16..]);
    hasher.finalize()
}

/// Bytes that a record takes in a frame.
pub(crate) fn record_bytes(record: &Record<'_>) -> usize {
    let payload = match record {
        Record::Entry { bytes, .. }
        | Record::Committed { bytes, .. }
        | Record::Purge { bytes, .. } => INDEX_BYTES + bytes.len(),
        Record::Vote(bytes) => bytes.len(),
        Record::Truncate { .. } => INDEX_BYTES,
    };
    RECORD_HEAD_BYTES + payload
}

/// Adds a record to a frame being made.
pub(crate) fn put_record(frame: &mut Vec<u8>, record: &Record<'_>) {
    let (kind, index, bytes): (u8, Option<u64>, &[u8]) = match record {
        Record::Entry { index, bytes } => (ENTRY, Some(*index), bytes),
        Record::Vote(bytes) => (VOTE, None, bytes),
        Record::Committed { index, bytes } => (COMMITTED, Some(*index), bytes),
        Record::Truncate { from } => (TRUNCATE, Some(*from), &[]),
        Record::Purge { upto, bytes } => (PURGE, Some(*upto), bytes),
    };
    let payload = record_bytes(record) - RECORD_HEAD_BYTES;
    frame.push(kind);
    frame.extend_from_slice(&length(payload).to_le_bytes());
    if let Some(index) = index {
        frame.extend_from_slice(&index.to_le_bytes());
    }
    frame.extend_from_slice(bytes);
}

/// Begins a frame; records follow, then [`seal`].
pub(crate) fn begin_frame() -> Vec<u8> {
    vec![0; FRAME_HEAD_BYTES]
}

/// Completes a frame that goes to `offset` of `segment`.
pub(crate) fn seal(frame: &mut Vec<u8>, segment: u64, offset: usize, number: u64, durable: u64) {
    let records = length(frame.len() - FRAME_HEAD_BYTES);
    frame[4..8].copy_from_slice(&records.to_le_bytes());
    frame[8..16].copy_from_slice(&number.to_le_bytes());
    frame[16..24].copy_from_slice(&durable.to_le_bytes());
    let crc = frame_checksum(segment, offset, &frame[4..]);
    frame[..4].copy_from_slice(&crc.to_le_bytes());
    frame.resize(frame.len().next_multiple_of(ALIGNMENT), 0);
}

/// The frame at `offset` of `segment`, whose bytes these are, if there is a whole one.
pub(crate) fn frame_at(segment: u64, offset: usize, bytes: &[u8]) -> Option<Frame<'_>> {
    let mut parts = Parts(bytes.get(offset..)?);
    let crc = u32::from_le_bytes(parts.array()?);
    let covered = parts.0;
    let length = usize::try_from(u32::from_le_bytes(parts.array()?)).ok()?;
    let number = parts.number()?;
    let durable = parts.number()?;
    // Zeroes are no frame: an empty one is never written.
    if length == 0 || durable >= number {
        return None;
    }
    let records = parts.0.get(..length)?;
    let covered = &covered[..FRAME_HEAD_BYTES - 4 + length];
    (crc == frame_checksum(segment, offset, covered)).then_some(Frame {
        number,
        durable,
        records,
    })
}

/// Whether the bytes at `offset` could begin a frame with a number between the two; cheap, for
/// the search of [`frame_at`].
pub(crate) fn plausible_at(offset: usize, bytes: &[u8], number_min: u64, number_max: u64) -> bool {
    let number = bytes
        .get(offset + 8..)
        .and_then(|bytes| Parts(bytes).number());
    number.is_some_and(|number| (number_min..=number_max).contains(&number))
}

fn frame_checksum(segment: u64, offset: usize, covered: &[u8]) -> u32 {
    let offset = u64::try_from(offset).expect("an offset has at most 64 bits");
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&segment.to_le_bytes());
    hasher.update(&offset.to_le_bytes());
    hasher.update(covered);
    hasher.finalize()
}

/// Gives each record of a frame with the place of its bytes among the frame's records. `None`
/// when they make no sense.
pub(crate) fn each_record(records: &[u8], mut visit: impl FnMut(usize, Record<'_>)) -> Option<()> {
    let mut parts = Parts(records);
    while !parts.0.is_empty() {
        let kind = parts.byte()?;
        let payload = parts.sized()?;
        let end = records.len() - parts.0.len();
        let mut payload = Parts(payload);
        let record = match kind {
            ENTRY => Record::Entry {
                index: payload.number()?,
                bytes: payload.0,
            },
            VOTE => Record::Vote(payload.0),
            COMMITTED => Record::Committed {
                index: payload.number()?,
                bytes: payload.0,
            },
            TRUNCATE => Record::Truncate {
                from: payload.number()?,
            },
            PURGE => Record::Purge {
                upto: payload.number()?,
                bytes: payload.0,
            },
            _ => return None,
        };
        visit(end - payload.0.len(), record);
    }
    Some(())
}

/// Bytes that have not been read yet.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn sized(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(u32::from_le_bytes(self.array()?)).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&length(bytes.len()).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("what is written is smaller than a segment")
}

#[cfg(test)]
mod tests;
