//! What may be asked of the mesh about K3s clusters.
//!
//! Decides nothing; `apply` does.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    Assignment, ClusterId, Cni, IpPrefix, K3sBinary, K3sPhase, LeaseProfile, LogIndex, NodeId,
    SealedKey,
};

/// About a K3s cluster, or a node of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClusterCommand {
    /// Assign a K3s module, or change what an assigned one is to be.
    Assign {
        /// The module and where it goes.
        assignment: Assignment,
        /// The cluster, by name or id; unless given, the only one. A server that names an unknown
        /// one founds it.
        cluster: Option<String>,
        /// The network of a new cluster; unless given, its founder's first.
        network: Option<String>,
        /// What a new cluster uses; unless given, what its founder's machine can carry.
        cni: Option<Cni>,
        /// With which K3s.
        binary: K3sBinary,
        /// The durations of the lease of a new cluster's address; unless given, those for machines that
        /// are milliseconds apart.
        profile: Option<LeaseProfile>,
        /// The servers that were heard when this was asked: a cluster that a server is taken from keeps
        /// a majority of those that stay.
        reachable: BTreeSet<NodeId>,
        /// Whether it may wipe K3s off nodes that go from one cluster to another, or become something
        /// else there.
        consent: bool,
    },
    /// A node tells how far its K3s is.
    Report {
        /// Of which stay, as [`crate::K3sNode::attempt`] tells.
        attempt: LogIndex,
        /// How far.
        phase: K3sPhase,
        /// With which settings of its cluster it runs.
        generation: LogIndex,
        /// Where its pods have their addresses.
        pods: BTreeSet<IpPrefix>,
    },
    /// A ready server of a cluster sealed its token for a node that asked.
    IssueToken {
        /// For whom.
        node: NodeId,
        /// The stay that it asked in.
        attempt: LogIndex,
        /// The token.
        token: SealedKey,
    },
    /// A ready server of a cluster made it forget nodes that had left.
    ForgetNodes {
        /// Which cluster.
        cluster: ClusterId,
        /// The nodes' names, as [`crate::Cluster::departed`] had them.
        names: BTreeMap<String, LogIndex>,
    },
    /// Give a whole cluster up: its row, its nodes' and its virtual IP.
    Decommission {
        /// Its name or id.
        cluster: String,
    },
    /// Have every node of a cluster run another K3s.
    Upgrade {
        /// Its name or id.
        cluster: String,
        /// Which K3s.
        binary: K3sBinary,
        /// So many agents at once.
        batch: u16,
    },
    /// Take a K3s module back.
    Unassign {
        /// The module and where it went.
        assignment: Assignment,
        /// As for [`ClusterCommand::Assign`].
        reachable: BTreeSet<NodeId>,
        /// Whether it may wipe K3s off nodes.
        consent: bool,
    },
}

impl ClusterCommand {
    /// A short name for logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Assign { .. } => "assign_k3s",
            Self::Report { .. } => "report_k3s",
            Self::IssueToken { .. } => "issue_join_token",
            Self::ForgetNodes { .. } => "forget_cluster_nodes",
            Self::Decommission { .. } => "decommission_cluster",
            Self::Upgrade { .. } => "upgrade_cluster",
            Self::Unassign { .. } => "unassign_k3s",
        }
    }
}
