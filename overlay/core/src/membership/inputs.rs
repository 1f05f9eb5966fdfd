//! What comes in, and in which order it takes effect.
//!
//! Decides: who is heard at all, and what follows every input: edges and deadlines follow what was
//! learned, then the news goes out. Notices when this process stood still.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use consensus_core::{NetworkId, NodeId, Time};

use super::{
    Condition, Membership,
    contacts::Path,
    message::{Goodbye, Message, Update},
    planted::PlantedBug,
    record::{Incarnation, Record},
    repair::SlowTimers,
    rings::{Moves, Rings, Seat},
    table::{Case, Held},
};

/// Connections of strangers remembered; the shell's own limit is far lower.
const STRANGERS_MAX: usize = 65_536;

impl Membership {
    /// Takes over whom Raft has admitted, and the salt of the rings. Others are forgotten.
    pub fn handle_roster(&mut self, agreed: BTreeSet<NodeId>, salt: u64, now: Time) {
        if !self.left && !self.rings.are_of(&agreed, salt) {
            self.handle_rings(Arc::new(Rings::new(&agreed, salt)), now);
        }
    }

    /// The same with rings that are made already: cores of one process may share them.
    pub fn handle_rings(&mut self, rings: Arc<Rings>, now: Time) {
        if self.left {
            return;
        }
        self.notice_stall(now);
        let moves = Moves::between(&self.rings, &rings);
        self.table.resettle(&self.rings, &rings, &moves, now);
        self.contacts.resettle(&moves);
        self.prober.resettle(&moves);
        self.quarrels.resettle(&moves);
        self.freeze.resettle(&moves);
        self.piggyback.resettle(&moves);
        self.spread.resettle(&moves);
        self.outbox.resettle(&moves);
        for seats in [
            &mut self.targets,
            &mut self.neighbours,
            &mut self.random_edges,
        ] {
            *seats = moves.set(seats);
        }
        if let Some(slow) = &mut self.slow {
            slow.resume = None;
        }
        self.rings = rings;
        self.own_seat = self.rings.seat(&self.local);
        if let Some(own) = self.own_seat {
            let signed = Arc::clone(&self.own);
            self.change(own, now, |entry| entry.record = Some(signed));
            self.touched.remove(&own);
        }
        self.greet_connected();
        self.start_timers(now);
        self.draw_random_edges();
        self.affected.clone_from(&self.table.suspects);
        self.settle(now);
    }

    /// Who was connected before it was admitted was not heard then.
    fn greet_connected(&mut self) {
        let strangers = std::mem::take(&mut self.strangers);
        for node in strangers {
            if let Some(seat) = self.rings.seat(&node) {
                self.contacts.of(seat).connected = true;
                self.send_digest(seat);
            } else {
                self.strangers.insert(node);
            }
        }
    }

    /// Takes over the own addresses. What exceeds the record's limits is left out.
    pub fn handle_local(
        &mut self,
        addresses: Vec<SocketAddr>,
        wireguard: Vec<(NetworkId, Vec<SocketAddr>)>,
        now: Time,
    ) {
        let next = Record {
            addresses,
            wireguard,
            ..self.record().clone()
        };
        self.say(next.bounded(), now);
    }

    /// Takes over the nodes through which this one is reached; empty when it can be dialled.
    pub fn handle_relays(&mut self, relays: Vec<NodeId>, now: Time) {
        let next = Record {
            relays,
            ..self.record().clone()
        };
        self.say(next.bounded(), now);
    }

    /// Takes over whose overlay packets do not come straight, and whether this node passes on others'.
    pub fn handle_paths(
        &mut self,
        unreachable: Vec<(NetworkId, Vec<NodeId>)>,
        forwards: bool,
        now: Time,
    ) {
        let next = Record {
            unreachable,
            forwards,
            ..self.record().clone()
        };
        self.say(next.bounded(), now);
    }

    /// Tells of itself what is new, as a later incarnation.
    fn say(&mut self, next: Record, now: Time) {
        let old = self.record();
        if self.left || next == *old {
            return;
        }
        let Incarnation {
            generation,
            version,
        } = old.incarnation().next();
        self.publish(
            Record {
                generation,
                version,
                ..next
            },
            now,
        );
        self.settle(now);
    }

