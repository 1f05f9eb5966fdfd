//! Has what a runtime says of itself agreed, in order.
//!
//! Decides: that a report of which nobody knows yet whether it is agreed, or that a leader had no time for, is
//! tried until that is certain, so that none overtakes another; which answers are certain; and when one is said
//! again that the view does not show: soon where one was refused, for what it was refused for may be over in a
//! moment, else after a while (SPEC 4.3: the heartbeat repairs). Never: keeps a runtime waiting. A mesh without
//! a majority keeps nothing from being started again.
//!
//! Invariants, each a test below: every try of a report is the same request, so that one whose answer was lost
//! is agreed once; a report on its way is not said a second time; a drift for which the queue has no room is
//! said as soon as it has some.

use std::{collections::BTreeSet, time::Duration};

use consensus_core::{Command, Done, LogIndex, Module, RequestId};
use node_api::ApiError;
use runtimes_core::drift::Part;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};
use tokio_util::task::AbortOnDropHandle;

use super::{asking::BUSY, proposer::Proposer};

/// Reports on their way; a runtime has some ten phases.
const REPORTS_MAX: usize = 32;
/// After a report that found no majority, or a leader with too much to do.
const REPORT_PAUSE: Duration = Duration::from_secs(1);
/// A report that is not in the view so long after it was agreed is repeated.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(30);
/// After the first of several refusals in a row; each later one doubles it, up to the heartbeat: a report
/// that is never taken costs the mesh no more than that.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// A runtime's reports, of which `R` says as much as tells one from another.
pub(super) struct Reports<R> {
    queue: mpsc::Sender<Command>,
    /// How many were queued.
    queued: u64,
    answers: watch::Receiver<Answers>,
    last: Option<Said<R>>,
    /// Drifts for which there was no room yet. As many as there are parts.
    owed: BTreeSet<(Module, Part)>,
    /// Has them agreed, as long as there may be more.
    _agreeing: AbortOnDropHandle<()>,
}

/// What was said last.
struct Said<R> {
    report: R,
    at: Instant,
    /// How many were queued, with this one.
    number: u64,
    /// How many reports had been refused before.
    refused_before: u64,
}

/// What became of reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Answers {
    /// So many were agreed or refused.
    count: u64,
    /// When that was known of the last one.
    at: Option<Instant>,
    /// So many were refused.
    refused: u64,
    /// So many since one was agreed.
    refused_in_a_row: u32,
}

impl Answers {
    fn handle_answer(&mut self, agreed: bool, now: Instant) {
        self.count += 1;
        self.at = Some(now);
        if agreed {
            self.refused_in_a_row = 0;
        } else {
            self.refused += 1;
            self.refused_in_a_row = self.refused_in_a_row.saturating_add(1);
        }
    }

    /// Whether what was said is not said again yet, though the view does not show it.
    fn keeps_quiet<R>(&self, said: &Said<R>, now: Instant) -> bool {
        if self.count < said.number {
            // It is on its way: said again it would be a request of its own.
            return true;
        }
        let known = self.at.map_or(said.at, |at| at.max(said.at));
        now.duration_since(known) < self.quiet_for(said.refused_before)
    }

    /// How long a report that the view does not show is not said again. So many had been refused before it.
    fn quiet_for(&self, refused_before: u64) -> Duration {
        match self.refused == refused_before {
            true => HEARTBEAT,
            false => self.pause(),
        }
    }

    /// How soon after a refusal one is said again.
    fn pause(&self) -> Duration {
        let doublings = self.refused_in_a_row.saturating_sub(1).min(5);
        (REFUSED_PAUSE * 2u32.pow(doublings)).min(HEARTBEAT)
    }
}

impl<R> Reports<R> {
    /// Begins to have them agreed.
    pub(super) fn begin(proposer: Proposer) -> Self {
        let (queue, reports) = mpsc::channel(REPORTS_MAX);
        let (answered, answers) = watch::channel(Answers::default());
        let agreeing = tokio::spawn(agree_in_order(proposer, reports, answered));
        Self {
            queue,
            queued: 0,
            answers,
            last: None,
            owed: BTreeSet::new(),
            _agreeing: AbortOnDropHandle::new(agreeing),
        }
    }

