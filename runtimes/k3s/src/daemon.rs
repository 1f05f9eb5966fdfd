//! Who keeps K3s running: systemd where it is PID 1, shoal itself elsewhere.
//!
//! Decides: what the units say, and which process is shoal's. Never: ties K3s's life to shoald's, nor
//! touches a K3s that shoal did not start.

use std::{path::Path, time::Duration};

use consensus_core::K3sRole;
use runtimes_core::k3s::{NOT_READY, StartedWith};
use runtimes_host::{
    ending::{self, DoesNotEnd},
    files::{FileError, HostFiles},
    journal,
    process::{self, Identity},
    said::{self, Said},
    spawn::{self, SpawnError},
    units::{self, Refused},
};

use crate::paths::{Paths, unit_name};

/// Everybody may read a unit.
const UNIT_MODE: u32 = 0o644;
/// The drop-in names where tokens are (SPEC 5.3).
const DROP_IN_MODE: u32 = 0o600;
/// K3s ends within seconds; pods' shims live on either way.
const END_WITHIN: Duration = Duration::from_secs(60);
const ROLES: [K3sRole; 2] = [K3sRole::Server, K3sRole::Agent];

/// The K3s that shoal started.
pub(crate) type OurProcess = process::OurProcess<StartedWith>;

/// K3s could not be started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The program could not be run.
    #[error("cannot run {program}: {reason}")]
    Exec {
        /// Its name.
        program: String,
        /// Why.
        reason: String,
    },
    /// systemd refused.
    #[error(transparent)]
    Unit(#[from] Refused),
    /// It ended, or does not become ready.
    #[error("K3s {how}: {reason}")]
    NotReady {
        /// "ended", or how long it was waited for.
        how: String,
        /// What it said last.
        reason: String,
    },
    /// It outlived SIGKILL.
    #[error(transparent)]
    DoesNotEnd(#[from] DoesNotEnd),
    /// A file on the host.
    #[error(transparent)]
    File(#[from] FileError),
}

impl From<SpawnError> for DaemonError {
    fn from(error: SpawnError) -> Self {
        match error {
            SpawnError::Exec { program, reason } => Self::Exec { program, reason },
            SpawnError::File(error) => Self::File(error),
        }
    }
}

impl DaemonError {
    /// Stable text for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Exec { .. } => "K3sUnusableError",
            Self::Unit(_) => "SystemdError",
            Self::NotReady { .. } => NOT_READY,
            Self::DoesNotEnd(_) => "K3sDoesNotEndError",
            Self::File(error) => error.code(),
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Exec { .. } => "run `k3s --version` on the node".to_owned(),
            Self::Unit(_) => "look at `systemctl status k3s k3s-agent` on the node".to_owned(),
            Self::NotReady { .. } => "look at K3s's log on the node".to_owned(),
            Self::DoesNotEnd(DoesNotEnd { pid }) => {
                format!("look at /proc/{pid}/stack; a disk or network file system may hang")
            }
            Self::File(error) => error.hint(),
        }
    }
}

/// Who keeps K3s running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Supervision {
    /// shoal starts it in a session of its own.
    Process,
    /// A unit as K3s's own installer makes it.
    Systemd,
}

/// The K3s on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    Absent,
    Ours(OurProcess),
    Foreign { pid: Option<u32> },
}

impl Supervision {
    /// systemd where it is PID 1.
    pub fn detect(paths: &Paths) -> Self {
        match units::runs(&paths.systemd_marker) {
            true => Self::Systemd,
            false => Self::Process,
        }
    }

    /// The K3s on the host. Its log, where it is shoal's own, is kept short.
    ///
    /// # Errors
    /// systemd did not say whether one runs.
    pub(crate) async fn find(self, paths: &Paths) -> Result<Found, DaemonError> {
        let recorded = process::recorded::<StartedWith>(&paths.process_record());
        match self {
            Self::Process => {
                said::keep_short(paths.log(), paths.old_log()).await;
                Ok(match recorded {
                    Some(process) => Found::Ours(process),
                    None => find_unrecorded(paths),
                })
            }
            Self::Systemd => find_unit(paths, recorded).await,
        }
    }

