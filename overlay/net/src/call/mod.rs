//! Calls: one request, one answer, many at once over one persistent stream per peer and channel.
//!
//! Decides the frames of a call and what a caller is told when none comes back. A request is its
//! id (eight bytes, big-endian) and its body; an answer is the id, a status byte and a body.
//!
//! Invariants: an answer goes to the request with its id or to nobody; a request is sent at most
//! once, so [`CallError::Unreachable`] means that it was not sent, while after
//! [`CallError::Timeout`] and [`CallError::Lost`] its outcome is unknown.

mod client;
mod server;

use std::time::Duration;

use consensus_core::NodeId;
use tokio::sync::oneshot;

pub(crate) use self::{
    client::{CallRequest, Caller, refusal, split},
    server::serve,
};
use crate::{channel::Channel, peering::NoStream, refusal::Refused};

/// Bytes of a frame besides the body.
const ENVELOPE_BYTES: usize = 9;
/// Status of an answer: the body is the answer.
const STATUS_OK: u8 = 0;
/// Status of an answer: the body is a refusal.
const STATUS_REFUSED: u8 = 1;

/// Longest frame of a channel's calls.
const fn frame_bytes_max(channel: Channel) -> usize {
    channel.frame_bytes_max() + ENVELOPE_BYTES
}

/// A request from another node.
#[derive(Debug)]
pub struct IncomingCall {
    /// Who asks; admitted by the gate.
    pub from: NodeId,
    /// The request.
    pub body: Vec<u8>,
    /// The answer. Dropping it refuses the call.
    pub reply: oneshot::Sender<Result<Vec<u8>, Refused>>,
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No connection to the peer came about; the request was not sent.
    #[error("the node is unreachable: {reason}")]
    Unreachable {
        /// What the attempts came to.
        reason: String,
    },
    /// One of the two nodes did not admit the other; the request was not sent.
    #[error("the connection was not admitted: {0}")]
    NotAdmitted(Refused),
    /// No answer within the deadline; the request may have been carried out.
    #[error("no answer within {} ms", .after.as_millis())]
    Timeout {
        /// The deadline.
        after: Duration,
    },
    /// The connection broke while the request was under way; it may have been carried out.
    #[error("the connection broke before the answer")]
    Lost,
    /// The request is longer than its channel allows.
    #[error("a request of {bytes} bytes exceeds the channel's {max}")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The channel's limit.
        max: usize,
    },
    /// Too many calls to this peer wait already; the request was not sent.
    #[error("too many calls to the node are waiting")]
    Busy,
    /// The peer's handler refused.
    #[error("{0}")]
    Refused(Refused),
    /// This node's network has stopped.
    #[error("the network has stopped")]
    Stopped,
}

impl CallError {
    /// Stable code; the peer's own where it refused.
    pub fn code(&self) -> &str {
        match self {
            Self::Unreachable { .. } => "CallUnreachableError",
            Self::NotAdmitted(refused) | Self::Refused(refused) => &refused.code,
            Self::Timeout { .. } => "CallTimeoutError",
            Self::Lost => "CallLostError",
            Self::TooLarge { .. } => "CallTooLargeError",
            Self::Busy => "CallBusyError",
            Self::Stopped => "CallStoppedError",
        }
    }

    /// What to do; empty where nothing helps but trying again.
    pub fn hint(&self) -> &str {
        match self {
            Self::Unreachable { .. } => {
                "check that shoald runs there and that its UDP and TCP port are open on the way"
            }
            Self::NotAdmitted(refused) | Self::Refused(refused) => &refused.hint,
            Self::Timeout { .. }
            | Self::Lost
            | Self::TooLarge { .. }
            | Self::Busy
            | Self::Stopped => "",
        }
    }

    /// Whether the request certainly was not carried out.
    pub fn is_unsent(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::NotAdmitted(_)
            | Self::TooLarge { .. }
            | Self::Busy => true,
            Self::Timeout { .. } | Self::Lost | Self::Refused(_) | Self::Stopped => false,
        }
    }
}

impl From<NoStream> for CallError {
    fn from(failure: NoStream) -> Self {
        match failure {
            NoStream::Unreachable(reason) => Self::Unreachable { reason },
            NoStream::NotAdmitted(refused) => Self::NotAdmitted(refused),
            NoStream::Busy => Self::Busy,
        }
    }
}
