//! K3s clusters and their nodes as the mesh agrees on them (SPEC 5).
//!
//! Decides: what a phase is called, and who may take part with which CNI. Which phase follows which is
//! `apply`'s; which cluster a node is to be in: [`crate::WantedK3s`]; a change that goes round:
//! [`crate::Rollout`].
//! Never: knows a token. It is sealed to the node that asked for it before it comes here.
//!
//! Invariants, kept by `apply`: a cluster has one founder, named in the entry that makes it, and
//! nobody else ever initialises its datastore; a token answers one attempt of one node; a node is in
//! one cluster, and leaves it before it enters another; never do two servers of a cluster have
//! their turn at once; who lost its disk is another node to its cluster than it was, and a name that
//! the cluster still knows gets no token.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv4Addr,
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::{
    Agreed, InvalidId, IpPrefix, LogIndex, MeshId, Module, NetworkId, NetworkProfile, NodeId,
    Rollout, SealedKey, VipId, WallMs, ids::random_id,
};

random_id!(
    /// A K3s cluster.
    ClusterId,
    "cluster id"
);

impl ClusterId {
    /// The cluster that a log entry makes.
    pub fn made_at(mesh: MeshId, index: LogIndex) -> Self {
        let mut both = [0; 24];
        both[..16].copy_from_slice(mesh.as_bytes());
        both[16..].copy_from_slice(&index.0.to_be_bytes());
        let hash = blake3::derive_key("shoal v1 cluster id", &both);
        let (id, _) = hash.split_first_chunk().expect("a hash has 32 bytes");
        Self::from_bytes(*id)
    }
}

/// The port of the Kubernetes API and of K3s's supervisor.
pub const K3S_API_PORT: u16 = 6443;
/// What a cluster is called that nobody gave a name.
pub(crate) const DEFAULT_CLUSTER: &str = "default";
/// What begins the name of the virtual IP of a cluster's API; the cluster's follows.
pub(crate) const API_VIP_PREFIX: &str = "k3s-";
/// Where K3s puts pods unless it is told otherwise (`k3s server --help`, cluster-cidr). Where they are
/// once, they stay: a node's own subnet is fixed in Kubernetes, and its controller manager ends with
/// an error as long as one lies outside of the cluster's.
pub(crate) const K3S_PODS: IpPrefix = IpPrefix::ipv4(Ipv4Addr::new(10, 42, 0, 0), 16);
/// Where it puts services (the same, service-cidr). shoal leaves that so.
pub(crate) const K3S_SERVICES: IpPrefix = IpPrefix::ipv4(Ipv4Addr::new(10, 43, 0, 0), 16);

/// What a node is in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum K3sRole {
    /// Control plane and a member of etcd.
    Server,
    /// Runs pods.
    Agent,
}

impl K3sRole {
    /// The word in tables, flags and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Agent => "agent",
        }
    }

    /// The module that makes a node so.
    pub const fn module(self) -> Module {
        match self {
            Self::Server => Module::K3sServer,
            Self::Agent => Module::K3sAgent,
        }
    }
}

/// Who gives pods their network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Cni {
    /// What K3s brings along.
    Flannel,
    /// Installed into the cluster by its owner; K3s is told to leave pods alone.
    OvnKubernetes,
}

impl Cni {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Flannel, Self::OvnKubernetes];

    /// The word in tables, flags and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Flannel => "flannel",
            Self::OvnKubernetes => "ovn_kubernetes",
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cni| cni.as_str() == name)
    }

    /// What a machine's cluster gets unless its founder says otherwise (SPEC 5.6).
    pub const fn of_profile(profile: NetworkProfile) -> Self {
        match profile {
            NetworkProfile::Heavyweight => Self::OvnKubernetes,
            NetworkProfile::Lightweight => Self::Flannel,
        }
    }

    /// Whether a machine can carry it.
    pub const fn runs_on(self, profile: NetworkProfile) -> bool {
        matches!(
            (self, profile),
            (Self::Flannel, _) | (Self::OvnKubernetes, NetworkProfile::Heavyweight)
        )
    }
}

/// Where a node gets its `k3s` from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BinaryOrigin {
    /// A file on the node itself.
    Path(String),
    /// A file server, and what the file must hash to.
    Url {
        /// `http://…` or `https://…`.
        url: String,
        /// SHA-256 of the file.
        sha256: [u8; 32],
    },
}

/// Which K3s a node is to run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct K3sBinary {
    /// Where it comes from; without, the one in `/usr/local/bin`.
    pub origin: Option<BinaryOrigin>,
    /// What its `--version` must say, such as `v1.31.2+k3s1`; unless given, its cluster's.
    pub version: Option<String>,
    /// A directory on the node with images that are there before anything is pulled.
    pub images: Option<String>,
}

