//! Accusations: its own, of those that it observes, and no others.

use std::time::Duration;

use overlay_core::membership::{Condition, Incarnation, RINGS, Update, Verdict};

use crate::mesh::{BEGIN, HONEST, HOSTILE, Mesh, accuses, goodbye, record, signed};

#[test]
fn an_accusation_in_anothers_name_changes_nothing() {
    for verdict in [Verdict::Suspect, Verdict::Dead] {
        let mut mesh = Mesh::of(10);
        for accuser in 2..9 {
            mesh.is_told(accuses(verdict, 9, BEGIN, accuser, HOSTILE));
        }
        assert_eq!(mesh.condition(9), Condition::Alive);
        assert!(mesh.told(5).is_empty(), "it is not passed on");
    }
}

#[test]
fn a_suspicion_is_no_verdict_of_death_under_the_same_signature() {
    let mut mesh = Mesh::of(10);
    let Update::Suspect(suspicion) = accuses(Verdict::Suspect, 9, BEGIN, 2, 2) else {
        panic!("it is a suspicion");
    };
    mesh.is_told(Update::Dead(suspicion));
    assert_eq!(mesh.condition(9), Condition::Alive);
}

#[test]
fn its_own_accusation_of_whom_it_does_not_observe_counts_nowhere() {
    let mut mesh = Mesh::of(60);
    let stranger = mesh.subject_of(HOSTILE, false);
    for verdict in [Verdict::Suspect, Verdict::Dead] {
        mesh.is_told(accuses(verdict, stranger, BEGIN, HOSTILE, HOSTILE));
    }
    assert_eq!(mesh.condition(stranger), Condition::Alive);
}

#[test]
fn its_own_accusation_of_whom_it_observes_is_one_voice_of_eight() {
    let mut mesh = Mesh::of(60);
    let subject = mesh.subject_of(HOSTILE, true);
    mesh.is_told(accuses(Verdict::Suspect, subject, BEGIN, HOSTILE, HOSTILE));
    mesh.is_told(accuses(Verdict::Dead, subject, BEGIN, HOSTILE, HOSTILE));
    assert_eq!(mesh.condition(subject), Condition::Suspect);
    mesh.run(Duration::from_secs(29));
    assert_eq!(
        mesh.condition(subject),
        Condition::Suspect,
        "it may still refute"
    );
    let mut refuted = record(subject);
    refuted.version = 1;
    mesh.hears_from(subject, vec![Update::Alive(signed(refuted))]);
    assert_eq!(mesh.condition(subject), Condition::Alive);
}

#[test]
fn whom_it_accuses_again_and_again_is_not_told_on_again_and_again() {
    let mut mesh = Mesh::of(60);
    let subject = mesh.subject_of(HOSTILE, true);
    let mut passed_on = 0;
    for version in 0..40 {
        let at = Incarnation {
            generation: 1,
            version,
        };
        mesh.sent.clear();
        mesh.is_told(accuses(Verdict::Suspect, subject, at, HOSTILE, HOSTILE));
        let other = (2..60).find(|index| *index != subject && !mesh.told(*index).is_empty());
        passed_on += usize::from(other.is_some());
        let mut refuted = record(subject);
        refuted.version = version + 1;
        mesh.hears_from(subject, vec![Update::Alive(signed(refuted))]);
        mesh.run(Duration::from_millis(100));
    }
    assert!(passed_on <= 12, "{passed_on} of 40 within four seconds");
}

#[test]
fn nobody_is_accused_of_what_it_has_not_become() {
    let future = Incarnation {
        generation: u64::MAX,
        version: u64::MAX,
    };
    let mut mesh = Mesh::of(10);
    mesh.is_told(accuses(Verdict::Dead, 9, future, HOSTILE, HOSTILE));
    assert_eq!(mesh.condition(9), Condition::Alive);
    mesh.is_told(accuses(Verdict::Suspect, HONEST, future, HOSTILE, HOSTILE));
    assert_eq!(
        mesh.core.record().incarnation(),
        BEGIN,
        "it is driven nowhere"
    );
}

#[test]
fn being_accused_by_one_member_all_the_time_costs_few_incarnations() {
    let mut mesh = Mesh::of(10);
    for _ in 0..1000 {
        let own = mesh.core.record().incarnation();
        mesh.is_told(accuses(Verdict::Suspect, HONEST, own, HOSTILE, HOSTILE));
        mesh.run(Duration::from_millis(10));
    }
    let versions = mesh.core.record().version;
    assert!((1..=6).contains(&versions), "{versions} in ten seconds");
    assert!(
        mesh.core.load().health < 8,
        "it does not doubt itself for ever"
    );
}

#[test]
fn a_goodbye_in_anothers_name_changes_nothing() {
    let mut mesh = Mesh::of(10);
    mesh.is_told(goodbye(9, BEGIN, HOSTILE));
    assert_eq!(mesh.condition(9), Condition::Alive);
}

#[test]
fn the_dead_accuse_nobody_even_in_their_own_name() {
    let mut mesh = Mesh::of(10);
    mesh.hears_from(2, vec![goodbye(3, BEGIN, 3)]);
    mesh.is_told(accuses(Verdict::Suspect, 9, BEGIN, 3, 3));
    assert_eq!(mesh.condition(9), Condition::Alive);
}

#[test]
fn whoever_passes_on_a_forgery_is_not_believed_for_a_while() {
    let mut mesh = Mesh::of(10);
    mesh.is_told(accuses(Verdict::Suspect, 9, BEGIN, 2, HOSTILE));
    mesh.is_told(accuses(Verdict::Suspect, 9, BEGIN, HOSTILE, HOSTILE));
    assert_eq!(mesh.condition(9), Condition::Alive, "not even its own word");
    mesh.run(Duration::from_secs(61));
    mesh.is_told(accuses(Verdict::Suspect, 8, BEGIN, 2, 2));
    assert_eq!(
        mesh.condition(8),
        Condition::Suspect,
        "a true one counts again"
    );
}

#[test]
fn the_rings_leave_it_no_more_subjects_than_there_are_rings() {
    let mut subjects = 0;
    for subject in 2..60 {
        let mut fresh = Mesh::of(60);
        fresh.is_told(accuses(Verdict::Suspect, subject, BEGIN, HOSTILE, HOSTILE));
        subjects += usize::from(fresh.condition(subject) == Condition::Suspect);
    }
    assert!((1..=RINGS).contains(&subjects), "{subjects}");
}