    /// A connection to `peer` is up: who wants it compares what both hold.
    pub fn handle_connected(&mut self, peer: &NodeId, now: Time) {
        if self.left || *peer == self.local {
            return;
        }
        self.notice_stall(now);
        if let Some(seat) = self.rings.seat(peer) {
            let contact = self.contacts.of(seat);
            (contact.connected, contact.lazy) = (true, false);
            // A connection for one question on behalf of another tells nobody any news.
            if self.neighbours.contains(&seat) || self.table.condition(seat) != Condition::Alive {
                self.send_digest(seat);
            }
            if let Some(charge) = self.charge(seat) {
                let updates = vec![charge];
                self.outbox.send(seat, Message::Gossip { updates });
            }
        } else if self.strangers.len() < STRANGERS_MAX {
            self.strangers.insert(peer.clone());
        }
        self.settle(now);
    }

    /// How the connection to `peer` runs; direct as long as nothing else is said.
    pub fn handle_path(&mut self, peer: &NodeId, path: Path) {
        if let Some(seat) = self.rings.seat(peer) {
            self.contacts.of(seat).path = path;
        }
    }

    /// The last connection to `peer` is gone: no verdict, but a reason to ask at once.
    pub fn handle_disconnected(&mut self, peer: &NodeId, now: Time) {
        if self.left || self.strangers.remove(peer) {
            return;
        }
        let Some(seat) = self
            .rings
            .seat(peer)
            .filter(|seat| self.contacts.is_connected(*seat))
        else {
            return;
        };
        self.notice_stall(now);
        self.contacts.of(seat).connected = false;
        if self.neighbours.contains(&seat) && !self.table.is_dead(seat) {
            self.probe(seat, now);
        }
        self.settle(now);
    }

    /// A member spoke. Messages of others are dropped.
    pub fn handle_message(&mut self, from: &NodeId, message: Message, now: Time) {
        if let Some(from) = self.rings.seat(from) {
            self.handle_seated(from, message, now);
        }
    }

    /// The same, with the speaker named by its seat on [`Self::rings`].
    pub fn handle_seated(&mut self, from: Seat, message: Message, now: Time) {
        if self.left || Some(from) == self.own_seat {
            return;
        }
        let calm = !self.notice_stall(now) && message.brings_nothing();
        self.contacts.of(from).last_heard = Some(now);
        self.dispatch(from, message, now);
        self.nudge(from, now);
        if calm {
            debug_assert!(!self.edges_stale && self.news.is_empty());
            debug_assert!(self.affected.is_empty() && self.touched.is_empty());
            self.settle_prober();
        } else {
            self.settle(now);
        }
    }

    fn dispatch(&mut self, from: Seat, message: Message, now: Time) {
        match message {
            Message::Ping { sequence, updates } => {
                self.learn_all(from, updates, now);
                self.handle_ping(from, sequence);
            }
            Message::Ack { sequence, updates } => {
                self.learn_all(from, updates, now);
                self.handle_ack(from, sequence, now);
            }
            Message::PingRequest {
                sequence,
                target,
                timeout,
                updates,
            } => {
                self.learn_all(from, updates, now);
                self.handle_ping_request(from, sequence, &target, timeout, now);
            }
            Message::IndirectAck { sequence, updates } => {
                self.learn_all(from, updates, now);
                self.handle_indirect_ack(from, sequence);
            }
            Message::Nack { sequence, updates } => {
                self.learn_all(from, updates, now);
                self.handle_nack(from, sequence);
            }
            Message::Gossip { updates } => self.handle_gossip(from, updates, now),
            Message::Digest { buckets } => self.handle_digest(from, &buckets, now),
            Message::Repair {
                updates,
                wanted,
                more,
            } => self.handle_repair(from, updates, &wanted, more, now),
            Message::Have { facts } => self.handle_have(from, &facts, now),
            Message::Graft { facts } => self.handle_graft(from, &facts, now),
            Message::Prune => self.handle_prune(from),
        }
    }

