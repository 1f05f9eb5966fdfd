//! The shapes that go to an engine and come from it.
//!
//! Decides: what a container may be asked for, and how Docker's answers are told.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    net::IpAddr,
};

use bollard::{
    API_DEFAULT_VERSION, ClientVersion,
    container::LogOutput,
    models::{
        ContainerCreateBody, ContainerSummary as DockerContainer, CreateImageInfo, HostConfig,
        ImageSummary as DockerImage, PortBinding, RestartPolicy as DockerRestartPolicy,
        RestartPolicyNameEnum,
    },
};
use bytes::Bytes;
use runtimes_core::docker::{Listen, Restarts};

use super::DockerError;

/// The oldest API that is spoken: that of the oldest engine shoal runs, 20.10.
const OLDEST_API: ClientVersion = ClientVersion {
    major_version: 1,
    minor_version: 41,
};

/// TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port of the host that leads to one of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedPort {
    /// On the host's overlay addresses.
    pub host: u16,
    /// In the container.
    pub container: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// What happens when a container ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RestartPolicy {
    /// Nothing.
    #[default]
    No,
    /// It is started again, also after a restart of dockerd.
    Always,
    /// The same, unless it had been stopped before.
    UnlessStopped,
    /// It is started again if it failed, at most so often.
    OnFailure {
        /// Zero means without limit.
        retries_max: u16,
    },
}

/// A container to create.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ContainerSpec {
    /// The image.
    pub image: String,
    /// Its name; Docker chooses one when absent.
    pub name: Option<String>,
    /// Ports to publish on the host's overlay addresses.
    pub ports: Vec<PublishedPort>,
    /// Arguments; the image's own when empty.
    pub command: Vec<String>,
    /// `NAME=value`.
    pub environment: Vec<String>,
    /// What happens when it ends.
    pub restart: RestartPolicy,
    /// The network of Docker that it is in; Docker's own bridge when absent.
    pub network: Option<String>,
}

/// Values of environment variables are often secrets.
impl fmt::Debug for ContainerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContainerSpec")
            .field("image", &self.image)
            .field("name", &self.name)
            .field("ports", &self.ports)
            .field("restart", &self.restart)
            .field("network", &self.network)
            .finish_non_exhaustive()
    }
}

/// A port of a listed container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownPort {
    /// The host's address, if it is published.
    pub address: Option<String>,
    /// The host's port, if it is published.
    pub host: Option<u16>,
    /// The container's port.
    pub container: u16,
    /// tcp, udp or sctp.
    pub protocol: String,
}

/// A listed container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSummary {
    /// Its id, 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The image it was made from.
    pub image: String,
    /// created, running, exited, …
    pub state: String,
    /// The state in words, with its age.
    pub status: String,
    /// Its ports.
    pub ports: Vec<ShownPort>,
}

/// A listed image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSummary {
    /// `sha256:…`.
    pub id: String,
    /// `repository:tag`, possibly none or several.
    pub tags: Vec<String>,
    /// `repository@sha256:…` of registries it came from.
    pub digests: Vec<String>,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Seconds since 1970.
    pub created_unix_seconds: i64,
}

/// A sign of life of a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullProgress {
    /// The layer, or the tag for lines about the whole.
    pub layer: Option<String>,
    /// Downloading, Extracting, Pull complete, …
    pub status: String,
    /// Bytes done.
    pub done_bytes: Option<u64>,
    /// Bytes in all.
    pub total_bytes: Option<u64>,
}

/// Which stream a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output, or a terminal.
    Out,
    /// Standard error.
    Error,
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Where it came from.
    pub stream: LogStream,
    /// What it says, line end included.
    pub bytes: Bytes,
}

impl From<LogOutput> for LogLine {
    fn from(output: LogOutput) -> Self {
        let (stream, bytes) = match output {
            LogOutput::StdErr { message } => (LogStream::Error, message),
            LogOutput::StdOut { message }
            | LogOutput::StdIn { message }
            | LogOutput::Console { message } => (LogStream::Out, message),
        };
        Self { stream, bytes }
    }
}

impl From<CreateImageInfo> for PullProgress {
    fn from(info: CreateImageInfo) -> Self {
        let bytes = |count: Option<i64>| count.and_then(|count| u64::try_from(count).ok());
        let detail = info.progress_detail.unwrap_or_default();
        Self {
            layer: info.id,
            status: info.status.unwrap_or_default(),
            done_bytes: bytes(detail.current),
            total_bytes: bytes(detail.total),
        }
    }
}

