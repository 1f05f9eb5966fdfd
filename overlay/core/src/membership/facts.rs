//! Who is believed, and what is told on.
//!
//! Decides: what each fact changes, which facts are pushed to the neighbours, how this node answers
//! what is said of itself. A fact that changes nothing is not told on, so every push ends.
//!
//! Two rules beyond SWIM's precedence. A verdict of death ends a living member only where the
//! suspicion has already run for half its minimum; otherwise it counts as a suspicion, so that
//! after a healed cut the other side's stale verdicts die by refutation instead of spreading. And
//! those held dead accuse nobody: a node that hears nothing, yet is heard, does no harm.

use consensus_core::{NodeId, Time};

use super::{
    Condition, Membership,
    message::{Accusation, Message, UPDATES_MAX, Update},
    record::{Entry, Incarnation, Rank, Record},
    suspicion::Suspicion,
};

/// Facts that ride on one probe message.
const PIGGYBACK_MAX: usize = 8;

/// News on its way to the neighbours, except to where it came from.
#[derive(Debug)]
pub(super) struct News {
    update: Update,
    source: Option<NodeId>,
}

/// What a fact did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// Nothing: older than what is held.
    Stale,
    /// One more voice for an open suspicion.
    Confirmed,
    /// A new standing or record.
    News,
}

impl Membership {
    /// Takes in facts from another node.
    pub(super) fn learn_all(&mut self, from: &NodeId, updates: Vec<Update>, now: Time) {
        for update in updates.into_iter().take(UPDATES_MAX) {
            if *update.subject() == self.local {
                self.answer(update, from, now);
            } else if self.admissible(from, &update) {
                self.learn(update, Some(from), now);
            }
        }
    }

    /// The one gate for facts from others. Facts carry no signatures yet; whether a record is its
    /// subject's own and an accusation its accuser's will be decided here and nowhere else.
    fn admissible(&self, from: &NodeId, update: &Update) -> bool {
        let subject = update.subject();
        if !self.table.contains_key(subject) {
            return false;
        }
        match update {
            Update::Alive(_) | Update::Left { .. } => true,
            Update::Suspect(accusation) | Update::Dead(accusation) => {
                accusation.accuser != *subject
                    && self.may_accuse(&accusation.accuser)
                    && self.may_accuse(from)
            }
        }
    }

    fn may_accuse(&self, node: &NodeId) -> bool {
        self.table
            .get(node)
            .is_some_and(|entry| entry.member.condition != Condition::Dead)
    }

    /// This node's own verdict on another.
    pub(super) fn accuse(&mut self, subject: &NodeId, rank: Rank, now: Time) {
        let Some(entry) = self.table.get(subject) else {
            return;
        };
        let accusation = Accusation {
            subject: subject.clone(),
            incarnation: entry.standing.incarnation,
            accuser: self.local.clone(),
        };
        let update = match rank {
            Rank::Dead => Update::Dead(accusation),
            Rank::Suspect => Update::Suspect(accusation),
            Rank::Unknown | Rank::Alive | Rank::Left => return,
        };
        self.learn(update, None, now);
    }

    fn learn(&mut self, update: Update, source: Option<&NodeId>, now: Time) {
        let subject = update.subject().clone();
        let own_verdict = source.is_none();
        let Some(entry) = self.table.get_mut(&subject) else {
            return;
        };
        match entry.apply(&update, own_verdict, &self.settings, now) {
            Effect::Stale => return,
            Effect::Confirmed => {}
            Effect::News => {
                let condition = entry.member.condition;
                self.outbox.changed(subject.clone(), condition);
                self.note_liveness(&subject, condition);
            }
        }
        self.deadlines_stale = true;
        self.tell(update, source.cloned());
    }

    fn note_liveness(&mut self, subject: &NodeId, condition: Condition) {
        let changed = if condition == Condition::Dead {
            self.live.remove(subject)
        } else {
            self.live.insert(subject.clone())
        };
        self.edges_stale |= changed;
    }

    /// Answers what is said of this node itself.
    fn answer(&mut self, update: Update, from: &NodeId, now: Time) {
        let own = self.record().incarnation();
        let claimed = update.incarnation();
        let outdated = match &update {
            Update::Alive(record) => claimed < own || record == self.record(),
            Update::Suspect(_) | Update::Dead(_) | Update::Left { .. } => claimed < own,
        };
        let accused = !matches!(update, Update::Alive(_));
        if !outdated {
            if accused {
                self.health.worsen(1);
            }
            self.renew(claimed.max(own).next(), now);
        }
        // An accuser is answered even if the rings do not connect it to this node.
        if accused && !(self.neighbours.contains(from) && self.connected.contains(from)) {
            let updates = vec![Update::Alive(self.record().clone())];
            self.outbox.send(from.clone(), Message::Gossip { updates });
        }
    }

