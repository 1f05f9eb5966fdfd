//! The membership in a simulated daemon, and the connections that it rides on.
//!
//! Decides, as a shell of the membership does: who is connected. A process that ends closes its
//! connections; a host without power says nothing, and after ten seconds of silence a connection counts
//! as gone. Never judges who is alive: the membership's core does.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use consensus_core::{Agreed, NodeId, Time};
use overlay_core::membership::{
    Condition, Membership, Message, Output, Record, Settings, SimulatedKeys,
};

use super::mail::Letter;
use crate::{agreement::world::World, node::node_id};

/// QUIC's idle timeout, as shoald sets it.
const IDLE: Duration = Duration::from_secs(10);
/// Between two looks at the connections: lost ones are dialled again, idle ones kept alive.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Of all meshes here; the order of the rings is of no account among so few.
const SALT: u64 = 1;

/// The membership of one process.
pub(crate) struct Members {
    world: World,
    server: usize,
    core: Membership,
    /// By server: when it was last heard, if a connection is up.
    heard: Vec<Option<Time>>,
    look_at: Time,
}

impl Members {
    /// A process that starts in its host's `generation`th life and dials everybody.
    pub(crate) fn start(
        world: &World,
        server: usize,
        agreed: &Agreed,
        seed: u64,
        now: Time,
    ) -> Self {
        let (servers, generation) = {
            let mut state = world.lock();
            let host = &mut state.servers.at(server).host;
            host.generation += 1;
            let generation = host.generation;
            (state.servers.len(), generation)
        };
        let me = node_id(server);
        let record = Record {
            node: me.clone(),
            generation,
            version: 0,
            addresses: Vec::new(),
            wireguard: Vec::new(),
            relays: Vec::new(),
            unreachable: Vec::new(),
            forwards: false,
        };
        let keys = Arc::new(SimulatedKeys(me));
        let mut core = Membership::new(record, keys, Settings::lan(), seed, now);
        let roster: BTreeSet<NodeId> = agreed.nodes.keys().cloned().collect();
        core.handle_roster(roster, SALT, now);
        let mut members = Self {
            world: world.clone(),
            server,
            core,
            heard: vec![None; servers],
            look_at: now,
        };
        members.fire(now);
        members
    }

    /// A letter from another host.
    pub(crate) fn receive(&mut self, from: usize, letter: Letter, now: Time) {
        let node = node_id(from);
        match letter {
            Letter::Gossip(message) => {
                self.hear(from, now);
                self.core.handle_message(&node, message, now);
            }
            Letter::Dial => {
                // Of an earlier life, if there is one.
                self.lose(from, now);
                self.heard[from] = Some(now);
                self.core.handle_connected(&node, now);
                self.world.post(self.server, from, Letter::Accepted);
            }
            Letter::Accepted => {
                if self.heard[from].replace(now).is_none() {
                    self.core.handle_connected(&node, now);
                }
            }
            Letter::Closed => self.lose(from, now),
            Letter::KeepAlive | Letter::Lease(_) => self.hear(from, now),
        }
    }

    /// Whom it is connected to was heard just now.
    fn hear(&mut self, from: usize, now: Time) {
        if let Some(heard) = &mut self.heard[from] {
            *heard = now;
        }
    }

    fn lose(&mut self, peer: usize, now: Time) {
        if self.heard[peer].take().is_some() {
            self.core.handle_disconnected(&node_id(peer), now);
        }
    }

    /// Time has passed.
    pub(crate) fn fire(&mut self, now: Time) {
        if self.core.poll_timeout().is_some_and(|due| due <= now) {
            self.core.handle_timeout(now);
        }
        if now < self.look_at {
            return;
        }
        self.look_at = now + LOOK_AGAIN;
        let own = self.server;
        for peer in (0..self.heard.len()).filter(|peer| *peer != own) {
            if self.heard[peer].is_some_and(|heard| now.since(heard) > IDLE) {
                self.lose(peer, now);
            }
            let letter = match self.heard[peer] {
                Some(_) => Letter::KeepAlive,
                None => Letter::Dial,
            };
            self.world.post(own, peer, letter);
        }
    }

    /// When time is to be told of.
    pub(crate) fn due(&self) -> Time {
        let core = self.core.poll_timeout();
        core.map_or(self.look_at, |due| due.min(self.look_at))
    }

    /// Sends what the core wants sent; gives whether somebody's condition changed.
    pub(crate) fn carry_out(&mut self) -> bool {
        let mut changed = false;
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Send { to, message } => self.send(&to, message),
                // Everybody is connected to everybody among so few.
                Output::Neighbours(_) => {}
                Output::Changed { .. } => changed = true,
            }
        }
        changed
    }

    fn send(&self, to: &NodeId, message: Message) {
        let to = self.world.lock().servers.of_node(to);
        if let Some(to) = to {
            self.world.post(self.server, to, Letter::Gossip(message));
        }
    }

    /// Those members that this process hears, itself included.
    pub(crate) fn alive(&self, agreed: &Agreed) -> BTreeSet<NodeId> {
        let alive = |id: &&NodeId| {
            let member = self.core.member(id);
            **id == node_id(self.server)
                || member.is_some_and(|member| member.condition == Condition::Alive)
        };
        agreed.nodes.keys().filter(alive).cloned().collect()
    }
}
