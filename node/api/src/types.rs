//! The shapes of the operator API's requests and answers. Keys are stable: programs rely on them.
//!
//! Ids and addresses are text here; units are in the names. Lists are plain JSON arrays; how
//! fresh an answer is travels in the [`FRESHNESS_HEADER`](crate::FRESHNESS_HEADER).

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

mod access;
mod authority;
mod cluster;
mod firewall;
mod module;
mod network;
mod recovery;
mod vip;

pub use access::{
    AccessGatewayRequest, AccessGrantDetails, AccessGrantRequest, AccessGrantView, AccessTunnel,
};
pub use authority::{
    CaStatus, CertificateView, EnforcedBy, Enforcement, IntermediateView, OperatorBundle,
    OperatorCertificateRequest, OperatorRequest, OperatorRoleRequest, OperatorView, RevokeRequest,
    Revoked, RootView, RotateRequest, RotationView,
};
pub use cluster::{
    ClusterDetails, ClusterNodeView, ClusterSnapshot, ClusterUpgradeRequest, ClusterView,
    DrainRequest, DrainView, K3sBinaryRequest, K3sRequest, Kubeconfig, RolloutView,
};
pub use firewall::{FirewallRuleAdded, FirewallRuleRequest, FirewallRuleView, FirewallView};
pub use module::{AssignRequest, ModuleView};
pub use network::{
    NetworkCreated, NetworkRequest, NetworkSetRequest, NetworkView, PeerRequest, PeerView,
};
pub use recovery::{
    BackupRequest, BackupView, RecoverPlan, RecoverRequest, Recovered, RestoreRequest,
};
pub use vip::{
    DrillPeer, DrillRequest, DrillView, FailoverRequest, FailoverView, VipCandidate,
    VipCandidatesRequest, VipCheckRequest, VipDetails, VipMoveView, VipRequest, VipView,
};

/// `GET /v1/status`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The mesh's id; none before `init` or `join`.
    pub mesh_id: Option<String>,
    /// The mesh's name.
    pub mesh: Option<String>,
    /// This node's name.
    pub node: String,
    /// This node's id.
    pub node_id: String,
    /// `server`, `agent`, or none without a mesh.
    pub role: Option<String>,
    /// The Raft leader's name, if this node knows of one.
    pub leader: Option<String>,
    /// The last log index that this node's view contains.
    pub raft_index: u64,
    /// The voters' names.
    pub voters: Vec<String>,
    /// How many members this node can hear now, itself included.
    pub reachable: u64,
    /// How many members there are.
    pub members: u64,
    /// The names of the servers that can sign certificates now.
    pub issuers: Vec<String>,
    /// `raft, index N` or `gossip, 0.4 s old`.
    pub freshness: String,
    /// The version of the daemon.
    pub version: String,
    /// Where its libp2p listens.
    pub listen: Vec<String>,
    /// `kernel`, `userspace`, or none without an overlay interface.
    pub wireguard: Option<String>,
    /// Connections to other members, direct and relayed.
    #[serde(default)]
    pub connections: u64,
    /// How many of them go through a relay.
    #[serde(default)]
    pub relayed: u64,
    /// Whether other nodes can dial this one; none until that is found out.
    pub dialable: Option<bool>,
    /// The names of the relays through which this node is reached, if it cannot be dialled.
    #[serde(default)]
    pub relays: Vec<String>,
    /// When this node's certificate ends, milliseconds since 1970.
    pub certificate_expires_ms: Option<u64>,
    /// What is not as it should be, in words.
    pub conditions: Vec<String>,
}

/// `POST /v1/init`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitRequest {
    /// The mesh's name.
    pub name: Option<String>,
    /// The first network's IPv4 prefix; `100.96.0.0/16` unless given.
    pub ipv4_prefix: Option<String>,
}

/// The answer to `init` and `join`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The mesh's id.
    pub mesh_id: String,
    /// The mesh's name.
    pub mesh: String,
    /// This node's name.
    pub node: String,
    /// What it became.
    pub role: String,
    /// Its /128 in the first network.
    pub overlay_ipv6: Option<Ipv6Addr>,
    /// Its /32 in the first network.
    pub overlay_ipv4: Option<Ipv4Addr>,
    /// BLAKE3 of the root certificate, hexadecimal.
    pub root_fingerprint: String,
    /// The same as words, to be compared by voice.
    pub root_words: String,
    /// What the operator should know, such as a mesh of two servers.
    pub warnings: Vec<String>,
    /// The identity that opens backups and the root key when every server is lost. Only in the
    /// answer to `init`, shown once and kept nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_key: Option<String>,
}

