//! foca 2.0, another SWIM, as the oracle: the same scenarios over the same links.
//!
//! Claims: ours is never slower to agree, and never more often wrong about the living. Every pair
//! of runs shares the seed; figures are printed.

#![expect(
    clippy::print_stdout,
    reason = "the figures of the comparison are for whoever reads the test's output"
)]

mod network;
mod ours;
mod theirs;
mod world;

use std::time::Duration;

use network::{Blow, Course};
use ours::Ours;
use theirs::Theirs;
use world::{Detector, World, us};

/// Both have long agreed by then.
const CALM: Duration = Duration::from_secs(20);
/// Seeds of each comparison.
const SEEDS: u64 = 5;

#[test]
fn one_crash_is_agreed_on_no_later_than_by_foca() {
    for nodes in [3, 5, 10, 30, 100] {
        let course = course(nodes, 0, &[(0, Blow::Crash(1))], 40);
        compare(&format!("one crash of {nodes}"), &course, SEEDS);
    }
}

#[test]
fn a_crash_is_agreed_on_no_later_than_by_foca_when_messages_are_lost() {
    for permille in [50, 200] {
        let course = course(10, permille, &[(0, Blow::Crash(1))], 60);
        compare(
            &format!("one crash, {permille} permille lost"),
            &course,
            SEEDS,
        );
    }
}

#[test]
fn several_crashes_at_once_are_agreed_on_no_later_than_by_foca() {
    let blows: Vec<_> = (0..6).map(|node| (0, Blow::Crash(node))).collect();
    compare("6 of 30 crash", &course(30, 0, &blows, 60), SEEDS);
}

#[test]
fn a_restart_is_agreed_on_no_later_than_by_foca() {
    for down in [1000, 30_000] {
        let blows = [(0, Blow::Crash(1)), (down, Blow::Restart(1))];
        let course = course(10, 0, &blows, 60);
        compare(&format!("restart after {down} ms"), &course, SEEDS);
    }
}

#[test]
fn a_standstill_costs_no_more_lives_than_with_foca() {
    for span in [1000, 2000, 2500] {
        let stall = Blow::Stall(1, Duration::from_millis(span));
        let course = course(10, 0, &[(0, stall)], 90);
        let [ours, _] = compare(&format!("stands still {span} ms"), &course, SEEDS);
        assert_eq!(ours.false_deaths, 0);
    }
}

#[test]
fn who_stood_still_for_long_is_back_no_later_than_with_foca() {
    let span = Duration::from_secs(20);
    let blows = [(0, Blow::Stall(1, span)), (20_000, Blow::Mend)];
    compare("stands still 20 s", &course(10, 0, &blows, 90), SEEDS);
}

#[test]
fn loss_alone_costs_no_more_lives_than_with_foca() {
    for (nodes, permille) in [(10, 50), (10, 200), (30, 200), (100, 200)] {
        let course = course(nodes, permille, &[(0, Blow::Mend)], 60);
        let [ours, _] = compare(&format!("{nodes} with {permille} lost"), &course, 3);
        assert_eq!(ours.false_deaths, 0);
    }
}

#[test]
fn a_link_of_one_direction_costs_no_more_lives_than_with_foca() {
    let blows = [(0, Blow::Cut(0, 1)), (30_000, Blow::Mend)];
    let [ours, _] = compare("one-way cut", &course(10, 0, &blows, 60), SEEDS);
    assert_eq!(ours.false_deaths, 0);
}

#[test]
fn a_flapping_link_costs_no_more_lives_than_with_foca() {
    let flap = |turn: u64| {
        let blows = [Blow::Cut(0, 1), Blow::Cut(1, 0)];
        let mended = [Blow::Mend; 2];
        let blows = if turn.is_multiple_of(2) {
            blows
        } else {
            mended
        };
        blows.map(|blow| (2000 * turn, blow))
    };
    let blows: Vec<_> = (0..20).flat_map(flap).collect();
    let [ours, _] = compare("flapping link", &course(10, 0, &blows, 30), SEEDS);
    assert_eq!(ours.false_deaths, 0);
}

#[test]
fn a_split_is_healed_no_later_than_by_foca() {
    for nodes in [10, 30] {
        let blows = [(0, Blow::Split), (30_000, Blow::Mend)];
        let course = course(nodes, 0, &blows, 200);
        compare(&format!("split of {nodes}"), &course, 3);
    }
}

/// What one kind of detector made of a course, over all seeds.
#[derive(Debug, Clone, Copy, Default)]
struct Made {
    /// The longest time from the last blow until all agreed.
    agreed: Duration,
    false_deaths: usize,
}

/// Runs both; ours must do no worse in any single run.
fn compare(name: &str, course: &Course, seeds: u64) -> [Made; 2] {
    let mut made = [Made::default(); 2];
    for seed in 0..seeds {
        let (ours, theirs) = (judge::<Ours>(course, seed), judge::<Theirs>(course, seed));
        let ours = ours.unwrap_or_else(|| panic!("{name}, seed {seed}: ours never agreed"));
        if let Some(theirs) = theirs {
            assert!(
                ours.agreed <= theirs.agreed,
                "{name}, seed {seed}: {ours:?}, foca {theirs:?}"
            );
            assert!(
                ours.false_deaths <= theirs.false_deaths,
                "{name}, seed {seed}: {ours:?}, foca {theirs:?}"
            );
            made[1].agreed = made[1].agreed.max(theirs.agreed);
            made[1].false_deaths += theirs.false_deaths;
        } else {
            made[1].agreed = Duration::MAX;
        }
        made[0].agreed = made[0].agreed.max(ours.agreed);
        made[0].false_deaths += ours.false_deaths;
    }
    let [ours, theirs] = made;
    println!(
        "{name}: agreed after at most {:.2?}, {} false deaths; foca {}, {} false deaths",
        ours.agreed,
        ours.false_deaths,
        shown(theirs.agreed),
        theirs.false_deaths
    );
    made
}

fn shown(agreed: Duration) -> String {
    if agreed == Duration::MAX {
        "not within the run".to_owned()
    } else {
        format!("{agreed:.2?}")
    }
}

/// `None` when the mesh did not agree by the end.
fn judge<D: Detector>(course: &Course, seed: u64) -> Option<Made> {
    let world = World::<D>::run(course, seed);
    let last = course.blows.last().map_or(CALM, |(at, _)| *at);
    Some(Made {
        agreed: Duration::from_micros(world.agreed_at?.saturating_sub(us(last))),
        false_deaths: world.false_deaths(),
    })
}

/// A course whose blows are in milliseconds after the calm; it ends so many seconds after the last.
fn course(nodes: usize, loss_permille: u64, blows: &[(u64, Blow)], rest: u64) -> Course {
    let at = |ms: u64| CALM + Duration::from_millis(ms);
    let blows: Vec<_> = blows.iter().map(|(ms, blow)| (at(*ms), *blow)).collect();
    let last = blows.last().map_or(CALM, |(at, _)| *at);
    Course {
        nodes,
        loss_permille,
        blows,
        end: last + Duration::from_secs(rest),
    }
}
