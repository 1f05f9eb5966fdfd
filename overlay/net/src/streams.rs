//! libp2p's view of shoal: streams by lane, and nothing else.
//!
//! Decides how many handshakes may be pending and how many streams a connection may ask for at
//! once. libp2p-stream is not used: it drops an inbound stream whenever another one has not been
//! taken yet, picks a random connection of a peer, and never forgets a closed one.
//!
//! Invariant: a connection without a note of the gate is denied.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    future::{Future as _, Ready, ready},
    net::IpAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol,
    core::{
        Endpoint,
        transport::PortUse,
        upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo},
    },
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, NotifyHandler, SubstreamProtocol, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
        handler::{
            ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
        },
    },
};
use tokio::{
    sync::oneshot,
    time::{Instant, Sleep, sleep},
};

use crate::{
    address::{is_circuit, socket_address},
    channel::Lane,
    gate::{Admitted, Gate},
};

/// Inbound handshakes and gate exchanges under way at once, all peers together.
const PENDING_INBOUND_MAX: usize = 128;
/// The same from one address, and through all relays together: a mesh behind one NAT may restart
/// at once, a stranger may not take every place.
const PENDING_INBOUND_PER_IP_MAX: usize = 32;
/// Streams asked for and not opened yet, on one connection.
const OPENING_MAX: usize = 32;
/// How often each connection looks whether it is still used.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A stream's protocol is negotiated in one round trip.
const NEGOTIATION_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a stream was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OpenFailure {
    #[error("the peer did not agree to the stream")]
    Negotiation,
    #[error("too many streams are being opened to the peer")]
    Busy,
}

pub(crate) type OpenReply = oneshot::Sender<Result<Stream, OpenFailure>>;

/// A stream that a peer opened.
#[derive(Debug)]
pub(crate) struct InboundStream {
    pub(crate) peer: PeerId,
    pub(crate) connection: ConnectionId,
    pub(crate) lane: Lane,
    pub(crate) stream: Stream,
}

/// The behaviour: opens streams on a named connection and reports inbound ones.
pub(crate) struct Streams {
    gate: Gate,
    queue: VecDeque<ToSwarm<InboundStream, Open>>,
    /// Where they come from; through a relay from nowhere in particular.
    pending: BTreeMap<ConnectionId, Option<IpAddr>>,
    admitted: BTreeMap<ConnectionId, Admitted>,
    waker: Option<std::task::Waker>,
}

impl Streams {
    pub(crate) fn new(gate: Gate) -> Self {
        Self {
            gate,
            queue: VecDeque::new(),
            pending: BTreeMap::new(),
            admitted: BTreeMap::new(),
            waker: None,
        }
    }

