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
use libp2p::{PeerId, Swarm, relay, swarm::Config};
use overlay_core::membership::Keys;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use crate::{
    behaviour::{Behaviour, lan},
    call::{CallError, CallRequest, Caller},
    certificate::Credentials,
    channel::{Channel, Lane},
    doors::{Incoming, open_doors},
    frame::FrameStream,
    gate::Gate,
    key::{NodeKey, peer_id_of},
    listen::{ListenError, listen_on_all},
    membership::MeshKeys,
    peering::{Connection, Order, Peering, Wiring},
    streams::Streams,
    transport::gated,
    watchdog::Watchdog,
    ways::{Reachability, Ways},
};

/// Orders waiting for the Swarm's owner.
const ORDERS_MAX: usize = 256;
/// Calls waiting for one peer's stream.
const CALLS_WAITING_MAX: usize = 64;
/// Enrolments waiting for the daemon.
const ENROLMENTS_MAX: usize = 16;
/// How long a raw stream may take to open, dialling included.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);
/// A connection that neither side uses or wants is closed after this: long enough that whoever
/// asks twice need not shake hands twice, short enough that occasional talk costs no memory.
const IDLE_CONNECTION: Duration = Duration::from_secs(10);
/// How long a relay keeps a place for a node, unless it is renewed.
pub const RESERVATION: Duration = Duration::from_secs(3600);

/// What the network needs to start.
pub struct Settings {
    /// This node's identity.
    pub key: NodeKey,
    /// Where to listen: QUIC on UDP and the fallback on TCP, on the same port. Port 0 takes one
    /// that is free for both.
    pub listen: Vec<SocketAddr>,
    /// This node's certificates and what it holds others against; may change at any time.
    pub credentials: watch::Receiver<Arc<Credentials>>,
    /// Whether nodes are looked for, and this one announced, on the local network.
    pub local_discovery: bool,
    /// How long a relay keeps a place for a node; the same on all nodes: [`RESERVATION`].
    pub reservation: Duration,
}

