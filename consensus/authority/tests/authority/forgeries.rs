//! Chains that nobody honest makes: all are refused, whoever signed them.

use consensus_authority::Certificate;
use rcgen::{BasicConstraints, CustomExtension, ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType};

use crate::world::{DAY, Forgery, NOW, World, before, code, ed25519, id_of, p256};

/// The code with which a leaf is refused that the intermediate signed with these faults.
fn refusal(world: &World, change: impl FnOnce(&mut Forgery)) -> &'static str {
    let mut forgery = Forgery::node(&world.node);
    change(&mut forgery);
    code(world.trust().verify(&world.forged_chain(&forgery), NOW))
}

#[test]
fn the_forger_can_forge_an_honest_leaf() {
    let world = World::new();
    let chain = world.forged_chain(&Forgery::node(&world.node));
    let verified = world.trust().verify(&chain, NOW).unwrap();
    verified.require_node(&world.node).unwrap();
    assert_eq!(verified.serial(), "0aff");
}

#[test]
fn a_leaf_with_another_use_than_its_profiles_is_refused() {
    let world = World::new();
    let (server, client) = (
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    );
    let usages = [
        vec![],
        vec![KeyUsagePurpose::KeyEncipherment],
        vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ],
        vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
        ],
    ];
    for usages in usages {
        assert_eq!(
            refusal(&world, |leaf| leaf.usages = usages.clone()),
            "CertificateMalformedError",
            "{usages:?}"
        );
    }
    let extended = [
        vec![],
        vec![server.clone()],
        vec![client.clone()],
        vec![server.clone(), client.clone(), ExtendedKeyUsagePurpose::Any],
        vec![server, client, ExtendedKeyUsagePurpose::CodeSigning],
    ];
    for extended in extended {
        assert_eq!(
            refusal(&world, |leaf| leaf.extended = extended.clone()),
            "CertificateMalformedError",
            "{extended:?}"
        );
    }
}

#[test]
fn a_leaf_of_an_unknown_profile_is_for_nothing() {
    let world = World::new();
    for unit in ["", "Node", "nodes", "root", "intermediate", "issuer"] {
        let shown = refusal(&world, |leaf| leaf.unit = unit.to_owned());
        assert_eq!(shown, "CertificateWrongProfileError", "{unit:?}");
    }
}

#[test]
fn a_profile_binds_key_use_and_name_together() {
    let world = World::new();
    // A node's leaf with an operator's profile: its use does not fit.
    assert_eq!(
        refusal(&world, |leaf| leaf.unit = "operator".into()),
        "CertificateMalformedError"
    );
    // With the right use, a node's id is still no operator's name.
    let as_operator = |leaf: &mut Forgery| {
        leaf.unit = "operator".into();
        leaf.extended = vec![ExtendedKeyUsagePurpose::ClientAuth];
    };
    assert_eq!(refusal(&world, as_operator), "CertificateMalformedError");
    for name in ["", "anna", "a\nb"] {
        assert_eq!(
            refusal(&world, |leaf| leaf.name = name.into()),
            "CertificateMalformedError",
            "{name:?} as a node"
        );
    }
}

#[test]
fn a_node_leaf_on_another_key_is_refused() {
    let world = World::new();
    let intermediate = world.issuer.intermediate().der().to_vec();
    let forgery = Forgery::node(&world.node);
    let stolen = vec![world.forge(&forgery, &ed25519()), intermediate.clone()];
    assert_eq!(
        code(world.trust().verify(&stolen, NOW)),
        "CertificateWrongHolderError"
    );
    let curve = vec![world.forge(&forgery, &p256()), intermediate];
    assert_eq!(
        code(world.trust().verify(&curve, NOW)),
        "CertificateMalformedError"
    );
}

#[test]
fn a_leaf_of_another_mesh_under_our_intermediate_is_refused() {
    let world = World::new();
    for mesh in ["06060606060606060606060606060606", "", "shoal"] {
        assert_eq!(
            refusal(&world, |leaf| leaf.mesh = mesh.into()),
            "CertificateWrongMeshError",
            "{mesh:?}"
        );
    }
}

#[test]
fn unknown_critical_extensions_and_foreign_names_are_refused() {
    let world = World::new();
    let custom = |critical| {
        let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
        extension.set_criticality(critical);
        extension
    };
    assert_eq!(
        refusal(&world, |leaf| leaf.extensions = vec![custom(true)]),
        "CertificateMalformedError"
    );
    assert_eq!(
        refusal(&world, |leaf| leaf.extensions =
            vec![custom(false), custom(false)]),
        "CertificateMalformedError",
        "an extension twice"
    );
    let mail = SanType::Rfc822Name("a@example".try_into().unwrap());
    assert_eq!(
        refusal(&world, |leaf| leaf.names = vec![mail]),
        "CertificateMalformedError"
    );
    let mut harmless = Forgery::node(&world.node);
    harmless.extensions = vec![custom(false)];
    let chain = world.forged_chain(&harmless);
    world.trust().verify(&chain, NOW).unwrap();
}

#[test]
fn serial_numbers_out_of_range_are_refused() {
    let world = World::new();
    for serial in [vec![0], vec![1; 21]] {
        assert_eq!(
            refusal(&world, |leaf| leaf.serial = serial.clone()),
            "CertificateMalformedError",
            "{serial:?}"
        );
    }
}

