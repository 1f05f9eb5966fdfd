//! Taking K3s off a host.
//!
//! Decides: what belongs to it, as its own `k3s-killall.sh` and `k3s-uninstall.sh` have it
//! (k3s-io/k3s, install.sh): shims and what runs in them, mounts, interfaces, rules, data. Never:
//! touches data of a K3s that shoal did not start; whoever calls has made sure of that. Nor what was
//! there before the stay, or lies beside K3s's settings: that is its operator's.

mod chains;
mod network;
mod shims;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use runtimes_host::{
    ending::DoesNotEnd,
    files::{FileError, at},
    mounts, trees,
};
use rustix::{io::Errno, mount::UnmountFlags};

use self::shims::Shims;
use crate::{before::Before, paths::Paths};

/// `ip` and `iptables` answer at once.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// A mount below another one, or one that came meanwhile, is seen in the next round.
const UNMOUNT_ROUNDS: u32 = 3;

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
        source: Errno,
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

/// Takes everything off that K3s left, and nothing that was there before the stay; it has been stopped.
pub(crate) async fn clean(paths: &Paths, before: &Before) -> Result<(), CleanError> {
    let shims = Shims::below(&paths.data_dir);
    let networks = shims.end().await?;
    let namespaces = network::namespaces(&networks);
    unmount_below(paths, before, &namespaces)?;
    for namespace in &namespaces {
        remove_file(namespace)?;
    }
    network::remove_routes(paths).await;
    network::remove_interfaces().await;
    chains::remove(&paths.data_dir).await;
    // Millions of files take minutes, which hold up nobody here.
    let (all, earlier) = (paths.clone(), before.clone());
    let removed = tokio::task::spawn_blocking(move || remove_files(&all, &earlier)).await;
    removed.expect("it does not panic, and nobody aborts it")?;
    // One that K3s had just begun to start when it was stopped was not to be seen as a shim before.
    shims.end().await?;
    Ok(())
}

fn remove_files(paths: &Paths, before: &Before) -> Result<(), FileError> {
    for directory in paths.directories() {
        remove_new(&directory, before)?;
        // Rancher's other things live there too: it goes only if it is empty.
        let above = directory
            .parent()
            .filter(|above| above.ends_with("rancher"));
        if let Some(above) = above.filter(|above| !before.had(above)) {
            let _ = fs::remove_dir(above);
        }
    }
    // The operator's own settings lie beside it. K3s writes it anew each time.
    remove_file(&paths.kubeconfig())
}

