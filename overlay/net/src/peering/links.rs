//! Connections that come and go.
//!
//! Decides which of a peer's connections is kept: the best one, while somebody here wants it. The
//! others end by themselves when nobody uses them.

use std::collections::BTreeMap;

use consensus_core::NodeId;
use libp2p::{
    PeerId,
    core::{ConnectedPoint, Endpoint},
    swarm::ConnectionId,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    Connection, Order, Path, Peering, Transport, plan, pulse,
    table::{self, Link, Peer, Way},
};
use crate::{
    address::{first_hop, is_circuit, relay_of, socket_address},
    channel::Lane,
    key::node_id_of,
};

impl Peering {
    /// Where a connection leads; `None` for forms that shoal does not speak.
    fn way(&self, point: &ConnectedPoint) -> Option<Way> {
        let remote = point.get_remote_address();
        let near = match point {
            ConnectedPoint::Dialer { address, .. } => address,
            ConnectedPoint::Listener { local_addr, .. } => local_addr,
        };
        if !is_circuit(near) {
            return socket_address(remote).map(|(at, transport)| Way::Direct(at, transport));
        }
        // Who accepts a circuit is told the relay's address only.
        let by_address = || {
            let hop = first_hop(near)?;
            let holds =
                |peer: &Peer| (peer.links.iter()).any(|link| link.way == Way::Direct(hop.0, hop.1));
            (self.peers.iter()).find_map(|(id, peer)| holds(peer).then_some(*id))
        };
        Some(Way::Relayed(relay_of(near).or_else(by_address)))
    }

    pub(super) fn on_established(
        &mut self,
        id: PeerId,
        connection: ConnectionId,
        point: &ConnectedPoint,
    ) {
        let admitted = self.swarm.behaviour_mut().streams.admitted(connection);
        let (Some(admitted), Some(way)) = (admitted, self.way(point)) else {
            self.swarm.close_connection(connection);
            return;
        };
        let dialled = dialled_by_us(point);
        let node = &admitted.node;
        tracing::info!(%node, ?way, dialled, "connected");
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
        if let (true, Way::Direct(remote, _)) = (dialled, way) {
            peer.good = Some(remote);
        }
        peer.links.push(Link {
            connection,
            way,
            smaller_dialled: dialled == (self.wiring.local < id),
            instance: admitted.instance,
            proof: admitted.proof,
            hold: None,
            held_by_peer: 0,
        });
        for connection in stale {
            tracing::info!(peer = %id, "closing the connection to the peer's former process");
            peer.links.retain(|link| link.connection != connection);
            self.swarm.close_connection(connection);
        }
        if dialled && !matches!(way, Way::Direct(_, Transport::Quic)) {
            self.start_pulse(id, connection);
        }
        self.serve_waiting(id);
        self.settle(id);
        self.supervise();
    }

    pub(super) fn on_closed(&mut self, id: PeerId, connection: ConnectionId, cause: Option<&str>) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.links.retain(|link| link.connection != connection);
        tracing::info!(peer = %id, cause, left = peer.links.len(), "connection closed");
        if peer.links.is_empty() {
            peer.suspicion = plan::Suspicion::default();
            if peer.is_kept() {
                peer.plan.demand(Instant::now());
            }
        }
        self.settle(id);
    }

    /// The peer wants a connection to stay, or no more.
    pub(super) fn on_held(&mut self, id: PeerId, connection: ConnectionId, held: bool) {
        if let Some(peer) = self.peers.get_mut(&id) {
            let links = peer.links.iter_mut();
            for link in links.filter(|link| link.connection == connection) {
                link.held_by_peer = if held {
                    link.held_by_peer + 1
                } else {
                    link.held_by_peer.saturating_sub(1)
                };
            }
            self.settle(id);
        }
    }

    fn start_pulse(&mut self, peer: PeerId, connection: ConnectionId) {
        let (reply, opened) = oneshot::channel();
        let streams = &mut self.swarm.behaviour_mut().streams;
        streams.open(peer, connection, Lane::Pulse, reply);
        let order = self.wiring.order.clone();
        tokio::spawn(async move {
            if let Ok(Ok(stream)) = opened.await {
                let ended = pulse::beat(stream).await;
                report_death(order, connection, ended).await;
            }
        });
    }

    /// Publishes the peer's connection and moves the hold to it.
    pub(super) fn settle(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let best = peer.best().map(|link| link.connection);
        let kept = peer.is_kept();
        for link in &mut peer.links {
            let keep = kept && Some(link.connection) == best;
            if !keep {
                link.hold = None;
            } else if link.hold.is_none() {
                let (reply, opened) = oneshot::channel();
                let streams = &mut self.swarm.behaviour_mut().streams;
                streams.open(id, link.connection, Lane::Hold, reply);
                link.hold = Some(table::Hold::spawn(opened));
            }
        }
        if best.is_some() && !peer.is_connected_directly() && peer.wanted {
            peer.upgrade.wish(Instant::now());
        } else {
            peer.upgrade.settle();
        }
        let published = peer.best().map(|link| Connection {
            path: path(link.way),
            kept: peer.links.iter().any(Link::is_kept),
            certificate_ends: link.proof.verified.not_after,
        });
        if let Some(node) = node_id_of(&id) {
            publish(&self.wiring.connections, node, published);
        }
        if self.peers.get(&id).is_some_and(Peer::is_forgettable) {
            self.peers.remove(&id);
        }
    }
}

fn publish(
    table: &tokio::sync::watch::Sender<BTreeMap<NodeId, Connection>>,
    node: NodeId,
    connection: Option<Connection>,
) {
    table.send_if_modified(|table| match connection {
        Some(connection) if table.get(&node) == Some(&connection) => false,
        Some(connection) => {
            table.insert(node, connection);
            true
        }
        None => table.remove(&node).is_some(),
    });
}

fn path(way: Way) -> Path {
    match way {
        Way::Direct(remote, transport) => Path::Direct { remote, transport },
        Way::Relayed(relay) => Path::Relayed {
            via: relay.as_ref().and_then(node_id_of),
        },
    }
}

/// Of two ends that punched a hole both have dialled; one of them acts as the listener.
const fn dialled_by_us(point: &ConnectedPoint) -> bool {
    matches!(
        point,
        ConnectedPoint::Dialer {
            role_override: Endpoint::Dialer,
            ..
        }
    )
}

/// Tells the owner of a connection that its pulse has stopped.
pub(super) async fn report_death(
    order: mpsc::WeakSender<Order>,
    connection: ConnectionId,
    ended: std::io::Result<()>,
) {
    if let (Some(order), Err(error)) = (order.upgrade(), ended) {
        tracing::debug!(%error, "pulse stopped");
        let _ = order.send(Order::Dead(connection)).await;
    }
}
