//! What Raft asks of the network: one opaque request, one opaque answer, a time limit.
//!
//! Decides nothing. Never authenticates: the carrier hands over a request only if it comes from
//! an admitted server, and delivers only to the node that was named.

use std::time::Duration;

use consensus_core::NodeId;
use futures::future::BoxFuture;

/// Which stream a message travels on, so that a snapshot never delays a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Votes, heartbeats, log entries: small and urgent.
    Rpc,
    /// Pieces of a snapshot, one at a time: large and patient.
    Snapshot,
}

/// Why a call brought no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CarrierError {
    /// There is no way to the node at present; Raft waits a little before it tries again.
    #[error("no way to the node: {0}")]
    Unreachable(String),
    /// The exchange broke off; Raft tries again at once.
    #[error("the exchange broke off: {0}")]
    Broken(String),
}

/// Brings a request to another server and its answer back.
pub trait Carrier: Send + Sync + 'static {
    /// Sends `body` to `to` and waits for the answer, at most `ttl`. The other side passes the
    /// body to [`Agreement::handle`](crate::Agreement::handle) and sends back what it returns.
    ///
    /// The future is polled on the Raft thread and must not block.
    fn call(
        &self,
        to: &NodeId,
        lane: Lane,
        body: Vec<u8>,
        ttl: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, CarrierError>>;
}
