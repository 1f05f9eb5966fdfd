//! Who is alive: SWIM with Lifeguard's corrections on Rapid's rings, spread over Plumtree's trees.
//!
//! Decides: which admitted nodes are alive, suspect or dead; which connections to hold; what to
//! tell whom; when so many fell silent that nobody may be pruned for it. Never: who is admitted
//! (Raft's agreed set is handed in), opens connections, moves a virtual address (death is the
//! lease's end, not this opinion).
//!
//! Each node probes its successors on K rings every period, directly, then through helpers. Who
//! answers neither is suspected; the suspicion is pushed over the edges and runs out into death
//! unless its subject refutes with a later incarnation. A disconnect is no death, only a reason to
//! probe at once. Records, accusations and goodbyes are signed by whom they name, so that they may
//! travel through anybody.
//!
//! The shell's side of the face: after every `handle_*` it drains [`Membership::poll_output`]; it
//! hands in received messages before it fires timers; it reports every connection to a member with
//! `handle_connected` and `handle_disconnected`; it holds connections to the latest
//! [`Output::Neighbours`] and keeps dialling those that fail; a [`Output::Send`] to an unconnected
//! member is worth one dial and may then be lost. Messages may be lost, late, or doubled.
//!
//! Invariants: facts about nodes outside the agreed set, and messages from them, change nothing.
//! The same inputs and seed give the same outputs. Every queue has a limit ([`Membership::load`]).
//! No node is ever held dead at an incarnation that it has itself surpassed and told of. No step's
//! cost grows with the number of members, but those that a new agreed set brings.
//!
//! | decision | module |
//! |---|---|
//! | who watches whom | `rings`, `edges` |
//! | who answers | `probing`, `helping`, `rtt`, `health`, `contacts` |
//! | who is believed, and what it changes | `facts`, `table`, `record`, `quarrels`, `keys` |
//! | how long a suspect has | `suspicion` |
//! | what this node says of itself | `defence` |
//! | how news travels, and who missed it catches up | `spreading`, `piggyback`, `repair`, `digest` |
//! | when nobody may be pruned | `freeze` |
//!
//! Das, Gupta, Motivala: SWIM (DSN 2002). Dadgar, Phillips, Currey: Lifeguard (DSN 2018,
//! arXiv:1707.00788). Suresh, Malkhi, Gopalan, Carreiro, Lokhandwala: Stable and Consistent
//! Membership at Scale with Rapid (ATC 2018). Leitão, Pereira, Rodrigues: Epidemic Broadcast Trees
//! (SRDS 2007).

mod contacts;
mod defence;
mod digest;
mod edges;
mod facts;
mod freeze;
mod health;
mod helping;
mod inputs;
mod keys;
#[cfg(any(test, feature = "simulation"))]
mod known;
#[cfg(test)]
mod large_tests;
mod message;
mod outbox;
mod pages;
mod piggyback;
#[cfg(feature = "planted-bugs")]
pub mod planted;
#[cfg(not(feature = "planted-bugs"))]
mod planted;
mod probing;
mod quarrels;
mod record;
mod repair;
mod rings;
mod rtt;
mod settings;
mod spreading;
mod suspicion;
mod table;
#[cfg(test)]
mod tests;
pub mod wire;

use std::{collections::BTreeSet, sync::Arc};

use consensus_core::{NodeId, Time};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

pub use contacts::Path;
#[cfg(any(test, feature = "simulation"))]
pub use keys::SimulatedKeys;
pub use keys::{Keys, SIGNATURE_BYTES, Signature};
#[cfg(any(test, feature = "simulation"))]
pub use known::Known;
pub use message::{
    Accusation, BUCKETS_MAX, Bucket, FACTS_MAX, FactId, Goodbye, Message, Sequence, UPDATES_MAX,
    Update, Verdict,
};
pub use record::{
    ADDRESSES_MAX, Condition, ENDPOINTS_MAX, Incarnation, Member, NETWORKS_MAX, RELAYS_MAX, Record,
    SignedRecord, UNREACHABLE_MAX,
};
pub use rings::{RINGS, Rings, Seat};
pub use settings::{Pace, Settings, Timers};

use self::{
    contacts::Contacts,
    defence::Defence,
    freeze::Freeze,
    health::LocalHealth,
    outbox::Outbox,
    piggyback::Piggyback,
    planted::PlantedBug,
    probing::Prober,
    quarrels::Quarrels,
    repair::SlowTimers,
    spreading::{News, Spread},
    table::Table,
};

