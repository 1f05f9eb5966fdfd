//! What this node says when others speak of it.
//!
//! Decides: when to refute. Whoever is accused at its present incarnation moves on to the next and
//! tells everybody (SWIM section 4.2); being accused is also a reason to doubt its own health
//! (Lifeguard). What it has not signed itself moves it nowhere: no forged record of its future, no
//! accusation at an incarnation that it never had.

use std::{sync::Arc, time::Duration};

use consensus_core::Time;

use super::{
    Membership,
    contacts::Contact,
    message::{Message, Update},
    planted::PlantedBug,
    quarrels::BELIEVE_AGAIN,
    record::{Incarnation, Record, SignedRecord},
    rings::Seat,
};

/// Between two refutations: longer than news takes through the mesh, far shorter than a suspicion.
const REFUTE_PERIOD: Duration = Duration::from_millis(200);
/// Between two refutations of accusers that seem to be no observers: others may see that
/// differently, so they are answered, but every member could be one.
const REFUTE_OTHERS_PERIOD: Duration = Duration::from_secs(2);
/// Between two answers to the same accuser.
const ANSWER_PERIOD: Duration = Duration::from_secs(1);

/// When this node last moved on, for whose sake.
#[derive(Debug, Default)]
pub(super) struct Defence {
    refuted: Option<Time>,
    refuted_others: Option<Time>,
}

impl Membership {
    /// Answers what is said of this node itself.
    pub(super) fn answer(&mut self, update: Update, from: Seat, now: Time) {
        let own = self.own.incarnation();
        match &update {
            Update::Alive(signed) => {
                let stale = signed.incarnation() < own || signed.record == self.own.record;
                if stale {
                    return;
                }
                if update.is_genuine(&*self.keys) {
                    // An earlier life of this node is remembered better than by itself.
                    self.renew(signed.incarnation().max(own).next(), now);
                } else {
                    self.contacts.of(from).mute(now);
                }
                return;
            }
            Update::Left(goodbye) => {
                if goodbye.incarnation >= own && update.is_genuine(&*self.keys) {
                    self.renew(goodbye.incarnation.next(), now);
                }
            }
            Update::Suspect(accusation) | Update::Dead(accusation) => {
                if accusation.incarnation == own {
                    let accuser = self.rings.seat(&accusation.accuser);
                    if let Some(accuser) = accuser.filter(|seat| Some(*seat) != self.own_seat) {
                        self.refute(&update, accuser, from, now);
                    }
                }
            }
        }
        self.reply(from, now);
    }

    fn refute(&mut self, update: &Update, accuser: Seat, from: Seat, now: Time) {
        let Some(own) = self.own_seat else {
            return;
        };
        if self.quarrels.is_fresh((own, accuser), BELIEVE_AGAIN, now) {
            return;
        }
        let observer = self.observes(accuser, own);
        let (last, period) = if observer {
            (self.defence.refuted, REFUTE_PERIOD)
        } else {
            (self.defence.refuted_others, REFUTE_OTHERS_PERIOD)
        };
        if last.is_some_and(|at| now.since(at) < period) {
            return;
        }
        if !self.is_genuine(update) {
            self.contacts.of(from).mute(now);
            return;
        }
        if self.has(PlantedBug::NoRefutation) {
            return;
        }
        self.quarrels.note(own, accuser, now);
        if observer {
            self.defence.refuted = Some(now);
        } else {
            self.defence.refuted_others = Some(now);
        }
        self.worsen(1);
        self.renew(self.own.incarnation().next(), now);
    }

    /// An accuser is answered even if the rings do not connect it to this node.
    fn reply(&mut self, from: Seat, now: Time) {
        let pushed = self.neighbours.contains(&from) && self.contacts.is_connected(from);
        if pushed && !self.news.is_empty() {
            return;
        }
        if Contact::allow(
            &mut self.contacts.of(from).limits.answered,
            ANSWER_PERIOD,
            now,
        ) {
            let updates = vec![Update::Alive(Arc::clone(&self.own))];
            self.outbox.send(from, Message::Gossip { updates });
        }
    }

    /// Moves the own record to a later incarnation and tells everybody.
    pub(super) fn renew(&mut self, incarnation: Incarnation, now: Time) {
        let record = Record {
            generation: incarnation.generation,
            version: incarnation.version,
            ..self.own.record.clone()
        };
        self.publish(record, now);
    }

    /// Replaces the own record.
    pub(super) fn publish(&mut self, record: Record, now: Time) {
        self.own = SignedRecord::sign(record, &*self.keys);
        if let Some(own) = self.own_seat {
            let signed = Arc::clone(&self.own);
            self.change(own, now, |entry| entry.record = Some(signed));
            self.touched.remove(&own);
            self.tell(own, Update::Alive(Arc::clone(&self.own)), None);
        }
    }
}
