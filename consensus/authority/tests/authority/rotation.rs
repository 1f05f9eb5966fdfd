//! From one root to the next: who trusts either can verify, at every step.

use consensus_authority::{Root, Trust};
use consensus_core::{MeshId, WallMs};

use crate::world::{DAY, Forgery, MESH, NOW, World, after, before, code, issuer_under, trust};

struct Rotation {
    old: World,
    new: Root,
    cross: Vec<u8>,
}

fn rotation() -> Rotation {
    let old = World::new();
    let new = Root::generate(MESH, NOW).unwrap();
    let cross = old.root.cross_sign(new.certificate().der(), NOW).unwrap();
    Rotation { old, new, cross }
}

impl Rotation {
    /// A node's chain under the new root, with the cross certificate.
    fn chain(&self) -> Vec<Vec<u8>> {
        let (issuer, key) = issuer_under(&self.new, &self.old.node, vec![self.cross.clone()], NOW);
        let leaf = Forgery::node(&self.old.node).sign(
            &self.old.node_key,
            issuer.intermediate().der(),
            &key,
        );
        vec![
            leaf,
            issuer.intermediate().der().to_vec(),
            self.cross.clone(),
        ]
    }

    fn trusts(&self) -> [(Trust, usize); 3] {
        let (old, new) = (self.old.root_der(), self.new.certificate().der().to_vec());
        [
            (trust(std::slice::from_ref(&old), &[]), 3),
            (trust(std::slice::from_ref(&new), &[]), 2),
            (trust(&[old, new], &[]), 2),
        ]
    }
}

#[test]
fn a_cross_signed_chain_is_believed_with_either_root_or_both() {
    let rotation = rotation();
    let chain = rotation.chain();
    for (trust, path) in rotation.trusts() {
        let verified = trust.verify(&chain, NOW).unwrap();
        assert_eq!(verified.serials.len(), path, "{trust:?}");
        verified.require_node(&rotation.old.node).unwrap();
    }
    let without_cross = &chain[..2];
    let [(old, _), (new, _), (both, _)] = rotation.trusts();
    assert_eq!(
        code(old.verify(without_cross, NOW)),
        "CertificateWrongRootError"
    );
    new.verify(without_cross, NOW).unwrap();
    both.verify(without_cross, NOW).unwrap();
}

#[test]
fn a_chain_under_the_old_root_is_believed_until_it_is_dropped() {
    let rotation = rotation();
    let chain = rotation.old.node_leaf().chain;
    let [(old, _), (new, _), (both, _)] = rotation.trusts();
    old.verify(&chain, NOW).unwrap();
    both.verify(&chain, NOW).unwrap();
    assert_eq!(code(new.verify(&chain, NOW)), "CertificateWrongRootError");
}

#[test]
fn a_revoked_cross_certificate_counts_where_it_is_needed() {
    let rotation = rotation();
    let chain = rotation.chain();
    let serial = consensus_authority::Certificate::read(&rotation.cross).unwrap();
    let old = trust(&[rotation.old.root_der()], &[serial.serial()]);
    assert_eq!(code(old.verify(&chain, NOW)), "CertificateRevokedError");
    let new = trust(
        &[rotation.new.certificate().der().to_vec()],
        &[serial.serial()],
    );
    new.verify(&chain, NOW).unwrap();
}

#[test]
fn a_cross_certificate_ends_with_the_root_that_signed_it() {
    let old = Root::generate(MESH, before(NOW, 3640 * DAY)).unwrap();
    let new = Root::generate(MESH, NOW).unwrap();
    let cross = old.cross_sign(new.certificate().der(), NOW).unwrap();
    let cross = consensus_authority::Certificate::read(&cross).unwrap();
    assert_eq!(cross.not_after(), old.certificate().not_after());
    assert_eq!(cross.public_key(), new.certificate().public_key());
    assert_eq!(cross.name(), new.certificate().name());
    let late: WallMs = after(old.certificate().not_after(), DAY);
    let result = old.cross_sign(new.certificate().der(), late);
    assert_eq!(result.unwrap_err().code(), "IssuerExpiredError");
}

#[test]
fn a_node_that_slept_through_two_rotations_follows_both_cross_certificates() {
    let first = rotation();
    let third = Root::generate(MESH, NOW).unwrap();
    let second_cross = first
        .new
        .cross_sign(third.certificate().der(), NOW)
        .unwrap();
    let crosses = vec![second_cross, first.cross.clone()];
    let (issuer, key) = issuer_under(&third, &first.old.node, crosses.clone(), NOW);
    let leaf =
        Forgery::node(&first.old.node).sign(&first.old.node_key, issuer.intermediate().der(), &key);
    let chain = [vec![leaf, issuer.intermediate().der().to_vec()], crosses].concat();
    let roots = [
        first.old.root_der(),
        first.new.certificate().der().to_vec(),
        third.certificate().der().to_vec(),
    ];
    for (place, root) in roots.iter().enumerate() {
        let verified = trust(std::slice::from_ref(root), &[])
            .verify(&chain, NOW)
            .unwrap();
        assert_eq!(verified.serials.len(), 4 - place);
    }
}

#[test]
fn cross_certificates_go_to_roots_of_the_same_mesh_only() {
    let world = World::new();
    let other_mesh = Root::generate(MeshId::from_bytes([6; 16]), NOW).unwrap();
    let intermediate = world.issuer.intermediate().der();
    let leaf = world.node_leaf();
    for der in [other_mesh.certificate().der(), intermediate, &leaf.der, &[]] {
        assert_eq!(
            world.root.cross_sign(der, NOW).unwrap_err().code(),
            "IssuerUnusableError"
        );
    }
}

#[test]
fn an_intermediate_can_not_cross_sign_a_root_of_its_own() {
    // Whoever stole an intermediate's key makes a root and signs it across.
    let world = World::new();
    let rogue = World::new();
    let cross = Forgery {
        unit: "root".into(),
        name: rogue.root.certificate().name().to_owned(),
        authority: Some(rcgen::BasicConstraints::Unconstrained),
        ..Forgery::intermediate(&world.node)
    };
    let rogue_key = consensus_authority::PrivateKey::from_pkcs8(rogue.root.key().pkcs8()).unwrap();
    let cross = world.forge(&cross, &rogue_key);
    let stolen = world.issuer.intermediate().der().to_vec();
    let chain = [rogue.node_leaf().chain, vec![cross, stolen]].concat();
    assert_eq!(
        code(world.trust().verify(&chain, NOW)),
        "CertificateWrongRootError"
    );
}
