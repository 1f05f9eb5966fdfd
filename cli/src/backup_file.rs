//! What is in a backup file: an age file (age-encryption.org/v1) whose plaintext is the eight
//! bytes [`MAGIC`], the length of a JSON document as 32 bits in network order, that document (a
//! [`BackupView`]), and the state itself.
//!
//! Decides: whether a file is a whole backup: age authenticates every byte up to the end, so one
//! that was cut or changed is none. Never: what the state means; that is the daemon's.
//! Invariant: memory does not grow with the file.

use std::{
    cell::Cell,
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
    rc::Rc,
};

use node_api::types::BackupView;

use crate::failure::Explained;

/// What the plaintext of a backup of this version begins with.
const MAGIC: &[u8; 8] = b"SHOALBK1";
/// The longest document about the contents: ten thousand nodes with long names come to 1 MB.
const DOCUMENT_BYTES_MAX: u32 = 4 * 1024 * 1024;
/// The longest age header: a recipient takes 98 bytes of it, so that 80 fit. The parser reads all
/// of it again with every line: what a header costs is the square of its length.
const HEADER_BYTES_MAX: u64 = 8 * 1024;
/// Further recipients of one backup; with the recovery key they fill half of the longest header.
pub(crate) const RECIPIENTS_MAX: usize = 32;
/// What every age file begins with.
pub(crate) const AGE_PREFIX: &[u8; 22] = b"age-encryption.org/v1\n";

/// Why a file is not a backup that the identity opens.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackupFileError {
    #[error("the backup {} cannot be read", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} is no age file", path.display())]
    NoAgeFile { path: PathBuf },
    #[error("the identity does not open {}", path.display())]
    WrongIdentity { path: PathBuf },
    #[error("{} is cut short or was changed", path.display())]
    Damaged { path: PathBuf, source: io::Error },
    #[error("{} can be opened, but holds no backup of a mesh", path.display())]
    NoBackup { path: PathBuf },
}

impl Explained for BackupFileError {
    fn code(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "BackupFileError",
            Self::WrongIdentity { .. } => "BackupIdentityError",
            Self::NoAgeFile { .. } | Self::Damaged { .. } | Self::NoBackup { .. } => {
                "BackupInvalidError"
            }
        }
    }

    fn hint(&self) -> String {
        match self {
            Self::Unreadable { .. } => "name a file that `shoal backup create` made".into(),
            Self::WrongIdentity { .. } => {
                "a backup is opened by the recovery key of its mesh at that time, or by the key \
                 of a further --recipient"
                    .into()
            }
            Self::Damaged { .. } => "use another copy, or an older backup".into(),
            Self::NoAgeFile { .. } | Self::NoBackup { .. } => {
                "name a file that `shoal backup create` made; one of a later version of shoal \
                 needs that version"
                    .into()
            }
        }
    }
}

/// What a backup says about itself.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) view: BackupView,
    /// The JSON text, with what this version does not know of.
    pub(crate) document: Vec<u8>,
}

/// Opens the file at `path` and reads it to its end.
pub(crate) fn open(
    path: &Path,
    identity: &age::x25519::Identity,
) -> Result<Opened, BackupFileError> {
    let unreadable = |source| BackupFileError::Unreadable {
        path: path.into(),
        source,
    };
    let file = File::open(path).map_err(unreadable)?;
    // A directory can be opened, but not read.
    if file.metadata().map_err(unreadable)?.is_dir() {
        return Err(unreadable(io::ErrorKind::IsADirectory.into()));
    }
    read(file, path, identity)
}

