//! Steps as they are carried out, and cut off.
//!
//! Decides: how long a step takes, when K3s comes up, and what an end in the middle leaves behind: some
//! first pieces of the step, in the order of the adapter.

use std::time::Duration;

use consensus_core::{ClusterId, K3sRole};
use runtimes_core::k3s::{NOT_READY, Step};

use super::{
    bug::PlantedBug,
    host::{Host, Piece, Sealed},
    kubernetes::{Rise, Start},
    mesh::name,
    world::{Busy, Event, World},
};
use crate::{node::node_id, random::Span, timeline::Happening};

/// To write a file and look again.
const SHORT: Span = Span::micros(2_000, 60_000);
/// To fetch and unpack a program.
const INSTALL: Span = Span::micros(200_000, 5_000_000);
/// To stop K3s and what it started, and to take it off.
const STOP: Span = Span::micros(100_000, 4_000_000);
/// A look at whether it is ready.
const PROBE: Duration = Duration::from_secs(1);
/// Until K3s has come up, or looks again at what is in its way.
const RISE: Span = Span::micros(800_000, 20_000_000);
/// A K3s that is not ready by then is reported (`runtimes_k3s`).
const READY_WITHIN_US: u64 = 300_000_000;

impl World {
    /// Begins a step; its pieces are on the disk when it is over.
    pub(super) fn begin_step(&mut self, node: usize, step: Step) {
        let now = self.now();
        if matches!(step, Step::Start(_) | Step::Restart(_)) {
            self.nodes[node].retries.handle_start(now);
        }
        let token = self.opened(node, &step);
        let (number, fresh) = (self.fresh(), self.fresh());
        let mut pieces = Host::pieces(&step, token, fresh);
        if self.bug == Some(PlantedBug::NothingCleaned) {
            pieces.retain(|piece| !matches!(piece, Piece::DataGone));
        }
        let span = match &step {
            Step::Install { .. } => INSTALL,
            Step::Stop | Step::Clean | Step::Restart(_) => STOP,
            Step::Probe => Span {
                min: PROBE,
                max: PROBE,
            },
            Step::Begin { .. }
            | Step::Vacate
            | Step::Return
            | Step::MakeSecrets
            | Step::RequestToken
            | Step::WriteToken(_)
            | Step::WriteSettings(_)
            | Step::Start(_) => SHORT,
        };
        self.nodes[node].busy = Some(Busy {
            number,
            step,
            pieces,
        });
        let boot = self.nodes[node].boot;
        self.after_some(span, Event::StepOver { node, boot, number });
    }

    /// The token of this node's row, as only this node can read it.
    fn opened(&mut self, node: usize, step: &Step) -> Option<Sealed> {
        let Step::WriteToken(_) = step else {
            return None;
        };
        let row = self.nodes[node].view.agreed.k3s_nodes.get(&node_id(node))?;
        let sealed = Sealed::from_bytes(&row.token.as_ref()?.age)?;
        let held = match (sealed.node, sealed.attempt) == (node, row.attempt) {
            true => Ok(()),
            false => Err(format!(
                "n{node} takes a token in stay {} that was sealed for n{} in stay {}",
                row.attempt, sealed.node, sealed.attempt
            )),
        };
        self.judge("right_token", held);
        Some(sealed)
    }

    pub(super) fn step_over(&mut self, node: usize, number: u64) {
        let due = self.nodes[node].busy.take_if(|busy| busy.number == number);
        let Some(Busy { step, pieces, .. }) = due else {
            return;
        };
        match self.outcome(node, &step) {
            Ok(()) => {
                self.note_change(node, &step);
                for piece in pieces {
                    self.put(node, piece);
                }
                if matches!(step, Step::Install { .. } | Step::MakeSecrets) {
                    self.nodes[node].forgot = false;
                }
                if matches!(step, Step::Start(_) | Step::Restart(_) | Step::Stop) {
                    self.nodes[node].probed_since_us = None;
                }
            }
            Err((code, reason)) => {
                let now = self.now();
                let retries = &mut self.nodes[node].retries;
                retries.handle_failure(code, reason.to_owned(), now);
            }
        }
        self.note(b'D', node, number);
        self.look(node);
    }

    /// Whether the step could be done.
    fn outcome(&mut self, node: usize, step: &Step) -> Result<(), (&'static str, &'static str)> {
        let twice = |what: &str| Err(format!("n{node} {what} twice"));
        match step {
            Step::Install { binary } if self.hosts[node].has(binary) => {
                self.judge("installs_once", twice("installs the same program"));
            }
            Step::MakeSecrets if self.hosts[node].secret.is_some() => {
                self.judge("installs_once", twice("makes its cluster's secrets"));
            }
            Step::Install { .. } if self.now_us < self.no_source_until_us => {
                return Err(("K3sFetchError", "the file server does not answer"));
            }
            Step::Probe if !self.kubernetes.is_ready(&self.hosts, node) => {
                let now_us = self.now_us;
                let since = &mut self.nodes[node].probed_since_us;
                let since_us = *since.get_or_insert(now_us);
                if self.hosts[node].process.is_none() {
                    return Err((NOT_READY, "K3s ended"));
                }
                if now_us > since_us + READY_WITHIN_US {
                    self.nodes[node].probed_since_us = None;
                    return Err((NOT_READY, "K3s is not ready after 300 s"));
                }
            }
            Step::Begin { .. }
            | Step::Vacate
            | Step::Return
            | Step::Install { .. }
            | Step::MakeSecrets
            | Step::RequestToken
            | Step::WriteToken(_)
            | Step::WriteSettings(_)
            | Step::Start(_)
            | Step::Restart(_)
            | Step::Probe
            | Step::Stop
            | Step::Clean => {}
        }
        Ok(())
    }

