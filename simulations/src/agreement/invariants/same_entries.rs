//! All servers apply the same entries at the same places, before and after any fault.
//!
//! Decides by a digest over everything applied so far, which is part of the replicated state and so
//! travels with snapshots: equal digests at an index mean equal histories up to it.
//! Source: Ongaro and Ousterhout 2014, figure 3, log matching and state machine safety.

use std::collections::BTreeMap;

/// By index: the digest after it, wherever it was applied first.
#[derive(Debug, Default)]
pub struct SameEntries {
    applied: BTreeMap<u64, u64>,
}

impl SameEntries {
    /// A server's state went from one index to the next, whose digest is now `digest`.
    ///
    /// # Errors
    /// When another server has another history, or the state went backwards.
    pub fn applied(&mut self, before: u64, index: u64, digest: u64) -> Result<(), String> {
        if index <= before {
            return Err(format!("entry {index} was applied after entry {before}"));
        }
        let first = *self.applied.entry(index).or_insert(digest);
        if first != digest {
            return Err(format!(
                "up to entry {index} two servers applied different entries"
            ));
        }
        Ok(())
    }

    /// A server's state was seen at `index`.
    ///
    /// # Errors
    /// When nobody ever applied that history.
    pub fn seen(&self, index: u64, digest: u64) -> Result<(), String> {
        if index > 0 && self.applied.get(&index) != Some(&digest) {
            return Err(format!(
                "a server's state at entry {index} is nobody else's"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_different_entry_at_the_same_place_is_found_wherever_it_shows() {
        let mut all = SameEntries::default();
        assert_eq!(all.applied(0, 3, 7), Ok(()));
        assert_eq!(all.applied(0, 3, 7), Ok(()));
        assert_eq!(all.seen(3, 7), Ok(()));
        assert!(all.applied(0, 3, 8).is_err());
        assert!(all.seen(3, 8).is_err());
        assert!(all.seen(4, 7).is_err());
        assert!(all.applied(3, 3, 7).is_err());
    }
}
