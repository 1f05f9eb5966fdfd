//! What the task that owns the Swarm is told, and what it watches and reports to.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use consensus_core::{LogIndex, NodeId};
use libp2p::{PeerId, Stream, swarm::ConnectionId};
use tokio::sync::{mpsc, oneshot, watch};

use super::Connection;
use crate::{
    certificate::Credentials,
    channel::Lane,
    doors::Doors,
    key::NodeKey,
    net::{AddressBook, WantedSets},
    reach::Answer,
    refusal::Refused,
    watchdog::Watchdog,
    ways::{Reachability, Ways},
};

/// Why there is no stream to a peer.
#[derive(Debug, Clone)]
pub(crate) enum NoStream {
    Unreachable(String),
    NotAdmitted(Refused),
    Busy,
}

pub(crate) type StreamReply = oneshot::Sender<Result<Stream, NoStream>>;

/// What the task is told to do.
pub(crate) enum Order {
    /// Open a stream, dialling first if need be.
    Open {
        to: PeerId,
        lane: Lane,
        reply: StreamReply,
    },
    /// A call to this peer went unanswered.
    Suspect(PeerId),
    /// This connection is dead.
    Dead(ConnectionId),
    /// The peer has shown a new chain over this connection.
    Renewed(PeerId, ConnectionId, Vec<Vec<u8>>),
    /// The peer no longer wants this connection to stay.
    LetGo(PeerId, ConnectionId),
    /// What came of this peer's dialling back.
    Reached(PeerId, Answer),
    /// Close every connection to this peer.
    Disconnect(PeerId),
    /// Close everything; answered when done.
    Stop(oneshot::Sender<()>),
}

/// What the task watches and reports to.
pub(crate) struct Wiring {
    pub(crate) local: PeerId,
    /// To dial nodes back that ask for it.
    pub(crate) key: NodeKey,
    pub(crate) orders: mpsc::Receiver<Order>,
    /// For the tasks that this one spawns.
    pub(crate) order: mpsc::WeakSender<Order>,
    pub(crate) addresses: watch::Receiver<AddressBook>,
    pub(crate) wanted: watch::Receiver<WantedSets>,
    pub(crate) ways: watch::Receiver<Ways>,
    pub(crate) credentials: watch::Receiver<Arc<Credentials>>,
    pub(crate) connections: watch::Sender<BTreeMap<NodeId, Connection>>,
    pub(crate) listeners: watch::Sender<BTreeSet<SocketAddr>>,
    /// Where this node has a place.
    pub(crate) relays: watch::Sender<Vec<NodeId>>,
    /// How this node is seen from elsewhere.
    pub(crate) reachability: watch::Sender<Reachability>,
    /// By which credentials' revision the connections have been looked through.
    pub(crate) enforced: watch::Sender<LogIndex>,
    /// Shown that this task runs.
    pub(crate) watchdog: Arc<Watchdog>,
    pub(crate) doors: Doors,
}
