//! Other verifiers read our chains as we do; and we believe nothing that they do not.

use std::{fs, path::Path, process::Command, sync::Arc};

use consensus_authority::{
    CertificateProfile, Holder, LEAF_LIFETIME, Leaf, Names, Root, certificates_to_pem, key_to_pem,
};
use consensus_core::WallMs;
use proptest::prelude::*;
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::WebPkiClientVerifier,
};

use crate::world::{
    DAY, Forgery, MESH, NOW, World, after, before, ed25519, issuer_under, p256, trust,
};

const PROFILES: [CertificateProfile; 5] = CertificateProfile::ALL;

fn leaf(world: &World, profile: CertificateProfile) -> Leaf {
    let (key, holder) = match profile {
        CertificateProfile::Node => (None, Holder::Node(world.node.clone())),
        CertificateProfile::DockerServer | CertificateProfile::DockerClient => {
            (Some(ed25519()), Holder::Node(world.node.clone()))
        }
        CertificateProfile::Browser => (Some(p256()), Holder::Node(world.node.clone())),
        CertificateProfile::Operator => (Some(p256()), Holder::Operator("anna".into())),
    };
    let names = Names {
        dns: vec!["n1.example".into()],
        addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
    };
    let csr = key.as_ref().unwrap_or(&world.node_key).request().unwrap();
    world
        .issuer
        .sign(&csr, profile, &holder, &names, LEAF_LIFETIME, NOW)
        .unwrap()
}

/// Whether rustls-webpki believes a chain, as a client's or as a server's.
struct WebPki {
    roots: Arc<RootCertStore>,
}

impl WebPki {
    fn new(roots: &[Vec<u8>]) -> Self {
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root.clone().into()).unwrap();
        }
        let roots = Arc::new(store);
        Self { roots }
    }

    fn unix(now: WallMs) -> UnixTime {
        UnixTime::since_unix_epoch(std::time::Duration::from_millis(now.0))
    }

    fn split(chain: &[Vec<u8>]) -> (CertificateDer<'static>, Vec<CertificateDer<'static>>) {
        let mut chain = chain.iter().map(|der| CertificateDer::from(der.clone()));
        (chain.next().unwrap(), chain.collect())
    }

    fn client(&self, chain: &[Vec<u8>], now: WallMs) -> bool {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider)
            .build()
            .unwrap();
        let (leaf, rest) = Self::split(chain);
        verifier
            .verify_client_cert(&leaf, &rest, Self::unix(now))
            .is_ok()
    }

    fn server(&self, chain: &[Vec<u8>], name: &'static str, now: WallMs) -> bool {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(self.roots.clone(), provider)
            .build()
            .unwrap();
        let (leaf, rest) = Self::split(chain);
        let name = ServerName::try_from(name).unwrap();
        verifier
            .verify_server_cert(&leaf, &rest, &name, &[], Self::unix(now))
            .is_ok()
    }
}

#[test]
fn webpki_believes_our_chains_for_what_they_are_for() {
    let world = World::new();
    let webpki = WebPki::new(&[world.root_der()]);
    for profile in PROFILES {
        let chain = leaf(&world, profile).chain;
        let (server, client) = match profile {
            CertificateProfile::Node => (true, true),
            CertificateProfile::DockerServer | CertificateProfile::Browser => (true, false),
            CertificateProfile::DockerClient | CertificateProfile::Operator => (false, true),
        };
        assert_eq!(webpki.client(&chain, NOW), client, "{profile:?}");
        for name in ["n1.example", "10.0.0.1", "fd00::1"] {
            assert_eq!(
                webpki.server(&chain, name, NOW),
                server,
                "{profile:?} {name}"
            );
        }
        assert!(!webpki.server(&chain, "10.0.0.2", NOW));
        assert!(!webpki.client(&chain, after(NOW, 2 * DAY)));
    }
}

#[test]
fn webpki_follows_our_cross_certificates() {
    let world = World::new();
    let new = Root::generate(MESH, NOW).unwrap();
    let cross = world.root.cross_sign(new.certificate().der(), NOW).unwrap();
    let (issuer, key) = issuer_under(&new, &world.node, vec![cross.clone()], NOW);
    let leaf = Forgery::node(&world.node).sign(&world.node_key, issuer.intermediate().der(), &key);
    let chain = vec![leaf, issuer.intermediate().der().to_vec(), cross];
    let (old, new) = (world.root_der(), new.certificate().der().to_vec());
    for roots in [vec![old.clone()], vec![new.clone()], vec![old, new]] {
        assert!(WebPki::new(&roots).client(&chain, NOW));
    }
}

