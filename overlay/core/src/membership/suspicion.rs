//! How long a suspect has to refute (Lifeguard's suspicion timeout).
//!
//! Decides: the deadline, from how many confirm and how many could, reckoned anew whenever an
//! observer falls or comes back. Logarithmic in the confirmations: the first ones count most.
//! Invariants: between `suspicion_min` and `suspicion_max`; never longer for one confirmation more
//! or one observer less; the word of an accuser that has died since counts no more.

use std::time::Duration;

use consensus_core::Time;

use super::{
    Condition, Membership,
    planted::PlantedBug,
    rings::{RINGS, Seat, Way},
    settings::{Pace, Timers},
    table::Rank,
};

/// More confirmations than this shorten nothing (Lifeguard's K).
pub(super) const CONFIRMATIONS_MAX: usize = 3;

/// log(c + 1) / log(k + 1) in thousandths: row k - 1, column c. Integers, so that all platforms
/// agree on every deadline.
const SHARE: [[u32; CONFIRMATIONS_MAX + 1]; CONFIRMATIONS_MAX] = [
    [0, 1000, 1000, 1000],
    [0, 631, 1000, 1000],
    [0, 500, 792, 1000],
];

/// An open suspicion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Suspicion {
    pub(super) started: Time,
    /// Time during which this node stood still and could not have heard a refutation.
    pub(super) pardon: Duration,
    pub(super) deadline: Time,
}

impl Suspicion {
    /// Begins; the deadline is set by [`Self::reckon`].
    pub(super) fn begin(timers: Timers, now: Time) -> Self {
        Self {
            started: now,
            pardon: Duration::ZERO,
            deadline: now + timers.suspicion_max,
        }
    }

    /// This node stood still for `late`. If it was for longer than the shortest suspicion, it has
    /// lost connections and refutations with them, and the suspect has that time anew; shorter ones
    /// may come again and again, and must not keep the dead alive.
    pub(super) fn outlast(&mut self, late: Duration, least: Duration, now: Time) {
        let deadline = self.deadline + late;
        let anew = if late < least {
            Duration::ZERO
        } else {
            (now + least).since(deadline)
        };
        self.pardon += late + anew;
        self.deadline = deadline + anew;
    }

    /// Sets the deadline anew; never into the past.
    fn reckon(&mut self, confirmations: usize, needed: usize, timers: Timers, now: Time) {
        let span = timeout(confirmations, needed, timers);
        self.deadline = (self.started + span + self.pardon).max(now);
    }
}

fn timeout(confirmations: usize, needed: usize, timers: Timers) -> Duration {
    let (min, max) = (timers.suspicion_min, timers.suspicion_max);
    if needed == 0 {
        return min;
    }
    let share = SHARE[needed - 1][confirmations.min(CONFIRMATIONS_MAX)];
    max.saturating_sub(max.saturating_sub(min) * share / 1000)
        .max(min)
}

impl Membership {
    /// Confirmations that can still come shorten what their absence costs.
    pub(super) fn reckon_deadlines(&mut self, now: Time) {
        for subject in std::mem::take(&mut self.affected) {
            if self.table.get(subject).suspicion().is_none() {
                continue;
            }
            let needed = if self.has(PlantedBug::StaticConfirmations) {
                CONFIRMATIONS_MAX
            } else {
                let observers = self.count_observers(subject);
                CONFIRMATIONS_MAX.min(observers.saturating_sub(1))
            };
            let (voices, pace) = self.voices(subject);
            let timers = self.settings.timers(pace);
            self.table.reschedule(subject, |suspicion| {
                suspicion.reckon(voices.saturating_sub(1), needed, timers, now);
            });
        }
    }

    /// How many accusers count, and by which timers: one that watches the suspect over a LAN edge
    /// knows sooner what to think of its silence.
    pub(super) fn voices(&self, subject: Seat) -> (usize, Pace) {
        let case = self.table.get(subject).case.as_deref();
        let accusers = case.map_or(&[][..], |case| &case.accusers);
        let counted = accusers
            .iter()
            .filter(|(seat, _)| !self.table.is_dead(*seat));
        let mut pace = Pace::Wan;
        let mut voices = 0;
        for (_, update) in counted {
            voices += 1;
            if let Some((_, accusation)) = update.accusation() {
                pace = pace.min(accusation.pace);
            }
        }
        (voices, pace)
    }

