//! Who keeps K3s running: systemd where it is PID 1, shoal itself elsewhere.
//!
//! Decides: what the units say, and which process is shoal's. Never: ties K3s's life to shoald's, nor
//! touches a K3s that shoal did not start.

use std::{env, fs, path::Path, time::Duration};

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
/// A proxy's address may have a password in it.
const ENVIRONMENT_MODE: u32 = 0o600;
/// How what shoal writes for systemd begins.
const SIGNED: &str = "# Written by shoal";
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
    /// It runs, or is only set up and does not.
    Foreign {
        pid: Option<u32>,
    },
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
                for role in our_units(paths) {
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

    /// What K3s has said before, as far as it is kept: for a shoald that did not start it.
    pub(crate) fn said_before(self, role: K3sRole, paths: &Paths) -> Said {
        match self {
            Self::Process => Said::File {
                log: paths.log(),
                from: 0,
            },
            Self::Systemd => Said::Journal {
                unit: unit_name(role),
                after: None,
            },
        }
    }

    /// Leaves units that somebody put in the place of shoal's.
    pub(crate) fn leave_anothers(self, paths: &Paths, files: &HostFiles) -> Result<(), FileError> {
        if self == Self::Process {
            return Ok(());
        }
        let places = ROLES.map(|role| [paths.unit(role), paths.drop_in(role)]);
        let mut theirs = places
            .iter()
            .flatten()
            .filter(|path| path.exists() && !is_signed(path));
        theirs.try_for_each(|path| files.forget(path))
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

/// A unit is shoal's when its drop-in is. systemd may have started it anew, after a crash or at boot, with the
/// files in place, which shoal may have changed meanwhile. It counts as started with what shoal started it with
/// last all the same: what K3s found when it read its files no clock tells for certain, and of which generation
/// its settings are is in none of them. At worst it is started once more than it had to be, in its turn. Were it
/// not known with what, it would be taken for the oldest, and its cluster for one that is to be changed.
async fn find_unit(paths: &Paths, mut recorded: Option<OurProcess>) -> Result<Found, DaemonError> {
    for role in ROLES {
        let Some(identity) = units::main_process(unit_name(role)).await? else {
            continue;
        };
        if !is_ours(paths, &paths.drop_in(role)) {
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
    let mut drop_ins = ROLES.iter().map(|role| paths.drop_in(*role));
    if drop_ins.any(|drop_in| is_ours(paths, &drop_in)) {
        return Ok(Found::Absent);
    }
    let found = find_unrecorded(paths);
    Ok(match found == Found::Absent && has_anothers(paths) {
        true => Found::Foreign { pid: None },
        false => found,
    })
}

/// Those whose unit is there with a drop-in of shoal's: a unit alone is its operator's, and so is one with a
/// drop-in that he wrote (`systemctl edit` gives it the same name).
fn our_units(paths: &Paths) -> impl Iterator<Item = K3sRole> {
    ROLES
        .into_iter()
        .filter(|role| paths.unit(*role).exists() && is_ours(paths, &paths.drop_in(*role)))
}

/// Whether somebody else has set a K3s up here, be it that it may not run: shoal's would take its place.
fn has_anothers(paths: &Paths) -> bool {
    let places = ROLES.map(|role| [paths.unit(role), paths.drop_in(role)]);
    // Also a link that leads nowhere.
    let there = |path: &Path| path.symlink_metadata().is_ok();
    let mut places = places.iter().flatten();
    places.any(|path| there(path) && !is_ours(paths, path))
}

/// Whether shoal wrote a file: its list has it, whatever was made of it since; or, where that is gone, the file
/// says so itself.
fn is_ours(paths: &Paths, path: &Path) -> bool {
    let listed = || HostFiles::listed_in(paths.manifest()).lists(path);
    path.exists() && (is_signed(path) || listed())
}

fn is_signed(path: &Path) -> bool {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines().any(|line| line.starts_with(SIGNED))
}

async fn start_unit(
    program: &Path,
    role: K3sRole,
    paths: &Paths,
    files: &HostFiles,
) -> Result<Identity, DaemonError> {
    let (place, text) = (paths.environment(), environment(|name| env::var(name).ok()));
    match text.is_empty() {
        true => files.remove(&place)?,
        false => files.write(&place, text.as_bytes(), ENVIRONMENT_MODE)?,
    }
    let unit = unit(program, role, &place);
    files.write(&paths.unit(role), unit.as_bytes(), UNIT_MODE)?;
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

/// shoald's own way to a registry, as systemd reads it (systemd.exec(5), `EnvironmentFile=`). What takes more
/// than a line is none.
fn environment(of: impl Fn(&str) -> Option<String>) -> String {
    let quoted = |value: String| -> String {
        let letters = value.chars();
        let escaped = letters.flat_map(|letter| {
            let escape = matches!(letter, '"' | '\\' | '`' | '$').then_some('\\');
            escape.into_iter().chain([letter])
        });
        escaped.collect()
    };
    let lines = spawn::PROXIES.iter().filter_map(|name| {
        let value = of(name).filter(|value| !value.contains(char::is_control))?;
        Some(format!("{name}=\"{}\"\n", quoted(value)))
    });
    lines.collect()
}

/// As K3s's installer writes it (docs.k3s.io; k3s-io/k3s, install.sh): pods outlive K3s
/// (`KillMode=process`), and containers are its own to limit (`Delegate`). Without a way of its own to a
/// registry there is no environment.
fn unit(program: &Path, role: K3sRole, environment: &Path) -> String {
    let (program, role) = (program.display(), role.as_str());
    let environment = environment.display();
    format!(
        "{SIGNED}; removed when the module is unassigned.\n\
         [Unit]\n\
         Description=K3s {role}\n\
         Wants=network-online.target\n\
         After=network-online.target\n\
         \n\
         [Service]\n\
         Type=notify\n\
         EnvironmentFile=-{environment}\n\
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
        "{SIGNED}; removed when the module is unassigned.\n\
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

    fn scene() -> (tempfile::TempDir, Paths, HostFiles) {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths {
            units: root.path().join("units"),
            ..Paths::under(root.path())
        };
        let files = HostFiles::listed_in(paths.manifest());
        (root, paths, files)
    }

    /// As somebody else does.
    fn put(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn ours(paths: &Paths, files: &HostFiles, role: K3sRole) {
        let unit = unit(Path::new("/bin/k3s"), role, &paths.environment());
        let drop_in = drop_in(&paths.settings(), &paths.data_dir);
        for (path, text) in [(paths.unit(role), unit), (paths.drop_in(role), drop_in)] {
            files.write(&path, text.as_bytes(), UNIT_MODE).unwrap();
        }
    }

    #[test]
    fn a_unit_without_shoals_drop_in_is_its_operators() {
        let (_root, paths, files) = scene();
        for role in ROLES {
            put(&paths.unit(role), "[Service]\n");
        }
        assert_eq!(our_units(&paths).count(), 0);
        // As `systemctl edit` leaves it.
        put(&paths.drop_in(K3sRole::Server), "[Service]\nNice=5\n");
        assert_eq!(our_units(&paths).count(), 0);
        ours(&paths, &files, K3sRole::Agent);
        assert_eq!(our_units(&paths).collect::<Vec<_>>(), [K3sRole::Agent]);
        // What its operator makes of it leaves it shoal's; so does a list that is lost.
        put(&paths.drop_in(K3sRole::Agent), "[Service]\nNice=5\n");
        assert_eq!(our_units(&paths).collect::<Vec<_>>(), [K3sRole::Agent]);
        ours(&paths, &files, K3sRole::Agent);
        fs::remove_file(paths.manifest()).unwrap();
        assert_eq!(our_units(&paths).collect::<Vec<_>>(), [K3sRole::Agent]);
    }

    #[test]
    fn a_k3s_that_somebody_else_has_set_up_counts_though_it_does_not_run() {
        for role in ROLES {
            let (_root, paths, files) = scene();
            assert!(!has_anothers(&paths));
            put(&paths.unit(role), "[Service]\nExecStart=/opt/k3s server\n");
            assert!(has_anothers(&paths));
            fs::remove_file(paths.unit(role)).unwrap();
            // It is not to run at all: `systemctl mask`.
            std::os::unix::fs::symlink("/dev/null", paths.unit(role)).unwrap();
            assert!(has_anothers(&paths));
            fs::remove_file(paths.unit(role)).unwrap();
            put(&paths.drop_in(role), "[Service]\nNice=5\n");
            assert!(has_anothers(&paths));
            fs::remove_file(paths.drop_in(role)).unwrap();
            ours(&paths, &files, role);
            assert!(!has_anothers(&paths));
            // shoald ended between the two.
            fs::remove_file(paths.drop_in(role)).unwrap();
            assert!(!has_anothers(&paths));
        }
    }

    #[test]
    fn a_unit_that_somebody_put_in_the_place_of_shoals_stays_when_all_else_goes() {
        let (_root, paths, files) = scene();
        let (server, agent) = (K3sRole::Server, K3sRole::Agent);
        ours(&paths, &files, server);
        ours(&paths, &files, agent);
        put(
            &paths.unit(server),
            "[Service]\nExecStart=/opt/k3s server\n",
        );
        Supervision::Systemd.leave_anothers(&paths, &files).unwrap();
        files.remove_all().unwrap();
        assert!(paths.unit(server).exists() && !paths.drop_in(server).exists());
        assert!(!paths.unit(agent).exists());
    }

    #[test]
    fn a_unit_says_the_role_and_nothing_secret() {
        let environment = Path::new("/var/lib/shoal/k3s/k3s.env");
        let text = unit(Path::new("/usr/local/bin/k3s"), K3sRole::Agent, environment);
        assert!(text.contains("\nExecStart=/usr/local/bin/k3s agent\n"));
        assert!(text.contains("\nKillMode=process\n"));
        assert!(text.contains("\nEnvironmentFile=-/var/lib/shoal/k3s/k3s.env\n"));
        assert!(!text.to_lowercase().contains("token"));
    }

    #[test]
    fn shoalds_way_to_a_registry_is_k3ss_and_nothing_else_is() {
        let of = |name: &str| match name {
            "HTTPS_PROXY" => Some(r#"http://me:a"b\c$d`e@proxy:3128"#.to_owned()),
            "no_proxy" => Some("10.0.0.0/8, .local".to_owned()),
            "http_proxy" => Some("http://h\nLD_PRELOAD=/x".to_owned()),
            "HTTP_PROXY" | "NO_PROXY" | "https_proxy" => None,
            _ => Some("secret".to_owned()),
        };
        let quoted = r#"http://me:a\"b\\c\$d\`e@proxy:3128"#;
        let expected = format!("HTTPS_PROXY=\"{quoted}\"\nno_proxy=\"10.0.0.0/8, .local\"\n");
        assert_eq!(environment(of), expected);
        assert_eq!(environment(|_| None), "");
    }

    #[test]
    fn k3s_is_never_started_by_systemd_without_its_settings() {
        let settings = Path::new("/etc/rancher/k3s/config.yaml.d/50-shoal.yaml");
        let text = drop_in(settings, Path::new("/var/lib/rancher/k3s"));
        assert!(text.contains("\nRequiresMountsFor=\"/var/lib/rancher/k3s\"\n"));
        assert!(text.contains("\nAssertPathExists=/etc/rancher/k3s/config.yaml.d/50-shoal.yaml\n"));
    }
}