/// Certificates of two roots of one mesh, the cross certificate between them, and a stranger's.
fn pool() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let old = World::new();
    let new = World::under(Root::generate(MESH, NOW).unwrap());
    let stranger = World::new();
    let new_root = new.root_der();
    let cross = old.root.cross_sign(&new_root, NOW).unwrap();
    let mut pool = vec![cross];
    for world in [&old, &new, &stranger] {
        pool.push(world.node_leaf().der);
        pool.push(world.issuer.intermediate().der().to_vec());
        pool.push(world.root_der());
    }
    let mut forgery = Forgery::intermediate(&old.node);
    forgery.authority = Some(rcgen::BasicConstraints::Unconstrained);
    let deep_key = ed25519();
    let deep = old.forge(&forgery, &deep_key);
    pool.push(Forgery::node(&old.node).sign(&old.node_key, &deep, deep_key.pkcs8()));
    pool.push(deep);
    (pool, vec![old.root_der(), new_root])
}

#[test]
fn any_chain_of_three_that_we_believe_webpki_believes() {
    let (pool, roots) = pool();
    let mut believed = 0;
    for roots in [&roots[..1], &roots[1..], &roots[..]] {
        let (ours, webpki) = (trust(roots, &[]), WebPki::new(roots));
        for first in &pool {
            for second in &pool {
                for third in &pool {
                    let chain = [first.clone(), second.clone(), third.clone()];
                    if ours.verify(&chain, NOW).is_ok() {
                        believed += 1;
                        assert!(webpki.client(&chain, NOW));
                    }
                }
            }
        }
    }
    // Each honest pair with anything behind it: one pair under the old root alone, and one triple
    // with the cross certificate; one pair under the new; two under both.
    assert_eq!(believed, (pool.len() + 1) + pool.len() + 2 * pool.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_we_believe_at_any_time_webpki_believes(
        picks in proptest::collection::vec(any::<proptest::sample::Index>(), 1..5),
        hours in -24_i64..240,
    ) {
        let (pool, roots) = pool();
        let hour = 3_600_000;
        let now = WallMs(u64::try_from(i64::try_from(NOW.0).unwrap() + hours * hour).unwrap());
        let chain: Vec<_> = picks.iter().map(|pick| pick.get(&pool).clone()).collect();
        if trust(&roots, &[]).verify(&chain, now).is_ok() {
            prop_assert!(WebPki::new(&roots).client(&chain, now));
        }
    }
}

fn openssl(dir: &Path, arguments: &[&str]) -> (bool, String) {
    let output = Command::new("openssl")
        .args(arguments)
        .current_dir(dir)
        .output()
        .expect("openssl is part of the machine that runs these tests (apt-get install openssl)");
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[test]
fn openssl_verifies_our_chains_for_their_purpose_and_reads_our_keys() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write(
        "root.pem",
        &certificates_to_pem([world.root_der().as_slice()]),
    );
    write("key.pem", &key_to_pem(world.node_key.pkcs8()));
    write("curve.pem", &key_to_pem(p256().pkcs8()));
    for key in ["key.pem", "curve.pem"] {
        let (read, said) = openssl(dir.path(), &["pkey", "-in", key, "-noout"]);
        assert!(read, "{said}");
    }
    let seconds = |at: WallMs| (at.0 / 1000).to_string();
    for profile in PROFILES {
        let chain = leaf(&world, profile).chain;
        write("leaf.pem", &certificates_to_pem([chain[0].as_slice()]));
        write("rest.pem", &certificates_to_pem([chain[1].as_slice()]));
        let verify = |at: WallMs, purpose: &str| {
            let at = seconds(at);
            let arguments = [
                "verify",
                "-x509_strict",
                "-CAfile",
                "root.pem",
                "-untrusted",
                "rest.pem",
                "-attime",
                &at,
                "-purpose",
                purpose,
                "leaf.pem",
            ];
            openssl(dir.path(), &arguments)
        };
        let (server, client) = match profile {
            CertificateProfile::Node => (true, true),
            CertificateProfile::DockerServer | CertificateProfile::Browser => (true, false),
            CertificateProfile::DockerClient | CertificateProfile::Operator => (false, true),
        };
        for (purpose, expected) in [("sslserver", server), ("sslclient", client)] {
            let (verified, said) = verify(NOW, purpose);
            assert_eq!(verified, expected, "{profile:?} as {purpose}: {said}");
            let (early, _) = verify(before(NOW, DAY), purpose);
            assert!(!early, "{profile:?} as {purpose} before its time");
        }
    }
}
