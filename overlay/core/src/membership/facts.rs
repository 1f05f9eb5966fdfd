//! Who is believed, and what it changes.
//!
//! Decides: which facts count. A record and a goodbye count when their subject has signed them, an
//! accusation when a living member has signed it that observes the accused on the rings as they are
//! now, at an incarnation that the accused itself has signed. So whoever passes a fact on need not
//! be trusted. A fact that changes nothing is not told on, so every push ends; and cheap questions
//! come before the signature, so that repeating what is known costs little.
//!
//! Three rules beyond SWIM's precedence. A verdict of death ends a living member only where the
//! suspicion has already run for half its minimum; otherwise it counts as a suspicion, so that
//! after a healed cut the other side's stale verdicts die by refutation instead of spreading. Those
//! held dead accuse nobody: a node that hears nothing, yet is heard, does no harm. And who was
//! refuted is not believed at once again about the same subject (`quarrels`).
//!
//! Das, Gupta, Motivala: SWIM (DSN 2002), section 4.2. Suresh et al.: Rapid (ATC 2018), section 4.1.

use consensus_core::Time;

use super::{
    Condition, Membership,
    message::{Accusation, UPDATES_MAX, Update, Verdict},
    planted::PlantedBug,
    quarrels::{ACCUSE_AGAIN, BELIEVE_AGAIN},
    record::Incarnation,
    rings::{RINGS, Seat},
    suspicion::{CONFIRMATIONS_MAX, Suspicion},
    table::{Case, Held, Rank, Standing},
};

/// What a fact did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// Nothing: older than what is held.
    Stale,
    /// One more voice, or fresher evidence.
    Confirmed,
    /// A new standing or record.
    News,
}

impl Membership {
    /// Takes in facts from another node. True when one of them was new.
    pub(super) fn learn_all(&mut self, from: Seat, updates: Vec<Update>, now: Time) -> bool {
        let mut new = false;
        for update in updates.into_iter().take(UPDATES_MAX) {
            if self
                .contacts
                .get(from)
                .is_some_and(|from| from.is_muted(now))
            {
                return new;
            }
            let Some(subject) = self.rings.seat(update.subject()) else {
                continue;
            };
            if Some(subject) == self.own_seat {
                self.answer(update, from, now);
            } else {
                new |= self.hear(subject, update, from, now);
            }
        }
        new
    }

    fn hear(&mut self, subject: Seat, update: Update, from: Seat, now: Time) -> bool {
        let worth = match &update {
            Update::Alive(signed) => self.is_newer(subject, signed.incarnation()),
            Update::Left(_) => update.standing() > self.table.get(subject).standing(),
            Update::Suspect(accusation) | Update::Dead(accusation) => {
                self.counts(subject, &update, accusation, from, now)
            }
        };
        if !worth {
            return false;
        }
        if !self.is_genuine(&update) {
            self.contacts.of(from).mute(now);
            return false;
        }
        if matches!(update, Update::Alive(_)) && !self.quarrels.admit(subject, now) {
            return false;
        }
        self.learn(subject, update, Some(from), now)
    }

    pub(super) fn is_genuine(&self, update: &Update) -> bool {
        let excused = match update {
            Update::Alive(_) | Update::Left(_) => self.has(PlantedBug::UnsignedRecordCounted),
            Update::Suspect(_) | Update::Dead(_) => self.has(PlantedBug::UnsignedAccusationCounted),
        };
        excused || update.is_genuine(&*self.keys)
    }

    fn is_newer(&self, subject: Seat, incarnation: Incarnation) -> bool {
        match &self.table.get(subject).record {
            Some(held) if self.has(PlantedBug::GenerationIgnored) => {
                incarnation.version > held.version
            }
            Some(held) => incarnation > held.incarnation(),
            None => {
                let grave = self.table.grave(self.rings.node(subject));
                grave.is_none_or(|grave| incarnation >= grave)
            }
        }
    }

    /// Whether an accusation could change anything, its signature apart.
    fn counts(
        &mut self,
        subject: Seat,
        update: &Update,
        accusation: &Accusation,
        from: Seat,
        now: Time,
    ) -> bool {
        let entry = self.table.get(subject);
        let (standing, current) = (update.standing(), entry.standing());
        if standing.incarnation < current.incarnation || current.rank == Rank::Left {
            return false;
        }
        let signed = entry.record.as_ref().map(|record| record.incarnation());
        if standing.incarnation > signed.unwrap_or_default() {
            // Nobody can accuse what the subject has not become, but this node may have missed it.
            self.ask(from, now);
            return false;
        }
        let Some(accuser) = self.rings.seat(&accusation.accuser) else {
            return false;
        };
        let known = if standing > current {
            false
        } else if current.rank == Rank::Suspect && standing.rank == Rank::Suspect {
            let accusers = entry.case.as_ref().map_or(&[][..], |case| &case.accusers);
            self.voices(subject).0 > CONFIRMATIONS_MAX
                || accusers.iter().any(|(seat, _)| *seat == accuser)
        } else if current.rank == Rank::Dead && standing.rank == Rank::Dead {
            self.has_evidence(subject)
        } else {
            true
        };
        !known
            && !self.table.is_dead(accuser)
            && !self.table.is_dead(from)
            && self.observes(accuser, subject)
            && !self
                .quarrels
                .is_fresh((subject, accuser), BELIEVE_AGAIN, now)
    }

