//! Which hosts are connected.
//!
//! Decides: when a dial succeeds and when a connection ends, as QUIC's do: at once when the other
//! process closes it, after an idle time when it merely falls silent. A restarted process knows
//! nothing of the connections that its peers still hold to its earlier life.

use std::time::Duration;

use crate::world::{Event, World};

/// QUIC's idle timeout in the shell.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the world looks for idle connections.
pub(crate) const IDLE_CHECK_PERIOD: Duration = Duration::from_secs(5);
/// Between two attempts at a neighbour that cannot be reached.
const REDIAL_PERIOD: Duration = Duration::from_secs(1);

/// Both ends of a connection, each with the life of its process; the lower index first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) low: (usize, u64),
    pub(crate) high: (usize, u64),
}

impl World {
    /// The process ended on a living host: its peers are told.
    pub(crate) fn close_all(&mut self, index: usize) {
        let pairs: Vec<_> = self.connections.keys().copied().collect();
        for pair in pairs
            .into_iter()
            .filter(|pair| pair.0 == index || pair.1 == index)
        {
            self.connections.remove(&pair);
            let peer = if pair.0 == index { pair.1 } else { pair.0 };
            if self.network.is_open(index, peer) {
                let wait = self.network.delay(index, peer, &mut self.rng);
                self.schedule(
                    wait,
                    Event::Closed {
                        at: peer,
                        peer: index,
                    },
                );
            }
        }
    }

    pub(crate) fn ends(&self, a: usize, b: usize) -> Ends {
        let (low, high) = pair(a, b);
        Ends {
            low: (low, self.nodes[low].boot),
            high: (high, self.nodes[high].boot),
        }
    }

    pub(crate) fn round_trip(&mut self, a: usize, b: usize) -> Duration {
        self.network.delay(a, b, &mut self.rng) + self.network.delay(b, a, &mut self.rng)
    }

    pub(crate) fn redial(&mut self, from: usize, to: usize) {
        let connected = self.connections.get(&pair(from, to)).is_some_and(|ends| {
            // A restarted process knows nothing of the connection that its peer still holds.
            *ends == self.ends(from, to)
        });
        let wanted = self.nodes[from].running && self.nodes[from].wanted.contains(&to);
        if wanted && !connected && self.dialling.insert((from, to)) {
            self.schedule(Duration::ZERO, Event::Dial { from, to });
        }
    }

    pub(crate) fn dial(&mut self, from: usize, to: usize) {
        let wanted = self.nodes[from].running && self.nodes[from].wanted.contains(&to);
        let present = self.connections.get(&pair(from, to)) == Some(&self.ends(from, to));
        if !wanted || present {
            self.dialling.remove(&(from, to));
        } else if self.can_talk(from, to) {
            self.dialling.remove(&(from, to));
            let wait = self.round_trip(from, to);
            self.schedule(
                wait,
                Event::Connected {
                    ends: self.ends(from, to),
                },
            );
        } else {
            self.schedule(REDIAL_PERIOD, Event::Dial { from, to });
        }
    }

    pub(crate) fn establish(&mut self, ends: Ends) {
        let (a, b) = (ends.low.0, ends.high.0);
        let usable = self.ends(a, b) == ends
            && self.nodes[a].running
            && self.nodes[b].running
            && self.network.is_open_both_ways(a, b);
        if !usable {
            self.redial(a, b);
            self.redial(b, a);
            return;
        }
        if self.connections.insert((a, b), ends) != Some(ends) {
            self.hand_in(a, Event::Connected { ends });
            self.hand_in(b, Event::Connected { ends });
        }
    }

    /// Ends connections that nobody wants, and those over which nothing came for too long.
    pub(crate) fn close_idle(&mut self) {
        let ended: Vec<_> = self
            .connections
            .iter()
            .filter(|(pair, ends)| self.is_unwanted(**pair) || self.is_silent(**pair, **ends))
            .map(|(pair, _)| *pair)
            .collect();
        for (a, b) in ended {
            self.connections.remove(&(a, b));
            self.hand_in(a, Event::Closed { at: a, peer: b });
            self.hand_in(b, Event::Closed { at: b, peer: a });
        }
        self.schedule(IDLE_CHECK_PERIOD, Event::IdleCheck);
    }

    pub(crate) fn is_unwanted(&self, (a, b): (usize, usize)) -> bool {
        !self.nodes[a].wanted.contains(&b) && !self.nodes[b].wanted.contains(&a)
    }

    pub(crate) fn is_silent(&self, (a, b): (usize, usize), ends: Ends) -> bool {
        let gone = |(node, boot): (usize, u64)| {
            let node = &self.nodes[node];
            node.stopped_at
                .filter(|_| !node.running || node.boot != boot)
        };
        let broken = self.network.broken_since(a, b);
        let causes = [broken, gone(ends.low), gone(ends.high)];
        let since = causes.into_iter().flatten().min();
        since.is_some_and(|since| self.now.since(since) >= IDLE_TIMEOUT)
    }
}

/// The unordered pair, lower index first.
pub(crate) const fn pair(a: usize, b: usize) -> (usize, usize) {
    if a < b { (a, b) } else { (b, a) }
}