impl K3sBinary {
    /// The one that is installed, whatever it is.
    pub const INSTALLED: Self = Self {
        origin: None,
        version: None,
        images: None,
    };

    /// This one in the place of another. Images that were named for that one stay, unless others are.
    #[must_use]
    pub fn instead_of(&self, other: &Self) -> Self {
        Self {
            images: self.images.clone().or_else(|| other.images.clone()),
            ..self.clone()
        }
    }
}

/// What an assignment of a K3s module says beside its target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct K3sWish {
    /// The cluster to be in.
    pub cluster: ClusterId,
    /// With which K3s.
    pub binary: K3sBinary,
}

/// How a cluster is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClusterStatus {
    /// Its founder has not been ready yet.
    Bootstrapping,
    /// Its API answered.
    Active,
    /// It has no server that could bring it up again.
    Error {
        /// Why.
        reason: String,
    },
}

impl ClusterStatus {
    /// The word in tables and JSON.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Bootstrapping => "bootstrapping",
            Self::Active => "active",
            Self::Error { .. } => "error",
        }
    }
}

/// One cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Unique in the mesh.
    pub name: String,
    /// All its traffic is in this network.
    pub network: NetworkId,
    /// Who gives pods their network. Fixed.
    pub cni: Cni,
    /// Where pods have their addresses, if the network says so and flannel cares.
    pub pod_prefix: Option<IpPrefix>,
    /// Its API's address.
    pub vip: VipId,
    /// Who initialises its datastore, alone.
    pub founder: NodeId,
    /// The entry that began the founder's stay, in which it initialises the datastore. Until it is there,
    /// because it has to leave another cluster first, the entry that made this one. A founder that
    /// loses its disk before the cluster was active begins anew, and this with it.
    pub founded: LogIndex,
    /// How it is.
    pub status: ClusterStatus,
    /// The K3s that its nodes run: its founder's, or that of the last upgrade.
    pub version: Option<String>,
    /// The entry that its nodes' present settings come from.
    pub generation: LogIndex,
    /// A change of all nodes that goes round.
    pub rollout: Option<Rollout>,
    /// Names of nodes that left or were lost, until the cluster has forgotten them too; each with the
    /// entry in which it went, so that a word about an earlier time does not count.
    pub departed: BTreeMap<String, LogIndex>,
    /// When it was made.
    pub created_at: WallMs,
    /// Those of [`departed`](Self::departed) that were servers and did not take themselves off: they were
    /// removed, or lost their disks. etcd counts them as long as they are not forgotten.
    pub lost: BTreeSet<String>,
}

impl Cluster {
    /// Whether this stay of this node is the one that initialises the cluster.
    pub fn is_founded_by(&self, node: &NodeId, stay: &K3sNode) -> bool {
        self.founder == *node && self.founded == stay.attempt
    }
}

/// How far a node of a cluster is (SPEC 5.1 to 5.3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum K3sPhase {
    /// The node has not answered yet. If it says so itself, nothing of the stay is on it any more: its
    /// disk was lost.
    Assigned,
    /// K3s is being looked for or installed.
    Installing,
    /// The founder has started the cluster, which is not ready yet.
    Bootstrap,
    /// The node asks for the cluster's token.
    JoinRequest,
    /// It is there, sealed to the node.
    JoinTokenIssued,
    /// K3s was started.
    Starting,
    /// K3s is ready.
    Ready {
        /// K3s's version.
        version: String,
    },
    /// Not wanted there any more; K3s is being stopped and taken off.
    Leaving,
    /// Nothing of it is left on the node. The row goes with this report.
    Stopped,
    /// A step failed; it is tried again.
    Failed {
        /// What went wrong, in words.
        reason: String,
        /// The stable code of it.
        code: String,
        /// When it is tried again.
        retry_at: WallMs,
    },
    /// The node is emptied, and its API server stopped.
    Drained,
}

impl K3sPhase {
    /// The word in tables and JSON.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Assigned => "assigned",
            Self::Installing => "installing",
            Self::Bootstrap => "bootstrap",
            Self::JoinRequest => "join_request",
            Self::JoinTokenIssued => "join_token_issued",
            Self::Starting => "starting",
            Self::Ready { .. } => "ready",
            Self::Leaving => "leaving",
            Self::Stopped => "stopped",
            Self::Failed { .. } => "failed",
            Self::Drained => "drained",
        }
    }

    /// Whether two phases tell the same; the time of a retry alone is no news.
    pub fn tells_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Failed { reason, code, .. },
                Self::Failed {
                    reason: r, code: c, ..
                },
            ) => (reason, code) == (r, c),
            (one, another) => one == another,
        }
    }
}

