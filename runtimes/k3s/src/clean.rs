//! Taking K3s off a host.
//!
//! Decides: what belongs to it, as its own `k3s-killall.sh` and `k3s-uninstall.sh` have it
//! (k3s-io/k3s, install.sh): shims and what runs in them, mounts, interfaces, rules, data. Never:
//! touches data of a K3s that shoal did not start; whoever calls has made sure of that.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use runtimes_host::{
    ending::{self, DoesNotEnd},
    exec,
    files::{FileError, at},
    process::Identity,
    programs,
};
use rustix::mount::UnmountFlags;

use crate::paths::Paths;

/// Shims end their containers, which may take their time.
const SHIMS_WITHIN: Duration = Duration::from_secs(10);
/// `ip` and `iptables` answer at once.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// K3s's interfaces.
const INTERFACES: [&str; 6] = [
    "cni0",
    "flannel.1",
    "flannel-v6.1",
    "flannel-wg",
    "flannel-wg-v6",
    "kube-ipvs0",
];
/// What begins the names of the chains that Kubernetes and its network make.
const CHAINS: [&str; 3] = ["KUBE-", "CNI-", "FLANNEL"];
/// Other things that pods are given on a host.
const NETNS_DIR: &str = "/run/netns";
const NETNS_PREFIX: &str = "cni-";

/// Something could not be taken off.
#[derive(Debug, thiserror::Error)]
pub enum CleanError {
    /// A process of a pod lives on.
    #[error(transparent)]
    DoesNotEnd(#[from] DoesNotEnd),
    /// A mount stays.
    #[error("cannot unmount {}", path.display())]
    Unmount {
        /// Where it is mounted.
        path: PathBuf,
        /// Why.
        source: rustix::io::Errno,
    },
    /// A file or a directory stays.
    #[error(transparent)]
    File(#[from] FileError),
}

impl CleanError {
    /// Stable text for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::DoesNotEnd(_) => "K3sDoesNotEndError",
            Self::Unmount { .. } => "UnmountError",
            Self::File(error) => error.code(),
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::DoesNotEnd(DoesNotEnd { pid }) => format!("look at /proc/{pid}/stack"),
            Self::Unmount { path, .. } => {
                format!("look who uses it: `fuser -vm {}`", path.display())
            }
            Self::File(error) => error.hint(),
        }
    }
}

/// Takes everything off that K3s left; it has been stopped.
pub(crate) async fn clean(paths: &Paths) -> Result<(), CleanError> {
    end_shims(paths).await?;
    unmount_below(paths)?;
    remove_network_namespaces()?;
    remove_routes(paths).await;
    remove_interfaces().await;
    remove_chains().await;
    let mut directories = vec![&paths.config_dir, &paths.node_dir, &paths.data_dir];
    directories.push(&paths.kubelet_dir);
    directories.extend(&paths.run_dirs);
    for directory in directories {
        remove_tree(directory)?;
    }
    // One that K3s had just begun to start when it was stopped was not to be seen as a shim before.
    end_shims(paths).await?;
    // Rancher's other things live there too: they go only if they are empty.
    let above = [&paths.config_dir, &paths.data_dir].map(|directory| directory.parent());
    for directory in above.into_iter().flatten() {
        if directory.ends_with("rancher") {
            let _ = fs::remove_dir(directory);
        }
    }
    Ok(())
}

/// Ends shims until there are none: a pod's may come up while others are ended.
async fn end_shims(paths: &Paths) -> Result<(), CleanError> {
    loop {
        let shims = shims(&paths.data_dir);
        if shims.is_empty() {
            return Ok(());
        }
        for shim in shims {
            ending::end(shim, SHIMS_WITHIN).await?;
        }
    }
}

/// The shims of K3s's own containerd and all that runs below them.
fn shims(data_dir: &Path) -> Vec<Identity> {
    let data = data_dir.join("data");
    let is_shim = |identity: &Identity| {
        let program = fs::read_link(format!("/proc/{}/exe", identity.pid));
        let name = program.as_deref().unwrap_or(Path::new("")).file_name();
        let shim = name.is_some_and(|name| name.to_string_lossy().starts_with("containerd-shim"));
        shim && program.is_ok_and(|program| program.starts_with(&data))
    };
    let all = processes();
    let roots: Vec<Identity> = all.iter().map(|(i, _)| *i).filter(is_shim).collect();
    let mut found = roots.clone();
    let mut above: Vec<u32> = roots.iter().map(|identity| identity.pid).collect();
    while !above.is_empty() {
        let children = all.iter().filter(|(_, parent)| above.contains(parent));
        let children: Vec<Identity> = children.map(|(identity, _)| *identity).collect();
        above = children.iter().map(|identity| identity.pid).collect();
        found.extend(children);
    }
    // What runs in a pod first: its shim then ends by itself, and leaves no orphan.
    found.reverse();
    found
}

/// Every process, and its parent.
fn processes() -> Vec<(Identity, u32)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| Some((Identity::of(pid)?, parent_of(pid)?)))
        .collect()
}

