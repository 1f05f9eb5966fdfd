//! Watches an address from here: how long nobody answered at it.
//!
//! Decides: what counts as silence (the longest time from one answer to the next, and from the last
//! one to the end), what counts as an answer (an echo of this observation's own, which only whoever
//! got the request knows), and how many observations there may be. Never: when an address moves.
//!
//! Each observation has a thread of its own: a task that waits for others would see their work as
//! silence. It ends by itself.

use std::{
    collections::BTreeMap,
    net::Ipv6Addr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use consensus_core::NodeId;
use node_api::ApiError;
use tokio::{sync::watch, time::timeout};

use super::{
    super::vip_wire::{DrillId, Observation},
    echo::Echo,
};

/// Drills at once. One moves one address; nobody looks at more of them at a time.
const OBSERVATIONS_MAX: usize = 8;
/// Probes are not sent closer together: two hundred a second resolve any move, and cost nothing.
pub(super) const EVERY_MIN: Duration = Duration::from_millis(5);
/// The longest time between two probes, and so what a drill's end may wait for a thread.
const EVERY_MAX: Duration = Duration::from_secs(1);
/// No drill takes longer; an observer that was forgotten ends then.
pub(super) const AT_MOST: Duration = Duration::from_secs(60);
/// An address that answers does so within a round trip, and across the world within this.
const FIRST_ANSWER: Duration = Duration::from_secs(1);
/// How long the address may take to answer again, once the new holder has it: every peer has to
/// learn where it is now.
const LAST_ANSWER: Duration = Duration::from_secs(5);

/// A drill of whoever began it: nobody else hears of it, or ends it.
pub(crate) type OwnDrill = (NodeId, DrillId);

/// The observations of this node.
#[derive(Clone, Default)]
pub(crate) struct Observers {
    running: Arc<Mutex<BTreeMap<OwnDrill, Running>>>,
}

struct Running {
    seen: watch::Receiver<Observation>,
    stop: Arc<AtomicBool>,
}

impl Observers {
    /// Begins an observation; says whether the address answered.
    pub(crate) async fn begin(
        &self,
        drill: OwnDrill,
        (from, address): (Ipv6Addr, Ipv6Addr),
        every: Duration,
        at_most: Duration,
    ) -> Result<bool, ApiError> {
        let echo = Echo::open(from, address, rand::random()).map_err(|error| {
            let message = format!("this node cannot probe {address}");
            let hint = "see whether its overlay interface is up, with `shoal status` there";
            ApiError::new("DrillObserveError", message, hint).caused_by(&error)
        })?;
        let mut seen = self.spawn(drill, echo, every, at_most)?;
        Ok(matches!(
            timeout(FIRST_ANSWER, seen.wait_for(|seen| seen.answers > 0)).await,
            Ok(Ok(_))
        ))
    }

    fn spawn(
        &self,
        drill: OwnDrill,
        echo: Echo,
        every: Duration,
        at_most: Duration,
    ) -> Result<watch::Receiver<Observation>, ApiError> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever asked for those has gone away.
        running.retain(|_, one| one.seen.has_changed().is_ok());
        if running.len() >= OBSERVATIONS_MAX || running.contains_key(&drill) {
            let message = "this node takes part in as many drills as it can already";
            return Err(ApiError::new("BusyError", message, "try again in a minute"));
        }
        let (tell, seen) = watch::channel(Observation::default());
        let stop = Arc::new(AtomicBool::new(false));
        let every = every.clamp(EVERY_MIN, EVERY_MAX);
        let end = Instant::now() + at_most.min(AT_MOST);
        let stopped = Arc::clone(&stop);
        std::thread::Builder::new()
            .name("drill".into())
            .spawn(move || observe(echo, every, end, &stopped, &tell))
            .map_err(|error| {
                let message = "this node has no thread left to probe with";
                ApiError::new("BusyError", message, "try again in a minute").caused_by(&error)
            })?;
        let one = Running {
            seen: seen.clone(),
            stop,
        };
        running.insert(drill, one);
        Ok(seen)
    }

    /// Ends an observation, once the address answers again, or not for long enough.
    pub(crate) async fn end(&self, drill: &OwnDrill) -> Result<Observation, ApiError> {
        let running = self
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(drill);
        let Some(Running { mut seen, stop }) = running else {
            let message = "this node knows nothing of that drill";
            let hint = "it started again meanwhile, or it took too long; repeat the drill";
            return Err(ApiError::new("DrillNotFoundError", message, hint));
        };
        let before = seen.borrow_and_update().answers;
        let answering = matches!(
            timeout(LAST_ANSWER, seen.wait_for(|seen| seen.answers > before)).await,
            Ok(Ok(_))
        );
        stop.store(true, Ordering::Relaxed);
        // The thread lets go of it when it has counted everything.
        let counted = async { while seen.changed().await.is_ok() {} };
        let _ = timeout(EVERY_MAX * 2, counted).await;
        let seen = seen.borrow().clone();
        Ok(Observation { answering, ..seen })
    }
}

