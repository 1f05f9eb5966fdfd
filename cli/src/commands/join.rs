//! `shoal join`: makes this machine part of a mesh.
//!
//! Decides: what a token file may be, before the daemon is asked. The token is never an argument.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use node_api::{
    Route,
    types::{JoinRequest, Joined},
};

use super::init::{joined_facts, show_joined};
use crate::{
    context::Context,
    failure::{self, Exit, Explained, Failure},
    values,
};

/// A token with sixteen addresses is about 500 characters; the daemon refuses more than 4096.
const TOKEN_BYTES_MAX: u64 = 8192;
/// What the text of every version of token begins with.
const TOKEN_PREFIX: &str = "shoal";
/// Permission bits of group and others.
const MODE_OTHERS: u32 = 0o077;

/// Make this machine part of a mesh
#[derive(Debug, clap::Args)]
pub(crate) struct Join {
    /// The file with the token that `shoal token create` made; - for standard input
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// A label to start with; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = values::label)]
    labels: Vec<(String, String)>,
    /// How long the node may be silent before the mesh forgets it; fixed once joined
    #[arg(long, value_enum, value_name = "CLASS")]
    lifecycle_class: Option<LifecycleClass>,
    /// What the machine can carry; detected unless given
    #[arg(long, value_enum, value_name = "PROFILE")]
    network_profile: Option<NetworkProfile>,
    /// The data directory is in memory and does not survive a reboot
    #[arg(long)]
    tmpfs_store: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LifecycleClass {
    /// Never forgotten
    Persistent,
    /// Forgotten after an hour of silence
    Ephemeral,
    /// Forgotten after ten minutes of silence
    Spot,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum NetworkProfile {
    /// At least 4 GiB and a server's processor
    Heavyweight,
    /// Less than that
    Lightweight,
}

/// Why a token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenFileError {
    #[error("the token file {} cannot be read", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the token file {} is empty", path.display())]
    Empty { path: PathBuf },
    #[error("the token file {} is longer than {TOKEN_BYTES_MAX} bytes, which no token is", path.display())]
    TooLarge { path: PathBuf },
    #[error("the file {} does not hold one token and nothing else", path.display())]
    NoToken { path: PathBuf },
}

impl Explained for TokenFileError {
    fn code(&self) -> &'static str {
        match self {
            Self::NoToken { .. } => "BootstrapTokenInvalidError",
            Self::Unreadable { .. } | Self::Empty { .. } | Self::TooLarge { .. } => {
                "TokenFileError"
            }
        }
    }

    fn hint(&self) -> String {
        "make one with `shoal token create --out FILE` on a node of the mesh, and copy the whole \
         file here"
            .into()
    }
}

impl Join {
    pub(crate) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let labels = values::labels(self.labels)
            .map_err(|error| failure::usage(error.to_string(), "give each label once"))?;
        let token = if self.token_file == Path::new("-") {
            token_text(io::stdin().lock(), "standard input".as_ref())?
        } else {
            warn_if_others_may_read(context, &self.token_file)?;
            read_token(&self.token_file)?
        };
        let request = JoinRequest {
            token,
            labels,
            lifecycle_class: self.lifecycle_class.map(name_of),
            network_profile: self.network_profile.map(name_of),
            tmpfs_store: self.tmpfs_store.then_some(true),
        };
        let answer = context.client.post(&Route::to(&["join"]), &request).await?;
        show_joined(context, &answer, words)
    }
}

fn name_of(value: impl ValueEnum) -> String {
    let name = value.to_possible_value();
    name.expect("no value is hidden").get_name().to_owned()
}

fn read_token(path: &Path) -> Result<String, TokenFileError> {
    let file = File::open(path).map_err(|source| TokenFileError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    token_text(file, path)
}

fn token_text(from: impl Read, path: &Path) -> Result<String, TokenFileError> {
    let path = || path.to_owned();
    let mut bytes = Vec::new();
    // One byte more than the limit tells whether there was more.
    from.take(TOKEN_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| TokenFileError::Unreadable {
            path: path(),
            source,
        })?;
    if bytes.len() as u64 > TOKEN_BYTES_MAX {
        return Err(TokenFileError::TooLarge { path: path() });
    }
    let text = bytes.trim_ascii();
    if text.is_empty() {
        return Err(TokenFileError::Empty { path: path() });
    }
    match std::str::from_utf8(text) {
        Ok(text)
            if text.starts_with(TOKEN_PREFIX)
                && text.bytes().all(|byte| byte.is_ascii_graphic()) =>
        {
            Ok(text.to_owned())
        }
        _ => Err(TokenFileError::NoToken { path: path() }),
    }
}

fn warn_if_others_may_read(context: &Context<'_>, path: &Path) -> Result<(), Failure> {
    // Whether the file can be used at all is said by reading it.
    let Ok(found) = path.metadata() else {
        return Ok(());
    };
    if found.is_file() && found.mode() & MODE_OTHERS != 0 {
        let path = path.display();
        let warning = format!("others on this machine may read the token in {path}: chmod 600 it");
        context.terminal.warnings(&[warning])?;
    }
    Ok(())
}

fn words(joined: &Joined) -> String {
    format!(
        "This machine is part of the mesh.\n\n{}\n\
         The words above must be the ones that `shoal token create` showed.\n\
         Next: `shoal status` here, `shoal node ls` anywhere in the mesh.",
        joined_facts(joined)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Result<String, TokenFileError> {
        token_text(bytes, "t".as_ref())
    }

    #[test]
    fn a_token_file_is_one_line_with_or_without_its_end() {
        assert_eq!(of(b"shoal1.abc").unwrap(), "shoal1.abc");
        assert_eq!(of(b" shoal1.abc\r\n").unwrap(), "shoal1.abc");
    }

    #[test]
    fn an_empty_a_huge_and_a_foreign_file_are_told_apart() {
        assert!(matches!(of(b""), Err(TokenFileError::Empty { .. })));
        assert!(matches!(of(b" \n"), Err(TokenFileError::Empty { .. })));
        let huge = vec![b'x'; 9000];
        assert!(matches!(of(&huge), Err(TokenFileError::TooLarge { .. })));
        for foreign in [
            &b"K10abc::server:x"[..],
            b"shoal1.a\nshoal1.b",
            b"shoal1.\xff",
            b"shoal1.\0",
        ] {
            let error = of(foreign).unwrap_err();
            assert_eq!(error.code(), "BootstrapTokenInvalidError", "{foreign:?}");
        }
    }

    #[test]
    fn a_missing_file_and_a_directory_cannot_be_read() {
        let directory = tempfile::tempdir().unwrap();
        for path in [directory.path(), &directory.path().join("none")] {
            let error = read_token(path).unwrap_err();
            assert!(
                matches!(error, TokenFileError::Unreadable { .. }),
                "{error}"
            );
        }
    }

    #[test]
    fn an_error_never_shows_the_token() {
        let error = of(b"shoal1.secret two").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"));
    }
}
