//! What two members hold differently (anti-entropy, after Demers et al. 1987).
//!
//! Decides: which buckets differ. Everything that precedence knows of a member enters its hash, so
//! equal digests mean equal beliefs; who accused is left out, it differs harmlessly. The sums are
//! kept as entries change, so a digest costs the same whatever the mesh's size.

use super::{
    message::Bucket,
    table::{Entry, Rank},
};

/// The non-empty sums, by rising index.
pub(super) fn summary(sums: &[u64; 256]) -> Vec<Bucket> {
    let filled = (0..=255).zip(sums).filter(|(_, hash)| **hash != 0);
    let mut buckets = Vec::with_capacity(sums.len());
    buckets.extend(filled.map(|(index, hash)| Bucket { index, hash: *hash }));
    buckets
}

/// The indices at which a summary of another differs.
pub(super) fn differing(ours: &[u64; 256], theirs: &[Bucket]) -> Vec<u8> {
    let mut sums = *ours;
    for bucket in theirs {
        sums[usize::from(bucket.index)] ^= bucket.hash;
    }
    let differing = (0..=255).zip(sums).filter(|(_, sum)| *sum != 0);
    differing.map(|(index, _)| index).collect()
}

/// A member's part of its bucket; zero while nothing is known of it.
pub(super) fn hash(mark: &[u8; 16], entry: &Entry) -> u64 {
    let standing = entry.standing();
    let record = entry.record.as_ref().map(|record| record.incarnation());
    if record.is_none() && standing.rank == Rank::Unknown {
        return 0;
    }
    let mut bytes = [0; 50];
    bytes[..16].copy_from_slice(mark);
    bytes[16] = standing.rank as u8;
    bytes[17] = u8::from(record.is_some());
    let record = record.unwrap_or_default();
    let numbers = [
        record.generation,
        record.version,
        standing.incarnation.generation,
        standing.incarnation.version,
    ];
    for (place, number) in bytes[18..].chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    let mut first = [0; 8];
    first.copy_from_slice(&blake3::hash(&bytes).as_bytes()[..8]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_differing_buckets_are_named() {
        let bucket = |index, hash| Bucket { index, hash };
        let mut ours = [0; 256];
        (ours[1], ours[2], ours[3]) = (10, 20, 30);
        let theirs = [bucket(1, 10), bucket(3, 31), bucket(9, 90)];
        assert_eq!(differing(&ours, &theirs), vec![2, 3, 9]);
        assert!(differing(&ours, &summary(&ours)).is_empty());
    }
}
