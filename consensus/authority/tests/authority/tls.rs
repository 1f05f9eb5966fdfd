//! Whole handshakes, in memory, at a time of the test's choosing.

use std::sync::Arc;

use consensus_authority::{
    CertificateProfile, ClientVerifier, Expected, Holder, LEAF_LIFETIME, Leaf, Names, PrivateKey,
    ServerVerifier, SharedTrust, client_config, refusal_of, server_config,
};
use consensus_core::WallMs;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, Error, HandshakeKind,
    ServerConfig, ServerConnection, SignatureScheme,
    client::ResolvesClientCert,
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{PrivatePkcs8KeyDer, ServerName, UnixTime},
    sign::CertifiedKey,
    time_provider::TimeProvider,
};

use crate::world::{DAY, NOW, World, after, ed25519, id_of, p256, trust};

#[derive(Debug)]
struct Clock(WallMs);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let since = std::time::Duration::from_millis(self.0.0);
        Some(UnixTime::since_unix_epoch(since))
    }
}

/// A leaf with its key.
struct Identity(Leaf, PrivateKey);

fn identity(world: &World, profile: CertificateProfile, key: PrivateKey) -> Identity {
    let holder = match profile {
        CertificateProfile::Operator => Holder::Operator("anna".into()),
        CertificateProfile::Node
        | CertificateProfile::DockerServer
        | CertificateProfile::DockerClient
        | CertificateProfile::Browser => Holder::Node(world.node.clone()),
    };
    let names = Names {
        dns: vec!["n1.example".into()],
        addresses: vec!["10.0.0.1".parse().unwrap()],
    };
    let csr = key.request().unwrap();
    let leaf = world
        .issuer
        .sign(&csr, profile, &holder, &names, LEAF_LIFETIME, NOW)
        .unwrap();
    Identity(leaf, key)
}

struct Ends {
    world: World,
    trust: SharedTrust,
    server: Identity,
    client: Identity,
    expected: Expected,
    dialled: &'static str,
    now: WallMs,
}

impl Ends {
    /// A node's API and an operator.
    fn new() -> Self {
        let world = World::new();
        let node_key = PrivateKey::from_pkcs8(world.node_key.pkcs8()).unwrap();
        Self {
            trust: SharedTrust::new(world.trust()),
            server: identity(&world, CertificateProfile::Node, node_key),
            client: identity(&world, CertificateProfile::Operator, ed25519()),
            expected: Expected::Node(world.node.clone()),
            dialled: "10.0.0.1",
            now: NOW,
            world,
        }
    }

    fn server_config(&self) -> ServerConfig {
        let Identity(leaf, key) = &self.server;
        let clients = ClientVerifier::new(self.trust.clone(), &[CertificateProfile::Operator]);
        server_config(&leaf.chain, key, clients, Arc::new(Clock(self.now))).unwrap()
    }

    fn client_config(&self) -> ClientConfig {
        let Identity(leaf, key) = &self.client;
        let profiles = [
            CertificateProfile::Node,
            CertificateProfile::Browser,
            CertificateProfile::DockerServer,
        ];
        let servers = ServerVerifier::new(self.trust.clone(), &profiles, self.expected.clone());
        let clock = Arc::new(Clock(self.now));
        client_config(Some((&leaf.chain, key)), servers, clock).unwrap()
    }

    fn shake(&self) -> Result<(ClientConnection, ServerConnection), Failure> {
        let name = ServerName::try_from(self.dialled).unwrap();
        shake(self.client_config(), self.server_config(), name)
    }

    /// Why the client hung up.
    fn client_error(&self) -> Error {
        match self.shake() {
            Err(Failure::Client(error)) => error,
            Err(Failure::Server(error)) => panic!("the server hung up: {error}"),
            Ok(_) => panic!("the handshake succeeded"),
        }
    }

