//! Claims about a K3s that runs and is not ready.

use super::*;

/// What follows from so many failures of each of these codes, an hour later.
fn plan_after(host: &Host, failures: &[(&'static str, u32)]) -> Plan {
    let mut retries = Retries::default();
    retries.handle_start(Time::ZERO);
    for (code, count) in failures {
        for _ in 0..*count {
            retries.handle_failure(code, "it says why".into(), Time::ZERO);
        }
    }
    let observed = Observed {
        now: Time::ZERO + Duration::from_secs(3600),
        ..host.observed.clone()
    };
    plan(&host.desired, &observed, &files(), &retries)
}

/// One that was started and does not come up.
fn never_ready() -> Host {
    let mut host = Host::new(agent());
    host.run();
    host.falters();
    host.observed.was_ready = false;
    host
}

fn was_ready() -> Host {
    let mut host = never_ready();
    host.observed.was_ready = true;
    host
}

#[test]
fn a_k3s_that_never_gets_ready_is_restarted_in_the_end() {
    let host = never_ready();
    let step = |count| plan_after(&host, &[(NOT_READY, count)]).step;
    assert_eq!(step(1), Some(Step::Probe));
    assert_eq!(step(UNANSWERED_PROBES_MAX - 1), Some(Step::Probe));
    let restart = host.started_with().map(Step::Restart);
    assert_eq!(step(UNANSWERED_PROBES_MAX), restart);
}

#[test]
fn what_fails_for_another_reason_restarts_nothing() {
    let host = never_ready();
    let others = [("HostFileError", 7), ("K3sTokenMalformedError", 7)];
    assert_eq!(plan_after(&host, &others).step, Some(Step::Probe));
    let mixed = [("HostFileError", 7), (NOT_READY, UNANSWERED_PROBES_MAX - 1)];
    assert_eq!(plan_after(&host, &mixed).step, Some(Step::Probe));
}

#[test]
fn a_cluster_that_answers_nobody_for_hours_has_no_k3s_restarted() {
    let host = was_ready();
    let plan = plan_after(&host, &[(NOT_READY, 40)]);
    assert_eq!(plan.step, Some(Step::Probe));
    let Phase::Failed { code, reason, .. } = plan.phase else {
        panic!("{:?}", plan.phase);
    };
    assert_eq!((code, reason.as_str()), (NOT_READY, "it says why"));
    // Before that is known it is only not ready.
    assert_eq!(plan_after(&host, &[]).phase, Phase::Starting);
    // Nor is what else failed the reason.
    let other = plan_after(&host, &[("HostFileError", 1)]);
    assert_eq!(other.phase, Phase::Starting);
}

#[test]
fn a_k3s_that_was_ready_and_listens_no_more_is_restarted_with_what_it_had() {
    let mut host = was_ready();
    host.stay().settled = true;
    host.upgraded();
    host.observed.refused_for = REFUSED_MAX - Duration::from_secs(1);
    assert_eq!(plan_after(&host, &[]).step, Some(Step::Probe));
    host.observed.refused_for = REFUSED_MAX;
    let restart = host.started_with().map(Step::Restart);
    assert_eq!(plan_after(&host, &[]).step, restart);
}

#[test]
fn a_k3s_that_ended_is_started_whether_or_not_it_was_ready() {
    for mut host in [never_ready(), was_ready()] {
        host.observed.daemon = Daemon::Absent;
        let plan = plan_after(&host, &[]);
        assert!(matches!(plan.step, Some(Step::Start(_))), "{plan:?}");
    }
}
