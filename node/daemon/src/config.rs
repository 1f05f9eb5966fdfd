//! The daemon's settings: from a file, overridden by flags, read once.
//!
//! Unknown fields are refused, so that a typing error is not a silent default. Every setting of
//! the file is also a flag.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use overlay_gate::{GateConfig, GateKind};
use serde::{Deserialize, Serialize};

/// The libp2p port unless configured otherwise, UDP (QUIC) and TCP.
pub(crate) const DEFAULT_PORT: u16 = 7440;

/// Lines or objects on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// A line an event, for people.
    #[default]
    Text,
    /// A JSON object an event, for programs.
    Json,
}

/// How patient Raft is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RaftTimers {
    /// Heartbeat 50 ms, election 150-300 ms.
    #[default]
    Safe,
    /// Heartbeat 20 ms, election 60-120 ms: for a quiet local network.
    Lan,
    /// For servers in several places.
    Wan,
}

/// Whether other nodes can dial this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Reachable {
    /// Found out by having servers dial back. What is advertised is believed to be reachable.
    #[default]
    Auto,
    /// They can.
    Yes,
    /// They can't: relays are used.
    No,
}

/// By which means the kernel guards the virtual IPs that this node holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum VipGate {
    /// By nf_tables; by an eBPF program where the kernel has none.
    #[default]
    Auto,
    /// By nf_tables, and by no eBPF program.
    Nftables,
    /// By an eBPF program on the overlay's interface; by nf_tables where the kernel takes none.
    Ebpf,
    /// By the lifetime of the address alone: for virtual IPs of profile slow.
    Lifetime,
}

impl VipGate {
    /// What is tried, the first first.
    pub(crate) fn config(self) -> GateConfig {
        let kinds = match self {
            Self::Auto => vec![GateKind::Nftables, GateKind::Ebpf],
            Self::Nftables => vec![GateKind::Nftables],
            Self::Ebpf => vec![GateKind::Ebpf, GateKind::Nftables],
            Self::Lifetime => Vec::new(),
        };
        GateConfig {
            kinds,
            ..GateConfig::default()
        }
    }
}

/// The settings file, and the flags of `shoald run`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Where keys, certificates and state are kept [default: /var/lib/shoal]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The unix socket of the operator API [default: /run/shoal/shoald.sock]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// This node's name, unique in its mesh [default: the host's name]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Where libp2p listens, QUIC over UDP and TCP on the same port; may be given several times
    /// [default: 0.0.0.0:7440]
    #[arg(long, value_name = "IP:PORT")]
    #[serde(default)]
    pub(crate) listen: Vec<SocketAddr>,
    /// Where other nodes reach this one, if not at its interfaces' addresses; may be given several times
    #[arg(long, value_name = "IP:PORT")]
    #[serde(default)]
    pub(crate) advertise: Vec<SocketAddr>,
    /// How to log to standard error [default: text]
    #[arg(long, value_enum)]
    pub(crate) log: Option<LogFormat>,
    /// What to log: a level or a tracing filter [default: info]
    #[arg(long, value_name = "FILTER")]
    pub(crate) log_level: Option<String>,
    /// How patient Raft is [default: safe]
    #[arg(long, value_enum)]
    pub(crate) raft_timers: Option<RaftTimers>,
    /// Addresses to try besides those that the mesh knows, to join or to come back; may be given several times
    #[arg(long = "seed", value_name = "IP:PORT")]
    #[serde(default)]
    pub(crate) seeds: Vec<SocketAddr>,
    /// Whether nodes are looked for, and this one announced, on the local network [default: true]
    #[arg(long, value_name = "BOOL")]
    pub(crate) mdns: Option<bool>,
    /// Whether this node, as a server, passes on connections of nodes that can't reach each other [default: true]
    #[arg(long, value_name = "BOOL")]
    pub(crate) relay: Option<bool>,
    /// Whether other nodes can dial this one [default: auto]
    #[arg(long, value_enum)]
    pub(crate) reachable: Option<Reachable>,
    /// By which means the kernel guards the virtual IPs that this node holds [default: auto]
    #[arg(long, value_enum)]
    pub(crate) vip_gate: Option<VipGate>,
    /// A dockerd to use instead of the distribution's
    #[arg(long, value_name = "PATH")]
    pub(crate) dockerd: Option<PathBuf>,
}

/// Why the settings can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("the settings file {path:?} can't be read")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the settings file {path:?} is wrong: {reason}")]
    Parse { path: PathBuf, reason: String },
    #[error("{setting} {value:?} is wrong: it must be {rule}")]
    Invalid {
        setting: &'static str,
        value: String,
        rule: &'static str,
    },
}

/// Settings with every default filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) data_dir: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) name: String,
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) advertise: Vec<SocketAddr>,
    pub(crate) log: LogFormat,
    pub(crate) log_level: String,
    pub(crate) raft_timers: RaftTimers,
    pub(crate) seeds: Vec<SocketAddr>,
    pub(crate) mdns: bool,
    pub(crate) relay: bool,
    pub(crate) reachable: Reachable,
    pub(crate) vip_gate: VipGate,
    pub(crate) dockerd: Option<PathBuf>,
}