    /// Starts K3s with what is in place.
    pub(crate) async fn start(
        self,
        program: &Path,
        role: K3sRole,
        paths: &Paths,
        files: &HostFiles,
        with: StartedWith,
    ) -> Result<OurProcess, DaemonError> {
        // Should shoald end in between, the next one knows with what.
        process::intend(&paths.process_record(), files, with.clone())?;
        let identity = match self {
            Self::Process => {
                let daemon = spawn::Daemon {
                    program,
                    arguments: vec![role.as_str().into()],
                    log: paths.log(),
                    old_log: paths.old_log(),
                };
                spawn::spawn(&daemon, files)?
            }
            Self::Systemd => start_unit(program, role, paths, files).await?,
        };
        let process = OurProcess {
            identity,
            started_with: Some(with),
        };
        process::record(&paths.process_record(), files, &process)?;
        Ok(process)
    }

    /// Stops K3s, and for good keeps it from being started at boot. What runs in pods lives on.
    pub(crate) async fn stop(
        self,
        paths: &Paths,
        files: &HostFiles,
        process: &OurProcess,
        for_good: bool,
    ) -> Result<(), DaemonError> {
        match self {
            Self::Process => ending::end(process.identity, END_WITHIN).await?,
            Self::Systemd => {
                for role in ROLES.into_iter().filter(|role| paths.unit(*role).exists()) {
                    let name = unit_name(role);
                    units::tell(&["stop", name]).await?;
                    if for_good {
                        units::tell(&["disable", name]).await?;
                    }
                }
            }
        }
        Ok(files.remove(&paths.process_record())?)
    }

    /// Stops shoal's own units for good, whatever state they are in: one that fails again and again has
    /// no process while it waits for its next start, which would come in the middle of a removal.
    pub(crate) async fn disable_units(self, paths: &Paths) -> Result<(), DaemonError> {
        if self == Self::Process {
            return Ok(());
        }
        for role in our_units(paths) {
            units::tell(&["disable", "--now", unit_name(role)]).await?;
        }
        Ok(())
    }

    /// What K3s says after this moment.
    pub(crate) async fn said_from_now(self, role: K3sRole, paths: &Paths) -> Said {
        let log = paths.log();
        match self {
            Self::Process => Said::File {
                from: said::end(&log),
                log,
            },
            Self::Systemd => Said::Journal {
                unit: unit_name(role),
                after: journal::end().await,
            },
        }
    }

    /// Lets systemd forget units that were removed.
    pub(crate) async fn forget_units(self) -> Result<(), DaemonError> {
        match self {
            Self::Process => Ok(()),
            Self::Systemd => Ok(units::tell(&["daemon-reload"]).await?),
        }
    }
}

/// A K3s that runs and that no record knows. It is shoal's when it prints to shoal's own log: then
/// shoald ended after it had started it and before it could write down which process it is.
fn find_unrecorded(paths: &Paths) -> Found {
    let is_k3s = |words: &[&str]| {
        let program = words.first().map(|word| Path::new(word).file_name());
        let role = words.get(1);
        program.flatten().is_some_and(|name| name == "k3s")
            && ROLES.iter().any(|known| role == Some(&known.as_str()))
    };
    let found = process::with_command_line(is_k3s);
    let log = paths.log();
    match found.iter().find(|identity| identity.prints_to(&log)) {
        Some(ours) => Found::Ours(OurProcess {
            identity: *ours,
            started_with: process::last_started_with(&paths.process_record()),
        }),
        None => found.first().map_or(Found::Absent, |other| Found::Foreign {
            pid: Some(other.pid),
        }),
    }
}

/// A unit is shoal's when its drop-in is. systemd may have started it anew, after a crash or at boot,
/// with the files in place.
async fn find_unit(paths: &Paths, mut recorded: Option<OurProcess>) -> Result<Found, DaemonError> {
    for role in ROLES {
        let Some(identity) = units::main_process(unit_name(role)).await? else {
            continue;
        };
        if !paths.drop_in(role).exists() {
            return Ok(Found::Foreign {
                pid: Some(identity.pid),
            });
        }
        let same = recorded
            .take()
            .filter(|process| process.identity == identity);
        return Ok(Found::Ours(same.unwrap_or_else(|| OurProcess {
            identity,
            started_with: process::last_started_with(&paths.process_record()),
        })));
    }
    // While one of its own units is between two starts, what runs may be that.
    Ok(
        match ROLES.iter().any(|role| paths.drop_in(*role).exists()) {
            true => Found::Absent,
            false => find_unrecorded(paths),
        },
    )
}

/// Those whose unit and drop-in are there: a unit alone is its operator's.
fn our_units(paths: &Paths) -> impl Iterator<Item = K3sRole> {
    ROLES
        .into_iter()
        .filter(|role| paths.unit(*role).exists() && paths.drop_in(*role).exists())
}