/// Reads a file to its end; `path` names it in the error.
pub(crate) fn read(
    mut from: impl Read,
    path: &Path,
    identity: &age::x25519::Identity,
) -> Result<Opened, BackupFileError> {
    let path = || path.to_owned();
    let damaged = |source| BackupFileError::Damaged {
        path: path(),
        source,
    };
    let mut prefix = [0; AGE_PREFIX.len()];
    let found = fill(&mut from, &mut prefix).map_err(|source| BackupFileError::Unreadable {
        path: path(),
        source,
    })?;
    if found.is_none() || prefix != *AGE_PREFIX {
        return Err(BackupFileError::NoAgeFile { path: path() });
    }
    let left = Rc::new(Cell::new(HEADER_BYTES_MAX));
    let limited = Limited {
        from: AGE_PREFIX.chain(from),
        left: Rc::clone(&left),
    };
    let decryptor = age::Decryptor::new_buffered(BufReader::new(limited))
        .map_err(|error| not_opened(error, path()))?;
    left.set(u64::MAX);
    let mut plain = decryptor
        .decrypt(std::iter::once(identity as &dyn age::Identity))
        .map_err(|error| not_opened(error, path()))?;

    let mut beginning = [0; MAGIC.len() + size_of::<u32>()];
    fill(&mut plain, &mut beginning)
        .map_err(damaged)?
        .ok_or_else(|| BackupFileError::NoBackup { path: path() })?;
    let (magic, length) = beginning.split_at(MAGIC.len());
    let length = u32::from_be_bytes(length.try_into().expect("four bytes were split off"));
    if magic != MAGIC || length > DOCUMENT_BYTES_MAX {
        return Err(BackupFileError::NoBackup { path: path() });
    }
    // Grows as the bytes come: a promise of many takes no memory.
    let mut document = Vec::new();
    (&mut plain)
        .take(length.into())
        .read_to_end(&mut document)
        .map_err(damaged)?;
    if document.len() != length as usize {
        return Err(BackupFileError::NoBackup { path: path() });
    }
    // To the end, because only there age knows that nothing was cut off.
    let state_bytes = io::copy(&mut plain, &mut io::sink()).map_err(damaged)?;
    match serde_json::from_slice(&document) {
        Ok(view) if state_bytes > 0 => Ok(Opened { view, document }),
        Ok(_) | Err(_) => Err(BackupFileError::NoBackup { path: path() }),
    }
}

/// Fills the buffer; none if the source ends before.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<Option<()>> {
    let mut filled_bytes = 0;
    while filled_bytes < buffer.len() {
        match from.read(&mut buffer[filled_bytes..]) {
            Ok(0) => return Ok(None),
            Ok(read) => filled_bytes += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some(()))
}

fn not_opened(error: age::DecryptError, path: PathBuf) -> BackupFileError {
    match error {
        age::DecryptError::NoMatchingKeys
        | age::DecryptError::DecryptionFailed
        | age::DecryptError::KeyDecryptionFailed
        | age::DecryptError::ExcessiveWork { .. } => BackupFileError::WrongIdentity { path },
        age::DecryptError::Io(source) if source.kind() == io::ErrorKind::UnexpectedEof => {
            BackupFileError::Damaged { path, source }
        }
        age::DecryptError::Io(source) => BackupFileError::Unreadable { path, source },
        age::DecryptError::InvalidMac => BackupFileError::Damaged {
            path,
            source: io::Error::other("the header's authentication code is not its own"),
        },
        age::DecryptError::InvalidHeader | age::DecryptError::UnknownFormat => {
            BackupFileError::NoAgeFile { path }
        }
        // The crate may come to know more reasons.
        _ => BackupFileError::NoAgeFile { path },
    }
}

/// Reads no more than what is left, which its maker can change meanwhile.
struct Limited<R> {
    from: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        let wanted = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let read = self.from.read(&mut buffer[..wanted])?;
        self.left.set(left - read as u64);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn view() -> BackupView {
        BackupView {
            mesh_id: "00ff".into(),
            mesh: "home".into(),
            created_ms: 1_000,
            raft_index: 42,
            version: "0.1.0".into(),
            nodes: vec!["n1".into(), "n2".into()],
            servers: vec!["n1".into()],
            root_fingerprints: vec!["ab".into()],
            attachments: vec![],
        }
    }

    fn plaintext(document: &[u8], state: &[u8]) -> Vec<u8> {
        let length = u32::try_from(document.len()).unwrap().to_be_bytes();
        [MAGIC, &length[..], document, state].concat()
    }

    fn sealed(to: &age::x25519::Identity, plaintext: &[u8]) -> Vec<u8> {
        let recipient = to.to_public();
        let recipients = std::iter::once(&recipient as &dyn age::Recipient);
        let mut file = Vec::new();
        let encryptor = age::Encryptor::with_recipients(recipients).unwrap();
        let mut writer = encryptor.wrap_output(&mut file).unwrap();
        writer.write_all(plaintext).unwrap();
        writer.finish().unwrap();
        file
    }

    fn key() -> age::x25519::Identity {
        age::x25519::Identity::generate()
    }

