//! The task that owns the Swarm: connections to peers, dials, and the streams opened over them.
//!
//! Decides which connection of a peer is used, when it is dialled, which connections are cut, and
//! at which relays this node keeps a place.
//!
//! Inputs: orders, the address book, the wanted set, the credentials (all latest-wins but the
//! orders), the Swarm's events. Outputs: the connection table, opened streams, inbound streams.
//!
//! Invariants:
//! - Of two connections to a peer that differ in instance, the older one belongs to a dead process
//!   and is closed at once (QUIC's stateless reset does not survive a restart with libp2p).
//! - Nobody waits for a stream without an attempt under way or planned.

mod attempts;
mod inbound;
mod links;
mod plan;
mod pulse;
mod relays;
mod renewal;
mod reservations;
mod table;
mod wiring;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use consensus_core::{NodeId, WallMs};
use futures::StreamExt as _;
use libp2p::{PeerId, Swarm, mdns, relay, swarm::SwarmEvent};
use tokio::time::{Instant, sleep_until, timeout};

pub(crate) use self::wiring::{NoStream, Order, StreamReply, Wiring};
use self::{reservations::Reservations, table::Peer};
use crate::{
    address::socket_address,
    behaviour::{Behaviour, BehaviourEvent},
    key::peer_id_of,
    reach::Reach,
    streams::OpenFailure,
    watchdog::BEAT,
    ways::Ways,
};

/// How bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// QUIC v1 over UDP.
    Quic,
    /// Noise and Yamux over TCP.
    Tcp,
}

/// The way that a connection takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Path {
    /// From here to the peer itself.
    Direct {
        /// The peer's address, as seen from here.
        remote: SocketAddr,
        /// How bytes travel.
        transport: Transport,
    },
    /// Through another node that both can reach.
    Relayed {
        /// That node, where it is known.
        via: Option<NodeId>,
    },
}

impl Path {
    /// The peer's address, if it is reached there.
    pub const fn remote(&self) -> Option<SocketAddr> {
        match self {
            Self::Direct { remote, .. } => Some(*remote),
            Self::Relayed { .. } => None,
        }
    }
}

/// The connection in use to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Which way it takes.
    pub path: Path,
    /// Whether either end wants it to stay; else it ends when nobody has used it for a while.
    pub kept: bool,
    /// When the certificate that the peer has shown last ends.
    pub certificate_ends: WallMs,
}

/// Streams that wait for one peer's connection.
const WAITING_MAX: usize = 64;
/// How long a stop waits for peers to be told.
const FAREWELL: Duration = Duration::from_millis(500);
/// How often connections are looked through for certificates that have ended meanwhile, which
/// nobody tells of.
const LOOK_AROUND: Duration = Duration::from_secs(30);
/// How often a node without any connection tries addresses that it only suspects members at.
const SEEDS_EVERY: Duration = Duration::from_secs(5);
/// After new ones were found: several answers come at once.
const SEEDS_SOON: Duration = Duration::from_millis(200);
/// Addresses on the local network that are remembered: anybody there may announce some.
const DISCOVERED_MAX: usize = 64;

/// The owner of the Swarm.
pub(crate) struct Peering {
    swarm: Swarm<Behaviour>,
    wiring: Wiring,
    peers: BTreeMap<PeerId, Peer>,
    /// What the daemon says of relays and seeds.
    ways: Ways,
    /// Possible relays in the order of this node's preference.
    relays: Vec<PeerId>,
    reservations: Reservations,
    reach: Reach,
    /// The interfaces' addresses that are listened on.
    listening: BTreeSet<SocketAddr>,
    /// Where nodes were found on the local network.
    discovered: BTreeSet<SocketAddr>,
    next_seeds: Instant,
    /// The chain that every connected peer has been shown.
    shown: Vec<Vec<u8>>,
    /// When connections are next looked through for certificates that have ended.
    next_look: Instant,
}

impl Peering {
    /// `reservation` is how long a relay keeps a place.
    pub(crate) fn new(swarm: Swarm<Behaviour>, wiring: Wiring, reservation: Duration) -> Self {
        let shown = wiring.credentials.borrow().chain.clone();
        Self {
            swarm,
            shown,
            wiring,
            peers: BTreeMap::new(),
            ways: Ways::default(),
            relays: Vec::new(),
            reservations: Reservations::new(reservation),
            reach: Reach::default(),
            listening: BTreeSet::new(),
            discovered: BTreeSet::new(),
            next_seeds: Instant::now() + SEEDS_EVERY,
            next_look: Instant::now() + LOOK_AROUND,
        }
    }

