//! `shoal backup restore`: makes the mesh of a backup anew on this machine.
//!
//! Decides: that the backup is whole and opened by the key before the daemon is asked. Never: how
//! it becomes a mesh again.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use node_api::{
    Route,
    types::{Joined, RestoreRequest},
};

use super::view_facts;
use crate::{
    backup_file,
    commands::{
        init::{joined_facts, show_joined},
        status::now_ms,
    },
    consent::Yes,
    context::Context,
    failure::{Exit, Explained, Failure},
    identity_file,
};

/// The longest backup that is sent. A mesh of a thousand nodes comes to some megabytes; the whole
/// file is in memory here and in the daemon.
const BACKUP_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Make the mesh of a backup anew on this machine, which is in no mesh
///
/// For when every server is lost, or is about to be replaced; no old server may run any more.
/// Where some are left, `shoal recover` loses less. This machine becomes the only server of the same
/// mesh.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Restore {
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The file with the recovery key, or a further recipient's key; only its owner may read it
    #[arg(long, value_name = "KEY")]
    identity_file: PathBuf,
    #[command(flatten)]
    yes: Yes,
}

/// Why a backup cannot be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreFileError {
    #[error("the backup {} cannot be read", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the backup {} is longer than {BACKUP_BYTES_MAX} bytes", path.display())]
    TooLarge { path: PathBuf },
}

impl Explained for RestoreFileError {
    fn code(&self) -> &'static str {
        "BackupFileError"
    }

    fn hint(&self) -> String {
        "name a file that `shoal backup create` made".into()
    }
}

impl Restore {
    pub(super) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        context.require_socket("restoring a mesh")?;
        let identity = identity_file::read(&self.identity_file)?;
        let opened = backup_file::open(&self.file, &identity.key)?;
        let terminal = context.terminal;
        if !terminal.json() {
            terminal.note(&view_facts(&opened.view, now_ms()))?;
        }
        let question = format!(
            "Make mesh {} anew on this machine? No server of it may run any more.",
            opened.view.mesh
        );
        self.yes.or_ask(terminal, "restoring a mesh", &question)?;
        let request = RestoreRequest {
            backup: BASE64_STANDARD.encode(read(&self.file)?),
            identity: identity.text,
        };
        let route = Route::to(&["restore"]);
        let answer = context.client.post(&route, &request).await?;
        show_joined(context, &answer, words)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, RestoreFileError> {
    let unreadable = |source| RestoreFileError::Unreadable {
        path: path.into(),
        source,
    };
    let mut bytes = Vec::new();
    // One byte more than the limit tells whether there was more.
    File::open(path)
        .map_err(unreadable)?
        .take(BACKUP_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    match bytes.len() as u64 > BACKUP_BYTES_MAX {
        true => Err(RestoreFileError::TooLarge { path: path.into() }),
        false => Ok(bytes),
    }
}

fn words(joined: &Joined) -> String {
    format!(
        "The mesh stands again, with this machine as its only server.\n\n{}\n\
         Next: look at `shoal node ls`; as nodes come back, make servers of two more with\n  \
         shoal node promote NODE\n\
         and remove for good what will not come back with\n  shoal node remove NODE",
        joined_facts(joined)
    )
}
