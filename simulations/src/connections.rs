//! Which hosts are connected.
//!
//! Decides: when a dial succeeds and when a connection ends, as QUIC's do: at once when the other
//! process closes it, after an idle time when it merely falls silent. A restarted process knows
//! nothing of the connections that its peers still hold to its earlier life.

use std::time::Duration;

use crate::world::{Event, World};

/// QUIC's idle timeout in the shell.
const IDLE_TIMEOUT_US: u64 = 10_000_000;
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

/// A connection as one end keeps it. Narrow: it is looked for with every message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Connection {
    peer: u32,
    peer_boot: u32,
}

impl Connection {
    fn new(peer: usize, peer_boot: u64) -> Self {
        let peer = u32::try_from(peer).expect("four billion hosts fit into no memory");
        let peer_boot = u32::try_from(peer_boot).expect("no run has four billion starts");
        Self { peer, peer_boot }
    }

    pub(crate) const fn peer(self) -> usize {
        self.peer as usize
    }

    /// The life of the other process with which it was made.
    pub(crate) const fn peer_boot(self) -> u64 {
        self.peer_boot as u64
    }
}

impl World {
    /// The process ended on a living host: its peers are told.
    pub(crate) fn close_all(&mut self, index: usize) {
        for one in std::mem::take(&mut self.nodes[index].connections) {
            let peer = one.peer();
            self.disconnect(peer, index);
            if self.network.is_open(index, peer) {
                let wait = self.network.delay(index, peer, &mut self.rng);
                let event = Event::Closed {
                    at: peer,
                    peer: index,
                };
                self.schedule(wait, event);
            }
        }
    }

    /// The connection that `a` keeps with `b`, however old.
    pub(crate) fn connection(&self, a: usize, b: usize) -> Option<Connection> {
        let connections = &self.nodes[a].connections;
        let place = connections
            .binary_search_by_key(&b, |one| one.peer())
            .ok()?;
        Some(connections[place])
    }

    /// Whether both processes are still those that made the connection.
    fn is_present(&self, a: usize, b: usize) -> bool {
        self.connection(a, b)
            .is_some_and(|one| one.peer_boot() == self.nodes[b].boot)
            && self
                .connection(b, a)
                .is_some_and(|one| one.peer_boot() == self.nodes[a].boot)
    }

    fn connect(&mut self, a: usize, b: usize) {
        let peer_boot = self.nodes[b].boot;
        let one = Connection::new(b, peer_boot);
        let connections = &mut self.nodes[a].connections;
        match connections.binary_search_by_key(&b, |one| one.peer()) {
            Ok(place) => connections[place] = one,
            Err(place) => connections.insert(place, one),
        }
    }

    fn disconnect(&mut self, a: usize, b: usize) {
        let connections = &mut self.nodes[a].connections;
        if let Ok(place) = connections.binary_search_by_key(&b, |one| one.peer()) {
            connections.remove(place);
        }
    }

    pub(crate) fn ends(&self, a: usize, b: usize) -> Ends {
        let (low, high) = if a < b { (a, b) } else { (b, a) };
        Ends {
            low: (low, self.nodes[low].boot),
            high: (high, self.nodes[high].boot),
        }
    }

    pub(crate) fn round_trip(&mut self, a: usize, b: usize) -> Duration {
        self.network.delay(a, b, &mut self.rng) + self.network.delay(b, a, &mut self.rng)
    }

    fn wants(&self, from: usize, to: usize) -> bool {
        let node = &self.nodes[from];
        node.running && node.wanted.binary_search(&to).is_ok()
    }

    pub(crate) fn redial(&mut self, from: usize, to: usize) {
        if !self.wants(from, to) || self.is_present(from, to) {
            return;
        }
        let dialling = &mut self.nodes[from].dialling;
        if let Err(place) = dialling.binary_search(&to) {
            dialling.insert(place, to);
            let boot = self.nodes[from].boot;
            self.schedule(Duration::ZERO, Event::Dial { from, to, boot });
        }
    }

    pub(crate) fn dial(&mut self, from: usize, to: usize, boot: u64) {
        if self.nodes[from].boot != boot {
            return;
        }
        let needed = self.wants(from, to) && !self.is_present(from, to);
        if needed && !self.can_talk(from, to) {
            self.network.count_cut(from, to);
            self.network.count_cut(to, from);
            self.schedule(REDIAL_PERIOD, Event::Dial { from, to, boot });
            return;
        }
        if let Ok(place) = self.nodes[from].dialling.binary_search(&to) {
            self.nodes[from].dialling.remove(place);
        }
        if needed {
            let wait = self.round_trip(from, to);
            let ends = self.ends(from, to);
            self.schedule(wait, Event::Connected { ends });
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
        if !self.is_present(a, b) {
            self.connect(a, b);
            self.connect(b, a);
            self.hand_in(a, Event::Connected { ends });
            self.hand_in(b, Event::Connected { ends });
        }
    }

    /// Ends connections that nobody wants, and those over which nothing came for too long.
    pub(crate) fn close_idle(&mut self) {
        let mut ended = Vec::new();
        for (a, node) in self.nodes.iter().enumerate() {
            for one in &node.connections {
                let peer = one.peer();
                // Both ends keep a live connection; the lower one looks.
                let looks = || a < peer || self.connection(peer, a).is_none();
                if self.is_over(a, *one) && looks() {
                    ended.push((a, peer));
                }
            }
        }
        for (a, b) in ended {
            self.disconnect(a, b);
            self.disconnect(b, a);
            self.hand_in(a, Event::Closed { at: a, peer: b });
            self.hand_in(b, Event::Closed { at: b, peer: a });
        }
        self.schedule(IDLE_CHECK_PERIOD, Event::IdleCheck);
    }

    fn is_over(&self, a: usize, one: Connection) -> bool {
        let b = one.peer();
        if !self.wants(a, b) && !self.wants(b, a) {
            return true;
        }
        let (own, peer) = (&self.nodes[a], &self.nodes[b]);
        let gone = !peer.running || peer.boot != one.peer_boot();
        let causes = [
            self.network.broken_since(a, b),
            peer.stopped_us.filter(|_| gone),
            own.stopped_us.filter(|_| !own.running),
        ];
        let since = causes.into_iter().flatten().min();
        since.is_some_and(|since| self.now_us - since >= IDLE_TIMEOUT_US)
    }
}
