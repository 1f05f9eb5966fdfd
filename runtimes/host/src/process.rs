//! Which process is the one that shoal started.
//!
//! Decides: whether a process is still the one that it was. A record holds its pid, its start time
//! and the boot it belongs to, so that a pid used again by another program is not mistaken.
//! Never: sends a signal to a process that it has not identified just before.

use std::{fs, os::unix::ffi::OsStrExt, path::Path};

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::files::{self, FileError, HostFiles};

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
pub struct Identity {
    /// Its number.
    pub pid: u32,
    start_ticks: u64,
}

impl Identity {
    /// The living process of that pid. A zombie does not live; but a process whose first thread
    /// has ended while others have not is shown as a zombie too, and still holds its sockets.
    pub fn of(pid: u32) -> Option<Self> {
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
    pub fn lives(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal, if it still lives. A process that ended meanwhile needs none.
    pub fn signal(self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|_| self.lives())
            && let Err(error) = rustix::process::kill_process(pid, signal)
        {
            tracing::debug!(pid = self.pid, %error, "signal not delivered");
        }
    }

    /// Where it prints to.
    pub fn prints_to(self, path: &Path) -> bool {
        fs::read_link(format!("/proc/{}/fd/1", self.pid)).is_ok_and(|file| file == path)
    }

    /// Its arguments, its program's name first.
    fn arguments(self) -> Vec<Vec<u8>> {
        let raw = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        raw.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
    }

    /// Whether its program has that name.
    pub fn runs(self, program: &str) -> bool {
        let name = fs::read_to_string(format!("/proc/{}/comm", self.pid)).unwrap_or_default();
        name.trim_end() == program
    }

    /// Whether one of its arguments is that path.
    pub fn names(self, path: &Path) -> bool {
        let wanted = path.as_os_str().as_bytes();
        self.arguments().iter().any(|argument| {
            argument == wanted
                || argument
                    .strip_suffix(wanted)
                    .is_some_and(|flag| flag.ends_with(b"="))
        })
    }
}

/// The process that shoal started, and with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OurProcess<T> {
    /// Which.
    pub identity: Identity,
    /// With what; unknown if its record is gone.
    pub started_with: Option<T>,
}

/// A process as it is written down.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record<T> {
    pid: u32,
    start_ticks: u64,
    boot_id: String,
    started_with: Option<T>,
}

/// Writes down which process is shoal's.
///
/// # Errors
/// The record could not be written.
pub fn record<T: Serialize + Clone>(
    path: &Path,
    files: &HostFiles,
    process: &OurProcess<T>,
) -> Result<(), FileError> {
    let record = Record {
        pid: process.identity.pid,
        start_ticks: process.identity.start_ticks,
        boot_id: boot_id(),
        started_with: process.started_with.clone(),
    };
    let text = serde_json::to_vec_pretty(&record)
        .map_err(|error| files::at("write", path)(error.into()))?;
    files.write(path, &text, RECORD_MODE)
}

/// Writes down with what a process is about to be started, so that it is known should shoal end before
/// it can say which one that became. Nobody is recorded from here on.
///
/// # Errors
/// The record could not be written.
pub fn intend<T: Serialize + Clone>(
    path: &Path,
    files: &HostFiles,
    started_with: T,
) -> Result<(), FileError> {
    let nobody = OurProcess {
        identity: Identity {
            pid: 0,
            start_ticks: 0,
        },
        started_with: Some(started_with),
    };
    record(path, files, &nobody)
}

/// The recorded process, if it lives.
pub fn recorded<T: DeserializeOwned>(path: &Path) -> Option<OurProcess<T>> {
    let record: Record<T> = read(path)?;
    let identity = Identity {
        pid: record.pid,
        start_ticks: record.start_ticks,
    };
    let lives = record.boot_id == boot_id() && identity.lives();
    lives.then_some(OurProcess {
        identity,
        started_with: record.started_with,
    })
}

/// What the recorded process was started with, whether or not it lives.
pub fn last_started_with<T: DeserializeOwned>(path: &Path) -> Option<T> {
    read::<T>(path)?.started_with
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<Record<T>> {
    let text = files::read(path).ok().flatten()?;
    serde_json::from_str(&text).ok()
}

/// The process that a pid file names, if it runs that program.
pub fn by_pid_file(path: &Path, program: &str) -> Option<Identity> {
    let pid = fs::read_to_string(path).ok()?.trim().parse().ok()?;
    Identity::of(pid).filter(|identity| identity.runs(program))
}

/// The living processes that share this one's network and whose command line is so: its words, the
/// program first. A program may have written its own title over it, with blanks between the words.
pub fn with_command_line(is_so: impl Fn(&[&str]) -> bool) -> Vec<Identity> {
    let network = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let own = network("self");
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        let words: Vec<&str> = line
            .split(['\0', ' '])
            .filter(|word| !word.is_empty())
            .collect();
        is_so(&words) && own.is_some() && network(&pid.to_string()) == own
    })
    .filter_map(Identity::of)
    .collect()
}

fn boot_id() -> String {
    fs::read_to_string(BOOT_ID).map_or_else(|_| String::new(), |id| id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> OurProcess<u8> {
        OurProcess {
            identity: Identity::of(std::process::id()).unwrap(),
            started_with: Some(7),
        }
    }

    #[test]
    fn a_pid_that_was_used_again_is_not_mistaken() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("process.json");
        let files = HostFiles::listed_in(root.path().join("manifest.json"));
        record(&path, &files, &me()).unwrap();
        assert_eq!(recorded(&path), Some(me()));
        let mut earlier = me();
        earlier.identity.start_ticks -= 1;
        record(&path, &files, &earlier).unwrap();
        assert_eq!(recorded::<u8>(&path), None);
        assert_eq!(last_started_with(&path), Some(7_u8));
    }

    #[test]
    fn what_a_process_was_to_be_started_with_is_known_before_it_is() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("process.json");
        let files = HostFiles::listed_in(root.path().join("manifest.json"));
        intend(&path, &files, 7_u8).unwrap();
        assert_eq!(recorded::<u8>(&path), None);
        assert_eq!(last_started_with(&path), Some(7_u8));
    }

    #[test]
    fn a_process_is_found_by_its_command_line_and_by_where_it_prints_to() {
        let root = tempfile::tempdir().unwrap();
        let log = root.path().join("log");
        let mut child = std::process::Command::new("sleep")
            .arg("86399")
            .stdout(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        // Linux lets the parent go on before the new program's command line is there.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let mut own = None;
        while own.is_none() && std::time::Instant::now() < deadline {
            let found = with_command_line(|words| words == ["sleep", "86399"]);
            own = found
                .into_iter()
                .find(|identity| identity.pid == child.id());
        }
        let prints_to = |path: &Path| own.map(|identity| identity.prints_to(path));
        let (ours, other) = (prints_to(&log), prints_to(&root.path().join("other")));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((ours, other), (Some(true), Some(false)));
        let found = with_command_line(|words| words == ["sleep", "86399"]);
        assert!(found.iter().all(|identity| identity.pid != child.id()));
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
}
