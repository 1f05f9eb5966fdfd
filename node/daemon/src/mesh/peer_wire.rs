//! What daemons ask of each other on the Command and Watch channels. Version 1: one byte, postcard.
//!
//! Decides nothing.

use std::sync::Arc;

use consensus_core::{
    Agreed, Applied, Enrolment, Envelope, Event, LogIndex, NodeFacts, NodeId, TokenId,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    cluster_desk::{ClusterAnswer, ClusterQuestion},
    views::{EventPlace, Standing, View},
    vip_wire::{VipAnswer, VipQuestion},
};

/// The leading byte.
const VERSION: u8 = 1;

/// A request to another node's daemon.
#[derive(Serialize, Deserialize)]
pub(crate) enum PeerRequest {
    /// Have this command agreed.
    Propose(Box<Envelope>),
    /// A machine's request at a gate, passed on to a server.
    Gate {
        /// Who proved to be it, at the gate of the node that passes this on.
        node: NodeId,
        /// What it sent.
        request: GateRequest,
    },
    /// A new certificate for the asking node's own key.
    RenewNode {
        /// PKCS#10, DER.
        csr: Vec<u8>,
    },
    /// A certificate for a plain docker CLI.
    DockerClient {
        /// PKCS#10, DER.
        csr: Vec<u8>,
    },
    /// A certificate for an operator's client.
    Operator {
        /// The operator.
        name: String,
        /// PKCS#10, DER.
        csr: Vec<u8>,
        /// How long it is to live, in seconds.
        lifetime_s: u64,
    },
    /// Up to where in the log the asked node has put into force what was agreed. It answers when
    /// it is as far as `index`, or after a few seconds.
    Enforced {
        /// What the asker wants to know of.
        index: LogIndex,
    },
    /// The log index that a reader must have seen to have seen everything agreed by now. Asked of
    /// the leader.
    ReadIndex,
    /// Make a new root and begin the rotation to it. Asked of servers.
    Rotate {
        /// For the event.
        reason: String,
        /// The operator who asked.
        operator: Option<String>,
    },
    /// Probe this node now, from where the asked node is.
    Probe {
        /// Whom.
        node: NodeId,
    },
    /// About a virtual IP.
    Vip(VipQuestion),
    /// About a K3s cluster. Asked of its servers.
    Cluster(ClusterQuestion),
    /// The asked node is going to be removed: once it is, it takes itself off its host.
    Depart {
        /// Whether that is taken back: once it is removed, it leaves its host as it is.
        taken_back: bool,
    },
}

/// The answer.
#[derive(Serialize, Deserialize)]
pub(crate) enum PeerAnswer {
    /// The command was agreed at this index, with this outcome.
    Applied(LogIndex, Applied),
    /// This node can't have it agreed; this one may.
    NotLeader(Option<NodeId>),
    /// No majority of voters.
    NoMajority {
        /// Voters that answer.
        reachable: u64,
        /// Voters needed.
        needed: u64,
    },
    /// The joiner is admitted.
    Enrolled(Box<EnrolAnswer>),
    /// The certificate.
    Certificate {
        /// What its holder shows, DER: leaf first.
        chain: Vec<Vec<u8>>,
        /// When it ends, milliseconds since 1970.
        not_after_ms: u64,
    },
    /// How far the node is, and what it shows.
    Enforced(#[serde(with = "facts")] NodeFacts),
    /// The log index to wait for.
    ReadAt(LogIndex),
    /// The rotation has begun, at this index.
    RotationBegun(LogIndex),
    /// Refused or failed, in the words for the operator.
    Failed(node_api::ApiError),
    /// What came of a probe.
    Probed(Probed),
    /// About a virtual IP.
    Vip(VipAnswer),
    /// About a K3s cluster.
    Cluster(ClusterAnswer),
    /// It was heard that this node is going to be removed.
    Departing,
}

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Probed {
    /// How long the answer took, in microseconds; none without one.
    pub(crate) rtt_us: Option<u64>,
    /// Which way there was.
    pub(crate) path: Option<PathTaken>,
    /// Why there was no answer.
    pub(crate) reason: Option<String>,
}

/// The way that a connection takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum PathTaken {
    /// From node to node.
    Direct,
    /// Through this one, where it is known.
    Relayed(Option<NodeId>),
}

