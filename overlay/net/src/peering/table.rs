//! What is known of each peer.
//!
//! Decides which of a peer's connections is used, and when a peer may be forgotten.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
};

use libp2p::{PeerId, Stream, swarm::ConnectionId};
use tokio::{sync::oneshot, task::AbortHandle};

use super::{
    NoStream, StreamReply, Transport,
    plan::{DialPlan, Known, Rank, Suspicion, Upgrade},
    pulse,
};
use crate::{certificate::Proof, channel::Lane, streams::OpenFailure};

/// The gate's code for another node at the dialled address.
const WRONG_PEER: &str = "AdmissionWrongPeerError";

/// A peer.
#[derive(Default)]
pub(super) struct Peer {
    pub(super) addresses: Vec<SocketAddr>,
    /// Who keeps a place for it.
    pub(super) relays: Vec<PeerId>,
    /// The address at which it was reached last.
    pub(super) good: Option<SocketAddr>,
    /// Somebody here wants to stay connected to it.
    pub(super) wanted: bool,
    /// It is, or is to be, this node's relay.
    pub(super) reserved: bool,
    pub(super) links: Vec<Link>,
    /// Who waits for a connection.
    pub(super) waiting: VecDeque<(Lane, StreamReply)>,
    /// Dials under way.
    pub(super) attempts: BTreeSet<ConnectionId>,
    /// Those of them that only ask whether the peer still lives.
    pub(super) probes: BTreeSet<ConnectionId>,
    pub(super) plan: DialPlan,
    pub(super) upgrade: Upgrade,
    pub(super) suspicion: Suspicion,
    pub(super) last_failure: Option<NoStream>,
}

impl Peer {
    /// The connection in use.
    pub(super) fn best(&self) -> Option<&Link> {
        self.links
            .iter()
            .max_by_key(|link| (link.rank(), Reverse(link.connection)))
    }

    /// Whether its connection is to be kept.
    pub(super) fn is_kept(&self) -> bool {
        self.wanted || self.reserved
    }

    pub(super) fn needs_connection(&self) -> bool {
        self.links.is_empty() && (self.is_kept() || !self.waiting.is_empty())
    }

    pub(super) fn is_connected_directly(&self) -> bool {
        self.links.iter().any(|link| link.way.is_direct())
    }

    /// What a round of dials has to work with.
    pub(super) fn known(&self) -> Known {
        let good = self.good.is_some_and(|good| self.addresses.contains(&good));
        Known {
            addresses: !self.addresses.is_empty(),
            good: good && self.addresses.len() > 1,
            relays: !self.relays.is_empty(),
        }
    }

    /// Connections that belong to another process of the peer than `instance`.
    pub(super) fn other_instances(&self, instance: u64) -> Vec<ConnectionId> {
        self.links
            .iter()
            .filter(|link| link.instance != instance)
            .map(|link| link.connection)
            .collect()
    }

    /// Whether a failure is the peer's own answer. Another node at one of several addresses is
    /// not: the peer may be at the next.
    pub(super) fn is_verdict(&self, failure: &NoStream) -> bool {
        match failure {
            NoStream::NotAdmitted(refused) => {
                refused.code != WRONG_PEER || self.addresses.len() == 1
            }
            NoStream::Unreachable(_) | NoStream::Busy => false,
        }
    }

    /// Keeps the failure that says most: an answer outweighs silence.
    pub(super) fn note_failure(&mut self, failure: NoStream) {
        let answered = matches!(self.last_failure, Some(NoStream::NotAdmitted(_)));
        if !answered || matches!(failure, NoStream::NotAdmitted(_)) {
            self.last_failure = Some(failure);
        }
    }

    pub(super) fn is_forgettable(&self) -> bool {
        self.addresses.is_empty()
            && self.relays.is_empty()
            && !self.is_kept()
            && self.links.is_empty()
            && self.waiting.is_empty()
            && self.attempts.is_empty()
    }
}

/// Where a connection leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Direct(SocketAddr, Transport),
    /// Through this relay, where it is known.
    Relayed(Option<PeerId>),
}

impl Way {
    pub(super) const fn is_direct(self) -> bool {
        matches!(self, Self::Direct(..))
    }
}

/// One connection to a peer.
pub(super) struct Link {
    pub(super) connection: ConnectionId,
    pub(super) way: Way,
    /// Whether the node with the smaller id dialled it.
    pub(super) smaller_dialled: bool,
    pub(super) instance: u64,
    pub(super) proof: Proof,
    /// This node's wish to keep it.
    pub(super) hold: Option<Hold>,
    /// The peer's wish to keep it: how many streams say so.
    pub(super) held_by_peer: usize,
}

impl Link {
    /// Whether either end wants it to stay.
    pub(super) const fn is_kept(&self) -> bool {
        self.hold.is_some() || self.held_by_peer > 0
    }

    fn rank(&self) -> Rank {
        Rank {
            direct: self.way.is_direct(),
            quic: matches!(self.way, Way::Direct(_, Transport::Quic)),
            smaller_dialled: self.smaller_dialled,
        }
    }
}

/// The task that keeps a hold; dropping it lets go.
pub(super) struct Hold(AbortHandle);

impl Hold {
    pub(super) fn spawn(opened: oneshot::Receiver<Result<Stream, OpenFailure>>) -> Self {
        let task = tokio::spawn(async move {
            if let Ok(Ok(stream)) = opened.await {
                pulse::hold(stream).await;
            }
        });
        Self(task.abort_handle())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.abort();
    }
}