    /// Queues a report. A full queue means that the mesh has no majority: then it counts as not said, and the
    /// next look says it.
    pub(super) fn say(&mut self, report: R, command: Command) {
        let refused_before = self.answers.borrow().refused;
        if self.enqueue(command) {
            self.last = Some(Said {
                report,
                at: Instant::now(),
                number: self.queued,
                refused_before,
            });
        }
    }

    /// Queues that parts of a module are not as they were left, which is said once. With every look: what there
    /// was no room for before is queued now.
    pub(super) fn mention_drifts(&mut self, module: Module, parts: &[Part]) {
        for part in parts {
            let (name, what) = (module.as_str(), part.as_str());
            tracing::warn!(module = name, what, "it is put right");
            self.owed.insert((module, *part));
        }
        while let Some((module, part)) = self.owed.first().copied() {
            let what = part.as_str().to_owned();
            if !self.enqueue(Command::ReportDrift { module, what }) {
                return;
            }
            self.owed.pop_first();
        }
    }

    fn enqueue(&mut self, command: Command) -> bool {
        let fits = self.queue.try_send(command).is_ok();
        self.queued += u64::from(fits);
        fits
    }

    /// What was said last.
    pub(super) fn last(&self) -> Option<&R> {
        self.last.as_ref().map(|said| &said.report)
    }

    /// The same, unless it is to be said again where the view does not show it.
    pub(super) fn lately(&self) -> Option<&R> {
        let answers = *self.answers.borrow();
        let said = self.last.as_ref()?;
        let quiet = answers.keeps_quiet(said, Instant::now());
        quiet.then_some(&said.report)
    }

    /// What was said does not count any more.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    /// Waits until a report is refused, or has been since this was asked last. How soon one is said again.
    /// Cancel-safe: it only waits.
    pub(super) async fn refused(&mut self) -> Duration {
        loop {
            if self.answers.changed().await.is_err() {
                return std::future::pending().await;
            }
            let answers = *self.answers.borrow_and_update();
            if answers.refused_in_a_row > 0 {
                return answers.pause();
            }
        }
    }
}

/// Runs until nobody reports any more.
async fn agree_in_order(
    proposer: Proposer,
    mut queue: mpsc::Receiver<Command>,
    answers: watch::Sender<Answers>,
) {
    while let Some(command) = queue.recv().await {
        let name = command.name();
        // No operator asked for a report.
        let attempt = |request| proposer.agree_as(request, command.clone(), None);
        let agreed = match settle(attempt).await {
            Ok(LogIndex(index)) => {
                tracing::debug!(report = name, index, "reported");
                true
            }
            Err(error) => {
                tracing::debug!(report = name, code = error.code, %error, "a report was refused");
                false
            }
        };
        answers.send_modify(|answers| answers.handle_answer(agreed, Instant::now()));
    }
}

/// Tries until it is certain what becomes of a report, with one request id for all tries.
async fn settle<A>(mut attempt: impl FnMut(RequestId) -> A) -> Result<LogIndex, ApiError>
where
    A: Future<Output = Result<(LogIndex, Done), ApiError>>,
{
    let request = RequestId::from_bytes(rand::random());
    loop {
        match attempt(request).await {
            Ok((index, _)) => return Ok(index),
            Err(error) if is_final(&error) => return Err(error),
            Err(_) => sleep(REPORT_PAUSE).await,
        }
    }
}

