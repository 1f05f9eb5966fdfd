//! What a shell does with a core.
//!
//! Decides: as the real one does, it holds connections to the neighbours and redials those that
//! fail, dials once for a message to anybody else, and hands in messages before timers.
//!
//! Messages travel as values. Their size on the wire is counted for each, and every
//! [`WIRE_CHECK_PERIOD`]th one really passes through the wire format.

use std::sync::Arc;

use overlay_core::membership::{Condition, Message, Output, Seat, wire::v1};

use crate::{
    network::Fate,
    node::INBOX_MAX,
    random::as_micros,
    world::{Event, World},
};

/// Among so many messages one is encoded and read again. A prime, so that no rhythm of the protocol
/// keeps a kind of message out of it.
const WIRE_CHECK_PERIOD: u64 = 61;

impl World {
    pub(crate) fn start(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.start(index, &self.mesh, self.now_us);
        let local = node.clock.at(self.now_us);
        node.core.handle_rings(Arc::clone(&self.mesh.rings), local);
        if let Some(known) = self.mesh.known.as_ref().filter(|_| node.boot == 1) {
            node.core.handle_shared(known, local);
        }
        self.trace.note(self.now_us, b'S', index, 0, node.boot);
        self.history.started(self.now_us, index);
        self.drain(index);
    }

    /// The process ends, in whatever way.
    pub(crate) fn stop(&mut self, index: usize, left: bool) {
        self.nodes[index].stop(self.now_us);
        self.trace.note(self.now_us, b'X', index, 0, left.into());
        self.history.ended(self.now_us, index, left);
    }

    pub(crate) fn resume(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if node.stalled.is_none_or(|(until, _)| until > self.now_us) {
            return;
        }
        node.stalled = None;
        node.resumed_us = self.now_us;
        self.trace.note(self.now_us, b'R', index, 0, 0);
        // What arrived first, then the timers: silence may only be judged once the inbox is empty.
        while let Some(event) = self.nodes[index].inbox.pop_front() {
            self.hand_in(index, event);
        }
        self.nodes[index].timer_us = None;
        self.fire_timer(index);
    }

    pub(crate) fn fire_timer(&mut self, index: usize) {
        let now_us = self.now_us;
        let node = &mut self.nodes[index];
        if node.timer_us.is_some_and(|at| at <= now_us) {
            node.timer_us = None;
        }
        if !node.is_awake() {
            self.count_wait(index);
            return;
        }
        let local = node.clock.at(now_us);
        if node.core.poll_timeout().is_some_and(|due| due <= local) {
            node.core.handle_timeout(local);
            self.trace.note(now_us, b'T', index, 0, 0);
        }
        self.drain(index);
    }

    /// Gives an event to a process, or to its inbox while it stands still.
    pub(crate) fn hand_in(&mut self, to: usize, event: Event) {
        let node = &mut self.nodes[to];
        if !node.running {
            return;
        }
        if node.stalled.is_some() {
            if node.inbox.len() < INBOX_MAX {
                node.inbox.push_back(event);
            }
            self.count_wait(to);
            return;
        }
        match event {
            Event::Arrive {
                from,
                boot,
                message,
                ..
            } => self.receive(from, to, boot, message),
            Event::Closed { peer, .. } => {
                if self.connection(to, peer).is_none() {
                    self.trace.note(self.now_us, b'D', to, peer, 0);
                    let peer_id = self.nodes[peer].id.clone();
                    let node = &mut self.nodes[to];
                    let local = node.clock.at(self.now_us);
                    node.core.handle_disconnected(&peer_id, local);
                    self.redial(to, peer);
                }
            }
            Event::Connected { ends } => {
                let low = ends.low.0;
                let peer = if low == to { ends.high.0 } else { low };
                self.trace.note(self.now_us, b'C', to, peer, 0);
                let peer_id = self.nodes[peer].id.clone();
                let node = &mut self.nodes[to];
                let local = node.clock.at(self.now_us);
                node.core.handle_connected(&peer_id, local);
            }
            Event::Start { .. }
            | Event::Resume { .. }
            | Event::Dial { .. }
            | Event::IdleCheck
            | Event::Fault { .. } => {}
        }
        self.drain(to);
    }

    fn receive(&mut self, from: usize, to: usize, boot: u64, message: Message) {
        if !self.network.is_open(from, to) {
            self.network.count_cut(from, to);
            return;
        }
        if self.nodes[to].boot != boot {
            return;
        }
        self.trace
            .note(self.now_us, b'M', from, to, mark_of(&message));
        let receiver = &mut self.nodes[to];
        let local = receiver.clock.at(self.now_us);
        receiver.core.handle_seated(Seat::at(from), message, local);
    }

    /// Does what the core wants, then sees to its next timer.
    pub(crate) fn drain(&mut self, index: usize) {
        while let Some(output) = self.nodes[index].core.poll_seated() {
            match output {
                Output::Send { to, message } => self.send(index, to.index(), message),
                Output::Neighbours(wanted) => {
                    let wanted: Vec<_> = wanted.into_iter().map(Seat::index).collect();
                    self.nodes[index].wanted.clone_from(&wanted);
                    for peer in wanted {
                        self.redial(index, peer);
                    }
                }
                Output::Changed { node, condition } => {
                    self.changed(index, node.index(), condition);
                }
            }
        }
        self.arm_timer(index);
    }