/// What a machine without a valid certificate sends through the gate.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum GateRequest {
    /// To become a member.
    Join(Box<EnrolRequest>),
    /// To be a member again: its certificates have ended, its key has not changed.
    Return {
        /// PKCS#10 on the node's own key, DER.
        csr: Vec<u8>,
    },
}

/// What a joiner sends. Holds the token's secret.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct EnrolRequest {
    /// The token's id.
    pub(crate) token: TokenId,
    /// The token's secret.
    pub(crate) secret: [u8; 32],
    /// PKCS#10 on the node's own key, DER.
    pub(crate) csr: Vec<u8>,
    /// What the node says of itself.
    pub(crate) enrolment: Enrolment,
}

/// What a joiner gets back.
#[derive(Serialize, Deserialize)]
pub(crate) struct EnrolAnswer {
    /// Its certificates, DER: leaf first. None where nothing can be agreed, for a server that wants to be let
    /// in again: what it is told may let it help itself.
    pub(crate) chain: Vec<Vec<u8>>,
    /// The log index of its admission, or of what it is told.
    pub(crate) revision: LogIndex,
    /// The agreed state with the node in it.
    pub(crate) agreed: Agreed,
}

impl EnrolAnswer {
    /// What is agreed, and no certificate.
    pub(crate) fn news(view: &View) -> Self {
        Self {
            chain: Vec::new(),
            revision: view.revision,
            agreed: (*view.agreed).clone(),
        }
    }
}

/// What a subscriber knows already.
#[derive(Serialize, Deserialize)]
pub(crate) struct Subscribe {
    /// Its view's revision.
    pub(crate) revision: LogIndex,
    /// Its last event.
    pub(crate) last_event: Option<EventPlace>,
}

/// What a server pushes.
#[derive(Serialize, Deserialize)]
pub(crate) struct Push {
    /// The revision of `agreed`, or of what the subscriber has when that is still the latest.
    pub(crate) revision: LogIndex,
    /// The agreed state, when it is newer than what the subscriber has.
    #[serde(with = "optional_shared")]
    pub(crate) agreed: Option<Arc<Agreed>>,
    /// New events.
    pub(crate) events: Vec<Event>,
    /// Who leads and votes.
    pub(crate) standing: Standing,
}

mod facts {
    use consensus_core::{LogIndex, NodeFacts};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &NodeFacts, to: S) -> Result<S::Ok, S::Error> {
        (value.enforced, &value.leaf).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<NodeFacts, D::Error> {
        let (enforced, leaf) = <(LogIndex, Option<String>)>::deserialize(from)?;
        Ok(NodeFacts { enforced, leaf })
    }
}

mod optional_shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<T: Serialize, S: Serializer>(
        value: &Option<Arc<T>>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_deref().serialize(to)
    }

    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Arc<T>>, D::Error> {
        Ok(Option::<T>::deserialize(from)?.map(Arc::new))
    }
}

/// An answer of another kind than the question asks for.
pub(crate) fn misunderstood() -> node_api::ApiError {
    node_api::ApiError::new(
        "PeerMessageError",
        "another node's answer is not understood",
        "bring all nodes to the same version of shoal",
    )
}

impl PeerAnswer {
    /// The answer, or the failure that it tells of.
    pub(crate) fn into_result(self) -> Result<Self, node_api::ApiError> {
        if let Self::Failed(error) = self {
            Err(error)
        } else {
            Ok(self)
        }
    }
}

/// Encodes a message.
pub(crate) fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    postcard::to_extend(message, vec![VERSION]).expect("messages are plain values")
}

/// Decodes a message.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, node_api::ApiError> {
    let malformed = |reason: String| {
        let hint = "bring both nodes to the same version of shoal";
        node_api::ApiError::new(
            "PeerMessageError",
            format!("a peer's message is not understood: {reason}"),
            hint,
        )
    };
    match bytes {
        [VERSION, body @ ..] => match postcard::take_from_bytes(body) {
            Ok((message, [])) => Ok(message),
            Ok(_) => Err(malformed("bytes follow it".into())),
            Err(error) => Err(malformed(error.to_string())),
        },
        [version, ..] => Err(malformed(format!("version {version}"))),
        [] => Err(malformed("empty".into())),
    }
}