impl Settings {
    /// Reads a settings file.
    pub(crate) fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        toml::from_str(&text).map_err(|error| ConfigError::Parse {
            path: path.to_owned(),
            reason: error.to_string(),
        })
    }

    /// These settings where they are given, else `below`.
    pub(crate) fn over(self, below: Self) -> Self {
        let either = |above: Vec<SocketAddr>, below| if above.is_empty() { below } else { above };
        Self {
            data_dir: self.data_dir.or(below.data_dir),
            socket: self.socket.or(below.socket),
            name: self.name.or(below.name),
            listen: either(self.listen, below.listen),
            advertise: either(self.advertise, below.advertise),
            log: self.log.or(below.log),
            log_level: self.log_level.or(below.log_level),
            raft_timers: self.raft_timers.or(below.raft_timers),
            seeds: either(self.seeds, below.seeds),
            mdns: self.mdns.or(below.mdns),
            relay: self.relay.or(below.relay),
            reachable: self.reachable.or(below.reachable),
            vip_gate: self.vip_gate.or(below.vip_gate),
            dockerd: self.dockerd.or(below.dockerd),
        }
    }

    /// Fills in defaults and checks the rest.
    pub(crate) fn resolve(self) -> Result<Config, ConfigError> {
        let listen = if self.listen.is_empty() {
            vec![SocketAddr::from(([0, 0, 0, 0], DEFAULT_PORT))]
        } else {
            self.listen
        };
        if let Some(address) = self
            .advertise
            .iter()
            .find(|a| a.ip().is_unspecified() || a.port() == 0)
        {
            return Err(ConfigError::Invalid {
                setting: "advertise",
                value: address.to_string(),
                rule: "an address and port that other nodes can reach",
            });
        }
        let name = self.name.unwrap_or_else(host_name);
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty()
            || name.len() > 63
            || !name.chars().all(good)
            || name.starts_with('-')
            || name.ends_with('-')
        {
            return Err(ConfigError::Invalid {
                setting: "name",
                value: name,
                rule: "1 to 63 of a-z, 0-9 and -, not starting or ending with -",
            });
        }
        Ok(Config {
            data_dir: self
                .data_dir
                .unwrap_or_else(|| node_api::DEFAULT_DATA_DIR.into()),
            socket: self
                .socket
                .unwrap_or_else(|| node_api::DEFAULT_SOCKET.into()),
            name,
            listen,
            advertise: self.advertise,
            log: self.log.unwrap_or_default(),
            log_level: self.log_level.unwrap_or_else(|| "info".into()),
            raft_timers: self.raft_timers.unwrap_or_default(),
            seeds: self.seeds,
            mdns: self.mdns.unwrap_or(true),
            relay: self.relay.unwrap_or(true),
            reachable: self.reachable.unwrap_or_default(),
            vip_gate: self.vip_gate.unwrap_or_default(),
            dockerd: self.dockerd,
        })
    }
}

/// The host's name up to its first dot, in the letters that node names allow.
fn host_name() -> String {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy().to_lowercase();
    let label = name.split('.').next().unwrap_or_default();
    label
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = include_str!("../../../docs/shoald.toml");

    #[test]
    fn the_documented_sample_parses_and_names_every_setting() {
        toml::from_str::<Settings>(SAMPLE)
            .unwrap()
            .resolve()
            .unwrap();
        // Settings that differ from node to node are commented out, as `# key = value`.
        let is_setting = |line: &&str| {
            line.split_once(" = ")
                .is_some_and(|(key, _)| !key.contains(' '))
        };
        let with_all: Vec<&str> = SAMPLE
            .lines()
            .map(|line| line.strip_prefix("# ").filter(is_setting).unwrap_or(line))
            .collect();
        let settings: Settings = toml::from_str(&with_all.join("\n")).unwrap();
        let table: toml::Table = toml::from_str(&with_all.join("\n")).unwrap();
        let all = toml::Table::try_from(Settings {
            data_dir: Some("a".into()),
            socket: Some("a".into()),
            name: Some("a".into()),
            listen: vec![([0, 0, 0, 0], 1).into()],
            advertise: vec![([0, 0, 0, 0], 1).into()],
            log: Some(LogFormat::Text),
            log_level: Some("a".into()),
            raft_timers: Some(RaftTimers::Safe),
            seeds: vec![([0, 0, 0, 0], 1).into()],
            mdns: Some(true),
            relay: Some(true),
            reachable: Some(Reachable::Auto),
            vip_gate: Some(VipGate::Ebpf),
            dockerd: Some("a".into()),
        })
        .unwrap();
        let keys = |table: &toml::Table| {
            table
                .keys()
                .cloned()
                .collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(keys(&table), keys(&all));
        settings.resolve().unwrap();
    }

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        let error = toml::from_str::<Settings>("dta_dir = '/x'")
            .unwrap_err()
            .to_string();
        assert!(error.contains("dta_dir"), "{error}");
    }

    #[test]
    fn an_ebpf_gate_is_tried_first_where_it_is_asked_for_and_nf_tables_everywhere_else() {
        let first = |text: &str| {
            let settings: Settings = toml::from_str(text).unwrap();
            settings.resolve().unwrap().vip_gate.config().kinds[0]
        };
        for text in ["", "vip_gate = 'auto'", "vip_gate = 'nftables'"] {
            assert_eq!(first(text), GateKind::Nftables, "{text}");
        }
        assert_eq!(first("vip_gate = 'ebpf'"), GateKind::Ebpf);
        let alone: Settings = toml::from_str("vip_gate = 'lifetime'").unwrap();
        assert!(alone.resolve().unwrap().vip_gate.config().kinds.is_empty());
        let error = toml::from_str::<Settings>("vip_gate = 'xdp'").unwrap_err();
        assert!(error.to_string().contains("ebpf"), "{error}");
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let file: Settings = toml::from_str("name = 'a'\nsocket = '/s'").unwrap();
        let flags = Settings {
            name: Some("b".into()),
            ..Settings::default()
        };
        let config = flags.over(file).resolve().unwrap();
        assert_eq!(
            (config.name.as_str(), config.socket.to_str()),
            ("b", Some("/s"))
        );
    }
}