fn remove_file(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Removes a directory, or of one that was there before what was not in it then.
fn remove_new(directory: &Path, before: &Before) -> Result<(), FileError> {
    if !before.had(directory) {
        // Also through a link, behind which its operator put it.
        return match directory.is_dir() {
            true => trees::remove(directory),
            false => remove_file(directory),
        };
    }
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .filter(|path| !before.had(path))
        .try_for_each(|path| remove_entry(&path))
}

/// Unmounts what is below K3s's directories, the innermost first, until nothing is.
fn unmount_below(paths: &Paths, before: &Before, namespaces: &[PathBuf]) -> Result<(), CleanError> {
    let mut refusals = BTreeMap::new();
    let below = || -> Result<Vec<PathBuf>, FileError> {
        Ok(ours(paths, before, namespaces, mounts::places()?))
    };
    for _ in 0..UNMOUNT_ROUNDS {
        for path in below()? {
            if let Err(error) = rustix::mount::unmount(&path, UnmountFlags::DETACH) {
                refusals.insert(path, error);
            }
        }
    }
    // Only what is there is told: a refusal also says that it was not there any more.
    match below()?.into_iter().next() {
        Some(path) => Err(CleanError::Unmount {
            source: refusals.remove(&path).unwrap_or(Errno::BUSY),
            path,
        }),
        None => Ok(()),
    }
}

/// Of these mounts those of K3s, the innermost first.
fn ours(
    paths: &Paths,
    before: &Before,
    namespaces: &[PathBuf],
    mounts: Vec<PathBuf>,
) -> Vec<PathBuf> {
    let own = paths.run_dirs.iter();
    let own = own.chain([&paths.data_dir, &paths.kubelet_dir]);
    // As it was named, which is how it is known from before, and as the kernel names it.
    let own: Vec<(&PathBuf, PathBuf)> = own.map(|it| (it, mounts::resolved(it))).collect();
    let inside = |mount: &Path| {
        own.iter().any(|(named, directory)| {
            let Ok(rest) = mount.strip_prefix(directory) else {
                return false;
            };
            // A directory that is a mount itself was there before K3s.
            mount != directory && !before.had_mounted(mount, &named.join(rest))
        })
    };
    let named = |mount: &Path| {
        let mut namespaces = namespaces.iter();
        namespaces.any(|namespace| mounts::resolved(namespace) == mount)
    };
    let mounts = mounts.into_iter();
    let mut found: Vec<PathBuf> = mounts.filter(|it| inside(it) || named(it)).collect();
    found.sort();
    found.reverse();
    found
}

/// A directory with all that is in it, or a file, or a link but not what it leads to.
fn remove_entry(path: &Path) -> Result<(), FileError> {
    let is_directory = fs::symlink_metadata(path).is_ok_and(|it| it.is_dir());
    match is_directory {
        true => trees::remove(path),
        false => remove_file(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_mounted_below_k3ss_directories_is_unmounted() {
        let paths = Paths::under(Path::new("/var/lib/shoal"));
        let namespaces = [PathBuf::from("/run/netns/cni-1234")];
        let before = Before::default();
        for (path, expected) in [
            ("/run/k3s/containerd/x/rootfs", true),
            ("/var/lib/kubelet/pods/x/volumes/y", true),
            ("/run/netns/cni-1234", true),
            ("/run/netns/cni-5678", false),
            ("/run/netns/blue", false),
            ("/var/lib/rancher/k3s", false),
            ("/var/lib/rancher", false),
            ("/var/lib/docker/overlay2/x", false),
        ] {
            let mounts = vec![PathBuf::from(path)];
            let found = ours(&paths, &before, &namespaces, mounts);
            assert_eq!(!found.is_empty(), expected, "{path}");
        }
    }

    #[test]
    fn mounts_of_an_earlier_k3s_stay_and_those_of_shoals_beside_them_go() {
        let paths = Paths::under(Path::new("/var/lib/shoal"));
        let before: Before = serde_json::from_value(serde_json::json!({
            "/run/k3s": ["containerd"],
            "/var/lib/kubelet": ["pods", "plugins"],
            "mounts": ["/run/k3s/containerd/old/rootfs", "/var/lib/kubelet/plugins"],
        }))
        .unwrap();
        for (path, expected) in [
            ("/run/k3s/containerd/old/rootfs", false),
            ("/run/k3s/containerd/new/rootfs", true),
            ("/var/lib/kubelet/plugins", false),
            ("/var/lib/kubelet/plugins/csi/globalmount", true),
            ("/var/lib/kubelet/pods/x/volumes/y", true),
        ] {
            let mounts = vec![PathBuf::from(path)];
            let found = ours(&paths, &before, &[], mounts);
            assert_eq!(!found.is_empty(), expected, "{path}");
        }
    }

    #[test]
    fn the_innermost_mount_goes_first() {
        let paths = Paths::under(Path::new("/var/lib/shoal"));
        let mounts = ["/run/k3s/a", "/run/k3s/a/b", "/run/k3s/a"].map(PathBuf::from);
        let found = ours(&paths, &Before::default(), &[], mounts.to_vec());
        assert_eq!(
            found,
            ["/run/k3s/a/b", "/run/k3s/a", "/run/k3s/a"].map(PathBuf::from)
        );
    }

    #[test]
    fn a_link_leads_to_what_is_mounted_behind_it() {
        let root = tempfile::tempdir().unwrap();
        let (disk, link) = (root.path().join("disk"), root.path().join("k3s"));
        fs::create_dir(&disk).unwrap();
        std::os::unix::fs::symlink(&disk, &link).unwrap();
        let paths = Paths {
            data_dir: link.clone(),
            ..Paths::under(root.path())
        };
        let mounts = vec![mounts::resolved(&disk).join("agent/x")];
        let found = ours(&paths, &Before::default(), &[], mounts.clone());
        assert_eq!(found, mounts);
        // What is in it goes, and the operator's arrangement stays.
        fs::write(disk.join("file"), "x").unwrap();
        remove_new(&link, &Before::default()).unwrap();
        assert!(link.is_symlink() && disk.is_dir() && !disk.join("file").exists());
        // One inside goes without what it leads to.
        fs::write(disk.join("file"), "x").unwrap();
        let inner = root.path().join("inner");
        std::os::unix::fs::symlink(&disk, &inner).unwrap();
        remove_entry(&inner).unwrap();
        assert!(!inner.is_symlink() && disk.join("file").exists());
    }
}
