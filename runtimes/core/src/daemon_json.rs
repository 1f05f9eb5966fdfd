//! dockerd's configuration file.
//!
//! Decides: the base configuration, how overrides merge into it, what they may not touch, and
//! whether a running dockerd can take a change up by reloading or must be restarted. And what is
//! looked for in the host's own file: where its data lie.
//! Never: writes the file.
//!
//! Invariants:
//! - Objects merge key by key; arrays and scalars replace.
//! - Later in (layer, category position x 1000 + priority, name) wins; the order in which
//!   overrides arrive does not matter.
//! - The listeners, the TLS files and shoal's own paths come from the base alone. An override
//!   that names one is an error and nothing is merged.
//!
//! Source of the keys: <https://docs.docker.com/reference/cli/dockerd/#daemon-configuration-file>.

use std::net::{IpAddr, Ipv6Addr};

use serde_json::{Map, Value, json};

/// Port of dockerd's mutual-TLS listener (IANA: docker-s).
pub const TLS_PORT: u16 = 2376;

/// Keys an override may not name.
pub const PROTECTED_KEYS: [&str; 8] = [
    "hosts",
    "tls",
    "tlsverify",
    "tlscacert",
    "tlscert",
    "tlskey",
    // Where shoal looks for the daemon that it started.
    "pidfile",
    "exec-root",
];

/// Keys that dockerd takes up on SIGHUP, without a restart (reference, "Configuration reload
/// behavior"). Left out although listed there: `runtimes`, whose reload has been fragile.
const RELOADABLE_KEYS: [&str; 11] = [
    "debug",
    "features",
    "insecure-registries",
    "labels",
    "live-restore",
    "max-concurrent-downloads",
    "max-concurrent-uploads",
    "max-download-attempts",
    "registry-mirrors",
    "shutdown-timeout",
    "default-runtime",
];

/// How much a container may log before its oldest file is dropped: three files of 10 MiB, as
/// dockerd by itself keeps everything and fills the disk.
const LOG_FILE_SIZE_MAX: &str = "10m";
/// See [`LOG_FILE_SIZE_MAX`].
const LOG_FILES_MAX: &str = "3";

/// Keys that say where data lie: today's, and one that dockerd knew before 23.0.
const DATA_ROOT_KEYS: [&str; 2] = ["data-root", "graph"];

/// Where things are on the host, as text that goes into the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLayout {
    /// The unix socket.
    pub socket: String,
    /// dockerd's own pid file.
    pub pidfile: String,
    /// Images, containers, volumes.
    pub data_root: String,
    /// Execution state, and containerd's socket.
    pub exec_root: String,
    /// PEM of the CAs whose clients are let in.
    pub tls_ca: String,
    /// PEM of dockerd's certificate chain.
    pub tls_cert: String,
    /// PEM of its key.
    pub tls_key: String,
}

/// What the configuration is made from, besides overrides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base<'a> {
    /// Where things are.
    pub layout: &'a HostLayout,
    /// The overlay address to listen on.
    pub listen: Ipv6Addr,
    /// MTU of the default bridge; dockerd's own default when absent.
    pub mtu: Option<u16>,
    /// Whom containers ask for names; those of the host itself when none.
    pub dns: &'a [IpAddr],
}

/// Whose wish an override is. A later layer wins over an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// Comes with a subscription.
    Subscription,
    /// A config module.
    Config,
    /// Set on the node itself.
    Node,
}

/// One wish about dockerd's configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Override {
    /// For error texts and as the last tie-break.
    pub name: String,
    /// Whose wish it is.
    pub layer: Layer,
    /// Where the module's category stands among the others.
    pub category_position: u16,
    /// Its priority inside the category.
    pub priority: u16,
    /// A JSON object in the shape of daemon.json.
    pub document: Value,
}

impl Override {
    /// Category position x 1000 + priority: the higher one wins inside a layer.
    pub fn effective_priority(&self) -> u32 {
        u32::from(self.category_position) * 1000 + u32::from(self.priority)
    }
}

/// Why overrides cannot be merged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// It would move a listener, weaken TLS or hide the daemon from shoal.
    #[error("the override {name:?} sets {key:?}, which belongs to shoal")]
    ProtectedKey {
        /// The override's name.
        name: String,
        /// The key.
        key: String,
    },
    /// daemon.json is an object.
    #[error("the override {name:?} is not a JSON object")]
    NotAnObject {
        /// The override's name.
        name: String,
    },
}

impl MergeError {
    /// Stable text for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::ProtectedKey { .. } => "ProtectedDaemonKeyError",
            Self::NotAnObject { .. } => "InvalidDaemonConfigError",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::ProtectedKey { key, .. } => format!(
                "remove {key:?} from the override; dockerd listens on the overlay address with the mesh's certificates"
            ),
            Self::NotAnObject { .. } => {
                "write it as an object, for example {\"debug\": true}".to_owned()
            }
        }
    }
}

