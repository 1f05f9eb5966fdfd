//! Claims about the way to being a Docker host, in the order of its life.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::daemon_json::Layer;

#[test]
fn without_an_address_it_fails_at_once_and_installs_nothing() {
    let desired = Desired {
        listen: None,
        ..desired()
    };
    let plan = plan_of(&desired, &bare());
    assert_eq!(code(&plan), Some("MissingSdwanPeerError"));
    assert_eq!(plan.step, None);
}

#[test]
fn the_way_leads_through_every_phase_to_ready() {
    let mut host = Host::new(desired(), bare());
    let phases = host.run();
    assert_eq!(
        phases,
        [
            "installing",
            "wants_cert",
            "wants_cert",
            "wants_config",
            "wants_config",
            "ready"
        ]
    );
    assert_eq!(
        host.steps,
        [
            "Install",
            "MakeKey",
            "RequestCertificate",
            "WriteConfig",
            "Start"
        ]
    );
}

#[test]
fn a_host_that_was_at_rest_starts_dockerd_and_then_what_that_does_not() {
    let observed = Observed {
        daemon: Daemon::Absent,
        waiting: true,
        ..ready()
    };
    let mut host = Host::new(desired(), observed);
    assert_eq!(host.run(), ["wants_config", "ready", "ready"]);
    assert_eq!(host.steps, ["Start", "StartContainers"]);
}

#[test]
fn a_foreign_dockerd_is_refused_and_never_touched() {
    let observed = Observed {
        daemon: Daemon::Foreign { pid: Some(7) },
        ..bare()
    };
    let plan = plan_of(&desired(), &observed);
    assert_eq!(code(&plan), Some("DockerAlreadyRunningError"));
    assert_eq!(plan.step, None);
    let unassigned = Desired {
        assigned: false,
        ..desired()
    };
    assert_eq!(plan_of(&unassigned, &observed).phase, Phase::Stopped);
}

#[test]
fn the_distributions_unit_is_taken_over_when_assigned_and_left_alone_otherwise() {
    let observed = Observed {
        daemon: Daemon::Adoptable { pid: 7 },
        ..ready()
    };
    assert_eq!(plan_of(&desired(), &observed).step, Some(Step::Start));
    let unassigned = Desired {
        assigned: false,
        ..desired()
    };
    let untouched = Observed {
        daemon: Daemon::Adoptable { pid: 7 },
        ..bare()
    };
    let plan = plan_of(&unassigned, &untouched);
    assert_eq!((plan.phase, plan.step), (Phase::Stopped, None));
}

#[test]
fn a_docker_that_keeps_its_data_elsewhere_is_not_taken_over_and_nothing_is_written() {
    let elsewhere = DataElsewhere {
        file: "/etc/docker/daemon.json".into(),
        theirs: "/srv/docker".into(),
        ours: "/var/lib/docker".into(),
    };
    for daemon in [Daemon::Adoptable { pid: 7 }, Daemon::Absent] {
        let observed = Observed {
            engine: Some(engine()),
            daemon,
            elsewhere: Some(elsewhere.clone()),
            ..bare()
        };
        let plan = plan_of(&desired(), &observed);
        assert_eq!(code(&plan), Some("DockerDataRootError"));
        assert_eq!(plan.step, None);
        let Phase::Failed { reason, hint, .. } = plan.phase else {
            panic!("it is refused");
        };
        for words in ["/etc/docker/daemon.json", "/srv/docker", "/var/lib/docker"] {
            assert!(reason.contains(words), "{reason}");
        }
        assert!(hint.is_some_and(|hint| hint.contains("take `data-root` out")));
        let unassigned = Desired {
            assigned: false,
            ..desired()
        };
        assert_eq!(plan_of(&unassigned, &observed).phase, Phase::Stopped);
    }
    // One that was taken over before goes on, also after a rest.
    for daemon in [ready().daemon, Daemon::Absent] {
        let observed = Observed {
            daemon,
            elsewhere: Some(elsewhere.clone()),
            ..ready()
        };
        assert_eq!(code(&plan_of(&desired(), &observed)), None);
    }
}

