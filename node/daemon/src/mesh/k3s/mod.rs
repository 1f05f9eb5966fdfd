//! Makes this node what the agreed state wants of it in a K3s cluster, and tells how far it is.
//!
//! Decides nothing about steps: `runtimes_core::k3s::plan` does. One task owns the adapter and takes
//! one step after another, driven by views; a second one has the reports agreed, in order. What a
//! cluster's servers do for others, tokens and forgetting, is [`hosting`]'s.

mod hosting;
mod report;
mod rest;
mod rollout;
#[cfg(test)]
pub(crate) mod testing;
mod wish;

use std::{sync::Arc, time::Duration};

use consensus_core::{Agreed, Command, IpPrefix, K3sNode, K3sRole, LogIndex};
use runtimes_core::{
    drain::Orders,
    k3s::{Phase, Plan, Stay, Step, is_behind, plan},
    retries::Retries,
};
use runtimes_k3s::{Context, JoinToken, K3sRuntime, Paths, Sight};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::hosting::Hosting;
use self::{
    report::{HEARTBEAT, Report},
    rollout::Held,
    wish::Wish,
};
use super::{
    Host,
    drain::Resting,
    overlay::{OverlayStatus, with_sources},
    proposer::Proposer,
    reports::{REPORTS_MAX, agree_in_order},
};

/// A K3s that died is noticed within this.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What the rest of the daemon sees of this node's K3s.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct K3sStatus {
    /// What is wrong, in words.
    pub(crate) condition: Option<String>,
    /// How far it is where it is to come to rest.
    pub(crate) resting: Resting,
    /// Whether nothing of it is on the host.
    pub(crate) gone: bool,
}

/// The task's inputs.
pub(crate) struct K3s {
    pub(crate) host: Arc<Host>,
    pub(crate) proposer: Proposer,
    pub(crate) overlay: watch::Receiver<OverlayStatus>,
    /// Whether it is to come to rest; nothing is done before that is known.
    pub(crate) orders: watch::Receiver<Option<Orders>>,
    pub(crate) status: watch::Sender<K3sStatus>,
    pub(crate) stop: CancellationToken,
}

/// The adapter, and what is remembered between two looks.
struct Works {
    runtime: K3sRuntime,
    retries: Retries,
    reports: mpsc::Sender<Command>,
    told: Option<(Report, Instant)>,
    /// What to do about the step that failed last.
    hint: Option<String>,
    /// What its turn waits for.
    held: Option<Held>,
    /// Whether the last look found nothing out.
    blind: bool,
    /// Since when it is not ready, having been.
    falters: Option<Instant>,
    /// Up to which entry the view goes that is acted on.
    known: LogIndex,
}

