//! What waits for the shell, bounded.
//!
//! Decides: what is given up when the shell does not come for it. Messages may be lost anyway, so
//! new ones are refused when full; of the edges only the latest set counts; of a node's conditions
//! the later one replaces the earlier once the queue is long.

use std::collections::{BTreeSet, VecDeque};

use super::{
    Condition, Output,
    message::Message,
    rings::{Moves, Seat},
};

/// A push to every neighbour of the largest mesh, many times over.
pub(super) const SENDS_MAX: usize = 4096;
/// Changes kept in full; beyond this, one per node.
pub(super) const CHANGES_MAX: usize = 1024;

/// Outputs not yet taken.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    neighbours: Option<BTreeSet<Seat>>,
    changes: VecDeque<(Seat, Condition)>,
    sends: VecDeque<(Seat, Message)>,
}

impl Outbox {
    pub(super) fn send(&mut self, to: Seat, message: Message) {
        if self.sends.len() < SENDS_MAX {
            self.sends.push_back((to, message));
        }
    }

    pub(super) fn changed(&mut self, node: Seat, condition: Condition) {
        if self.changes.len() >= CHANGES_MAX {
            self.changes.retain(|(other, _)| *other != node);
        }
        self.changes.push_back((node, condition));
    }

    pub(super) fn neighbours(&mut self, neighbours: BTreeSet<Seat>) {
        self.neighbours = Some(neighbours);
    }

    pub(super) fn pop(&mut self) -> Option<Output<Seat>> {
        if let Some(neighbours) = self.neighbours.take() {
            return Some(Output::Neighbours(neighbours));
        }
        if let Some((node, condition)) = self.changes.pop_front() {
            return Some(Output::Changed { node, condition });
        }
        let (to, message) = self.sends.pop_front()?;
        if self.sends.is_empty() {
            // Begins anew at the front, so that a calm core uses the same few bytes over and over.
            self.sends.clear();
        }
        Some(Output::Send { to, message })
    }

    pub(super) fn len(&self) -> usize {
        self.sends.len() + self.changes.len() + usize::from(self.neighbours.is_some())
    }

    /// What concerns members of the next set only.
    pub(super) fn resettle(&mut self, moves: &Moves) {
        self.neighbours = self.neighbours.take().map(|seats| moves.set(&seats));
        let changes = std::mem::take(&mut self.changes).into_iter();
        self.changes = changes
            .filter_map(|(seat, condition)| Some((moves.of(seat)?, condition)))
            .collect();
        let sends = std::mem::take(&mut self.sends).into_iter();
        self.sends = sends
            .filter_map(|(seat, message)| Some((moves.of(seat)?, message)))
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_that_never_comes_costs_bounded_memory() {
        let mut outbox = Outbox::default();
        for turn in 0..3 * SENDS_MAX {
            let message = Message::Gossip {
                updates: Vec::new(),
            };
            outbox.send(Seat::at(turn % 5), message);
            outbox.changed(Seat::at(turn % 5), Condition::Alive);
        }
        assert!(outbox.len() <= SENDS_MAX + CHANGES_MAX + 5);
    }

    #[test]
    fn the_last_change_of_a_node_is_never_lost() {
        let mut outbox = Outbox::default();
        for _ in 0..2 * CHANGES_MAX {
            outbox.changed(Seat::at(1), Condition::Suspect);
        }
        outbox.changed(Seat::at(1), Condition::Dead);
        let last = std::iter::from_fn(|| outbox.pop()).last();
        assert_eq!(
            last,
            Some(Output::Changed {
                node: Seat::at(1),
                condition: Condition::Dead
            })
        );
    }
}
