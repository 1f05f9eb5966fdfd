//! Claims about whole meshes of real membership cores.
//!
//! Each is run with several seeds. A failure names its seed; `SIM_SEED=… cargo test -p simulations
//! NAME` runs that one alone.

use std::time::Duration;

use consensus_core::Time;
use overlay_core::membership::{Condition, Settings};
use simulations::{
    Change, Detection, Distribution, NetworkPlan, Outcome, Scenario, run,
    scenarios::{
        CALM, deaf_node, flapping_link, leave, one_crash, one_kill, one_way_cut, random_faults,
        restart, split_in_half, stall,
    },
};

/// The crash is suspected by then: one period until somebody probes, half a second for the direct
/// answer, half a second for the helpers', and as much again for the confirmations.
const SUSPECTED_BY: Duration = Duration::from_millis(2500);

#[test]
fn the_same_seed_gives_the_same_history_and_another_seed_another() {
    let trace = |seed| outcome(&random_faults(10, seed), seed).trace;
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1), trace(2));
}

#[test]
fn a_crashed_node_of_ten_is_agreed_dead_within_the_suspicion_bounds() {
    for_seeds(10, |seed| {
        let outcome = outcome(&one_crash(10), seed);
        let by_all = detection(&outcome)
            .by_all()
            .expect("all others hold it dead");
        let settings = Settings::lan();
        assert!(by_all >= settings.suspicion_min, "{by_all:?}");
        assert!(
            by_all <= settings.suspicion_min + SUSPECTED_BY,
            "{by_all:?}"
        );
        assert_eq!(deaths_of_others(&outcome, &[0]), []);
    });
}

#[test]
fn a_crashed_node_of_fifty_is_agreed_dead_within_the_suspicion_bounds() {
    for_seeds(2, |seed| {
        let outcome = outcome(&one_crash(50), seed);
        let by_all = detection(&outcome)
            .by_all()
            .expect("all others hold it dead");
        assert!(
            by_all <= Settings::lan().suspicion_min + SUSPECTED_BY,
            "{by_all:?}"
        );
        assert_eq!(deaths_of_others(&outcome, &[0]), []);
    });
}

#[test]
fn a_killed_process_is_detected_no_later_than_a_crashed_host() {
    for_seeds(5, |seed| {
        let killed = detection(&outcome(&one_kill(10), seed)).by_all().unwrap();
        assert!(
            killed <= Settings::lan().suspicion_min + SUSPECTED_BY,
            "{killed:?}"
        );
    });
}

#[test]
fn a_goodbye_is_known_to_all_within_a_tenth_of_a_second() {
    for nodes in [10, 50] {
        let by_all = detection(&outcome(&leave(nodes), 1)).by_all().unwrap();
        assert!(by_all <= Duration::from_millis(100), "{by_all:?}");
    }
}

#[test]
fn a_node_that_returns_is_alive_again_for_all() {
    for_seeds(4, |seed| {
        // Back before anybody noticed, while suspected, and after it was held dead.
        for down in [200, 2500, 15_000] {
            let outcome = outcome(&restart(10, Duration::from_millis(down)), seed);
            assert_eq!(deaths_of_others(&outcome, &[0]), []);
        }
    });
}

#[test]
fn a_split_mesh_agrees_again_after_it_is_mended() {
    for_seeds(5, |seed| {
        outcome(&split_in_half(10, Duration::from_secs(30)), seed);
    });
}

#[test]
fn fifty_nodes_agree_again_after_a_split() {
    let outcome = outcome(&split_in_half(50, Duration::from_secs(20)), 1);
    let side = |change: &&Change| change.observer % 2 == change.subject % 2;
    let same_side: Vec<_> = deaths(&outcome).filter(side).collect();
    assert_eq!(same_side, Vec::<&Change>::new());
}

#[test]
fn a_link_that_carries_one_direction_only_raises_no_suspicion() {
    for_seeds(5, |seed| {
        assert_eq!(suspicions(&outcome(&one_way_cut(10), seed)), []);
    });
}

#[test]
fn a_flapping_link_raises_no_suspicion() {
    for_seeds(5, |seed| {
        assert_eq!(suspicions(&outcome(&flapping_link(10), seed)), []);
    });
}

