//! PEM (RFC 7468): certificates and keys as the text that other programs read.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use zeroize::Zeroizing;

/// Characters in a line (RFC 7468, section 2).
const LINE_CHARS: usize = 64;
/// Most certificates read from one text: a chain's, with room.
const CERTIFICATES_MAX: usize = 16;

/// Why a text holds no certificates.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// It is not PEM.
    #[error("the text is not PEM")]
    Malformed,
    /// It holds no certificate.
    #[error("the text holds no certificate")]
    Empty,
    /// It holds more certificates than any chain.
    #[error("the text holds more than {CERTIFICATES_MAX} certificates")]
    TooMany,
}

impl PemError {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed => "PemMalformedError",
            Self::Empty => "PemEmptyError",
            Self::TooMany => "PemTooManyError",
        }
    }
}

/// Certificates, one after the other: a chain, or a bundle of roots.
pub fn certificates_to_pem<'a>(certificates: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut text = String::new();
    for certificate in certificates {
        block(&mut text, "CERTIFICATE", certificate);
    }
    text
}

/// A private key in PKCS#8.
pub fn key_to_pem(pkcs8: &[u8]) -> Zeroizing<String> {
    // Twice the DER holds base64 and labels, so the text never moves and leaves no copy behind.
    let mut text = Zeroizing::new(String::with_capacity(pkcs8.len() * 2 + 128));
    block(&mut text, "PRIVATE KEY", pkcs8);
    text
}

/// The certificates in a text, in their order; other blocks are skipped.
pub fn certificates_from_pem(text: &str) -> Result<Vec<Vec<u8>>, PemError> {
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        if certificates.len() == CERTIFICATES_MAX {
            return Err(PemError::TooMany);
        }
        certificates.push(certificate.map_err(|_| PemError::Malformed)?.to_vec());
    }
    match certificates.is_empty() {
        true => Err(PemError::Empty),
        false => Ok(certificates),
    }
}

fn block(text: &mut String, label: &str, der: &[u8]) {
    let base64 = Zeroizing::new(STANDARD.encode(der));
    let _ = writeln!(text, "-----BEGIN {label}-----");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(LINE_CHARS));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    let _ = writeln!(text, "-----END {label}-----");
}
