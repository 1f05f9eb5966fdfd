//! What the agreed state makes a verifier believe.

use std::collections::{BTreeMap, BTreeSet};

use consensus_authority::{CertificateProfile, Holder, Leaf, Trust};
use consensus_core::{
    Agreed, CertificateRecord, Intermediate, LeafFingerprint, Mesh, Revoked, Root, RootFingerprint,
    RootState, WallMs,
};

use crate::world::{DAY, MESH, NOW, World, after, code};

fn agreed(world: &World) -> Agreed {
    let mut agreed = Agreed {
        mesh: Some(Mesh {
            id: MESH,
            name: "reef".into(),
            created_at: NOW,
        }),
        ..Agreed::default()
    };
    agreed.authority.roots.push(Root {
        certificate: world.root_der(),
        cross: None,
        state: RootState::Active,
        not_after: world.root.certificate().not_after(),
        introduced_at: NOW,
    });
    let intermediate = world.issuer.intermediate();
    let row = Intermediate {
        node: world.node.clone(),
        certificate: intermediate.der().to_vec(),
        root: RootFingerprint::of(&world.root_der()),
        not_before: intermediate.validity().not_before,
        not_after: intermediate.not_after(),
        retired: false,
    };
    agreed.authority.intermediates = BTreeMap::from([(intermediate.serial().to_owned(), row)]);
    agreed
}

fn record(leaf: &Leaf, holder: Holder, profile: CertificateProfile) -> CertificateRecord {
    CertificateRecord {
        holder,
        profile,
        issuer: leaf.issuer.clone(),
        fingerprint: LeafFingerprint::of(&leaf.der),
        not_before: leaf.validity.not_before,
        not_after: leaf.validity.not_after,
    }
}

#[test]
fn an_empty_state_trusts_nobody() {
    let chain = World::new().node_leaf().chain;
    let trust = Trust::of(MESH, &Agreed::default());
    assert_eq!(code(trust.verify(&chain, NOW)), "CertificateWrongRootError");
}

#[test]
fn the_state_names_root_revoked_and_retired() {
    let world = World::new();
    let (known, unknown) = (world.node_leaf(), world.node_leaf());
    let mut agreed = agreed(&world);
    let node = Holder::Node(world.node.clone());
    let row = record(&known, node.clone(), CertificateProfile::Node);
    agreed.certificates.insert(known.serial.clone(), row);
    let verify = |agreed: &Agreed, leaf: &Leaf| Trust::of(MESH, agreed).verify(&leaf.chain, NOW);
    verify(&agreed, &known).unwrap();
    verify(&agreed, &unknown).unwrap();
    let rows = agreed.authority.intermediates.values_mut();
    rows.for_each(|row| row.retired = true);
    verify(&agreed, &known).unwrap();
    assert_eq!(code(verify(&agreed, &unknown)), "CertificateRetiredError");
    let revoked = Revoked {
        holder: node,
        profile: None,
        not_after: WallMs(u64::MAX),
        at: NOW,
    };
    agreed.revoked.insert(known.issuer.clone(), revoked);
    assert_eq!(code(verify(&agreed, &known)), "CertificateRevokedError");
    let pardoned = Trust::of(MESH, &agreed).revoking(&BTreeSet::new());
    pardoned.verify(&known.chain, NOW).unwrap();
}

#[test]
fn an_operator_of_the_state_outlives_the_intermediate() {
    let world = World::new();
    let operator = world.operator_leaf(90 * DAY);
    let mut agreed = agreed(&world);
    let late = after(NOW, 30 * DAY);
    let verify = |agreed: &Agreed| Trust::of(MESH, agreed).verify(&operator.chain, late);
    assert_eq!(code(verify(&agreed)), "CertificateExpiredError");
    let anna = Holder::Operator("anna".into());
    let row = record(&operator, anna.clone(), CertificateProfile::Operator);
    agreed.certificates.insert(operator.serial.clone(), row);
    assert_eq!(verify(&agreed).unwrap().holder, anna);
}
