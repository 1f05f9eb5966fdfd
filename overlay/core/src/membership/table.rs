//! What is held of every member, with the indices that keep each step's cost from growing with
//! their number.
//!
//! Decides: which of two statements about a node is the later one ([`Standing`]). A member nobody
//! complains of costs three words; what is held against one is its [`Case`].
//!
//! Invariants: standings form a total order in which only the subject itself reaches a higher
//! incarnation, so all nodes that have heard the same statements hold the same one. A case is never
//! at a lower incarnation than the record beside it. The indices agree with the entries.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use consensus_core::{NodeId, Time};

use super::{
    digest,
    message::{Goodbye, Update},
    pages::Pages,
    record::{Condition, Incarnation, SignedRecord},
    rings::{Moves, Rings, Seat},
    suspicion::Suspicion,
};

/// Removed members whose end is remembered, so that a node that is admitted again does not begin
/// with its old life. The agreed state itself remembers ten thousand removals.
const GRAVES_MAX: usize = 10_000;

/// Severity of a statement within one incarnation. The order is the protocol's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    Unknown,
    Alive,
    Suspect,
    Dead,
    Left,
}

impl Rank {
    pub(super) const fn condition(self) -> Condition {
        match self {
            Self::Unknown => Condition::Unknown,
            Self::Alive => Condition::Alive,
            Self::Suspect => Condition::Suspect,
            Self::Dead | Self::Left => Condition::Dead,
        }
    }
}

/// The later of two standings wins, everywhere (SWIM section 4.2, with rejoin).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Standing {
    pub(super) incarnation: Incarnation,
    pub(super) rank: Rank,
}

/// What is held against a member.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) incarnation: Incarnation,
    pub(super) verdict: Held,
    /// Who accused it, with their words. They stay when the suspicion has run out: they are the
    /// evidence that others are shown.
    pub(super) accusers: Vec<(Seat, Update)>,
}

/// How far a case has come.
#[derive(Debug, Clone)]
pub(super) enum Held {
    /// It may still refute.
    Suspect(Suspicion),
    /// The suspicion ran out.
    Dead,
    /// It said goodbye, in these words.
    Left(Arc<Goodbye>),
}

impl Case {
    pub(super) const fn rank(&self) -> Rank {
        match self.verdict {
            Held::Suspect(_) => Rank::Suspect,
            Held::Dead => Rank::Dead,
            Held::Left(_) => Rank::Left,
        }
    }
}

/// One member.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// None while nothing was heard of it.
    pub(super) record: Option<Arc<SignedRecord>>,
    pub(super) case: Option<Box<Case>>,
    /// When its condition last changed.
    pub(super) since: Time,
}

impl Entry {
    pub(super) const fn unheard(since: Time) -> Self {
        Self {
            record: None,
            case: None,
            since,
        }
    }

    pub(super) fn standing(&self) -> Standing {
        match (&self.case, &self.record) {
            (Some(case), _) => Standing {
                incarnation: case.incarnation,
                rank: case.rank(),
            },
            (None, Some(record)) => Standing {
                incarnation: record.incarnation(),
                rank: Rank::Alive,
            },
            (None, None) => Standing {
                incarnation: Incarnation::default(),
                rank: Rank::Unknown,
            },
        }
    }

    pub(super) fn rank(&self) -> Rank {
        match (&self.case, &self.record) {
            (Some(case), _) => case.rank(),
            (None, Some(_)) => Rank::Alive,
            (None, None) => Rank::Unknown,
        }
    }

    pub(super) fn condition(&self) -> Condition {
        self.rank().condition()
    }

    pub(super) fn suspicion(&self) -> Option<&Suspicion> {
        match self.case.as_deref() {
            Some(Case {
                verdict: Held::Suspect(suspicion),
                ..
            }) => Some(suspicion),
            Some(_) | None => None,
        }
    }

    pub(super) fn suspicion_mut(&mut self) -> Option<&mut Suspicion> {
        match self.case.as_deref_mut() {
            Some(Case {
                verdict: Held::Suspect(suspicion),
                ..
            }) => Some(suspicion),
            Some(_) | None => None,
        }
    }
}

/// All members, by seat.
#[derive(Debug, Clone)]
pub(super) struct Table {
    entries: Pages,
    /// The suspects.
    pub(super) suspects: BTreeSet<Seat>,
    /// The dead that said no goodbye: they may be back without knowing that they were missed.
    pub(super) fallen: BTreeSet<Seat>,
    dead: usize,
    /// Members that were heard of, and of which nobody complains.
    alive: usize,
    /// Those that say that they are reached through relays.
    pub(super) relayed: BTreeSet<Seat>,
    /// When suspicions run out.
    pub(super) deadlines: BTreeSet<(Time, Seat)>,
    /// The digest.
    pub(super) sums: Box<[u64; 256]>,
    /// The last standing of members that were removed, and when they were.
    graves: BTreeMap<NodeId, (Time, Incarnation)>,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            entries: Pages::default(),
            suspects: BTreeSet::new(),
            fallen: BTreeSet::new(),
            dead: 0,
            alive: 0,
            relayed: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            sums: Box::new([0; 256]),
            graves: BTreeMap::new(),
        }
    }
}

