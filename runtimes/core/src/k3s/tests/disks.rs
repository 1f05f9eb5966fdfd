//! Claims about data that are gone, not there yet, or somebody else's.

use super::*;

#[test]
fn a_founder_that_lost_its_disk_joins_and_does_not_found_again() {
    let mut host = Host::new(founder());
    host.run();
    host.stay().active = true;
    assert!(host.plan().step.is_none());
    host.observed = bare();
    assert!(matches!(host.run(), Phase::Ready { .. }));
    assert!(host.steps.contains(&"RequestToken".to_owned()));
    assert_eq!(host.initialised, 1);
}

#[test]
fn a_node_that_lost_its_disk_waits_until_the_mesh_knows() {
    let mut host = Host::new(agent());
    host.run();
    host.stay().begun = true;
    host.observed = bare();
    host.steps.clear();
    assert_eq!(host.run(), Phase::Lost);
    assert!(host.steps.is_empty());
    let stay = host.stay();
    (stay.attempt, stay.token, stay.begun) = (LogIndex(12), None, false);
    assert!(matches!(host.run(), Phase::Ready { .. }));
    assert_eq!(host.steps[..3], ["Begin", "Install", "RequestToken"]);
}

#[test]
fn a_founder_whose_data_are_gone_does_not_found_again_though_it_knows_that_it_did() {
    let mut host = Host::new(founder());
    host.run();
    let stay = host.stay();
    (stay.active, stay.begun, stay.settled) = (true, true, true);
    host.observed.data = false;
    host.observed.daemon = Daemon::Absent;
    host.steps.clear();
    assert_eq!(host.run(), Phase::Lost);
    assert!(host.steps.is_empty());
    // Before the cluster was active it goes on founding.
    let stay = host.stay();
    (stay.active, stay.settled) = (false, false);
    host.run();
    assert_eq!(host.steps, ["Start", "Probe"]);
}

/// Its operator installs one himself while shoal still looks for a program.
#[test]
fn a_k3s_that_came_before_shoals_was_started_is_nobodys_to_take_off() {
    let mut host = Host::new(founder());
    let step = host.plan().step.unwrap();
    assert_eq!(
        step,
        Step::Begin {
            attempt: LogIndex(7)
        }
    );
    host.perform(&step);
    (host.observed.leftovers, host.observed.data) = (true, true);
    host.observed.daemon = Daemon::Foreign { pid: Some(3) };
    assert_eq!(code(&host.plan()), Some("K3sAlreadyRunningError"));
    // Its program stops for a moment: its data are still not shoal's to start on.
    host.observed.daemon = Daemon::Absent;
    let plan = host.plan();
    assert_eq!(
        (code(&plan), plan.step),
        (Some("K3sDataPresentError"), None)
    );
    // Unassigned, as the hint says: what shoal put there goes, while his runs on.
    host.observed.daemon = Daemon::Foreign { pid: Some(3) };
    host.desired.stay = None;
    let plan = host.plan();
    assert_eq!((plan.phase, plan.step), (Phase::Leaving, Some(Step::Clean)));
    // Where shoal's own was started before, what it left may be in use by his.
    host.observed.record.as_mut().unwrap().started = true;
    assert_eq!(code(&host.plan()), Some("K3sAlreadyRunningError"));
}

#[test]
fn a_k3s_that_is_only_set_up_is_refused_and_keeps_no_stay_from_its_end() {
    let mut host = Host::new(founder());
    host.run();
    host.observed.daemon = Daemon::Foreign { pid: None };
    assert_eq!(code(&host.plan()), Some("K3sAlreadyRunningError"));
    host.desired.stay = None;
    let plan = host.plan();
    assert_eq!((plan.phase, plan.step), (Phase::Leaving, Some(Step::Clean)));
}

#[test]
fn a_disk_that_is_not_mounted_yet_is_waited_for() {
    let mut host = Host::new(founder());
    host.run();
    let stay = host.stay();
    (stay.active, stay.begun, stay.settled) = (true, true, true);
    (host.observed.data, host.observed.daemon) = (false, Daemon::Absent);
    host.observed.bare_for = Duration::ZERO;
    let plan = host.plan();
    assert_eq!((plan.phase, plan.step), (Phase::Starting, None));
    // Its place is known: then it is not lost, however long it takes.
    host.observed.bare_for = LOST_AFTER;
    host.observed.unmounted = Some("/var/lib/rancher".into());
    let plan = host.plan();
    assert_eq!(
        (code(&plan), &plan.step),
        (Some("K3sDataMissingError"), &None)
    );
    // Nor is anything founded beside it before the cluster was active.
    host.stay().settled = false;
    assert_eq!(code(&host.plan()), Some("K3sDataMissingError"));
    host.stay().settled = true;
    (host.observed.data, host.observed.unmounted) = (true, None);
    host.steps.clear();
    assert!(matches!(host.run(), Phase::Ready { .. }));
    assert_eq!(host.steps, ["Start", "Probe"]);
}
