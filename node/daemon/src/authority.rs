//! The mesh's certificate authority: one Ed25519 root, sealed on the issuer.
//!
//! Decides what a certificate says: subject O = mesh id, OU = profile, CN = who; names; lifetime.
//! Never decides who gets one; that is agreed. The root key lives on disk only sealed (age, to an
//! X25519 identity of this node, mode 0600) and in memory only while it signs. RFC 5280, RFC 8410:
//! Ed25519 certificates never set keyEncipherment.

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use age::secrecy::ExposeSecret;
use consensus_core::{CertificateProfile, MeshId, NodeId, WallMs};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType,
    SerialNumber,
};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use crate::data_dir::replace_file;

/// The root outlives machines.
const ROOT_DAYS: i64 = 3650;
/// Leaves end after thirty days. DESIGN's 24 h need an issuer on every server; with a single one
/// a day's outage of it would end the mesh, so leaves live longer until that is built.
const LEAF_DAYS: i64 = 30;
/// Clocks of machines differ; a certificate is valid a little before it was made.
const BACKDATE_MINUTES: i64 = 10;

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    #[error("the sealed root key in {path:?} can't be used: {reason}")]
    Key { path: PathBuf, reason: String },
    #[error("the signing request is wrong: {reason}")]
    Request { reason: String },
    #[error("signing failed: {reason}")]
    Sign { reason: String },
}

impl AuthorityError {
    /// Stable code.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Key { .. } => "RootKeyUnusableError",
            Self::Request { .. } => "SigningRequestInvalidError",
            Self::Sign { .. } => "SigningFailedError",
        }
    }
}

/// A signed leaf.
pub(crate) struct Leaf {
    /// DER.
    pub(crate) der: Vec<u8>,
    /// Serial number, hexadecimal.
    pub(crate) serial: String,
    /// When it ends.
    pub(crate) not_after: WallMs,
}

/// The names a leaf is good for besides its subject.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    /// DNS names.
    pub(crate) dns: Vec<String>,
    /// Addresses.
    pub(crate) addresses: Vec<IpAddr>,
}

/// The issuer's hand: opens the sealed key for each signature.
#[derive(Debug, Clone)]
pub(crate) struct Authority {
    dir: PathBuf,
    mesh: MeshId,
    root: Vec<u8>,
}

