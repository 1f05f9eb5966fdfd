//! The network as the daemon sees it: calls, streams, addresses, connections.
//!
//! Decides nothing: it hands orders to the task that owns the Swarm, and requests to the tasks
//! that own the streams.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use consensus_core::{LogIndex, NodeId};
use libp2p::{PeerId, Swarm, swarm::Config};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use crate::{
    call::{CallError, CallRequest, Caller, IncomingCall},
    certificate::Credentials,
    channel::{Channel, Lane},
    enrolment::EnrolmentRequest,
    frame::FrameStream,
    gate::Gate,
    key::{NodeKey, peer_id_of},
    listen::{ListenError, listen_on},
    peering::{Connection, Order, Peering, Wiring},
    streams::Streams,
    transport::gated,
};

/// Orders waiting for the Swarm's owner.
const ORDERS_MAX: usize = 256;
/// Calls waiting for one peer's stream.
const CALLS_WAITING_MAX: usize = 64;
/// Requests waiting for the daemon, per channel.
const INCOMING_CALLS_MAX: usize = 128;
/// Streams waiting for the daemon, per channel.
const INCOMING_STREAMS_MAX: usize = 32;
/// Enrolments waiting for the daemon.
const ENROLMENTS_MAX: usize = 16;
/// How long a raw stream may take to open, dialling included.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);
/// A connection that neither side uses or wants is closed after this.
const IDLE_CONNECTION: Duration = Duration::from_secs(60);

/// What the network needs to start.
pub struct Settings {
    /// This node's identity.
    pub key: NodeKey,
    /// Where to listen: QUIC on UDP and the fallback on TCP, on the same port. Port 0 takes one
    /// that is free for both.
    pub listen: Vec<SocketAddr>,
    /// This node's certificates and what it holds others against; may change at any time.
    pub credentials: watch::Receiver<Arc<Credentials>>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("key", &self.key)
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

/// Who says where a node may be dialled, or that it is wanted. Both are heeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// The node's own word, passed on by membership; its addresses are the freshest.
    Membership,
    /// The daemon, from the agreed state.
    Daemon,
}

/// Dial candidates by node and source.
pub(crate) type AddressBook = BTreeMap<(NodeId, Source), Vec<SocketAddr>>;
/// Wanted nodes by source.
pub(crate) type WantedSets = BTreeMap<Source, BTreeSet<NodeId>>;

/// Where inbound calls and streams go.
pub(crate) struct Doors {
    pub(crate) calls: BTreeMap<Channel, mpsc::Sender<IncomingCall>>,
    pub(crate) streams: BTreeMap<Channel, mpsc::Sender<(NodeId, FrameStream)>>,
}

/// What other nodes want of this one. A channel whose receiver is dropped refuses its calls.
#[derive(Debug)]
pub struct Incoming {
    /// Requests, by channel.
    pub calls: BTreeMap<Channel, mpsc::Receiver<IncomingCall>>,
    /// Raw streams, by channel.
    pub streams: BTreeMap<Channel, mpsc::Receiver<(NodeId, FrameStream)>>,
    /// Joiners.
    pub enrolments: mpsc::Receiver<EnrolmentRequest>,
}

impl Incoming {
    /// Takes the requests of a channel; `None` if they were taken before.
    pub fn take_calls(&mut self, channel: Channel) -> Option<mpsc::Receiver<IncomingCall>> {
        self.calls.remove(&channel)
    }

    /// Takes the raw streams of a channel; `None` if they were taken before.
    pub fn take_streams(
        &mut self,
        channel: Channel,
    ) -> Option<mpsc::Receiver<(NodeId, FrameStream)>> {
        self.streams.remove(&channel)
    }
}

/// A handle to the network; cheap to clone, usable from any runtime.
#[derive(Clone)]
pub struct Net {
    shared: Arc<Shared>,
}

struct Shared {
    node: NodeId,
    bound: Vec<SocketAddr>,
    runtime: tokio::runtime::Handle,
    orders: mpsc::Sender<Order>,
    addresses: watch::Sender<AddressBook>,
    wanted: watch::Sender<WantedSets>,
    connections: watch::Receiver<BTreeMap<NodeId, Connection>>,
    listeners: watch::Receiver<BTreeSet<SocketAddr>>,
    enforced: watch::Receiver<LogIndex>,
    /// A lock so that a call from any thread finds its stream's task without a detour; never held
    /// across an await.
    callers: Mutex<BTreeMap<(PeerId, Channel), mpsc::Sender<CallRequest>>>,
}

