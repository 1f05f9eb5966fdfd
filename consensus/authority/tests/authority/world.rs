//! A mesh with a root and one server, and the means to forge what it would never issue.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use consensus_authority::{
    CertificateProfile, Holder, IntermediateKey, Issuer, KeyAlgorithm, LEAF_LIFETIME, Leaf, Names,
    PrivateKey, Refusal, Root, Trust, Verified,
};
use consensus_core::{LeafFingerprint, MeshId, NodeId, WallMs};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use time::OffsetDateTime;

/// 2027-01-15, a whole second.
pub(crate) const NOW: WallMs = WallMs(1_800_000_000_000);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);
pub(crate) const MESH: MeshId = MeshId::from_bytes([5; 16]);

pub(crate) fn after(at: WallMs, span: Duration) -> WallMs {
    WallMs(at.0 + u64::try_from(span.as_millis()).unwrap())
}

pub(crate) fn before(at: WallMs, span: Duration) -> WallMs {
    WallMs(at.0 - u64::try_from(span.as_millis()).unwrap())
}

pub(crate) fn ed25519() -> PrivateKey {
    PrivateKey::generate(KeyAlgorithm::Ed25519).unwrap()
}

pub(crate) fn p256() -> PrivateKey {
    PrivateKey::generate(KeyAlgorithm::P256).unwrap()
}

pub(crate) fn id_of(key: &PrivateKey) -> NodeId {
    key.public_key().node_id().unwrap()
}

/// A mesh of one root and one server.
pub(crate) struct World {
    pub(crate) root: Root,
    pub(crate) issuer: Issuer,
    pub(crate) issuer_key: Vec<u8>,
    pub(crate) node_key: PrivateKey,
    pub(crate) node: NodeId,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::of(MESH)
    }

    pub(crate) fn of(mesh: MeshId) -> Self {
        Self::under(Root::generate(mesh, NOW).unwrap())
    }

    pub(crate) fn under(root: Root) -> Self {
        let node_key = ed25519();
        let node = id_of(&node_key);
        let (issuer, issuer_key) = issuer_under(&root, &node, Vec::new(), NOW);
        Self {
            root,
            issuer,
            issuer_key,
            node_key,
            node,
        }
    }

    pub(crate) fn root_der(&self) -> Vec<u8> {
        self.root.certificate().der().to_vec()
    }

    pub(crate) fn trust(&self) -> Trust {
        trust(&[self.root_der()], &[])
    }

    pub(crate) fn node_leaf(&self) -> Leaf {
        self.node_leaf_at(NOW)
    }

    pub(crate) fn node_leaf_at(&self, now: WallMs) -> Leaf {
        let csr = self.node_key.request().unwrap();
        let holder = Holder::Node(self.node.clone());
        let names = Names::default();
        self.issuer
            .sign(
                &csr,
                CertificateProfile::Node,
                &holder,
                &names,
                LEAF_LIFETIME,
                now,
            )
            .unwrap()
    }

    pub(crate) fn operator_leaf(&self, lifetime: Duration) -> Leaf {
        let csr = ed25519().request().unwrap();
        let holder = Holder::Operator("anna".to_owned());
        let names = Names::default();
        self.issuer
            .sign(
                &csr,
                CertificateProfile::Operator,
                &holder,
                &names,
                lifetime,
                NOW,
            )
            .unwrap()
    }

    /// Signed with the intermediate's key.
    pub(crate) fn forge(&self, forgery: &Forgery, key: &PrivateKey) -> Vec<u8> {
        forgery.sign(key, self.issuer.intermediate().der(), &self.issuer_key)
    }

    /// A chain whose leaf is a forgery by the intermediate, on the node's key.
    pub(crate) fn forged_chain(&self, forgery: &Forgery) -> Vec<Vec<u8>> {
        vec![
            self.forge(forgery, &self.node_key),
            self.issuer.intermediate().der().to_vec(),
        ]
    }
}

/// A server's intermediate under a root, and its key in PKCS#8.
pub(crate) fn issuer_under(
    root: &Root,
    node: &NodeId,
    cross: Vec<Vec<u8>>,
    now: WallMs,
) -> (Issuer, Vec<u8>) {
    let key = IntermediateKey::generate().unwrap();
    let pkcs8 = key.pkcs8().to_vec();
    let intermediate = root
        .sign_intermediate(&key.request().unwrap(), node, now)
        .unwrap();
    (Issuer::new(key, &intermediate.der, cross).unwrap(), pkcs8)
}

