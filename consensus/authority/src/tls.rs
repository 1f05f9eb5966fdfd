//! TLS verifiers for rustls: the mesh's own trust instead of a web browser's.
//!
//! Decides whether the other side of a TLS connection is believed: its chain by [`Trust`], its
//! profile, who it is, and the handshake's signature by aws-lc. The trust is read at each
//! handshake, so a revocation counts from the next one on. Time comes from rustls.
//!
//! Invariant of the configurations made here: every connection is a full TLS 1.3 handshake.
//! A resumed session would not be verified again (RFC 8446, 2.2), and outlive a revocation.
//!
//! [`Trust`]: crate::Trust

use std::sync::Arc;

use consensus_core::{CertificateProfile, NodeId, WallMs};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    ServerConfig, SignatureScheme,
    client::Resumption,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{
        WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
    },
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    server::NoServerSessionStorage,
    server::danger::{ClientCertVerified, ClientCertVerifier},
    time_provider::TimeProvider,
    version::TLS13,
};

use crate::{
    key::PrivateKey,
    refusal::Refusal,
    trust::{SharedTrust, Verified},
};

/// What a handshake may be signed with: the keys that leaves may have.
const SCHEMES: [SignatureScheme; 2] = [
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP256_SHA256,
];

/// A chain and the time, as rustls hands them over.
fn verify(
    trust: &SharedTrust,
    profiles: &[CertificateProfile],
    leaf: &CertificateDer<'_>,
    rest: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<Verified, Refusal> {
    let chain: Vec<Vec<u8>> = std::iter::once(leaf)
        .chain(rest)
        .map(|certificate| certificate.to_vec())
        .collect();
    let now = WallMs(now.as_secs().saturating_mul(1000));
    let verified = trust.current().verify(&chain, now)?;
    verified.require_profile(profiles)?;
    Ok(verified)
}

/// rustls's own error where it has one, because the other side is told by it; the refusal
/// itself otherwise.
fn tls_error(refusal: Refusal, now: UnixTime) -> Error {
    let unix = |at: WallMs| UnixTime::since_unix_epoch(std::time::Duration::from_millis(at.0));
    Error::InvalidCertificate(match refusal {
        Refusal::Malformed(_) => CertificateError::BadEncoding,
        Refusal::WrongRoot(_) => CertificateError::UnknownIssuer,
        Refusal::Expired { since } => CertificateError::ExpiredContext {
            time: now,
            not_after: unix(since),
        },
        Refusal::NotYetValid { from } => CertificateError::NotValidYetContext {
            time: now,
            not_before: unix(from),
        },
        Refusal::Revoked { .. } => CertificateError::Revoked,
        Refusal::WrongMesh { .. }
        | Refusal::WrongProfile { .. }
        | Refusal::Retired { .. }
        | Refusal::WrongNode { .. } => CertificateError::Other(OtherError(Arc::new(refusal))),
    })
}

/// The refusal inside rustls's error, if it carries one.
pub fn refusal_of(error: &Error) -> Option<&Refusal> {
    let Error::InvalidCertificate(CertificateError::Other(other)) = error else {
        return None;
    };
    other.0.downcast_ref::<Refusal>()
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    aws_lc_rs::default_provider().signature_verification_algorithms
}

/// Verifies clients: operators, docker clients, nodes.
#[derive(Debug)]
pub struct ClientVerifier {
    trust: SharedTrust,
    profiles: Vec<CertificateProfile>,
    mandatory: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientVerifier {
    /// Clients must show a leaf of one of these profiles.
    pub fn new(trust: SharedTrust, profiles: &[CertificateProfile]) -> Self {
        Self {
            trust,
            profiles: profiles.to_vec(),
            mandatory: true,
            algorithms: algorithms(),
        }
    }

    /// Clients may show nothing, and are nobody then; what they show must still be good.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.mandatory = false;
        self
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Roots come and go while this verifier lives, and clients have one chain to show.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        verify(&self.trust, &self.profiles, end_entity, intermediates, now)
            .map(|_| ClientCertVerified::assertion())
            .map_err(|refusal| tls_error(refusal, now))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

/// Whom a client expects to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// This node, wherever it was reached.
    Node(NodeId),
    /// Whoever has a certificate for the name or address that was dialled.
    Name,
    /// This node, with a certificate for the name or address that was dialled.
    NodeAndName(NodeId),
}

/// Verifies servers: the API of nodes, dockerd.
#[derive(Debug)]
pub struct ServerVerifier {
    trust: SharedTrust,
    profiles: Vec<CertificateProfile>,
    expected: Expected,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    /// Servers must show a leaf of one of these profiles and be who is expected.
    pub fn new(trust: SharedTrust, profiles: &[CertificateProfile], expected: Expected) -> Self {
        Self {
            trust,
            profiles: profiles.to_vec(),
            expected,
            algorithms: algorithms(),
        }
    }
}

impl Expected {
    fn verify(&self, verified: &Verified, name: &ServerName<'_>) -> Result<(), Refusal> {
        match self {
            Self::Node(node) => verified.require_holder(node),
            Self::Name => require_name(verified, name),
            Self::NodeAndName(node) => {
                verified.require_holder(node)?;
                require_name(verified, name)
            }
        }
    }
}

/// The leaf names the address or name that was dialled. No wildcards: no mesh issues any.
fn require_name(verified: &Verified, name: &ServerName<'_>) -> Result<(), Refusal> {
    let names = &verified.names;
    let named = match name {
        ServerName::DnsName(dialled) => names
            .dns
            .iter()
            .any(|name| name.eq_ignore_ascii_case(dialled.as_ref())),
        ServerName::IpAddress(dialled) => {
            names.addresses.contains(&std::net::IpAddr::from(*dialled))
        }
        _ => false,
    };
    if named {
        return Ok(());
    }
    Err(Refusal::WrongNode {
        expected: name.to_str().into_owned(),
        shown: verified.holder.to_string(),
    })
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify(&self.trust, &self.profiles, end_entity, intermediates, now)
            .and_then(|verified| self.expected.verify(&verified, server_name))
            .map(|()| ServerCertVerified::assertion())
            .map_err(|refusal| tls_error(refusal, now))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

/// A listener that shows `chain` and believes clients as `clients` says. `clock` tells the time
/// of each handshake.
pub fn server_config(
    chain: &[Vec<u8>],
    key: &PrivateKey,
    clients: ClientVerifier,
    clock: Arc<dyn TimeProvider>,
) -> Result<ServerConfig, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_details(provider, clock)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(clients))
        .with_single_cert(certificates(chain), private_key(key))?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// A dialler that believes servers as `servers` says, and shows `identity` if it is asked.
/// `clock` tells the time of each handshake.
pub fn client_config(
    identity: Option<(&[Vec<u8>], &PrivateKey)>,
    servers: ServerVerifier,
    clock: Arc<dyn TimeProvider>,
) -> Result<ClientConfig, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_details(provider, clock)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(servers));
    let mut config = match identity {
        Some((chain, key)) => {
            builder.with_client_auth_cert(certificates(chain), private_key(key))?
        }
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn certificates(chain: &[Vec<u8>]) -> Vec<CertificateDer<'static>> {
    chain.iter().map(|der| der.clone().into()).collect()
}

fn private_key(key: &PrivateKey) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.pkcs8().to_vec()).into()
}