impl From<DockerImage> for ImageSummary {
    fn from(image: DockerImage) -> Self {
        let named = |name: &String| !name.starts_with("<none>");
        Self {
            id: image.id,
            tags: image.repo_tags.into_iter().filter(named).collect(),
            digests: image.repo_digests.into_iter().filter(named).collect(),
            size_bytes: u64::try_from(image.size).unwrap_or(0),
            created_unix_seconds: image.created,
        }
    }
}

impl From<DockerContainer> for ContainerSummary {
    fn from(container: DockerContainer) -> Self {
        let names = container.names.unwrap_or_default();
        let ports = container.ports.unwrap_or_default();
        Self {
            id: container.id.unwrap_or_default(),
            // Links add names with a second slash; the container's own has one.
            name: names
                .iter()
                .filter_map(|name| name.strip_prefix('/'))
                .find(|name| !name.contains('/'))
                .unwrap_or_default()
                .to_owned(),
            image: container.image.unwrap_or_default(),
            state: container.state.map_or_else(String::new, |s| s.to_string()),
            status: container.status.unwrap_or_default(),
            ports: ports
                .into_iter()
                .map(|port| ShownPort {
                    address: port.ip,
                    host: port.public_port,
                    container: port.private_port,
                    protocol: port.typ.map_or_else(String::new, |typ| typ.to_string()),
                })
                .collect(),
        }
    }
}

/// The API version to speak with an engine whose newest one is given.
pub(crate) fn api_version(newest: &str) -> ClientVersion {
    let numbers = newest
        .split_once('.')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    match numbers {
        Some((major_version, minor_version)) => {
            let theirs = ClientVersion {
                major_version,
                minor_version,
            };
            if theirs < *API_DEFAULT_VERSION {
                theirs
            } else {
                *API_DEFAULT_VERSION
            }
        }
        None => OLDEST_API,
    }
}

