//! Certificates: the cluster's authorities and what they sign.
//!
//! Follows `pkg/daemons/control/deps/deps.go`: a CA for servers, one for clients, one for etcd's
//! peers; ECDSA on P-256; ten years for authorities, one year for the rest. Keys are generated
//! here and written nowhere but to files of mode 0600.

use std::{net::IpAddr, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use time::{Duration, OffsetDateTime};

use crate::{Fatal, clock, files};

/// As K3s: authorities live ten years.
const CA_DAYS: i64 = 3650;
/// As K3s: everything else lives one year.
const LEAF_DAYS: i64 = 365;

/// A certificate with its key, both PEM.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) cert: String,
    pub(crate) key: String,
}

/// Whom a certificate is about and what for.
pub(crate) struct Subject<'a> {
    pub(crate) name: &'a str,
    pub(crate) organization: Option<&'a str>,
    pub(crate) sans: &'a [String],
    pub(crate) client: bool,
    pub(crate) server: bool,
}

impl<'a> Subject<'a> {
    pub(crate) fn client(name: &'a str, organization: Option<&'a str>) -> Self {
        Self {
            name,
            organization,
            sans: &[],
            client: true,
            server: false,
        }
    }
}

fn failed(error: impl std::fmt::Display) -> Fatal {
    Fatal::new(format!("certificate: {error}"))
}

/// A new authority, named as K3s names it: `k3s-server-ca@<unix time>`.
pub(crate) fn authority(prefix: &str) -> Result<Pair, Fatal> {
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let name = format!("{prefix}-ca@{}", clock::unix_seconds());
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    validity(&mut params, CA_DAYS);
    let cert = params.self_signed(&key).map_err(failed)?;
    Ok(Pair {
        cert: cert.pem(),
        key: key.serialize_pem(),
    })
}

/// The authority in `<stem>.crt` and `<stem>.key`, made if there is none.
pub(crate) fn load_or_make(stem: &Path, prefix: &str) -> Result<Pair, Fatal> {
    let (cert, key) = (stem.with_extension("crt"), stem.with_extension("key"));
    if cert.exists() && key.exists() {
        return Ok(Pair {
            cert: files::read(&cert)?,
            key: files::read(&key)?,
        });
    }
    let pair = authority(prefix)?;
    store(stem, &pair)?;
    Ok(pair)
}

/// Writes `<stem>.crt` and `<stem>.key`.
pub(crate) fn store(stem: &Path, pair: &Pair) -> Result<(), Fatal> {
    files::write(&stem.with_extension("crt"), pair.cert.as_bytes(), 0o644)?;
    files::write_private(&stem.with_extension("key"), pair.key.as_bytes())
}

/// A certificate by this authority, followed by the authority's own, as K3s sends it.
pub(crate) fn issue(ca: &Pair, subject: &Subject<'_>) -> Result<Pair, Fatal> {
    let ca_key = KeyPair::from_pem(&ca.key).map_err(failed)?;
    let issuer = Issuer::from_ca_cert_pem(&ca.cert, ca_key).map_err(failed)?;
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some(organization) = subject.organization {
        (params.distinguished_name).push(DnType::OrganizationName, organization);
    }
    params
        .distinguished_name
        .push(DnType::CommonName, subject.name);
    for san in subject.sans {
        params.subject_alt_names.push(match san.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(san.as_str().try_into().map_err(failed)?),
        });
    }
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    if subject.client {
        params
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ClientAuth);
    }
    if subject.server {
        params
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    params.use_authority_key_identifier_extension = true;
    validity(&mut params, LEAF_DAYS);
    let cert = params.signed_by(&key, &issuer).map_err(failed)?;
    Ok(Pair {
        cert: format!("{}{}", cert.pem(), ca.cert),
        key: key.serialize_pem(),
    })
}

fn validity(params: &mut CertificateParams, days: i64) {
    let seconds = i64::try_from(clock::unix_seconds()).unwrap_or(0);
    let now = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    // As Kubernetes' helpers: a clock a little behind ours does not refuse it.
    params.not_before = now - Duration::minutes(5);
    params.not_after = now + Duration::days(days);
}

/// All certificates of a PEM text.
pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Fatal> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let found = found.map_err(failed)?;
    if found.is_empty() {
        return Err(Fatal::new(
            "data does not contain any valid RSA or ECDSA certificates",
        ));
    }
    Ok(found)
}

/// The private key of a PEM text.
pub(crate) fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>, Fatal> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(failed)
}
