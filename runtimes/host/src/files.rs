//! Files on the host, and the list of them.
//!
//! Decides: the order in which a file appears. First the manifest names it, durably; then it is
//! written beside its place, synced and renamed into it. A crash at any point leaves either the
//! old file or the new one, and nothing that [`HostFiles::remove_all`] does not know.
//! Never: removes what the manifest does not list, nor a directory that is not empty.

use std::{
    collections::BTreeSet,
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// Suffix of a file that is being written.
const UNFINISHED: &str = "shoal-new";
/// Directories hold keys or name containers: for root alone.
const DIRECTORY_MODE: u32 = 0o700;
/// Directories of files that all may read, such as a drop-in that `systemctl cat` shows.
const OPEN_DIRECTORY_MODE: u32 = 0o755;

/// A file could not be read, written or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct FileError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl FileError {
    /// The failure of something done to a file.
    pub fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// Stable text for programs.
    pub fn code(&self) -> &'static str {
        if self.source.kind() == io::ErrorKind::StorageFull {
            "DiskFullError"
        } else {
            "HostFileError"
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        let kind = self.source.kind();
        if kind == io::ErrorKind::StorageFull {
            "free some space on that file system".to_owned()
        } else if kind == io::ErrorKind::PermissionDenied {
            "run shoald as root".to_owned()
        } else {
            format!("look at {}", self.path.display())
        }
    }
}

/// Names the action and the path that an I/O error belongs to.
pub fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    move |source| FileError::new(action, path, source)
}

/// The file's text; `None` if there is no such file.
pub fn read(path: &Path) -> Result<Option<String>, FileError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at("read", path)(error)),
    }
}

/// The same of a file that somebody may have written anything into. One that is no text is not as shoal left
/// it, is seen to be another one by that, and is put right like any other.
pub fn read_lossy(path: &Path) -> Result<Option<String>, FileError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at("read", path)(error)),
    }
}

/// Everything that is on the host because of a runtime.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    files: BTreeSet<PathBuf>,
    directories: BTreeSet<PathBuf>,
}

/// The files that shoal wrote for a runtime.
#[derive(Debug, Clone)]
pub struct HostFiles {
    manifest: PathBuf,
}

impl HostFiles {
    /// Those that this manifest lists.
    pub fn listed_in(manifest: PathBuf) -> Self {
        Self { manifest }
    }

    /// Whether any are on the host.
    pub fn any(&self) -> bool {
        self.manifest.exists()
    }

    /// Whether a file is listed. Where the list cannot be read nobody knows of any.
    pub fn lists(&self, path: &Path) -> bool {
        let manifest = self.load();
        manifest.is_ok_and(|manifest| manifest.files.contains(path))
    }

    /// Puts a file in place as one step.
    pub fn write(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
        let readable_by_all = mode & 0o004 != 0;
        let directories = if readable_by_all {
            OPEN_DIRECTORY_MODE
        } else {
            DIRECTORY_MODE
        };
        self.enter(path, directories)?;
        write_atomically(path, bytes, mode)
    }

    /// Puts a copy of a large file in place as one step.
    ///
    /// # Errors
    /// One of the two could not be read or written.
    pub fn copy(&self, from: &Path, path: &Path, mode: u32) -> Result<(), FileError> {
        self.enter(path, OPEN_DIRECTORY_MODE)?;
        let mut source = fs::File::open(from).map_err(at("read", from))?;
        put_atomically(path, mode, |file| io::copy(&mut source, file).map(drop))
    }

    /// Lists a directory that another program will fill. [`Self::remove_all`] removes it only once it
    /// is empty.
    ///
    /// # Errors
    /// The manifest could not be written.
    pub fn claim_directory(&self, path: &Path) -> Result<(), FileError> {
        let mut manifest = self.load()?;
        if manifest.directories.insert(path.to_owned()) {
            self.store(&mut manifest)?;
        }
        Ok(())
    }

    /// Lists a file that another program will write, and makes its directory.
    pub fn claim(&self, path: &Path) -> Result<(), FileError> {
        self.enter(path, DIRECTORY_MODE)
    }

    /// Lists a file and makes its directories.
    fn enter(&self, path: &Path, directory_mode: u32) -> Result<(), FileError> {
        let missing: Vec<_> = path
            .ancestors()
            .skip(1)
            .take_while(|directory| !directory.exists())
            .map(Path::to_owned)
            .collect();
        let mut manifest = self.load()?;
        let known = manifest.files.contains(path) && missing.is_empty();
        if !known {
            manifest.files.insert(path.to_owned());
            manifest.directories.extend(missing.iter().cloned());
            self.store(&mut manifest)?;
        }
        missing
            .iter()
            .rev()
            .try_for_each(|directory| make_directory(directory, directory_mode))
    }

    /// Removes one file and forgets it.
    pub fn remove(&self, path: &Path) -> Result<(), FileError> {
        remove_file(path)?;
        let mut manifest = self.load()?;
        if manifest.files.remove(path) {
            self.store(&mut manifest)?;
        }
        Ok(())
    }

    /// Forgets a file that is somebody else's by now. It stays.
    ///
    /// # Errors
    /// The manifest could not be written.
    pub fn forget(&self, path: &Path) -> Result<(), FileError> {
        let mut manifest = self.load()?;
        if manifest.files.remove(path) {
            self.store(&mut manifest)?;
        }
        Ok(())
    }

