//! Roots, intermediates and sealed keys.

use std::collections::{BTreeMap, BTreeSet};

use super::world::*;
use crate::{
    CertificateProfile, Command, EventKind, ExpiringCertificate, FoundingAuthority, Holder,
    Refusal, Role, RootState, WallMs, reseal_due,
};

#[test]
fn a_founder_brings_a_root_an_intermediate_and_a_key_that_two_can_open() {
    let world = World::founded();
    let agreed = world.agreed();
    assert_eq!(agreed.trusted_roots(), [root(0).certificate]);
    let active = agreed.active_root().unwrap();
    assert_eq!(
        (active.state, active.introduced_at),
        (RootState::Active, START)
    );
    let (serial, own) = agreed.signing_intermediate(&id(1), START).unwrap();
    assert_eq!((serial, &own.node), (&ca_serial(1), &id(1)));
    let key = &world.state.root_keys[&fingerprint(0)];
    let both = BTreeSet::from([recipient(1), recovery()]);
    assert_eq!(
        (&key.recipients, world.state.sealing_recipients()),
        (&both, both.clone())
    );
    assert_eq!(reseal_due(&world.state), None);
}

#[test]
fn a_founders_authority_that_does_not_hang_together_founds_nothing() {
    let changed = |change: fn(&mut FoundingAuthority)| {
        let Command::CreateMesh {
            mesh,
            mut authority,
            first,
            certificate,
            network,
            ipv4,
            wireguard_port,
        } = create_mesh(1)
        else {
            unreachable!()
        };
        change(&mut authority);
        let command = Command::CreateMesh {
            mesh,
            authority,
            first,
            certificate,
            network,
            ipv4,
            wireguard_port,
        };
        World::empty().refused(1, command).code()
    };
    let sealed_to_one = |founding: &mut FoundingAuthority| {
        founding.root_key.recipients.pop_first();
    };
    assert_eq!(changed(sealed_to_one), "SealedToOthersError");
    assert_eq!(
        changed(|founding| founding.root_key.age.clear()),
        "SealedToOthersError"
    );
    assert_eq!(
        changed(|founding| founding.intermediate.root = fingerprint(1)),
        "RootNotFoundError"
    );
    let invalid: [fn(&mut FoundingAuthority); 5] = [
        |founding| founding.recovery_recipient = "age1BIO".into(),
        |founding| founding.root.certificate.clear(),
        |founding| founding.root.not_after = START,
        |founding| founding.intermediate.serial = ca_serial(2),
        |founding| founding.intermediate.not_after.0 = START.0 + 8 * DAY_MS + 1,
    ];
    for change in invalid {
        assert_eq!(changed(change), "InvalidInputError");
    }
}

#[test]
fn a_server_renews_its_intermediate_and_the_old_one_stays_until_it_has_ended() {
    let mut world = World::founded();
    world.now = WallMs(START.0 + 5 * DAY_MS);
    let second = intermediate_under(0, "cb01", world.now);
    world.ok(1, Command::RecordIntermediate(second.clone()));
    assert_eq!(world.kinds(), [EventKind::IntermediateIssued]);
    // Its repetition tells nothing new.
    world.ignored(1, Command::RecordIntermediate(second));
    let agreed = world.agreed();
    assert!(agreed.authority.intermediates.contains_key(&ca_serial(1)));
    assert_eq!(
        agreed.signing_intermediate(&id(1), world.now).unwrap().0,
        "cb01"
    );
    world.now = WallMs(START.0 + 8 * DAY_MS + 1);
    let third = intermediate_under(0, "cc01", world.now);
    world.ok(1, Command::RecordIntermediate(third));
    let serials: Vec<_> = world.agreed().authority.intermediates.keys().collect();
    assert_eq!(serials, ["cb01", "cc01"]);
}

