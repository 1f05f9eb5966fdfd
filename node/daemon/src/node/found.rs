//! Founding a mesh with this node as its first server.
//!
//! Decides the order: authority, certificate, network, Raft, the first command, and only then
//! what makes the node a member. Never leaves a half-made mesh behind.

use std::fs;

use consensus_core::{
    Command, DEFAULT_IPV4_PREFIX, FOUNDER_RAFT_ID, Ipv4Prefix, Ipv6Prefix64, MeshId, NetworkId,
};
use node_api::{
    ApiError,
    types::{InitRequest, JoinRequest, Joined},
};

use super::{Entered, Node, WIREGUARD_PORT, check_prefix, invalid, listen_error};
use crate::{
    authority::Authority,
    mesh::{
        Connected,
        issuer::founder_certificate,
        proposer::{propose_first, wall_now},
        replica::Replica,
        server,
        upkeep::node_request,
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
            let _ = fs::remove_dir_all(self.host.data.authority());
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
        let authority = Authority::create(&host.data.authority(), mesh)?;
        let first = self.enrolment(&JoinRequest::plain(), None)?;
        let csr = node_request(&host.key)?;
        let overlay = Ipv6Prefix64::of(mesh, network).host(&first.node);
        let (leaf, certificate) = founder_certificate(&authority, &csr, &first, overlay)?;
        let root = authority.root().to_vec();
        let connected = host
            .connect(mesh, root.clone(), leaf.clone())
            .map_err(|error| listen_error(&error))?;
        let row = consensus_core::Mesh {
            id: mesh,
            name,
            root_certificate: root.clone(),
            issuer: host.me(),
            created_at: wall_now(),
        };
        let command = Command::CreateMesh {
            mesh: row,
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
                    root,
                    leaf,
                    view,
                    raft: Some((FOUNDER_RAFT_ID, agreement)),
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

/// A join request that asks for nothing special.
trait Plain {
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
