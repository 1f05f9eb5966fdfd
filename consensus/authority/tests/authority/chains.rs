//! Which honest chains are believed, when, and by whom.

use consensus_authority::{
    Certificate, CertificateProfile, Holder, INTERMEDIATE_LIFETIME, IntermediateKey, Issuer,
    LEAF_LIFETIME, Names, ROOT_LIFETIME, Refusal, SharedTrust,
};
use consensus_core::{LeafFingerprint, MeshId, WallMs};

use crate::world::{
    DAY, Forgery, MESH, MINUTE, NOW, World, after, before, code, ed25519, id_of, issuer_under,
    p256, trust, trust_with_retired,
};

#[test]
fn a_node_with_a_servers_leaf_is_that_node() {
    let world = World::new();
    let leaf = world.node_leaf();
    let verified = world.trust().verify(&leaf.chain, NOW).unwrap();
    assert_eq!(verified.profile, CertificateProfile::Node);
    assert_eq!(verified.holder, Holder::Node(world.node.clone()));
    assert_eq!(&verified.public_key, world.node_key.public_key());
    assert_eq!(verified.serials, [leaf.serial, leaf.issuer]);
    assert_eq!(verified.validity(), leaf.validity);
    verified.require_node(&world.node).unwrap();
    let other = id_of(&ed25519());
    let refusal = verified.require_node(&other).unwrap_err();
    assert_eq!(refusal.code(), "CertificateWrongHolderError");
}

#[test]
fn every_profile_is_believed_as_itself_and_as_nothing_else() {
    let world = World::new();
    for profile in CertificateProfile::ALL {
        let (key, holder) = match profile {
            CertificateProfile::Node => (None, Holder::Node(world.node.clone())),
            CertificateProfile::DockerServer | CertificateProfile::DockerClient => {
                (Some(ed25519()), Holder::Node(world.node.clone()))
            }
            CertificateProfile::Browser => (Some(p256()), Holder::Node(world.node.clone())),
            CertificateProfile::Operator => (Some(p256()), Holder::Operator("anna".into())),
        };
        let key = key.as_ref().unwrap_or(&world.node_key);
        let names = Names {
            dns: vec!["n1.example".into()],
            addresses: vec!["fd00::1".parse().unwrap(), "10.0.0.1".parse().unwrap()],
        };
        let csr = key.request().unwrap();
        let leaf = world
            .issuer
            .sign(&csr, profile, &holder, &names, LEAF_LIFETIME, NOW)
            .unwrap();
        let verified = world.trust().verify(&leaf.chain, NOW).unwrap();
        assert_eq!((verified.profile, &verified.holder), (profile, &holder));
        assert_eq!(verified.names, names);
        for other in CertificateProfile::ALL {
            let result = verified.require_profile(&[other]);
            assert_eq!(result.is_ok(), other == profile, "{profile:?} as {other:?}");
        }
    }
}

#[test]
fn a_node_leaf_is_no_operators() {
    let world = World::new();
    let leaf = world.node_leaf();
    let verified = world.trust().verify(&leaf.chain, NOW).unwrap();
    let refusal = verified
        .require_profile(&[
            CertificateProfile::Operator,
            CertificateProfile::DockerClient,
        ])
        .unwrap_err();
    let expected = Refusal::WrongProfile {
        shown: "node".into(),
        expected: "operator or docker-client".into(),
    };
    assert_eq!(refusal, expected);
    let operator = world.operator_leaf(DAY);
    let operator = world.trust().verify(&operator.chain, NOW).unwrap();
    assert!(operator.require_node(&world.node).is_err());
}

#[test]
fn a_chain_to_another_root_is_refused_and_another_meshs_is_named() {
    let (ours, theirs) = (World::new(), World::new());
    let chain = theirs.node_leaf().chain;
    assert_eq!(
        code(ours.trust().verify(&chain, NOW)),
        "CertificateWrongRootError"
    );
    let with_root = [chain, vec![theirs.root_der()]].concat();
    assert_eq!(
        code(ours.trust().verify(&with_root, NOW)),
        "CertificateWrongRootError"
    );
    let foreign_mesh = MeshId::from_bytes([6; 16]);
    let foreign = World::of(foreign_mesh).node_leaf();
    let refusal = ours.trust().verify(&foreign.chain, NOW).unwrap_err();
    let shown = foreign_mesh.to_string();
    assert_eq!(refusal, Refusal::WrongMesh { shown });
}

