//! What the daemon keeps on disk, and that only one daemon does.
//!
//! Everything is readable by its owner only. Files are replaced whole (written aside, synced,
//! renamed), so that a power cut leaves the old one or the new one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use consensus_core::{MeshId, RaftId};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// Why the data directory can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataDirError {
    #[error("the data directory {path:?} can't be used")]
    Unusable { path: PathBuf, source: io::Error },
    #[error("another shoald runs on the data directory {path:?}")]
    InUse { path: PathBuf },
    #[error("{path:?} is damaged: {reason}")]
    Damaged { path: PathBuf, reason: String },
}

impl DataDirError {
    /// Stable code.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Unusable { .. } => "DataDirUnusableError",
            Self::InUse { .. } => "DataDirInUseError",
            Self::Damaged { .. } => "DataDirDamagedError",
        }
    }

    /// What to do.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Unusable { .. } => {
                "run shoald as root, or give another directory with --data-dir"
            }
            Self::InUse { .. } => {
                "stop that one first, or give this one its own --data-dir and --socket"
            }
            Self::Damaged { .. } => {
                "restore it from a backup, or empty the data directory and join again"
            }
        }
    }
}

/// The opened, locked data directory.
#[derive(Debug)]
pub(crate) struct DataDir {
    root: PathBuf,
    _lock: File,
}

/// What a node remembers of its mesh besides the view: enough to come back after a reboot.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Membership {
    /// The mesh's id.
    pub(crate) mesh_id: String,
    /// The roots that it trusts, DER in hexadecimal.
    pub(crate) roots: Vec<String>,
    /// What it shows of itself, DER in hexadecimal: leaf first.
    pub(crate) chain: Vec<String>,
    /// Counts daemon starts: newer gossip about this node wins over older.
    pub(crate) generation: u64,
}

/// What a member comes back with.
#[derive(Debug)]
pub(crate) struct Returning {
    /// Its mesh.
    pub(crate) mesh: MeshId,
    /// The roots that it trusts, DER.
    pub(crate) roots: Vec<Vec<u8>>,
    /// What it shows of itself, DER: leaf first.
    pub(crate) chain: Vec<Vec<u8>>,
}

impl Membership {
    /// The text of `mesh.json`.
    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("plain fields are always encodable")
    }

    /// Reads it; says why not otherwise.
    pub(crate) fn decode(text: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(text).map_err(|error| error.to_string())
    }

    /// Begins the next generation, and reads what is written in text. Names the field that can't
    /// be used, and has changed nothing then.
    pub(crate) fn start_again(&mut self) -> Result<Returning, &'static str> {
        let certificates = |texts: &[String], what| {
            let decoded = texts.iter().map(hex::decode).collect::<Result<_, _>>();
            decoded.map_err(|_| what)
        };
        let returning = Returning {
            mesh: self.mesh_id.parse().map_err(|_| "mesh_id")?,
            roots: certificates(&self.roots, "roots")?,
            chain: certificates(&self.chain, "chain")?,
        };
        // No daemon starts so often: whoever wrote the last one is not this program.
        self.generation = self.generation.checked_add(1).ok_or("generation")?;
        Ok(returning)
    }
}

impl DataDir {
    /// Opens (making it if need be) and locks the directory.
    pub(crate) fn open(root: &Path) -> Result<Self, DataDirError> {
        let unusable = |source| DataDirError::Unusable {
            path: root.to_owned(),
            source,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .map_err(unusable)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(root.join("lock"))
            .map_err(unusable)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self {
                root: root.to_owned(),
                _lock: lock,
            }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(DataDirError::InUse {
                path: root.to_owned(),
            }),
            Err(errno) => Err(unusable(errno.into())),
        }
    }

    /// The directory itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The node's Ed25519 key.
    pub(crate) fn node_key(&self) -> PathBuf {
        self.root.join("node.key")
    }

    /// The node's WireGuard key.
    pub(crate) fn wireguard_key(&self) -> PathBuf {
        self.root.join("wireguard.key")
    }

    /// The keys with which this node seals, unseals and signs.
    pub(crate) fn authority(&self) -> PathBuf {
        self.root.join("authority")
    }

    /// A server's log and state. A server that was demoted and promoted has a new one.
    pub(crate) fn raft(&self, id: RaftId) -> PathBuf {
        self.root.join(format!("raft-{}", id.0))
    }

