//! Dialling, and those who wait for it.
//!
//! Decides which addresses an attempt is made of: a peer's own, or its relays' with the peer behind.

use std::num::NonZeroU8;

use libp2p::{
    Multiaddr, PeerId, TransportError,
    swarm::{
        ConnectionId, DialError,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use rand::Rng as _;
use tokio::{sync::oneshot, time::Instant};

use super::{
    NoStream, Peering, StreamReply, Transport, WAITING_MAX, failed_open, plan::Step, table::Way,
};
use crate::{
    address::{circuit, multiaddr},
    channel::Lane,
    enrolment::innermost,
    gate::GateError,
    transport::AttemptError,
};

/// Addresses of one peer dialled at once, at the ranker's pace.
const ADDRESSES_AT_ONCE: NonZeroU8 = NonZeroU8::new(8).expect("8 is not zero");

impl Peering {
    /// Opens a stream over the peer's best connection, or waits for one.
    pub(super) fn open(&mut self, to: PeerId, lane: Lane, reply: StreamReply) {
        let peer = self.peers.entry(to).or_default();
        if let Some(link) = peer.best() {
            let connection = link.connection;
            self.open_on(to, connection, lane, reply);
            return;
        }
        if peer.addresses.is_empty() && peer.relays.is_empty() && peer.attempts.is_empty() {
            let _ = reply.send(Err(NoStream::Unreachable("no address is known".to_owned())));
            self.settle(to);
            return;
        }
        peer.waiting.retain(|(_, waiter)| !waiter.is_closed());
        if peer.waiting.len() >= WAITING_MAX {
            let _ = reply.send(Err(NoStream::Busy));
            return;
        }
        if peer.waiting.is_empty() {
            peer.last_failure = None;
        }
        peer.waiting.push_back((lane, reply));
        peer.plan.demand(Instant::now());
        self.dial_due();
    }

    fn open_on(&mut self, to: PeerId, connection: ConnectionId, lane: Lane, reply: StreamReply) {
        let (opened, stream) = oneshot::channel();
        let streams = &mut self.swarm.behaviour_mut().streams;
        streams.open(to, connection, lane, opened);
        tokio::spawn(async move {
            let result = match stream.await {
                Ok(result) => result.map_err(failed_open),
                Err(_) => Err(NoStream::Unreachable("the connection closed".to_owned())),
            };
            let _ = reply.send(result);
        });
    }

    pub(super) fn serve_waiting(&mut self, to: PeerId) {
        let Some(peer) = self.peers.get_mut(&to) else {
            return;
        };
        let Some(connection) = peer.best().map(|link| link.connection) else {
            return;
        };
        for (lane, reply) in std::mem::take(&mut peer.waiting) {
            self.open_on(to, connection, lane, reply);
        }
    }

    /// Dials whatever is due.
    pub(super) fn dial_due(&mut self) {
        let now = Instant::now();
        let ids: Vec<PeerId> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.plan.deadline().is_some_and(|due| due <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.dial_peer(id, now);
        }
        self.look_for_direct_ways(now);
    }

    /// Dials the addresses of peers that are reached through a relay alone.
    fn look_for_direct_ways(&mut self, now: Instant) {
        let due: Vec<PeerId> = (self.peers.iter_mut())
            .filter_map(|(id, peer)| peer.upgrade.is_due(now).then_some(*id))
            .collect();
        for id in due {
            self.dial(id, Step::Quic);
        }
    }

    fn dial_peer(&mut self, id: PeerId, now: Instant) {
        loop {
            let Some(peer) = self.peers.get_mut(&id) else {
                return;
            };
            peer.waiting.retain(|(_, waiter)| !waiter.is_closed());
            if !peer.needs_connection() {
                peer.plan.rest();
                return;
            }
            if peer.addresses.is_empty() && peer.relays.is_empty() {
                // Waits for an address; `take_addresses` starts the next round.
                peer.plan.rest();
                return;
            }
            let jitter = rand::rng().random();
            let known = peer.known();
            let Some(step) = peer.plan.step(now, peer.attempts.len(), known, jitter) else {
                return;
            };
            self.dial(id, step);
        }
    }

    /// The addresses that a step dials.
    fn targets(&self, id: PeerId, step: Step) -> Vec<Multiaddr> {
        let Some(peer) = self.peers.get(&id) else {
            return Vec::new();
        };
        let over = |transport| {
            let addresses = peer.addresses.iter();
            addresses.map(move |address| multiaddr(*address, transport))
        };
        match step {
            Step::Good => (peer.good.iter())
                .map(|address| multiaddr(*address, Transport::Quic))
                .collect(),
            Step::Quic => over(Transport::Quic).collect(),
            Step::Tcp => over(Transport::Tcp).collect(),
            Step::Circuits => (peer.relays.iter())
                .flat_map(|relay| {
                    let near = self.first_hops(*relay);
                    near.into_iter().map(|at| circuit(at, *relay, Some(id)))
                })
                .collect(),
        }
    }

    /// Where a relay is reached: where it is connected, else wherever it may be.
    pub(super) fn first_hops(&self, relay: PeerId) -> Vec<Multiaddr> {
        let Some(peer) = self.peers.get(&relay) else {
            return Vec::new();
        };
        let standing = peer.links.iter().find_map(|link| match link.way {
            Way::Direct(remote, transport) => Some(multiaddr(remote, transport)),
            Way::Relayed(_) => None,
        });
        match standing {
            Some(standing) => vec![standing],
            None => (peer.addresses.iter())
                .map(|address| multiaddr(*address, Transport::Quic))
                .collect(),
        }
    }

    /// Starts one attempt, unless there is nothing to dial.
    fn dial(&mut self, id: PeerId, step: Step) -> Option<ConnectionId> {
        let addresses = self.targets(id, step);
        if addresses.is_empty() {
            self.after_failure(id);
            return None;
        }
        let peer = self.peers.get_mut(&id)?;
        let options = DialOpts::peer_id(id)
            .condition(PeerCondition::Always)
            .override_dial_concurrency_factor(ADDRESSES_AT_ONCE)
            .addresses(addresses);
        // QUIC shares the listener's socket; a TCP socket bound to the listener's port would
        // clash with the last connection between the same two ports.
        let options = match step {
            Step::Good | Step::Quic | Step::Circuits => options.build(),
            Step::Tcp => options.allocate_new_port().build(),
        };
        let connection = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => {
                peer.attempts.insert(connection);
                Some(connection)
            }
            Err(error) => {
                peer.note_failure(failure(&error));
                self.after_failure(id);
                None
            }
        }
    }

    /// Asks anew whether a connected peer lives: it may have restarted.
    pub(super) fn suspect(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let Some(way) = peer.best().map(|link| link.way) else {
            return;
        };
        let step = match way {
            Way::Direct(_, Transport::Quic) => Step::Quic,
            Way::Direct(_, Transport::Tcp) => Step::Tcp,
            Way::Relayed(_) => Step::Circuits,
        };
        if peer.addresses.is_empty() || !peer.suspicion.raise(Instant::now()) {
            return;
        }
        if let Some(connection) = self.dial(id, step)
            && let Some(peer) = self.peers.get_mut(&id)
        {
            peer.probes.insert(connection);
        }
    }

    pub(super) fn on_attempt_failed(
        &mut self,
        id: PeerId,
        connection: ConnectionId,
        error: &DialError,
    ) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.attempts.remove(&connection);
            peer.probes.remove(&connection);
            let failure = failure(error);
            tracing::debug!(peer = %id, ?failure, "dial failed");
            if peer.is_verdict(&failure) {
                // The peer itself has answered: no other attempt will end better.
                for (_, reply) in peer.waiting.drain(..) {
                    let _ = reply.send(Err(failure.clone()));
                }
            }
            peer.note_failure(failure);
        }
        self.after_failure(id);
    }

    /// Goes on to the next way, or tells those who wait that the round came to nothing.
    fn after_failure(&mut self, id: PeerId) {
        let now = Instant::now();
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if !peer.links.is_empty() || !peer.attempts.is_empty() {
            return;
        }
        if peer.plan.all_failed(now) {
            // Left to the timer, which is due at once: this may run inside a dial.
            return;
        }
        let failure = peer
            .last_failure
            .clone()
            .unwrap_or_else(|| NoStream::Unreachable("no attempt succeeded".to_owned()));
        for (_, reply) in peer.waiting.drain(..) {
            let _ = reply.send(Err(failure.clone()));
        }
        self.settle(id);
    }
}

