//! Claims about the laboratory itself: a bug in the cores does not get past it.
//!
//! Each bug is caught by a shipped scenario that holds without it. Run with
//! `cargo test --profile simulation -p simulations --features planted-bugs --test planted`.

#![expect(
    clippy::print_stdout,
    reason = "which invariant caught which bug is worth reading"
)]

use simulations::{PlantedBug, agreement, run, run_with_bug, scenario::find};

/// Seeds within which a bug must be caught.
const SEEDS: u64 = 20;

/// Runs seeds until the bug breaks one of the invariants, then the same seed without the bug.
fn assert_caught(bug: PlantedBug, name: &str, by: &[&str]) {
    let scenario = find(name).expect("it is shipped");
    let caught = (0..SEEDS).find_map(|seed| {
        let violation = run_with_bug(&scenario, seed, bug).outcome.violation?;
        Some((seed, violation))
    });
    let Some((seed, violation)) = caught else {
        panic!("{bug:?} was not caught by {name} in {SEEDS} seeds");
    };
    println!("{bug:?}: caught by {name} with seed {seed}: {violation}");
    assert!(by.contains(&violation.invariant), "by {violation}");
    let without = run(&scenario, seed).outcome.violation;
    assert_eq!(
        without, None,
        "{name} fails with seed {seed} without the bug too"
    );
}

#[test]
fn an_accused_node_that_does_not_refute_is_caught() {
    let by = ["no_live_node_stays_dead", "agreement", "no_false_death"];
    assert_caught(PlantedBug::NoRefutation, "split", &by);
}

#[test]
fn confirmations_that_nobody_can_give_are_caught() {
    let by = ["timely_detection", "agreement"];
    assert_caught(PlantedBug::StaticConfirmations, "small_mesh", &by);
}

#[test]
fn an_accusation_that_its_accuser_never_made_is_caught() {
    assert_caught(
        PlantedBug::UnsignedAccusationCounted,
        "forgery",
        &["no_false_death"],
    );
}

#[test]
fn an_accusation_of_somebody_who_does_not_watch_is_caught() {
    assert_caught(
        PlantedBug::NonObserverCounted,
        "forgery",
        &["no_false_death"],
    );
}

#[test]
fn a_record_that_its_subject_never_signed_is_caught() {
    assert_caught(
        PlantedBug::UnsignedRecordCounted,
        "forgery",
        &["no_forged_record"],
    );
}

#[test]
fn a_tombstone_that_is_dropped_early_is_caught() {
    let by = ["no_resurrected_tombstone", "agreement"];
    assert_caught(PlantedBug::TombstoneDroppedEarly, "one_crash", &by);
}

#[test]
fn a_generation_that_does_not_count_is_caught() {
    let by = ["agreement", "no_live_node_stays_dead", "no_false_death"];
    assert_caught(PlantedBug::GenerationIgnored, "churn", &by);
}

#[test]
fn pruning_that_does_not_freeze_is_caught() {
    assert_caught(PlantedBug::NoFreeze, "split", &["pruning_freezes"]);
}

#[test]
fn members_that_never_compare_what_they_hold_are_caught() {
    let by = ["agreement", "no_live_node_stays_dead"];
    assert_caught(PlantedBug::DigestRepairOff, "rolling_restart", &by);
}

#[test]
fn a_verdict_without_help_is_caught() {
    assert_caught(
        PlantedBug::NoIndirectProbes,
        "one_way_cut",
        &["no_false_death"],
    );
}

#[test]
fn a_standstill_that_nobody_notices_is_caught() {
    let by = ["standstill_judges_nobody"];
    assert_caught(PlantedBug::StallUnnoticed, "suspended", &by);
}

#[test]
fn a_helpers_word_that_counts_as_its_silence_is_caught() {
    assert_caught(PlantedBug::NackIgnored, "cascade", &["timely_detection"]);
}

#[test]
fn a_node_that_never_doubts_itself_is_caught() {
    let by = ["bystanders_are_trusted"];
    assert_caught(PlantedBug::LocalHealthOff, "bad_link", &by);
}

#[test]
fn a_suspect_that_nobody_warns_is_caught() {
    let by = ["no_false_death", "no_live_node_stays_dead"];
    assert_caught(PlantedBug::NoBuddy, "bad_link", &by);
}

/// The same for a bug in the lease protocol, in a scenario of agreement.
fn assert_lease_bug_caught(bug: agreement::PlantedBug, name: &str, by: &[&str]) {
    let scenario = agreement::find(name).expect("it is shipped");
    let caught = (0..SEEDS).find_map(|seed| {
        let violation = agreement::run_with_bug(&scenario, seed, bug).violation?;
        Some((seed, violation))
    });
    let Some((seed, violation)) = caught else {
        panic!("{bug:?} was not caught by {name} in {SEEDS} seeds");
    };
    println!("{bug:?}: caught by {name} with seed {seed}: {violation}");
    assert!(by.contains(&violation.invariant), "by {violation}");
    let without = agreement::run(&scenario, seed).violation;
    assert_eq!(
        without, None,
        "{name} fails with seed {seed} without the bug too"
    );
}

#[test]
fn a_gate_that_is_refreshed_until_the_lease_ends_is_caught() {
    let bug = agreement::PlantedBug::GateRefreshedTooLate;
    assert_lease_bug_caught(bug, "holder_cut_off", &["one_gate"]);
}

#[test]
fn a_voter_that_acknowledges_what_it_closed_is_caught() {
    let bug = agreement::PlantedBug::AckAfterClose;
    assert_lease_bug_caught(bug, "holder_stalls", &["one_gate"]);
}

#[test]
fn a_voter_that_forgets_in_a_restart_what_it_promised_is_caught() {
    let bug = agreement::PlantedBug::NoQuarantine;
    assert_lease_bug_caught(bug, "voters_forget", &["one_gate"]);
}

#[test]
fn a_voter_that_acknowledges_any_epoch_is_caught() {
    let bug = agreement::PlantedBug::EpochIgnored;
    assert_lease_bug_caught(bug, "holder_cut_off", &["one_gate"]);
}
