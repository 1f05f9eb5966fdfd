//! Whether the others answer.
//!
//! Decides: whom to probe when, whom to ask for help, when a probe has failed (SWIM section 3.1;
//! NACKs and stretched timers from Lifeguard). Targets keep a fixed turn within the period, so that
//! no target waits longer than one period.
//!
//! Bounded: one probe per target in flight; `RELAYS_MAX` probes made for others.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use consensus_core::{NodeId, Time};
use rand::{Rng, seq::IndexedRandom};

use super::{
    Condition, Membership,
    message::{Message, Sequence, Update},
    record::Rank,
};

/// Probes made for others at once. At three helpers per failed probe and eight targets per node
/// this many come together only when half the mesh is gone.
pub(super) const RELAYS_MAX: usize = 256;
/// Limits on the wait another node asks for.
const RELAY_WAIT_MIN: Duration = Duration::from_millis(10);
const RELAY_WAIT_MAX: Duration = Duration::from_secs(15);

/// One question in flight.
#[derive(Debug)]
struct Probe {
    target: NodeId,
    sent: Time,
    /// When helpers are asked; `None` once they were.
    ask_at: Option<Time>,
    /// When the target is suspected.
    verdict_at: Time,
    asked: BTreeSet<NodeId>,
    nacked: BTreeSet<NodeId>,
}

/// One question asked for somebody else.
#[derive(Debug)]
struct Relay {
    origin: NodeId,
    sequence: Sequence,
    target: NodeId,
    /// When the origin is told that no answer came yet; `None` once it was.
    nack_at: Option<Time>,
    expires_at: Time,
}

/// Everything in flight and the plan of the current period.
#[derive(Debug, Default)]
pub(super) struct Prober {
    probes: BTreeMap<Sequence, Probe>,
    relays: BTreeMap<Sequence, Relay>,
    turns: VecDeque<(Time, NodeId)>,
    round_at: Option<Time>,
    sequence: u64,
}

impl Prober {
    /// Starts probing at a point of the period that differs between nodes.
    pub(super) fn start(&mut self, at: Time) {
        self.round_at.get_or_insert(at);
    }

    pub(super) fn next(&self) -> Option<Time> {
        let probes = self
            .probes
            .values()
            .map(|probe| probe.ask_at.unwrap_or(probe.verdict_at));
        let relays = self
            .relays
            .values()
            .map(|relay| relay.nack_at.unwrap_or(relay.expires_at));
        let turn = self.turns.front().map(|(at, _)| *at);
        probes.chain(relays).chain(turn).chain(self.round_at).min()
    }

    /// Drops everything in flight without a verdict, as after a stall.
    pub(super) fn restart(&mut self, round_at: Time) {
        self.probes.clear();
        self.relays.clear();
        self.turns.clear();
        self.round_at = self.round_at.map(|_| round_at);
    }

    pub(super) fn forget(&mut self, node: &NodeId) {
        self.probes.retain(|_, probe| probe.target != *node);
        self.relays
            .retain(|_, relay| relay.target != *node && relay.origin != *node);
    }

    pub(super) fn in_flight(&self) -> usize {
        self.probes.len()
    }

    pub(super) fn relayed(&self) -> usize {
        self.relays.len()
    }

    fn next_sequence(&mut self) -> Sequence {
        self.sequence += 1;
        Sequence(self.sequence)
    }
}

