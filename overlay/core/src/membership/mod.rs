//! Who is alive: SWIM with Lifeguard's corrections on Rapid's rings.
//!
//! Decides: which admitted nodes are alive, suspect or dead; which connections to hold; what to
//! tell whom. Never: who is admitted (Raft's agreed set is handed in), opens connections, moves a
//! virtual address (death is the lease's end, not this opinion).
//!
//! Each node probes its successors on K rings every period, directly, then through helpers. Who
//! answers neither is suspected; the suspicion is pushed over the edges and runs out into death
//! unless its subject refutes with a later incarnation. A disconnect is no death, only a reason to
//! probe at once.
//!
//! The shell's side of the face: after every `handle_*` it drains [`Membership::poll_output`]; it
//! hands in received messages before it fires timers; it reports every connection to a member with
//! `handle_connected` and `handle_disconnected`; it holds connections to the latest
//! [`Output::Neighbours`] and keeps dialling those that fail; a [`Output::Send`] to an unconnected
//! member is worth one dial and may then be lost. Messages may be lost, late, or doubled.
//!
//! Invariants: facts about nodes outside the agreed set, and messages from them, change nothing.
//! The same inputs and seed give the same outputs. Every queue has a limit ([`Membership::load`]).
//! No node is ever held dead at an incarnation that it has itself surpassed and told of.
//!
//! Das, Gupta, Motivala: SWIM (DSN 2002). Dadgar, Phillips, Currey: Lifeguard (DSN 2018,
//! arXiv:1707.00788). Suresh, Malkhi, Gopalan, Carreiro, Lokhandwala: Stable and Consistent
//! Membership at Scale with Rapid (ATC 2018). Not done yet: signatures on records and accusations,
//! the observer check on accusers (both belong into `facts`, at the one gate there), lazy pushes
//! for thousands of members.

mod digest;
mod edges;
mod facts;
mod health;
mod message;
mod outbox;
mod piggyback;
mod probing;
mod record;
mod repair;
mod rings;
mod rtt;
mod settings;
mod suspicion;
#[cfg(test)]
mod tests;
pub mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use consensus_core::{NetworkId, NodeId, Time};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

pub use message::{Accusation, BUCKETS_MAX, Bucket, Message, Sequence, UPDATES_MAX, Update};
pub use record::{
    ADDRESSES_MAX, Condition, ENDPOINTS_MAX, Incarnation, Member, NETWORKS_MAX, Record,
};
pub use settings::Settings;

use self::{
    facts::News,
    health::LocalHealth,
    outbox::Outbox,
    piggyback::Piggyback,
    probing::Prober,
    record::{Entry, Rank},
    repair::SlowTimers,
    rings::Rings,
};

/// What the shell must do, in this order among equals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this, if need be after one dial. May be lost.
    Send {
        /// The receiver.
        to: NodeId,
        /// What it gets.
        message: Message,
    },
    /// The connections to hold from now on. Only the latest counts.
    Neighbours(BTreeSet<NodeId>),
    /// A member's condition or record is new; [`Membership::member`] has all of it.
    Changed {
        /// Whose.
        node: NodeId,
        /// Its condition, which may be the one before when only the record changed.
        condition: Condition,
    },
}

/// How much is held at this moment; all bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Outputs that the shell has not taken.
    pub outputs: usize,
    /// Facts waiting for a ride; at most one per member.
    pub piggybacked: usize,
    /// Own probes in flight; at most one per member.
    pub probes: usize,
    /// Probes in flight for others.
    pub relays: usize,
    /// Local health, 0 (healthy) to 8.
    pub health: u8,
}

impl Load {
    /// The most that can ever be held in a mesh of `members`.
    pub const fn limit(members: usize) -> Self {
        Self {
            outputs: outbox::SENDS_MAX + outbox::CHANGES_MAX + members + 1,
            piggybacked: members,
            probes: members,
            relays: probing::RELAYS_MAX,
            health: 8,
        }
    }
}

