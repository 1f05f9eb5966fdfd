//! What a client is told holds, whatever goes wrong: whole groups in a simulated world, their
//! histories checked for linearizability, and the harness itself proven by planted bugs.
//!
//! `SHOAL_SEEDS=10000` runs more seeds; a failing one prints how to run it alone. Ten times as
//! fast with `--profile simulation`. `docs/linearizability.md` says what is simulated and what is
//! real.

#![expect(
    clippy::print_stdout,
    reason = "the figures of a run are worth reading"
)]

mod harness;
mod histories;

use std::{collections::BTreeMap, time::Instant};

use consensus_raft::simulation::PlantedBug;
use harness::{
    bugs::Bug,
    judge::{Counts, Rule, Violation},
    run::{run, run_telling},
};

/// Seeds that every run of the tests covers.
const SEEDS: u64 = 200;
/// Seeds within which a planted bug must be caught.
const SEEDS_PER_BUG: u64 = 60;
/// Everything that a fault is to have hit, and every way of an operation that is to have happened,
/// at least once in all seeds together.
const MUST_HAPPEN: [&str; 22] = [
    "answer lost",
    "crash",
    "cut both ways",
    "cut one way",
    "leadership transferred",
    "learner promoted",
    "message lost",
    "message of a snapshot",
    "operation checked",
    "operation without an answer",
    "pause",
    "power cut that took writes",
    "power cut of everybody",
    "read on a follower",
    "read on a leader",
    "request doubled",
    "request repeated",
    "slow disk",
    "slow network",
    "voter demoted",
    "voter replaced",
    "write refused, nothing written",
];

fn seeds() -> u64 {
    let asked = std::env::var("SHOAL_SEEDS").ok();
    asked.map_or(SEEDS, |seeds| {
        seeds.parse().expect("SHOAL_SEEDS is a number")
    })
}

#[test]
fn what_clients_are_told_holds_whatever_goes_wrong() {
    let begun = Instant::now();
    let mut counts = Counts::new();
    let mut failures = Vec::new();
    for seed in 0..seeds() {
        let outcome = run(seed, None);
        for (what, times) in &outcome.counts {
            *counts.entry(what).or_default() += times;
        }
        if !outcome.violations.is_empty() {
            println!("{outcome}");
            failures.push(seed);
        }
    }
    println!("{} seeds in {:.1?}: {counts:#?}", seeds(), begun.elapsed());
    assert!(failures.is_empty(), "seeds {failures:?} failed, see above");
    let missing: Vec<_> = MUST_HAPPEN
        .into_iter()
        .filter(|what| !counts.contains_key(what))
        .collect();
    assert!(missing.is_empty(), "never happened: {missing:?}");
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_gives_another() {
    let mut traces = BTreeMap::new();
    for seed in 0..10 {
        let (one, two) = (run(seed, None), run(seed, None));
        assert_eq!(one.trace, two.trace, "seed {seed} had two courses");
        assert_eq!(one.counts, two.counts, "seed {seed} had two outcomes");
        traces.insert(one.trace, seed);
    }
    assert_eq!(traces.len(), 10);
    let (one, two) = (run_telling(10, None, true), run_telling(10, None, true));
    assert!(!one.events.is_empty());
    assert_eq!(one.events, two.events);
}

/// Runs seeds until the bug breaks one of the rules that it must break. It may break others too.
fn assert_caught(bug: Bug, by: &[Rule]) {
    for seed in 0..SEEDS_PER_BUG {
        let outcome = run(seed, Some(bug));
        let caught = |violation: &&Violation| by.contains(&violation.rule);
        if let Some(violation) = outcome.violations.iter().find(caught) {
            println!("{bug}: caught with seed {seed}, by {violation}");
            return;
        }
    }
    panic!("{bug} was not caught in {SEEDS_PER_BUG} seeds");
}

/// Something that was agreed or promised is gone.
const LOSS: [Rule; 4] = [
    Rule::SameEntries,
    Rule::Linearizable,
    Rule::VoteKept,
    Rule::OneLeader,
];

/// The same, or the store noticed it and refused to open.
const LOSS_OR_NOTICED: [Rule; 5] = [
    Rule::SameEntries,
    Rule::Linearizable,
    Rule::VoteKept,
    Rule::OneLeader,
    Rule::StoreOpens,
];

#[test]
fn a_disk_that_does_not_sync_is_caught() {
    assert_caught(Bug::SyncLies, &LOSS_OR_NOTICED);
}

#[test]
fn a_disk_that_forgets_one_sync_in_four_is_caught() {
    assert_caught(Bug::SyncLiesRarely, &LOSS_OR_NOTICED);
}

#[test]
fn a_request_carried_out_twice_is_caught() {
    assert_caught(Bug::AppliedTwice, &[Rule::Linearizable]);
}

#[test]
fn a_forgotten_request_id_is_caught() {
    assert_caught(Bug::RequestForgotten, &[Rule::Linearizable]);
}

#[test]
fn a_stale_read_presented_as_fresh_is_caught() {
    assert_caught(Bug::StaleRead, &[Rule::Linearizable]);
}

#[test]
fn a_follower_that_does_not_wait_for_the_read_index_is_caught() {
    assert_caught(Bug::ReadDoesNotWait, &[Rule::Linearizable]);
}

#[test]
fn an_answer_from_an_uncommitted_entry_is_caught() {
    assert_caught(Bug::UncommittedAnswer, &[Rule::Linearizable]);
}

#[test]
fn an_old_voter_on_a_new_disk_is_caught() {
    assert_caught(Bug::OldVoterReturns, &LOSS);
}

#[test]
fn a_vote_that_is_not_persisted_is_caught() {
    let by = [Rule::VoteKept, Rule::OneLeader];
    assert_caught(Bug::Inside(PlantedBug::VoteNotPersisted), &by);
}

#[test]
fn a_snapshot_installed_without_its_members_is_caught() {
    let by = [
        Rule::Recovers,
        Rule::SameEntries,
        Rule::StoreOpens,
        Rule::RaftRuns,
    ];
    assert_caught(Bug::Inside(PlantedBug::SnapshotWithoutMembers), &by);
}

#[test]
fn a_snapshot_that_counts_for_one_entry_more_is_caught() {
    let by = [Rule::SameEntries, Rule::Recovers, Rule::RaftRuns];
    assert_caught(Bug::Inside(PlantedBug::SnapshotCoversOneMore), &by);
}

#[test]
fn a_purge_before_the_snapshot_is_durable_is_caught() {
    let by = [Rule::StoreOpens];
    assert_caught(Bug::Inside(PlantedBug::PurgeBeforeSnapshot), &by);
}

#[test]
fn a_short_log_that_is_accepted_is_caught() {
    assert_caught(Bug::Inside(PlantedBug::ShortLogAccepted), &LOSS);
}

#[test]
fn a_read_that_no_majority_confirmed_is_caught() {
    let bug = Bug::Inside(PlantedBug::ReadWithoutMajority);
    assert_caught(bug, &[Rule::Linearizable]);
}
