//! What is known of the program in place, and of one that is about to take its place.
//!
//! Decides: whether a file is still the one that was written down. Never: writes a program.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use consensus_core::{BinaryOrigin, K3sBinary};
use runtimes_core::k3s::ProgramSum;
use runtimes_host::files::{self, FileError, HostFiles};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::{sync::oneshot, time::timeout};

use crate::paths::Paths;

/// For the owner alone, though it holds no secret.
const RECORD_MODE: u32 = 0o600;
/// A file on a network's file system is looked at in milliseconds; where its server is away, not at all.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// What is in place, and where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InPlace {
    pub(super) program: PathBuf,
    pub(super) origin: Option<BinaryOrigin>,
    pub(super) version: String,
    /// Tells whether somebody replaced it since.
    pub(super) bytes: u64,
    /// Tells that also of one of the same length. Older records have none.
    #[serde(default)]
    pub(super) sum: Option<ProgramSum>,
    /// How the file was that it came from. Older records have none.
    #[serde(default)]
    pub(super) source: Option<Stamp>,
}

/// A file, as far as it is known without being read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    bytes: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    /// The same of its inode: a copy may keep the other one.
    changed: (i64, i64),
}

/// The file that a program came from, looked at where it holds up nobody. One look hangs at a time: a later one
/// waits for the same answer.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    hangs: Option<oneshot::Receiver<(PathBuf, Option<Stamp>)>>,
    /// What was found last, and where.
    found: Option<(PathBuf, Option<Stamp>)>,
}

/// What tells a program that shoal is about to put in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Print {
    pub(super) bytes: u64,
    pub(super) sum: Option<ProgramSum>,
}

impl Stamp {
    pub(super) fn of(path: &Path) -> Option<Self> {
        let it = fs::metadata(path).ok()?;
        Some(Self {
            bytes: it.len(),
            modified: (it.mtime(), it.mtime_nsec()),
            changed: (it.ctime(), it.ctime_nsec()),
        })
    }
}

impl Sources {
    /// How a file is, or was when it could be looked at last.
    async fn stamp(&mut self, path: &Path) -> Option<Stamp> {
        let look = self.hangs.get_or_insert_with(|| look_at(path.to_owned()));
        let found = timeout(ANSWERS_WITHIN, look).await;
        if let Ok(found) = found {
            self.hangs = None;
            self.found = found.ok().or_else(|| self.found.take());
        }
        let found = self.found.as_ref().filter(|(at, _)| at == path);
        found.and_then(|(_, stamp)| stamp.clone())
    }
}

/// In a thread that the daemon's end does not wait for. Where there can be none, nothing is told.
fn look_at(path: PathBuf) -> oneshot::Receiver<(PathBuf, Option<Stamp>)> {
    let (tell, told) = oneshot::channel();
    let look = move || {
        let stamp = Stamp::of(&path);
        // Whoever asked may be gone.
        let _ = tell.send((path, stamp));
    };
    let _ = thread::Builder::new().spawn(look);
    told
}

impl Print {
    /// Whether a file is that program.
    pub(super) fn is_of(&self, path: &Path) -> Result<bool, FileError> {
        if bytes_of(path) != self.bytes {
            return Ok(false);
        }
        let Some(sum) = self.sum else {
            return Ok(true);
        };
        let found = sum_of(path).map_err(files::at("read", path))?;
        Ok(found == sum.0)
    }
}

impl InPlace {
    pub(super) const fn print(&self) -> Print {
        Print {
            bytes: self.bytes,
            sum: self.sum,
        }
    }

    pub(super) fn is(&self, wanted: &K3sBinary) -> bool {
        let version = wanted.version.as_ref();
        self.origin == wanted.origin && version.is_none_or(|version| *version == self.version)
    }

    /// Whether another file lies where it came from. One that lies there no more was only needed once.
    pub(super) async fn is_stale(&self, sources: &mut Sources) -> bool {
        let now = match &self.origin {
            // K3s runs from there.
            None => Stamp::of(&self.program),
            Some(BinaryOrigin::Path(path)) => sources.stamp(Path::new(path)).await,
            // Another one there has another sum, and so is another origin.
            Some(BinaryOrigin::Url { .. }) => return false,
        };
        self.source.is_some() && now.is_some() && now != self.source
    }
}

/// What is known of the program in place, if it is still that one. Where another one was to take its place
/// and may have, nothing is known.
pub(super) fn intact(paths: &Paths) -> Result<Option<InPlace>, FileError> {
    let Some(record) = recorded(paths)? else {
        return Ok(None);
    };
    let bytes = bytes_of(&record.program);
    let coming = coming(paths)?;
    let other = coming.is_some_and(|it| it.bytes == bytes && it.sum != record.sum);
    Ok((bytes == record.bytes && !other).then_some(record))
}

pub(super) fn recorded(paths: &Paths) -> Result<Option<InPlace>, FileError> {
    let text = files::read(&paths.program_record())?;
    // One that cannot be read is as good as none: the program is looked at anew.
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
}

pub(super) fn coming(paths: &Paths) -> Result<Option<Print>, FileError> {
    let text = files::read(&paths.program_coming())?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
}

pub(super) fn write_down<T: Serialize>(
    files: &HostFiles,
    path: &Path,
    what: &T,
) -> Result<(), FileError> {
    let text =
        serde_json::to_vec_pretty(what).map_err(|error| files::at("write", path)(error.into()))?;
    files.write(path, &text, RECORD_MODE)
}

/// Zero, if there is none: no program is that short.
pub(super) fn bytes_of(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

pub(super) fn sum_of(path: &Path) -> io::Result<[u8; 32]> {
    let mut file = fs::File::open(path)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().into()),
            read => hash.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_an_older_shoald_wrote_down_of_a_program_is_read() {
        let text =
            r#"{"program": "/usr/local/bin/k3s", "origin": null, "version": "v1", "bytes": 7}"#;
        let record: InPlace = serde_json::from_str(text).unwrap();
        assert_eq!((record.sum, &record.source), (None, &None));
        assert!(!record.is_stale(&mut Sources::default()).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_nobody_can_look_at_is_taken_for_what_it_was() {
        let root = tempfile::tempdir().unwrap();
        let [here, there] = ["here", "there"].map(|name| root.path().join(name));
        fs::write(&here, "k3s").unwrap();
        let (mut sources, expected) = (Sources::default(), Stamp::of(&here));
        // However busy the machine is.
        while sources.stamp(&here).await.is_none() {}
        assert_eq!(sources.stamp(&here).await, expected);
        let (tell, told) = oneshot::channel();
        sources.hangs = Some(told);
        assert_eq!(sources.stamp(&here).await, expected);
        assert!(sources.hangs.is_some());
        assert_eq!(sources.stamp(&there).await, None);
        // Its server is there again.
        tell.send((here.clone(), None)).unwrap();
        assert_eq!(sources.stamp(&here).await, None);
        assert!(sources.hangs.is_none());
    }
}
