//! This node's own certificate: renewed at two thirds of its life, or at once when the mesh says
//! so; after its end by proving the node's key.
//!
//! Decides by `renewal_reason` and `renew_at`. A renewed chain reaches the connections that stand
//! and the API's listener through the credentials' watch; nothing is dropped.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use consensus_authority::{Certificate, PrivateKey, renew_at};
use consensus_core::{NodeId, RenewalReason, renewal_reason};
use node_api::ApiError;
use overlay_net::{Anchor, Credentials, EnrolError, enrol};
use tokio::{sync::watch, time::sleep};

use super::{
    Host,
    desk::ask_servers,
    issuer::{IssuerDesk, now},
    own_return,
    peer_wire::{EnrolAnswer, GateRequest, PeerAnswer, PeerRequest, decode, encode, misunderstood},
    proposer::Proposer,
    trust::trust,
};
use crate::data_dir::Membership;

/// How often a certificate's age is looked at: after a machine's sleep, so long it is late.
const LOOK_AROUND: Duration = Duration::from_secs(20);
/// Pauses after failures, doubled each time: a mesh that comes back is not to be flooded.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// The code of the refusal of a node that was removed.
pub(super) const REMOVED: &str = "NodeRemovedError";
/// A view takes moments to reach a node that hears a server at all.
const VIEW_WITHIN: Duration = Duration::from_secs(30);

/// Keeps this node's certificate.
pub(crate) struct Renewal {
    pub(crate) host: Arc<Host>,
    pub(crate) proposer: Proposer,
    pub(crate) desk: IssuerDesk,
    pub(crate) credentials: watch::Sender<Arc<Credentials>>,
    /// Why this node is not taken back, for `status`.
    pub(crate) shut_out: watch::Sender<Option<String>>,
    pub(crate) membership: Membership,
    /// When the present certificate was taken on, if this process did.
    pub(crate) taken_at: Option<Instant>,
}

/// The request for a certificate on the node's own key, PKCS#10 in DER.
pub(crate) fn node_request(key: &overlay_net::NodeKey) -> Result<Vec<u8>, ApiError> {
    let request = PrivateKey::from_pkcs8(&key.pkcs8_der()).and_then(|key| key.request());
    request.map_err(|error| {
        let message = format!("the node key is unusable: {error}");
        ApiError::new(error.code(), message, "report this")
    })
}

impl Renewal {
    /// Runs until dropped.
    pub(crate) async fn run(mut self) {
        let mut view = self.proposer.views.watch();
        let mut issuer = self.desk.issuer.clone();
        let mut pause = RETRY_MIN;
        loop {
            view.borrow_and_update();
            issuer.borrow_and_update();
            let wait = match self.due() {
                None => LOOK_AROUND,
                Some(reason) => match self.renew().await {
                    Ok(()) => {
                        tracing::info!(reason, "this node's certificate is renewed");
                        self.shut_out.send_replace(None);
                        pause = RETRY_MIN;
                        LOOK_AROUND
                    }
                    Err(error) => {
                        tracing::warn!(reason, code = error.code, %error, "this node's certificate is not renewed yet");
                        pause = (pause * 2).min(RETRY_MAX);
                        pause
                    }
                },
            };
            // All arms only wait. Before the pause is over nothing is tried again, however the
            // view changes: a node that is refused would ask at every change.
            let patience = sleep(wait);
            tokio::pin!(patience);
            loop {
                tokio::select! {
                    () = &mut patience => break,
                    changed = view.changed() => {
                        if changed.is_err() { return }
                        if wait == LOOK_AROUND { break }
                    }
                    changed = issuer.changed() => {
                        if changed.is_err() { return }
                        break;
                    }
                }
            }
        }
    }

