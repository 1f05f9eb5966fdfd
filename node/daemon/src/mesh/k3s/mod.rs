//! Makes this node what the agreed state wants of it in a K3s cluster, and tells how far it is.
//!
//! Decides nothing about steps: `runtimes_core::k3s::plan` does. One task owns the adapter and takes
//! one step after another, driven by views; a second one has the reports agreed, in order. What a
//! cluster's servers do for others, tokens and forgetting, is [`hosting`]'s.

mod fetching;
mod hosting;
mod report;
mod rest;
mod rollout;
#[cfg(test)]
pub(crate) mod testing;
mod wish;

use std::{sync::Arc, time::Duration};

use consensus_core::{Agreed, IpPrefix, K3sNode, LogIndex, Time};
use runtimes_core::{
    drain::{Orders, server_rests},
    drift::K3sDrift,
    k3s::{EXITED, Phase, Plan, Step, is_behind, plan},
    retries::Retries,
};
use runtimes_k3s::{Context, JoinToken, K3sRuntime, Paths, Sight, StepError, TokenError};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::hosting::Hosting;
use self::{
    report::{Report, ready_as, told_phase},
    rollout::{Held, Moment, Needs, Saved},
    wish::Wish,
};
use super::{
    Host,
    drain::Resting,
    overlay::{OverlayStatus, with_sources},
    proposer::Proposer,
    reports::{HEARTBEAT, Reports},
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
    reports: Reports<Report>,
    drift: K3sDrift,
    /// What to do about the step that failed last.
    hint: Option<String>,
    /// What its turn waits for.
    held: Option<Held>,
    /// For which change its cluster was saved last.
    saved: Option<Saved>,
    /// Whether the last look found nothing out.
    blind: bool,
    /// Since when it is not ready, having been.
    falters: Option<Instant>,
    /// Up to which entry the view goes that is acted on.
    known: LogIndex,
}

/// What a look found out.
struct Look {
    planned: Plan,
    /// K3s as it runs and is ready, unless something keeps it out of its cluster that no other try mends.
    works: Option<Phase>,
    /// Whether it is ready, and its program still in place.
    intact: bool,
    sight: Sight,
}

/// Why a step was not taken.
struct Trouble {
    code: &'static str,
    reason: String,
    hint: String,
    /// How long it is not tried again, at the least.
    pause: Duration,
}

