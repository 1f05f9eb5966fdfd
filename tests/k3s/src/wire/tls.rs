//! Whom a connection trusts.
//!
//! A server asks every client for a certificate and takes any, as K3s does: whether it was signed
//! by the cluster's client CA is decided per request ([`Verifier::trusts`]), so that a stranger
//! gets 401 and not a broken connection.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs::default_provider},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use crate::{
    Fatal,
    pki::{self, Pair},
};

fn failed(error: impl std::fmt::Display) -> Fatal {
    Fatal::new(format!("tls: {error}"))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(default_provider())
}

fn roots(pem: &str) -> Result<RootCertStore, Fatal> {
    let mut roots = RootCertStore::empty();
    for certificate in pki::certificates(pem)? {
        roots.add(certificate).map_err(failed)?;
    }
    Ok(roots)
}

/// Checks clients' certificates against one CA.
#[derive(Debug)]
pub(crate) struct Verifier {
    strict: Arc<dyn ClientCertVerifier>,
}

impl Verifier {
    pub(crate) fn new(ca_pem: &str) -> Result<Arc<Self>, Fatal> {
        let roots = Arc::new(roots(ca_pem)?);
        let strict = WebPkiClientVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(failed)?;
        Ok(Arc::new(Self { strict }))
    }

    /// Whether the first of these certificates was signed by the CA, and is valid now.
    pub(crate) fn trusts(&self, chain: &[CertificateDer<'static>]) -> bool {
        let Some((leaf, rest)) = chain.split_first() else {
            return false;
        };
        let verified = self.strict.verify_client_cert(leaf, rest, UnixTime::now());
        verified.is_ok()
    }
}

/// Takes any certificate whose key its sender has.
#[derive(Debug)]
struct Lenient(Arc<Verifier>);

impl ClientCertVerifier for Lenient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.strict.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.strict.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.strict.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.strict.supported_verify_schemes()
    }
}

/// Trusts every server; only for the first look at `/cacerts`.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let supported = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, supported)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let supported = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, supported)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What a server presents, and whose certificates it can tell. `strict`: strangers are turned
/// away in the handshake already, as etcd does.
pub(crate) fn server(
    pair: &Pair,
    clients: &Arc<Verifier>,
    strict: bool,
) -> Result<Arc<ServerConfig>, Fatal> {
    let verifier: Arc<dyn ClientCertVerifier> = if strict {
        clients.strict.clone()
    } else {
        Arc::new(Lenient(clients.clone()))
    };
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(pki::certificates(&pair.cert)?, pki::private_key(&pair.key)?)
        .map_err(failed)?;
    Ok(Arc::new(config))
}

/// Trusts servers of this CA, and shows this certificate to those that ask.
pub(crate) fn client(ca_pem: &str, pair: Option<&Pair>) -> Result<Arc<ClientConfig>, Fatal> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_root_certificates(roots(ca_pem)?);
    let config = match pair {
        Some(pair) => builder
            .with_client_auth_cert(pki::certificates(&pair.cert)?, pki::private_key(&pair.key)?)
            .map_err(failed)?,
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

/// Trusts anybody.
pub(crate) fn insecure_client() -> Result<Arc<ClientConfig>, Fatal> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider())))
        .with_no_client_auth();
    Ok(Arc::new(config))
}
