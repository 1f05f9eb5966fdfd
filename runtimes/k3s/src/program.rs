//! The `k3s` program: from a file on the node or a file server, looked at before it is put in place.
//!
//! Decides: whether a program is the one that is wanted, and whether another file lies by now where it came
//! from. Never: runs a script, takes a program whose sum or version is another than was said, looks for one
//! anywhere that nobody named.
//!
//! Invariant: what shoal copies is written down before it is there. Wherever that is cut off, shoal's own
//! program is known as such, and somebody else's is not taken for it.

mod record;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use consensus_core::{BinaryOrigin, K3sBinary};
use runtimes_core::k3s::{Program, ProgramSum};
use runtimes_host::{
    exec::{self, ExecError},
    files::{self, FileError, HostFiles},
    mounts, programs,
};

pub(crate) use self::record::Sources;
use self::record::{InPlace, Print, Stamp, bytes_of, coming, intact, recorded, sum_of, write_down};
use crate::{
    fetch::{self, FetchError},
    images,
    paths::Paths,
};

/// Everybody may run it, as K3s's own installer leaves it.
const PROGRAM_MODE: u32 = 0o755;
/// K3s unpacks itself at its first run, some 200 MB on a slow disk.
const VERSION_WITHIN: Duration = Duration::from_secs(120);

/// 70 MB every minute would be 100 GB a day.
const FETCHED_AGAIN_AFTER: Duration = Duration::from_secs(15 * 60);

/// The program cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// Nobody said where it comes from, and there is none.
    #[error("there is no k3s on this node, and nobody said where to get one")]
    Missing,
    /// The file that was named is not there.
    #[error("the k3s that was named, {path}, is not there")]
    NotThere {
        /// The file.
        path: String,
    },
    /// Its sum is another.
    #[error("the k3s from {url} has the SHA-256 {found}, not {wanted}")]
    Sum {
        /// Where it came from.
        url: String,
        /// Its sum.
        found: String,
        /// The one that was said.
        wanted: String,
    },
    /// Its version is another.
    #[error("the k3s from {origin} is {found}, not {wanted}")]
    Version {
        /// Where it came from.
        origin: String,
        /// Its version.
        found: String,
        /// The one that was said.
        wanted: String,
    },
    /// It does not say its version as K3s does.
    #[error("the k3s from {origin} does not say its version: {said}")]
    NoVersion {
        /// Where it came from.
        origin: String,
        /// What it said.
        said: String,
    },
    /// It could not be run.
    #[error("the k3s from {origin} cannot be run: {reason}")]
    Exec {
        /// Where it came from.
        origin: String,
        /// Why.
        reason: String,
    },
    /// It could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A file on the host.
    #[error(transparent)]
    File(#[from] FileError),
}

impl ProgramError {
    /// Stable text for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing | Self::NotThere { .. } => "K3sMissingError",
            Self::Sum { .. } => "K3sChecksumError",
            Self::Version { .. } => "K3sVersionMismatchError",
            Self::NoVersion { .. } | Self::Exec { .. } => "K3sUnusableError",
            Self::Fetch(error) => error.code(),
            Self::File(error) => error.code(),
        }
    }

    /// How long it is not tried again, at the least: what a server gave is fetched wholly each time, and
    /// will hardly be another the next minute.
    pub fn pause(&self) -> Duration {
        match self {
            Self::Sum { .. } | Self::Fetch(FetchError::TooLarge { .. }) => FETCHED_AGAIN_AFTER,
            // A file on the node is looked at in no time.
            Self::Version { origin, .. }
            | Self::NoVersion { origin, .. }
            | Self::Exec { origin, .. }
                if !origin.starts_with('/') =>
            {
                FETCHED_AGAIN_AFTER
            }
            Self::Missing
            | Self::NotThere { .. }
            | Self::Version { .. }
            | Self::NoVersion { .. }
            | Self::Exec { .. }
            | Self::Fetch(_)
            | Self::File(_) => Duration::ZERO,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Missing => {
                "name one with `--k3s-binary PATH`, or `--k3s-url URL --sha256 SUM`".to_owned()
            }
            Self::NotThere { path } => format!("put it there: {path}"),
            Self::Sum { .. } => "compare it with the list of sums that its release has".to_owned(),
            Self::Version { .. } => {
                "name a k3s of that version, or the version of that k3s".to_owned()
            }
            Self::NoVersion { .. } | Self::Exec { .. } => {
                "run it with --version on the node: it may be for another processor".to_owned()
            }
            Self::Fetch(error) => error.hint(),
            Self::File(error) => error.hint(),
        }
    }
}