    /// Whether an observer of today has signed the member's death.
    pub(super) fn has_evidence(&self, subject: Seat) -> bool {
        let case = self.table.get(subject).case.as_deref();
        let accusers = case.map_or(&[][..], |case| &case.accusers);
        accusers.iter().any(|(accuser, update)| {
            matches!(update, Update::Dead(_))
                && !self.table.is_dead(*accuser)
                && self.observes(*accuser, subject)
        })
    }

    /// This node's own verdict on another. Only observers tell theirs; a suspicion that runs out
    /// elsewhere is that node's own matter.
    pub(super) fn accuse(&mut self, subject: Seat, rank: Rank, now: Time) {
        let observer = self.own_seat.filter(|own| self.observes(*own, subject));
        match (rank, observer) {
            (Rank::Suspect, Some(own)) => {
                let entry = self.table.get(subject);
                let case = entry.case.as_deref();
                let said = case.is_some_and(|case| {
                    case.rank() >= Rank::Dead || case.accusers.iter().any(|(seat, _)| *seat == own)
                });
                if !said && !self.quarrels.is_fresh((subject, own), ACCUSE_AGAIN, now) {
                    let update = self.own_word(subject, Verdict::Suspect);
                    self.learn(subject, update, None, now);
                }
            }
            (Rank::Dead, Some(_)) => {
                let update = self.own_word(subject, Verdict::Dead);
                self.learn(subject, update, None, now);
            }
            (Rank::Dead, None) => self.close(subject, None, now),
            (Rank::Unknown | Rank::Alive | Rank::Suspect | Rank::Left, _) => {}
        }
    }

    /// An accusation in this node's own name, of what the subject is held to be.
    pub(super) fn own_word(&self, subject: Seat, verdict: Verdict) -> Update {
        let incarnation = self.table.get(subject).standing().incarnation;
        let accuser = (self.local.clone(), &*self.keys);
        let pace = self.pace(subject);
        let node = self.rings.node(subject).clone();
        let accusation = Accusation::sign(verdict, node, incarnation, accuser, pace);
        match verdict {
            Verdict::Suspect => Update::Suspect(accusation),
            Verdict::Dead => Update::Dead(accusation),
        }
    }

    /// Takes over what was found to count. True when it changed something.
    pub(super) fn learn(
        &mut self,
        subject: Seat,
        update: Update,
        source: Option<Seat>,
        now: Time,
    ) -> bool {
        let effect = match &update {
            Update::Alive(_) => self.revive(subject, &update, now),
            Update::Left(_) => self.take_leave(subject, &update, now),
            Update::Suspect(_) => self.suspect(subject, &update, now),
            Update::Dead(_) => self.bury(subject, &update, source.is_none(), now),
        };
        if effect == Effect::Stale {
            return false;
        }
        self.affected.insert(subject);
        self.tell(subject, update, source);
        true
    }

    fn revive(&mut self, subject: Seat, update: &Update, now: Time) -> Effect {
        let Update::Alive(signed) = update else {
            return Effect::Stale;
        };
        let entry = self.table.get(subject);
        let standing = entry.standing();
        let ignorant = self.has(PlantedBug::GenerationIgnored);
        let rises = ignorant || update.standing() > standing;
        if rises && standing.rank == Rank::Suspect {
            let case = entry.case.as_deref();
            let accusers = case.map_or(&[][..], |case| &case.accusers);
            for accuser in accusers.iter().map(|(seat, _)| *seat).collect::<Vec<_>>() {
                self.quarrels.note(subject, accuser, now);
            }
        }
        self.change(subject, now, |entry| {
            if rises {
                entry.case = None;
            }
            entry.record = Some(signed.clone());
        });
        Effect::News
    }

    fn take_leave(&mut self, subject: Seat, update: &Update, now: Time) -> Effect {
        let Update::Left(goodbye) = update else {
            return Effect::Stale;
        };
        self.change(subject, now, |entry| {
            entry.case = Some(Box::new(Case {
                incarnation: goodbye.incarnation,
                verdict: Held::Left(goodbye.clone()),
                accusers: Vec::new(),
            }));
        });
        Effect::News
    }