    /// Whether this node has voted under this Raft id before, whatever became of the log.
    pub(crate) fn has_opened_raft(&self, id: RaftId) -> bool {
        fs::read_to_string(self.root.join("raft.id"))
            .is_ok_and(|text| text.trim() == id.0.to_string())
    }

    /// Remembers that it is about to.
    pub(crate) fn note_opened_raft(&self, id: RaftId) -> Result<(), DataDirError> {
        self.replace("raft.id", id.0.to_string().as_bytes())
    }

    /// Forgets it, on a node that is a member of nothing.
    pub(crate) fn forget_opened_raft(&self) {
        let _ = fs::remove_file(self.root.join("raft.id"));
    }

    /// Keeps the log of a group that this server has left by a recovery.
    pub(crate) fn set_aside_raft(&self, id: RaftId) -> Result<(), DataDirError> {
        let (from, to) = (
            self.raft(id),
            self.root.join(format!("raft-{}.before-recovery", id.0)),
        );
        fs::rename(&from, &to).map_err(|source| DataDirError::Unusable { path: from, source })
    }

    /// The Raft ids whose logs are here.
    pub(crate) fn raft_ids(&self) -> Vec<RaftId> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let ids = entries.filter_map(|entry| {
            let name = entry.file_name();
            name.to_str()?
                .strip_prefix("raft-")?
                .parse()
                .ok()
                .map(RaftId)
        });
        ids.collect()
    }

    /// What the node remembers of its mesh.
    pub(crate) fn membership(&self) -> Result<Option<Membership>, DataDirError> {
        let path = self.root.join("mesh.json");
        match fs::read(&path) {
            Ok(text) => Membership::decode(&text)
                .map(Some)
                .map_err(|reason| DataDirError::Damaged { path, reason }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DataDirError::Unusable { path, source }),
        }
    }

    /// Remembers the mesh. From here on the node is a member.
    pub(crate) fn set_membership(&self, membership: &Membership) -> Result<(), DataDirError> {
        self.replace("mesh.json", &membership.encode())
    }

    /// The last known view, if there is a readable one.
    pub(crate) fn view(&self) -> Option<Vec<u8>> {
        fs::read(self.root.join("view.bin")).ok()
    }

    /// Remembers the view, for a start without any server in reach.
    pub(crate) fn set_view(&self, bytes: &[u8]) -> Result<(), DataDirError> {
        self.replace("view.bin", bytes)
    }

    /// Replaces a file below the directory.
    pub(crate) fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), DataDirError> {
        let path = self.root.join(name);
        replace_file(&path, bytes).map_err(|source| DataDirError::Unusable { path, source })
    }

    /// Takes a file below the directory away, if there is one.
    pub(crate) fn remove(&self, name: &str) -> Result<(), DataDirError> {
        let path = self.root.join(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(DataDirError::Unusable { path, source })
            }
            Err(_) | Ok(()) => Ok(()),
        }
    }
}

/// Writes aside, syncs, renames, syncs the directory. The file is readable by its owner only.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(parent)?;
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = PathBuf::from(aside);
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_on_the_same_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path()).unwrap();
        let error = DataDir::open(dir.path()).unwrap_err();
        assert_eq!(error.code(), "DataDirInUseError");
        drop(first);
        DataDir::open(dir.path()).unwrap();
    }

    #[test]
    fn a_member_comes_back_in_its_next_generation_while_there_is_one() {
        let mut membership = Membership {
            mesh_id: MeshId::from_bytes([5; 16]).to_string(),
            roots: vec!["3081".into()],
            chain: vec!["3082".into(), "30".into()],
            generation: u64::MAX - 1,
        };
        let returning = membership.start_again().unwrap();
        assert_eq!(returning.mesh, MeshId::from_bytes([5; 16]));
        assert_eq!(returning.roots, [[0x30, 0x81]]);
        assert_eq!(returning.chain, [vec![0x30, 0x82], vec![0x30]]);
        assert_eq!(membership.generation, u64::MAX);
        assert_eq!(membership.start_again().unwrap_err(), "generation");
        membership.roots.push("3".into());
        assert_eq!(membership.start_again().unwrap_err(), "roots");
        assert_eq!(membership.generation, u64::MAX);
    }

    #[test]
    fn a_damaged_membership_is_told_apart_from_none() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        assert!(data.membership().unwrap().is_none());
        fs::write(dir.path().join("mesh.json"), "{").unwrap();
        assert_eq!(
            data.membership().err().map(|e| e.code()),
            Some("DataDirDamagedError")
        );
    }
}
