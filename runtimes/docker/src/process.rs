//! Which process is dockerd, and whose.
//!
//! Decides: whether a process is the one that shoal started. A record holds its pid, its start
//! time and the boot it belongs to, so that a pid used again by another program is not mistaken.
//! Where the record is missing (shoald was killed between start and record), dockerd's own pid
//! file and its command line tell: only shoal's daemons name shoal's configuration.
//! Never: sends a signal to a process that it has not identified just before.

use std::{
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use runtimes_core::docker::ConfigFiles;
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use crate::{
    files::{self, FileError, HostFiles},
    paths::Paths,
    readiness,
};

/// Changes with every boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// `num_threads` is field 20 of /proc/PID/stat (proc(5)); the fields after the name start with 3.
const THREADS_AFTER_NAME: usize = 20 - 3;
/// `starttime` is field 22.
const START_TIME_AFTER_NAME: usize = 22 - 3;
/// For the owner alone, though it holds no secret.
const RECORD_MODE: u32 = 0o600;

/// A process, told apart from any later one with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) pid: u32,
    start_ticks: u64,
}

impl Identity {
    /// The living process of that pid. A zombie does not live; but a process whose first thread
    /// has ended while others have not is shown as a zombie too, and still holds its sockets.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name is in parentheses and may itself contain any character.
        let (_, fields) = stat.rsplit_once(") ")?;
        let fields: Vec<_> = fields.split_ascii_whitespace().collect();
        let ended = matches!(*fields.first()?, "Z" | "X");
        let threads: u32 = fields.get(THREADS_AFTER_NAME)?.parse().ok()?;
        let lives = !ended || threads > 1;
        let start_ticks = fields.get(START_TIME_AFTER_NAME)?.parse().ok()?;
        lives.then_some(Self { pid, start_ticks })
    }

    /// Whether it still lives.
    pub(crate) fn lives(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal, if it still lives. A process that ended meanwhile needs none.
    pub(crate) fn signal(self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|_| self.lives())
            && let Err(error) = rustix::process::kill_process(pid, signal)
        {
            tracing::debug!(pid = self.pid, %error, "signal not delivered");
        }
    }

    /// Its arguments, its program's name first.
    fn arguments(self) -> Vec<Vec<u8>> {
        let raw = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        raw.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
    }

    /// Whether its program has that name.
    pub(crate) fn runs(self, program: &str) -> bool {
        let name = fs::read_to_string(format!("/proc/{}/comm", self.pid)).unwrap_or_default();
        name.trim_end() == program
    }

    /// Whether one of its arguments is that path.
    pub(crate) fn names(self, path: &Path) -> bool {
        let wanted = path.as_os_str().as_bytes();
        self.arguments().iter().any(|argument| {
            argument == wanted
                || argument
                    .strip_suffix(wanted)
                    .is_some_and(|flag| flag.ends_with(b"="))
        })
    }
}

/// The process that shoal started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OurProcess {
    pub(crate) identity: Identity,
    pub(crate) started_with: Option<ConfigFiles>,
}

/// What runs on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    Absent,
    Ours(OurProcess),
    /// The distribution's unit, not taken over by shoal.
    Adoptable {
        pid: u32,
    },
    Foreign {
        pid: Option<u32>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    pid: u32,
    start_ticks: u64,
    boot_id: String,
    started_with: Option<ConfigFiles>,
}

/// Writes down which process is shoal's.
pub(crate) fn record(
    paths: &Paths,
    files: &HostFiles,
    process: &OurProcess,
) -> Result<(), FileError> {
    let record = Record {
        pid: process.identity.pid,
        start_ticks: process.identity.start_ticks,
        boot_id: boot_id(),
        started_with: process.started_with.clone(),
    };
    let path = paths.process_record();
    let text = serde_json::to_vec_pretty(&record)
        .map_err(|error| files::at("write", &path)(error.into()))?;
    files.write(&path, &text, RECORD_MODE)
}

/// The recorded process, if it lives.
pub(crate) fn recorded(paths: &Paths) -> Option<OurProcess> {
    let text = files::read(&paths.process_record()).ok().flatten()?;
    let record: Record = serde_json::from_str(&text).ok()?;
    let identity = Identity {
        pid: record.pid,
        start_ticks: record.start_ticks,
    };
    (record.boot_id == boot_id() && identity.lives()).then_some(OurProcess {
        identity,
        started_with: record.started_with,
    })
}

/// What the process that was recorded last was started with, whether or not it lives.
pub(crate) fn last_started_with(paths: &Paths) -> Option<ConfigFiles> {
    let text = files::read(&paths.process_record()).ok().flatten()?;
    let record: Record = serde_json::from_str(&text).ok()?;
    record.started_with
}

