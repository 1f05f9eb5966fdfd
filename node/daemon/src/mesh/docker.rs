//! Makes this node the Docker host that the agreed state wants, and tells how far it is.
//!
//! Decides nothing about steps: `runtimes_core::docker::plan` does. Two tasks: one owns the
//! adapter and takes one step after another, driven by views; one has the reports agreed, in
//! order. So a mesh without a majority never keeps a crashed dockerd from being started again.

use std::{path::PathBuf, sync::Arc, time::Duration};

use consensus_authority::{certificates_to_pem, renew_at};
use consensus_core::{
    Agreed, Command, DockerHost, DockerPhase, LogIndex, Module, Time, WallMs, renewal_reason,
};
use overlay_core::mtu::BRIDGE_MTU;
use overlay_names::for_containers;
use runtimes_core::{
    docker::{Desired, Dns, IssuedCertificate, Listen, Phase, Plan, Step, plan},
    retries::Retries,
};
use runtimes_docker::{DockerRuntime, Paths, Settings};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Host,
    containers::names_server,
    overlay::{OverlayStatus, with_sources},
    proposer::{Proposer, wall_now},
};

/// A dockerd that died is noticed within this.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A report that is not in the view by then is repeated (SPEC 4.3: the heartbeat repairs).
const HEARTBEAT: Duration = Duration::from_secs(30);
/// Phases on their way; a host has seven.
const REPORTS_MAX: usize = 32;
/// After a report that found no majority.
const REPORT_PAUSE: Duration = Duration::from_secs(1);

/// What the rest of the daemon sees of this node's Docker host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct DockerStatus {
    /// What is wrong, in words.
    pub(crate) condition: Option<String>,
    /// Where dockerd answers, while it is as it should be.
    pub(crate) socket: Option<PathBuf>,
}

/// The task's inputs.
pub(crate) struct Docker {
    pub(crate) host: Arc<Host>,
    pub(crate) proposer: Proposer,
    pub(crate) overlay: watch::Receiver<OverlayStatus>,
    pub(crate) status: watch::Sender<DockerStatus>,
    pub(crate) stop: CancellationToken,
}

/// A phase to be agreed.
type Report = (DockerPhase, Option<Listen>);

/// All that a turn depends on beside the machine: as long as it stays, looking now and then is
/// enough.
#[derive(PartialEq)]
struct Wish {
    desired: Desired,
    /// What the mesh believes of this host.
    row: Option<DockerHost>,
    /// Whether dockerd's address is still on its way.
    too_early: bool,
}

/// What was reported last, and when.
#[derive(Default)]
struct Reported {
    last: Option<(DockerPhase, Instant)>,
}

impl Docker {
    /// Runs until cancelled. dockerd outlives it.
    pub(crate) async fn run(self) {
        let (reports, queue) = mpsc::channel(REPORTS_MAX);
        let reporter = tokio::spawn(report_in_order(self.proposer.clone(), queue));
        let settings = Settings {
            dockerd: self.host.config.dockerd.clone(),
            ..Settings::default()
        };
        let mut runtime = DockerRuntime::new(Paths::under(self.host.data.root()), settings);
        let (mut view, mut overlay) = (self.proposer.views.watch(), self.overlay.clone());
        let mut retries = Retries::default();
        let mut reported = Reported::default();
        let mut before: Option<Wish> = None;
        let mut look_at = Instant::now();
        while !self.stop.is_cancelled() {
            let agreed = view.borrow_and_update().agreed.clone();
            let wish = self.wish(&agreed, &overlay.borrow_and_update());
            let news = before.as_ref() != Some(&wish);
            if before.as_ref().map(|before| &before.desired) != Some(&wish.desired) {
                // A new wish does not wait out the pause of an old failure.
                retries.handle_new_desired();
            }
            if news || Instant::now() >= look_at {
                let wait = if wish.too_early {
                    Some(LOOK_EVERY)
                } else {
                    let desired = &wish.desired;
                    self.turn(
                        &mut runtime,
                        &mut retries,
                        &agreed,
                        desired,
                        &reports,
                        &mut reported,
                    )
                    .await
                };
                before = Some(wish);
                look_at = Instant::now() + wait.unwrap_or_default();
                if wait.is_none() {
                    continue;
                }
            }
            // All arms only wait; everything is looked at anew above.
            tokio::select! {
                () = self.stop.cancelled() => {}
                changed = view.changed() => if changed.is_err() { break },
                changed = overlay.changed() => if changed.is_err() { break },
                () = sleep_until(look_at) => {}
            }
        }
        reporter.abort();
    }

