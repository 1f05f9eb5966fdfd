//! dockerd, for real: found or installed, configured, supervised and talked to.
//!
//! Decides nothing that `runtimes-core` can decide: [`DockerRuntime::observe`] tells what is the
//! case, [`DockerRuntime::perform`] carries one step out, [`DockerHost`] speaks to an engine.
//! Never: touches a dockerd that shoal did not start, binds a port to 0.0.0.0, lets a private key
//! leave the node, writes a file on the host that its manifest does not list.

mod apt;
mod data_root;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod host;
mod identity;
mod install;
mod log_tail;
mod paths;
mod pause;
mod process;
mod readiness;
mod rest;
mod runtime;
mod shutdown;
mod supervisor;
mod systemd;
mod transport;
mod validate;

pub use error::StepError;
pub use host::{
    AttachedContainer, ContainerSpec, ContainerSummary, DockerError, DockerHost, EngineInfo,
    ImageSummary, LogLine, LogStream, NetworkSurvey, Networks, Protocol, PublishedPort,
    PullProgress, RestartPolicy, ShownPort,
};
pub use identity::IdentityError;
pub use install::{Engine, InstallError};
pub use paths::Paths;
pub use readiness::StartError;
pub use runtime::{DockerRuntime, Settings};
pub use runtimes_host::files::FileError;
pub use shutdown::StopError;
pub use supervisor::Supervision;
pub use validate::ConfigError;
