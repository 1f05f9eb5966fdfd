//! A Docker host's life: assigned, ready, renewed, stopped, assigned again, decommissioned.

use super::world::*;
use crate::{Command, DockerPhase, EventKind, Refusal, WallMs};

#[test]
fn a_host_leads_from_assigned_to_ready_and_each_step_leaves_its_event() {
    let mut world = World::of(1, 2);
    world.ok(1, Command::AssignModule(docker_on(2)));
    assert_eq!(world.kinds(), [EventKind::DockerAssigned]);
    assert_eq!(world.host(2).phase, DockerPhase::Assigned);
    assert_eq!(world.host(2).status(), "pending");
    world.report(2, DockerPhase::Installing);
    assert_eq!(world.kinds(), [EventKind::DockerInstalling]);
    world.report(2, wants_cert(1));
    assert_eq!(world.kinds(), [EventKind::DockerWantsCert]);
    world.ok(1, signed(2, 1, "d1"));
    assert_eq!(world.kinds(), [EventKind::DockerCertSigned]);
    assert_eq!(world.host(2).phase, DockerPhase::WantsConfig);
    assert_eq!(world.host(2).certificate.as_ref().unwrap().serial, "d1");
    world.report(2, DockerPhase::WantsConfig);
    assert_eq!(world.kinds(), []);
    world.report(2, ready());
    assert_eq!(
        world.kinds(),
        [EventKind::DockerReady, EventKind::DockerProvisioned]
    );
    let host = world.host(2);
    assert_eq!(host.status(), "connected");
    assert_eq!(host.version.as_deref(), Some("20.10.24"));
    let endpoint = format!("tcp://[{}]:2376", world.peer(2).ipv6);
    assert_eq!(host.api_endpoint(), Some(endpoint.clone()));
    assert_eq!(
        world.state.events.back().unwrap().payload["api_endpoint"],
        endpoint
    );
}

#[test]
fn the_event_kinds_are_those_that_programs_follow() {
    let mut world = World::of(1, 2);
    world.docker_ready(2, "d1");
    world.ok(1, Command::UnassignModule(docker_on(2)));
    world.report(2, DockerPhase::Stopped);
    let kinds: Vec<_> = world
        .state
        .events
        .iter()
        .map(|event| event.kind.as_str())
        .collect();
    let docker: Vec<_> = kinds
        .into_iter()
        .filter(|kind| kind.contains("docker"))
        .collect();
    assert_eq!(
        docker,
        [
            "system.docker.module.assigned",
            "system.docker.runtime.installing",
            "system.docker.handshake.wants_cert",
            "system.docker.handshake.cert_signed",
            "system.docker.handshake.ready",
            "system.docker.provisioned",
            "system.docker.stopped",
        ]
    );
}

#[test]
fn a_repeated_report_is_no_news() {
    let mut world = World::of(1, 2);
    world.docker_ready(2, "d1");
    let since = world.host(2).since;
    world.now = WallMs(START.0 + HOUR_MS);
    let again = world.reporting(2, ready());
    world.ignored(2, again);
    // A report that leaves the address out does not make it news either.
    world.ignored(
        2,
        Command::ReportDocker {
            phase: ready(),
            listen: None,
        },
    );
    assert_eq!(world.host(2).since, since);
}

#[test]
fn a_failure_tells_its_reason_once_and_its_next_retry_every_time() {
    let mut world = World::of(1, 2);
    world.ok(1, Command::AssignModule(docker_on(2)));
    world.report(2, failed("port taken", WallMs(5)));
    assert_eq!(world.kinds(), [EventKind::DockerFailed]);
    world.report(2, failed("port taken", WallMs(9)));
    assert_eq!(world.kinds(), []);
    assert_eq!(world.host(2).phase, failed("port taken", WallMs(9)));
    world.report(2, failed("disk full", WallMs(9)));
    assert_eq!(world.kinds(), [EventKind::DockerFailed]);
    assert_eq!(world.host(2).status(), "pending");
}