/// The image with a tag: without one Docker's API pulls every tag of the repository.
pub(crate) fn with_tag(image: &str) -> String {
    let name = image.rsplit('/').next().unwrap_or(image);
    if name.contains(':') || image.contains('@') {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}

/// Repository and tag of an image that has one.
pub(crate) fn split_tag(reference: &str) -> (&str, &str) {
    reference.rsplit_once(':').unwrap_or((reference, "latest"))
}

/// What Docker is asked to create.
pub(super) fn create_body(
    spec: &ContainerSpec,
    on: Listen,
) -> Result<ContainerCreateBody, DockerError> {
    check(spec)?;
    let port_key = |port: &PublishedPort| format!("{}/{}", port.container, port.protocol);
    let mut bindings: HashMap<String, Option<Vec<PortBinding>>> = HashMap::new();
    for port in &spec.ports {
        let entry = bindings.entry(port_key(port)).or_default();
        entry
            .get_or_insert_default()
            .extend(addresses(on).map(|address| PortBinding {
                host_ip: Some(address.to_string()),
                host_port: Some(port.host.to_string()),
            }));
    }
    let unless_empty = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    Ok(ContainerCreateBody {
        image: Some(spec.image.clone()),
        cmd: unless_empty(&spec.command),
        env: unless_empty(&spec.environment),
        exposed_ports: Some(bindings.keys().cloned().collect()),
        host_config: Some(HostConfig {
            port_bindings: Some(bindings),
            restart_policy: Some(restart_policy(spec.restart)),
            network_mode: spec.network.clone(),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    })
}

fn addresses(on: Listen) -> impl Iterator<Item = IpAddr> {
    std::iter::once(IpAddr::V6(on.ipv6)).chain(on.ipv4.map(IpAddr::V4))
}

fn check(spec: &ContainerSpec) -> Result<(), DockerError> {
    let invalid = |reason: String| Err(DockerError::Invalid { reason });
    if spec.image.is_empty() {
        return invalid("no image is named".to_owned());
    }
    let mut taken = BTreeSet::new();
    for port in &spec.ports {
        if port.host == 0 || port.container == 0 {
            return invalid("a published port is 0".to_owned());
        }
        if !taken.insert((port.host, port.protocol)) {
            return invalid(format!(
                "port {}/{} is published twice",
                port.host, port.protocol
            ));
        }
    }
    match spec.environment.iter().find(|entry| !entry.contains('=')) {
        // The entry itself may be a secret without its name.
        Some(_) => invalid("an environment entry is not NAME=value".to_owned()),
        None => Ok(()),
    }
}

fn restart_policy(policy: RestartPolicy) -> DockerRestartPolicy {
    let (name, retries) = match policy {
        RestartPolicy::No => (RestartPolicyNameEnum::NO, None),
        RestartPolicy::Always => (RestartPolicyNameEnum::ALWAYS, None),
        RestartPolicy::UnlessStopped => (RestartPolicyNameEnum::UNLESS_STOPPED, None),
        RestartPolicy::OnFailure { retries_max } => (
            RestartPolicyNameEnum::ON_FAILURE,
            Some(i64::from(retries_max)),
        ),
    };
    DockerRestartPolicy {
        name: Some(name),
        maximum_retry_count: retries,
    }
}

/// What Docker does about a container with this policy that has ended.
pub(super) fn restarts(policy: Option<RestartPolicyNameEnum>) -> Restarts {
    match policy {
        Some(RestartPolicyNameEnum::ALWAYS) => Restarts::Always,
        Some(RestartPolicyNameEnum::UNLESS_STOPPED) => Restarts::UnlessStopped,
        Some(
            RestartPolicyNameEnum::NO
            | RestartPolicyNameEnum::ON_FAILURE
            | RestartPolicyNameEnum::EMPTY,
        )
        | None => Restarts::Otherwise,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(ports: &[(u16, u16)]) -> ContainerSpec {
        ContainerSpec {
            image: "web".into(),
            ports: ports
                .iter()
                .map(|(host, container)| PublishedPort {
                    host: *host,
                    container: *container,
                    protocol: Protocol::Tcp,
                })
                .collect(),
            ..ContainerSpec::default()
        }
    }

    fn on() -> Listen {
        Listen {
            ipv6: "fd00:5::1".parse().unwrap(),
            ipv4: Some("100.64.0.1".parse().unwrap()),
        }
    }

    #[test]
    fn ports_are_bound_to_the_overlay_addresses_and_nothing_else() {
        let body = create_body(&spec(&[(8080, 80), (8081, 80)]), on()).unwrap();
        let bindings = body.host_config.unwrap().port_bindings.unwrap();
        let bound: Vec<_> = bindings["80/tcp"]
            .iter()
            .flatten()
            .map(|b| {
                (
                    b.host_ip.as_deref().unwrap(),
                    b.host_port.as_deref().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            bound,
            [
                ("fd00:5::1", "8080"),
                ("100.64.0.1", "8080"),
                ("fd00:5::1", "8081"),
                ("100.64.0.1", "8081")
            ]
        );
    }

    #[test]
    fn a_port_published_twice_or_zero_is_refused_before_docker_is_asked() {
        for ports in [vec![(80, 80), (80, 81)], vec![(0, 80)], vec![(80, 0)]] {
            let error = create_body(&spec(&ports), on()).unwrap_err();
            assert_eq!(error.code(), "InvalidContainerError");
        }
    }

    #[test]
    fn an_image_without_a_tag_means_latest() {
        for (image, reference) in [
            ("web", "web:latest"),
            ("web:1", "web:1"),
            ("registry:5000/web", "registry:5000/web:latest"),
            ("registry:5000/web:2", "registry:5000/web:2"),
            ("web@sha256:00", "web@sha256:00"),
        ] {
            assert_eq!(with_tag(image), reference);
        }
        assert_eq!(split_tag("registry:5000/web:2"), ("registry:5000/web", "2"));
    }

    #[test]
    fn the_older_of_both_sides_api_versions_is_spoken() {
        assert_eq!(api_version("1.41").minor_version, 41);
        assert_eq!(api_version("1.999"), *API_DEFAULT_VERSION);
        assert_eq!(api_version("rubbish"), OLDEST_API);
    }

    #[test]
    fn the_environment_never_shows_in_a_log() {
        let mut spec = spec(&[]);
        spec.environment = vec!["TOKEN=hunter2".into()];
        assert!(!format!("{spec:?}").contains("hunter2"));
    }
}
