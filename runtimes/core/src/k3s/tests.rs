//! Claims about the way into a cluster and out of it, in the order of a stay.

use std::{net::Ipv4Addr, time::Duration};

use consensus_core::Cni;

use super::*;

mod disks;
mod fates;
mod pod_networks;
mod programs;
mod silence;
mod turns;

const OLD: &str = "v1.31.2+k3s1";
const NEW: &str = "v1.32.0+k3s1";

fn files() -> SecretFiles {
    SecretFiles {
        server_token: "/server-token".into(),
        agent_token: "/agent-token".into(),
        data_dir: "/data".into(),
        kubeconfig: "/kubeconfig".into(),
    }
}

fn binary(version: &str) -> K3sBinary {
    K3sBinary {
        version: Some(version.into()),
        ..K3sBinary::INSTALLED
    }
}

fn stay(role: K3sRole, entrance: Entrance) -> Stay {
    Stay {
        attempt: LogIndex(7),
        role,
        membership: Ok(Membership {
            role,
            node_name: "n1".into(),
            place: Place {
                ipv4: Ipv4Addr::new(100, 96, 0, 1),
                ipv6: "fd00::1".parse().unwrap(),
                interface: "shoal-default".into(),
            },
            vip: "fd00::f".parse().unwrap(),
            entrance,
            cni: Cni::Flannel,
            pod_prefix: None,
        }),
        generation: LogIndex(7),
        active: entrance == Entrance::Join,
        binary: binary(OLD),
        token: None,
        turn: false,
        holds_api: false,
        begun: false,
        settled: false,
    }
}

fn founder() -> Stay {
    stay(K3sRole::Server, Entrance::Found)
}

fn agent() -> Stay {
    stay(K3sRole::Agent, Entrance::Join)
}

const TOKEN: TokenMark = TokenMark([5; 32]);

fn bare() -> Observed {
    Observed {
        now: Time::ZERO,
        program: None,
        record: None,
        data: false,
        unmounted: None,
        bare_for: LOST_AFTER,
        secrets: false,
        settings: None,
        emptying: false,
        vacated: false,
        daemon: Daemon::Absent,
        down: false,
        was_ready: false,
        refused_for: Duration::ZERO,
        leftovers: false,
    }
}

fn plan_of(stay: Option<&Stay>, observed: &Observed) -> Plan {
    let desired = Desired {
        stay: stay.cloned(),
    };
    plan(&desired, observed, &files(), &Retries::default())
}

fn code(plan: &Plan) -> Option<&'static str> {
    match plan.phase {
        Phase::Failed { code, .. } => Some(code),
        Phase::Lost
        | Phase::Installing
        | Phase::Bootstrap
        | Phase::JoinRequest
        | Phase::Starting
        | Phase::Ready { .. }
        | Phase::Leaving
        | Phase::Stopped => None,
    }
}

/// A host that does what it is told.
struct Host {
    desired: Desired,
    observed: Observed,
    steps: Vec<String>,
    /// How often a datastore was initialised here.
    initialised: u32,
    /// What the program hashes to that lies where it is taken from.
    source: ProgramSum,
}

impl Host {
    fn new(stay: Stay) -> Self {
        Self {
            desired: Desired { stay: Some(stay) },
            observed: bare(),
            steps: Vec::new(),
            initialised: 0,
            source: ProgramSum([1; 32]),
        }
    }

    fn stay(&mut self) -> &mut Stay {
        self.desired.stay.as_mut().unwrap()
    }

    fn plan(&self) -> Plan {
        let retries = Retries::default();
        plan(&self.desired, &self.observed, &files(), &retries)
    }

    /// Runs until nothing is left to do.
    fn run(&mut self) -> Phase {
        for _ in 0..40 {
            let plan = self.plan();
            let Some(step) = plan.step else {
                return plan.phase;
            };
            if step == Step::RequestToken && self.stay().token.is_none() {
                self.stay().token = Some(TOKEN);
            }
            self.perform(&step);
        }
        panic!("it never rests: {:?}", self.steps);
    }

