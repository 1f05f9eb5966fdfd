//! A server's hand that signs: joiners, members that come back, renewals, dockerds, docker CLIs,
//! operators.
//!
//! Decides what a certificate may name: only what is agreed of its holder, never what its request
//! asks for. A certificate is handed out only once it is agreed, so that it can be revoked.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use consensus_authority::{IssueError, Issuer, LEAF_LIFETIME, Leaf, Names, wall};
use consensus_core::{
    CertificateProfile, CertificateRecord, Command, DockerPhase, Done, Holder, IssuedCertificate,
    LeafFingerprint, Module, NewCertificate, NodeId, WallMs,
};
use node_api::ApiError;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    peer_wire::{EnrolAnswer, EnrolRequest, PeerAnswer},
    proposer::Proposer,
};
use crate::token::hash_secret;

/// A server that does not lead signs for a dockerd only when the leader has left it this long.
const LEADER_FIRST: Duration = Duration::from_secs(2);
/// After a signature that was not agreed.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Follows this server's authority; none on an agent, and while a server has none.
pub(crate) type IssuerRx = watch::Receiver<Option<Arc<Issuer>>>;

/// The desk of a node. It signs while the node is a server with an intermediate in force.
#[derive(Clone)]
pub(crate) struct IssuerDesk {
    pub(crate) issuer: IssuerRx,
    pub(crate) proposer: Proposer,
}

fn issue_error(error: &IssueError) -> ApiError {
    ApiError::new(
        error.code(),
        error.to_string(),
        error.hint().unwrap_or("send a correct signing request"),
    )
    .caused_by(error)
}

/// What the mesh remembers of a leaf.
pub(crate) fn record(leaf: &Leaf, holder: Holder, profile: CertificateProfile) -> NewCertificate {
    NewCertificate {
        serial: leaf.serial.clone(),
        record: CertificateRecord {
            holder,
            profile,
            issuer: leaf.issuer.clone(),
            fingerprint: LeafFingerprint::of(&leaf.der),
            not_before: leaf.validity.not_before,
            not_after: leaf.validity.not_after,
        },
    }
}

/// The names of a node's leaf: its own, and its overlay addresses.
pub(crate) fn node_names(
    name: &str,
    addresses: impl IntoIterator<Item = std::net::Ipv6Addr>,
) -> Names {
    Names {
        dns: vec![name.to_owned()],
        addresses: addresses.into_iter().map(Into::into).collect(),
    }
}

impl IssuerDesk {
    /// This server's authority.
    pub(crate) fn current(&self) -> Result<Arc<Issuer>, ApiError> {
        self.issuer.borrow().clone().ok_or_else(|| {
            ApiError::new(
                NOT_ISSUING,
                "this node signs no certificates now",
                "ask a server; `shoal ca status` shows which ones sign",
            )
        })
    }

    fn sign(
        &self,
        csr: &[u8],
        profile: CertificateProfile,
        holder: &Holder,
        names: &Names,
        lifetime: Duration,
    ) -> Result<Leaf, ApiError> {
        self.current()?
            .sign(csr, profile, holder, names, lifetime, now())
            .map_err(|error| issue_error(&error))
    }

    /// Admits a joiner whose connection proved that it is `node`.
    pub(crate) async fn enrol(
        &self,
        node: &NodeId,
        request: EnrolRequest,
    ) -> Result<EnrolAnswer, ApiError> {
        let EnrolRequest {
            token,
            secret,
            csr,
            enrolment,
        } = request;
        if enrolment.node != *node {
            return Err(not_itself());
        }
        let leaf = self.sign_node(&csr, node, &enrolment.name)?;
        let certificate = record(&leaf, Holder::Node(node.clone()), CertificateProfile::Node);
        let command = Command::AdmitNode {
            token,
            secret_hash: hash_secret(&secret),
            enrolment,
            certificate,
        };
        let (index, done) = self.proposer.submit(command).await?;
        if !matches!(done, Done::Admitted { .. }) {
            return Err(ApiError::new(
                "InternalError",
                "an admission had another outcome",
                "report this",
            ));
        }
        self.enrolled(leaf, index)
    }

