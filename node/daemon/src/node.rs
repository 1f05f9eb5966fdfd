//! The daemon between two states: a machine without a mesh, and a member.
//!
//! Decides the order in which founding and joining become final: everything that can fail comes
//! before `mesh.json` is written, and what was made until then is removed when it fails.

use std::{fs, net::SocketAddr, sync::Arc};

use consensus_core::{
    Agreed, Command, DEFAULT_IPV4_PREFIX, Enrolment, FOUNDER_RAFT_ID, Ipv4Prefix, Ipv6Prefix64,
    LifecycleClass, LogIndex, MeshId, NetworkId, NetworkProfile, Role, wire::v1,
};
use node_api::{
    ApiError,
    types::{InitRequest, JoinRequest, Joined},
};
use overlay_core::peers::Cidr;
use tokio::sync::{Mutex, watch};

use crate::{
    authority::{Authority, fingerprint, words},
    certificate_files::write_client_files,
    data_dir::{DataDirError, Membership},
    machine,
    mesh::{
        Connected, Host, Mesh, Start,
        issuer::founder_certificate,
        peer_wire::{EnrolAnswer, EnrolRequest, decode, encode},
        proposer::propose_first,
        server,
        upkeep::node_request,
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
        membership.generation += 1;
        self.host.data.set_membership(&membership)?;
        let damaged = |reason: &str| {
            let path = self.host.data.root().join("mesh.json");
            ApiError::from(DataDirError::Damaged {
                path,
                reason: reason.to_owned(),
            })
        };
        let mesh: MeshId = membership.mesh_id.parse().map_err(|_| damaged("mesh_id"))?;
        let root = hex::decode(&membership.root).map_err(|_| damaged("root"))?;
        let leaf = hex::decode(&membership.leaf).map_err(|_| damaged("leaf"))?;
        let view = self.host.data.view().and_then(|bytes| stored_view(&bytes));
        let view = view.ok_or_else(|| damaged("the last view is missing or unreadable"))?;
        let connected = self
            .host
            .connect(mesh, root, leaf)
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
            created_at: crate::mesh::proposer::wall_now(),
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
    ) -> Result<
        (
            consensus_raft::Agreement<crate::mesh::replica::Replica>,
            View,
        ),
        ApiError,
    > {
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

    /// Joins the mesh that the token names.
    pub(crate) async fn join(&self, request: JoinRequest) -> Result<Joined, ApiError> {
        let _entering = self.entering.lock().await;
        self.refuse_second_mesh()?;
        let token = Token::decode(&request.token).map_err(|error| {
            let hint = "copy the whole file that `shoal token create --out FILE` wrote";
            ApiError::new("BootstrapTokenMalformedError", error.to_string(), hint)
        })?;
        for prefix in &token.prefixes {
            check_prefix(*prefix).await?;
        }
        let enrolment = self.enrolment(&request, Some(&token))?;
        let csr = node_request(&self.host.key)?;
        let body = encode(&EnrolRequest {
            token: token.id,
            secret: token.secret,
            csr,
            enrolment,
        });
        let answer = self.enrol(&token, body).await?;
        let mesh = answer
            .agreed
            .mesh
            .clone()
            .ok_or(consensus_core::Refusal::NoMesh)?;
        let root = mesh.root_certificate.clone();
        if fingerprint(&root) != token.root_fingerprint {
            let hint = "do not use this token; make a new one on a node that you trust";
            return Err(ApiError::new(
                "EnrolWrongRootError",
                "the mesh answered with another root than the token names",
                hint,
            ));
        }
        let connected = self
            .host
            .connect(mesh.id, root.clone(), answer.leaf.clone())
            .map_err(|error| listen_error(&error))?;
        let view = View {
            revision: answer.revision,
            agreed: Arc::new(answer.agreed),
        };
        self.enter(
            connected,
            Entered {
                mesh: mesh.id,
                root,
                leaf: answer.leaf,
                view,
                raft: None,
            },
        )
    }

    /// Tries the token's addresses in turn. A refusal by the mesh is final, silence is not.
    async fn enrol(&self, token: &Token, body: Vec<u8>) -> Result<EnrolAnswer, ApiError> {
        let mut last: Option<ApiError> = None;
        for address in &token.addresses {
            let enrolled = overlay_net::enrol(
                &self.host.key,
                *address,
                token.mesh,
                token.root_fingerprint,
                body.clone(),
            )
            .await;
            match enrolled {
                Ok(bytes) => return decode(&bytes),
                Err(error) => {
                    let answer = ApiError::new(error.code(), error.to_string(), error.hint());
                    if matches!(error, overlay_net::EnrolError::Refused(_)) {
                        return Err(answer);
                    }
                    tracing::info!(%address, %error, "no enrolment here");
                    last = Some(answer.caused_by(&error));
                }
            }
        }
        Err(last.unwrap_or_else(|| {
            ApiError::new(
                "EnrolNoAnswerError",
                "the token names no address",
                "make a new one with `shoal token create`",
            )
        }))
    }

    /// Writes the membership and starts it: from here on this node is a member.
    fn enter(&self, connected: Connected, entered: Entered) -> Result<Joined, ApiError> {
        let Entered {
            mesh,
            root,
            leaf,
            view,
            raft,
        } = entered;
        let data = &self.host.data;
        let mut stored = view.revision.0.to_be_bytes().to_vec();
        stored.extend(v1::encode(&*view.agreed));
        data.set_view(&stored)?;
        write_client_files(&data.tls(), &root, &leaf, &self.host.key).map_err(|error| {
            let path = data.tls();
            ApiError::from(DataDirError::Unusable {
                path,
                source: error,
            })
        })?;
        let membership = Membership {
            mesh_id: mesh.to_string(),
            root: hex::encode(&root),
            leaf: hex::encode(&leaf),
            generation: 1,
        };
        data.set_membership(&membership)?;
        let joined = self.joined(&view.agreed)?;
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
        let root = fingerprint(&mesh.root_certificate);
        let servers = agreed.servers().count();
        Ok(Joined {
            mesh_id: mesh.id.to_string(),
            mesh: mesh.name.clone(),
            node: node.name.clone(),
            role: node.role.as_str().into(),
            overlay_ipv6: peer.map(|peer| peer.ipv6),
            overlay_ipv4: peer.map(|peer| peer.ipv4),
            root_fingerprint: hex::encode(root),
            root_words: words(&root),
            warnings: if node.role == Role::Server {
                server_warnings(servers)
            } else {
                Vec::new()
            },
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
            wireguard_public_key: *self.host.wireguard.public().as_bytes(),
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
    root: Vec<u8>,
    leaf: Vec<u8>,
    view: View,
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

async fn check_prefix(prefix: Ipv4Prefix) -> Result<(), ApiError> {
    let cidr = Cidr::new(prefix.network().into(), prefix.bits())
        .expect("agreed prefixes have no host bits");
    overlay_wireguard::check_overlap(cidr, "shoal-default")
        .await
        .map_err(|error| ApiError::new(error.code(), error.to_string(), error.hint()))
}

fn stored_view(bytes: &[u8]) -> Option<View> {
    let (revision, body) = bytes.split_first_chunk::<8>()?;
    let agreed: Agreed = v1::decode(body).ok()?;
    Some(View {
        revision: LogIndex(u64::from_be_bytes(*revision)),
        agreed: Arc::new(agreed),
    })
}

fn invalid(error: &consensus_core::InvalidId) -> ApiError {
    invalid_text(error.what, &error.text, error.rule)
}

pub(crate) fn invalid_text(what: &str, text: &str, rule: &str) -> ApiError {
    let (what, text, rule) = (what.to_owned(), text.to_owned(), rule.to_owned());
    consensus_core::Refusal::Invalid { what, text, rule }.into()
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
