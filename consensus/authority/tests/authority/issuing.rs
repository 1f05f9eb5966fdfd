//! What is issued, and what is refused to be.

use std::time::Duration;

use consensus_authority::{
    Certificate, CertificateProfile, Holder, IntermediateKey, IssueError, Issuer, KeyAlgorithm,
    LEAF_LIFETIME, Leaf, Names, OPERATOR_LIFETIME_MAX, PrivateKey, Root, RootKey,
    certificates_from_pem, certificates_to_pem, fingerprint, key_to_pem, node_id_of, renew_at,
    words,
};
use consensus_core::WallMs;

use crate::world::{DAY, MESH, MINUTE, NOW, World, after, ed25519, id_of, issuer_under, p256};

fn sign(
    world: &World,
    key: &PrivateKey,
    profile: CertificateProfile,
    holder: &Holder,
    lifetime: Duration,
) -> Result<Leaf, IssueError> {
    let csr = key.request().unwrap();
    world
        .issuer
        .sign(&csr, profile, holder, &Names::default(), lifetime, NOW)
}

#[test]
fn a_key_must_be_of_its_profiles_algorithm() {
    let world = World::new();
    let node = Holder::Node(world.node.clone());
    let anna = Holder::Operator("anna".into());
    for profile in CertificateProfile::ALL {
        let holder = match profile {
            CertificateProfile::Operator => &anna,
            CertificateProfile::Node
            | CertificateProfile::DockerServer
            | CertificateProfile::DockerClient
            | CertificateProfile::Browser => &node,
        };
        let signs = |key: &PrivateKey| sign(&world, key, profile, holder, LEAF_LIFETIME).is_ok();
        let expected = match profile {
            CertificateProfile::Node
            | CertificateProfile::DockerServer
            | CertificateProfile::DockerClient => (true, false),
            CertificateProfile::Operator => (true, true),
            CertificateProfile::Browser => (false, true),
        };
        assert_eq!(
            (signs(&world.node_key), signs(&p256())),
            expected,
            "{profile:?}"
        );
    }
}

#[test]
fn a_node_gets_a_leaf_for_its_own_key_only() {
    let world = World::new();
    let node = Holder::Node(world.node.clone());
    let result = sign(
        &world,
        &ed25519(),
        CertificateProfile::Node,
        &node,
        LEAF_LIFETIME,
    );
    assert_eq!(result.unwrap_err().code(), "SigningRequestInvalidError");
    // dockerd's key is not the node's.
    sign(
        &world,
        &ed25519(),
        CertificateProfile::DockerServer,
        &node,
        LEAF_LIFETIME,
    )
    .unwrap();
}

#[test]
fn a_holder_that_would_be_read_as_another_gets_nothing() {
    let world = World::new();
    let posing = Holder::Operator(world.node.to_string());
    let cases = [
        (CertificateProfile::Operator, posing.clone()),
        (CertificateProfile::DockerClient, posing),
        (
            CertificateProfile::Operator,
            Holder::Node(world.node.clone()),
        ),
        (
            CertificateProfile::DockerServer,
            Holder::Operator("anna".into()),
        ),
        (
            CertificateProfile::Operator,
            Holder::Operator(String::new()),
        ),
        (
            CertificateProfile::Operator,
            Holder::Operator("a\0b".into()),
        ),
    ];
    for (profile, holder) in cases {
        let result = sign(&world, &world.node_key, profile, &holder, LEAF_LIFETIME);
        assert_eq!(result.unwrap_err().code(), "CertificateHolderInvalidError");
    }
}

#[test]
fn lifetimes_beyond_a_profiles_are_refused() {
    let world = World::new();
    let node = Holder::Node(world.node.clone());
    let anna = Holder::Operator("anna".into());
    let second = Duration::from_secs(1);
    for (profile, holder, max) in [
        (CertificateProfile::Node, &node, LEAF_LIFETIME),
        (CertificateProfile::Operator, &anna, OPERATOR_LIFETIME_MAX),
    ] {
        sign(&world, &world.node_key, profile, holder, max).unwrap();
        for lifetime in [max + second, Duration::ZERO, Duration::MAX] {
            let result = sign(&world, &world.node_key, profile, holder, lifetime);
            assert_eq!(result.unwrap_err().code(), "CertificateLifetimeError");
        }
    }
}

