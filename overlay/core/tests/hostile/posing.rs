//! Who is a member, and where: nobody speaks for another.

use std::{sync::Arc, time::Duration};

use overlay_core::membership::{Condition, Record, SignedRecord, Update};

use crate::mesh::{BEGIN, HONEST, HOSTILE, Mesh, goodbye, keys, node, record, signed};

#[test]
fn addresses_of_others_stay_their_own() {
    let mut mesh = Mesh::of(10);
    let poisoned = Record {
        version: 99,
        addresses: vec!["203.0.113.1:4001".parse().unwrap()],
        ..record(9)
    };
    mesh.is_told(Update::Alive(SignedRecord::sign(poisoned, &*keys(HOSTILE))));
    assert_eq!(mesh.member(9).record.addresses, record(9).addresses);
    assert!(mesh.told(5).is_empty(), "it is not passed on");
}

#[test]
fn a_true_signature_below_a_bent_record_is_worth_nothing() {
    let mut mesh = Mesh::of(10);
    let mut newer = record(9);
    newer.version = 1;
    let mut bent = SignedRecord::clone(&signed(newer));
    bent.record.addresses = vec!["203.0.113.1:4001".parse().unwrap()];
    mesh.is_told(Update::Alive(Arc::new(bent)));
    assert_eq!(mesh.member(9).record.addresses, record(9).addresses);
}

#[test]
fn an_old_record_of_another_does_not_come_back() {
    let mut mesh = Mesh::of(10);
    let moved = Record {
        generation: 2,
        addresses: vec!["10.9.9.9:4001".parse().unwrap()],
        ..record(9)
    };
    mesh.hears_from(9, vec![Update::Alive(signed(moved.clone()))]);
    mesh.is_told(Update::Alive(signed(record(9))));
    assert_eq!(mesh.member(9).record.addresses, moved.addresses);
}

#[test]
fn a_removed_node_is_not_brought_back() {
    let mut mesh = Mesh::of(10);
    mesh.admit(0..9);
    let risen = Record {
        generation: 50,
        ..record(9)
    };
    mesh.is_told(Update::Alive(signed(risen)));
    assert_eq!(mesh.core.member(&node(9)), None);
    assert!(!mesh.core.neighbours().contains(&node(9)));
    assert!(mesh.told(5).is_empty(), "it is not passed on");
}

#[test]
fn a_node_that_is_admitted_again_does_not_begin_with_its_old_life() {
    let mut mesh = Mesh::of(10);
    let latest = Record {
        generation: 7,
        ..record(9)
    };
    mesh.hears_from(9, vec![Update::Alive(signed(latest.clone()))]);
    mesh.admit(0..9);
    mesh.admit(0..10);
    mesh.is_told(Update::Alive(signed(record(9))));
    assert_eq!(mesh.condition(9), Condition::Unknown, "an old life");
    mesh.is_told(Update::Alive(signed(latest)));
    assert_eq!(mesh.condition(9), Condition::Alive, "its last one");
}

#[test]
fn who_left_is_not_brought_back_by_its_old_words() {
    let mut mesh = Mesh::of(10);
    mesh.hears_from(9, vec![goodbye(9, BEGIN, 9)]);
    mesh.run(Duration::from_secs(3600));
    mesh.is_told(Update::Alive(signed(record(9))));
    assert_eq!(mesh.condition(9), Condition::Dead);
    assert!(mesh.member(9).left);
}

#[test]
fn a_forged_past_of_the_receiver_drives_it_nowhere() {
    let mut mesh = Mesh::of(10);
    let future = Record {
        generation: u64::MAX,
        version: u64::MAX,
        ..record(HONEST)
    };
    mesh.is_told(Update::Alive(SignedRecord::sign(future, &*keys(HOSTILE))));
    assert_eq!(mesh.core.record().incarnation(), BEGIN);
}

#[test]
fn a_stranger_with_a_key_of_its_own_is_no_member() {
    let mut mesh = Mesh::of(10);
    mesh.is_told(Update::Alive(signed(record(30))));
    mesh.hears_from(30, vec![Update::Alive(signed(record(30)))]);
    assert_eq!(mesh.core.member(&node(30)), None);
}