impl Table {
    /// Of members that nothing was heard of.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn of(rings: &Rings, now: Time) -> Self {
        let mut table = Self {
            entries: Pages::of(&Entry::unheard(now), rings.len()),
            ..Self::default()
        };
        table.reindex(rings);
        table
    }

    pub(super) fn get(&self, seat: Seat) -> &Entry {
        self.entries.get(seat)
    }

    pub(super) fn condition(&self, seat: Seat) -> Condition {
        self.get(seat).condition()
    }

    pub(super) fn is_dead(&self, seat: Seat) -> bool {
        matches!(&self.get(seat).case, Some(case) if case.rank() >= Rank::Dead)
    }

    /// Members that are not dead.
    pub(super) fn live(&self) -> usize {
        self.entries.len() - self.dead
    }

    /// Members of which nobody complains.
    pub(super) fn trusted(&self) -> usize {
        self.live() - self.suspects.len()
    }

    /// Whether every member is alive without a doubt: then nobody need be asked about one by one.
    pub(super) const fn is_calm(&self) -> bool {
        self.alive == self.entries.len()
    }

    /// The incarnation that a readmitted member has to surpass.
    pub(super) fn grave(&self, node: &NodeId) -> Option<Incarnation> {
        self.graves.get(node).map(|(_, incarnation)| *incarnation)
    }

    /// Changes an entry; indices, digest and `since` follow. Gives back the condition before and
    /// after.
    pub(super) fn change(
        &mut self,
        rings: &Rings,
        seat: Seat,
        now: Time,
        step: impl FnOnce(&mut Entry),
    ) -> (Condition, Condition) {
        let mark = rings.mark(seat);
        let sum = &mut self.sums[usize::from(rings.bucket(seat))];
        let entry = self.entries.get_mut(seat);
        let before = entry.rank();
        *sum ^= digest::hash(mark, entry);
        if let Some(suspicion) = entry.suspicion() {
            self.deadlines.remove(&(suspicion.deadline, seat));
        }
        step(entry);
        *sum ^= digest::hash(mark, entry);
        if let Some(suspicion) = entry.suspicion() {
            self.deadlines.insert((suspicion.deadline, seat));
        }
        let after = entry.rank();
        if has_relays(entry) {
            self.relayed.insert(seat);
        } else {
            self.relayed.remove(&seat);
        }
        let conditions = (before.condition(), after.condition());
        if conditions.0 != conditions.1 {
            entry.since = now;
        }
        if before != after {
            self.index(seat, before, after);
        }
        conditions
    }

    fn index(&mut self, seat: Seat, before: Rank, after: Rank) {
        self.dead += usize::from(after >= Rank::Dead);
        self.dead -= usize::from(before >= Rank::Dead);
        self.alive += usize::from(after == Rank::Alive);
        self.alive -= usize::from(before == Rank::Alive);
        for (rank, index) in [
            (Rank::Suspect, &mut self.suspects),
            (Rank::Dead, &mut self.fallen),
        ] {
            if after == rank {
                index.insert(seat);
            } else if before == rank {
                index.remove(&seat);
            }
        }
    }

    /// Moves a suspicion's end. The digest does not know of it.
    pub(super) fn reschedule(&mut self, seat: Seat, step: impl FnOnce(&mut Suspicion)) {
        if let Some(suspicion) = self.entries.get_mut(seat).suspicion_mut() {
            self.deadlines.remove(&(suspicion.deadline, seat));
            step(suspicion);
            self.deadlines.insert((suspicion.deadline, seat));
        }
    }

    /// Gives every member of the new set its entry, and buries who is in it no more.
    pub(super) fn resettle(&mut self, old: &Rings, new: &Rings, moves: &Moves, now: Time) {
        let mut entries = Pages::of(&Entry::unheard(now), new.len());
        let mut before = std::mem::take(&mut self.entries);
        for seat in old.seats() {
            let mut entry = std::mem::replace(before.get_mut(seat), Entry::unheard(now));
            if let Some(case) = &mut entry.case {
                case.accusers.retain_mut(|(accuser, _)| {
                    let moved = moves.of(*accuser);
                    *accuser = moved.unwrap_or(*accuser);
                    moved.is_some()
                });
            }
            match moves.of(seat) {
                Some(seat) => *entries.get_mut(seat) = entry,
                None => self.bury(old.node(seat), &entry, now),
            }
        }
        self.entries = entries;
        self.reindex(new);
    }

    fn bury(&mut self, node: &NodeId, entry: &Entry, now: Time) {
        let standing = entry.standing();
        if standing.rank == Rank::Unknown {
            return;
        }
        self.graves
            .insert(node.clone(), (now, standing.incarnation));
        if self.graves.len() > GRAVES_MAX {
            let oldest = self.graves.iter().min_by_key(|(_, (at, _))| *at);
            if let Some(oldest) = oldest.map(|(node, _)| node.clone()) {
                self.graves.remove(&oldest);
            }
        }
    }

    fn reindex(&mut self, rings: &Rings) {
        self.suspects.clear();
        self.fallen.clear();
        self.deadlines.clear();
        self.relayed.clear();
        (self.dead, self.alive) = (0, 0);
        *self.sums = [0; 256];
        for seat in rings.seats() {
            let entry = self.entries.get(seat);
            self.sums[usize::from(rings.bucket(seat))] ^= digest::hash(rings.mark(seat), entry);
            if let Some(suspicion) = entry.suspicion() {
                self.deadlines.insert((suspicion.deadline, seat));
            }
            if has_relays(entry) {
                self.relayed.insert(seat);
            }
            let rank = entry.rank();
            self.index(seat, Rank::Unknown, rank);
        }
    }
}

fn has_relays(entry: &Entry) -> bool {
    let record = entry.record.as_ref();
    record.is_some_and(|record| !record.relays.is_empty())
}
