//! `shoal backup show`: says what a backup holds, without any daemon.

use std::path::PathBuf;

use super::view_facts;
use crate::{
    backup_file,
    commands::status::now_ms,
    context::Context,
    failure::{Exit, Failure},
    identity_file,
};

/// Show what a backup holds, and that it is whole
///
/// Needs no daemon and no mesh. The file is read and authenticated to its end.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Show {
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The file with the recovery key, or a further recipient's key; only its owner may read it
    #[arg(long, value_name = "KEY")]
    identity_file: PathBuf,
}

impl Show {
    pub(super) fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let identity = identity_file::read(&self.identity_file)?;
        let opened = backup_file::open(&self.file, &identity.key)?;
        if context.terminal.json() {
            context.terminal.document(&opened.document)?;
        } else {
            let held = view_facts(&opened.view, now_ms());
            context
                .terminal
                .text(&format!("The backup is whole.\n\n{held}"))?;
        }
        Ok(Exit::Done)
    }
}