impl Authority {
    /// Makes a root for a new mesh and seals its key below `dir`.
    pub(crate) fn create(dir: &Path, mesh: MeshId) -> Result<Self, AuthorityError> {
        let sign = |error: rcgen::Error| AuthorityError::Sign {
            reason: error.to_string(),
        };
        let key = KeyPair::generate_for(&PKCS_ED25519).map_err(sign)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(mesh, "root", "shoal mesh root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let now = OffsetDateTime::now_utc();
        params.not_before = now - Duration::minutes(BACKDATE_MINUTES);
        params.not_after = now + Duration::days(ROOT_DAYS);
        let root = params.self_signed(&key).map_err(sign)?.der().to_vec();
        let authority = Self {
            dir: dir.to_owned(),
            mesh,
            root,
        };
        authority.seal(&Zeroizing::new(key.serialize_der()))?;
        Ok(authority)
    }

    /// The issuer's hand after a restart.
    pub(crate) fn open(dir: &Path, mesh: MeshId, root: Vec<u8>) -> Self {
        Self {
            dir: dir.to_owned(),
            mesh,
            root,
        }
    }

    /// The root certificate, DER.
    pub(crate) fn root(&self) -> &[u8] {
        &self.root
    }

    fn key_error(&self, reason: impl ToString) -> AuthorityError {
        AuthorityError::Key {
            path: self.dir.clone(),
            reason: reason.to_string(),
        }
    }

    fn seal(&self, key: &[u8]) -> Result<(), AuthorityError> {
        let identity = age::x25519::Identity::generate();
        let sealed =
            age::encrypt(&identity.to_public(), key).map_err(|error| self.key_error(error))?;
        let write = |name: &str, bytes: &[u8]| -> io::Result<()> {
            replace_file(&self.dir.join(name), bytes)
        };
        write(
            "seal.identity",
            identity.to_string().expose_secret().as_bytes(),
        )
        .and_then(|()| write("root.key.age", &sealed))
        .map_err(|error| self.key_error(error))
    }

    fn unseal(&self) -> Result<Zeroizing<Vec<u8>>, AuthorityError> {
        let read = |name: &str| std::fs::read(self.dir.join(name)).map(Zeroizing::new);
        let identity = read("seal.identity").map_err(|error| self.key_error(error))?;
        let identity = std::str::from_utf8(&identity).map_err(|error| self.key_error(error))?;
        let identity =
            age::x25519::Identity::from_str(identity).map_err(|error| self.key_error(error))?;
        let sealed = read("root.key.age").map_err(|error| self.key_error(error))?;
        age::decrypt(&identity, &sealed)
            .map(Zeroizing::new)
            .map_err(|error| self.key_error(error))
    }

    /// Signs a leaf for the key in `csr` (PKCS#10, DER), whose self-signature is checked. Nothing
    /// else of the request is taken over: what the certificate says is decided here.
    pub(crate) fn sign(
        &self,
        csr: &[u8],
        profile: CertificateProfile,
        node: &NodeId,
        names: &Names,
    ) -> Result<Leaf, AuthorityError> {
        let request = |error: rcgen::Error| AuthorityError::Request {
            reason: error.to_string(),
        };
        let sign = |error: rcgen::Error| AuthorityError::Sign {
            reason: error.to_string(),
        };
        let mut csr =
            CertificateSigningRequestParams::from_der(&csr.to_vec().into()).map_err(request)?;
        let serial: [u8; 16] = rand::random();
        let now = OffsetDateTime::now_utc();
        csr.params = self.leaf_params(profile, node, names, serial, now)?;
        let key = self.unseal()?;
        let key = KeyPair::try_from(key.as_slice()).map_err(sign)?;
        let root = self.root.clone().into();
        let issuer = Issuer::from_ca_cert_der(&root, key).map_err(sign)?;
        let der = csr.signed_by(&issuer).map_err(sign)?.der().to_vec();
        let end = (now + Duration::days(LEAF_DAYS)).unix_timestamp();
        let not_after = WallMs(u64::try_from(end).unwrap_or(0) * 1000);
        Ok(Leaf {
            der,
            serial: hex::encode(serial_bytes(serial)),
            not_after,
        })
    }

    fn leaf_params(
        &self,
        profile: CertificateProfile,
        node: &NodeId,
        names: &Names,
        serial: [u8; 16],
        now: OffsetDateTime,
    ) -> Result<CertificateParams, AuthorityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(self.mesh, profile.as_str(), node.as_str());
        for name in &names.dns {
            let name =
                name.clone()
                    .try_into()
                    .map_err(|error: rcgen::Error| AuthorityError::Request {
                        reason: error.to_string(),
                    })?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params
            .subject_alt_names
            .extend(names.addresses.iter().map(|ip| SanType::IpAddress(*ip)));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match profile {
            CertificateProfile::Node => {
                vec![
                    ExtendedKeyUsagePurpose::ServerAuth,
                    ExtendedKeyUsagePurpose::ClientAuth,
                ]
            }
            CertificateProfile::DockerServer => vec![ExtendedKeyUsagePurpose::ServerAuth],
            CertificateProfile::DockerClient => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.serial_number = Some(SerialNumber::from_slice(&serial_bytes(serial)));
        params.not_before = now - Duration::minutes(BACKDATE_MINUTES);
        params.not_after = now + Duration::days(LEAF_DAYS);
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }
}

/// A positive number of full length (RFC 5280, 4.1.2.2), so that its text never varies.
fn serial_bytes(mut random: [u8; 16]) -> [u8; 16] {
    random[0] = (random[0] & 0x7f) | 0x40;
    random
}

fn subject(mesh: MeshId, unit: &str, name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, mesh.to_string());
    subject.push(DnType::OrganizationalUnitName, unit);
    subject.push(DnType::CommonName, name);
    subject
}

/// BLAKE3 of a root certificate.
pub(crate) fn fingerprint(root: &[u8]) -> [u8; 32] {
    *blake3::hash(root).as_bytes()
}

/// The first 128 bits of a fingerprint as twelve words (BIP-39), to be compared by voice.
pub(crate) fn words(fingerprint: &[u8; 32]) -> String {
    let mnemonic =
        bip39::Mnemonic::from_entropy(&fingerprint[..16]).expect("128 bits make twelve words");
    mnemonic.words().collect::<Vec<_>>().join(" ")
}

/// A request for a certificate on this key, PKCS#10 in DER.
pub(crate) fn signing_request(key: &KeyPair) -> Result<Vec<u8>, AuthorityError> {
    let sign = |error: rcgen::Error| AuthorityError::Sign {
        reason: error.to_string(),
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(key).map_err(sign)?.der().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "12D3KooWGRUVLJpQ8sJtbTNGXJFvBVnEKdGBAcQnzHqPVKqGNfcm";

    fn signed(profile: CertificateProfile) -> (Leaf, Authority, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(dir.path(), MeshId::from_bytes([5; 16])).unwrap();
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let names = Names {
            dns: vec!["n1".into()],
            addresses: vec!["fd00::1".parse().unwrap()],
        };
        let csr = signing_request(&key).unwrap();
        let leaf = authority
            .sign(&csr, profile, &NODE.parse().unwrap(), &names)
            .unwrap();
        (leaf, authority, dir)
    }

    #[test]
    fn a_dockerd_leaf_is_for_servers_names_its_address_and_sets_no_key_encipherment() {
        let (leaf, authority, _dir) = signed(CertificateProfile::DockerServer);
        let (_, cert) = x509_parser::parse_x509_certificate(&leaf.der).unwrap();
        let usage = cert.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && !usage.key_encipherment());
        let extended = cert.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.server_auth && !extended.client_auth);
        let names = format!(
            "{:?}",
            cert.subject_alternative_name().unwrap().unwrap().value
        );
        assert!(
            names.contains("IPAddress") && names.contains("n1"),
            "{names}"
        );
        assert_eq!(hex::encode(cert.raw_serial()), leaf.serial);
        let (_, root) = x509_parser::parse_x509_certificate(authority.root()).unwrap();
        cert.verify_signature(Some(root.public_key())).unwrap();
    }

    #[test]
    fn a_request_with_a_broken_signature_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(dir.path(), MeshId::from_bytes([5; 16])).unwrap();
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut csr = signing_request(&key).unwrap();
        let last = csr.len() - 1;
        csr[last] ^= 1;
        let error = authority
            .sign(
                &csr,
                CertificateProfile::Node,
                &NODE.parse().unwrap(),
                &Names::default(),
            )
            .err()
            .unwrap();
        assert_eq!(error.code(), "SigningRequestInvalidError");
    }

    #[test]
    fn the_root_key_is_sealed_on_disk_and_survives_a_restart() {
        let (_, authority, dir) = signed(CertificateProfile::Node);
        let sealed = std::fs::read(dir.path().join("root.key.age")).unwrap();
        assert!(sealed.starts_with(b"age-encryption.org/v1"));
        let again = Authority::open(
            dir.path(),
            MeshId::from_bytes([5; 16]),
            authority.root().to_vec(),
        );
        assert!(again.unseal().is_ok());
    }

    #[test]
    fn words_say_the_fingerprint() {
        assert_eq!(words(&[0; 32]).split(' ').count(), 12);
        assert_ne!(words(&[0; 32]), words(&[1; 32]));
    }
}
