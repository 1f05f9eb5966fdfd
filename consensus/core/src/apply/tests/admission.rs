//! Tokens, names, and who gets in.

use super::world::*;
use crate::{Command, Done, EventKind, LifecycleClass, NodeState, Refusal, Role, TokenId, WallMs};

#[test]
fn a_founder_is_a_server_with_a_place_in_the_default_network() {
    let world = World::founded();
    let node = &world.agreed().nodes[&id(1)];
    assert_eq!(node.role, Role::Server);
    assert_eq!(node.raft_id, Some(crate::FOUNDER_RAFT_ID));
    assert_eq!(world.peer(1).ipv4, ipv4(0, 1));
    let kinds = [
        EventKind::MeshCreated,
        EventKind::NodeJoined,
        EventKind::PeerAttached,
    ];
    assert_eq!(world.kinds(), kinds);
}

#[test]
fn only_the_founder_itself_founds_a_mesh() {
    let mut world = World::empty();
    assert_eq!(world.refused(2, create_mesh(1)).code(), "NotYoursError");
    assert_eq!(world.agreed().mesh, None);
}

#[test]
fn a_token_gives_its_role_to_one_node() {
    let mut world = World::founded();
    let token = world.token(Role::Server, false);
    assert_eq!(
        world.ok(1, admit(2, token)),
        Done::Admitted { role: Role::Server }
    );
    assert_eq!(
        world.kinds(),
        [EventKind::NodeJoined, EventKind::PeerAttached]
    );
    assert_eq!(
        world.refused(1, admit(3, token)),
        Refusal::TokenUsed { by: "n2".into() }
    );
}

#[test]
fn a_reusable_token_admits_many() {
    let mut world = World::founded();
    let token = world.token(Role::Agent, true);
    for n in 2..6 {
        assert_eq!(
            world.ok(1, admit(n, token)),
            Done::Admitted { role: Role::Agent }
        );
    }
}

#[test]
fn a_token_is_good_until_the_moment_it_ends() {
    let mut world = World::founded();
    let token = world.token(Role::Agent, true);
    let end = WallMs(START.0 + DAY_MS);
    world.now = WallMs(end.0 - 1);
    world.ok(1, admit(2, token));
    world.now = end;
    assert_eq!(
        world.refused(1, admit(3, token)),
        Refusal::TokenExpired { expired_at: end }
    );
}

#[test]
fn a_wrong_secret_and_an_unknown_token_are_told_apart() {
    let mut world = World::founded();
    let token = world.token(Role::Agent, false);
    let Command::AdmitNode {
        token,
        enrolment,
        certificate,
        ..
    } = admit(2, token)
    else {
        unreachable!()
    };
    let guess = Command::AdmitNode {
        token,
        secret_hash: [1; 32],
        enrolment,
        certificate,
    };
    assert_eq!(world.refused(1, guess), Refusal::TokenSecretWrong);
    let unknown = TokenId::from_bytes([0xee; 16]);
    assert_eq!(
        world.refused(1, admit(2, unknown)).code(),
        "BootstrapTokenUnknownError"
    );
}

#[test]
fn a_failed_join_does_not_use_the_token_up() {
    let mut world = World::founded();
    let token = world.token(Role::Agent, false);
    let mut taken = enrolment(2);
    taken.name = name(1);
    let refusal = world.refused(1, admit_as(taken, token, "b2"));
    assert_eq!(refusal.code(), "NodeNameTakenError");
    world.ok(1, admit(2, token));
}

#[test]
fn a_node_that_lost_the_answer_asks_again_and_is_answered_alike() {
    let mut world = World::founded();
    let token = world.token(Role::Server, false);
    let first = world.ok(1, admit(2, token));
    let before = world.agreed().nodes.clone();
    // Its repetition may come after the token's end.
    world.now = WallMs(START.0 + 2 * DAY_MS);
    assert_eq!(world.ok(1, admit_as(enrolment(2), token, "b2")), first);
    assert_eq!(world.kinds(), []);
    assert_eq!(world.agreed().nodes, before);
    assert!(world.agreed().certificates.contains_key("b2"));
}

#[test]
fn a_reusable_tokens_first_user_may_repeat_after_others_used_it() {
    let mut world = World::founded();
    let token = world.token(Role::Agent, true);
    let first = world.ok(1, admit(2, token));
    world.ok(1, admit(3, token));
    assert_eq!(world.ok(1, admit_as(enrolment(2), token, "b2")), first);
}