    /// Moves the own record to a later incarnation and tells everybody.
    pub(super) fn renew(&mut self, incarnation: Incarnation, now: Time) {
        let mut record = self.record().clone();
        record.generation = incarnation.generation;
        record.version = incarnation.version;
        self.publish(record, now);
    }

    /// Replaces the own record.
    pub(super) fn publish(&mut self, record: Record, now: Time) {
        let since = self.member_of_self().since;
        let mut entry = Entry::local(record.clone(), now);
        entry.member.since = since;
        self.table.insert(self.local.clone(), entry);
        self.tell(Update::Alive(record), None);
    }

    /// Queues a fact for the push at the end of this input, and for later rides.
    pub(super) fn tell(&mut self, update: Update, source: Option<NodeId>) {
        self.piggyback.push(update.clone());
        self.news.push(News { update, source });
    }

    /// Pushes what this input brought to the connected neighbours.
    pub(super) fn push_news(&mut self) {
        let news = std::mem::take(&mut self.news);
        if news.is_empty() {
            return;
        }
        for to in self.neighbours.intersection(&self.connected) {
            let fresh = news.iter().filter(|news| news.source.as_ref() != Some(to));
            let updates: Vec<_> = fresh.map(|news| news.update.clone()).collect();
            for batch in updates.chunks(UPDATES_MAX) {
                self.outbox.send(
                    to.clone(),
                    Message::Gossip {
                        updates: batch.to_vec(),
                    },
                );
            }
        }
    }

    /// Facts to ride on a message: first what is held against the receiver (Lifeguard's buddy).
    pub(super) fn riders(&mut self, to: &NodeId) -> Vec<Update> {
        let mut updates: Vec<_> = self.charge(to).into_iter().collect();
        updates.extend(self.piggyback.take(PIGGYBACK_MAX, self.table.len()));
        updates
    }

    /// What is held against a member, retold so that it may refute.
    pub(super) fn charge(&self, node: &NodeId) -> Option<Update> {
        let entry = self.table.get(node)?;
        let accuser = match entry.standing.rank {
            Rank::Unknown | Rank::Alive | Rank::Left => return None,
            Rank::Suspect => entry.accusers()?.first()?.clone(),
            Rank::Dead => self.local.clone(),
        };
        let accusation = Accusation {
            subject: node.clone(),
            incarnation: entry.standing.incarnation,
            accuser,
        };
        Some(if entry.standing.rank == Rank::Dead {
            Update::Dead(accusation)
        } else {
            Update::Suspect(accusation)
        })
    }
}

impl Entry {
    fn apply(
        &mut self,
        update: &Update,
        own_verdict: bool,
        settings: &super::Settings,
        now: Time,
    ) -> Effect {
        match update {
            Update::Alive(record) => {
                let rises = update.standing() > self.standing;
                if rises {
                    self.stand(update.standing(), now);
                }
                let stored = self.store(record.clone());
                if rises || stored {
                    Effect::News
                } else {
                    Effect::Stale
                }
            }
            Update::Left { .. } if update.standing() > self.standing => {
                self.stand(update.standing(), now);
                Effect::News
            }
            Update::Left { .. } => Effect::Stale,
            Update::Suspect(accusation) => self.suspect(accusation, settings, now),
            Update::Dead(accusation) => {
                if update.standing() <= self.standing {
                    Effect::Stale
                } else if own_verdict || self.is_ripe(accusation.incarnation, settings, now) {
                    self.stand(update.standing(), now);
                    Effect::News
                } else {
                    self.suspect(accusation, settings, now)
                }
            }
        }
    }

    /// Whether another's verdict of death may end the matter here.
    fn is_ripe(&self, incarnation: Incarnation, settings: &super::Settings, now: Time) -> bool {
        match (self.standing.rank, &self.suspicion) {
            (Rank::Unknown | Rank::Dead | Rank::Left, _) => true,
            (Rank::Suspect, Some(suspicion)) => {
                incarnation == self.standing.incarnation
                    && now.since(suspicion.started) >= settings.suspicion_min / 2
            }
            (Rank::Alive | Rank::Suspect, _) => false,
        }
    }

    fn suspect(
        &mut self,
        accusation: &Accusation,
        settings: &super::Settings,
        now: Time,
    ) -> Effect {
        let standing = super::record::Standing {
            incarnation: accusation.incarnation,
            rank: Rank::Suspect,
        };
        if standing > self.standing {
            self.stand(standing, now);
            self.suspicion = Some(Suspicion::new(accusation.accuser.clone(), settings, now));
            return Effect::News;
        }
        match &mut self.suspicion {
            Some(suspicion) if standing == self.standing => {
                if suspicion.confirm(accusation.accuser.clone()) {
                    Effect::Confirmed
                } else {
                    Effect::Stale
                }
            }
            Some(_) | None => Effect::Stale,
        }
    }
}
