//! The shapes of K3s clusters.

use serde::{Deserialize, Serialize};

/// A cluster, as `cluster ls` gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `bootstrapping`, `active` or `error`.
    pub status: String,
    /// Where its API is reached: its virtual IP.
    pub api_endpoint: Option<String>,
    /// The network that it is in, by name.
    pub network: String,
    /// `flannel` or `ovn_kubernetes`.
    pub cni: String,
    /// Its nodes, those that are on their way too.
    pub node_count: u64,
}

/// A cluster with all that is known of it, as `cluster show` gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterDetails {
    /// What `cluster ls` gives.
    #[serde(flatten)]
    pub cluster: ClusterView,
    /// Why it is in error.
    pub reason: Option<String>,
    /// The K3s that its nodes run.
    pub version: Option<String>,
    /// Where pods have their addresses, where the network says so.
    pub pod_subnet_prefix: Option<String>,
    /// The virtual IP of its API, by name.
    pub virtual_ip: Option<String>,
    /// Who made it, by name.
    pub founder: String,
    /// When, milliseconds since 1970.
    pub created_ms: u64,
    /// A change that goes round its nodes.
    pub rollout: Option<RolloutView>,
    /// Its nodes.
    pub nodes: Vec<ClusterNodeView>,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// A change that goes round a cluster's nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutView {
    /// `upgrade` or `pod_subnet`.
    pub kind: String,
    /// To which version, of an upgrade.
    pub version: Option<String>,
    /// Whose turn it is, by name.
    pub turn: Vec<String>,
    /// How many nodes have it.
    pub done: u64,
    /// Where it stopped, by name.
    pub failed_at: Option<String>,
    /// Why it stopped, or what it waits for.
    pub reason: Option<String>,
}

/// A node of a cluster, as `cluster nodes` gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterNodeView {
    /// Its name.
    pub node: String,
    /// `server` or `agent`.
    pub role: String,
    /// `pending`, `active`, `leaving` or `failed`.
    pub status: String,
    /// How far it is, in K3s's terms.
    pub phase: String,
    /// K3s's version when it was last ready.
    pub version: Option<String>,
    /// Where its pods have their addresses.
    pub pod_subnets: Vec<String>,
    /// What is wrong.
    pub reason: Option<String>,
}

/// `POST /v1/k3s/{node}/provision`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct K3sRequest {
    /// `server` or `agent`.
    pub role: String,
    /// The cluster, by name or id; the only one unless given. A server that names an unknown one
    /// founds it.
    pub cluster: Option<String>,
    /// The network of a new cluster, by name; its founder's first unless given.
    pub network: Option<String>,
    /// `flannel` or `ovn_kubernetes` for a new cluster; what the machine can carry unless given.
    pub cni: Option<String>,
    /// With which K3s.
    #[serde(default)]
    pub binary: K3sBinaryRequest,
    /// How fast the API's address of a new cluster moves: `lan`, `safe`, `wan` or `slow`; `lan`
    /// unless given.
    pub vip_profile: Option<String>,
    /// Even if it wipes K3s off the node. Left out unless it is said.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub consent: bool,
}

/// Where a K3s comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct K3sBinaryRequest {
    /// A file on the node.
    pub path: Option<String>,
    /// An address on a file server.
    pub url: Option<String>,
    /// What the file there must hash to, hexadecimal.
    pub sha256: Option<String>,
    /// What it must say its version is.
    pub version: Option<String>,
    /// A directory on the node with images.
    pub images: Option<String>,
}

/// `POST /v1/clusters/{cluster}/upgrade`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterUpgradeRequest {
    /// To which K3s.
    pub binary: K3sBinaryRequest,
    /// So many agents at once; one unless given.
    pub batch: Option<u16>,
}

/// A cluster's kubeconfig. Whoever has it is the cluster's administrator.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kubeconfig {
    /// YAML.
    pub kubeconfig: String,
}

impl std::fmt::Debug for Kubeconfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kubeconfig(…)")
    }
}

/// A snapshot of a cluster's state that was just taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSnapshot {
    /// The node that has it, by name.
    pub node: String,
    /// What K3s calls it.
    pub name: String,
    /// Where it is on that node.
    pub path: String,
}

/// `POST /v1/nodes/{node}/drain`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// How long it may take; ten minutes unless given.
    pub timeout_s: Option<u64>,
    /// Whether only nothing new comes to it.
    #[serde(default)]
    pub cordon_only: bool,
    /// Whether to do it although its cluster cannot do without it now.
    #[serde(default)]
    pub force: bool,
}

/// How far a node is emptied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainView {
    /// The node, by name.
    pub node: String,
    /// `draining`, `drained` or `failed`.
    pub state: String,
    /// Whether only nothing new comes to it.
    pub cordon_only: bool,
    /// What it waits for, or was in the way; of a drained one who came meanwhile, and stays.
    pub reason: Option<String>,
    /// Whether the node is heard of: only then anything of this can change. An observation of the node
    /// that answers.
    pub heard: bool,
}