#[test]
fn a_node_that_hears_nobody_takes_nobody_with_it() {
    for_seeds(5, |seed| {
        let outcome = outcome(&deaf_node(10, Duration::from_secs(30)), seed);
        let wrong: Vec<_> = deaths(&outcome)
            .filter(|change| change.observer != 0 && change.subject != 0)
            .collect();
        assert_eq!(wrong, Vec::<&Change>::new());
    });
}

#[test]
fn a_process_that_stands_still_judges_nobody_and_is_back_soon() {
    for_seeds(4, |seed| {
        for span in [900, 2500, 20_000] {
            let outcome = outcome(&stall(10, Duration::from_millis(span)), seed);
            assert_eq!(deaths_of_others(&outcome, &[0]), []);
        }
    });
}

#[test]
fn two_seconds_of_standstill_cost_nobody_its_life() {
    for_seeds(5, |seed| {
        let outcome = outcome(&stall(10, Duration::from_secs(2)), seed);
        assert_eq!(deaths_of_others(&outcome, &[]), []);
    });
}

#[test]
fn every_twentieth_message_lost_kills_nobody() {
    for_seeds(5, |seed| {
        let outcome = outcome(&one_crash(10).over(NetworkPlan::lossy(50)), seed);
        assert_eq!(deaths_of_others(&outcome, &[0]), []);
    });
}

#[test]
fn after_any_storm_the_mesh_comes_together() {
    for_seeds(50, |seed| {
        outcome(&random_faults(7, seed), seed);
    });
}

#[test]
fn detection_times_of_ten_nodes_are_reported() {
    for suspicion_min in [3, 5] {
        let settings = Settings {
            suspicion_min: Duration::from_secs(suspicion_min),
            ..Settings::lan()
        };
        let scenario = one_crash(10).with(settings);
        let detections: Vec<_> = seeds(10)
            .map(|seed| detection(&outcome(&scenario, seed)))
            .collect();
        let each = detections
            .iter()
            .flat_map(|one| one.after.iter().flatten().copied());
        let last = detections.iter().filter_map(Detection::by_all);
        println!(
            "suspicion from {suspicion_min} s: each observer {}",
            Distribution::new(each)
        );
        println!(
            "suspicion from {suspicion_min} s: the last one  {}",
            Distribution::new(last)
        );
    }
}

fn outcome(scenario: &Scenario, seed: u64) -> Outcome {
    run(scenario, seed).unwrap_or_else(|failure| {
        panic!(
            "{failure}\n{}",
            std::error::Error::source(&failure).expect("it has a source")
        )
    })
}

fn detection(outcome: &Outcome) -> Detection {
    Detection::of(&outcome.world, 0, Time::ZERO + CALM)
}

fn deaths(outcome: &Outcome) -> impl Iterator<Item = &Change> {
    outcome
        .world
        .changes()
        .iter()
        .filter(|change| change.condition == Condition::Dead)
}

fn suspicions(outcome: &Outcome) -> Vec<Change> {
    let changes = outcome.world.changes().iter();
    changes
        .filter(|change| change.condition >= Condition::Suspect)
        .copied()
        .collect()
}

/// Deaths of nodes that nothing was done to.
fn deaths_of_others(outcome: &Outcome, struck: &[usize]) -> Vec<Change> {
    deaths(outcome)
        .filter(|change| !struck.contains(&change.subject) && !struck.contains(&change.observer))
        .copied()
        .collect()
}

/// The seed in `SIM_SEED` alone, or the first `count`.
fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let chosen: Option<u64> = std::env::var("SIM_SEED")
        .ok()
        .map(|text| text.parse().expect("SIM_SEED is a number"));
    chosen.map_or(0..count, |seed| seed..seed + 1)
}

/// Runs a claim with many seeds; the replay line also follows a claim's own assertion.
fn for_seeds(count: u64, claim: impl Fn(u64)) {
    for seed in seeds(count) {
        let guard = Replay(seed);
        claim(seed);
        drop(guard);
    }
}

/// Says how to replay when the claim panics.
struct Replay(u64);

impl Drop for Replay {
    #[expect(
        clippy::print_stdout,
        reason = "the test's own output is where its reader looks"
    )]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let test = std::thread::current().name().unwrap_or("NAME").to_owned();
            println!(
                "replay: SIM_SEED={} cargo test -p simulations {test}",
                self.0
            );
        }
    }
}
