//! What follows from the answers of all observers: outages, overlaps, answers out of a past epoch.
//!
//! Decides: an **outage** is the time between two answers that one observer got, when it is longer
//! than asked for. An **overlap** is proven, never guessed: one responder answered, another one
//! answered a probe that was sent after that, and the first one answered a probe that was sent
//! after that again, all within a window in which no holder can have changed twice. It does not
//! matter who observed what, as all times are of one clock. A **stale** answer is one of a lower
//! epoch to a probe that was sent after an answer of a higher one had arrived.
//!
//! Never: counts an observer's own stall as an outage; it is told apart.

use std::{collections::BTreeMap, ops::Range};

use crate::{
    Micros,
    log::{Answer, Log},
};

/// Nobody answered one observer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outage {
    /// The last answer before, or the begin of what is judged.
    pub from: Micros,
    /// The first answer after, or the end of what is judged.
    pub until: Micros,
    /// Of it, how long the observer itself was not running.
    pub blind_us: u64,
    /// Who answered last.
    pub before: Option<String>,
    /// Who answers now; none: nobody until the end.
    pub after: Option<String>,
}

impl Outage {
    /// Microseconds from answer to answer.
    pub const fn length_us(&self) -> u64 {
        self.until.since(self.from)
    }
}

/// Two responders held the address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// From the first probe that one answered while the other one did before and after,
    pub from: Micros,
    /// to the last such answer.
    pub until: Micros,
    /// Both, by name.
    pub responders: (String, String),
}

impl Overlap {
    /// Microseconds for which it is proven.
    pub const fn length_us(&self) -> u64 {
        self.until.since(self.from)
    }
}

/// Somebody answered in an epoch that was over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stale {
    /// The answer.
    pub answer: Answer,
    /// The epoch that had been seen before its probe was sent.
    pub seen: u64,
}

/// Outages of one observer within `span` that are longer than `longer_than_us`, in order.
pub fn outages(log: &Log, span: Range<Micros>, longer_than_us: u64) -> Vec<Outage> {
    let from = span.start.max(log.from);
    let mut last = (from, None);
    let mut found = Vec::new();
    let mut judge = |last: &(Micros, Option<String>), until: Micros, after: Option<String>| {
        if until.since(last.0) > longer_than_us {
            found.push(Outage {
                from: last.0,
                until,
                blind_us: blind_us(log, last.0..until),
                before: last.1.clone(),
                after,
            });
        }
    };
    for answer in answered_within(log, &(from..span.end)) {
        judge(&last, answer.answered, Some(answer.responder.clone()));
        last = (answer.answered, Some(answer.responder.clone()));
    }
    judge(&last, span.end, None);
    found
}

/// A log of hours has many spans, each a small part of it.
fn answered_within<'a>(log: &'a Log, span: &Range<Micros>) -> &'a [Answer] {
    let before = |time: Micros| log.answers.partition_point(|answer| answer.answered < time);
    &log.answers[before(span.start)..before(span.end).max(before(span.start))]
}

fn blind_us(log: &Log, span: Range<Micros>) -> u64 {
    let within =
        |&(from, until): &(Micros, Micros)| until.min(span.end).since(from.max(span.start));
    log.blind.iter().map(within).sum()
}

/// Overlaps within `span` that all observers together prove, in order; what touches is one.
///
/// `window_us` must be less than any holder needs to lose the address and get it again.
pub fn overlaps(logs: &[Log], span: Range<Micros>, window_us: u64) -> Vec<Overlap> {
    let answers = answers_within(logs, &span);
    let mut by_name: BTreeMap<&str, Vec<&Answer>> = BTreeMap::new();
    for answer in &answers {
        by_name.entry(&answer.responder).or_default().push(answer);
    }
    // By the time of the answer, and by that of the probe: the last before, the first after.
    let sorted: Vec<(&str, Vec<&Answer>, Vec<&Answer>)> = by_name
        .into_iter()
        .map(|(name, by_answer)| {
            let mut by_probe = by_answer.clone();
            by_probe.sort_by_key(|answer| answer.sent);
            (name, by_answer, by_probe)
        })
        .collect();
    let mut found: Vec<Overlap> = Vec::new();
    for between in &answers {
        for (name, by_answer, by_probe) in &sorted {
            if *name == between.responder {
                continue;
            }
            let earlier = by_answer.partition_point(|answer| answer.answered <= between.sent);
            let later = by_probe.partition_point(|answer| answer.sent < between.answered);
            let before = earlier.checked_sub(1).map(|index| by_answer[index]);
            let (Some(before), Some(after)) = (before, by_probe.get(later)) else {
                continue;
            };
            if after.answered.since(before.sent) <= window_us {
                add(&mut found, between, before);
            }
        }
    }
    found.sort_by_key(|overlap| overlap.from);
    found
}

