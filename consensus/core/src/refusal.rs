//! Why a command was refused, in the words an operator sees.
//!
//! A refusal changes nothing. Codes are stable: programs match on them, so a code is never
//! renamed or reused. Sources of the inherited codes (`BootstrapTokenExpiredError`,
//! `MissingSdwanPeerError`): SPEC 1.2 and 4.2.

use serde::{Deserialize, Serialize};

use crate::{NodeId, WallMs};

/// A valid request that the agreed state does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each variant's message says what it is")]
pub enum Refusal {
    #[error("this node has no mesh yet")]
    NoMesh,
    #[error("the mesh exists already")]
    MeshExists,
    #[error("no bootstrap token with id {id} exists in this mesh")]
    TokenUnknown { id: String },
    #[error("the bootstrap token expired at {} ms since 1970", .expired_at.0)]
    TokenExpired { expired_at: WallMs },
    #[error("the bootstrap token was used already, by node {by}")]
    TokenUsed { by: String },
    #[error("the bootstrap token's secret is wrong")]
    TokenSecretWrong,
    #[error("no node called {node:?} in this mesh")]
    NodeUnknown { node: String },
    #[error("the node name {name:?} is taken by {by}")]
    NodeNameTaken { name: String, by: NodeId },
    #[error("node {node} is enrolled already")]
    NodeEnrolled { node: NodeId },
    #[error("{text:?} is not a valid {what}: {rule}")]
    Invalid {
        what: String,
        text: String,
        rule: String,
    },
    #[error("{node} is the last server of the mesh")]
    LastServer { node: String },
    #[error(
        "without {node} only {reachable} of {servers} servers would be reachable, and {needed} are needed to agree on anything"
    )]
    MajorityAtRisk {
        node: String,
        reachable: u64,
        servers: u64,
        needed: u64,
    },
    #[error("{node} is a {role} already")]
    RoleUnchanged { node: String, role: String },
    #[error("no network called {network:?} in this mesh")]
    NetworkUnknown { network: String },
    #[error("node {node} is a peer of network {network} already")]
    PeerExists { node: String, network: String },
    #[error("node {node} is no peer of network {network}")]
    PeerUnknown { node: String, network: String },
    #[error("the overlay address {address} of {node} is taken by {by}")]
    AddressCollision {
        address: String,
        node: String,
        by: String,
    },
    #[error("network {network} has no free IPv4 address in {prefix}")]
    AddressesExhausted { network: String, prefix: String },
    #[error("node {node} has no overlay peer, so dockerd would have no address to listen on")]
    MissingSdwanPeer { node: String },
    #[error("no module called {module:?}")]
    ModuleUnknown { module: String },
    #[error("module {module} is assigned to {target} already")]
    ModuleAssigned { module: String, target: String },
    #[error("module {module} is not assigned to {target}")]
    ModuleNotAssigned { module: String, target: String },
    #[error("node {node} still gets {module} through the selector {selector}")]
    ModuleBySelector {
        node: String,
        module: String,
        selector: String,
    },
    #[error("a running Docker host on {node} uses its peer in network {network}")]
    PeerInUse { node: String, network: String },
    #[error("no Docker host on {node}")]
    DockerHostUnknown { node: String },
    #[error("a Docker host called {name:?} is listed already")]
    DockerHostExists { name: String },
    #[error("node {actor} may not do this for node {node}")]
    NotYours { actor: NodeId, node: NodeId },
    #[error("only a server may do this, and {actor} is none")]
    NotServer { actor: NodeId },
    #[error("{what} is limited to {limit}")]
    TooLarge { what: String, limit: u64 },
    #[error("no certificate with serial number {serial} is remembered")]
    CertificateUnknown { serial: String },
    #[error("the intermediate {serial} may not sign this: {reason}")]
    IntermediateUnusable { serial: String, reason: String },
    #[error("no root {root} in this mesh")]
    RootUnknown { root: String },
    #[error("the root key is sealed to others than the present servers and the recovery recipient")]
    SealedToOthers,
    #[error("a rotation of the root is under way already: {step}")]
    RotationUnderWay { step: String },
    #[error("no rotation of the root is under way")]
    NoRotation,
    #[error("the rotation of the root is at {step}, and this does not come next")]
    RotationOutOfStep { step: String },
    #[error("{remaining} certificates under the old root have no successor yet, {first} first")]
    RotationHeld { remaining: u64, first: String },
    #[error("no operator called {name:?}")]
    OperatorUnknown { name: String },
    #[error("an operator called {name:?} exists already")]
    OperatorExists { name: String },
    #[error("{name} was removed from the mesh at {} ms since 1970: {reason}", .at.0)]
    NodeRemoved {
        name: String,
        at: WallMs,
        reason: String,
    },
    #[error("a network called {network:?} exists already")]
    NetworkExists { network: String },
    #[error("network {network} is in use by {by}")]
    NetworkInUse { network: String, by: String },
    #[error("the interfaces of network {network} would be called shoal-{handle}, as those of {by}")]
    NetworkHandleTaken {
        network: String,
        handle: String,
        by: String,
    },
    #[error("the WireGuard port {port} is taken by network {by}")]
    WireguardPortTaken { port: u16, by: String },
    #[error("{what} {prefix} overlaps {with}")]
    PrefixOverlap {
        what: String,
        prefix: String,
        with: String,
    },
    #[error("no virtual IP called {vip:?} in this mesh")]
    VipUnknown { vip: String },
    #[error("a virtual IP called {name:?} exists already")]
    VipExists { name: String },
    #[error("the address {address} that {vip} would get is taken by {by}")]
    VipCollision {
        vip: String,
        address: String,
        by: String,
    },
    #[error("{node} is no candidate of the virtual IP {vip}")]
    VipNotCandidate { vip: String, node: String },
    #[error("no other candidate may take the virtual IP {vip}{}", listed(.reasons))]
    VipNoCandidate {
        vip: String,
        reasons: Vec<(String, String)>,
    },
    #[error("{node} holds the virtual IP {vip}")]
    VipHeld { vip: String, node: String },
    #[error("{node} does not hold the virtual IP {vip}")]
    VipNotHolder { vip: String, node: String },
    #[error("the virtual IP {vip} is at epoch {epoch}, not {said}")]
    VipEpoch { vip: String, epoch: u64, said: u64 },
    #[error(
        "epoch {epoch} of the virtual IP {vip} is not over: {closed} of its voters closed it, too few"
    )]
    VipNotClosed {
        vip: String,
        epoch: u64,
        closed: u64,
    },
    #[error("the lease voters of the virtual IP {vip} are {how}")]
    VipVoters { vip: String, how: String },
    #[error("the virtual IP {vip} may move to {node}, through its peer in network {network}")]
    VipUsesPeer {
        node: String,
        network: String,
        vip: String,
    },
    #[error("no access grant called {name:?} in this mesh")]
    GrantUnknown { name: String },
    #[error("an access grant called {name:?} exists already")]
    GrantExists { name: String },
    #[error("the address {address} that {grant} would get is taken by {by}")]
    GrantCollision {
        grant: String,
        address: String,
        by: String,
    },
    #[error("the WireGuard key belongs to {by} already")]
    GrantKeyTaken { by: String },
    #[error(
        "{node} is the gateway of the access grant {grant}, through its peer in network {network}"
    )]
    GrantUsesPeer {
        node: String,
        network: String,
        grant: String,
    },
    #[error("the WireGuard key of {node} is being replaced already")]
    KeyRotationUnderWay { node: String },
    #[error(
        "{node} is the gateway of {devices} devices that have its WireGuard key, such as {one}"
    )]
    KeyInDevices {
        node: String,
        devices: u64,
        one: String,
    },
    #[error("{node} has not announced that WireGuard key")]
    KeyNotAnnounced { node: String },
    #[error("network {network} has no firewall rule {rule}")]
    FirewallRuleUnknown { network: String, rule: u32 },
    #[error("no cluster called {cluster:?} in this mesh")]
    ClusterUnknown { cluster: String },
    #[error("there is no cluster in this mesh to join")]
    ClusterNone,
    #[error("there are several clusters, and none was named: {clusters}")]
    ClusterAmbiguous { clusters: String },
    #[error("cluster {cluster} is in error: {reason}")]
    ClusterInError { cluster: String, reason: String },
    #[error("the {what} of cluster {cluster} is {is}, and stays so")]
    ClusterFixed {
        cluster: String,
        what: String,
        is: String,
    },
    #[error("cluster {cluster} {why}")]
    ClusterBusy { cluster: String, why: String },
    #[error("{node} is the only server of cluster {cluster}")]
    ClusterLastServer { node: String, cluster: String },
    #[error(
        "without {node} only {serving} of {servers} servers of cluster {cluster} would serve, and its etcd needs {needed}"
    )]
    ClusterMajorityAtRisk {
        node: String,
        cluster: String,
        serving: u64,
        servers: u64,
        needed: u64,
    },
    #[error("cluster {cluster} uses the peer of {node} in network {network}")]
    ClusterUsesPeer {
        node: String,
        network: String,
        cluster: String,
    },
    #[error("the virtual IP {vip} is the API address of cluster {cluster}")]
    ClusterUsesVip { vip: String, cluster: String },
    #[error("{cni} does not run on {node}, which is {profile}")]
    CniProfileMismatch {
        node: String,
        profile: String,
        cni: String,
    },
    #[error("{node} is in no K3s cluster")]
    K3sNodeUnknown { node: String },
    #[error("{node} has the module {has}")]
    K3sRoleTaken { node: String, has: String },
    #[error("K3s runs on {node} already")]
    K3sRuns { node: String, cluster: String },
    #[error("{node} is no ready server of cluster {cluster}")]
    NotClusterServer { node: String, cluster: String },
    #[error("the token is sealed to others than {node}")]
    TokenSealedToOthers { node: String },
    #[error("{node} is not drained")]
    NotDrained { node: String },
    #[error("{node} is drained, or is being drained")]
    NodeDrained { node: String },
    #[error("this wipes K3s off {nodes}")]
    ConsentRequired { nodes: String },
}

