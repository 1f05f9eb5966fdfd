//! The replicated state: what every server holds alike.
//!
//! Decides nothing; `apply` alone changes it. Everything is ordered (BTreeMap), so that equal
//! states have equal bytes. Split in two: [`Agreed`] may be shown to every node and is pushed to
//! agents; [`State`] adds what only servers hold (token hashes, sealed root keys, answers, the event
//! log).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    AccessGrant, Answers, Authority, CertificateRecord, Cluster, ClusterId, DockerHost, Drain,
    Event, Firewall, K3sNode, K3sWish, KeyRotation, LogIndex, MeshId, Network, NetworkId, NodeId,
    Operator, Peer, RaftId, Recent, Removed, Revoked, RootFingerprint, SealedKey, Shared, TokenId,
    VipId, VirtualIp, WallMs,
};

/// The whole replicated state.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct State {
    /// What every node may know. Shared, because it is published after every change.
    #[serde(with = "shared")]
    pub agreed: Arc<Agreed>,
    /// Bootstrap tokens by id.
    pub tokens: BTreeMap<TokenId, Token>,
    /// The private keys of the trusted roots, each sealed to every server and to the recovery
    /// recipient.
    pub root_keys: BTreeMap<RootFingerprint, SealedKey>,
    /// The age recipient whose identity is kept off line, for the day when no server is left.
    pub recovery_recipient: String,
    /// The event log, oldest first, bounded.
    pub events: Recent<Event>,
    /// Answers to recent requests, so that a repeated command answers alike; oldest first, bounded.
    pub answers: Answers,
    /// The last applied log index.
    pub applied: LogIndex,
}

/// What every node may know of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Agreed {
    /// The mesh itself; none before `init`.
    pub mesh: Option<Mesh>,
    /// Enrolled nodes.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Overlay networks.
    pub networks: BTreeMap<NetworkId, Network>,
    /// Who has a place in which network.
    pub peers: Shared<BTreeMap<(NetworkId, NodeId), Peer>>,
    /// Which module goes where.
    pub assignments: BTreeSet<Assignment>,
    /// Docker hosts that the mesh runs.
    pub docker_hosts: Shared<BTreeMap<NodeId, DockerHost>>,
    /// Docker hosts that somebody else runs, by name.
    pub external_docker_hosts: BTreeMap<String, String>,
    /// Roots and intermediates.
    pub authority: Authority,
    /// Leaf certificates by serial number (hexadecimal).
    pub certificates: Shared<BTreeMap<String, CertificateRecord>>,
    /// Leaves and intermediates that no verifier accepts any more, by serial number. Past its end
    /// nobody accepts a certificate anyway, and it is forgotten.
    pub revoked: Shared<BTreeMap<String, Revoked>>,
    /// Who may use a node's API from elsewhere, by name.
    pub operators: BTreeMap<String, Operator>,
    /// Who is a member no more; the newest 10,000.
    pub removed: Shared<BTreeMap<NodeId, Removed>>,
    /// Addresses that move from node to node.
    pub virtual_ips: Shared<BTreeMap<VipId, VirtualIp>>,
    /// Devices without a daemon that are let into a network, by name.
    pub access_grants: Shared<BTreeMap<String, AccessGrant>>,
    /// Nodes that are getting another WireGuard key.
    pub key_rotations: BTreeMap<NodeId, KeyRotation>,
    /// Who may reach whom inside a network; everyone may where there is nothing.
    pub firewalls: Shared<BTreeMap<NetworkId, Firewall>>,
    /// What the assignments of K3s modules say beside their targets.
    pub k3s_wishes: BTreeMap<Assignment, K3sWish>,
    /// K3s clusters.
    pub clusters: BTreeMap<ClusterId, Cluster>,
    /// Their nodes; a node is in one at most.
    pub k3s_nodes: Shared<BTreeMap<NodeId, K3sNode>>,
    /// Nodes that are being emptied, or were.
    pub drains: BTreeMap<NodeId, Drain>,
}

