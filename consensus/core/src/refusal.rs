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
}

impl Refusal {
    /// The stable code that programs match on.
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

    /// What the operator can do about it.
    #[expect(
        clippy::too_many_lines,
        reason = "one arm for each refusal, and nothing is decided here"
    )]
    pub fn hint(&self) -> String {
        match self {
            Self::NoMesh => {
                "make one with `shoal init`, or join one with `shoal join --token-file FILE`".into()
            }
            Self::MeshExists => {
                "a node belongs to one mesh; use another data directory for a second one".into()
            }
            Self::TokenUnknown { .. } | Self::TokenSecretWrong => {
                "make a new one with `shoal token create` and copy the whole file".into()
            }
            Self::TokenExpired { .. } | Self::TokenUsed { .. } => {
                "make a new one with `shoal token create` on any node of the mesh".into()
            }
            Self::NodeUnknown { .. } => "`shoal node ls` lists the nodes".into(),
            Self::NodeNameTaken { .. } => "start the daemon with another `--name`".into(),
            Self::NodeEnrolled { .. } => {
                "it needs no second join; `shoal status` on it shows its mesh".into()
            }
            Self::Invalid { rule, .. } => format!("it must be {rule}"),
            Self::LastServer { .. } => {
                "promote another node first: `shoal node promote NODE`".into()
            }
            Self::MajorityAtRisk { .. } => {
                "bring a silent server back or remove that one first; `--force` does it all the same, and the mesh may then stand still".into()
            }
            Self::RoleUnchanged { .. } => "nothing to do".into(),
            Self::NetworkUnknown { .. } => "`shoal network ls` lists the networks".into(),
            Self::PeerExists { .. } => "nothing to do".into(),
            Self::PeerUnknown { network, .. } => {
                format!("`shoal network show {network}` lists its peers")
            }
            Self::AddressesExhausted { network, .. } => format!(
                "free one: `shoal network show {network}` lists its peers, `shoal network detach` and `shoal node remove` free theirs"
            ),
            Self::AddressCollision { .. } => {
                "make a new node key: empty the data directory and join again".into()
            }
            Self::MissingSdwanPeer { node } => {
                format!("attach one: `shoal network attach {node} default`")
            }
            Self::ModuleUnknown { .. } => "`shoal module ls` lists the modules".into(),
            Self::ModuleAssigned { .. } => {
                "nothing to do; `shoal docker ls` shows how far it is".into()
            }
            Self::ModuleNotAssigned { .. } => "`shoal module ls` lists the assignments".into(),
            Self::ModuleBySelector {
                module, selector, ..
            } => {
                format!("unassign it there: `shoal module unassign --selector {selector} {module}`")
            }
            Self::PeerInUse { node, .. } => {
                format!("unassign it first: `shoal module unassign {node} docker-engine`")
            }
            Self::DockerHostUnknown { node } => {
                format!(
                    "`shoal docker ls` lists the hosts; `shoal docker provision {node}` makes one"
                )
            }
            Self::DockerHostExists { .. } => "`shoal docker ls` lists the hosts".into(),
            Self::NotYours { .. } => "give the command on the node that it concerns".into(),
            Self::NotServer { .. } => "`shoal node ls` shows the servers".into(),
            Self::TooLarge { .. } => "make it smaller".into(),
            Self::CertificateUnknown { .. } => {
                "`shoal ca status` lists the certificates; one that ended needs no revocation".into()
            }
            Self::IntermediateUnusable { .. } => {
                "ask another server; this one makes itself a new intermediate".into()
            }
            Self::RootUnknown { .. } => "`shoal ca status` lists the roots".into(),
            Self::SealedToOthers => {
                "the set of servers has changed meanwhile: seal it to today's".into()
            }
            Self::RotationUnderWay { .. }
            | Self::RotationOutOfStep { .. }
            | Self::RotationHeld { .. } => "`shoal ca status` shows how far it is".into(),
            Self::NoRotation => "begin one with `shoal ca rotate`".into(),
            Self::OperatorUnknown { .. } => "`shoal operator ls` lists the operators".into(),
            Self::OperatorExists { .. } => {
                "choose another name, or remove that one with `shoal operator remove`".into()
            }
            Self::NodeRemoved { .. } => {
                "empty its data directory and join again with a new token".into()
            }
            Self::NetworkExists { .. } => {
                "choose another name; `shoal network ls` lists the networks".into()
            }
            Self::NetworkInUse { network, .. } => format!(
                "`shoal network show {network}` lists its peers; `shoal network detach NODE {network}` takes one out"
            ),
            Self::NetworkHandleTaken { .. } => "choose another name".into(),
            Self::WireguardPortTaken { .. } => {
                "choose another port, or leave it out and have a free one picked".into()
            }
            Self::PrefixOverlap { .. } => {
                "choose another prefix; `shoal network ls` and `shoal network show` list those in use".into()
            }
            Self::VipUnknown { .. } => "`shoal vip ls` lists the virtual IPs".into(),
            Self::VipExists { .. } => {
                "choose another name, or delete that one with `shoal vip delete`".into()
            }
            Self::VipCollision { .. } => {
                "give the command again: it then gets another address".into()
            }
            Self::VipNotCandidate { vip, .. } | Self::VipNoCandidate { vip, .. } => {
                format!("`shoal vip show {vip}` lists its candidates and how they are")
            }
            Self::VipHeld { vip, .. } => {
                format!("`shoal vip failover {vip}` moves it to the next candidate")
            }
            Self::VipNotHolder { vip, .. }
            | Self::VipEpoch { vip, .. }
            | Self::VipNotClosed { vip, .. }
            | Self::VipVoters { vip, .. } => {
                format!("it moved meanwhile, or is about to: see `shoal vip show {vip}`")
            }
            Self::VipUsesPeer { vip, .. } => {
                format!("take it off the candidates first: `shoal vip candidates {vip} NODE,…`")
            }
            Self::GrantUnknown { .. } => "`shoal access ls` lists the access grants".into(),
            Self::GrantExists { .. } => {
                "choose another name, or revoke that one with `shoal access revoke`".into()
            }
            Self::GrantCollision { .. } => {
                "give the command again: it then gets another address".into()
            }
            Self::GrantKeyTaken { .. } => {
                "every device needs a key of its own: make one with `wg genkey`, or leave --public-key out".into()
            }
            Self::GrantUsesPeer { grant, .. } => {
                format!("choose another gateway first: `shoal access move {grant} --via NODE`")
            }
            Self::KeyRotationUnderWay { node } => {
                format!("`shoal node show {node}` shows how far it is")
            }
            Self::KeyInDevices { .. } => {
                "`--leave-devices` does it all the same; give each a new configuration with `shoal access show DEVICE` then".into()
            }
            Self::KeyNotAnnounced { .. } => {
                "nothing to do: the node tries again by itself".into()
            }
            Self::FirewallRuleUnknown { network, .. } => {
                format!("`shoal network rule ls {network}` lists its rules")
            }
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