    fn changed(&mut self, observer: usize, subject: usize, condition: Condition) {
        let kind = condition as u64;
        self.trace.note(self.now_us, b'B', observer, subject, kind);
        self.believe(observer, subject, condition);
    }

    fn arm_timer(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let Some(due) = node.core.poll_timeout() else {
            return;
        };
        let due_us = node.clock.reaches(due).max(self.now_us);
        if node.timer_us.is_none_or(|at| due_us < at) {
            node.timer_us = Some(due_us);
            self.queue.push_timer(due_us, index);
        }
    }

    pub(crate) fn send(&mut self, from: usize, to: usize, message: Message) {
        let bytes = wire_size(&message);
        let number = self.history.sent(self.now_us, bytes);
        self.nodes[from].sent_bytes += bytes;
        if number.is_multiple_of(WIRE_CHECK_PERIOD) {
            check_wire(&message, bytes);
        }
        let boot = self.nodes[to].boot;
        let mut handshake_us = 0;
        match self.connection(from, to) {
            // Over a connection of an earlier life nothing arrives.
            Some(one) if one.peer_boot() != boot => return,
            Some(_) => {}
            None if self.can_talk(from, to) => {
                let handshake = self.round_trip(from, to);
                let ends = self.ends(from, to);
                self.schedule(handshake, Event::Connected { ends });
                handshake_us = as_micros(handshake);
            }
            None => {
                self.network.count_cut(from, to);
                self.network.count_cut(to, from);
                return;
            }
        }
        if let Fate::Arrives(wait) = self.network.fate(from, to, &mut self.rng) {
            let event = Event::Arrive {
                from,
                to,
                boot,
                message,
            };
            self.queue.push(self.now_us + handshake_us + wait, event);
        }
    }
}

/// What tells a message from others in the trace: its kind, its number, how much it carries.
fn mark_of(message: &Message) -> u64 {
    let (kind, number) = match message {
        Message::Ping { sequence, .. } => (0, sequence.0),
        Message::Ack { sequence, .. } => (1, sequence.0),
        Message::PingRequest { sequence, .. } => (2, sequence.0),
        Message::IndirectAck { sequence, .. } => (3, sequence.0),
        Message::Nack { sequence, .. } => (4, sequence.0),
        Message::Gossip { .. } => (5, 0),
        Message::Digest { buckets } => (6, buckets.iter().fold(0, |sum, one| sum ^ one.hash) >> 16),
        Message::Repair { wanted, .. } => (7, wanted.len() as u64),
        Message::Have { facts } => (8, facts.iter().fold(0, |sum, one| sum ^ one.0) >> 16),
        Message::Graft { facts } => (9, facts.iter().fold(0, |sum, one| sum ^ one.0) >> 16),
        Message::Prune => (10, 0),
    };
    kind << 56 | (message.updates().len() as u64) << 48 | number & 0xffff_ffff_ffff
}

/// The bytes of a message in the wire format. The short ones, nearly all, are reckoned rather than
/// written: version, kind, number, and a list of nothing.
fn wire_size(message: &Message) -> u64 {
    match message {
        Message::Ping { sequence, updates }
        | Message::Ack { sequence, updates }
        | Message::IndirectAck { sequence, updates }
        | Message::Nack { sequence, updates }
            if updates.is_empty() =>
        {
            3 + varint_size(sequence.0)
        }
        // An index and a hash for each.
        Message::Digest { buckets } => {
            let count = buckets.len() as u64;
            2 + varint_size(count) + 9 * count
        }
        Message::Ping { .. }
        | Message::Ack { .. }
        | Message::IndirectAck { .. }
        | Message::Nack { .. }
        | Message::PingRequest { .. }
        | Message::Gossip { .. }
        | Message::Repair { .. }
        | Message::Have { .. }
        | Message::Graft { .. }
        | Message::Prune => v1::encode(message).len() as u64,
    }
}

/// postcard writes seven bits a byte.
fn varint_size(number: u64) -> u64 {
    u64::from((64 - (number | 1).leading_zeros()).div_ceil(7))
}

fn check_wire(message: &Message, size: u64) {
    let bytes = v1::encode(message);
    assert_eq!(bytes.len() as u64, size, "the size was reckoned wrongly");
    let read = v1::decode(&bytes).expect("what a core sends, a core can read");
    assert!(read == *message, "the wire format changed {message:?}");
}

#[cfg(test)]
mod tests {
    use overlay_core::membership::{Bucket, Sequence};

    use super::*;

    #[test]
    fn a_reckoned_size_is_what_the_wire_format_writes() {
        for number in [0, 1, 127, 128, 16_383, 16_384, u64::MAX] {
            let sequence = Sequence(number);
            let updates = Vec::new();
            check_wire(
                &Message::Ping {
                    sequence,
                    updates: updates.clone(),
                },
                wire_size(&Message::Ping {
                    sequence,
                    updates: updates.clone(),
                }),
            );
            let nack = Message::Nack { sequence, updates };
            check_wire(&nack, wire_size(&nack));
        }
        for count in [0, 1, 127, 128, 256] {
            let bucket = |index: u16| Bucket {
                index: index.to_le_bytes()[0],
                hash: 7 + u64::from(index),
            };
            let buckets = (0..count).map(bucket).collect();
            let digest = Message::Digest { buckets };
            check_wire(&digest, wire_size(&digest));
        }
    }
}
