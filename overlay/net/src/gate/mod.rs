//! The admission gate: certificates are exchanged on a connection's first substream, before the
//! Swarm sees the connection.
//!
//! Decides who passes. The dialer says hello (mesh, instance, what it wants), the listener answers
//! with its own chain or a refusal, and each side verifies the other. A joiner that wants to enrol
//! is served here, and its connection ends here.
//!
//! Circuits through relays pass here like any other connection; the relay itself is not believed.
//!
//! Invariants: an error leaves the connection closed; every wait has a deadline; what passes is
//! noted under its connection, and the Swarm's behaviour closes any connection that has no note.

mod error;
mod exchange;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use consensus_core::NodeId;
use libp2p::{
    Multiaddr, PeerId,
    core::{ConnectedPoint, Endpoint, muxing::StreamMuxerBox},
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    time::timeout,
};

pub use self::error::GateError;
pub(crate) use self::exchange::{
    ENROL_ANSWER_BYTES_MAX, ENROL_REQUEST_BYTES_MAX, Exchange, HELLO_BYTES_MAX, driven,
};
use crate::{
    address::{named_peer, socket_address},
    certificate::{Credentials, Proof},
    enrolment::EnrolmentRequest,
    key::node_id_of,
    refusal::Refused,
    wire::v1::{Answer, EnrolAnswer, Hello, Intent},
};

/// How long the exchange of certificates may take: several round trips of a bad link.
pub(crate) const GATE_DEADLINE: Duration = Duration::from_secs(5);
/// How long the daemon may take over an enrolment: it waits for a commit, perhaps an election.
pub(crate) const ENROL_DEADLINE: Duration = Duration::from_secs(20);
/// Enrolments served at once; each is a commit, and strangers can start them.
const ENROLMENTS_AT_ONCE: usize = 16;
/// Notes kept of connections that passed and have not reached the Swarm's behaviour yet. Far more
/// than handshakes may be pending, so only a note whose connection was dropped is ever lost.
const NOTES_MAX: usize = 512;

/// What the gate learned about an admitted peer.
#[derive(Debug, Clone)]
pub(crate) struct Admitted {
    pub(crate) instance: u64,
    pub(crate) node: NodeId,
    pub(crate) proof: Proof,
}

/// The gate, shared by every pending connection.
#[derive(Clone)]
pub(crate) struct Gate {
    shared: Arc<Shared>,
}

struct Shared {
    instance: u64,
    credentials: watch::Receiver<Arc<Credentials>>,
    enrolments: mpsc::Sender<EnrolmentRequest>,
    enrolling: Semaphore,
    /// A lock because pending connections run as tasks of their own and the Swarm's behaviour,
    /// which reads it, is called synchronously. Never held across an await.
    notes: Mutex<VecDeque<(PeerId, Multiaddr, Admitted)>>,
}