#[test]
fn a_certificate_for_an_older_key_or_address_is_asked_for_again() {
    let mut observed = ready();
    observed.csr = Some(b"another".to_vec());
    let plan = plan_of(&desired(), &observed);
    assert_eq!(
        plan.step,
        Some(Step::RequestCertificate {
            csr: b"another".to_vec()
        })
    );
}

#[test]
fn a_certificate_that_ended_is_never_started_with() {
    let mut observed = ready();
    observed.daemon = Daemon::Absent;
    observed.wall = WallMs(10_000);
    assert!(matches!(
        plan_of(&desired(), &observed).step,
        Some(Step::RequestCertificate { .. })
    ));
}

#[test]
fn a_renewal_is_asked_for_while_the_engine_stays_ready() {
    let mut observed = ready();
    observed.wall = WallMs(6_000);
    let plan = plan_of(&desired(), &observed);
    assert!(matches!(plan.phase, Phase::Ready { .. }));
    assert!(matches!(plan.step, Some(Step::RequestCertificate { .. })));
}

#[test]
fn a_renewed_certificate_is_written_and_dockerd_restarted() {
    let mut renewed = desired();
    renewed.certificate.as_mut().unwrap().chain_pem = "leaf 2".into();
    let mut host = Host::new(renewed, ready());
    host.run();
    assert_eq!(host.steps, ["WriteConfig", "Restart"]);
}

#[test]
fn a_new_root_in_the_bundle_restarts_dockerd() {
    let mut rotated = desired();
    rotated.certificate.as_mut().unwrap().ca_pem = "old root, new root".into();
    let mut host = Host::new(rotated, ready());
    host.run();
    assert_eq!(host.steps, ["WriteConfig", "Restart"]);
}

#[test]
fn a_change_that_dockerd_reloads_does_not_restart_it() {
    let mut changed = desired();
    changed
        .overrides
        .push(node_override(json!({"debug": true})));
    let mut host = Host::new(changed, ready());
    host.run();
    assert_eq!(host.steps, ["WriteConfig", "Reload"]);
}

#[test]
fn a_wrong_override_leaves_the_running_dockerd_alone() {
    let mut wrong = desired();
    wrong.overrides.push(node_override(json!({"hosts": []})));
    let plan = plan_of(&wrong, &ready());
    assert_eq!(code(&plan), Some("ProtectedDaemonKeyError"));
    assert_eq!(plan.step, None);
}

#[test]
fn a_dockerd_started_with_something_unknown_is_restarted() {
    let mut observed = ready();
    if let Daemon::Ours { started_with, .. } = &mut observed.daemon {
        *started_with = None;
    }
    assert_eq!(plan_of(&desired(), &observed).step, Some(Step::Restart));
}

#[test]
fn a_file_changed_behind_shoals_back_is_put_right() {
    let mut observed = ready();
    observed.files.as_mut().unwrap().daemon_json = "{}".into();
    assert!(matches!(
        plan_of(&desired(), &observed).step,
        Some(Step::WriteConfig(_))
    ));
}

#[test]
fn a_dockerd_that_does_not_answer_is_probed_thrice_and_then_restarted() {
    let mut observed = ready();
    if let Daemon::Ours { answers, .. } = &mut observed.daemon {
        *answers = None;
    }
    let mut retries = Retries::default();
    for expected in [Step::Probe, Step::Probe, Step::Probe, Step::Restart] {
        observed.now = observed.now + Duration::from_secs(300);
        let plan = plan(&desired(), &observed, &layout(), &retries);
        assert_eq!(plan.step, Some(expected));
        retries.handle_failure(NOT_READY, "silent".into(), observed.now);
    }
}