#[test]
fn an_intermediate_is_a_servers_own_and_under_a_root_that_issues() {
    let mut world = World::of(2, 3);
    let new = |k| Command::RecordIntermediate(intermediate_under(k, "cb01", START));
    assert_eq!(
        world.refused(3, new(0)),
        Refusal::NotServer { actor: id(3) }
    );
    assert_eq!(world.refused(2, new(1)).code(), "RootNotFoundError");
    let taken = Command::RecordIntermediate(intermediate(1, START));
    assert_eq!(world.refused(2, taken).code(), "InvalidInputError");
    let leafs = Command::RecordIntermediate(intermediate_under(0, "a0", START));
    assert_eq!(world.refused(2, leafs).code(), "InvalidInputError");
    world.begin_rotation(1);
    let refusal = world.refused(2, new(1));
    assert!(
        refusal.to_string().ends_with("does not issue yet"),
        "{refusal}"
    );
}

#[test]
fn an_intermediate_past_its_end_signs_no_more_and_is_kept_while_an_operators_leaf_needs_it() {
    let mut world = World::founded();
    world.ok(1, create_operator("ann", crate::OperatorRole::Admin));
    let mut leaf = leaf(
        &ca_serial(1),
        "09",
        Holder::Operator("ann".into()),
        CertificateProfile::Operator,
        START,
    );
    leaf.record.not_after = WallMs(START.0 + 90 * DAY_MS);
    world.ok(1, Command::RecordCertificate(leaf));
    for day in [30, 90] {
        world.now = WallMs(START.0 + day * DAY_MS);
        assert_eq!(world.agreed().signing_intermediate(&id(1), world.now), None);
        let serial = format!("cb{day}");
        let new = intermediate_under(0, &serial, world.now);
        world.ok(1, Command::RecordIntermediate(new));
        let chain = world.agreed().chain(b"leaf", &ca_serial(1)).unwrap();
        assert_eq!(chain, [b"leaf".to_vec(), ca_serial(1).into_bytes()]);
    }
    world.now = WallMs(START.0 + 91 * DAY_MS + 1);
    let last = intermediate_under(0, "cc", world.now);
    world.ok(1, Command::RecordIntermediate(last));
    assert_eq!(world.agreed().chain(b"leaf", &ca_serial(1)), None);
}

#[test]
fn a_change_of_servers_asks_for_a_new_seal_and_only_todays_will_do() {
    let mut world = World::of(1, 2);
    let stale = reseal(&world, 0);
    world.ok(1, set_role(2, Role::Server));
    let wanted = BTreeSet::from([recipient(1), recipient(2), recovery()]);
    assert_eq!(reseal_due(&world.state), Some(wanted));
    assert_eq!(world.refused(1, stale.clone()), Refusal::SealedToOthers);
    let fresh = reseal(&world, 0);
    world.ok(2, fresh.clone());
    assert_eq!(reseal_due(&world.state), None);
    world.ok(1, set_role(2, Role::Agent));
    assert_eq!(world.refused(1, fresh), Refusal::SealedToOthers);
    assert_eq!(world.refused(2, stale.clone()).code(), "NotServerError");
    world.ok(1, stale);
    assert_eq!(reseal_due(&world.state), None);
    let foreign = reseal(&world, 1);
    assert_eq!(world.refused(1, foreign).code(), "RootNotFoundError");
}

#[test]
fn a_sealing_recipient_looks_like_one() {
    let mut world = World::founded();
    let token = world.token(Role::Agent, true);
    for bad in [
        "",
        "age1",
        "age",
        "AGE1QQ",
        "age1b",
        "age1qq-",
        "ssh-ed25519 q",
    ] {
        let mut joiner = enrolment(2);
        joiner.sealing_recipient = bad.into();
        let refusal = world.refused(1, admit_as(joiner, token, "a2"));
        assert_eq!(refusal.code(), "InvalidInputError", "{bad:?}");
    }
    let mut joiner = enrolment(2);
    joiner.sealing_recipient = format!("age1{}", "q".repeat(96));
    world.ok(1, admit_as(joiner, token, "a2"));
}

