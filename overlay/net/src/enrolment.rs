//! How a machine without a certificate joins: both ends of the enrolment conversation.
//!
//! Decides, for the joiner, whom it may trust with its token: a listener whose root has the
//! expected fingerprint and whose chain that root has signed. Never looks into the request.
//!
//! Invariant: the request's bytes leave this machine only after that proof.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use consensus_authority::{Trust, wall};

use consensus_core::{MeshId, NodeId};
use libp2p::{
    Transport as _,
    core::{
        Endpoint,
        muxing::StreamMuxerBox,
        transport::{Boxed, DialOpts, PortUse},
    },
};
use tokio::{sync::oneshot, time::timeout};

use crate::{
    address::multiaddr,
    gate::{
        ENROL_ANSWER_BYTES_MAX, ENROL_DEADLINE, ENROL_REQUEST_BYTES_MAX, Exchange, GATE_DEADLINE,
        GateError, HELLO_BYTES_MAX, driven,
    },
    key::{NodeKey, node_id_of},
    peering::Transport,
    refusal::Refused,
    transport::{Upgraded, quic, tcp},
    wire::v1::{Answer, EnrolAnswer, Hello, Intent},
};

/// How much longer than the listener the joiner waits, so that it hears the listener's answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// A joiner's request, on the node that it dialled.
#[derive(Debug)]
pub struct EnrolmentRequest {
    /// The request's bytes; they hold the token's secret.
    pub body: Vec<u8>,
    /// The joiner, proved by the handshake.
    pub from: NodeId,
    /// Where its connection came from.
    pub observed: SocketAddr,
    /// The answer; after 20 s nobody waits for it any more.
    pub reply: oneshot::Sender<Result<Vec<u8>, Refused>>,
}

/// Why an enrolment failed.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// Nobody answered, over QUIC or TCP.
    #[error("nothing answers at {address}: QUIC: {quic}; TCP: {tcp}")]
    NoAnswer {
        /// The address.
        address: SocketAddr,
        /// What UDP came to.
        quic: String,
        /// What TCP came to.
        tcp: String,
    },
    /// Another mesh's node answered, or an impostor.
    #[error("the node at {address} does not belong to the root that the token names")]
    WrongRoot {
        /// The address.
        address: SocketAddr,
    },
    /// The node belongs to another mesh.
    #[error("the node at {address} belongs to another mesh")]
    WrongMesh {
        /// The address.
        address: SocketAddr,
    },
    /// The node could not prove that it is a member.
    #[error("the node at {address} could not prove that it is a member")]
    Unproven {
        /// The address.
        address: SocketAddr,
        /// What is wrong with its proof.
        source: GateError,
    },
    /// The conversation broke off. The mesh may or may not have enrolled this node; asking again
    /// with the same request is safe.
    #[error("the conversation with {address} broke off")]
    Interrupted {
        /// The address.
        address: SocketAddr,
        /// How.
        source: GateError,
    },
    /// The request is too long.
    #[error("an enrolment request of {bytes} bytes is too long")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// The mesh said no.
    #[error("the mesh refused: {0}")]
    Refused(Refused),
}

impl EnrolError {
    /// Stable code; the mesh's own where it refused.
    pub fn code(&self) -> &str {
        match self {
            Self::NoAnswer { .. } => "EnrolNoAnswerError",
            Self::WrongRoot { .. } => "EnrolWrongRootError",
            Self::WrongMesh { .. } => "EnrolWrongMeshError",
            Self::Unproven { .. } => "EnrolUnprovenError",
            Self::Interrupted { .. } => "EnrolInterruptedError",
            Self::TooLarge { .. } => "EnrolTooLargeError",
            Self::Refused(refused) => &refused.code,
        }
    }

    /// What to do.
    pub fn hint(&self) -> String {
        match self {
            Self::NoAnswer { address, .. } => format!(
                "check that shoald runs there and that UDP and TCP port {} are open on the way (security groups often pass TCP only)",
                address.port()
            ),
            Self::WrongRoot { .. } => {
                "check the address and copy the whole join command again; if both are right, somebody is in between".to_owned()
            }
            Self::WrongMesh { .. } => {
                "check the address: the token is for another mesh".to_owned()
            }
            Self::Unproven { source, .. } => format!(
                "try another node of the mesh; this one's certificate is the trouble ({})",
                source.code()
            ),
            Self::Interrupted { .. } => "try again; the same token may be used".to_owned(),
            Self::TooLarge { .. } => String::new(),
            Self::Refused(refused) => refused.hint.clone(),
        }
    }
}

/// What a machine without a valid certificate knows of the mesh's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Anchor {
    /// BLAKE3 of the root certificate in DER, from a token.
    Fingerprint([u8; 32]),
    /// The roots that it trusted when it was last a member, DER.
    Roots(Vec<Vec<u8>>),
}