#[test]
fn what_fails_for_another_reason_restarts_no_dockerd() {
    let mut retries = Retries::default();
    retries.handle_start(Time::ZERO);
    let mut fails = |code: &'static str, times: u32| {
        for _ in 0..times {
            retries.handle_failure(code, "it says why".into(), Time::ZERO);
        }
        // An hour later, when one look goes unanswered.
        let mut observed = ready();
        observed.now = Time::ZERO + Duration::from_secs(3600);
        if let Daemon::Ours { answers, .. } = &mut observed.daemon {
            *answers = None;
        }
        plan(&desired(), &observed, &layout(), &retries).step
    };
    for code in ["HostFileError", "DockerRefusedError", "DockerReloadError"] {
        let step = fails(code, UNANSWERED_PROBES_MAX);
        assert_eq!(step, Some(Step::Probe), "{code}");
    }
    let step = fails(NOT_READY, UNANSWERED_PROBES_MAX - 1);
    assert_eq!(step, Some(Step::Probe));
    assert_eq!(fails(NOT_READY, 1), Some(Step::Restart));
}

#[test]
fn a_failed_step_waits_out_its_pause_and_says_until_when() {
    let mut retries = Retries::default();
    retries.handle_failure("RuntimeMissingError", "no apt".into(), Time::ZERO);
    let mut observed = bare();
    let waiting = plan(&desired(), &observed, &layout(), &retries);
    assert_eq!(waiting.step, None);
    let retry_at = Time::from_micros(1_000_000);
    assert!(matches!(waiting.phase, Phase::Failed { retry_at: Some(at), .. } if at == retry_at));
    observed.now = retry_at;
    let due = plan(&desired(), &observed, &layout(), &retries);
    assert_eq!(due.step, Some(Step::Install));
}

#[test]
fn a_crashed_dockerd_is_started_again_after_a_growing_pause() {
    let mut retries = Retries::default();
    let mut observed = ready();
    observed.daemon = Daemon::Absent;
    assert_eq!(
        plan(&desired(), &observed, &layout(), &retries).step,
        Some(Step::Start)
    );
    retries.handle_start(observed.now);
    let waiting = plan(&desired(), &observed, &layout(), &retries);
    assert_eq!(code(&waiting), Some("DockerExitedError"));
    observed.now = Time::from_micros(1_000_000);
    let due = plan(&desired(), &observed, &layout(), &retries);
    assert_eq!(due.step, Some(Step::Start));
}

#[test]
fn unassigning_stops_dockerd_then_removes_what_shoal_wrote() {
    let unassigned = Desired {
        assigned: false,
        ..desired()
    };
    let mut host = Host::new(unassigned, ready());
    assert_eq!(host.run(), ["stopping", "stopping", "stopped"]);
    assert_eq!(host.steps, ["Stop", "RemoveFiles"]);
}

#[test]
fn stopping_waits_for_no_pause() {
    let mut retries = Retries::default();
    retries.handle_failure("X", "x".into(), Time::ZERO);
    let unassigned = Desired {
        assigned: false,
        ..desired()
    };
    let plan = plan(&unassigned, &ready(), &layout(), &retries);
    assert_eq!(plan.step, Some(Step::Stop));
}

proptest! {
    #[test]
    fn from_any_state_of_the_host_the_way_ends(
        assigned in any::<bool>(),
        installed in any::<bool>(),
        key in 0u8..3,
        files in 0u8..3,
        running in 0u8..4,
        leftovers in any::<bool>(),
    ) {
        let mut observed = ready();
        if !installed { observed.engine = None; }
        observed.csr = [None, Some(CSR.to_vec()), Some(b"older".to_vec())][usize::from(key)].clone();
        match files { 0 => observed.files = None, 1 => observed.files.as_mut().unwrap().ca_pem = "x".into(), _ => {} }
        observed.leftovers = leftovers;
        match (running, &mut observed.daemon) {
            (0, daemon) => *daemon = Daemon::Absent,
            (1, Daemon::Ours { started_with, .. }) => *started_with = None,
            (2, Daemon::Ours { answers, .. }) => *answers = None,
            _ => {}
        }
        let mut host = Host::new(Desired { assigned, ..desired() }, observed);
        let phases = host.run();
        let end = if assigned { "ready" } else { "stopped" };
        prop_assert_eq!(phases.last().copied(), Some(end));
    }
}

const CSR: &[u8] = b"request";

fn layout() -> HostLayout {
    HostLayout {
        socket: "/s".into(),
        pidfile: "/p".into(),
        data_root: "/d".into(),
        exec_root: "/e".into(),
        tls_ca: "/ca".into(),
        tls_cert: "/cert".into(),
        tls_key: "/key".into(),
    }
}