    fn opened(file: &[u8], key: &age::x25519::Identity) -> Result<Opened, &'static str> {
        read(file, "b".as_ref(), key).map_err(|error| match error {
            BackupFileError::Unreadable { .. } => "unreadable",
            BackupFileError::NoAgeFile { .. } => "no age file",
            BackupFileError::WrongIdentity { .. } => "wrong identity",
            BackupFileError::Damaged { .. } => "damaged",
            BackupFileError::NoBackup { .. } => "no backup",
        })
    }

    #[test]
    fn the_beginning_of_a_backup_never_changes() {
        let golden = b"SHOALBK1\0\0\0\x02{}state";
        assert_eq!(plaintext(b"{}", b"state"), golden);
        let key = key();
        // The frame is right; only the document is not one.
        assert_eq!(
            opened(&sealed(&key, golden), &key).unwrap_err(),
            "no backup"
        );
    }

    #[test]
    fn a_backup_says_what_it_holds_with_what_this_version_does_not_know() {
        let key = key();
        let mut document = serde_json::to_value(view()).unwrap();
        document["later"] = 1.into();
        let document = document.to_string().into_bytes();
        // More than one chunk of age's (64 KiB).
        let file = sealed(&key, &plaintext(&document, &[7; 200_000]));
        assert!(file.starts_with(AGE_PREFIX));
        let backup = opened(&file, &key).unwrap();
        assert_eq!((backup.view, backup.document), (view(), document));
    }

    #[test]
    fn a_backup_cut_anywhere_or_changed_anywhere_is_refused() {
        let key = key();
        let document = serde_json::to_vec(&view()).unwrap();
        let file = sealed(&key, &plaintext(&document, &[7; 70_000]));
        // Every place in the header and the first bytes of the payload, then samples.
        let places = (0..400).chain((400..file.len()).step_by(997));
        for at in places.chain([file.len() - 1]) {
            assert!(opened(&file[..at], &key).is_err(), "cut at {at}");
            let mut changed = file.clone();
            changed[at] ^= 1;
            assert!(opened(&changed, &key).is_err(), "changed at {at}");
        }
        let longer = [&file[..], b"x"].concat();
        assert_eq!(opened(&longer, &key).unwrap_err(), "damaged");
    }

    #[test]
    fn another_key_another_file_and_another_content_are_told_apart() {
        let (key, other) = (key(), key());
        let document = serde_json::to_vec(&view()).unwrap();
        let whole = plaintext(&document, b"state");
        let file = sealed(&key, &whole);
        assert_eq!(opened(&file, &other).unwrap_err(), "wrong identity");
        assert_eq!(
            opened(b"PK\x03\x04 a zip file", &key).unwrap_err(),
            "no age file"
        );
        let huge = [MAGIC, &u32::MAX.to_be_bytes()[..], b"x"].concat();
        for content in [
            &b""[..],
            b"SHOALBK1",
            b"SHOALBK2\0\0\0\0x",
            &huge,
            &whole[..40],
            // No state behind the document.
            &plaintext(&document, b""),
        ] {
            assert_eq!(
                opened(&sealed(&key, content), &key).unwrap_err(),
                "no backup",
                "{content:?}"
            );
        }
    }

    #[test]
    fn a_header_without_end_is_not_read_to_its_end() {
        struct Counted<R>(R, Rc<Cell<u64>>);
        impl<R: Read> Read for Counted<R> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let read = self.0.read(buffer)?;
                self.1.set(self.1.get() + read as u64);
                Ok(read)
            }
        }
        let stanzas = b"-> X25519 abc\nAAAA\n".repeat(10_000);
        for endless in [&stanzas[..], &[b'x'; 100_000]] {
            let read_bytes = Rc::new(Cell::new(0));
            let endless = Counted(AGE_PREFIX.chain(endless), Rc::clone(&read_bytes));
            assert!(read(endless, "b".as_ref(), &key()).is_err());
            let most = HEADER_BYTES_MAX + AGE_PREFIX.len() as u64;
            assert!(read_bytes.get() <= most, "{}", read_bytes.get());
        }
    }

    #[test]
    fn a_header_of_many_recipients_is_read() {
        let keys: Vec<_> = (0..RECIPIENTS_MAX + 1).map(|_| key()).collect();
        let recipients: Vec<_> = keys.iter().map(age::x25519::Identity::to_public).collect();
        let recipients = recipients.iter().map(|one| one as &dyn age::Recipient);
        let document = serde_json::to_vec(&view()).unwrap();
        let mut file = Vec::new();
        let encryptor = age::Encryptor::with_recipients(recipients).unwrap();
        let mut writer = encryptor.wrap_output(&mut file).unwrap();
        writer.write_all(&plaintext(&document, b"state")).unwrap();
        writer.finish().unwrap();
        for key in [&keys[0], &keys[RECIPIENTS_MAX]] {
            assert_eq!(opened(&file, key).unwrap().view, view());
        }
    }
}
