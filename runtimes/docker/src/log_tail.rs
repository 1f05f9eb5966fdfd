//! What dockerd said.
//!
//! Decides: where its words are found, how large a log of shoal's own may grow, and which lines tell
//! why dockerd ended.

use std::{
    fs,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use crate::{
    exec::last_bytes,
    files::{FileError, at},
    journal,
    paths::Paths,
};

/// The log is cut here; with its predecessor it takes at most twice as much.
const LOG_BYTES_MAX: u64 = 16 << 20;
/// How much is searched for the reason of an end.
const TAIL_BYTES_MAX: u64 = 16 << 10;
/// How long a reason may be in an error.
const REASON_BYTES_MAX: usize = 500;

/// Where dockerd's words are found, from some moment on.
#[derive(Debug)]
pub(crate) enum Said {
    /// In a log of shoal's own, from that byte.
    File { log: PathBuf, from: u64 },
    /// In systemd's journal, after that cursor.
    Journal {
        unit: &'static str,
        after: Option<String>,
    },
}

impl Said {
    /// What was said, the last part of it; `None` if that cannot be known.
    pub(crate) async fn read(&self) -> Option<String> {
        match self {
            Self::File { log, from } => Some(since(log, *from)),
            Self::Journal { unit, after } => journal::since(unit, after.as_deref()).await,
        }
    }

    /// The same where it only adds a reason to an error that is being told anyway.
    pub(crate) async fn text(&self) -> String {
        self.read().await.unwrap_or_default()
    }
}

/// Where the log ends now.
pub(crate) fn end(log: &Path) -> u64 {
    fs::metadata(log).map_or(0, |metadata| metadata.len())
}

/// Cuts a log that has grown too large. dockerd appends, so it writes on at the new end.
pub(crate) fn cut(paths: &Paths) -> Result<(), FileError> {
    if end(&paths.log()) <= LOG_BYTES_MAX {
        return Ok(());
    }
    let old = paths.old_log();
    fs::copy(paths.log(), &old).map_err(at("write", &old))?;
    let log = paths.log();
    fs::OpenOptions::new()
        .write(true)
        .open(&log)
        .and_then(|file| file.set_len(0))
        .map_err(at("cut", &log))
}

/// What was said since the log ended at `from`, the last part of it.
fn since(log: &Path, from: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = fs::File::open(log)?;
        let end = file.metadata()?.len();
        let from = from.min(end).max(end.saturating_sub(TAIL_BYTES_MAX));
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    // The log only adds a reason to an error that is being told anyway.
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// The line that tells why dockerd ended: the last one that is a complaint, else the last.
pub(crate) fn reason(said: &str) -> String {
    let lines = || said.lines().rev().filter(|line| !line.trim().is_empty());
    let complaint = lines().find(|line| is_complaint(line));
    let line = complaint.or_else(|| lines().next());
    let line = line.unwrap_or("its log is empty").trim();
    last_bytes(line, REASON_BYTES_MAX).to_owned()
}

/// Whether any line tells why dockerd ended.
pub(crate) fn complains(said: &str) -> bool {
    said.lines()
        .any(|line| !line.trim().is_empty() && is_complaint(line))
}

fn is_complaint(line: &str) -> bool {
    let levelled = line.starts_with("time=");
    !levelled && !line.starts_with("Status:")
        || line.contains("level=fatal")
        || line.contains("level=error")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_complaint_is_the_reason() {
        let said = "time=\"x\" level=info msg=\"Starting up\"\nfailed to start daemon: no room\ntime=\"x\" level=info msg=\"bye\"\n";
        assert_eq!(reason(said), "failed to start daemon: no room");
        assert_eq!(reason(""), "its log is empty");
    }

    #[test]
    fn a_log_that_grew_too_large_is_cut_and_its_predecessor_kept() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        fs::create_dir_all(&paths.state_dir).unwrap();
        let file = fs::File::create(paths.log()).unwrap();
        file.set_len(LOG_BYTES_MAX + 1).unwrap();
        cut(&paths).unwrap();
        assert_eq!(end(&paths.log()), 0);
        assert_eq!(end(&paths.old_log()), LOG_BYTES_MAX + 1);
        cut(&paths).unwrap();
    }
}
