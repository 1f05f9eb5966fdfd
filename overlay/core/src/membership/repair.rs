//! How members that missed something catch up (anti-entropy, after Demers et al. 1987).
//!
//! Decides: with whom to compare digests and when, which facts to send for buckets that differ.
//! Runs when a connection comes up, when an unheard member speaks, and at a slow steady pace. What
//! is sent are others' signed words; nobody needs to believe who repeats them.
//!
//! Bounded: `REPAIR_FACTS_MAX` facts per digest, one digest answered per member and `REPAIR_GAP`.

use std::{sync::Arc, time::Duration};

use consensus_core::Time;
use rand::Rng;

use super::{
    Condition, Membership,
    contacts::Contact,
    digest,
    message::{Bucket, Message, UPDATES_MAX, Update},
    planted::PlantedBug,
    rings::Seat,
    table::{Entry, Held},
};

/// Facts sent for one digest; what is left follows with the next.
const REPAIR_FACTS_MAX: usize = 512;
/// Accusations sent of one member: a first one and Lifeguard's three confirmations.
const EVIDENCE_MAX: usize = 4;
/// A member is sent facts at most this often: ten thousand within five seconds.
pub(super) const REPAIR_GAP: Duration = Duration::from_millis(200);
/// A member that was told that there is more asks again after this long: later than `REPAIR_GAP`.
const RESUME_AFTER: Duration = Duration::from_millis(250);
/// A member that is not heard of, or is held dead yet speaks, is nudged at most this often.
const NUDGE_PERIOD: Duration = Duration::from_secs(1);
/// How long the bug of that name remembers the dead.
const FORGETFUL: Duration = Duration::from_secs(5);

/// When the next comparison and the other slow steps are due.
#[derive(Debug, Clone, Copy)]
pub(super) struct SlowTimers {
    pub(super) digest_at: Time,
    pub(super) random_digest_at: Time,
    pub(super) reshuffle_at: Time,
    pub(super) dead_contact_at: Time,
    /// With whom to go on comparing.
    pub(super) resume: Option<(Time, Seat)>,
}

impl SlowTimers {
    pub(super) fn next(&self) -> Time {
        let resume_at = self.resume.map_or(self.digest_at, |(at, _)| at);
        self.digest_at
            .min(self.random_digest_at)
            .min(self.reshuffle_at)
            .min(self.dead_contact_at)
            .min(resume_at)
    }
}

impl Membership {
    pub(super) fn advance_slow(&mut self, now: Time) {
        let Some(mut timers) = self.slow else {
            return;
        };
        if timers.next() > now {
            return;
        }
        if timers.digest_at <= now {
            timers.digest_at = now + self.settings.digest_period;
            let nearby = self.neighbours.iter().copied();
            let nearby: Vec<_> = nearby
                .filter(|seat| self.contacts.is_connected(*seat))
                .collect();
            if !nearby.is_empty() {
                let to = nearby[self.rng.random_range(0..nearby.len())];
                self.send_digest(to);
            }
            if self.has(PlantedBug::TombstoneDroppedEarly) {
                self.forget_the_dead(now);
            }
        }
        if timers.random_digest_at <= now {
            timers.random_digest_at = now + self.settings.random_digest_period;
            if let Some(to) = self.pick_member() {
                self.send_digest(to);
            }
        }
        if timers.reshuffle_at <= now {
            timers.reshuffle_at = now + self.settings.reshuffle_period;
            self.draw_random_edges();
        }
        if timers.dead_contact_at <= now {
            timers.dead_contact_at = now + self.settings.dead_contact_period;
            if let Some(to) = self.pick_fallen() {
                self.greet(to);
            }
        }
        if let Some((at, to)) = timers.resume
            && at <= now
        {
            timers.resume = None;
            self.send_digest(to);
        }
        self.slow = Some(timers);
    }

    /// Any of those that died without a goodbye.
    fn pick_fallen(&mut self) -> Option<Seat> {
        let fallen = &self.table.fallen;
        let (first, last) = (fallen.first()?.index(), fallen.last()?.index());
        let from = Seat::at(self.rng.random_range(first..=last));
        fallen.range(from..).next().copied()
    }

    pub(super) fn send_digest(&mut self, to: Seat) {
        if self.has(PlantedBug::DigestRepairOff) {
            return;
        }
        let buckets = digest::summary(&self.table.sums);
        self.outbox.send(to, Message::Digest { buckets });
    }

