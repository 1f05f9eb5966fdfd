//! Which chains make a peer a member.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use overlay_net::{GateError, NodeKey, VerifiedPeer, verify_chain};

use crate::authority::{Authority, issue};

const DAY: Duration = Duration::from_secs(86_400);

fn verify(
    authority: &Authority,
    key: &NodeKey,
    chain: &[Vec<u8>],
) -> Result<VerifiedPeer, GateError> {
    verify_chain(
        chain,
        &authority.root_der(),
        &key.node_id(),
        &authority.mesh,
        SystemTime::now(),
        &BTreeSet::new(),
    )
}

fn code(result: Result<VerifiedPeer, GateError>) -> String {
    result.unwrap_err().code().to_owned()
}

#[test]
fn a_leaf_of_the_root_or_of_an_intermediate_is_admitted() {
    let authority = Authority::new(1);
    let key = NodeKey::generate();
    let direct = issue(&key, &authority.leaf(&key), &authority.root);
    let verified = verify(&authority, &key, std::slice::from_ref(&direct)).unwrap();
    assert_eq!(verified.node, key.node_id());
    assert_eq!(verified.serials, ["abcdef"]);

    let server = authority.intermediate(0);
    let chain = vec![
        issue(&key, &authority.leaf(&key), &server),
        server.der().to_vec(),
    ];
    assert_eq!(verify(&authority, &key, &chain).unwrap().serials.len(), 2);
    let with_root = [chain, vec![authority.root_der()]].concat();
    verify(&authority, &key, &with_root).unwrap();
}

#[test]
fn a_chain_to_another_root_is_a_strangers() {
    let (ours, theirs) = (Authority::new(1), Authority::new(1));
    let key = NodeKey::generate();
    let chain = theirs.credentials(&key).chain;
    assert_eq!(code(verify(&ours, &key, &chain)), "AdmissionStrangerError");
    let with_their_root = [chain, vec![theirs.root_der()]].concat();
    assert_eq!(
        code(verify(&ours, &key, &with_their_root)),
        "AdmissionStrangerError"
    );
    assert_eq!(code(verify(&ours, &key, &[])), "AdmissionStrangerError");
    assert_eq!(
        code(verify(&ours, &key, &[ours.root_der()])),
        "AdmissionStrangerError"
    );
}

#[test]
fn a_leaf_cannot_issue_certificates() {
    let authority = Authority::new(1);
    let key = NodeKey::generate();
    // A node that signs for another with its own leaf as the intermediate.
    let server = authority.intermediate(0);
    let mut leaf = authority.leaf(&key);
    leaf.ca = true;
    let deep = rcgen::CertifiedIssuer::signed_by(
        {
            let mut params = rcgen::CertificateParams::default();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params
        },
        rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(),
        &server,
    )
    .unwrap();
    let too_long = vec![
        issue(&key, &authority.leaf(&key), &deep),
        deep.der().to_vec(),
        server.der().to_vec(),
    ];
    assert_eq!(
        code(verify(&authority, &key, &too_long)),
        "AdmissionStrangerError",
        "the path length forbids a second intermediate"
    );
    let authority_as_leaf = vec![issue(&key, &leaf, &authority.root)];
    assert_eq!(
        code(verify(&authority, &key, &authority_as_leaf)),
        "AdmissionStrangerError"
    );
}

#[test]
fn a_certificate_serves_only_the_node_that_it_names() {
    let authority = Authority::new(1);
    let (key, other) = (NodeKey::generate(), NodeKey::generate());
    let stolen = authority.credentials(&key).chain;
    assert_eq!(
        code(verify(&authority, &other, &stolen)),
        "AdmissionStrangerError"
    );
    let mut leaf = authority.leaf(&key);
    leaf.name = other.node_id().to_string();
    let misnamed = vec![issue(&key, &leaf, &authority.root)];
    for node in [&key, &other] {
        assert_eq!(
            code(verify(&authority, node, &misnamed)),
            "AdmissionStrangerError"
        );
    }
    let mut leaf = authority.leaf(&key);
    leaf.unit = "operator";
    let operator = vec![issue(&key, &leaf, &authority.root)];
    assert_eq!(
        code(verify(&authority, &key, &operator)),
        "AdmissionStrangerError"
    );
}

#[test]
fn time_and_mesh_and_revocation_have_codes_of_their_own() {
    let authority = Authority::new(1);
    let key = NodeKey::generate();
    let now = SystemTime::now();
    let mut expired = authority.leaf(&key);
    (expired.begins, expired.ends) = (now - 2 * DAY, now - DAY);
    let mut early = authority.leaf(&key);
    (early.begins, early.ends) = (now + DAY, now + 2 * DAY);
    let mut foreign = authority.leaf(&key);
    foreign.organization = Authority::new(2).mesh.to_string();
    for (leaf, expected) in [
        (&expired, "AdmissionExpiredError"),
        (&early, "AdmissionNotYetValidError"),
        (&foreign, "AdmissionWrongMeshError"),
    ] {
        let chain = vec![issue(&key, leaf, &authority.root)];
        assert_eq!(code(verify(&authority, &key, &chain)), expected);
    }
    let chain = authority.credentials(&key).chain;
    let revoked = BTreeSet::from(["00ABCDEF".to_owned()]);
    let result = verify_chain(
        &chain,
        &authority.root_der(),
        &key.node_id(),
        &authority.mesh,
        now,
        &revoked,
    );
    assert_eq!(code(result), "AdmissionRevokedError");
}

#[test]
fn every_flipped_bit_is_noticed() {
    let authority = Authority::new(1);
    let key = NodeKey::generate();
    let leaf = authority.credentials(&key).chain.remove(0);
    for place in 0..leaf.len() {
        let mut bytes = leaf.clone();
        bytes[place] ^= 1 << (place % 8);
        assert!(
            verify(&authority, &key, &[bytes]).is_err(),
            "byte {place} may be changed"
        );
    }
}

#[test]
fn garbage_is_malformed() {
    let authority = Authority::new(1);
    let key = NodeKey::generate();
    let leaf = authority.credentials(&key).chain.remove(0);
    let trailing = [leaf.clone(), vec![0]].concat();
    let long = vec![0x30; 5000];
    for bytes in [vec![], vec![1, 2, 3], trailing, long] {
        assert_eq!(
            code(verify(&authority, &key, &[bytes])),
            "AdmissionMalformedError"
        );
    }
    assert_eq!(
        code(verify(&authority, &key, &vec![leaf; 6])),
        "AdmissionMalformedError"
    );
}
