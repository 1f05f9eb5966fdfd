//! Flags turned into what servers and agents run with, or refused.
//!
//! Follows `pkg/cli/server/server.go` and `pkg/cli/agent/agent.go` in what is refused before
//! anything is started, in which order, and in which words.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{flags::Flags, table::NOT_HERE};
use crate::{Fatal, node::interfaces};

/// What K3s gives etcd; `--etcd-arg heartbeat-interval=…` changes it.
const ETCD_HEARTBEAT_MS: u64 = 500;
/// What K3s gives etcd; `--etcd-arg election-timeout=…` changes it.
const ETCD_ELECTION_MS: u64 = 5000;
/// kubelet's `node-status-update-frequency`.
const STATUS_EVERY: Duration = Duration::from_secs(10);
/// The controller manager's `node-monitor-grace-period`.
const MONITOR_GRACE: Duration = Duration::from_secs(40);

/// What every node has, also a server, because it runs an agent.
#[derive(Debug, Clone)]
pub(crate) struct NodeSettings {
    pub(crate) token: Option<String>,
    pub(crate) server: Option<String>,
    pub(crate) data_dir: PathBuf,
    pub(crate) name: String,
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) external_ips: Vec<IpAddr>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) taints: Vec<String>,
    pub(crate) flannel_iface: Option<String>,
    pub(crate) status_every: Duration,
    /// As the node's annotation shows them, secrets left out.
    pub(crate) arguments: Vec<String>,
}

/// What must be the same on all servers of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CriticalSettings {
    pub(crate) cluster_cidrs: Vec<String>,
    pub(crate) service_cidrs: Vec<String>,
    pub(crate) cluster_dns: Vec<String>,
    pub(crate) cluster_domain: String,
    pub(crate) flannel_backend: String,
    pub(crate) flannel_ipv6_masq: bool,
    pub(crate) flannel_external_ip: bool,
    pub(crate) egress_selector_mode: String,
    pub(crate) disable_cloud_controller: bool,
    pub(crate) disable_helm_controller: bool,
    pub(crate) disable_network_policy: bool,
    pub(crate) disable_servicelb: bool,
}

/// What a server has beyond its agent.
#[derive(Debug, Clone)]
pub(crate) struct ServerSettings {
    pub(crate) node: NodeSettings,
    pub(crate) bind: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) advertise: IpAddr,
    pub(crate) sans: Vec<String>,
    pub(crate) critical: CriticalSettings,
    pub(crate) kubeconfig: Option<PathBuf>,
    pub(crate) kubeconfig_mode: Option<String>,
    pub(crate) agent_token: Option<String>,
    pub(crate) cluster_init: bool,
    pub(crate) cluster_reset: bool,
    pub(crate) restore: Option<PathBuf>,
    pub(crate) disabled: Vec<String>,
    pub(crate) heartbeat: Duration,
    pub(crate) election: Duration,
    pub(crate) monitor_grace: Duration,
    pub(crate) snapshot_dir: PathBuf,
}

/// Refuses flags of K3s that would have no effect here.
pub(crate) fn refuse_what_is_not_here(flags: &Flags) -> Result<(), Fatal> {
    let asked = NOT_HERE
        .iter()
        .find(|name| (flags.text(name)).is_some_and(|text| !matches!(text, "false" | "0")));
    match asked {
        Some(name) => Err(Fatal::new(format!(
            "--{name} is a flag of K3s, but this stand-in does nothing of the kind"
        ))),
        None => Ok(()),
    }
}

impl NodeSettings {
    pub(crate) fn read(flags: &Flags, arguments: &[String]) -> Result<Self, Fatal> {
        if let Some(argument) = flags.arguments.first() {
            return Err(Fatal::new(format!(
                "unexpected argument {argument} (K3s would ignore it and everything behind it)"
            )));
        }
        refuse_what_is_not_here(flags)?;
        let flannel_iface = flags.text("flannel-iface").map(str::to_owned);
        let mut ips = addresses("node-ip", &flags.list("node-ip"))?;
        if let (Some(interface), true) = (&flannel_iface, ips.is_empty()) {
            ips.push(interfaces::first_address(interface)?);
        }
        if ips.is_empty() {
            ips.push(interfaces::default_address()?);
        }
        let mut labels = BTreeMap::new();
        for label in flags.list("node-label") {
            let (key, value) = label.split_once('=').unwrap_or((&label, ""));
            // The kubelet refuses labels that would make it somebody else.
            if key.contains("node-role.kubernetes.io") {
                return Err(Fatal::new(format!(
                    "failed to validate kubelet flags: unknown 'kubernetes.io' or 'k8s.io' labels specified with --node-labels: [{key}]"
                )));
            }
            labels.insert(key.to_owned(), value.to_owned());
        }
        let frequency = flags.component("kubelet-arg", "node-status-update-frequency");
        let name = match flags.text("node-name") {
            Some(name) => name.to_owned(),
            None => hostname()?,
        };
        Ok(Self {
            token: secret(flags, "token")?,
            server: flags.text("server").map(str::to_owned),
            data_dir: PathBuf::from(
                flags
                    .text("data-dir")
                    .unwrap_or(super::super::files::DATA_DIR),
            ),
            name: name.to_lowercase(),
            ips,
            external_ips: addresses("node-external-ip", &flags.list("node-external-ip"))?,
            labels,
            taints: flags.list("node-taint"),
            flannel_iface,
            status_every: duration(frequency.as_deref(), STATUS_EVERY)?,
            arguments: shown(arguments),
        })
    }

