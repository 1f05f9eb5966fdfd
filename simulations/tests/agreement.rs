//! Claims about whole groups of real servers in the simulated world.

use std::time::{Duration, Instant};

use simulations::agreement::{
    Outcome, Scenario,
    fault::{Disk, Fault, Target, What},
    find, run, shipped,
};

/// Seeds of each scenario in an ordinary test run.
const SEEDS: u64 = 2;
/// Runs in which disks lie: a power cut does not always take something along.
const SEEDS_OF_LIES: u64 = 4;

fn told(outcome: &Outcome) -> String {
    let story = outcome.story.iter();
    let lines = story.map(|line| format!("{:>8} ms  {}\n", line.at_ms, line.what));
    lines.collect()
}

#[test]
fn every_shipped_scenario_of_agreement_holds() {
    for one in shipped() {
        let scenario = find(one.name).unwrap();
        if scenario.leases.is_some() {
            // Many more seeds of these: tests/leases.rs.
            continue;
        }
        for seed in 0..SEEDS {
            let begun = Instant::now();
            let outcome = run(&scenario, seed);
            println!(
                "{:<16} {seed} {:>6.1} s in {:>5.2} s  failovers {:?} writes {:?} {:?} healed {:?} \
                 hits {:?} messages {}",
                one.name,
                outcome.simulated.as_secs_f64(),
                begun.elapsed().as_secs_f64(),
                outcome.failovers.percentiles(),
                outcome.writes.percentiles(),
                outcome.counts,
                outcome.healed_after,
                outcome.hits,
                outcome.messages,
            );
            if outcome.violation.is_some() {
                println!("{}", told(&outcome));
            }
            assert_eq!(outcome.violation, None, "{} {seed}", one.name);
        }
    }
}

#[test]
fn every_shipped_file_of_agreement_is_named_after_its_scenario_and_says_what_it_is_about() {
    for one in shipped() {
        let scenario = Scenario::parse(one.text).unwrap();
        assert_eq!(scenario.name, one.name);
        assert!(!scenario.about.is_empty(), "{}", one.name);
    }
}

#[test]
fn disks_that_say_they_synced_and_did_not_are_found_out() {
    let mut scenario = find("power_cut").unwrap();
    scenario.disks_lie = true;
    let broken: Vec<_> = (0..SEEDS_OF_LIES)
        .filter_map(|seed| run(&scenario, seed).violation)
        .collect();
    for violation in &broken {
        println!("{violation}");
    }
    assert!(broken.len() as u64 > SEEDS_OF_LIES / 2, "{broken:?}");
}

#[test]
fn one_server_of_two_is_no_majority_and_that_is_said() {
    let mut scenario = Scenario::calm("two", 2);
    let what = What::Crash {
        targets: Target::Index(vec![1]),
        disk: Disk::Kept,
    };
    scenario = scenario.with(Fault::once(Duration::ZERO, None, what));
    scenario.settle = Duration::from_secs(2);
    let outcome = run(&scenario, 3);
    let violation = outcome.violation.expect("nobody can write");
    assert_eq!(violation.invariant, "progress");
}

#[test]
fn a_fault_without_an_end_or_for_servers_that_are_not_there_is_refused() {
    let head = "name = \"mine\"\nkind = \"agreement\"\nservers = 3\n[[fault]]\n";
    for (fault, said) in [
        (
            "kind = \"stall\"\ntargets = \"leader\"\n",
            "line 5: a fault of kind `stall` needs `for_s`",
        ),
        (
            "kind = \"crash\"\ntargets = 4\n",
            "the fault crash at 0 s names 4 servers, and the mesh has 3 nodes",
        ),
        (
            "kind = \"kill\"\ntargets = 1\npercent = 3\n",
            "line 5: a fault of kind `kill` has no `percent`",
        ),
        (
            "kind = \"kill\"\ntargets = 1\nnodes = 3\n",
            "line 7: unknown field `nodes`",
        ),
    ] {
        let error = Scenario::parse(&format!("{head}{fault}")).unwrap_err();
        assert!(error.to_string().starts_with(said), "{error}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run_of_servers_and_another_seed_another() {
    for name in [
        "server_storm",
        "leader_stalls",
        "power_cut",
        "server_replaced",
    ] {
        let scenario = find(name).unwrap();
        let [one, again, other] = [1, 1, 2].map(|seed| run(&scenario, seed));
        assert_eq!(one, again, "{name}");
        assert_ne!(one.trace, other.trace, "{name}");
    }
}
