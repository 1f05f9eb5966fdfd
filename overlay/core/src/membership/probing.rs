//! Whether the others answer.
//!
//! Decides: whom to probe when, whom to ask for help, when a probe has failed (SWIM section 3.1;
//! NACKs and stretched timers from Lifeguard, section IV-A). Targets keep a fixed turn within the
//! period, so that no target waits longer than one period. Edges that are relayed or slow have
//! their own, longer timers.
//!
//! Bounded: one probe per target in flight.

use std::{collections::VecDeque, time::Duration};

use consensus_core::Time;
use rand::{Rng, seq::IndexedRandom};

use super::{
    Condition, Membership,
    helping::Relay,
    message::{Message, Sequence, Update},
    planted::PlantedBug,
    rings::{Moves, Seat, Way},
    settings::Pace,
    table::Rank,
};

/// Probes of a period go out at so many times, some at each: a process that wakes up for one may as
/// well ask several. Targets are still asked by many observers at as many different times.
const TURNS: u32 = 2;

/// One question in flight.
#[derive(Debug)]
struct Probe {
    sequence: Sequence,
    target: Seat,
    sent: Time,
    /// When helpers are asked; `None` once they were.
    ask_at: Option<Time>,
    /// When the target is suspected.
    verdict_at: Time,
    asked: Vec<Seat>,
    /// Those asked that said that no answer came.
    nacked: Vec<Seat>,
}

impl Probe {
    fn due(&self) -> Time {
        self.ask_at.unwrap_or(self.verdict_at)
    }
}

/// Everything in flight and the plan of the current period.
#[derive(Debug, Default)]
pub(super) struct Prober {
    /// A handful: those of the last half second.
    probes: Vec<Probe>,
    pub(super) relays: Vec<Relay>,
    turns: VecDeque<(Time, Seat)>,
    round_at: Option<Time>,
    sequence: u64,
}

impl Prober {
    /// Starts probing at a point of the period that differs between nodes.
    pub(super) fn start(&mut self, at: Time) {
        self.round_at.get_or_insert(at);
    }

