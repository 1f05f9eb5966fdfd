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
    Assignment, ClusterCommand, DockerPhase, DrainCommand, Enrolment, Epoch, ExpiringCertificate,
    FoundingAuthority, IpPrefix, Ipv4Prefix, IssuedCertificate, LeaseProfile, LogIndex, Mesh,
    Module, NetworkChange, NetworkId, NewCertificate, NewGrant, NewIntermediate, NewNetwork,
    NewRoot, NewRule, NodeId, NodeState, OperatorRole, ReadinessCheck, Revocation, Role,
    RootFingerprint, RotationStep, RuleNumber, SealedKey, TokenId, VipId, WallMs,
};

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
        /// As for [`ClusterCommand::Assign`]: a selector may give a node its place in a cluster.
        reachable: BTreeSet<NodeId>,
        /// Whether it may wipe K3s off the node.
        consent: bool,
    },
    /// Promote or demote.
    SetRole {
        /// The node, by name or id.
        node: String,
        /// What it becomes.
        role: Role,
        /// The servers that were seen alive when this was asked: a majority of them must remain.
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
        /// As for [`Command::SetRole`], and for [`ClusterCommand::Assign`].
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
        /// The network's name.
        network: String,
        /// Whether it forwards between the others where the network's mode is hub.
        hub: bool,
        /// Networks behind the node that the others reach through it.
        lan_subnets: BTreeSet<IpPrefix>,
    },
    /// Take it away.
    DetachPeer {
        /// The node, by name or id.
        node: String,
        /// The network's name.
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
    /// Make a network.
    CreateNetwork(NewNetwork),
    /// Forget a network that nobody has a place in.
    DeleteNetwork {
        /// Its name.
        network: String,
    },
    /// Change a network.
    SetNetwork {
        /// Its name.
        network: String,
        /// What changes.
        change: NetworkChange,
    },
    /// Change a node's place in a network. `None` leaves a value as it is.
    SetPeer {
        /// The node, by name or id.
        node: String,
        /// The network's name.
        network: String,
        /// Whether it forwards between the others where the network's mode is hub.
        hub: Option<bool>,
        /// Networks behind the node that the others reach through it.
        lan_subnets: Option<BTreeSet<IpPrefix>>,
    },
    /// Make a virtual IP. Its first candidate holds it.
    CreateVip {
        /// Its name.
        name: String,
        /// The network's handle.
        network: String,
        /// Who may hold it, by name or id, the most wanted first.
        candidates: Vec<String>,
        /// What candidates are asked.
        check: Option<ReadinessCheck>,
        /// The durations of its lease.
        profile: LeaseProfile,
    },
    /// Take a virtual IP away for good.
    DeleteVip {
        /// Its name or id.
        vip: String,
    },
    /// Let others hold it, or the same in another order. Moves nothing.
    SetVipCandidates {
        /// Its name or id.
        vip: String,
        /// Who may hold it from now on, by name or id, the most wanted first.
        candidates: Vec<String>,
    },
    /// Ask candidates something else, or nothing.
    SetVipCheck {
        /// Its name or id.
        vip: String,
        /// What.
        check: Option<ReadinessCheck>,
    },
    /// A majority of the lease voters has closed an epoch; somebody else gets the next one.
    AssignVip {
        /// Which.
        vip: VipId,
        /// The epoch that ended.
        after: Epoch,
        /// Who gets it; nobody while no candidate is fit.
        to: Option<NodeId>,
        /// The lease voters that closed it.
        closed_by: BTreeSet<NodeId>,
        /// Why, for the event.
        reason: String,
    },
    /// The holder has shut its gate and lets go.
    ReleaseVip {
        /// Which.
        vip: VipId,
        /// The epoch that it held.
        epoch: Epoch,
        /// Who is to get it; unless given whom an operator wished, else the next candidate that is
        /// ready, else nobody.
        to: Option<NodeId>,
        /// Why, for the event.
        reason: String,
    },
    /// Rest a lease on other servers: first on both sets.
    BeginLeaseVoters {
        /// Which.
        vip: VipId,
        /// Its epoch.
        epoch: Epoch,
        /// The entry that wrote the set that it rests on now, as
        /// [`crate::VirtualIp::voters_since`] tells.
        since: LogIndex,
        /// The set that takes over.
        new: BTreeSet<NodeId>,
    },
    /// The holder said that its present lease rests on both sets: the old one may go.
    FinishLeaseVoters {
        /// Which.
        vip: VipId,
        /// Its epoch.
        epoch: Epoch,
        /// The entry that began this change.
        since: LogIndex,
    },
    /// A candidate tells that it is ready, or not any more.
    ReportReadiness {
        /// Which.
        vip: VipId,
        /// Whether it is.
        ready: bool,
        /// Why not.
        reason: String,
    },
    /// An operator wants it elsewhere.
    RequestFailover {
        /// Its name or id.
        vip: String,
        /// With whom, by name or id; with the next candidate that is fit, unless given.
        to: Option<String>,
        /// Who was heard when this was asked.
        reachable: BTreeSet<NodeId>,
    },
    /// Somebody saw how long nobody answered at a virtual IP's address.
    ReportMove {
        /// Which.
        vip: VipId,
        /// The epoch that ended the silence.
        epoch: Epoch,
        /// How long it was, in microseconds.
        outage_us: u64,
    },
    /// Let a device without a daemon into a network.
    CreateGrant(NewGrant),
    /// Give a device another gateway.
    MoveGrant {
        /// The grant's name.
        grant: String,
        /// The node that is to be its gateway, by name or id.
        gateway: String,
    },
    /// Let a device in no more, until it is resumed.
    SuspendGrant {
        /// The grant's name.
        grant: String,
    },
    /// Let it in again.
    ResumeGrant {
        /// The grant's name.
        grant: String,
    },
    /// Forget a grant: its device is let in no more.
    RevokeGrant {
        /// The grant's name.
        grant: String,
    },
    /// Have a node make itself another WireGuard key.
    RotateWireguardKey {
        /// The node, by name or id.
        node: String,
        /// Whether to do it although devices that it is the gateway of are cut off by it.
        leave_devices: bool,
    },
    /// The node has made one: the others are to know it before it is used.
    AnnounceWireguardKey {
        /// The public key.
        key: [u8; 32],
    },
    /// The node uses it from now on, and the old one no more.
    TakeWireguardKey {
        /// The public key.
        key: [u8; 32],
    },
    /// Let connections inside a network through, or drop them.
    AddFirewallRule(NewRule),
    /// Take a firewall rule away.
    RemoveFirewallRule {
        /// The network's name.
        network: String,
        /// The rule.
        rule: RuleNumber,
    },
    /// About a K3s cluster, or a node of one.
    Cluster(ClusterCommand),
    /// About a node that is emptied.
    Drain(DrainCommand),
    /// A node found something of a module otherwise than it had left it; only writes the event.
    ReportDrift {
        /// Of which module.
        module: Module,
        /// What, in words.
        what: String,
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
            Self::Cluster(command) => command.name(),
            Self::Drain(command) => command.name(),
            Self::ReportDrift { .. } => "report_drift",
            Self::ReportDocker { .. } => "report_docker",
            Self::DockerCertSigned { .. } => "docker_cert_signed",
            Self::DecommissionDocker { .. } => "decommission_docker",
            Self::RegisterDocker { .. } => "register_docker",
            Self::UnregisterDocker { .. } => "unregister_docker",
            Self::CreateNetwork(_) => "create_network",
            Self::DeleteNetwork { .. } => "delete_network",
            Self::SetNetwork { .. } => "set_network",
            Self::SetPeer { .. } => "set_peer",
            Self::CreateVip { .. } => "create_vip",
            Self::DeleteVip { .. } => "delete_vip",
            Self::SetVipCandidates { .. } => "set_vip_candidates",
            Self::SetVipCheck { .. } => "set_vip_check",
            Self::AssignVip { .. } => "assign_vip",
            Self::ReleaseVip { .. } => "release_vip",
            Self::BeginLeaseVoters { .. } => "begin_lease_voters",
            Self::FinishLeaseVoters { .. } => "finish_lease_voters",
            Self::ReportReadiness { .. } => "report_readiness",
            Self::RequestFailover { .. } => "request_failover",
            Self::ReportMove { .. } => "report_move",
            Self::CreateGrant(_) => "create_grant",
            Self::MoveGrant { .. } => "move_grant",
            Self::SuspendGrant { .. } => "suspend_grant",
            Self::ResumeGrant { .. } => "resume_grant",
            Self::RevokeGrant { .. } => "revoke_grant",
            Self::RotateWireguardKey { .. } => "rotate_wireguard_key",
            Self::AnnounceWireguardKey { .. } => "announce_wireguard_key",
            Self::TakeWireguardKey { .. } => "take_wireguard_key",
            Self::AddFirewallRule(_) => "add_firewall_rule",
            Self::RemoveFirewallRule { .. } => "remove_firewall_rule",
        }
    }
}
