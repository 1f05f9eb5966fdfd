//! A server that answers as a daemon would, and the program asking it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    http::{Method, StatusCode, Uri},
    response::IntoResponse,
};
use serde_json::Value;

/// Lets commands be given without a daemon.
pub(crate) fn shoal(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
    command.args(args).stdin(Stdio::null()).env_clear();
    command
}

pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("{self}"))
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\nout: {}\nerr: {}", self.code, self.out, self.err)
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

pub(crate) fn ended(mut command: Command) -> Ended {
    command.output().unwrap().into()
}

/// Answers with what a function says, and remembers what it was asked.
pub(crate) struct Server {
    pub(crate) directory: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    /// `answer` gets the request's line and body, and says the status and the text.
    pub(crate) fn answering<T: Into<Bytes>>(
        answer: impl Fn(&str, &[u8]) -> (u16, T) + Clone + Send + Sync + 'static,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let log = Arc::clone(&asked);
        let router = Router::new().fallback(move |method: Method, uri: Uri, body: Bytes| {
            let request = format!("{method} {uri}");
            log.lock()
                .unwrap()
                .push(format!("{request} {}", String::from_utf8_lossy(&body)));
            let (status, text) = answer(&request, &body);
            let status = StatusCode::from_u16(status).unwrap();
            let text: Bytes = text.into();
            async move { (status, [("shoal-freshness", "raft, index 7")], text).into_response() }
        });
        let path = directory.path().join("s.sock");
        let listener = {
            let _inside = runtime.enter();
            tokio::net::UnixListener::bind(path).unwrap()
        };
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self {
            directory,
            asked,
            _runtime: runtime,
        }
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = shoal(args);
        command.env("SHOAL_SOCKET", self.directory.path().join("s.sock"));
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        ended(self.command(args))
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// A refusal as a daemon words it.
pub(crate) fn refusal(code: &str) -> String {
    serde_json::json!({ "code": code, "message": "m", "hint": "h" }).to_string()
}

/// The permissions of a file or directory.
pub(crate) fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The names in a directory, sorted.
pub(crate) fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
