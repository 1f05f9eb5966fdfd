//! The endpoints that this node wrote into its device, kept beside the device so that a restarted
//! daemon can tell an endpoint learnt by roaming from one of its own.
//!
//! Never: decides which endpoint is right. A file that is lost or damaged is an empty one: the
//! plan then leaves reachable peers alone.

use std::{
    collections::BTreeMap,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use overlay_core::peers::PublicKey;

/// Endpoints by peer, and the file that holds them.
#[derive(Debug)]
pub(crate) struct WrittenEndpoints {
    path: PathBuf,
    endpoints: BTreeMap<PublicKey, SocketAddr>,
}

impl WrittenEndpoints {
    /// Reads what an earlier daemon wrote for this interface.
    pub(crate) fn load(run_folder: &Path, interface: &str) -> Self {
        let path = run_folder.join(format!("{interface}.endpoints"));
        let text = fs::read_to_string(&path).unwrap_or_default();
        let endpoints = text.lines().filter_map(parse_line).collect();
        Self { path, endpoints }
    }

    /// Starts an empty record for a new device. The file is also the mark by which an interface is
    /// known as shoal's.
    pub(crate) fn begin(&mut self) -> io::Result<()> {
        self.endpoints.clear();
        self.store()
    }

    /// Whether a daemon of ours made a device here.
    pub(crate) fn has_begun(&self) -> bool {
        self.path.exists()
    }

    pub(crate) fn get(&self, key: &PublicKey) -> Option<SocketAddr> {
        self.endpoints.get(key).copied()
    }

    /// Forgets all: the device is gone.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        self.endpoints.clear();
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Takes over what was just written (`Some`) or removed (`None`).
    pub(crate) fn record(
        &mut self,
        changes: impl IntoIterator<Item = (PublicKey, Option<SocketAddr>)>,
    ) -> io::Result<()> {
        let before = self.endpoints.clone();
        for (key, endpoint) in changes {
            match endpoint {
                Some(endpoint) => self.endpoints.insert(key, endpoint),
                None => self.endpoints.remove(&key),
            };
        }
        if self.endpoints == before {
            return Ok(());
        }
        self.store()
    }

    fn store(&self) -> io::Result<()> {
        let text: String = self
            .endpoints
            .iter()
            .map(|(key, endpoint)| format!("{key} {endpoint}\n"))
            .collect();
        let staged = self.path.with_extension("new");
        fs::write(&staged, text)?;
        fs::rename(&staged, &self.path)
    }
}

pub(crate) fn parse_line(line: &str) -> Option<(PublicKey, SocketAddr)> {
    let (key, endpoint) = line.split_once(' ')?;
    Some((key.parse().ok()?, endpoint.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restarted_daemon_knows_what_its_predecessor_wrote() {
        let folder = tempfile::tempdir().unwrap();
        let load = || WrittenEndpoints::load(folder.path(), "shoal0");
        let [kept, dropped] = [1, 2].map(|node| PublicKey::from_bytes([node; 32]));
        let endpoint = "[fd00::1]:51820".parse().unwrap();
        let mut first = load();
        first.begin().unwrap();
        first
            .record([(kept, Some(endpoint)), (dropped, Some(endpoint))])
            .unwrap();
        first.record([(dropped, None)]).unwrap();
        let mut second = load();
        assert!(second.has_begun());
        assert_eq!(second.get(&kept), Some(endpoint));
        assert_eq!(second.get(&dropped), None);
        second.end().unwrap();
        assert!(!load().has_begun());
    }

    #[test]
    fn a_damaged_file_is_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("shoal0.endpoints"), "half a li").unwrap();
        let key = PublicKey::from_bytes([1; 32]);
        let loaded = WrittenEndpoints::load(folder.path(), "shoal0");
        assert_eq!(loaded.get(&key), None);
    }
}
