//! Claims about whole meshes of real membership cores.
//!
//! Each is run with several seeds. A failure names its seed; `SIM_SEED=… cargo test -p simulations
//! NAME` runs that one alone.

#![expect(
    clippy::print_stdout,
    reason = "the test's own output is where the reader of a failure looks"
)]

use std::time::Duration;

use overlay_core::membership::{Condition, Settings};
use simulations::{Change, Clocks, Disk, Nodes, Outcome, Run, Scenario, What, Worth, run};

/// The crash is suspected by then: one period until somebody probes, half a second for the direct
/// answer, half a second for the helpers', and as much again for the confirmations.
const SUSPECTED_BY: Duration = Duration::from_millis(2500);
const NOW: Duration = Duration::ZERO;

#[test]
fn a_crashed_node_is_agreed_dead_within_the_suspicion_bounds_whatever_the_size() {
    for (nodes, seeds) in [(3, 5), (10, 10), (50, 2)] {
        for_seeds(seeds, |seed| {
            let outcome = holds(&crash(nodes, None), seed).outcome;
            let known = outcome
                .detections
                .all
                .percentiles()
                .expect("all others know");
            let settings = Settings::lan();
            let least = settings.suspicion_min;
            assert!(known.min >= millis(least), "{known:?}");
            assert!(known.max <= millis(least + SUSPECTED_BY), "{known:?}");
            assert_eq!(outcome.detections.missed, 0);
        });
    }
}

#[test]
fn a_killed_process_is_detected_no_later_than_a_crashed_host() {
    for_seeds(5, |seed| {
        let what = What::Kill {
            nodes: Nodes::Count(1),
            disk: Disk::Kept,
        };
        let scenario = Scenario::calm("kill", 10).with(NOW, None, what);
        let killed = slowest(&holds(&scenario, seed).outcome);
        let crashed = Settings::lan().suspicion_min + SUSPECTED_BY;
        assert!(killed <= millis(crashed), "{killed}");
    });
}

#[test]
fn a_goodbye_is_known_to_all_within_a_tenth_of_a_second() {
    for nodes in [10, 50] {
        let what = What::Leave {
            nodes: Nodes::Count(1),
        };
        let scenario = Scenario::calm("leave", nodes).with(NOW, None, what);
        assert!(slowest(&holds(&scenario, 1).outcome) <= 100);
    }
}

#[test]
fn a_node_that_returns_is_alive_again_for_all_with_its_disk_and_without() {
    for_seeds(3, |seed| {
        // Back before anybody noticed, while suspected, and after it was held dead.
        for down in [200, 2500, 15_000] {
            for disk in [Disk::Kept, Disk::Lost] {
                let what = What::Crash {
                    nodes: Nodes::Count(1),
                    disk,
                };
                let down = Duration::from_millis(down);
                let scenario = Scenario::calm("restart", 10).with(NOW, Some(down), what);
                holds(&scenario, seed);
            }
        }
    });
}

#[test]
fn fifty_nodes_agree_again_after_a_split_and_nobody_is_held_dead_by_its_own_side() {
    let what = What::Cut {
        from: Nodes::Half,
        to: Nodes::Others,
    };
    let mut scenario = Scenario::calm("split", 50).with(NOW, Some(seconds(20)), what);
    scenario.settle = seconds(30);
    let run = holds(&scenario, 1);
    let side = |change: &&Change| change.observer % 2 == change.subject % 2;
    let same_side: Vec<_> = deaths(&run).filter(side).collect();
    assert_eq!(same_side, Vec::<&Change>::new());
    assert!(
        deaths(&run).count() > 0,
        "the other side was never given up"
    );
}

#[test]
fn a_node_that_hears_nobody_takes_nobody_with_it() {
    for_seeds(3, |seed| {
        let what = What::CutOneWay {
            from: Nodes::Index((1..10).collect()),
            to: Nodes::Index(vec![0]),
        };
        let mut scenario = Scenario::calm("deaf", 10).with(NOW, Some(seconds(30)), what);
        scenario.settle = seconds(30);
        let run = holds(&scenario, seed);
        let wrong: Vec<_> = deaths(&run)
            .filter(|change| change.observer != 0 && change.subject != 0)
            .collect();
        assert_eq!(wrong, Vec::<&Change>::new());
    });
}

