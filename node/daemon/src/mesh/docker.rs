//! Makes this node the Docker host that the agreed state wants, and tells how far it is.
//!
//! Decides nothing about steps: `runtimes_core::docker::plan` does, and while the host is to come to
//! rest `plan_rest`. Two tasks: one owns the adapter and takes one step after another, driven by
//! views; one has the reports agreed, in order. So a mesh without a majority never keeps a crashed
//! dockerd from being started again.

mod rest;

use std::{path::PathBuf, sync::Arc, time::Duration};

use consensus_authority::{certificates_to_pem, renew_at};
use consensus_core::{
    Agreed, Command, DockerHost, DockerPhase, LogIndex, Module, Time, WallMs, renewal_reason,
};
use overlay_core::mtu::BRIDGE_MTU;
use overlay_names::for_containers;
use runtimes_core::{
    docker::{Desired, Dns, IssuedCertificate, Listen, Phase, Plan, Step, plan},
    drain::Orders,
    drift::DockerDrift,
    retries::Retries,
};
use runtimes_docker::{DockerRuntime, Paths, Settings, StepError};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Host,
    containers::{NamesServer, Served, names_server},
    drain::Resting,
    overlay::{OverlayStatus, with_sources},
    proposer::{Proposer, wall_now},
    reports::Reports,
};

/// A dockerd that died is noticed within this.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What the rest of the daemon sees of this node's Docker host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct DockerStatus {
    /// What is wrong, in words.
    pub(crate) condition: Option<String>,
    /// Where dockerd answers, while it is as it should be.
    pub(crate) socket: Option<PathBuf>,
    /// How far it is where it is to come to rest.
    pub(crate) resting: Resting,
    /// Whether nothing of it is on the host.
    pub(crate) gone: bool,
}

/// The task's inputs.
pub(crate) struct Docker {
    pub(crate) host: Arc<Host>,
    pub(crate) proposer: Proposer,
    pub(crate) overlay: watch::Receiver<OverlayStatus>,
    /// Where containers can ask this node for names.
    pub(crate) served: watch::Receiver<Served>,
    /// Whether it is to come to rest; nothing is done before that is known.
    pub(crate) orders: watch::Receiver<Option<Orders>>,
    pub(crate) status: watch::Sender<DockerStatus>,
    pub(crate) stop: CancellationToken,
}

/// All that a turn depends on beside the machine: as long as it stays, looking now and then is
/// enough.
#[derive(PartialEq)]
struct Wish {
    desired: Desired,
    /// What the mesh believes of this host.
    row: Option<DockerHost>,
    /// Whether dockerd's address is still on its way, or what the host is to do is not known.
    too_early: bool,
    /// The drain for which it is to be at rest.
    rests: Option<LogIndex>,
}

/// The adapter, and what is remembered between two looks.
struct Works {
    runtime: DockerRuntime,
    retries: Retries,
    reports: Reports<DockerPhase>,
    drift: DockerDrift,
}

