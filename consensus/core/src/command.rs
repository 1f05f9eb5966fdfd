//! What may be asked of the mesh.
//!
//! A command is a value: everything its application needs, the time included, is in it. The
//! daemon that takes it from a client or a peer stamps `actor`; nobody names another as actor.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv6Addr, SocketAddr},
};

use serde::{Deserialize, Serialize};

use crate::{
    Assignment, CertificateRecord, DockerPhase, ExpiringCertificate, Ipv4Prefix, IssuedCertificate,
    LifecycleClass, Mesh, NetworkId, NetworkProfile, NodeId, NodeState, OperatorRole, Refusal,
    RequestId, Role, RootFingerprint, RotationStep, SealedKey, Target, TokenId, WallMs,
};

/// A command and who gave it when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Repeat it to learn the answer that was lost.
    pub request: RequestId,
    /// The node that took the command, as its connection proved.
    pub actor: NodeId,
    /// The operator who asked for it at that node's API; events name him.
    pub operator: Option<String>,
    /// When it took it.
    pub time: WallMs,
    /// The command.
    pub command: Command,
}

/// What a node says of itself when it enrols.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// Its identity, as its connection proved.
    pub node: NodeId,
    /// The name it wants.
    pub name: String,
    /// The operator's marks on it.
    pub labels: BTreeMap<String, String>,
    /// Facts about the machine.
    pub metadata: BTreeMap<String, String>,
    /// How long it means to stay.
    pub lifecycle_class: LifecycleClass,
    /// Whether its data directory is in memory.
    pub tmpfs_store: bool,
    /// What the machine can carry.
    pub network_profile: NetworkProfile,
    /// Where it can be reached.
    pub addresses: Vec<SocketAddr>,
    /// Its WireGuard public key.
    pub wireguard_public_key: [u8; 32],
    /// The age recipient that secrets are sealed to for it.
    pub sealing_recipient: String,
}

/// A certificate's serial number and record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewCertificate {
    /// Serial number, hexadecimal.
    pub serial: String,
    /// The record.
    pub record: CertificateRecord,
}

/// A root certificate that somebody made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewRoot {
    /// DER.
    pub certificate: Vec<u8>,
    /// Its key under the signature of the present root, DER; none for a mesh's first root.
    pub cross: Option<Vec<u8>>,
    /// When it ends.
    pub not_after: WallMs,
}

/// An intermediate that a server made for itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewIntermediate {
    /// Serial number, hexadecimal.
    pub serial: String,
    /// DER.
    pub certificate: Vec<u8>,
    /// The root that signed it.
    pub root: RootFingerprint,
    /// When it begins.
    pub not_before: WallMs,
    /// When it ends.
    pub not_after: WallMs,
}

/// What a founder makes before its mesh exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundingAuthority {
    /// The root.
    pub root: NewRoot,
    /// Its key, sealed to the founder and to the recovery recipient.
    pub root_key: SealedKey,
    /// The age recipient whose identity is kept off line.
    pub recovery_recipient: String,
    /// The founder's intermediate.
    pub intermediate: NewIntermediate,
}

/// Which certificates are to be accepted no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Revocation {
    /// The one with this serial number; an intermediate with all that it signed.
    Serial(String),
    /// Every leaf that a node holds, by name or id. It stays a member and gets new ones when it
    /// proves its key.
    Node(String),
    /// Every leaf that an operator holds.
    Operator(String),
}