    /// Runs until stopped, or until every handle is gone.
    pub(crate) async fn run(mut self) {
        self.take_addresses();
        self.take_wanted();
        self.take_ways();
        loop {
            self.wiring.watchdog.beat();
            let due = self.next_deadline().min(Instant::now() + BEAT);
            // Every arm is cancel-safe: channels, watches and the Swarm keep what was not taken.
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                order = self.wiring.orders.recv() => match order {
                    Some(Order::Stop(done)) => {
                        self.farewell().await;
                        self.wiring.watchdog.end();
                        drop(self);
                        let _ = done.send(());
                        return;
                    }
                    Some(order) => self.on_order(order),
                    None => {
                        self.wiring.watchdog.end();
                        return self.farewell().await;
                    }
                },
                Ok(()) = self.wiring.addresses.changed() => self.take_addresses(),
                Ok(()) = self.wiring.wanted.changed() => self.take_wanted(),
                Ok(()) = self.wiring.credentials.changed() => self.take_credentials(),
                Ok(()) = self.wiring.ways.changed() => self.take_ways(),
                () = sleep_until(due) => self.on_due(),
            }
        }
    }

    fn next_deadline(&self) -> Instant {
        let dials = (self.peers.values())
            .flat_map(|peer| [peer.plan.deadline(), peer.upgrade.deadline()])
            .flatten();
        let relays = [self.reservations.deadline(), self.reach_deadline()];
        dials
            .chain(relays.into_iter().flatten())
            .chain([self.next_look, self.next_seeds])
            .min()
            .unwrap_or(self.next_look)
    }

    fn reach_deadline(&self) -> Option<Instant> {
        let asks = self.ways.reachable.is_none() && !self.relays.is_empty();
        self.reach.deadline().filter(|_| asks)
    }

    fn on_due(&mut self) {
        let now = Instant::now();
        if now >= self.next_look {
            self.next_look = now + LOOK_AROUND;
            self.cut_refused();
        }
        if now >= self.next_seeds {
            self.next_seeds = now + SEEDS_EVERY;
            self.try_seeds();
        }
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.reservations.deadline()) || due(self.reach_deadline()) {
            self.supervise();
        }
        self.dial_due();
    }

    async fn farewell(&mut self) {
        let connected: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in connected {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let all_closed = async {
            while self.swarm.network_info().num_peers() > 0 {
                self.swarm.select_next_some().await;
            }
        };
        if timeout(FAREWELL, all_closed).await.is_err() {
            tracing::debug!("some peers were not told of the stop");
        }
        self.wiring.connections.send_replace(BTreeMap::new());
    }

    fn on_order(&mut self, order: Order) {
        // Whoever names a node's addresses and then calls it must not be told that none is known.
        if self.wiring.addresses.has_changed().unwrap_or(false) {
            self.take_addresses();
        }
        match order {
            Order::Open { to, lane, reply } => self.open(to, lane, reply),
            Order::Suspect(peer) => self.suspect(peer),
            Order::Dead(connection) => {
                self.swarm.close_connection(connection);
            }
            Order::Renewed(peer, connection, chain) => self.on_renewed(peer, connection, chain),
            Order::Reached(relay, answer) => self.on_reached(relay, answer),
            Order::LetGo(peer, connection) => self.on_held(peer, connection, false),
            Order::Disconnect(peer) => {
                let _ = self.swarm.disconnect_peer_id(peer);
            }
            Order::Stop(_) => {}
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the enum is libp2p's and non-exhaustive; other events change nothing here"
    )]
    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => self.on_established(peer_id, connection_id, &endpoint),
            SwarmEvent::ConnectionClosed {
                peer_id,
                connection_id,
                cause,
                ..
            } => {
                let cause = cause.map(|cause| cause.to_string());
                self.on_closed(peer_id, connection_id, cause.as_deref());
            }
            SwarmEvent::OutgoingConnectionError {
                peer_id: Some(peer),
                connection_id,
                error,
            } => self.on_attempt_failed(peer, connection_id, &error),
            SwarmEvent::NewListenAddr { address, .. } => self.on_listener(&address, true),
            SwarmEvent::ExpiredListenAddr { address, .. } => self.on_listener(&address, false),
            SwarmEvent::ListenerClosed {
                addresses,
                reason,
                listener_id,
            } => {
                if let Err(error) = reason {
                    tracing::debug!(?addresses, %error, "a listener closed");
                }
                for address in &addresses {
                    self.on_listener(address, false);
                }
                self.on_place_closed(listener_id);
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::debug!(%error, "a listener failed to accept a connection");
            }
            _ => {}
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Streams(inbound) => self.on_inbound(inbound),
            BehaviourEvent::Circuits(relay::client::Event::ReservationReqAccepted {
                relay_peer_id,
                renewal,
                ..
            }) => self.on_place_granted(relay_peer_id, renewal),
            BehaviourEvent::Circuits(
                relay::client::Event::OutboundCircuitEstablished { .. }
                | relay::client::Event::InboundCircuitEstablished { .. },
            ) => {}
            BehaviourEvent::Relay(event) => tracing::debug!(?event, "as a relay"),
            BehaviourEvent::Punch(event) => {
                tracing::debug!(?event, "a direct connection instead of a circuit");
            }
            BehaviourEvent::Lan(mdns::Event::Discovered(found)) => {
                for (_, address) in found {
                    self.discover(socket_address(&address).map(|(at, _)| at));
                }
            }
            BehaviourEvent::Lan(mdns::Event::Expired(gone)) => {
                for (_, address) in gone {
                    if let Some((at, _)) = socket_address(&address) {
                        self.discovered.remove(&at);
                    }
                }
            }
        }
    }

    fn discover(&mut self, at: Option<SocketAddr>) {
        if let Some(at) = at
            && self.discovered.len() < DISCOVERED_MAX
            && self.discovered.insert(at)
        {
            tracing::debug!(%at, "a node on the local network");
            self.next_seeds = self.next_seeds.min(Instant::now() + SEEDS_SOON);
        }
    }

    fn take_addresses(&mut self) {
        let book = self.wiring.addresses.borrow_and_update().clone();
        let mut named: BTreeMap<PeerId, Vec<SocketAddr>> = BTreeMap::new();
        self.take_circuits(&book.relays);
        for ((node, _), addresses) in book.addresses {
            if let Some(id) = peer_id_of(&node).filter(|id| *id != self.wiring.local) {
                let known = named.entry(id).or_default();
                known.extend(addresses);
                let mut seen = BTreeSet::new();
                known.retain(|address| seen.insert(*address));
            }
        }
        for (id, peer) in &mut self.peers {
            if !named.contains_key(id) {
                peer.addresses.clear();
            }
        }
        for (id, addresses) in named {
            let peer = self.peers.entry(id).or_default();
            let changed = peer.addresses != addresses;
            peer.addresses = addresses;
            if changed && peer.needs_connection() {
                peer.plan.demand(Instant::now());
            }
        }
        self.peers.retain(|_, peer| !peer.is_forgettable());
    }

    fn take_circuits(&mut self, book: &BTreeMap<NodeId, Vec<NodeId>>) {
        let local = self.wiring.local;
        let of = |node: &NodeId| peer_id_of(node).filter(|id| *id != local);
        let named: BTreeMap<PeerId, Vec<PeerId>> = (book.iter())
            .filter_map(|(node, relays)| Some((of(node)?, relays.iter().filter_map(of).collect())))
            .collect();
        for (id, peer) in &mut self.peers {
            if !named.contains_key(id) {
                peer.relays.clear();
            }
        }
        for (id, relays) in named {
            let peer = self.peers.entry(id).or_default();
            let changed = peer.relays != relays;
            peer.relays = relays;
            if changed && peer.needs_connection() {
                peer.plan.demand(Instant::now());
            }
        }
    }

    fn take_wanted(&mut self) {
        let wanted: BTreeSet<PeerId> = self
            .wiring
            .wanted
            .borrow_and_update()
            .values()
            .flatten()
            .filter_map(peer_id_of)
            .filter(|id| *id != self.wiring.local)
            .collect();
        for id in &wanted {
            self.peers.entry(*id).or_default();
        }
        let ids: Vec<PeerId> = self.peers.keys().copied().collect();
        for id in ids {
            if let Some(peer) = self.peers.get_mut(&id) {
                let was = std::mem::replace(&mut peer.wanted, wanted.contains(&id));
                if peer.wanted && !was && peer.links.is_empty() {
                    peer.plan.demand(Instant::now());
                }
            }
            self.settle(id);
        }
    }
}

/// The failure to open a stream on a standing connection.
fn failed_open(failure: OpenFailure) -> NoStream {
    match failure {
        OpenFailure::Negotiation => NoStream::Unreachable(failure.to_string()),
        OpenFailure::Busy => NoStream::Busy,
    }
}