#[test]
fn a_root_trusted_by_mistake_does_not_let_its_mesh_in() {
    let foreign = World::of(MeshId::from_bytes([6; 16]));
    let trust = trust(&[foreign.root_der()], &[]);
    let leaf = foreign.node_leaf();
    assert_eq!(
        code(trust.verify(&leaf.chain, NOW)),
        "CertificateWrongMeshError"
    );
}

#[test]
fn nothing_shown_is_nobody() {
    let world = World::new();
    assert_eq!(
        code(world.trust().verify(&[], NOW)),
        "CertificateWrongRootError"
    );
    let without_roots = trust(&[], &[]);
    let chain = world.node_leaf().chain;
    assert_eq!(
        code(without_roots.verify(&chain, NOW)),
        "CertificateWrongRootError"
    );
    let broken_root = trust(&[vec![0x30, 3, 1, 2, 3]], &[]);
    assert!(broken_root.roots().is_empty());
    assert_eq!(
        code(broken_root.verify(&chain, NOW)),
        "CertificateWrongRootError"
    );
}

#[test]
fn an_authority_is_no_leaf() {
    let world = World::new();
    let intermediate = world.issuer.intermediate().der().to_vec();
    for chain in [
        vec![intermediate.clone()],
        vec![world.root_der()],
        vec![intermediate, world.root_der()],
    ] {
        assert_eq!(
            code(world.trust().verify(&chain, NOW)),
            "CertificateWrongProfileError"
        );
    }
}

#[test]
fn a_chain_must_be_in_order_and_whole() {
    let world = World::new();
    let chain = world.node_leaf().chain;
    let (leaf, intermediate) = (chain[0].clone(), chain[1].clone());
    let other = World::new().issuer.intermediate().der().to_vec();
    for (chain, why) in [
        (vec![intermediate.clone(), leaf.clone()], "swapped"),
        (vec![leaf.clone()], "without its intermediate"),
        (
            vec![leaf.clone(), leaf.clone(), intermediate.clone()],
            "leaf twice",
        ),
        (
            vec![leaf.clone(), other, intermediate.clone()],
            "another between",
        ),
        (
            vec![leaf.clone(), world.root_der()],
            "root instead of intermediate",
        ),
    ] {
        assert!(world.trust().verify(&chain, NOW).is_err(), "{why}");
    }
    // What follows the end of the path is of no account.
    for chain in [
        vec![leaf.clone(), intermediate.clone(), intermediate.clone()],
        vec![leaf.clone(), intermediate.clone(), world.root_der()],
        vec![
            leaf.clone(),
            intermediate.clone(),
            leaf.clone(),
            leaf.clone(),
        ],
    ] {
        let verified = world.trust().verify(&chain, NOW).unwrap();
        assert_eq!(verified.serials.len(), 2);
    }
    let five = vec![
        leaf.clone(),
        intermediate.clone(),
        leaf.clone(),
        leaf.clone(),
        leaf,
    ];
    assert_eq!(
        code(world.trust().verify(&five, NOW)),
        "CertificateMalformedError"
    );
}

#[test]
fn a_leaf_is_valid_from_ten_minutes_before_it_was_made_to_the_second_it_ends() {
    let world = World::new();
    let late = after(NOW, DAY);
    let leaf = world.node_leaf_at(late);
    let at = |now: WallMs| world.trust().verify(&leaf.chain, now);
    assert_eq!(leaf.validity.not_before, before(late, 10 * MINUTE));
    assert_eq!(leaf.validity.not_after, after(late, DAY));
    at(leaf.validity.not_before).unwrap();
    at(leaf.validity.not_after).unwrap();
    let from = leaf.validity.not_before;
    assert_eq!(at(WallMs(from.0 - 1)), Err(Refusal::NotYetValid { from }));
    let since = leaf.validity.not_after;
    assert_eq!(at(WallMs(since.0 + 1)), Err(Refusal::Expired { since }));
}