#[test]
fn the_hosts_resolvers_stand_behind_our_own_and_restart_nothing_when_they_change() {
    let with = |own: &str, fallback: &[&str]| Desired {
        dns: Some(Dns {
            own: own.parse().unwrap(),
            fallback: fallback.iter().map(|text| text.parse().unwrap()).collect(),
        }),
        ..desired()
    };
    let asked = with(
        "10.43.0.1",
        &["192.0.2.1", "10.43.0.1", "192.0.2.2", "192.0.2.3"],
    );
    let files = wanted_files(&asked);
    let document: Value = serde_json::from_str(&files.daemon_json).unwrap();
    assert_eq!(
        document["dns"],
        json!(["10.43.0.1", "192.0.2.1", "192.0.2.2"])
    );
    let mut observed = ready();
    observed.files = Some(files.clone());
    observed.daemon = Daemon::Ours {
        pid: 42,
        started_with: Some(files),
        answers: Some("20.10.24".into()),
    };
    let moved = with("10.43.0.1", &["198.51.100.1"]);
    assert_eq!(plan_of(&moved, &observed).step, None);
    // A restart for another reason takes them up; so does an address of our own.
    let renewed = Desired {
        certificate: Some(IssuedCertificate {
            chain_pem: "next".into(),
            ..certificate(CSR)
        }),
        ..moved
    };
    for (desired, servers) in [
        (renewed, json!(["10.43.0.1", "198.51.100.1"])),
        (with("10.43.9.1", &[]), json!(["10.43.9.1"])),
    ] {
        let Some(Step::WriteConfig(files)) = plan_of(&desired, &observed).step else {
            panic!("nothing is written")
        };
        let document: Value = serde_json::from_str(&files.daemon_json).unwrap();
        assert_eq!(document["dns"], servers);
    }
}

#[test]
fn resolvers_that_somebody_wrote_into_the_file_are_not_taken_over() {
    let asked = Desired {
        dns: Some(Dns {
            own: "10.43.0.1".parse().unwrap(),
            fallback: vec!["192.0.2.1".parse().unwrap()],
        }),
        ..desired()
    };
    let files = wanted_files(&asked);
    let theirs = files.daemon_json.replace("192.0.2.1", "198.51.100.9");
    assert_ne!(theirs, files.daemon_json);
    let observed = Observed {
        files: Some(ConfigFiles {
            daemon_json: theirs,
            ..files.clone()
        }),
        daemon: Daemon::Ours {
            pid: 42,
            started_with: Some(files.clone()),
            answers: Some("20.10.24".into()),
        },
        ..ready()
    };
    let plan = plan_of(&asked, &observed);
    assert_eq!(plan.step, Some(Step::WriteConfig(files)));
}

fn desired() -> Desired {
    Desired {
        assigned: true,
        node_name: "alpha".into(),
        listen: Some(Listen {
            ipv6: "fd00:5::1".parse().unwrap(),
            ipv4: Some("100.64.0.1".parse().unwrap()),
        }),
        certificate: Some(certificate(CSR)),
        overrides: Vec::new(),
        mtu: None,
        dns: None,
    }
}

fn certificate(csr: &[u8]) -> IssuedCertificate {
    IssuedCertificate {
        serial: "01".into(),
        csr: csr.to_vec(),
        not_after: WallMs(9_000),
        renew_at: WallMs(6_000),
        chain_pem: "leaf".into(),
        ca_pem: "root".into(),
    }
}

fn node_override(document: Value) -> Override {
    Override {
        name: "o".into(),
        layer: Layer::Node,
        category_position: 1,
        priority: 1,
        document,
    }
}

fn bare() -> Observed {
    Observed {
        now: Time::ZERO,
        wall: WallMs(1_000),
        engine: None,
        csr: None,
        files: None,
        daemon: Daemon::Absent,
        leftovers: false,
        waiting: false,
        elsewhere: None,
    }
}

