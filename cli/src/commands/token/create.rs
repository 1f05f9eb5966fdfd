//! `shoal token create`.
//!
//! Invariant: the token's text appears once, either on standard output or in the file named by
//! `--out`, never in both.

use std::{io, path::PathBuf, time::Duration};

use clap::ValueEnum;
use node_api::{
    Answer, Route,
    types::{TokenCreated, TokenRequest},
};
use serde_json::json;

use crate::{
    context::Context,
    failure::{Exit, Explained, Failure},
    secret_file::SecretFile,
    table::facts,
    values,
};

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

/// Why a token that was made is in no file.
#[derive(Debug, thiserror::Error)]
#[error("token {id} was made, but could not be written to {}", path.display())]
pub(crate) struct TokenLostError {
    id: String,
    path: PathBuf,
    source: io::Error,
}

impl Explained for TokenLostError {
    fn code(&self) -> &'static str {
        "FileWriteError"
    }

    fn hint(&self) -> String {
        let id = &self.id;
        format!("nobody has it; revoke it with `shoal token revoke {id}` and make another")
    }
}

impl Create {
    pub(super) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        // The file comes first: a token that cannot be kept is better not made.
        let out = self.out.as_deref().map(SecretFile::create).transpose()?;
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
    out: SecretFile<'_>,
) -> Result<Exit, Failure> {
    let path = out.path();
    // Finished, for whoever copies the file under the same name.
    let name = path.file_name().unwrap_or(path.as_os_str());
    let join_command = created
        .join_command
        .replace("FILE", &name.to_string_lossy());
    out.keep(&format!("{}\n", created.token))
        .map_err(|source| TokenLostError {
            id: created.id.clone(),
            path: path.into(),
            source,
        })?;
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