#[test]
fn an_ended_intermediate_issues_nothing() {
    let world = World::new();
    let end = world.issuer.intermediate().not_after();
    let csr = world.node_key.request().unwrap();
    let result = world.issuer.sign(
        &csr,
        CertificateProfile::Node,
        &Holder::Node(world.node.clone()),
        &Names::default(),
        LEAF_LIFETIME,
        end,
    );
    assert_eq!(result, Err(IssueError::Ended { since: end }));
}

#[test]
fn names_that_are_none_or_too_many_are_refused() {
    let world = World::new();
    let csr = world.node_key.request().unwrap();
    let node = Holder::Node(world.node.clone());
    let sign = |names: &Names| {
        let profile = CertificateProfile::DockerServer;
        world
            .issuer
            .sign(&csr, profile, &node, names, LEAF_LIFETIME, NOW)
    };
    for bad in ["", "a b", "ä.example", "a\0.example", &"a".repeat(300)] {
        let names = Names {
            dns: vec![bad.to_owned()],
            addresses: Vec::new(),
        };
        assert_eq!(
            sign(&names).unwrap_err().code(),
            "CertificateNameInvalidError",
            "{bad:?}"
        );
    }
    let long = |count: usize| Names {
        dns: (0..count)
            .map(|n| format!("{}.{}.n{n}", "a".repeat(60), "b".repeat(40)))
            .collect(),
        addresses: Vec::new(),
    };
    assert_eq!(
        sign(&long(33)).unwrap_err().code(),
        "CertificateNameInvalidError"
    );
    let most = sign(&long(30)).unwrap();
    world.trust().verify(&most.chain, NOW).unwrap();
}

#[test]
fn a_request_proves_its_key_and_says_nothing_else() {
    let world = World::new();
    let csr = world.node_key.request().unwrap();
    let node = Holder::Node(world.node.clone());
    let sign = |csr: &[u8]| {
        let (profile, names) = (CertificateProfile::Node, Names::default());
        world
            .issuer
            .sign(csr, profile, &node, &names, LEAF_LIFETIME, NOW)
    };
    for place in 0..csr.len() * 8 {
        let mut broken = csr.clone();
        broken[place / 8] ^= 1 << (place % 8);
        let refused = sign(&broken).err().map(|error| error.code());
        assert_eq!(
            refused,
            Some("SigningRequestInvalidError"),
            "bit {place} may be changed"
        );
    }
    let trailing = [csr.clone(), vec![0]].concat();
    for bad in [&[][..], &[0x30, 0x80], &trailing, &[0x30; 5000]] {
        assert_eq!(sign(bad).unwrap_err().code(), "SigningRequestInvalidError");
    }
    let mut greedy = rcgen::CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    greedy.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let greedy = greedy.serialize_request(&world.node_key).unwrap();
    let leaf = sign(greedy.der()).unwrap();
    let read = Certificate::read(&leaf.der).unwrap();
    assert!(!read.is_authority());
    assert_eq!(read.names(), &Names::default());
}

#[test]
fn serial_numbers_are_positive_of_full_length_and_do_not_repeat() {
    let world = World::new();
    let serials: std::collections::BTreeSet<_> =
        (0..64).map(|_| world.node_leaf().serial).collect();
    assert_eq!(serials.len(), 64);
    for serial in serials {
        assert_eq!(serial.len(), 32);
        assert!(
            ('4'..='7').contains(&serial.chars().next().unwrap()),
            "{serial}"
        );
    }
}