#[test]
fn a_process_that_stands_still_judges_nobody_by_it() {
    for_seeds(3, |seed| {
        for span in [900, 2000, 20_000] {
            let what = What::Stall {
                nodes: Nodes::Index(vec![0]),
            };
            let span = Duration::from_millis(span);
            let mut scenario = Scenario::calm("stall", 10).with(NOW, Some(span), what);
            scenario.settle = seconds(20);
            let run = holds(&scenario, seed);
            let wrong: Vec<_> = deaths(&run).filter(|change| change.subject != 0).collect();
            assert_eq!(wrong, Vec::<&Change>::new());
        }
    });
}

#[test]
fn every_twentieth_message_lost_kills_nobody() {
    for_seeds(5, |seed| {
        let run = holds(&crash(10, None).losing(50_000), seed);
        let wrong: Vec<_> = deaths(&run)
            .filter(|change| change.worth != Worth::True)
            .collect();
        assert_eq!(wrong, Vec::<&Change>::new());
    });
}

#[test]
fn clocks_that_differ_and_drift_change_nothing() {
    for_seeds(3, |seed| {
        let mut scenario = crash(10, None);
        scenario.clocks = Clocks {
            skew_max: seconds(3600),
            drift_ppm_max: 1000,
        };
        let run = holds(&scenario, seed);
        assert!(run.world.clocks_are_off());
        let bound = Settings::lan().suspicion_min + SUSPECTED_BY;
        assert!(slowest(&run.outcome) <= millis(bound));
    });
}

#[test]
fn a_fault_that_hits_nothing_fails_its_run() {
    let what = What::CutOneWay {
        from: Nodes::Index(vec![0]),
        to: Nodes::Index(vec![0]),
    };
    let scenario = Scenario::calm("nothing", 3).with(NOW, Some(seconds(5)), what);
    let violation = run(&scenario, 0).outcome.violation.expect("it is told");
    assert_eq!(violation.invariant, "faults_hit");
}

#[test]
fn after_any_storm_the_mesh_comes_together() {
    let mut scenario = Scenario::calm("storm", 7);
    scenario = scenario.with(NOW, Some(seconds(40)), What::Storm { count: 20 });
    scenario.settle = seconds(60);
    scenario.bounds.false_deaths_max = u64::MAX;
    scenario.bounds.stale_death_max = seconds(30);
    for_seeds(20, |seed| {
        holds(&scenario, seed);
    });
}

fn crash(nodes: usize, lasts: Option<Duration>) -> Scenario {
    let what = What::Crash {
        nodes: Nodes::Count(1),
        disk: Disk::Kept,
    };
    Scenario::calm("crash", nodes).with(NOW, lasts, what)
}

fn holds(scenario: &Scenario, seed: u64) -> Run {
    let run = run(scenario, seed);
    let violation = &run.outcome.violation;
    assert!(
        violation.is_none(),
        "{} seed {seed}: {violation:?}",
        scenario.name
    );
    run
}

fn slowest(outcome: &Outcome) -> u64 {
    let known = outcome.detections.each.percentiles();
    known.expect("somebody knows").max
}

fn deaths(run: &Run) -> impl Iterator<Item = &Change> {
    let changes = run.world.history().changes().iter();
    changes.filter(|change| change.condition == Condition::Dead)
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).expect("no span here is that long")
}

/// The seed in `SIM_SEED` alone, or the first `count`.
fn for_seeds(count: u64, claim: impl Fn(u64)) {
    let chosen: Option<u64> = std::env::var("SIM_SEED")
        .ok()
        .map(|text| text.parse().expect("SIM_SEED is a number"));
    for seed in chosen.map_or(0..count, |seed| seed..seed + 1) {
        println!("SIM_SEED={seed}");
        claim(seed);
    }
}