    /// Says goodbye. From here on this node is silent; nothing but the goodbyes comes out.
    pub fn handle_leave(&mut self, now: Time) {
        if self.left {
            return;
        }
        (self.left, self.own_since, self.due) = (true, now, None);
        let Some(own) = self.own_seat else {
            return;
        };
        let incarnation = self.own.incarnation();
        let goodbye = Goodbye::sign(self.local.clone(), incarnation, &*self.keys);
        self.change(own, now, |entry| {
            entry.case = Some(Box::new(Case {
                incarnation,
                verdict: Held::Left(Arc::clone(&goodbye)),
                accusers: Vec::new(),
            }));
        });
        self.touched.clear();
        self.tell(own, Update::Left(goodbye), None);
        self.push_news(now);
    }

    /// Fires what is due. Early calls are harmless, late ones are noticed.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.left {
            return;
        }
        self.notice_stall(now);
        self.advance_probes(now);
        self.expire_suspicions(now);
        self.advance_slow(now);
        self.advance_spread(now);
        self.settle(now);
    }

    /// Takes over records that the shell vouches for, as if each had just been heard: how a
    /// simulated mesh begins that has long been running.
    #[cfg(any(test, feature = "simulation"))]
    pub fn handle_known<'a>(
        &mut self,
        records: impl IntoIterator<Item = &'a Arc<super::SignedRecord>>,
        now: Time,
    ) {
        for (place, signed) in records.into_iter().enumerate() {
            // Usually they come as they sit.
            let seat = self.rings.seat_near(place, &signed.record.node);
            if let Some(seat) = seat.filter(|seat| Some(*seat) != self.own_seat) {
                let signed = Arc::clone(signed);
                self.table
                    .change(&self.rings, seat, now, |entry| entry.record = Some(signed));
            }
        }
    }

    /// Ends every input: edges and deadlines follow what was learned, then the news goes out.
    pub(super) fn settle(&mut self, now: Time) {
        if self.edges_stale {
            self.edges_stale = false;
            self.draw_edges(now);
        }
        if !self.affected.is_empty() {
            self.reckon_deadlines(now);
        }
        if !self.touched.is_empty() {
            for seat in std::mem::take(&mut self.touched) {
                self.outbox.changed(seat, self.table.condition(seat));
            }
        }
        self.push_news(now);
        self.others_due = self.next_other();
        self.settle_prober();
    }

    /// Ends an input that can have changed nothing but probes, as nearly all do.
    fn settle_prober(&mut self) {
        debug_assert_eq!(self.others_due, self.next_other(), "a timer was not noted");
        let prober = self.prober.next();
        self.due = prober.into_iter().chain(self.others_due).min();
    }

    fn start_timers(&mut self, now: Time) {
        if self.slow.is_some() {
            return;
        }
        let round_at = self.random_phase(self.settings.period, now);
        self.prober.start(round_at);
        self.slow = Some(SlowTimers {
            digest_at: self.random_phase(self.settings.digest_period, now),
            random_digest_at: self.random_phase(self.settings.random_digest_period, now),
            reshuffle_at: now + self.settings.reshuffle_period,
            dead_contact_at: self.random_phase(self.settings.dead_contact_period, now),
            resume: None,
        });
    }

    /// Timers that fire far too late judge nobody: this process stood still, the others did not. True
    /// when it did.
    fn notice_stall(&mut self, now: Time) -> bool {
        let Some(late) = self.due.map(|due| now.since(due)) else {
            return false;
        };
        if late < self.settings.stall || self.has(PlantedBug::StallUnnoticed) {
            return false;
        }
        self.worsen(2);
        let round_at = self.random_phase(self.settings.period, now);
        self.prober.restart(round_at);
        for seat in self.table.suspects.clone() {
            let least = self.settings.timers(self.voices(seat).1).suspicion_min;
            self.table
                .reschedule(seat, |suspicion| suspicion.outlast(late, least, now));
        }
        self.advance_slow(now);
        self.advance_spread(now);
        true
    }
}