/// `POST /v1/tokens`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// `server` or `agent`.
    pub role: String,
    /// How long it may be used; 24 h unless given.
    pub ttl_s: Option<u64>,
    /// Whether several nodes may use it.
    #[serde(default)]
    pub reusable: bool,
}

/// The answer to `token create`. Holds the secret: it is shown once and kept nowhere.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenCreated {
    /// The token's text, as a token file contains it.
    pub token: String,
    /// The token's public id.
    pub id: String,
    /// `server` or `agent`.
    pub role: String,
    /// When it ends, RFC 3339.
    pub expires: String,
    /// The finished command.
    pub join_command: String,
    /// BLAKE3 of the root certificate, hexadecimal.
    pub root_fingerprint: String,
    /// The same as words, to be compared by voice.
    pub root_words: String,
}

/// `POST /v1/join`
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The token's text.
    pub token: String,
    /// Labels to start with.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// `persistent` (default), `ephemeral` or `spot`.
    pub lifecycle_class: Option<String>,
    /// `heavyweight` or `lightweight`; detected unless given.
    pub network_profile: Option<String>,
    /// Whether the data directory is in memory.
    pub tmpfs_store: Option<bool>,
}

/// A node, as `node ls` and `node show` give it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `server` or `agent`.
    pub role: String,
    /// `joining`, `bootstrapping` or `running`.
    pub state: String,
    /// Whether it has not been heard of lately. An observation of the node that answers.
    pub silent: bool,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its /128 in the first network.
    pub overlay_ipv6: Option<Ipv6Addr>,
    /// Its /32 in the first network.
    pub overlay_ipv4: Option<Ipv4Addr>,
    /// How long ago it was last heard of, in milliseconds; none if never. Zero for the node itself.
    pub last_seen_ms: Option<u64>,
    /// The round-trip time to it, in microseconds.
    pub rtt_us: Option<u64>,
    /// `direct`, `relayed via NAME`, `relayed`, or none where the answering node has no connection
    /// to it: in a large mesh it has some twenty.
    pub path: Option<String>,
    /// `persistent`, `ephemeral` or `spot`.
    pub lifecycle_class: String,
    /// `heavyweight` or `lightweight`.
    pub network_profile: String,
    /// Whether its data directory is in memory.
    pub tmpfs_store: bool,
    /// Facts about the machine.
    pub metadata: BTreeMap<String, String>,
    /// Where its daemon is reached.
    pub addresses: Vec<String>,
    /// Modules assigned to it.
    pub modules: Vec<String>,
    /// How far it is with its next WireGuard key: `wanted`, `announced`, or none where it keeps the
    /// one that it has.
    #[serde(default)]
    pub key_rotation: Option<String>,
}

/// `POST /v1/nodes/{node}/ping`: has the node in the path probe another one now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PingRequest {
    /// The node to be probed, by name or id.
    pub to: String,
}

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingView {
    /// Who probed.
    pub from: String,
    /// Who was probed.
    pub to: String,
    /// Whether it answered.
    pub answered: bool,
    /// How long the answer took, in microseconds.
    pub rtt_us: Option<u64>,
    /// `direct`, `relayed via NAME` or `relayed`; none without a connection.
    pub path: Option<String>,
    /// Why there was no answer.
    pub reason: Option<String>,
}

/// `POST /v1/nodes/{node}/labels`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelRequest {
    /// Labels to set.
    #[serde(default)]
    pub set: BTreeMap<String, String>,
    /// Keys to remove.
    #[serde(default)]
    pub unset: Vec<String>,
    /// Even if it wipes K3s off the node. Left out unless it is said.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub consent: bool,
}

/// `POST /v1/nodes/{node}/role`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleRequest {
    /// `server` or `agent`.
    pub role: String,
    /// Even if the servers that answer are no majority afterwards.
    #[serde(default)]
    pub force: bool,
}

/// `POST /v1/nodes/{node}/wireguard-key`: has the node make itself another WireGuard key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateKeyRequest {
    /// Even if devices that the node is the gateway of are cut off by it.
    #[serde(default)]
    pub leave_devices: bool,
    /// Answer at once, and not when the node uses its new key.
    #[serde(default)]
    pub no_wait: bool,
}

