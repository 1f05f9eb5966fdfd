//! What happened, for operators and for programs that follow.
//!
//! Events are written by `apply` alone, into a bounded log inside the state, so that every
//! server tells the same story in the same order. The kinds are SPEC 7.3's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{LogIndex, WallMs};

/// How many events the log keeps: about a megabyte, weeks of a quiet mesh.
pub const EVENTS_KEPT: usize = 4096;

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal),+ $(,)?) => {
        /// What kind of thing happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum EventKind {
            $($(#[$doc])* $variant,)+
        }

        impl EventKind {
            /// The stable, dotted name.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

kinds! {
    /// The mesh was made.
    MeshCreated = "mesh.created",
    /// The mesh goes on with one server after its majority was lost.
    MeshRecovered = "mesh.recovered",
    /// The mesh goes on from a backup.
    MeshRestored = "mesh.restored",
    /// A bootstrap token was made.
    TokenCreated = "token.created",
    /// A bootstrap token was taken back.
    TokenRevoked = "token.revoked",
    /// A node was admitted.
    NodeJoined = "node.joined",
    /// A node is up: overlay and all.
    NodeRunning = "node.running",
    /// A node has not been heard of.
    NodeSilent = "node.silent",
    /// A silent node is heard again.
    NodeRecovered = "node.recovered",
    /// A node became a server or an agent.
    NodeRoleChanged = "node.role_changed",
    /// A node left the mesh for good.
    NodeRemoved = "node.removed",
    /// A member whose certificates had ended or were revoked has one again.
    NodeReturned = "node.returned",
    /// A server has a new intermediate.
    IntermediateIssued = "ca.intermediate.issued",
    /// Certificates are accepted no more.
    CertificatesRevoked = "ca.revoked",
    /// Every node is told to trust a new root.
    RotationStarted = "ca.rotation.started",
    /// The new root issues.
    RotationAdvanced = "ca.rotation.advanced",
    /// The old root is dropped.
    RotationFinished = "ca.rotation.finished",
    /// The new root is dropped.
    RotationAborted = "ca.rotation.aborted",
    /// A certificate nears its end and has no successor.
    ExpiryWarning = "ca.expiry_warning",
    /// An operator was made.
    OperatorCreated = "operator.created",
    /// An operator may do more or less than before.
    OperatorRoleChanged = "operator.role_changed",
    /// An operator is none any more.
    OperatorRemoved = "operator.removed",
    /// A node got a place in a network.
    PeerAttached = "system.sdwan.peer.attached",
    /// A node lost its place in a network.
    PeerDetached = "system.sdwan.peer.detached",
    /// A virtual IP was made.
    VipAllocated = "system.sdwan.virtual_ip.allocated",
    /// A virtual IP has another holder.
    VipMoved = "system.sdwan.virtual_ip.moved",
    /// Nobody holds a virtual IP any more.
    VipReleased = "system.sdwan.virtual_ip.released",
    /// `docker-engine` was assigned to a node.
    DockerAssigned = "system.docker.module.assigned",
    /// The engine is being looked for or installed.
    DockerInstalling = "system.docker.runtime.installing",
    /// The node asks for dockerd's certificate.
    DockerWantsCert = "system.docker.handshake.wants_cert",
    /// A server signed it.
    DockerCertSigned = "system.docker.handshake.cert_signed",
    /// dockerd listens.
    DockerReady = "system.docker.handshake.ready",
    /// The Docker host is connected for the first time since it was assigned.
    DockerProvisioned = "system.docker.provisioned",
    /// dockerd was stopped.
    DockerStopped = "system.docker.stopped",
    /// A step failed and is tried again.
    DockerFailed = "system.docker.failed",
    /// A Docker host's row is gone.
    DockerDecommissioned = "system.docker.decommissioned",
    /// A network was made.
    NetworkCreated = "system.sdwan.network.created",
    /// A network is no more.
    NetworkDeleted = "system.sdwan.network.deleted",
    /// A network's routing or prefixes changed.
    NetworkChanged = "system.sdwan.network.changed",
    /// A node's place in a network changed.
    PeerChanged = "system.sdwan.peer.changed",
    /// A device was let into a network.
    AccessGranted = "system.sdwan.access_grant.created",
    /// A device has another gateway.
    AccessMoved = "system.sdwan.access_grant.moved",
    /// A device is not let in for the time being.
    AccessSuspended = "system.sdwan.access_grant.suspended",
    /// It is let in again.
    AccessResumed = "system.sdwan.access_grant.resumed",
    /// A device is let in no more.
    AccessRevoked = "system.sdwan.access_grant.revoked",
    /// A node is getting another WireGuard key.
    KeyRotationStarted = "system.sdwan.key_rotation.started",
    /// It has it.
    KeyRotationFinished = "system.sdwan.key_rotation.finished",
    /// A network has another firewall rule.
    FirewallRuleAdded = "system.sdwan.firewall_rule.added",
    /// A firewall rule is no more.
    FirewallRuleRemoved = "system.sdwan.firewall_rule.removed",
    /// A K3s module was assigned to a node.
    K3sAssigned = "system.k3s.module.assigned",
    /// K3s is being looked for or installed.
    K3sInstalling = "system.k3s.runtime.installing",
    /// A founder has started its cluster.
    K3sBootstrap = "system.k3s.handshake.bootstrap",
    /// A cluster's API answered for the first time.
    ClusterBootstrapped = "system.k3s.cluster.bootstrapped",
    /// A node asks for a cluster's token.
    K3sJoinRequest = "system.k3s.handshake.join_request",
    /// A server of the cluster sealed it for the node.
    K3sJoinTokenIssued = "system.k3s.handshake.join_token_issued",
    /// A node's K3s is ready.
    K3sReady = "system.k3s.handshake.ready",
    /// A node's K3s was stopped and taken off.
    K3sStopped = "system.k3s.stopped",
    /// A step failed and is tried again.
    K3sFailed = "system.k3s.failed",
    /// A cluster has no server any more that could bring it up again.
    ClusterFailed = "system.k3s.cluster.failed",
    /// A cluster's rows are gone.
    ClusterDecommissioned = "system.k3s.cluster.decommissioned",
    /// A change goes round a cluster's nodes.
    RolloutStarted = "system.k3s.rollout.started",
    /// It stopped at a node.
    RolloutFailed = "system.k3s.rollout.failed",
    /// Every node has it.
    RolloutFinished = "system.k3s.rollout.finished",
    /// A network's pod prefix means nothing to a cluster of it.
    PodSubnetPrefixIgnored = "system.cluster_bootstrap.pod_subnet_prefix_ignored",
    /// A node is being emptied.
    NodeDraining = "node.draining",
    /// Nothing that moves elsewhere is left on it.
    NodeDrained = "node.drained",
    /// A node could not be emptied.
    NodeDrainFailed = "node.drain_failed",
    /// A drained node takes work again.
    NodeUncordoned = "node.uncordoned",
    /// Something of a module was otherwise than shoal had left it.
    ModuleDrifted = "module.drift_detected",
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The log entry that caused it.
    pub index: LogIndex,
    /// Its place among that entry's events.
    pub ordinal: u32,
    /// When the command was given.
    pub time: WallMs,
    /// What kind.
    pub kind: EventKind,
    /// The node it concerns, by name (the node may be gone when it is read).
    pub node: Option<String>,
    /// More, as plain values.
    pub payload: BTreeMap<String, String>,
}
