//! The node's WireGuard keys on its disk: the present one and, while it is being replaced, the one
//! that is to follow.
//!
//! Decides: which of the two is the present one, by what the mesh has agreed; and that a successor is
//! new: what lies on the disk when the daemon starts may be an older copy of it, and the key in it one
//! that was given up. Never: overwrites the present key but with one that is agreed, so that a crash at any moment leaves the key that the
//! others expect on the disk. The old key is gone with that: what was recorded of it can be read by
//! nobody any more (WireGuard whitepaper, section 5.4).

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use overlay_core::peers::PublicKey;

use crate::key::{
    KeyError, PrivateKey, generate_key, load_or_create_private_key, load_private_key,
    store_private_key, sync_folder,
};

/// The node's keys.
#[derive(Debug)]
pub struct Keyring {
    path: PathBuf,
    next_path: PathBuf,
    keys: Mutex<Keys>,
}

#[derive(Debug)]
struct Keys {
    current: PrivateKey,
    next: Option<PrivateKey>,
    /// Whether the next key was made since the daemon started.
    is_new: bool,
    /// Whether the present key is still where the next one was.
    unsaved: bool,
}

impl Keyring {
    /// Reads the keys; makes the present one at `path` when there is none. The next one lies beside
    /// it, with the extension `next`.
    pub fn open(path: &Path) -> Result<Self, KeyError> {
        let current = load_or_create_private_key(path)?;
        let next_path = path.with_extension("next");
        let next = match next_path.try_exists() {
            Ok(true) => Some(load_private_key(&next_path)?),
            // What cannot be looked at cannot be written either, and that is said then.
            Ok(false) | Err(_) => None,
        };
        Ok(Self {
            path: path.to_owned(),
            next_path,
            keys: Mutex::new(Keys {
                current,
                next,
                is_new: false,
                unsaved: false,
            }),
        })
    }

    /// The present key.
    pub fn current(&self) -> PrivateKey {
        self.keys().current.clone()
    }

    /// The public half of the next key, if one was made.
    pub fn next(&self) -> Option<PublicKey> {
        self.keys().next.as_ref().map(PrivateKey::public)
    }

    /// Makes a next key that nobody has seen yet, unless this was done since the daemon started, and
    /// gives its public half. It is on the disk then, in the place of any other.
    pub fn prepare(&self) -> Result<PublicKey, KeyError> {
        let mut keys = self.keys();
        self.keep(&mut keys)?;
        let made = keys.next.as_ref().filter(|_| keys.is_new);
        if let Some(made) = made {
            return Ok(made.public());
        }
        let next = generate_key();
        store_private_key(&self.next_path, &next)?;
        let public = next.public();
        keys.next = Some(next);
        keys.is_new = true;
        Ok(public)
    }

    /// The present key, after the next one has taken its place if that is what is agreed; and whether
    /// the disk says so too. The others use the new key from that moment: a disk that takes no change
    /// holds nothing up, and is asked again each time. A restart goes on from what is there.
    pub fn follow(&self, agreed: &PublicKey) -> (PrivateKey, Result<(), KeyError>) {
        let mut keys = self.keys();
        let agreed_next = |next: &mut PrivateKey| next.public() == *agreed;
        if let Some(next) = keys.next.take_if(agreed_next) {
            keys.current = next;
            keys.is_new = false;
            keys.unsaved = true;
        }
        let kept = self.keep(&mut keys);
        (keys.current.clone(), kept)
    }

    /// Puts the present key where it is looked for first.
    fn keep(&self, keys: &mut Keys) -> Result<(), KeyError> {
        if !keys.unsaved {
            return Ok(());
        }
        fs::rename(&self.next_path, &self.path).map_err(|source| KeyError::File {
            path: self.path.clone(),
            action: "replaced",
            source,
        })?;
        keys.unsaved = false;
        // A crash of the machine takes the device along: it begins with what it finds.
        let synced: io::Result<()> = sync_folder(&self.path);
        if let Err(error) = synced {
            tracing::warn!(%error, "the folder of the WireGuard key cannot be synced");
        }
        Ok(())
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        // Nothing panics between two changes that belong together.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn the_next_key_is_used_only_when_it_is_agreed_and_the_old_one_is_gone_then() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wireguard.key");
        let keys = Keyring::open(&path).unwrap();
        let old = keys.current().public();
        assert_eq!(keys.next(), None);
        let new = keys.prepare().unwrap();
        assert_ne!(new, old);
        assert_eq!(keys.prepare().unwrap(), new, "one at a time");
        let follow = |key| {
            let (key, kept) = keys.follow(key);
            kept.unwrap();
            key.public()
        };
        assert_eq!(follow(&old), old);
        assert_eq!(follow(&new), new);
        assert_eq!((keys.current().public(), keys.next()), (new, None));
        assert_eq!(follow(&old), new, "never back");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_restart_at_any_step_finds_the_keys_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wireguard.key");
        let old = Keyring::open(&path).unwrap().current().public();
        let new = Keyring::open(&path).unwrap().prepare().unwrap();
        let again = Keyring::open(&path).unwrap();
        assert_eq!((again.current().public(), again.next()), (old, Some(new)));
        again.follow(&new).1.unwrap();
        let last = Keyring::open(&path).unwrap();
        assert_eq!((last.current().public(), last.next()), (new, None));
    }

    #[test]
    fn a_key_that_was_there_when_the_daemon_started_is_nobodys_new_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wireguard.key");
        let copied = Keyring::open(&path).unwrap().prepare().unwrap();
        let keys = Keyring::open(&path).unwrap();
        let new = keys.prepare().unwrap();
        assert_ne!(new, copied);
        assert_eq!(keys.prepare().unwrap(), new, "one at a time");
        assert_eq!(Keyring::open(&path).unwrap().next(), Some(new));
        keys.follow(&new).1.unwrap();
        assert_ne!(keys.prepare().unwrap(), new, "the next rotation's");
    }

    #[test]
    fn a_disk_that_takes_no_change_keeps_no_node_off_the_overlay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wireguard.key");
        let keys = Keyring::open(&path).unwrap();
        let new = keys.prepare().unwrap();
        // Nothing can take a folder's place that is not empty.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        fs::write(path.join("x"), "").unwrap();
        let (key, kept) = keys.follow(&new);
        assert_eq!(key.public(), new);
        kept.unwrap_err();
        keys.prepare().unwrap_err();
        fs::remove_dir_all(&path).unwrap();
        keys.follow(&new).1.unwrap();
        assert_eq!(Keyring::open(&path).unwrap().current().public(), new);
    }

    #[test]
    fn a_next_key_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wireguard.key");
        Keyring::open(&path).unwrap().prepare().unwrap();
        let next = folder.path().join("wireguard.next");
        fs::set_permissions(&next, fs::Permissions::from_mode(0o644)).unwrap();
        let error = Keyring::open(&path).unwrap_err();
        assert_eq!(error.code(), "PrivateKeyExposed");
    }
}