/// What the shell must do, in this order among equals. `P` is how members are named: by id, or by
/// [`Seat`] for shells that hold many cores and tables of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output<P = NodeId> {
    /// Send this, if need be after one dial. May be lost.
    Send {
        /// The receiver.
        to: P,
        /// What it gets.
        message: Message,
    },
    /// The connections to hold from now on. Only the latest counts.
    Neighbours(BTreeSet<P>),
    /// A member's condition or record is new; [`Membership::member`] has all of it.
    Changed {
        /// Whose.
        node: P,
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
    /// Recent facts, kept for neighbours that may ask for them; none in a small mesh.
    pub facts: usize,
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
            relays: helping::RELAYS_MAX,
            facts: Spread::LIMIT,
            health: health::HEALTH_MAX,
        }
    }
}

/// One node's view of the mesh. Its parts lie in this order: first what every message needs, so that
/// it takes few cache lines; who drives thousands of cores in turn finds none of them in a cache.
#[derive(Debug)]
#[repr(C)]
pub struct Membership {
    /// When the next timer is due, as of the last input.
    due: Option<Time>,
    /// The same without the prober's.
    others_due: Option<Time>,
    /// None while Raft has not admitted this node.
    own_seat: Option<Seat>,
    /// The agreed set; the table holds an entry for each of it.
    rings: Arc<Rings>,
    /// Cores of one process may share it.
    settings: Arc<Settings>,
    left: bool,
    edges_stale: bool,
    health: LocalHealth,
    contacts: Contacts,
    prober: Prober,
    outbox: Outbox,
    piggyback: Piggyback,
    table: Table,
    /// What the present input brought; these are empty between inputs.
    news: Vec<News>,
    touched: BTreeSet<Seat>,
    affected: BTreeSet<Seat>,
    spread: Spread,
    slow: Option<SlowTimers>,
    targets: BTreeSet<Seat>,
    neighbours: BTreeSet<Seat>,
    random_edges: BTreeSet<Seat>,
    /// Apart, like all that is large and seldom used: most steps touch little of a core.
    rng: Box<ChaCha8Rng>,
    keys: Arc<dyn Keys>,
    local: NodeId,
    own: Arc<SignedRecord>,
    /// When the own condition last changed.
    own_since: Time,
    /// Connected, but no members.
    strangers: BTreeSet<NodeId>,
    defence: Defence,
    quarrels: Quarrels,
    freeze: Freeze,
    #[cfg(feature = "planted-bugs")]
    bug: Option<PlantedBug>,
}

impl Membership {
    /// A node that knows nobody yet. The keys must be its own. `seed` may be anything; nodes should
    /// differ in it.
    pub fn new(
        local: Record,
        keys: Arc<dyn Keys>,
        settings: impl Into<Arc<Settings>>,
        seed: u64,
        now: Time,
    ) -> Self {
        Self {
            settings: settings.into(),
            rng: Box::new(ChaCha8Rng::seed_from_u64(seed)),
            local: local.node.clone(),
            own: SignedRecord::sign(local.bounded(), &*keys),
            keys,
            own_since: now,
            own_seat: None,
            rings: Arc::default(),
            table: Table::default(),
            contacts: Contacts::default(),
            targets: BTreeSet::new(),
            neighbours: BTreeSet::new(),
            random_edges: BTreeSet::new(),
            strangers: BTreeSet::new(),
            prober: Prober::default(),
            health: LocalHealth::default(),
            defence: Defence::default(),
            quarrels: Quarrels::default(),
            freeze: Freeze::default(),
            piggyback: Piggyback::default(),
            spread: Spread::default(),
            news: Vec::new(),
            touched: BTreeSet::new(),
            affected: BTreeSet::new(),
            edges_stale: false,
            slow: None,
            left: false,
            due: None,
            others_due: None,
            #[cfg(feature = "planted-bugs")]
            bug: None,
            outbox: Outbox::default(),
        }
    }

    /// Plants a bug into this core.
    #[cfg(feature = "planted-bugs")]
    pub const fn plant(&mut self, bug: PlantedBug) {
        self.bug = Some(bug);
    }

    /// Whether a bug was planted.
    #[cfg(feature = "planted-bugs")]
    fn has(&self, bug: PlantedBug) -> bool {
        self.bug == Some(bug)
    }

