//! The simulated world: hosts, links, time.
//!
//! Decides: the order of events, and what a shell does with a core's outputs. The shell holds
//! connections to the neighbours, redials those that fail, dials once for a message to anybody else,
//! hands in messages before timers.
//!
//! Every message passes through the real wire format.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use consensus_core::{NodeId, Time};
use overlay_core::membership::{Condition, Message, Output, Settings, wire::v1};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    connections::{Ends, IDLE_CHECK_PERIOD, pair},
    faults::Fault,
    network::{Network, NetworkPlan},
    node::{INBOX_MAX, Node},
    trace::Trace,
};

/// Processes start within this time of each other.
const START_SPREAD_US: u64 = 500_000;

/// Something due at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Start {
        node: usize,
    },
    Timer {
        node: usize,
    },
    Resume {
        node: usize,
    },
    Arrive {
        from: usize,
        to: usize,
        boot: u64,
        bytes: Vec<u8>,
    },
    Dial {
        from: usize,
        to: usize,
    },
    Connected {
        ends: Ends,
    },
    Closed {
        at: usize,
        peer: usize,
    },
    IdleCheck,
}

/// A condition that a node came to believe of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub at: Time,
    /// Who believes.
    pub observer: usize,
    /// Of whom.
    pub subject: usize,
    /// What.
    pub condition: Condition,
}

/// Everything simulated.
#[derive(Debug)]
pub struct World {
    pub(crate) now: Time,
    pub(crate) rng: ChaCha8Rng,
    pub(crate) seed: u64,
    pub(crate) settings: Settings,
    pub(crate) nodes: Vec<Node>,
    pub(crate) indices: BTreeMap<NodeId, usize>,
    pub(crate) network: Network,
    pub(crate) connections: BTreeMap<(usize, usize), Ends>,
    pub(crate) dialling: BTreeSet<(usize, usize)>,
    pub(crate) events: BTreeMap<(Time, u64), Event>,
    pub(crate) events_made: u64,
    pub(crate) changes: Vec<Change>,
    pub(crate) trace: Trace,
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

impl World {
    /// A mesh whose processes are about to start.
    pub fn new(count: usize, plan: NetworkPlan, settings: Settings, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let now = Time::from_micros(1);
        let nodes: Vec<_> = (0..count)
            .map(|i| Node::new(i, &settings, seed, now))
            .collect();
        let indices = nodes
            .iter()
            .enumerate()
            .map(|(i, node)| (node.id.clone(), i))
            .collect();
        let mut world = Self {
            now,
            network: Network::new(plan, count, &mut rng),
            rng,
            seed,
            settings,
            nodes,
            indices,
            connections: BTreeMap::new(),
            dialling: BTreeSet::new(),
            events: BTreeMap::new(),
            events_made: 0,
            changes: Vec::new(),
            trace: Trace::default(),
            messages: 0,
            bytes: 0,
        };
        for node in 0..count {
            let wait = Duration::from_micros(world.rng.random_range(0..START_SPREAD_US));
            world.schedule(wait, Event::Start { node });
        }
        world.schedule(IDLE_CHECK_PERIOD, Event::IdleCheck);
        world
    }

    /// The present.
    pub const fn now(&self) -> Time {
        self.now
    }

    /// How many hosts there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is no host at all.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Everything that anybody came to believe, in order.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Messages handed to the network, and their bytes.
    pub const fn traffic(&self) -> (u64, u64) {
        (self.messages, self.bytes)
    }

    /// Equal for equal histories.
    pub fn fingerprint(&self) -> String {
        self.trace.fingerprint()
    }

    /// Whether the host's process runs, be it standing still.
    pub fn is_running(&self, node: usize) -> bool {
        self.nodes[node].running
    }

    /// Whether both processes run and messages pass between them in both directions.
    pub fn can_talk(&self, a: usize, b: usize) -> bool {
        let awake = self.nodes[a].is_awake() && self.nodes[b].is_awake();
        awake && self.network.is_open_both_ways(a, b)
    }

    /// The core of a host.
    pub fn core(&self, node: usize) -> &overlay_core::membership::Membership {
        &self.nodes[node].core
    }

    /// What one host believes of another.
    pub fn belief(&self, observer: usize, subject: usize) -> Condition {
        let member = self.nodes[observer].core.member(&self.nodes[subject].id);
        member.map_or(Condition::Unknown, |member| member.condition)
    }