    fn perform(&mut self, step: &Step) {
        let text = format!("{step:?}");
        let name = text.split([' ', '(', '{']).next().unwrap_or_default();
        self.steps.push(name.to_owned());
        let observed = &mut self.observed;
        match step {
            Step::Begin { attempt } => {
                observed.record = Some(Record::of(*attempt));
            }
            Step::Vacate => (observed.emptying, observed.vacated) = (true, true),
            Step::Return => (observed.emptying, observed.vacated) = (false, false),
            Step::Install { binary } => {
                observed.leftovers = true;
                observed.program = Some(Program {
                    version: binary.version.clone().unwrap(),
                    sum: Some(self.source),
                    wanted: true,
                    stale: false,
                });
            }
            Step::MakeSecrets => observed.secrets = true,
            Step::RequestToken => {}
            Step::WriteToken(mark) => observed.record.as_mut().unwrap().token = Some(*mark),
            Step::WriteSettings(text) => observed.settings = Some(text.clone()),
            Step::Start(with) | Step::Restart(with) => {
                let record = observed.record.as_mut().unwrap();
                record.started = true;
                if with.settings.contains("cluster-init") {
                    self.initialised += u32::from(!record.founded);
                    record.founded = true;
                }
                observed.data = true;
                (observed.was_ready, observed.refused_for) = (false, Duration::ZERO);
                observed.daemon = Daemon::Ours {
                    started_with: Some(with.clone()),
                    ready: false,
                };
            }
            Step::Probe => {
                observed.down = false;
                if let Daemon::Ours { ready, .. } = &mut observed.daemon {
                    (*ready, observed.was_ready) = (true, true);
                }
            }
            Step::Stop => observed.daemon = Daemon::Absent,
            Step::Clean => {
                let program = observed.program.take();
                *observed = Observed {
                    program,
                    now: observed.now,
                    ..bare()
                };
            }
        }
    }

    /// It does not answer for a moment.
    fn falters(&mut self) {
        if let Daemon::Ours { ready, .. } = &mut self.observed.daemon {
            *ready = false;
        }
    }

    fn started_with(&self) -> Option<StartedWith> {
        match &self.observed.daemon {
            Daemon::Ours { started_with, .. } => started_with.clone(),
            Daemon::Absent | Daemon::Foreign { .. } => None,
        }
    }

    /// The mesh has another K3s for it.
    fn upgraded(&mut self) {
        let stay = self.stay();
        (stay.binary, stay.generation) = (binary(NEW), LogIndex(9));
        self.observed.program.as_mut().unwrap().wanted = false;
    }
}

#[test]
fn a_founder_makes_its_secrets_and_needs_nobody() {
    let mut host = Host::new(founder());
    let phase = host.run();
    assert_eq!(
        phase,
        Phase::Ready {
            version: OLD.into(),
            generation: LogIndex(7)
        }
    );
    assert_eq!(
        host.steps,
        [
            "Begin",
            "Install",
            "MakeSecrets",
            "WriteSettings",
            "Start",
            "Probe"
        ]
    );
}

#[test]
fn a_founder_that_is_started_and_not_ready_bootstraps() {
    let mut host = Host::new(founder());
    while host.steps.last().is_none_or(|step| step != "Start") {
        let step = host.plan().step.unwrap();
        host.perform(&step);
    }
    assert_eq!(host.plan().phase, Phase::Bootstrap);
}

#[test]
fn another_node_asks_for_a_token_once_the_cluster_is_active() {
    let mut host = Host::new(Stay {
        active: false,
        ..agent()
    });
    assert_eq!(host.run(), Phase::Installing);
    assert_eq!(host.steps, ["Begin", "Install"]);
    host.stay().active = true;
    let plan = host.plan();
    assert_eq!(
        (plan.phase, plan.step),
        (Phase::JoinRequest, Some(Step::RequestToken))
    );
    assert!(matches!(host.run(), Phase::Ready { .. }));
    assert_eq!(
        host.steps[2..],
        [
            "RequestToken",
            "WriteToken",
            "WriteSettings",
            "Start",
            "Probe"
        ]
    );
    assert_eq!(host.initialised, 0);
}

#[test]
fn a_founder_that_is_started_again_goes_on_with_what_it_founded() {
    let mut host = Host::new(founder());
    host.run();
    host.stay().active = true;
    host.observed.daemon = Daemon::Absent;
    host.steps.clear();
    assert!(matches!(host.run(), Phase::Ready { .. }));
    assert_eq!(host.steps, ["Start", "Probe"]);
    assert_eq!(host.initialised, 1);
}