#[test]
fn unassigned_it_is_stopped_and_its_row_stays_disconnected() {
    let mut world = World::of(1, 2);
    world.docker_ready(2, "d1");
    world.ok(1, Command::UnassignModule(docker_on(2)));
    assert_eq!(world.kinds(), []);
    assert_eq!(world.host(2).phase, DockerPhase::Stopping);
    assert_eq!(world.host(2).status(), "disconnected");
    for late in [
        ready(),
        DockerPhase::WantsConfig,
        wants_cert(3),
        failed("x", WallMs(1)),
    ] {
        let late = world.reporting(2, late);
        world.ignored(2, late);
    }
    world.report(2, DockerPhase::Stopped);
    assert_eq!(world.kinds(), [EventKind::DockerStopped]);
    assert_eq!(world.host(2).status(), "disconnected");
    // The heartbeat repeats it, without the address that is gone by then.
    world.ignored(
        2,
        Command::ReportDocker {
            phase: DockerPhase::Stopped,
            listen: None,
        },
    );
    let late = world.reporting(2, ready());
    world.ignored(2, late);
    assert!(world.agreed().certificates.contains_key("d1"));
}

#[test]
fn assigned_again_it_is_provisioned_again_once() {
    let mut world = World::of(1, 2);
    world.docker_ready(2, "d1");
    world.report(2, DockerPhase::Installing);
    world.report(2, ready());
    assert_eq!(world.kinds(), [EventKind::DockerReady]);
    world.ok(1, Command::UnassignModule(docker_on(2)));
    world.report(2, DockerPhase::Stopped);
    world.ok(1, Command::AssignModule(docker_on(2)));
    assert_eq!(world.kinds(), [EventKind::DockerAssigned]);
    assert_eq!(world.host(2).phase, DockerPhase::Assigned);
    world.report(2, ready());
    assert_eq!(
        world.kinds(),
        [EventKind::DockerReady, EventKind::DockerProvisioned]
    );
}

#[test]
fn a_late_stopped_does_not_end_a_host_that_was_assigned_anew() {
    let mut world = World::of(1, 2);
    world.docker_ready(2, "d1");
    world.ok(1, Command::UnassignModule(docker_on(2)));
    world.ok(1, Command::AssignModule(docker_on(2)));
    let late = world.reporting(2, DockerPhase::Stopped);
    world.ignored(2, late);
    assert_eq!(world.host(2).phase, DockerPhase::Assigned);
}

#[test]
fn a_decommissioned_host_leaves_no_row_and_no_valid_certificate() {
    let mut world = World::of(1, 3);
    world.docker_ready(2, "d1");
    world.docker_ready(3, "d2");
    world.ok(1, decommission(2));
    assert_eq!(world.kinds(), [EventKind::DockerDecommissioned]);
    let agreed = world.agreed();
    assert!(!agreed.docker_hosts.contains_key(&id(2)));
    assert!(!agreed.assignments.contains(&docker_on(2)));
    // The node itself stays a member, and so does the other host.
    assert_eq!(agreed.revoked.keys().collect::<Vec<_>>(), ["d1"]);
    assert!(agreed.certificates.contains_key("a2") && agreed.certificates.contains_key("d2"));
    let late = world.reporting(2, ready());
    assert_eq!(world.refused(2, late).code(), "DockerHostNotFoundError");
    assert_eq!(
        world.refused(1, decommission(2)).code(),
        "DockerHostNotFoundError"
    );
}

#[test]
fn a_stopped_host_can_be_decommissioned() {
    let mut world = World::of(1, 2);
    world.docker_ready(2, "d1");
    world.ok(1, Command::UnassignModule(docker_on(2)));
    world.report(2, DockerPhase::Stopped);
    world.ok(1, decommission(2));
    assert!(world.agreed().docker_hosts.is_empty());
}

#[test]
fn a_report_counts_for_the_node_that_gave_it() {
    let mut world = World::of(1, 3);
    world.ok(1, Command::AssignModule(docker_on(2)));
    let foreign = Command::ReportDocker {
        phase: ready(),
        listen: None,
    };
    assert_eq!(
        world.refused(3, foreign),
        Refusal::DockerHostUnknown { node: "n3".into() }
    );
    assert_eq!(world.host(2).phase, DockerPhase::Assigned);
}