    /// Observes, plans, takes one step. None when there is more to do at once.
    async fn turn(
        &self,
        runtime: &mut DockerRuntime,
        retries: &mut Retries,
        agreed: &Agreed,
        desired: &Desired,
        reports: &mpsc::Sender<Report>,
        reported: &mut Reported,
    ) -> Option<Duration> {
        let now = self.host.clock.now();
        let planned = match runtime.observe(desired, now, wall_now()).await {
            Ok(observed) => plan(desired, &observed, &runtime.paths().layout(), retries),
            Err(error) => {
                retries.handle_failure(error.code(), with_sources(&error), now);
                let reason = with_sources(&error);
                let phase = Phase::Failed {
                    code: error.code(),
                    reason,
                    hint: None,
                    retry_at: None,
                };
                Plan { phase, step: None }
            }
        };
        if matches!(planned.phase, Phase::Ready { .. }) {
            retries.handle_ready(now);
        }
        // A host that asks for its next certificate goes on meanwhile; the mesh is to know.
        let phase = match (&planned.phase, &planned.step) {
            (Phase::Ready { .. }, Some(Step::RequestCertificate { csr })) => Phase::WantsCert {
                csr: Some(csr.clone()),
            },
            (phase, _) => phase.clone(),
        };
        self.tell(agreed, desired, &phase, reports, reported);
        let serves = matches!(planned.phase, Phase::Ready { .. });
        let socket = serves.then(|| runtime.paths().socket.clone());
        self.status.send_if_modified(|status| {
            let differs = status.socket != socket;
            status.socket = socket;
            differs
        });
        let Some(step) = planned
            .step
            .filter(|step| !matches!(step, Step::RequestCertificate { .. }))
        else {
            return Some(LOOK_EVERY);
        };
        if matches!(step, Step::Start | Step::Restart) {
            retries.handle_start(now);
        }
        tracing::info!(step = step_name(&step), "docker-engine");
        if let Err(error) = runtime.perform(step).await {
            tracing::warn!(
                code = error.code(),
                error = with_sources(&error),
                "docker-engine: a step failed"
            );
            retries.handle_failure(error.code(), with_sources(&error), self.host.clock.now());
        }
        None
    }

    fn wish(&self, agreed: &Agreed, overlay: &OverlayStatus) -> Wish {
        let me = &self.proposer.me;
        let desired = self.desired(agreed, overlay);
        // After a start the interface comes up within moments; until then nothing is wrong.
        let too_early =
            desired.assigned && desired.listen.is_none() && agreed.first_peer(me).is_some();
        Wish {
            desired,
            row: agreed.docker_hosts.get(me).cloned(),
            too_early,
        }
    }

    fn desired(&self, agreed: &Agreed, overlay: &OverlayStatus) -> Desired {
        let me = &self.proposer.me;
        let row = agreed.docker_hosts.get(me);
        let certificate = row
            .and_then(|row| row.certificate.as_ref())
            .and_then(|issued| shown_certificate(agreed, issued));
        // dockerd can bind its address only once the interface has it.
        let peer = agreed
            .first_peer(me)
            .and_then(|(network, _)| overlay.up.get(network));
        Desired {
            assigned: row.is_some() && agreed.assigned(me, Module::DockerEngine),
            node_name: agreed.name_of(me),
            listen: peer.map(|peer| Listen {
                ipv6: peer.ipv6,
                ipv4: Some(peer.ipv4),
            }),
            certificate,
            overrides: Vec::new(),
            mtu: Some(BRIDGE_MTU),
            dns: names_server(agreed, me).map(|own| Dns {
                own,
                fallback: for_containers(),
            }),
        }
    }

    /// Queues a report where the agreed row says otherwise.
    fn tell(
        &self,
        agreed: &Agreed,
        desired: &Desired,
        phase: &Phase,
        reports: &mpsc::Sender<Report>,
        reported: &mut Reported,
    ) {
        self.status.send_if_modified(|status| {
            let condition = if let Phase::Failed { reason, hint, .. } = phase {
                let hint = hint
                    .as_ref()
                    .map(|hint| format!("; {hint}"))
                    .unwrap_or_default();
                Some(format!("docker-engine: {reason}{hint}"))
            } else {
                None
            };
            let differs = status.condition != condition;
            status.condition = condition;
            differs
        });
        let Some(row) = agreed.docker_hosts.get(&self.proposer.me) else {
            reported.last = None;
            return;
        };
        // Whatever comes next, the host says first that it has begun.
        let begins = row.phase == DockerPhase::Assigned && desired.assigned;
        let told = match &reported.last {
            Some((last, at)) if at.elapsed() < HEARTBEAT => Some(last.clone()),
            Some(_) | None => None,
        };
        if begins
            && told
                .as_ref()
                .is_none_or(|last| matches!(last, DockerPhase::Stopped))
        {
            self.queue(DockerPhase::Installing, desired.listen, reports, reported);
        }
        let Some(next) = self.shown(phase) else {
            return;
        };
        let known = row.phase.tells_the_same(&next)
            && (row.listen == desired.listen.map(|l| l.ipv6) || desired.listen.is_none());
        let told = reported
            .last
            .as_ref()
            .filter(|(_, at)| at.elapsed() < HEARTBEAT)
            .map(|(last, _)| last);
        if known || told.is_some_and(|last| last.tells_the_same(&next)) {
            return;
        }
        self.queue(next, desired.listen, reports, reported);
    }