#[test]
fn a_retired_intermediates_leaves_stay_good_while_they_are_remembered_and_then_it_is_revoked() {
    let mut world = World::of(2, 4);
    for n in [3, 4] {
        let serial = format!("c{n}");
        let leaf = certificate_by(2, &serial, n, START);
        world.ok(2, Command::RecordCertificate(leaf));
    }
    assert_eq!(world.agreed().retired(), BTreeMap::new());
    world.ok(1, set_role(2, Role::Agent));
    let good = |serials: &[&str]| {
        let serials = serials.iter().map(|serial| (*serial).to_owned()).collect();
        BTreeMap::from([(ca_serial(2), serials)])
    };
    assert_eq!(world.agreed().retired(), good(&["c3", "c4"]));
    assert_eq!(world.agreed().signing_intermediate(&id(2), START), None);
    world.ok(1, remove(3));
    assert_eq!(world.agreed().retired(), good(&["c4"]));
    // A day after the last one's end the intermediate is of use to nobody but a thief.
    world.now = WallMs(START.0 + 2 * DAY_MS + 1);
    let other = certificate("d1", 4, world.now);
    world.ok(1, Command::RecordCertificate(other));
    assert_eq!(world.agreed().retired(), BTreeMap::new());
    assert!(world.agreed().revoked_serials().contains(&ca_serial(2)));
    // Until it has ended on every clock.
    world.now = WallMs(START.0 + 8 * DAY_MS + 1);
    let third = intermediate_under(0, "cd01", world.now);
    world.ok(1, Command::RecordIntermediate(third));
    assert!(!world.agreed().revoked_serials().contains(&ca_serial(2)));
}

#[test]
fn an_intermediate_that_signed_nothing_is_revoked_when_its_server_goes() {
    let mut world = World::of(2, 2);
    world.ok(1, set_role(2, Role::Agent));
    assert!(world.agreed().authority.intermediates.len() == 1);
    let row = &world.agreed().revoked[&ca_serial(2)];
    assert_eq!((row.profile, &row.holder), (None, &Holder::Node(id(2))));
}

#[test]
fn a_leaf_is_remembered_as_itself_and_not_as_any_with_its_number() {
    let world = World::founded();
    // The worlds' leaves are the bytes of their serial numbers.
    assert!(world.agreed().remembers("a0", b"a0"));
    assert!(!world.agreed().remembers("a0", b"another leaf"));
    assert!(!world.agreed().remembers("a1", b"a1"));
}

#[test]
fn a_coming_end_is_told_once_and_by_a_server() {
    let mut world = World::of(1, 2);
    let about = |certificate| Command::RecordExpiryWarning { certificate };
    let leaf = about(ExpiringCertificate::Leaf("a2".into()));
    assert_eq!(world.refused(2, leaf.clone()).code(), "NotServerError");
    world.ok(1, leaf.clone());
    assert_eq!(world.kinds(), [EventKind::ExpiryWarning]);
    let event = world.state.events.back().unwrap();
    assert_eq!(event.node.as_deref(), Some("n2"));
    assert_eq!(
        (&*event.payload["certificate"], &*event.payload["serial"]),
        ("leaf", "a2")
    );
    world.ignored(1, leaf);
    world.ok(1, about(ExpiringCertificate::Intermediate(ca_serial(1))));
    world.ok(1, about(ExpiringCertificate::Root(fingerprint(0))));
    assert_eq!(world.state.events.back().unwrap().payload["holder"], "mesh");
    for unknown in [
        ExpiringCertificate::Leaf("ee".into()),
        ExpiringCertificate::Intermediate("a2".into()),
        ExpiringCertificate::Root(fingerprint(1)),
    ] {
        let refusal = world.refused(1, about(unknown));
        assert_eq!(refusal.code(), "CertificateNotFoundError");
    }
    // It is forgotten with its certificate, whichever way that goes.
    world.join(3, Role::Server);
    world.ok(1, about(ExpiringCertificate::Intermediate(ca_serial(3))));
    world.ok(1, set_role(3, Role::Agent));
    world.ok(1, remove(2));
    assert_eq!(world.agreed().authority.warned.len(), 2);
}