/// Probes until told to stop.
fn observe(
    mut echo: Echo,
    every: Duration,
    end: Instant,
    stop: &AtomicBool,
    tell: &watch::Sender<Observation>,
) {
    let mut watching = Watching::default();
    let mut due = Instant::now();
    loop {
        let now = Instant::now();
        if stop.load(Ordering::Relaxed) || now >= end {
            break;
        }
        if now >= due {
            watching.sent(now);
            echo.send();
            // What was missed is not made up for.
            due = now + every;
        }
        echo.wait(due.saturating_duration_since(now));
        let answers = echo.answers();
        if answers > 0 {
            watching.answered(answers, Instant::now());
            tell.send_replace(watching.seen.clone());
        }
    }
    watching.over(Instant::now());
    tell.send_replace(watching.seen);
}

/// What has come in so far.
#[derive(Debug, Default)]
struct Watching {
    seen: Observation,
    last_sent: Option<Instant>,
    last_answer: Option<Instant>,
}

fn micros(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_micros()).unwrap_or(u64::MAX)
}

impl Watching {
    fn sent(&mut self, at: Instant) {
        if let Some(last) = self.last_sent {
            self.seen.pause_us = self.seen.pause_us.max(micros(last, at));
        }
        self.seen.sent += 1;
        self.last_sent = Some(at);
    }

    fn answered(&mut self, answers: u64, at: Instant) {
        self.over(at);
        self.seen.answers += answers;
        self.last_answer = Some(at);
    }

    /// Before the first answer there was nothing to miss.
    fn over(&mut self, at: Instant) {
        if let Some(last) = self.last_answer {
            self.seen.silence_us = self.seen.silence_us.max(micros(last, at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(from: Instant, ms: u64) -> Instant {
        from + Duration::from_millis(ms)
    }

    #[test]
    fn silence_is_the_longest_time_between_two_answers_or_up_to_the_end() {
        let zero = Instant::now();
        let mut watching = Watching::default();
        for ms in [0, 5, 10, 30] {
            watching.sent(at(zero, ms));
        }
        watching.answered(1, at(zero, 500));
        assert_eq!(watching.seen.silence_us, 0);
        watching.answered(1, at(zero, 505));
        watching.answered(2, at(zero, 545));
        watching.answered(1, at(zero, 550));
        let seen = watching.seen.clone();
        let expected = Observation {
            sent: 4,
            answers: 5,
            silence_us: 40_000,
            pause_us: 20_000,
            answering: false,
        };
        assert_eq!(seen, expected);
        watching.over(at(zero, 600));
        assert_eq!(watching.seen.silence_us, 50_000);
    }

    #[test]
    fn what_never_answered_was_not_silent() {
        let mut watching = Watching::default();
        watching.over(Instant::now());
        assert_eq!(watching.seen, Observation::default());
    }

    fn by(letter: char, drill: u8) -> OwnDrill {
        let rest: String = std::iter::repeat_n(letter, 44).collect();
        (format!("12D3KooW{rest}").parse().unwrap(), [drill; 16])
    }

    async fn begin(observers: &Observers, drill: u8) -> Result<bool, ApiError> {
        let here = Ipv6Addr::LOCALHOST;
        let begun = observers.begin(by('a', drill), (here, here), EVERY_MIN, AT_MOST);
        begun.await
    }

    #[tokio::test]
    async fn an_address_that_answers_is_observed_until_the_end() {
        let observers = Observers::default();
        assert!(begin(&observers, 42).await.unwrap());
        let others = observers.end(&by('b', 42)).await.unwrap_err();
        assert_eq!(others.code, "DrillNotFoundError");
        let seen = observers.end(&by('a', 42)).await.unwrap();
        assert!(seen.answering && seen.answers >= 2, "{seen:?}");
        assert!(seen.sent >= seen.answers && seen.silence_us > 0, "{seen:?}");
        let again = observers.end(&by('a', 42)).await.unwrap_err();
        assert_eq!(again.code, "DrillNotFoundError");
    }

    #[tokio::test]
    async fn there_are_only_so_many_at_once_and_those_that_are_over_do_not_count() {
        let observers = Observers::default();
        for drill in 0..8 {
            begin(&observers, drill).await.unwrap();
        }
        let refused = begin(&observers, 8).await;
        assert_eq!(refused.unwrap_err().code, "BusyError");
        observers.end(&by('a', 0)).await.unwrap();
        assert!(begin(&observers, 8).await.unwrap());
    }
}
