//! A directory with what an operator's client needs: `key.pem`, `cert.pem` and `ca.pem`, as
//! `--tls-dir` takes them.
//!
//! Invariants: directory and key are the owner's alone; nothing that was there is overwritten;
//! unless the bundle is complete, nothing is left behind.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::{
    failure::Explained,
    secret_file::{SECRET_MODE, sync_directory_of},
};

const DIRECTORY_MODE: u32 = 0o700;
/// Certificates are no secrets.
const CERTIFICATE_MODE: u32 = 0o644;
const KEY_FILE: &str = "key.pem";
const CERTIFICATE_FILE: &str = "cert.pem";
const CA_FILE: &str = "ca.pem";

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleError {
    #[error("{} is there already, and is no empty directory", path.display())]
    Occupied { path: PathBuf },
    #[error("{} cannot be written", path.display())]
    Unwritable { path: PathBuf, source: io::Error },
    #[error("the certificate was issued, but {} could not be written", path.display())]
    Lost { path: PathBuf, source: io::Error },
}

impl Explained for BundleError {
    fn code(&self) -> &'static str {
        match self {
            Self::Occupied { .. } => "FileExistsError",
            Self::Unwritable { .. } | Self::Lost { .. } => "FileWriteError",
        }
    }

    fn hint(&self) -> String {
        match self {
            Self::Occupied { .. } | Self::Unwritable { .. } => {
                "nothing was made; name a directory that does not exist, or an empty one of yours"
                    .into()
            }
            Self::Lost { .. } => "nobody has its key any more; `shoal operator renew NAME --out \
                                  DIR` issues another"
                .into(),
        }
    }
}

/// A bundle that is being made.
#[derive(Debug)]
pub(super) struct Bundle<'a> {
    path: &'a Path,
    directory_is_ours: bool,
    written: Vec<PathBuf>,
    kept: bool,
}

impl<'a> Bundle<'a> {
    /// Takes the place, and writes the key, which only this machine ever has.
    pub(super) fn create(path: &'a Path, key_pem: &str) -> Result<Self, BundleError> {
        let unwritable = |source| BundleError::Unwritable {
            path: path.into(),
            source,
        };
        let mut builder = DirBuilder::new();
        let directory_is_ours = match builder.mode(DIRECTORY_MODE).create(path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if !is_empty_directory(path).map_err(unwritable)? {
                    return Err(BundleError::Occupied { path: path.into() });
                }
                false
            }
            Err(error) => return Err(unwritable(error)),
        };
        let mut bundle = Self {
            path,
            directory_is_ours,
            written: Vec::new(),
            kept: false,
        };
        bundle
            .write(KEY_FILE, key_pem, SECRET_MODE)
            .map_err(unwritable)?;
        Ok(bundle)
    }

    /// Completes it, and returns when it would survive a power cut.
    pub(super) fn keep(mut self, certificate_pem: &str, ca_pem: &str) -> Result<(), BundleError> {
        let kept = self.complete(certificate_pem, ca_pem);
        self.kept = kept.is_ok();
        kept.map_err(|source| BundleError::Lost {
            path: self.path.into(),
            source,
        })
    }

    fn complete(&mut self, certificate_pem: &str, ca_pem: &str) -> io::Result<()> {
        self.write(CERTIFICATE_FILE, certificate_pem, CERTIFICATE_MODE)?;
        self.write(CA_FILE, ca_pem, CERTIFICATE_MODE)?;
        // An empty directory of somebody else's making may have been open to others.
        fs::set_permissions(self.path, Permissions::from_mode(DIRECTORY_MODE))?;
        File::open(self.path)?.sync_all()?;
        sync_directory_of(self.path)
    }

    fn write(&mut self, name: &str, text: &str, mode: u32) -> io::Result<()> {
        let path = self.path.join(name);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)?;
        self.written.push(path);
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }
}

impl Drop for Bundle<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // What cannot be removed has no certificate, and opens nothing.
        for path in &self.written {
            drop(fs::remove_file(path));
        }
        if self.directory_is_ours {
            drop(fs::remove_dir(self.path));
        }
    }
}

fn is_empty_directory(path: &Path) -> io::Result<bool> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn names(path: &Path) -> Vec<String> {
        let entries = fs::read_dir(path).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_bundle_is_three_files_and_its_key_the_owners_alone() {
        let above = tempfile::tempdir().unwrap();
        let made = above.path().join("made");
        let empty = above.path().join("empty");
        fs::create_dir(&empty).unwrap();
        fs::set_permissions(&empty, Permissions::from_mode(0o755)).unwrap();
        for path in [&made, &empty] {
            let bundle = Bundle::create(path, "KEY").unwrap();
            bundle.keep("CERT", "CA").unwrap();
            assert_eq!(names(path), ["ca.pem", "cert.pem", "key.pem"]);
            assert_eq!(mode(path), 0o700);
            assert_eq!(mode(&path.join("key.pem")), 0o600);
            for (name, text) in [("key.pem", "KEY"), ("cert.pem", "CERT"), ("ca.pem", "CA")] {
                assert_eq!(fs::read_to_string(path.join(name)).unwrap(), text);
            }
        }
    }

    #[test]
    fn what_is_not_complete_leaves_things_as_they_were() {
        let above = tempfile::tempdir().unwrap();
        let made = above.path().join("made");
        drop(Bundle::create(&made, "KEY").unwrap());
        assert!(!made.exists());

        let empty = above.path().join("empty");
        fs::create_dir(&empty).unwrap();
        let bundle = Bundle::create(&empty, "KEY").unwrap();
        // Somebody else's file in between is neither overwritten nor removed.
        fs::write(empty.join("ca.pem"), "mine").unwrap();
        let lost = bundle.keep("CERT", "CA").unwrap_err();
        assert!(matches!(lost, BundleError::Lost { .. }), "{lost}");
        assert_eq!(names(&empty), ["ca.pem"]);
        assert_eq!(fs::read_to_string(empty.join("ca.pem")).unwrap(), "mine");
    }

    #[test]
    fn only_a_new_or_an_empty_directory_is_taken() {
        let above = tempfile::tempdir().unwrap();
        let file = above.path().join("file");
        fs::write(&file, "mine").unwrap();
        for occupied in [above.path(), &file] {
            let refused = Bundle::create(occupied, "KEY").map(drop).unwrap_err();
            assert_eq!(refused.code(), "FileExistsError");
        }
        assert_eq!(names(above.path()), ["file"]);
        let nowhere = above.path().join("none/deeper");
        let refused = Bundle::create(&nowhere, "KEY").map(drop).unwrap_err();
        assert_eq!(refused.code(), "FileWriteError");
        assert_eq!(names(above.path()), ["file"]);
    }
}