/// One node's view of the mesh.
#[derive(Debug)]
pub struct Membership {
    settings: Settings,
    rng: ChaCha8Rng,
    local: NodeId,
    /// The agreed set with its salt; the table holds an entry for each of it, and for `local`.
    roster: BTreeSet<NodeId>,
    salt: u64,
    rings: Rings,
    table: BTreeMap<NodeId, Entry>,
    /// The agreed set without the dead.
    live: BTreeSet<NodeId>,
    targets: BTreeSet<NodeId>,
    neighbours: BTreeSet<NodeId>,
    random_edges: BTreeSet<NodeId>,
    connected: BTreeSet<NodeId>,
    prober: Prober,
    health: LocalHealth,
    piggyback: Piggyback,
    /// What the present input brought; empty between inputs.
    news: Vec<News>,
    edges_stale: bool,
    deadlines_stale: bool,
    /// The earliest deadline of a suspicion.
    suspicion_at: Option<Time>,
    slow: Option<SlowTimers>,
    left: bool,
    outbox: Outbox,
}

/// Connections remembered, members' or not; the shell's own limit is far lower.
const CONNECTED_MAX: usize = 65_536;

impl Membership {
    /// A node that knows nobody yet. `seed` may be anything; nodes should differ in it.
    pub fn new(local: Record, settings: Settings, seed: u64, now: Time) -> Self {
        let node = local.node.clone();
        let own = Entry::local(local.bounded(), now);
        Self {
            settings,
            rng: ChaCha8Rng::seed_from_u64(seed),
            table: BTreeMap::from([(node.clone(), own)]),
            local: node,
            roster: BTreeSet::new(),
            salt: 0,
            rings: Rings::default(),
            live: BTreeSet::new(),
            targets: BTreeSet::new(),
            neighbours: BTreeSet::new(),
            random_edges: BTreeSet::new(),
            connected: BTreeSet::new(),
            prober: Prober::default(),
            health: LocalHealth::default(),
            piggyback: Piggyback::default(),
            news: Vec::new(),
            edges_stale: false,
            deadlines_stale: false,
            suspicion_at: None,
            slow: None,
            left: false,
            outbox: Outbox::default(),
        }
    }

    /// Takes over whom Raft has admitted, and the salt of the rings. Others are forgotten.
    pub fn handle_roster(&mut self, agreed: BTreeSet<NodeId>, salt: u64, now: Time) {
        if self.left || (agreed == self.roster && salt == self.salt) {
            return;
        }
        self.notice_stall(now);
        for gone in self.roster.difference(&agreed) {
            if *gone != self.local {
                self.table.remove(gone);
            }
            self.live.remove(gone);
            self.piggyback.remove(gone);
            self.prober.forget(gone);
        }
        let joined: Vec<_> = agreed.difference(&self.roster).cloned().collect();
        self.rings = Rings::new(&agreed, salt);
        (self.roster, self.salt) = (agreed, salt);
        for node in joined {
            self.table
                .entry(node.clone())
                .or_insert_with(|| Entry::unheard(node.clone(), now));
            self.live.insert(node.clone());
            // It was connected before it was admitted: what it said then was not heard.
            if self.connected.contains(&node) {
                self.send_digest(node);
            }
        }
        self.start_timers(now);
        self.draw_random_edges(now);
        self.deadlines_stale = true;
        self.settle(now);
    }