    /// Takes a member back whose connection proved its key, and whose certificates have ended. One
    /// that was removed is told so.
    pub(crate) async fn take_back(
        &self,
        node: &NodeId,
        csr: &[u8],
    ) -> Result<EnrolAnswer, ApiError> {
        let (index, leaf) = self.renewed(node, csr).await?;
        self.enrolled(leaf, index)
    }

    fn enrolled(
        &self,
        leaf: Leaf,
        index: consensus_core::LogIndex,
    ) -> Result<EnrolAnswer, ApiError> {
        let view = self.proposer.views.view();
        if view.revision < index {
            return Err(self.proposer.no_majority());
        }
        Ok(EnrolAnswer {
            chain: leaf.chain,
            revision: view.revision,
            agreed: (*view.agreed).clone(),
        })
    }

    fn sign_node(&self, csr: &[u8], node: &NodeId, name: &str) -> Result<Leaf, ApiError> {
        let view = self.proposer.views.view();
        let networks = view.agreed.networks.values();
        let names = node_names(name, networks.map(|network| network.ipv6.host(node)));
        let holder = Holder::Node(node.clone());
        // The issuer sees to it that the request is on the node's own key.
        self.sign(
            csr,
            CertificateProfile::Node,
            &holder,
            &names,
            LEAF_LIFETIME,
        )
    }

    /// A new certificate for a member's own key.
    pub(crate) async fn renew(&self, node: &NodeId, csr: &[u8]) -> Result<PeerAnswer, ApiError> {
        let (_, leaf) = self.renewed(node, csr).await?;
        Ok(certificate(leaf))
    }

    async fn renewed(
        &self,
        node: &NodeId,
        csr: &[u8],
    ) -> Result<(consensus_core::LogIndex, Leaf), ApiError> {
        let agreed = self.proposer.views.view().agreed.clone();
        let Some(row) = agreed.nodes.get(node) else {
            return Err(not_a_member(&agreed, node));
        };
        let leaf = self.sign_node(csr, node, &row.name)?;
        let holder = Holder::Node(node.clone());
        let index = self
            .remember(&leaf, holder, CertificateProfile::Node)
            .await?;
        Ok((index, leaf))
    }

    /// A certificate with which a plain docker CLI on a member's machine reaches every Docker host.
    pub(crate) async fn docker_client(
        &self,
        node: &NodeId,
        csr: &[u8],
    ) -> Result<PeerAnswer, ApiError> {
        let holder = Holder::Node(node.clone());
        let profile = CertificateProfile::DockerClient;
        let leaf = self.sign(csr, profile, &holder, &Names::default(), LEAF_LIFETIME)?;
        self.remember(&leaf, holder, profile).await?;
        Ok(certificate(leaf))
    }

    /// A certificate for an operator's client.
    pub(crate) async fn operator(
        &self,
        name: &str,
        csr: &[u8],
        lifetime: Duration,
    ) -> Result<PeerAnswer, ApiError> {
        let holder = Holder::Operator(name.to_owned());
        let profile = CertificateProfile::Operator;
        let leaf = self.sign(csr, profile, &holder, &Names::default(), lifetime)?;
        self.remember(&leaf, holder, profile).await?;
        Ok(certificate(leaf))
    }

    async fn remember(
        &self,
        leaf: &Leaf,
        holder: Holder,
        profile: CertificateProfile,
    ) -> Result<consensus_core::LogIndex, ApiError> {
        let certificate = record(leaf, holder, profile);
        let command = Command::RecordCertificate(certificate);
        self.proposer.submit(command).await.map(|(index, _)| index)
    }

