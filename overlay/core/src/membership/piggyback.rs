//! Which facts ride on the next message (SWIM section 4.1).
//!
//! Decides: least-told facts first, each told about 4 log10(n) times, the newest per subject only.
//! The eager push has usually been faster; this is for the messages it lost. Bounded by the number
//! of members.

use std::collections::BTreeMap;

use super::{
    message::Update,
    rings::{Moves, Seat},
};

/// memberlist's retransmission factor: enough that a lossy link misses none in practice.
const RETELL_FACTOR: u32 = 4;

/// How often it was told, then how long it has waited.
type Turn = (u32, u64);

/// Facts waiting for a ride.
#[derive(Debug, Default)]
pub(super) struct Piggyback {
    queue: BTreeMap<Turn, (Seat, Update)>,
    turns: BTreeMap<Seat, Turn>,
    arrivals: u64,
}

impl Piggyback {
    /// Puts a fact in the queue, in place of an older one about the same subject.
    pub(super) fn push(&mut self, subject: Seat, update: Update) {
        if let Some(turn) = self.turns.remove(&subject) {
            self.queue.remove(&turn);
        }
        self.enqueue(0, subject, update);
    }

    /// The next facts to tell, in a mesh of `members`.
    pub(super) fn take(&mut self, count: usize, members: usize) -> Vec<Update> {
        if self.queue.is_empty() {
            return Vec::new();
        }
        let told_max = RETELL_FACTOR * ((members + 1).ilog10() + 1);
        let mut taken = Vec::new();
        while taken.len() < count
            && let Some(((told, _), (subject, update))) = self.queue.pop_first()
        {
            self.turns.remove(&subject);
            taken.push((told + 1, subject, update));
        }
        for (told, subject, update) in &taken {
            if *told < told_max {
                self.enqueue(*told, *subject, update.clone());
            }
        }
        taken.into_iter().map(|(_, _, update)| update).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn resettle(&mut self, moves: &Moves) {
        self.turns.clear();
        for (turn, (subject, update)) in std::mem::take(&mut self.queue) {
            if let Some(subject) = moves.of(subject) {
                self.turns.insert(subject, turn);
                self.queue.insert(turn, (subject, update));
            }
        }
    }

    fn enqueue(&mut self, told: u32, subject: Seat, update: Update) {
        let turn = (told, self.arrivals);
        self.arrivals += 1;
        self.turns.insert(subject, turn);
        self.queue.insert(turn, (subject, update));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{record::Incarnation, tests::goodbye};
    use super::*;

    fn left(index: usize, version: u64) -> (Seat, Update) {
        let incarnation = Incarnation {
            generation: 1,
            version,
        };
        (Seat::at(index), goodbye(index, incarnation))
    }

    fn push(queue: &mut Piggyback, (seat, update): (Seat, Update)) {
        queue.push(seat, update);
    }

    #[test]
    fn the_newest_fact_about_a_subject_replaces_the_older() {
        let mut queue = Piggyback::default();
        push(&mut queue, left(1, 1));
        push(&mut queue, left(1, 2));
        assert_eq!(queue.take(8, 10), vec![left(1, 2).1]);
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn the_least_told_fact_goes_first_and_each_is_told_a_bounded_number_of_times() {
        let mut queue = Piggyback::default();
        push(&mut queue, left(1, 1));
        assert_eq!(queue.take(1, 10), vec![left(1, 1).1]);
        push(&mut queue, left(2, 1));
        assert_eq!(queue.take(1, 10), vec![left(2, 1).1]);
        let told = std::iter::from_fn(|| queue.take(1, 10).pop()).count();
        assert_eq!(told, 14);
    }
}
