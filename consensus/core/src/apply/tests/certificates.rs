//! Certificates remembered, revoked and forgotten.

use super::world::*;
use crate::{
    CertificateProfile, CertificateProfile as Profile, Command, EventKind, Holder, NewCertificate,
    OperatorRole, Refusal, Revocation, Role, WallMs,
};

#[test]
fn a_server_records_what_its_own_intermediate_signed_and_nobody_else_does() {
    let mut world = World::of(2, 3);
    let of_first = Command::RecordCertificate(certificate("c2", 2, START));
    assert_eq!(world.refused(3, of_first.clone()).code(), "NotServerError");
    let refusal = world.refused(2, of_first.clone());
    assert_eq!(refusal.code(), "IntermediateUnusableError");
    world.ok(1, of_first);
    let of_second = Command::RecordCertificate(certificate_by(2, "c3", 3, START));
    world.ok(2, of_second);
    let of_nobody = Command::RecordCertificate(certificate_by(7, "c4", 3, START));
    let refusal = world.refused(1, of_nobody);
    assert_eq!(refusal.code(), "IntermediateUnusableError");
}

#[test]
fn what_a_retired_or_revoked_intermediate_signed_is_recorded_no_more() {
    let mut world = World::of(3, 3);
    let by = |n, serial: &str| Command::RecordCertificate(certificate_by(n, serial, 3, START));
    world.ok(2, by(2, "c1"));
    world.ok(3, by(3, "c2"));
    world.ok(1, set_role(2, Role::Agent));
    assert_eq!(world.refused(2, by(2, "c3")).code(), "NotServerError");
    world.ok(1, set_role(2, Role::Server));
    let reason = |refusal: Refusal| refusal.to_string();
    assert!(reason(world.refused(2, by(2, "c3"))).ends_with("it is retired"));
    world.ok(1, revoke(Revocation::Serial(ca_serial(3))));
    assert!(reason(world.refused(3, by(3, "c4"))).ends_with("it is revoked"));
}

#[test]
fn a_leaf_lives_within_its_intermediate_and_an_operators_begins_there() {
    let mut world = World::founded();
    world.ok(1, create_operator("ann", OperatorRole::Admin));
    let of = |profile, from: u64, to: u64| {
        let holder = match profile {
            Profile::Operator => Holder::Operator("ann".into()),
            Profile::Node | Profile::DockerServer | Profile::DockerClient | Profile::Browser => {
                Holder::Node(id(1))
            }
        };
        let serial = format!("{from:x}{to:x}");
        let mut leaf = leaf(&ca_serial(1), &serial, holder, profile, WallMs(from));
        leaf.record.not_after = WallMs(to);
        Command::RecordCertificate(leaf)
    };
    let (start, end) = (START.0, START.0 + 7 * DAY_MS);
    let too_long = start + 91 * DAY_MS + 1;
    for (profile, from, to) in [
        (Profile::Node, start - 1, start + 1),
        (Profile::Node, start, start),
        (Profile::Node, start, end + 1),
        (Profile::Browser, start, end + 1),
        (Profile::Operator, end, end + 1),
        (Profile::Operator, start, too_long),
    ] {
        let refusal = world.refused(1, of(profile, from, to));
        assert_eq!(refusal.code(), "InvalidInputError", "{profile:?} {from}");
    }
    world.ok(1, of(Profile::Node, start, end));
    world.ok(1, of(Profile::Operator, end - 1, start + 90 * DAY_MS));
}

#[test]
fn an_intermediate_that_ended_on_every_clock_signs_nothing_and_none_is_born_ended() {
    let mut world = World::of(1, 2);
    let late = Command::RecordCertificate(certificate("c2", 2, START));
    world.now = WallMs(START.0 + 8 * DAY_MS + 1);
    let refusal = world.refused(1, late);
    assert!(refusal.to_string().ends_with("it has ended"), "{refusal}");
    let stale = intermediate_under(0, "cb", WallMs(world.now.0 - 7 * DAY_MS));
    let refusal = world.refused(1, Command::RecordIntermediate(stale));
    assert_eq!(refusal.code(), "InvalidInputError");
}

#[test]
fn each_profile_has_its_kind_of_holder() {
    let mut world = World::founded();
    world.ok(1, create_operator("ann", OperatorRole::Viewer));
    let mut serial = 0x100;
    for profile in Profile::ALL {
        for (holder, is_node) in [
            (Holder::Node(id(1)), true),
            (Holder::Operator("ann".into()), false),
        ] {
            serial += 1;
            let text = format!("{serial:x}");
            let leaf = leaf(&ca_serial(1), &text, holder, profile, START);
            let fits = match profile {
                Profile::Node | Profile::DockerServer | Profile::Browser => is_node,
                Profile::Operator => !is_node,
                Profile::DockerClient => true,
            };
            let answer = world.give(1, Command::RecordCertificate(leaf));
            assert_eq!(answer.is_ok(), fits, "{profile:?}, a node: {is_node}");
        }
    }
    let stranger = Holder::Operator("bob".into());
    let leaf = leaf(&ca_serial(1), "1", stranger, Profile::Operator, START);
    let refusal = world.refused(1, Command::RecordCertificate(leaf));
    assert_eq!(refusal.code(), "OperatorNotFoundError");
}

