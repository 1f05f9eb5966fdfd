//! A host's `shoald`, from start to stop.

use std::{process::ExitStatus, time::Duration};

use crate::{
    host::Host,
    process::Process,
    wait::{poll, wait_until},
};

/// A daemon opens its log and answers within this, on a machine that builds at the same time.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// A daemon that was asked to stop has said goodbye by then.
const STOP_DEADLINE: Duration = Duration::from_secs(15);

/// A running `shoald`. Dropping it does not stop it; the lab's end does.
pub struct Daemon {
    host: Host,
    process: Process,
}

impl Daemon {
    #[track_caller]
    pub(crate) fn start(host: &Host, flags: &[&str]) -> Self {
        host.require_program("shoald");
        host.require_program("shoal");
        let command = host.daemon_command(flags);
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        Self {
            process: host.spawn(&command),
            host: host.clone(),
        }
    }

    /// The process itself.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Returns when the daemon takes commands on its socket, whether or not it is in a mesh.
    #[track_caller]
    pub(crate) fn wait_until_it_answers(&self) {
        let answers = poll(START_DEADLINE, || {
            if let Some(status) = self.process.exit_status() {
                panic!("shoald on {} ended at once: {status}", self.host.name());
            }
            self.host.takes_commands().then_some(())
        });
        assert!(
            answers.is_some(),
            "shoald on {} takes no commands after {START_DEADLINE:?}",
            self.host.name()
        );
    }

    /// `kill -9`.
    pub fn kill9(&self) {
        self.process.kill9();
    }

    /// Asks it to stop and waits until it has.
    #[track_caller]
    pub fn stop(&self) -> ExitStatus {
        self.process.sigterm();
        self.process.wait(STOP_DEADLINE)
    }

    /// Resident memory in bytes.
    #[track_caller]
    pub fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.process.pid());
        let status = std::fs::read_to_string(path).expect("the daemon runs");
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
        kib.and_then(|kib| kib.parse::<u64>().ok())
            .expect("the kernel says how much memory a process has")
            * 1024
    }
}

impl Host {
    /// Whether somebody listens on the operator's socket.
    pub fn takes_commands(&self) -> bool {
        self.run(&[
            "curl",
            "--silent",
            "--max-time",
            "2",
            "--unix-socket",
            crate::SOCKET,
            "http://shoal/",
        ])
        .success()
    }

    /// Panics, saying what to do, when a program under test has not been built.
    #[track_caller]
    pub fn require_program(&self, program: &str) {
        assert!(
            self.program(program).exists(),
            "{} is missing: build it first with `cargo build --workspace` (`make test` does)",
            self.program(program).display()
        );
    }

    /// Waits until `shoal status` names something that is not as it should be, in these words. Something
    /// else may be wrong before: as long as no leader is known, that is.
    #[track_caller]
    pub fn wait_for_condition(&self, deadline: Duration, words: &str) {
        let mut conditions = String::new();
        let named = poll(deadline, || {
            let output = self.shoal(&["status", "--json"]);
            if output.success() {
                conditions = output.json()["conditions"].to_string();
            }
            conditions.contains(words).then_some(())
        });
        assert!(
            named.is_some(),
            "the status of {} does not name {words:?} after {deadline:?}: {conditions}",
            self.name()
        );
    }

    /// Waits until `shoal status` on this host says so.
    #[track_caller]
    pub fn wait_for_status(
        &self,
        deadline: Duration,
        what: &str,
        mut holds: impl FnMut(&serde_json::Value) -> bool,
    ) -> Duration {
        wait_until(deadline, what, || {
            let output = self.shoal(&["status", "--json"]);
            output.success() && holds(&output.json())
        })
    }
}