fn add(found: &mut Vec<Overlap>, between: &Answer, before: &Answer) {
    let (one, other) = (between.responder.clone(), before.responder.clone());
    let new = Overlap {
        from: between.sent,
        until: between.answered,
        responders: (one.clone().min(other.clone()), one.max(other)),
    };
    let touching = found
        .iter_mut()
        .rev()
        .find(|overlap| overlap.responders == new.responders && before.sent <= overlap.until);
    match touching {
        Some(overlap) => {
            overlap.from = overlap.from.min(new.from);
            overlap.until = overlap.until.max(new.until);
        }
        None => found.push(new),
    }
}

/// Answers in epochs that were over, in the order of their probes.
pub fn stale(logs: &[Log], span: Range<Micros>) -> Vec<Stale> {
    let by_answer = answers_within(logs, &span);
    let mut by_probe = by_answer.clone();
    by_probe.sort_by_key(|answer| answer.sent);
    let (mut seen, mut arrived) = (0, by_answer.iter().peekable());
    let mut found = Vec::new();
    for answer in by_probe {
        while let Some(before) = arrived.next_if(|before| before.answered <= answer.sent) {
            seen = seen.max(before.epoch);
        }
        if answer.epoch < seen {
            found.push(Stale {
                answer: answer.clone(),
                seen,
            });
        }
    }
    found
}

