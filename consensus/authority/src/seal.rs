//! Sealing: bytes that only certain keys open (age v1, X25519 recipients).
//!
//! Decides who may open: the named recipients and nobody else. Never a passphrase.

use std::{
    fmt,
    io::{Read as _, Write as _},
    str::FromStr as _,
};

use age::{
    Decryptor, Encryptor,
    secrecy::ExposeSecret as _,
    x25519::{Identity, Recipient},
};
use zeroize::Zeroizing;

/// Most recipients of one file: servers of a mesh, with room, and the recovery key.
const RECIPIENTS_MAX: usize = 64;
/// Largest sealed file that is opened. A root key is below 1 KiB; a backup is larger, but streams
/// elsewhere.
const SEALED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Longest text of an identity or a recipient; both are below 80 characters.
const TEXT_CHARS_MAX: usize = 256;

/// Why bytes could not be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// A text is no secret key of age.
    #[error("this is no age secret key (AGE-SECRET-KEY-1…)")]
    Identity,
    /// A text is no recipient of age.
    #[error("{text:?} is no age recipient (age1…)")]
    Recipient {
        /// Its beginning.
        text: String,
    },
    /// Nobody, or too many, could open it.
    #[error("a sealed file has 1 to {RECIPIENTS_MAX} recipients, not {count}")]
    Recipients {
        /// How many were named.
        count: usize,
    },
    /// The library failed.
    #[error("sealing failed")]
    Seal,
    /// The bytes are no age file, or a damaged one.
    #[error("the sealed file is damaged")]
    Damaged,
    /// The file is sealed to others.
    #[error("the file is not sealed to this key")]
    NotRecipient,
}

impl SealError {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Identity => "SealingKeyMalformedError",
            Self::Recipient { .. } => "RecipientMalformedError",
            Self::Recipients { .. } => "RecipientCountError",
            Self::Seal => "SealingFailedError",
            Self::Damaged => "SealedFileDamagedError",
            Self::NotRecipient => "NotRecipientError",
        }
    }

    /// What to do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Identity => Some("a secret key is one line that starts with AGE-SECRET-KEY-1"),
            Self::Recipient { .. } => Some("a recipient is one word that starts with age1"),
            Self::Recipients { .. } | Self::Seal => None,
            Self::Damaged => Some("take the file from another server or a backup"),
            Self::NotRecipient => {
                Some("open it with a server's sealing key or with the recovery key")
            }
        }
    }
}

/// A node's key for opening what is sealed to it. `Debug` shows the recipient only.
#[derive(Clone)]
pub struct SealingKey {
    identity: Identity,
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SealingKey")
            .field(&self.recipient())
            .finish()
    }
}

impl SealingKey {
    /// A new key from the system's randomness.
    pub fn generate() -> Self {
        Self {
            identity: Identity::generate(),
        }
    }

    /// Reads the text of [`SealingKey::to_text`]; white space around it does not matter.
    pub fn from_text(text: &str) -> Result<Self, SealError> {
        let text = text.trim();
        if text.len() > TEXT_CHARS_MAX {
            return Err(SealError::Identity);
        }
        Identity::from_str(text)
            .map(|identity| Self { identity })
            .map_err(|_| SealError::Identity)
    }

    /// The secret key's text, for a file that only its owner may read.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(self.identity.to_string().expose_secret().to_owned())
    }

    /// The public text to which others seal.
    pub fn recipient(&self) -> String {
        self.identity.to_public().to_string()
    }

    /// Opens what was sealed to this key.
    pub fn unseal(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        unseal(self, sealed)
    }
}

/// The key kept outside the mesh, for the day when every server is lost.
#[derive(Debug, Clone)]
pub struct RecoveryKey(SealingKey);

impl RecoveryKey {
    /// A new key from the system's randomness.
    pub fn generate() -> Self {
        Self(SealingKey::generate())
    }

    /// Reads the text that was printed once.
    pub fn from_text(text: &str) -> Result<Self, SealError> {
        SealingKey::from_text(text).map(Self)
    }

    /// What is printed once and then forgotten.
    pub fn to_text(&self) -> Zeroizing<String> {
        self.0.to_text()
    }

    /// The public text to which the mesh seals.
    pub fn recipient(&self) -> String {
        self.0.recipient()
    }

    /// Opens what was sealed to this key.
    pub fn unseal(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        self.0.unseal(sealed)
    }
}

/// Whether each text is a recipient and their number is allowed; the first fault otherwise.
pub fn recipients_are_valid<T: AsRef<str>>(
    recipients: impl IntoIterator<Item = T>,
) -> Result<(), SealError> {
    read_recipients(recipients).map(|_| ())
}

/// Seals `plaintext` so that each of `recipients` alone opens it.
pub fn seal<T: AsRef<str>>(
    plaintext: &[u8],
    recipients: impl IntoIterator<Item = T>,
) -> Result<Vec<u8>, SealError> {
    let recipients = read_recipients(recipients)?;
    let encryptor = Encryptor::with_recipients(
        recipients
            .iter()
            .map(|recipient| recipient as &dyn age::Recipient),
    )
    .map_err(|_| SealError::Seal)?;
    let mut sealed = Vec::with_capacity(plaintext.len() + 1024);
    let mut writer = encryptor
        .wrap_output(&mut sealed)
        .map_err(|_| SealError::Seal)?;
    writer.write_all(plaintext).map_err(|_| SealError::Seal)?;
    writer.finish().map_err(|_| SealError::Seal)?;
    Ok(sealed)
}

/// Opens what was sealed to `key`.
pub fn unseal(key: &SealingKey, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
    if sealed.len() > SEALED_BYTES_MAX {
        return Err(SealError::Damaged);
    }
    let decryptor = Decryptor::new_buffered(sealed).map_err(|_| SealError::Damaged)?;
    let identity: &dyn age::Identity = &key.identity;
    let mut reader = decryptor
        .decrypt(std::iter::once(identity))
        .map_err(|error| {
            if matches!(error, age::DecryptError::NoMatchingKeys) {
                SealError::NotRecipient
            } else {
                SealError::Damaged
            }
        })?;
    // The plaintext is shorter than the file, so the buffer never moves and leaves no copy behind.
    let mut plaintext = Zeroizing::new(Vec::with_capacity(sealed.len()));
    reader
        .read_to_end(&mut plaintext)
        .map_err(|_| SealError::Damaged)?;
    Ok(plaintext)
}

fn read_recipients<T: AsRef<str>>(
    texts: impl IntoIterator<Item = T>,
) -> Result<Vec<Recipient>, SealError> {
    let mut recipients = Vec::new();
    let mut count = 0;
    for text in texts {
        count += 1;
        if count > RECIPIENTS_MAX {
            continue;
        }
        recipients.push(read_recipient(text.as_ref())?);
    }
    match count {
        1..=RECIPIENTS_MAX => Ok(recipients),
        _ => Err(SealError::Recipients { count }),
    }
}

fn read_recipient(text: &str) -> Result<Recipient, SealError> {
    // What does not even look like a recipient may be a secret key, and is not repeated.
    let shown = if text.starts_with("age1") {
        text
    } else {
        "…"
    };
    let wrong = || SealError::Recipient {
        text: shown.chars().take(80).collect(),
    };
    if text.len() > TEXT_CHARS_MAX {
        return Err(wrong());
    }
    Recipient::from_str(text).map_err(|_| wrong())
}
