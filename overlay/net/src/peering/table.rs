//! What is known of each peer.
//!
//! Decides which of a peer's connections is used, and when a peer may be forgotten.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
};

use libp2p::{Stream, swarm::ConnectionId};
use tokio::{sync::oneshot, task::AbortHandle};

use super::{
    NoStream, StreamReply, Transport,
    plan::{DialPlan, Rank, Suspicion},
    pulse,
};
use crate::{certificate::Proof, channel::Lane, streams::OpenFailure};

/// The gate's code for another node at the dialled address.
const WRONG_PEER: &str = "AdmissionWrongPeerError";

/// A peer.
#[derive(Default)]
pub(super) struct Peer {
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) wanted: bool,
    pub(super) links: Vec<Link>,
    /// Who waits for a connection.
    pub(super) waiting: VecDeque<(Lane, StreamReply)>,
    /// Dials under way.
    pub(super) attempts: BTreeSet<ConnectionId>,
    /// Those of them that only ask whether the peer still lives.
    pub(super) probes: BTreeSet<ConnectionId>,
    pub(super) plan: DialPlan,
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

    pub(super) fn needs_connection(&self) -> bool {
        self.links.is_empty() && (self.wanted || !self.waiting.is_empty())
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
            && !self.wanted
            && self.links.is_empty()
            && self.waiting.is_empty()
            && self.attempts.is_empty()
    }
}

/// One connection to a peer.
pub(super) struct Link {
    pub(super) connection: ConnectionId,
    pub(super) remote: SocketAddr,
    pub(super) transport: Transport,
    /// Whether the node with the smaller id dialled it.
    pub(super) smaller_dialled: bool,
    pub(super) instance: u64,
    pub(super) proof: Proof,
    pub(super) hold: Option<Hold>,
}

impl Link {
    fn rank(&self) -> Rank {
        Rank {
            quic: self.transport == Transport::Quic,
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
