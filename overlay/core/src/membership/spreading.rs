//! How news travels.
//!
//! Decides: to whom a fact is pushed. What an input brought is pushed to every connected neighbour
//! at once, and rides on later messages. In a large mesh that would be twenty copies of each fact
//! per member, so there edges that brought only what was known turn lazy: over them facts are
//! named, a little later, and whoever lacks one asks for it and turns the edge eager again. The
//! eager edges so become a tree of the fastest paths. Some always stay eager, since many members
//! speak at once and one tree per speaker would prune the others'.
//!
//! Bounded: `RECENT_MAX` facts are kept for those who ask, `MISSING_MAX` are waited for.
//!
//! Leitão, Pereira, Rodrigues: Epidemic Broadcast Trees (Plumtree, SRDS 2007). Lifeguard's buddy:
//! Dadgar, Phillips, Currey (arXiv:1707.00788), section IV-C.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use consensus_core::Time;

use super::{
    Membership,
    contacts::Contact,
    message::{FACTS_MAX, FactId, Message, UPDATES_MAX, Update, Verdict},
    planted::PlantedBug,
    repair::REPAIR_GAP,
    rings::{Moves, Seat},
    table::Rank,
};

/// Facts that ride on one probe message.
const PIGGYBACK_MAX: usize = 8;
/// Facts kept for those who ask for them: some seconds of a mesh in which a thousand fall.
const RECENT_MAX: usize = 4096;
/// Facts that were named and did not come yet.
const MISSING_MAX: usize = 1024;
/// Facts are named so long after they were pushed: usually the tree was faster, and several names
/// share a message.
const NAME_AFTER: Duration = Duration::from_millis(100);
/// A fact that was named is asked for after this long: a tree's depth at LAN delays, and the time
/// until others name it too.
const GRAFT_AFTER: Duration = Duration::from_millis(200);
/// Edges of a node that stay eager whatever they bring.
const EAGER_MIN: usize = 4;

/// News on its way to the neighbours, except to where it came from.
#[derive(Debug)]
pub(super) struct News {
    pub(super) update: Update,
    pub(super) source: Option<Seat>,
}

/// What a large mesh needs to know of recent facts.
#[derive(Debug, Default)]
pub(super) struct Spread {
    recent: BTreeMap<FactId, Update>,
    order: VecDeque<FactId>,
    /// Who named it, and when it is asked for.
    missing: BTreeMap<FactId, (Seat, Time)>,
    /// To be named over lazy edges.
    names: Vec<FactId>,
    names_at: Option<Time>,
    /// The earliest time in `missing`, or before.
    graft_at: Option<Time>,
}

impl Spread {
    pub(super) fn next(&self) -> Option<Time> {
        self.names_at.into_iter().chain(self.graft_at).min()
    }

    pub(super) fn len(&self) -> usize {
        self.recent.len() + self.missing.len() + self.names.len()
    }

    /// The most that [`Self::len`] can be.
    pub(super) const LIMIT: usize = RECENT_MAX + MISSING_MAX + RECENT_MAX;

    /// True when the fact was not known.
    fn remember(&mut self, id: FactId, update: &Update) -> bool {
        self.missing.remove(&id);
        if self.recent.contains_key(&id) {
            return false;
        }
        self.recent.insert(id, update.clone());
        self.order.push_back(id);
        if self.order.len() > RECENT_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.recent.remove(&oldest);
        }
        true
    }

    pub(super) fn resettle(&mut self, moves: &Moves) {
        let missing = std::mem::take(&mut self.missing).into_iter();
        self.missing = missing
            .filter_map(|(id, (seat, at))| Some((id, (moves.of(seat)?, at))))
            .collect();
    }
}

impl Membership {
    /// Queues a fact for the push at the end of this input, and for later rides.
    pub(super) fn tell(&mut self, subject: Seat, update: Update, source: Option<Seat>) {
        self.piggyback.push(subject, update.clone());
        self.news.push(News { update, source });
    }

    fn is_large(&self) -> bool {
        self.rings.len() > self.settings.lazy_above
    }

    /// Pushes what this input brought to the connected neighbours.
    pub(super) fn push_news(&mut self, now: Time) {
        if self.news.is_empty() {
            return;
        }
        let news = std::mem::take(&mut self.news);
        let large = self.is_large() && !self.left;
        if large {
            for News { update, .. } in &news {
                let id = update.id();
                self.spread.remember(id, update);
                if self.spread.names.len() < RECENT_MAX {
                    self.spread.names.push(id);
                }
            }
            self.spread.names_at.get_or_insert(now + NAME_AFTER);
        }
        for to in &self.neighbours {
            let contact = self.contacts.get(*to);
            if !contact.is_some_and(|contact| contact.connected && !(large && contact.lazy)) {
                continue;
            }
            let fresh = news.iter().filter(|news| news.source != Some(*to));
            let updates: Vec<_> = fresh.map(|news| news.update.clone()).collect();
            for batch in updates.chunks(UPDATES_MAX) {
                let updates = batch.to_vec();
                self.outbox.send(*to, Message::Gossip { updates });
            }
        }
    }