/// The fourth field of /proc/PID/stat (proc(5)).
fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// What is mounted below K3s's directories, the innermost first.
fn unmount_below(paths: &Paths) -> Result<(), CleanError> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut below: Vec<PathBuf> = mounted(&mounts)
        .filter(|path| is_ours(paths, path))
        .collect();
    below.sort();
    for path in below.into_iter().rev() {
        match rustix::mount::unmount(&path, UnmountFlags::DETACH) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(source) => return Err(CleanError::Unmount { path, source }),
        }
    }
    Ok(())
}

fn is_ours(paths: &Paths, path: &Path) -> bool {
    let mut directories = paths
        .run_dirs
        .iter()
        .chain([&paths.data_dir, &paths.kubelet_dir]);
    let pods = path
        .strip_prefix(NETNS_DIR)
        .is_ok_and(|name| name.to_string_lossy().starts_with(NETNS_PREFIX));
    // A directory that is a mount itself was there before K3s.
    pods || directories.any(|directory| path != directory && path.starts_with(directory))
}

/// The second field of each line; blanks in it are written in octal (fstab(5)).
fn mounted(mounts: &str) -> impl Iterator<Item = PathBuf> {
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    places.map(|place| place.replace("\\040", " ").replace("\\011", "\t").into())
}

fn remove_network_namespaces() -> Result<(), FileError> {
    let directory = Path::new(NETNS_DIR);
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries {
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with(NETNS_PREFIX)
        {
            let path = entry.path();
            fs::remove_file(&path).map_err(at("remove", &path))?;
        }
    }
    Ok(())
}

/// Other nodes' pods, by way of these nodes: flannel's `host-gw` leaves them on an interface that is not
/// K3s's, and `k3s-killall.sh` too.
async fn remove_routes(paths: &Paths) {
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
async fn remove_interfaces() {
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

/// Rules of Kubernetes, taken out of what iptables saves and put back without them.
async fn remove_chains() {
    for family in ["iptables", "ip6tables"] {
        let (save, restore) = (format!("{family}-save"), format!("{family}-restore"));
        let Some((save, restore)) = programs::find(&save).zip(programs::find(&restore)) else {
            continue;
        };
        let Ok(answer) = exec::run::<&str>(&save, &[], &[], ANSWER_WITHIN).await else {
            continue;
        };
        let kept = without_chains(&answer.stdout);
        if !answer.success || kept == answer.stdout {
            continue;
        }
        if let Err(error) = exec::feed(&restore, &[], kept.as_bytes(), ANSWER_WITHIN).await {
            tracing::warn!(%error, family, "rules of Kubernetes stay");
        }
    }
}

fn without_chains(rules: &str) -> String {
    let theirs = |line: &&str| !CHAINS.iter().any(|chain| line.contains(chain));
    let kept = rules.lines().filter(theirs);
    kept.map(|line| format!("{line}\n")).collect()
}

fn remove_tree(directory: &Path) -> Result<(), FileError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(at("remove", directory)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_mounted_below_k3ss_directories_is_unmounted() {
        let paths = Paths::under(Path::new("/var/lib/shoal"));
        for (path, expected) in [
            ("/run/k3s/containerd/x/rootfs", true),
            ("/var/lib/kubelet/pods/x/volumes/y", true),
            ("/run/netns/cni-1234", true),
            ("/run/netns/blue", false),
            ("/var/lib/rancher/k3s", false),
            ("/var/lib/rancher", false),
            ("/var/lib/docker/overlay2/x", false),
        ] {
            assert_eq!(is_ours(&paths, Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn a_blank_in_a_mounts_place_is_read() {
        let mounts = "proc /proc proc rw 0 0\ntmpfs /run/a\\040b tmpfs rw 0 0\n";
        let places: Vec<PathBuf> = mounted(mounts).collect();
        assert_eq!(places, [Path::new("/proc"), Path::new("/run/a b")]);
    }

    #[test]
    fn flannel_says_where_all_pods_are() {
        let settings = "FLANNEL_NETWORK=10.42.0.0/16,10.52.0.0/16\nFLANNEL_SUBNET=10.42.1.1/24\nFLANNEL_MTU=1420\nFLANNEL_IPV6_NETWORK=fd00::/56\n";
        let networks = pod_networks(settings);
        assert_eq!(networks, ["10.42.0.0/16", "10.52.0.0/16", "fd00::/56"]);
        assert!(pod_networks("").is_empty());
    }

    #[test]
    fn rules_of_others_stay() {
        let rules = "*nat\n:DOCKER - [0:0]\n:KUBE-SERVICES - [0:0]\n-A DOCKER -j RETURN\n-A PREROUTING -j KUBE-SERVICES\n-A FORWARD -j FLANNEL-FWD\nCOMMIT\n";
        let kept = without_chains(rules);
        assert_eq!(kept, "*nat\n:DOCKER - [0:0]\n-A DOCKER -j RETURN\nCOMMIT\n");
    }

    #[test]
    fn a_shim_of_another_containerd_is_nobody_of_ours() {
        assert!(shims(Path::new("/nowhere")).is_empty());
        assert_eq!(
            parent_of(std::process::id()),
            Some(std::os::unix::process::parent_id())
        );
    }
}
