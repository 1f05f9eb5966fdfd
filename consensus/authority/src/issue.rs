//! What a leaf says: made here, from nothing of the request but its key.
//!
//! Decides subject, usage, names, serial number and period, which ends with the issuer's at the
//! latest. An operator's leaf alone may outlive its issuer: every use of it is looked up in the
//! agreed state (the chain model; RFC 5280 has one time of judgement for the whole chain).
//! Never decides who may have one. Invariant: nothing leaves here that the verifier would not
//! read, or that its issuer did not sign.

use std::{net::IpAddr, time::Duration};

use consensus_core::{CertificateProfile, Holder, MeshId, WallMs};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose,
    SanType, SerialNumber,
};

use crate::{
    certificate::Certificate,
    key::{IntermediateKey, KeyError, PrivateKey, PublicKey},
    profile::{
        INTERMEDIATE_UNIT, ROOT_UNIT, allows_key, holder_of, is_client, is_server, lifetime_max,
        outlives_issuer,
    },
    refusal::Refusal,
    request::requested_key,
    validity::{Validity, date},
};

/// Most names in one leaf: a node's own names and addresses, with room, well below a
/// certificate's longest form.
const NAMES_MAX: usize = 32;
/// Most cross certificates behind an intermediate: what a chain has room for.
const CROSS_MAX: usize = 2;

/// Why a certificate could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The request proves nothing, or asks with the wrong key.
    #[error("the signing request is wrong: {reason}")]
    Request {
        /// What is wrong.
        reason: &'static str,
    },
    /// A profile is not for this holder, or its name can't be written.
    #[error("{holder:?} can't hold a certificate of the profile {}", profile.as_str())]
    Holder {
        /// The name.
        holder: String,
        /// The profile.
        profile: CertificateProfile,
    },
    /// A name can't be written into a certificate, or there are too many.
    #[error("{name:?} can't be a name in a certificate")]
    Name {
        /// The name; how many there are when they are too many.
        name: String,
    },
    /// The lifetime is not one that the profile allows.
    #[error("a certificate for {} can't live {} s, at most {} s", profile.as_str(), asked.as_secs(), max.as_secs())]
    Lifetime {
        /// The profile.
        profile: CertificateProfile,
        /// What was asked.
        asked: Duration,
        /// What is allowed.
        max: Duration,
    },
    /// The issuer's own certificate has ended.
    #[error("the issuer's certificate has ended")]
    Ended {
        /// When.
        since: WallMs,
    },
    /// The issuer's key and certificate do not belong together, or it is no such authority.
    #[error("the issuer can't be used: {reason}")]
    Issuer {
        /// What is wrong.
        reason: &'static str,
    },
    /// The issuer's certificate can't be read.
    #[error("the issuer's certificate can't be read")]
    Certificate(#[source] Refusal),
    /// A key could not be made or read.
    #[error("the issuer's key can't be used")]
    Key(#[from] KeyError),
    /// The library failed.
    #[error("signing failed: {reason}")]
    Sign {
        /// What it said.
        reason: String,
    },
}

impl IssueError {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Request { .. } => "SigningRequestInvalidError",
            Self::Holder { .. } => "CertificateHolderInvalidError",
            Self::Name { .. } => "CertificateNameInvalidError",
            Self::Lifetime { .. } => "CertificateLifetimeError",
            Self::Ended { .. } => "IssuerExpiredError",
            Self::Issuer { .. } | Self::Certificate(_) | Self::Key(_) => "IssuerUnusableError",
            Self::Sign { .. } => "SigningFailedError",
        }
    }

    /// What to do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Holder { .. } => {
                Some("an operator's name has up to 64 letters, digits and any of - _ . @")
            }
            Self::Lifetime { .. } => Some("ask for a shorter lifetime"),
            Self::Ended { .. } => Some("the server needs a new intermediate before it can issue"),
            Self::Request { .. }
            | Self::Name { .. }
            | Self::Issuer { .. }
            | Self::Certificate(_)
            | Self::Key(_)
            | Self::Sign { .. } => None,
        }
    }

    pub(crate) fn sign(error: &rcgen::Error) -> Self {
        Self::Sign {
            reason: error.to_string(),
        }
    }
}

