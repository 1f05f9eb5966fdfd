//! Whether the others answer.
//!
//! Decides: whom to probe when, whom to ask for help, when a probe has failed (SWIM section 3.1;
//! NACKs and stretched timers from Lifeguard, section IV-A). Targets keep a fixed turn within the
//! period, so that no target waits longer than one period. Edges that are relayed or slow have
//! their own, longer timers.
//!
//! A question is repeated until its probe is over: one lost packet, or every fifth, is no reason to
//! suspect anybody, and what a mesh of a thousand says about one wrong suspicion costs more than
//! all the repetitions. Nothing waits for them, so a death is noticed no later.
//!
//! Bounded: one probe per target in flight, [`REPEATS_MAX`] repetitions of each.

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

/// A question is asked so often before helpers are asked as well, and as densely from then on. At a
/// fifth of all messages lost one answer in three does not come: with thirteen questions on a LAN
/// two probes in a million fail.
const ASKED_ALONE: u32 = 4;
/// Repetitions of one question, whatever the timers are.
const REPEATS_MAX: usize = 16;

/// One question in flight.
#[derive(Debug)]
struct Probe {
    sequence: Sequence,
    target: Seat,
    sent: Time,
    /// When it is repeated next, and the time between two repetitions.
    repeat_at: Option<Time>,
    pause: Duration,
    /// When helpers are asked; `None` once they were.
    ask_at: Option<Time>,
    /// When the target is suspected.
    verdict_at: Time,
    /// Apart: most questions are answered at once.
    pursuit: Option<Box<Pursuit>>,
}

/// What was done about a question that was not answered at once.
#[derive(Debug, Default)]
struct Pursuit {
    /// The same question again, each with a number of its own: it tells to which of them an answer
    /// belongs.
    repeats: Vec<(Sequence, Time)>,
    /// The helpers that were asked.
    asked: Vec<Seat>,
    /// Those of them that said that no answer came.
    nacked: Vec<Seat>,
}

impl Probe {
    fn due(&self) -> Time {
        let next = self.ask_at.unwrap_or(self.verdict_at);
        self.repeat_at.map_or(next, |at| at.min(next))
    }

    /// When the question with this number was sent, if it is one of this probe's.
    fn sent(&self, sequence: Sequence) -> Option<Time> {
        let mut repeats = self.repeats().iter();
        let repeat = |(number, at): &(Sequence, Time)| (*number == sequence).then_some(*at);
        (self.sequence == sequence)
            .then_some(self.sent)
            .or_else(|| repeats.find_map(repeat))
    }

    fn repeats(&self) -> &[(Sequence, Time)] {
        let pursuit = self.pursuit.as_deref();
        pursuit.map_or(&[], |pursuit| &pursuit.repeats)
    }

    fn has_asked(&self, helper: Seat) -> bool {
        let pursuit = self.pursuit.as_deref();
        pursuit.is_some_and(|pursuit| pursuit.asked.contains(&helper))
    }

    fn pursue(&mut self) -> &mut Pursuit {
        self.pursuit.get_or_insert_default()
    }

    /// Plans the next repetition, unless its answer would come too late.
    fn plan_repeat(&mut self, now: Time) {
        let next = now + self.pause;
        let useful = next + self.pause <= self.verdict_at && self.repeats().len() < REPEATS_MAX;
        self.repeat_at = useful.then_some(next);
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
    /// When any of it is due. Most inputs change nothing here, and need not go through it.
    due: Option<Time>,
    /// `due` has to be found anew.
    stale: bool,
}

impl Prober {
    /// Starts probing at a point of the period that differs between nodes.
    pub(super) fn start(&mut self, at: Time) {
        self.round_at.get_or_insert(at);
        self.stale = true;
    }

    /// Something was changed that may fall due.
    pub(super) const fn touch(&mut self) {
        self.stale = true;
    }

    pub(super) fn next(&mut self) -> Option<Time> {
        if std::mem::take(&mut self.stale) {
            self.due = self.reckon();
        }
        debug_assert_eq!(self.due, self.reckon(), "a change was not noted");
        self.due
    }

    fn reckon(&self) -> Option<Time> {
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
        self.stale = true;
    }