/// The program in place, as far as it is known, and whether it is the one that is wanted.
pub(crate) async fn in_place(
    paths: &Paths,
    wanted: &K3sBinary,
    sources: &mut Sources,
) -> Result<Option<Program>, FileError> {
    let Some(record) = intact(paths)? else {
        return Ok(None);
    };
    Ok(Some(Program {
        wanted: record.is(wanted) && images::are_linked(paths, wanted.images.as_deref()),
        stale: record.is_stale(sources).await,
        sum: record.sum,
        version: record.version,
    }))
}

/// Where the program in place is.
pub(crate) fn path(paths: &Paths) -> Result<PathBuf, ProgramError> {
    Ok(recorded(paths)?.ok_or(ProgramError::Missing)?.program)
}

/// Puts the wanted program in place.
pub(crate) async fn install(
    paths: &Paths,
    files: &HostFiles,
    wanted: &K3sBinary,
) -> Result<(), ProgramError> {
    let done = put_in_place(paths, files, wanted).await;
    // What was fetched and is of no use takes no room of the disk until the next try.
    if done.is_err()
        && let Err(error) = files.remove(&paths.download())
    {
        tracing::warn!(%error, "what was fetched in vain stays");
    }
    done
}

async fn put_in_place(
    paths: &Paths,
    files: &HostFiles,
    wanted: &K3sBinary,
) -> Result<(), ProgramError> {
    let found = find(paths, files, wanted).await?;
    let seen = Stamp::of(&found);
    let version = match version_of(&found, wanted).await {
        Ok(version) => version,
        Err(error) => return keep(paths, files, wanted, &found, error),
    };
    let print = print_of(found.clone()).await?;
    let program = match wanted.origin {
        None => found.clone(),
        Some(_) => {
            bring(paths, files, found.clone(), &print).await?;
            paths.program.clone()
        }
    };
    // What was copied onto itself is another file since.
    let itself = mounts::resolved(&found) == mounts::resolved(&program);
    let source = if itself { Stamp::of(&found) } else { seen };
    files.remove(&paths.download())?;
    let record = InPlace {
        program,
        origin: wanted.origin.clone(),
        version,
        bytes: print.bytes,
        sum: print.sum,
        source,
    };
    write_down(files, &paths.program_record(), &record)?;
    Ok(files.remove(&paths.program_coming())?)
}

/// Where the wanted program lies, or lies now.
async fn find(
    paths: &Paths,
    files: &HostFiles,
    wanted: &K3sBinary,
) -> Result<PathBuf, ProgramError> {
    match &wanted.origin {
        None => installed(paths).ok_or(ProgramError::Missing),
        Some(BinaryOrigin::Path(path)) => {
            let path = PathBuf::from(path);
            let place = path.clone();
            // On a network's file system it may take its time.
            if !aside(move || place.is_file()).await {
                let path = path.display().to_string();
                return Err(ProgramError::NotThere { path });
            }
            Ok(path)
        }
        Some(BinaryOrigin::Url { url, sha256 }) => {
            let download = paths.download();
            files.claim(&download)?;
            fetch::fetch(url, &download).await?;
            let (shown, sha256, fetched) = (url.clone(), *sha256, download.clone());
            aside(move || check_sum(&shown, &fetched, &sha256)).await?;
            make_executable(&download)?;
            Ok(download)
        }
    }
}