    /// Carries out the next event that is due by `end`; false when there is none.
    pub fn step(&mut self, end: Time) -> bool {
        let Some(entry) = self
            .events
            .first_entry()
            .filter(|entry| entry.key().0 <= end)
        else {
            self.now = self.now.max(end);
            return false;
        };
        let ((at, _), event) = entry.remove_entry();
        self.now = at;
        self.carry_out(event);
        true
    }

    /// Lets a disturbance happen now.
    pub fn strike(&mut self, fault: &Fault) {
        self.trace
            .note(self.now, b'F', 0, 0, format!("{fault:?}").as_bytes());
        match fault {
            Fault::Crash(node) => self.stop(*node),
            Fault::Kill(node) => {
                self.stop(*node);
                self.close_all(*node);
            }
            Fault::Restart(node) => {
                if !self.nodes[*node].running {
                    self.start(*node);
                }
            }
            Fault::Leave(node) => {
                if self.nodes[*node].running {
                    self.nodes[*node].core.handle_leave(self.now);
                    self.drain(*node);
                    self.stop(*node);
                    self.close_all(*node);
                }
            }
            Fault::Stall(node, span) => {
                if self.nodes[*node].running {
                    self.nodes[*node].stalled_until = Some(self.now + *span);
                    self.schedule(*span, Event::Resume { node: *node });
                }
            }
            Fault::CutOneWay(from, to) => self.for_links(from, to, |n, a, b, now| n.cut(a, b, now)),
            Fault::CutBothWays(one, two) => {
                self.for_links(one, two, |n, a, b, now| n.cut(a, b, now));
                self.for_links(two, one, |n, a, b, now| n.cut(a, b, now));
            }
            Fault::Mend(one, two) => {
                self.for_links(one, two, |n, a, b, _| n.mend(a, b));
                self.for_links(two, one, |n, a, b, _| n.mend(a, b));
            }
            Fault::MendAll => self.network.mend_all(),
            Fault::LosePermille(permille) => self.network.lose(*permille),
        }
    }

    fn for_links(
        &mut self,
        from: &[usize],
        to: &[usize],
        change: impl Fn(&mut Network, usize, usize, Time),
    ) {
        for a in from {
            for b in to {
                if a != b {
                    change(&mut self.network, *a, *b, self.now);
                }
            }
        }
    }

    pub(crate) fn schedule(&mut self, wait: Duration, event: Event) {
        self.events_made += 1;
        self.events
            .insert((self.now + wait, self.events_made), event);
    }

    fn carry_out(&mut self, event: Event) {
        match event {
            Event::Start { node } => self.start(node),
            Event::Resume { node } => self.resume(node),
            Event::Timer { node } => self.fire_timer(node),
            Event::Dial { from, to } => self.dial(from, to),
            Event::IdleCheck => self.close_idle(),
            Event::Connected { ends } => self.establish(ends),
            Event::Arrive { to, .. } | Event::Closed { at: to, .. } => self.hand_in(to, event),
        }
    }

    fn start(&mut self, index: usize) {
        let roster = self.nodes.iter().map(|node| node.id.clone()).collect();
        let node = &mut self.nodes[index];
        node.start(index, &self.settings, self.seed, self.now);
        node.core.handle_roster(roster, self.seed, self.now);
        self.trace.note(self.now, b'S', index, 0, &[]);
        self.dialling.retain(|(from, _)| *from != index);
        self.drain(index);
    }

    fn stop(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.running = false;
        node.stopped_at = Some(self.now);
        node.stalled_until = None;
        node.inbox.clear();
    }

    fn resume(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if node.stalled_until.is_none_or(|until| until > self.now) {
            return;
        }
        node.stalled_until = None;
        // What arrived first, then the timers: silence may only be judged once the inbox is empty.
        while let Some(event) = self.nodes[index].inbox.pop_front() {
            self.hand_in(index, event);
        }
        self.nodes[index].timer_at = None;
        self.fire_timer(index);
    }