    /// The first address, by which others reach the node.
    pub(crate) fn ip(&self) -> IpAddr {
        self.ips
            .first()
            .copied()
            .unwrap_or(IpAddr::from([127, 0, 0, 1]))
    }
}

impl ServerSettings {
    pub(crate) fn read(flags: &Flags, arguments: &[String]) -> Result<Self, Fatal> {
        let restore = flags.text("cluster-reset-restore-path").map(PathBuf::from);
        let cluster_reset = flags.on("cluster-reset");
        if restore.is_some() && !cluster_reset {
            return Err(Fatal::new(
                "invalid flag use; --cluster-reset required with --cluster-reset-restore-path",
            ));
        }
        let node = NodeSettings::read(flags, arguments)?;
        if cluster_reset && node.server.is_some() {
            return Err(Fatal::new(
                "cannot perform cluster-reset while server URL is set - remove server from configuration before resetting",
            ));
        }
        let advertise = addresses("advertise-address", &flags.list("advertise-address"))?;
        let advertise = advertise.first().or(node.external_ips.first()).copied();
        let advertise = advertise.unwrap_or(node.ip());
        let critical = critical(flags, &node)?;
        let milliseconds = |key: &str, default| -> Result<Duration, Fatal> {
            let given = flags.component("etcd-arg", key);
            let number = given.as_deref().map_or(Ok(default), str::parse::<u64>);
            let number = number.map_err(|_| Fatal::new(format!("invalid etcd-arg {key}")))?;
            Ok(Duration::from_millis(number))
        };
        let heartbeat = milliseconds("heartbeat-interval", ETCD_HEARTBEAT_MS)?;
        let election = milliseconds("election-timeout", ETCD_ELECTION_MS)?;
        // etcd, `server/embed/config.go`.
        if 5 * heartbeat > election {
            return Err(Fatal::new(format!(
                "--election-timeout[{}ms] should be at least as 5 times as --heartbeat-interval[{}ms]",
                election.as_millis(),
                heartbeat.as_millis()
            )));
        }
        let grace = flags.component("kube-controller-manager-arg", "node-monitor-grace-period");
        let snapshot_dir = flags.text("etcd-snapshot-dir").map(PathBuf::from);
        Ok(Self {
            bind: addresses("bind-address", &flags.list("bind-address"))?
                .first()
                .copied(),
            port: flags.number("https-listen-port").unwrap_or(6443),
            advertise,
            sans: flags.list("tls-san"),
            critical,
            kubeconfig: flags.text("write-kubeconfig").map(PathBuf::from),
            kubeconfig_mode: flags.text("write-kubeconfig-mode").map(str::to_owned),
            agent_token: secret(flags, "agent-token")?,
            cluster_init: flags.on("cluster-init"),
            cluster_reset,
            restore,
            disabled: flags.list("disable"),
            heartbeat,
            election,
            monitor_grace: duration(grace.as_deref(), MONITOR_GRACE)?,
            snapshot_dir: snapshot_dir.unwrap_or_else(|| node.data_dir.join("server/db/snapshots")),
            node,
        })
    }
}