    /// Why the server hung up, and the alert that told the client.
    fn server_error(&self) -> Error {
        match self.shake() {
            Err(Failure::Server(error)) => error,
            Err(Failure::Client(error)) => panic!("the client hung up: {error}"),
            Ok(_) => panic!("the handshake succeeded"),
        }
    }
}

#[derive(Debug)]
enum Failure {
    Client(Error),
    Server(Error),
}

fn shake(
    client: ClientConfig,
    server: ServerConfig,
    name: ServerName<'static>,
) -> Result<(ClientConnection, ServerConnection), Failure> {
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    // A TLS 1.3 handshake takes three flights; one more shows that it is over.
    for _ in 0..4 {
        let mut flight = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut flight).unwrap();
        }
        feed(&flight, |bytes| server.read_tls(bytes));
        server.process_new_packets().map_err(Failure::Server)?;
        let mut flight = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut flight).unwrap();
        }
        feed(&flight, |bytes| client.read_tls(bytes));
        client.process_new_packets().map_err(Failure::Client)?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

fn feed(flight: &[u8], mut read: impl FnMut(&mut &[u8]) -> std::io::Result<usize>) {
    let mut rest = flight;
    while !rest.is_empty() {
        read(&mut rest).unwrap();
    }
}

#[test]
fn an_operator_and_a_node_believe_each_other() {
    let ends = Ends::new();
    let (client, server) = ends.shake().unwrap();
    let shown: Vec<_> = server
        .peer_certificates()
        .unwrap()
        .iter()
        .map(|der| der.to_vec())
        .collect();
    let verified = ends.trust.current().verify(&shown, NOW).unwrap();
    assert_eq!(verified.holder, Holder::Operator("anna".into()));
    assert_eq!(client.peer_certificates().unwrap().len(), 2);
}

#[test]
fn p256_leaves_shake_hands_too() {
    let mut ends = Ends::new();
    ends.server = identity(&ends.world, CertificateProfile::Browser, p256());
    ends.client = identity(&ends.world, CertificateProfile::Operator, p256());
    ends.shake().unwrap();
}

#[test]
fn a_client_of_another_profile_is_refused() {
    let mut ends = Ends::new();
    for profile in [CertificateProfile::Node, CertificateProfile::DockerClient] {
        let key = PrivateKey::from_pkcs8(ends.world.node_key.pkcs8()).unwrap();
        ends.client = identity(&ends.world, profile, key);
        let error = ends.server_error();
        let refusal = refusal_of(&error).unwrap();
        assert_eq!(refusal.code(), "CertificateWrongProfileError");
    }
}

#[test]
fn a_server_of_another_profile_is_refused() {
    let mut ends = Ends::new();
    ends.server = identity(&ends.world, CertificateProfile::Operator, ed25519());
    let error = ends.client_error();
    assert_eq!(
        refusal_of(&error).unwrap().code(),
        "CertificateWrongProfileError"
    );
}

#[test]
fn the_server_must_be_the_expected_node_or_have_the_dialled_name() {
    let mut ends = Ends::new();
    let other = id_of(&ed25519());
    let node = ends.world.node.clone();
    for (expected, dialled, good) in [
        (Expected::Node(node.clone()), "10.9.9.9", true),
        (Expected::Node(other.clone()), "10.0.0.1", false),
        (Expected::Name, "10.0.0.1", true),
        (Expected::Name, "N1.example", true),
        (Expected::Name, "10.9.9.9", false),
        (Expected::Name, "n2.example", false),
        (Expected::Name, "example", false),
        (Expected::NodeAndName(node.clone()), "n1.example", true),
        (Expected::NodeAndName(node), "n2.example", false),
        (Expected::NodeAndName(other), "n1.example", false),
    ] {
        ends.expected = expected.clone();
        ends.dialled = dialled;
        if good {
            ends.shake().unwrap();
            continue;
        }
        let error = ends.client_error();
        let code = refusal_of(&error).unwrap().code();
        assert_eq!(
            code, "CertificateWrongHolderError",
            "{expected:?} {dialled}"
        );
    }
}