    fn fire_timer(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if node.timer_at.is_some_and(|at| at <= self.now) {
            node.timer_at = None;
        }
        if !node.is_awake() {
            return;
        }
        if node.core.poll_timeout().is_some_and(|due| due <= self.now) {
            node.core.handle_timeout(self.now);
            self.trace.note(self.now, b'T', index, 0, &[]);
        }
        self.drain(index);
    }

    /// Gives an event to a process, or to its inbox while it stands still.
    pub(crate) fn hand_in(&mut self, to: usize, event: Event) {
        let node = &mut self.nodes[to];
        if !node.running {
            return;
        }
        if node.stalled_until.is_some() {
            if node.inbox.len() < INBOX_MAX {
                node.inbox.push_back(event);
            }
            return;
        }
        match event {
            Event::Arrive {
                from, boot, bytes, ..
            } => self.receive(from, to, boot, &bytes),
            Event::Closed { peer, .. } => {
                if !self.connections.contains_key(&pair(to, peer)) {
                    let peer_id = self.nodes[peer].id.clone();
                    self.nodes[to].core.handle_disconnected(&peer_id, self.now);
                    self.trace.note(self.now, b'D', to, peer, &[]);
                    self.redial(to, peer);
                }
            }
            Event::Connected { ends } => {
                let peer = if ends.low.0 == to {
                    ends.high.0
                } else {
                    ends.low.0
                };
                let peer_id = self.nodes[peer].id.clone();
                self.nodes[to].core.handle_connected(&peer_id, self.now);
                self.trace.note(self.now, b'C', to, peer, &[]);
            }
            Event::Start { .. }
            | Event::Timer { .. }
            | Event::Resume { .. }
            | Event::Dial { .. }
            | Event::IdleCheck => {}
        }
        self.drain(to);
    }

    fn receive(&mut self, from: usize, to: usize, boot: u64, bytes: &[u8]) {
        let lost = !self.network.is_open(from, to) || self.nodes[to].boot != boot;
        if lost {
            return;
        }
        self.trace.note(self.now, b'M', from, to, bytes);
        let message = v1::decode(bytes).expect("what a core sends, a core can read");
        let from_id = self.nodes[from].id.clone();
        self.nodes[to]
            .core
            .handle_message(&from_id, message, self.now);
    }

    /// Does what the core wants, then sees to its next timer.
    fn drain(&mut self, index: usize) {
        while let Some(output) = self.nodes[index].core.poll_output() {
            match output {
                Output::Send { to, message } => self.send(index, self.indices[&to], &message),
                Output::Neighbours(wanted) => {
                    let wanted: BTreeSet<_> = wanted.iter().map(|id| self.indices[id]).collect();
                    self.nodes[index].wanted.clone_from(&wanted);
                    for peer in wanted {
                        self.redial(index, peer);
                    }
                }
                Output::Changed { node, condition } => {
                    let subject = self.indices[&node];
                    let change = Change {
                        at: self.now,
                        observer: index,
                        subject,
                        condition,
                    };
                    self.trace
                        .note(self.now, b'B', index, subject, &[condition as u8]);
                    self.changes.push(change);
                }
            }
        }
        self.arm_timer(index);
    }

    fn arm_timer(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let Some(due) = node.core.poll_timeout() else {
            return;
        };
        if node.timer_at.is_none_or(|at| due < at) {
            node.timer_at = Some(due.max(self.now));
            let wait = due.since(self.now);
            self.schedule(wait, Event::Timer { node: index });
        }
    }

    fn send(&mut self, from: usize, to: usize, message: &Message) {
        let bytes = v1::encode(message);
        self.messages += 1;
        self.bytes += bytes.len() as u64;
        let mut wait = self.network.delay(from, to, &mut self.rng);
        if let Some(ends) = self.connections.get(&pair(from, to)) {
            // Over a connection of an earlier life nothing arrives.
            if *ends != self.ends(from, to) {
                return;
            }
        } else {
            if !self.can_talk(from, to) {
                return;
            }
            let handshake = self.round_trip(from, to);
            self.schedule(
                handshake,
                Event::Connected {
                    ends: self.ends(from, to),
                },
            );
            wait += handshake;
        }
        if !self.network.is_open(from, to) || self.network.loses(&mut self.rng) {
            return;
        }
        let boot = self.nodes[to].boot;
        self.schedule(
            wait,
            Event::Arrive {
                from,
                to,
                boot,
                bytes,
            },
        );
    }
}