    /// Signs for every Docker host that asks, as soon as its request is agreed: the leader at once,
    /// the other servers where it does not.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut view = self.proposer.views.watch();
        let mut issuer = self.issuer.clone();
        let mut asked: BTreeMap<(NodeId, Vec<u8>), Instant> = BTreeMap::new();
        loop {
            let agreed = view.borrow_and_update().agreed.clone();
            let may_sign = issuer.borrow_and_update().is_some();
            let asking: Vec<(NodeId, Vec<u8>)> = agreed
                .docker_hosts
                .iter()
                .filter(|(node, _)| agreed.assigned(node, Module::DockerEngine))
                .filter_map(|(node, host)| match &host.phase {
                    DockerPhase::WantsCert { csr } => Some((node.clone(), csr.clone())),
                    DockerPhase::Assigned
                    | DockerPhase::Installing
                    | DockerPhase::WantsConfig
                    | DockerPhase::Ready { .. }
                    | DockerPhase::Stopping
                    | DockerPhase::Stopped
                    | DockerPhase::Drained
                    | DockerPhase::Failed { .. } => None,
                })
                .collect();
            asked.retain(|request, _| asking.contains(request));
            let leads = self.proposer.views.standing().leader.as_ref() == Some(&self.proposer.me);
            let mut waits = false;
            for (node, csr) in asking.into_iter().filter(|_| may_sign) {
                let since = *asked
                    .entry((node.clone(), csr.clone()))
                    .or_insert_with(Instant::now);
                if !leads && since.elapsed() < LEADER_FIRST {
                    waits = true;
                    continue;
                }
                if let Err(error) = self.sign_dockerd(&node, &csr).await {
                    waits = true;
                    tracing::warn!(node = agreed.name_of(&node), code = error.code, %error, "dockerd's certificate is not signed");
                }
            }
            // All arms only wait; everything is read anew above.
            tokio::select! {
                () = stop.cancelled() => return,
                changed = view.changed() => if changed.is_err() { return },
                changed = issuer.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(RETRY_PAUSE), if waits => {}
            }
        }
    }

    async fn sign_dockerd(&self, node: &NodeId, csr: &[u8]) -> Result<(), ApiError> {
        let agreed = self.proposer.views.view().agreed.clone();
        let peers = agreed.peers.iter().filter(|((_, id), _)| id == node);
        let names = Names {
            dns: vec![agreed.name_of(node)],
            addresses: peers
                .flat_map(|(_, peer)| [peer.ipv6.into(), peer.ipv4.into()])
                .collect(),
        };
        let holder = Holder::Node(node.clone());
        let profile = CertificateProfile::DockerServer;
        let leaf = self.sign(csr, profile, &holder, &names, LEAF_LIFETIME)?;
        let certificate = IssuedCertificate {
            serial: leaf.serial,
            leaf: leaf.der,
            csr: csr.to_vec(),
            issuer: leaf.issuer,
            not_before: leaf.validity.not_before,
            not_after: leaf.validity.not_after,
        };
        let command = Command::DockerCertSigned {
            node: node.clone(),
            certificate,
        };
        self.proposer.agree(command).await.map(|_| ())
    }
}

/// The code of a node that can't sign now; another server is asked then.
pub(crate) const NOT_ISSUING: &str = "NotIssuingError";

fn certificate(leaf: Leaf) -> PeerAnswer {
    PeerAnswer::Certificate {
        chain: leaf.chain,
        not_after_ms: leaf.validity.not_after.0,
    }
}

/// Why a node is given nothing: it was removed, or never was a member.
pub(crate) fn not_a_member(agreed: &consensus_core::Agreed, node: &NodeId) -> ApiError {
    match agreed.removed.get(node) {
        Some(removed) => ApiError::new(
            "NodeRemovedError",
            format!(
                "{} was removed from the mesh at {}: {}",
                removed.name,
                crate::api::rfc3339(removed.at),
                removed.reason
            ),
            "if it is to be a member again, empty its data directory and join with a new token",
        ),
        None => ApiError::new(
            "NodeNotFoundError",
            format!("{node} is no member of this mesh"),
            "join with a token",
        ),
    }
}

fn not_itself() -> ApiError {
    ApiError::new(
        "IdentityMismatchError",
        "the joiner is not who it says it is",
        "join with the key that the connection uses",
    )
}

/// The wall clock, as certificates count it.
pub(crate) fn now() -> WallMs {
    wall(SystemTime::now())
}