impl Docker {
    /// Runs until cancelled. dockerd outlives it.
    pub(crate) async fn run(self) {
        let settings = Settings {
            dockerd: self.host.config.dockerd.clone(),
            ..Settings::default()
        };
        let mut works = Works {
            runtime: DockerRuntime::new(Paths::under(self.host.data.root()), settings),
            retries: Retries::default(),
            reports: Reports::begin(self.proposer.clone()),
            drift: DockerDrift::default(),
        };
        let (mut view, mut overlay) = (self.proposer.views.watch(), self.overlay.clone());
        let (mut orders, mut served) = (self.orders.clone(), self.served.clone());
        let mut before: Option<Wish> = None;
        let mut look_at = Instant::now();
        while !self.stop.is_cancelled() {
            let agreed = view.borrow_and_update().agreed.clone();
            let ordered = *orders.borrow_and_update();
            let names = names_server(&agreed, &self.proposer.me, &served.borrow_and_update());
            let wish = self.wish(&agreed, &overlay.borrow_and_update(), names, ordered);
            let news = before.as_ref() != Some(&wish);
            let wanted = |wish: &Wish| (wish.desired.clone(), wish.rests);
            if before.as_ref().map(wanted) != Some(wanted(&wish)) {
                // A new wish does not wait out the pause of an old failure.
                works.retries.handle_new_desired();
            }
            if news || Instant::now() >= look_at {
                let wait = match wish.rests {
                    _ if wish.too_early => Some(LOOK_EVERY),
                    Some(drain) => self.rest(&mut works, &agreed, &wish, drain).await,
                    None => self.turn(&mut works, &agreed, &wish.desired).await,
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
                changed = orders.changed() => if changed.is_err() { break },
                changed = served.changed() => if changed.is_err() { break },
                () = sleep_until(look_at) => {}
            }
        }
    }

    /// Observes, plans, takes one step. None when there is more to do at once.
    async fn turn(
        &self,
        works: &mut Works,
        agreed: &Agreed,
        desired: &Desired,
    ) -> Option<Duration> {
        let now = self.host.clock.now();
        let planned = works.look(desired, now).await;
        if matches!(planned.phase, Phase::Ready { .. }) {
            works.retries.handle_ready(now);
        }
        // A host that asks for its next certificate goes on meanwhile; the mesh is to know.
        let phase = match (&planned.phase, &planned.step) {
            (Phase::Ready { .. }, Some(Step::RequestCertificate { csr })) => Phase::WantsCert {
                csr: Some(csr.clone()),
            },
            (phase, _) => phase.clone(),
        };
        self.tell(works, agreed, desired, &phase);
        let serves = matches!(planned.phase, Phase::Ready { .. });
        let socket = serves.then(|| works.runtime.paths().socket.clone());
        let gone = planned.phase == Phase::Stopped;
        self.show(socket, Resting::default(), gone);
        let Some(step) = planned
            .step
            .filter(|step| !matches!(step, Step::RequestCertificate { .. }))
        else {
            return Some(LOOK_EVERY);
        };
        if matches!(step, Step::Start | Step::Restart) {
            works.retries.handle_start(now);
        }
        tracing::info!(step = step_name(&step), "docker-engine");
        let performed = works.runtime.perform(step.clone()).await;
        works.drift.handle_performed(step, performed.is_ok());
        if let Err(error) = performed {
            self.note_failure(works, &error);
        }
        None
    }

    fn note_failure(&self, works: &mut Works, error: &StepError) {
        let (code, reason) = (error.code(), with_sources(error));
        tracing::warn!(code, reason, "docker-engine: a step failed");
        let now = self.host.clock.now();
        works.retries.handle_failure(code, reason, now);
    }

    /// Tells the rest of the daemon.
    fn show(&self, socket: Option<PathBuf>, resting: Resting, gone: bool) {
        self.status.send_if_modified(|status| {
            let shown = DockerStatus {
                condition: status.condition.clone(),
                socket,
                resting,
                gone,
            };
            let differs = *status != shown;
            *status = shown;
            differs
        });
    }

    fn wish(
        &self,
        agreed: &Agreed,
        overlay: &OverlayStatus,
        names: NamesServer,
        orders: Option<Orders>,
    ) -> Wish {
        let me = &self.proposer.me;
        let desired = self.desired(agreed, overlay, names);
        // What is not assigned any more goes as ever.
        let rests = orders
            .and_then(|orders| orders.docker)
            .filter(|_| desired.assigned);
        // After a start the interface comes up within moments, and so does the server for names;
        // until then nothing is wrong.
        let unplaced = desired.listen.is_none() && agreed.first_peer(me).is_some();
        let unsettled = desired.assigned && (unplaced || names == NamesServer::Undecided);
        Wish {
            row: agreed.docker_hosts.get(me).cloned(),
            too_early: orders.is_none() || (unsettled && rests.is_none()),
            desired,
            rests,
        }
    }

    fn desired(&self, agreed: &Agreed, overlay: &OverlayStatus, names: NamesServer) -> Desired {
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
            dns: match names {
                NamesServer::At(own) => Some(Dns {
                    own,
                    fallback: for_containers(),
                }),
                NamesServer::Nobody | NamesServer::Undecided => None,
            },
        }
    }

