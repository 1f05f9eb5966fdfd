//! Claims about a node's turn in a change that goes round its cluster, and about what does not happen
//! outside it.

use super::*;

/// SPEC 5.7: a prefix that comes later is put in place node by node.
#[test]
fn a_prefix_that_comes_later_is_taken_on_in_the_nodes_turn() {
    let mut host = Host::new(founder());
    host.run();
    let stay = host.stay();
    stay.active = true;
    stay.generation = LogIndex(9);
    let membership = stay.membership.as_mut().unwrap();
    membership.pod_prefix = Some("10.42.0.0/16".parse().unwrap());
    host.steps.clear();
    host.run();
    assert!(host.steps.is_empty(), "before its turn: {:?}", host.steps);
    host.stay().turn = true;
    let phase = host.run();
    assert!(matches!(
        phase,
        Phase::Ready {
            generation: LogIndex(9),
            ..
        }
    ));
    assert_eq!(
        host.steps,
        ["Vacate", "WriteSettings", "Restart", "Probe", "Return"]
    );
    assert!(host.observed.settings.unwrap().contains("host-gw"));
    assert_eq!(host.initialised, 1);
}

#[test]
fn a_k3s_that_is_ready_is_changed_in_its_turn_only() {
    let mut host = Host::new(agent());
    host.run();
    host.upgraded();
    host.steps.clear();
    let phase = host.run();
    assert!(matches!(
        phase,
        Phase::Ready {
            generation: LogIndex(7),
            ..
        }
    ));
    assert!(host.steps.is_empty());
    host.stay().turn = true;
    let phase = host.run();
    assert_eq!(
        phase,
        Phase::Ready {
            version: NEW.into(),
            generation: LogIndex(9)
        }
    );
    assert_eq!(
        host.steps,
        ["Install", "Vacate", "Restart", "Probe", "Return"]
    );
}

/// A cluster's change has begun, and its nodes are seen in the middle of it.
fn in_a_change() -> Host {
    let mut host = Host::new(founder());
    host.run();
    host.upgraded();
    let stay = host.stay();
    (stay.active, stay.begun, stay.settled) = (true, true, true);
    let membership = stay.membership.as_mut().unwrap();
    membership.pod_prefix = Some("10.42.0.0/16".parse().unwrap());
    host.steps.clear();
    host
}

#[test]
fn who_does_not_answer_for_a_moment_is_not_changed_out_of_its_turn() {
    for down in [false, true] {
        let mut host = in_a_change();
        host.falters();
        host.observed.down = down;
        let plan = host.plan();
        assert_eq!(
            (plan.phase, plan.step),
            (Phase::Starting, Some(Step::Probe))
        );
        let phase = host.run();
        assert!(matches!(
            phase,
            Phase::Ready {
                generation: LogIndex(7),
                ..
            }
        ));
        assert_eq!(host.steps, ["Probe"]);
    }
}

#[test]
fn one_that_answers_nobody_is_restarted_out_of_its_turn_with_what_it_had() {
    let mut host = in_a_change();
    host.falters();
    // shoald, or K3s itself, was started again since.
    host.observed.was_ready = false;
    let mut retries = Retries::default();
    for _ in 0..UNANSWERED_PROBES_MAX {
        retries.handle_failure(NOT_READY, "no".into(), Time::ZERO);
    }
    host.observed.now = Time::ZERO + Duration::from_secs(3600);
    let plan = plan(&host.desired, &host.observed, &files(), &retries);
    assert_eq!(plan.step, host.started_with().map(Step::Restart));
}

#[test]
fn in_its_turn_a_moment_without_an_answer_does_not_cost_a_node_its_pods() {
    let mut host = in_a_change();
    host.stay().turn = true;
    host.falters();
    assert!(matches!(host.run(), Phase::Ready { .. }));
    assert_eq!(
        host.steps,
        [
            "Probe",
            "Install",
            "Vacate",
            "WriteSettings",
            "Restart",
            "Probe",
            "Return"
        ]
    );
}

#[test]
fn in_its_turn_a_node_that_is_down_is_mended_as_it_is() {
    let mut host = in_a_change();
    host.stay().turn = true;
    host.falters();
    host.observed.down = true;
    assert!(matches!(host.run(), Phase::Ready { .. }));
    assert_eq!(host.steps, ["Install", "WriteSettings", "Restart", "Probe"]);
}

#[test]
fn pods_come_back_to_a_node_that_was_being_emptied_for_a_change_that_is_off() {
    let mut host = in_a_change();
    host.observed.emptying = true;
    assert!(matches!(host.run(), Phase::Ready { .. }));
    assert_eq!(host.steps, ["Return"]);
}

#[test]
fn a_server_lets_the_api_address_go_before_it_is_changed() {
    let mut host = Host::new(founder());
    host.run();
    host.upgraded();
    host.stay().turn = true;
    host.stay().holds_api = true;
    host.steps.clear();
    assert!(matches!(
        host.run(),
        Phase::Ready {
            generation: LogIndex(7),
            ..
        }
    ));
    assert_eq!(host.steps, ["Install", "Vacate"]);
    host.stay().holds_api = false;
    host.run();
    assert_eq!(host.steps[2..], ["Restart", "Probe", "Return"]);
}

#[test]
fn a_turn_that_changes_nothing_empties_nothing() {
    let mut host = Host::new(agent());
    host.run();
    host.stay().turn = true;
    host.steps.clear();
    host.run();
    assert!(host.steps.is_empty());
}
