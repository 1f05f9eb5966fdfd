//! Empties this node when the mesh has agreed to it, and tells how far it is.
//!
//! Decides nothing: `runtimes_core::drain::judge` says what goes next and when it is over. Virtual IPs
//! move by themselves, as the lease protocol takes them from a node that is emptied; here it is only
//! seen that they have. What the runtimes do is told to their own tasks by [`Orders`]; pods are
//! [`pods`]'s. Nothing is remembered but since when: what is agreed and what is found say where to go on.

mod addresses;
mod mark;
mod pods;
mod servers;

use std::{sync::Arc, time::Duration};

use consensus_core::{
    Agreed, Command, DockerPhase, Drain, DrainCommand, DrainState, K3sPhase, K3sRole, LogIndex,
    Time, WallMs,
};
use runtimes_core::drain::{Heard, Left, Orders, Seen, Verdict, judge};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use self::{
    addresses::held,
    pods::{Pods, PodsSeen, Wanted},
    servers::others_lack,
};
use super::{
    Host,
    docker::DockerStatus,
    k3s::K3sStatus,
    lease::heard,
    proposer::{Proposer, wall_now},
    reports::Reports,
};

/// Time runs out, and members fall silent, also where nothing else changes.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How far a runtime is with coming to rest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Resting {
    /// The drain for which it is at rest.
    pub(crate) done: Option<LogIndex>,
    /// What it waits for, in words.
    pub(crate) waits_for: String,
}

impl Resting {
    /// What is left of it. It is at rest when the mesh knows so too: whoever is told that the node is
    /// empty finds its rows so.
    fn left(&self, drain: &Drain, known: bool, otherwise: &str) -> Left {
        if known && self.done == Some(drain.begun) {
            return Left::Nothing;
        }
        Left::Waits(match self.waits_for.as_str() {
            "" => otherwise.to_owned(),
            words => words.to_owned(),
        })
    }
}

/// The task's inputs.
pub(crate) struct Draining {
    pub(crate) host: Arc<Host>,
    pub(crate) proposer: Proposer,
    pub(crate) docker: watch::Receiver<DockerStatus>,
    pub(crate) k3s: watch::Receiver<K3sStatus>,
    /// What the runtimes follow.
    pub(crate) orders: watch::Sender<Option<Orders>>,
    pub(crate) stop: CancellationToken,
}

/// What the task hears from others.
struct Inputs {
    docker: watch::Receiver<DockerStatus>,
    k3s: watch::Receiver<K3sStatus>,
    pods: watch::Receiver<PodsSeen>,
}

/// Since when the drain of this node goes on.
#[derive(Debug, Default)]
struct Began {
    /// Whether the daemon has looked before: what is there at its first look began before it.
    looked: bool,
    heard: Option<Heard>,
}

impl Began {
    /// How long it has been going on, in milliseconds.
    fn waited_ms(&mut self, drain: &Drain, now: Time, wall: WallMs) -> u64 {
        let heard = match self.heard {
            Some(heard) if heard.is_of(drain) => heard,
            Some(_) | None if self.looked => Heard::of(drain, now),
            Some(_) | None => Heard::before_this_daemon(drain, now, wall),
        };
        self.heard = Some(heard);
        heard.waited_ms(now)
    }
}

impl Draining {
    /// Runs until cancelled.
    pub(crate) async fn run(self) {
        let mut reports = Reports::begin(self.proposer.clone());
        let (wanted, wanted_pods) = watch::channel(Wanted::Unknown);
        let (seen_pods, pods) = watch::channel(PodsSeen::default());
        let emptier = Pods {
            host: self.host.clone(),
            proposer: self.proposer.clone(),
            wanted: wanted_pods,
            seen: seen_pods,
        };
        let emptier = tokio::spawn(emptier.run());
        let mut inputs = Inputs {
            docker: self.docker.clone(),
            k3s: self.k3s.clone(),
            pods,
        };
        let mut view = self.proposer.views.watch();
        let mut began = Began::default();
        loop {
            let agreed = view.borrow_and_update().agreed.clone();
            let drain = agreed.drains.get(&self.proposer.me);
            let verdict = drain.map(|drain| {
                let known = with_its_end(drain, reports.last());
                let waited_ms = began.waited_ms(drain, self.host.clock.now(), wall_now());
                (drain, self.judge(&agreed, &known, waited_ms, &mut inputs))
            });
            began.looked = true;
            let (orders, pods) = match &verdict {
                None => (Orders::default(), Wanted::Free),
                Some((drain, verdict)) => {
                    let pods = Wanted::Ordered(drain.begun, verdict.pods);
                    (verdict.orders, pods)
                }
            };
            replace(&self.orders, Some(orders));
            replace(&wanted, pods);
            if let Some((drain, verdict)) = verdict {
                tell(&mut reports, drain, verdict.state);
            }
            // All arms only wait; everything is looked at anew above.
            let goes_on = tokio::select! {
                () = self.stop.cancelled() => false,
                changed = view.changed() => changed.is_ok(),
                changed = inputs.docker.changed() => changed.is_ok(),
                changed = inputs.k3s.changed() => changed.is_ok(),
                changed = inputs.pods.changed() => changed.is_ok(),
                () = sleep(LOOK_EVERY), if drain.is_some() => true,
            };
            if !goes_on {
                break;
            }
        }
        emptier.abort();
    }