#[test]
fn a_node_that_is_up_does_not_join_again() {
    let mut world = World::founded();
    let (once, often) = (
        world.token(Role::Agent, false),
        world.token(Role::Agent, true),
    );
    world.ok(1, admit(2, once));
    let up = Command::ReportNode {
        state: NodeState::Bootstrapping,
        addresses: vec![],
    };
    world.ok(2, up);
    assert_eq!(
        world.refused(1, admit(2, once)).code(),
        "BootstrapTokenUsedError"
    );
    assert_eq!(
        world.refused(1, admit(2, often)).code(),
        "NodeEnrolledError"
    );
}

#[test]
fn any_server_admits_with_what_it_signed_itself_and_no_agent_does() {
    let mut world = World::of(2, 3);
    let token = world.token(Role::Agent, true);
    assert_eq!(
        world.refused(3, admit(4, token)),
        Refusal::NotServer { actor: id(3) }
    );
    let refusal = world.refused(2, admit(4, token));
    assert_eq!(refusal.code(), "IntermediateUnusableError");
    let Command::AdmitNode {
        secret_hash,
        enrolment,
        ..
    } = admit(4, token)
    else {
        unreachable!()
    };
    let by_its_own = Command::AdmitNode {
        token,
        secret_hash,
        enrolment,
        certificate: certificate_by(2, "a4", 4, START),
    };
    world.ok(2, by_its_own);
    assert_eq!(world.agreed().certificates["a4"].issuer, ca_serial(2));
}

#[test]
fn a_token_that_was_taken_back_admits_nobody() {
    let mut world = World::founded();
    let token = world.token(Role::Agent, true);
    world.ok(1, admit(2, token));
    world.ok(1, Command::RevokeToken { id: token });
    assert_eq!(world.kinds(), [EventKind::TokenRevoked]);
    assert_eq!(
        world.refused(1, admit(3, token)).code(),
        "BootstrapTokenUnknownError"
    );
    let again = Command::RevokeToken { id: token };
    assert_eq!(world.refused(1, again).code(), "BootstrapTokenUnknownError");
}

#[test]
fn a_token_that_ends_at_once_or_repeats_an_id_is_refused() {
    let mut world = World::founded();
    let fresh = TokenId::from_bytes([8; 16]);
    let ended = create_token(fresh, Role::Agent, START, false);
    assert_eq!(world.refused(1, ended).code(), "InvalidInputError");
    let used = world.token(Role::Agent, false);
    world.ok(1, admit(2, used));
    let again = create_token(used, Role::Agent, WallMs(START.0 + 1), false);
    assert_eq!(world.refused(1, again).code(), "InvalidInputError");
}

#[test]
fn a_token_may_live_for_ever_and_its_successors_are_made_all_the_same() {
    let mut world = World::founded();
    let forever = TokenId::from_bytes([8; 16]);
    world.ok(
        1,
        create_token(forever, Role::Agent, WallMs(u64::MAX), true),
    );
    world.token(Role::Agent, false);
    assert!(world.state.tokens.contains_key(&forever));
}

#[test]
fn live_tokens_are_limited_and_expired_ones_make_room() {
    let mut world = World::founded();
    let tokens: Vec<_> = (0..1000).map(|_| world.token(Role::Agent, false)).collect();
    let one_more = create_token(
        TokenId::from_bytes([0xfe; 16]),
        Role::Agent,
        WallMs(START.0 + 3 * DAY_MS),
        false,
    );
    assert_eq!(world.refused(1, one_more.clone()).code(), "TooLargeError");
    world.now = WallMs(START.0 + DAY_MS);
    assert_eq!(
        world.refused(1, admit(2, tokens[0])).code(),
        "BootstrapTokenExpiredError"
    );
    world.ok(1, one_more);
    assert_eq!(world.state.tokens.len(), 1);
}

#[test]
fn an_expired_token_says_so_for_a_month() {
    let mut world = World::founded();
    let old = world.token(Role::Agent, false);
    world.now = WallMs(START.0 + 30 * DAY_MS);
    world.token(Role::Agent, false);
    assert_eq!(
        world.refused(1, admit(2, old)).code(),
        "BootstrapTokenExpiredError"
    );
    world.now = WallMs(START.0 + 31 * DAY_MS);
    world.token(Role::Agent, false);
    assert_eq!(
        world.refused(1, admit(2, old)).code(),
        "BootstrapTokenUnknownError"
    );
}