impl Refusal {
    /// The stable code that programs match on.
    #[expect(
        clippy::too_many_lines,
        reason = "one arm for each refusal, and nothing is decided here"
    )]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoMesh => "NoMeshError",
            Self::MeshExists => "MeshExistsError",
            Self::TokenUnknown { .. } => "BootstrapTokenUnknownError",
            Self::TokenExpired { .. } => "BootstrapTokenExpiredError",
            Self::TokenUsed { .. } => "BootstrapTokenUsedError",
            Self::TokenSecretWrong => "BootstrapTokenInvalidError",
            Self::NodeUnknown { .. } => "NodeNotFoundError",
            Self::NodeNameTaken { .. } => "NodeNameTakenError",
            Self::NodeEnrolled { .. } => "NodeEnrolledError",
            Self::Invalid { .. } => "InvalidInputError",
            Self::LastServer { .. } => "LastServerError",
            Self::MajorityAtRisk { .. } => "MajorityAtRiskError",
            Self::RoleUnchanged { .. } => "RoleUnchangedError",
            Self::NetworkUnknown { .. } => "NetworkNotFoundError",
            Self::PeerExists { .. } => "SdwanPeerExistsError",
            Self::PeerUnknown { .. } => "SdwanPeerNotFoundError",
            Self::AddressCollision { .. } => "AddressCollisionError",
            Self::AddressesExhausted { .. } => "AddressesExhaustedError",
            Self::MissingSdwanPeer { .. } => "MissingSdwanPeerError",
            Self::ModuleUnknown { .. } => "ModuleNotFoundError",
            Self::ModuleAssigned { .. } => "ModuleAssignedError",
            Self::ModuleNotAssigned { .. } => "ModuleNotAssignedError",
            Self::ModuleBySelector { .. } => "ModuleBySelectorError",
            Self::PeerInUse { .. } => "SdwanPeerInUseError",
            Self::DockerHostUnknown { .. } => "DockerHostNotFoundError",
            Self::DockerHostExists { .. } => "DockerHostExistsError",
            Self::NotYours { .. } => "NotYoursError",
            Self::NotServer { .. } => "NotServerError",
            Self::TooLarge { .. } => "TooLargeError",
            Self::CertificateUnknown { .. } => "CertificateNotFoundError",
            Self::IntermediateUnusable { .. } => "IntermediateUnusableError",
            Self::RootUnknown { .. } => "RootNotFoundError",
            Self::SealedToOthers => "SealedToOthersError",
            Self::RotationUnderWay { .. } => "RotationUnderWayError",
            Self::NoRotation => "NoRotationError",
            Self::RotationOutOfStep { .. } => "RotationOutOfStepError",
            Self::RotationHeld { .. } => "RotationHeldError",
            Self::OperatorUnknown { .. } => "OperatorNotFoundError",
            Self::OperatorExists { .. } => "OperatorExistsError",
            Self::NodeRemoved { .. } => "NodeRemovedError",
            Self::NetworkExists { .. } => "NetworkExistsError",
            Self::NetworkInUse { .. } => "NetworkInUseError",
            Self::NetworkHandleTaken { .. } => "NetworkHandleTakenError",
            Self::WireguardPortTaken { .. } => "WireguardPortTakenError",
            Self::PrefixOverlap { .. } => "PrefixOverlapError",
            Self::VipUnknown { .. } => "VirtualIpNotFoundError",
            Self::VipExists { .. } => "VirtualIpExistsError",
            Self::VipCollision { .. } => "VirtualIpCollisionError",
            Self::VipNotCandidate { .. } => "VirtualIpNotCandidateError",
            Self::VipNoCandidate { .. } => "VirtualIpNoCandidateError",
            Self::VipHeld { .. } => "VirtualIpHeldError",
            Self::VipNotHolder { .. } => "VirtualIpNotHolderError",
            Self::VipEpoch { .. } => "VirtualIpEpochError",
            Self::VipNotClosed { .. } => "VirtualIpNotClosedError",
            Self::VipVoters { .. } => "VirtualIpVotersError",
            Self::VipUsesPeer { .. } => "VirtualIpUsesPeerError",
            Self::ClusterUnknown { .. } => "ClusterNotFoundError",
            Self::ClusterNone => "NoClusterError",
            Self::ClusterAmbiguous { .. } => "ClusterAmbiguousError",
            Self::ClusterInError { .. } => "ClusterInErrorError",
            Self::ClusterFixed { .. } => "ClusterFixedError",
            Self::ClusterBusy { .. } => "ClusterBusyError",
            Self::ClusterLastServer { .. } => "ClusterLastServerError",
            Self::ClusterMajorityAtRisk { .. } => "ClusterMajorityAtRiskError",
            Self::ClusterUsesPeer { .. } => "ClusterUsesPeerError",
            Self::ClusterUsesVip { .. } => "ClusterUsesVirtualIpError",
            Self::CniProfileMismatch { .. } => "CniProfileMismatchError",
            Self::K3sNodeUnknown { .. } => "K3sNodeNotFoundError",
            Self::K3sRoleTaken { .. } => "K3sRoleTakenError",
            Self::K3sRuns { .. } => "K3sRunsError",
            Self::NotClusterServer { .. } => "NotClusterServerError",
            Self::TokenSealedToOthers { .. } => "TokenSealedToOthersError",
            Self::NotDrained { .. } => "NotDrainedError",
            Self::NodeDrained { .. } => "NodeDrainedError",
            Self::ConsentRequired { .. } => "ConsentRequiredError",
            Self::GrantUnknown { .. } => "AccessGrantNotFoundError",
            Self::GrantExists { .. } => "AccessGrantExistsError",
            Self::GrantCollision { .. } => "AccessGrantCollisionError",
            Self::GrantKeyTaken { .. } => "AccessGrantKeyTakenError",
            Self::GrantUsesPeer { .. } => "AccessGrantUsesPeerError",
            Self::KeyRotationUnderWay { .. } => "KeyRotationUnderWayError",
            Self::KeyInDevices { .. } => "KeyInDevicesError",
            Self::KeyNotAnnounced { .. } => "KeyNotAnnouncedError",
            Self::FirewallRuleUnknown { .. } => "FirewallRuleNotFoundError",
        }
    }
}

/// `: n2 is this, n3 that`; nothing where there is nobody.
fn listed(reasons: &[(String, String)]) -> String {
    let each = reasons.iter().map(|(node, why)| format!("{node}: {why}"));
    let each: Vec<String> = each.collect();
    match each.is_empty() {
        true => String::new(),
        false => format!(" ({})", each.join("; ")),
    }
}
