//! What K3s's network leaves on a host, rules aside.
//!
//! Decides: which routes, interfaces and named network namespaces are of its pods. Never: fails; what stays
//! is told in the log, and stops nobody.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use runtimes_host::{exec, programs};

use super::ANSWER_WITHIN;
use crate::paths::Paths;

/// K3s's interfaces.
const INTERFACES: [&str; 6] = [
    "cni0",
    "flannel.1",
    "flannel-v6.1",
    "flannel-wg",
    "flannel-wg-v6",
    "kube-ipvs0",
];
/// Where containerd names pods' network namespaces, as others do.
const NETNS_DIR: &str = "/run/netns";
const NETNS_PREFIX: &str = "cni-";

/// A network namespace: the device and the number of its file (namespaces(7)).
pub(super) type Namespace = (u64, u64);

/// The one that a process is in.
pub(super) fn namespace_of(pid: &str) -> Option<Namespace> {
    namespace_at(Path::new(&format!("/proc/{pid}/ns/net")))
}

fn namespace_at(path: &Path) -> Option<Namespace> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// The names of those that pods of K3s had: what ended was in them, or nobody is. A pod of another
/// containerd has a process in its own as long as it is there.
pub(super) fn namespaces(ended: &BTreeSet<Namespace>) -> Vec<PathBuf> {
    let entries = fs::read_dir(NETNS_DIR).into_iter().flatten().flatten();
    let named = entries.filter(|entry| {
        let name = entry.file_name();
        name.to_string_lossy().starts_with(NETNS_PREFIX)
    });
    let inhabited = inhabited();
    let of_ours = |path: &PathBuf| {
        namespace_at(path).is_none_or(|it| ended.contains(&it) || !inhabited.contains(&it))
    };
    named.map(|entry| entry.path()).filter(of_ours).collect()
}

fn inhabited() -> BTreeSet<Namespace> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let pids = names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    pids.filter_map(|pid| namespace_of(&pid)).collect()
}

/// Other nodes' pods, by way of these nodes: flannel's `host-gw` leaves them on an interface that is not
/// K3s's, and `k3s-killall.sh` too.
pub(super) async fn remove_routes(paths: &Paths) {
    let Some(ip) = programs::find("ip") else {
        return;
    };
    let settings = paths.run_dirs.iter().map(|dir| dir.join("subnet.env"));
    let settings = settings.filter_map(|path| fs::read_to_string(path).ok());
    for network in settings.flat_map(|text| pod_networks(&text)) {
        let arguments = ["route", "show", "root", network.as_str()];
        let Ok(shown) = exec::run(&ip, &arguments, &[], ANSWER_WITHIN).await else {
            continue;
        };
        for route in shown.stdout.lines().filter(|line| line.contains(" via ")) {
            let words = ["route", "del"].into_iter().chain(route.split_whitespace());
            let words: Vec<&str> = words.collect();
            match exec::run(&ip, &words, &[], ANSWER_WITHIN).await {
                Ok(answer) if answer.success => {}
                Ok(answer) => tracing::warn!(route, reason = answer.tail, "a route stays"),
                Err(error) => tracing::warn!(route, %error, "a route stays"),
            }
        }
    }
}

/// What flannel was given for all pods (flannel, `pkg/subnet`, `WriteSubnetFile`).
fn pod_networks(settings: &str) -> Vec<String> {
    let values = settings.lines().filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        matches!(name, "FLANNEL_NETWORK" | "FLANNEL_IPV6_NETWORK").then_some(value)
    });
    let networks = values.flat_map(|value| value.split(','));
    networks.map(|network| network.trim().to_owned()).collect()
}

/// Those that are there. One that does not go is told in the log: it stops nobody.
pub(super) async fn remove_interfaces() {
    let Some(ip) = programs::find("ip") else {
        return;
    };
    let there = INTERFACES
        .into_iter()
        .map(str::to_owned)
        .chain(bridged("cni0"));
    for interface in there.filter(|name| interfaces().contains(name)) {
        let arguments = ["link", "delete", interface.as_str()];
        match exec::run(&ip, &arguments, &[], ANSWER_WITHIN).await {
            Ok(answer) if answer.success => {}
            Ok(answer) => tracing::warn!(interface, reason = answer.tail, "an interface stays"),
            Err(error) => tracing::warn!(interface, %error, "an interface stays"),
        }
    }
}

/// This network namespace's interfaces. `/sys/class/net` would show those of whoever mounted it.
fn interfaces() -> Vec<String> {
    let text = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let names = text.lines().skip(2).filter_map(|line| line.split_once(':'));
    names.map(|(name, _)| name.trim().to_owned()).collect()
}

/// Pods' ends of a bridge.
fn bridged(bridge: &str) -> Vec<String> {
    let ports = fs::read_dir(format!("/sys/class/net/{bridge}/brif"));
    let ports = ports.into_iter().flatten().flatten();
    ports
        .map(|port| port.file_name().to_string_lossy().into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flannel_says_where_all_pods_are() {
        let settings = "FLANNEL_NETWORK=10.42.0.0/16,10.52.0.0/16\nFLANNEL_SUBNET=10.42.1.1/24\nFLANNEL_MTU=1420\nFLANNEL_IPV6_NETWORK=fd00::/56\n";
        let networks = pod_networks(settings);
        assert_eq!(networks, ["10.42.0.0/16", "10.52.0.0/16", "fd00::/56"]);
        assert!(pod_networks("").is_empty());
    }

    #[test]
    fn a_namespace_that_somebody_is_in_is_known() {
        let own = namespace_of("self").unwrap();
        assert!(inhabited().contains(&own));
        assert_eq!(namespace_of("0"), None);
    }
}