#[test]
fn a_leaf_ends_with_its_intermediate_and_an_intermediate_with_its_root() {
    let world = World::new();
    let end = world.issuer.intermediate().not_after();
    assert_eq!(end, after(NOW, INTERMEDIATE_LIFETIME));
    let leaf = world.node_leaf_at(before(end, MINUTE));
    assert_eq!(leaf.validity.not_after, end);

    let root_end = world.root.certificate().not_after();
    assert_eq!(root_end, after(NOW, ROOT_LIFETIME));
    let last_day = before(root_end, DAY);
    let (issuer, _) = issuer_under(&world.root, &world.node, Vec::new(), last_day);
    assert_eq!(issuer.intermediate().not_after(), root_end);
    let key = IntermediateKey::generate().unwrap();
    let late = world
        .root
        .sign_intermediate(&key.request().unwrap(), &world.node, root_end);
    assert_eq!(late.unwrap_err().code(), "IssuerExpiredError");
}

#[test]
fn a_path_ends_with_its_first_certificate_to_end() {
    let world = World::new();
    let operator = world.operator_leaf(90 * DAY);
    let trust = world.trust();
    let end = world.issuer.intermediate().not_after();
    let verified = trust.verify(&operator.chain, NOW).unwrap();
    assert_eq!(
        verified.not_after, end,
        "the mesh does not remember this leaf"
    );
    assert_eq!(
        trust.verify(&operator.chain, after(end, MINUTE)),
        Err(Refusal::Expired { since: end })
    );
}

#[test]
fn a_remembered_operator_outlives_the_intermediate_and_nobody_else_does() {
    let world = World::new();
    let operator = world.operator_leaf(90 * DAY);
    let node = world.node_leaf_at(after(NOW, 6 * DAY + DAY / 2));
    let leaves = [
        LeafFingerprint::of(&operator.der),
        LeafFingerprint::of(&node.der),
    ];
    let trust = world.trust().remembering(leaves);
    let late = after(NOW, 60 * DAY);
    let verified = trust.verify(&operator.chain, late).unwrap();
    assert_eq!(verified.not_after, after(NOW, 90 * DAY));
    assert_eq!(
        code(trust.verify(&operator.chain, after(NOW, 91 * DAY))),
        "CertificateExpiredError"
    );
    let end = world.issuer.intermediate().not_after();
    assert_eq!(
        trust.verify(&node.chain, after(end, MINUTE)),
        Err(Refusal::Expired { since: end })
    );
    let revoked = crate::world::trust(&[world.root_der()], &[world.issuer.intermediate().serial()])
        .remembering(leaves);
    assert_eq!(
        code(revoked.verify(&operator.chain, late)),
        "CertificateRevokedError"
    );
}

#[test]
fn a_root_that_has_ended_vouches_for_nobody() {
    let world = World::new();
    let root_end = world.root.certificate().not_after();
    let last_hour = before(root_end, 60 * MINUTE);
    let (issuer, _) = issuer_under(&world.root, &world.node, Vec::new(), last_hour);
    let csr = ed25519().request().unwrap();
    let anna = Holder::Operator("anna".into());
    let leaf = issuer
        .sign(
            &csr,
            CertificateProfile::Operator,
            &anna,
            &Names::default(),
            90 * DAY,
            last_hour,
        )
        .unwrap();
    let trust = world.trust().remembering([LeafFingerprint::of(&leaf.der)]);
    trust.verify(&leaf.chain, last_hour).unwrap();
    assert_eq!(
        trust.verify(&leaf.chain, after(root_end, MINUTE)),
        Err(Refusal::Expired { since: root_end })
    );
}

#[test]
fn a_revoked_leaf_or_intermediate_is_refused_however_its_serial_is_written() {
    let world = World::new();
    let leaf = world.node_leaf();
    for serial in [&leaf.serial, &leaf.issuer] {
        for spelling in [serial.clone(), serial.to_uppercase(), format!("00{serial}")] {
            let trust = trust(&[world.root_der()], &[&spelling]);
            let refusal = trust.verify(&leaf.chain, NOW).unwrap_err();
            let serial = serial.clone();
            assert_eq!(refusal, Refusal::Revoked { serial });
        }
    }
    let other = trust(&[world.root_der()], &["abcdef"]);
    other.verify(&leaf.chain, NOW).unwrap();
}