/// The host's own Docker keeps its data where shoal's dockerd does not look for them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{file} keeps Docker's data in {theirs}, and shoal's dockerd would start without them in {ours}"
)]
pub struct DataElsewhere {
    /// The file that says so.
    pub file: String,
    /// Where they are.
    pub theirs: String,
    /// Where shoal's dockerd has its own.
    pub ours: String,
}

impl DataElsewhere {
    /// Stable text for programs.
    pub fn code(&self) -> &'static str {
        "DockerDataRootError"
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        let Self { file, theirs, ours } = self;
        format!(
            "stop Docker, move what is in {theirs} to {ours}, and take `data-root` out of {file}; only take it out if the data are to stay behind"
        )
    }
}

/// Where this configuration, which is not shoal's, has data lie; none where it leaves that to dockerd.
pub fn data_root_of(text: &str) -> Option<String> {
    let document: Value = serde_json::from_str(text).ok()?;
    let named = |key: &&str| document.get(key)?.as_str();
    let root = DATA_ROOT_KEYS.iter().find_map(named)?;
    (!root.is_empty()).then(|| root.to_owned())
}

/// The configuration of base and overrides together.
pub fn merged(base: &Base<'_>, overrides: &[Override]) -> Result<Value, MergeError> {
    let mut ordered: Vec<_> = overrides.iter().collect();
    ordered.sort_by_key(|o| (o.layer, o.effective_priority(), &o.name));
    let mut document = base_document(base);
    for wish in ordered {
        let object = checked(wish)?;
        merge_objects(&mut document, object);
    }
    Ok(Value::Object(document))
}

/// The text of the file: the same value always gives the same bytes.
pub fn render(document: &Value) -> String {
    format!("{document:#}\n")
}

fn base_document(base: &Base<'_>) -> Map<String, Value> {
    let layout = base.layout;
    let mut document = Map::new();
    let mut set = |key: &str, value: Value| document.insert(key.to_owned(), value);
    set(
        "hosts",
        json!([
            format!("unix://{}", layout.socket),
            format!("tcp://[{}]:{TLS_PORT}", base.listen),
        ]),
    );
    set("tls", json!(true));
    set("tlsverify", json!(true));
    set("tlscacert", json!(layout.tls_ca));
    set("tlscert", json!(layout.tls_cert));
    set("tlskey", json!(layout.tls_key));
    set("pidfile", json!(layout.pidfile));
    set("data-root", json!(layout.data_root));
    set("exec-root", json!(layout.exec_root));
    // A certificate change restarts dockerd; the containers must not notice.
    set("live-restore", json!(true));
    // Ports published on the /128 reach IPv4-only containers through docker-proxy.
    set("userland-proxy", json!(true));
    set("log-driver", json!("json-file"));
    set(
        "log-opts",
        json!({"max-size": LOG_FILE_SIZE_MAX, "max-file": LOG_FILES_MAX}),
    );
    if let Some(mtu) = base.mtu {
        set("mtu", json!(mtu));
    }
    if !base.dns.is_empty() {
        set("dns", json!(base.dns));
    }
    document
}

fn checked(wish: &Override) -> Result<&Map<String, Value>, MergeError> {
    let object = wish
        .document
        .as_object()
        .ok_or_else(|| MergeError::NotAnObject {
            name: wish.name.clone(),
        })?;
    match object.keys().find(|key| is_protected(key)) {
        Some(key) => Err(MergeError::ProtectedKey {
            name: wish.name.clone(),
            key: key.clone(),
        }),
        None => Ok(object),
    }
}

/// Go matches JSON keys without regard to case, so `Hosts` would reach dockerd as `hosts`.
fn is_protected(key: &str) -> bool {
    PROTECTED_KEYS
        .iter()
        .any(|protected| protected.eq_ignore_ascii_case(key))
}

fn merge_objects(into: &mut Map<String, Value>, from: &Map<String, Value>) {
    for (key, value) in from {
        match (into.get_mut(key), value) {
            (Some(Value::Object(below)), Value::Object(above)) => merge_objects(below, above),
            _ => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
    // A log driver without a size limit of that name refuses json-file's options.
    if from
        .get("log-driver")
        .is_some_and(|driver| driver != "json-file")
        && !from.contains_key("log-opts")
    {
        into.remove("log-opts");
    }
}

/// What a running dockerd needs to take a configuration up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Nothing: it runs with it already.
    None,
    /// SIGHUP.
    Reload,
    /// Stop and start; containers live on.
    Restart,
}

/// What leads from the configuration a dockerd runs with to the wanted one.
pub fn change_between(running: &Value, wanted: &Value) -> Change {
    let (Some(running), Some(wanted)) = (running.as_object(), wanted.as_object()) else {
        return Change::Restart;
    };
    let keys = running.keys().chain(wanted.keys());
    keys.filter(|key| running.get(*key) != wanted.get(*key))
        .map(|key| {
            // dockerd leaves a key that vanished from the file as it was, so only a restart
            // brings its default back.
            if RELOADABLE_KEYS.contains(&key.as_str()) && wanted.contains_key(key) {
                Change::Reload
            } else {
                Change::Restart
            }
        })
        .max()
        .unwrap_or(Change::None)
}

#[cfg(test)]
mod tests;
