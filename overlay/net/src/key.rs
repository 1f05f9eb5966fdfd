//! The node's Ed25519 key: its identity in the mesh.
//!
//! Decides where the seed rests (one file of 32 bytes that only its owner may read) and that it
//! never shows in a log. The key never leaves this type except as a libp2p key pair or PKCS#8,
//! for the certificate request (RFC 8410).

use std::{
    fmt, fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use consensus_core::NodeId;
use libp2p::{PeerId, identity};
use rand::RngCore as _;
use zeroize::Zeroizing;

/// An Ed25519 seed's length (RFC 8032).
const SEED_BYTES: usize = 32;
/// Mode of the key's file: its owner only.
const FILE_MODE: u32 = 0o600;
/// Permission bits that let somebody else at the key.
const OTHERS_MODE: u32 = 0o077;
/// PKCS#8 v1 header of an Ed25519 private key, followed by the seed (RFC 8410, section 7).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Why a node key could not be loaded or saved.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file could not be read or written.
    #[error("the node key file {path} is not accessible")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody but its owner may read the file.
    #[error("the node key file {path} has mode {mode:04o}, which lets others read it")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is not a key.
    #[error("the node key file {path} holds {found} bytes instead of 32")]
    Length {
        /// The file.
        path: PathBuf,
        /// How many bytes were found; 33 stands for "more than 32".
        found: usize,
    },
}

impl KeyError {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "NodeKeyFileError",
            Self::Exposed { .. } => "NodeKeyExposedError",
            Self::Length { .. } => "NodeKeyMalformedError",
        }
    }

    /// What to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { .. } => None,
            Self::Exposed { path, .. } => Some(format!(
                "if nobody has read it: chmod 600 {}; otherwise remove the node from the mesh and enrol it with a new key",
                path.display()
            )),
            Self::Length { .. } => {
                Some("restore it from a backup, or enrol the node again with a new key".to_owned())
            }
        }
    }
}

/// The node's private key. `Debug` shows the node id only; the seed is wiped when dropped.
#[derive(Clone)]
pub struct NodeKey {
    seed: Zeroizing<[u8; SEED_BYTES]>,
}

impl NodeKey {
    /// A new key from the system's randomness.
    pub fn generate() -> Self {
        let mut seed = Zeroizing::new([0; SEED_BYTES]);
        rand::rng().fill_bytes(seed.as_mut());
        Self { seed }
    }

    /// The key of a known seed.
    pub fn from_seed(seed: [u8; SEED_BYTES]) -> Self {
        Self {
            seed: Zeroizing::new(seed),
        }
    }

