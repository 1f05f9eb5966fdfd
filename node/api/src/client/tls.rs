//! Certificates for the API on overlay addresses.
//!
//! Decides: whom to believe (servers whose certificate chains to the mesh's root and names the
//! address that was dialled) and what to show (this node's own certificate). Never: who may do
//! what. Files are read per connection, so that a renewed certificate is used at once.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
};
use tokio_rustls::TlsConnector;

use crate::ApiError;

/// The mesh's root certificate.
const CA_FILE: &str = "ca.pem";
/// The certificate to show, leaf first.
const CERTIFICATE_FILE: &str = "cert.pem";
/// Its key.
const KEY_FILE: &str = "key.pem";

/// A directory with `ca.pem`, `cert.pem` and `key.pem`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    directory: PathBuf,
}

/// Why the files give no TLS identity.
#[derive(Debug, thiserror::Error)]
enum TlsFilesError {
    #[error("{} cannot be read", path.display())]
    Unreadable { path: PathBuf, source: pem::Error },
    #[error("{} contains no certificate", path.display())]
    NoCertificate { path: PathBuf },
    #[error("the certificates in {} cannot be used", directory.display())]
    Unusable {
        directory: PathBuf,
        source: rustls::Error,
    },
}

impl From<TlsFilesError> for ApiError {
    fn from(error: TlsFilesError) -> Self {
        let api = Self::new(
            "TlsError",
            error.to_string(),
            "name the directory that `shoal operator create` made with --tls-dir; on a node of the \
             mesh its root needs none: leave --connect out",
        );
        match std::error::Error::source(&error) {
            Some(source) => api.caused_by(source),
            None => api,
        }
    }
}

impl TlsFiles {
    /// The three files in this directory.
    pub fn in_directory(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
        }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn connector(&self) -> Result<TlsConnector, ApiError> {
        Ok(TlsConnector::from(Arc::new(self.load()?)))
    }

    fn load(&self) -> Result<ClientConfig, TlsFilesError> {
        let unusable = |source| TlsFilesError::Unusable {
            directory: self.directory.clone(),
            source,
        };
        let mut roots = RootCertStore::empty();
        for root in self.certificates(CA_FILE)? {
            roots.add(root).map_err(unusable)?;
        }
        let key_path = self.directory.join(KEY_FILE);
        let key = PrivateKeyDer::from_pem_file(&key_path).map_err(|source| {
            TlsFilesError::Unreadable {
                path: key_path,
                source,
            }
        })?;
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unusable)?
            .with_root_certificates(roots)
            .with_client_auth_cert(self.certificates(CERTIFICATE_FILE)?, key)
            .map_err(unusable)
    }

    fn certificates(&self, file: &str) -> Result<Vec<CertificateDer<'static>>, TlsFilesError> {
        let path = self.directory.join(file);
        let read =
            CertificateDer::pem_file_iter(&path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        match read {
            Ok(certificates) if certificates.is_empty() => {
                Err(TlsFilesError::NoCertificate { path })
            }
            Ok(certificates) => Ok(certificates),
            Err(source) => Err(TlsFilesError::Unreadable { path, source }),
        }
    }
}
