//! The daemon between two states: a machine without a mesh, and a member.
//!
//! Decides the order in which founding and joining become final: everything that can fail comes
//! before `mesh.json` is written, and what was made until then is removed when it fails.

mod found;
mod join;
mod own_return;
mod restore;

use std::{net::SocketAddr, sync::Arc};

use consensus_authority::words;
use consensus_core::{Agreed, Enrolment, Ipv4Prefix, LifecycleClass, MeshId, NetworkProfile, Role};
use node_api::{
    ApiError,
    types::{JoinRequest, Joined},
};
use overlay_core::peers::Cidr;
use tokio::sync::{Mutex, watch};

use crate::{
    data_dir::{DataDirError, Membership, Returning},
    machine,
    mesh::{
        Connected, Host, Mesh, Start,
        lease::begin_records,
        views::{View, Views},
    },
    token::Token,
};

/// The WireGuard port of the first network: one above libp2p's.
const WIREGUARD_PORT: u16 = 7441;

/// The daemon.
pub(crate) struct Node {
    pub(crate) host: Arc<Host>,
    mesh: watch::Sender<Option<Arc<Mesh>>>,
    /// One founding or joining at a time.
    entering: Mutex<()>,
}

impl From<DataDirError> for ApiError {
    fn from(error: DataDirError) -> Self {
        Self::new(error.code(), error.to_string(), error.hint()).caused_by(&error)
    }
}

fn listen_error(error: &overlay_net::ListenError) -> ApiError {
    ApiError::new(error.code(), error.to_string(), error.hint())
}

impl Node {
    /// A daemon that is no member yet.
    pub(crate) fn new(host: Arc<Host>) -> Self {
        Self {
            host,
            mesh: watch::Sender::new(None),
            entering: Mutex::new(()),
        }
    }

    /// The running membership, if there is one.
    pub(crate) fn mesh(&self) -> Option<Arc<Mesh>> {
        self.mesh.borrow().clone()
    }

    /// Follows the membership.
    pub(crate) fn watch_mesh(&self) -> watch::Receiver<Option<Arc<Mesh>>> {
        self.mesh.subscribe()
    }

    /// The running membership, or the error that says how to get one.
    pub(crate) fn require_mesh(&self) -> Result<Arc<Mesh>, ApiError> {
        self.mesh()
            .ok_or_else(|| consensus_core::Refusal::NoMesh.into())
    }

    fn refuse_second_mesh(&self) -> Result<(), ApiError> {
        match self.mesh() {
            Some(_) => Err(consensus_core::Refusal::MeshExists.into()),
            None => Ok(()),
        }
    }

    /// Comes back as the member that this node was, if it was one.
    pub(crate) fn resume(&self) -> Result<(), ApiError> {
        let Some(mut membership) = self.host.data.membership()? else {
            return Ok(());
        };
        let damaged = |reason: &str| {
            let path = self.host.data.root().join("mesh.json");
            ApiError::from(DataDirError::Damaged {
                path,
                reason: reason.to_owned(),
            })
        };
        let Returning { mesh, roots, chain } = membership.start_again().map_err(damaged)?;
        self.host.data.set_membership(&membership)?;
        let view = self.host.data.view().and_then(|bytes| View::decode(&bytes));
        let view = view.ok_or_else(|| damaged("the last view is missing or unreadable"))?;
        let chain = match own_return::certificates(&self.host, mesh, &view.agreed, &chain) {
            Some(renewed) => {
                membership.chain = renewed.iter().map(hex::encode).collect();
                self.host.data.set_membership(&membership)?;
                renewed
            }
            None => chain,
        };
        let connected = self
            .host
            .connect(mesh, &roots, chain)
            .map_err(|error| listen_error(&error))?;
        let start = Start {
            host: self.host.clone(),
            mesh,
            membership,
            connected,
            views: Views::new(view),
            agreement: None,
        };
        self.mesh.send_replace(Some(Mesh::start(start)));
        Ok(())
    }
    /// Writes the membership and starts it: from here on this node is a member.
    fn enter(&self, connected: Connected, entered: Entered) -> Result<Joined, ApiError> {
        let Entered {
            mesh,
            chain,
            view,
            raft,
            recovery_key,
        } = entered;
        let data = &self.host.data;
        data.set_view(&view.encode())?;
        let membership = Membership {
            mesh_id: mesh.to_string(),
            roots: view
                .agreed
                .trusted_roots()
                .iter()
                .map(hex::encode)
                .collect(),
            chain: chain.iter().map(hex::encode).collect(),
            generation: 1,
        };
        begin_records(data)?;
        data.set_membership(&membership)?;
        let mut joined = self.joined(&view.agreed)?;
        joined.recovery_key = recovery_key;
        let views = Views::new(view);
        let start = Start {
            host: self.host.clone(),
            mesh,
            membership,
            connected,
            views,
            agreement: raft,
        };
        self.mesh.send_replace(Some(Mesh::start(start)));
        Ok(joined)
    }

    fn joined(&self, agreed: &Agreed) -> Result<Joined, ApiError> {
        let me = self.host.me();
        let mesh = agreed
            .mesh
            .as_ref()
            .ok_or(consensus_core::Refusal::NoMesh)?;
        let node = agreed
            .nodes
            .get(&me)
            .ok_or(consensus_core::Refusal::NodeUnknown {
                node: me.to_string(),
            })?;
        let peer = agreed.first_peer(&me).map(|(_, peer)| peer);
        let root = agreed
            .active_root()
            .ok_or(consensus_core::Refusal::NoMesh)?
            .fingerprint();
        let servers = agreed.servers().count();
        Ok(Joined {
            mesh_id: mesh.id.to_string(),
            mesh: mesh.name.clone(),
            node: node.name.clone(),
            role: node.role.as_str().into(),
            overlay_ipv6: peer.map(|peer| peer.ipv6),
            overlay_ipv4: peer.map(|peer| peer.ipv4),
            root_fingerprint: root.to_string(),
            root_words: words(root.as_bytes()),
            warnings: if node.role == Role::Server {
                server_warnings(servers)
            } else {
                Vec::new()
            },
            recovery_key: None,
        })
    }

