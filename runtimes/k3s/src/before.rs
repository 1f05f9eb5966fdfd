//! What was on a host before a stay began: it is there after it.
//!
//! Decides: what K3s has put into directories that may have been there without it. Of files only names are
//! remembered, of one level: what K3s changes inside of what was there before stays. Of mounts each place is:
//! those of an earlier K3s stay, also where shoal's has its own among them, and those go.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use runtimes_host::mounts;
use serde::{Deserialize, Serialize};

use crate::paths::Paths;

/// The directories that were there, what was in them, and what was mounted below them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Before {
    #[serde(flatten)]
    directories: BTreeMap<PathBuf, BTreeSet<String>>,
    /// As the kernel names the places. Older records do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mounts: Option<BTreeSet<PathBuf>>,
}

impl Before {
    /// What is there now.
    pub(crate) fn look(paths: &Paths) -> Self {
        let own = paths.directories();
        let above = own.iter().filter_map(|directory| directory.parent());
        let all = above.map(Path::to_owned).chain(own.iter().cloned());
        let there = all.filter_map(|directory| {
            let names = fs::read_dir(&directory).ok()?;
            // Of those above it matters only that they were there.
            let names = names.flatten().filter(|_| own.contains(&directory));
            let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
            let names = names.collect();
            Some((directory, names))
        });
        Self {
            directories: there.collect(),
            mounts: mounted_below(&own),
        }
    }

    /// Whether something was mounted at a place, which was named so. Where nobody wrote that down, what was
    /// below a file that was there is taken for having been.
    pub(crate) fn had_mounted(&self, place: &Path, named: &Path) -> bool {
        match &self.mounts {
            Some(mounts) => mounts.contains(place),
            None => self.had(named),
        }
    }

    /// Whether a file or a directory was there, or is below one that was.
    pub(crate) fn had(&self, path: &Path) -> bool {
        let inside = |directory: &Path| path.strip_prefix(directory).ok();
        let below = self.directories.iter().any(|(directory, names)| {
            let first = inside(directory).and_then(|rest| rest.components().next());
            first.is_some_and(|first| names.contains(&*first.as_os_str().to_string_lossy()))
        });
        below || self.directories.contains_key(path)
    }
}

/// Unless nobody can tell.
fn mounted_below(own: &[PathBuf]) -> Option<BTreeSet<PathBuf>> {
    let own: Vec<PathBuf> = own.iter().map(|it| mounts::resolved(it)).collect();
    let below = |place: &PathBuf| own.iter().any(|directory| place.starts_with(directory));
    let places = mounts::places().ok()?;
    Some(places.into_iter().filter(below).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_below_k3ss_directories_is_remembered() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths {
            run_dirs: vec!["/proc".into()],
            ..Paths::under(root.path())
        };
        let before = Before::look(&paths);
        let text = serde_json::to_string(&before).unwrap();
        let read: Before = serde_json::from_str(&text).unwrap();
        assert_eq!(read, before);
        let had = |place: &str| read.had_mounted(Path::new(place), Path::new(place));
        assert!(had("/proc"));
        assert!(!had("/") && !had("/proc/self"));
        // As it was written down before.
        let older: Before = serde_json::from_str(r#"{"/run/k3s": ["containerd"]}"#).unwrap();
        assert_eq!(older.mounts, None);
        let place = Path::new("/run/k3s/containerd/x");
        assert!(older.had_mounted(place, place));
    }

    #[test]
    fn what_was_there_is_told_from_what_came_later() {
        let root = tempfile::tempdir().unwrap();
        let below = |path: &str| root.path().join(path);
        let paths = Paths {
            node_dir: below("etc/node"),
            kubelet_dir: below("kubelet"),
            data_dir: below("rancher/k3s"),
            ..Paths::under(root.path())
        };
        fs::create_dir_all(below("etc/node/certs")).unwrap();
        fs::create_dir_all(below("rancher")).unwrap();
        let before = Before::look(&paths);
        let text = serde_json::to_string(&before).unwrap();
        assert_eq!(serde_json::from_str::<Before>(&text).unwrap(), before);
        for (path, had) in [
            ("etc/node", true),
            ("etc/node/certs", true),
            ("etc/node/certs/a", true),
            ("etc/node/password", false),
            ("rancher", true),
            ("rancher/k3s", false),
            ("rancher/k3s/agent", false),
            ("kubelet", false),
        ] {
            assert_eq!(before.had(&below(path)), had, "{path}");
        }
    }
}