impl Gate {
    pub(crate) fn new(
        instance: u64,
        credentials: watch::Receiver<Arc<Credentials>>,
        enrolments: mpsc::Sender<EnrolmentRequest>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                instance,
                credentials,
                enrolments,
                enrolling: Semaphore::new(ENROLMENTS_AT_ONCE),
                notes: Mutex::new(VecDeque::new()),
            }),
        }
    }

    /// Lets a connection pass, or not. Runs between the handshake and the Swarm.
    pub(crate) async fn pass(
        self,
        (peer, mut muxer): (PeerId, StreamMuxerBox),
        point: ConnectedPoint,
    ) -> Result<(PeerId, StreamMuxerBox), GateError> {
        let node = node_id_of(&peer).ok_or(GateError::Stranger("its key is not Ed25519"))?;
        let result = match &point {
            // Two ends that punch a hole dial both: one of them is told to act as the listener.
            ConnectedPoint::Dialer {
                address,
                role_override: Endpoint::Listener,
                ..
            } => self.answer(&node, address, &mut muxer).await,
            ConnectedPoint::Dialer { address, .. } => {
                if let Some(expected) = named_peer(address).filter(|named| *named != peer) {
                    return Err(GateError::WrongPeer {
                        expected: expected.to_base58(),
                        found: node.to_string(),
                    });
                }
                timeout(GATE_DEADLINE, self.knock(&node, &mut muxer))
                    .await
                    .unwrap_or(Err(GateError::Timeout))
            }
            ConnectedPoint::Listener { send_back_addr, .. } => {
                self.answer(&node, send_back_addr, &mut muxer).await
            }
        };
        let admitted = result.inspect_err(|error| report(&node, &point, error))?;
        self.note(peer, point.get_remote_address().clone(), admitted);
        Ok((peer, muxer))
    }

    /// What was noted of a connection that passed.
    pub(crate) fn take_note(&self, peer: &PeerId, remote: &Multiaddr) -> Option<Admitted> {
        let mut notes = self
            .shared
            .notes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let place = notes
            .iter()
            .position(|(noted, address, _)| noted == peer && address == remote)?;
        notes.remove(place).map(|(_, _, admitted)| admitted)
    }

    fn note(&self, peer: PeerId, remote: Multiaddr, admitted: Admitted) {
        let mut notes = self
            .shared
            .notes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if notes.len() == NOTES_MAX {
            notes.pop_front();
        }
        notes.push_back((peer, remote, admitted));
    }

    fn credentials(&self) -> Arc<Credentials> {
        Arc::clone(&self.shared.credentials.borrow())
    }

    /// The dialer's side.
    async fn knock(
        &self,
        node: &NodeId,
        muxer: &mut StreamMuxerBox,
    ) -> Result<Admitted, GateError> {
        let own = self.credentials();
        let mut exchange = Exchange::open(muxer).await?;
        driven(muxer, async move {
            let hello = Hello {
                mesh: own.mesh(),
                instance: self.shared.instance,
                intent: Intent::Member {
                    chain: own.chain.clone(),
                },
            };
            exchange.send(&hello, HELLO_BYTES_MAX).await?;
            match exchange.receive(HELLO_BYTES_MAX).await? {
                Answer::Refused(refused) => Err(GateError::RefusedByPeer(refused.clipped())),
                Answer::Welcome {
                    instance, chain, ..
                } => {
                    let admitted = admit(instance, chain, &own, node)?;
                    exchange.close().await?;
                    Ok(admitted)
                }
            }
        })
        .await
    }

    /// The listener's side.
    async fn answer(
        &self,
        node: &NodeId,
        remote: &Multiaddr,
        muxer: &mut StreamMuxerBox,
    ) -> Result<Admitted, GateError> {
        let own = self.credentials();
        let (exchange, hello) = timeout(GATE_DEADLINE, async {
            let mut exchange = Exchange::accept(muxer).await?;
            driven(muxer, async move {
                let hello = exchange.receive::<Hello>(HELLO_BYTES_MAX).await;
                Ok((exchange, hello))
            })
            .await
        })
        .await
        .unwrap_or(Err(GateError::Timeout))?;
        // A joiner waits for the daemon; everybody else only for the verdict.
        let deadline = match &hello {
            Ok(Hello {
                intent: Intent::Enrol,
                ..
            }) => ENROL_DEADLINE + 2 * GATE_DEADLINE,
            Ok(_) | Err(_) => GATE_DEADLINE,
        };
        let verdict = driven(muxer, self.decide(node, remote, &own, exchange, hello));
        timeout(deadline, verdict)
            .await
            .unwrap_or(Err(GateError::Timeout))
    }

    /// The listener's verdict, told to the dialer.
    async fn decide(
        &self,
        node: &NodeId,
        remote: &Multiaddr,
        own: &Credentials,
        mut exchange: Exchange,
        hello: Result<Hello, GateError>,
    ) -> Result<Admitted, GateError> {
        let verdict = match hello {
            Err(error) => Err(error),
            Ok(hello) if hello.mesh != own.mesh() => Err(GateError::WrongMesh),
            Ok(Hello {
                intent: Intent::Enrol,
                ..
            }) => self.enrol(node, remote, own, &mut exchange).await,
            Ok(Hello {
                intent: Intent::Member { chain },
                instance,
                ..
            }) => admit(instance, chain, own, node),
        };
        match verdict {
            Ok(admitted) => {
                let welcome = self.welcome(own, Vec::new());
                exchange.send(&welcome, HELLO_BYTES_MAX).await?;
                exchange.close().await?;
                Ok(admitted)
            }
            Err(error) => {
                if error.is_verdict() {
                    let refused = Answer::Refused(error.to_refused());
                    exchange.send(&refused, HELLO_BYTES_MAX).await?;
                }
                exchange.linger().await?;
                Err(error)
            }
        }
    }

    fn welcome(&self, own: &Credentials, roots: Vec<Vec<u8>>) -> Answer {
        Answer::Welcome {
            instance: self.shared.instance,
            chain: own.chain.clone(),
            roots,
        }
    }

    /// Serves a joiner. Ends in an error whatever happens: the connection is not to stay.
    async fn enrol(
        &self,
        node: &NodeId,
        remote: &Multiaddr,
        own: &Credentials,
        exchange: &mut Exchange,
    ) -> Result<Admitted, GateError> {
        let Ok(_slot) = self.shared.enrolling.try_acquire() else {
            return Err(GateError::Busy);
        };
        let (observed, _) =
            socket_address(remote).ok_or(GateError::Stranger("its address is unknown"))?;
        let body = timeout(GATE_DEADLINE, async {
            let roots = own.trust.roots().iter().map(|root| root.der().to_vec());
            let welcome = self.welcome(own, roots.collect());
            exchange.send(&welcome, HELLO_BYTES_MAX).await?;
            exchange.receive_bytes(ENROL_REQUEST_BYTES_MAX).await
        })
        .await
        .unwrap_or(Err(GateError::Timeout))?;
        let answer = self.ask_daemon(node.clone(), observed, body).await;
        exchange.send(&answer, ENROL_ANSWER_BYTES_MAX).await?;
        Err(GateError::Enrolled(node.clone()))
    }

    async fn ask_daemon(&self, from: NodeId, observed: SocketAddr, body: Vec<u8>) -> EnrolAnswer {
        let (reply, answer) = oneshot::channel();
        let request = EnrolmentRequest {
            body,
            from,
            observed,
            reply,
        };
        let busy = || {
            EnrolAnswer::Refused(Refused::new(
                "EnrolBusyError",
                "the node did not get round to this enrolment",
                "try again, or enrol through another node of the mesh",
            ))
        };
        if self.shared.enrolments.try_send(request).is_err() {
            return busy();
        }
        match timeout(ENROL_DEADLINE, answer).await {
            Ok(Ok(Ok(bytes))) => EnrolAnswer::Accepted(bytes),
            Ok(Ok(Err(refused))) => EnrolAnswer::Refused(refused),
            Ok(Err(_)) | Err(_) => busy(),
        }
    }
}

fn admit(
    instance: u64,
    chain: Vec<Vec<u8>>,
    own: &Credentials,
    node: &NodeId,
) -> Result<Admitted, GateError> {
    let verified = own.admit(&chain, node)?;
    Ok(Admitted {
        instance,
        node: node.clone(),
        proof: Proof { chain, verified },
    })
}

fn report(node: &NodeId, point: &ConnectedPoint, error: &GateError) {
    let remote = point.get_remote_address();
    let dialled = point.is_dialer();
    let code = error.code();
    if let GateError::Enrolled(_) = error {
        tracing::info!(%node, %remote, "enrolment served");
    } else if !dialled && matches!(error, GateError::Broken(_)) {
        // A relay that was asked whether this node can be dialled leaves as soon as it has seen so.
        tracing::debug!(%node, %remote, code, %error, "a connection left before it was admitted");
    } else {
        tracing::info!(%node, %remote, dialled, code, %error, "connection not admitted");
    }
}