#[test]
fn what_an_earlier_stay_left_goes_before_the_next_one_begins() {
    let mut host = Host::new(agent());
    host.run();
    host.stay().attempt = LogIndex(12);
    host.stay().token = None;
    host.steps.clear();
    assert!(matches!(host.run(), Phase::Ready { .. }));
    assert_eq!(host.steps[..3], ["Stop", "Clean", "Begin"]);
}

#[test]
fn a_node_that_is_wanted_nowhere_is_as_it_was() {
    let mut host = Host::new(founder());
    host.run();
    host.desired.stay = None;
    host.steps.clear();
    assert_eq!(host.run(), Phase::Stopped);
    assert_eq!(host.steps, ["Stop", "Clean"]);
}

#[test]
fn a_foreign_k3s_and_strange_data_are_refused_and_never_touched() {
    let [foreign, set_up] = [Some(3), None].map(|pid| Observed {
        daemon: Daemon::Foreign { pid },
        ..bare()
    });
    let strange = Observed {
        data: true,
        ..bare()
    };
    let rows = [
        (foreign, "K3sAlreadyRunningError"),
        (set_up, "K3sAlreadyRunningError"),
        (strange, "K3sDataPresentError"),
    ];
    for (observed, expected) in rows {
        let plan = plan_of(Some(&founder()), &observed);
        assert_eq!((code(&plan), &plan.step), (Some(expected), &None));
        let plan = plan_of(None, &observed);
        assert_eq!((plan.phase, plan.step), (Phase::Stopped, None));
    }
}

#[test]
fn a_node_that_does_not_fit_says_why_and_installs_nothing() {
    let rows = [
        (
            Misfit::NoPlace {
                node: "n1".into(),
                network: "blue".into(),
            },
            "MissingSdwanPeerError",
        ),
        (
            Misfit::TooSmall {
                node: "n1".into(),
                cni: "ovn_kubernetes".into(),
            },
            "CniProfileMismatchError",
        ),
    ];
    for (misfit, expected) in rows {
        let stay = Stay {
            membership: Err(misfit),
            ..agent()
        };
        let plan = plan_of(Some(&stay), &bare());
        assert_eq!((code(&plan), plan.step), (Some(expected), None));
    }
}

#[test]
fn a_token_that_was_replaced_is_put_in_place() {
    let mut host = Host::new(agent());
    host.run();
    host.observed.daemon = Daemon::Absent;
    host.stay().token = Some(TokenMark([6; 32]));
    host.steps.clear();
    assert!(matches!(host.run(), Phase::Ready { .. }));
    assert_eq!(host.steps, ["WriteToken", "Start", "Probe"]);
}

#[test]
fn a_failure_pauses_every_step() {
    let mut retries = Retries::default();
    retries.handle_failure("K3sStartError", "no".into(), Time::ZERO);
    let desired = Desired {
        stay: Some(founder()),
    };
    let plan_at = |now, desired: &Desired, observed: Observed| {
        plan(desired, &Observed { now, ..observed }, &files(), &retries)
    };
    let paused = plan_at(Time::ZERO, &desired, bare());
    assert_eq!((code(&paused), paused.step), (Some("K3sStartError"), None));
    let later = plan_at(Time::ZERO + Duration::from_secs(2), &desired, bare());
    assert!(later.step.is_some());
    let away = Desired { stay: None };
    let left = || Observed {
        leftovers: true,
        ..bare()
    };
    let runs = || Observed {
        daemon: Daemon::Ours {
            started_with: None,
            ready: false,
        },
        ..left()
    };
    for (observed, step) in [(left(), Step::Clean), (runs(), Step::Stop)] {
        let paused = plan_at(Time::ZERO, &away, observed.clone());
        assert_eq!((code(&paused), paused.step), (Some("K3sStartError"), None));
        let later = plan_at(Time::ZERO + Duration::from_secs(2), &away, observed.clone());
        assert_eq!(later.step, Some(step.clone()));
        // What somebody wants anew is tried at once.
        assert_eq!(plan_of(None, &observed).step, Some(step));
    }
}

#[test]
fn a_view_from_before_the_stay_that_is_here_says_nothing_about_it() {
    let mut host = Host::new(agent());
    let attempt = host.stay().attempt;
    assert!(!is_behind(&host.observed, LogIndex(0)));
    host.run();
    assert!(is_behind(&host.observed, LogIndex(attempt.0 - 1)));
    assert!(!is_behind(&host.observed, attempt));
}