/// The trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mesh {
    /// Its id.
    pub id: MeshId,
    /// Its name, for people.
    pub name: String,
    /// When it was made.
    pub created_at: WallMs,
}

/// What a node does for the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// Votes in Raft.
    Server,
    /// Does not vote.
    Agent,
}

impl Role {
    /// The word in tables, flags and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Agent => "agent",
        }
    }
}

/// How long a node means to stay (SPEC 1.4). Fixed once the node has joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LifecycleClass {
    /// Never pruned.
    #[default]
    Persistent,
    /// Pruned after an hour's silence.
    Ephemeral,
    /// Pruned after ten minutes' silence.
    Spot,
}

impl LifecycleClass {
    /// The word in tables, flags and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Persistent => "persistent",
            Self::Ephemeral => "ephemeral",
            Self::Spot => "spot",
        }
    }
}

/// What the machine can carry (SPEC 1.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkProfile {
    /// At least 4 GiB of memory and x86-64 or server-class Arm.
    #[default]
    Heavyweight,
    /// Anything smaller.
    Lightweight,
}

impl NetworkProfile {
    /// The word in tables, flags and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Heavyweight => "heavyweight",
            Self::Lightweight => "lightweight",
        }
    }
}

/// A node's agreed state (SPEC 1.5). Silence is an observation beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum NodeState {
    /// Enrolled, not heard of yet.
    Joining,
    /// Its daemon has the state and brings up the overlay.
    Bootstrapping,
    /// Does its work.
    Running,
}

impl NodeState {
    /// The word in tables and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Bootstrapping => "bootstrapping",
            Self::Running => "running",
        }
    }
}

/// One enrolled machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Unique in the mesh.
    pub name: String,
    /// Server or agent.
    pub role: Role,
    /// Its name inside Raft while it is a server.
    pub raft_id: Option<RaftId>,
    /// Where it is in its life.
    pub state: NodeState,
    /// The operator's marks on it.
    pub labels: BTreeMap<String, String>,
    /// Facts about the machine.
    pub metadata: BTreeMap<String, String>,
    /// How long it means to stay.
    pub lifecycle_class: LifecycleClass,
    /// Whether its data directory is in memory and lost at reboot.
    pub tmpfs_store: bool,
    /// What the machine can carry.
    pub network_profile: NetworkProfile,
    /// Where its daemon said it can be reached when it last told; gossip has newer ones.
    pub addresses: Vec<SocketAddr>,
    /// Its WireGuard public key.
    pub wireguard_public_key: [u8; 32],
    /// The age recipient that secrets are sealed to for it.
    pub sealing_recipient: String,
    /// Whether it ever was a server: then it could open the root's key, and may have kept it.
    pub has_served: bool,
    /// When it was admitted.
    pub joined_at: WallMs,
}

/// Where a module goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Target {
    /// One node.
    Node(NodeId),
    /// Every node that has all these labels.
    Selector(BTreeMap<String, String>),
}

/// What may be assigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Module {
    /// Makes the node a Docker host.
    DockerEngine,
    /// Makes it a server of a K3s cluster.
    K3sServer,
    /// Makes it an agent of one.
    K3sAgent,
}

impl Module {
    /// Every module of this version.
    pub const ALL: [Self; 3] = [Self::DockerEngine, Self::K3sServer, Self::K3sAgent];

    /// Its name in commands and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DockerEngine => "docker-engine",
            Self::K3sServer => "k3s-server",
            Self::K3sAgent => "k3s-agent",
        }
    }

    /// The module of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|module| module.as_str() == name)
    }
}

/// A module and where it goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Assignment {
    /// What.
    pub module: Module,
    /// Where.
    pub target: Target,
}

