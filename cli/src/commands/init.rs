//! `shoal init`: makes a mesh on this machine.
//!
//! Invariant: the recovery key appears once, either on standard output or in the file named by
//! `--recovery-key-out`; it is only in both when the file could not be written, for it is kept
//! nowhere else.

use std::path::PathBuf;

use node_api::{
    Answer, Route,
    types::{InitRequest, Joined},
};

use crate::{
    context::Context,
    failure::{Exit, Failure},
    secret_file::SecretFile,
    table::{facts, or_nothing},
};

/// What the recovery key is for, wherever it appears.
const RECOVERY_KEY_PURPOSE: &str = "\
It opens backups and the root key when every server is lost. Nobody can show it again: write it
down, and keep it offline.";

/// Make a new mesh with this machine as its first server
///
/// The answer shows the mesh's recovery key, once. It opens backups and the root key when every
/// server is lost: write it down, and keep it offline.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Init {
    /// The mesh's name
    #[arg(long, value_name = "MESH")]
    name: Option<String>,
    /// Where the first network's IPv4 addresses come from [default: 100.96.0.0/16]
    #[arg(long, value_name = "PREFIX")]
    ipv4_prefix: Option<String>,
    /// Write the recovery key to this file, which must not exist yet, instead of showing it
    #[arg(long, value_name = "FILE")]
    recovery_key_out: Option<PathBuf>,
}

impl Init {
    pub(crate) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        // The file comes first: a mesh whose recovery key cannot be kept is better not made.
        let out = self.recovery_key_out.as_deref();
        let out = out.map(SecretFile::create).transpose()?;
        let request = InitRequest {
            name: self.name,
            ipv4_prefix: self.ipv4_prefix,
        };
        let answer = context.client.post(&Route::to(&["init"]), &request).await?;
        match out {
            Some(out) => show_kept(context, answer, out),
            None => show_joined(context, &answer, words),
        }
    }
}

/// Shows the mesh when the recovery key goes to a file. The mesh stands by now, and the key is
/// nowhere but here: if the file cannot take it, it is shown after all.
fn show_kept(
    context: &Context<'_>,
    mut answer: Answer<Joined>,
    out: SecretFile<'_>,
) -> Result<Exit, Failure> {
    let path = out.path().display().to_string();
    let kept = match &answer.value.recovery_key {
        Some(key) => out.keep(&key_file(&answer.value, key)).map_err(|error| {
            format!("the recovery key could not be written to {path} ({error}): it is shown here")
        }),
        None => Err("the daemon gave no recovery key".into()),
    };
    let exit = match kept {
        Ok(()) => {
            answer.value.recovery_key = None;
            Exit::Done
        }
        Err(warning) => {
            answer.value.warnings.push(warning);
            Exit::Failed
        }
    };
    if context.terminal.json() {
        context.terminal.value(&with_key(&answer.value))?;
        return Ok(exit);
    }
    let mut said = words(&answer.value);
    if exit == Exit::Done {
        said += &format!("\n\nThe recovery key is in {path}. {RECOVERY_KEY_PURPOSE}");
    }
    context.terminal.text(&said)?;
    context.terminal.warnings(&answer.value.warnings)?;
    Ok(exit)
}

/// The document, in which `recovery_key` is null rather than absent when a file has it.
fn with_key(joined: &Joined) -> serde_json::Value {
    let mut document =
        serde_json::to_value(joined).expect("an answer is text and numbers, which JSON can hold");
    document["recovery_key"] = joined.recovery_key.clone().into();
    document
}

/// What the file holds: an age identity file, whose comments tell a finder years later.
fn key_file(joined: &Joined, key: &str) -> String {
    format!(
        "# The recovery key of shoal's mesh {} ({}).\n\
         # It opens the mesh's backups and its root key: keep it offline.\n{key}\n",
        joined.mesh, joined.mesh_id
    )
}

/// Shows what a machine became; shared by `init` and `join`.
pub(super) fn show_joined(
    context: &Context<'_>,
    answer: &Answer<Joined>,
    words: impl Fn(&Joined) -> String,
) -> Result<Exit, Failure> {
    if context.terminal.json() {
        context.terminal.document(&answer.body)?;
    } else {
        context.terminal.text(&words(&answer.value))?;
        context.terminal.warnings(&answer.value.warnings)?;
    }
    Ok(Exit::Done)
}

/// What a machine is now.
pub(super) fn joined_facts(joined: &Joined) -> String {
    facts(&[
        ("Mesh", format!("{} ({})", joined.mesh, joined.mesh_id)),
        ("Node", format!("{} ({})", joined.node, joined.role)),
        ("Overlay IPv6", or_nothing(joined.overlay_ipv6.as_ref())),
        ("Overlay IPv4", or_nothing(joined.overlay_ipv4.as_ref())),
        ("Root fingerprint", joined.root_fingerprint.clone()),
        ("Root in words", joined.root_words.clone()),
    ])
}

fn words(joined: &Joined) -> String {
    let mut text = format!(
        "The mesh stands.\n\n{}\n\
         Next, for each further machine, make a token here:\n  \
         shoal token create --role server --out token\n\
         Three servers survive the loss of any one; further machines join as agents.",
        joined_facts(joined)
    );
    if let Some(key) = &joined.recovery_key {
        text += &format!(
            "\n\nThe recovery key, shown once and kept nowhere:\n\n    {key}\n\n\
             {RECOVERY_KEY_PURPOSE}"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined() -> Joined {
        Joined {
            mesh_id: "00112233445566778899aabbccddeeff".into(),
            mesh: "home".into(),
            node: "n1".into(),
            role: "server".into(),
            overlay_ipv6: Some("fd00::1".parse().unwrap()),
            overlay_ipv4: None,
            root_fingerprint: "ab12".into(),
            root_words: "one two three".into(),
            warnings: vec![],
            recovery_key: Some("AGE-SECRET-KEY-1EXAMPLE".into()),
        }
    }

    #[test]
    fn init_says_what_was_made_and_what_comes_next_and_sets_the_recovery_key_apart() {
        insta::assert_snapshot!(words(&joined()), @r"
        The mesh stands.

        Mesh:             home (00112233445566778899aabbccddeeff)
        Node:             n1 (server)
        Overlay IPv6:     fd00::1
        Overlay IPv4:     -
        Root fingerprint: ab12
        Root in words:    one two three

        Next, for each further machine, make a token here:
          shoal token create --role server --out token
        Three servers survive the loss of any one; further machines join as agents.

        The recovery key, shown once and kept nowhere:

            AGE-SECRET-KEY-1EXAMPLE

        It opens backups and the root key when every server is lost. Nobody can show it again: write it
        down, and keep it offline.
        ");
    }

    #[test]
    fn a_key_file_is_an_identity_file_that_says_what_it_is() {
        insta::assert_snapshot!(key_file(&joined(), "AGE-SECRET-KEY-1EXAMPLE"), @r"
        # The recovery key of shoal's mesh home (00112233445566778899aabbccddeeff).
        # It opens the mesh's backups and its root key: keep it offline.
        AGE-SECRET-KEY-1EXAMPLE
        ");
    }

    #[test]
    fn a_key_that_is_in_a_file_is_null_in_the_document() {
        let mut joined = joined();
        assert_eq!(with_key(&joined)["recovery_key"], "AGE-SECRET-KEY-1EXAMPLE");
        joined.recovery_key = None;
        let document = with_key(&joined);
        assert_eq!(document.get("recovery_key"), Some(&serde_json::Value::Null));
        assert_eq!(document["mesh"], "home");
    }
}