    /// Takes over the own addresses. What exceeds the record's limits is left out.
    pub fn handle_local(
        &mut self,
        addresses: Vec<SocketAddr>,
        wireguard: Vec<(NetworkId, Vec<SocketAddr>)>,
        now: Time,
    ) {
        let old = self.record();
        let next = Record {
            addresses,
            wireguard,
            ..old.clone()
        }
        .bounded();
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

    /// A connection to `peer` is up: both sides compare what they hold.
    pub fn handle_connected(&mut self, peer: &NodeId, now: Time) {
        if self.left || *peer == self.local || self.connected.len() >= CONNECTED_MAX {
            return;
        }
        self.notice_stall(now);
        self.connected.insert(peer.clone());
        if self.roster.contains(peer) {
            self.send_digest(peer.clone());
            if let Some(charge) = self.charge(peer) {
                let updates = vec![charge];
                self.outbox.send(peer.clone(), Message::Gossip { updates });
            }
        }
        self.settle(now);
    }

    /// The last connection to `peer` is gone: no verdict, but a reason to ask at once.
    pub fn handle_disconnected(&mut self, peer: &NodeId, now: Time) {
        let was_connected = self.connected.remove(peer);
        if self.left || !was_connected {
            return;
        }
        self.notice_stall(now);
        if self.neighbours.contains(peer) && self.live.contains(peer) {
            self.probe(peer, now);
        }
        self.settle(now);
    }

    /// A member spoke. Messages of others are dropped.
    pub fn handle_message(&mut self, from: &NodeId, message: Message, now: Time) {
        if self.left || *from == self.local {
            return;
        }
        self.notice_stall(now);
        let Some(entry) = self.table.get_mut(from) else {
            return;
        };
        entry.member.last_heard = Some(now);
        self.dispatch(from, message, now);
        self.nudge(from, now);
        self.settle(now);
    }

    /// Says goodbye. From here on this node is silent; nothing but the goodbyes comes out.
    pub fn handle_leave(&mut self, now: Time) {
        if self.left {
            return;
        }
        let incarnation = self.record().incarnation();
        self.tell(
            Update::Left {
                subject: self.local.clone(),
                incarnation,
            },
            None,
        );
        self.push_news();
        if let Some(own) = self.table.get_mut(&self.local) {
            own.stand(
                record::Standing {
                    incarnation,
                    rank: Rank::Left,
                },
                now,
            );
        }
        self.left = true;
    }

    /// When [`Self::handle_timeout`] wants to be called; `None` while there is nobody to watch.
    pub fn poll_timeout(&self) -> Option<Time> {
        if self.left {
            return None;
        }
        let slow = self.slow.as_ref().map(SlowTimers::next);
        self.prober
            .next()
            .into_iter()
            .chain(slow)
            .chain(self.suspicion_at)
            .min()
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
        self.settle(now);
    }

    /// The next thing for the shell to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outbox.pop()
    }

    /// All admitted nodes and this one, by rising id.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.table.values().map(|entry| &entry.member)
    }

    /// One admitted node, or this one.
    pub fn member(&self, node: &NodeId) -> Option<&Member> {
        self.table.get(node).map(|entry| &entry.member)
    }

    /// The connections to hold at this moment.
    pub fn neighbours(&self) -> BTreeSet<NodeId> {
        self.neighbours.clone()
    }

    /// The own record. Its generation may have risen above the one handed in, if the mesh
    /// remembered a later life of this node; the shell should keep it for the next restart.
    pub fn record(&self) -> &Record {
        &self.member_of_self().record
    }

    /// How much is held.
    pub fn load(&self) -> Load {
        Load {
            outputs: self.outbox.len(),
            piggybacked: self.piggyback.len(),
            probes: self.prober.in_flight(),
            relays: self.prober.relayed(),
            health: self.health.score(),
        }
    }

    fn member_of_self(&self) -> &Member {
        let own = self.table.get(&self.local);
        &own.expect("the own entry is made by new and never removed")
            .member
    }

    fn dispatch(&mut self, from: &NodeId, message: Message, now: Time) {
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
                self.handle_ping_request(from, sequence, target, timeout, now);
            }
            Message::IndirectAck { sequence, updates } => {
                self.learn_all(from, updates, now);
                self.handle_indirect_ack(from, sequence);
            }
            Message::Nack { sequence, updates } => {
                self.learn_all(from, updates, now);
                self.handle_nack(from, sequence);
            }
            Message::Gossip { updates } => self.learn_all(from, updates, now),
            Message::Digest { buckets } => self.handle_digest(from, &buckets),
            Message::Repair { updates, wanted } => {
                self.learn_all(from, updates, now);
                self.handle_wanted(from, &wanted);
            }
        }
    }

    /// Ends every input: edges and deadlines follow what was learned, then the news goes out.
    fn settle(&mut self, now: Time) {
        if self.edges_stale {
            self.edges_stale = false;
            self.draw_edges();
        }
        if self.deadlines_stale {
            self.deadlines_stale = false;
            self.reckon_deadlines(now);
        }
        self.push_news();
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
        });
    }

    /// Timers that fire far too late judge nobody: this process stood still, the others did not.
    fn notice_stall(&mut self, now: Time) {
        let Some(late) = self.poll_timeout().map(|due| now.since(due)) else {
            return;
        };
        if late < self.settings.stall {
            return;
        }
        self.health.worsen(2);
        let round_at = self.random_phase(self.settings.period, now);
        self.prober.restart(round_at);
        for suspicion in self
            .table
            .values_mut()
            .filter_map(|entry| entry.suspicion.as_mut())
        {
            suspicion.pardon += late;
            suspicion.deadline = suspicion.deadline + late;
        }
        self.suspicion_at = self.earliest_deadline();
        self.advance_slow(now);
    }
}
