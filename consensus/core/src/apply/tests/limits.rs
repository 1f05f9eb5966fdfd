//! Everything that enters the state has a limit, and what exceeds it is refused as too large.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::world::*;
use crate::{
    Agreed, CertificateProfile as Profile, Command, DockerPhase, Enrolment, Holder, NewRoot,
    NodeState, OperatorRole, Refusal, Role, State, TokenId, WallMs, limits::*, wire::v1,
};

/// A limit, the refusal's words for it, and a command that exceeds it by one in a world prepared
/// for it.
type Row = (&'static str, usize, Command);

#[test]
fn what_is_larger_than_its_limit_is_refused_with_that_limit() {
    let world = prepared();
    let table = [
        enrolment_rows(),
        count_rows(),
        authority_rows(),
        text_rows(),
    ]
    .concat();
    assert_eq!(table.len(), 25);
    for (what, limit, command) in table {
        let limit = limit as u64;
        let expected = Refusal::TooLarge {
            what: what.into(),
            limit,
        };
        assert_eq!(world.clone().refused(1, command), expected, "{what}");
    }
}

#[test]
fn what_is_exactly_at_its_limit_is_accepted() {
    let mut world = World::of(1, 1);
    let token = world.token(Role::Agent, true);
    let full = Enrolment {
        name: "n".repeat(NAME_BYTES_MAX),
        labels: numbered(LABELS_MAX),
        metadata: numbered(METADATA_MAX),
        addresses: vec!["192.0.2.1:1".parse().unwrap(); ADDRESSES_MAX],
        sealing_recipient: recipient_of(RECIPIENT_CHARS_MAX),
        ..enrolment(2)
    };
    world.ok(1, admit_as(full, token, &"a".repeat(SERIAL_CHARS_MAX)));
    let mut big = intermediate_under(0, "cb", START);
    big.certificate = vec![0x30; CERTIFICATE_BYTES_MAX];
    world.ok(1, Command::RecordIntermediate(big));
    let mut key = sealed(world.state.sealing_recipients());
    key.age = vec![1; SEALED_KEY_BYTES_MAX];
    let seal = Command::SealRootKey {
        root: fingerprint(0),
        key,
    };
    world.ok(1, seal);
}

#[test]
fn ended_certificates_make_room_for_new_ones() {
    let mut world = prepared();
    let holder = Holder::Node(id(2));
    let client = |now| {
        let leaf = leaf(
            &ca_serial(1),
            "ff",
            holder.clone(),
            Profile::DockerClient,
            now,
        );
        Command::RecordCertificate(leaf)
    };
    assert_eq!(world.refused(1, client(world.now)).code(), "TooLargeError");
    world.now = WallMs(START.0 + 2 * DAY_MS + 1);
    world.ok(1, client(world.now));
}

#[test]
fn the_largest_command_that_the_limits_allow_fits_an_envelope() {
    let mut world = World::founded();
    let address = "[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
    let text = |chars: usize, n: usize| format!("{n:0>chars$}");
    let labels = (0..LABELS_MAX).map(|n| (text(TEXT_BYTES_MAX / 2, n), text(TEXT_BYTES_MAX, n)));
    let facts = METADATA_BYTES_MAX / METADATA_MAX / 2;
    let metadata = (0..METADATA_MAX).map(|n| (text(facts, n), text(facts, n)));
    let full = Enrolment {
        name: "n".repeat(NAME_BYTES_MAX),
        labels: labels.collect(),
        metadata: metadata.collect(),
        addresses: vec![address.parse().unwrap(); ADDRESSES_MAX],
        sealing_recipient: recipient_of(RECIPIENT_CHARS_MAX),
        ..enrolment(2)
    };
    let token = world.token(Role::Agent, false);
    let admit = admit_as(full, token, "a2");
    let envelope = world.envelope(1, admit.clone());
    let bytes = v1::encode(&envelope).len();
    assert!(bytes <= v1::ENVELOPE_BYTES_MAX, "{bytes} bytes");
    world.ok(1, admit);
}

/// A world with as many of everything as there may be, node 1 its only server.
fn prepared() -> World {
    let mut world = World::of(1, 2);
    world.ok(1, Command::AssignModule(docker_on(1)));
    for n in 0..SELECTORS_MAX {
        let selector = docker_where(&[("n", &n.to_string())]);
        world.ok(1, Command::AssignModule(selector));
    }
    let State { agreed, tokens, .. } = &mut world.state;
    let agreed = Arc::make_mut(agreed);
    let token = crate::Token {
        secret_hash: secret(),
        role: Role::Agent,
        expires_at: WallMs(u64::MAX),
        reusable: true,
        used_by: None,
    };
    *tokens = (0..1000_u128)
        .map(|n| (TokenId::from_bytes(n.to_be_bytes()), token.clone()))
        .collect();
    assert_eq!(tokens.len(), TOKENS_MAX);
    let operator = crate::Operator {
        role: OperatorRole::Viewer,
        created_at: START,
        created_by: name(1),
    };
    agreed.operators = names(OPERATORS_MAX, &operator);
    agreed.external_docker_hosts = names(EXTERNAL_HOSTS_MAX, &"tcp://h:1".to_owned());
    fill_certificates(agreed);
    world
}

/// Node 2 has as many leaves as it may, and server 1 as many intermediates.
fn fill_certificates(agreed: &mut Agreed) {
    for n in 0..CERTIFICATES_PER_HOLDER_MAX - 1 {
        let serial = format!("f{n:03x}");
        let holder = Holder::Node(id(2));
        let leaf = leaf(&ca_serial(1), &serial, holder, Profile::DockerClient, START);
        agreed.certificates.insert(serial, leaf.record);
    }
    let rows = &mut agreed.authority.intermediates;
    let own = rows[&ca_serial(1)].clone();
    for n in 1..INTERMEDIATES_PER_SERVER_MAX {
        rows.insert(format!("cb{n:02x}"), own.clone());
    }
}

fn names<T: Clone>(count: usize, value: &T) -> BTreeMap<String, T> {
    let names = (0..count).map(|n| (format!("x{n}"), value.clone()));
    names.collect()
}

#[test]
fn labels_are_counted_as_they_will_be_and_what_is_unset_wins() {
    let mut world = World::of(1, 2);
    let relabel = |set: BTreeMap<String, String>, unset: &[&str]| Command::LabelNode {
        node: name(2),
        set,
        unset: unset.iter().map(|key| (*key).to_owned()).collect(),
        reachable: BTreeSet::new(),
        consent: false,
    };
    let full = numbered(LABELS_MAX);
    world.ok(1, relabel(full.clone(), &[]));
    let first = full.keys().next().unwrap().as_str();
    // One more is refused; one in the place of another, or a present one anew, is not.
    let one_more = labels(&[("one-more", "v")]);
    world.refused(1, relabel(one_more.clone(), &[]));
    world.refused(1, relabel(one_more.clone(), &["absent", "absent"]));
    world.ok(1, relabel(labels(&[(first, "anew")]), &[]));
    assert_eq!(world.agreed().nodes[&id(2)].labels[first], "anew");
    world.ok(1, relabel(one_more, &[first, first]));
    let mut expected = full.clone();
    expected.remove(first);
    expected.insert("one-more".into(), "v".into());
    assert_eq!(world.agreed().nodes[&id(2)].labels, expected);
    // What is set and unset at once is neither checked nor counted nor set.
    world.ok(1, relabel(labels(&[("not a key", "a=b")]), &["not a key"]));
    assert_eq!(world.agreed().nodes[&id(2)].labels, expected);
}

fn numbered(count: usize) -> BTreeMap<String, String> {
    names(count, &"v".to_owned())
}

fn recipient_of(chars: usize) -> String {
    format!("age1{}", "q".repeat(chars - 4))
}

fn joining(change: impl Fn(&mut Enrolment)) -> Command {
    let mut joiner = enrolment(3);
    change(&mut joiner);
    admit_as(joiner, TokenId::from_bytes([0; 16]), "a3")
}

fn enrolment_rows() -> Vec<Row> {
    let many = vec!["192.0.2.1:1".parse().unwrap(); ADDRESSES_MAX + 1];
    let report = Command::ReportNode {
        state: NodeState::Running,
        addresses: many.clone(),
    };
    let long = "v".repeat(METADATA_BYTES_MAX);
    let recipient = recipient_of(RECIPIENT_CHARS_MAX + 1);
    let (facts, metadata) = ("the number of facts in metadata", "node metadata");
    let (marks, addresses) = ("the number of labels", "the number of addresses");
    let labels_left = numbered(LABELS_MAX + 1);
    let relabel = Command::LabelNode {
        node: name(2),
        set: labels_left.clone(),
        unset: vec![],
        reachable: BTreeSet::new(),
        consent: false,
    };
    let selector = Command::AssignModule(crate::Assignment {
        module: crate::Module::DockerEngine,
        target: crate::Target::Selector(labels_left.clone()),
    });
    vec![
        (
            facts,
            METADATA_MAX,
            joining(|joiner| joiner.metadata = numbered(METADATA_MAX + 1)),
        ),
        (
            metadata,
            METADATA_BYTES_MAX,
            joining(|joiner| joiner.metadata = labels(&[("k", &long)])),
        ),
        (
            marks,
            LABELS_MAX,
            joining(|joiner| joiner.labels = labels_left.clone()),
        ),
        (marks, LABELS_MAX, relabel),
        (marks, LABELS_MAX, selector),
        (
            addresses,
            ADDRESSES_MAX,
            joining(|joiner| joiner.addresses = many.clone()),
        ),
        (addresses, ADDRESSES_MAX, report),
        (
            "a sealing recipient",
            RECIPIENT_CHARS_MAX,
            joining(|joiner| joiner.sealing_recipient = recipient.clone()),
        ),
    ]
}

fn count_rows() -> Vec<Row> {
    let token = create_token(
        TokenId::from_bytes([0xee; 16]),
        Role::Agent,
        WallMs(u64::MAX),
        false,
    );
    let selector = Command::AssignModule(docker_where(&[("n", "one more")]));
    let record = Command::RecordCertificate(certificate("ff", 2, START));
    let intermediate = Command::RecordIntermediate(intermediate_under(0, "ce", START));
    vec![
        ("the number of tokens", TOKENS_MAX, token),
        (
            "the number of operators",
            OPERATORS_MAX,
            create_operator("ann", OperatorRole::Viewer),
        ),
        (
            "the number of external hosts",
            EXTERNAL_HOSTS_MAX,
            register("attic"),
        ),
        ("the number of selectors", SELECTORS_MAX, selector),
        (
            "the number of certificates of one holder",
            CERTIFICATES_PER_HOLDER_MAX,
            record,
        ),
        (
            "the number of a server's intermediates",
            INTERMEDIATES_PER_SERVER_MAX,
            intermediate,
        ),
    ]
}

fn authority_rows() -> Vec<Row> {
    let der = vec![0x30; CERTIFICATE_BYTES_MAX + 1];
    let mut intermediate = intermediate_under(0, "ce", START);
    intermediate.certificate = der.clone();
    let mut key = sealed([recipient(1), recovery()].into());
    key.age = vec![0; SEALED_KEY_BYTES_MAX + 1];
    let begin = |root: NewRoot, key: &crate::SealedKey, reason: &str| Command::BeginRotation {
        root,
        key: key.clone(),
        reason: reason.into(),
    };
    let crossed = || NewRoot {
        cross: Some(vec![0x30]),
        ..root(1)
    };
    let good = sealed([recipient(1), recovery()].into());
    let big_root = NewRoot {
        certificate: der.clone(),
        ..crossed()
    };
    let big_cross = NewRoot {
        cross: Some(der),
        ..crossed()
    };
    let seal = Command::SealRootKey {
        root: fingerprint(0),
        key: key.clone(),
    };
    let long = "r".repeat(TEXT_BYTES_MAX + 1);
    let abort = Command::AbortRotation {
        reason: long.clone(),
    };
    let revoke = Command::RevokeCertificates {
        which: crate::Revocation::Serial("a2".into()),
        reason: long.clone(),
    };
    let (sealed_key, reason) = ("a sealed root key", "a reason");
    let record = Command::RecordIntermediate(intermediate);
    vec![
        ("an intermediate", CERTIFICATE_BYTES_MAX, record),
        (
            "a root certificate",
            CERTIFICATE_BYTES_MAX,
            begin(big_root, &good, ""),
        ),
        (
            "a cross certificate",
            CERTIFICATE_BYTES_MAX,
            begin(big_cross, &good, ""),
        ),
        (sealed_key, SEALED_KEY_BYTES_MAX, seal),
        (sealed_key, SEALED_KEY_BYTES_MAX, begin(crossed(), &key, "")),
        (reason, TEXT_BYTES_MAX, begin(crossed(), &good, &long)),
        (reason, TEXT_BYTES_MAX, abort),
        (reason, TEXT_BYTES_MAX, revoke),
    ]
}

/// Node 1 reports for its own Docker host, and signs for it.
fn text_rows() -> Vec<Row> {
    let report = |phase| Command::ReportDocker {
        phase,
        listen: None,
    };
    let long = "x".repeat(REASON_BYTES_MAX + 1);
    let csr = vec![0; CSR_BYTES_MAX + 1];
    let version = "1".repeat(TEXT_BYTES_MAX + 1);
    vec![
        (
            "a signing request",
            CSR_BYTES_MAX,
            report(DockerPhase::WantsCert { csr }),
        ),
        (
            "a version",
            TEXT_BYTES_MAX,
            report(DockerPhase::Ready { version }),
        ),
        ("a reason", REASON_BYTES_MAX, report(failed(&long, START))),
    ]
}

#[test]
fn a_mesh_has_room_for_ten_thousand_nodes_and_two_hundred_thousand_certificates() {
    let mut world = World::of(1, 1);
    let token = world.token(Role::Agent, true);
    let agreed = Arc::make_mut(&mut world.state.agreed);
    let node = agreed.nodes[&id(1)].clone();
    for n in 1..u32::try_from(NODES_MAX).unwrap() {
        let node = crate::Node {
            name: format!("m{n}"),
            role: Role::Agent,
            raft_id: None,
            ..node.clone()
        };
        agreed.nodes.insert(id(100_000 + n), node);
    }
    let refused = |world: &mut World, what: &str, limit: usize| {
        let expected = Refusal::TooLarge {
            what: what.into(),
            limit: limit as u64,
        };
        assert_eq!(world.refused(1, admit(2, token)), expected);
    };
    refused(&mut world, "the number of nodes", NODES_MAX);
    world.ok(1, remove_by_id(100_001));
    let agreed = Arc::make_mut(&mut world.state.agreed);
    let record = certificate("a9", 1, START).record;
    for n in agreed.certificates.len()..CERTIFICATES_MAX {
        let serial = format!("f{n:06x}");
        agreed.certificates.insert(serial, record.clone());
    }
    refused(&mut world, "the number of certificates", CERTIFICATES_MAX);
}

fn remove_by_id(n: u32) -> Command {
    Command::RemoveNode {
        node: id(n).to_string(),
        reason: String::new(),
        compromised: false,
        reachable: everybody(),
        force: false,
    }
}

#[test]
fn an_oversized_leaf_for_dockerd_is_refused() {
    let mut world = World::of(1, 2);
    world.ok(1, Command::AssignModule(docker_on(2)));
    world.report(2, wants_cert(1));
    let Command::DockerCertSigned {
        node,
        mut certificate,
    } = signed(2, 1, "d1")
    else {
        unreachable!()
    };
    certificate.leaf = vec![0x30; CERTIFICATE_BYTES_MAX + 1];
    let command = Command::DockerCertSigned { node, certificate };
    let expected = Refusal::TooLarge {
        what: "a certificate".into(),
        limit: CERTIFICATE_BYTES_MAX as u64,
    };
    assert_eq!(world.refused(1, command), expected);
}
