//! Programs that run inside a host, and what they said.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    process::{Child, ExitStatus},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::wait::poll;

/// What a finished program said.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// The exit code; `None` when a signal ended the program.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Whether the exit code was 0.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// Panics with everything the program said unless it succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.success(), "this should have succeeded: {self}");
        self
    }

    /// Standard output without the white space around it.
    pub fn text(&self) -> &str {
        self.stdout.trim()
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(self.text())
            .unwrap_or_else(|error| panic!("this is not JSON ({error}): {self}"))
    }

    /// Standard output as one JSON value per line, or one JSON array.
    #[track_caller]
    pub fn json_rows(&self) -> Vec<Value> {
        match serde_json::from_str(self.text()) {
            Ok(Value::Array(rows)) => rows,
            Ok(row) => vec![row],
            Err(_) => (self.text().lines())
                .map(|line| {
                    serde_json::from_str(line)
                        .unwrap_or_else(|error| panic!("{line:?} is not JSON ({error}): {self}"))
                })
                .collect(),
        }
    }

    /// The error object of a refused `--json` call: checks that it failed, and that code,
    /// message and hint are there and say something.
    #[track_caller]
    pub fn refusal(&self) -> Value {
        assert!(!self.success(), "this should have been refused: {self}");
        let found = [&self.stderr, &self.stdout].into_iter().find_map(|text| {
            let start = text.find('{')?;
            let value: Value = serde_json::from_str(text[start..].trim()).ok()?;
            Some(value.get("error").cloned().unwrap_or(value))
        });
        let Some(error) = found else {
            panic!("the refusal is not a JSON object: {self}");
        };
        for key in ["code", "message", "hint"] {
            let text = error[key].as_str().unwrap_or_default();
            assert!(!text.is_empty(), "the refusal has no {key}: {self}");
        }
        error
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let code = self
            .code
            .map_or_else(|| "a signal".to_owned(), |code| code.to_string());
        write!(
            f,
            "`{}` ended with {code}\n--- stdout\n{}\n--- stderr\n{}",
            self.command,
            self.stdout.trim_end(),
            self.stderr.trim_end()
        )
    }
}

/// A running program inside a host.
///
/// The host keeps it too: a namespace of processes cannot end while somebody outside has not yet
/// reaped his child in it.
#[derive(Clone)]
pub struct Process {
    command: String,
    child: Arc<Mutex<Child>>,
}

impl Process {
    pub(crate) fn new(command: String, child: Child) -> Self {
        Self {
            command,
            child: Arc::new(Mutex::new(child)),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Child) -> T) -> T {
        act(&mut self.child.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The process id outside of the host.
    pub fn pid(&self) -> u32 {
        self.with(|child| child.id())
    }

    /// Whether it is still running.
    pub fn is_running(&self) -> bool {
        self.exit_status().is_none()
    }

    /// How it ended, if it did.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.with(|child| child.try_wait().expect("our own child can be waited for"))
    }

    /// `kill -9`, and waits for the end.
    pub fn kill9(&self) {
        self.with(|child| {
            child.kill().expect("our own child can be killed");
            child.wait().expect("our own child can be waited for");
        });
    }

    /// Asks it to stop.
    pub fn sigterm(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends a signal unless the program has ended already.
    pub fn signal(&self, signal: Signal) {
        self.with(|child| {
            let running = matches!(child.try_wait(), Ok(None));
            if running {
                // Not reaped yet, so the number cannot belong to anyone else.
                kill_process(Pid::from_child(child), signal).expect("our own child takes signals");
            }
        });
    }

    /// Waits for the end; panics at the deadline.
    #[track_caller]
    pub fn wait(&self, deadline: Duration) -> ExitStatus {
        let Some((status, _)) = poll(deadline, || self.exit_status()) else {
            panic!("`{}` still runs after {deadline:?}", self.command);
        };
        status
    }

    /// Waits for the end of a program whose output went to these files.
    #[track_caller]
    pub(crate) fn finish(&self, deadline: Duration, stdout: File, stderr: File) -> Output {
        let ended = poll(deadline, || self.exit_status());
        if ended.is_none() {
            self.kill9();
        }
        let output = Output {
            command: self.command.clone(),
            code: ended.and_then(|(status, _)| status.code()),
            stdout: read_all(stdout),
            stderr: read_all(stderr),
        };
        assert!(
            ended.is_some(),
            "no end after {deadline:?}, so it was killed: {output}"
        );
        output
    }
}

fn read_all(mut file: File) -> String {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))
        .and_then(|_| file.read_to_end(&mut bytes))
        .expect("the file of a program's output is readable");
    String::from_utf8_lossy(&bytes).into_owned()
}
