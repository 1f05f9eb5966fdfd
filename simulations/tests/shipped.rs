//! Claims about the scenarios that come with shoal.

use simulations::{
    Scenario, run, run_seeds,
    scenario::{find, shipped},
};

/// Seeds of each scenario in an ordinary test run; large meshes have one.
const SEEDS: u64 = 2;
const LARGE_NODES: usize = 50;

#[test]
fn every_shipped_scenario_holds() {
    for one in shipped() {
        let scenario = find(one.name).unwrap();
        let seeds = if scenario.nodes > LARGE_NODES {
            1
        } else {
            SEEDS
        };
        for outcome in run_seeds(&scenario, 0..seeds, |_| {}) {
            assert_eq!(outcome.violation, None, "{} {}", one.name, outcome.seed);
        }
    }
}

#[test]
fn every_shipped_file_is_named_after_its_scenario_and_says_what_it_is_about() {
    for one in shipped() {
        let scenario = Scenario::parse(one.text).unwrap();
        assert_eq!(scenario.name, one.name);
        assert!(!scenario.about.is_empty(), "{}", one.name);
    }
}

#[test]
fn the_same_seed_gives_the_same_history_and_another_seed_another() {
    for name in ["storm", "wan", "rolling_restart", "slow_disk"] {
        let scenario = find(name).unwrap();
        let [one, again, other] = [1, 1, 2].map(|seed| run(&scenario, seed).outcome);
        assert_eq!(one, again, "{name}");
        assert_ne!(one.trace, other.trace, "{name}");
    }
}

#[test]
fn the_outcomes_do_not_depend_on_what_else_runs_at_the_same_time() {
    let scenario = find("storm").unwrap();
    let together = run_seeds(&scenario, 0..4, |_| {});
    let alone: Vec<_> = (0..4).map(|seed| run(&scenario, seed).outcome).collect();
    assert_eq!(together, alone);
}
