//! Every operation takes effect at one moment between its call and its answer.
//!
//! Decides by places: a write is told at which place of the log it stands, a read which place its
//! state reaches. All operations then have one order, and what is left to check is that it respects
//! real time: whatever was answered before an operation was called has an earlier place (a read may
//! share one). That is all of linearizability for an object whose answers tell their places, and
//! needs no search. Source: Herlihy and Wing, "Linearizability" (1990).

/// The highest place that any client was told.
#[derive(Debug, Default)]
pub struct Linearizable {
    told: u64,
}

/// What was known when an operation was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Called {
    floor: u64,
}

impl Linearizable {
    /// An operation begins.
    pub const fn call(&self) -> Called {
        Called { floor: self.told }
    }

    /// A write was told that it stands at `place`.
    ///
    /// # Errors
    /// When something at that place or later had been told before the write began.
    pub fn wrote(&mut self, called: Called, place: u64) -> Result<(), String> {
        self.told = self.told.max(place);
        if place <= called.floor {
            let floor = called.floor;
            return Err(format!(
                "a write became entry {place} although entry {floor} was answered before it began"
            ));
        }
        Ok(())
    }

    /// A read was told a state that reaches `place`.
    ///
    /// # Errors
    /// When more had been told before the read began.
    pub fn read(&mut self, called: Called, place: u64) -> Result<(), String> {
        self.told = self.told.max(place);
        if place < called.floor {
            let floor = called.floor;
            return Err(format!(
                "a read saw entry {place} and no more although entry {floor} was answered before"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_read_and_a_write_into_the_past_are_found_and_what_overlaps_is_not() {
        let mut all = Linearizable::default();
        let (early, write) = (all.call(), all.call());
        assert_eq!(all.wrote(write, 5), Ok(()));
        assert_eq!(all.read(early, 4), Ok(()));
        let late = all.call();
        assert!(all.read(late, 4).is_err());
        assert_eq!(all.read(late, 5), Ok(()));
        assert!(all.wrote(late, 5).is_err());
        assert_eq!(all.wrote(early, 3), Ok(()));
    }
}