/// The cluster's networks, which must be of the families of the node's addresses.
fn networks(flags: &Flags, node: &NodeSettings) -> Result<(Vec<String>, Vec<String>), Fatal> {
    let v6 = node.ip().is_ipv6();
    let or = |list: Vec<String>, v4_default: &str, v6_default: &str| {
        if list.is_empty() {
            vec![(if v6 { v6_default } else { v4_default }).to_owned()]
        } else {
            list
        }
    };
    let cluster_cidrs = or(flags.list("cluster-cidr"), "10.42.0.0/16", "fd00:42::/56");
    let service_cidrs = or(flags.list("service-cidr"), "10.43.0.0/16", "fd00:43::/112");
    for (name, cidrs) in [
        ("cluster-cidr", &cluster_cidrs),
        ("service-cidr", &service_cidrs),
    ] {
        if let Some(cidr) = cidrs.iter().find(|cidr| prefix(cidr).is_none()) {
            return Err(Fatal::new(format!(
                "invalid {name} {cidr}: invalid CIDR address: {cidr}"
            )));
        }
    }
    let family = |cidrs: &[String]| {
        cidrs
            .iter()
            .map(|cidr| cidr.contains(':'))
            .collect::<Vec<_>>()
    };
    if family(&cluster_cidrs) != family(&service_cidrs) {
        return Err(Fatal::new(format!(
            "cluster-cidr: {cluster_cidrs:?} and service-cidr: {service_cidrs:?}, must share the same IP version (IPv4, IPv6 or dual-stack)"
        )));
    }
    if !family(&cluster_cidrs)
        .iter()
        .all(|v6| node.ips.iter().any(|ip| ip.is_ipv6() == *v6))
    {
        return Err(Fatal::new(format!(
            "cluster-cidr: {cluster_cidrs:?} and node-ip: {:?}, must share the same IP version (IPv4, IPv6 or dual-stack)",
            node.ips
        )));
    }
    Ok((cluster_cidrs, service_cidrs))
}

fn critical(flags: &Flags, node: &NodeSettings) -> Result<CriticalSettings, Fatal> {
    let (cluster_cidrs, service_cidrs) = networks(flags, node)?;
    let flannel_backend = flags.text("flannel-backend").unwrap_or("vxlan").to_owned();
    if !["none", "vxlan", "host-gw", "wireguard-native"].contains(&flannel_backend.as_str()) {
        return Err(Fatal::new(format!(
            "Unknown flannel backend '{flannel_backend}'"
        )));
    }
    let egress_selector_mode = flags
        .text("egress-selector-mode")
        .unwrap_or("agent")
        .to_owned();
    if !["agent", "cluster", "pod", "disabled"].contains(&egress_selector_mode.as_str()) {
        return Err(Fatal::new(format!(
            "invalid egress-selector-mode {egress_selector_mode}"
        )));
    }
    let dns = flags.list("cluster-dns");
    Ok(CriticalSettings {
        cluster_dns: if dns.is_empty() {
            service_cidrs.iter().map(|cidr| tenth(cidr)).collect()
        } else {
            dns
        },
        cluster_cidrs,
        service_cidrs,
        cluster_domain: flags
            .text("cluster-domain")
            .unwrap_or("cluster.local")
            .to_owned(),
        flannel_backend,
        flannel_ipv6_masq: flags.on("flannel-ipv6-masq"),
        flannel_external_ip: flags.on("flannel-external-ip"),
        egress_selector_mode,
        disable_cloud_controller: flags.on("disable-cloud-controller"),
        disable_helm_controller: flags.on("disable-helm-controller"),
        disable_network_policy: flags.on("disable-network-policy"),
        disable_servicelb: flags.list("disable").iter().any(|item| item == "servicelb"),
    })
}

/// `--name`, or what stands in the file of `--name-file`.
fn secret(flags: &Flags, name: &str) -> Result<Option<String>, Fatal> {
    if let Some(file) = flags.text(&format!("{name}-file")) {
        let content = fs::read_to_string(file)
            .map_err(|error| Fatal::new(format!("open {file}: {error}")))?;
        return Ok(Some(content.trim().to_owned()));
    }
    Ok(flags.text(name).map(str::to_owned))
}

fn addresses(name: &str, texts: &[String]) -> Result<Vec<IpAddr>, Fatal> {
    let parse = |text: &String| text.parse::<IpAddr>();
    let parsed: Result<Vec<IpAddr>, _> = texts.iter().map(parse).collect();
    parsed.map_err(|_| Fatal::new(format!("invalid {name}: {}", texts.join(","))))
}

/// An address and the length of its prefix.
pub(crate) fn prefix(cidr: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = cidr.split_once('/')?;
    let (address, length) = (address.parse::<IpAddr>().ok()?, length.parse::<u8>().ok()?);
    (length <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, length))
}

fn tenth(cidr: &str) -> String {
    nth(cidr, 10)
}

/// The n-th address of a prefix; services' first address is the API server's.
pub(crate) fn nth(cidr: &str, number: u8) -> String {
    match prefix(cidr) {
        Some((IpAddr::V4(address), _)) => {
            std::net::Ipv4Addr::from(u32::from(address) + u32::from(number)).to_string()
        }
        Some((IpAddr::V6(address), _)) => {
            std::net::Ipv6Addr::from(u128::from(address) + u128::from(number)).to_string()
        }
        None => cidr.to_owned(),
    }
}

/// Go's durations, as far as they are given here: `10s`, `500ms`, `2m0s`, `1h`.
pub(crate) fn duration(text: Option<&str>, default: Duration) -> Result<Duration, Fatal> {
    let Some(text) = text else {
        return Ok(default);
    };
    let wrong = || Fatal::new(format!("time: invalid duration \"{text}\""));
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        total += match &rest[..unit] {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "m" => Duration::from_secs(number * 60),
            "h" => Duration::from_secs(number * 3600),
            _ => return Err(wrong()),
        };
        rest = &rest[unit..];
    }
    Ok(total)
}

