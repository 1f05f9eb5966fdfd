//! What was on a host before a stay began: it is there after it.
//!
//! Decides: what K3s has put into directories that may have been there without it. Only names are
//! remembered, of one level: what K3s changes inside of what was there before stays.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::paths::Paths;

/// The directories that were there, and what was in them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Before {
    directories: BTreeMap<PathBuf, BTreeSet<String>>,
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

#[cfg(test)]
mod tests {
    use super::*;

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
