//! The failure of a step, whichever step it was.

use std::time::Duration;

use runtimes_host::files::FileError;

use crate::{
    api::ApiError, clean::CleanError, daemon::DaemonError, program::ProgramError,
    secrets::TokenError,
};

/// The failure of a step, whichever step it was.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// Getting the program.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// Making or taking a token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Starting, stopping, waiting.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// Asking the cluster.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Taking K3s off.
    #[error(transparent)]
    Clean(#[from] CleanError),
    /// Pods stay.
    #[error("the node could not be emptied: {waits_for}")]
    Stalled {
        /// Which, and why.
        waits_for: String,
    },
    /// Somebody else's K3s.
    #[error("a K3s that shoal did not start runs here")]
    Foreign {
        /// Its process.
        pid: Option<u32>,
    },
    /// A file on the host.
    #[error(transparent)]
    File(#[from] FileError),
}

impl StepError {
    /// Stable text for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Program(error) => error.code(),
            Self::Token(error) => error.code(),
            Self::Daemon(error) => error.code(),
            Self::Api(error) => error.code(),
            Self::Clean(error) => error.code(),
            Self::Stalled { .. } => "DrainStalledError",
            Self::Foreign { .. } => "K3sAlreadyRunningError",
            Self::File(error) => error.code(),
        }
    }

    /// How long the step is not tried again, at the least.
    pub fn pause(&self) -> Duration {
        match self {
            Self::Program(error) => error.pause(),
            Self::Token(_)
            | Self::Daemon(_)
            | Self::Api(_)
            | Self::Clean(_)
            | Self::Stalled { .. }
            | Self::Foreign { .. }
            | Self::File(_) => Duration::ZERO,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Program(error) => error.hint(),
            Self::Token(error) => error.hint(),
            Self::Daemon(error) => error.hint(),
            Self::Api(_) => "look at `shoal cluster show` and at K3s's log on the node".to_owned(),
            Self::Clean(error) => error.hint(),
            Self::Stalled { .. } => {
                "give its workload another replica, or change its disruption budget".to_owned()
            }
            Self::Foreign { .. } => {
                "uninstall it with its own k3s-uninstall.sh, or unassign the module".to_owned()
            }
            Self::File(error) => error.hint(),
        }
    }
}