/// How far the node is with its new key, after some seconds at most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotatedKey {
    /// The log index of the request.
    pub raft_index: u64,
    /// The node's name.
    pub node: String,
    /// The new public key, base64; none while the node has not made it.
    pub public_key: Option<String>,
    /// How long it took until it was in use, in milliseconds; none while it is not.
    pub took_ms: Option<u64>,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// `POST /v1/nodes/{node}/remove`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveRequest {
    /// Even if the servers that answer are no majority afterwards.
    #[serde(default)]
    pub force: bool,
    /// Somebody else may have the machine's keys: all that it signed is revoked too.
    #[serde(default)]
    pub compromised: bool,
    /// For the event, and for the node should it come back.
    pub reason: Option<String>,
}

/// A bootstrap token, as `token ls` gives it: never its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenView {
    /// Its public id.
    pub id: String,
    /// `server` or `agent`.
    pub role: String,
    /// When it ends, milliseconds since 1970.
    pub expires_ms: u64,
    /// Whether several nodes may use it.
    pub reusable: bool,
    /// The node that used it last, by name.
    pub used_by: Option<String>,
}

/// A change that was made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Changed {
    /// The log index of the change.
    pub raft_index: u64,
    /// What the operator should know, such as a mesh of two servers.
    pub warnings: Vec<String>,
}

/// A Docker host, as `docker ls` gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DockerHostView {
    /// The node's name, or the external host's.
    pub node: String,
    /// `pending`, `connected`, `disconnected`, or `external`.
    pub status: String,
    /// `tcp://[address]:2376`
    pub api_endpoint: Option<String>,
    /// dockerd's version.
    pub version: Option<String>,
    /// Whether the mesh runs it.
    pub managed: bool,
    /// How far it is: `installing`, `wants_cert`, … ; none for external hosts.
    pub phase: Option<String>,
    /// Why it failed, if it did.
    pub reason: Option<String>,
}

/// `PUT /v1/docker/external/{name}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterRequest {
    /// `tcp://…`, `unix://…` or `ssh://…`.
    pub endpoint: String,
}

/// A container, as `docker ps` gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerView {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: String,
    /// `running`, `exited`, …
    pub state: String,
    /// Published ports, as `[host]:port->port/tcp`.
    pub ports: Vec<String>,
}

/// `POST /v1/docker/hosts/{node}/containers`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    /// The image.
    pub image: String,
    /// The container's name.
    pub name: Option<String>,
    /// `HOST:CONTAINER` or `HOST:CONTAINER/udp`; published on the overlay addresses only.
    #[serde(default)]
    pub ports: Vec<String>,
    /// The command; the image's own unless given.
    #[serde(default)]
    pub command: Vec<String>,
    /// `KEY=VALUE`
    #[serde(default)]
    pub env: Vec<String>,
    /// `no` (default), `always`, `unless-stopped`, `on-failure`.
    pub restart: Option<String>,
    /// The mesh network that it has an address in; Docker's own bridge unless given.
    #[serde(default)]
    pub network: Option<String>,
}

/// The answer to `docker run` and `docker import`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// The container's or image's id.
    pub id: String,
}

/// An image, as `docker images` gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageView {
    /// Its id.
    pub id: String,
    /// Its names, as `repository:tag`; none for an image that lost its last one.
    pub tags: Vec<String>,
    /// Its size on disk.
    pub size_bytes: u64,
    /// When it was made, milliseconds since 1970.
    pub created_ms: Option<u64>,
}

/// `POST /v1/docker/hosts/{node}/pull`. The answer is a stream of lines of [`PullProgress`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PullRequest {
    /// The image.
    pub image: String,
}

/// One line of a pull's progress; the last one has `error` if it failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullProgress {
    /// The layer, if the line is about one.
    pub id: Option<String>,
    /// What happens.
    pub status: Option<String>,
    /// Bytes so far.
    pub current_bytes: Option<u64>,
    /// Bytes in all.
    pub total_bytes: Option<u64>,
    /// Why it failed.
    pub error: Option<crate::ApiError>,
}

/// `POST /v1/docker/client-certificate`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientCertificateRequest {
    /// PKCS#10, PEM. The key stays with the asker.
    pub csr_pem: String,
}

/// The answer: what the plain docker CLI needs besides its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientCertificate {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// The mesh's root certificate, PEM.
    pub ca_pem: String,
    /// When it ends, milliseconds since 1970.
    pub expires_ms: u64,
}

/// An event, as `events` gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventView {
    /// The log index that caused it.
    pub index: u64,
    /// RFC 3339, UTC, with milliseconds.
    pub time: String,
    /// Its kind, dotted.
    pub kind: String,
    /// The node it concerns.
    pub node: Option<String>,
    /// More.
    pub payload: BTreeMap<String, String>,
}