    fn judge(
        &self,
        agreed: &Agreed,
        drain: &Drain,
        waited_ms: u64,
        inputs: &mut Inputs,
    ) -> Verdict {
        let me = &self.proposer.me;
        let heard = heard(agreed, &self.proposer.members.borrow().clone(), me);
        let docker = agreed.docker_hosts.get(me).map(|row| &row.phase);
        let k3s = agreed.k3s_nodes.get(me);
        let rests = k3s.is_some_and(|row| row.phase == K3sPhase::Drained);
        let docker_status = inputs.docker.borrow_and_update().resting.clone();
        let k3s_status = inputs.k3s.borrow_and_update().resting.clone();
        let pods = inputs.pods.borrow_and_update().clone();
        // A server that is at rest has been emptied before.
        let done = |resting: &Resting| resting.done == Some(drain.begun);
        let emptied = rests && done(&k3s_status);
        let seen = Seen {
            waited_ms,
            addresses: held(agreed, me, &heard),
            docker: match docker {
                None | Some(DockerPhase::Stopped) => Left::Nothing,
                Some(phase) => {
                    let known = *phase == DockerPhase::Drained;
                    docker_status.left(drain, known, "Docker to come to rest")
                }
            },
            docker_rests: docker == Some(&DockerPhase::Drained) || done(&docker_status),
            pods: match k3s {
                Some(row) if row.has_been_ready() && !emptied => pods.left(drain),
                Some(_) | None => Left::Nothing,
            },
            stays: pods.stays(drain),
            k3s: match k3s {
                Some(row) if row.role == K3sRole::Server && row.has_been_ready() => {
                    k3s_status.left(drain, rests, "K3s to come to rest")
                }
                Some(_) | None => Left::Nothing,
            },
            k3s_rests: rests || done(&k3s_status),
            others_lack: others_lack(agreed, me, &heard),
        };
        judge(drain, &seen)
    }
}

/// The drain as this node knows it. That it has ended is not in the view at once; until then its end
/// is not judged anew, by what is seen of runtimes that nothing is asked of any more.
fn with_its_end(drain: &Drain, told: Option<&(LogIndex, DrainState)>) -> Drain {
    let mut drain = drain.clone();
    if let Some((begun, state)) = told
        && *begun == drain.begun
        && !matches!(state, DrainState::Draining { .. })
    {
        drain.state = state.clone();
    }
    drain
}

/// Has the mesh told what it does not know yet.
fn tell(reports: &mut Reports<(LogIndex, DrainState)>, drain: &Drain, state: DrainState) {
    let said = (drain.begun, state);
    if drain.state == said.1 || reports.lately() == Some(&said) {
        return;
    }
    let (begun, state) = said.clone();
    tracing::info!(state = state.as_str(), ?state, "this node is emptied");
    reports.say(said, Command::Drain(DrainCommand::Report { begun, state }));
}

fn replace<T: PartialEq>(watch: &watch::Sender<T>, value: T) {
    watch.send_if_modified(|present| {
        let differs = *present != value;
        *present = value;
        differs
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(begun: u64) -> Drain {
        Drain {
            begun: LogIndex(begun),
            at: WallMs(1_000),
            timeout_ms: 600_000,
            cordon_only: false,
            state: DrainState::Draining {
                waits_for: String::new(),
            },
            forced: false,
        }
    }

    const fn seconds(seconds: u64) -> Time {
        Time::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn only_what_was_there_at_the_daemons_first_look_is_counted_by_the_wall() {
        let ahead = WallMs(700_000);
        let mut began = Began::default();
        assert_eq!(began.waited_ms(&drain(7), seconds(1), ahead), 540_000);
        began.looked = true;
        assert_eq!(began.waited_ms(&drain(7), seconds(3), ahead), 542_000);
        assert_eq!(began.waited_ms(&drain(9), seconds(4), ahead), 0);
        assert_eq!(began.waited_ms(&drain(9), seconds(9), WallMs(0)), 5_000);
    }
}
