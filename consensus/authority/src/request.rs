//! Requests for certificates (PKCS#10, RFC 2986): a key and the proof that it is held.
//!
//! Decides that a request is well formed and signed by its own key. Nothing else of it is read:
//! what a certificate says is decided by its issuer.

use rcgen::{CertificateParams, DistinguishedName};
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer as _};

use crate::{
    issue::IssueError,
    key::{KeyError, PrivateKey, PublicKey},
    signed::is_canonical,
};

/// Longest request read. One without names and extensions is below 300 bytes.
const REQUEST_BYTES_MAX: usize = 4 * 1024;

impl PrivateKey {
    /// A request for a certificate on this key (PKCS#10, DER).
    pub fn request(&self) -> Result<Vec<u8>, KeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .serialize_request(self)
            .map(|request| request.der().to_vec())
            .map_err(|_| KeyError::Generate)
    }
}

/// The key that a request is for, once its signature proved that the asker holds it.
pub(crate) fn requested_key(der: &[u8]) -> Result<PublicKey, IssueError> {
    let wrong = |reason| IssueError::Request { reason };
    if der.len() > REQUEST_BYTES_MAX {
        return Err(wrong("it is too long"));
    }
    let (rest, request) =
        X509CertificationRequest::from_der(der).map_err(|_| wrong("it is not PKCS#10"))?;
    if !rest.is_empty() {
        return Err(wrong("bytes follow it"));
    }
    let info = &request.certification_request_info;
    let key = PublicKey::read(&info.subject_pki).ok_or(wrong("its key is of another algorithm"))?;
    let signature = &request.signature_value;
    let proven = is_canonical(der, info.raw, key.algorithm(), &signature.data)
        && key.verifies(&request.signature_algorithm, info.raw, &signature.data);
    if proven {
        Ok(key)
    } else {
        Err(wrong("its signature is not its key's"))
    }
}