impl Assignment {
    /// Straight to one node.
    pub fn to_node(module: Module, node: NodeId) -> Self {
        Self {
            module,
            target: Target::Node(node),
        }
    }
}

/// A bootstrap token as the mesh remembers it: never its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// BLAKE3 of the secret (256 random bits, so a plain hash is enough).
    pub secret_hash: [u8; 32],
    /// What the node becomes.
    pub role: Role,
    /// When it ends.
    pub expires_at: WallMs,
    /// Whether more than one node may use it.
    pub reusable: bool,
    /// Who used it last.
    pub used_by: Option<NodeId>,
}

impl Agreed {
    /// The node called so, by name or id.
    pub fn find_node(&self, name_or_id: &str) -> Option<(&NodeId, &Node)> {
        self.nodes
            .iter()
            .find(|(id, node)| node.name == name_or_id || id.as_str() == name_or_id)
    }

    /// A node's name, or its id when it is no member.
    pub fn name_of(&self, id: &NodeId) -> String {
        self.nodes
            .get(id)
            .map_or_else(|| id.to_string(), |node| node.name.clone())
    }

    /// The same for one that may have left the mesh, as long as it is remembered.
    pub fn former_name_of(&self, id: &NodeId) -> String {
        let former = || self.removed.get(id).map(|removed| removed.name.clone());
        let node = self.nodes.get(id).map(|node| node.name.clone());
        node.or_else(former).unwrap_or_else(|| id.to_string())
    }

    /// The network called so.
    pub fn find_network(&self, name: &str) -> Option<(&NetworkId, &Network)> {
        self.networks
            .iter()
            .find(|(_, network)| network.name == name)
    }

    /// A node's oldest place in any network: where its own services listen. A further one never
    /// moves them.
    pub fn first_peer(&self, node: &NodeId) -> Option<(&NetworkId, &Peer)> {
        self.peers
            .iter()
            .filter(|((_, id), _)| id == node)
            .min_by_key(|((network, _), peer)| (peer.attached, *network))
            .map(|((network, _), peer)| (network, peer))
    }

    /// Who has a place in a network.
    pub fn peers_of(&self, network: NetworkId) -> impl Iterator<Item = (&NodeId, &Peer)> {
        self.peers
            .iter()
            .filter(move |((of, _), _)| *of == network)
            .map(|((_, node), peer)| (node, peer))
    }

    /// Whether an assignment's target covers the node.
    pub fn covers(&self, target: &Target, id: &NodeId) -> bool {
        match target {
            Target::Node(node) => node == id,
            Target::Selector(labels) => self.nodes.get(id).is_some_and(|node| {
                labels
                    .iter()
                    .all(|(key, value)| node.labels.get(key) == Some(value))
            }),
        }
    }

    /// Whether the node gets the module, directly or through a selector.
    pub fn assigned(&self, id: &NodeId, module: Module) -> bool {
        self.assignments
            .iter()
            .any(|a| a.module == module && self.covers(&a.target, id))
    }

    /// The servers and their names inside Raft.
    pub fn servers(&self) -> impl Iterator<Item = (&NodeId, RaftId)> {
        self.nodes
            .iter()
            .filter_map(|(id, node)| match (node.role, node.raft_id) {
                (Role::Server, Some(raft_id)) => Some((id, raft_id)),
                (Role::Server | Role::Agent, _) => None,
            })
    }
}

impl Target {
    /// As an operator writes it: the node's name, or `key=value,…`.
    pub fn describe(&self, agreed: &Agreed) -> String {
        match self {
            Self::Node(id) => agreed.name_of(id),
            Self::Selector(labels) => {
                let pairs: Vec<_> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
                pairs.join(",")
            }
        }
    }
}

/// A shared value is written as the value.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<T: Serialize, S: Serializer>(
        value: &Arc<T>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        T::serialize(value, to)
    }

    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Arc<T>, D::Error> {
        T::deserialize(from).map(Arc::new)
    }
}
