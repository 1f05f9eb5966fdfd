//! Keys that are made here, and the requests for their certificates.
//!
//! Invariant: a key leaves this process only into a file of its owner; what is sent is the
//! request (PKCS#10, RFC 2986).

use base64::{Engine as _, engine::general_purpose::STANDARD};
pub(crate) use consensus_authority::KeyAlgorithm as Algorithm;
use consensus_authority::{PrivateKey, key_to_pem};

use crate::failure::Explained;

/// Characters of base64 on a line of PEM (RFC 7468).
const LINE_CHARS: usize = 64;

/// A key and the request for its certificate, both PEM. The key is PKCS#8 in its first version,
/// which every program reads.
pub(crate) struct KeyRequest {
    pub(crate) key_pem: String,
    pub(crate) csr_pem: String,
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
#[error("the key could not be made")]
pub(crate) struct KeyError {
    #[from]
    source: consensus_authority::KeyError,
}

impl Explained for KeyError {
    fn code(&self) -> &'static str {
        "InternalError"
    }

    fn hint(&self) -> String {
        "try again".into()
    }
}

/// A new key. Whose certificate it becomes is the mesh's to say: the request names nobody.
pub(crate) fn make(algorithm: Algorithm) -> Result<KeyRequest, KeyError> {
    let key = PrivateKey::generate(algorithm)?;
    Ok(KeyRequest {
        csr_pem: request_to_pem(&key.request()?),
        key_pem: key_to_pem(key.pkcs8()).to_string(),
    })
}

fn request_to_pem(der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let lines: Vec<&str> = body
        .as_bytes()
        .chunks(LINE_CHARS)
        .filter_map(|line| std::str::from_utf8(line).ok())
        .collect();
    format!(
        "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
        lines.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use rcgen::{
        CertificateSigningRequestParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519,
        PublicKeyData as _,
    };

    use super::*;

    #[test]
    fn a_request_is_on_the_key_that_was_asked_for() {
        for (algorithm, expected) in [
            (Algorithm::Ed25519, &PKCS_ED25519),
            (Algorithm::P256, &PKCS_ECDSA_P256_SHA256),
        ] {
            let made = make(algorithm).unwrap();
            let key = KeyPair::from_pem(&made.key_pem).unwrap();
            assert!(key.is_compatible(expected), "{algorithm:?}");
            let request = CertificateSigningRequestParams::from_pem(&made.csr_pem).unwrap();
            assert_eq!(request.public_key.algorithm(), expected);
            assert_eq!(request.public_key.der_bytes(), key.public_key_raw());
            assert!(!made.csr_pem.contains("PRIVATE"));
        }
    }

    #[test]
    fn openssl_reads_every_key_and_request() {
        for algorithm in [Algorithm::Ed25519, Algorithm::P256] {
            let made = make(algorithm).unwrap();
            let directory = tempfile::tempdir().unwrap();
            for (command, text) in [("pkey", &made.key_pem), ("req", &made.csr_pem)] {
                let file = directory.path().join(command);
                std::fs::write(&file, text).unwrap();
                let read = std::process::Command::new("openssl")
                    .args([command, "-noout", "-in"])
                    .arg(&file)
                    .output()
                    .unwrap();
                assert!(read.status.success(), "{algorithm:?} {command}: {read:?}");
            }
        }
    }
}
