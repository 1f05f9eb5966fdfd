//! A backup: everything that the mesh is, in one encrypted file.
//!
//! Decides the file's form: age (v1) to the recovery recipient and whoever else was named; inside,
//! `SHOALBK1`, the length of a JSON document and that document ([`BackupView`]: what a reader is
//! shown), then the replicated state, the root keys and what runtimes attach. The root keys are in
//! it unsealed, so that whoever can open the file can restore the mesh without any of its servers;
//! outside of that encryption they never are.
//!
//! Never holds a node's own key: those never leave their machines.

use std::collections::BTreeMap;

use consensus_authority::{RecoveryKey, seal};
use consensus_core::{RootFingerprint, State, WallMs, wire::v1};
use node_api::{ApiError, types::BackupView};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::authority::{AuthorityError, AuthorityFiles};

/// What the plaintext begins with.
const MAGIC: &[u8; 8] = b"SHOALBK1";
/// The longest JSON document: ten thousand nodes' names and some.
const HEAD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Recipients besides the recovery recipient.
pub(crate) const RECIPIENTS_MAX: usize = 32;

/// A backup that was opened.
pub(crate) struct Backup {
    /// The replicated state.
    pub(crate) state: State,
    /// The root keys, PKCS#8.
    pub(crate) root_keys: BTreeMap<RootFingerprint, Zeroizing<Vec<u8>>>,
}

/// What follows the document.
#[derive(Serialize, Deserialize)]
struct Body {
    state: Vec<u8>,
    root_keys: BTreeMap<[u8; 32], Vec<u8>>,
    /// What runtimes add, by name.
    attachments: BTreeMap<String, Vec<u8>>,
}

impl Drop for Body {
    fn drop(&mut self) {
        for key in self.root_keys.values_mut() {
            zeroize::Zeroize::zeroize(key);
        }
    }
}

fn damaged(reason: &str) -> ApiError {
    ApiError::new(
        "BackupDamagedError",
        format!("the backup can't be used: {reason}"),
        "take another copy of it; `shoal backup show` checks one",
    )
}

/// Makes a backup of a server's state.
pub(crate) fn make(
    files: &AuthorityFiles,
    state: &State,
    recipients: &[String],
    now: WallMs,
) -> Result<Vec<u8>, ApiError> {
    let own = files.sealing_key()?;
    let mut root_keys = BTreeMap::new();
    for (root, sealed) in &state.root_keys {
        let key = own.unseal(&sealed.age).map_err(AuthorityError::from)?;
        root_keys.insert(*root.as_bytes(), key.to_vec());
    }
    let plain = write(state, root_keys, now)?;
    let mut to = vec![state.recovery_recipient.clone()];
    to.extend(recipients.iter().cloned());
    Ok(seal(&plain, &to).map_err(AuthorityError::from)?)
}

/// Writes what is to be sealed.
pub(crate) fn write(
    state: &State,
    root_keys: BTreeMap<[u8; 32], Vec<u8>>,
    now: WallMs,
) -> Result<Zeroizing<Vec<u8>>, ApiError> {
    let body = Body {
        state: v1::encode(state),
        root_keys,
        attachments: BTreeMap::new(),
    };
    let head = serde_json::to_vec(&show(state, now)?).expect("plain fields are always encodable");
    let mut plain = Zeroizing::new(MAGIC.to_vec());
    plain.extend_from_slice(&u32::try_from(head.len()).unwrap_or(u32::MAX).to_be_bytes());
    plain.extend_from_slice(&head);
    let encoded = postcard::to_stdvec(&body).expect("plain fields are always encodable");
    plain.extend_from_slice(&Zeroizing::new(encoded));
    Ok(plain)
}

