//! The root: what signs intermediates, and the root that follows it.
//!
//! Decides path lengths: an intermediate has 0; a cross certificate 2 and a root 3, so that a
//! chain may carry the cross certificates of two rotations on end. A root is told from its
//! predecessors by its name, which carries its key's fingerprint.

use std::{fmt, time::Duration};

use consensus_core::{MeshId, NodeId, WallMs};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyUsagePurpose};

use crate::{
    certificate::Certificate,
    issue::{IssueError, params, sign, wrong_issuer},
    key::{PrivateKey, RootKey},
    profile::{INTERMEDIATE_UNIT, ROOT_UNIT},
    request::requested_key,
    validity::{INTERMEDIATE_LIFETIME, ROOT_LIFETIME, Validity, date},
};

/// Two cross certificates and an intermediate.
const ROOT_PATH_LEN: u8 = 3;
/// A further cross certificate and an intermediate.
const CROSS_PATH_LEN: u8 = 2;
/// A leaf only.
const INTERMEDIATE_PATH_LEN: u8 = 0;

/// A server's signed intermediate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intermediate {
    /// DER.
    pub der: Vec<u8>,
    /// Serial number, as [`serial_hex`](crate::serial_hex) writes it.
    pub serial: String,
    /// When it begins and ends. Never after its root's end.
    pub validity: Validity,
}

/// A root with its key, for as long as it signs.
pub struct Root {
    key: RootKey,
    certificate: Certificate,
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Root")
            .field(&self.certificate.name())
            .finish()
    }
}

impl Root {
    /// Makes a root for a mesh.
    pub fn generate(mesh: MeshId, now: WallMs) -> Result<Self, IssueError> {
        let key = RootKey::generate()?;
        let hash = blake3::hash(key.public_key().as_bytes()).to_hex();
        let name = format!("shoal mesh root {}", &hash.as_str()[..8]);
        let mut params = params(mesh, ROOT_UNIT, &name)?;
        authority(&mut params, ROOT_PATH_LEN);
        let validity = Validity::starting(now, ROOT_LIFETIME);
        params.not_before = date(validity.not_before);
        params.not_after = date(validity.not_after);
        let certificate = params
            .self_signed(key.private())
            .map_err(|error| IssueError::sign(&error))?;
        Self::open(key, certificate.der())
    }

    /// Puts an unsealed key and its certificate (DER) together; refuses what does not belong
    /// together.
    pub fn open(key: RootKey, certificate: &[u8]) -> Result<Self, IssueError> {
        let certificate = Certificate::read(certificate).map_err(IssueError::Certificate)?;
        if certificate.unit() != ROOT_UNIT || !certificate.is_signed_by(&certificate) {
            return Err(wrong_issuer("its certificate is no root"));
        }
        if certificate.public_key() != key.public_key() {
            return Err(wrong_issuer("its key is not its certificate's"));
        }
        Ok(Self { key, certificate })
    }

    /// The certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The key, to be sealed.
    pub fn key(&self) -> &RootKey {
        &self.key
    }

    /// Signs a server's intermediate for the key in `csr` (PKCS#10, DER).
    pub fn sign_intermediate(
        &self,
        csr: &[u8],
        server: &NodeId,
        now: WallMs,
    ) -> Result<Intermediate, IssueError> {
        self.sign_intermediate_for(csr, server, INTERMEDIATE_LIFETIME, now)
    }

    /// The same with a shorter lifetime than [`INTERMEDIATE_LIFETIME`], never a longer one.
    pub fn sign_intermediate_for(
        &self,
        csr: &[u8],
        server: &NodeId,
        lifetime: Duration,
        now: WallMs,
    ) -> Result<Intermediate, IssueError> {
        let key = requested_key(csr)?;
        if key.node_id().is_none() {
            return Err(IssueError::Request {
                reason: "an intermediate's key must be Ed25519",
            });
        }
        let mut params = params(self.mesh()?, INTERMEDIATE_UNIT, server.as_str())?;
        authority(&mut params, INTERMEDIATE_PATH_LEN);
        let validity = Validity::starting(now, lifetime.min(INTERMEDIATE_LIFETIME))
            .within(self.certificate.validity());
        let signed = sign(
            params,
            &key,
            self.private(),
            &self.certificate,
            validity,
            now,
        )?;
        Ok(Intermediate {
            der: signed.der().to_vec(),
            serial: signed.serial().to_owned(),
            validity: signed.validity(),
        })
    }

    /// Signs the next root's key and name, so that who trusts this root only can follow. DER.
    pub fn cross_sign(&self, next: &[u8], now: WallMs) -> Result<Vec<u8>, IssueError> {
        let next = Certificate::read(next).map_err(IssueError::Certificate)?;
        let mesh = self.mesh()?;
        if next.unit() != ROOT_UNIT || !next.is_signed_by(&next) || next.mesh() != Some(mesh) {
            return Err(wrong_issuer("the next root is no root of this mesh"));
        }
        let mut params = params(mesh, ROOT_UNIT, next.name())?;
        authority(&mut params, CROSS_PATH_LEN);
        let signed = sign(
            params,
            next.public_key(),
            self.private(),
            &self.certificate,
            next.validity().within(self.certificate.validity()),
            now,
        )?;
        if !signed.has_subject_of(&next) {
            return Err(wrong_issuer("the next root's name can't be written"));
        }
        Ok(signed.der().to_vec())
    }

    fn mesh(&self) -> Result<MeshId, IssueError> {
        self.certificate
            .mesh()
            .ok_or(wrong_issuer("its certificate names no mesh"))
    }

    fn private(&self) -> &PrivateKey {
        self.key.private()
    }
}

fn authority(params: &mut CertificateParams, path_len: u8) {
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_len));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
}
