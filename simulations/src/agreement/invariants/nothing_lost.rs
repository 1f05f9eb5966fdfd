//! What was acknowledged is in the log for ever, and what was refused never is.
//!
//! Decides by attempts: each has a number of its own. An attempt without an answer may be in the
//! log or not. Source: Ongaro and Ousterhout 2014, figure 3, leader completeness; and this
//! program's own word "nothing was written".

use std::collections::{BTreeMap, BTreeSet};

/// Acknowledged, refused and applied attempts.
#[derive(Debug, Default)]
pub struct NothingLost {
    entries: BTreeMap<u64, u64>,
    written: BTreeSet<u64>,
    acknowledged: BTreeMap<u64, u64>,
    refused: BTreeSet<u64>,
}

impl NothingLost {
    /// The entry at `index` is `attempt`.
    ///
    /// # Errors
    /// When that attempt was refused, or another one acknowledged there.
    pub fn applied(&mut self, index: u64, attempt: u64) -> Result<(), String> {
        self.entries.entry(index).or_insert(attempt);
        self.written.insert(attempt);
        if self.refused.contains(&attempt) {
            return Err(format!(
                "entry {index} is a write of which a client was told that nothing was written"
            ));
        }
        match self.acknowledged.get(&index) {
            Some(acknowledged) if *acknowledged != attempt => Err(format!(
                "a write was acknowledged as entry {index}, where another one stands now"
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// A client was told that its write is entry `index`.
    ///
    /// # Errors
    /// When another one stands there.
    pub fn acknowledged(&mut self, index: u64, attempt: u64) -> Result<(), String> {
        self.acknowledged.insert(index, attempt);
        match self.entries.get(&index) {
            Some(entry) if *entry == attempt => Ok(()),
            Some(_) => Err(format!(
                "a write was acknowledged as entry {index}, where another one stands"
            )),
            None => Err(format!(
                "a write was acknowledged as entry {index}, which nobody has applied"
            )),
        }
    }

    /// A client was told that nothing was written.
    ///
    /// # Errors
    /// When it was.
    pub fn refused(&mut self, attempt: u64) -> Result<(), String> {
        self.refused.insert(attempt);
        if self.written.contains(&attempt) {
            return Err("a client was told that nothing was written, and it was".to_owned());
        }
        Ok(())
    }

    /// At the end a server's state reaches up to `index`.
    ///
    /// # Errors
    /// When it lacks what was acknowledged.
    pub fn ends_at(&self, index: u64) -> Result<(), String> {
        match self.acknowledged.last_key_value() {
            Some((last, _)) if *last > index => Err(format!(
                "entry {last} was acknowledged, and a server's state ends at {index}"
            )),
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_an_overwritten_and_a_denied_write_are_found() {
        let mut all = NothingLost::default();
        assert_eq!(all.applied(5, 50), Ok(()));
        assert_eq!(all.acknowledged(5, 50), Ok(()));
        assert!(all.acknowledged(6, 60).is_err(), "nobody applied it");
        assert_eq!(all.ends_at(6), Ok(()));
        assert!(all.ends_at(4).is_err());
        assert!(all.applied(5, 51).is_err());
        assert_eq!(all.refused(70), Ok(()));
        assert!(all.applied(7, 70).is_err());
        assert!(all.refused(50).is_err());
    }
}
