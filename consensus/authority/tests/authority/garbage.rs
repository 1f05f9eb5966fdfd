//! Input that nobody made on purpose, or somebody did: no panic, no belief.

use consensus_authority::{
    Certificate, CertificateProfile, Holder, LEAF_LIFETIME, Names, SealingKey,
    certificates_from_pem, unseal,
};
use proptest::prelude::*;

use crate::world::{NOW, World, code};

#[test]
fn every_flipped_bit_of_a_chain_is_noticed() {
    let world = World::new();
    let chain = world.node_leaf().chain;
    let trust = world.trust();
    for link in 0..chain.len() {
        for place in 0..chain[link].len() {
            for bit in 0..8 {
                let mut broken = chain.clone();
                broken[link][place] ^= 1 << bit;
                assert!(
                    trust.verify(&broken, NOW).is_err(),
                    "bit {bit} of byte {place} of certificate {link} may be changed"
                );
            }
        }
    }
}

#[test]
fn garbage_and_oversized_certificates_are_malformed() {
    let world = World::new();
    let leaf = world.node_leaf().der;
    let trailing = [leaf.clone(), vec![0]].concat();
    let huge_length = vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff];
    for bytes in [
        vec![],
        vec![1, 2, 3],
        trailing,
        huge_length,
        vec![0x30; 5000],
    ] {
        for chain in [vec![bytes.clone()], vec![leaf.clone(), bytes.clone()]] {
            assert_eq!(
                code(world.trust().verify(&chain, NOW)),
                "CertificateMalformedError"
            );
        }
    }
    for length in 0..leaf.len() {
        assert!(
            Certificate::read(&leaf[..length]).is_err(),
            "cut at {length}"
        );
    }
}

/// Bytes changed, removed and inserted at a few places.
fn mutate(bytes: &[u8], changes: &[(usize, u8, u8)]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (place, kind, value) in changes {
        let place = place % bytes.len().max(1);
        match kind % 3 {
            0 if !bytes.is_empty() => bytes[place] = *value,
            1 if !bytes.is_empty() => drop(bytes.remove(place)),
            _ => bytes.insert(place, *value),
        }
    }
    bytes
}

fn changes() -> impl Strategy<Value = Vec<(usize, u8, u8)>> {
    proptest::collection::vec((any::<usize>(), any::<u8>(), any::<u8>()), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_bytes_are_believed_or_panic(
        chain in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..6),
        text in ".{0,300}",
    ) {
        let world = World::new();
        prop_assert!(world.trust().verify(&chain, NOW).is_err());
        let bytes = chain.concat();
        prop_assert!(unseal(&SealingKey::generate(), &bytes).is_err());
        prop_assert!(certificates_from_pem(&text).is_err());
        prop_assert!(SealingKey::from_text(&text).is_err());
    }

    #[test]
    fn mutated_chains_are_believed_only_if_they_are_the_chain(
        leaf in changes(),
        intermediate in changes(),
        which in 0..3_u8,
    ) {
        let world = World::new();
        let chain = world.node_leaf().chain;
        let mut broken = chain.clone();
        if which != 1 {
            broken[0] = mutate(&broken[0], &leaf);
        }
        if which != 0 {
            broken[1] = mutate(&broken[1], &intermediate);
        }
        let believed = world.trust().verify(&broken, NOW).is_ok();
        prop_assert_eq!(believed, broken == chain);
    }

    #[test]
    fn mutated_requests_prove_nothing(change in changes()) {
        let world = World::new();
        let csr = world.node_key.request().unwrap();
        let broken = mutate(&csr, &change);
        let signed = world.issuer.sign(
            &broken,
            CertificateProfile::Node,
            &Holder::Node(world.node.clone()),
            &Names::default(),
            LEAF_LIFETIME,
            NOW,
        );
        prop_assert_eq!(signed.is_ok(), broken == csr);
    }
}