impl Membership {
    /// Fires every due timer of the prober.
    pub(super) fn advance_probes(&mut self, now: Time) {
        if self.prober.round_at.is_some_and(|at| at <= now) {
            self.plan_round(now);
        }
        while self.prober.turns.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, target)) = self.prober.turns.pop_front() else {
                break;
            };
            if self.targets.contains(&target) {
                self.probe(&target, now);
            }
        }
        self.judge_probes(now);
        self.advance_relays(now);
    }

    fn plan_round(&mut self, now: Time) {
        let round = self.health.stretch(self.settings.period);
        let count = u32::try_from(self.targets.len()).unwrap_or(u32::MAX).max(1);
        let turns = (0..)
            .zip(&self.targets)
            .map(|(turn, target)| (now + round * turn / count, target.clone()));
        self.prober.turns = turns.collect();
        self.prober.round_at = Some(now + round);
    }

    /// Asks one member, unless it is already being asked.
    pub(super) fn probe(&mut self, target: &NodeId, now: Time) {
        let Some(entry) = self.table.get(target) else {
            return;
        };
        if self
            .prober
            .probes
            .values()
            .any(|probe| probe.target == *target)
        {
            return;
        }
        let (min, max) = (
            self.settings.probe_timeout_min,
            self.settings.probe_timeout_max,
        );
        let ask_at = now + self.health.stretch(entry.rtt.timeout(min, max));
        let probe = Probe {
            target: target.clone(),
            sent: now,
            ask_at: Some(ask_at),
            verdict_at: ask_at + self.health.stretch(max),
            asked: BTreeSet::new(),
            nacked: BTreeSet::new(),
        };
        let sequence = self.prober.next_sequence();
        self.prober.probes.insert(sequence, probe);
        let updates = self.riders(target);
        self.outbox
            .send(target.clone(), Message::Ping { sequence, updates });
    }

    /// Greets a member held dead: if it is back, it learns what it must refute.
    pub(super) fn greet(&mut self, target: NodeId) {
        let sequence = self.prober.next_sequence();
        let updates = self.riders(&target);
        self.outbox
            .send(target, Message::Ping { sequence, updates });
    }

    pub(super) fn handle_ping(&mut self, from: &NodeId, sequence: Sequence) {
        let updates = self.riders(from);
        self.outbox
            .send(from.clone(), Message::Ack { sequence, updates });
    }

    pub(super) fn handle_ack(&mut self, from: &NodeId, sequence: Sequence, now: Time) {
        if self
            .prober
            .probes
            .get(&sequence)
            .is_some_and(|probe| probe.target == *from)
        {
            if let Some(probe) = self.prober.probes.remove(&sequence)
                && let Some(entry) = self.table.get_mut(from)
            {
                entry.rtt.sample(now.since(probe.sent));
                entry.member.rtt = entry.rtt.smoothed();
            }
            self.health.improve();
        } else if self
            .prober
            .relays
            .get(&sequence)
            .is_some_and(|relay| relay.target == *from)
            && let Some(relay) = self.prober.relays.remove(&sequence)
        {
            let updates = self.riders(&relay.origin);
            let answer = Message::IndirectAck {
                sequence: relay.sequence,
                updates,
            };
            self.outbox.send(relay.origin, answer);
        }
    }

    pub(super) fn handle_indirect_ack(&mut self, from: &NodeId, sequence: Sequence) {
        if self
            .prober
            .probes
            .get(&sequence)
            .is_some_and(|probe| probe.asked.contains(from))
        {
            self.prober.probes.remove(&sequence);
            self.health.improve();
        }
    }

    pub(super) fn handle_nack(&mut self, from: &NodeId, sequence: Sequence) {
        if let Some(probe) = self.prober.probes.get_mut(&sequence)
            && probe.asked.contains(from)
        {
            probe.nacked.insert(from.clone());
        }
    }

    pub(super) fn handle_ping_request(
        &mut self,
        origin: &NodeId,
        sequence: Sequence,
        target: NodeId,
        timeout: Duration,
        now: Time,
    ) {
        let known = target != self.local && self.table.contains_key(&target);
        if !known || self.prober.relays.len() >= RELAYS_MAX {
            return;
        }
        let timeout = timeout.clamp(RELAY_WAIT_MIN, RELAY_WAIT_MAX);
        let relay = Relay {
            origin: origin.clone(),
            sequence,
            target: target.clone(),
            // Lifeguard: at four fifths, so that the NACK arrives before the origin's verdict.
            nack_at: Some(now + timeout * 4 / 5),
            expires_at: now + timeout,
        };
        let sequence = self.prober.next_sequence();
        self.prober.relays.insert(sequence, relay);
        let updates = self.riders(&target);
        self.outbox
            .send(target, Message::Ping { sequence, updates });
    }

    fn judge_probes(&mut self, now: Time) {
        let due: Vec<_> = self
            .prober
            .probes
            .iter()
            .filter(|(_, probe)| probe.ask_at.unwrap_or(probe.verdict_at) <= now)
            .map(|(sequence, _)| *sequence)
            .collect();
        for sequence in due {
            let Some(probe) = self.prober.probes.get(&sequence) else {
                continue;
            };
            if probe.verdict_at <= now {
                self.conclude(sequence, now);
            } else {
                self.ask_helpers(sequence, now);
            }
        }
    }

    fn ask_helpers(&mut self, sequence: Sequence, now: Time) {
        let Some(probe) = self.prober.probes.get(&sequence) else {
            return;
        };
        let (target, verdict_at) = (probe.target.clone(), probe.verdict_at);
        let helpers = self.choose_helpers(&target);
        let wait_ms = u64::try_from(verdict_at.since(now).as_millis()).unwrap_or(u64::MAX);
        let timeout = Duration::from_millis(wait_ms);
        let accusation: Vec<Update> = self.charge(&target).into_iter().collect();
        for helper in &helpers {
            let request = Message::PingRequest {
                sequence,
                target: target.clone(),
                timeout,
                updates: accusation.clone(),
            };
            self.outbox.send(helper.clone(), request);
        }
        if let Some(probe) = self.prober.probes.get_mut(&sequence) {
            probe.ask_at = None;
            probe.asked = helpers.into_iter().collect();
        }
    }

    /// Connected living neighbours, at random; first those with an edge to the target themselves.
    fn choose_helpers(&mut self, target: &NodeId) -> Vec<NodeId> {
        let usable = |node: &&NodeId| {
            *node != target
                && self
                    .table
                    .get(*node)
                    .is_some_and(|entry| entry.member.condition == Condition::Alive)
        };
        let near: BTreeSet<_> = self
            .rings
            .predecessors(target, &self.live)
            .union(&self.rings.successors(target, &self.live))
            .cloned()
            .collect();
        let reachable: Vec<NodeId> = self
            .neighbours
            .intersection(&self.connected)
            .filter(usable)
            .cloned()
            .collect();
        let (close, other): (Vec<_>, Vec<_>) =
            reachable.into_iter().partition(|node| near.contains(node));
        let count = self.settings.indirect_probes;
        let mut helpers: Vec<NodeId> = close
            .choose_multiple(&mut self.rng, count)
            .cloned()
            .collect();
        let missing = count - helpers.len();
        helpers.extend(other.choose_multiple(&mut self.rng, missing).cloned());
        helpers
    }

    /// Nobody reached the target in time.
    fn conclude(&mut self, sequence: Sequence, now: Time) {
        let Some(probe) = self.prober.probes.remove(&sequence) else {
            return;
        };
        let Some(entry) = self.table.get(&probe.target) else {
            return;
        };
        if entry.member.condition != Condition::Unknown {
            // A silent helper points at this node; a helper's NACK points at the target.
            let silent = probe.asked.len() - probe.nacked.len();
            self.health
                .worsen(if probe.asked.is_empty() { 1 } else { silent });
        }
        let age = now.since(entry.member.since);
        match entry.member.condition {
            // A member of a mesh that is just starting has the longest suspicion to appear.
            Condition::Unknown if age < self.settings.suspicion_max => {}
            Condition::Unknown | Condition::Alive | Condition::Suspect => {
                self.accuse(&probe.target, Rank::Suspect, now);
            }
            Condition::Dead => {}
        }
    }

    fn advance_relays(&mut self, now: Time) {
        let mut nacks = Vec::new();
        self.prober.relays.retain(|_, relay| {
            if relay.nack_at.is_some_and(|at| at <= now) {
                relay.nack_at = None;
                nacks.push((relay.origin.clone(), relay.sequence));
            }
            relay.expires_at > now
        });
        for (origin, sequence) in nacks {
            let updates = self.riders(&origin);
            self.outbox
                .send(origin, Message::Nack { sequence, updates });
        }
    }

    /// A random point within the next period, to keep nodes out of step.
    pub(super) fn random_phase(&mut self, span: Duration, now: Time) -> Time {
        let span_us = u64::try_from(span.as_micros()).unwrap_or(u64::MAX).max(1);
        now + Duration::from_micros(self.rng.random_range(0..span_us))
    }
}
