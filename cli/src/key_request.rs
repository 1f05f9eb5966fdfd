//! Keys that are made here, and the requests for their certificates.
//!
//! Invariant: a key leaves this process only into a file of its owner; what is sent is the
//! request (PKCS#10, RFC 2986).

use rcgen::{
    CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519,
};

use crate::failure::Explained;

/// What a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// What everything of ours uses (RFC 8410).
    Ed25519,
    /// What browsers can use.
    P256,
}

/// A key and the request for its certificate, both PEM.
pub(crate) struct KeyRequest {
    pub(crate) key_pem: String,
    pub(crate) csr_pem: String,
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
#[error("the key could not be made")]
pub(crate) struct KeyError {
    #[from]
    source: rcgen::Error,
}

impl Explained for KeyError {
    fn code(&self) -> &'static str {
        "InternalError"
    }

    fn hint(&self) -> String {
        "try again".into()
    }
}

/// A new key. The subject in the request says what it is for; the one in the certificate is the
/// mesh's to choose.
pub(crate) fn make(algorithm: Algorithm, subject: &str) -> Result<KeyRequest, KeyError> {
    let key = KeyPair::generate_for(match algorithm {
        Algorithm::Ed25519 => &PKCS_ED25519,
        Algorithm::P256 => &PKCS_ECDSA_P256_SHA256,
    })?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject);
    Ok(KeyRequest {
        csr_pem: params.serialize_request(&key)?.pem()?,
        key_pem: key.serialize_pem(),
    })
}

#[cfg(test)]
mod tests {
    use rcgen::CertificateSigningRequestParams;

    use super::*;

    #[test]
    fn a_request_is_on_the_key_that_was_asked_for() {
        for (algorithm, expected) in [
            (Algorithm::Ed25519, &PKCS_ED25519),
            (Algorithm::P256, &PKCS_ECDSA_P256_SHA256),
        ] {
            let made = make(algorithm, "alice").unwrap();
            let key = KeyPair::from_pem(&made.key_pem).unwrap();
            assert!(key.is_compatible(expected), "{algorithm:?}");
            let request = CertificateSigningRequestParams::from_pem(&made.csr_pem).unwrap();
            assert_eq!(request.public_key.algorithm(), expected);
            assert!(!made.csr_pem.contains("PRIVATE"));
        }
    }
}