/// Everything that changes the agreed state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The first entry of a mesh.
    CreateMesh {
        /// The mesh.
        mesh: Mesh,
        /// Its first root and the first server's intermediate.
        authority: Box<FoundingAuthority>,
        /// Its first server.
        first: Enrolment,
        /// The first server's certificate.
        certificate: NewCertificate,
        /// The first network's id.
        network: NetworkId,
        /// The first network's IPv4 prefix.
        ipv4: Ipv4Prefix,
        /// The first network's WireGuard port.
        wireguard_port: u16,
    },
    /// Remember a bootstrap token.
    CreateToken {
        /// Its id.
        id: TokenId,
        /// BLAKE3 of its secret.
        secret_hash: [u8; 32],
        /// What it makes of a node.
        role: Role,
        /// When it ends.
        expires_at: WallMs,
        /// Whether more than one node may use it.
        reusable: bool,
    },
    /// Take a token back.
    RevokeToken {
        /// Its id.
        id: TokenId,
    },
    /// Redeem a token and admit a node, in one step: a failed join does not use a token up.
    AdmitNode {
        /// The token's id.
        token: TokenId,
        /// BLAKE3 of the secret that the node presented.
        secret_hash: [u8; 32],
        /// The node.
        enrolment: Enrolment,
        /// The certificate that it gets if it is admitted.
        certificate: NewCertificate,
    },
    /// A node tells how far it is and where it can be reached.
    ReportNode {
        /// How far.
        state: NodeState,
        /// Where.
        addresses: Vec<SocketAddr>,
    },
    /// Set and remove labels.
    LabelNode {
        /// The node, by name or id.
        node: String,
        /// Labels to set.
        set: BTreeMap<String, String>,
        /// Labels to remove.
        unset: Vec<String>,
    },
    /// Promote or demote.
    SetRole {
        /// The node, by name or id.
        node: String,
        /// What it becomes.
        role: Role,
        /// The servers that were seen alive when this was asked: a change that would leave fewer
        /// than a majority of them is refused.
        reachable: BTreeSet<NodeId>,
        /// Whether to do it all the same.
        force: bool,
    },
    /// Forget a node and revoke all it holds.
    RemoveNode {
        /// The node, by name or id.
        node: String,
        /// Why, for the event.
        reason: String,
        /// Whether somebody else may have its keys. If it is a server, everything it signed is
        /// revoked as well, and the root is to be replaced.
        compromised: bool,
        /// As for [`Command::SetRole`].
        reachable: BTreeSet<NodeId>,
        /// As for [`Command::SetRole`].
        force: bool,
    },
    /// The leader saw a node fall silent or come back. Changes no agreed state; writes the event.
    RecordSilence {
        /// The node.
        node: NodeId,
        /// Silent, or heard again.
        silent: bool,
    },
    /// Remember a leaf that a server signed outside an enrolment.
    RecordCertificate(NewCertificate),
    /// A server has a new intermediate.
    RecordIntermediate(NewIntermediate),
    /// Accept certificates no more.
    RevokeCertificates {
        /// Which.
        which: Revocation,
        /// Why, for the event.
        reason: String,
    },
    /// Replace a sealed root key by one that today's servers can open.
    SealRootKey {
        /// Which root's.
        root: RootFingerprint,
        /// The same key, sealed anew.
        key: SealedKey,
    },
    /// Tell every node to trust a new root.
    BeginRotation {
        /// The new root.
        root: NewRoot,
        /// Its key, sealed.
        key: SealedKey,
        /// Why.
        reason: String,
    },
    /// Let the new root issue.
    AdvanceRotation {
        /// The step after the present one.
        to: RotationStep,
    },
    /// Drop the old root.
    FinishRotation {
        /// The old root.
        root: RootFingerprint,
        /// Whether to do it although somebody still holds only certificates under it.
        leave_behind: bool,
    },
    /// Drop the new root, before it has issued anything.
    AbortRotation {
        /// Why.
        reason: String,
    },
    /// The leader saw a certificate near its end without a successor. Writes the event once.
    RecordExpiryWarning {
        /// Which certificate.
        certificate: ExpiringCertificate,
    },
    /// Make an operator.
    CreateOperator {
        /// His name.
        name: String,
        /// What he may do.
        role: OperatorRole,
    },
    /// Let an operator do more or less.
    SetOperatorRole {
        /// His name.
        name: String,
        /// What he may do from now on.
        role: OperatorRole,
    },
    /// Forget an operator and revoke his certificates.
    RemoveOperator {
        /// His name.
        name: String,
    },
    /// Give a node a place in a network.
    AttachPeer {
        /// The node, by name or id.
        node: String,
        /// The network's handle.
        network: String,
    },
    /// Take it away.
    DetachPeer {
        /// The node, by name or id.
        node: String,
        /// The network's handle.
        network: String,
    },
    /// Assign a module.
    AssignModule(Assignment),
    /// Take it back.
    UnassignModule(Assignment),
    /// A node tells how far its Docker host is.
    ReportDocker {
        /// How far.
        phase: DockerPhase,
        /// Where dockerd is to listen.
        listen: Option<Ipv6Addr>,
    },
    /// A server signed dockerd's certificate.
    DockerCertSigned {
        /// Whose.
        node: NodeId,
        /// The certificate.
        certificate: IssuedCertificate,
    },
    /// Forget a Docker host: assignment, row and certificates.
    DecommissionDocker {
        /// The node, by name or id.
        node: String,
    },
    /// List a Docker host that somebody else runs.
    RegisterDocker {
        /// Its name.
        name: String,
        /// Its endpoint.
        endpoint: String,
    },
    /// Stop listing it.
    UnregisterDocker {
        /// Its name.
        name: String,
    },
}

