//! This node's places at relays, and whether it needs any.
//!
//! Decides in which order relays are preferred: by a hash of both ends, so that nodes spread over
//! them without talking about it (rendezvous hashing; Thaler, Ravishankar, 1998). What to do at
//! them is `Reservations`' decision, whether a place is needed is `Reach`'s or the operator's.

use std::net::SocketAddr;

use libp2p::{Multiaddr, PeerId, core::transport::ListenerId, relay};
use rand::seq::IteratorRandom as _;
use tokio::{sync::oneshot, time::Instant};

use super::{NoStream, Order, Peering, reservations::Step};
use crate::{
    address::{circuit, multiaddr},
    channel::Lane,
    key::{node_id_of, peer_id_of},
    peering::Transport,
    reach::{self, Answer},
    ways::Reachability,
};

/// Addresses dialled at once when nobody is connected and members are only known to be somewhere.
const SEEDS_AT_ONCE: usize = 4;

impl Peering {
    /// Takes over what the daemon says of relays and seeds.
    pub(super) fn take_ways(&mut self) {
        let ways = self.wiring.ways.borrow_and_update().clone();
        let status = if ways.relaying {
            relay::Status::Enable
        } else {
            relay::Status::Disable
        };
        self.swarm.behaviour_mut().relay.0.set_status(Some(status));
        let mut relays: Vec<PeerId> = ways.relays.iter().filter_map(peer_id_of).collect();
        relays.retain(|relay| *relay != self.wiring.local);
        let local = self.wiring.local;
        relays.sort_by_key(|relay| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&local.to_bytes());
            hasher.update(&relay.to_bytes());
            *hasher.finalize().as_bytes()
        });
        self.relays = relays;
        self.ways = ways;
        self.supervise();
    }

    /// Whether places at relays are needed.
    fn needs_relays(&self) -> bool {
        self.reachable() == Some(false)
    }

    fn reachable(&self) -> Option<bool> {
        self.ways.reachable.or_else(|| self.reach.reachable())
    }

    /// Asks whether this node can be dialled, and keeps the places that it needs.
    pub(super) fn supervise(&mut self) {
        let now = Instant::now();
        if self.ways.reachable.is_none() {
            for relay in self.reach.round(&self.relays, now) {
                self.ask_reach(relay);
            }
        }
        let candidates = if self.needs_relays() {
            self.relays.clone()
        } else {
            Vec::new()
        };
        // Twice: a relay that is connected already is asked in the step after its approach.
        for _ in 0..2 {
            let peers = &self.peers;
            let connected = |relay: &PeerId| {
                (peers.get(relay)).is_some_and(|peer| peer.is_connected_directly())
            };
            for step in self.reservations.steps(&candidates, connected, now) {
                self.take_step(step);
            }
        }
        self.publish_relays();
    }

    fn take_step(&mut self, step: Step) {
        match step {
            Step::Approach(relay) => {
                let peer = self.peers.entry(relay).or_default();
                peer.reserved = true;
                if peer.needs_connection() {
                    peer.plan.demand(Instant::now());
                }
                self.settle(relay);
            }
            Step::Ask(relay) => {
                let near = self.first_hops(relay).into_iter().next();
                let Some(near) = near else { return };
                let near = circuit(near, relay, None);
                match self.swarm.listen_on(near) {
                    Ok(listener) => self.reservations.asked(relay, listener),
                    Err(error) => tracing::debug!(peer = %relay, %error, "no place was asked for"),
                }
            }
            Step::Release(relay, listener) => {
                if let Some(listener) = listener {
                    self.swarm.remove_listener(listener);
                }
                if let Some(peer) = self.peers.get_mut(&relay) {
                    peer.reserved = false;
                }
                self.settle(relay);
            }
        }
    }

    pub(super) fn on_place_granted(&mut self, relay: PeerId, renewed: bool) {
        if !renewed {
            tracing::info!(peer = %relay, "a relay keeps a place for this node");
        }
        self.reservations.granted(relay, Instant::now());
        self.publish_relays();
    }

    pub(super) fn on_place_closed(&mut self, listener: ListenerId) {
        if let Some(step) = self.reservations.closed(listener, Instant::now()) {
            tracing::info!(?step, "a place at a relay is lost");
            self.take_step(step);
            self.supervise();
        }
    }

    fn publish_relays(&self) {
        let held: Vec<_> = self.reservations.held().filter_map(node_id_of).collect();
        let differs = *self.wiring.relays.borrow() != held;
        if differs {
            self.wiring.relays.send_replace(held);
        }
        let own = |at: &SocketAddr| self.listening.iter().any(|own| own.ip() == at.ip());
        let now = Reachability {
            dialable: self.reachable(),
            address_differs: !self.reach.observed().iter().all(own),
        };
        self.wiring.reachability.send_if_modified(|known| {
            let differs = *known != now;
            *known = now;
            differs
        });
    }

    /// Asks a relay to dial this node back, on a connection that is made if need be.
    fn ask_reach(&mut self, relay: PeerId) {
        let ports: Vec<u16> = (self.wiring.listeners.borrow().iter())
            .map(SocketAddr::port)
            .collect::<std::collections::BTreeSet<u16>>()
            .into_iter()
            .collect();
        let (reply, opened) = oneshot::channel::<Result<_, NoStream>>();
        self.open(relay, Lane::Reach, reply);
        let order = self.wiring.order.clone();
        tokio::spawn(async move {
            let Ok(Ok(stream)) = opened.await else { return };
            let answer = reach::ask(stream, ports).await;
            if let (Some(answer), Some(order)) = (answer, order.upgrade()) {
                let _ = order.send(Order::Reached(relay, answer)).await;
            }
        });
    }

    pub(super) fn on_reached(&mut self, relay: PeerId, answer: Answer) {
        let before = self.reach.reachable();
        let known = self.reach.observed();
        self.reach.learn(relay, answer, Instant::now());
        let after = self.reach.reachable();
        if before != after {
            tracing::info!(reachable = after, observed = ?self.reach.observed(), "relays have tried to dial this node");
        }
        for observed in self.reach.observed() {
            let candidate = multiaddr(observed, Transport::Quic);
            self.swarm.behaviour_mut().streams.observed(candidate);
        }
        if self.reach.observed() != known {
            self.reopen_circuits();
        }
        self.publish_listeners();
        self.supervise();
    }

    /// Has circuits opened anew: holes are punched when a circuit is opened, towards the addresses
    /// that are known then.
    fn reopen_circuits(&mut self) {
        let relayed = (self.peers.values()).filter(|peer| !peer.is_connected_directly());
        let links: Vec<_> = relayed
            .flat_map(|peer| peer.links.iter().map(|link| link.connection))
            .collect();
        for connection in links {
            self.swarm.close_connection(connection);
        }
    }

    /// Where this node can be reached: its interfaces, and where relays have reached it.
    pub(super) fn publish_listeners(&self) {
        let mut all = self.listening.clone();
        if self.reach.reachable() == Some(true) {
            all.extend(self.reach.reached());
        }
        self.wiring.listeners.send_if_modified(|listeners| {
            let differs = *listeners != all;
            *listeners = all;
            differs
        });
    }

    pub(super) fn on_listener(&mut self, address: &Multiaddr, added: bool) {
        // TCP listens beside each QUIC address, on the same port.
        let Some((at, Transport::Quic)) = crate::address::socket_address(address) else {
            return;
        };
        if added {
            self.listening.insert(at);
            // A relay tells those it keeps a place for where it is.
            self.swarm.add_external_address(address.clone());
        } else {
            self.listening.remove(&at);
            self.swarm.remove_external_address(address);
        }
        self.reach.again(Instant::now());
        self.publish_listeners();
    }

    /// Dials addresses at which some member may be, when none is connected.
    pub(super) fn try_seeds(&mut self) {
        let alone = (self.peers.values()).all(|peer| peer.links.is_empty());
        let expects = self.peers.values().any(|peer| peer.is_kept());
        if !alone || !expects {
            return;
        }
        let seeds = self.ways.seeds.iter().chain(&self.discovered);
        for seed in seeds
            .copied()
            .choose_multiple(&mut rand::rng(), SEEDS_AT_ONCE)
        {
            let address = multiaddr(seed, Transport::Quic);
            if let Err(error) = self.swarm.dial(address) {
                tracing::debug!(%seed, %error, "a seed was not dialled");
            }
        }
    }
}
