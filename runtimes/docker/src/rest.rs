//! Containers of a host that comes to rest, and comes back.
//!
//! Decides: which containers are started after a rest by shoal: those that Docker is to keep running
//! unless they are stopped by hand, for it takes this stop for one. They are written down before they
//! are stopped, so that none is forgotten. The others follow Docker's own rules.
//! Never: kills a container before the time is over that it was made with.

use std::collections::BTreeSet;

use runtimes_core::docker::{Restarts, Running};
use runtimes_host::files::{self, FileError, HostFiles, at};

use crate::{
    error::StepError,
    host::{DockerError, DockerHost},
    paths::Paths,
};

/// Ids say nothing secret, and are nobody else's concern.
const MODE: u32 = 0o600;

/// Whether any wait to be started.
pub(crate) fn any_waits(paths: &Paths) -> bool {
    paths.stopped().exists()
}

/// Stops a container, and waits until it has. One that is gone is no error.
pub(crate) async fn stop(
    host: &DockerHost,
    paths: &Paths,
    files: &HostFiles,
    container: &Running,
) -> Result<(), StepError> {
    if container.restarts == Restarts::UnlessStopped {
        note(paths, files, &container.id)?;
    }
    match host.stop_in_its_time(&container.id).await {
        Ok(()) | Err(DockerError::ContainerNotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Starts what waits for it. What does not start stays as it is and is told in the log: it stops
/// nobody else.
pub(crate) async fn start_waiting(
    host: &DockerHost,
    paths: &Paths,
    files: &HostFiles,
) -> Result<(), StepError> {
    for id in waiting(paths)? {
        match host.start(&id).await {
            Ok(()) => tracing::info!(container = id, "a container is started again"),
            Err(DockerError::ContainerNotFound { .. }) => {}
            Err(error @ (DockerError::Unreachable { .. } | DockerError::NoAnswer { .. })) => {
                return Err(error.into());
            }
            Err(error) => {
                tracing::warn!(container = id, %error, "a container does not start again")
            }
        }
    }
    Ok(files.remove(&paths.stopped())?)
}

fn note(paths: &Paths, files: &HostFiles, id: &str) -> Result<(), FileError> {
    let mut ids = waiting(paths)?;
    if !ids.insert(id.to_owned()) {
        return Ok(());
    }
    let path = paths.stopped();
    let text = serde_json::to_vec(&ids).map_err(|error| at("write", &path)(error.into()))?;
    files.write(&path, &text, MODE)
}

fn waiting(paths: &Paths) -> Result<BTreeSet<String>, FileError> {
    let path = paths.stopped();
    let Some(text) = files::read(&path)? else {
        return Ok(BTreeSet::new());
    };
    serde_json::from_str(&text).map_err(|error| at("read", &path)(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_started_again_is_remembered_once_and_taken_off_with_everything_else() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        let files = HostFiles::listed_in(paths.manifest());
        assert!(!any_waits(&paths));
        for id in ["b", "a", "b"] {
            note(&paths, &files, id).unwrap();
        }
        assert!(any_waits(&paths));
        assert!(waiting(&paths).unwrap().into_iter().eq(["a", "b"]));
        files.remove_all().unwrap();
        assert!(!any_waits(&paths));
    }
}
