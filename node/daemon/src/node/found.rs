//! Founding a mesh with this node as its first server.
//!
//! Decides the order: authority, certificate, network, Raft, the first command, and only then
//! what makes the node a member. Never leaves a half-made mesh behind.

use std::{collections::BTreeSet, fs, net::Ipv6Addr};

use consensus_authority::{Issuer, LEAF_LIFETIME, RecoveryKey, Root, seal};
use consensus_core::{
    CertificateProfile, Command, DEFAULT_IPV4_PREFIX, Enrolment, FOUNDER_RAFT_ID,
    FoundingAuthority, Holder, Ipv4Prefix, Ipv6Prefix64, MeshId, NetworkId, NewCertificate,
    NewIntermediate, NewRoot, RootFingerprint, SealedKey,
};
use node_api::{
    ApiError,
    types::{InitRequest, JoinRequest, Joined},
};

use super::{Entered, Node, WIREGUARD_PORT, check_prefix, invalid, listen_error};
use crate::{
    authority::{self, AuthorityError},
    mesh::{
        Connected, Host,
        issuer::{node_names, now, record},
        proposer::{propose_first, wall_now},
        renewal::node_request,
        replica::Replica,
        server,
        views::View,
    },
};

impl Node {
    /// Founds a mesh with this node as its first server.
    pub(crate) async fn init(&self, request: InitRequest) -> Result<Joined, ApiError> {
        let _entering = self.entering.lock().await;
        self.refuse_second_mesh()?;
        let prefix = match &request.ipv4_prefix {
            Some(text) => text
                .parse::<Ipv4Prefix>()
                .map_err(|error| invalid(&error))?,
            None => DEFAULT_IPV4_PREFIX,
        };
        check_prefix(prefix).await?;
        let founded = self
            .found(request.name.unwrap_or_else(|| "shoal".into()), prefix)
            .await;
        if founded.is_err() {
            // Nothing is final before mesh.json: leave no half-made mesh behind.
            authority::forget(&self.host.data.authority());
            let _ = fs::remove_dir_all(self.host.data.raft(FOUNDER_RAFT_ID));
        }
        founded
    }

    async fn found(&self, name: String, ipv4: Ipv4Prefix) -> Result<Joined, ApiError> {
        let host = &self.host;
        let (mesh, network) = (
            MeshId::from_bytes(rand::random()),
            NetworkId::from_bytes(rand::random()),
        );
        // Left over from a founding that was cut short; this node is a member of nothing.
        let _ = fs::remove_dir_all(host.data.raft(FOUNDER_RAFT_ID));
        host.data.forget_opened_raft();
        let first = self.enrolment(&JoinRequest::plain(), None)?;
        let overlay = Ipv6Prefix64::of(mesh, network).host(&first.node);
        let founded = found_authority(host, mesh, &first, overlay)?;
        let Founded {
            authority,
            certificate,
            chain,
            recovery_key,
        } = founded;
        let roots = [authority.root.certificate.clone()];
        let connected = host
            .connect(mesh, &roots, chain.clone())
            .map_err(|error| listen_error(&error))?;
        let row = consensus_core::Mesh {
            id: mesh,
            name,
            created_at: wall_now(),
        };
        let command = Command::CreateMesh {
            mesh: row,
            authority: Box::new(authority),
            first,
            certificate,
            network,
            ipv4,
            wireguard_port: WIREGUARD_PORT,
        };
        match self.found_group(&connected, command).await {
            Ok((agreement, view)) => {
                let entered = Entered {
                    mesh,
                    chain,
                    view,
                    raft: Some((FOUNDER_RAFT_ID, agreement)),
                    recovery_key: Some(recovery_key),
                };
                self.enter(connected, entered)
            }
            Err(error) => {
                connected.net.stop().await;
                Err(error)
            }
        }
    }

    async fn found_group(
        &self,
        connected: &Connected,
        command: Command,
    ) -> Result<(consensus_raft::Agreement<Replica>, View), ApiError> {
        let host = &self.host;
        let opened = server::open(
            &host.data,
            &host.me(),
            FOUNDER_RAFT_ID,
            host.config.raft_timers,
            &connected.net,
        )
        .await;
        let agreement = opened.map_err(|error| {
            ApiError::new(error.code(), error.to_string(), error.hint()).caused_by(&error)
        })?;
        let founded = agreement.found().await;
        let result = match founded {
            Ok(()) => propose_first(&agreement, host.me(), command).await,
            Err(error) => Err(ApiError::new(
                "RaftFailed",
                error.to_string(),
                "look into the log for the reason",
            )),
        };
        match result {
            Ok(view) => Ok((agreement, view)),
            Err(error) => {
                agreement.shutdown().await;
                Err(error)
            }
        }
    }
}

/// What a founder has before its mesh exists.
struct Founded {
    authority: FoundingAuthority,
    certificate: NewCertificate,
    chain: Vec<Vec<u8>>,
    recovery_key: String,
}

/// Makes root, recovery key, the founder's intermediate and its leaf. The root's key is sealed to
/// the founder and to the recovery key, and forgotten.
fn found_authority(
    host: &Host,
    mesh: MeshId,
    first: &Enrolment,
    overlay: Ipv6Addr,
) -> Result<Founded, ApiError> {
    let issue =
        |error: consensus_authority::IssueError| ApiError::from(AuthorityError::from(error));
    let files = &host.authority;
    let root = Root::generate(mesh, now()).map_err(issue)?;
    let recovery = RecoveryKey::generate();
    let recipients = BTreeSet::from([first.sealing_recipient.clone(), recovery.recipient()]);
    let to: Vec<&String> = recipients.iter().collect();
    let age = seal(root.key().pkcs8(), &to).map_err(AuthorityError::from)?;
    let (key, intermediate) = files.new_intermediate(&root, &first.node, now())?;
    let issuer = Issuer::new(key, &intermediate.der, Vec::new()).map_err(issue)?;
    let holder = Holder::Node(first.node.clone());
    let leaf = issuer
        .sign(
            &node_request(&host.key)?,
            CertificateProfile::Node,
            &holder,
            &node_names(&first.name, [overlay]),
            LEAF_LIFETIME,
            now(),
        )
        .map_err(issue)?;
    let certificate = root.certificate();
    let authority = FoundingAuthority {
        root: NewRoot {
            certificate: certificate.der().to_vec(),
            cross: None,
            not_after: certificate.not_after(),
        },
        root_key: SealedKey { recipients, age },
        recovery_recipient: recovery.recipient(),
        intermediate: NewIntermediate {
            serial: intermediate.serial,
            certificate: intermediate.der,
            root: RootFingerprint::of(certificate.der()),
            not_before: intermediate.validity.not_before,
            not_after: intermediate.validity.not_after,
        },
    };
    Ok(Founded {
        authority,
        certificate: record(&leaf, holder, CertificateProfile::Node),
        chain: leaf.chain,
        recovery_key: recovery.to_text().to_string(),
    })
}

/// A join request that asks for nothing special.
pub(super) trait Plain {
    fn plain() -> Self;
}

impl Plain for JoinRequest {
    fn plain() -> Self {
        Self {
            token: String::new(),
            labels: Default::default(),
            lifecycle_class: None,
            network_profile: None,
            tmpfs_store: None,
        }
    }
}