    /// Removes everything that is listed, then the list.
    pub fn remove_all(&self) -> Result<(), FileError> {
        let manifest = self.load()?;
        for path in &manifest.files {
            remove_file(path)?;
            remove_file(&unfinished(path))?;
        }
        remove_file(&self.manifest)?;
        remove_file(&unfinished(&self.manifest))?;
        // Deepest first: a child sorts after its parent.
        for directory in manifest.directories.iter().rev() {
            remove_empty_directory(directory)?;
        }
        Ok(())
    }

    fn load(&self) -> Result<Manifest, FileError> {
        let Some(text) = read(&self.manifest)? else {
            return Ok(Manifest::default());
        };
        serde_json::from_str(&text).map_err(|error| at("read", &self.manifest)(error.into()))
    }

    fn store(&self, manifest: &mut Manifest) -> Result<(), FileError> {
        let directories: Vec<_> = self
            .manifest
            .ancestors()
            .skip(1)
            .take_while(|directory| !directory.exists())
            .map(Path::to_owned)
            .collect();
        manifest.directories.extend(directories.iter().cloned());
        for directory in directories.iter().rev() {
            make_directory(directory, DIRECTORY_MODE)?;
        }
        let text = serde_json::to_vec_pretty(manifest)
            .map_err(|error| at("write", &self.manifest)(error.into()))?;
        write_atomically(&self.manifest, &text, 0o600)
    }
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(UNFINISHED);
    name.into()
}

fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    put_atomically(path, mode, |file| file.write_all(bytes))
}

fn put_atomically(
    path: &Path,
    mode: u32,
    fill: impl FnOnce(&mut fs::File) -> io::Result<()>,
) -> Result<(), FileError> {
    let new = unfinished(path);
    remove_file(&new)?;
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&new)
        .and_then(|mut file| {
            fill(&mut file)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&new, path))
        .and_then(|()| sync_directory_of(path));
    written.map_err(|error| {
        // The reason is already known; a second failure here would only hide it.
        let _ = fs::remove_file(&new);
        at("write", path)(error)
    })
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(directory) => fs::File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

fn make_directory(directory: &Path, mode: u32) -> Result<(), FileError> {
    match fs::DirBuilder::new().mode(mode).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(at("make directory", directory)(error))
        }
        _ => Ok(()),
    }
}

fn remove_file(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Err(at("remove", path)(error))
        }
        _ => Ok(()),
    }
}

fn remove_empty_directory(directory: &Path) -> Result<(), FileError> {
    match fs::remove_dir(directory) {
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Err(at("remove", directory)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn entries(directory: &Path) -> usize {
        fs::read_dir(directory).unwrap().count()
    }

    #[test]
    fn a_file_that_is_no_text_is_seen_to_be_another_one() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        assert_eq!(read_lossy(&path).unwrap(), None);
        fs::write(&path, b"caf\xe9").unwrap();
        assert!(read(&path).is_err());
        let text = read_lossy(&path).unwrap();
        assert_eq!(text.as_deref(), Some("caf\u{fffd}"));
    }

    #[test]
    fn removal_leaves_exactly_what_was_there_before() {
        let root = tempfile::tempdir().unwrap();
        let theirs = root.path().join("etc/theirs");
        fs::create_dir_all(root.path().join("etc")).unwrap();
        fs::write(&theirs, "x").unwrap();
        let files = HostFiles::listed_in(root.path().join("data/docker/manifest.json"));
        assert!(!files.any());
        files
            .write(
                &root.path().join("etc/shoal/docker/daemon.json"),
                b"{}",
                0o644,
            )
            .unwrap();
        files
            .write(&root.path().join("data/docker/tls/key.pem"), b"k", 0o600)
            .unwrap();
        files.claim(&root.path().join("data/docker/log")).unwrap();
        assert!(files.any());
        files.remove_all().unwrap();
        assert_eq!(entries(root.path()), 1);
        assert_eq!(entries(&root.path().join("etc")), 1);
        files.remove_all().unwrap();
    }

    #[test]
    fn a_file_of_the_operator_in_our_directory_survives_removal() {
        let root = tempfile::tempdir().unwrap();
        let files = HostFiles::listed_in(root.path().join("d/manifest.json"));
        files
            .write(&root.path().join("d/ours"), b"", 0o600)
            .unwrap();
        fs::write(root.path().join("d/theirs"), "x").unwrap();
        files.remove_all().unwrap();
        assert!(root.path().join("d/theirs").exists());
        assert_eq!(entries(&root.path().join("d")), 1);
    }

    #[test]
    fn a_file_that_is_somebody_elses_by_now_survives_removal() {
        let root = tempfile::tempdir().unwrap();
        let files = HostFiles::listed_in(root.path().join("d/manifest.json"));
        let path = root.path().join("bin/k3s");
        files.write(&path, b"ours", 0o755).unwrap();
        fs::write(&path, "theirs").unwrap();
        assert!(files.lists(&path));
        files.forget(&path).unwrap();
        assert!(!files.lists(&path));
        files.remove_all().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
    }

    #[test]
    fn a_key_is_readable_by_its_owner_alone_even_when_it_replaces_a_looser_file() {
        let root = tempfile::tempdir().unwrap();
        let key = root.path().join("key.pem");
        fs::write(&key, "old").unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        let files = HostFiles::listed_in(root.path().join("manifest.json"));
        files.write(&key, b"new", 0o600).unwrap();
        let mode = fs::metadata(&key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_a_crash_left_half_written_is_removed_too() {
        let root = tempfile::tempdir().unwrap();
        let files = HostFiles::listed_in(root.path().join("m/manifest.json"));
        let path = root.path().join("m/a");
        files.claim(&path).unwrap();
        fs::write(unfinished(&path), "half").unwrap();
        files.remove_all().unwrap();
        assert_eq!(entries(root.path()), 0);
    }
}
