//! What the Swarm does besides carrying connections: streams, and the ways to nodes that cannot be
//! dialled.
//!
//! Decides which of libp2p's protocols run, and what a relay gives away. Circuit Relay v2
//! (libp2p specs, relay/circuit-v2.md): as a relay for whoever asks, while that is allowed, and
//! always as a relay's client. Direct Connection Upgrade through Relay (relay/DCUtR.md). Multicast
//! DNS (RFC 6762; libp2p specs, discovery/mdns.md) where it is allowed.
//!
//! Invariant: a relay serves members only, since the gate lets nobody else have a connection, and
//! what it passes on is encrypted between two nodes that have passed each other's gate.

// The derive below writes an event enum without documents.
#![allow(
    missing_docs,
    reason = "the derived event type's variants cannot be documented"
)]

use std::time::Duration;

use libp2p::{
    PeerId, dcutr, mdns, relay,
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
};

use crate::{streams::Streams, unkept::Unkept};

/// Nodes that a relay keeps reservations for. Each is a connection that costs some 60 KB.
const RESERVATIONS_MAX: usize = 512;
/// One reservation for each connection of a node, and one more while it changes over.
const RESERVATIONS_PER_PEER_MAX: usize = 2;
/// Circuits at once: every reserved node with a handful of neighbours that it cannot reach.
const CIRCUITS_MAX: usize = 4096;
/// Circuits that one node may open: its neighbours, twice while they change.
const CIRCUITS_PER_PEER_MAX: usize = 64;
/// A circuit that stands for so long is opened anew.
const CIRCUIT_DURATION_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// No limit: a circuit carries a member's gossip, Raft and commands for as long as it lives.
const CIRCUIT_BYTES_MAX: u64 = 0;
/// How often neighbours are looked for on the local network, and their answers believed: a node
/// that comes is announced at once, this only repairs losses.
const LAN_QUERY_EVERY: Duration = Duration::from_secs(60);

/// Everything that runs on the Swarm's connections.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    /// Shoal's own streams, and the gate's last word.
    pub(crate) streams: Streams,
    /// Circuits that others open through this node.
    pub(crate) relay: Unkept<relay::Behaviour>,
    /// Reservations at relays and circuits through them.
    pub(crate) circuits: relay::client::Behaviour,
    /// Circuits replaced by direct connections.
    pub(crate) punch: Unkept<dcutr::Behaviour>,
    /// Nodes on the local network.
    pub(crate) lan: Toggle<mdns::tokio::Behaviour>,
}

impl Behaviour {
    /// All of it; `reservation` is how long a relay keeps a place for a node.
    pub(crate) fn new(
        local: PeerId,
        streams: Streams,
        circuits: relay::client::Behaviour,
        lan: Option<mdns::tokio::Behaviour>,
        reservation: Duration,
    ) -> Self {
        let mut relay = relay::Behaviour::new(local, relay_limits(reservation));
        relay.set_status(Some(relay::Status::Disable));
        Self {
            streams,
            relay: Unkept(relay),
            circuits,
            punch: Unkept(dcutr::Behaviour::new(local)),
            lan: lan.into(),
        }
    }
}

/// Without limits on rates: a whole site behind one address may come back at once, and members
/// alone get this far.
fn relay_limits(reservation: Duration) -> relay::Config {
    relay::Config {
        max_reservations: RESERVATIONS_MAX,
        max_reservations_per_peer: RESERVATIONS_PER_PEER_MAX,
        reservation_duration: reservation,
        reservation_rate_limiters: Vec::new(),
        max_circuits: CIRCUITS_MAX,
        max_circuits_per_peer: CIRCUITS_PER_PEER_MAX,
        max_circuit_duration: CIRCUIT_DURATION_MAX,
        max_circuit_bytes: CIRCUIT_BYTES_MAX,
        circuit_src_rate_limiters: Vec::new(),
    }
}

/// What finds nodes on the local network; `None` where that cannot be had.
pub(crate) fn lan(local: PeerId) -> Option<mdns::tokio::Behaviour> {
    let config = mdns::Config {
        query_interval: LAN_QUERY_EVERY,
        ..mdns::Config::default()
    };
    mdns::tokio::Behaviour::new(config, local)
        .inspect_err(
            |error| tracing::warn!(%error, "nodes on the local network are not looked for"),
        )
        .ok()
}
