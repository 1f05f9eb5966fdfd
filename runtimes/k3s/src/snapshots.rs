//! Snapshots of a cluster's etcd (SPEC 5.12), by K3s's own command.
//!
//! Decides what they are called, and how many of each name stay: K3s prunes those of its own schedule
//! and none that it was asked for (docs.k3s.io: `etcd-snapshot`). Where they are is K3s's. Never:
//! removes one of another name.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use runtimes_host::exec::{self, ExecError};

use crate::{paths::Paths, program, program::ProgramError};

/// etcd writes a gigabyte in seconds; a slow disk takes its time.
const SAVED_WITHIN: Duration = Duration::from_secs(90);
/// Removing files.
const REMOVED_WITHIN: Duration = Duration::from_secs(20);
/// As many of each name as K3s keeps of its own.
const KEPT: usize = 5;

/// No snapshot was taken.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// There is no `k3s`.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// K3s refused.
    #[error("K3s took no snapshot: {reason}")]
    Refused {
        /// In its words.
        reason: String,
    },
}

impl SnapshotError {
    /// Stable text for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Program(error) => error.code(),
            Self::Refused { .. } => "K3sSnapshotError",
        }
    }
}

/// A snapshot that is on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// What K3s calls it.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
}

/// Takes one. Its name begins as it is said; K3s adds the node and the time. Of those that begin so
/// the last few stay.
///
/// # Errors
/// K3s refused, or did not end in time.
pub async fn take(paths: &Paths, name: &str) -> Result<Snapshot, SnapshotError> {
    let program = program::path(paths)?;
    let arguments = ["etcd-snapshot", "save", "--name", name];
    let answer = exec::run(&program, &arguments, &[], SAVED_WITHIN).await;
    let refused = |reason: String| SnapshotError::Refused { reason };
    let answer = answer.map_err(|error: ExecError| refused(error.to_string()))?;
    if !answer.success {
        return Err(refused(answer.tail));
    }
    let directory = paths.data_dir.join("server/db/snapshots");
    let unread = |error: io::Error| refused(format!("{}: {error}", directory.display()));
    let mut found = called(&directory, name).map_err(unread)?;
    let Some((_, newest)) = found.pop() else {
        let directory = directory.display();
        return Err(refused(format!(
            "there is none called {name} in {directory}"
        )));
    };
    remove(&program, outdated(&found)).await;
    Ok(Snapshot {
        path: directory.join(&newest),
        name: newest,
    })
}

/// Those whose names begin so, the oldest first.
fn called(directory: &Path, name: &str) -> io::Result<Vec<(SystemTime, String)>> {
    // K3s puts the node's name behind a hyphen.
    let begins = format!("{name}-");
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Ok(called) = entry.file_name().into_string() else {
            continue;
        };
        if called.starts_with(&begins) {
            found.push((entry.metadata()?.modified()?, called));
        }
    }
    found.sort();
    Ok(found)
}

/// Which of the earlier ones go, now that there is one more.
fn outdated(earlier: &[(SystemTime, String)]) -> &[(SystemTime, String)] {
    let stay = earlier.len().min(KEPT - 1);
    &earlier[..earlier.len() - stay]
}

/// What cannot be removed now goes after the next one.
async fn remove(program: &Path, snapshots: &[(SystemTime, String)]) {
    if snapshots.is_empty() {
        return;
    }
    let names = snapshots.iter().map(|(_, name)| name.as_str());
    let arguments: Vec<&str> = ["etcd-snapshot", "delete"]
        .into_iter()
        .chain(names)
        .collect();
    let removed = exec::run(program, &arguments, &[], REMOVED_WITHIN).await;
    match removed {
        Ok(answer) if answer.success => {}
        Ok(answer) => tracing::info!(reason = answer.tail, "old snapshots stay"),
        Err(error) => tracing::info!(%error, "old snapshots stay"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_snapshots_of_a_name_are_told_from_others() {
        let root = tempfile::tempdir().unwrap();
        for name in ["on-demand-n1-1", "shoal-n1-1", "shoal2-n1-1"] {
            fs::write(root.path().join(name), "").unwrap();
        }
        let names = |name: &str| -> Vec<String> {
            let found = called(root.path(), name).unwrap();
            found.into_iter().map(|(_, name)| name).collect()
        };
        assert_eq!(names("shoal"), ["shoal-n1-1"]);
        assert!(names("other").is_empty());
    }

    #[test]
    fn the_oldest_go_and_five_stay() {
        let at = |s: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
        let earlier: Vec<_> = (1..=6).map(|s| (at(s), format!("shoal-n1-{s}"))).collect();
        assert_eq!(outdated(&earlier), &earlier[..2]);
        assert!(outdated(&earlier[2..]).is_empty());
        assert!(outdated(&[]).is_empty());
    }
}
