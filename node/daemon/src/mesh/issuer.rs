//! The issuer's duties: enrols joiners, signs for dockerd, for plain docker CLIs and renewals.
//!
//! Decides what a certificate may name: only what is agreed of the node, never what its request
//! asks for. An enrolment's certificate is handed out only once the admission is agreed.

use std::collections::BTreeSet;

use consensus_core::{
    CertificateProfile, Command, DockerPhase, Done, Enrolment, IssuedCertificate, Module,
    NewCertificate, NodeId, WallMs,
};
use node_api::ApiError;
use tokio_util::sync::CancellationToken;

use super::{
    peer_wire::{EnrolAnswer, EnrolRequest, PeerAnswer},
    proposer::Proposer,
};
use crate::{
    authority::{Authority, AuthorityError, Leaf, Names},
    token::hash_secret,
};

/// The issuer on the node that holds the root key.
#[derive(Clone)]
pub(crate) struct IssuerDesk {
    pub(crate) authority: Authority,
    pub(crate) proposer: Proposer,
}

impl From<AuthorityError> for ApiError {
    fn from(error: AuthorityError) -> Self {
        let hint = match &error {
            AuthorityError::Key { .. } => "restore the issuer's data directory from a backup",
            AuthorityError::Request { .. } => "send a PKCS#10 request signed with its own key",
            AuthorityError::Sign { .. } => "report this",
        };
        Self::new(error.code(), error.to_string(), hint)
    }
}

impl IssuerDesk {
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
            let hint = "join with the key that the connection uses";
            return Err(ApiError::new(
                "IdentityMismatchError",
                "the joiner is not who it says it is",
                hint,
            ));
        }
        require_key_of(&csr, node)?;
        let leaf = self.sign_node(&csr, node, &enrolment.name)?;
        let certificate = NewCertificate::new(
            leaf.serial.clone(),
            node.clone(),
            CertificateProfile::Node,
            leaf.not_after,
        );
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
        let view = self.proposer.views.view();
        if view.revision < index {
            return Err(self.proposer.no_majority());
        }
        Ok(EnrolAnswer {
            leaf: leaf.der,
            revision: view.revision,
            agreed: (*view.agreed).clone(),
        })
    }

    fn sign_node(&self, csr: &[u8], node: &NodeId, name: &str) -> Result<Leaf, ApiError> {
        let view = self.proposer.views.view();
        let addresses = view
            .agreed
            .networks
            .values()
            .map(|network| network.ipv6.host(node).into())
            .collect();
        let names = Names {
            dns: vec![name.to_owned()],
            addresses,
        };
        Ok(self
            .authority
            .sign(csr, CertificateProfile::Node, node, &names)?)
    }

    /// A new certificate for a member's own key.
    pub(crate) async fn renew(&self, node: &NodeId, csr: &[u8]) -> Result<PeerAnswer, ApiError> {
        require_key_of(csr, node)?;
        let name = self.proposer.views.view().agreed.name_of(node);
        let leaf = self.sign_node(csr, node, &name)?;
        self.record(node, CertificateProfile::Node, &leaf).await?;
        Ok(PeerAnswer::Certificate {
            leaf: leaf.der,
            not_after_ms: leaf.not_after.0,
        })
    }

    /// A certificate with which a plain docker CLI on a member's machine reaches every Docker host.
    pub(crate) async fn docker_client(
        &self,
        node: &NodeId,
        csr: &[u8],
    ) -> Result<PeerAnswer, ApiError> {
        let leaf = self.authority.sign(
            csr,
            CertificateProfile::DockerClient,
            node,
            &Names::default(),
        )?;
        self.record(node, CertificateProfile::DockerClient, &leaf)
            .await?;
        Ok(PeerAnswer::Certificate {
            leaf: leaf.der,
            not_after_ms: leaf.not_after.0,
        })
    }

    async fn record(
        &self,
        node: &NodeId,
        profile: CertificateProfile,
        leaf: &Leaf,
    ) -> Result<(), ApiError> {
        let certificate =
            NewCertificate::new(leaf.serial.clone(), node.clone(), profile, leaf.not_after);
        self.proposer
            .submit(Command::RecordCertificate(certificate))
            .await
            .map(|_| ())
    }

    /// Signs for every Docker host that asks, as soon as its request is agreed.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut view = self.proposer.views.watch();
        let mut answered: BTreeSet<(NodeId, Vec<u8>)> = BTreeSet::new();
        loop {
            let agreed = view.borrow_and_update().agreed.clone();
            let asking: Vec<(NodeId, Vec<u8>)> = agreed
                .docker_hosts
                .iter()
                .filter(|(node, _)| agreed.assigned(node, Module::DockerEngine))
                .filter_map(|(node, host)| {
                    let DockerPhase::WantsCert { csr } = &host.phase else {
                        return None;
                    };
                    Some((node.clone(), csr.clone()))
                })
                .collect();
            answered.retain(|request| asking.contains(request));
            let mut failed = false;
            for request in asking {
                if answered.contains(&request) {
                    continue;
                }
                match self.sign_dockerd(&request.0, &request.1).await {
                    Ok(()) => {
                        answered.insert(request);
                    }
                    Err(error) => {
                        failed = true;
                        tracing::warn!(node = agreed.name_of(&request.0), code = error.code, %error, "dockerd's certificate is not signed");
                    }
                }
            }
            // Both arms only wait; a failed signature is tried again after a pause.
            tokio::select! {
                () = stop.cancelled() => return,
                changed = view.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(std::time::Duration::from_secs(1)), if failed => {}
            }
        }
    }

    async fn sign_dockerd(&self, node: &NodeId, csr: &[u8]) -> Result<(), ApiError> {
        let agreed = self.proposer.views.view().agreed.clone();
        let peers = agreed.peers.iter().filter(|((_, id), _)| id == node);
        let addresses = peers
            .flat_map(|(_, peer)| [peer.ipv6.into(), peer.ipv4.into()])
            .collect();
        let names = Names {
            dns: vec![agreed.name_of(node)],
            addresses,
        };
        let leaf = self
            .authority
            .sign(csr, CertificateProfile::DockerServer, node, &names)?;
        let certificate = IssuedCertificate {
            serial: leaf.serial,
            leaf: leaf.der,
            csr: csr.to_vec(),
            not_after: leaf.not_after,
        };
        self.proposer
            .agree(Command::DockerCertSigned {
                node: node.clone(),
                certificate,
            })
            .await
            .map(|_| ())
    }
}

