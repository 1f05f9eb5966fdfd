//! Stopping dockerd.
//!
//! Decides: how containers and daemon end. To keep the containers, SIGTERM under live-restore is
//! enough. To stop them, live-restore is first switched off by a reload: dockerd then stops its
//! containers itself, in its own order and with their own timeouts, and starts those with a
//! restart policy again should it ever be started with the same data.
//! Never: leaves a daemon behind that it reported as stopped.

use std::time::Duration;

use runtimes_host::{
    ending::{DoesNotEnd, end},
    files::{self, FileError, HostFiles},
};
use serde_json::{Value, json};

use crate::{
    paths::Paths,
    process::{self, OurProcess},
    readiness::StartError,
    supervisor::Supervision,
    systemd,
};

/// dockerd gives containers 15 s by default (`shutdown-timeout`) and itself some more; one whose
/// containers ask for longer is not waited for, it is killed.
const END_WITHIN: Duration = Duration::from_secs(60);

/// dockerd could not be stopped.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// It outlived SIGKILL.
    #[error(transparent)]
    DoesNotEnd(#[from] DoesNotEnd),
    /// systemd refused, or the containers could not be told.
    #[error("dockerd could not be told to stop")]
    Refused(#[from] StartError),
    /// A file on the host.
    #[error(transparent)]
    File(#[from] FileError),
}

impl StopError {
    /// Stable text for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::DoesNotEnd(_) => "DockerDoesNotEndError",
            Self::Refused(error) => error.code(),
            Self::File(error) => error.code(),
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::DoesNotEnd(DoesNotEnd { pid }) => {
                format!("look at /proc/{pid}/stack; a disk or network file system may hang")
            }
            Self::Refused(error) => error.hint(),
            Self::File(error) => error.hint(),
        }
    }
}

/// Stops the containers, then dockerd.
pub(crate) async fn stop(
    supervision: Supervision,
    paths: &Paths,
    files: &HostFiles,
    process: OurProcess,
) -> Result<(), StopError> {
    let identity = process.identity;
    if switch_off_live_restore(paths, files)? {
        supervision.reload(paths, files, process).await?;
    }
    match supervision {
        Supervision::Process => end(identity, END_WITHIN).await?,
        Supervision::Systemd => systemd::stop().await?,
    }
    end_containerd(paths).await?;
    Ok(files.remove(&paths.process_record())?)
}

/// Stops dockerd and leaves the containers running, as far as live-restore is on.
pub(crate) async fn stop_for_restart(
    supervision: Supervision,
    paths: &Paths,
    process: &OurProcess,
) -> Result<(), StopError> {
    match supervision {
        Supervision::Process => {
            end(process.identity, END_WITHIN).await?;
            end_containerd(paths).await
        }
        // `systemctl restart` stops it.
        Supervision::Systemd => Ok(()),
    }
}

/// Whether the configuration in place had to be changed.
fn switch_off_live_restore(paths: &Paths, files: &HostFiles) -> Result<bool, FileError> {
    let text = files::read_lossy(&paths.daemon_json)?.unwrap_or_default();
    let Ok(Value::Object(mut document)) = serde_json::from_str(&text) else {
        return Ok(false);
    };
    if document.get("live-restore") != Some(&json!(true)) {
        return Ok(false);
    }
    document.insert("live-restore".to_owned(), json!(false));
    let text = runtimes_core::daemon_json::render(&Value::Object(document));
    files.write(&paths.daemon_json, text.as_bytes(), 0o644)?;
    Ok(true)
}

/// A dockerd that was killed leaves its containerd behind.
async fn end_containerd(paths: &Paths) -> Result<(), StopError> {
    match process::containerd(paths) {
        Some(identity) => Ok(end(identity, END_WITHIN).await?),
        None => Ok(()),
    }
}
