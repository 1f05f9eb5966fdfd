//! A stand-in for `k3s`: K3s's contract towards whoever runs it, and nothing of its containers.
//!
//! See README.md beside this crate for what it keeps to, what it leaves out, and how a test puts
//! faults into it. Nothing in the product knows of this program.

mod apiserver;
mod cli;
mod clock;
mod controllers;
mod etcd;
mod files;
mod handout;
mod knobs;
mod logline;
mod node;
mod notify;
mod pki;
mod server;
mod supervisor;
mod version;
mod wire;

use std::{
    io::Write,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, ExitCode},
};

use cli::{
    configuration,
    flags::{Flag, Flags},
    settings::{NodeSettings, ServerSettings},
    table,
};
use files::Layout;
use tokio::signal::unix::{SignalKind, signal};

/// What ends the program, in K3s's words.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Fatal {
    message: String,
    usage: bool,
    status: Option<u16>,
}

impl Fatal {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            usage: false,
            status: None,
        }
    }

    /// The command line was not understood.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self {
            usage: true,
            ..Self::new(message)
        }
    }

    /// A server answered with this code.
    pub(crate) fn refused(status: u16, message: impl Into<String>) -> Self {
        Self {
            status: Some(status),
            ..Self::new(message)
        }
    }

    pub(crate) fn status(&self) -> Option<u16> {
        self.status
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let program = arguments.next().unwrap_or_default();
    let arguments: Vec<String> = arguments.collect();
    let name = Path::new(&program)
        .file_name()
        .and_then(|name| name.to_str());
    match name {
        // As K3s: one binary, many names.
        Some(node::pods::SHIM) => shim(),
        Some("kubectl") => finish(kubectl(&arguments)),
        Some(_) | None => finish(run(&arguments)),
    }
}

fn finish(result: Result<(), Fatal>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(fatal) => {
            if fatal.usage {
                let _ = writeln!(std::io::stdout().lock(), "Incorrect Usage: {fatal}\n");
            }
            logline::fatal(format!("Error: {fatal}"));
            ExitCode::FAILURE
        }
    }
}

/// Stands for a container: does nothing until it is killed.
fn shim() -> ExitCode {
    loop {
        std::thread::park();
    }
}

fn run(arguments: &[String]) -> Result<(), Fatal> {
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", arguments),
    };
    match command {
        "server" => start(serve(rest.to_vec())),
        "agent" => start(join(rest.to_vec())),
        "etcd-snapshot" => {
            let (what, rest) = subcommand(rest, &["save", "delete", "ls", "list", "l", "prune"])?;
            let flags = read_flags(
                rest,
                &[table::LOGGING, table::SNAPSHOT],
                &[table::NODE, table::SERVER],
            )?;
            if what == "prune" {
                return Err(Fatal::new(
                    "k3s etcd-snapshot prune is K3s's, but not this stand-in's",
                ));
            }
            start(supervisor::snapshots::run(what, &flags))
        }
        "token" => {
            let (what, rest) =
                subcommand(rest, &["create", "delete", "generate", "list", "rotate"])?;
            let flags = Flags::parse(&[table::TOKEN], rest, environment)?;
            start(supervisor::bootstrap_tokens::run(what, &flags))
        }
        "kubectl" => kubectl(rest),
        "--version" | "-v" => {
            let _ = std::io::stdout()
                .lock()
                .write_all(version::lines().as_bytes());
            Ok(())
        }
        "help" | "--help" | "-h" => {
            let text = "NAME:\n   k3s - Kubernetes, but small and simple (stand-in for tests)\n\nCOMMANDS:\n   server, agent, kubectl, etcd-snapshot, token\n";
            let _ = std::io::stdout().lock().write_all(text.as_bytes());
            Ok(())
        }
        other => Err(Fatal::new(format!(
            "No help topic for '{other}': no command of K3s, or none that this stand-in has"
        ))),
    }
}

/// The first argument, if it is one of these.
fn subcommand<'a>(
    arguments: &'a [String],
    known: &[&str],
) -> Result<(&'a str, &'a [String]), Fatal> {
    match arguments.split_first() {
        Some((what, rest)) if known.contains(&what.as_str()) => Ok((what, rest)),
        Some((what, _)) => Err(Fatal::usage(format!("No help topic for '{what}'"))),
        None => Err(Fatal::usage("a subcommand is needed")),
    }
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Files of settings first, then the command line. Keys of `others` in a file are no mistakes.
fn read_flags(
    arguments: &[String],
    tables: &[&[Flag]],
    others: &[&[Flag]],
) -> Result<Flags, Fatal> {
    let line = Flags::parse(tables, arguments, environment)?;
    let named = line.text("config");
    let file = Path::new(named.unwrap_or(configuration::DEFAULT));
    let mut all = configuration::arguments(file, named.is_some(), &[tables, others].concat())?;
    all.retain(|argument| {
        let name = argument
            .trim_start_matches('-')
            .split('=')
            .next()
            .unwrap_or_default();
        tables.iter().copied().flatten().any(|flag| flag.is(name))
    });
    all.extend(arguments.iter().cloned());
    Flags::parse(tables, &all, environment)
}

fn start(work: impl Future<Output = Result<(), Fatal>>) -> Result<(), Fatal> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| Fatal::new(error.to_string()))?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    result
}

async fn serve(arguments: Vec<String>) -> Result<(), Fatal> {
    privileged("server must run as root, or with --rootless and/or --disable-agent")?;
    let flags = read_flags(
        &arguments,
        &[table::LOGGING, table::NODE, table::SERVER],
        &[],
    )?;
    let settings = ServerSettings::read(&flags, &arguments)?;
    logline::info(format!("Starting k3s {}", version::kubernetes()));
    server::run(settings).await
}

async fn join(arguments: Vec<String>) -> Result<(), Fatal> {
    privileged("agent must run as root, or with --rootless")?;
    let flags = read_flags(
        &arguments,
        &[table::LOGGING, table::NODE, table::AGENT],
        &[],
    )?;
    let settings = NodeSettings::read(&flags, &arguments)?;
    let layout = Layout::new(&settings.data_dir);
    if settings.token.is_none() {
        return Err(Fatal::new("--token is required"));
    }
    if settings.server.is_none() {
        return Err(Fatal::new("--server is required"));
    }
    logline::info(format!("Starting k3s agent {}", version::kubernetes()));
    tokio::select! {
        result = node::agent::run(settings, layout, node::agent::Role::default()) => result,
        () = asked_to_stop() => Ok(()),
    }
}

fn privileged(words: &str) -> Result<(), Fatal> {
    if !rustix::process::geteuid().is_root() {
        return Err(Fatal::new(words));
    }
    match knobs::fail_start() {
        Some(words) => Err(Fatal::new(words)),
        None => Ok(()),
    }
}

/// Returns at SIGTERM or SIGINT.
pub(crate) async fn asked_to_stop() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// `k3s kubectl`: the machine's own kubectl, with the administrator's kubeconfig.
fn kubectl(arguments: &[String]) -> Result<(), Fatal> {
    let mut command = Command::new("/usr/bin/kubectl");
    command.args(arguments);
    if std::env::var_os("KUBECONFIG").is_none() {
        command.env("KUBECONFIG", files::KUBECONFIG);
    }
    let error = command.exec();
    Err(Fatal::new(format!("exec /usr/bin/kubectl: {error}")))
}