#[test]
fn a_member_that_comes_back_after_its_certificates_end_leaves_an_event() {
    let mut world = World::of(1, 2);
    world.now = WallMs(START.0 + DAY_MS - 1);
    let renew = |serial, now| Command::RecordCertificate(certificate(serial, 2, now));
    world.ok(1, renew("c1", world.now));
    assert_eq!(world.kinds(), []);
    world.now = WallMs(world.now.0 + DAY_MS);
    world.ok(1, renew("c2", world.now));
    assert_eq!(world.kinds(), [EventKind::NodeReturned]);
    let event = world.state.events.back().unwrap();
    assert_eq!(event.node.as_deref(), Some("n2"));
}

#[test]
fn a_serial_number_never_changes_its_owner_and_never_comes_back() {
    let mut world = World::of(1, 3);
    let record = |serial, n| Command::RecordCertificate(certificate(serial, n, START));
    world.ok(1, record("c2", 2));
    world.ok(1, record("c2", 2));
    for (serial, n) in [("c2", 3), ("ca01", 3), ("", 3), ("xyz", 3), ("C2", 3)] {
        let refusal = world.refused(1, record(serial, n));
        assert_eq!(refusal.code(), "InvalidInputError", "{serial:?}");
    }
    world.ok(1, remove(2));
    assert_eq!(
        world.refused(1, record("c2", 3)).code(),
        "InvalidInputError"
    );
    let token = world.token(Role::Agent, false);
    let refusal = world.refused(1, admit_as(enrolment(4), token, "c2"));
    assert_eq!(refusal.code(), "InvalidInputError");
}

#[test]
fn dockerd_gets_no_certificate_with_a_used_serial_number() {
    let mut world = World::of(1, 3);
    world.ok(1, remove(3));
    world.ok(1, Command::AssignModule(docker_on(2)));
    world.report(2, wants_cert(1));
    for used in ["a0", "a2", "a3", ""] {
        let refusal = world.refused(1, signed(2, 1, used));
        assert_eq!(refusal.code(), "InvalidInputError");
    }
}

#[test]
fn an_admission_carries_the_joiners_own_certificate() {
    let mut world = World::founded();
    let token = world.token(Role::Agent, false);
    let Command::AdmitNode {
        secret_hash,
        enrolment,
        ..
    } = admit(2, token)
    else {
        unreachable!()
    };
    let mut browsers = certificate("a2", 2, START);
    browsers.record.profile = CertificateProfile::Browser;
    for certificate in [certificate("a2", 1, START), browsers] {
        let foreign = Command::AdmitNode {
            token,
            secret_hash,
            enrolment: enrolment.clone(),
            certificate,
        };
        assert_eq!(world.refused(1, foreign).code(), "InvalidInputError");
    }
}

#[test]
fn a_revoked_serial_is_kept_until_its_certificate_has_ended_on_every_clock() {
    let mut world = World::of(1, 3);
    world.ok(1, remove(2));
    let end = START.0 + DAY_MS;
    let revoked = &world.agreed().revoked["a2"];
    assert_eq!(revoked.holder, Holder::Node(id(2)));
    assert_eq!((revoked.not_after, revoked.at), (WallMs(end), START));
    world.now = WallMs(end + DAY_MS);
    world.ok(
        1,
        Command::RecordCertificate(certificate("c3", 3, world.now)),
    );
    assert!(world.agreed().revoked.contains_key("a2"));
    world.now = WallMs(end + DAY_MS + 1);
    world.ok(
        1,
        Command::RecordCertificate(certificate("c4", 3, world.now)),
    );
    assert!(world.agreed().revoked.is_empty());
    // Live ones that ended are forgotten alike.
    assert!(!world.agreed().certificates.contains_key("a3"));
    assert!(world.agreed().certificates.contains_key("c3"));
}

#[test]
fn a_client_certificate_is_revoked_with_its_node() {
    let mut world = World::of(1, 2);
    let holder = Holder::Node(id(2));
    let client: NewCertificate = leaf(
        &ca_serial(1),
        "cc",
        holder,
        CertificateProfile::DockerClient,
        START,
    );
    world.ok(1, Command::RecordCertificate(client));
    world.ok(1, remove(2));
    assert!(world.agreed().revoked.contains_key("cc"));
}
