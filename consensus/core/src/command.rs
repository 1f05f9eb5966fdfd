//! What may be asked of the mesh.
//!
//! A command is a value: everything its application needs, the time included, is in it. The
//! daemon that takes it from a client or a peer stamps `actor`; nobody names another as actor.

use std::{
    collections::BTreeMap,
    net::{Ipv6Addr, SocketAddr},
};

use serde::{Deserialize, Serialize};

use crate::{
    Assignment, CertificateProfile, CertificateRecord, DockerPhase, Ipv4Prefix, IssuedCertificate,
    LifecycleClass, Mesh, NetworkId, NetworkProfile, NodeId, NodeState, Refusal, RequestId, Role,
    Target, TokenId, WallMs,
};

/// A command and who gave it when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Repeat it to learn the answer that was lost.
    pub request: RequestId,
    /// The node that took the command, as its connection proved.
    pub actor: NodeId,
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
}

/// A certificate's serial number and record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewCertificate {
    /// Serial number, hexadecimal.
    pub serial: String,
    /// The record.
    pub record: CertificateRecord,
}

/// Everything that changes the agreed state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The first entry of a mesh.
    CreateMesh {
        /// The mesh.
        mesh: Mesh,
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
    },
    /// Forget a node and revoke all it holds.
    RemoveNode {
        /// The node, by name or id.
        node: String,
        /// Why, for the event.
        reason: String,
    },
    /// The leader saw a node fall silent or come back. Changes no agreed state; writes the event.
    RecordSilence {
        /// The node.
        node: NodeId,
        /// Silent, or heard again.
        silent: bool,
    },
    /// Remember a certificate that the issuer signed outside an enrolment.
    RecordCertificate(NewCertificate),
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
    /// The issuer signed dockerd's certificate.
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
}

impl Command {
    /// A short name for logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::CreateMesh { .. } => "create_mesh",
            Self::CreateToken { .. } => "create_token",
            Self::AdmitNode { .. } => "admit_node",
            Self::ReportNode { .. } => "report_node",
            Self::LabelNode { .. } => "label_node",
            Self::SetRole { .. } => "set_role",
            Self::RemoveNode { .. } => "remove_node",
            Self::RecordSilence { .. } => "record_silence",
            Self::RecordCertificate(_) => "record_certificate",
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

impl NewCertificate {
    /// A record for `node`.
    pub fn new(
        serial: String,
        node: NodeId,
        profile: CertificateProfile,
        not_after: WallMs,
    ) -> Self {
        Self {
            serial,
            record: CertificateRecord {
                node,
                profile,
                not_after,
            },
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
