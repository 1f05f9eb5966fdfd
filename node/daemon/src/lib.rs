//! shoald: the daemon that every node runs.
//!
//! Decides nothing: reads the settings, opens what the node owns, and runs it until it is told to
//! stop. `shoald wireguard-device` is the userspace data plane, a process of its own.
//!
//! Invariant: nothing here is an interface. It is a library so that its decoders can be reached by
//! the fuzz targets; the program calls [`main`].

mod api;
mod authority;
mod backup;
mod config;
mod data_dir;
#[doc(hidden)]
pub mod fuzzing;
mod held_ports;
mod logging;
mod machine;
mod mesh;
mod node;
mod token;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::{Parser, Subcommand};
use overlay_net::NodeKey;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    authority::AuthorityFiles,
    config::{Config, Settings},
    data_dir::DataDir,
    held_ports::HeldPorts,
    mesh::{Host, clock::Clock, departure, overlay::RUN_FOLDER},
    node::Node,
};

/// A peer-to-peer mesh that turns machines into Docker hosts, with no central server.
#[derive(Parser)]
#[command(name = "shoald", version)]
struct Arguments {
    #[command(subcommand)]
    command: CommandLine,
}

#[derive(Subcommand)]
enum CommandLine {
    /// Run the daemon.
    Run {
        /// A settings file (TOML); flags win over it.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        settings: Settings,
    },
    /// Carry WireGuard packets where the kernel can't; started by the daemon itself.
    #[command(hide = true)]
    WireguardDevice {
        #[arg(long)]
        interface: String,
        #[arg(long)]
        pidfile: PathBuf,
    },
}

/// What ends the daemon, in the operator's words.
struct Fatal {
    code: String,
    message: String,
    hint: String,
    caused_by: Vec<String>,
}

impl Fatal {
    fn new(code: &str, error: &dyn std::error::Error, hint: &str) -> Self {
        let mut caused_by = Vec::new();
        let mut next = error.source();
        while let Some(source) = next {
            caused_by.push(source.to_string());
            next = source.source();
        }
        Self {
            code: code.into(),
            message: error.to_string(),
            hint: hint.into(),
            caused_by,
        }
    }
}

impl From<node_api::ApiError> for Fatal {
    fn from(error: node_api::ApiError) -> Self {
        Self {
            code: error.code,
            message: error.message,
            hint: error.hint,
            caused_by: error.caused_by,
        }
    }
}

/// The program: takes its arguments and gives its exit status.
pub fn main() -> ExitCode {
    match Arguments::parse().command {
        CommandLine::WireguardDevice { interface, pidfile } => {
            let settings = overlay_wireguard::DeviceSettings { interface, pidfile };
            match overlay_wireguard::run_device(&settings) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => ExitCode::from(error.exit_status()),
            }
        }
        CommandLine::Run { config, settings } => match run(config, settings) {
            Ok(()) => ExitCode::SUCCESS,
            Err(fatal) => {
                complain(&fatal);
                ExitCode::FAILURE
            }
        },
    }
}

#[expect(
    clippy::print_stderr,
    reason = "the operator who starts the daemon by hand reads why it did not start"
)]
fn complain(fatal: &Fatal) {
    eprintln!("Error: {} ({})", fatal.message, fatal.code);
    for cause in &fatal.caused_by {
        eprintln!("Caused by: {cause}");
    }
    eprintln!("Hint: {}", fatal.hint);
}