    /// Opens a stream on a connection. If the connection is gone, the reply is dropped.
    pub(crate) fn open(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        lane: Lane,
        reply: OpenReply,
    ) {
        self.queue.push_back(ToSwarm::NotifyHandler {
            peer_id: peer,
            handler: NotifyHandler::One(connection),
            event: Open { lane, reply },
        });
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// An address that this node was seen at, for those behaviours that use it.
    pub(crate) fn observed(&mut self, address: Multiaddr) {
        self.queue
            .push_back(ToSwarm::NewExternalAddrCandidate(address));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// What the gate learned about a connection that has just been established.
    pub(crate) fn admitted(&mut self, connection: ConnectionId) -> Option<Admitted> {
        self.admitted.remove(&connection)
    }

    fn handler(
        &mut self,
        connection: ConnectionId,
        peer: &PeerId,
        remote: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        self.pending.remove(&connection);
        let admitted = self
            .gate
            .take_note(peer, remote)
            .ok_or_else(|| ConnectionDenied::new("the connection did not pass the gate"))?;
        self.admitted.insert(connection, admitted);
        Ok(Handler::new())
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = InboundStream;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let ip = socket_address(remote).map(|(address, _)| address.ip());
        if ip.is_none() && !is_circuit(local) {
            return Err(ConnectionDenied::new("an unknown form of address"));
        }
        let from_ip = self.pending.values().filter(|other| **other == ip).count();
        if self.pending.len() >= PENDING_INBOUND_MAX || from_ip >= PENDING_INBOUND_PER_IP_MAX {
            return Err(ConnectionDenied::new("too many handshakes are pending"));
        }
        self.pending.insert(connection, ip);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.handler(connection, &peer, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.handler(connection, &peer, remote)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ListenFailure(failure) = event {
            self.pending.remove(&failure.connection_id);
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        (lane, stream): THandlerOutEvent<Self>,
    ) {
        self.queue.push_back(ToSwarm::GenerateEvent(InboundStream {
            peer,
            connection,
            lane,
            stream,
        }));
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        match self.queue.pop_front() {
            Some(event) => Poll::Ready(event),
            None => {
                self.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Asks a connection for a stream.
#[derive(Debug)]
pub(crate) struct Open {
    lane: Lane,
    reply: OpenReply,
}

/// One connection's streams.
pub(crate) struct Handler {
    /// When libp2p is next made to look whether the connection is still used. It does so only when
    /// something happens, and the end of the last stream does not count as such.
    look: Pin<Box<Sleep>>,
    asked: VecDeque<Open>,
    /// Streams being negotiated.
    opening: usize,
    inbound: VecDeque<(Lane, Stream)>,
}

impl Handler {
    fn new() -> Self {
        Self {
            look: Box::pin(sleep(LOOK_EVERY)),
            asked: VecDeque::new(),
            opening: 0,
            inbound: VecDeque::new(),
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Open;
    type ToBehaviour = (Lane, Stream);
    type InboundProtocol = Lanes;
    type OutboundProtocol = Lanes;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = OpenReply;

    fn listen_protocol(&self) -> SubstreamProtocol<Lanes> {
        SubstreamProtocol::new(Lanes(Offer::All), ()).with_timeout(NEGOTIATION_TIMEOUT)
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Lanes, OpenReply, Self::ToBehaviour>> {
        while self.look.as_mut().poll(cx).is_ready() {
            self.look.as_mut().reset(Instant::now() + LOOK_EVERY);
        }
        if let Some(inbound) = self.inbound.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(inbound));
        }
        match self.asked.pop_front() {
            Some(Open { lane, reply }) => {
                self.opening += 1;
                let protocol = SubstreamProtocol::new(Lanes(Offer::One(lane)), reply)
                    .with_timeout(NEGOTIATION_TIMEOUT);
                Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
            }
            // No waker: the connection polls its handler after each event that it hands over.
            None => Poll::Pending,
        }
    }

    fn on_behaviour_event(&mut self, open: Open) {
        if self.asked.len() + self.opening >= OPENING_MAX {
            let _ = open.reply.send(Err(OpenFailure::Busy));
        } else {
            self.asked.push_back(open);
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the enum is libp2p's and non-exhaustive; other events carry no stream"
    )]
    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Lanes, Lanes, (), OpenReply>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, name),
                ..
            }) => {
                // Bounded by the muxer's limit on inbound streams.
                if let Some(lane) = Lane::from_protocol(&name) {
                    self.inbound.push_back((lane, stream));
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (stream, _),
                info: reply,
            }) => {
                self.opening = self.opening.saturating_sub(1);
                let _ = reply.send(Ok(stream));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: reply, .. }) => {
                self.opening = self.opening.saturating_sub(1);
                let _ = reply.send(Err(OpenFailure::Negotiation));
            }
            _ => {}
        }
    }
}

/// The lanes offered in a negotiation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lanes(Offer);

#[derive(Debug, Clone, Copy)]
enum Offer {
    All,
    One(Lane),
}

impl UpgradeInfo for Lanes {
    type Info = StreamProtocol;
    type InfoIter = Vec<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        match self.0 {
            Offer::All => Lane::all().map(Lane::protocol).collect(),
            Offer::One(lane) => vec![lane.protocol()],
        }
    }
}

impl InboundUpgrade<Stream> for Lanes {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        ready(Ok((stream, name)))
    }
}

impl OutboundUpgrade<Stream> for Lanes {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        ready(Ok((stream, name)))
    }
}
