//! Which connections to hold.
//!
//! Decides: the probe targets and the neighbours, from the rings, the dead and a few random picks.
//! Never: opens a connection.

use std::collections::BTreeSet;

use consensus_core::{NodeId, Time};
use rand::seq::IteratorRandom;

use super::{Membership, rings::FULL_MESH_MAX};

impl Membership {
    pub(super) fn draw_random_edges(&mut self, now: Time) {
        let others = self
            .live
            .iter()
            .filter(|node| **node != self.local)
            .cloned();
        let count = self.settings.random_edges;
        self.random_edges = others
            .choose_multiple(&mut self.rng, count)
            .into_iter()
            .collect();
        self.edges_stale = true;
        self.settle(now);
    }

    pub(super) fn draw_edges(&mut self) {
        if !self.roster.contains(&self.local) {
            self.targets = BTreeSet::new();
            self.connect(BTreeSet::new());
            return;
        }
        self.targets = self.rings.successors(&self.local, &self.live);
        let neighbours = if self.roster.len() <= FULL_MESH_MAX {
            self.roster.clone()
        } else {
            // The edges as if nobody were dead stay, so that a healed cut is found by dialling.
            let mut neighbours = self.rings.successors(&self.local, &self.roster);
            neighbours.extend(self.rings.predecessors(&self.local, &self.roster));
            neighbours.extend(self.rings.predecessors(&self.local, &self.live));
            neighbours.extend(self.targets.iter().cloned());
            neighbours.extend(self.random_edges.intersection(&self.live).cloned());
            neighbours
        };
        self.connect(neighbours);
    }

    fn connect(&mut self, mut neighbours: BTreeSet<NodeId>) {
        neighbours.remove(&self.local);
        if neighbours != self.neighbours {
            self.neighbours = neighbours.clone();
            self.outbox.neighbours(neighbours);
        }
    }
}
