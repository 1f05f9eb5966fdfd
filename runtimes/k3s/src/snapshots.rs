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

use consensus_core::K3S_API_PORT;
use runtimes_host::exec;

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
    let own = format!("--server=https://127.0.0.1:{K3S_API_PORT}");
    let mut asked = Asked {
        program: &program,
        directory: &shown,
        server: None,
    };
    asked.save(name).await.map_err(refused)?;
    let mut new = newest(&earlier, called(&directory, name).map_err(unread)?);
    if new.is_none() {
        asked.server = Some(&own);
        let again = asked.save(name).await;
        new = newest(&earlier, called(&directory, name).map_err(unread)?);
        if let (None, Err(reason)) = (&new, again) {
            tracing::info!(reason, "asked by name this server took no snapshot either");
        }
    }
    let Some(new) = new else {
        return Err(refused(format!(
            "it says that it has, but there is no new one called {name} in {shown}"
        )));
    };
    asked.remove(outdated(&earlier)).await;
    Ok(Snapshot {
        path: directory.join(&new),
        name: new,
    })
}

/// How K3s is asked.
struct Asked<'a> {
    program: &'a Path,
    /// Said again, so that it is saved where it is looked for, however the settings are read.
    directory: &'a str,
    /// K3s v1.30.1 and v1.30.2, and those of older lines from May to July 2024, ask the server that this one
    /// joined by, which saves it on its own disk (k3s-io/k3s, issue 10513). They take another by this flag,
    /// which those before and after them do not know.
    server: Option<&'a str>,
}

impl Asked<'_> {
    async fn save(&self, name: &str) -> Result<(), String> {
        self.run(&["save", "--name", name], &[], SAVED_WITHIN).await
    }

    /// What cannot be removed now goes after the next one.
    async fn remove(&self, snapshots: &[(SystemTime, String)]) {
        if snapshots.is_empty() {
            return;
        }
        let names: Vec<&str> = snapshots.iter().map(|(_, name)| name.as_str()).collect();
        if let Err(reason) = self.run(&["delete"], &names, REMOVED_WITHIN).await {
            tracing::info!(reason, "old snapshots stay");
        }
    }

    /// Names stand behind all flags.
    async fn run(&self, verb: &[&str], names: &[&str], within: Duration) -> Result<(), String> {
        let mut arguments = vec!["etcd-snapshot"];
        arguments.extend(verb);
        arguments.extend(["--etcd-snapshot-dir", self.directory]);
        arguments.extend(self.server);
        arguments.extend(names);
        let answer = exec::run(self.program, &arguments, &[], within).await;
        let answer = answer.map_err(|error| error.to_string())?;
        match answer.success {
            true => Ok(()),
            false => Err(answer.tail),
        }
    }
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

    /// A K3s in place that does what the script says with its arguments.
    fn scene(script: &str) -> (tempfile::TempDir, Paths) {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths {
            config_dir: root.path().join("etc"),
            data_dir: root.path().join("data"),
            ..Paths::under(root.path())
        };
        let (text, program) = (root.path().join("text"), root.path().join("program"));
        fs::write(&text, script).unwrap();
        // By another process: none that is forked off this one meanwhile holds it open.
        let mut install = std::process::Command::new("install");
        install.args(["-m", "0755"]).arg(&text).arg(&program);
        assert!(install.status().unwrap().success());
        let record = serde_json::json!({
            "program": program, "origin": null, "version": "v1.30.2+k3s1", "bytes": script.len(),
        });
        fs::create_dir_all(paths.program_record().parent().unwrap()).unwrap();
        fs::write(paths.program_record(), record.to_string()).unwrap();
        (root, paths)
    }

    /// Saves here when it is asked so, elsewhere by itself, and notes how it was asked.
    const JOINED: &str = r#"#!/bin/sh
echo "$@" >> "$(dirname "$0")/asked"
directory=; name=; here=
while [ $# -gt 0 ]; do
    case "$1" in
        --name) name=$2; shift ;;
        --etcd-snapshot-dir) directory=$2; shift ;;
        --server=https://127.0.0.1:6443) here=yes ;;
    esac
    shift
done
[ -n "$name" ] && [ -n "$here" ] && mkdir -p "$directory" && touch "$directory/$name-n1-1"
exit 0
"#;

    #[tokio::test]
    async fn a_k3s_that_saves_on_the_server_it_joined_by_is_asked_to_save_here() {
        let (root, paths) = scene(JOINED);
        let snapshots = paths.data_dir.join("server/db/snapshots");
        fs::create_dir_all(&snapshots).unwrap();
        for number in 1..=5 {
            fs::write(snapshots.join(format!("shoal-n1-0{number}")), "").unwrap();
        }
        let taken = take(&paths, "shoal").await.unwrap();
        assert_eq!(taken.name, "shoal-n1-1");
        assert_eq!(taken.path, snapshots.join("shoal-n1-1"));
        let asked = fs::read_to_string(root.path().join("asked")).unwrap();
        let asked: Vec<&str> = asked.lines().collect();
        assert_eq!(asked.len(), 3, "{asked:?}");
        assert!(asked[0].starts_with("etcd-snapshot save --name shoal "));
        assert!(!asked[0].contains("--server"));
        assert!(asked[1].ends_with("--server=https://127.0.0.1:6443"));
        // The old ones are removed where they are, too.
        assert!(asked[2].contains("etcd-snapshot delete") && asked[2].contains("--server"));
    }

    #[tokio::test]
    async fn a_k3s_that_saves_here_is_asked_once_and_one_that_refuses_says_why() {
        let here = JOINED.replace("here=\n", "here=yes\n");
        let (root, paths) = scene(&here);
        take(&paths, "shoal").await.unwrap();
        let asked = fs::read_to_string(root.path().join("asked")).unwrap();
        assert_eq!(asked.lines().count(), 1);
        let (_root, paths) = scene("#!/bin/sh\necho 'no etcd here'; exit 1\n");
        let error = take(&paths, "shoal").await.unwrap_err();
        assert!(error.to_string().contains("no etcd here"), "{error}");
        let (_root, paths) = scene("#!/bin/sh\nexit 0\n");
        let error = take(&paths, "shoal").await.unwrap_err();
        assert_eq!(error.code(), "K3sSnapshotError");
        assert!(error.to_string().contains("there is no new one"), "{error}");
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
