//! Decoders of the files that `shoal` reads, for the fuzz targets alone.
//!
//! Decides nothing and is no part of the interface.

use std::path::Path;

use node_api::types::BackupView;

use crate::{
    backup_file::{self, BackupFileError},
    commands::docker::env::Record,
    identity_file,
};

/// Why a file is no backup that the identity opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoBackup {
    /// It can't be read.
    Unreadable,
    /// It is no age file.
    NoAgeFile,
    /// The identity is another's.
    WrongIdentity,
    /// It is cut or was changed.
    Damaged,
    /// It holds something else.
    NoBackup,
}

/// What a backup file says of itself, and the text that says it.
///
/// # Panics
/// When the identity is none.
pub fn backup_file(file: &[u8], identity: &str) -> Result<(BackupView, Vec<u8>), NoBackup> {
    let identity = identity.parse().expect("an age identity");
    match backup_file::read(file, Path::new("fuzzed"), &identity) {
        Ok(opened) => Ok((opened.view, opened.document)),
        Err(BackupFileError::Unreadable { .. }) => Err(NoBackup::Unreadable),
        Err(BackupFileError::NoAgeFile { .. }) => Err(NoBackup::NoAgeFile),
        Err(BackupFileError::WrongIdentity { .. }) => Err(NoBackup::WrongIdentity),
        Err(BackupFileError::Damaged { .. }) => Err(NoBackup::Damaged),
        Err(BackupFileError::NoBackup { .. }) => Err(NoBackup::NoBackup),
    }
}

/// The line of an identity file that counts.
pub fn identity_file(bytes: &[u8]) -> Option<String> {
    let identity = identity_file::parse(bytes, Path::new("fuzzed")).ok()?;
    Some(identity.text)
}

/// Whether the record beside a certificate says that it serves this mesh now, and the text that it
/// is written as.
pub fn docker_record(text: &[u8], mesh_id: &str, now_ms: u64) -> Option<(bool, String)> {
    let record = Record::decode(text)?;
    Some((record.serves(mesh_id, now_ms), record.encode()))
}
