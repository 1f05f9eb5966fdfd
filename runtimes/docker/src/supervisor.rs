//! Who keeps dockerd running: systemd where it is PID 1, shoal itself elsewhere.
//!
//! Decides: which of the two, and how each starts, restarts and reloads.
//! Never: ties dockerd's life to shoald's. Without systemd dockerd gets a session of its own, is
//! found again by its record, and is not touched when shoald ends.

use std::{fs, path::Path, process::Stdio, time::Duration};

use runtimes_core::docker::ConfigFiles;
use rustix::process::Signal;
use tokio::{
    process::Command,
    time::{Instant, sleep},
};

use crate::{
    files::{self, HostFiles},
    install::{self, Engine},
    journal,
    log_tail::{self, Said},
    paths::Paths,
    process::{self, Found, Identity, OurProcess},
    readiness::{self, StartError},
    systemd,
};

/// A signal is seen within so long.
const POLL_EVERY: Duration = Duration::from_millis(15);
/// dockerd reloads in milliseconds.
const RELOAD_WITHIN: Duration = Duration::from_secs(5);
/// What of shoald's environment dockerd may see: its way to a registry and where to put
/// temporary files. Anything else could carry a secret.
const ENVIRONMENT_KEPT: [&str; 7] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "TMPDIR",
];
/// What dockerd says when it has reloaded.
const RELOADED: &str = "Reloaded configuration";

/// Who keeps dockerd running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Supervision {
    /// shoal starts it in a session of its own.
    Process,
    /// The distribution's docker.service, with a drop-in.
    Systemd,
}

impl Supervision {
    /// systemd where it is PID 1.
    pub fn detect(paths: &Paths) -> Self {
        if paths.systemd_marker.is_dir() {
            Self::Systemd
        } else {
            Self::Process
        }
    }

    /// The dockerd on the host.
    pub(crate) async fn find(self, paths: &Paths) -> Found {
        match self {
            Self::Process => process::find(paths).await,
            Self::Systemd => match systemd::main_process().await {
                // The drop-in is what makes the unit shoal's.
                Some(identity) if paths.drop_in.exists() => Found::Ours(adopted(paths, identity)),
                Some(identity) => Found::Adoptable { pid: identity.pid },
                None => process::find(paths).await,
            },
        }
    }

    /// Starts dockerd with the files in place and waits until it answers.
    pub(crate) async fn start(
        self,
        engine: &Engine,
        paths: &Paths,
        files: &HostFiles,
        within: Duration,
    ) -> Result<String, StartError> {
        let started_with = config_files(paths)?;
        let said = self.said_from_now(paths).await;
        let identity = match self {
            Self::Process => spawn(engine, paths, files)?,
            Self::Systemd => systemd::start(engine, paths, files, &said).await?,
        };
        let process = OurProcess {
            identity,
            started_with,
        };
        process::record(paths, files, &process)?;
        let ready = readiness::wait(paths, identity, &said, within).await;
        if matches!(ready, Err(StartError::NotReady { .. })) {
            tracing::warn!(
                pid = identity.pid,
                "dockerd was started and does not answer"
            );
        }
        ready
    }

    /// Lets dockerd read its configuration again.
    pub(crate) async fn reload(
        self,
        paths: &Paths,
        files: &HostFiles,
        process: OurProcess,
    ) -> Result<(), StartError> {
        let started_with = config_files(paths)?;
        let said = self.said_from_now(paths).await;
        process.identity.signal(Signal::HUP);
        wait_reloaded(&said).await?;
        let process = OurProcess {
            started_with,
            ..process
        };
        Ok(process::record(paths, files, &process)?)
    }

    /// What dockerd says after this moment.
    async fn said_from_now(self, paths: &Paths) -> Said {
        let log = paths.log();
        match self {
            Self::Process => Said::File {
                from: log_tail::end(&log),
                log,
            },
            Self::Systemd => Said::Journal {
                unit: systemd::UNIT,
                after: journal::end().await,
            },
        }
    }

    /// What dockerd has said so far.
    pub(crate) fn ever_said(self, paths: &Paths) -> Said {
        let log = paths.log();
        match self {
            Self::Process => Said::File { from: 0, log },
            Self::Systemd => Said::Journal {
                unit: systemd::UNIT,
                after: None,
            },
        }
    }
}

