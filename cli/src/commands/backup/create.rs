//! `shoal backup create`: fetches a backup into a file.
//!
//! Invariants: FILE is a whole backup or is not there; an existing file is never overwritten.
//! What arrives is written to `FILE.part` first, which goes away again unless it became whole.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use node_api::{Download, Route, types::BackupRequest};
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
use serde_json::json;

use crate::{
    backup_file::{AGE_PREFIX, RECIPIENTS_MAX},
    context::Context,
    failure::{self, Exit, Explained, Failure},
    secret_file::{NewFileError, SECRET_MODE, sync_directory_of},
    shell_word::plain_or_quoted,
    table::bytes,
    values,
};

/// Fetch a backup into a file
///
/// The file is sealed (age) to the mesh's recovery key and to further recipients, so it may be
/// kept anywhere. It holds the mesh's keys: whoever opens it is the mesh.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Create {
    /// The file to write, which must not exist yet
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// A further key that opens it (age); may be given several times
    #[arg(long = "recipient", value_name = "age1...", value_parser = values::recipient)]
    recipients: Vec<String>,
}

/// Why a backup that began to arrive is not in its file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("{} could not be written", path.display())]
    Unwritable { path: PathBuf, source: io::Error },
    #[error("{} came into being meanwhile, and was left as it is", path.display())]
    Overtaken { path: PathBuf },
    #[error("what the daemon sent is no age file")]
    NoAgeFile,
}

impl Explained for FetchError {
    fn code(&self) -> &'static str {
        match self {
            Self::Unwritable { .. } => "FileWriteError",
            Self::Overtaken { .. } => "FileExistsError",
            Self::NoAgeFile => "UnexpectedAnswerError",
        }
    }

    fn hint(&self) -> String {
        match self {
            Self::Unwritable { .. } => "do not rely on it; is there room on the disk?".into(),
            Self::Overtaken { .. } => "no backup was kept; name another file".into(),
            Self::NoAgeFile => "shoal and shoald may be of different versions: compare `shoal \
                                --version` with `shoald --version`"
                .into(),
        }
    }
}

impl Create {
    pub(super) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        if self.recipients.len() > RECIPIENTS_MAX {
            let message = format!("a backup has at most {RECIPIENTS_MAX} further recipients");
            return Err(failure::usage(message, "give fewer").into());
        }
        let mut part = Part::create(&self.file)?;
        let request = BackupRequest {
            recipients: self.recipients,
        };
        let route = Route::to(&["backup"]);
        let download = context.client.post_download(&route, &request).await?;
        part.take_all(download).await?;
        let size_bytes = part.keep()?;
        if context.terminal.json() {
            let document = json!({ "file": self.file, "size_bytes": size_bytes });
            context.terminal.value(&document)?;
        } else {
            context.terminal.text(&words(&self.file, size_bytes))?;
        }
        Ok(Exit::Done)
    }
}

fn words(file: &Path, size_bytes: u64) -> String {
    format!(
        "The backup is in {}, {}. Only the recovery key and the recipients you named open it.\n\
         See whether yours does:\n  shoal backup show {} --identity-file KEY",
        file.display(),
        bytes(size_bytes),
        plain_or_quoted(&file.to_string_lossy())
    )
}

/// A file that is not whole yet.
struct Part<'a> {
    to: &'a Path,
    path: PathBuf,
    file: fs::File,
    size_bytes: u64,
}

impl<'a> Part<'a> {
    /// Takes the place.
    fn create(to: &'a Path) -> Result<Self, NewFileError> {
        match fs::symlink_metadata(to) {
            Ok(_) => return Err(NewFileError::Exists { path: to.into() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(NewFileError::of(to, error)),
        }
        let mut path = to.as_os_str().to_owned();
        path.push(".part");
        let path = PathBuf::from(path);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(SECRET_MODE)
            .open(&path)
            .map_err(|source| NewFileError::of(&path, source))?;
        Ok(Self {
            to,
            path,
            file,
            size_bytes: 0,
        })
    }

    async fn take_all(&mut self, mut download: Download) -> Result<(), Failure> {
        let mut beginning = Vec::with_capacity(AGE_PREFIX.len());
        while let Some(chunk) = download.chunk().await? {
            let wanted = AGE_PREFIX.len() - beginning.len();
            beginning.extend_from_slice(&chunk[..chunk.len().min(wanted)]);
            self.file
                .write_all(&chunk)
                .map_err(|source| self.unwritable(source))?;
            self.size_bytes += chunk.len() as u64;
        }
        match beginning == AGE_PREFIX {
            true => Ok(()),
            false => Err(FetchError::NoAgeFile.into()),
        }
    }

    /// Gives it its name, and returns how long it is when it would survive a power cut.
    fn keep(self) -> Result<u64, FetchError> {
        self.file
            .sync_all()
            .map_err(|source| self.unwritable(source))?;
        name_finally(&self.path, self.to).map_err(|source| {
            match source.kind() == io::ErrorKind::AlreadyExists {
                true => FetchError::Overtaken {
                    path: self.to.into(),
                },
                false => self.unwritable(source),
            }
        })?;
        sync_directory_of(self.to).map_err(|source| self.unwritable(source))?;
        Ok(self.size_bytes)
    }

    fn unwritable(&self, source: io::Error) -> FetchError {
        FetchError::Unwritable {
            path: self.to.into(),
            source,
        }
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        // Once it has its name there is nothing under this one any more.
        drop(fs::remove_file(&self.path));
    }
}

/// Renames a file to a name that must be free.
fn name_finally(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some file systems (NFS among them) cannot promise it; the moment between looking and
        // renaming is all that is left to chance there.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            if fs::symlink_metadata(to).is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            fs::rename(from, to)
        }
        done => Ok(done?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_came_into_being_meanwhile_is_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("b.age");
        let mut part = Part::create(&file).unwrap();
        part.file.write_all(b"new").unwrap();
        fs::write(&file, "mine").unwrap();
        let refused = part.keep().unwrap_err();
        assert!(matches!(refused, FetchError::Overtaken { .. }), "{refused}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_left_of_an_interrupted_backup_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("b.age");
        let _first = Part::create(&file).unwrap();
        let refused = Part::create(&file).map(drop).unwrap_err();
        assert!(
            refused.to_string().ends_with("b.age.part exists already"),
            "{refused}"
        );
    }

    #[test]
    fn the_answer_says_how_to_try_the_key() {
        insta::assert_snapshot!(words("/b/home.age".as_ref(), 1_234_567), @r"
        The backup is in /b/home.age, 1.2 MB. Only the recovery key and the recipients you named open it.
        See whether yours does:
          shoal backup show /b/home.age --identity-file KEY
        ");
    }
}
