//! Who keeps dockerd running: systemd where it is PID 1, shoal itself elsewhere.
//!
//! Decides: which of the two, and how each starts, restarts and reloads.
//! Never: ties dockerd's life to shoald's. Without systemd dockerd gets a session of its own, is
//! found again by its record, and is not touched when shoald ends.

use std::time::Duration;

use runtimes_core::docker::ConfigFiles;
use runtimes_host::{
    files::{self, HostFiles},
    journal,
    process::{Identity, last_started_with, record, recorded},
    said::{self, Said},
    spawn::{self, SpawnError},
    units,
};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::{
    install::Engine,
    log_tail,
    paths::Paths,
    process::{self, Found, OurProcess},
    readiness::{self, StartError},
    systemd,
};

/// A signal is seen within so long.
const POLL_EVERY: Duration = Duration::from_millis(15);
/// dockerd reloads in milliseconds.
const RELOAD_WITHIN: Duration = Duration::from_secs(5);
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
        if units::runs(&paths.systemd_marker) {
            Self::Systemd
        } else {
            Self::Process
        }
    }

    /// The dockerd on the host. Its log, where it is shoal's own, is kept short.
    ///
    /// # Errors
    /// systemd did not say whether one runs.
    pub(crate) async fn find(self, paths: &Paths) -> Result<Found, StartError> {
        match self {
            Self::Process => {
                said::keep_short(paths.log(), paths.old_log()).await;
                Ok(process::find(paths).await)
            }
            Self::Systemd => Ok(match systemd::main_process().await? {
                // The drop-in is what makes the unit shoal's.
                Some(identity) if paths.drop_in.exists() => Found::Ours(adopted(paths, identity)),
                Some(identity) => Found::Adoptable { pid: identity.pid },
                None => process::find(paths).await,
            }),
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
        record(&paths.process_record(), files, &process)?;
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
        Ok(record(&paths.process_record(), files, &process)?)
    }

    /// What dockerd says after this moment.
    async fn said_from_now(self, paths: &Paths) -> Said {
        let log = paths.log();
        match self {
            Self::Process => Said::File {
                from: said::end(&log),
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
    let recorded = recorded(&paths.process_record())
        .filter(|process: &OurProcess| process.identity == identity);
    recorded.unwrap_or_else(|| {
        let in_place = config_files(paths).ok().flatten();
        OurProcess {
            identity,
            started_with: last_started_with(&paths.process_record())
                .filter(|last| in_place.as_ref() == Some(last)),
        }
    })
}

/// The files in place, if all of them are.
pub(crate) fn config_files(paths: &Paths) -> Result<Option<ConfigFiles>, files::FileError> {
    let daemon_json = files::read_lossy(&paths.daemon_json)?;
    let chain_pem = files::read_lossy(&paths.tls_cert())?;
    let ca_pem = files::read_lossy(&paths.tls_ca())?;
    let all = daemon_json.zip(chain_pem).zip(ca_pem);
    Ok(all.map(|((daemon_json, chain_pem), ca_pem)| ConfigFiles {
        daemon_json,
        chain_pem,
        ca_pem,
    }))
}

/// Starts dockerd in a session of its own.
fn spawn(engine: &Engine, paths: &Paths, files: &HostFiles) -> Result<Identity, StartError> {
    process::clear_stale_pid_files(paths)?;
    let daemon = spawn::Daemon {
        program: &engine.dockerd,
        arguments: vec!["--config-file".into(), paths.daemon_json.clone().into()],
        log: paths.log(),
        old_log: paths.old_log(),
    };
    Ok(spawn::spawn(&daemon, files)?)
}

impl From<SpawnError> for StartError {
    fn from(error: SpawnError) -> Self {
        match error {
            SpawnError::Exec { program, reason } => Self::Exec { program, reason },
            SpawnError::File(error) => Self::File(error),
        }
    }
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
    use std::fs;

    use super::*;

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

    #[test]
    fn a_configuration_that_is_no_text_is_seen_to_be_another_one() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths {
            daemon_json: root.path().join("daemon.json"),
            ..Paths::under(root.path())
        };
        fs::create_dir_all(paths.tls_ca().parent().unwrap()).unwrap();
        for path in [paths.tls_ca(), paths.tls_cert()] {
            fs::write(path, "PEM").unwrap();
        }
        assert_eq!(config_files(&paths).unwrap(), None);
        fs::write(&paths.daemon_json, b"{\"labels\": [\"caf\xe9\"]}").unwrap();
        let found = config_files(&paths).unwrap().unwrap();
        assert!(found.daemon_json.starts_with("{\"labels\""));
        assert_eq!(found.chain_pem, "PEM");
    }
}