    fn suspect(&mut self, subject: Seat, update: &Update, now: Time) -> Effect {
        let Some((_, accusation)) = update.accusation() else {
            return Effect::Stale;
        };
        let Some(accuser) = self.rings.seat(&accusation.accuser) else {
            return Effect::Stale;
        };
        let standing = Standing {
            incarnation: accusation.incarnation,
            rank: Rank::Suspect,
        };
        let current = self.table.get(subject).standing();
        if standing > current {
            let suspicion = Suspicion::begin(self.settings.timers(accusation.pace), now);
            self.change(subject, now, |entry| {
                entry.case = Some(Box::new(Case {
                    incarnation: accusation.incarnation,
                    verdict: Held::Suspect(suspicion),
                    accusers: vec![(accuser, update.clone())],
                }));
            });
            return Effect::News;
        }
        if standing < current || self.voices(subject).0 > CONFIRMATIONS_MAX {
            return Effect::Stale;
        }
        let mut confirmed = false;
        self.change(subject, now, |entry| {
            let accusers = entry.case.as_deref_mut().map(|case| &mut case.accusers);
            if let Some(accusers) = accusers.filter(|accusers| accusers.len() < RINGS) {
                confirmed = accusers.iter().all(|(seat, _)| *seat != accuser);
                if confirmed {
                    accusers.push((accuser, update.clone()));
                }
            }
        });
        if confirmed {
            Effect::Confirmed
        } else {
            Effect::Stale
        }
    }

    fn bury(&mut self, subject: Seat, update: &Update, own: bool, now: Time) -> Effect {
        let standing = update.standing();
        let current = self.table.get(subject).standing();
        if standing == current {
            self.close(subject, Some(update), now);
            return Effect::Confirmed;
        }
        if standing < current {
            return Effect::Stale;
        }
        if own || self.is_ripe(subject, standing.incarnation, now) {
            self.close(subject, Some(update), now);
            Effect::News
        } else {
            self.suspect(subject, update, now)
        }
    }

    /// Whether another's verdict of death may end the matter here.
    fn is_ripe(&self, subject: Seat, incarnation: Incarnation, now: Time) -> bool {
        let entry = self.table.get(subject);
        match (entry.rank(), entry.suspicion()) {
            (Rank::Unknown | Rank::Dead | Rank::Left, _) => true,
            (Rank::Suspect, Some(suspicion)) => {
                let timers = self.settings.timers(self.voices(subject).1);
                incarnation == entry.standing().incarnation
                    && now.since(suspicion.started) >= timers.suspicion_min / 2
            }
            (Rank::Alive | Rank::Suspect, _) => false,
        }
    }

    /// Holds a member dead from now on; what it was accused with stays as the evidence.
    fn close(&mut self, subject: Seat, word: Option<&Update>, now: Time) {
        let incarnation = self.table.get(subject).standing().incarnation;
        let incarnation = word.map_or(incarnation, Update::incarnation);
        let witness = word.and_then(|word| {
            let (_, accusation) = word.accusation()?;
            Some((self.rings.seat(&accusation.accuser)?, word.clone()))
        });
        self.change(subject, now, |entry| {
            let old = entry
                .case
                .take()
                .filter(|case| case.incarnation == incarnation);
            let mut accusers = old.map_or_else(Vec::new, |case| case.accusers);
            if let Some(witness) = witness {
                accusers.retain(|(seat, _)| *seat != witness.0);
                accusers.truncate(RINGS - 1);
                accusers.push(witness);
            }
            entry.case = Some(Box::new(Case {
                incarnation,
                verdict: Held::Dead,
                accusers,
            }));
        });
    }

    /// Changes an entry, and notes whom it concerns.
    pub(super) fn change(
        &mut self,
        seat: Seat,
        now: Time,
        step: impl FnOnce(&mut super::table::Entry),
    ) {
        let (before, after) = self.table.change(&self.rings, seat, now, step);
        self.touched.insert(seat);
        if before == after {
            return;
        }
        self.edges_stale |= (before == Condition::Dead) != (after == Condition::Dead);
        self.note_affected(seat);
        let members = self.rings.len();
        if before <= Condition::Alive
            && after >= Condition::Suspect
            && !self.has(PlantedBug::NoFreeze)
        {
            let window = self.settings.freeze_window;
            self.freeze.note(seat, members, window, now);
        }
        let silent = self.table.suspects.len() + self.table.fallen.len();
        self.freeze.review(silent, members);
    }
}