/// systemd's main process. One that systemd itself started anew, after a crash or at boot, read the
/// files in place; if those are the ones that shoal's last start had, it is known what they say.
fn adopted(paths: &Paths, identity: Identity) -> OurProcess {
    let recorded = process::recorded(paths).filter(|process| process.identity == identity);
    recorded.unwrap_or_else(|| {
        let in_place = config_files(paths).ok().flatten();
        OurProcess {
            identity,
            started_with: process::last_started_with(paths)
                .filter(|last| in_place.as_ref() == Some(last)),
        }
    })
}

/// The files in place, if all of them are.
pub(crate) fn config_files(paths: &Paths) -> Result<Option<ConfigFiles>, files::FileError> {
    let daemon_json = files::read(&paths.daemon_json)?;
    let chain_pem = files::read(&paths.tls_cert())?;
    let ca_pem = files::read(&paths.tls_ca())?;
    let all = daemon_json.zip(chain_pem).zip(ca_pem);
    Ok(all.map(|((daemon_json, chain_pem), ca_pem)| ConfigFiles {
        daemon_json,
        chain_pem,
        ca_pem,
    }))
}

/// Starts dockerd in a session of its own.
fn spawn(engine: &Engine, paths: &Paths, files: &HostFiles) -> Result<Identity, StartError> {
    files.claim(&paths.log())?;
    files.claim(&paths.old_log())?;
    log_tail::cut(paths)?;
    process::clear_stale_pid_files(paths)?;
    let open_log = || {
        let log = paths.log();
        fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&log)
            .map_err(files::at("open", &log))
    };
    let mut command = detached(&engine.dockerd);
    command
        .arg("--config-file")
        .arg(&paths.daemon_json)
        .env_clear()
        .env("PATH", search_path(&engine.dockerd))
        .env("HOME", "/root")
        .envs(
            ENVIRONMENT_KEPT
                .iter()
                .filter_map(|name| std::env::var_os(name).map(|value| (*name, value))),
        )
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(open_log()?)
        .stderr(open_log()?);
    let failed = |reason: String| StartError::Exec {
        program: engine.dockerd.display().to_string(),
        reason,
    };
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let identity = child.id().and_then(Identity::of);
    // Reaps it, should it end while this shoald lives. Dropping the handle would not end it.
    tokio::spawn(async move { child.wait().await });
    identity.ok_or_else(|| failed("it ended at once".to_owned()))
}

/// setsid(1) becomes dockerd by exec, so the pid stays. Without it a process group of its own
/// must do: signals from a terminal still miss it.
fn detached(dockerd: &Path) -> Command {
    match install::find("setsid") {
        Some(setsid) => {
            let mut command = Command::new(setsid);
            command.arg(dockerd);
            command
        }
        None => {
            let mut command = Command::new(dockerd);
            command.process_group(0);
            command
        }
    }
}

/// dockerd looks for containerd, runc, iptables and docker-proxy in PATH; a given binary's
/// directory comes first, so that its own companions are found.
fn search_path(dockerd: &Path) -> std::ffi::OsString {
    let beside = dockerd.parent().map(Path::to_owned);
    std::env::join_paths(beside.into_iter().chain(install::search_path()))
        .unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".into())
}

async fn wait_reloaded(said: &Said) -> Result<(), StartError> {
    let deadline = Instant::now() + RELOAD_WITHIN;
    loop {
        let Some(said) = said.read().await else {
            // Without a journal nobody can know; the signal was delivered.
            return Ok(());
        };
        if said.contains(RELOADED) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let reason = log_tail::reason(&said);
            return Err(StartError::NotReloaded { reason });
        }
        sleep(POLL_EVERY).await;
    }
}

/// Why dockerd's start was refused before it was tried.
pub(crate) fn refuse_foreign(pid: Option<u32>) -> StartError {
    let whose = pid.map_or_else(
        || "its socket answers".to_owned(),
        |pid| format!("it is process {pid}"),
    );
    StartError::AlreadyRunning { reason: whose }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_binarys_directory_is_searched_first() {
        let path = search_path(Path::new("/opt/docker/dockerd"));
        assert!(path.to_string_lossy().starts_with("/opt/docker:"));
        assert!(path.to_string_lossy().contains("/usr/sbin"));
    }

    #[test]
    fn shoal_supervises_where_systemd_is_not_pid_1() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths {
            systemd_marker: root.path().join("systemd"),
            ..Paths::under(root.path())
        };
        assert_eq!(Supervision::detect(&paths), Supervision::Process);
        fs::create_dir(&paths.systemd_marker).unwrap();
        assert_eq!(Supervision::detect(&paths), Supervision::Systemd);
    }
}
