//! What the mesh's own authority reads: chains, requests, keys, PEM, sealed keys.
//!
//! Claims: nobody gets in whom the root has not let in. Its key was thrown away, so whoever writes
//! the inputs can't have it, and the only chains that may be believed are those that it signed
//! once; what is learned of their holder is what they say. A request makes a certificate for its
//! own key alone. A sealed text opens to what was sealed. Every refusal has a code.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
    time::Duration,
};

use consensus_authority::{
    Certificate, CertificateProfile, Holder, IntermediateKey, Issuer, Names, PrivateKey, Root,
    SealingKey, Trust, certificates_from_pem, certificates_to_pem,
};
use consensus_core::{MeshId, NodeId, WallMs};

/// The root that the corpus's chains come from, in DER.
const ROOT: &[u8] = include_bytes!("../fixtures/root.der");
/// Every chain that may be believed, one a line: profile, holder, serial numbers from the leaf up.
const BELIEVED: &str = include_str!("../fixtures/believed.txt");
/// Opens what the corpus holds of sealed texts. No secret: it was made for this.
const SEALING_KEY: &str = include_str!("../fixtures/sealing-key.txt");
/// What was sealed to it.
const SEALED: [&[u8]; 2] = [b"", b"what was sealed"];
/// The mesh that the chains speak of.
const MESH: MeshId = MeshId::from_bytes([5; 16]);
/// When they are shown: within the validity of those that may be believed.
const NOW: WallMs = WallMs(1_750_000_000_000);

/// The authority that gets the requests.
static ISSUER: LazyLock<Issuer> = LazyLock::new(|| {
    let root = Root::generate(MESH, NOW).expect("a root");
    let key = IntermediateKey::generate().expect("a key");
    let request = key.request().expect("a request");
    let signed = root.sign_intermediate(&request, &node(), NOW);
    let signed = signed.expect("an intermediate");
    Issuer::new(key, &signed.der, Vec::new()).expect("they belong together")
});

/// Certificates, each behind two bytes of big-endian length; the end may be cut.
pub(crate) fn chain(data: &[u8]) {
    let chain = split(data);
    let roots = [ROOT.to_vec()];
    let trust = |revoked| Trust::new(MESH, &roots, &revoked, &BTreeMap::new());
    match trust(BTreeSet::new()).verify(&chain, NOW) {
        Ok(verified) => {
            let line = format!(
                "{} {} {}",
                verified.profile.as_str(),
                verified.holder,
                verified.serials.join(" ")
            );
            assert!(BELIEVED.lines().any(|known| known == line), "{line}");
            assert!(verified.not_before <= NOW && NOW <= verified.not_after);
            for serial in &verified.serials {
                let revoked = BTreeSet::from([format!("00{}", serial.to_uppercase())]);
                let refused = trust(revoked).verify(&chain, NOW);
                assert!(refused.is_err(), "{serial} was revoked");
            }
        }
        Err(refusal) => assert!(refusal.code().starts_with("Certificate")),
    }
    for der in &chain {
        if let Ok(certificate) = Certificate::read(der) {
            assert_eq!(certificate.der(), der);
        }
    }
}

/// Has the key of a request certified.
pub(crate) fn request(data: &[u8]) {
    let signed = ISSUER.sign(
        data,
        CertificateProfile::Node,
        &Holder::Node(node()),
        &Names::default(),
        Duration::from_secs(60),
        NOW,
    );
    match signed {
        Ok(leaf) => {
            let leaf = Certificate::read(&leaf.der).expect("what was signed is read");
            let key = leaf.public_key().as_bytes();
            let asked = data.windows(key.len()).any(|window| window == key);
            assert!(asked, "signed for another key");
            assert_eq!(leaf.public_key().node_id(), Some(node()));
        }
        Err(error) => assert!(error.code().ends_with("Error")),
    }
}

pub(crate) fn pem(data: &[u8]) {
    match certificates_from_pem(&crate::text(data)) {
        Ok(certificates) => {
            assert!(!certificates.is_empty());
            let text = certificates_to_pem(certificates.iter().map(Vec::as_slice));
            assert_eq!(certificates_from_pem(&text), Ok(certificates));
        }
        Err(error) => assert!(error.code().starts_with("Pem")),
    }
}

pub(crate) fn private_key(data: &[u8]) {
    if let Ok(key) = PrivateKey::from_pkcs8(data) {
        assert_eq!(key.pkcs8(), data);
        let again = PrivateKey::from_pkcs8(key.pkcs8()).expect("its own bytes");
        assert_eq!(again.public_key(), key.public_key());
        let request = key.request().expect("a key that was read signs");
        assert!(!request.is_empty());
    }
}

pub(crate) fn sealed(data: &[u8]) {
    let key = SealingKey::from_text(SEALING_KEY).expect("the key of the corpus");
    match key.unseal(data) {
        Ok(plaintext) => assert!(SEALED.contains(&plaintext.as_slice()), "forged"),
        Err(error) => assert!(error.code().ends_with("Error")),
    }
    let text = crate::text(data);
    if let Ok(key) = SealingKey::from_text(&text) {
        assert!(text.trim().eq_ignore_ascii_case(&key.to_text()));
    }
}

/// The node whose requests the corpus holds.
fn node() -> NodeId {
    let key = overlay_net::NodeKey::from_seed([6; 32]);
    key.node_id()
}

fn split(mut data: &[u8]) -> Vec<Vec<u8>> {
    let mut chain = Vec::new();
    while let Some((length, rest)) = data.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length));
        let (certificate, rest) = rest.split_at(length.min(rest.len()));
        chain.push(certificate.to_vec());
        data = rest;
    }
    chain
}