#[test]
fn a_leaf_issues_nothing() {
    let world = World::new();
    let victim = ed25519();
    let forgery = Forgery::node(&id_of(&victim));
    // Its own leaf, honestly issued, as the issuer of another.
    let leaf = world.node_leaf();
    let by_leaf = forgery.sign(&victim, &leaf.der, world.node_key.pkcs8());
    let chain = [vec![by_leaf], leaf.chain].concat();
    assert_eq!(
        code(world.trust().verify(&chain, NOW)),
        "CertificateWrongRootError"
    );
}

#[test]
fn an_intermediate_makes_no_further_authority() {
    let world = World::new();
    let deeper_key = ed25519();
    let victim = ed25519();
    let leaf = Forgery::node(&id_of(&victim));
    for unit in ["intermediate", "root"] {
        for limit in [
            BasicConstraints::Constrained(0),
            BasicConstraints::Constrained(9),
            BasicConstraints::Unconstrained,
        ] {
            let mut deeper = Forgery::intermediate(&world.node);
            deeper.unit = unit.into();
            deeper.authority = Some(limit);
            let deeper = world.forge(&deeper, &deeper_key);
            let chain = vec![
                leaf.sign(&victim, &deeper, deeper_key.pkcs8()),
                deeper,
                world.issuer.intermediate().der().to_vec(),
            ];
            assert_eq!(
                code(world.trust().verify(&chain, NOW)),
                "CertificateWrongRootError",
                "{unit} {limit:?}"
            );
        }
    }
}

/// The code with which a chain is refused whose intermediate the root signed with these faults.
fn intermediate_refusal(world: &World, change: impl FnOnce(&mut Forgery)) -> &'static str {
    let key = ed25519();
    let mut forgery = Forgery::intermediate(&world.node);
    change(&mut forgery);
    let der = forgery.sign(&key, &world.root_der(), world.root.key().pkcs8());
    let leaf = Forgery::node(&world.node).sign(&world.node_key, &der, key.pkcs8());
    code(world.trust().verify(&[leaf, der], NOW))
}

#[test]
fn an_intermediate_must_look_like_one_even_if_the_root_signed_it() {
    let world = World::new();
    let root = "CertificateWrongRootError";
    assert_eq!(intermediate_refusal(&world, |it| it.authority = None), root);
    assert_eq!(intermediate_refusal(&world, |it| it.usages = vec![]), root);
    assert_eq!(
        intermediate_refusal(&world, |it| it.usages = vec![KeyUsagePurpose::CrlSign]),
        root
    );
    assert_eq!(
        intermediate_refusal(&world, |it| {
            it.authority = Some(BasicConstraints::Unconstrained);
        }),
        root,
        "an intermediate without a path length"
    );
    assert_eq!(
        intermediate_refusal(&world, |it| it.unit = "node".into()),
        root
    );
    assert_eq!(
        intermediate_refusal(&world, |it| it.mesh = "other".into()),
        "CertificateWrongMeshError"
    );
    assert_eq!(
        intermediate_refusal(&world, |it| {
            (it.begins, it.ends) = (before(NOW, 2 * DAY), before(NOW, DAY));
        }),
        "CertificateExpiredError"
    );
}

#[test]
fn an_authority_signs_with_ed25519_only() {
    let world = World::new();
    let key = p256();
    let root = Forgery {
        unit: "root".into(),
        authority: Some(BasicConstraints::Unconstrained),
        ..Forgery::intermediate(&world.node)
    };
    // Signed with ECDSA: it can't even be read, so it is trusted with nothing.
    let root = root.self_signed(&key);
    assert!(Certificate::read(&root).is_err());
    let leaf = Forgery::node(&world.node).sign(&world.node_key, &root, key.pkcs8());
    let trust = crate::world::trust(&[root], &[]);
    assert_eq!(
        code(trust.verify(&[leaf], NOW)),
        "CertificateMalformedError"
    );

    // A P-256 intermediate that an Ed25519 root signed.
    let der =
        Forgery::intermediate(&world.node).sign(&key, &world.root_der(), world.root.key().pkcs8());
    let leaf = Forgery::node(&world.node).sign(&world.node_key, &der, key.pkcs8());
    assert_eq!(
        code(world.trust().verify(&[leaf, der], NOW)),
        "CertificateMalformedError"
    );
}

#[test]
fn the_same_name_with_another_key_is_not_the_root() {
    let world = World::new();
    let impostor = ed25519();
    let twin = Forgery {
        unit: "root".into(),
        name: world.root.certificate().name().to_owned(),
        authority: Some(BasicConstraints::Constrained(3)),
        ..Forgery::intermediate(&world.node)
    };
    let twin = twin.self_signed(&impostor);
    let leaf = Forgery::node(&world.node).sign(&world.node_key, &twin, impostor.pkcs8());
    for chain in [vec![leaf.clone()], vec![leaf, twin]] {
        assert_eq!(
            code(world.trust().verify(&chain, NOW)),
            "CertificateWrongRootError"
        );
    }
}

#[test]
fn a_root_is_the_issuer_of_leaves_only_by_name_and_signature() {
    let world = World::new();
    // The root's key under the intermediate's name: names do not chain.
    let forgery = Forgery::node(&world.node);
    let misnamed = forgery.sign(
        &world.node_key,
        world.issuer.intermediate().der(),
        world.root.key().pkcs8(),
    );
    assert_eq!(
        code(world.trust().verify(&[misnamed], NOW)),
        "CertificateWrongRootError"
    );
    // The root itself may sign a leaf: whoever has its key can do anything anyway.
    let direct = forgery.sign(&world.node_key, &world.root_der(), world.root.key().pkcs8());
    world.trust().verify(&[direct], NOW).unwrap();
}
