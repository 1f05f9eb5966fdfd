//! One certificate, read strictly.
//!
//! Decides what a certificate of a mesh looks like: X.509 version 3, a subject of exactly one
//! O, OU and CN, a known key, an Ed25519 signature, a positive serial number, no extension twice
//! and none critical that is not enforced. Never decides whether it is believed.

use std::{fmt::Write as _, net::IpAddr};

use consensus_core::{CertificateProfile, MeshId, WallMs};
use x509_parser::{
    extensions::{ExtendedKeyUsage, GeneralName, KeyUsage, ParsedExtension, X509Extension},
    prelude::{FromDer as _, X509Certificate},
    x509::{AttributeTypeAndValue, X509Name, X509Version},
};

use crate::{
    fingerprint::fingerprint,
    issue::Names,
    key::{KeyAlgorithm, PublicKey},
    profile::{allows_key, is_client, is_server},
    refusal::Refusal,
    signed::is_canonical,
    validity::{Validity, from_seconds},
};

/// Longest certificate read. One with a few names is below 1 KiB.
pub(crate) const CERTIFICATE_BYTES_MAX: usize = 4 * 1024;
/// A serial number's most bytes (RFC 5280, 4.1.2.2).
const SERIAL_BYTES_MAX: usize = 20;
/// Longest text of a subject's part that is read (RFC 5280, ub-common-name and its like).
const TEXT_BYTES_MAX: usize = 64;
/// X.509's bit for signatures other than on certificates.
const DIGITAL_SIGNATURE_ONLY: u16 = 1;

/// A serial number's text: lower-case hexadecimal without leading zero bytes.
pub fn serial_hex(serial: &[u8]) -> String {
    let start = serial
        .iter()
        .position(|byte| *byte != 0)
        .unwrap_or(serial.len());
    serial[start..]
        .iter()
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// What an authority may sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signing {
    /// Most intermediates between it and a leaf.
    pub(crate) path_len: Option<u32>,
    /// Whether its key may sign certificates.
    pub(crate) certificates: bool,
}

/// One certificate's content. Reading it proves nothing; see [`Trust`](crate::Trust).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    mesh: String,
    unit: String,
    name: String,
    key: PublicKey,
    serial: String,
    validity: Validity,
    names: Names,
    signing: Option<Signing>,
    key_usage: Option<u16>,
    /// Server and client authentication; none when any other use is named too.
    extended: Option<(bool, bool)>,
    subject: Vec<u8>,
    issuer: Vec<u8>,
    signed: Vec<u8>,
    signature: Vec<u8>,
}

impl Certificate {
    /// Reads DER.
    pub fn read(der: &[u8]) -> Result<Self, Refusal> {
        if der.len() > CERTIFICATE_BYTES_MAX {
            return Err(Refusal::Malformed("it is too long"));
        }
        let (rest, x509) =
            X509Certificate::from_der(der).map_err(|_| Refusal::Malformed("it is not X.509"))?;
        if !rest.is_empty() {
            return Err(Refusal::Malformed("bytes follow it"));
        }
        verify_shape(der, &x509)?;
        let subject = x509.subject();
        let parts = subject_parts(subject)?;
        let extensions = Extensions::read(x509.extensions())?;
        Ok(Self {
            der: der.to_vec(),
            mesh: parts.0.to_owned(),
            unit: parts.1.to_owned(),
            name: parts.2.to_owned(),
            key: PublicKey::read(x509.public_key())
                .ok_or(Refusal::Malformed("its key is of another algorithm"))?,
            serial: serial(x509.raw_serial())?,
            validity: Validity {
                not_before: from_seconds(x509.validity().not_before.timestamp()),
                not_after: from_seconds(x509.validity().not_after.timestamp()),
            },
            names: extensions.names,
            signing: extensions.authority.map(|path_len| Signing {
                path_len,
                certificates: extensions
                    .key_usage
                    .is_some_and(|flags| KeyUsage { flags }.key_cert_sign()),
            }),
            key_usage: extensions.key_usage,
            extended: extensions.extended,
            subject: subject.as_raw().to_vec(),
            issuer: x509.issuer().as_raw().to_vec(),
            signed: x509.tbs_certificate.as_ref().to_vec(),
            signature: x509.signature_value.data.to_vec(),
        })
    }

    /// DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// BLAKE3 of the DER.
    pub fn fingerprint(&self) -> [u8; 32] {
        fingerprint(&self.der)
    }

    /// The mesh that the subject names, if it names one.
    pub fn mesh(&self) -> Option<MeshId> {
        self.mesh.parse().ok()
    }

    /// The subject's organizational unit.
    pub fn unit(&self) -> &str {
        &self.unit
    }

    /// The subject's common name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The profile that the unit stands for; an authority's has none.
    pub fn profile(&self) -> Option<CertificateProfile> {
        CertificateProfile::from_name(&self.unit)
    }

    /// The subject's key.
    pub fn public_key(&self) -> &PublicKey {
        &self.key
    }

    /// The serial number, as [`serial_hex`] writes it.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// When it begins and ends.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// When it ends.
    pub fn not_after(&self) -> WallMs {
        self.validity.not_after
    }

    /// The names that it is good for besides its subject.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Whether it may issue certificates.
    pub fn is_authority(&self) -> bool {
        self.signing.is_some()
    }

    /// Whether `issuer` signed it: by name and by signature.
    pub fn is_signed_by(&self, issuer: &Self) -> bool {
        self.issuer == issuer.subject && self.is_signed_with(&issuer.key)
    }

