//! This node's WireGuard key: made once, kept in one file that only root reads.
//!
//! Never: prints, copies or logs the private half. Its memory is wiped when it is dropped.

use std::{
    fmt, fs,
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use overlay_core::peers::PublicKey;
use zeroize::{Zeroize as _, Zeroizing};

/// Owner reads and writes, nobody else.
const KEY_FILE_MODE: u32 = 0o600;

/// A Curve25519 private key.
#[derive(Clone)]
pub struct PrivateKey([u8; 32]);

impl PrivateKey {
    /// Takes the key's 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        let secret = x25519_dalek::StaticSecret::from(self.0);
        PublicKey::from_bytes(x25519_dalek::PublicKey::from(&secret).to_bytes())
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Drop for PrivateKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(of {})", self.public())
    }
}

/// Why there is no private key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("the private key file {path} cannot be {action}")]
    File {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The file does not hold 64 hexadecimal digits.
    #[error("the private key file {path} does not hold a key")]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// Others than the owner may read the file.
    #[error("the private key file {path} has mode {mode:04o}")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

impl KeyError {
    /// Stable name of the failure.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::File { .. } => "PrivateKeyFileError",
            Self::Malformed { .. } => "PrivateKeyMalformed",
            Self::Exposed { .. } => "PrivateKeyExposed",
        }
    }

    /// What the operator can do.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::File { .. } => "check that the state directory exists and is writable by root",
            Self::Malformed { .. } => {
                "restore the file from a backup, or delete it: the node then makes a new key"
            }
            Self::Exposed { .. } => {
                "treat the key as leaked: delete the file, the node then makes a new one"
            }
        }
    }
}

/// Makes a new key from the operating system's randomness.
pub fn generate_key() -> PrivateKey {
    let mut key = wireguard_control::Key::generate_private();
    let private = PrivateKey(key.0);
    key.0.zeroize();
    private
}

/// Reads the key at `path`; makes one there, with mode 0600, when there is no such file.
pub fn load_or_create_private_key(path: &Path) -> Result<PrivateKey, KeyError> {
    match load_private_key(path) {
        Err(KeyError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let key = generate_key();
            store_private_key(path, &key)?;
            Ok(key)
        }
        loaded @ (Ok(_) | Err(_)) => loaded,
    }
}

/// Puts a key at `path`, in the place of what may be there.
pub(crate) fn store_private_key(path: &Path, key: &PrivateKey) -> Result<(), KeyError> {
    file(path, "written", write_new(path, key))
}

/// Reads the key at `path`.
pub(crate) fn load_private_key(path: &Path) -> Result<PrivateKey, KeyError> {
    let text = file(path, "read", fs::read_to_string(path))?;
    let text = Zeroizing::new(text);
    let mode = file(path, "inspected", fs::metadata(path))?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    parse_hex(text.trim_end()).ok_or_else(|| KeyError::Malformed {
        path: path.to_owned(),
    })
}

/// Writes beside the file and renames, so that a crash leaves either no key or a whole one.
fn write_new(path: &Path, key: &PrivateKey) -> io::Result<()> {
    let staged = path.with_extension("new");
    match fs::remove_file(&staged) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(KEY_FILE_MODE)
        .open(&staged)?;
    file.write_all(hex(key.as_bytes()).as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&staged, path)?;
    sync_folder(path)
}

/// Makes what was renamed to `path` outlive a power cut.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => fs::File::open(folder)?.sync_all(),
        Some(_) | None => Ok(()),
    }
}

fn file<T>(path: &Path, action: &'static str, result: io::Result<T>) -> Result<T, KeyError> {
    result.map_err(|source| KeyError::File {
        path: path.to_owned(),
        action,
        source,
    })
}

/// Lower-case hexadecimal, the form of the UAPI; wiped when dropped, as the key may be private.
pub(crate) fn hex(bytes: &[u8; 32]) -> Zeroizing<String> {
    use fmt::Write as _;
    let mut text = Zeroizing::new(String::with_capacity(64));
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
    }
    text
}

pub(crate) fn parse_hex_bytes(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

pub(crate) fn parse_hex(text: &str) -> Option<PrivateKey> {
    parse_hex_bytes(text).map(PrivateKey)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_is_made_once_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wireguard.key");
        let made = load_or_create_private_key(&path).unwrap();
        let read = load_or_create_private_key(&path).unwrap();
        assert_eq!(made.public(), read.public());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wireguard.key");
        load_or_create_private_key(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = load_or_create_private_key(&path).unwrap_err();
        assert_eq!(error.code(), "PrivateKeyExposed");
    }

    #[test]
    fn a_damaged_key_file_is_refused_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wireguard.key");
        write_new(&path, &generate_key()).unwrap();
        let damaged = &fs::read_to_string(&path).unwrap()[..40];
        fs::write(&path, damaged).unwrap();
        let error = load_or_create_private_key(&path).unwrap_err();
        assert_eq!(error.code(), "PrivateKeyMalformed");
        assert_eq!(fs::read_to_string(&path).unwrap(), damaged);
    }

    #[test]
    fn debug_output_shows_the_public_half_only() {
        let key = generate_key();
        let shown = format!("{key:?}");
        assert!(shown.contains(&key.public().to_string()));
        assert!(!shown.contains(hex(key.as_bytes()).as_str()));
    }
}
