//! Chains for the corpus, and what the target must know of them.
//!
//! Decides: which chains a root signs once, before its key is thrown away: good ones of every
//! profile, with and without the root, across a rotation, and others that are nearly so (another
//! mesh, another root, ended, not begun, out of order).

use std::{path::Path, time::Duration};

use consensus_authority::{
    CertificateProfile, Holder, IntermediateKey, Issuer, Leaf, Names, PrivateKey, Root, SealingKey,
    seal,
};
use consensus_core::{MeshId, NodeId, WallMs};
use overlay_net::NodeKey;

/// The same as the target's.
const MESH: MeshId = MeshId::from_bytes([5; 16]);
/// The same as the target's.
const NOW: WallMs = WallMs(1_750_000_000_000);
const DAY_MS: u64 = 86_400_000;
const HOUR: Duration = Duration::from_secs(3600);

/// Everything that the certificate targets begin with.
pub(crate) struct Made {
    pub(crate) chains: Vec<(&'static str, Vec<u8>)>,
    pub(crate) requests: Vec<(&'static str, Vec<u8>)>,
    pub(crate) keys: Vec<(&'static str, Vec<u8>)>,
    pub(crate) pems: Vec<(&'static str, Vec<u8>)>,
    pub(crate) sealed: Vec<(&'static str, Vec<u8>)>,
}

/// Makes a root and all that it signs, writes the fixtures and gives the seeds.
pub(crate) fn make(fixtures: &Path) -> Made {
    let root = Root::generate(MESH, earlier(30)).unwrap();
    let hand = issuer(&root, NOW);
    let key = node_key();
    let own = Holder::Node(node());
    let node_leaf = leaf(&hand, &key, CertificateProfile::Node, &own, NOW);
    let operator = PrivateKey::generate(consensus_authority::KeyAlgorithm::P256).unwrap();
    let ada = Holder::Operator("ada".into());
    let operator_leaf = leaf(&hand, &operator, CertificateProfile::Operator, &ada, NOW);
    let engine = PrivateKey::generate(consensus_authority::KeyAlgorithm::Ed25519).unwrap();
    let engine_leaf = leaf(&hand, &engine, CertificateProfile::DockerServer, &own, NOW);
    let sealing = SealingKey::generate();
    let believed = [
        (CertificateProfile::Node, &own, &node_leaf),
        (CertificateProfile::Operator, &ada, &operator_leaf),
        (CertificateProfile::DockerServer, &own, &engine_leaf),
    ];
    write(fixtures, &root, &believed, &sealing);
    let next = Root::generate(MESH, NOW).unwrap();
    let cross = root.cross_sign(next.certificate().der(), NOW).unwrap();
    let foreign = Root::generate(MeshId::from_bytes([9; 16]), earlier(30)).unwrap();
    let foreign_leaf = leaf(
        &issuer(&foreign, NOW),
        &key,
        CertificateProfile::Node,
        &own,
        NOW,
    );
    let late = leaf(
        &issuer(&root, earlier(20)),
        &key,
        CertificateProfile::Node,
        &own,
        earlier(20),
    );
    let with_root = [&node_leaf.chain[..], &[root.certificate().der().to_vec()]].concat();
    let mut swapped = node_leaf.chain.clone();
    swapped.swap(0, 1);
    let pem = |chain: &[Vec<u8>]| {
        let text = consensus_authority::certificates_to_pem(chain.iter().map(Vec::as_slice));
        text.into_bytes()
    };
    Made {
        pems: vec![
            ("chain", pem(&node_leaf.chain)),
            ("root", pem(&with_root[2..])),
        ],
        chains: vec![
            ("node", joined(&node_leaf.chain)),
            ("operator", joined(&operator_leaf.chain)),
            ("docker-server", joined(&engine_leaf.chain)),
            ("with-root", joined(&with_root)),
            ("leaf-alone", joined(&node_leaf.chain[..1])),
            ("swapped", joined(&swapped)),
            ("foreign-mesh", joined(&foreign_leaf.chain)),
            ("ended", joined(&late.chain)),
            ("cross", joined(&[cross])),
        ],
        requests: vec![
            ("node", key.request().unwrap()),
            ("p256", operator.request().unwrap()),
        ],
        keys: vec![
            ("ed25519", engine.pkcs8().to_vec()),
            ("p256", operator.pkcs8().to_vec()),
        ],
        sealed: sealed(&sealing),
    }
}

fn sealed(sealing: &SealingKey) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("empty", seal(b"", [sealing.recipient()]).unwrap()),
        (
            "text",
            seal(b"what was sealed", [sealing.recipient()]).unwrap(),
        ),
        (
            "to-another",
            seal(b"x", [SealingKey::generate().recipient()]).unwrap(),
        ),
        ("key", SealingKey::generate().to_text().as_bytes().to_vec()),
    ]
}

/// Writes what the targets must know.
fn write(
    fixtures: &Path,
    root: &Root,
    believed: &[(CertificateProfile, &Holder, &Leaf)],
    sealing: &SealingKey,
) {
    let believed = believed.iter().map(|(profile, holder, leaf)| {
        let (profile, of) = (profile.as_str(), &leaf.issuer);
        format!("{profile} {holder} {} {of}\n", leaf.serial)
    });
    let put = |name: &str, bytes: &[u8]| std::fs::write(fixtures.join(name), bytes).unwrap();
    put("root.der", root.certificate().der());
    put("believed.txt", believed.collect::<String>().as_bytes());
    put("sealing-key.txt", sealing.to_text().as_bytes());
}

fn node_key() -> PrivateKey {
    PrivateKey::from_pkcs8(&NodeKey::from_seed([6; 32]).pkcs8_der()).unwrap()
}

fn node() -> NodeId {
    NodeKey::from_seed([6; 32]).node_id()
}

fn earlier(days: u64) -> WallMs {
    WallMs(NOW.0 - days * DAY_MS)
}

fn issuer(root: &Root, now: WallMs) -> Issuer {
    let key = IntermediateKey::generate().unwrap();
    let signed = root.sign_intermediate(&key.request().unwrap(), &node(), now);
    Issuer::new(key, &signed.unwrap().der, Vec::new()).unwrap()
}

fn leaf(
    hand: &Issuer,
    key: &PrivateKey,
    profile: CertificateProfile,
    holder: &Holder,
    now: WallMs,
) -> Leaf {
    let request = key.request().unwrap();
    hand.sign(&request, profile, holder, &Names::default(), HOUR, now)
        .unwrap()
}

/// Each behind two bytes of big-endian length.
fn joined(chain: &[Vec<u8>]) -> Vec<u8> {
    let parts = chain.iter().flat_map(|der| {
        let length = u16::try_from(der.len()).unwrap();
        [length.to_be_bytes().to_vec(), der.clone()]
    });
    parts.collect::<Vec<_>>().concat()
}
