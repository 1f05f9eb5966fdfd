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
    let configured = configured_directory(paths);
    let directory = configured.unwrap_or_else(|| paths.data_dir.join("server/db/snapshots"));
    let shown = directory.display().to_string();
    let refused = |reason: String| SnapshotError::Refused { reason };
    let unread = |error: io::Error| refused(format!("{shown}: {error}"));
    let earlier = called(&directory, name).map_err(unread)?;
    let mut arguments = vec!["etcd-snapshot", "save", "--name", name];
    // Said again, so that it is saved where it is looked for, however the settings are read.
    arguments.extend(["--etcd-snapshot-dir", shown.as_str()]);
    let answer = exec::run(&program, &arguments, &[], SAVED_WITHIN).await;
    let answer = answer.map_err(|error: ExecError| refused(error.to_string()))?;
    if !answer.success {
        return Err(refused(answer.tail));
    }
    let found = called(&directory, name).map_err(unread)?;
    let Some(new) = newest(&earlier, found) else {
        // K3s v1.30.1 and v1.30.2 save on the server that this one joined by.
        return Err(refused(format!(
            "it says that it has, but there is no new one called {name} in {shown}"
        )));
    };
    remove(&program, &shown, outdated(&earlier)).await;
    Ok(Snapshot {
        path: directory.join(&new),
        name: new,
    })
}

/// Of these the last one that was not there before, or not like this.
fn newest(earlier: &[(SystemTime, String)], found: Vec<(SystemTime, String)>) -> Option<String> {
    let mut new = found.into_iter().filter(|one| !earlier.contains(one));
    new.next_back().map(|(_, name)| name)
}

/// Where the operator has K3s save them: the last of its files that says so decides (docs.k3s.io:
/// configuration file).
fn configured_directory(paths: &Paths) -> Option<PathBuf> {
    let drop_ins = paths.config_dir.join("config.yaml.d");
    let entries = fs::read_dir(drop_ins).into_iter().flatten().flatten();
    let mut drop_ins: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    drop_ins.retain(|path| {
        let extension = path.extension();
        extension.is_some_and(|extension| extension == "yaml" || extension == "yml")
    });
    drop_ins.sort();
    let files = [paths.config_dir.join("config.yaml")].into_iter();
    let texts = files.chain(drop_ins);
    let texts = texts.filter_map(|path| fs::read_to_string(path).ok());
    let mut directories = texts.filter_map(|text| directory_in(&text));
    directories.next_back()
}

/// A key of the outermost level stands at a line's beginning. One that is written in another way is not
/// seen: then snapshots are where K3s has them by itself, for that is what it is told.
fn directory_in(text: &str) -> Option<PathBuf> {
    let mut values = text.lines().filter_map(|line| {
        let (key, value) = line.split_once(':')?;
        let key = key.trim_end().trim_matches(['"', '\'']);
        (key == "etcd-snapshot-dir").then_some(value)
    });
    let value = values.next_back()?.split(" #").next()?.trim();
    let value = Path::new(value.trim_matches(['"', '\'']));
    value.is_absolute().then(|| value.to_owned())
}

/// Those whose names begin so, the oldest first.
fn called(directory: &Path, name: &str) -> io::Result<Vec<(SystemTime, String)>> {
    // K3s puts the node's name behind a hyphen.
    let begins = format!("{name}-");
    let mut found = Vec::new();
    let entries = match fs::read_dir(directory) {
        // K3s makes it with the first one.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
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
async fn remove(program: &Path, directory: &str, snapshots: &[(SystemTime, String)]) {
    if snapshots.is_empty() {
        return;
    }
    let names = snapshots.iter().map(|(_, name)| name.as_str());
    let arguments: Vec<&str> = ["etcd-snapshot", "delete", "--etcd-snapshot-dir", directory]
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
    fn only_one_that_was_not_there_before_is_new() {
        let at = |s: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
        let earlier = vec![
            (at(1), "shoal-n1-1".to_owned()),
            (at(5), "shoal-n1-5".to_owned()),
        ];
        assert_eq!(newest(&earlier, earlier.clone()), None);
        assert_eq!(newest(&[], Vec::new()), None);
        let later = [earlier.clone(), vec![(at(9), "shoal-n1-9".to_owned())]].concat();
        assert_eq!(newest(&earlier, later).as_deref(), Some("shoal-n1-9"));
        // Within the same second it takes the place of the one before.
        let again = vec![
            (at(1), "shoal-n1-1".to_owned()),
            (at(6), "shoal-n1-5".to_owned()),
        ];
        assert_eq!(newest(&earlier, again).as_deref(), Some("shoal-n1-5"));
    }

    #[test]
    fn a_k3s_that_saves_elsewhere_has_saved_nothing_here() {
        assert!(called(Path::new("/nowhere"), "shoal").unwrap().is_empty());
    }

    #[test]
    fn an_operators_own_directory_is_used() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths {
            config_dir: root.path().to_owned(),
            ..Paths::under(root.path())
        };
        assert_eq!(configured_directory(&paths), None);
        let drop_ins = root.path().join("config.yaml.d");
        fs::create_dir(&drop_ins).unwrap();
        let main = "tls-san: [a]\netcd-snapshot-dir: /srv/a # there is room\n";
        fs::write(root.path().join("config.yaml"), main).unwrap();
        assert_eq!(configured_directory(&paths), Some("/srv/a".into()));
        fs::write(
            drop_ins.join("10-own.yaml"),
            "\"etcd-snapshot-dir\": \"/srv/b\"\n",
        )
        .unwrap();
        fs::write(
            drop_ins.join("50-shoal.yaml"),
            "{\n  \"node-name\": \"n1\"\n}\n",
        )
        .unwrap();
        fs::write(drop_ins.join("90.txt"), "etcd-snapshot-dir: /srv/c\n").unwrap();
        assert_eq!(configured_directory(&paths), Some("/srv/b".into()));
        assert_eq!(directory_in("other:\n  etcd-snapshot-dir: /x\n"), None);
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
