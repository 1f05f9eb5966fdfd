//! K3s, for real: put in place, configured, supervised, asked and taken off again.
//!
//! Decides nothing that `runtimes-core` can decide: [`K3sRuntime::observe`] tells what is the case,
//! [`K3sRuntime::perform`] carries one step out, [`ClusterApi`] speaks to a cluster.
//! Never: runs a script, puts a token into arguments or a log, touches a K3s or data of one that
//! shoal did not start.

mod api;
mod before;
mod clean;
mod daemon;
mod data;
mod error;
mod fetch;
mod images;
pub mod kubeconfig;
mod paths;
mod program;
mod readiness;
mod runtime;
mod secrets;
pub mod snapshots;
mod turn;

pub use api::{ApiError, ClusterApi, Eviction, NodeView};
pub use clean::CleanError;
pub use daemon::{DaemonError, Supervision};
pub use error::StepError;
pub use fetch::FetchError;
pub use paths::Paths;
pub use program::ProgramError;
pub use runtime::{Context, K3sRuntime, Sight, serving};
pub use secrets::{JoinToken, TokenError};
pub use turn::evict_once;