    /// Queues a report where the agreed row says otherwise.
    fn tell(&self, works: &mut Works, agreed: &Agreed, desired: &Desired, phase: &Phase) {
        let condition = if let Phase::Failed { reason, hint, .. } = phase {
            let hint = hint.as_ref().map(|hint| format!("; {hint}"));
            let hint = hint.unwrap_or_default();
            Some(format!("docker-engine: {reason}{hint}"))
        } else {
            None
        };
        self.show_condition(condition);
        let Some(row) = agreed.docker_hosts.get(&self.proposer.me) else {
            works.reports.forget();
            return;
        };
        // Whatever comes next, the host says first that it has begun.
        let begins = row.phase == DockerPhase::Assigned && desired.assigned;
        if begins && matches!(works.reports.lately(), None | Some(DockerPhase::Stopped)) {
            works.queue(DockerPhase::Installing, desired.listen);
        }
        let next = self.shown(phase);
        // A host that was at rest is back when it is ready.
        let on_its_way_back = (&row.phase, &next);
        if matches!(
            on_its_way_back,
            (DockerPhase::Drained, Some(DockerPhase::WantsConfig))
        ) {
            return;
        }
        if let Some(next) = next {
            works.report(row, next, desired.listen);
        }
    }

    fn show_condition(&self, condition: Option<String>) {
        self.status.send_if_modified(|status| {
            let differs = status.condition != condition;
            status.condition = condition;
            differs
        });
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

impl Works {
    /// What is the case, and what follows from it. What is not as it was left is told.
    async fn look(&mut self, desired: &Desired, now: Time) -> Plan {
        let observed = match self.runtime.observe(desired, now, wall_now()).await {
            Ok(observed) => observed,
            Err(error) => {
                let reason = with_sources(&error);
                self.retries
                    .handle_failure(error.code(), reason.clone(), now);
                let phase = Phase::Failed {
                    code: error.code(),
                    reason,
                    hint: None,
                    retry_at: None,
                };
                return Plan { phase, step: None };
            }
        };
        let layout = self.runtime.paths().layout();
        let planned = plan(desired, &observed, &layout, &self.retries);
        if !desired.assigned {
            self.drift.handle_unassigned();
            return planned;
        }
        let mut drifts = self.drift.handle_look(&observed, &planned);
        // One that cannot be closed is open, which is told; what else is done does not wait for it.
        let open = self.runtime.close_key().unwrap_or_else(|error| {
            tracing::debug!(reason = with_sources(&error), "dockerd's key stays open");
            true
        });
        drifts.extend(self.drift.handle_key(open, now));
        self.reports.mention_drifts(Module::DockerEngine, &drifts);
        planned
    }

    /// Queues what the mesh does not know yet.
    fn report(&mut self, row: &DockerHost, next: DockerPhase, listen: Option<Listen>) {
        let listens = listen.is_none() || row.listen == listen.map(|listen| listen.ipv6);
        let known = row.phase.tells_the_same(&next) && listens;
        let told = self.reports.lately();
        let told = told.is_some_and(|last| last.tells_the_same(&next));
        if !known && !told {
            self.queue(next, listen);
        }
    }

    fn queue(&mut self, phase: DockerPhase, listen: Option<Listen>) {
        let command = Command::ReportDocker {
            phase: phase.clone(),
            listen: listen.map(|listen| listen.ipv6),
        };
        self.reports.say(phase, command);
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
        Step::StopContainer(_) => "stop a container",
        Step::Rest => "rest",
        Step::StartContainers => "start containers",
    }
}
