//! Removes the cgroups that a host's containers leave behind.
//!
//! A container's cgroups outlive it when everything is killed at once, and cgroups are the one
//! thing hosts share. Container ids are unique, so removal by id touches no one else's.

use std::{fs, path::Path};

/// Where every hierarchy is mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// Removes the cgroups of the containers whose state lies in `docker_root` (`/var/lib/docker`).
pub(crate) fn remove_of_containers(docker_root: &Path) {
    for id in container_ids(docker_root) {
        for path in left(&id) {
            // Empty ones only: rmdir refuses a cgroup that has members.
            let _ = fs::remove_dir(path);
        }
    }
}

/// The ids of the containers that a dockerd with this data directory knows.
pub(crate) fn container_ids(docker_root: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(docker_root.join("containers")) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}

/// The cgroups that exist for a container.
pub(crate) fn left(id: &str) -> Vec<std::path::PathBuf> {
    let hierarchies = fs::read_dir(ROOT).into_iter().flatten().flatten();
    (hierarchies.map(|entry| entry.path()))
        .chain([ROOT.into()])
        .map(|hierarchy| hierarchy.join("docker").join(id))
        .filter(|path| path.is_dir())
        .collect()
}