#[test]
fn who_was_revoked_is_told_so_even_after_the_end() {
    let world = World::new();
    let leaf = world.node_leaf();
    let trust = trust(&[world.root_der()], &[&leaf.serial]);
    assert_eq!(
        code(trust.verify(&leaf.chain, after(NOW, 30 * DAY))),
        "CertificateRevokedError"
    );
}

#[test]
fn a_retired_intermediate_vouches_for_remembered_leaves_only() {
    let world = World::new();
    let (known, unknown) = (world.node_leaf(), world.node_leaf());
    let trust = trust_with_retired(world.root_der(), &known.issuer, &[&known]);
    trust.verify(&known.chain, NOW).unwrap();
    let expected = Refusal::Retired {
        issuer: unknown.issuer.clone(),
        serial: unknown.serial.clone(),
    };
    assert_eq!(trust.verify(&unknown.chain, NOW), Err(expected));
}

#[test]
fn a_former_servers_key_makes_nothing_new_under_a_serial_that_is_still_good() {
    let world = World::new();
    let operator = world.operator_leaf(30 * DAY);
    let mut forgery = Forgery::node(&world.node);
    forgery.unit = "operator".into();
    forgery.name = "anna".into();
    forgery.extended = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    forgery.serial = hex(&operator.serial);
    forgery.ends = after(NOW, 30 * DAY);
    let forged = world.forged_chain(&forgery);
    let read = Certificate::read(&forged[0]).unwrap();
    assert_eq!(read.serial(), operator.serial);
    let retired = trust_with_retired(world.root_der(), &operator.issuer, &[&operator]);
    retired.verify(&operator.chain, NOW).unwrap();
    assert_eq!(
        code(retired.verify(&forged, NOW)),
        "CertificateRetiredError"
    );
    let remembering = world
        .trust()
        .remembering([LeafFingerprint::of(&operator.der)]);
    let late = after(NOW, 10 * DAY);
    remembering.verify(&operator.chain, late).unwrap();
    assert_eq!(
        code(remembering.verify(&forged, late)),
        "CertificateExpiredError"
    );
}

fn hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    let digits = digits.map(|pair| std::str::from_utf8(pair).unwrap());
    digits
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}

#[test]
fn a_connection_verified_earlier_falls_with_its_certificates() {
    let world = World::new();
    let leaf = world.node_leaf();
    let verified = world.trust().verify(&leaf.chain, NOW).unwrap();
    world.trust().recheck(&verified, NOW).unwrap();
    let recheck = |revoked: &[&str], now| {
        let result = trust(&[world.root_der()], revoked).recheck(&verified, now);
        result.unwrap_err().code()
    };
    assert_eq!(recheck(&[&leaf.serial], NOW), "CertificateRevokedError");
    assert_eq!(recheck(&[&leaf.issuer], NOW), "CertificateRevokedError");
    assert_eq!(recheck(&[], after(NOW, 2 * DAY)), "CertificateExpiredError");
    let retired = trust_with_retired(world.root_der(), &leaf.issuer, &[]);
    let refusal = retired.recheck(&verified, NOW).unwrap_err();
    assert_eq!(refusal.code(), "CertificateRetiredError");
}

#[test]
fn every_clone_of_a_shared_trust_sees_what_replaced_it() {
    let world = World::new();
    let leaf = world.node_leaf();
    let shared = SharedTrust::new(world.trust());
    let other = shared.clone();
    other.current().verify(&leaf.chain, NOW).unwrap();
    shared.replace(trust(&[world.root_der()], &[&leaf.serial]));
    assert_eq!(
        code(other.current().verify(&leaf.chain, NOW)),
        "CertificateRevokedError"
    );
}

#[test]
fn a_server_that_restarts_issues_with_the_key_of_its_file() {
    let world = World::new();
    let key = IntermediateKey::from_pkcs8(&world.issuer_key).unwrap();
    let issuer = Issuer::new(key, world.issuer.intermediate().der(), Vec::new()).unwrap();
    assert_eq!(issuer.intermediate(), world.issuer.intermediate());
    assert_eq!(world.trust().mesh(), MESH);
}
