//! The failure of a step, whichever step it was.

use runtimes_host::files::FileError;

use crate::{
    host::DockerError, identity::IdentityError, install::InstallError, readiness::StartError,
    shutdown::StopError, validate::ConfigError,
};

/// The failure of a step, whichever step it was.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// Installing.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// Key and request.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Writing the configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Starting, restarting, reloading, waiting for an answer.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Stopping.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// A file on the host.
    #[error(transparent)]
    File(#[from] FileError),
    /// A container that is to stop.
    #[error(transparent)]
    Container(#[from] DockerError),
}

impl StepError {
    /// Stable text for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Install(error) => error.code(),
            Self::Identity(error) => error.code(),
            Self::Config(error) => error.code(),
            Self::Start(error) => error.code(),
            Self::Stop(error) => error.code(),
            Self::File(error) => error.code(),
            Self::Container(error) => error.code(),
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Install(error) => error.hint(),
            Self::Identity(error) => error.hint(),
            Self::Config(error) => error.hint(),
            Self::Start(error) => error.hint(),
            Self::Stop(error) => error.hint(),
            Self::File(error) => error.hint(),
            Self::Container(error) => error.hint(),
        }
    }
}
