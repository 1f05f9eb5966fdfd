//! Whether a certificate chain makes a peer a member of this mesh.
//!
//! Decides: chain, validity, revocation, and that the certificate speaks of this very peer and
//! mesh. Never reads a clock or a file. All keys are Ed25519 (RFC 8410); path validation is the
//! part of RFC 5280, section 6, that such chains need: issuer names, signatures, basic
//! constraints with path length, key usage, no unknown critical extension.
//!
//! Invariant: any doubt refuses.

use std::{
    collections::BTreeSet,
    fmt,
    fmt::Write as _,
    time::{SystemTime, UNIX_EPOCH},
};

use consensus_core::{MeshId, NodeId};
use libp2p::{PeerId, identity};
use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate};

use crate::{gate::GateError, key::node_id_of};

/// Most certificates in a chain: a leaf, two intermediates (while issuers are cross-signed) and
/// the root.
const CHAIN_CERTIFICATES_MAX: usize = 4;
/// Longest certificate read. Ed25519 certificates of this mesh are below 1 KiB.
const CERTIFICATE_BYTES_MAX: usize = 4 * 1024;
/// The subject's organizational unit that sets a node apart from an operator or a service.
const NODE_UNIT: &str = "node";
/// The algorithm of every key and signature (RFC 8410).
const ED25519_OID: &str = "1.3.101.112";

/// What a node shows of itself, and what it holds others against.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The trust domain.
    pub mesh: MeshId,
    /// This node's certificates in DER: its leaf, then intermediates up to the root (without it).
    pub chain: Vec<Vec<u8>>,
    /// The mesh's root certificate in DER.
    pub root: Vec<u8>,
    /// Serial numbers of revoked certificates, as [`serial_hex`] writes them.
    pub revoked: BTreeSet<String>,
}

impl Credentials {
    /// This node's own certificate in DER; empty if it has none.
    pub fn leaf(&self) -> &[u8] {
        self.chain.first().map_or(&[], Vec::as_slice)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("mesh", &self.mesh)
            .field("chain", &self.chain.len())
            .field("revoked", &self.revoked.len())
            .finish_non_exhaustive()
    }
}

/// A peer whose chain has been verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedPeer {
    /// Who it is.
    pub node: NodeId,
    /// Serial numbers of its leaf and intermediates, so that a later revocation finds it.
    pub serials: Vec<String>,
    /// When its leaf ends.
    pub not_after: SystemTime,
}

impl VerifiedPeer {
    /// The first of the peer's certificates that is in the set.
    pub(crate) fn revoked_by(&self, revoked: &BTreeSet<String>) -> Option<&str> {
        self.serials
            .iter()
            .find(|serial| is_revoked(serial, revoked))
            .map(String::as_str)
    }
}

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