/// Whether another try could make no difference. It may be agreed yet without a majority's answer, and nothing
/// was written by a leader with too much to do. All else is the agreed state's own word, which a request gets
/// once and for ever, or that of servers that do not know this node, or such a report: to try on would keep every
/// later report from being told.
fn is_final(error: &ApiError) -> bool {
    !["NoMajorityError", BUSY].contains(&error.code.as_str())
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use tokio::time::advance;

    use super::*;

    fn after(answers: &[bool]) -> Answers {
        let mut after = Answers::default();
        for agreed in answers {
            after.handle_answer(*agreed, Instant::now());
        }
        after
    }

    fn error(code: &str) -> ApiError {
        ApiError::new(code, "m", "h")
    }

    /// Reports that nobody but the test takes out of the queue and answers.
    fn reports(room: usize) -> (Reports<u8>, mpsc::Receiver<Command>, watch::Sender<Answers>) {
        let (queue, queued) = mpsc::channel(room);
        let (answered, answers) = watch::channel(Answers::default());
        let reports = Reports {
            queue,
            queued: 0,
            answers,
            last: None,
            owed: BTreeSet::new(),
            _agreeing: AbortOnDropHandle::new(tokio::spawn(ready(()))),
        };
        (reports, queued, answered)
    }

    fn drift(part: Part) -> Command {
        Command::ReportDrift {
            module: Module::DockerEngine,
            what: part.as_str().to_owned(),
        }
    }

    #[test]
    fn what_was_not_refused_is_said_again_after_a_while() {
        assert_eq!(after(&[]).quiet_for(0), HEARTBEAT);
        assert_eq!(after(&[true, true]).quiet_for(0), HEARTBEAT);
        // Another one was refused before it was said.
        assert_eq!(after(&[false]).quiet_for(1), HEARTBEAT);
        assert_eq!(after(&[false, true]).quiet_for(1), HEARTBEAT);
    }

    #[test]
    fn what_was_refused_is_said_again_soon_and_less_and_less_often() {
        let mut seconds = Vec::new();
        for said in 0..8 {
            let answers = after(&vec![false; said + 1]);
            let before = u64::try_from(said).unwrap();
            seconds.push(answers.quiet_for(before).as_secs());
        }
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30, 30]);
    }

    #[test]
    fn a_report_that_is_agreed_ends_a_row_of_refusals() {
        let answers = after(&[false, false, false, true, false]);
        assert_eq!(answers.quiet_for(3), REFUSED_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn every_try_of_a_report_is_the_same_request_and_every_report_another() {
        let mut ids = Vec::new();
        for _ in 0..2 {
            let agreed = Ok((LogIndex(7), Done::Done));
            let mut answers = vec![agreed, Err(error(BUSY)), Err(error("NoMajorityError"))];
            let mut asked = Vec::new();
            let settled = settle(|request| {
                asked.push(request);
                ready(answers.pop().expect("no try after it is agreed"))
            });
            assert_eq!(settled.await, Ok(LogIndex(7)));
            assert_eq!(asked.len(), 3);
            assert!(asked.iter().all(|id| *id == asked[0]), "{asked:?}");
            ids.push(asked[0]);
        }
        assert_ne!(ids[0], ids[1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_an_answer_and_no_answer_is_none() {
        for code in ["NodeNotFoundError", "TooLargeError", "PeerMessageError"] {
            let mut tries = 0;
            let settled = settle(|_| {
                tries += 1;
                ready(Err(error(code)))
            });
            assert_eq!(settled.await, Err(error(code)));
            assert_eq!(tries, 1);
        }
        for code in ["NoMajorityError", BUSY] {
            assert!(!is_final(&error(code)), "{code}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_report_on_its_way_is_not_said_again_and_the_heartbeat_begins_when_it_is_answered() {
        let (mut reports, _queue, answered) = reports(2);
        let command = || drift(Part::DaemonJson);
        reports.say(1, command());
        advance(HEARTBEAT * 20).await;
        assert_eq!(reports.lately(), Some(&1));
        reports.say(2, command());
        // The first one's answer is none to the second.
        answered.send_modify(|answers| answers.handle_answer(true, Instant::now()));
        advance(HEARTBEAT * 2).await;
        assert_eq!(reports.lately(), Some(&2));
        answered.send_modify(|answers| answers.handle_answer(true, Instant::now()));
        advance(HEARTBEAT / 2).await;
        assert_eq!(reports.lately(), Some(&2));
        advance(HEARTBEAT / 2).await;
        assert_eq!((reports.lately(), reports.last()), (None, Some(&2)));
    }

    #[tokio::test]
    async fn what_there_is_no_room_for_is_said_as_soon_as_there_is() {
        let (mut reports, mut queue, _answered) = reports(1);
        reports.say(1, drift(Part::K3sSettings));
        reports.say(2, drift(Part::K3sSettings));
        assert_eq!(reports.last(), Some(&1), "the next look says it");
        let both = [Part::DaemonJson, Part::DockerRoots];
        reports.mention_drifts(Module::DockerEngine, &both);
        assert_eq!(queue.try_recv(), Ok(drift(Part::K3sSettings)));
        for part in both {
            reports.mention_drifts(Module::DockerEngine, &[]);
            assert_eq!(queue.try_recv(), Ok(drift(part)));
        }
        reports.mention_drifts(Module::DockerEngine, &[]);
        assert!(queue.try_recv().is_err(), "each is said once");
    }
}