    pub(super) fn handle_gossip(&mut self, from: Seat, updates: Vec<Update>, now: Time) {
        if self.is_large() {
            let mut new = updates.is_empty();
            for update in updates.iter().take(UPDATES_MAX) {
                let id = update.id();
                new |= !self.spread.recent.contains_key(&id);
                self.spread.missing.remove(&id);
            }
            if new {
                self.contacts.of(from).lazy = false;
            } else if self.make_lazy(from) {
                self.outbox.send(from, Message::Prune);
            }
        }
        self.learn_all(from, updates, now);
    }

    /// Turns an edge lazy unless too few would stay eager. True when it was eager.
    fn make_lazy(&mut self, peer: Seat) -> bool {
        let eager = |seat: &&Seat| {
            let contact = self.contacts.get(**seat);
            contact.is_some_and(|contact| contact.connected && !contact.lazy)
        };
        let spare = self.neighbours.iter().filter(eager).count() > EAGER_MIN;
        let contact = self.contacts.of(peer);
        let turned = spare && !contact.lazy;
        contact.lazy |= turned;
        turned
    }

    pub(super) fn handle_prune(&mut self, from: Seat) {
        self.make_lazy(from);
    }

    pub(super) fn handle_have(&mut self, from: Seat, facts: &[FactId], now: Time) {
        if !self.is_large()
            || self
                .contacts
                .get(from)
                .is_some_and(|from| from.is_muted(now))
        {
            return;
        }
        for id in facts.iter().take(FACTS_MAX) {
            let known = self.spread.recent.contains_key(id);
            if !known && self.spread.missing.len() < MISSING_MAX {
                let due = now + GRAFT_AFTER;
                self.spread.missing.entry(*id).or_insert((from, due));
                self.spread.graft_at.get_or_insert(due);
            }
        }
    }

    pub(super) fn handle_graft(&mut self, from: Seat, facts: &[FactId], now: Time) {
        let contact = self.contacts.of(from);
        contact.lazy = false;
        if !Contact::allow(&mut contact.limits.repaired, REPAIR_GAP, now) {
            return;
        }
        let known = facts
            .iter()
            .take(FACTS_MAX)
            .filter_map(|id| self.spread.recent.get(id));
        let known: Vec<_> = known.cloned().collect();
        for batch in known.chunks(UPDATES_MAX) {
            let updates = batch.to_vec();
            self.outbox.send(from, Message::Gossip { updates });
        }
    }

    /// Names what was pushed lately, and asks for what was named and did not come.
    pub(super) fn advance_spread(&mut self, now: Time) {
        if self.spread.names_at.is_some_and(|at| at <= now) {
            self.spread.names_at = None;
            let names = std::mem::take(&mut self.spread.names);
            for to in &self.neighbours {
                let contact = self.contacts.get(*to);
                if contact.is_some_and(|contact| contact.connected && contact.lazy) {
                    for facts in names.chunks(FACTS_MAX) {
                        let facts = facts.to_vec();
                        self.outbox.send(*to, Message::Have { facts });
                    }
                }
            }
        }
        if self.spread.graft_at.is_some_and(|at| at <= now) {
            self.graft(now);
        }
    }

    fn graft(&mut self, now: Time) {
        let mut wanted = BTreeMap::<Seat, Vec<FactId>>::new();
        self.spread.missing.retain(|id, (named_by, at)| {
            if *at <= now {
                wanted.entry(*named_by).or_default().push(*id);
            }
            *at > now
        });
        self.spread.graft_at = self.spread.missing.values().map(|(_, at)| *at).min();
        for (to, facts) in wanted {
            self.contacts.of(to).lazy = false;
            for facts in facts.chunks(FACTS_MAX) {
                let facts = facts.to_vec();
                self.outbox.send(to, Message::Graft { facts });
            }
        }
    }

    /// Facts to ride on a message: first what is held against the receiver (Lifeguard's buddy).
    pub(super) fn riders(&mut self, to: Seat) -> Vec<Update> {
        let rides = self.piggyback.take(PIGGYBACK_MAX, self.rings.len());
        match self.charge(to) {
            Some(charge) => [vec![charge], rides].concat(),
            None => rides,
        }
    }

    /// What is held against a member, retold so that it may refute. With no accuser left to quote
    /// it is this node's own word, which the subject answers whoever observes it.
    pub(super) fn charge(&self, seat: Seat) -> Option<Update> {
        if self.table.is_calm() {
            return None;
        }
        let case = self.table.get(seat).case.as_deref()?;
        let verdict = match case.rank() {
            Rank::Unknown | Rank::Alive | Rank::Left => return None,
            Rank::Suspect => Verdict::Suspect,
            Rank::Dead => Verdict::Dead,
        };
        if self.has(PlantedBug::NoBuddy) {
            return None;
        }
        let quoted = case.accusers.last().map(|(_, update)| update.clone());
        Some(quoted.unwrap_or_else(|| self.own_word(seat, verdict)))
    }
}