fn ready() -> Observed {
    let files = wanted_files(&desired());
    Observed {
        engine: Some(engine()),
        csr: Some(CSR.to_vec()),
        files: Some(files.clone()),
        daemon: Daemon::Ours {
            pid: 42,
            started_with: Some(files),
            answers: Some("20.10.24".into()),
        },
        leftovers: true,
        ..bare()
    }
}

fn wanted_files(desired: &Desired) -> ConfigFiles {
    let layout = layout();
    let dns = desired.dns.as_ref().map(|dns| dns.servers(None));
    let base = Base {
        layout: &layout,
        listen: desired.listen.unwrap().ipv6,
        mtu: None,
        dns: &dns.unwrap_or_default(),
    };
    let certificate = desired.certificate.as_ref().unwrap();
    ConfigFiles {
        daemon_json: daemon_json::render(&daemon_json::merged(&base, &desired.overrides).unwrap()),
        chain_pem: certificate.chain_pem.clone(),
        ca_pem: certificate.ca_pem.clone(),
    }
}

fn engine() -> EngineVersion {
    EngineVersion::from_dockerd_output("Docker version 20.10.24, build x").unwrap()
}

fn plan_of(desired: &Desired, observed: &Observed) -> Plan {
    plan(desired, observed, &layout(), &Retries::default())
}

fn code(plan: &Plan) -> Option<&'static str> {
    match &plan.phase {
        Phase::Failed { code, .. } => Some(code),
        Phase::Installing
        | Phase::WantsCert { .. }
        | Phase::WantsConfig
        | Phase::Ready { .. }
        | Phase::Stopping
        | Phase::Stopped => None,
    }
}

/// A host on which every step succeeds.
struct Host {
    desired: Desired,
    observed: Observed,
    steps: Vec<&'static str>,
}

impl Host {
    fn new(desired: Desired, observed: Observed) -> Self {
        // A certificate is there only once it was asked for.
        let mut desired = desired;
        if observed.csr.is_none() {
            desired.certificate = None;
        }
        Self {
            desired,
            observed,
            steps: Vec::new(),
        }
    }

    fn run(&mut self) -> Vec<&'static str> {
        let mut phases = Vec::new();
        for _ in 0..20 {
            let plan = plan_of(&self.desired, &self.observed);
            phases.push(match plan.phase {
                Phase::Installing => "installing",
                Phase::WantsCert { .. } => "wants_cert",
                Phase::WantsConfig => "wants_config",
                Phase::Ready { .. } => "ready",
                Phase::Stopping => "stopping",
                Phase::Stopped => "stopped",
                Phase::Failed { .. } => "failed",
            });
            match plan.step {
                Some(step) => self.perform(step),
                None => return phases,
            }
        }
        panic!("no end after {:?}", self.steps);
    }

    fn perform(&mut self, step: Step) {
        let observed = &mut self.observed;
        let name = match step {
            Step::Install => {
                observed.engine = Some(engine());
                "Install"
            }
            Step::MakeKey => {
                observed.csr = Some(CSR.to_vec());
                observed.leftovers = true;
                "MakeKey"
            }
            Step::RequestCertificate { csr } => {
                self.desired.certificate = Some(certificate(&csr));
                "RequestCertificate"
            }
            Step::WriteConfig(files) => {
                observed.files = Some(files);
                "WriteConfig"
            }
            Step::Start => self.run_daemon("Start"),
            Step::Restart => self.run_daemon("Restart"),
            Step::Reload => self.run_daemon("Reload"),
            Step::Probe => self.run_daemon("Probe"),
            Step::Stop => {
                observed.daemon = Daemon::Absent;
                "Stop"
            }
            Step::RemoveFiles => {
                observed.leftovers = false;
                observed.files = None;
                "RemoveFiles"
            }
            Step::StopContainer(_) => "StopContainer",
            Step::Rest => {
                observed.daemon = Daemon::Absent;
                "Rest"
            }
            Step::StartContainers => {
                observed.waiting = false;
                "StartContainers"
            }
        };
        self.steps.push(name);
    }

    fn run_daemon(&mut self, name: &'static str) -> &'static str {
        self.observed.daemon = Daemon::Ours {
            pid: 43,
            started_with: self.observed.files.clone(),
            answers: Some("20.10.24".into()),
        };
        name
    }
}