/// What a failed dial says: the gate's verdict where there is one, else the first cause.
fn failure(error: &DialError) -> NoStream {
    if let DialError::Transport(causes) = error {
        let verdict = causes.iter().find_map(|(_, cause)| verdict(cause));
        if let Some(verdict) = verdict {
            return NoStream::NotAdmitted(verdict.to_caller());
        }
        let texts: Vec<String> = causes
            .iter()
            .map(|(address, cause)| format!("{address}: {}", innermost(cause)))
            .collect();
        return NoStream::Unreachable(texts.join("; "));
    }
    NoStream::Unreachable(innermost(error))
}

fn verdict(cause: &TransportError<std::io::Error>) -> Option<&GateError> {
    let TransportError::Other(error) = cause else {
        return None;
    };
    match error.get_ref()?.downcast_ref::<AttemptError>()? {
        AttemptError::Gate(verdict) => match verdict {
            GateError::Timeout | GateError::Broken(_) => None,
            GateError::Stranger(_)
            | GateError::WrongMesh
            | GateError::Expired
            | GateError::NotYetValid
            | GateError::Revoked { .. }
            | GateError::Retired
            | GateError::Removed
            | GateError::Malformed(_)
            | GateError::Version(_)
            | GateError::WrongPeer { .. }
            | GateError::RefusedByPeer(_)
            | GateError::Busy
            | GateError::Enrolled(_) => Some(verdict),
        },
        AttemptError::Transport(_) => None,
    }
}