impl Net {
    /// Listens and starts; must run inside a tokio runtime, which the connections then use.
    pub fn start(settings: Settings) -> Result<(Self, Incoming), ListenError> {
        let Settings {
            key,
            listen,
            credentials,
        } = settings;
        let (enrolment_door, enrolments) = mpsc::channel(ENROLMENTS_MAX);
        let gate = Gate::new(rand::random(), credentials.clone(), enrolment_door);
        let local = key.keypair().public().to_peer_id();
        let mut swarm = Swarm::new(
            gated(&key, gate.clone()),
            Streams::new(gate),
            local,
            Config::with_tokio_executor()
                .with_idle_connection_timeout(IDLE_CONNECTION)
                .with_smart_dial(),
        );
        let bound = listen
            .into_iter()
            .map(|address| listen_on(&mut swarm, address))
            .collect::<Result<Vec<_>, _>>()?;

        let (doors, incoming) = open_doors(enrolments);
        let (orders, order_queue) = mpsc::channel(ORDERS_MAX);
        let (addresses, address_book) = watch::channel(AddressBook::new());
        let (wanted, wanted_set) = watch::channel(WantedSets::new());
        let (connection_table, connections) = watch::channel(BTreeMap::new());
        let (listener_set, listeners) = watch::channel(BTreeSet::new());
        let (enforced_by, enforced) = watch::channel(credentials.borrow().revision);
        let wiring = Wiring {
            local,
            orders: order_queue,
            order: orders.downgrade(),
            addresses: address_book,
            wanted: wanted_set,
            credentials,
            connections: connection_table,
            listeners: listener_set,
            enforced: enforced_by,
            doors,
        };
        tokio::spawn(Peering::new(swarm, wiring).run());
        let shared = Shared {
            node: key.node_id(),
            bound,
            runtime: tokio::runtime::Handle::current(),
            orders,
            addresses,
            wanted,
            connections,
            listeners,
            enforced,
            callers: Mutex::default(),
        };
        let net = Self {
            shared: Arc::new(shared),
        };
        Ok((net, incoming))
    }

    /// This node.
    pub fn node(&self) -> &NodeId {
        &self.shared.node
    }

    /// The addresses it was told to listen on, with their actual ports. A wildcard stays one.
    pub fn bound(&self) -> &[SocketAddr] {
        &self.shared.bound
    }

    /// The addresses it can be reached at, wildcards expanded to the interfaces' addresses.
    pub fn listeners(&self) -> watch::Receiver<BTreeSet<SocketAddr>> {
        self.shared.listeners.clone()
    }

    /// The connections in use.
    pub fn connections(&self) -> watch::Receiver<BTreeMap<NodeId, Connection>> {
        self.shared.connections.clone()
    }

    /// The revision of the credentials by which every live connection has been looked through: who
    /// is not believed by them is cut off.
    pub fn enforced(&self) -> watch::Receiver<LogIndex> {
        self.shared.enforced.clone()
    }

    /// Where a node may be dialled; replaces what was set before. Addresses that membership has
    /// heard from the node itself are used as well. An empty list forgets it.
    pub fn set_addresses(&self, node: NodeId, addresses: Vec<SocketAddr>) {
        self.note_addresses(node, Source::Daemon, addresses);
    }

    /// The nodes to stay connected to, besides membership's neighbours; replaces the former set.
    pub fn set_wanted(&self, peers: BTreeSet<NodeId>) {
        self.want(Source::Daemon, peers);
    }

    pub(crate) fn note_addresses(&self, node: NodeId, source: Source, addresses: Vec<SocketAddr>) {
        let key = (node, source);
        self.shared.addresses.send_if_modified(|book| {
            if addresses.is_empty() {
                return book.remove(&key).is_some();
            }
            let changed = book.get(&key) != Some(&addresses);
            if changed {
                book.insert(key, addresses);
            }
            changed
        });
    }

    pub(crate) fn want(&self, source: Source, peers: BTreeSet<NodeId>) {
        self.shared.wanted.send_if_modified(|wanted| {
            let changed = wanted.get(&source) != Some(&peers);
            wanted.insert(source, peers);
            changed
        });
    }