#[test]
fn names_are_dns_labels() {
    let mut world = World::founded();
    let token = world.token(Role::Agent, true);
    let long = "a".repeat(64);
    for bad in ["", "-a", "a-", "A", "a_b", "a.b", "ä", "a b", &long] {
        let mut enrolment = enrolment(2);
        enrolment.name = bad.into();
        let refusal = world.refused(1, admit_as(enrolment, token, "b2"));
        assert_eq!(refusal.code(), "InvalidInputError", "{bad:?}");
    }
    for (n, good) in [(2, "a"), (3, "0"), (4, "a-1"), (5, &long[..63])] {
        let mut enrolment = enrolment(n);
        enrolment.name = good.into();
        world.ok(1, admit_as(enrolment, token, &format!("b{n}")));
    }
}

#[test]
fn labels_are_checked_at_enrolment_and_later() {
    let mut world = World::founded();
    let token = world.token(Role::Agent, true);
    let (long_key, long_value) = ("k".repeat(129), "v".repeat(257));
    for (key, value) in [
        ("", "v"),
        ("a b", "v"),
        ("ä", "v"),
        (&long_key, "v"),
        ("k", "a,b"),
        ("k", "a=b"),
        ("k", "a\nb"),
        ("k", "a\u{7f}"),
        ("k", "a\u{85}"),
        ("k", "é,b"),
        ("k", "é=b"),
        ("k", "é\nb"),
        ("k", &long_value),
    ] {
        let refusal = world.refused(1, label(1, &[(key, value)], &[]));
        assert_eq!(refusal.code(), "InvalidInputError", "{key:?}={value:?}");
        let mut enrolment = enrolment(2);
        enrolment.labels = labels(&[(key, value)]);
        let refusal = world.refused(1, admit_as(enrolment, token, "b2"));
        assert_eq!(refusal.code(), "InvalidInputError", "{key:?}={value:?}");
    }
    world.ok(
        1,
        label(1, &[("example.org/rack", ""), ("zone", "é 1")], &[]),
    );
    world.ok(
        1,
        label(1, &[("zone", "b")], &["example.org/rack", "absent"]),
    );
    assert_eq!(
        world.agreed().nodes[&id(1)].labels,
        labels(&[("zone", "b")])
    );
}

#[test]
fn a_node_has_at_most_64_labels_16_addresses_and_4096_bytes_of_metadata() {
    let mut world = World::founded();
    let many: Vec<String> = (0..65).map(|n| format!("k{n}")).collect();
    let pairs: Vec<_> = many.iter().map(|key| (key.as_str(), "v")).collect();
    assert_eq!(
        world.refused(1, label(1, &pairs, &[])).code(),
        "TooLargeError"
    );
    world.ok(1, label(1, &pairs[..64], &[]));
    let address = "192.0.2.1:1".parse().unwrap();
    let report = |n| Command::ReportNode {
        state: NodeState::Running,
        addresses: vec![address; n],
    };
    assert_eq!(world.refused(1, report(17)).code(), "TooLargeError");
    world.ok(1, report(16));
    let token = world.token(Role::Agent, true);
    let mut big = enrolment(2);
    big.metadata = labels(&[("k", &"v".repeat(4096))]);
    assert_eq!(
        world.refused(1, admit_as(big, token, "b2")).code(),
        "TooLargeError"
    );
}

#[test]
fn a_node_that_may_be_pruned_is_never_a_server() {
    let mut world = World::founded();
    let (server, agent) = (
        world.token(Role::Server, false),
        world.token(Role::Agent, false),
    );
    let mut spot = enrolment(2);
    spot.lifecycle_class = LifecycleClass::Spot;
    let refusal = world.refused(1, admit_as(spot.clone(), server, "b2"));
    assert_eq!(refusal.code(), "InvalidInputError");
    world.ok(1, admit_as(spot, agent, "b2"));
    assert_eq!(
        world.refused(1, set_role(2, Role::Server)).code(),
        "InvalidInputError"
    );
}

#[test]
fn a_running_node_never_goes_back_to_joining() {
    let mut world = World::of(1, 2);
    let report = |state| Command::ReportNode {
        state,
        addresses: vec![],
    };
    world.ok(2, report(NodeState::Running));
    assert_eq!(world.kinds(), [EventKind::NodeRunning]);
    world.ok(2, report(NodeState::Bootstrapping));
    world.ok(2, report(NodeState::Running));
    assert_eq!(world.kinds(), []);
    assert_eq!(world.agreed().nodes[&id(2)].state, NodeState::Running);
}