    fn enrolment(
        &self,
        request: &JoinRequest,
        token: Option<&Token>,
    ) -> Result<Enrolment, ApiError> {
        let config = &self.host.config;
        let toward = token.and_then(|token| token.addresses.first().copied());
        let class = match request.lifecycle_class.as_deref() {
            None | Some("persistent") => LifecycleClass::Persistent,
            Some("ephemeral") => LifecycleClass::Ephemeral,
            Some("spot") => LifecycleClass::Spot,
            Some(other) => {
                return Err(invalid_text(
                    "lifecycle class",
                    other,
                    "persistent, ephemeral or spot",
                ));
            }
        };
        let profile = match request.network_profile.as_deref() {
            None => machine::network_profile(),
            Some("heavyweight") => NetworkProfile::Heavyweight,
            Some("lightweight") => NetworkProfile::Lightweight,
            Some(other) => {
                return Err(invalid_text(
                    "network profile",
                    other,
                    "heavyweight or lightweight",
                ));
            }
        };
        Ok(Enrolment {
            node: self.host.me(),
            name: config.name.clone(),
            labels: request.labels.clone(),
            metadata: machine::metadata(),
            lifecycle_class: class,
            tmpfs_store: request
                .tmpfs_store
                .unwrap_or_else(|| machine::is_in_memory(self.host.data.root())),
            network_profile: profile,
            addresses: self.first_addresses(toward),
            wireguard_public_key: *self.host.wireguard.current().public().as_bytes(),
            sealing_recipient: self.host.authority.sealing_key()?.recipient(),
        })
    }

    /// Where this node can be reached, before libp2p has told its listeners: what is advertised,
    /// the fixed listen addresses, or the address from which it reaches the mesh.
    fn first_addresses(&self, toward: Option<SocketAddr>) -> Vec<SocketAddr> {
        let config = &self.host.config;
        if !config.advertise.is_empty() {
            return config.advertise.clone();
        }
        let fixed: Vec<SocketAddr> = config
            .listen
            .iter()
            .filter(|a| !a.ip().is_unspecified() && a.port() != 0)
            .copied()
            .collect();
        if !fixed.is_empty() {
            return fixed;
        }
        let port = config.listen.first().map_or(0, SocketAddr::port);
        let source = toward.and_then(machine::source_address);
        source
            .filter(|_| port != 0)
            .map(|ip| vec![SocketAddr::new(ip, port)])
            .unwrap_or_default()
    }

    /// Waits until this node was removed from its mesh and has taken itself off its host.
    pub(crate) async fn departed(&self) {
        let mut meshes = self.watch_mesh();
        loop {
            let mesh = meshes.borrow_and_update().clone();
            let departed = async {
                match mesh.as_ref().map(|mesh| mesh.departed.clone()) {
                    Some(mut departed) => departed.wait_for(|gone| *gone).await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            // Both arms only wait.
            tokio::select! {
                gone = departed => if gone { return },
                changed = meshes.changed() => if changed.is_err() {
                    return std::future::pending().await;
                },
            }
        }
    }

    /// Ends the membership's tasks.
    pub(crate) async fn stop(&self) {
        if let Some(mesh) = self.mesh() {
            mesh.stop().await;
        }
    }
}

/// What a founder or joiner has when nothing can be refused any more.
struct Entered {
    mesh: MeshId,
    chain: Vec<Vec<u8>>,
    view: View,
    recovery_key: Option<String>,
    raft: Option<(
        consensus_core::RaftId,
        consensus_raft::Agreement<crate::mesh::replica::Replica>,
    )>,
}

/// Two servers have no majority to lose (SPEC 1.3).
pub(crate) fn server_warnings(servers: usize) -> Vec<String> {
    if servers != 2 {
        return Vec::new();
    }
    vec!["the mesh now has two servers: if either fails, no change is possible until it is back; add a third".to_owned()]
}

/// Refuses a prefix of the first network that this machine routes elsewhere.
async fn check_prefix(prefix: Ipv4Prefix) -> Result<(), ApiError> {
    check_prefix_of(prefix, "shoal-default").await
}

/// Refuses a prefix that this machine routes elsewhere than by the network's own interface.
pub(crate) async fn check_prefix_of(prefix: Ipv4Prefix, interface: &str) -> Result<(), ApiError> {
    let cidr = Cidr::new(prefix.network().into(), prefix.bits())
        .expect("agreed prefixes have no host bits");
    overlay_wireguard::check_overlap(cidr, interface)
        .await
        .map_err(|error| ApiError::new(error.code(), error.to_string(), error.hint()))
}

pub(crate) fn invalid(error: &consensus_core::InvalidId) -> ApiError {
    invalid_text(error.what, &error.text, error.rule)
}

pub(crate) fn invalid_text(what: &str, text: &str, rule: &str) -> ApiError {
    let (what, text, rule) = (what.to_owned(), text.to_owned(), rule.to_owned());
    consensus_core::Refusal::Invalid { what, text, rule }.into()
}