pub(crate) fn trust(roots: &[Vec<u8>], revoked: &[&str]) -> Trust {
    let revoked = revoked.iter().map(|serial| (*serial).to_owned()).collect();
    Trust::new(MESH, roots, &revoked, &BTreeMap::new())
}

pub(crate) fn trust_with_retired(root: Vec<u8>, issuer: &str, leaves: &[&Leaf]) -> Trust {
    let leaves: BTreeSet<_> = leaves
        .iter()
        .map(|leaf| LeafFingerprint::of(&leaf.der))
        .collect();
    let retired = BTreeMap::from([(issuer.to_owned(), leaves)]);
    Trust::new(MESH, &[root], &BTreeSet::new(), &retired)
}

pub(crate) fn code(result: Result<Verified, Refusal>) -> &'static str {
    result.unwrap_err().code()
}

/// What a certificate says that no issuer of a mesh would sign.
#[derive(Clone)]
pub(crate) struct Forgery {
    pub(crate) mesh: String,
    pub(crate) unit: String,
    pub(crate) name: String,
    /// An authority with that path length.
    pub(crate) authority: Option<BasicConstraints>,
    pub(crate) usages: Vec<KeyUsagePurpose>,
    pub(crate) extended: Vec<ExtendedKeyUsagePurpose>,
    pub(crate) names: Vec<SanType>,
    pub(crate) extensions: Vec<CustomExtension>,
    pub(crate) serial: Vec<u8>,
    pub(crate) begins: WallMs,
    pub(crate) ends: WallMs,
}

impl Forgery {
    /// As the issuer makes a node's.
    pub(crate) fn node(node: &NodeId) -> Self {
        Self {
            mesh: MESH.to_string(),
            unit: "node".to_owned(),
            name: node.to_string(),
            authority: None,
            usages: vec![KeyUsagePurpose::DigitalSignature],
            extended: vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
            names: Vec::new(),
            extensions: Vec::new(),
            serial: vec![0x0a, 0xff],
            begins: before(NOW, MINUTE),
            ends: after(NOW, DAY),
        }
    }

    /// As a root makes a server's intermediate.
    pub(crate) fn intermediate(node: &NodeId) -> Self {
        Self {
            unit: "intermediate".to_owned(),
            authority: Some(BasicConstraints::Constrained(0)),
            usages: vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign],
            extended: Vec::new(),
            ..Self::node(node)
        }
    }

    pub(crate) fn sign(&self, key: &PrivateKey, issuer: &[u8], issuer_key: &[u8]) -> Vec<u8> {
        let signer = KeyPair::try_from(issuer_key).unwrap();
        let signer = rcgen::Issuer::from_ca_cert_der(&issuer.to_vec().into(), signer).unwrap();
        self.params()
            .signed_by(key, &signer)
            .unwrap()
            .der()
            .to_vec()
    }

    pub(crate) fn self_signed(&self, key: &PrivateKey) -> Vec<u8> {
        self.params().self_signed(key).unwrap().der().to_vec()
    }

    fn params(&self) -> CertificateParams {
        let date = |at: WallMs| {
            OffsetDateTime::from_unix_timestamp(i64::try_from(at.0 / 1000).unwrap()).unwrap()
        };
        let mut subject = DistinguishedName::new();
        subject.push(DnType::OrganizationName, self.mesh.as_str());
        subject.push(DnType::OrganizationalUnitName, self.unit.as_str());
        subject.push(DnType::CommonName, self.name.as_str());
        let mut params = CertificateParams::default();
        params.distinguished_name = subject;
        params.is_ca = self.authority.map_or(IsCa::NoCa, IsCa::Ca);
        params.key_usages = self.usages.clone();
        params.extended_key_usages = self.extended.clone();
        params.subject_alt_names = self.names.clone();
        params.custom_extensions = self.extensions.clone();
        params.serial_number = Some(SerialNumber::from_slice(&self.serial));
        params.not_before = date(self.begins);
        params.not_after = date(self.ends);
        params
    }
}