    /// Reads a key, refusing a file that others may read.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let io_error = |source| KeyError::Io {
            path: path.to_owned(),
            source,
        };
        let mut file = fs::File::open(path).map_err(io_error)?;
        // Asked of the open file, so that it cannot be exchanged in between.
        let mode = file.metadata().map_err(io_error)?.mode() & 0o7777;
        if mode & OTHERS_MODE != 0 {
            return Err(KeyError::Exposed {
                path: path.to_owned(),
                mode,
            });
        }
        // One byte more than a key, so that a longer file shows.
        let mut bytes = Zeroizing::new([0; SEED_BYTES + 1]);
        let mut filled = 0;
        loop {
            let read = file.read(&mut bytes[filled..]).map_err(io_error)?;
            filled += read;
            if read == 0 || filled == bytes.len() {
                break;
            }
        }
        if filled != SEED_BYTES {
            return Err(KeyError::Length {
                path: path.to_owned(),
                found: filled,
            });
        }
        let mut seed = Zeroizing::new([0; SEED_BYTES]);
        seed.copy_from_slice(&bytes[..SEED_BYTES]);
        Ok(Self { seed })
    }

    /// Writes the key to a new file: whole or not at all, never over an existing key.
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        self.write(path).map_err(|source| KeyError::Io {
            path: path.to_owned(),
            source,
        })
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            Some(_) | None => Path::new("."),
        };
        let mut name = path
            .file_name()
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?
            .to_owned();
        name.push(format!(".{:08x}.new", rand::rng().next_u32()));
        let draft = folder.join(name);
        let written = (|| {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(FILE_MODE)
                .open(&draft)?;
            file.write_all(self.seed.as_ref())?;
            file.sync_all()?;
            // A hard link fails where a rename would replace: an existing key survives.
            fs::hard_link(&draft, path)
        })();
        let removed = fs::remove_file(&draft);
        written?;
        removed?;
        fs::File::open(folder)?.sync_all()
    }

    /// The node's identity.
    pub fn node_id(&self) -> NodeId {
        node_id_of(&self.keypair().public().to_peer_id())
            .expect("an Ed25519 key's peer id is a node id")
    }

    /// The key as libp2p wants it.
    pub fn keypair(&self) -> identity::Keypair {
        let mut seed = Zeroizing::new(*self.seed);
        identity::Keypair::ed25519_from_bytes(&mut seed[..]).expect("32 bytes are an Ed25519 seed")
    }

    /// The raw Ed25519 public key.
    pub fn public_key(&self) -> [u8; 32] {
        self.keypair()
            .public()
            .try_into_ed25519()
            .expect("the node key is Ed25519")
            .to_bytes()
    }

    /// Signs bytes (Ed25519, RFC 8032).
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.keypair()
            .sign(message)
            .expect("Ed25519 signing cannot fail")
    }

    /// The private key as PKCS#8 DER (RFC 8410), wiped when dropped.
    pub fn pkcs8_der(&self) -> Zeroizing<Vec<u8>> {
        let mut der = Zeroizing::new(Vec::with_capacity(PKCS8_PREFIX.len() + SEED_BYTES));
        der.extend_from_slice(&PKCS8_PREFIX);
        der.extend_from_slice(self.seed.as_ref());
        der
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({})", self.node_id())
    }
}

/// The node id of a peer id, unless its key is of another kind.
pub(crate) fn node_id_of(peer: &PeerId) -> Option<NodeId> {
    peer.to_base58().parse().ok()
}

/// The peer id of a node id. `None` if the text is 52 base58 characters but no key.
pub(crate) fn peer_id_of(node: &NodeId) -> Option<PeerId> {
    node.as_str().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_saved_key_loads_as_the_same_node() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        let key = NodeKey::generate();
        key.save(&path).unwrap();
        assert_eq!(NodeKey::load(&path).unwrap().node_id(), key.node_id());
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "no draft left"
        );
    }

    #[test]
    fn an_existing_key_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        let key = NodeKey::generate();
        key.save(&path).unwrap();
        assert!(NodeKey::generate().save(&path).is_err());
        assert_eq!(NodeKey::load(&path).unwrap().node_id(), key.node_id());
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        NodeKey::generate().save(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = NodeKey::load(&path).unwrap_err();
        assert_eq!(error.code(), "NodeKeyExposedError");
    }

    #[test]
    fn a_file_of_another_length_is_no_key() {
        let dir = tempfile::tempdir().unwrap();
        for length in [0, 31, 33, 64] {
            let path = dir.path().join(format!("{length}.key"));
            fs::write(&path, vec![7; length]).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let error = NodeKey::load(&path).unwrap_err();
            assert_eq!(error.code(), "NodeKeyMalformedError", "{length}");
        }
    }

    #[test]
    fn debug_shows_the_node_and_not_the_seed() {
        let key = NodeKey::from_seed([0x41; 32]);
        let shown = format!("{key:?}");
        assert!(shown.contains(key.node_id().as_str()));
        assert!(!shown.contains("65"), "decimal bytes of the seed: {shown}");
        assert!(!shown.contains("AAAA"), "{shown}");
    }

    #[test]
    fn the_pkcs8_form_is_the_key_that_certificates_are_asked_for_with() {
        let key = NodeKey::generate();
        let der = key.pkcs8_der();
        let pair = consensus_authority::PrivateKey::from_pkcs8(&der).unwrap();
        assert_eq!(pair.public_key().node_id(), Some(key.node_id()));
    }

    #[test]
    fn node_ids_and_peer_ids_translate_both_ways() {
        let key = NodeKey::generate();
        let peer = peer_id_of(&key.node_id()).unwrap();
        assert_eq!(peer, key.keypair().public().to_peer_id());
        assert_eq!(node_id_of(&peer), Some(key.node_id()));
    }
}
