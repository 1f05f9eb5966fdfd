//! What two members hold differently (anti-entropy, after Demers et al. 1987).
//!
//! Decides: which buckets differ. Everything that precedence knows of a member enters its hash, so
//! equal digests mean equal beliefs; who accused is left out, it differs harmlessly.

use std::collections::BTreeMap;

use consensus_core::NodeId;

use super::{message::Bucket, record::Entry};

/// The bucket that a node belongs to.
pub(super) fn bucket(node: &NodeId) -> u8 {
    blake3::hash(node.as_str().as_bytes()).as_bytes()[0]
}

/// Sums up what is held.
pub(super) fn summary<'a>(entries: impl Iterator<Item = &'a Entry>) -> Vec<Bucket> {
    let mut buckets = BTreeMap::<u8, u64>::new();
    for entry in entries {
        *buckets.entry(entry.bucket).or_default() ^= hash(entry);
    }
    let filled = buckets.into_iter().filter(|(_, hash)| *hash != 0);
    filled.map(|(index, hash)| Bucket { index, hash }).collect()
}

/// The indices at which two summaries differ.
pub(super) fn differing(ours: &[Bucket], theirs: &[Bucket]) -> Vec<u8> {
    let mut sums = BTreeMap::<u8, u64>::new();
    for bucket in ours.iter().chain(theirs) {
        *sums.entry(bucket.index).or_default() ^= bucket.hash;
    }
    sums.into_iter()
        .filter(|(_, sum)| *sum != 0)
        .map(|(index, _)| index)
        .collect()
}

fn hash(entry: &Entry) -> u64 {
    let record = entry.recorded.then(|| entry.member.record.incarnation());
    let standing = entry.standing;
    if record.is_none() && standing.rank == super::record::Rank::Unknown {
        return 0;
    }
    let record = record.unwrap_or_default();
    let mut hasher = blake3::Hasher::new();
    hasher.update(entry.member.record.node.as_str().as_bytes());
    hasher.update(&[standing.rank as u8, u8::from(entry.recorded)]);
    for number in [
        record.generation,
        record.version,
        standing.incarnation.generation,
        standing.incarnation.version,
    ] {
        hasher.update(&number.to_le_bytes());
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_differing_buckets_are_named() {
        let bucket = |index, hash| Bucket { index, hash };
        let ours = [bucket(1, 10), bucket(2, 20), bucket(3, 30)];
        let theirs = [bucket(1, 10), bucket(3, 31), bucket(9, 90)];
        assert_eq!(differing(&ours, &theirs), vec![2, 3, 9]);
        assert!(differing(&ours, &ours).is_empty());
    }
}