    /// Has the witness know of a K3s that is stopped now, if one is.
    fn note_change(&mut self, node: usize, step: &Step) {
        let present = self.hosts[node].process.as_ref().map(|it| &it.with);
        match step {
            Step::Restart(with) if present.is_some_and(|present| present != with) => {
                let held = self.witness.turns.stopped(self.log.agreed(), node);
                self.judge("turns", held);
            }
            Step::Stop | Step::Clean => self.witness.turns.over(node),
            Step::Restart(_)
            | Step::Begin { .. }
            | Step::Vacate
            | Step::Return
            | Step::Install { .. }
            | Step::MakeSecrets
            | Step::RequestToken
            | Step::WriteToken(_)
            | Step::WriteSettings(_)
            | Step::Start(_)
            | Step::Probe => {}
        }
    }

    fn put(&mut self, node: usize, piece: Piece) {
        let spawned = match &piece {
            // One that runs already is left alone.
            Piece::Spawned { .. } if self.hosts[node].process.is_some() => return,
            Piece::Spawned { number, .. } => Some(*number),
            Piece::Record(_)
            | Piece::Program(_)
            | Piece::Secret(_)
            | Piece::TokenTaken(_)
            | Piece::Settings(_)
            | Piece::Started { .. }
            | Piece::Ended
            | Piece::Vacated(_)
            | Piece::DataGone
            | Piece::FilesGone
            | Piece::RecordGone => None,
        };
        self.hosts[node].put(piece);
        if let Some(process) = spawned {
            self.after_some(RISE, Event::Rise { node, process });
        }
    }

    /// shoald ends in the middle of whatever it does. Whether that was something.
    pub(super) fn cut_short(&mut self, node: usize) -> bool {
        let shoald = &mut self.nodes[node];
        shoald.runs = false;
        shoald.ended_us = self.now_us;
        let Some(busy) = shoald.busy.take() else {
            return false;
        };
        let done = self.below(busy.pieces.len() + 1);
        if done > 0 {
            self.note_change(node, &busy.step);
        }
        for piece in busy.pieces.into_iter().take(done) {
            self.put(node, piece);
        }
        true
    }

    /// A K3s that was started comes up, or says why not and tries again.
    pub(super) fn rise(&mut self, node: usize, number: u64) {
        let Some(process) = &self.hosts[node].process else {
            return;
        };
        if process.number != number || process.up {
            return;
        }
        let (settings, founds) = (process.with.settings.clone(), process.with.founds);
        let Some(cluster) = self.cluster_of(&settings) else {
            return;
        };
        let fresh = self.fresh();
        let start = Start {
            me: node,
            name: &name(node),
            cluster,
            founds,
            // K3s is told so by its command; the settings of servers alone have names.
            serves: settings.contains("\"tls-san"),
            fresh,
        };
        let before = self.kubernetes.holders(&self.hosts, cluster);
        match self.kubernetes.rise(&mut self.hosts, &start) {
            Ok(rise) => {
                if let Some(process) = &mut self.hosts[node].process {
                    process.up = true;
                }
                self.witness.turns.over(node);
                self.rose(node, cluster, rise, &before);
            }
            Err(reason) => {
                self.tell_story(Happening::Process, format!("K3s of n{node}: {reason}"));
                self.after_some(
                    RISE,
                    Event::Rise {
                        node,
                        process: number,
                    },
                );
            }
        }
    }

    fn rose(&mut self, node: usize, cluster: ClusterId, rise: Rise, before: &[usize]) {
        self.note(b'R', node, fresh_detail(rise));
        self.tell_story(
            Happening::Process,
            format!("K3s of n{node} is up: {rise:?}"),
        );
        if rise == Rise::Founded {
            self.counts.founded += 1;
            let held = self
                .witness
                .foundings
                .founded(self.log.agreed(), cluster, node, before);
            self.judge("one_bootstrap", held);
        }
        if rise == Rise::Astray {
            let held = Err(format!("n{node} goes on with data of an earlier stay"));
            self.judge("leaves_first", held);
        }
    }

    /// Which cluster a K3s is in goes by its API's address.
    fn cluster_of(&self, settings: &str) -> Option<ClusterId> {
        let mut all = self.addresses.iter();
        let named = |address: &std::net::Ipv6Addr| settings.contains(&address.to_string());
        all.find(|(address, _)| named(address)).map(|(_, id)| *id)
    }

    /// Whether the agreed state wants a server of this node.
    pub(super) fn serves(&self, node: usize) -> bool {
        let row = self.log.agreed().k3s_nodes.get(&node_id(node));
        row.is_some_and(|row| row.role == K3sRole::Server)
    }
}

const fn fresh_detail(rise: Rise) -> u64 {
    match rise {
        Rise::Founded => 1,
        Rise::Joined => 2,
        Rise::Again => 3,
        Rise::Astray => 4,
    }
}
