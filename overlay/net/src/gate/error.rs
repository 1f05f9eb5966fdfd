//! Why the gate stays shut.

use std::io;

use consensus_authority::Refusal;
use consensus_core::NodeId;

use crate::refusal::Refused;

/// Why a connection was not admitted.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The peer has no certificate of this mesh, or another node's.
    #[error("the peer is a stranger: {0}")]
    Stranger(&'static str),
    /// The peer belongs to another mesh.
    #[error("the peer belongs to another mesh")]
    WrongMesh,
    /// A certificate of the peer's chain has expired.
    #[error("the peer's certificate has expired")]
    Expired,
    /// A certificate of the peer's chain is not valid yet.
    #[error("the peer's certificate is not valid yet")]
    NotYetValid,
    /// A certificate of the peer's chain has been revoked.
    #[error("the peer's certificate {serial} has been revoked")]
    Revoked {
        /// Its serial number.
        serial: String,
    },
    /// The server that issued the peer's certificate no longer issues, and nobody knows of it.
    #[error("the peer's certificate comes from a server that no longer issues")]
    Retired,
    /// The peer was removed from the mesh, whatever it shows.
    #[error("the peer was removed from the mesh")]
    Removed,
    /// The peer's bytes are no message of the gate, or no certificate.
    #[error("the peer's admission message is malformed: {0}")]
    Malformed(&'static str),
    /// The peer speaks another version.
    #[error("the peer speaks version {0} of the admission protocol")]
    Version(u8),
    /// Another node answers at the dialled address.
    #[error("the node at this address is {found}, not {expected}")]
    WrongPeer {
        /// Who was dialled.
        expected: String,
        /// Who answered.
        found: String,
    },
    /// The peer refused this node.
    #[error("the peer refused this node: {0}")]
    RefusedByPeer(Refused),
    /// The exchange did not end in time.
    #[error("the admission exchange timed out")]
    Timeout,
    /// Too many enrolments at once.
    #[error("too many enrolments are under way")]
    Busy,
    /// The connection broke.
    #[error("the connection broke during the admission exchange")]
    Broken(#[source] io::Error),
    /// A joiner has been served; its connection was never meant to stay.
    #[error("the enrolment of {0} has been served")]
    Enrolled(NodeId),
}

impl GateError {
    /// Stable code; that of the peer where the peer refused.
    pub fn code(&self) -> &str {
        match self {
            Self::Stranger(_) => "AdmissionStrangerError",
            Self::WrongMesh => "AdmissionWrongMeshError",
            Self::Expired => "AdmissionExpiredError",
            Self::NotYetValid => "AdmissionNotYetValidError",
            Self::Revoked { .. } => "AdmissionRevokedError",
            Self::Retired => "AdmissionRetiredError",
            Self::Removed => "AdmissionRemovedError",
            Self::Malformed(_) => "AdmissionMalformedError",
            Self::Version(_) => "AdmissionVersionError",
            Self::WrongPeer { .. } => "AdmissionWrongPeerError",
            Self::RefusedByPeer(refused) => &refused.code,
            Self::Timeout => "AdmissionTimeoutError",
            Self::Busy => "AdmissionBusyError",
            Self::Broken(_) => "AdmissionBrokenError",
            Self::Enrolled(_) => "AdmissionEnrolled",
        }
    }

    /// What to do; empty where nothing helps but waiting.
    pub fn hint(&self) -> &str {
        match self {
            Self::Stranger(_) => "enrol the node with a token of this mesh",
            Self::WrongMesh => "check the address: another mesh listens there",
            Self::Expired => {
                "the node is given a new one when it proves its key to a server; if that does not happen within a minute, check both clocks and its log"
            }
            Self::NotYetValid => "check both nodes' clocks",
            Self::Revoked { .. } | Self::Removed => {
                "the node was removed from the mesh; enrol it again if that was a mistake"
            }
            Self::Retired => "the node is given a new one when it reaches a current server",
            Self::Malformed(_) => "check that a shoal daemon listens at this address",
            Self::Version(_) => "run the same release of shoal on both nodes",
            Self::WrongPeer { .. } => {
                "the node at this address has changed; update its address or remove the old node"
            }
            Self::RefusedByPeer(refused) => &refused.hint,
            Self::Busy => "try again in a few seconds",
            Self::Timeout | Self::Broken(_) | Self::Enrolled(_) => "",
        }
    }

    /// Whether the peer may be told, and is still there to hear it.
    pub(crate) fn is_verdict(&self) -> bool {
        match self {
            Self::Stranger(_)
            | Self::WrongMesh
            | Self::Expired
            | Self::NotYetValid
            | Self::Revoked { .. }
            | Self::Retired
            | Self::Removed
            | Self::Malformed(_)
            | Self::Version(_)
            | Self::Busy => true,
            Self::WrongPeer { .. }
            | Self::RefusedByPeer(_)
            | Self::Timeout
            | Self::Broken(_)
            | Self::Enrolled(_) => false,
        }
    }

    /// The verdict as the local caller reads it, whichever side spoke it.
    pub(crate) fn to_caller(&self) -> Refused {
        if let Self::RefusedByPeer(refused) = self {
            return refused.clone();
        }
        Refused::new(self.code(), self.to_string(), self.hint())
    }

    /// The verdict as the refused peer reads it.
    pub(crate) fn to_refused(&self) -> Refused {
        let message = match self {
            Self::Stranger(reason) => format!("the mesh does not know this node: {reason}"),
            Self::WrongMesh => "this node belongs to another mesh".to_owned(),
            Self::Expired => "this node's certificate has expired".to_owned(),
            Self::NotYetValid => "this node's certificate is not valid yet".to_owned(),
            Self::Revoked { serial } => {
                format!("this node's certificate {serial} has been revoked")
            }
            Self::Retired => {
                "this node's certificate comes from a server that no longer issues".to_owned()
            }
            Self::Removed => "this node was removed from the mesh".to_owned(),
            Self::Malformed(reason) => {
                format!("this node's admission message is malformed: {reason}")
            }
            Self::Version(version) => {
                format!("version {version} of the admission protocol is not spoken here")
            }
            Self::WrongPeer { .. }
            | Self::RefusedByPeer(_)
            | Self::Timeout
            | Self::Busy
            | Self::Broken(_)
            | Self::Enrolled(_) => self.to_string(),
        };
        Refused::new(self.code(), message, self.hint())
    }
}

impl From<Refusal> for GateError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Malformed(reason) => Self::Malformed(reason),
            Refusal::WrongRoot(reason) => Self::Stranger(reason),
            Refusal::WrongMesh { .. } => Self::WrongMesh,
            Refusal::WrongProfile { .. } => Self::Stranger("its certificate is not a node's"),
            Refusal::WrongNode { .. } => Self::Stranger("its certificate is another node's"),
            Refusal::Expired { .. } => Self::Expired,
            Refusal::NotYetValid { .. } => Self::NotYetValid,
            Refusal::Revoked { serial } => Self::Revoked { serial },
            Refusal::Retired { .. } => Self::Retired,
        }
    }
}

impl From<io::Error> for GateError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::InvalidData {
            Self::Malformed("a message is too long")
        } else {
            Self::Broken(error)
        }
    }
}