async fn start_unit(
    program: &Path,
    role: K3sRole,
    paths: &Paths,
    files: &HostFiles,
) -> Result<Identity, DaemonError> {
    files.write(&paths.unit(role), unit(program, role).as_bytes(), UNIT_MODE)?;
    let drop_in = drop_in(&paths.settings(), &paths.data_dir);
    files.write(&paths.drop_in(role), drop_in.as_bytes(), DROP_IN_MODE)?;
    units::tell(&["daemon-reload"]).await?;
    let name = unit_name(role);
    // Forgets the start limit that earlier failures may have used up; nothing to forget is fine.
    units::ask(&["reset-failed", name]).await?;
    // The node comes back with its pods after a boot, before shoald is up.
    units::tell(&["enable", name]).await?;
    // K3s tells systemd that it is ready only once its cluster is; that is waited for elsewhere.
    units::tell(&["restart", "--no-block", name]).await?;
    wait_main_process(name).await
}

async fn wait_main_process(name: &str) -> Result<Identity, DaemonError> {
    /// systemd forks within milliseconds of being told.
    const WITHIN: Duration = Duration::from_secs(10);
    const POLL_EVERY: Duration = Duration::from_millis(20);
    let deadline = tokio::time::Instant::now() + WITHIN;
    loop {
        if let Some(identity) = units::main_process(name).await? {
            return Ok(identity);
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(DaemonError::NotReady {
                how: "ended".to_owned(),
                reason: "it was not there when it had been started".to_owned(),
            });
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// As K3s's installer writes it (docs.k3s.io; k3s-io/k3s, install.sh): pods outlive K3s
/// (`KillMode=process`), and containers are its own to limit (`Delegate`).
fn unit(program: &Path, role: K3sRole) -> String {
    let (program, role) = (program.display(), role.as_str());
    format!(
        "# Written by shoal; removed when the module is unassigned.\n\
         [Unit]\n\
         Description=K3s {role}\n\
         Wants=network-online.target\n\
         After=network-online.target\n\
         \n\
         [Service]\n\
         Type=notify\n\
         ExecStartPre=-/sbin/modprobe br_netfilter\n\
         ExecStartPre=-/sbin/modprobe overlay\n\
         ExecStart={program} {role}\n\
         KillMode=process\n\
         Delegate=yes\n\
         LimitNOFILE=1048576\n\
         LimitNPROC=infinity\n\
         LimitCORE=infinity\n\
         TasksMax=infinity\n\
         TimeoutStartSec=0\n\
         Restart=always\n\
         RestartSec=5s\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    )
}

/// K3s without the settings would found a cluster of its own; so would one that came up before the disk
/// with its data. The path is in quotes, for a blank ends one (systemd.unit(5)).
fn drop_in(settings: &Path, data: &Path) -> String {
    format!(
        "# Written by shoal; removed when the module is unassigned.\n\
         [Unit]\n\
         RequiresMountsFor=\"{}\"\n\
         AssertPathExists={}\n",
        data.display(),
        settings.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_without_shoals_drop_in_is_its_operators() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths {
            units: root.path().to_owned(),
            ..Paths::under(root.path())
        };
        for role in ROLES {
            std::fs::write(paths.unit(role), "").unwrap();
        }
        assert_eq!(our_units(&paths).count(), 0);
        let drop_in = paths.drop_in(K3sRole::Agent);
        std::fs::create_dir(drop_in.parent().unwrap()).unwrap();
        std::fs::write(drop_in, "").unwrap();
        assert_eq!(our_units(&paths).collect::<Vec<_>>(), [K3sRole::Agent]);
    }

    #[test]
    fn a_unit_says_the_role_and_nothing_secret() {
        let text = unit(Path::new("/usr/local/bin/k3s"), K3sRole::Agent);
        assert!(text.contains("\nExecStart=/usr/local/bin/k3s agent\n"));
        assert!(text.contains("\nKillMode=process\n"));
        assert!(!text.to_lowercase().contains("token"));
    }

    #[test]
    fn k3s_is_never_started_by_systemd_without_its_settings() {
        let settings = Path::new("/etc/rancher/k3s/config.yaml.d/50-shoal.yaml");
        let text = drop_in(settings, Path::new("/var/lib/rancher/k3s"));
        assert!(text.contains("\nRequiresMountsFor=\"/var/lib/rancher/k3s\"\n"));
        assert!(text.contains("\nAssertPathExists=/etc/rancher/k3s/config.yaml.d/50-shoal.yaml\n"));
    }
}