/// The dockerd on the host, by record, pid file and socket.
pub(crate) async fn find(paths: &Paths) -> Found {
    if let Some(process) = recorded(paths) {
        return Found::Ours(process);
    }
    if let Some(identity) = by_pid_file(&paths.pidfile, "dockerd") {
        return if identity.names(&paths.daemon_json) {
            Found::Ours(OurProcess {
                identity,
                started_with: None,
            })
        } else {
            Found::Foreign {
                pid: Some(identity.pid),
            }
        };
    }
    // An answer, not a mere connection: the socket of a process that is just ending still takes
    // connections.
    match readiness::version(&paths.socket).await {
        Some(_) => Found::Foreign { pid: None },
        None => Found::Absent,
    }
}

/// The containerd that a dockerd of ours started and left behind.
pub(crate) fn containerd(paths: &Paths) -> Option<Identity> {
    let configuration = paths.exec_root.join("containerd/containerd.toml");
    by_pid_file(&containerd_pid_file(paths), "containerd")
        .filter(|identity| identity.names(&configuration))
}

/// Removes pid files of a dockerd and a containerd that are gone. After a crash dockerd would
/// refuse to start as long as any process, even a zombie, has the pid that the file names.
pub(crate) fn clear_stale_pid_files(paths: &Paths) -> Result<(), FileError> {
    let containerd = containerd_pid_file(paths);
    for (path, program) in [(&paths.pidfile, "dockerd"), (&containerd, "containerd")] {
        if path.exists() && by_pid_file(path, program).is_none() {
            fs::remove_file(path).map_err(files::at("remove", path))?;
        }
    }
    Ok(())
}

fn containerd_pid_file(paths: &Paths) -> PathBuf {
    paths.exec_root.join("containerd/containerd.pid")
}

fn by_pid_file(path: &Path, program: &str) -> Option<Identity> {
    let pid = fs::read_to_string(path).ok()?.trim().parse().ok()?;
    Identity::of(pid).filter(|identity| identity.runs(program))
}

fn boot_id() -> String {
    fs::read_to_string(BOOT_ID).map_or_else(|_| String::new(), |id| id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn scene() -> (tempfile::TempDir, Paths, HostFiles) {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths {
            daemon_json: root.path().join("daemon.json"),
            socket: root.path().join("docker.sock"),
            pidfile: root.path().join("docker.pid"),
            exec_root: root.path().join("exec"),
            ..Paths::under(root.path())
        };
        let files = HostFiles::listed_in(paths.manifest());
        (root, paths, files)
    }

    fn me() -> OurProcess {
        OurProcess {
            identity: Identity::of(std::process::id()).unwrap(),
            started_with: None,
        }
    }

    #[tokio::test]
    async fn a_recorded_process_that_lives_is_found_again() {
        let (_root, paths, files) = scene();
        assert_eq!(find(&paths).await, Found::Absent);
        record(&paths, &files, &me()).unwrap();
        assert_eq!(find(&paths).await, Found::Ours(me()));
    }

    #[tokio::test]
    async fn a_pid_that_was_used_again_is_not_mistaken() {
        let (_root, paths, files) = scene();
        let mut earlier = me();
        earlier.identity.start_ticks -= 1;
        record(&paths, &files, &earlier).unwrap();
        assert_eq!(find(&paths).await, Found::Absent);
    }

    #[test]
    fn a_zombie_does_not_live() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while Identity::of(pid).is_some() {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn whoever_answers_on_the_socket_unrecorded_is_foreign() {
        let (_root, paths, _files) = scene();
        let listener = tokio::net::UnixListener::bind(&paths.socket).unwrap();
        let answer = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let read = stream.read(&mut [0; 1024]).await.unwrap();
            assert!(read > 0);
            let body = "{\"Version\":\"5\"}";
            let answer = format!("HTTP/1.0 200 OK\r\ncontent-length: 15\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        let (found, ()) = tokio::join!(find(&paths), answer);
        assert_eq!(found, Found::Foreign { pid: None });
    }

    #[tokio::test]
    async fn a_socket_on_which_nobody_answers_is_nobodys() {
        let (_root, paths, _files) = scene();
        let listener = tokio::net::UnixListener::bind(&paths.socket).unwrap();
        let hang_up = async { drop(listener.accept().await.unwrap()) };
        let (found, ()) = tokio::join!(find(&paths), hang_up);
        assert_eq!(found, Found::Absent);
    }

    #[tokio::test]
    async fn a_pid_file_that_names_another_program_counts_for_nothing_and_is_cleared() {
        let (_root, paths, _files) = scene();
        fs::write(&paths.pidfile, std::process::id().to_string()).unwrap();
        assert_eq!(find(&paths).await, Found::Absent);
        clear_stale_pid_files(&paths).unwrap();
        assert!(!paths.pidfile.exists());
    }
}
