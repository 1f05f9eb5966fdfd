//! A mesh's root and the certificates it issues.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use consensus_core::MeshId;
use overlay_net::{Credentials, NodeKey};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ED25519, SerialNumber,
};

const HOUR: Duration = Duration::from_secs(3600);

pub(crate) type Signer = CertifiedIssuer<'static, KeyPair>;

pub(crate) struct Authority {
    pub(crate) mesh: MeshId,
    pub(crate) root: Signer,
}

/// What a leaf says.
pub(crate) struct Leaf {
    pub(crate) organization: String,
    pub(crate) unit: &'static str,
    pub(crate) name: String,
    pub(crate) begins: SystemTime,
    pub(crate) ends: SystemTime,
    pub(crate) serial: u64,
    pub(crate) ca: bool,
}

impl Authority {
    pub(crate) fn new(mesh: u8) -> Self {
        let params = issuer_params("root", BasicConstraints::Unconstrained);
        let root = CertifiedIssuer::self_signed(params, ed25519()).unwrap();
        Self {
            mesh: MeshId::from_bytes([mesh; 16]),
            root,
        }
    }

    pub(crate) fn root_der(&self) -> Vec<u8> {
        self.root.der().to_vec()
    }

    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        blake3::hash(&self.root_der()).into()
    }

    pub(crate) fn intermediate(&self, path_length: u8) -> Signer {
        let constraints = BasicConstraints::Constrained(path_length);
        CertifiedIssuer::signed_by(issuer_params("server", constraints), ed25519(), &self.root)
            .unwrap()
    }

    pub(crate) fn leaf(&self, key: &NodeKey) -> Leaf {
        Leaf {
            organization: self.mesh.to_string(),
            unit: "node",
            name: key.node_id().to_string(),
            begins: SystemTime::now() - HOUR,
            ends: SystemTime::now() + HOUR,
            serial: 0x00ab_cdef,
            ca: false,
        }
    }

    /// Credentials whose chain is one leaf of the root.
    pub(crate) fn credentials(&self, key: &NodeKey) -> Credentials {
        self.credentials_of(vec![issue(key, &self.leaf(key), &self.root)])
    }

    pub(crate) fn credentials_of(&self, chain: Vec<Vec<u8>>) -> Credentials {
        Credentials {
            mesh: self.mesh,
            chain,
            root: self.root_der(),
            revoked: BTreeSet::new(),
        }
    }

    pub(crate) fn watched(
        credentials: Credentials,
    ) -> (
        tokio::sync::watch::Sender<Arc<Credentials>>,
        tokio::sync::watch::Receiver<Arc<Credentials>>,
    ) {
        tokio::sync::watch::channel(Arc::new(credentials))
    }
}

fn ed25519() -> KeyPair {
    KeyPair::generate_for(&PKCS_ED25519).unwrap()
}

fn issuer_params(name: &str, constraints: BasicConstraints) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// A leaf for a node's key, in DER.
pub(crate) fn issue(key: &NodeKey, leaf: &Leaf, signer: &Signer) -> Vec<u8> {
    let mut params = CertificateParams::default();
    let mut subject = rcgen::DistinguishedName::new();
    subject.push(DnType::OrganizationName, leaf.organization.as_str());
    subject.push(DnType::OrganizationalUnitName, leaf.unit);
    subject.push(DnType::CommonName, leaf.name.as_str());
    params.distinguished_name = subject;
    params.not_before = leaf.begins.into();
    params.not_after = leaf.ends.into();
    params.serial_number = Some(SerialNumber::from(leaf.serial));
    params.is_ca = if leaf.ca {
        IsCa::Ca(BasicConstraints::Unconstrained)
    } else {
        IsCa::ExplicitNoCa
    };
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let pair = KeyPair::try_from(key.pkcs8_der().as_slice()).unwrap();
    params.signed_by(&pair, signer).unwrap().der().to_vec()
}