/// The names a leaf is good for besides its subject.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// DNS names.
    pub dns: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
}

/// A signed leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// DER.
    pub der: Vec<u8>,
    /// What its holder shows: the leaf, its intermediate, cross certificates; each in DER.
    pub chain: Vec<Vec<u8>>,
    /// Serial number, as [`serial_hex`](crate::serial_hex) writes it.
    pub serial: String,
    /// The serial number of the certificate that signed it.
    pub issuer: String,
    /// When it begins and ends: whatever was asked, never after its issuer's end, but for an
    /// operator's.
    pub validity: Validity,
}

/// A server's hand that issues leaves.
#[derive(Debug)]
pub struct Issuer {
    key: IntermediateKey,
    intermediate: Certificate,
    cross: Vec<Vec<u8>>,
}

impl Issuer {
    /// Takes a server's key, its intermediate in DER and, while the root is rotated, the root's
    /// cross certificate; refuses what does not belong together.
    pub fn new(
        key: IntermediateKey,
        intermediate: &[u8],
        cross: Vec<Vec<u8>>,
    ) -> Result<Self, IssueError> {
        let intermediate = Certificate::read(intermediate).map_err(IssueError::Certificate)?;
        if !intermediate.is_authority() || intermediate.unit() != INTERMEDIATE_UNIT {
            return Err(wrong_issuer("its certificate is no intermediate"));
        }
        if intermediate.public_key() != key.public_key() {
            return Err(wrong_issuer("its key is not its certificate's"));
        }
        if cross.len() > CROSS_MAX {
            return Err(wrong_issuer("too many cross certificates"));
        }
        let mut below = intermediate.clone();
        for der in &cross {
            let above = Certificate::read(der).map_err(IssueError::Certificate)?;
            if above.unit() != ROOT_UNIT || !below.is_signed_by(&above) {
                return Err(wrong_issuer("its cross certificate is not of its root"));
            }
            below = above;
        }
        Ok(Self {
            key,
            intermediate,
            cross,
        })
    }

    /// The intermediate.
    pub fn intermediate(&self) -> &Certificate {
        &self.intermediate
    }

    /// The cross certificates that go with every chain.
    pub fn cross(&self) -> &[Vec<u8>] {
        &self.cross
    }

    /// Signs a leaf for the key in `csr` (PKCS#10, DER), whose self-signature is checked. Nothing
    /// else of the request is taken over.
    pub fn sign(
        &self,
        csr: &[u8],
        profile: CertificateProfile,
        holder: &Holder,
        names: &Names,
        lifetime: Duration,
        now: WallMs,
    ) -> Result<Leaf, IssueError> {
        let order = Order {
            csr,
            profile,
            holder,
            names,
            lifetime,
        };
        let mut leaf = order.sign(self.key.private(), &self.intermediate, now)?;
        leaf.chain.push(self.intermediate.der().to_vec());
        leaf.chain.extend(self.cross.iter().cloned());
        Ok(leaf)
    }
}

/// What a leaf shall say.
pub(crate) struct Order<'a> {
    pub(crate) csr: &'a [u8],
    pub(crate) profile: CertificateProfile,
    pub(crate) holder: &'a Holder,
    pub(crate) names: &'a Names,
    pub(crate) lifetime: Duration,
}