/// One node of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct K3sNode {
    /// Of which.
    pub cluster: ClusterId,
    /// As what.
    pub role: K3sRole,
    /// The entry that put it there. What is said of an earlier stay does not count.
    pub attempt: LogIndex,
    /// With which K3s.
    pub binary: K3sBinary,
    /// How far it is.
    pub phase: K3sPhase,
    /// Since when.
    pub since: WallMs,
    /// The cluster's token, sealed to this node.
    pub token: Option<SealedKey>,
    /// K3s's version when it was last ready.
    pub version: Option<String>,
    /// The cluster's [`generation`](Cluster::generation) that it was last ready with.
    pub generation: LogIndex,
    /// Where its pods have their addresses.
    pub pods: BTreeSet<IpPrefix>,
}

impl K3sNode {
    /// Whether it was ready since it was put there.
    pub const fn has_been_ready(&self) -> bool {
        self.version.is_some()
    }

    /// Whether it is ready now.
    pub const fn is_ready(&self) -> bool {
        matches!(self.phase, K3sPhase::Ready { .. })
    }

    /// Whether it is on its way out.
    pub const fn is_leaving(&self) -> bool {
        matches!(self.phase, K3sPhase::Leaving | K3sPhase::Stopped)
    }

    /// pending, active, drained, leaving or failed, as tables show it.
    pub const fn status(&self) -> &'static str {
        match self.phase {
            K3sPhase::Ready { .. } => "active",
            K3sPhase::Leaving | K3sPhase::Stopped => "leaving",
            K3sPhase::Failed { .. } => "failed",
            K3sPhase::Drained => "drained",
            K3sPhase::Assigned
            | K3sPhase::Installing
            | K3sPhase::Bootstrap
            | K3sPhase::JoinRequest
            | K3sPhase::JoinTokenIssued
            | K3sPhase::Starting => "pending",
        }
    }
}

impl Agreed {
    /// The cluster called so, by name or id.
    pub fn find_cluster(&self, name_or_id: &str) -> Option<(ClusterId, &Cluster)> {
        let id = name_or_id.parse().ok();
        self.clusters
            .iter()
            .find(|(key, cluster)| cluster.name == name_or_id || Some(**key) == id)
            .map(|(key, cluster)| (*key, cluster))
    }

    /// A cluster's nodes.
    pub fn k3s_nodes_of(&self, cluster: ClusterId) -> impl Iterator<Item = (&NodeId, &K3sNode)> {
        self.k3s_nodes
            .iter()
            .filter(move |(_, node)| node.cluster == cluster)
    }

    /// A cluster's servers, those that are leaving it too.
    pub fn k3s_servers_of(&self, cluster: ClusterId) -> impl Iterator<Item = (&NodeId, &K3sNode)> {
        self.k3s_nodes_of(cluster)
            .filter(|(_, node)| node.role == K3sRole::Server)
    }

    /// Where a cluster's API is reached.
    pub fn api_endpoint(&self, cluster: &Cluster) -> Option<String> {
        let vip = self.virtual_ips.get(&cluster.vip)?;
        Some(format!("https://[{}]:{K3S_API_PORT}", vip.address))
    }

    /// Who is to seal the token for a node that asks: of the cluster's ready servers the first one
    /// that is heard, so that one answers and not all.
    pub fn token_issuer<'a>(
        &'a self,
        cluster: ClusterId,
        heard: &BTreeSet<NodeId>,
    ) -> Option<&'a NodeId> {
        self.k3s_servers_of(cluster)
            .find(|(id, node)| node.is_ready() && heard.contains(*id))
            .map(|(id, _)| id)
    }

    /// Pod prefixes of a network's clusters by the node that they are on: they are routed to it.
    pub fn pod_routes(&self, network: NetworkId) -> BTreeMap<NodeId, BTreeSet<IpPrefix>> {
        let of = |node: &K3sNode| self.clusters.get(&node.cluster).map(|row| row.network);
        self.k3s_nodes
            .iter()
            .filter(|(_, node)| of(node) == Some(network) && !node.pods.is_empty())
            .map(|(id, node)| (id.clone(), node.pods.clone()))
            .collect()
    }

    /// The overlay IPv4 address that a node's K3s goes by, in its cluster's network.
    pub fn k3s_address(&self, cluster: &Cluster, node: &NodeId) -> Option<Ipv4Addr> {
        let peer = self.peers.get(&(cluster.network, node.clone()))?;
        Some(peer.ipv4)
    }
}
