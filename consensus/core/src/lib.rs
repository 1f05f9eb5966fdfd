//! What the mesh has agreed.
//!
//! Decides: which commands are valid, what they change, what each node must know of it.
//! Never: reads a clock, a socket or a disk, draws randomness, waits.

mod addressing;
mod apply;
mod authority;
mod command;
mod docker_host;
mod event;
mod ids;
mod lifecycle;
pub mod limits;
mod recent;
mod refusal;
mod renewal;
mod rotation;
mod shared;
mod state;
mod trust;
mod voters;
pub mod wire;

pub use addressing::{DEFAULT_IPV4_PREFIX, Ipv4Prefix, Ipv6Prefix64, OVERLAY_IPV4_SPACE};
pub use apply::{FOUNDER_RAFT_ID, Restorer, apply, go_on_alone, restore};
pub use authority::{
    Authority, CertificateProfile, CertificateRecord, ExpiringCertificate, Holder, Intermediate,
    LeafFingerprint, Operator, OperatorRole, Removed, Revoked, Root, RootFingerprint, RootState,
    Rotation, RotationStep, SealedKey,
};
pub use command::{
    Applied, Command, Done, Enrolment, Envelope, FoundingAuthority, NewCertificate,
    NewIntermediate, NewRoot, Revocation,
};
pub use docker_host::{DOCKER_TLS_PORT, DockerHost, DockerPhase, IssuedCertificate};
pub use event::{EVENTS_KEPT, Event, EventKind};
pub use ids::{
    InvalidId, LogIndex, MeshId, NetworkId, NodeId, RaftId, RequestId, Time, TokenId, WallMs,
};
pub use lifecycle::{EPHEMERAL_SILENCE_MAX, SPOT_SILENCE_MAX, silence_max, silent_too_long};
pub use recent::{Answers, Recent};
pub use refusal::Refusal;
pub use renewal::{
    ExpiryWarning, IntermediateReason, RenewalReason, certificates_due, expiry_warnings,
    intermediate_due, renewal_reason,
};
pub use rotation::{
    NodeFacts, RotationFacts, RotationHold, RotationWaits, rotation_holds, rotation_step,
};
pub use shared::Shared;
pub use state::{
    Agreed, Assignment, LifecycleClass, Mesh, Module, Network, NetworkProfile, Node, NodeState,
    Peer, Role, State, Target, Token,
};
pub use trust::reseal_due;
pub use voters::{GroupView, VoterStep, leader_step};
