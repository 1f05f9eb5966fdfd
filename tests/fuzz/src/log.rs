//! The log on disk: what recovery makes of segments that hold anything.
//!
//! Claims: no segment makes it panic; what it accepts is one run of entries, all of which can be
//! read; it accepts the same again when it is opened again; and what is appended then is there
//! after the next opening. What it refuses it leaves as it was.
//!
//! Nobody guesses a checksum. So most segments are made around heads and frames that are fuzzed.

use std::sync::Arc;

use consensus_log::{Disk as _, Log, Options, Record, simulation::SimDisk};

/// The smallest segments that there are.
const OPTIONS: Options = Options {
    segment_bytes: 3 * HEAD_BYTES,
};
/// The head of a segment.
const HEAD_BYTES: usize = 4096;
/// Where its checksum is.
const HEAD_CHECKSUM: std::ops::Range<usize> = 12..16;
/// Magic, version, zeroes, checksum, length.
const HEAD_FIXED_BYTES: usize = 20;
/// Number and durable.
const FRAME_NUMBERS_BYTES: usize = 16;
/// Frames begin at multiples of this.
const ALIGNMENT: usize = 8;
/// Segments of one input: the last one, one before it, and one in between.
const SEGMENTS_MAX: usize = 3;
/// Entries that are read of a log.
const ENTRIES_MAX: u64 = 64;
/// Whose log it is.
const OWNER: &[u8] = b"me";

/// Segments, each behind two bytes of big-endian length: a byte that says how many zeroes follow
/// its frames, its head behind two bytes of length, then its frames, each behind two bytes of
/// length. A first byte of 255 says that the rest is the segment as it is.
pub(crate) fn segments(data: &[u8]) {
    let files = files(data);
    let disk = disk(&files);
    match open(&disk) {
        Some(log) => hold_accepted(&disk, log),
        None => {
            for (file, number) in files.iter().zip(1..) {
                assert!(
                    disk.contents(&name(number)) == *file,
                    "refused, but changed"
                );
            }
        }
    }
}

fn files(data: &[u8]) -> Vec<Vec<u8>> {
    let parts = crate::pieces(data).take(SEGMENTS_MAX).zip(1..);
    parts
        .map(|(parts, number)| segment(number, parts))
        .collect()
}

fn disk(files: &[Vec<u8>]) -> SimDisk {
    let disk = SimDisk::new();
    for (file, number) in files.iter().zip(1..) {
        let on_disk = disk.create(&name(number)).expect("it is the first");
        on_disk.write_at(file, 0).expect("this disk has room");
    }
    disk
}

fn name(segment: u64) -> String {
    format!("log-{segment:020}")
}

fn open(disk: &SimDisk) -> Option<Log> {
    Log::open(Arc::new(disk.clone()), OPTIONS, OWNER).ok()
}

fn hold_accepted(disk: &SimDisk, log: Log) {
    let (bounds, marks) = (log.bounds(), log.marks());
    assert!(bounds.0 <= bounds.1, "the log ends before it begins");
    let entries = entries(&log);
    drop(log);
    let mut log = open(disk).expect("what was accepted is accepted again");
    assert_eq!((log.bounds(), log.marks()), (bounds, marks));
    assert!(self::entries(&log) == entries, "other entries");
    let entry = Record::Entry {
        index: bounds.1,
        bytes: b"new",
    };
    // None comes after the last index that there is.
    if bounds.1 < u64::MAX && log.append(&[entry]).is_ok() {
        log.sync().expect("this disk does as it is told");
        drop(log);
        let log = open(disk).expect("what was written is accepted");
        let last = log.reader().read(bounds.1).expect("this disk reads");
        assert_eq!(last.as_deref(), Some(&b"new"[..]));
        assert_eq!(log.bounds(), (bounds.0, bounds.1 + 1));
    }
}

/// The last entries of the log.
fn entries(log: &Log) -> Vec<Vec<u8>> {
    let (first, end) = log.bounds();
    let reader = log.reader();
    (first.max(end.saturating_sub(ENTRIES_MAX))..end)
        .map(|index| reader.read(index).expect("this disk reads"))
        .map(|entry| entry.expect("an entry within the bounds is there"))
        .collect()
}

fn segment(number: u64, parts: &[u8]) -> Vec<u8> {
    let (zeroes, parts) = match parts {
        [255, file @ ..] => return file.to_vec(),
        [zeroes, parts @ ..] => (usize::from(*zeroes), parts),
        [] => return Vec::new(),
    };
    let (body, frames) = crate::first_piece(parts).unwrap_or((parts, &[]));
    let mut file = head(body);
    for frame in crate::pieces(frames) {
        let (numbers, records) = frame.split_at(frame.len().min(FRAME_NUMBERS_BYTES));
        let offset = file.len() as u64;
        let length = u32::try_from(records.len()).expect("inputs are short");
        let covered = [&length.to_le_bytes(), numbers, records].concat();
        let place = [number.to_le_bytes(), offset.to_le_bytes()].concat();
        let crc = crc32fast::hash(&[place, covered.clone()].concat());
        file.extend(crc.to_le_bytes());
        file.extend(covered);
        if zeroes > 0 {
            file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
        }
    }
    file.resize(file.len() + zeroes, 0);
    file
}

fn head(body: &[u8]) -> Vec<u8> {
    let body = &body[..body.len().min(HEAD_BYTES - HEAD_FIXED_BYTES)];
    let length = u32::try_from(body.len()).expect("a head is short");
    let mut head = b"shoallog\x01\0\0\0\0\0\0\0".to_vec();
    head.extend(length.to_le_bytes());
    head.extend(body);
    let covered = [&head[..HEAD_CHECKSUM.start], &head[HEAD_CHECKSUM.end..]].concat();
    head[HEAD_CHECKSUM].copy_from_slice(&crc32fast::hash(&covered).to_le_bytes());
    head.resize(HEAD_BYTES, 0);
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_has_logs_that_are_accepted() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/log_segments");
        for (seed, last) in [
            ("entries", Some("hello")),
            ("all", Some("hello")),
            ("two", Some("hello")),
            ("begins-anywhere", Some("hello")),
            ("raw", None),
        ] {
            let data = std::fs::read(format!("{corpus}/seed-{seed}")).expect("it is committed");
            let log = open(&disk(&files(&data)));
            let found = log.and_then(|log| entries(&log).pop());
            assert_eq!(found.as_deref(), last.map(str::as_bytes), "{seed}");
        }
    }
}