    /// No bug can be planted.
    #[cfg(not(feature = "planted-bugs"))]
    #[expect(clippy::unused_self, reason = "the same face as with the feature")]
    const fn has(&self, _: PlantedBug) -> bool {
        false
    }

    /// When [`Self::handle_timeout`] wants to be called; `None` while there is nobody to watch.
    pub const fn poll_timeout(&self) -> Option<Time> {
        self.due
    }

    /// When anything but the prober's own is due.
    fn next_other(&self) -> Option<Time> {
        let slow = self.slow.as_ref().map(SlowTimers::next);
        let suspicion = self.table.deadlines.first().map(|(at, _)| *at);
        let waiting = [slow, suspicion, self.spread.next()];
        waiting.into_iter().flatten().min()
    }

    /// The next thing for the shell to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        let node = |seat: Seat| self.rings.node(seat).clone();
        Some(match self.outbox.pop()? {
            Output::Send { to, message } => Output::Send {
                to: node(to),
                message,
            },
            Output::Neighbours(seats) => Output::Neighbours(seats.into_iter().map(node).collect()),
            Output::Changed {
                node: seat,
                condition,
            } => Output::Changed {
                node: node(seat),
                condition,
            },
        })
    }

    /// The same as [`Self::poll_output`], with members named by their seats on [`Self::rings`].
    pub fn poll_seated(&mut self) -> Option<Output<Seat>> {
        self.outbox.pop()
    }

    /// The agreed set as it was last handed in.
    pub const fn rings(&self) -> &Arc<Rings> {
        &self.rings
    }

    /// All admitted nodes and this one.
    pub fn members(&self) -> impl Iterator<Item = Member> {
        let own = self.own_seat.is_none().then(|| self.own_member());
        self.rings.seats().map(|seat| self.seated(seat)).chain(own)
    }

    /// One admitted node, or this one.
    pub fn member(&self, node: &NodeId) -> Option<Member> {
        match self.rings.seat(node) {
            Some(seat) => Some(self.seated(seat)),
            None => (*node == self.local).then(|| self.own_member()),
        }
    }

    /// What is believed of the member with this seat, at the cost of a look.
    ///
    /// # Panics
    /// When the seat is not on [`Self::rings`].
    pub fn condition(&self, seat: Seat) -> Condition {
        self.table.condition(seat)
    }

    /// The connections to hold at this moment.
    pub fn neighbours(&self) -> BTreeSet<NodeId> {
        let nodes = self.neighbours.iter().map(|seat| self.rings.node(*seat));
        nodes.cloned().collect()
    }

    /// The own record. Its generation may have risen above the one handed in, if the mesh
    /// remembered a later life of this node; the shell should keep it for the next restart.
    pub fn record(&self) -> &Record {
        &self.own.record
    }

    /// The own record as it is told to others.
    pub const fn signed_record(&self) -> &Arc<SignedRecord> {
        &self.own
    }

    /// Since when nobody may be pruned for being silent, because too many are; `None` as long as
    /// pruning is allowed.
    pub const fn frozen_since(&self) -> Option<Time> {
        self.freeze.since()
    }

    /// How much is held.
    pub fn load(&self) -> Load {
        Load {
            outputs: self.outbox.len(),
            piggybacked: self.piggyback.len(),
            probes: self.prober.in_flight(),
            relays: self.prober.relays.len(),
            facts: self.spread.len(),
            health: self.health.score(),
        }
    }

    fn own_member(&self) -> Member {
        let gone = self.left;
        Member {
            record: Arc::clone(&self.own),
            condition: if gone {
                Condition::Dead
            } else {
                Condition::Alive
            },
            left: gone,
            since: self.own_since,
            last_heard: None,
            rtt: None,
        }
    }

    fn seated(&self, seat: Seat) -> Member {
        if Some(seat) == self.own_seat {
            return self.own_member();
        }
        let entry = self.table.get(seat);
        let contact = self.contacts.get(seat);
        let record = entry.record.clone();
        Member {
            record: record.unwrap_or_else(|| SignedRecord::unheard(self.rings.node(seat).clone())),
            condition: entry.condition(),
            left: entry.rank() == table::Rank::Left,
            since: entry.since,
            last_heard: contact.and_then(|contact| contact.last_heard),
            rtt: contact.and_then(|contact| contact.rtt.smoothed()),
        }
    }
}
