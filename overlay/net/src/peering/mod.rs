//! The task that owns the Swarm: connections to peers, dials, and the streams opened over them.
//!
//! Decides which connection of a peer is used, when it is dialled, and which connections are cut.
//!
//! Inputs: orders, the address book, the wanted set, the credentials (all latest-wins but the
//! orders), the Swarm's events. Outputs: the connection table, opened streams, inbound streams.
//!
//! Invariants:
//! - Of two connections to a peer that differ in instance, the older one belongs to a dead process
//!   and is closed at once (QUIC's stateless reset does not survive a restart with libp2p).
//! - Nobody waits for a stream without an attempt under way or planned.

mod attempts;
mod plan;
mod pulse;
mod renewal;
mod table;
mod wiring;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use consensus_core::WallMs;
use futures::StreamExt as _;
use libp2p::{
    Multiaddr, PeerId, Swarm,
    swarm::{ConnectionId, SwarmEvent},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};

use self::table::{Link, Peer};
pub(crate) use self::wiring::{NoStream, Order, StreamReply, Wiring};
use crate::{
    address::socket_address,
    call,
    channel::Lane,
    frame::FrameStream,
    key::{node_id_of, peer_id_of},
    streams::{InboundStream, OpenFailure, Streams},
};

/// How bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// QUIC v1 over UDP.
    Quic,
    /// Noise and Yamux over TCP.
    Tcp,
}

/// The connection in use to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// The peer's address, as seen from here.
    pub remote: SocketAddr,
    /// How bytes travel.
    pub transport: Transport,
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

/// The owner of the Swarm.
pub(crate) struct Peering {
    swarm: Swarm<Streams>,
    wiring: Wiring,
    peers: BTreeMap<PeerId, Peer>,
    /// The chain that every connected peer has been shown.
    shown: Vec<Vec<u8>>,
    /// When connections are next looked through for certificates that have ended.
    next_look: Instant,
}

impl Peering {
    pub(crate) fn new(swarm: Swarm<Streams>, wiring: Wiring) -> Self {
        let shown = wiring.credentials.borrow().chain.clone();
        Self {
            swarm,
            shown,
            wiring,
            peers: BTreeMap::new(),
            next_look: Instant::now() + LOOK_AROUND,
        }
    }

