//! How members that missed something catch up.
//!
//! Decides: with whom to compare digests and when, which facts to send for buckets that differ.
//! Runs when a connection comes up, when an unheard member speaks, and at a slow steady pace.

use std::{collections::BTreeSet, time::Duration};

use consensus_core::{NodeId, Time};
use rand::{Rng, seq::IteratorRandom};

use super::{
    Condition, Membership, digest,
    message::{Accusation, Bucket, Message, UPDATES_MAX, Update},
    record::{Entry, Rank},
};

/// Facts sent for one digest; what is left follows with the next.
const REPAIR_FACTS_MAX: usize = 512;
/// A member that is not heard of, or is held dead yet speaks, is nudged at most this often.
const NUDGE_PERIOD: Duration = Duration::from_secs(1);

/// When the next comparison and the other slow steps are due.
#[derive(Debug, Clone, Copy)]
pub(super) struct SlowTimers {
    pub(super) digest_at: Time,
    pub(super) random_digest_at: Time,
    pub(super) reshuffle_at: Time,
    pub(super) dead_contact_at: Time,
}

impl SlowTimers {
    pub(super) fn next(&self) -> Time {
        self.digest_at
            .min(self.random_digest_at)
            .min(self.reshuffle_at)
            .min(self.dead_contact_at)
    }
}

impl Membership {
    pub(super) fn advance_slow(&mut self, now: Time) {
        let Some(mut timers) = self.slow else {
            return;
        };
        if timers.digest_at <= now {
            timers.digest_at = now + self.settings.digest_period;
            let nearby = self.neighbours.intersection(&self.connected);
            if let Some(to) = nearby.choose(&mut self.rng).cloned() {
                self.send_digest(to);
            }
        }
        if timers.random_digest_at <= now {
            timers.random_digest_at = now + self.settings.random_digest_period;
            let others = self.live.iter().filter(|node| **node != self.local);
            if let Some(to) = others.choose(&mut self.rng).cloned() {
                self.send_digest(to);
            }
        }
        if timers.reshuffle_at <= now {
            timers.reshuffle_at = now + self.settings.reshuffle_period;
            self.draw_random_edges(now);
        }
        if timers.dead_contact_at <= now {
            timers.dead_contact_at = now + self.settings.dead_contact_period;
            let gone = self
                .table
                .values()
                .filter(|entry| entry.standing.rank == Rank::Dead);
            let gone = gone.map(|entry| entry.member.record.node.clone());
            if let Some(to) = gone.choose(&mut self.rng) {
                self.greet(to);
            }
        }
        self.slow = Some(timers);
    }

    pub(super) fn send_digest(&mut self, to: NodeId) {
        let buckets = digest::summary(self.table.values());
        self.outbox.send(to, Message::Digest { buckets });
    }

    pub(super) fn handle_digest(&mut self, from: &NodeId, theirs: &[Bucket]) {
        let differing = digest::differing(&digest::summary(self.table.values()), theirs);
        if !differing.is_empty() {
            self.send_repair(from, &differing, differing.clone());
        }
    }

    pub(super) fn handle_wanted(&mut self, from: &NodeId, wanted: &[u8]) {
        if !wanted.is_empty() {
            self.send_repair(from, wanted, Vec::new());
        }
    }

    fn send_repair(&mut self, to: &NodeId, buckets: &[u8], mut wanted: Vec<u8>) {
        let buckets: BTreeSet<u8> = buckets.iter().copied().collect();
        let held: Vec<_> = self
            .table
            .values()
            .filter(|entry| buckets.contains(&entry.bucket))
            .collect();
        // Starting anywhere, so that facts beyond the limit get their turn.
        let start = self.rng.random_range(0..held.len().max(1));
        let (tail, head) = held.split_at(start.min(held.len()));
        let facts: Vec<_> = head
            .iter()
            .chain(tail)
            .flat_map(|entry| self.retell(entry))
            .take(REPAIR_FACTS_MAX)
            .collect();
        let mut batches: Vec<_> = facts.chunks(UPDATES_MAX).map(<[_]>::to_vec).collect();
        if batches.is_empty() {
            batches.push(Vec::new());
        }
        for updates in batches {
            let wanted = std::mem::take(&mut wanted);
            self.outbox
                .send(to.clone(), Message::Repair { updates, wanted });
        }
    }

    /// What is held of a member. The worse half first: a receiver that knows nothing then never
    /// sees the dead come alive in between.
    fn retell(&self, entry: &Entry) -> Vec<Update> {
        let subject = entry.member.record.node.clone();
        let incarnation = entry.standing.incarnation;
        let accused = |accuser| Accusation {
            subject: subject.clone(),
            incarnation,
            accuser,
        };
        let worse = match entry.standing.rank {
            Rank::Unknown | Rank::Alive => None,
            Rank::Suspect => entry
                .accusers()
                .into_iter()
                .flatten()
                .find(|accuser| self.live.contains(*accuser))
                .map(|accuser| Update::Suspect(accused(accuser.clone()))),
            Rank::Dead => Some(Update::Dead(accused(self.local.clone()))),
            Rank::Left => Some(Update::Left {
                subject: subject.clone(),
                incarnation,
            }),
        };
        let record = entry
            .recorded
            .then(|| Update::Alive(entry.member.record.clone()));
        worse.into_iter().chain(record).collect()
    }

    /// Nudges a speaker that is unheard of (for its facts) or accused (to refute).
    pub(super) fn nudge(&mut self, from: &NodeId, now: Time) {
        let charge = self.charge(from);
        let Some(entry) = self.table.get_mut(from) else {
            return;
        };
        let unheard = entry.member.condition == Condition::Unknown;
        let recently = entry.nudged.is_some_and(|at| now.since(at) < NUDGE_PERIOD);
        if recently || !(unheard || charge.is_some()) {
            return;
        }
        entry.nudged = Some(now);
        if let Some(charge) = charge {
            self.outbox.send(
                from.clone(),
                Message::Gossip {
                    updates: vec![charge],
                },
            );
        } else {
            self.send_digest(from.clone());
        }
    }
}
