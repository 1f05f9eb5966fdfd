//! Claims about virtual IPs' leases, Raft and the membership in one simulated world.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use simulations::{
    Distribution,
    agreement::{
        Outcome, Report, Scenario,
        fault::{Moment, What},
        find, run, shipped,
    },
    report::Asked,
    run_agreement_seeds,
};

/// Failovers in an ordinary test run.
const FAILOVERS: u64 = 10_000;
/// Seeds of a scenario in one round: more of those whose failovers are cheap.
const SEEDS_CHEAP: u64 = 12;
const SEEDS: u64 = 2;
/// Of the scenario in which leases' voters change, beside those of the rounds.
const SEEDS_OF_CHANGES: Range<u64> = 1_000..1_008;
/// How often a lease must have left a voter in them, and how many must have died meanwhile.
const LEFT_LEAST: u64 = 100;
const DIED_LEAST: u64 = 40;
/// Of the scenario in which leaders die and holders do not, beside those of the rounds.
const SEEDS_OF_LEADERS: Range<u64> = 1_000..1_004;
/// A scenario is cheap if its faults come at least so often.
const CHEAP_TIMES: u32 = 30;

fn told(outcome: &Outcome) -> String {
    let story = outcome.story.iter();
    let lines = story.map(|line| format!("{:>8} ms  {}\n", line.at_ms, line.what));
    lines.collect()
}

/// The shipped scenarios that have virtual IPs.
fn with_leases() -> Vec<(&'static str, Scenario)> {
    let all = shipped()
        .iter()
        .map(|one| (one.name, find(one.name).expect("it is shipped")));
    all.filter(|(_, scenario)| scenario.leases.is_some())
        .collect()
}

/// How many seeds of a scenario one round has.
fn seeds(scenario: &Scenario) -> u64 {
    let most = scenario.faults.iter().map(|fault| fault.times).max();
    if scenario.servers == 3 && most >= Some(CHEAP_TIMES) {
        SEEDS_CHEAP
    } else {
        SEEDS
    }
}

fn count(all: &Distribution) -> u64 {
    all.percentiles().map_or(0, |all| all.count)
}

#[test]
fn leases_pass_to_other_voters_while_holders_and_leaders_die_in_the_middle_of_it() {
    let scenario = find("voters_change").unwrap();
    let mut outages = Distribution::default();
    let (mut left, mut died) = (0, 0);
    for outcome in run_agreement_seeds(&scenario, SEEDS_OF_CHANGES, |_| {}) {
        let story = || format!("seed {}\n{}", outcome.seed, told(&outcome));
        assert_eq!(outcome.violation, None, "{}", story());
        outages.merge(&outcome.outages);
        for (fault, hits) in scenario.faults.iter().zip(&outcome.hits) {
            left += u64::from(matches!(fault.what, What::Retire { .. })) * hits;
            died += u64::from(fault.on == Some(Moment::Joint)) * hits;
        }
    }
    println!(
        "{left} times a lease left a voter, {died} holders and leaders died meanwhile: outages {:?}",
        outages.percentiles()
    );
    assert!(left >= LEFT_LEAST && died >= DIED_LEAST);
}

#[test]
fn a_leader_that_dies_alone_takes_no_virtual_ip_from_its_holder() {
    let scenario = find("leader_dies_alone").unwrap();
    for outcome in run_agreement_seeds(&scenario, SEEDS_OF_LEADERS, |_| {}) {
        let story = || format!("seed {}\n{}", outcome.seed, told(&outcome));
        assert_eq!(outcome.violation, None, "{}", story());
        assert_eq!(count(&outcome.outages), 0, "it moved: {}", story());
        let mut died = 0;
        for (fault, hits) in scenario.faults.iter().zip(&outcome.hits) {
            died += u64::from(matches!(fault.what, What::Crash { .. })) * hits;
        }
        println!(
            "seed {}: {died} leaders died, elections took {:?}, the holder's gate lapsed {} times",
            outcome.seed,
            outcome.failovers.percentiles(),
            count(&outcome.lapses)
        );
        assert_eq!(died, 20, "{}", story());
    }
}

#[test]
fn in_ten_thousand_failovers_no_two_gates_of_a_virtual_ip_are_open_at_one_true_time() {
    let begun = Instant::now();
    let scenarios = with_leases();
    let mut outages = vec![Distribution::default(); scenarios.len()];
    let mut rounds = 0;
    while outages.iter().map(count).sum::<u64>() < FAILOVERS {
        for ((name, scenario), outages) in scenarios.iter().zip(&mut outages) {
            let seeds = seeds(scenario);
            let seeds = rounds * seeds..(rounds + 1) * seeds;
            for outcome in run_agreement_seeds(scenario, seeds, |_| {}) {
                outages.merge(&outcome.outages);
                let seed = outcome.seed;
                let story = || format!("{name}, seed {seed}\n{}", told(&outcome));
                assert_eq!(outcome.violation, None, "{}", story());
            }
        }
        rounds += 1;
    }
    let mut all = Distribution::default();
    for ((name, _), outages) in scenarios.iter().zip(&outages) {
        println!("{name:<24} {:?}", outages.percentiles());
        all.merge(outages);
    }
    println!(
        "{} failovers in {rounds} rounds of {} scenarios, {:.1} s: outages {:?}",
        count(&all),
        scenarios.len(),
        begun.elapsed().as_secs_f64(),
        all.percentiles()
    );
}

#[test]
fn the_same_seed_gives_the_same_run_of_leases_and_another_seed_another() {
    for name in ["lease_storm", "holder_stalls"] {
        let scenario = find(name).unwrap();
        let [one, again, other] = [1, 1, 2].map(|seed| run(&scenario, seed));
        assert_eq!(one, again, "{name}");
        assert_ne!(one.trace, other.trace, "{name}");
    }
}

#[test]
fn a_fault_for_holders_where_there_are_none_is_refused() {
    let text = "name = \"mine\"\nkind = \"agreement\"\nservers = 3\n[[fault]]\nkind = \"crash\"\n\
                targets = \"holder\"\n";
    let error = Scenario::parse(text).unwrap_err();
    let told = "the fault crash at 0 s is about virtual IPs, and the scenario has none";
    assert_eq!(error.to_string(), told);
    let lost = format!("{text}disk = \"lost\"\n[leases]\n");
    let error = Scenario::parse(&lost).unwrap_err();
    assert!(error.hint().contains("leave `disk` out"), "{error}");
}

#[test]
fn a_report_plots_how_long_nobody_held_a_virtual_ip() {
    let scenario = find("holder_dies").unwrap();
    let outcomes = [run(&scenario, 3)];
    let asked = Asked {
        scenario: "holder_dies".into(),
        nodes: None,
    };
    let report = Report::new(&scenario, &asked, &outcomes, Duration::from_secs(1));
    let outages = report.outage_ms.expect("holders died");
    assert!(outages.count > 20, "{outages:?}");
    assert_eq!(report.runs[0].outage_ms_max, Some(outages.max));
    let page = report.html();
    assert!(page.contains("How long a virtual IP is held by nobody"));
    assert_eq!(page.matches("<svg").count(), 3);
}