/// What a command's application yields. Refusals are answers, not failures of agreement.
pub type Applied = Result<Done, Refusal>;

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Done {
    /// Done, nothing more to say.
    Done,
    /// The node was admitted.
    Admitted {
        /// In this role.
        role: Role,
    },
    /// Done; the mesh now has so many servers.
    Servers {
        /// Servers after the change.
        count: u64,
    },
    /// So many certificates are accepted no more.
    Revoked {
        /// Leaves and intermediates.
        count: u64,
    },
}

impl Command {
    /// A short name for logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::CreateMesh { .. } => "create_mesh",
            Self::CreateToken { .. } => "create_token",
            Self::RevokeToken { .. } => "revoke_token",
            Self::AdmitNode { .. } => "admit_node",
            Self::ReportNode { .. } => "report_node",
            Self::LabelNode { .. } => "label_node",
            Self::SetRole { .. } => "set_role",
            Self::RemoveNode { .. } => "remove_node",
            Self::RecordSilence { .. } => "record_silence",
            Self::RecordCertificate(_) => "record_certificate",
            Self::RecordIntermediate(_) => "record_intermediate",
            Self::RevokeCertificates { .. } => "revoke_certificates",
            Self::SealRootKey { .. } => "seal_root_key",
            Self::BeginRotation { .. } => "begin_rotation",
            Self::AdvanceRotation { .. } => "advance_rotation",
            Self::FinishRotation { .. } => "finish_rotation",
            Self::AbortRotation { .. } => "abort_rotation",
            Self::RecordExpiryWarning { .. } => "record_expiry_warning",
            Self::CreateOperator { .. } => "create_operator",
            Self::SetOperatorRole { .. } => "set_operator_role",
            Self::RemoveOperator { .. } => "remove_operator",
            Self::AttachPeer { .. } => "attach_peer",
            Self::DetachPeer { .. } => "detach_peer",
            Self::AssignModule(_) => "assign_module",
            Self::UnassignModule(_) => "unassign_module",
            Self::ReportDocker { .. } => "report_docker",
            Self::DockerCertSigned { .. } => "docker_cert_signed",
            Self::DecommissionDocker { .. } => "decommission_docker",
            Self::RegisterDocker { .. } => "register_docker",
            Self::UnregisterDocker { .. } => "unregister_docker",
        }
    }
}

impl Assignment {
    /// Straight to one node.
    pub fn to_node(module: crate::Module, node: NodeId) -> Self {
        Self {
            module,
            target: Target::Node(node),
        }
    }
}