    fn queue(
        &self,
        phase: DockerPhase,
        listen: Option<Listen>,
        reports: &mpsc::Sender<Report>,
        reported: &mut Reported,
    ) {
        // A full queue means that the mesh has no majority; the heartbeat repeats what matters.
        if reports.try_send((phase.clone(), listen)).is_ok() {
            reported.last = Some((phase, Instant::now()));
        }
    }

    /// The phase as the mesh shows it; none for moments that need no agreement.
    fn shown(&self, phase: &Phase) -> Option<DockerPhase> {
        Some(match phase {
            Phase::Installing => DockerPhase::Installing,
            Phase::WantsCert { csr } => DockerPhase::WantsCert { csr: csr.clone()? },
            Phase::WantsConfig => DockerPhase::WantsConfig,
            Phase::Ready { version } => DockerPhase::Ready {
                version: version.clone(),
            },
            Phase::Stopping => return None,
            Phase::Stopped => DockerPhase::Stopped,
            Phase::Failed {
                code,
                reason,
                retry_at,
                ..
            } => DockerPhase::Failed {
                reason: reason.chars().take(2000).collect(),
                code: (*code).to_owned(),
                retry_at: self.wall(retry_at.unwrap_or(Time::ZERO)),
            },
        })
    }

    fn wall(&self, at: Time) -> WallMs {
        let ahead = at.since(self.host.clock.now());
        WallMs(wall_now().0 + u64::try_from(ahead.as_millis()).unwrap_or(0))
    }
}

/// The certificate as dockerd and its clients need it. One whose issuer is remembered no more has
/// ended, and is as good as none.
fn shown_certificate(
    agreed: &Agreed,
    issued: &consensus_core::IssuedCertificate,
) -> Option<IssuedCertificate> {
    let chain = agreed.chain(&issued.leaf, &issued.issuer)?;
    let roots = agreed.trusted_roots();
    let due = renewal_reason(agreed, &issued.serial, wall_now());
    Some(IssuedCertificate {
        serial: issued.serial.clone(),
        csr: issued.csr.clone(),
        not_after: issued.not_after,
        renew_at: match due {
            Some(_) => WallMs(0),
            None => renew_at(issued.not_before, issued.not_after, &issued.serial),
        },
        chain_pem: certificates_to_pem(chain.iter().map(Vec::as_slice)),
        ca_pem: certificates_to_pem(roots.iter().map(Vec::as_slice)),
    })
}

fn step_name(step: &Step) -> &'static str {
    match step {
        Step::Install => "install",
        Step::MakeKey => "make key",
        Step::RequestCertificate { .. } => "request certificate",
        Step::WriteConfig(_) => "write configuration",
        Step::Start => "start",
        Step::Reload => "reload",
        Step::Restart => "restart",
        Step::Probe => "probe",
        Step::Stop => "stop",
        Step::RemoveFiles => "remove files",
    }
}

/// Has the reports agreed, one after another. One that finds no majority is repeated.
async fn report_in_order(proposer: Proposer, mut queue: mpsc::Receiver<Report>) {
    while let Some((phase, listen)) = queue.recv().await {
        loop {
            let command = Command::ReportDocker {
                phase: phase.clone(),
                listen: listen.map(|listen| listen.ipv6),
            };
            match proposer.agree(command).await {
                Ok((LogIndex(index), _)) => {
                    tracing::debug!(phase = phase.as_str(), index, "reported");
                    break;
                }
                Err(error) if error.code == "NoMajorityError" => sleep(REPORT_PAUSE).await,
                Err(error) => {
                    tracing::debug!(phase = phase.as_str(), code = error.code, %error, "a report was refused");
                    break;
                }
            }
        }
    }
}