impl K3s {
    /// Runs until cancelled. K3s outlives it.
    pub(crate) async fn run(self) {
        let mut works = Works {
            runtime: K3sRuntime::new(Paths::under(self.host.data.root())),
            retries: Retries::default(),
            reports: Reports::begin(self.proposer.clone()),
            drift: K3sDrift::default(),
            hint: None,
            held: None,
            saved: None,
            blind: false,
            falters: None,
            known: LogIndex(0),
        };
        let (mut view, mut overlay) = (self.proposer.views.watch(), self.overlay.clone());
        let mut orders = self.orders.clone();
        let mut rested_before = None;
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
                (works.held, works.hint) = (None, None);
            }
            let ordered = *orders.borrow_and_update();
            let rests = ordered
                .map(|orders| server_rests(orders, agreed.drains.get(me), wish.row.as_ref()));
            let news = before.as_ref() != Some(&wish) || rests != rested_before;
            rested_before = rests;
            if news || Instant::now() >= look_at {
                let wait = match rests {
                    None => Some(LOOK_EVERY),
                    Some(Some(drain)) => self.rest(&mut works, &agreed, &wish, drain).await,
                    Some(None) if wish.too_early => Some(LOOK_EVERY),
                    Some(None) => self.turn(&mut works, &agreed, &wish).await,
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
                pause = works.reports.refused() => {
                    look_at = look_at.min(Instant::now() + pause);
                }
                () = sleep_until(look_at) => {}
            }
        }
    }

    /// Observes, plans, takes one step. When to look again at the latest; none when there is more to do
    /// at once.
    async fn turn(&self, works: &mut Works, agreed: &Agreed, wish: &Wish) -> Option<Duration> {
        let row = wish.row.as_ref();
        let name = agreed.name_of(&self.proposer.me);
        let context = Context {
            role: wish.role,
            node: &name,
            foreign_network: wish.brings_own_network(),
            wanted: wish.desired.stay.is_some(),
            drained: wish.drained,
            token: None,
        };
        let Some(look) = self.look(works, wish, &context).await else {
            return Some(LOOK_EVERY);
        };
        let mut planned = look.planned;
        if let Phase::Failed {
            code, reason, hint, ..
        } = &mut planned.phase
        {
            // One that ended between two looks failed in no step that would have read its log.
            if *code == EXITED {
                *hint = Some("look at K3s's log on the node".to_owned());
                if let Some(words) = works.runtime.last_words().await {
                    *reason = format!("{reason}: {words}");
                }
            }
            *hint = hint.take().or_else(|| works.hint.clone());
        }
        self.show(K3sStatus {
            condition: condition(&planned.phase).or_else(|| works.waits_for()),
            resting: Resting::default(),
            gone: planned.phase == Phase::Stopped,
        });
        let told = told_phase(&planned.phase, look.works.as_ref(), wish.stops_change);
        self.tell(works, row, told, look.sight);
        match planned.step {
            Some(Step::RequestToken) => Some(LOOK_EVERY),
            Some(step) => match self.may_take(works, agreed, wish, look.intact, &step).await {
                true => self.take(works, wish, step, &context).await,
                false => Some(LOOK_EVERY),
            },
            // Nothing is there and nothing is wanted: only a report may have to be repeated.
            None if planned.phase == Phase::Stopped => Some(HEARTBEAT),
            None => Some(LOOK_EVERY),
        }
    }

    /// Whether this node may stop being ready for the change that its cluster is in, if that is what the
    /// step does. What is in the way for a moment is waited for; for longer, it is a failure.
    async fn may_take(
        &self,
        works: &mut Works,
        agreed: &Agreed,
        wish: &Wish,
        intact: bool,
        step: &Step,
    ) -> bool {
        let paths = works.runtime.paths();
        let moment = Moment {
            turn: wish.desired.stay.as_ref().is_some_and(|stay| stay.turn),
            begun: paths.vacated().exists(),
            works: intact,
            down: works.runtime.is_down(),
        };
        let now = self.host.clock.now();
        let saved = works.saved.filter(|saved| saved.does_for(wish.asked, now));
        let mut needs = Needs::of(step, moment);
        needs.snapshot &= saved.is_none();
        if !needs.majority && !needs.snapshot {
            // Of one that is not ready for a moment it is not forgotten what it waits for.
            works.held = works.held.take().filter(|_| *step == Step::Probe);
            return true;
        }
        if works.held.as_ref().is_some_and(|held| held.pauses(now)) {
            return false;
        }
        let me = &self.proposer.me;
        let members = self.proposer.members.borrow().clone();
        let heard = rollout::heard(&members, me);
        let may = tokio::select! {
            // A snapshot that is cut off is no snapshot; the next start takes another.
            () = self.stop.cancelled() => return false,
            may = rollout::has(needs, agreed, me, &heard, paths) => may,
        };
        let Err(why) = may else {
            works.held = None;
            if needs.snapshot {
                let asked = wish.asked;
                works.saved = Some(Saved { asked, at: now });
            }
            if *step == Step::Vacate && !moment.begun {
                rollout::let_address_go(&self.proposer, agreed).await;
            }
            return true;
        };
        // A snapshot that was not taken may have cost its whole time.
        let (now, reason) = (self.host.clock.now(), with_sources(&why));
        tracing::info!(code = why.code(), reason, "k3s: its turn waits");
        let held = Held::again(works.held.take(), reason.clone(), why.is_dear(), now);
        if held.is_for_long(now) {
            works.hint = Some(why.hint().to_owned());
            works
                .retries
                .handle_costly_failure(why.code(), reason, held.pause(now), now);
        }
        works.held = Some(held);
        false
    }

    /// What is the case, and what follows from it; nothing, as long as the view is older than what is
    /// on the host.
    async fn look(&self, works: &mut Works, wish: &Wish, context: &Context<'_>) -> Option<Look> {
        let now = self.host.clock.now();
        let observed = tokio::select! {
            // A look changes nothing; a K3s that does not answer holds no daemon's end up.
            () = self.stop.cancelled() => return None,
            observed = works.runtime.observe(&wish.binary, context, now) => observed,
        };
        works.blind = observed.is_err();
        match observed {
            Ok((observed, _)) if is_behind(&observed, works.known) => None,
            Ok((observed, sight)) => {
                let files = works.runtime.paths().secret_files();
                let planned = plan(&wish.desired, &observed, &files, &works.retries);
                if matches!(planned.phase, Phase::Ready { .. }) {
                    works.retries.handle_ready(now);
                }
                let drifts = works.drift.handle_look(&observed, &planned);
                works.reports.mention_drifts(wish.role.module(), &drifts);
                let untroubled = plan(&wish.desired, &observed, &files, &Retries::default());
                let obstructed = matches!(untroubled.phase, Phase::Failed { .. });
                let ready = matches!(planned.phase, Phase::Ready { .. });
                Some(Look {
                    planned,
                    intact: ready && observed.program.is_some(),
                    works: ready_as(&observed).filter(|_| !obstructed),
                    sight: routed(sight, wish.pod_prefix()),
                })
            }
            Err(error) => {
                let reason = with_sources(&error);
                works.hint = Some(error.hint());
                works
                    .retries
                    .handle_failure(error.code(), reason.clone(), now);
                let phase = Phase::Failed {
                    code: error.code(),
                    reason,
                    hint: Some(error.hint()),
                    retry_at: None,
                };
                Some(Look {
                    planned: Plan { phase, step: None },
                    works: None,
                    intact: false,
                    sight: Sight::default(),
                })
            }
        }
    }

    /// Takes the step. There may be more to do at once.
    async fn take(
        &self,
        works: &mut Works,
        wish: &Wish,
        step: Step,
        context: &Context<'_>,
    ) -> Option<Duration> {
        if matches!(step, Step::Start(_) | Step::Restart(_)) {
            works.retries.handle_start(self.host.clock.now());
        }
        let name = step_name(&step);
        let waits = matches!(step, Step::Vacate | Step::Return);
        // These are taken again and again.
        if step != Step::Probe && !(waits && works.runtime.waits_for().is_some()) {
            tracing::info!(step = name, "k3s");
        }
        // One that cannot be opened keeps no other step from being taken.
        let opened = match needs_token(&step) {
            true => self.open_token(wish.row.as_ref()),
            false => Ok(None),
        };
        let token = match opened {
            Ok(token) => token,
            Err(trouble) => {
                works.note(name, trouble, self.host.clock.now());
                return None;
            }
        };
        let context = Context {
            token: token.as_ref(),
            ..*context
        };
        works.drift.handle_step(&step);
        let fetches = matches!(step, Step::Install { .. });
        let performed = tokio::select! {
            // A step may be cut off anywhere, as by a crash: the next start takes it again.
            () = self.stop.cancelled() => return Some(LOOK_EVERY),
            () = self.wanted_otherwise(wish), if fetches => return None,
            performed = works.runtime.perform(step, &context) => performed,
        };
        if let Err(error) = performed {
            works.note(name, Trouble::from(&error), self.host.clock.now());
        }
        None
    }

    /// The token that was sealed for this stay, opened with this node's own key.
    fn open_token(&self, row: Option<&K3sNode>) -> Result<Option<JoinToken>, Trouble> {
        let Some(sealed) = row.and_then(|row| row.token.as_ref()) else {
            return Ok(None);
        };
        let trouble = |reason: String| Trouble {
            code: TokenError::Malformed.code(),
            reason: format!("the token for this node cannot be opened: {reason}"),
            hint: TokenError::Malformed.hint(),
            pause: Duration::ZERO,
        };
        let key = self.host.authority.sealing_key();
        let key = key.map_err(|error| trouble(with_sources(&error)))?;
        let opened = key.unseal(&sealed.age);
        let opened = opened.map_err(|error| trouble(error.to_string()))?;
        let token = JoinToken::from_bytes(&opened);
        token.map(Some).map_err(|error| trouble(error.to_string()))
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

/// Whether a step puts the token in place.
const fn needs_token(step: &Step) -> bool {
    matches!(step, Step::WriteToken(_))
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
        let held = self.held.as_ref().map(Held::words);
        let why = held.or_else(|| self.runtime.waits_for().map(str::to_owned))?;
        Some(format!("k3s: its turn waits: {why}"))
    }

    /// A step failed.
    fn note(&mut self, step: &str, trouble: Trouble, now: Time) {
        let Trouble {
            code,
            reason,
            hint,
            pause,
        } = trouble;
        tracing::warn!(step, code, error = reason, "k3s: a step failed");
        self.hint = Some(hint);
        self.retries.handle_costly_failure(code, reason, pause, now);
    }
}

impl From<&StepError> for Trouble {
    fn from(error: &StepError) -> Self {
        Self {
            code: error.code(),
            reason: with_sources(error),
            hint: error.hint(),
            pause: error.pause(),
        }
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
    use runtimes_core::k3s::TokenMark;

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

    #[test]
    fn a_token_is_opened_for_the_one_step_that_puts_it_in_place() {
        let begin = Step::Begin {
            attempt: LogIndex(7),
        };
        for step in [begin, Step::Vacate, Step::Probe, Step::Stop, Step::Clean] {
            assert!(!needs_token(&step), "{step:?}");
        }
        assert!(needs_token(&Step::WriteToken(TokenMark([7; 32]))));
    }
}
