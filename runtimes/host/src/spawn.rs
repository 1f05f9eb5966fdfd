//! Starting a daemon that outlives shoald.
//!
//! Decides: what a daemon gets of shoald. It has a session of its own, nothing to read, a log to
//! append to, and of shoald's environment only its way to a registry. Anything else could carry a
//! secret.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::Command;

use crate::{
    files::{self, FileError, HostFiles},
    process::Identity,
    programs, said,
};

/// What of shoald's environment is a daemon's way to a registry.
pub const PROXIES: [&str; 6] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];
/// What else of it a daemon may see.
const ENVIRONMENT_KEPT: [&str; 1] = ["TMPDIR"];
/// A daemon's log is for root: it may tell what it was asked.
const LOG_MODE: u32 = 0o600;

/// A daemon and where its words go.
#[derive(Debug)]
pub struct Daemon<'a> {
    /// Its program. The programs beside it are found before any others.
    pub program: &'a Path,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Its log.
    pub log: PathBuf,
    /// The log before it was last cut.
    pub old_log: PathBuf,
}

/// It was not started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The program could not be run.
    #[error("cannot run {program}: {reason}")]
    Exec {
        /// Its name.
        program: String,
        /// Why.
        reason: String,
    },
    /// A file on the host.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Starts it in a session of its own.
///
/// # Errors
/// Its log could not be opened, or it could not be run.
pub fn spawn(daemon: &Daemon<'_>, files: &HostFiles) -> Result<Identity, SpawnError> {
    files.claim(&daemon.log)?;
    files.claim(&daemon.old_log)?;
    said::cut(&daemon.log, &daemon.old_log)?;
    let open_log = || {
        fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(LOG_MODE)
            .open(&daemon.log)
            .map_err(files::at("open", &daemon.log))
    };
    let kept = PROXIES.iter().chain(&ENVIRONMENT_KEPT);
    let kept = kept.filter_map(|name| std::env::var_os(name).map(|value| (*name, value)));
    let mut command = detached(daemon.program);
    command
        .args(&daemon.arguments)
        .env_clear()
        .env("PATH", search_path(daemon.program))
        .env("HOME", "/root")
        .envs(kept)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(open_log()?)
        .stderr(open_log()?);
    let failed = |reason: String| SpawnError::Exec {
        program: daemon.program.display().to_string(),
        reason,
    };
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let identity = child.id().and_then(Identity::of);
    // Reaps it, should it end while this shoald lives. Dropping the handle would not end it.
    tokio::spawn(async move { child.wait().await });
    identity.ok_or_else(|| failed("it ended at once".to_owned()))
}

/// setsid(1) becomes the program by exec, so the pid stays. Without it a process group of its own
/// must do: signals from a terminal still miss it.
fn detached(program: &Path) -> Command {
    match programs::find("setsid") {
        Some(setsid) => {
            let mut command = Command::new(setsid);
            command.arg(program);
            command
        }
        None => {
            let mut command = Command::new(program);
            command.process_group(0);
            command
        }
    }
}

/// A given program's directory comes first, so that its own companions are found.
fn search_path(program: &Path) -> OsString {
    let beside = program.parent().map(Path::to_owned);
    std::env::join_paths(beside.into_iter().chain(programs::search_path()))
        .unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_programs_directory_is_searched_first() {
        let path = search_path(Path::new("/opt/docker/dockerd"));
        assert!(path.to_string_lossy().starts_with("/opt/docker:"));
        assert!(path.to_string_lossy().contains("/usr/sbin"));
    }
}
