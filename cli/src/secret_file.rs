//! A new file for a secret: the owner's alone, and there before the secret is.
//!
//! Decides: that the place is found before anything is asked for, so that a secret which cannot be
//! kept is never made. Invariants: an existing file is never overwritten; nothing is left behind
//! when there is nothing to keep.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::failure::Explained;

/// Only the owner may read a secret.
pub(crate) const SECRET_MODE: u32 = 0o600;

/// Why there is no place for a secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NewFileError {
    #[error("{} exists already", path.display())]
    Exists { path: PathBuf },
    #[error("{} cannot be written", path.display())]
    Unwritable { path: PathBuf, source: io::Error },
}

impl NewFileError {
    /// What the operating system says about a file that was to be made.
    pub(crate) fn of(path: &Path, source: io::Error) -> Self {
        match source.kind() == io::ErrorKind::AlreadyExists {
            true => Self::Exists { path: path.into() },
            false => Self::Unwritable {
                path: path.into(),
                source,
            },
        }
    }
}

impl Explained for NewFileError {
    fn code(&self) -> &'static str {
        match self {
            Self::Exists { .. } => "FileExistsError",
            Self::Unwritable { .. } => "FileWriteError",
        }
    }

    fn hint(&self) -> String {
        "nothing was made; name a file that does not exist in a directory you may write to".into()
    }
}

/// A file that holds the place of a secret, and goes away again if none comes.
#[derive(Debug)]
pub(crate) struct SecretFile<'a> {
    path: &'a Path,
    file: File,
    kept: bool,
}

impl<'a> SecretFile<'a> {
    /// Takes the place.
    pub(crate) fn create(path: &'a Path) -> Result<Self, NewFileError> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(SECRET_MODE)
            .open(path)
            .map_err(|source| NewFileError::of(path, source))?;
        Ok(Self {
            path,
            file,
            kept: false,
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &'a Path {
        self.path
    }

    /// Writes the secret, and returns when it would survive a power cut.
    pub(crate) fn keep(mut self, text: &str) -> io::Result<()> {
        self.file.write_all(text.as_bytes())?;
        self.file.sync_all()?;
        sync_directory_of(self.path)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for SecretFile<'_> {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed is an empty file, which whoever reads it refuses by name.
            drop(std::fs::remove_file(self.path));
        }
    }
}

/// Makes a new name in a directory survive a power cut.
pub(crate) fn sync_directory_of(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_file_is_the_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let file = SecretFile::create(&path).unwrap();
        file.keep("shoal1.x\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "shoal1.x\n");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_secret_file_is_never_overwritten_and_never_left_empty() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        drop(SecretFile::create(&path).unwrap());
        assert!(!path.exists());
        std::fs::write(&path, "mine").unwrap();
        let refused = SecretFile::create(&path).map(drop).unwrap_err();
        assert_eq!(refused.code(), "FileExistsError");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    }

    #[test]
    fn a_name_without_a_directory_is_in_the_present_one() {
        sync_directory_of(Path::new("token")).unwrap();
    }
}