    pub(super) fn resettle(&mut self, moves: &Moves) {
        self.stale = true;
        self.probes.retain_mut(|probe| {
            let moved = moves.of(probe.target);
            probe.target = moved.unwrap_or(probe.target);
            if let Some(pursuit) = &mut probe.pursuit {
                for seats in [&mut pursuit.asked, &mut pursuit.nacked] {
                    *seats = seats.iter().filter_map(|seat| moves.of(*seat)).collect();
                }
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

    /// Takes out the first probe that fits, if there is one.
    fn finish(&mut self, fits: impl Fn(&Probe) -> bool) -> Option<Probe> {
        let at = self.probes.iter().position(fits)?;
        self.stale = true;
        Some(self.probes.remove(at))
    }
}

impl Membership {
    /// Fires every due timer of the prober.
    pub(super) fn advance_probes(&mut self, now: Time) {
        if self.prober.due.is_some_and(|at| at > now) && !self.prober.stale {
            return;
        }
        self.prober.touch();
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
        let patience = contact.rtt.timeout(min, max);
        let ask_at = now + self.health.stretch(patience);
        // Never before the answer to the last one can be there.
        let pause = (patience / ASKED_ALONE).max(contact.rtt.expected());
        let pause = self.health.stretch(pause);
        // Half a round of slack: a slower edge is probed in the round in which it falls due.
        let slack = self.settings.period / 2;
        let slower = pace == Pace::Wan && timers.period > self.settings.period;
        let wait = self.health.stretch(timers.period).saturating_sub(slack);
        contact.probe_from = slower.then(|| now + wait);
        let sequence = self.prober.next_sequence();
        self.prober.touch();
        let mut probe = Probe {
            sequence,
            target,
            sent: now,
            repeat_at: None,
            pause,
            ask_at: Some(ask_at),
            verdict_at: ask_at + self.health.stretch(max),
            pursuit: None,
        };
        probe.plan_repeat(now);
        self.prober.probes.push(probe);
        self.ping(target, sequence);
    }

    /// Asks once more, over a connection only: a dial that is under way needs no second one. No news
    /// rides on it; it would be spent on one who may be gone.
    fn repeat(&mut self, sequence: Sequence, now: Time) {
        let again = self.prober.next_sequence();
        let Some(probe) = self.prober.find(sequence) else {
            return;
        };
        let target = probe.target;
        probe.pursue().repeats.push((again, now));
        probe.plan_repeat(now);
        if self.contacts.is_connected(target) {
            let updates = self.charge(target).into_iter().collect();
            let sequence = again;
            self.outbox
                .send(target, Message::Ping { sequence, updates });
        }
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
        let ends = |probe: &Probe| probe.target == from && probe.sent(sequence).is_some();
        let ended = self.prober.finish(ends);
        if let Some(sent) = ended.and_then(|probe| probe.sent(sequence)) {
            self.contacts.of(from).rtt.sample(now.since(sent));
            self.health.improve();
        } else {
            self.pass_on_answer(from, sequence);
        }
    }

    pub(super) fn handle_indirect_ack(&mut self, from: Seat, sequence: Sequence) {
        let asked = |probe: &Probe| probe.sequence == sequence && probe.has_asked(from);
        if self.prober.finish(asked).is_some() {
            self.health.improve();
        }
    }

    pub(super) fn handle_nack(&mut self, from: Seat, sequence: Sequence) {
        if self.has(PlantedBug::NackIgnored) {
            return;
        }
        if let Some(probe) = self.prober.find(sequence)
            && probe.has_asked(from)
            && !probe.pursue().nacked.contains(&from)
        {
            probe.pursue().nacked.push(from);
        }
    }

    fn judge_probes(&mut self, now: Time) {
        let due = self.prober.probes.iter().filter(|probe| probe.due() <= now);
        let passed = |at: Option<Time>| at.is_some_and(|at| at <= now);
        let due: Vec<_> = due
            .map(|probe| {
                let (helpers, again) = (passed(probe.ask_at), passed(probe.repeat_at));
                (probe.sequence, probe.verdict_at <= now, helpers, again)
            })
            .collect();
        for (sequence, over, helpers, again) in due {
            if over {
                self.conclude(sequence, now);
                continue;
            }
            if helpers {
                self.ask_helpers(sequence, now);
            }
            if again {
                self.repeat(sequence, now);
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
            probe.pursue().asked = helpers;
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
        let Some(probe) = self.prober.finish(|probe| probe.sequence == sequence) else {
            return;
        };
        let entry = self.table.get(probe.target);
        let (condition, since) = (entry.condition(), entry.since);
        if condition != Condition::Unknown {
            // A silent helper points at this node; a helper's NACK points at the target.
            let pursuit = probe.pursuit.unwrap_or_default();
            let silent = pursuit.asked.len() - pursuit.nacked.len();
            self.worsen(if pursuit.asked.is_empty() { 1 } else { silent });
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
