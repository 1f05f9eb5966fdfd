//! Certificates taken back, one by one or with whoever held or signed them.

use super::world::*;
use crate::{
    CertificateProfile, Command, Done, EventKind, Holder, OperatorRole, Revocation, WallMs,
};

#[test]
fn one_serial_number_is_revoked_once() {
    let mut world = World::of(1, 2);
    let one = || revoke(Revocation::Serial("a2".into()));
    assert_eq!(world.ok(1, one()), Done::Revoked { count: 1 });
    assert_eq!(world.kinds(), [EventKind::CertificatesRevoked]);
    let event = world.state.events.back().unwrap();
    assert_eq!(event.node.as_deref(), Some("n2"));
    assert_eq!(
        (&*event.payload["serial"], &*event.payload["reason"]),
        ("a2", "lost")
    );
    assert_eq!(world.ok(1, one()), Done::Revoked { count: 0 });
    assert_eq!(world.kinds(), []);
    let unknown = revoke(Revocation::Serial("ee".into()));
    assert_eq!(world.refused(1, unknown).code(), "CertificateNotFoundError");
}

#[test]
fn a_nodes_leaves_are_revoked_and_it_stays_a_member_that_may_have_new_ones() {
    let mut world = World::of(2, 3);
    world.ok(1, Command::RecordCertificate(certificate("c2", 2, START)));
    let all = revoke(Revocation::Node("n2".into()));
    assert_eq!(world.ok(1, all), Done::Revoked { count: 2 });
    assert!(world.agreed().nodes.contains_key(&id(2)));
    // What it signs as a server is another matter.
    assert!(world.agreed().signing_intermediate(&id(2), START).is_some());
    world.ok(1, Command::RecordCertificate(certificate("c3", 2, START)));
    assert_eq!(world.kinds(), [EventKind::NodeReturned]);
    let nobody = revoke(Revocation::Node("n9".into()));
    assert_eq!(world.refused(1, nobody).code(), "NodeNotFoundError");
}

#[test]
fn an_operators_leaves_are_revoked_at_once_or_with_him() {
    let mut world = World::founded();
    world.ok(1, create_operator("ann", OperatorRole::Admin));
    let record = |world: &mut World, serial: &str| {
        let holder = Holder::Operator("ann".into());
        let profile = CertificateProfile::Operator;
        let leaf = leaf(&ca_serial(1), serial, holder, profile, START);
        world.ok(1, Command::RecordCertificate(leaf));
    };
    record(&mut world, "01");
    let lost = revoke(Revocation::Operator("ann".into()));
    assert_eq!(world.ok(1, lost.clone()), Done::Revoked { count: 1 });
    record(&mut world, "02");
    let gone = Command::RemoveOperator { name: "ann".into() };
    assert_eq!(world.ok(1, gone), Done::Revoked { count: 1 });
    let revoked = world.agreed().revoked_serials();
    assert_eq!(revoked.iter().collect::<Vec<_>>(), ["01", "02"]);
    assert_eq!(world.refused(1, lost).code(), "OperatorNotFoundError");
}

#[test]
fn an_intermediate_is_revoked_with_all_that_it_signed() {
    let mut world = World::of(2, 3);
    for (serial, n) in [("c1", 1), ("c3", 3)] {
        let leaf = certificate_by(2, serial, n, START);
        world.ok(2, Command::RecordCertificate(leaf));
    }
    let all = revoke(Revocation::Serial(ca_serial(2)));
    assert_eq!(world.ok(1, all), Done::Revoked { count: 3 });
    let revoked = world.agreed().revoked_serials();
    assert_eq!(revoked.iter().collect::<Vec<_>>(), ["c1", "c3", "ca02"]);
    // The server makes itself another.
    let next = intermediate_under(0, "cb02", START);
    world.ok(2, Command::RecordIntermediate(next));
}

#[test]
fn a_server_that_leaves_in_peace_leaves_what_it_signed() {
    let mut world = World::of(2, 3);
    world.ok(
        2,
        Command::RecordCertificate(certificate_by(2, "c3", 3, START)),
    );
    world.ok(1, remove(2));
    assert_eq!(world.kinds(), [EventKind::NodeRemoved]);
    let agreed = world.agreed();
    assert_eq!(agreed.revoked_serials().iter().collect::<Vec<_>>(), ["a2"]);
    assert!(agreed.retired()[&ca_serial(2)].contains("c3"));
    assert_eq!(agreed.authority.rotation_wanted, None);
    let grave = &agreed.removed[&id(2)];
    assert_eq!(
        (grave.name.as_str(), grave.at, grave.revoked),
        ("n2", START, false)
    );
    assert_eq!(grave.reason, "broken");
}

#[test]
fn a_compromised_server_takes_all_it_signed_with_it_and_the_root_is_to_be_replaced() {
    let mut world = World::of(3, 4);
    world.now = WallMs(START.0 + HOUR_MS);
    world.ok(
        2,
        Command::RecordCertificate(certificate_by(2, "c4", 4, START)),
    );
    world.ok(1, remove_as(2, true));
    assert_eq!(
        world.kinds(),
        [EventKind::NodeRemoved, EventKind::CertificatesRevoked]
    );
    assert_eq!(world.state.events.back().unwrap().payload["count"], "2");
    let agreed = world.agreed();
    let revoked = agreed.revoked_serials();
    assert_eq!(revoked.iter().collect::<Vec<_>>(), ["a2", "c4", "ca02"]);
    assert!(agreed.removed[&id(2)].revoked);
    let wanted = agreed.authority.rotation_wanted.as_deref();
    assert_eq!(wanted, Some("n2 was compromised: broken"));
    // An agent has no key that the root would have to be replaced for.
    let mut world = World::of(1, 2);
    world.ok(1, remove_as(2, true));
    assert_eq!(world.agreed().authority.rotation_wanted, None);
}

#[test]
fn a_former_server_that_was_compromised_takes_with_it_what_it_signed_as_one() {
    let mut world = World::of(2, 3);
    world.ok(
        2,
        Command::RecordCertificate(certificate_by(2, "c3", 3, START)),
    );
    world.ok(1, set_role(2, crate::Role::Agent));
    world.ok(1, remove_as(2, true));
    assert!(world.agreed().revoked_serials().contains("c3"));
    // It could open the root's key in its time.
    assert!(world.agreed().authority.rotation_wanted.is_some());
}
