//! The key of the node's dockerd and the request made from it.
//!
//! Decides: what the request says (common name, DNS name, overlay addresses), and who may read the
//! key: its owner alone.
//! Never: prints, logs or returns the key.
//!
//! Invariant: equal key and names give equal bytes, because Ed25519 (RFC 8032) signs without
//! chance. `runtimes-core` tells by this whether a certificate fits.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ED25519, SanType};
use runtimes_core::docker::CertificateNames;

use runtimes_host::files::{self, FileError, HostFiles, at};

use crate::paths::Paths;

/// For the owner alone.
const KEY_MODE: u32 = 0o600;
/// Everybody but the owner.
const OTHERS: u32 = 0o077;

/// The key or the request could not be made.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The key file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The cryptography refused.
    #[error("cannot {action}")]
    Crypto {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: rcgen::Error,
    },
}

impl IdentityError {
    /// Stable text for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::File(error) => error.code(),
            Self::Crypto { .. } => "DockerIdentityError",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::File(error) => error.hint(),
            Self::Crypto { .. } => {
                "unassign and assign docker-engine: a new key is made".to_owned()
            }
        }
    }
}

fn crypto(action: &'static str) -> impl FnOnce(rcgen::Error) -> IdentityError {
    move |source| IdentityError::Crypto { action, source }
}

/// Makes the key, unless there is one.
pub(crate) fn make_key(paths: &Paths, files: &HostFiles) -> Result<(), IdentityError> {
    let path = paths.tls_key();
    if read_key(paths)?.is_none() {
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(crypto("make a key"))?;
        files.write(&path, key.serialize_pem().as_bytes(), KEY_MODE)?;
    }
    Ok(())
}

/// Keeps everybody but its owner from the key. Whether its mode let others have it.
pub(crate) fn close_key(paths: &Paths) -> Result<bool, FileError> {
    let path = paths.tls_key();
    let mode = match fs::metadata(&path) {
        Ok(metadata) => metadata.permissions().mode(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(at("look at", &path)(error)),
    };
    if mode & OTHERS == 0 {
        return Ok(false);
    }
    let closed = fs::set_permissions(&path, Permissions::from_mode(KEY_MODE));
    closed.map_err(at("close", &path))?;
    Ok(true)
}

/// The request for these names (PKCS#10, DER); `None` without a key.
pub(crate) fn request(
    paths: &Paths,
    names: &CertificateNames,
) -> Result<Option<Vec<u8>>, IdentityError> {
    let Some(key) = read_key(paths)? else {
        return Ok(None);
    };
    let request = parameters(names)
        .and_then(|parameters| parameters.serialize_request(&key))
        .map_err(crypto("make a certificate request"))?;
    Ok(Some(request.der().to_vec()))
}

/// The key; a file that is no Ed25519 key counts as none, so that a new one replaces it.
fn read_key(paths: &Paths) -> Result<Option<KeyPair>, FileError> {
    let key = files::read(&paths.tls_key())?
        .and_then(|pem| KeyPair::from_pkcs8_pem_and_sign_algo(&pem, &PKCS_ED25519).ok());
    Ok(key)
}

fn parameters(names: &CertificateNames) -> Result<CertificateParams, rcgen::Error> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters
        .distinguished_name
        .push(DnType::CommonName, names.node_name.as_str());
    let addresses = [
        Some(names.listen.ipv6.into()),
        names.listen.ipv4.map(Into::into),
    ];
    parameters.subject_alt_names = vec![SanType::DnsName(names.node_name.as_str().try_into()?)];
    parameters
        .subject_alt_names
        .extend(addresses.into_iter().flatten().map(SanType::IpAddress));
    Ok(parameters)
}

#[cfg(test)]
mod tests {
    use runtimes_core::docker::Listen;

    use super::*;

    fn names(node_name: &str) -> CertificateNames {
        CertificateNames {
            node_name: node_name.into(),
            listen: Listen {
                ipv6: "fd00:5::1".parse().unwrap(),
                ipv4: Some("100.64.0.1".parse().unwrap()),
            },
        }
    }

    #[test]
    fn the_request_is_the_same_for_the_same_names_and_another_for_others() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        let files = HostFiles::listed_in(paths.manifest());
        assert_eq!(request(&paths, &names("alpha")).unwrap(), None);
        make_key(&paths, &files).unwrap();
        let first = request(&paths, &names("alpha")).unwrap();
        make_key(&paths, &files).unwrap();
        assert_eq!(request(&paths, &names("alpha")).unwrap(), first);
        assert_ne!(request(&paths, &names("beta")).unwrap(), first);
        let mode = fs::metadata(paths.tls_key()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_key_that_others_may_have_is_kept_from_them_and_stays_the_key() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        let files = HostFiles::listed_in(paths.manifest());
        assert!(!close_key(&paths).unwrap(), "there is none");
        make_key(&paths, &files).unwrap();
        assert!(!close_key(&paths).unwrap());
        let before = request(&paths, &names("alpha")).unwrap();
        for mode in [0o644, 0o640, 0o602] {
            fs::set_permissions(paths.tls_key(), Permissions::from_mode(mode)).unwrap();
            assert!(close_key(&paths).unwrap(), "{mode:o}");
            assert!(!close_key(&paths).unwrap());
            let mode = fs::metadata(paths.tls_key()).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, KEY_MODE);
        }
        assert_eq!(request(&paths, &names("alpha")).unwrap(), before);
    }

    #[test]
    fn the_request_carries_name_and_both_addresses() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        make_key(&paths, &HostFiles::listed_in(paths.manifest())).unwrap();
        let der = request(&paths, &names("alpha")).unwrap().unwrap();
        let csr = rcgen::CertificateSigningRequestParams::from_der(&der.as_slice().into()).unwrap();
        assert_eq!(csr.params.subject_alt_names.len(), 3);
        assert!(
            csr.params
                .subject_alt_names
                .contains(&SanType::IpAddress("fd00:5::1".parse().unwrap()))
        );
    }

    #[test]
    fn a_key_file_that_is_no_key_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        let files = HostFiles::listed_in(paths.manifest());
        files.write(&paths.tls_key(), b"", 0o600).unwrap();
        make_key(&paths, &files).unwrap();
        assert!(request(&paths, &names("alpha")).unwrap().is_some());
    }
}
