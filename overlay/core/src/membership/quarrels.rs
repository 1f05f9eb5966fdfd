//! How often the same may be said again.
//!
//! Decides: when an accuser that was refuted is believed again about the same subject, and how fast
//! a subject's records may follow each other. Both bound what one member can have the whole mesh
//! pass on. Bounded by `QUARRELS_MAX` and `PACES_MAX`; what does not fit is treated as unlimited.

use std::{collections::BTreeMap, time::Duration};

use consensus_core::Time;

use super::rings::{Moves, Seat};

/// An observer waits this long before it accuses again whom it was wrong about.
pub(super) const ACCUSE_AGAIN: Duration = Duration::from_secs(3);
/// Others believe it again after this long: less, so that clocks and delays never make an honest
/// accusation come too early.
pub(super) const BELIEVE_AGAIN: Duration = Duration::from_secs(2);
/// Pairs remembered: a thousand suspects refuting at once, with four accusers each.
const QUARRELS_MAX: usize = 4096;
/// Records of one subject that may come at once: a restart, its addresses, some refutations.
const RECORDS_AT_ONCE: u32 = 8;
/// After them, one in this time.
const RECORD_PERIOD: Duration = Duration::from_secs(1);
/// Subjects whose records are counted; only those that spoke lately are.
const PACES_MAX: usize = 4096;

/// Who said what lately.
#[derive(Debug, Default)]
pub(super) struct Quarrels {
    /// Subject and accuser, and when the subject refuted.
    refuted: BTreeMap<(Seat, Seat), Time>,
    /// Records of a subject that count against its allowance, and since when.
    records: BTreeMap<Seat, (u32, Time)>,
}

impl Quarrels {
    /// The subject has refuted the accuser.
    pub(super) fn note(&mut self, subject: Seat, accuser: Seat, now: Time) {
        if self.refuted.len() >= QUARRELS_MAX {
            self.refuted.retain(|_, at| now.since(*at) < ACCUSE_AGAIN);
        }
        if self.refuted.len() < QUARRELS_MAX {
            self.refuted.insert((subject, accuser), now);
        }
    }

    /// Whether the accuser was refuted within that time.
    pub(super) fn is_fresh(
        &self,
        (subject, accuser): (Seat, Seat),
        span: Duration,
        now: Time,
    ) -> bool {
        let refuted = self.refuted.get(&(subject, accuser));
        refuted.is_some_and(|at| now.since(*at) < span)
    }

    /// Whether one more record of the subject may be taken now; counts it.
    pub(super) fn admit(&mut self, subject: Seat, now: Time) -> bool {
        if self.records.len() >= PACES_MAX && !self.records.contains_key(&subject) {
            let idle = RECORD_PERIOD * RECORDS_AT_ONCE;
            self.records.retain(|_, (_, at)| now.since(*at) < idle);
            if self.records.len() >= PACES_MAX {
                return true;
            }
        }
        let (count, since) = self.records.entry(subject).or_insert((0, now));
        let passed = now.since(*since).as_micros() / RECORD_PERIOD.as_micros();
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        if passed > 0 {
            *count = count.saturating_sub(passed);
            *since = now;
        }
        let admitted = *count < RECORDS_AT_ONCE;
        *count += u32::from(admitted);
        admitted
    }

    pub(super) fn resettle(&mut self, moves: &Moves) {
        let refuted = std::mem::take(&mut self.refuted).into_iter();
        self.refuted = refuted
            .filter_map(|((a, b), at)| Some(((moves.of(a)?, moves.of(b)?), at)))
            .collect();
        let records = std::mem::take(&mut self.records).into_iter();
        self.records = records
            .filter_map(|(seat, state)| Some((moves.of(seat)?, state)))
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_may_say_a_handful_at_once_and_then_one_a_second() {
        let mut quarrels = Quarrels::default();
        let seat = Seat::at(1);
        let begin = Time::from_micros(1);
        let at_once = (0..100).filter(|_| quarrels.admit(seat, begin)).count();
        assert_eq!(at_once, 8);
        let later = (1..=10).map(|second| begin + Duration::from_secs(second));
        let admitted: usize = later
            .map(|now| (0..10).filter(|_| quarrels.admit(seat, now)).count())
            .sum();
        assert_eq!(admitted, 10);
    }
}