/// Of all observers, by the time of the answer.
fn answers_within<'a>(logs: &'a [Log], span: &Range<Micros>) -> Vec<&'a Answer> {
    let mut inside: Vec<_> = logs
        .iter()
        .flat_map(|log| answered_within(log, span))
        .filter(|answer| span.start <= answer.sent)
        .collect();
    inside.sort_by_key(|answer| answer.answered);
    inside
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Range<Micros> = Micros(0)..Micros(100_000);

    /// Answers every millisecond, 100 µs after the probe: (from ms, to ms, responder, epoch).
    fn log(observer: &str, spans: &[(u64, u64, &str, u64)]) -> Log {
        let mut answers = Vec::new();
        for &(from, to, responder, epoch) in spans {
            for at in from..to {
                answers.push(Answer {
                    sent: Micros(at * 1000),
                    answered: Micros(at * 1000 + 100),
                    epoch,
                    responder: responder.to_owned(),
                });
            }
        }
        Log {
            observer: observer.to_owned(),
            from: Micros(0),
            until: Micros(100_000),
            answers,
            blind: Vec::new(),
        }
    }

    #[test]
    fn an_outage_is_from_the_last_answer_to_the_next() {
        let log = log("o", &[(0, 30, "a", 0), (50, 100, "b", 0)]);
        let found = outages(&log, ALL, 5_000);
        let expected = Outage {
            from: Micros(29_100),
            until: Micros(50_100),
            blind_us: 0,
            before: Some("a".to_owned()),
            after: Some("b".to_owned()),
        };
        assert_eq!(found, [expected]);
        assert_eq!(found[0].length_us(), 21_000);
        assert!(
            outages(&log, ALL, 21_000).is_empty(),
            "it is not longer than that"
        );
    }

    #[test]
    fn an_outage_that_does_not_end_lasts_to_the_end() {
        let found = outages(&log("o", &[(0, 30, "a", 0)]), ALL, 5_000);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].until, &found[0].after), (Micros(100_000), &None));
        let silent = outages(&log("o", &[]), ALL, 5_000);
        assert_eq!((silent.len(), silent[0].length_us()), (1, 100_000));
        assert_eq!(silent[0].before, None);
    }

    #[test]
    fn only_the_span_that_was_asked_for_is_judged() {
        let log = log("o", &[(0, 10, "a", 0), (30, 60, "a", 0), (80, 100, "a", 0)]);
        let found = outages(&log, Micros(35_000)..Micros(90_000), 5_000);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].from, Micros(59_100));
    }

    #[test]
    fn an_observer_that_slept_says_so() {
        let mut log = log("o", &[(0, 30, "a", 0), (50, 100, "a", 0)]);
        log.blind = vec![
            (Micros(25_000), Micros(32_000)),
            (Micros(45_000), Micros(49_000)),
        ];
        assert_eq!(outages(&log, ALL, 5_000)[0].blind_us, 2_900 + 4_000);
    }

    #[test]
    fn a_move_is_no_overlap_however_fast() {
        let one = log("o", &[(0, 30, "a", 0), (30, 100, "b", 0)]);
        assert_eq!(overlaps(&[one], ALL, 10_000), []);
        // One observer learns of it later than the other, and a holder is asked by itself.
        let two = [
            log("o", &[(0, 29, "a", 0), (40, 100, "b", 0)]),
            log("p", &[(0, 30, "a", 0), (31, 100, "b", 0)]),
        ];
        assert_eq!(overlaps(&two, ALL, 10_000), []);
    }

    #[test]
    fn two_observers_with_two_answers_prove_an_overlap() {
        let logs = [
            log("o", &[(0, 60, "a", 0), (60, 100, "b", 0)]),
            log("p", &[(0, 20, "a", 0), (50, 100, "b", 0)]),
        ];
        let found = overlaps(&logs, ALL, 10_000);
        assert_eq!(found.len(), 1, "what touches is one");
        let names = ("a".to_owned(), "b".to_owned());
        assert_eq!(found[0].responders, names);
        // From b's first answer to a's last.
        assert_eq!(
            (found[0].from, found[0].until),
            (Micros(50_000), Micros(59_100))
        );
    }

    #[test]
    fn one_observer_that_hears_both_in_turn_proves_it_too() {
        let spans: Vec<_> = (0..100)
            .map(|at| (at, at + 1, if at % 2 == 0 { "a" } else { "b" }, 0))
            .collect();
        let found = overlaps(&[log("o", &spans)], ALL, 10_000);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].length_us(), 97_100);
    }

    #[test]
    fn two_overlaps_apart_are_two() {
        let logs = [
            log("o", &[(0, 100, "a", 0)]),
            log("p", &[(20, 25, "b", 0), (70, 75, "b", 0)]),
        ];
        assert_eq!(overlaps(&logs, ALL, 10_000).len(), 2);
    }

    #[test]
    fn an_address_that_comes_back_after_the_window_was_not_held_twice() {
        let there_and_back = log("o", &[(0, 30, "a", 1), (35, 50, "b", 2), (55, 100, "a", 3)]);
        assert_eq!(
            overlaps(std::slice::from_ref(&there_and_back), ALL, 10_000),
            []
        );
        assert_eq!(stale(&[there_and_back], ALL), []);
    }

    #[test]
    fn an_answer_that_was_long_on_its_way_proves_nothing() {
        let mut slow = log("o", &[(0, 30, "a", 1), (31, 100, "b", 2)]);
        // Asked before the move, answered before it, heard long after.
        slow.answers[29].answered = Micros(50_000);
        slow.answers.sort_by_key(|answer| answer.answered);
        assert_eq!(overlaps(std::slice::from_ref(&slow), ALL, 10_000), []);
        assert_eq!(stale(&[slow], ALL), []);
    }

    #[test]
    fn an_answer_of_a_past_epoch_is_stale_whoever_saw_it() {
        let logs = [
            log("o", &[(0, 50, "a", 1)]),
            log("p", &[(0, 30, "a", 1), (40, 100, "b", 2)]),
        ];
        let found = stale(&logs, ALL);
        // Probes of 41 to 49 ms: the first answer of epoch 2 arrived at 40.1 ms.
        assert_eq!(found.len(), 9);
        assert_eq!((found[0].answer.sent, found[0].seen), (Micros(41_000), 2));
    }

    #[test]
    fn many_answers_are_judged_quickly_enough_to_be_judged_at_all() {
        let long = Micros(0)..Micros(200_000_000);
        let logs = [
            log("o", &[(0, 200_000, "a", 1)]),
            log("p", &[(0, 100_000, "a", 1), (100_000, 200_000, "a", 2)]),
        ];
        assert_eq!(overlaps(&logs, long.clone(), 10_000), []);
        assert_eq!(stale(&logs, long).len(), 99_999);
    }
}