    /// Runs until stopped, or until every handle is gone.
    pub(crate) async fn run(mut self) {
        self.take_addresses();
        self.take_wanted();
        loop {
            let due = self.next_deadline();
            // Every arm is cancel-safe: channels, watches and the Swarm keep what was not taken.
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                order = self.wiring.orders.recv() => match order {
                    Some(Order::Stop(done)) => {
                        self.farewell().await;
                        drop(self);
                        let _ = done.send(());
                        return;
                    }
                    Some(order) => self.on_order(order),
                    None => return self.farewell().await,
                },
                Ok(()) = self.wiring.addresses.changed() => self.take_addresses(),
                Ok(()) = self.wiring.wanted.changed() => self.take_wanted(),
                Ok(()) = self.wiring.credentials.changed() => self.take_credentials(),
                () = sleep_until(due) => self.on_due(),
            }
        }
    }

    fn next_deadline(&self) -> Instant {
        self.peers
            .values()
            .filter_map(|peer| peer.plan.deadline())
            .min()
            .map_or(self.next_look, |due| due.min(self.next_look))
    }

    fn on_due(&mut self) {
        if Instant::now() >= self.next_look {
            self.next_look = Instant::now() + LOOK_AROUND;
            self.cut_refused();
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
    fn on_event(&mut self, event: SwarmEvent<InboundStream>) {
        match event {
            SwarmEvent::Behaviour(inbound) => self.on_inbound(inbound),
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => {
                let dialled = endpoint.is_dialer();
                self.on_established(
                    peer_id,
                    connection_id,
                    endpoint.get_remote_address(),
                    dialled,
                );
            }
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
                reason: Err(error),
                ..
            } => tracing::warn!(?addresses, %error, "a listener closed"),
            SwarmEvent::ListenerError { error, .. } => {
                tracing::debug!(%error, "a listener failed to accept a connection");
            }
            _ => {}
        }
    }

    fn on_listener(&self, address: &Multiaddr, added: bool) {
        // TCP listens beside each QUIC address, on the same port.
        if let Some((address, Transport::Quic)) = socket_address(address) {
            self.wiring.listeners.send_modify(|listeners| {
                if added {
                    listeners.insert(address);
                } else {
                    listeners.remove(&address);
                }
            });
        }
    }

    fn on_inbound(&mut self, inbound: InboundStream) {
        let InboundStream {
            peer,
            connection,
            lane,
            stream,
        } = inbound;
        let Some(node) = node_id_of(&peer) else {
            return;
        };
        match lane {
            Lane::Call(channel) => {
                if let Some(calls) = self.wiring.doors.calls.get(&channel) {
                    tokio::spawn(call::serve(stream, node, channel, calls.clone()));
                }
            }
            Lane::Stream(channel) => {
                let stream = FrameStream::new(stream, channel);
                let taken = self
                    .wiring
                    .doors
                    .streams
                    .get(&channel)
                    .is_some_and(|door| door.try_send((node.clone(), stream)).is_ok());
                if !taken {
                    tracing::warn!(%node, ?channel, "inbound stream dropped: nobody takes it");
                }
            }
            Lane::Hold => {
                tokio::spawn(pulse::hold(stream));
            }
            Lane::Renewal => {
                let order = self.wiring.order.clone();
                tokio::spawn(async move {
                    if let (Some(chain), Some(order)) =
                        (renewal::read(stream).await, order.upgrade())
                    {
                        let _ = order.send(Order::Renewed(peer, connection, chain)).await;
                    }
                });
            }
            Lane::Pulse => {
                let order = self.wiring.order.clone();
                tokio::spawn(async move {
                    let ended = pulse::echo(stream).await;
                    report_death(order, connection, ended).await;
                });
            }
        }
    }

    fn on_established(
        &mut self,
        id: PeerId,
        connection: ConnectionId,
        remote: &Multiaddr,
        dialled: bool,
    ) {
        let admitted = self.swarm.behaviour_mut().admitted(connection);
        let (Some(admitted), Some((remote, transport))) = (admitted, socket_address(remote)) else {
            self.swarm.close_connection(connection);
            return;
        };
        let node = &admitted.node;
        tracing::info!(%node, %remote, ?transport, dialled, "connected");
        let peer = self.peers.entry(id).or_default();
        peer.attempts.remove(&connection);
        let probe = peer.probes.remove(&connection);
        let stale = peer.other_instances(admitted.instance);
        if probe && stale.is_empty() && !peer.links.is_empty() {
            // It answers, from the same process: the doubt was unfounded, the probe superfluous.
            peer.suspicion.unfounded();
            self.swarm.close_connection(connection);
            return;
        }
        peer.plan.rest();
        peer.last_failure = None;
        peer.links.push(Link {
            connection,
            remote,
            transport,
            smaller_dialled: dialled == (self.wiring.local < id),
            instance: admitted.instance,
            proof: admitted.proof,
            hold: None,
        });
        for connection in stale {
            tracing::info!(peer = %id, "closing the connection to the peer's former process");
            peer.links.retain(|link| link.connection != connection);
            self.swarm.close_connection(connection);
        }
        if dialled && transport == Transport::Tcp {
            self.start_pulse(id, connection);
        }
        self.serve_waiting(id);
        self.settle(id);
    }

    fn on_closed(&mut self, id: PeerId, connection: ConnectionId, cause: Option<&str>) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.links.retain(|link| link.connection != connection);
        tracing::info!(peer = %id, cause, left = peer.links.len(), "connection closed");
        if peer.links.is_empty() {
            peer.suspicion = plan::Suspicion::default();
            if peer.wanted {
                peer.plan.demand(Instant::now());
            }
        }
        self.settle(id);
    }

    fn start_pulse(&mut self, peer: PeerId, connection: ConnectionId) {
        let (reply, opened) = oneshot::channel();
        self.swarm
            .behaviour_mut()
            .open(peer, connection, Lane::Pulse, reply);
        let order = self.wiring.order.clone();
        tokio::spawn(async move {
            if let Ok(Ok(stream)) = opened.await {
                let ended = pulse::beat(stream).await;
                report_death(order, connection, ended).await;
            }
        });
    }

    /// Publishes the peer's connection and moves the hold to it.
    fn settle(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let best = peer.best().map(|link| link.connection);
        for link in &mut peer.links {
            let keep = peer.wanted && Some(link.connection) == best;
            if !keep {
                link.hold = None;
            } else if link.hold.is_none() {
                let (reply, opened) = oneshot::channel();
                self.swarm
                    .behaviour_mut()
                    .open(id, link.connection, Lane::Hold, reply);
                link.hold = Some(table::Hold::spawn(opened));
            }
        }
        let published = peer.best().map(|link| Connection {
            remote: link.remote,
            transport: link.transport,
            certificate_ends: link.proof.verified.not_after,
        });
        if let Some(node) = node_id_of(&id) {
            self.wiring
                .connections
                .send_if_modified(|table| match published {
                    Some(connection) => table.insert(node, connection) != Some(connection),
                    None => table.remove(&node).is_some(),
                });
        }
        if self.peers.get(&id).is_some_and(Peer::is_forgettable) {
            self.peers.remove(&id);
        }
    }

    fn take_addresses(&mut self) {
        let book = self.wiring.addresses.borrow_and_update().clone();
        let mut named: BTreeMap<PeerId, Vec<SocketAddr>> = BTreeMap::new();
        for ((node, _), addresses) in book {
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

/// Tells the owner of a connection that its pulse has stopped.
async fn report_death(
    order: mpsc::WeakSender<Order>,
    connection: ConnectionId,
    ended: std::io::Result<()>,
) {
    if let (Some(order), Err(error)) = (order.upgrade(), ended) {
        tracing::debug!(%error, "pulse stopped");
        let _ = order.send(Order::Dead(connection)).await;
    }
}

/// The failure to open a stream on a standing connection.
fn failed_open(failure: OpenFailure) -> NoStream {
    match failure {
        OpenFailure::Negotiation => NoStream::Unreachable(failure.to_string()),
        OpenFailure::Busy => NoStream::Busy,
    }
}
