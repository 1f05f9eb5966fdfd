//! Certificates remembered, revoked and forgotten.

use super::world::*;
use crate::{CertificateProfile, Command, NewCertificate, Role, WallMs};

#[test]
fn only_the_issuer_records_certificates() {
    let mut world = World::of(2, 2);
    let own = Command::RecordCertificate(certificate("c2", 2, START));
    assert_eq!(world.refused(2, own.clone()).code(), "NotIssuerError");
    world.ok(1, own);
}

#[test]
fn a_serial_number_never_changes_its_owner_and_never_comes_back() {
    let mut world = World::of(1, 3);
    let record = |serial, n| Command::RecordCertificate(certificate(serial, n, START));
    world.ok(1, record("c2", 2));
    world.ok(1, record("c2", 2));
    assert_eq!(
        world.refused(1, record("c2", 3)).code(),
        "InvalidInputError"
    );
    world.ok(1, remove(2));
    assert_eq!(
        world.refused(1, record("c2", 3)).code(),
        "InvalidInputError"
    );
    assert_eq!(world.refused(1, record("", 3)).code(), "InvalidInputError");
    assert_eq!(
        world.refused(1, record("xyz", 3)).code(),
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
    let certificate = certificate("a2", 1, START);
    let foreign = Command::AdmitNode {
        token,
        secret_hash,
        enrolment,
        certificate,
    };
    assert_eq!(world.refused(1, foreign).code(), "InvalidInputError");
}

#[test]
fn a_revoked_serial_is_kept_until_its_certificate_has_ended_on_every_clock() {
    let mut world = World::of(1, 3);
    world.ok(1, remove(2));
    let end = START.0 + DAY_MS;
    let revoked = &world.agreed().revoked["a2"];
    assert_eq!((&revoked.node, revoked.not_after), (&id(2), WallMs(end)));
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
    let client = NewCertificate::new(
        "cc".into(),
        id(2),
        CertificateProfile::DockerClient,
        WallMs(START.0 + HOUR_MS),
    );
    world.ok(1, Command::RecordCertificate(client));
    world.ok(1, remove(2));
    assert!(world.agreed().revoked.contains_key("cc"));
}