#[test]
fn a_host_listens_on_an_overlay_address_of_its_own() {
    let mut world = World::of(1, 3);
    world.ok(1, Command::AssignModule(docker_on(2)));
    for listen in [ELSEWHERE, world.peer(3).ipv6] {
        let report = Command::ReportDocker {
            phase: ready(),
            listen: Some(listen),
        };
        assert_eq!(world.refused(2, report).code(), "InvalidInputError");
    }
}

#[test]
fn a_node_cannot_report_what_only_the_mesh_decides_nor_more_than_fits() {
    let mut world = World::of(1, 2);
    world.ok(1, Command::AssignModule(docker_on(2)));
    for phase in [DockerPhase::Assigned, DockerPhase::Stopping] {
        let report = world.reporting(2, phase);
        assert_eq!(world.refused(2, report).code(), "InvalidInputError");
    }
    let long = "x".repeat(4097);
    for phase in [
        DockerPhase::WantsCert { csr: vec![0; 4097] },
        DockerPhase::Ready {
            version: long.clone(),
        },
        failed(&long, WallMs(0)),
    ] {
        let report = world.reporting(2, phase);
        assert_eq!(world.refused(2, report).code(), "TooLargeError");
    }
}

#[test]
fn only_a_server_signs_and_only_the_request_that_is_open() {
    let mut world = World::of(1, 2);
    assert_eq!(
        world.refused(1, signed(2, 1, "d1")).code(),
        "DockerHostNotFoundError"
    );
    world.ok(1, Command::AssignModule(docker_on(2)));
    world.report(2, wants_cert(1));
    world.report(2, wants_cert(2));
    assert_eq!(
        world.refused(2, signed(2, 2, "d1")).code(),
        "NotServerError"
    );
    world.ignored(1, signed(2, 1, "d1"));
    world.ok(1, signed(2, 2, "d2"));
    assert_eq!(world.host(2).certificate.as_ref().unwrap().serial, "d2");
    world.ignored(1, signed(2, 2, "d3"));
}

#[test]
fn a_ready_host_renews_its_certificate_and_is_not_provisioned_twice() {
    let mut world = World::of(1, 2);
    world.docker_ready(2, "d1");
    world.report(2, wants_cert(2));
    world.ok(1, signed(2, 2, "d2"));
    world.report(2, ready());
    assert_eq!(world.kinds(), [EventKind::DockerReady]);
    assert_eq!(world.host(2).certificate.as_ref().unwrap().serial, "d2");
    world.ok(1, decommission(2));
    assert_eq!(
        world.agreed().revoked.keys().collect::<Vec<_>>(),
        ["d1", "d2"]
    );
}

#[test]
fn external_hosts_are_listed_apart_and_share_no_name_with_a_node() {
    let mut world = World::of(1, 2);
    world.ok(1, register("attic"));
    assert_eq!(
        world.refused(1, register("attic")).code(),
        "DockerHostExistsError"
    );
    assert_eq!(
        world.refused(1, register("n2")).code(),
        "DockerHostExistsError"
    );
    assert_eq!(
        world.refused(1, register("At Tic")).code(),
        "InvalidInputError"
    );
    let token = world.token(crate::Role::Agent, false);
    let mut clash = enrolment(3);
    clash.name = "attic".into();
    let refusal = world.refused(1, admit_as(clash, token, "a3"));
    assert_eq!(refusal.code(), "DockerHostExistsError");
    let scheme = Command::RegisterDocker {
        name: "x".into(),
        endpoint: "http://x".into(),
    };
    assert_eq!(world.refused(1, scheme).code(), "InvalidInputError");
    assert!(world.agreed().docker_hosts.is_empty());
    let forget = Command::UnregisterDocker {
        name: "attic".into(),
    };
    world.ok(1, forget.clone());
    assert_eq!(world.refused(1, forget).code(), "DockerHostNotFoundError");
}