/// A node's certificate is on the very key that is its identity.
fn require_key_of(csr: &[u8], node: &NodeId) -> Result<(), ApiError> {
    use x509_parser::prelude::FromDer;
    let key = x509_parser::certification_request::X509CertificationRequest::from_der(csr)
        .ok()
        .map(|(_, csr)| {
            csr.certification_request_info
                .subject_pki
                .subject_public_key
                .data
                .to_vec()
        });
    let matches = key.is_some_and(|key| {
        key.try_into()
            .is_ok_and(|key: [u8; 32]| overlay_net::node_id_of_key(&key).as_ref() == Some(node))
    });
    if matches {
        return Ok(());
    }
    let hint = "the request must be on the node's own Ed25519 key";
    Err(ApiError::new(
        "SigningRequestInvalidError",
        "the signing request is not on the node's own key",
        hint,
    ))
}

/// What the founder's own certificate is made from, before there is any agreed state.
pub(crate) fn founder_certificate(
    authority: &Authority,
    csr: &[u8],
    first: &Enrolment,
    overlay: std::net::Ipv6Addr,
) -> Result<(Vec<u8>, NewCertificate), ApiError> {
    let names = Names {
        dns: vec![first.name.clone()],
        addresses: vec![overlay.into()],
    };
    let leaf = authority.sign(csr, CertificateProfile::Node, &first.node, &names)?;
    let record = NewCertificate::new(
        leaf.serial.clone(),
        first.node.clone(),
        CertificateProfile::Node,
        leaf.not_after,
    );
    Ok((leaf.der, record))
}

/// Two thirds of a leaf's life, counted back from its end.
pub(crate) fn renew_at(not_after: WallMs, not_before: WallMs) -> WallMs {
    WallMs(not_before.0 + (not_after.0.saturating_sub(not_before.0)) / 3 * 2)
}