    /// Living observers of whom nobody complains.
    fn count_observers(&self, subject: Seat) -> usize {
        let trusted =
            |seat: Seat| seat != subject && self.table.condition(seat) == Condition::Alive;
        if self.everybody_watches() {
            return self.rings.seats().filter(|seat| trusted(*seat)).count();
        }
        let mut observers: Vec<Seat> = (0..RINGS)
            .filter_map(|ring| {
                let mut walk = self.rings.walk(subject, ring, Way::Backward);
                walk.find(|seat| self.table.condition(*seat) <= Condition::Alive)
            })
            .filter(|seat| trusted(*seat))
            .collect();
        observers.sort_unstable();
        observers.dedup();
        observers.len()
    }

    /// Whether a member observes another, as seen from here. Suspects in between are no obstacle:
    /// the observer behind them may hold them dead already.
    pub(super) fn observes(&self, observer: Seat, subject: Seat) -> bool {
        if observer == subject {
            return false;
        }
        if self.everybody_watches() || self.has(PlantedBug::NonObserverCounted) {
            return true;
        }
        (0..RINGS).any(|ring| {
            let walk = self.rings.walk(subject, ring, Way::Backward);
            for seat in walk {
                if seat == observer {
                    return true;
                }
                if self.table.condition(seat) <= Condition::Alive {
                    return false;
                }
            }
            false
        })
    }

    /// Marks the suspects whose observers changed with the member's condition.
    pub(super) fn note_affected(&mut self, seat: Seat) {
        self.affected.insert(seat);
        if self.table.suspects.is_empty() {
            return;
        }
        if self.everybody_watches() {
            self.affected.extend(&self.table.suspects);
            return;
        }
        for ring in 0..RINGS {
            for next in self.rings.walk(seat, ring, Way::Forward) {
                match self.table.condition(next) {
                    Condition::Unknown | Condition::Alive => break,
                    Condition::Suspect => {
                        self.affected.insert(next);
                    }
                    Condition::Dead => {}
                }
            }
        }
    }

    pub(super) fn expire_suspicions(&mut self, now: Time) {
        while let Some((_, subject)) = self.table.deadlines.first().filter(|(at, _)| *at <= now) {
            let subject = *subject;
            self.accuse(subject, Rank::Dead, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unconfirmed_suspicion_lasts_longest_and_a_confirmed_one_shortest() {
        let timers = Timers::lan();
        assert_eq!(timeout(0, 3, timers), timers.suspicion_max);
        assert_eq!(timeout(3, 3, timers), timers.suspicion_min);
    }

    #[test]
    fn a_short_standstill_is_made_up_for_and_a_long_one_begins_the_shortest_suspicion_anew() {
        let timers = Timers::lan();
        let begin = Time::from_micros(1);
        let mut suspicion = Suspicion::begin(timers, begin);
        suspicion.reckon(3, 3, timers, begin);
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        // It goes on with 100 ms left.
        let now = suspicion.deadline + (second - Duration::from_millis(100));
        suspicion.outlast(second, timers.suspicion_min, now);
        assert_eq!(suspicion.deadline, now + Duration::from_millis(100));
        let now = now + minute;
        suspicion.outlast(minute, timers.suspicion_min, now);
        assert_eq!(suspicion.deadline, now + timers.suspicion_min);
        suspicion.reckon(3, 3, timers, now);
        assert_eq!(suspicion.deadline, now + timers.suspicion_min);
    }

    #[test]
    fn a_sole_observer_needs_no_confirmation() {
        let timers = Timers::lan();
        assert_eq!(timeout(0, 0, timers), timers.suspicion_min);
    }

    #[test]
    fn neither_a_confirmation_nor_a_lost_observer_ever_prolongs_a_suspicion() {
        let timers = Timers::lan();
        for needed in 0..=3 {
            for confirmations in 0..=3 {
                let here = timeout(confirmations, needed, timers);
                assert!(timeout(confirmations + 1, needed, timers) <= here);
                assert!(timeout(confirmations, needed.saturating_sub(1), timers) <= here);
            }
        }
    }
}
