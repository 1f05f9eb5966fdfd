//! What the mesh has agreed.
//!
//! Decides: which commands are valid, what they change, what each node must know of it.
//! Never: reads a clock, a socket or a disk, draws randomness, waits.

mod addressing;
mod apply;
mod command;
mod docker_host;
mod event;
mod ids;
mod lifecycle;
mod refusal;
mod state;
mod voters;
pub mod wire;

pub use addressing::{DEFAULT_IPV4_PREFIX, Ipv4Prefix, Ipv6Prefix64, OVERLAY_IPV4_SPACE};
pub use apply::{FOUNDER_RAFT_ID, apply};
pub use command::{Applied, Command, Done, Enrolment, Envelope, NewCertificate};
pub use docker_host::{DOCKER_TLS_PORT, DockerHost, DockerPhase, IssuedCertificate};
pub use event::{EVENTS_KEPT, Event, EventKind};
pub use ids::{
    InvalidId, LogIndex, MeshId, NetworkId, NodeId, RaftId, RequestId, Time, TokenId, WallMs,
};
pub use lifecycle::{EPHEMERAL_SILENCE_MAX, SPOT_SILENCE_MAX, silence_max, silent_too_long};
pub use refusal::Refusal;
pub use state::{
    Agreed, Assignment, CertificateProfile, CertificateRecord, LifecycleClass, Mesh, Module,
    Network, NetworkProfile, Node, NodeState, Peer, Role, State, Target, Token,
};
pub use voters::{GroupView, VoterStep, leader_step};
