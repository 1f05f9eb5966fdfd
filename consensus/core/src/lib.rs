//! What the mesh has agreed.
//!
//! Decides: which commands are valid, what they change, what each node must know of it.
//! Never: reads a clock, a socket or a disk, draws randomness, waits.

mod access_grant;
mod addressing;
mod answer;
mod apply;
mod authority;
mod cluster;
mod cluster_command;
mod command;
mod docker_host;
mod drain;
mod enrolment;
mod envelope;
mod etcd;
mod event;
mod firewall;
mod ids;
mod k3s_wishes;
mod lease;
mod lifecycle;
pub mod limits;
mod network;
mod prefix;
mod proposal;
mod readiness;
mod recent;
mod refusal;
mod refusal_hints;
mod renewal;
mod rollout;
mod rotation;
mod shared;
mod state;
mod trust;
mod virtual_ip;
mod voters;
pub mod wire;
mod wireguard_key;

pub use access_grant::{AccessGrant, GrantState, NewGrant};
pub use addressing::{
    DEFAULT_IPV4_PREFIX, HANDLE_CHARS_MAX, Ipv4Prefix, Ipv6Prefix64, OVERLAY_IPV4_SPACE,
};
pub use answer::{Applied, Done};
pub use apply::{FOUNDER_RAFT_ID, Restorer, apply, go_on_alone, restore};
pub use authority::{
    Authority, CertificateProfile, CertificateRecord, ExpiringCertificate, Holder, Intermediate,
    LeafFingerprint, Operator, OperatorRole, Removed, Revoked, Root, RootFingerprint, RootState,
    Rotation, RotationStep, SealedKey,
};
pub use cluster::{
    BinaryOrigin, Cluster, ClusterId, ClusterStatus, Cni, K3S_API_PORT, K3sBinary, K3sNode,
    K3sPhase, K3sRole, K3sWish,
};
pub use cluster_command::ClusterCommand;
pub use command::Command;
pub use docker_host::{DOCKER_TLS_PORT, DockerHost, DockerPhase, IssuedCertificate};
pub use drain::{Drain, DrainCommand, DrainState};
pub use enrolment::{
    Enrolment, FoundingAuthority, NewCertificate, NewIntermediate, NewRoot, Revocation,
};
pub use envelope::Envelope;
pub use etcd::Etcd;
pub use event::{EVENTS_KEPT, Event, EventKind};
pub use firewall::{
    Firewall, FirewallRule, NewRule, PortRange, RuleEnd, RuleNumber, RulePlace, RuleProtocol,
    Verdict,
};
pub use ids::{
    InvalidId, LogIndex, MeshId, NetworkId, NodeId, RaftId, RequestId, Time, TokenId, WallMs,
};
pub use k3s_wishes::WantedK3s;
pub use lease::{
    CLOCK_DRIFT_PPM, Epoch, LeaseProfile, LeaseTiming, LeaseVoters, RENEWALS_LOST, RENEWALS_MISSED,
    VipId, drifted,
};
pub use lifecycle::{EPHEMERAL_SILENCE_MAX, SPOT_SILENCE_MAX, silence_max, silent_too_long};
pub use network::{
    DEFAULT_NETWORK, Network, NetworkChange, NewNetwork, Peer, PrefixChange, RoutingMode,
};
pub use prefix::IpPrefix;
pub use readiness::{
    CHECK_INTERVAL_MS, CHECK_TIMEOUT_MS, FAILURES_IN_A_ROW, Probe, Readiness, ReadinessCheck,
    ReadinessCount,
};
pub use recent::{Answers, Recent};
pub use refusal::Refusal;
pub use renewal::{
    ExpiryWarning, IntermediateReason, RenewalReason, certificates_due, expiry_warnings,
    intermediate_due, renewal_reason,
};
pub use rollout::{Rollout, RolloutKind};
pub use rotation::{
    NodeFacts, RotationFacts, RotationHold, RotationWaits, rotation_holds, rotation_step,
};
pub use shared::Shared;
pub use state::{
    Agreed, Assignment, LifecycleClass, Mesh, Module, NetworkProfile, Node, NodeState, Role, State,
    Target, Token,
};
pub use trust::reseal_due;
pub use virtual_ip::{FailoverWish, Unfit, VipMove, VipState, VirtualIp};
pub use voters::{GroupView, VoterStep, leader_step};
pub use wireguard_key::{
    AnnouncedKey, KeyRotation, KeysAtHand, WireguardKeyStep, wireguard_key_step,
};