#[test]
fn a_revocation_counts_from_the_next_handshake_of_the_same_configuration() {
    let ends = Ends::new();
    let (client, server) = (
        Arc::new(ends.client_config()),
        Arc::new(ends.server_config()),
    );
    let again = || {
        let name = ServerName::try_from("10.0.0.1").unwrap();
        shake((*client).clone(), (*server).clone(), name)
    };
    let (first, _) = again().unwrap();
    let (second, _) = again().unwrap();
    for connection in [first, second] {
        assert_eq!(connection.handshake_kind(), Some(HandshakeKind::Full));
    }
    let root = ends.world.root_der();
    ends.trust
        .replace(trust(std::slice::from_ref(&root), &[&ends.client.0.serial]));
    let revoked = Error::InvalidCertificate(CertificateError::Revoked);
    assert!(matches!(again(), Err(Failure::Server(error)) if error == revoked));
    ends.trust.replace(trust(&[root], &[&ends.server.0.serial]));
    assert!(matches!(again(), Err(Failure::Client(error)) if error == revoked));
}

#[test]
fn time_and_strangers_have_errors_that_tls_tells_the_other_side() {
    let mut ends = Ends::new();
    ends.now = after(NOW, 2 * DAY);
    let error = ends.client_error();
    assert!(matches!(
        error,
        Error::InvalidCertificate(CertificateError::ExpiredContext { .. })
    ));
    let ends = Ends::new();
    ends.trust.replace(World::new().trust());
    let unknown = Error::InvalidCertificate(CertificateError::UnknownIssuer);
    assert_eq!(ends.client_error(), unknown);
    assert_eq!(
        AlertDescription::from(CertificateError::Revoked),
        AlertDescription::CertificateRevoked
    );
}

#[test]
fn a_client_without_a_certificate_is_let_in_only_where_it_is_optional() {
    let ends = Ends::new();
    let anonymous = || {
        let profiles = [CertificateProfile::Node];
        let servers = ServerVerifier::new(ends.trust.clone(), &profiles, ends.expected.clone());
        client_config(None, servers, Arc::new(Clock(NOW))).unwrap()
    };
    let name = || ServerName::try_from("10.0.0.1").unwrap();
    let refused = shake(anonymous(), ends.server_config(), name());
    assert!(matches!(
        refused,
        Err(Failure::Server(Error::NoCertificatesPresented))
    ));
    let clients = ClientVerifier::new(ends.trust.clone(), &[CertificateProfile::Operator]);
    let Identity(leaf, key) = &ends.server;
    let clock = Arc::new(Clock(NOW));
    let server = server_config(&leaf.chain, key, clients.optional(), clock).unwrap();
    let (_, server) = shake(anonymous(), server, name()).unwrap();
    assert!(server.peer_certificates().is_none());
}

/// Shows a chain and signs with whatever key it was given.
#[derive(Debug)]
struct Impostor(Arc<CertifiedKey>);

impl ResolvesClientCert for Impostor {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[test]
fn a_stolen_chain_without_its_key_is_no_identity() {
    let ends = Ends::new();
    let Identity(leaf, honest) = &ends.client;
    let shake_with = |key: &PrivateKey| {
        let pkcs8 = PrivatePkcs8KeyDer::from(key.pkcs8().to_vec());
        let key = any_supported_type(&pkcs8.into()).unwrap();
        let chain = leaf.chain.iter().map(|der| der.clone().into()).collect();
        let mut config = ends.client_config();
        config.client_auth_cert_resolver =
            Arc::new(Impostor(Arc::new(CertifiedKey::new(chain, key))));
        shake(
            config,
            ends.server_config(),
            ServerName::try_from("10.0.0.1").unwrap(),
        )
    };
    shake_with(honest).unwrap();
    for thief in [ed25519(), p256()] {
        let refused = shake_with(&thief);
        assert!(
            matches!(refused, Err(Failure::Server(Error::InvalidCertificate(_)))),
            "{:?}",
            refused.err()
        );
    }
}