    /// Sends a request over the peer's persistent stream of this channel and awaits the answer.
    ///
    /// Connects first if need be. Dropping the future gives up on the answer, not on the request.
    pub async fn call(
        &self,
        to: &NodeId,
        channel: Channel,
        body: Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, CallError> {
        let max = channel.frame_bytes_max();
        if body.len() > max {
            let bytes = body.len();
            return Err(CallError::TooLarge { bytes, max });
        }
        let peer = self.peer(to)?;
        let (reply, answer) = oneshot::channel();
        self.hand_over(peer, channel, CallRequest { body, reply })?;
        match timeout(deadline, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(CallError::Stopped),
            Err(_) if self.shared.connections.borrow().contains_key(to) => {
                // The peer may have restarted. A full queue means that others have said so too.
                let _ = self.shared.orders.try_send(Order::Suspect(peer));
                Err(CallError::Timeout { after: deadline })
            }
            Err(_) => Err(CallError::Unreachable {
                reason: "no connection within the deadline".to_owned(),
            }),
        }
    }

    /// Opens a raw stream of frames.
    pub async fn open(&self, to: &NodeId, channel: Channel) -> Result<FrameStream, CallError> {
        let (reply, stream) = oneshot::channel();
        let order = Order::Open {
            to: self.peer(to)?,
            lane: Lane::Stream(channel),
            reply,
        };
        let opened = async {
            self.order(order).await?;
            match stream.await {
                Ok(result) => result.map_err(CallError::from),
                Err(_) => Err(CallError::Stopped),
            }
        };
        let stream =
            timeout(OPEN_DEADLINE, opened)
                .await
                .map_err(|_| CallError::Unreachable {
                    reason: "no stream within the deadline".to_owned(),
                })??;
        Ok(FrameStream::new(stream, channel))
    }

    /// Closes every connection to a node. If it is wanted, it is dialled again.
    pub fn disconnect(&self, node: &NodeId) {
        if let Ok(peer) = self.peer(node)
            && self
                .shared
                .orders
                .try_send(Order::Disconnect(peer))
                .is_err()
        {
            tracing::warn!(%node, "not disconnected: too many orders are waiting");
        }
    }

    /// Tells every peer, closes every connection and listener, and ends.
    pub async fn stop(self) {
        let (done, stopped) = oneshot::channel();
        if self.order(Order::Stop(done)).await.is_ok() {
            let _ = stopped.await;
        }
    }

    fn peer(&self, node: &NodeId) -> Result<PeerId, CallError> {
        peer_id_of(node)
            .filter(|_| *node != self.shared.node)
            .ok_or_else(|| CallError::Unreachable {
                reason: format!("{node} cannot be dialled from here"),
            })
    }

    async fn order(&self, order: Order) -> Result<(), CallError> {
        self.shared
            .orders
            .send(order)
            .await
            .map_err(|_| CallError::Stopped)
    }

    /// Gives a call to the task of its stream, starting one where there is none.
    fn hand_over(
        &self,
        to: PeerId,
        channel: Channel,
        mut call: CallRequest,
    ) -> Result<(), CallError> {
        let mut callers = self
            .shared
            .callers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(caller) = callers.get(&(to, channel)) {
            call = match caller.try_send(call) {
                Ok(()) => return Ok(()),
                Err(mpsc::error::TrySendError::Full(_)) => return Err(CallError::Busy),
                Err(mpsc::error::TrySendError::Closed(call)) => call,
            };
        }
        callers.retain(|_, caller| !caller.is_closed());
        let (sender, calls) = mpsc::channel(CALLS_WAITING_MAX);
        let caller = Caller {
            to,
            channel,
            calls,
            orders: self.shared.orders.clone(),
        };
        let sent = sender.try_send(call);
        debug_assert!(sent.is_ok(), "a new queue has room");
        callers.insert((to, channel), sender);
        self.shared.runtime.spawn(caller.run());
        Ok(())
    }
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Net({})", self.shared.node)
    }
}

fn open_doors(enrolments: mpsc::Receiver<EnrolmentRequest>) -> (Doors, Incoming) {
    let mut doors = Doors {
        calls: BTreeMap::new(),
        streams: BTreeMap::new(),
    };
    let mut incoming = Incoming {
        calls: BTreeMap::new(),
        streams: BTreeMap::new(),
        enrolments,
    };
    for channel in Channel::ALL {
        let (door, calls) = mpsc::channel(INCOMING_CALLS_MAX);
        doors.calls.insert(channel, door);
        incoming.calls.insert(channel, calls);
        let (door, streams) = mpsc::channel(INCOMING_STREAMS_MAX);
        doors.streams.insert(channel, door);
        incoming.streams.insert(channel, streams);
    }
    (doors, incoming)
}