    /// Why the certificate is to be renewed now.
    fn due(&self) -> Option<&'static str> {
        let leaf = self.credentials.borrow().leaf().to_vec();
        let Ok(leaf) = Certificate::read(&leaf) else {
            return Some("it can't be read");
        };
        let validity = leaf.validity();
        let fresh = self
            .taken_at
            .is_some_and(|taken| taken.elapsed() < RETRY_MAX);
        if self.shut_out.borrow().is_some() && !fresh {
            // A server says why, or gives a certificate that is let in.
            return Some("the others do not let this node in");
        }
        if now() >= renew_at(validity.not_before, validity.not_after, leaf.serial()) {
            return Some("two thirds of its life are over");
        }
        let agreed = self.proposer.views.view().agreed.clone();
        if !agreed.nodes.contains_key(&self.proposer.me) {
            return None;
        }
        let reason = renewal_reason(&agreed, leaf.serial(), now())?;
        // What a server has just had agreed may not have reached this node's view yet.
        let on_its_way = self
            .taken_at
            .is_some_and(|taken| taken.elapsed() < VIEW_WITHIN);
        (reason != RenewalReason::Missing || !on_its_way).then_some(reason.as_str())
    }

    async fn renew(&mut self) -> Result<(), ApiError> {
        let csr = node_request(&self.host.key)?;
        let request = PeerRequest::RenewNode { csr: csr.clone() };
        let asked = ask_servers(&self.proposer, &self.desk, request).await;
        let chain = match asked {
            Ok(PeerAnswer::Certificate { chain, .. }) => chain,
            Ok(_) => return Err(misunderstood()),
            Err(error) => self.without_members(csr, error).await?,
        };
        self.take(chain)
    }

    /// Nobody lets this node in as a member, or nobody can have anything agreed: a server may sign
    /// for itself; anyone proves its key at the gate.
    async fn without_members(
        &self,
        csr: Vec<u8>,
        error: ApiError,
    ) -> Result<Vec<Vec<u8>>, ApiError> {
        if let Some(chain) = self.own_return() {
            return Ok(chain);
        }
        let answer = self
            .come_back(csr)
            .await
            .map_err(|refused| refused.unwrap_or(error))?;
        let agreed = Arc::new(answer.agreed);
        self.proposer.views.offer(answer.revision, agreed);
        Ok(answer.chain)
    }

    /// Where nobody is left who is let in or can have anything agreed, a server signs for itself.
    fn own_return(&self) -> Option<Vec<Vec<u8>>> {
        let credentials = Arc::clone(&self.credentials.borrow());
        let agreed = self.proposer.views.view().agreed.clone();
        // As the view says it by now: what the node believes follows a moment later.
        let voters = self.proposer.views.standing().voters.into_iter().collect();
        let trust = trust(credentials.trust.mesh(), &agreed, &voters);
        own_return::certificates(&self.host, &trust, &agreed, &credentials.chain)
    }

    /// Asks the servers' gates, one after the other, to take this node back. The first who can
    /// prove that it belongs to a root this node trusts is asked, and its refusal is told.
    async fn come_back(&self, csr: Vec<u8>) -> Result<EnrolAnswer, Option<ApiError>> {
        let trust = Arc::clone(&self.credentials.borrow().trust);
        let roots: Vec<Vec<u8>> = trust
            .roots()
            .iter()
            .map(|root| root.der().to_vec())
            .collect();
        let body = encode(&GateRequest::Return { csr });
        let mut last = None;
        for (node, address) in self.gates() {
            let anchor = Anchor::Roots(roots.clone());
            match enrol(&self.host.key, address, trust.mesh(), anchor, body.clone()).await {
                Ok(bytes) => {
                    let answer: EnrolAnswer = decode(&bytes).map_err(Some)?;
                    if !answer.chain.is_empty() {
                        return Ok(answer);
                    }
                    // Nothing can be agreed there. What it knows is news to a server that was cut off in the
                    // moment in which its certificate was revoked.
                    let agreed = Arc::new(answer.agreed.clone());
                    self.proposer.views.offer(answer.revision, agreed);
                    if let Some(chain) = self.own_return() {
                        return Ok(EnrolAnswer { chain, ..answer });
                    }
                }
                Err(error) => {
                    tracing::info!(%node, %address, %error, "not taken back here");
                    if let EnrolError::Refused(refused) = &error {
                        let told = ApiError::new(&refused.code, &refused.message, &refused.hint);
                        if refused.code == REMOVED {
                            let reason = format!("{}: {}", refused.message, refused.hint);
                            self.shut_out.send_replace(Some(reason));
                            return Err(Some(told));
                        }
                        last = Some(told);
                    }
                }
            }
        }
        Err(last)
    }

    /// Where other members may be asked: servers first.
    fn gates(&self) -> Vec<(NodeId, SocketAddr)> {
        let agreed = self.proposer.views.view().agreed.clone();
        let mut nodes: Vec<_> = agreed
            .nodes
            .iter()
            .filter(|(id, _)| **id != self.proposer.me)
            .collect();
        nodes.sort_by_key(|(_, node)| node.role != consensus_core::Role::Server);
        let addresses = nodes.into_iter().flat_map(|(id, node)| {
            let addresses = node.addresses.iter().take(GATES_PER_NODE);
            addresses.map(|address| (id.clone(), *address))
        });
        addresses.take(GATES_MAX).collect()
    }

    /// Shows the new chain from now on, and after the next start.
    fn take(&mut self, chain: Vec<Vec<u8>>) -> Result<(), ApiError> {
        self.taken_at = Some(Instant::now());
        let credentials = self.credentials.borrow().clone();
        let roots = credentials.trust.roots().iter();
        self.membership.roots = roots.map(|root| hex::encode(root.der())).collect();
        self.membership.chain = chain.iter().map(hex::encode).collect();
        self.host
            .data
            .set_membership(&self.membership)
            .map_err(ApiError::from)?;
        self.credentials
            .send_modify(|credentials| Arc::make_mut(credentials).chain = chain);
        Ok(())
    }
}

/// Addresses of one node that are tried.
const GATES_PER_NODE: usize = 2;
/// Addresses that are tried in one round.
const GATES_MAX: usize = 12;