fn run(file: Option<PathBuf>, flags: Settings) -> Result<(), Fatal> {
    let config = read_config(file, flags).map_err(|error| {
        Fatal::new(
            "SettingsError",
            &error,
            "docs/shoald.toml shows every setting",
        )
    })?;
    logging::start(config.log, &config.log_level).map_err(|error| {
        Fatal::new(
            "SettingsError",
            &error,
            "give a level (info) or a tracing filter",
        )
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(worker_threads())
        .enable_all()
        .thread_name("shoald")
        .build()
        .map_err(|error| {
            Fatal::new(
                "InternalError",
                &error,
                "see the limits on threads (ulimit -u)",
            )
        })?;
    runtime.block_on(serve(config))
}

/// The daemon waits more than it computes; more threads would only cost memory.
fn worker_threads() -> usize {
    std::thread::available_parallelism().map_or(2, |n| n.get().min(4))
}

fn read_config(file: Option<PathBuf>, flags: Settings) -> Result<Config, config::ConfigError> {
    let below = match file {
        Some(path) => Settings::read(&path)?,
        None => Settings::default(),
    };
    flags.over(below).resolve()
}

/// Opens what this node owns.
fn open_host(config: Config) -> Result<Host, Fatal> {
    let data = DataDir::open(&config.data_dir)
        .map_err(|error| Fatal::new(error.code(), &error, error.hint()))?;
    let key_path = data.node_key();
    let key = if key_path.exists() {
        NodeKey::load(&key_path)
    } else {
        let key = NodeKey::generate();
        key.save(&key_path).map(|()| key)
    };
    let key = key.map_err(|error| {
        let hint = error
            .hint()
            .unwrap_or_else(|| "check the data directory".into());
        Fatal::new(error.code(), &error, &hint)
    })?;
    let ports = hold_ports(&config)?;
    let wireguard = overlay_wireguard::Keyring::open(&data.wireguard_key())
        .map_err(|error| Fatal::new(error.code(), &error, error.hint()))?;
    Ok(Host {
        config,
        authority: Arc::new(AuthorityFiles::in_directory(data.authority())),
        data: Arc::new(data),
        key,
        wireguard: Arc::new(wireguard),
        ports,
        clock: Clock::start(),
    })
}

/// Takes the ports at the start, so that a taken one is told then and not at the first join.
fn hold_ports(config: &Config) -> Result<HeldPorts, Fatal> {
    HeldPorts::hold(&config.listen).map_err(|(address, error)| {
        let taken = error.kind() == std::io::ErrorKind::AddrInUse;
        Fatal {
            code: if taken {
                "AddressInUseError"
            } else {
                "AddressUnavailableError"
            }
            .into(),
            message: format!("{address} can't be listened on, with UDP and TCP"),
            hint: if taken {
                format!(
                    "see who has it (ss -lnp | grep :{}), or choose another with --listen",
                    address.port()
                )
            } else {
                "choose an address that this machine has, with --listen".into()
            },
            caused_by: vec![error.to_string()],
        }
    })
}

async fn serve(config: Config) -> Result<(), Fatal> {
    let host = Arc::new(open_host(config)?);
    let socket = host.config.socket.clone();
    let listener =
        api::bind_unix(&socket).map_err(|error| Fatal::new(error.code(), &error, error.hint()))?;
    let mut terminate = signal(SignalKind::terminate())
        .map_err(|error| Fatal::new("InternalError", &error, "report this"))?;
    let mut interrupt = signal(SignalKind::interrupt())
        .map_err(|error| Fatal::new("InternalError", &error, "report this"))?;

    let node = Arc::new(Node::new(host.clone()));
    node.resume()?;
    let stop = CancellationToken::new();
    let router = api::router(node.clone());
    let overlay = api::OverlayListener {
        node: node.clone(),
        router: router.clone(),
        stop: stop.clone(),
    };
    let tasks = [
        tokio::spawn(api::serve_unix(listener, router, stop.clone())),
        tokio::spawn(overlay.run()),
    ];
    tracing::info!(node = %host.me(), name = host.config.name, socket = %socket.display(), version = env!("CARGO_PKG_VERSION"), "shoald is up");
    // All arms only wait.
    let departed = tokio::select! {
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
        () = node.departed() => true,
    };
    match departed {
        true => tracing::info!("stopping; this node is a member of nothing"),
        false => tracing::info!("stopping; the overlay and dockerd keep running"),
    }
    stop.cancel();
    node.stop().await;
    for task in tasks {
        let _ = task.await;
    }
    let _ = std::fs::remove_file(&socket);
    if departed {
        departure::take_off(host.data.root(), Path::new(RUN_FOLDER)).await;
    }
    Ok(())
}
