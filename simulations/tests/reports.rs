//! Claims about reports.

use std::time::Duration;

use simulations::{
    Scenario,
    report::{Asked, Report},
    run,
    scenario::find,
};

fn report(scenario: &Scenario) -> Report {
    let outcomes: Vec<_> = (3..5).map(|seed| run(scenario, seed).outcome).collect();
    let asked = Asked {
        scenario: "mine.toml".into(),
        nodes: Some(scenario.nodes),
    };
    Report::new(scenario, &asked, &outcomes, Duration::from_secs(1))
}

#[test]
fn a_report_has_the_figures_of_all_runs() {
    let report = report(&find("one_crash").unwrap());
    let known = report.detection_ms.unwrap();
    // Nine observers in each of two runs.
    assert_eq!(known.count, 18);
    assert!(known.min <= known.p50 && known.p50 <= known.p99 && known.p99 <= known.max);
    assert_eq!(
        (report.seeds, report.first_seed, report.runs.len()),
        (2, 3, 2)
    );
    assert_eq!(report.violations, []);
    assert_eq!(report.faults[0].hits, 2);
    assert!(report.bytes_per_second.calm > 0);
    assert!(
        report
            .timeline
            .iter()
            .any(|line| line.what.contains("held dead by all 9"))
    );
}

#[test]
fn a_broken_run_is_told_with_the_command_that_shows_it_again() {
    let mut scenario = find("one_crash").unwrap();
    scenario.bounds.detection_max = Some(Duration::from_millis(1));
    let report = report(&scenario);
    let broken = &report.violations[0];
    assert_eq!(broken.invariant, "timely_detection");
    assert_eq!(
        broken.replay,
        "shoal sim replay mine.toml --seed 3 --nodes 10"
    );
    assert!(report.html().contains(&broken.replay));
}

#[test]
fn a_page_needs_nothing_else_and_takes_nothing_from_a_scenario_for_markup() {
    let mut scenario = find("one_crash").unwrap();
    scenario.about = "<script>alert('x')</script>".into();
    let page = report(&scenario).html();
    for foreign in ["<script", "http://", "https://", "src=", "@import", "url("] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert_eq!(page.matches("<svg").count(), 3);
    assert_eq!(
        page.matches("<section").count(),
        page.matches("</section>").count()
    );
}
