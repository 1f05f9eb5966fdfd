//! What is renewed before its time, and whose end is told.

use std::collections::BTreeMap;

use super::world::*;
use crate::{
    CertificateProfile as Profile, Command, ExpiringCertificate, Holder, IntermediateReason,
    RenewalReason, Revocation, Role, RotationStep, WallMs, certificates_due, expiry_warnings,
    intermediate_due, renewal_reason,
};

fn due(world: &World, n: u32) -> Vec<(Profile, RenewalReason)> {
    let due: BTreeMap<_, _> = certificates_due(world.agreed(), &id(n), world.now);
    due.into_iter().collect()
}

#[test]
fn a_leaf_in_good_order_is_left_to_its_holder() {
    let world = World::of(1, 2);
    assert_eq!(due(&world, 2), []);
    assert_eq!(renewal_reason(world.agreed(), "a2", START), None);
}

#[test]
fn a_leaf_is_renewed_at_once_when_its_issuer_retires_or_is_revoked() {
    let mut world = World::of(3, 4);
    for (by, serial) in [(2, "c1"), (3, "c2")] {
        let leaf = certificate_by(by, serial, 4, START);
        world.ok(by, Command::RecordCertificate(leaf));
    }
    // Of leaves of one age the one with the greater number counts.
    world.ok(1, set_role(3, Role::Agent));
    assert_eq!(
        due(&world, 4),
        [(Profile::Node, RenewalReason::IssuerRetired)]
    );
    let retired = renewal_reason(world.agreed(), "c2", START);
    assert_eq!(retired, Some(RenewalReason::IssuerRetired));
    assert_eq!(renewal_reason(world.agreed(), "c1", START), None);
    world.ok(1, revoke(Revocation::Serial(ca_serial(2))));
    let revoked = renewal_reason(world.agreed(), "c1", START);
    assert_eq!(revoked, Some(RenewalReason::Revoked));
    world.ok(1, revoke(Revocation::Node("n4".into())));
    assert_eq!(due(&world, 4), [(Profile::Node, RenewalReason::Revoked)]);
}

#[test]
fn a_leaf_that_ended_or_was_dropped_with_its_root_is_missing() {
    let mut world = World::of(1, 2);
    world.now = WallMs(START.0 + DAY_MS);
    assert_eq!(due(&world, 2), [(Profile::Node, RenewalReason::Missing)]);
    let unheard_of = renewal_reason(world.agreed(), "ee", START);
    assert_eq!(unheard_of, Some(RenewalReason::Missing));
    world.begin_rotation(1);
    let issue = Command::AdvanceRotation {
        to: RotationStep::Issuing,
    };
    world.ok(1, issue);
    let finish = Command::FinishRotation {
        root: fingerprint(0),
        leave_behind: true,
    };
    world.ok(1, finish);
    assert_eq!(due(&world, 2), [(Profile::Node, RenewalReason::Missing)]);
    assert_eq!(due(&world, 9), [], "a stranger is due nothing");
}

#[test]
fn everything_a_node_holds_is_renewed_when_a_new_root_issues() {
    let mut world = World::of(1, 2);
    world.docker_ready(2, "d1");
    for (serial, profile) in [("b1", Profile::Browser), ("0c", Profile::DockerClient)] {
        let leaf = leaf(&ca_serial(1), serial, Holder::Node(id(2)), profile, START);
        world.ok(1, Command::RecordCertificate(leaf));
    }
    world.begin_rotation(1);
    assert_eq!(due(&world, 2), []);
    assert_eq!(intermediate_due(world.agreed(), &id(1), START), None);
    let issue = Command::AdvanceRotation {
        to: RotationStep::Issuing,
    };
    world.ok(1, issue);
    let all = [Profile::Node, Profile::DockerServer, Profile::Browser];
    let all = all.map(|profile| (profile, RenewalReason::RootOutgoing));
    assert_eq!(due(&world, 2), all);
    let missing = Some(IntermediateReason::Missing);
    assert_eq!(intermediate_due(world.agreed(), &id(1), START), missing);
    let new = intermediate_under(1, "ce01", START);
    world.ok(1, Command::RecordIntermediate(new));
    let fresh = leaf("ce01", "f2", Holder::Node(id(2)), Profile::Node, START);
    world.ok(1, Command::RecordCertificate(fresh));
    assert_eq!(due(&world, 2), all[1..]);
}

#[test]
fn a_servers_intermediate_is_renewed_at_two_thirds_of_its_life() {
    let world = World::of(1, 2);
    let at = |ms| intermediate_due(world.agreed(), &id(1), WallMs(ms));
    let two_thirds = START.0 + 7 * DAY_MS * 2 / 3;
    assert_eq!(at(START.0 - 1), Some(IntermediateReason::Missing));
    assert_eq!(at(START.0), None);
    assert_eq!(at(two_thirds - 1), None);
    assert_eq!(at(two_thirds), Some(IntermediateReason::Aged));
    assert_eq!(at(START.0 + 7 * DAY_MS), Some(IntermediateReason::Missing));
    let agents = intermediate_due(world.agreed(), &id(2), WallMs(two_thirds));
    assert_eq!(agents, None);
}

#[test]
fn a_leaf_without_successor_is_told_of_at_five_sixths_of_its_life_and_until_its_end() {
    let mut world = World::of(1, 2);
    let told = |world: &World, ms: u64| {
        let warnings = expiry_warnings(world.agreed(), WallMs(ms));
        let warnings = warnings.into_iter().map(|warning| warning.certificate);
        warnings.collect::<Vec<_>>()
    };
    let leaf = |serial: &str| ExpiringCertificate::Leaf(serial.into());
    let from = START.0 + 20 * HOUR_MS;
    assert_eq!(told(&world, from - 1), []);
    assert_eq!(told(&world, from), [leaf("a0"), leaf("a2")]);
    assert_eq!(told(&world, START.0 + DAY_MS), []);
    let warned = Command::RecordExpiryWarning {
        certificate: leaf("a0"),
    };
    world.ok(1, warned);
    assert_eq!(told(&world, from), [leaf("a2")]);
    let renewed = certificate("c2", 2, WallMs(START.0 + 16 * HOUR_MS));
    world.ok(1, Command::RecordCertificate(renewed));
    assert_eq!(told(&world, from), []);
}

#[test]
fn an_intermediates_and_a_roots_end_are_told_in_time() {
    let mut world = World::of(2, 2);
    let about = |world: &World, ms: u64| {
        let warnings = expiry_warnings(world.agreed(), WallMs(ms));
        let told = warnings.into_iter().map(|warning| warning.certificate);
        told.filter(|about| !matches!(about, ExpiringCertificate::Leaf(_)))
            .collect::<Vec<_>>()
    };
    let from = START.0 + 7 * DAY_MS * 5 / 6;
    assert_eq!(about(&world, from - 1), []);
    let both = [1, 2].map(|n| ExpiringCertificate::Intermediate(ca_serial(n)));
    assert_eq!(about(&world, from), both);
    let next = intermediate_under(0, "cb01", WallMs(from));
    world.now = WallMs(from);
    world.ok(1, Command::RecordIntermediate(next));
    assert_eq!(about(&world, from), both[1..]);
    let end = START.0 + 10 * YEAR_MS;
    let root = ExpiringCertificate::Root(fingerprint(0));
    assert_eq!(about(&world, end - YEAR_MS - 1), []);
    assert_eq!(about(&world, end - YEAR_MS), [root]);
}
