//! Overlay interfaces that nobody wants any more: of networks that this node lost its place in while
//! its daemon was away.
//!
//! Decides which interfaces those are: called as shoal calls its own, and of no network that the
//! node has a place in. Whether one is really shoal's, by its key or its record, is for bringing it
//! up to tell. Never: touches an interface that is not.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use overlay_core::mtu::OVERLAY_MTU;
use overlay_wireguard::{InterfaceSettings, PrivateKey, bring_up};

/// What the names of all overlay interfaces begin with.
const OURS: &str = "shoal-";

/// The kernel's table of this network namespace's interfaces. `/sys/class/net` would show those of the
/// namespace that it was mounted in.
pub(super) const LINKS: &str = "/proc/net/dev";

/// The interfaces in that table that are called as overlays and are none of `wanted`.
pub(super) fn leftovers(links: &Path, wanted: &BTreeSet<String>) -> Vec<String> {
    let table = fs::read_to_string(links).unwrap_or_default();
    let mut left: Vec<String> = names(&table)
        .filter(|name| name.starts_with(OURS) && !wanted.contains(*name))
        .map(str::to_owned)
        .collect();
    left.sort();
    left
}

/// Whether this machine has an interface of that name.
pub(super) fn is_there(interface: &str) -> bool {
    let table = fs::read_to_string(LINKS).unwrap_or_default();
    names(&table).any(|name| name == interface)
}

fn names(table: &str) -> impl Iterator<Item = &str> {
    let names = table.lines().filter_map(|line| line.split_once(':'));
    names.map(|(name, _)| name.trim())
}

/// Takes an interface down, if it is shoal's.
pub(super) async fn remove(name: String, key: PrivateKey, run_folder: PathBuf) {
    let settings = InterfaceSettings {
        name: name.clone(),
        private_key: key,
        // Any port: it is about to go.
        listen_port: 0,
        mtu: OVERLAY_MTU,
        run_folder,
        device_command: InterfaceSettings::own_device_command(),
    };
    let down = match bring_up(settings).await {
        Ok(interface) => interface.down().await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = down {
        tracing::warn!(
            interface = name,
            error,
            "an interface of a network that this node is not in stays"
        );
        return;
    }
    tracing::info!(
        interface = name,
        "an interface of a network that this node is not in is gone"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_overlays_that_nobody_wants_are_left_over() {
        let links = tempfile::NamedTempFile::new().unwrap();
        let mut table = "Inter-|   Receive\n face |bytes    packets\n".to_owned();
        for name in [
            "    lo",
            "  eth0",
            "shoal-default",
            "shoal-b-2",
            "shoal-a",
            "shoalx",
        ] {
            table.push_str(&format!("{name}: 0 0\n"));
        }
        fs::write(links.path(), table).unwrap();
        let wanted = ["shoal-default".to_owned()].into();
        assert_eq!(leftovers(links.path(), &wanted), ["shoal-a", "shoal-b-2"]);
        assert!(leftovers(Path::new("/nowhere"), &wanted).is_empty());
    }
}
