//! The state on disk: one file, replaced as a whole.
//!
//! Decides when a snapshot counts: when it is durable under its name. Never leaves half of one
//! under that name, and never changes one that is there: who reads the old one reads it to its end.
//!
//! `"shoalsnp" · length u32, little endian · head record · state`; the head record has the format
//! byte, and says how long the state is and what its checksum is.

use std::io;

use consensus_log::{Disk, DiskFile};

use crate::{
    errors::StoreDamage,
    raft_types::SnapshotMeta,
    wire::v1::{self, SnapshotHeadV1},
};

/// The snapshot in force.
const SNAPSHOT: &str = "snapshot";
/// One that is being written.
const UNFINISHED: &str = "snapshot.new";
pub(crate) const MAGIC: [u8; 8] = *b"shoalsnp";
/// Magic and the head's length.
const FIXED_BYTES: usize = 12;

/// A snapshot as found on disk.
pub(crate) struct StoredSnapshot {
    pub(crate) meta: SnapshotMeta,
    pub(crate) state: Vec<u8>,
    pub(crate) generation: u64,
}

/// Whether there is a snapshot, sound or not.
pub(super) fn exists(disk: &dyn Disk) -> io::Result<bool> {
    Ok(disk.list()?.iter().any(|name| name == SNAPSHOT))
}

/// Reads the stored snapshot and checks all of it. The outer error is the disk's.
pub(super) fn read(disk: &dyn Disk) -> io::Result<Result<Option<StoredSnapshot>, StoreDamage>> {
    if !exists(disk)? {
        return Ok(Ok(None));
    }
    let file = disk.open(SNAPSHOT)?;
    let bytes = usize::try_from(file.bytes()?).map_err(io::Error::other)?;
    let mut contents = vec![0; bytes];
    file.read_at(&mut contents, 0)?;
    Ok(decode(&contents).map(Some))
}

/// Replaces the stored snapshot; durable when it returns.
pub(super) fn write(
    disk: &dyn Disk,
    meta: &SnapshotMeta,
    state: &[u8],
    generation: u64,
) -> io::Result<()> {
    drop_unfinished(disk)?;
    let file = disk.create(UNFINISHED)?;
    let head = encode_head(meta, state, generation);
    file.write_at(&head, 0)?;
    file.write_at(state, u64::try_from(head.len()).map_err(io::Error::other)?)?;
    put_in_force(disk, file.as_ref())
}

#[cfg(not(feature = "planted-bugs"))]
fn put_in_force(disk: &dyn Disk, file: &dyn DiskFile) -> io::Result<()> {
    sync_and_rename(disk, file)
}

#[cfg(feature = "planted-bugs")]
fn put_in_force(disk: &dyn Disk, file: &dyn DiskFile) -> io::Result<()> {
    use crate::simulation::{PlantedBug, planted};
    if planted(PlantedBug::PurgeBeforeSnapshot) {
        return disk.rename(UNFINISHED, SNAPSHOT);
    }
    sync_and_rename(disk, file)
}

fn sync_and_rename(disk: &dyn Disk, file: &dyn DiskFile) -> io::Result<()> {
    file.sync_data()?;
    disk.rename(UNFINISHED, SNAPSHOT)?;
    disk.sync_dir()
}

/// Removes what a crash or a full disk left of a snapshot that never counted.
pub(super) fn drop_unfinished(disk: &dyn Disk) -> io::Result<()> {
    if disk.list()?.iter().any(|name| name == UNFINISHED) {
        disk.remove(UNFINISHED)?;
    }
    Ok(())
}

pub(crate) fn encode_head(meta: &SnapshotMeta, state: &[u8], generation: u64) -> Vec<u8> {
    let record = v1::record(&SnapshotHeadV1 {
        meta: meta.into(),
        generation,
        bytes: u64::try_from(state.len()).expect("a length fits into 64 bits"),
        crc: crc32fast::hash(state),
    });
    let length = u32::try_from(record.len()).expect("members are few");
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&length.to_le_bytes());
    head.extend_from_slice(&record);
    head
}

/// Reads the whole file.
pub(crate) fn decode(contents: &[u8]) -> Result<StoredSnapshot, StoreDamage> {
    let unreadable = || StoreDamage::Undecodable("the snapshot".to_owned());
    let (fixed, rest) = contents
        .split_first_chunk::<FIXED_BYTES>()
        .ok_or_else(unreadable)?;
    let (magic, length) = fixed.split_at(MAGIC.len());
    let length = length.try_into().map(u32::from_le_bytes);
    let length = length.ok().and_then(|length| usize::try_from(length).ok());
    let parts = length.and_then(|length| rest.split_at_checked(length));
    let (head, state) = parts.ok_or_else(unreadable)?;
    if magic != MAGIC {
        return Err(unreadable());
    }
    let head: SnapshotHeadV1 = v1::open_record("the snapshot's head", head)?;
    if u64::try_from(state.len()) != Ok(head.bytes) || crc32fast::hash(state) != head.crc {
        return Err(StoreDamage::Checksum("the snapshot".to_owned()));
    }
    let meta = SnapshotMeta::try_from(head.meta).map_err(StoreDamage::Undecodable)?;
    Ok(StoredSnapshot {
        meta,
        state: state.to_vec(),
        generation: head.generation,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_the_promised_bytes() {
        let head = encode_head(&SnapshotMeta::default(), b"state", 3);
        let bytes = [head.as_slice(), b"state"].concat();
        let promised = "73686f616c736e701000000001cc4f21e8000000000305fba5cf9c0a7374617465";
        assert_eq!(hex::encode(&bytes), promised);
        let stored = decode(&bytes).unwrap();
        assert_eq!(
            (stored.meta, stored.state, stored.generation),
            (SnapshotMeta::default(), b"state".to_vec(), 3)
        );
    }

    #[test]
    fn no_changed_or_missing_byte_passes() {
        let head = encode_head(&SnapshotMeta::default(), b"state", 3);
        let mut bytes = [head.as_slice(), b"state"].concat();
        for at in 0..bytes.len() {
            bytes[at] ^= 4;
            assert!(decode(&bytes).is_err(), "byte {at}");
            bytes[at] ^= 4;
            assert!(decode(&bytes[..at]).is_err(), "cut at {at}");
        }
        bytes.push(0);
        assert!(decode(&bytes).is_err());
    }
}