    pub(super) fn handle_digest(&mut self, from: Seat, theirs: &[Bucket], now: Time) {
        let differing = digest::differing(&self.table.sums, theirs);
        if !differing.is_empty() {
            self.send_repair(from, &differing, differing.clone(), now);
        }
    }

    pub(super) fn handle_repair(
        &mut self,
        from: Seat,
        updates: Vec<Update>,
        wanted: &[u8],
        more: bool,
        now: Time,
    ) {
        let new = self.learn_all(from, updates, now);
        if !wanted.is_empty() {
            self.send_repair(from, wanted, Vec::new(), now);
        }
        // Only while it helps, so that two that can never agree do not go on for ever.
        if more
            && new
            && let Some(slow) = &mut self.slow
        {
            slow.resume.get_or_insert((now + RESUME_AFTER, from));
        }
    }

    fn send_repair(&mut self, to: Seat, buckets: &[u8], mut wanted: Vec<u8>, now: Time) {
        let allowed = Contact::allow(&mut self.contacts.of(to).limits.repaired, REPAIR_GAP, now);
        if !allowed || self.has(PlantedBug::DigestRepairOff) {
            return;
        }
        // Starting anywhere, so that facts beyond the limit get their turn.
        let start = self.rng.random_range(0..buckets.len());
        let (tail, head) = buckets.split_at(start);
        let mut facts = Vec::new();
        let mut more = false;
        for bucket in head.iter().chain(tail) {
            for seat in self.rings.in_bucket(*bucket) {
                if facts.len() < REPAIR_FACTS_MAX {
                    self.retell(self.table.get(*seat), &mut facts);
                } else {
                    more = true;
                }
            }
            if more {
                break;
            }
        }
        let mut batches: Vec<_> = facts.chunks(UPDATES_MAX).map(<[_]>::to_vec).collect();
        if batches.is_empty() {
            batches.push(Vec::new());
        }
        let last = batches.len() - 1;
        for (turn, updates) in batches.into_iter().enumerate() {
            let repair = Message::Repair {
                updates,
                wanted: std::mem::take(&mut wanted),
                more: more && turn == last,
            };
            self.outbox.send(to, repair);
        }
    }

    /// What is held of a member: its own words, then others' about them.
    fn retell(&self, entry: &Entry, facts: &mut Vec<Update>) {
        if let Some(record) = &entry.record {
            facts.push(Update::Alive(Arc::clone(record)));
        }
        let Some(case) = &entry.case else {
            return;
        };
        if let Held::Left(goodbye) = &case.verdict {
            facts.push(Update::Left(Arc::clone(goodbye)));
        }
        let living = case
            .accusers
            .iter()
            .filter(|(seat, _)| !self.table.is_dead(*seat));
        let words = living.rev().take(EVIDENCE_MAX);
        facts.extend(words.map(|(_, update)| update.clone()));
    }

    /// Nudges a speaker that is unheard of (for its facts) or accused (to refute).
    pub(super) fn nudge(&mut self, from: Seat, now: Time) {
        if self.table.is_calm() {
            return;
        }
        let condition = self.table.condition(from);
        if condition == Condition::Alive {
            return;
        }
        let recently = self
            .contacts
            .get(from)
            .and_then(|contact| contact.limits.nudged);
        if recently.is_some_and(|at| now.since(at) < NUDGE_PERIOD) {
            return;
        }
        if condition == Condition::Unknown {
            self.ask(from, now);
        } else if let Some(charge) = self.charge(from) {
            self.contacts.of(from).limits.nudged = Some(now);
            let updates = vec![charge];
            self.outbox.send(from, Message::Gossip { updates });
        }
    }

    /// Asks a member for what it knows and this node may have missed.
    pub(super) fn ask(&mut self, from: Seat, now: Time) {
        if Contact::allow(&mut self.contacts.of(from).limits.nudged, NUDGE_PERIOD, now) {
            self.send_digest(from);
        }
    }

    /// The bug of that name.
    fn forget_the_dead(&mut self, now: Time) {
        for seat in self.rings.seats() {
            let entry = self.table.get(seat);
            if entry.condition() == Condition::Dead && now.since(entry.since) >= FORGETFUL {
                self.change(seat, now, |entry| (entry.record, entry.case) = (None, None));
            }
        }
    }
}