/// Asks the node at `address` to enrol this key, or to take it back: over QUIC, then over TCP.
///
/// The request's bytes are sent only to a node that the anchor vouches for.
pub async fn enrol(
    key: &NodeKey,
    address: SocketAddr,
    mesh: MeshId,
    anchor: Anchor,
    request: Vec<u8>,
) -> Result<Vec<u8>, EnrolError> {
    if request.len() > ENROL_REQUEST_BYTES_MAX {
        return Err(EnrolError::TooLarge {
            bytes: request.len(),
        });
    }
    // Both are kept until the end: QUIC's socket lives in its transport.
    let mut over_quic = quic(key);
    let mut over_tcp = tcp(key);
    let (peer, muxer) = match dial(&mut over_quic, address, Transport::Quic).await {
        Ok(upgraded) => upgraded,
        Err(quic) => match dial(&mut over_tcp, address, Transport::Tcp).await {
            Ok(upgraded) => upgraded,
            Err(tcp) => return Err(EnrolError::NoAnswer { address, quic, tcp }),
        },
    };
    let Some(node) = node_id_of(&peer) else {
        return Err(EnrolError::Unproven {
            address,
            source: GateError::Stranger("its key is not Ed25519"),
        });
    };
    let joiner = Joiner {
        address,
        mesh,
        anchor,
        node,
    };
    joiner.converse(muxer, &request).await
}

/// Shakes hands at an address; what answers there has proved its key and nothing else.
pub(crate) async fn dial(
    transport: &mut Boxed<Upgraded>,
    address: SocketAddr,
    kind: Transport,
) -> Result<Upgraded, String> {
    let options = DialOpts {
        role: Endpoint::Dialer,
        port_use: PortUse::New,
    };
    let attempt = transport
        .dial(multiaddr(address, kind), options)
        .map_err(|error| innermost(&error))?;
    timeout(GATE_DEADLINE, attempt)
        .await
        .map_err(|_| "no answer".to_owned())?
        .map_err(|error| innermost(&error))
}

/// The text of an error's first cause, which names the fact where its wrappers name layers.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// The joiner's side of one conversation.
struct Joiner {
    address: SocketAddr,
    mesh: MeshId,
    anchor: Anchor,
    node: NodeId,
}

impl Joiner {
    async fn converse(
        &self,
        mut muxer: StreamMuxerBox,
        request: &[u8],
    ) -> Result<Vec<u8>, EnrolError> {
        let mut exchange = timeout(GATE_DEADLINE, Exchange::open(&mut muxer))
            .await
            .unwrap_or(Err(GateError::Timeout))
            .map_err(|source| self.interrupted(source))?;
        let hello = Hello {
            mesh: self.mesh,
            instance: 0,
            intent: Intent::Enrol,
        };
        let (mut exchange, answer) = self
            .within(GATE_DEADLINE, &mut muxer, async move {
                exchange.send(&hello, HELLO_BYTES_MAX).await?;
                let answer = exchange.receive::<Answer>(HELLO_BYTES_MAX).await?;
                Ok((exchange, answer))
            })
            .await?;
        self.judge(answer)?;
        let answer = self
            .within(ENROL_DEADLINE + PATIENCE, &mut muxer, async move {
                exchange
                    .send_bytes(request, ENROL_REQUEST_BYTES_MAX)
                    .await?;
                let answer = exchange
                    .receive::<EnrolAnswer>(ENROL_ANSWER_BYTES_MAX)
                    .await?;
                exchange.close().await?;
                Ok(answer)
            })
            .await?;
        match answer {
            EnrolAnswer::Accepted(bytes) => Ok(bytes),
            EnrolAnswer::Refused(refused) => Err(EnrolError::Refused(refused.clipped())),
        }
    }

    /// Whether the listener has proved that it belongs to the expected root.
    fn judge(&self, answer: Answer) -> Result<(), EnrolError> {
        let address = self.address;
        let (chain, shown) = match answer {
            Answer::Welcome { chain, roots, .. } => (chain, roots),
            Answer::Refused(refused) if refused.code == GateError::WrongMesh.code() => {
                return Err(EnrolError::WrongMesh { address });
            }
            Answer::Refused(refused) => return Err(EnrolError::Refused(refused.clipped())),
        };
        let trusted = match &self.anchor {
            // Compared as blake3 hashes, in constant time.
            Anchor::Fingerprint(expected) => shown
                .into_iter()
                .filter(|root| blake3::hash(root) == blake3::Hash::from_bytes(*expected))
                .collect(),
            Anchor::Roots(roots) => roots.clone(),
        };
        if trusted.is_empty() {
            return Err(EnrolError::WrongRoot { address });
        }
        let trust = Trust::new(self.mesh, &trusted, &BTreeSet::new(), &BTreeMap::new());
        trust
            .verify(&chain, wall(SystemTime::now()))
            .and_then(|verified| verified.require_node(&self.node))
            .map_err(|refusal| EnrolError::Unproven {
                address,
                source: refusal.into(),
            })
    }

    async fn within<T>(
        &self,
        deadline: Duration,
        muxer: &mut StreamMuxerBox,
        work: impl Future<Output = Result<T, GateError>>,
    ) -> Result<T, EnrolError> {
        timeout(deadline, driven(muxer, work))
            .await
            .unwrap_or(Err(GateError::Timeout))
            .map_err(|source| self.interrupted(source))
    }

    fn interrupted(&self, source: GateError) -> EnrolError {
        EnrolError::Interrupted {
            address: self.address,
            source,
        }
    }
}