impl Order<'_> {
    /// A leaf whose chain is itself alone.
    pub(crate) fn sign(
        &self,
        key: &PrivateKey,
        issuer: &Certificate,
        now: WallMs,
    ) -> Result<Leaf, IssueError> {
        let mesh = issuer
            .mesh()
            .ok_or(wrong_issuer("its certificate names no mesh"))?;
        let subject_key = self.subject_key()?;
        let max = lifetime_max(self.profile);
        if self.lifetime > max || self.lifetime.is_zero() {
            return Err(IssueError::Lifetime {
                profile: self.profile,
                asked: self.lifetime,
                max,
            });
        }
        let mut params = params(mesh, self.profile.as_str(), &self.holder.to_string())?;
        params.subject_alt_names = alternative_names(self.names)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if is_server(self.profile) {
            params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if is_client(self.profile) {
            params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ClientAuth);
        }
        let validity = self.validity(issuer.validity(), now);
        let leaf = sign(params, &subject_key, key, issuer, validity, now)?;
        Ok(Leaf {
            der: leaf.der().to_vec(),
            chain: vec![leaf.der().to_vec()],
            serial: leaf.serial().to_owned(),
            issuer: issuer.serial().to_owned(),
            validity: leaf.validity(),
        })
    }

    /// Within the issuer's period; an operator's begins in it and ends by itself.
    fn validity(&self, issuer: Validity, now: WallMs) -> Validity {
        let asked = Validity::starting(now, self.lifetime);
        let within = asked.within(issuer);
        match outlives_issuer(self.profile) {
            true => Validity {
                not_after: asked.not_after,
                ..within
            },
            false => within,
        }
    }

    /// The requested key, if this holder may have a leaf of this profile for it.
    fn subject_key(&self) -> Result<PublicKey, IssueError> {
        let request = |reason| IssueError::Request { reason };
        if holder_of(self.profile, &self.holder.to_string()).as_ref() != Some(self.holder) {
            return Err(IssueError::Holder {
                holder: self.holder.to_string(),
                profile: self.profile,
            });
        }
        let key = requested_key(self.csr)?;
        if !allows_key(self.profile, key.algorithm()) {
            return Err(request(
                "its key is of another algorithm than its profile's",
            ));
        }
        let own = key.node_id().map(Holder::Node);
        if self.profile == CertificateProfile::Node && own.as_ref() != Some(self.holder) {
            return Err(request("its key is another node's"));
        }
        Ok(key)
    }
}

/// What every certificate of a mesh has: its subject and a serial number.
pub(crate) fn params(
    mesh: MeshId,
    unit: &str,
    name: &str,
) -> Result<CertificateParams, IssueError> {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, mesh.to_string());
    subject.push(DnType::OrganizationalUnitName, unit);
    subject.push(DnType::CommonName, name);
    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    params.serial_number = Some(SerialNumber::from_slice(&random_serial()?));
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// 126 random bits as a positive number of sixteen bytes (RFC 5280, 4.1.2.2), so that its text
/// never varies in length.
fn random_serial() -> Result<[u8; 16], IssueError> {
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| IssueError::Key(KeyError::Generate))?;
    serial[0] = (serial[0] & 0x7f) | 0x40;
    Ok(serial)
}

/// Signs, and reads the result as any verifier will.
pub(crate) fn sign(
    mut params: CertificateParams,
    subject: &PublicKey,
    key: &PrivateKey,
    issuer: &Certificate,
    validity: Validity,
    now: WallMs,
) -> Result<Certificate, IssueError> {
    let ended = issuer.validity().not_after;
    if ended <= now {
        return Err(IssueError::Ended { since: ended });
    }
    params.not_before = date(validity.not_before);
    params.not_after = date(validity.not_after);
    let der = issuer.der().to_vec().into();
    let signer =
        rcgen::Issuer::from_ca_cert_der(&der, key).map_err(|error| IssueError::sign(&error))?;
    let signed = params
        .signed_by(subject, &signer)
        .map_err(|error| IssueError::sign(&error))?;
    let signed = Certificate::read(signed.der()).map_err(IssueError::Certificate)?;
    if !signed.is_signed_by(issuer) {
        return Err(wrong_issuer("its key is not its certificate's"));
    }
    Ok(signed)
}

fn alternative_names(names: &Names) -> Result<Vec<SanType>, IssueError> {
    let count = names.dns.len() + names.addresses.len();
    if count > NAMES_MAX {
        return Err(IssueError::Name {
            name: count.to_string(),
        });
    }
    let mut written = Vec::with_capacity(count);
    for name in &names.dns {
        let wrong = || IssueError::Name { name: name.clone() };
        rustls::pki_types::DnsName::try_from(name.as_str()).map_err(|_| wrong())?;
        written.push(SanType::DnsName(
            name.as_str().try_into().map_err(|_| wrong())?,
        ));
    }
    written.extend(names.addresses.iter().map(|ip| SanType::IpAddress(*ip)));
    Ok(written)
}

pub(crate) fn wrong_issuer(reason: &'static str) -> IssueError {
    IssueError::Issuer { reason }
}