/// This machine's name.
pub(crate) fn hostname() -> Result<String, Fatal> {
    let name = rustix::system::uname();
    let name = name.nodename().to_str();
    name.map(str::to_owned)
        .map_err(|error| Fatal::new(format!("hostname: {error}")))
}

/// Arguments without the secrets among them, as K3s writes them to the node's annotation.
fn shown(arguments: &[String]) -> Vec<String> {
    let secret = |argument: &str| {
        let name = argument
            .trim_start_matches('-')
            .split('=')
            .next()
            .unwrap_or_default();
        matches!(name, "token" | "t" | "agent-token")
    };
    let mut shown = Vec::new();
    let mut hide_next = false;
    for argument in arguments {
        let hidden = std::mem::take(&mut hide_next);
        if hidden {
            shown.push("********".to_owned());
        } else if secret(argument) {
            let name = argument.split('=').next().unwrap_or_default();
            shown.push(name.to_owned());
            if argument.contains('=') {
                shown.push("********".to_owned());
            } else {
                hide_next = true;
            }
        } else {
            shown.push(argument.clone());
        }
    }
    shown
}

/// Whether the snapshot commands' data directory is a server's.
pub(crate) fn data_dir(flags: &Flags) -> PathBuf {
    Path::new(flags.text("data-dir").unwrap_or(crate::files::DATA_DIR)).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::table::{LOGGING, NODE, SERVER};

    fn server(arguments: &[&str]) -> Result<ServerSettings, String> {
        let mut all: Vec<String> = ["--node-ip", "10.0.0.1"].map(str::to_owned).to_vec();
        all.extend(arguments.iter().map(ToString::to_string));
        let flags = Flags::parse(&[LOGGING, NODE, SERVER], &all, |_| None);
        let flags = flags.map_err(|fatal| fatal.to_string())?;
        ServerSettings::read(&flags, &all).map_err(|fatal| fatal.to_string())
    }

    #[test]
    fn defaults_are_k3s_own() {
        let settings = server(&["--node-name", "A"]).unwrap();
        assert_eq!(settings.port, 6443);
        assert_eq!(settings.node.name, "a");
        assert_eq!(settings.critical.cluster_dns, ["10.43.0.10"]);
        assert_eq!(settings.election, Duration::from_secs(5));
        assert_eq!(settings.advertise.to_string(), "10.0.0.1");
    }

    #[test]
    fn what_k3s_refuses_is_refused_in_its_words() {
        for (arguments, words) in [
            (
                vec!["--cluster-cidr", "10.42.0.0"],
                "invalid cluster-cidr 10.42.0.0: invalid CIDR",
            ),
            (
                vec!["--cluster-cidr", "fd00::/56"],
                "must share the same IP version",
            ),
            (
                vec!["--flannel-backend", "ovn"],
                "Unknown flannel backend 'ovn'",
            ),
            (
                vec!["--cluster-reset-restore-path", "x"],
                "--cluster-reset required with",
            ),
            (
                vec!["--cluster-reset", "--server", "https://a:1"],
                "cannot perform cluster-reset while server URL is set",
            ),
            (vec!["extra"], "unexpected argument extra"),
            (
                vec!["--etcd-arg=election-timeout=400"],
                "should be at least as 5 times as --heartbeat-interval[500ms]",
            ),
            (vec!["--docker"], "does nothing of the kind"),
            (
                vec!["--node-label", "node-role.kubernetes.io/worker=true"],
                "labels specified with --node-labels",
            ),
            (
                vec!["--advertise-address", "wg0"],
                "invalid advertise-address: wg0",
            ),
            (
                vec!["--kubelet-arg", "node-status-update-frequency=4"],
                "invalid duration",
            ),
        ] {
            let refused = server(&arguments).unwrap_err();
            assert!(refused.contains(words), "{arguments:?}: {refused}");
        }
    }

    #[test]
    fn secrets_do_not_reach_the_nodes_annotation() {
        let arguments = ["--token", "a", "--tls-san", "b", "--agent-token=c"].map(str::to_owned);
        assert_eq!(
            shown(&arguments),
            [
                "--token",
                "********",
                "--tls-san",
                "b",
                "--agent-token",
                "********"
            ]
        );
    }

    #[test]
    fn durations_are_gos() {
        for (text, milliseconds) in [
            ("10s", 10_000),
            ("500ms", 500),
            ("2m0s", 120_000),
            ("1h", 3_600_000),
        ] {
            let read = duration(Some(text), Duration::ZERO).unwrap();
            assert_eq!(read, Duration::from_millis(milliseconds));
        }
    }
}