/// What a reader is shown of a backup.
fn show(state: &State, now: WallMs) -> Result<BackupView, ApiError> {
    let agreed = &state.agreed;
    let mesh = agreed
        .mesh
        .as_ref()
        .ok_or(consensus_core::Refusal::NoMesh)?;
    let mut roots: Vec<_> = agreed.authority.roots.iter().collect();
    roots.sort_by_key(|root| root.state);
    Ok(BackupView {
        mesh_id: mesh.id.to_string(),
        mesh: mesh.name.clone(),
        created_ms: now.0,
        raft_index: state.applied.0,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        nodes: agreed
            .nodes
            .values()
            .map(|node| node.name.clone())
            .collect(),
        servers: agreed.servers().map(|(id, _)| agreed.name_of(id)).collect(),
        root_fingerprints: roots
            .iter()
            .map(|root| root.fingerprint().to_string())
            .collect(),
        attachments: Vec::new(),
    })
}

/// The longest head of an age file that is looked at: each recipient has a line or two, and age's
/// parser takes quadratic time over more.
const AGE_HEAD_BYTES_MAX: usize = 8 * 1024;

/// Whether the file's own head ends where a backup's does.
fn has_short_head(file: &[u8]) -> bool {
    let start = &file[..file.len().min(AGE_HEAD_BYTES_MAX)];
    start.windows(5).any(|window| window == b"\n--- ")
}

/// Opens a backup with an identity that it was sealed to.
pub(crate) fn open(file: &[u8], identity: &str) -> Result<Backup, ApiError> {
    if !has_short_head(file) {
        return Err(damaged("it is no age file of shoal's"));
    }
    let key = RecoveryKey::from_text(identity.trim()).map_err(AuthorityError::from)?;
    read(&key.unseal(file).map_err(AuthorityError::from)?)
}

/// Reads what was sealed.
pub(crate) fn read(plain: &[u8]) -> Result<Backup, ApiError> {
    let rest = plain
        .strip_prefix(MAGIC)
        .ok_or_else(|| damaged("it is no backup of this version of shoal"))?;
    let (length, rest) = rest
        .split_first_chunk::<4>()
        .ok_or_else(|| damaged("it is cut short"))?;
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if length > HEAD_BYTES_MAX {
        return Err(damaged("its head is too long"));
    }
    let (head, body) = rest
        .split_at_checked(length)
        .ok_or_else(|| damaged("it is cut short"))?;
    serde_json::from_slice::<BackupView>(head).map_err(|_| damaged("its head is unreadable"))?;
    let body: Body = match postcard::take_from_bytes(body) {
        Ok((body, [])) => body,
        Ok(_) => return Err(damaged("bytes follow it")),
        Err(_) => return Err(damaged("its body is unreadable")),
    };
    let state: State =
        v1::decode(&body.state).map_err(|error| damaged(&format!("its state: {error}")))?;
    let root_keys = body
        .root_keys
        .iter()
        .map(|(root, key)| {
            (
                RootFingerprint::from_bytes(*root),
                Zeroizing::new(key.clone()),
            )
        })
        .collect();
    Ok(Backup { state, root_keys })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(plain: &[u8]) -> String {
        let key = RecoveryKey::generate();
        let file = seal(plain, &[key.recipient()]).unwrap();
        open(&file, &key.to_text()).err().unwrap().code
    }

    #[test]
    fn what_is_no_backup_is_refused_by_name() {
        let head = [0, 0, 0, 2, b'{', b'}'];
        for plain in [
            b"".to_vec(),
            b"SHOALBK2".to_vec(),
            MAGIC.to_vec(),
            [&MAGIC[..], &[0xff; 4]].concat(),
            [&MAGIC[..], &[0, 0, 0, 9, 1]].concat(),
            [&MAGIC[..], &head].concat(),
        ] {
            assert_eq!(opened(&plain), "BackupDamagedError", "{plain:?}");
        }
    }

    #[test]
    fn a_file_that_is_no_age_file_and_a_foreign_identity_are_refused() {
        let key = RecoveryKey::generate();
        let identity = key.to_text();
        assert_eq!(
            open(b"garbage", &identity).err().unwrap().code,
            "BackupDamagedError"
        );
        let other = seal(b"x", &[RecoveryKey::generate().recipient()]).unwrap();
        assert!(open(&other, &identity).is_err());
        assert!(open(&other, "AGE-SECRET-KEY-1NOTONE").is_err());
    }
}
