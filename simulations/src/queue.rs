//! What is due when.
//!
//! Decides: the order of events: by time, and among equal times by who was scheduled first.
//! Invariant: no two events share a place, so the order never rests on anything but the schedule.

use std::{cmp::Reverse, collections::BinaryHeap};

/// Due at a time; the number breaks ties; the slot has what happens.
type Due = Reverse<(u64, u64, usize)>;

/// Events yet to come. The heap holds small keys, the events themselves lie still.
#[derive(Debug)]
pub(crate) struct Queue<E> {
    heap: BinaryHeap<Due>,
    slots: Vec<Option<E>>,
    free: Vec<usize>,
    scheduled: u64,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self {
            heap: BinaryHeap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            scheduled: 0,
        }
    }
}

impl<E> Queue<E> {
    /// Adds an event.
    pub(crate) fn push(&mut self, at_us: u64, event: E) {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = Some(event);
                slot
            }
            None => {
                self.slots.push(Some(event));
                self.slots.len() - 1
            }
        };
        self.scheduled += 1;
        self.heap.push(Reverse((at_us, self.scheduled, slot)));
    }

    /// The next event, if it is due by `end_us`.
    pub(crate) fn pop_until(&mut self, end_us: u64) -> Option<(u64, E)> {
        let Reverse((at_us, _, slot)) = *self.heap.peek()?;
        if at_us > end_us {
            return None;
        }
        self.heap.pop();
        self.free.push(slot);
        let event = self.slots[slot].take();
        Some((at_us, event.expect("each slot is in the heap once")))
    }

    /// How many were ever scheduled.
    pub(crate) const fn scheduled(&self) -> u64 {
        self.scheduled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_among_equals_in_the_order_of_their_schedule() {
        let mut queue = Queue::default();
        for (at, event) in [(5, 'c'), (1, 'a'), (5, 'd'), (1, 'b'), (9, 'e')] {
            queue.push(at, event);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop_until(5)).collect();
        assert_eq!(order, [(1, 'a'), (1, 'b'), (5, 'c'), (5, 'd')]);
        assert_eq!(queue.pop_until(10), Some((9, 'e')));
        assert_eq!(queue.scheduled(), 5);
    }
}
