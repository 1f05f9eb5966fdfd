//! The files that an operator names: a backup, an identity, a certificate for docker.
//!
//! Claims: the daemon and the command line read a backup alike; what is not sealed to the key, cut
//! or changed is no backup; a promise of a long document takes no memory; a certificate that serves
//! serves the mesh that is asked about.

use std::sync::LazyLock;

use consensus_authority::{RecoveryKey, seal};
use shoal::fuzzing::{self as operator, NoBackup};
use shoald::fuzzing as daemon;

/// Opens the backups of the corpus. No secret: it was made for this.
const IDENTITY: &str = include_str!("../fixtures/sealing-key.txt");
/// When a record beside a certificate is read.
const NOW_MS: u64 = 1_750_000_000_000;

static RECIPIENT: LazyLock<String> = LazyLock::new(|| {
    let key = RecoveryKey::from_text(IDENTITY).expect("the key of the corpus");
    key.recipient()
});

/// The first byte says whether the rest is a file or what is sealed in one.
pub(crate) fn backup(data: &[u8]) {
    match data {
        [0, file @ ..] => {
            let by_daemon = daemon::backup_file(file, IDENTITY);
            let by_operator = operator::backup_file(file, IDENTITY);
            assert!(by_daemon.is_err() || by_operator.is_ok());
        }
        [_, plain @ ..] => {
            let file = seal(plain, [RECIPIENT.as_str()]).expect("it is sealed");
            hold_backup(plain, &file);
            let cut = &file[..file.len() - 1];
            assert!(daemon::backup_file(cut, IDENTITY).is_err(), "cut");
            let cut = operator::backup_file(cut, IDENTITY);
            assert!(cut.is_err(), "cut");
        }
        [] => {}
    }
}

fn hold_backup(plain: &[u8], file: &[u8]) {
    let shown = operator::backup_file(file, IDENTITY);
    if let Err(refusal) = &shown {
        assert_eq!(*refusal, NoBackup::NoBackup);
    }
    let opened = daemon::backup_file(file, IDENTITY);
    assert_eq!(opened, daemon::backup(plain));
    match opened {
        Ok(backup) => {
            let (view, document) = shown.expect("the daemon reads it");
            assert_eq!(serde_json::from_slice(&document).ok(), Some(view));
            if let Some(again) = daemon::backup_again(&backup) {
                assert_eq!(daemon::backup(&again), Ok(backup));
            }
        }
        Err(error) => assert_eq!(error.code, "BackupDamagedError"),
    }
}

/// An identity file.
pub(crate) fn identity(data: &[u8]) {
    if let Some(line) = operator::identity_file(data) {
        assert_eq!(operator::identity_file(line.as_bytes()), Some(line.clone()));
        let key = RecoveryKey::from_text(&line).expect("the daemon reads it too");
        assert!(key.to_text().eq_ignore_ascii_case(&line));
    }
}

/// The record beside a certificate for docker: a mesh's id in a line, then the record.
pub(crate) fn docker_record(data: &[u8]) {
    let text = crate::text(data);
    let (mesh, record) = text.split_once('\n').unwrap_or((&text, ""));
    if let Some((serves, again)) = operator::docker_record(record.as_bytes(), mesh, NOW_MS) {
        let read = operator::docker_record(again.as_bytes(), mesh, NOW_MS);
        assert_eq!(read, Some((serves, again.clone())));
        let other = operator::docker_record(again.as_bytes(), &format!("{mesh}x"), NOW_MS);
        assert_eq!(other, Some((false, again)));
    }
}
