//! Whether so many members fell silent at once that it is more likely this node's fault, or the
//! network's, than theirs.
//!
//! Decides: when nobody may be pruned for its silence. More than a quarter of the members turning
//! suspect within half a minute begins a freeze; it ends when no more than a quarter is suspect or
//! dead, because they came back or an operator removed them. Never: keeps anybody from being held
//! dead, which costs nothing that does not come back by itself.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use consensus_core::Time;

use super::rings::{Moves, Seat};

/// A share of one in this many is a mass.
const MASS_SHARE: usize = 4;
/// One silent member is none, however small the mesh.
const MASS_MIN: usize = 2;

/// Who turned suspect lately.
#[derive(Debug, Default)]
pub(super) struct Freeze {
    lately: VecDeque<(Time, Seat)>,
    counted: BTreeSet<Seat>,
    since: Option<Time>,
}

impl Freeze {
    /// A member of `members` turned suspect or dead. One that was not heard of yet counts as well: a
    /// node that was restarted must not prune what it froze for before.
    pub(super) fn note(&mut self, seat: Seat, members: usize, window: Duration, now: Time) {
        while let Some((at, old)) = self.lately.front()
            && now.since(*at) > window
        {
            self.counted.remove(old);
            self.lately.pop_front();
        }
        if self.counted.insert(seat) {
            self.lately.push_back((now, seat));
        }
        if self.since.is_none() && is_mass(self.lately.len(), members) {
            self.since = Some(now);
        }
    }

    /// So many are suspect or dead now.
    pub(super) fn review(&mut self, silent: usize, members: usize) {
        if !is_mass(silent, members) {
            self.since = None;
        }
    }

    /// Since when; none while pruning is allowed.
    pub(super) const fn since(&self) -> Option<Time> {
        self.since
    }

    pub(super) fn resettle(&mut self, moves: &Moves) {
        self.counted = moves.set(&self.counted);
        let lately = std::mem::take(&mut self.lately).into_iter();
        self.lately = lately
            .filter_map(|(at, seat)| Some((at, moves.of(seat)?)))
            .collect();
    }
}

const fn is_mass(silent: usize, members: usize) -> bool {
    silent >= MASS_MIN && silent * MASS_SHARE > members
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(30);

    fn at(second: u64) -> Time {
        Time::ZERO + Duration::from_secs(second)
    }

    #[test]
    fn a_quarter_within_half_a_minute_is_endured_and_one_more_freezes() {
        let mut freeze = Freeze::default();
        for seat in 0..5 {
            freeze.note(Seat::at(seat), 20, WINDOW, at(1));
        }
        assert_eq!(freeze.since(), None);
        freeze.note(Seat::at(5), 20, WINDOW, at(2));
        assert_eq!(freeze.since(), Some(at(2)));
        freeze.review(6, 20);
        assert_eq!(freeze.since(), Some(at(2)));
        freeze.review(5, 20);
        assert_eq!(freeze.since(), None);
    }

    #[test]
    fn the_same_member_counts_once_and_slow_losses_never_freeze() {
        let mut freeze = Freeze::default();
        for turn in 0..50 {
            freeze.note(Seat::at(0), 20, WINDOW, at(turn));
        }
        for turn in 0..20 {
            freeze.note(Seat::at(turn), 20, WINDOW, at(100 + 10 * turn as u64));
        }
        assert_eq!(freeze.since(), None);
    }

    #[test]
    fn one_of_two_is_no_mass() {
        let mut freeze = Freeze::default();
        freeze.note(Seat::at(0), 2, WINDOW, at(1));
        assert_eq!(freeze.since(), None);
    }
}