    pub(crate) fn signing(&self) -> Option<Signing> {
        self.signing
    }

    pub(crate) fn has_subject_of(&self, other: &Self) -> bool {
        self.subject == other.subject
    }

    pub(crate) fn mesh_text(&self) -> &str {
        &self.mesh
    }

    /// Whether it only signs connections, and those that its profile is for.
    pub(crate) fn fits(&self, profile: CertificateProfile) -> bool {
        self.key_usage == Some(DIGITAL_SIGNATURE_ONLY)
            && self.extended == Some((is_server(profile), is_client(profile)))
            && allows_key(profile, self.key.algorithm())
    }

    fn is_signed_with(&self, key: &PublicKey) -> bool {
        key.verifies_ed25519(&self.signed, &self.signature)
    }
}

fn verify_shape(der: &[u8], x509: &X509Certificate<'_>) -> Result<(), Refusal> {
    if x509.version() != X509Version::V3 {
        return Err(Refusal::Malformed("it is not of version 3"));
    }
    if x509.issuer_uid.is_some() || x509.subject_uid.is_some() {
        return Err(Refusal::Malformed("it has a unique identifier"));
    }
    let outer = &x509.signature_algorithm;
    let inner = &x509.tbs_certificate.signature;
    if !PublicKey::is_ed25519(outer) || !PublicKey::is_ed25519(inner) {
        return Err(Refusal::Malformed("it is not signed with Ed25519"));
    }
    let content = x509.tbs_certificate.as_ref();
    let signature = &x509.signature_value.data;
    if !is_canonical(der, content, KeyAlgorithm::Ed25519, signature) {
        return Err(Refusal::Malformed("it is not in canonical form"));
    }
    Ok(())
}

/// A positive number of at most twenty bytes.
fn serial(raw: &[u8]) -> Result<String, Refusal> {
    let negative = raw.first().is_some_and(|byte| byte & 0x80 != 0);
    let text = serial_hex(raw);
    if negative || text.is_empty() || raw.len() > SERIAL_BYTES_MAX {
        return Err(Refusal::Malformed("its serial number is out of range"));
    }
    Ok(text)
}

/// O, OU and CN, each exactly once and nothing else.
fn subject_parts<'a>(subject: &'a X509Name<'_>) -> Result<(&'a str, &'a str, &'a str), Refusal> {
    let wrong = Refusal::Malformed("its subject is not one O, OU and CN");
    let parts = (
        only(subject.iter_organization()),
        only(subject.iter_organizational_unit()),
        only(subject.iter_common_name()),
    );
    match parts {
        (Some(mesh), Some(unit), Some(name)) if subject.iter_attributes().count() == 3 => {
            Ok((mesh, unit, name))
        }
        _ => Err(wrong),
    }
}

/// The value of an attribute that appears exactly once.
fn only<'a>(mut values: impl Iterator<Item = &'a AttributeTypeAndValue<'a>>) -> Option<&'a str> {
    let first = values.next()?.as_str().ok()?;
    (values.next().is_none() && first.len() <= TEXT_BYTES_MAX).then_some(first)
}

/// What is enforced of a certificate's extensions.
#[derive(Default)]
struct Extensions {
    /// An authority's path length.
    authority: Option<Option<u32>>,
    key_usage: Option<u16>,
    extended: Option<(bool, bool)>,
    names: Names,
}

impl Extensions {
    fn read(extensions: &[X509Extension<'_>]) -> Result<Self, Refusal> {
        let mut read = Self::default();
        for (place, extension) in extensions.iter().enumerate() {
            if extensions[..place]
                .iter()
                .any(|other| other.oid == extension.oid)
            {
                return Err(Refusal::Malformed("an extension appears twice"));
            }
            read.take(extension)?;
        }
        Ok(read)
    }

    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "dozens of extensions exist; what is not enforced is treated alike"
    )]
    fn take(&mut self, extension: &X509Extension<'_>) -> Result<(), Refusal> {
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(constraints) => {
                self.authority = constraints.ca.then_some(constraints.path_len_constraint);
            }
            ParsedExtension::KeyUsage(usage) => self.key_usage = Some(usage.flags),
            ParsedExtension::ExtendedKeyUsage(usage) => self.extended = connections_only(usage),
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    take_name(&mut self.names, name)?;
                }
            }
            ParsedExtension::ParseError { .. } => {
                return Err(Refusal::Malformed("an extension is malformed"));
            }
            _ if extension.critical => {
                return Err(Refusal::Malformed("it has an unknown critical extension"));
            }
            _ => {}
        }
        Ok(())
    }
}

/// Server and client authentication, if nothing else is named.
fn connections_only(usage: &ExtendedKeyUsage<'_>) -> Option<(bool, bool)> {
    let other = usage.any
        || usage.code_signing
        || usage.email_protection
        || usage.time_stamping
        || usage.ocsp_signing
        || !usage.other.is_empty();
    (!other).then_some((usage.server_auth, usage.client_auth))
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "every other kind of name is refused alike"
)]
fn take_name(names: &mut Names, name: &GeneralName<'_>) -> Result<(), Refusal> {
    match name {
        GeneralName::DNSName(name) => names.dns.push((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let address = address(bytes).ok_or(Refusal::Malformed("it names a broken address"))?;
            names.addresses.push(address);
        }
        _ => return Err(Refusal::Malformed("it has a name of another kind")),
    }
    Ok(())
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(octets));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}
