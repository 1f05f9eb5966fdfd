//! Claims about K3s clusters in the simulated world.

#![expect(
    clippy::print_stdout,
    reason = "how much happened, and which invariant caught which bug, is worth reading"
)]

use std::time::Instant;

use simulations::{
    clusters::{Counts, Outcome, PlantedBug, Scenario, find, run, shipped},
    run_cluster_seeds,
};

/// Seeds of each scenario in an ordinary test run.
const SEEDS: u64 = 150;
/// Seeds within which a bug must be caught, and how many are run at a time.
const SEEDS_OF_BUGS: u64 = 640;
const SEEDS_AT_A_TIME: usize = 32;

fn told(outcome: &Outcome) -> String {
    let story = outcome.story.iter();
    let lines = story.map(|line| format!("{:>8} ms  {}\n", line.at_ms, line.what));
    lines.collect()
}

#[test]
fn every_shipped_scenario_of_clusters_holds() {
    let mut all = Counts::default();
    let (begun, mut runs) = (Instant::now(), 0);
    for one in shipped() {
        let scenario = &find(one.name).unwrap();
        let mut counts = Counts::default();
        let mut longest = std::time::Duration::ZERO;
        let since = Instant::now();
        for outcome in run_cluster_seeds(scenario, None, 0..SEEDS, |_| {}) {
            counts.add(&outcome.counts);
            longest = longest.max(outcome.settled_after.unwrap_or_default());
            runs += 1;
            let (name, seed) = (one.name, outcome.seed);
            let story = || format!("{name}, seed {seed}\n{}", told(&outcome));
            assert_eq!(outcome.violation, None, "{}", story());
        }
        println!(
            "{:<24} {:>5.1} s  settled after {:>5.1} s at most, {counts:?}",
            one.name,
            since.elapsed().as_secs_f64(),
            longest.as_secs_f64()
        );
        all.add(&counts);
    }
    println!(
        "{runs} runs in {:.1} s: {all:?}",
        begun.elapsed().as_secs_f64()
    );
    // A laboratory in which nothing happens proves nothing.
    let happened = [
        ("founded", all.founded),
        ("ready", all.ready),
        ("tokens", all.tokens),
        ("left", all.left),
        ("lost", all.lost),
        ("failed", all.failed),
        ("rollouts", all.rollouts),
        ("pod_prefixes", all.pod_prefixes),
        ("mid_step", all.mid_step),
        ("idle", all.idle),
    ];
    for (what, count) in happened {
        assert!(count >= 50, "{what}: {count} times");
    }
    for (phase, count) in all.struck.by_phase() {
        assert!(count > 0, "nothing was struck that was {phase}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run_of_clusters_and_another_seed_another() {
    let scenario = find("clusters_storm").unwrap();
    let [one, again, other] = [1, 1, 2].map(|seed| run(&scenario, seed));
    assert_eq!(one, again);
    assert_ne!(one.trace, other.trace);
}

#[test]
fn a_shipped_file_is_named_after_its_scenario_and_an_unknown_one_is_refused() {
    for one in shipped() {
        let scenario = find(one.name).unwrap();
        assert_eq!(scenario.name, one.name);
        assert!(!scenario.about.is_empty());
    }
    let error = find("clusters_of_stars").unwrap_err();
    assert!(error.hint().contains("clusters_calm"), "{}", error.hint());
}

/// Runs seeds until the bug breaks one of the invariants, then the same seed without the bug.
fn assert_caught(bug: PlantedBug, name: &str, by: &[&str]) {
    let scenario: Scenario = find(name).expect("it is shipped");
    let caught = (0..SEEDS_OF_BUGS)
        .step_by(SEEDS_AT_A_TIME)
        .find_map(|from| {
            let seeds = from..from + SEEDS_AT_A_TIME as u64;
            let outcomes = run_cluster_seeds(&scenario, Some(bug), seeds, |_| {});
            let mut broken = outcomes.into_iter();
            broken.find_map(|outcome| Some((outcome.seed, outcome.violation?)))
        });
    let Some((seed, violation)) = caught else {
        panic!("{bug:?} was not caught by {name} in {SEEDS_OF_BUGS} seeds");
    };
    println!("{bug:?}: caught by {name} with seed {seed}: {violation}");
    assert!(by.contains(&violation.invariant), "by {violation}");
    let without = run(&scenario, seed).violation;
    assert_eq!(
        without, None,
        "{name} fails with seed {seed} without it too"
    );
}

/// A change of settings alone, beside the upgrades of the scenario that is about them.
#[test]
fn a_pod_prefix_that_a_server_takes_out_of_its_turn_is_caught() {
    let bug = PlantedBug::ChangedOutOfTurn;
    assert_caught(bug, "clusters_pod_prefix", &["turns"]);
}

#[test]
fn every_planted_bug_in_clusters_is_caught() {
    for bug in PlantedBug::ALL {
        let (name, by): (&str, &[&str]) = match bug {
            PlantedBug::FoundsAgain => ("clusters_disk_lost", &["one_bootstrap"]),
            PlantedBug::AttemptIgnored => ("clusters_quick_changes", &["right_token"]),
            PlantedBug::InstallForgotten => ("clusters_shoald_killed", &["installs_once"]),
            PlantedBug::SecretsMadeAnew => ("clusters_shoald_killed", &["installs_once"]),
            PlantedBug::NamesNotForgotten => ("clusters_disk_lost", &["ends"]),
            PlantedBug::NothingCleaned => ("clusters_calm", &["leaves_first", "ends"]),
            PlantedBug::ChangedOutOfTurn => ("clusters_upgrades", &["turns"]),
            PlantedBug::ReportsOfEarlierStays => (
                "clusters_quick_changes",
                &["ends", "leaves_first", "right_token", "one_bootstrap"],
            ),
        };
        assert_caught(bug, name, by);
    }
}