/// A file of another version, put where the program in place came from, is for a change to come: that one is
/// the one that is wanted, and stays.
fn keep(
    paths: &Paths,
    files: &HostFiles,
    wanted: &K3sBinary,
    found: &Path,
    error: ProgramError,
) -> Result<(), ProgramError> {
    let is_other = matches!(error, ProgramError::Version { .. });
    let apart = |record: &InPlace| mounts::resolved(found) != mounts::resolved(&record.program);
    let present = intact(paths)?.filter(|record| is_other && record.is(wanted) && apart(record));
    let Some(present) = present else {
        return Err(error);
    };
    tracing::info!(reason = %error, "the k3s in place stays");
    let record = InPlace {
        source: Stamp::of(found),
        ..present
    };
    Ok(write_down(files, &paths.program_record(), &record)?)
}

async fn print_of(path: PathBuf) -> Result<Print, FileError> {
    aside(move || -> Result<Print, FileError> {
        let sum = sum_of(&path).map_err(files::at("read", &path))?;
        Ok(Print {
            bytes: bytes_of(&path),
            sum: Some(ProgramSum(sum)),
        })
    })
    .await
}

/// Copies it into its place, where it is known for shoal's from before the first byte.
async fn bring(
    paths: &Paths,
    files: &HostFiles,
    from: PathBuf,
    print: &Print,
) -> Result<(), FileError> {
    write_down(files, &paths.program_coming(), print)?;
    let (files, place) = (files.clone(), paths.program.clone());
    aside(move || files.copy(&from, &place, PROGRAM_MODE)).await
}

/// Runs what reads or writes some hundred MB where it holds up nobody.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.expect("it does not panic, and nobody aborts it")
}

/// Leaves a program that somebody put in the place of shoal's. Shoal's is what is in place, and what was to
/// take its place, whichever of the two was there when that was cut off.
pub(crate) async fn leave_anothers(paths: &Paths, files: &HostFiles) -> Result<(), FileError> {
    let place = &paths.program;
    let record = recorded(paths)?.filter(|record| record.program == *place);
    let known = record.map(|record| record.print());
    let known: Vec<Print> = known.into_iter().chain(coming(paths)?).collect();
    if known.is_empty() || !place.exists() {
        return Ok(());
    }
    let program = place.clone();
    let ours = aside(move || {
        let mut prints = known.iter().map(|print| print.is_of(&program));
        prints.find_map(|is| is.map_or_else(|error| Some(Err(error)), |is| is.then_some(Ok(()))))
    });
    match ours.await.transpose()? {
        Some(()) => Ok(()),
        None => files.forget(place),
    }
}

/// One that somebody put on this node.
fn installed(paths: &Paths) -> Option<PathBuf> {
    let usual = paths.program.is_file().then(|| paths.program.clone());
    usual.or_else(|| programs::find("k3s"))
}

fn check_sum(url: &str, path: &Path, wanted: &[u8; 32]) -> Result<(), ProgramError> {
    let found = sum_of(path).map_err(files::at("read", path))?;
    if found == *wanted {
        return Ok(());
    }
    let hexadecimal = |sum: &[u8]| sum.iter().map(|byte| format!("{byte:02x}")).collect();
    Err(ProgramError::Sum {
        url: fetch::shown(url),
        found: hexadecimal(&found),
        wanted: hexadecimal(wanted),
    })
}

fn make_executable(path: &Path) -> Result<(), FileError> {
    fs::set_permissions(path, fs::Permissions::from_mode(PROGRAM_MODE))
        .map_err(files::at("make executable", path))
}

/// What the program says its version is, if it is the one that is wanted.
async fn version_of(program: &Path, wanted: &K3sBinary) -> Result<String, ProgramError> {
    let origin = match &wanted.origin {
        Some(BinaryOrigin::Url { url, .. }) => fetch::shown(url),
        Some(BinaryOrigin::Path(_)) | None => program.display().to_string(),
    };
    let answer = exec::run(program, &["--version"], &[], VERSION_WITHIN).await;
    let answer = answer.map_err(|error| ProgramError::Exec {
        origin: origin.clone(),
        reason: match error {
            ExecError::Spawn { source, .. } => source.to_string(),
            late @ ExecError::Deadline { .. } => late.to_string(),
        },
    })?;
    let Some(found) = version_in(&answer.stdout).filter(|_| answer.success) else {
        return Err(ProgramError::NoVersion {
            origin,
            said: answer.tail,
        });
    };
    match &wanted.version {
        Some(wanted) if *wanted != found => Err(ProgramError::Version {
            origin,
            found,
            wanted: wanted.clone(),
        }),
        Some(_) | None => Ok(found),
    }
}