impl Settings {
    /// No discovery on the local network, and the usual patience.
    pub fn new(
        key: NodeKey,
        listen: Vec<SocketAddr>,
        credentials: watch::Receiver<Arc<Credentials>>,
    ) -> Self {
        Self {
            key,
            listen,
            credentials,
            local_discovery: false,
            reservation: RESERVATION,
        }
    }
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

/// Where nodes may be dialled.
#[derive(Debug, Clone, Default)]
pub(crate) struct AddressBook {
    /// Dial candidates by node and source.
    pub(crate) addresses: BTreeMap<(NodeId, Source), Vec<SocketAddr>>,
    /// Through whom nodes are reached that cannot be dialled.
    pub(crate) relays: BTreeMap<NodeId, Vec<NodeId>>,
}

/// Wanted nodes by source.
pub(crate) type WantedSets = BTreeMap<Source, BTreeSet<NodeId>>;

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
    ways: watch::Sender<Ways>,
    relays: watch::Receiver<Vec<NodeId>>,
    reachability: watch::Receiver<Reachability>,
    connections: watch::Receiver<BTreeMap<NodeId, Connection>>,
    listeners: watch::Receiver<BTreeSet<SocketAddr>>,
    enforced: watch::Receiver<LogIndex>,
    watchdog: Arc<Watchdog>,
    keys: Arc<MeshKeys>,
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
            local_discovery,
            reservation,
        } = settings;
        let (enrolment_door, enrolments) = mpsc::channel(ENROLMENTS_MAX);
        let gate = Gate::new(rand::random(), credentials.clone(), enrolment_door);
        let local = key.keypair().public().to_peer_id();
        let mut swarm = swarm(&key, gate, local_discovery, reservation);
        let bound = listen_on_all(&mut swarm, listen)?;

        let keys = Arc::new(MeshKeys::new(&key, credentials.borrow().mesh()));
        let (doors, incoming) = open_doors(enrolments);
        let (orders, order_queue) = mpsc::channel(ORDERS_MAX);
        let (addresses, address_book) = watch::channel(AddressBook::default());
        let (ways, way_set) = watch::channel(Ways::default());
        let (places, relays) = watch::channel(Vec::new());
        let (advice, reachability) = watch::channel(Reachability::default());
        let (wanted, wanted_set) = watch::channel(WantedSets::new());
        let (connection_table, connections) = watch::channel(BTreeMap::new());
        let (listener_set, listeners) = watch::channel(BTreeSet::new());
        let (enforced_by, enforced) = watch::channel(credentials.borrow().revision);
        let watchdog = Arc::new(Watchdog::new());
        let wiring = Wiring {
            local,
            key: key.clone(),
            orders: order_queue,
            order: orders.downgrade(),
            addresses: address_book,
            wanted: wanted_set,
            ways: way_set,
            relays: places,
            reachability: advice,
            credentials,
            connections: connection_table,
            listeners: listener_set,
            enforced: enforced_by,
            watchdog: Arc::clone(&watchdog),
            doors,
        };
        tokio::spawn(Peering::new(swarm, wiring, reservation).run());
        let shared = Arc::new(Shared {
            node: key.node_id(),
            bound,
            runtime: tokio::runtime::Handle::current(),
            orders,
            addresses,
            wanted,
            ways,
            relays,
            reachability,
            connections,
            listeners,
            enforced,
            watchdog,
            keys,
            callers: Mutex::default(),
        });
        Ok((Self { shared }, incoming))
    }

    /// What this node's membership core signs with.
    pub fn membership_keys(&self) -> Arc<dyn Keys> {
        self.shared.keys.clone()
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

    /// How nodes are reached that cannot be dialled; replaces what was set before.
    pub fn set_ways(&self, ways: Ways) {
        self.shared.ways.send_if_modified(|present| {
            let changed = *present != ways;
            *present = ways;
            changed
        });
    }

    /// Whether connections are not carried at present.
    pub(crate) fn is_standing_still(&self) -> bool {
        self.shared.watchdog.is_late()
    }

    /// How this node is seen from elsewhere.
    pub fn reachability(&self) -> watch::Receiver<Reachability> {
        self.shared.reachability.clone()
    }

    /// The relays that keep a place for this node; empty when it needs none, or has none yet.
    pub fn relays(&self) -> watch::Receiver<Vec<NodeId>> {
        self.shared.relays.clone()
    }

    /// The nodes to stay connected to, besides membership's neighbours; replaces the former set.
    pub fn set_wanted(&self, peers: BTreeSet<NodeId>) {
        self.want(Source::Daemon, peers);
    }

    pub(crate) fn note_addresses(&self, node: NodeId, source: Source, addresses: Vec<SocketAddr>) {
        let key = (node, source);
        self.shared.addresses.send_if_modified(|book| {
            let book = &mut book.addresses;
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

    /// Through whom a node is reached that cannot be dialled; replaces what was set before.
    pub fn set_relays_of(&self, node: NodeId, relays: Vec<NodeId>) {
        self.shared.addresses.send_if_modified(|book| {
            let before = book.relays.get(&node).map_or(&[][..], Vec::as_slice);
            let changed = before != relays;
            if relays.is_empty() {
                book.relays.remove(&node);
            } else {
                book.relays.insert(node, relays);
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

/// What carries connections, with nothing listened on yet.
fn swarm(
    key: &NodeKey,
    gate: Gate,
    local_discovery: bool,
    reservation: Duration,
) -> Swarm<Behaviour> {
    let local = key.keypair().public().to_peer_id();
    let (relayed, circuits) = relay::client::new(local);
    let lan = local_discovery.then(|| lan(local)).flatten();
    let streams = Streams::new(gate.clone());
    Swarm::new(
        gated(key, gate, relayed),
        Behaviour::new(local, streams, circuits, lan, reservation),
        local,
        Config::with_tokio_executor()
            .with_idle_connection_timeout(IDLE_CONNECTION)
            .with_smart_dial(),
    )
}
