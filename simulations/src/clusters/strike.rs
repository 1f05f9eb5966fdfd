//! What breaks.
//!
//! Decides: which strike comes, whom it hits, and for how long it is gone. Of two in three the node is
//! one that is in the middle of something, if there is one.

use std::time::Duration;

use consensus_core::K3sNode;

use super::{
    host::Host,
    world::{Event, World},
};
use crate::{node::node_id, random::Span, timeline::Happening};

/// Until shoald is started again.
const RESTART: Span = Span::micros(100_000, 8_000_000);
/// Until a machine is up again.
const BOOT: Span = Span::micros(5_000_000, 60_000_000);
/// How long nothing can be installed.
const NO_SOURCE: Duration = Duration::from_secs(20);

/// How long a K3s that is up does not answer: an election, a busy disk.
const SILENCE: Span = Span::micros(500_000, 12_000_000);

/// One kind of strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Shoald,
    K3s,
    Power,
    Disk,
    Source,
    Silence,
}

impl World {
    pub(super) fn strike(&mut self) {
        if self.is_calm {
            return;
        }
        let every = self.scenario.strikes_every;
        self.after_some(every, Event::Strike);
        let Some(what) = self.drawn() else { return };
        let Some(node) = self.victim() else { return };
        self.counts.strikes += 1;
        self.note(b'X', node, what as u64);
        self.tell_story(Happening::Fault, format!("{what:?} of n{node}"));
        match what {
            What::Shoald => self.kill(node, RESTART),
            What::K3s => {
                self.note_phase(node);
                self.hosts[node].process = None;
            }
            What::Power => {
                self.kill(node, BOOT);
                self.hosts[node].process = None;
            }
            What::Disk => {
                self.kill(node, BOOT);
                // shoal's own disk may be another one than K3s's. Between the first moment of a K3s and
                // its first word nobody could tell that from a first start: not then.
                let row = self.log.agreed().k3s_nodes.get(&node_id(node));
                let settled = row.is_some_and(K3sNode::has_been_ready);
                if settled && self.below(3) == 0 {
                    self.hosts[node].process = None;
                    self.hosts[node].data = None;
                } else {
                    self.hosts[node] = Host::default();
                }
            }
            What::Source => self.no_source_until_us = self.now_us + micros(NO_SOURCE),
            What::Silence => {
                for node in 0..self.nodes.len() {
                    if self.below(2) == 0 {
                        let moment = micros(SILENCE.draw(&mut self.rng));
                        self.silent_until_us[node] = self.now_us + moment;
                    }
                }
            }
        }
    }

    fn drawn(&mut self) -> Option<What> {
        let strikes = self.scenario.strikes;
        let all = [
            (What::Shoald, strikes.shoald),
            (What::K3s, strikes.k3s),
            (What::Power, strikes.power),
            (What::Disk, strikes.disk),
            (What::Source, strikes.source),
            (What::Silence, strikes.silence),
        ];
        let sum: u32 = all.iter().map(|(_, weight)| weight).sum();
        if sum == 0 {
            return None;
        }
        let mut drawn = u32::try_from(self.below(sum as usize)).unwrap_or(0);
        for (what, weight) in all {
            if drawn < weight {
                return Some(what);
            }
            drawn -= weight;
        }
        None
    }

    /// Somebody whose daemon runs.
    fn victim(&mut self) -> Option<usize> {
        let runs = |node: &usize| self.nodes[*node].runs;
        let running: Vec<usize> = (0..self.nodes.len()).filter(runs).collect();
        let busy = |node: &usize| {
            let shoald = &self.nodes[*node];
            shoald.busy.is_some() || shoald.chore.is_some() || shoald.report.is_some()
        };
        let busy: Vec<usize> = running.iter().copied().filter(busy).collect();
        let among = match !busy.is_empty() && self.below(3) > 0 {
            true => busy,
            false => running,
        };
        let place = self.below(among.len());
        among.get(place).copied()
    }

    /// Counts a strike that ends something, by how far its node is.
    fn note_phase(&mut self, node: usize) {
        let row = self.log.agreed().k3s_nodes.get(&node_id(node));
        if let Some(row) = row {
            self.counts.struck.count(&row.phase);
        }
    }

    fn kill(&mut self, node: usize, back_after: Span) {
        self.note_phase(node);
        let mid_step = self.cut_short(node);
        self.counts.mid_step += u64::from(mid_step);
        self.after_some(back_after, Event::Start { node });
    }
}

fn micros(span: Duration) -> u64 {
    crate::random::as_micros(span)
}
