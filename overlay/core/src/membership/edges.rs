//! Which connections to hold.
//!
//! Decides: the probe targets and the neighbours, from the rings, the dead and a few random picks.
//! Never: opens a connection.

use std::collections::BTreeSet;

use consensus_core::Time;
use rand::Rng;

use super::{
    Membership,
    message::Verdict,
    rings::{ALL_WATCH_MAX, FULL_MESH_MAX, RINGS, Seat, Way},
    table::Rank,
};

/// Blind picks before a random member is given up: where one of eight lives, a miss in a million.
const PICKS_MAX: usize = 100;

impl Membership {
    pub(super) fn draw_random_edges(&mut self) {
        self.random_edges.clear();
        for _ in 0..self.settings.random_edges {
            let pick = self.pick_member();
            self.random_edges.extend(pick);
        }
        self.edges_stale = true;
    }

    /// Any other member that is not dead; none when too few live to be found by chance.
    pub(super) fn pick_member(&mut self) -> Option<Seat> {
        let count = self.rings.len();
        (0..PICKS_MAX).filter(|_| count > 0).find_map(|_| {
            let seat = Seat::at(self.rng.random_range(0..count));
            (Some(seat) != self.own_seat && !self.table.is_dead(seat)).then_some(seat)
        })
    }

    /// Whether so few are left that everybody watches everybody.
    pub(super) fn everybody_watches(&self) -> bool {
        self.table.trusted() <= ALL_WATCH_MAX
    }

    /// Whom a member probes, or who probes it, given who lives.
    pub(super) fn adjacent(&self, seat: Seat, way: Way) -> BTreeSet<Seat> {
        let live = |other: Seat| !self.table.is_dead(other);
        if self.table.live() <= ALL_WATCH_MAX {
            return self
                .rings
                .seats()
                .filter(|other| live(*other) && *other != seat)
                .collect();
        }
        self.rings.nearest(seat, way, live).into_iter().collect()
    }

    pub(super) fn draw_edges(&mut self, now: Time) {
        let Some(own) = self.own_seat else {
            self.targets.clear();
            self.connect(BTreeSet::new());
            return;
        };
        self.targets = self.adjacent(own, Way::Forward);
        let neighbours = if self.rings.len() <= FULL_MESH_MAX {
            self.rings.seats().filter(|seat| *seat != own).collect()
        } else {
            // The edges as if nobody were dead stay, so that a healed cut is found by dialling.
            let mut neighbours = self.adjacent(own, Way::Backward);
            neighbours.extend(self.rings.nearest(own, Way::Forward, |_| true));
            neighbours.extend(self.rings.nearest(own, Way::Backward, |_| true));
            neighbours.extend(&self.targets);
            let random = self
                .random_edges
                .iter()
                .filter(|seat| !self.table.is_dead(**seat));
            neighbours.extend(random);
            neighbours
        };
        self.connect(neighbours);
        self.testify(own, now);
    }

    fn connect(&mut self, mut neighbours: BTreeSet<Seat>) {
        if let Some(own) = self.own_seat {
            neighbours.remove(&own);
        }
        if neighbours != self.neighbours {
            self.neighbours.clone_from(&neighbours);
            self.outbox.neighbours(neighbours);
        }
    }

    /// Signs the deaths of which no observer of today has: those that did have died themselves, or
    /// watch others since the rings were drawn anew. Who missed a death can so be shown it.
    fn testify(&mut self, own: Seat, now: Time) {
        if self.table.fallen.is_empty() || self.table.live() < 2 {
            return;
        }
        let mut fallen = BTreeSet::new();
        for ring in 0..RINGS {
            let walk = self.rings.walk(own, ring, Way::Forward);
            fallen.extend(walk.take_while(|seat| self.table.is_dead(*seat)));
        }
        for seat in fallen {
            let rank = self.table.get(seat).rank();
            if rank == Rank::Dead && !self.has_evidence(seat) {
                let word = self.own_word(seat, Verdict::Dead);
                self.learn(seat, word, None, now);
            }
        }
    }
}
