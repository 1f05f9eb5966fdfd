//! Waiting until dockerd answers.
//!
//! Decides: what "ready" means (the unix socket answers with a version) and why a start failed,
//! from what dockerd said last.

use std::{path::Path, time::Duration};

use runtimes_core::docker::NOT_READY;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use runtimes_host::{files::FileError, process::Identity, said::Said};

use crate::{log_tail, paths::Paths, transport::Endpoint};

/// Asking costs well under a millisecond when nobody listens, so shoal's own share of a start
/// stays below what anybody notices.
const POLL_EVERY: Duration = Duration::from_millis(15);
/// One answer. dockerd's own start is bounded by the caller.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// dockerd did not become ready.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its address is taken.
    #[error("dockerd cannot listen: {reason}")]
    AddressInUse {
        /// What dockerd said.
        reason: String,
    },
    /// The overlay address is not on this host (yet).
    #[error("dockerd cannot listen: {reason}")]
    AddressMissing {
        /// What dockerd said.
        reason: String,
    },
    /// Another dockerd runs.
    #[error("another dockerd runs: {reason}")]
    AlreadyRunning {
        /// What dockerd said, or where it was seen.
        reason: String,
    },
    /// It ended.
    #[error("dockerd ended: {reason}")]
    Exited {
        /// What it said last.
        reason: String,
    },
    /// It lives and does not answer.
    #[error("dockerd does not answer after {within:?}: {reason}")]
    NotReady {
        /// How long it was waited for.
        within: Duration,
        /// What it said last.
        reason: String,
    },
    /// It did not take its new configuration up.
    #[error("dockerd did not reload: {reason}")]
    NotReloaded {
        /// What it said.
        reason: String,
    },
    /// A program could not be run.
    #[error("cannot run {program}: {reason}")]
    Exec {
        /// Its name.
        program: String,
        /// Why not.
        reason: String,
    },
    /// A file on the host.
    #[error(transparent)]
    File(#[from] FileError),
}

impl StartError {
    /// Stable text for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::AddressInUse { .. } => "DockerPortInUseError",
            Self::AddressMissing { .. } => "DockerAddressMissingError",
            Self::AlreadyRunning { .. } => "DockerAlreadyRunningError",
            Self::Exited { .. } => "DockerExitedError",
            Self::NotReady { .. } => NOT_READY,
            Self::NotReloaded { .. } => "DockerReloadError",
            Self::Exec { .. } => "RuntimeExecError",
            Self::File(error) => error.code(),
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::AddressInUse { .. } => {
                "see who listens with `ss -ltnp 'sport = :2376'` and stop it".to_owned()
            }
            Self::AddressMissing { .. } => {
                "the overlay interface must carry the node's /128; see `shoal node show`".to_owned()
            }
            Self::AlreadyRunning { .. } => {
                "stop the other dockerd and disable its service, or unassign docker-engine"
                    .to_owned()
            }
            Self::Exited { .. } | Self::NotReady { .. } | Self::NotReloaded { .. } => {
                "read dockerd.log in shoald's data directory, or `journalctl -u docker`".to_owned()
            }
            Self::Exec { .. } => "check that the program is installed".to_owned(),
            Self::File(error) => error.hint(),
        }
    }
}

/// The version of whoever answers on the socket.
pub(crate) async fn version(socket: &Path) -> Option<String> {
    let endpoint = Endpoint::Unix(socket.to_owned());
    let body = endpoint.version(ANSWER_WITHIN).await.ok()?;
    let answer: Value = serde_json::from_slice(&body).ok()?;
    answer.get("Version")?.as_str().map(str::to_owned)
}

/// Waits until dockerd answers, ends, or the deadline is over. `said` begins where its log ended
/// before it was started.
pub(crate) async fn wait(
    paths: &Paths,
    dockerd: Identity,
    said: &Said,
    within: Duration,
) -> Result<String, StartError> {
    let deadline = Instant::now() + within;
    loop {
        if !dockerd.lives() {
            return Err(why(&said.text().await));
        }
        if let Some(version) = version(&paths.socket).await {
            return Ok(version);
        }
        if Instant::now() >= deadline {
            let reason = log_tail::reason(&said.text().await);
            return Err(StartError::NotReady { within, reason });
        }
        sleep(POLL_EVERY).await;
    }
}

/// Why dockerd ended, from what it said.
pub(crate) fn why(said: &str) -> StartError {
    let reason = log_tail::reason(said);
    if reason.contains("address already in use") {
        StartError::AddressInUse { reason }
    } else if reason.contains("cannot assign requested address") {
        StartError::AddressMissing { reason }
    } else if reason.contains("ensure docker is not running") || reason.contains("is still running")
    {
        StartError::AlreadyRunning { reason }
    } else {
        StartError::Exited { reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_tells_why_a_start_failed() {
        for (said, code) in [
            (
                "failed to load listeners: listen tcp [fd00:5::1]:2376: bind: address already in use",
                "DockerPortInUseError",
            ),
            (
                "failed to load listeners: listen tcp [fd00:5::1]:2376: bind: cannot assign requested address",
                "DockerAddressMissingError",
            ),
            (
                "failed to start daemon: pid file found, ensure docker is not running or delete /var/run/docker.pid",
                "DockerAlreadyRunningError",
            ),
            ("failed to start daemon: no space left", "DockerExitedError"),
            ("", "DockerExitedError"),
        ] {
            assert_eq!(why(said).code(), code, "{said}");
        }
    }
}