/// `k3s version v1.31.2+k3s1 (6da20424)`, first line.
fn version_in(said: &str) -> Option<String> {
    let first = said.lines().next()?;
    let rest = first.trim().strip_prefix("k3s version ")?;
    let version = rest.split(' ').next()?;
    version.starts_with('v').then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    #[test]
    fn a_version_is_read_as_k3s_says_it() {
        let said = "k3s version v1.31.2+k3s1 (6da20424)\ngo version go1.22.8\n";
        assert_eq!(version_in(said).as_deref(), Some("v1.31.2+k3s1"));
        for strange in [
            "",
            "k3s version",
            "k3s version 1.31",
            "kubectl version v1.31",
        ] {
            assert_eq!(version_in(strange), None, "{strange}");
        }
    }

    fn scene(script: &str) -> (tempfile::TempDir, Paths, HostFiles, K3sBinary) {
        let root = tempfile::tempdir().unwrap();
        let given = root.path().join("given");
        put(&given, script);
        let paths = Paths {
            program: root.path().join("bin/k3s"),
            ..Paths::under(root.path())
        };
        let files = HostFiles::listed_in(paths.manifest());
        let binary = K3sBinary {
            origin: Some(BinaryOrigin::Path(given.display().to_string())),
            ..K3sBinary::INSTALLED
        };
        (root, paths, files, binary)
    }

    /// By another process: none that is forked off this one meanwhile holds the file open.
    fn put(path: &Path, script: &str) {
        let text = path.with_extension("text");
        fs::write(&text, script).unwrap();
        let mut install = std::process::Command::new("install");
        install.args(["-m", "0755"]).arg(&text).arg(path);
        assert!(install.status().unwrap().success());
        fs::remove_file(&text).unwrap();
    }

    const GOOD: &str = "#!/bin/sh\necho 'k3s version v1.31.2+k3s1 (6da20424)'\n";

    #[tokio::test]
    async fn a_given_program_is_put_in_place_and_known_again() {
        let (_root, paths, files, binary) = scene(GOOD);
        assert_eq!(seen(&paths, &binary).await, None);
        install(&paths, &files, &binary).await.unwrap();
        let program = seen(&paths, &binary).await.unwrap();
        assert_eq!(
            (program.version.as_str(), program.wanted),
            ("v1.31.2+k3s1", true)
        );
        assert_eq!(path(&paths).unwrap(), paths.program);
        let other = K3sBinary {
            version: Some("v1.32.0+k3s1".into()),
            ..binary
        };
        assert!(!seen(&paths, &other).await.unwrap().wanted);
    }

    #[tokio::test]
    async fn a_program_that_somebody_replaced_is_looked_at_anew() {
        let (_root, paths, files, binary) = scene(GOOD);
        install(&paths, &files, &binary).await.unwrap();
        fs::write(&paths.program, "#!/bin/sh\nexit 3\n").unwrap();
        assert_eq!(seen(&paths, &binary).await, None);
    }

    #[tokio::test]
    async fn a_program_that_somebody_put_in_its_place_stays_when_all_else_goes() {
        let (_root, paths, files, binary) = scene(GOOD);
        install(&paths, &files, &binary).await.unwrap();
        leave_anothers(&paths, &files).await.unwrap();
        files.remove_all().unwrap();
        assert!(!paths.program.exists());
        for theirs in ["their own", &GOOD.replace("6da20424", "0badcafe")] {
            install(&paths, &files, &binary).await.unwrap();
            fs::write(&paths.program, theirs).unwrap();
            leave_anothers(&paths, &files).await.unwrap();
            files.remove_all().unwrap();
            assert!(paths.program.exists() && !paths.program_record().exists());
        }
    }

    /// shoald ends after each of the pieces in which another program takes the place of the first.
    #[tokio::test]
    async fn a_program_that_was_cut_off_on_its_way_is_known_for_shoals() {
        let newer = GOOD.replace("v1.31.2", "v1.32.0");
        for (copied, theirs) in [(false, false), (true, false), (false, true), (true, true)] {
            let (root, paths, files, binary) = scene(GOOD);
            install(&paths, &files, &binary).await.unwrap();
            let next = root.path().join("next");
            put(&next, &newer);
            let print = print_of(next.clone()).await.unwrap();
            if copied {
                bring(&paths, &files, next, &print).await.unwrap();
                // Of the same length, and yet nobody takes it for the one before.
                assert_eq!(seen(&paths, &binary).await, None);
            } else {
                write_down(&files, &paths.program_coming(), &print).unwrap();
            }
            if theirs {
                fs::write(&paths.program, "their own").unwrap();
            }
            leave_anothers(&paths, &files).await.unwrap();
            files.remove_all().unwrap();
            assert_eq!(paths.program.exists(), theirs, "{copied}, {theirs}");
            assert!(!paths.program_coming().exists());
        }
    }

    /// The manifest names its place before it is there.
    #[tokio::test]
    async fn an_operators_own_program_survives_a_first_one_that_never_came() {
        let (_root, paths, files, binary) = scene(GOOD);
        let print = print_of(path_of(&binary)).await.unwrap();
        fs::create_dir_all(paths.program.parent().unwrap()).unwrap();
        fs::write(&paths.program, "their own").unwrap();
        files.claim(&paths.program).unwrap();
        write_down(&files, &paths.program_coming(), &print).unwrap();
        leave_anothers(&paths, &files).await.unwrap();
        files.remove_all().unwrap();
        assert!(paths.program.exists());
    }

    async fn seen(paths: &Paths, wanted: &K3sBinary) -> Option<Program> {
        let sources = &mut Sources::default();
        in_place(paths, wanted, sources).await.unwrap()
    }

    fn path_of(binary: &K3sBinary) -> PathBuf {
        match &binary.origin {
            Some(BinaryOrigin::Path(path)) => path.into(),
            Some(BinaryOrigin::Url { .. }) | None => panic!("{binary:?}"),
        }
    }

    #[tokio::test]
    async fn another_file_of_the_same_version_is_told_from_the_one_in_place() {
        let (_root, paths, files, binary) = scene(GOOD);
        install(&paths, &files, &binary).await.unwrap();
        let present = || async { seen(&paths, &binary).await.unwrap() };
        let first = present().await;
        assert!(first.wanted && !first.stale && first.sum.is_some());
        let given = path_of(&binary);
        // Of the same length too.
        put(&given, &GOOD.replace("6da20424", "0badcafe"));
        let stale = present().await;
        assert!(stale.wanted && stale.stale);
        assert_eq!(stale.sum, first.sum);
        install(&paths, &files, &binary).await.unwrap();
        let second = present().await;
        assert!(second.wanted && !second.stale);
        assert_eq!(second.version, first.version);
        assert_ne!(second.sum, first.sum);
        // It is not needed any more.
        fs::remove_file(&given).unwrap();
        assert!(!present().await.stale);
    }

    #[tokio::test]
    async fn a_file_of_another_version_that_lies_ready_for_a_change_to_come_stops_nothing() {
        let (_root, paths, files, binary) = scene(GOOD);
        let binary = K3sBinary {
            version: Some("v1.31.2+k3s1".into()),
            ..binary
        };
        install(&paths, &files, &binary).await.unwrap();
        let first = seen(&paths, &binary).await.unwrap();
        put(&path_of(&binary), &GOOD.replace("v1.31.2", "v1.32.0"));
        assert!(seen(&paths, &binary).await.unwrap().stale);
        install(&paths, &files, &binary).await.unwrap();
        assert_eq!(seen(&paths, &binary).await, Some(first));
        // Where it is wanted it comes.
        let newer = K3sBinary {
            version: Some("v1.32.0+k3s1".into()),
            ..binary
        };
        install(&paths, &files, &newer).await.unwrap();
        let second = seen(&paths, &newer).await.unwrap();
        assert_eq!(second.version, "v1.32.0+k3s1");
    }

    #[tokio::test]
    async fn a_program_that_is_copied_onto_itself_is_not_another_one_for_ever() {
        let (_root, paths, files, _) = scene(GOOD);
        fs::create_dir_all(paths.program.parent().unwrap()).unwrap();
        put(&paths.program, GOOD);
        let binary = K3sBinary {
            origin: Some(BinaryOrigin::Path(paths.program.display().to_string())),
            ..K3sBinary::INSTALLED
        };
        install(&paths, &files, &binary).await.unwrap();
        assert!(!seen(&paths, &binary).await.unwrap().stale);
    }

    #[tokio::test]
    async fn a_program_of_another_version_is_not_put_in_place() {
        let (_root, paths, files, binary) = scene(GOOD);
        let other = K3sBinary {
            version: Some("v1.32.0+k3s1".into()),
            ..binary
        };
        let error = install(&paths, &files, &other).await.unwrap_err();
        assert_eq!(error.code(), "K3sVersionMismatchError");
        assert!(!paths.program.exists());
    }

    #[tokio::test]
    async fn what_is_no_k3s_is_refused() {
        for script in ["#!/bin/sh\necho 'git version 2'\n", "#!/bin/sh\nexit 1\n"] {
            let (_root, paths, files, binary) = scene(script);
            let error = install(&paths, &files, &binary).await.unwrap_err();
            assert_eq!(error.code(), "K3sUnusableError");
        }
        let (_root, paths, files, _) = scene(GOOD);
        let nowhere = K3sBinary {
            origin: Some(BinaryOrigin::Path("/nowhere/k3s".into())),
            ..K3sBinary::INSTALLED
        };
        let error = install(&paths, &files, &nowhere).await.unwrap_err();
        assert_eq!(error.code(), "K3sMissingError");
    }

    /// Answers once, with three bytes.
    async fn server() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 4096];
            assert!(stream.read(&mut asked).await.unwrap() > 0);
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nk3s";
            stream.write_all(answer).await.unwrap();
        });
        format!("http://{address}/k3s")
    }

    #[tokio::test]
    async fn what_was_fetched_in_vain_does_not_stay() {
        let (_root, paths, files, _) = scene(GOOD);
        let binary = K3sBinary {
            origin: Some(BinaryOrigin::Url {
                url: server().await,
                sha256: [0; 32],
            }),
            ..K3sBinary::INSTALLED
        };
        let error = install(&paths, &files, &binary).await.unwrap_err();
        assert_eq!(error.code(), "K3sChecksumError");
        assert!(!paths.download().exists());
    }

    #[test]
    fn what_was_fetched_in_vain_is_not_fetched_again_every_minute() {
        let of_another_processor = |origin: &str| ProgramError::Exec {
            origin: origin.to_owned(),
            reason: "Exec format error".to_owned(),
        };
        let silent = |origin: &str| ProgramError::NoVersion {
            origin: origin.to_owned(),
            said: String::new(),
        };
        let url = "http://h/k3s";
        let endless = FetchError::TooLarge {
            url: url.to_owned(),
        };
        for error in [of_another_processor(url), silent(url), endless.into()] {
            assert_eq!(error.pause(), FETCHED_AGAIN_AFTER, "{error}");
        }
        for error in [of_another_processor("/srv/k3s"), silent("/srv/k3s")] {
            assert_eq!(error.pause(), Duration::ZERO, "{error}");
        }
    }

    #[test]
    fn a_sum_that_is_another_is_refused_with_both() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("f");
        fs::write(&file, "abc").unwrap();
        // FIPS 180-4's example.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let error = check_sum("http://h/k3s", &file, &[0; 32]).unwrap_err();
        assert_eq!(error.code(), "K3sChecksumError");
        assert!(error.to_string().contains(abc));
    }
}