impl K3s {
    /// Runs until cancelled. K3s outlives it.
    pub(crate) async fn run(self) {
        let (reports, queue) = mpsc::channel(REPORTS_MAX);
        let reporter = tokio::spawn(agree_in_order(self.proposer.clone(), queue));
        let mut works = Works {
            runtime: K3sRuntime::new(Paths::under(self.host.data.root())),
            retries: Retries::default(),
            reports,
            told: None,
            hint: None,
            held: None,
            blind: false,
            falters: None,
            known: LogIndex(0),
        };
        let (mut view, mut overlay) = (self.proposer.views.watch(), self.overlay.clone());
        let mut orders = self.orders.clone();
        let mut ordered_before = None;
        let mut before: Option<Wish> = None;
        let mut look_at = Instant::now();
        while !self.stop.is_cancelled() {
            let agreed = {
                let view = view.borrow_and_update();
                works.known = view.revision;
                view.agreed.clone()
            };
            let me = &self.proposer.me;
            let heard = rollout::heard(&self.proposer.members.borrow(), me);
            let wish = Wish::of(&agreed, me, &heard, &overlay.borrow_and_update());
            if wish.tries_anew(before.as_ref()) {
                // A new wish does not wait out the pause of an old failure.
                works.retries.handle_new_desired();
                works.held = None;
            }
            let ordered = *orders.borrow_and_update();
            let rests = rests(ordered, &wish);
            let news = before.as_ref() != Some(&wish) || ordered != ordered_before;
            ordered_before = ordered;
            if news || Instant::now() >= look_at {
                let wait = match rests {
                    _ if ordered.is_none() => Some(LOOK_EVERY),
                    Some(drain) => self.rest(&mut works, &agreed, &wish, drain).await,
                    None if wish.too_early => Some(LOOK_EVERY),
                    None => self.turn(&mut works, &agreed, &wish).await,
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
                () = sleep_until(look_at) => {}
            }
        }
        reporter.abort();
    }

    /// Observes, plans, takes one step. When to look again at the latest; none when there is more to do
    /// at once.
    async fn turn(&self, works: &mut Works, agreed: &Agreed, wish: &Wish) -> Option<Duration> {
        let row = wish.row.as_ref();
        let token = match self.open_token(row, wish.desired.stay.as_ref()) {
            Ok(token) => token,
            Err(reason) => {
                let now = self.host.clock.now();
                works
                    .retries
                    .handle_failure("K3sTokenMalformedError", reason, now);
                None
            }
        };
        let name = agreed.name_of(&self.proposer.me);
        let context = Context {
            role: wish.role,
            node: &name,
            foreign_network: wish.brings_own_network(),
            wanted: wish.desired.stay.is_some(),
            drained: wish.drained,
            token: token.as_ref(),
        };
        let Some((mut planned, sight)) = self.look(works, wish, &context).await else {
            return Some(LOOK_EVERY);
        };
        if let Phase::Failed { hint, .. } = &mut planned.phase {
            *hint = hint.take().or_else(|| works.hint.clone());
        }
        self.show(K3sStatus {
            condition: condition(&planned.phase).or_else(|| works.waits_for()),
            resting: Resting::default(),
            gone: planned.phase == Phase::Stopped,
        });
        self.tell(works, row, &planned.phase, sight);
        match planned.step {
            Some(Step::RequestToken) => Some(LOOK_EVERY),
            Some(step) => match self.may_take(works, agreed, wish, &step).await {
                true => self.take(works, step, &context).await,
                false => Some(LOOK_EVERY),
            },
            // Nothing is there and nothing is wanted: only a report may have to be repeated.
            None if planned.phase == Phase::Stopped => Some(HEARTBEAT),
            None => Some(LOOK_EVERY),
        }
    }

    /// Whether this node may stop being ready for the change that its cluster is in, if that is what the
    /// step does. What is in the way for a moment is waited for; for longer, it is a failure.
    async fn may_take(&self, works: &mut Works, agreed: &Agreed, wish: &Wish, step: &Step) -> bool {
        let paths = works.runtime.paths();
        let begins = *step == Step::Vacate && !paths.vacated().exists();
        let turn = wish.desired.stay.as_ref().is_some_and(|stay| stay.turn);
        // One that is down takes nothing from the others by being mended; maybe they wait for it.
        let stops = matches!(step, Step::Restart(_)) && turn && !works.runtime.is_down();
        if *step != Step::Vacate && !stops {
            works.held = None;
            return true;
        }
        let me = &self.proposer.me;
        let members = self.proposer.members.borrow().clone();
        let heard = rollout::heard(&members, me);
        let may = tokio::select! {
            // A snapshot that is cut off is no snapshot; the next start takes another.
            () = self.stop.cancelled() => return false,
            may = rollout::may_stop(agreed, me, &heard, begins.then_some(paths)) => may,
        };
        let Err(why) = may else {
            works.held = None;
            if begins {
                rollout::let_address_go(&self.proposer, agreed).await;
            }
            return true;
        };
        let (now, reason) = (self.host.clock.now(), with_sources(&why));
        tracing::info!(code = why.code(), reason, "k3s: its turn waits");
        let held = Held::again(works.held.take(), reason.clone(), now);
        if held.is_for_long(now) {
            works.hint = Some(why.hint().to_owned());
            works.retries.handle_failure(why.code(), reason, now);
        }
        works.held = Some(held);
        false
    }

    /// What is the case, and what follows from it; nothing, as long as the view is older than what is
    /// on the host.
    async fn look(
        &self,
        works: &mut Works,
        wish: &Wish,
        context: &Context<'_>,
    ) -> Option<(Plan, Sight)> {
        let now = self.host.clock.now();
        let observed = works.runtime.observe(&wish.binary, context, now).await;
        works.blind = observed.is_err();
        match observed {
            Ok((observed, _)) if is_behind(&observed, works.known) => None,
            Ok((observed, sight)) => {
                let files = works.runtime.paths().secret_files();
                let planned = plan(&wish.desired, &observed, &files, &works.retries);
                if matches!(planned.phase, Phase::Ready { .. }) {
                    works.retries.handle_ready(now);
                }
                Some((planned, routed(sight, wish.pod_prefix())))
            }
            Err(error) => {
                let reason = with_sources(&error);
                works
                    .retries
                    .handle_failure(error.code(), reason.clone(), now);
                let phase = Phase::Failed {
                    code: error.code(),
                    reason,
                    hint: Some(error.hint()),
                    retry_at: None,
                };
                Some((Plan { phase, step: None }, Sight::default()))
            }
        }
    }

    /// Takes the step. There may be more to do at once.
    async fn take(&self, works: &mut Works, step: Step, context: &Context<'_>) -> Option<Duration> {
        if matches!(step, Step::Start(_) | Step::Restart(_)) {
            works.retries.handle_start(self.host.clock.now());
        }
        let name = step_name(&step);
        let waits = matches!(step, Step::Vacate | Step::Return);
        // These are taken again and again.
        if step != Step::Probe && !(waits && works.runtime.waits_for().is_some()) {
            tracing::info!(step = name, "k3s");
        }
        let performed = tokio::select! {
            // A step may be cut off anywhere, as by a crash: the next start takes it again.
            () = self.stop.cancelled() => return Some(LOOK_EVERY),
            performed = works.runtime.perform(step, context) => performed,
        };
        if let Err(error) = performed {
            let reason = with_sources(&error);
            tracing::warn!(
                step = name,
                code = error.code(),
                error = reason,
                "k3s: a step failed"
            );
            works.hint = Some(error.hint());
            let (code, pause, now) = (error.code(), error.pause(), self.host.clock.now());
            works
                .retries
                .handle_costly_failure(code, reason, pause, now);
        }
        None
    }

    /// The token that was sealed for this stay, opened with this node's own key.
    fn open_token(
        &self,
        row: Option<&K3sNode>,
        stay: Option<&Stay>,
    ) -> Result<Option<JoinToken>, String> {
        let Some(sealed) = row
            .and_then(|row| row.token.as_ref())
            .filter(|_| stay.is_some())
        else {
            return Ok(None);
        };
        let key = self.host.authority.sealing_key();
        let key = key.map_err(|error| with_sources(&error))?;
        let opened = key.unseal(&sealed.age).map_err(|error| error.to_string())?;
        let token = JoinToken::from_bytes(&opened);
        token.map(Some).map_err(|error| error.to_string())
    }

    /// Tells the rest of the daemon.
    fn show(&self, status: K3sStatus) {
        self.status.send_if_modified(|present| {
            let differs = *present != status;
            *present = status;
            differs
        });
    }
}

/// Of its pods' addresses those that the overlay routes: a prefix that K3s chose for itself, or that the
/// cluster had before, is nobody's business outside.
fn routed(sight: Sight, all: Option<IpPrefix>) -> Sight {
    let inside = |pods: &IpPrefix| all.is_some_and(|all| all.contains(*pods));
    Sight {
        pods: sight.pods.into_iter().filter(inside).collect(),
    }
}

/// The drain for which a node is to be at rest: a server that stays. An agent goes on without pods.
fn rests(orders: Option<Orders>, wish: &Wish) -> Option<LogIndex> {
    let row = wish.row.as_ref();
    let serves = row.is_some_and(|row| row.role == K3sRole::Server && !row.is_leaving());
    orders.and_then(|orders| orders.k3s).filter(|_| serves)
}

/// What is wrong, in words.
fn condition(phase: &Phase) -> Option<String> {
    let Phase::Failed { reason, hint, .. } = phase else {
        return None;
    };
    let hint = hint.as_ref().map(|hint| format!("; {hint}"));
    Some(format!("k3s: {reason}{}", hint.unwrap_or_default()))
}

impl Works {
    /// What its turn waits for, in words.
    fn waits_for(&self) -> Option<String> {
        let held = self.held.as_ref().map(|held| held.why.as_str());
        let why = held.or(self.runtime.waits_for())?;
        Some(format!("k3s: its turn waits: {why}"))
    }
}

fn step_name(step: &Step) -> &'static str {
    match step {
        Step::Begin { .. } => "begin",
        Step::Vacate => "vacate",
        Step::Return => "return",
        Step::Install { .. } => "install",
        Step::MakeSecrets => "make secrets",
        Step::RequestToken => "request token",
        Step::WriteToken(_) => "write token",
        Step::WriteSettings(_) => "write settings",
        Step::Start(_) => "start",
        Step::Restart(_) => "restart",
        Step::Probe => "probe",
        Step::Stop => "stop",
        Step::Clean => "clean",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pods_that_the_overlay_routes_are_told() {
        let prefix = |text: &str| text.parse::<IpPrefix>().unwrap();
        let own = || Sight {
            pods: vec![prefix("10.42.1.0/24"), prefix("10.99.0.0/24")],
        };
        assert!(routed(own(), None).pods.is_empty());
        let all = Some(prefix("10.42.0.0/16"));
        assert_eq!(routed(own(), all).pods, [prefix("10.42.1.0/24")]);
    }
}
