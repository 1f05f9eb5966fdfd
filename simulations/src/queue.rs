//! What is due when.
//!
//! Decides: the order of events: by time, and among equal times by who was scheduled first.
//! Invariant: no two events share a place, so the order never rests on anything but the schedule.
//!
//! A calendar queue (Brown 1988): what is due in one of the next thousands of spans lies unordered
//! with its span and is sorted when that begins; what is added to the present span goes into a heap;
//! the little that is due later waits apart. So the heap stays short however many hosts have a timer.

use std::{cmp::Reverse, collections::BinaryHeap};

/// Microseconds of a span, as a power of two: shorter than nearly all messages take, so that little
/// is added to the present span; in a mesh of ten thousand a hundred events.
const SPAN_BITS: u32 = 9;
/// Spans that are kept one by one: two seconds, longer than any timer of the protocol's that is not
/// rare.
const SPANS: u64 = 4096;
/// Events that are announced together: as many as a processor can fetch the hosts of at once.
const ANNOUNCED: usize = 8;

/// What is due at a time; the number breaks ties.
type Due = Reverse<(u64, u64, Place)>;

/// Where the rest of it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Slot(u32),
    /// Of a host's timer there is no rest.
    Timer(u32),
}

/// What is due next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next<E> {
    /// The timer of the host with this index.
    Timer(usize),
    /// Anything else.
    Event(E),
}

/// Events yet to come. The heaps hold small keys, the events themselves lie still.
#[derive(Debug)]
pub(crate) struct Queue<E> {
    /// Due in the present span, the next one last.
    ready: Vec<Due>,
    /// The last of these were announced, down to here.
    announced: usize,
    /// Due in the present span, and added since it began.
    near: BinaryHeap<Due>,
    /// Due in the spans after it, each at its remainder.
    spans: Vec<Vec<Due>>,
    /// How many those are.
    spanned: usize,
    /// Due later than these.
    far: BinaryHeap<Due>,
    /// The number of the present span.
    present: u64,
    slots: Vec<Option<E>>,
    free: Vec<u32>,
    scheduled: u64,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self {
            ready: Vec::new(),
            announced: 0,
            near: BinaryHeap::new(),
            spans: (0..SPANS).map(|_| Vec::new()).collect(),
            spanned: 0,
            far: BinaryHeap::new(),
            present: 0,
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
                self.slots[slot as usize] = Some(event);
                slot
            }
            None => {
                self.slots.push(Some(event));
                narrow(self.slots.len() - 1)
            }
        };
        self.enter(at_us, Place::Slot(slot));
    }

    /// Adds the timer of a host.
    pub(crate) fn push_timer(&mut self, at_us: u64, host: usize) {
        self.enter(at_us, Place::Timer(narrow(host)));
    }

    fn enter(&mut self, at_us: u64, place: Place) {
        self.scheduled += 1;
        self.sort_in(Reverse((at_us, self.scheduled, place)));
    }

    fn sort_in(&mut self, due: Due) {
        let span = due.0.0 >> SPAN_BITS;
        if span <= self.present {
            self.near.push(due);
        } else if span - self.present < SPANS {
            self.spans[at(span)].push(due);
            self.spanned += 1;
        } else {
            self.far.push(due);
        }
    }

    /// Goes on to the next span, if anything is due in it or later; not beyond `end_us`.
    fn advance(&mut self, end_us: u64) -> bool {
        let last = end_us >> SPAN_BITS;
        let next = if self.spanned > 0 {
            self.present + 1
        } else if let Some(Reverse((at_us, ..))) = self.far.peek() {
            at_us >> SPAN_BITS
        } else {
            return false;
        };
        if next > last {
            return false;
        }
        self.present = next;
        // Nothing is left of the last one.
        std::mem::swap(&mut self.ready, &mut self.spans[at(next)]);
        self.spanned -= self.ready.len();
        // The next one is the greatest, as they are kept reversed.
        self.ready.sort_unstable();
        self.announced = self.ready.len();
        while let Some(Reverse((at_us, ..))) = self.far.peek()
            && (at_us >> SPAN_BITS) - next < SPANS
            && let Some(due) = self.far.pop()
        {
            self.sort_in(due);
        }
        true
    }

    /// Whether the last few that were announced as next are over.
    pub(crate) const fn wants_announcing(&self) -> bool {
        !self.ready.is_empty() && self.ready.len() <= self.announced
    }

    /// Announces the next few that are due. What is added late is not among them.
    pub(crate) fn announce(&mut self) {
        self.announced = self.ready.len().saturating_sub(ANNOUNCED);
    }

    /// Those that were announced last, and those after them.
    pub(crate) fn announced(&self) -> [impl Iterator<Item = Next<&E>>; 2] {
        let next = |Reverse((_, _, place)): &Due| match *place {
            Place::Timer(host) => Some(Next::Timer(host as usize)),
            Place::Slot(slot) => self.slots[slot as usize].as_ref().map(Next::Event),
        };
        let middle = self.announced.min(self.ready.len());
        let first = middle.saturating_sub(ANNOUNCED);
        [&self.ready[middle..], &self.ready[first..middle]]
            .map(|due| due.iter().rev().filter_map(next))
    }

    /// What is due next, if it is by `end_us`.
    pub(crate) fn pop_until(&mut self, end_us: u64) -> Option<(u64, Next<E>)> {
        while self.ready.is_empty() && self.near.is_empty() {
            if !self.advance(end_us) {
                return None;
            }
        }
        let (ready, near) = (self.ready.last(), self.near.peek());
        let Reverse((at_us, _, place)) = *ready.max(near)?;
        if at_us > end_us {
            return None;
        }
        if ready > near {
            self.ready.pop();
        } else {
            self.near.pop();
        }
        let next = match place {
            Place::Timer(host) => Next::Timer(host as usize),
            Place::Slot(slot) => {
                self.free.push(slot);
                let event = self.slots[slot as usize].take();
                Next::Event(event.expect("each slot is due once"))
            }
        };
        Some((at_us, next))
    }

    /// How many were ever scheduled.
    pub(crate) const fn scheduled(&self) -> u64 {
        self.scheduled
    }
}

