//! What a daemon said.
//!
//! Decides: where its words are found, and how large a log of shoal's own may grow.

use std::{
    fs,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use crate::{
    files::{FileError, at},
    journal,
};

/// The log is cut here; with its predecessor it takes at most twice as much.
const LOG_BYTES_MAX: u64 = 16 << 20;
/// How much is searched for the reason of an end.
const TAIL_BYTES_MAX: u64 = 16 << 10;

/// Where a daemon's words are found, from some moment on.
#[derive(Debug)]
pub enum Said {
    /// In a log of shoal's own.
    File {
        /// Its path.
        log: PathBuf,
        /// The byte from which on.
        from: u64,
    },
    /// In systemd's journal.
    Journal {
        /// The unit.
        unit: &'static str,
        /// The cursor after which.
        after: Option<String>,
    },
}

impl Said {
    /// What was said, the last part of it; `None` if that cannot be known.
    pub async fn read(&self) -> Option<String> {
        match self {
            Self::File { log, from } => Some(since(log, *from)),
            Self::Journal { unit, after } => journal::since(unit, after.as_deref()).await,
        }
    }

    /// The same where it only adds a reason to an error that is being told anyway.
    pub async fn text(&self) -> String {
        self.read().await.unwrap_or_default()
    }
}

/// Where the log ends now.
pub fn end(log: &Path) -> u64 {
    fs::metadata(log).map_or(0, |metadata| metadata.len())
}

/// Cuts a log that has grown too large, keeping what it said in `old`. Daemons append, so they write
/// on at the new end.
///
/// # Errors
/// One of the two could not be written.
pub fn cut(log: &Path, old: &Path) -> Result<(), FileError> {
    if end(log) <= LOG_BYTES_MAX {
        return Ok(());
    }
    fs::copy(log, old).map_err(at("write", old))?;
    fs::OpenOptions::new()
        .write(true)
        .open(log)
        .and_then(|file| file.set_len(0))
        .map_err(at("cut", log))
}

/// The same beside a daemon's life. A log that cannot be cut now is cut later; no more is lost by that
/// than some of a disk.
pub async fn keep_short(log: PathBuf, old: PathBuf) {
    if end(&log) <= LOG_BYTES_MAX {
        return;
    }
    let shown = log.display().to_string();
    match tokio::task::spawn_blocking(move || cut(&log, &old)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, log = shown, "a log has grown too large"),
        Err(error) => tracing::warn!(%error, log = shown, "a log has grown too large"),
    }
}

/// What was said since the log ended at `from`, the last part of it.
fn since(log: &Path, from: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = fs::File::open(log)?;
        let end = file.metadata()?.len();
        // One that is shorter than it was has been cut since.
        let from = if from > end { 0 } else { from };
        let from = from.max(end.saturating_sub(TAIL_BYTES_MAX));
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    // The log only adds a reason to an error that is being told anyway.
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_grew_too_large_is_cut_and_its_predecessor_kept() {
        let root = tempfile::tempdir().unwrap();
        let (log, old) = (root.path().join("log"), root.path().join("log.1"));
        let file = fs::File::create(&log).unwrap();
        file.set_len(LOG_BYTES_MAX + 1).unwrap();
        cut(&log, &old).unwrap();
        assert_eq!(end(&log), 0);
        assert_eq!(end(&old), LOG_BYTES_MAX + 1);
        cut(&log, &old).unwrap();
    }

    #[test]
    fn what_is_said_after_a_cut_is_heard() {
        let root = tempfile::tempdir().unwrap();
        let log = root.path().join("log");
        fs::write(&log, "before").unwrap();
        let from = end(&log);
        assert_eq!(since(&log, from), "");
        fs::write(&log, "now").unwrap();
        assert_eq!(since(&log, from), "now");
    }

    #[tokio::test]
    async fn only_a_log_that_grew_too_large_is_cut_while_its_daemon_runs() {
        let root = tempfile::tempdir().unwrap();
        let (log, old) = (root.path().join("log"), root.path().join("log.1"));
        fs::write(&log, "short").unwrap();
        keep_short(log.clone(), old.clone()).await;
        assert_eq!((end(&log), old.exists()), (5, false));
        let daemon = fs::OpenOptions::new().append(true).open(&log).unwrap();
        daemon.set_len(LOG_BYTES_MAX + 1).unwrap();
        keep_short(log.clone(), old.clone()).await;
        // It goes on writing where the log ends now.
        std::io::Write::write_all(&mut &daemon, b"on").unwrap();
        assert_eq!((end(&log), end(&old)), (2, LOG_BYTES_MAX + 1));
    }
}