#[test]
fn parts_that_do_not_belong_together_are_no_issuer() {
    let (world, other) = (World::new(), World::new());
    let key = || IntermediateKey::from_pkcs8(&world.issuer_key).unwrap();
    let intermediate = world.issuer.intermediate().der();
    let unusable = |result: Result<Issuer, IssueError>| {
        assert_eq!(result.unwrap_err().code(), "IssuerUnusableError");
    };
    unusable(Issuer::new(
        key(),
        other.issuer.intermediate().der(),
        Vec::new(),
    ));
    unusable(Issuer::new(key(), &world.root_der(), Vec::new()));
    unusable(Issuer::new(key(), &world.node_leaf().der, Vec::new()));
    unusable(Issuer::new(key(), &[], Vec::new()));
    unusable(Issuer::new(key(), intermediate, vec![other.root_der()]));
    unusable(Issuer::new(key(), intermediate, vec![world.root_der(); 3]));
    let root_key = || RootKey::from_pkcs8(world.root.key().pkcs8()).unwrap();
    Root::open(root_key(), &world.root_der()).unwrap();
    for der in [other.root_der(), intermediate.to_vec(), Vec::new()] {
        let error = Root::open(root_key(), &der).unwrap_err();
        assert_eq!(error.code(), "IssuerUnusableError");
    }
}

#[test]
fn an_authoritys_key_is_ed25519() {
    let curve = p256();
    assert_eq!(
        RootKey::from_pkcs8(curve.pkcs8()).unwrap_err().code(),
        "PrivateKeyAlgorithmError"
    );
    let world = World::new();
    let result = world
        .root
        .sign_intermediate(&curve.request().unwrap(), &world.node, NOW);
    assert_eq!(result.unwrap_err().code(), "SigningRequestInvalidError");
    for bytes in [&[][..], &[0x30; 48], &[0; 600]] {
        assert_eq!(
            PrivateKey::from_pkcs8(bytes).unwrap_err().code(),
            "PrivateKeyMalformedError"
        );
    }
}

#[test]
fn an_intermediate_lives_a_week_at_most() {
    let world = World::new();
    let csr = IntermediateKey::generate().unwrap().request().unwrap();
    let lives = |lifetime| {
        let signed = world
            .root
            .sign_intermediate_for(&csr, &world.node, lifetime, NOW)
            .unwrap();
        signed.validity.not_after
    };
    assert_eq!(lives(MINUTE), after(NOW, MINUTE));
    assert_eq!(lives(70 * DAY), after(NOW, 7 * DAY));
}

#[test]
fn renewal_is_due_at_two_thirds_give_or_take_a_twentieth_of_the_lifetime() {
    let begin = NOW;
    let end = after(NOW, DAY);
    let length = end.0 - begin.0;
    let shares: Vec<f64> = (0..1000)
        .map(|n| {
            let at = renew_at(begin, end, &format!("{n:032x}"));
            f64::from(u32::try_from(at.0 - begin.0).unwrap())
                / f64::from(u32::try_from(length).unwrap())
        })
        .collect();
    let lowest = shares.iter().copied().fold(1.0, f64::min);
    let highest = shares.iter().copied().fold(0.0, f64::max);
    assert!((0.616..0.625).contains(&lowest), "{lowest}");
    assert!((0.708..0.717).contains(&highest), "{highest}");
    assert_eq!(renew_at(begin, end, "ab"), renew_at(begin, end, "ab"));
    assert_eq!(renew_at(end, begin, "ab"), begin.min(end));
    let forever = renew_at(WallMs(0), WallMs(u64::MAX), "ab");
    assert!(forever > WallMs(u64::MAX / 2));
}

#[test]
fn a_node_id_is_what_libp2p_makes_of_the_key() {
    // RFC 8032's first test key; the id follows from libp2p's peer-ids specification by hand.
    let key = [
        0xd7, 0x5a, 0x98, 0x01, 0x82, 0xb1, 0x0a, 0xb7, 0xd5, 0x4b, 0xfe, 0xd3, 0xc9, 0x64, 0x07,
        0x3a, 0x0e, 0xe1, 0x72, 0xf3, 0xda, 0xa6, 0x23, 0x25, 0xaf, 0x02, 0x1a, 0x68, 0xf7, 0x07,
        0x51, 0x1a,
    ];
    assert_eq!(
        node_id_of(&key).as_str(),
        "12D3KooWQK1wnefoLrcVHbbnf5tLzbopUd3K3bFAoJpA7YJgL5pV"
    );
}

