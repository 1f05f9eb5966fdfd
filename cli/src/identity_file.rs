//! The file with the identity that opens a backup, such as the recovery key.
//!
//! Decides: what such a file may be: one age identity (X25519), with comments as age-keygen writes
//! them, and readable by nobody else. Invariant: no error shows what the file holds.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::failure::Explained;

/// An identity is 74 characters; this leaves room for any comment one would write beside it.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// Permission bits of group and others.
const MODE_OTHERS: u32 = 0o077;

/// Why a file gives no identity.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityFileError {
    #[error("the identity file {} cannot be read", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("others on this machine may read the identity file {}", path.display())]
    OpenToOthers { path: PathBuf },
    #[error("the file {} does not hold one age identity", path.display())]
    NoIdentity { path: PathBuf },
    #[error("the file {} holds a recipient, which only seals; an identity opens", path.display())]
    Recipient { path: PathBuf },
}

impl Explained for IdentityFileError {
    fn code(&self) -> &'static str {
        "IdentityFileError"
    }

    fn hint(&self) -> String {
        match self {
            Self::OpenToOthers { path } => format!("chmod 600 {}", path.display()),
            Self::Unreadable { .. } | Self::NoIdentity { .. } | Self::Recipient { .. } => {
                "give a file with the line that begins with AGE-SECRET-KEY-1: the recovery key \
                 that `shoal init` showed, or the key of a further --recipient"
                    .into()
            }
        }
    }
}

/// An identity and its text.
pub(crate) struct Identity {
    /// What opens a file.
    pub(crate) key: age::x25519::Identity,
    /// The same as the daemon takes it.
    pub(crate) text: String,
}

/// Reads the file.
pub(crate) fn read(path: &Path) -> Result<Identity, IdentityFileError> {
    let unreadable = |source| IdentityFileError::Unreadable {
        path: path.into(),
        source,
    };
    let file = File::open(path).map_err(unreadable)?;
    // Of what was opened, not of what the name stands for by now.
    let found = file.metadata().map_err(unreadable)?;
    if found.mode() & MODE_OTHERS != 0 {
        return Err(IdentityFileError::OpenToOthers { path: path.into() });
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    parse(&bytes, path)
}

/// Reads the text of such a file; `path` names it in the error.
pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Identity, IdentityFileError> {
    let no_identity = || IdentityFileError::NoIdentity { path: path.into() };
    let text = std::str::from_utf8(bytes).map_err(|_| no_identity())?;
    let mut lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return Err(no_identity());
    };
    if line.starts_with("age1") {
        return Err(IdentityFileError::Recipient { path: path.into() });
    }
    Ok(Identity {
        key: line.parse().map_err(|_| no_identity())?,
        text: line.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use age::secrecy::ExposeSecret;

    use super::*;

    fn of(text: &str) -> Result<String, IdentityFileError> {
        let identity = parse(text.as_bytes(), "k".as_ref())?;
        assert_eq!(identity.key.to_string().expose_secret(), identity.text);
        Ok(identity.text)
    }

    fn key() -> String {
        let key = age::x25519::Identity::generate().to_string();
        key.expose_secret().to_owned()
    }

    #[test]
    fn comments_and_space_around_the_identity_are_passed_over() {
        let key = key();
        assert_eq!(of(&key).unwrap(), key);
        let made_by_age_keygen = format!("# created: x\n# public key: age1x\n\n  {key}\r\n");
        assert_eq!(of(&made_by_age_keygen).unwrap(), key);
    }

    #[test]
    fn what_is_not_one_identity_is_refused_without_being_shown() {
        let key = key();
        for text in [
            String::new(),
            "# nothing".into(),
            "secret".into(),
            format!("{key}\n{key}"),
            format!("{key}x"),
            key[..70].to_owned(),
        ] {
            let error = of(&text).unwrap_err();
            let shown = format!("{error} {error:?} {}", error.hint());
            assert!(
                matches!(error, IdentityFileError::NoIdentity { .. }),
                "{shown}"
            );
            assert!(!shown.contains("secret"), "{shown}");
            assert!(!shown.contains(&key[..40]), "{shown}");
        }
        assert!(matches!(
            parse(b"\xff", "k".as_ref()),
            Err(IdentityFileError::NoIdentity { .. })
        ));
        let recipient = age::x25519::Identity::generate().to_public().to_string();
        assert!(matches!(
            of(&recipient),
            Err(IdentityFileError::Recipient { .. })
        ));
    }

    #[test]
    fn an_identity_that_others_may_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, key()).unwrap();
        for (mode, code) in [(0o600, None), (0o640, Some(())), (0o604, Some(()))] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            let refused = read(&path).err();
            assert_eq!(refused.is_some(), code.is_some(), "{mode:o} {refused:?}");
        }
        for missing in [directory.path().join("none"), directory.path().into()] {
            assert!(read(&missing).is_err());
        }
    }
}
