//! Which facts ride on the next message (SWIM section 4.1).
//!
//! Decides: least-told facts first, each told about 4 log10(n) times, the newest per subject only.
//! The eager push has usually been faster; this is for the messages it lost. Bounded by the number
//! of members.

use std::collections::BTreeMap;

use consensus_core::NodeId;

use super::message::Update;

/// memberlist's retransmission factor: enough that a lossy link misses none in practice.
const RETELL_FACTOR: u32 = 4;

/// How often it was told, then how long it has waited.
type Turn = (u32, u64);

/// Facts waiting for a ride.
#[derive(Debug, Default)]
pub(super) struct Piggyback {
    queue: BTreeMap<Turn, Update>,
    turns: BTreeMap<NodeId, Turn>,
    arrivals: u64,
}

impl Piggyback {
    /// Puts a fact in the queue, in place of an older one about the same subject.
    pub(super) fn push(&mut self, update: Update) {
        self.remove(&update.subject().clone());
        self.enqueue(0, update);
    }

    /// Forgets what is queued about a subject.
    pub(super) fn remove(&mut self, subject: &NodeId) {
        if let Some(turn) = self.turns.remove(subject) {
            self.queue.remove(&turn);
        }
    }

    /// The next facts to tell, in a mesh of `members`.
    pub(super) fn take(&mut self, count: usize, members: usize) -> Vec<Update> {
        let told_max = RETELL_FACTOR * ((members + 1).ilog10() + 1);
        let mut taken = Vec::new();
        while taken.len() < count
            && let Some(((told, _), update)) = self.queue.pop_first()
        {
            self.turns.remove(update.subject());
            taken.push((told + 1, update));
        }
        for (told, update) in &taken {
            if *told < told_max {
                self.enqueue(*told, update.clone());
            }
        }
        taken.into_iter().map(|(_, update)| update).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    fn enqueue(&mut self, told: u32, update: Update) {
        let turn = (told, self.arrivals);
        self.arrivals += 1;
        self.turns.insert(update.subject().clone(), turn);
        self.queue.insert(turn, update);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{record::Incarnation, tests::node};
    use super::*;

    fn left(index: usize, version: u64) -> Update {
        Update::Left {
            subject: node(index),
            incarnation: Incarnation {
                generation: 1,
                version,
            },
        }
    }

    #[test]
    fn the_newest_fact_about_a_subject_replaces_the_older() {
        let mut queue = Piggyback::default();
        queue.push(left(1, 1));
        queue.push(left(1, 2));
        assert_eq!(queue.take(8, 10), vec![left(1, 2)]);
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn the_least_told_fact_goes_first_and_each_is_told_a_bounded_number_of_times() {
        let mut queue = Piggyback::default();
        queue.push(left(1, 1));
        assert_eq!(queue.take(1, 10), vec![left(1, 1)]);
        queue.push(left(2, 1));
        assert_eq!(queue.take(1, 10), vec![left(2, 1)]);
        let told = std::iter::from_fn(|| queue.take(1, 10).pop()).count();
        assert_eq!(told, 14);
    }
}