#[test]
fn a_nodes_seed_in_pkcs8_is_that_nodes_key() {
    // RFC 8032's first test key again, behind the header of RFC 8410.
    let header = "302e020100300506032b657004220420";
    let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    let bytes = |text: &str| -> Vec<u8> {
        let digits = text.as_bytes().chunks(2);
        let digits = digits.map(|pair| std::str::from_utf8(pair).unwrap());
        digits
            .map(|pair| u8::from_str_radix(pair, 16).unwrap())
            .collect()
    };
    let key = PrivateKey::from_pkcs8(&[bytes(header), bytes(seed)].concat()).unwrap();
    assert_eq!(
        id_of(&key).as_str(),
        "12D3KooWQK1wnefoLrcVHbbnf5tLzbopUd3K3bFAoJpA7YJgL5pV"
    );
    let generated = ed25519();
    assert_eq!(&generated.pkcs8()[..16], bytes(header));
    assert_eq!(generated.pkcs8().len(), 48);
}

#[test]
fn private_keys_are_not_shown() {
    let world = World::new();
    let shown = format!("{:?} {:?} {:?}", world.root, world.root.key(), world.issuer);
    let seed = &world.issuer_key[16..48];
    let text: Vec<_> = seed.iter().map(|byte| byte.to_string()).collect();
    assert!(!shown.contains(&text.join(", ")), "{shown}");
    let seed = &world.root.key().pkcs8()[16..48];
    let text: Vec<_> = seed.iter().map(|byte| byte.to_string()).collect();
    assert!(!shown.contains(&text.join(", ")), "{shown}");
}

#[test]
fn a_chain_survives_pem_and_other_texts_are_refused() {
    let world = World::new();
    let leaf = world.node_leaf();
    let text = certificates_to_pem(leaf.chain.iter().map(Vec::as_slice));
    assert_eq!(certificates_from_pem(&text).unwrap(), leaf.chain);
    let key = key_to_pem(world.node_key.pkcs8());
    assert!(key.starts_with("-----BEGIN PRIVATE KEY-----\n"));
    let bundle = format!("{}{}", key.as_str(), text);
    assert_eq!(certificates_from_pem(&bundle).unwrap(), leaf.chain);
    let codes = |text: &str| certificates_from_pem(text).unwrap_err().code();
    assert_eq!(codes(""), "PemEmptyError");
    assert_eq!(codes(&key), "PemEmptyError");
    assert_eq!(codes(&text[..text.len() - 40]), "PemMalformedError");
    assert_eq!(codes(&text.repeat(9)), "PemTooManyError");
}

#[test]
fn words_say_the_fingerprint() {
    assert_eq!(words(&[0; 32]).split(' ').count(), 12);
    let world = World::new();
    let print = world.root.certificate().fingerprint();
    assert_eq!(print, fingerprint(&world.root_der()));
    assert_ne!(words(&print), words(&[1; 32]));
}

#[test]
fn what_an_authority_says_of_itself_can_be_read() {
    let world = World::new();
    let root = world.root.certificate();
    assert_eq!((root.mesh(), root.unit()), (Some(MESH), "root"));
    assert!(root.is_authority() && root.is_signed_by(root) && root.profile().is_none());
    let (issuer, _) = issuer_under(&world.root, &id_of(&ed25519()), Vec::new(), NOW);
    let intermediate = issuer.intermediate();
    assert_eq!(intermediate.unit(), "intermediate");
    assert!(intermediate.is_signed_by(root) && !root.is_signed_by(intermediate));
    assert_eq!(intermediate.public_key().algorithm(), KeyAlgorithm::Ed25519);
}