/// Verifies that `chain` (leaf first, the root may be left out) makes `peer` a node of `mesh`.
///
/// `revoked` holds serial numbers as [`serial_hex`] writes them; leading zeros and letter case of
/// its entries do not matter.
pub fn verify_chain(
    chain: &[Vec<u8>],
    root: &[u8],
    peer: &NodeId,
    mesh: &MeshId,
    now: SystemTime,
    revoked: &BTreeSet<String>,
) -> Result<VerifiedPeer, GateError> {
    let chain = match chain.split_last() {
        None => return Err(GateError::Stranger("it showed no certificate")),
        Some((last, rest)) if last.as_slice() == root => rest,
        Some(_) => chain,
    };
    if chain.len() > CHAIN_CERTIFICATES_MAX {
        return Err(GateError::Malformed("too many certificates"));
    }
    let anchor = parse(root)?;
    let certificates = chain
        .iter()
        .map(|der| parse(der))
        .collect::<Result<Vec<_>, _>>()?;
    let Some(leaf) = certificates.first() else {
        return Err(GateError::Stranger("it showed the root as its own"));
    };
    verify_path(&certificates, &anchor)?;
    verify_subject(leaf, peer, mesh)?;
    for certificate in &certificates {
        verify_validity(certificate, now)?;
    }
    let verified = VerifiedPeer {
        node: peer.clone(),
        serials: certificates
            .iter()
            .map(|certificate| serial_hex(certificate.raw_serial()))
            .collect(),
        not_after: wall(leaf.validity().not_after.timestamp()),
    };
    match verified.revoked_by(revoked) {
        Some(serial) => Err(GateError::Revoked {
            serial: serial.to_owned(),
        }),
        None => Ok(verified),
    }
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, GateError> {
    if der.len() > CERTIFICATE_BYTES_MAX {
        return Err(GateError::Malformed("a certificate is too long"));
    }
    let (rest, certificate) = X509Certificate::from_der(der)
        .map_err(|_| GateError::Malformed("a certificate is not X.509"))?;
    if !rest.is_empty() {
        return Err(GateError::Malformed("bytes follow a certificate"));
    }
    if certificate.extensions().iter().any(is_unknown_and_critical) {
        return Err(GateError::Malformed(
            "a certificate has an unknown critical extension",
        ));
    }
    Ok(certificate)
}

fn is_unknown_and_critical(extension: &x509_parser::extensions::X509Extension<'_>) -> bool {
    let enforced = matches!(
        extension.parsed_extension(),
        ParsedExtension::BasicConstraints(_)
            | ParsedExtension::KeyUsage(_)
            | ParsedExtension::ExtendedKeyUsage(_)
            | ParsedExtension::SubjectAlternativeName(_)
    );
    extension.critical && !enforced
}

/// Each certificate is signed by the next, the last by the root.
fn verify_path(
    certificates: &[X509Certificate<'_>],
    root: &X509Certificate<'_>,
) -> Result<(), GateError> {
    if certificates.first().is_some_and(|leaf| leaf.is_ca()) {
        return Err(GateError::Stranger("it showed an issuer's certificate"));
    }
    let issuers = certificates.iter().skip(1).chain([root]);
    for (depth, (subject, issuer)) in certificates.iter().zip(issuers).enumerate() {
        // `depth` is how many intermediates lie between this issuer and the leaf.
        verify_issuer(issuer, depth)?;
        if subject.issuer().as_raw() != issuer.subject().as_raw() || !is_signed_by(subject, issuer)
        {
            return Err(GateError::Stranger(
                "its certificate does not come from this mesh's root",
            ));
        }
    }
    Ok(())
}

fn verify_issuer(issuer: &X509Certificate<'_>, intermediates: usize) -> Result<(), GateError> {
    let constraints = issuer
        .basic_constraints()
        .map_err(|_| GateError::Malformed("an extension appears twice"))?
        .ok_or(GateError::Stranger("its issuer is not an authority"))?;
    let usage = issuer
        .key_usage()
        .map_err(|_| GateError::Malformed("an extension appears twice"))?;
    let may_sign = usage.is_none_or(|usage| usage.value.key_cert_sign());
    if !constraints.value.ca || !may_sign {
        return Err(GateError::Stranger("its issuer is not an authority"));
    }
    let limit = constraints.value.path_len_constraint;
    if limit.is_some_and(|limit| u32::try_from(intermediates).unwrap_or(u32::MAX) > limit) {
        return Err(GateError::Stranger(
            "its chain is longer than its issuer allows",
        ));
    }
    Ok(())
}

fn is_signed_by(subject: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
    let ed25519 = [
        &subject.signature_algorithm.algorithm,
        &subject.tbs_certificate.signature.algorithm,
        &issuer.public_key().algorithm.algorithm,
    ]
    .into_iter()
    .all(|oid| oid.to_id_string() == ED25519_OID);
    ed25519
        && identity::ed25519::PublicKey::try_from_bytes(
            &issuer.public_key().subject_public_key.data,
        )
        .is_ok_and(|key| {
            key.verify(
                subject.tbs_certificate.as_ref(),
                &subject.signature_value.data,
            )
        })
}

/// The leaf speaks of this peer: its key, its name, a node, of this mesh.
fn verify_subject(
    leaf: &X509Certificate<'_>,
    peer: &NodeId,
    mesh: &MeshId,
) -> Result<(), GateError> {
    let subject = leaf.subject();
    let organization = only(subject.iter_organization());
    if organization != Some(mesh.to_string().as_str()) {
        return Err(GateError::WrongMesh);
    }
    if only(subject.iter_organizational_unit()) != Some(NODE_UNIT) {
        return Err(GateError::Stranger("its certificate is not a node's"));
    }
    let key_of = leaf.public_key();
    let owner = (key_of.algorithm.algorithm.to_id_string() == ED25519_OID)
        .then(|| identity::ed25519::PublicKey::try_from_bytes(&key_of.subject_public_key.data).ok())
        .flatten()
        .map(|key| PeerId::from_public_key(&identity::PublicKey::from(key)))
        .and_then(|id| node_id_of(&id));
    if owner.as_ref() != Some(peer) || only(subject.iter_common_name()) != Some(peer.as_str()) {
        return Err(GateError::Stranger("its certificate is another node's"));
    }
    Ok(())
}

/// The value of an attribute that appears exactly once.
fn only<'a>(
    mut values: impl Iterator<Item = &'a x509_parser::x509::AttributeTypeAndValue<'a>>,
) -> Option<&'a str> {
    let first = values.next()?.as_str().ok()?;
    values.next().is_none().then_some(first)
}

fn verify_validity(certificate: &X509Certificate<'_>, now: SystemTime) -> Result<(), GateError> {
    let validity = certificate.validity();
    if now < wall(validity.not_before.timestamp()) {
        return Err(GateError::NotYetValid);
    }
    if now > wall(validity.not_after.timestamp()) {
        return Err(GateError::Expired);
    }
    Ok(())
}

/// Seconds since 1970 as a point in time; dates before count as 1970.
fn wall(timestamp: i64) -> SystemTime {
    let seconds = u64::try_from(timestamp).unwrap_or(0);
    UNIX_EPOCH
        .checked_add(std::time::Duration::from_secs(seconds))
        .unwrap_or(UNIX_EPOCH)
}

fn is_revoked(serial: &str, revoked: &BTreeSet<String>) -> bool {
    let bare = serial.trim_start_matches('0');
    revoked.contains(serial)
        || revoked
            .iter()
            .any(|entry| entry.trim_start_matches('0').eq_ignore_ascii_case(bare))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_are_written_without_leading_zeros() {
        assert_eq!(serial_hex(&[0, 0x0a, 0xff]), "0aff");
        assert_eq!(serial_hex(&[0]), "");
    }

    #[test]
    fn a_revoked_serial_is_found_whatever_its_spelling() {
        for entry in ["0aff", "0AFF", "aff", "000aff"] {
            assert!(
                is_revoked("0aff", &BTreeSet::from([entry.to_owned()])),
                "{entry}"
            );
        }
        assert!(!is_revoked("0aff", &BTreeSet::from(["0afe".to_owned()])));
    }
}
