//! The device process as the daemon sees it: started, found again, stopped.
//!
//! Decides: whether a process is the device of an interface. The evidence is the process behind
//! the device's socket (SO_PEERCRED), which no stale pidfile and no reused process id can forge;
//! the pidfile serves where the socket does not answer.
//!
//! Never: signals a process without that evidence.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::{fs::OpenOptionsExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, test_kill_process};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

use crate::{device::ExitReason, uapi};

/// A device is up within 50 ms on an idle host; the rest is for one that is swapping.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// How long a device may take to leave after SIGTERM before it is killed.
const LEAVE_WITHIN: Duration = Duration::from_secs(3);

/// Between two looks at a process that starts or leaves.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The end of a device's log that is quoted when it died early.
const LOG_QUOTE_CHARS: usize = 500;

/// Files and program of one interface's device process.
#[derive(Debug, Clone)]
pub(crate) struct DeviceProcess {
    pub(crate) interface: String,
    pub(crate) pidfile: PathBuf,
    pub(crate) log: PathBuf,
}

/// Why no device process came up.
#[derive(Debug)]
pub(crate) enum StartError {
    NotStarted(io::Error),
    Died { reason: ExitReason, detail: String },
    Silent,
}

impl DeviceProcess {
    pub(crate) fn new(interface: &str, run_folder: &Path) -> Self {
        Self {
            interface: interface.to_owned(),
            pidfile: run_folder.join(format!("{interface}.pid")),
            log: run_folder.join(format!("{interface}.log")),
        }
    }

    /// The id of the living device of this interface, if it answers.
    pub(crate) async fn find(&self) -> Option<Pid> {
        let (_, pid) = uapi::get(&self.interface).await.ok()?;
        pid.and_then(Pid::from_raw)
    }

    /// A process that wrote the pidfile and runs with this interface's arguments, but whose socket
    /// does not answer.
    pub(crate) fn find_mute(&self) -> Option<Pid> {
        let text = fs::read_to_string(&self.pidfile).ok()?;
        let pid = Pid::from_raw(text.trim().parse().ok()?)?;
        let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
        let arguments: Vec<_> = line.split(|byte| *byte == 0).collect();
        let pidfile = self.pidfile.as_os_str().as_encoded_bytes();
        let ours = arguments.contains(&self.interface.as_bytes()) && arguments.contains(&pidfile);
        ours.then_some(pid)
    }

    /// Starts `program` with this interface's arguments and waits until its socket answers.
    ///
    /// The device makes a session of its own, so that no signal to the daemon's group or terminal
    /// reaches it. It inherits the log and nothing else: Rust opens every descriptor close-on-exec.
    pub(crate) async fn start(&self, program: &[OsString]) -> Result<Pid, StartError> {
        let mut child = self.spawn(program).map_err(StartError::NotStarted)?;
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let died = child.try_wait().map_err(StartError::NotStarted)?;
            if let Some(status) = died {
                return Err(self.post_mortem(status));
            }
            let own = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
            if own.is_some() && self.find().await == own {
                // Dropping a child hands it to tokio, which reaps it when it ends.
                return own.ok_or(StartError::Silent);
            }
            if Instant::now() >= deadline {
                let _ = child.kill().await;
                return Err(StartError::Silent);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    fn spawn(&self, program: &[OsString]) -> io::Result<Child> {
        let log = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&self.log)?;
        let (first, rest) = program.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        Command::new(first)
            .args(rest)
            .args(["--interface", &self.interface, "--pidfile"])
            .arg(&self.pidfile)
            // What the daemon's environment holds is none of a long-lived child's business.
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(false)
            .spawn()
    }

    fn post_mortem(&self, status: ExitStatus) -> StartError {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let skipped = log.chars().count().saturating_sub(LOG_QUOTE_CHARS);
        let quote: String = log.trim_end().chars().skip(skipped).collect();
        let detail = match (quote.is_empty(), status.signal()) {
            (false, _) => quote,
            (true, Some(signal)) => format!("killed by signal {signal}"),
            (true, None) => status.to_string(),
        };
        StartError::Died {
            reason: ExitReason::from_status(status.code()),
            detail,
        }
    }

    /// Ends the process with SIGTERM, or SIGKILL if it lingers, and removes its files.
    pub(crate) async fn stop(&self, pid: Pid) -> io::Result<()> {
        // The descriptor keeps naming this process even if its id is reused meanwhile.
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => {
                for (signal, patience) in
                    [(Signal::TERM, LEAVE_WITHIN), (Signal::KILL, LEAVE_WITHIN)]
                {
                    if pidfd_send_signal(&process, signal).is_err() || gone(pid, patience).await {
                        break;
                    }
                }
            }
            Err(rustix::io::Errno::SRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.remove_files();
        if is_running(pid) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    /// Removes what a device that is gone may have left.
    pub(crate) fn remove_files(&self) {
        let socket = uapi::socket_path(&self.interface);
        for path in [&self.pidfile, &self.log, &socket] {
            // A file that stays is replaced by the next device.
            let _ = fs::remove_file(path);
        }
    }
}

async fn gone(pid: Pid, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while is_running(pid) {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(LOOK_EVERY).await;
    }
    true
}

/// A zombie no longer holds its device, though its id is still taken.
fn is_running(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    match stat {
        Ok(stat) => {
            let state = stat
                .rsplit_once(") ")
                .and_then(|(_, rest)| rest.chars().next());
            !matches!(state, Some('Z' | 'X') | None)
        }
        Err(_) => test_kill_process(pid).is_ok(),
    }
}