/// Where a span is kept.
fn at(span: u64) -> usize {
    usize::try_from(span % SPANS).expect("the remainder is small")
}

fn narrow(number: usize) -> u32 {
    u32::try_from(number).expect("four billion hosts or events fit into no memory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::mix;

    #[test]
    fn events_come_by_time_and_among_equals_in_the_order_of_their_schedule() {
        let mut queue = Queue::default();
        for (at, event) in [(5, 'c'), (1, 'a'), (5, 'd'), (1, 'b'), (9, 'e')] {
            queue.push(at, event);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop_until(5)).collect();
        let event = |at, event| (at, Next::Event(event));
        let expected = [event(1, 'a'), event(1, 'b'), event(5, 'c'), event(5, 'd')];
        assert_eq!(order, expected);
        assert_eq!(queue.pop_until(10), Some(event(9, 'e')));
        assert_eq!(queue.scheduled(), 5);
    }

    #[test]
    fn near_and_far_events_and_timers_come_as_from_one_sorted_list() {
        let mut queue = Queue::default();
        let mut expected = Vec::new();
        let mut came = Vec::new();
        let mut now_us = 0;
        for step in 0..20_000_u64 {
            // From the same microsecond to twice as far as spans are kept.
            let reach = 1 << (mix(step) % 24);
            let at_us = now_us + mix(step ^ 0xabc) % reach;
            expected.push((at_us, step));
            if step % 3 == 0 {
                queue.push_timer(at_us, usize::try_from(step).unwrap());
            } else {
                queue.push(at_us, step);
            }
            if step % 4 == 0 {
                now_us += mix(step ^ 0xdef) % 30_000;
                came.extend(std::iter::from_fn(|| queue.pop_until(now_us)));
            }
        }
        came.extend(std::iter::from_fn(|| queue.pop_until(u64::MAX)));
        expected.sort_unstable();
        let number = |next| match next {
            Next::Timer(host) => host as u64,
            Next::Event(step) => step,
        };
        let came: Vec<_> = came.into_iter().map(|(at, n)| (at, number(n))).collect();
        assert_eq!(came, expected);
    }
}
