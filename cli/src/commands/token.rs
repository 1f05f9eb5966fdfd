//! `shoal token`: lets machines into the mesh.
//!
//! Invariants: the token's text appears once, either on standard output or in the file named by
//! `--out`, never in both; an existing file is never overwritten; nothing is left behind when the
//! mesh refuses.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::ValueEnum;
use node_api::{
    Answer, Route,
    types::{TokenCreated, TokenRequest},
};
use serde_json::json;

use crate::{
    context::Context,
    failure::{Exit, Explained, Failure},
    table::facts,
    values,
};

/// Only the owner may read a secret.
const SECRET_MODE: u32 = 0o600;

/// Tokens that let machines into the mesh
#[derive(Debug, clap::Subcommand)]
#[command(disable_help_subcommand = true)]
pub(crate) enum Token {
    Create(Create),
}

/// Make a token and show how to use it
///
/// The token's text is a secret and is kept nowhere in the mesh. With --out it is written to a
/// file only the owner may read; otherwise it is printed, and all else goes to standard error, so
/// that `shoal token create > FILE` works too.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Create {
    /// What the machine becomes
    #[arg(long, value_enum, default_value = "agent")]
    role: TokenRole,
    /// How long the token may be used: a number and s, m, h or d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = values::duration)]
    ttl: Duration,
    /// Several machines may use it
    #[arg(long)]
    reusable: bool,
    /// Write the token to this file, which must not exist yet
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TokenRole {
    /// Votes on what the mesh agrees
    Server,
    /// Does not
    Agent,
}

/// Why a token was not written to a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenOutError {
    #[error("{} exists already", path.display())]
    Exists { path: PathBuf },
    #[error("{} cannot be written", path.display())]
    Unwritable { path: PathBuf, source: io::Error },
}

impl Explained for TokenOutError {
    fn code(&self) -> &'static str {
        match self {
            Self::Exists { .. } => "FileExistsError",
            Self::Unwritable { .. } => "FileWriteError",
        }
    }

    fn hint(&self) -> String {
        "no token was made; name a file that does not exist in a directory you may write to".into()
    }
}

impl Token {
    pub(crate) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        match self {
            Self::Create(create) => create.run(context).await,
        }
    }
}

impl Create {
    async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        // The file comes first: a token that cannot be kept is better not made.
        let out = self.out.as_deref().map(TokenFile::create).transpose()?;
        let request = TokenRequest {
            role: match self.role {
                TokenRole::Server => "server".into(),
                TokenRole::Agent => "agent".into(),
            },
            ttl_s: Some(self.ttl.as_secs()),
            reusable: self.reusable,
        };
        let answer = context
            .client
            .post(&Route::to(&["tokens"]), &request)
            .await?;
        match out {
            Some(out) => show_kept(context, &answer.value, self.reusable, out),
            None => show_printed(context, &answer, self.reusable),
        }
    }
}

fn show_printed(
    context: &Context<'_>,
    answer: &Answer<TokenCreated>,
    reusable: bool,
) -> Result<Exit, Failure> {
    let terminal = context.terminal;
    if terminal.json() {
        terminal.document(&answer.body)?;
        return Ok(Exit::Done);
    }
    terminal.note("The token, shown once and kept nowhere:\n")?;
    terminal.text(&answer.value.token)?;
    terminal.note(&format!(
        "\nPut it in a file on the new machine, never on a command line. There:\n  {}\n\n{}",
        answer.value.join_command,
        token_facts(&answer.value, reusable),
    ))?;
    Ok(Exit::Done)
}

fn show_kept(
    context: &Context<'_>,
    created: &TokenCreated,
    reusable: bool,
    out: TokenFile<'_>,
) -> Result<Exit, Failure> {
    let path = out.path;
    // Finished, for whoever copies the file under the same name.
    let name = path.file_name().unwrap_or(path.as_os_str());
    let join_command = created
        .join_command
        .replace("FILE", &name.to_string_lossy());
    out.keep(&created.token)?;
    if context.terminal.json() {
        context.terminal.value(&json!({
            "token": null,
            "token_file": path,
            "id": created.id,
            "role": created.role,
            "expires": created.expires,
            "join_command": join_command,
            "root_fingerprint": created.root_fingerprint,
            "root_words": created.root_words,
        }))?;
    } else {
        context.terminal.text(&format!(
            "The token is in {}. Copy that file to the new machine; there:\n  {}\n\n{}",
            path.display(),
            join_command,
            token_facts(created, reusable),
        ))?;
    }
    Ok(Exit::Done)
}

fn token_facts(created: &TokenCreated, reusable: bool) -> String {
    let uses = if reusable {
        "any number of machines"
    } else {
        "one machine"
    };
    facts(&[
        ("Makes", format!("{uses} a {}", created.role)),
        ("Until", created.expires.clone()),
        ("Root fingerprint", created.root_fingerprint.clone()),
        ("Root in words", created.root_words.clone()),
    ])
}

/// A file that holds the place of a token, and goes away again if none comes.
struct TokenFile<'a> {
    path: &'a Path,
    file: File,
    kept: bool,
}

impl<'a> TokenFile<'a> {
    fn create(path: &'a Path) -> Result<Self, TokenOutError> {
        let opened = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(SECRET_MODE)
            .open(path);
        let file =
            opened.map_err(
                |source| match source.kind() == io::ErrorKind::AlreadyExists {
                    true => TokenOutError::Exists { path: path.into() },
                    false => TokenOutError::Unwritable {
                        path: path.into(),
                        source,
                    },
                },
            )?;
        Ok(Self {
            path,
            file,
            kept: false,
        })
    }

    fn keep(mut self, token: &str) -> Result<(), TokenOutError> {
        self.file
            .write_all(format!("{token}\n").as_bytes())
            .and_then(|()| self.file.sync_all())
            .map_err(|source| TokenOutError::Unwritable {
                path: self.path.into(),
                source,
            })?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for TokenFile<'_> {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed is an empty file, which `join` refuses by name.
            drop(std::fs::remove_file(self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_token_file_is_the_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        TokenFile::create(&path).unwrap().keep("shoal1.x").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "shoal1.x\n");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_token_file_is_never_overwritten_and_never_left_empty() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        drop(TokenFile::create(&path).unwrap());
        assert!(!path.exists());
        std::fs::write(&path, "mine").unwrap();
        let refused = TokenFile::create(&path).map(drop).unwrap_err();
        assert_eq!(refused.code(), "FileExistsError");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    }
}