    pub(super) fn next(&self) -> Option<Time> {
        let probes = self.probes.iter().map(Probe::due);
        let relays = self.relays.iter().map(Relay::due);
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

    pub(super) fn resettle(&mut self, moves: &Moves) {
        self.probes.retain_mut(|probe| {
            let moved = moves.of(probe.target);
            probe.target = moved.unwrap_or(probe.target);
            for seats in [&mut probe.asked, &mut probe.nacked] {
                *seats = seats.iter().filter_map(|seat| moves.of(*seat)).collect();
            }
            moved.is_some()
        });
        self.relays.retain_mut(|relay| relay.resettle(moves));
        let turns = std::mem::take(&mut self.turns).into_iter();
        self.turns = turns
            .filter_map(|(at, seat)| Some((at, moves.of(seat)?)))
            .collect();
    }

    pub(super) fn in_flight(&self) -> usize {
        self.probes.len()
    }

    pub(super) fn next_sequence(&mut self) -> Sequence {
        self.sequence += 1;
        Sequence(self.sequence)
    }

    fn find(&mut self, sequence: Sequence) -> Option<&mut Probe> {
        self.probes
            .iter_mut()
            .find(|probe| probe.sequence == sequence)
    }

    /// Takes out the probe that a word from `from` ends, if there is one.
    fn finish(&mut self, sequence: Sequence, fits: impl Fn(&Probe) -> bool) -> Option<Probe> {
        let mut probes = self.probes.iter();
        let at = probes.position(|probe| probe.sequence == sequence && fits(probe))?;
        Some(self.probes.remove(at))
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
                self.probe(target, now);
            }
        }
        self.judge_probes(now);
        self.advance_relays(now);
    }

    fn plan_round(&mut self, now: Time) {
        let round = self.health.stretch(self.settings.period);
        let count = u32::try_from(self.targets.len()).unwrap_or(u32::MAX).max(1);
        self.prober.turns.clear();
        for (turn, target) in (0..).zip(&self.targets) {
            let at = now + round * (turn * TURNS / count) / TURNS;
            let contact = self.contacts.get(*target);
            if contact.is_none_or(|contact| contact.probe_from.is_none_or(|from| from <= at)) {
                self.prober.turns.push_back((at, *target));
            }
        }
        self.prober.round_at = Some(now + round);
    }

    /// Asks one member, unless it is already being asked.
    pub(super) fn probe(&mut self, target: Seat, now: Time) {
        if self
            .prober
            .probes
            .iter()
            .any(|probe| probe.target == target)
        {
            return;
        }
        let pace = self.pace(target);
        let timers = self.settings.timers(pace);
        let (min, max) = (timers.probe_timeout_min, timers.probe_timeout_max);
        let contact = self.contacts.of(target);
        let ask_at = now + self.health.stretch(contact.rtt.timeout(min, max));
        // Half a round of slack: a slower edge is probed in the round in which it falls due.
        let slack = self.settings.period / 2;
        let slower = pace == Pace::Wan && timers.period > self.settings.period;
        let wait = self.health.stretch(timers.period).saturating_sub(slack);
        contact.probe_from = slower.then(|| now + wait);
        let sequence = self.prober.next_sequence();
        self.prober.probes.push(Probe {
            sequence,
            target,
            sent: now,
            ask_at: Some(ask_at),
            verdict_at: ask_at + self.health.stretch(max),
            asked: Vec::new(),
            nacked: Vec::new(),
        });
        self.ping(target, sequence);
    }

    /// Greets a member held dead: if it is back, it learns what it must refute.
    pub(super) fn greet(&mut self, target: Seat) {
        let sequence = self.prober.next_sequence();
        self.ping(target, sequence);
    }

    pub(super) fn ping(&mut self, target: Seat, sequence: Sequence) {
        let updates = self.riders(target);
        let message = Message::Ping { sequence, updates };
        self.outbox.send(target, message);
    }

    pub(super) fn handle_ping(&mut self, from: Seat, sequence: Sequence) {
        let updates = self.riders(from);
        self.outbox.send(from, Message::Ack { sequence, updates });
    }

    pub(super) fn handle_ack(&mut self, from: Seat, sequence: Sequence, now: Time) {
        if let Some(probe) = self.prober.finish(sequence, |probe| probe.target == from) {
            self.contacts.of(from).rtt.sample(now.since(probe.sent));
            self.health.improve();
        } else {
            self.pass_on_answer(from, sequence);
        }
    }

    pub(super) fn handle_indirect_ack(&mut self, from: Seat, sequence: Sequence) {
        let asked = |probe: &Probe| probe.asked.contains(&from);
        if self.prober.finish(sequence, asked).is_some() {
            self.health.improve();
        }
    }

    pub(super) fn handle_nack(&mut self, from: Seat, sequence: Sequence) {
        if self.has(PlantedBug::NackIgnored) {
            return;
        }
        if let Some(probe) = self.prober.find(sequence)
            && probe.asked.contains(&from)
            && !probe.nacked.contains(&from)
        {
            probe.nacked.push(from);
        }
    }

    fn judge_probes(&mut self, now: Time) {
        let due = self.prober.probes.iter().filter(|probe| probe.due() <= now);
        let due: Vec<_> = due
            .map(|probe| (probe.sequence, probe.verdict_at))
            .collect();
        for (sequence, verdict_at) in due {
            if verdict_at <= now {
                self.conclude(sequence, now);
            } else {
                self.ask_helpers(sequence, now);
            }
        }
    }

    fn ask_helpers(&mut self, sequence: Sequence, now: Time) {
        let Some(probe) = self.prober.find(sequence) else {
            return;
        };
        let (target, verdict_at) = (probe.target, probe.verdict_at);
        let helpers = self.choose_helpers(target);
        let wait_ms = u64::try_from(verdict_at.since(now).as_millis()).unwrap_or(u64::MAX);
        let timeout = Duration::from_millis(wait_ms);
        let updates: Vec<Update> = self.charge(target).into_iter().collect();
        let node = self.rings.node(target);
        for helper in &helpers {
            let request = Message::PingRequest {
                sequence,
                target: node.clone(),
                timeout,
                updates: updates.clone(),
            };
            self.outbox.send(*helper, request);
        }
        if let Some(probe) = self.prober.find(sequence) {
            probe.ask_at = None;
            probe.asked = helpers;
        }
    }

    /// Connected living neighbours, at random; first those with an edge to the target themselves.
    fn choose_helpers(&mut self, target: Seat) -> Vec<Seat> {
        if self.has(PlantedBug::NoIndirectProbes) {
            return Vec::new();
        }
        let mut near = self.adjacent(target, Way::Backward);
        near.extend(self.adjacent(target, Way::Forward));
        let usable = self.neighbours.iter().copied().filter(|seat| {
            *seat != target
                && self.contacts.is_connected(*seat)
                && self.table.condition(*seat) == Condition::Alive
        });
        let (close, other): (Vec<_>, Vec<_>) = usable.partition(|seat| near.contains(seat));
        let count = self.settings.indirect_probes;
        let mut helpers: Vec<Seat> = close
            .choose_multiple(&mut self.rng, count)
            .copied()
            .collect();
        let missing = count - helpers.len();
        helpers.extend(other.choose_multiple(&mut self.rng, missing));
        helpers
    }

    /// Nobody reached the target in time.
    fn conclude(&mut self, sequence: Sequence, now: Time) {
        let Some(probe) = self.prober.finish(sequence, |_| true) else {
            return;
        };
        let entry = self.table.get(probe.target);
        let (condition, since) = (entry.condition(), entry.since);
        if condition != Condition::Unknown {
            // A silent helper points at this node; a helper's NACK points at the target.
            let silent = probe.asked.len() - probe.nacked.len();
            self.worsen(if probe.asked.is_empty() { 1 } else { silent });
        }
        let longest = self.settings.timers(self.pace(probe.target)).suspicion_max;
        match condition {
            // A member of a mesh that is just starting has the longest suspicion to appear.
            Condition::Unknown if now.since(since) < longest => {}
            Condition::Unknown | Condition::Alive | Condition::Suspect => {
                self.accuse(probe.target, Rank::Suspect, now);
            }
            Condition::Dead => {}
        }
    }

    /// A random point within the next period, to keep nodes out of step.
    pub(super) fn random_phase(&mut self, span: Duration, now: Time) -> Time {
        let span_us = u64::try_from(span.as_micros()).unwrap_or(u64::MAX).max(1);
        now + Duration::from_micros(self.rng.random_range(0..span_us))
    }
}
