//! Eras: what tells a recovered group from the one that it was.
//!
//! Decides which messages belong to this server's group. An era is the upper half of Raft's
//! term. A group is founded in era 0; a recovery begins the next one, so that every term of the
//! recovered group is above every term that the old voters can reach by elections. What Raft
//! keeps durable it thereby keeps in the right era: votes, log ids and snapshots carry it, and
//! there is no second record that could disagree with them.
//!
//! Invariants:
//! - A store that has a term never leaves its era.
//! - A server that has none yet, because it is new, takes the era of the first leader that
//!   speaks to it.
//! - Elections within an era use the lower half: 2^32 of them, at five a second, take 27 years.

use std::fmt;

use consensus_core::{LogIndex, WallMs};

/// Bits of a term below its era.
const ERA_SHIFT: u32 = 32;
/// Bits of a log index below its era: two thousand million entries. A group that outgrows them
/// grows into the indices of later eras, and the era after it is chosen above those. Log indices
/// stay below 2^53, which JSON's readers take for exact, until 2049.
const INDEX_SHIFT: u32 = 31;
/// Eras are counted in steps of ten minutes since 1970, so that of two recoveries that know nothing
/// of each other (from two servers' logs, from a backup older than a recovery) the later wins.
const STEP_MS: u64 = 600_000;

/// Counts how often the group lost its majority and was recovered from one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Era(pub u32);

impl fmt::Display for Era {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Era {
    /// The era of a term.
    pub(crate) fn of(term: u64) -> Self {
        Self(u32::try_from(term >> ERA_SHIFT).expect("half of the bits fit into half of the bits"))
    }

    /// The era that a recovery or a restore begins at that time: above all that is known, and
    /// above those that began earlier elsewhere. Nothing when there is none left.
    pub fn begun_at(now: WallMs, last: LogIndex, term: Self) -> Option<Self> {
        let by_time = Self(u32::try_from(now.0 / STEP_MS).unwrap_or(u32::MAX));
        let known = term.max(Self::of_index(last));
        Some(known.next()?.max(by_time))
    }

    /// The one after it; nothing after the last.
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }

    /// The lowest log index of the era: above every index that an older one can have reached, so
    /// that whatever is ordered by log index (views, events, Raft ids) stays in order across eras.
    pub fn first_index(self) -> LogIndex {
        LogIndex(u64::from(self.0) << INDEX_SHIFT)
    }

    /// The era of a log index.
    pub fn of_index(index: LogIndex) -> Self {
        Self(u32::try_from(index.0 >> INDEX_SHIFT).unwrap_or(u32::MAX))
    }

    /// The era's lowest term.
    pub(crate) fn first_term(self) -> u64 {
        u64::from(self.0) << ERA_SHIFT
    }
}

/// A term without its era: elections since the era began.
pub(crate) fn elections(term: u64) -> u64 {
    term - Era::of(term).first_term()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_term_of_an_era_is_above_all_of_the_one_before() {
        let last_of_old = Era(1).first_term() - 1;
        assert_eq!(Era::of(last_of_old), Era(0));
        assert_eq!(Era::of(last_of_old + 1), Era(1));
        assert_eq!(elections(last_of_old + 7), 6);
        assert_eq!(Era(u32::MAX).next(), None);
        assert_eq!(Era::of(Era(u32::MAX).first_term()), Era(u32::MAX));
        assert_eq!(Era::of_index(Era(3).first_index()), Era(3));
        assert_eq!(Era::of_index(LogIndex(Era(3).first_index().0 - 1)), Era(2));
    }

    #[test]
    fn a_later_recovery_is_above_an_earlier_one_that_it_knows_nothing_of() {
        let (index, hour) = (LogIndex(900), 3_600_000);
        let first = Era::begun_at(WallMs(500_000 * hour), index, Era(0)).unwrap();
        let second = Era::begun_at(WallMs(500_001 * hour), index, Era(0)).unwrap();
        assert!(second > first && first > Era(1));
        // A clock that went back does not matter to who knows the era before.
        let again = Era::begun_at(WallMs(0), second.first_index(), Era(0)).unwrap();
        assert!(again > second);
        assert!(Era::begun_at(WallMs(0), index, second).unwrap() > second);
    }
}
