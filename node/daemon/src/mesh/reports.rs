//! Has what a runtime says of itself agreed, in order.
//!
//! Decides: that a report that finds no majority, or a leader with too much to do, is repeated until it is
//! agreed, so that none overtakes another; and when one is said again that the view does not show: soon where one was refused,
//! for what it was refused for may be over in a moment, else after a while (SPEC 4.3: the heartbeat
//! repairs). Never: keeps a runtime waiting. A mesh without a majority keeps nothing from being
//! started again.

use std::time::Duration;

use consensus_core::{Command, LogIndex, Module};
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
/// A report that is not in the view by then is repeated.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(30);
/// After the first of several refusals in a row; each later one doubles it, up to the heartbeat: a report
/// that is never taken costs the mesh no more than that.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// A runtime's reports, of which `R` says as much as tells one from another.
pub(super) struct Reports<R> {
    queue: mpsc::Sender<Command>,
    refusals: watch::Receiver<Refusals>,
    last: Option<Said<R>>,
    /// Has them agreed, as long as there may be more.
    _agreeing: AbortOnDropHandle<()>,
}

/// What was said last.
struct Said<R> {
    report: R,
    at: Instant,
    /// How many reports had been refused before.
    refused_before: u64,
}

/// What became of reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Refusals {
    /// So many were refused.
    count: u64,
    /// So many since one was agreed.
    in_a_row: u32,
}

impl Refusals {
    fn handle_answer(&mut self, agreed: bool) {
        if agreed {
            self.in_a_row = 0;
        } else {
            self.count += 1;
            self.in_a_row = self.in_a_row.saturating_add(1);
        }
    }

    /// How long a report that the view does not show is not said again. So many had been refused before it.
    fn quiet_for(self, refused_before: u64) -> Duration {
        match self.count == refused_before {
            true => HEARTBEAT,
            false => self.pause(),
        }
    }

    /// How soon after a refusal one is said again.
    fn pause(self) -> Duration {
        let doublings = self.in_a_row.saturating_sub(1).min(5);
        (REFUSED_PAUSE * 2u32.pow(doublings)).min(HEARTBEAT)
    }
}

impl<R> Reports<R> {
    /// Begins to have them agreed.
    pub(super) fn begin(proposer: Proposer) -> Self {
        let (queue, reports) = mpsc::channel(REPORTS_MAX);
        let (answers, refusals) = watch::channel(Refusals::default());
        let agreeing = tokio::spawn(agree_in_order(proposer, reports, answers));
        Self {
            queue,
            refusals,
            last: None,
            _agreeing: AbortOnDropHandle::new(agreeing),
        }
    }

    /// Queues a report.
    pub(super) fn say(&mut self, report: R, command: Command) {
        let refused_before = self.refusals.borrow().count;
        // A full queue means that the mesh has no majority; the heartbeat repeats what matters.
        if self.queue.try_send(command).is_ok() {
            self.last = Some(Said {
                report,
                at: Instant::now(),
                refused_before,
            });
        }
    }

    /// Queues that something of a module is not as it was left, which is said once. What cannot be queued is
    /// not said.
    pub(super) fn mention_drift(&self, module: Module, part: Part) {
        let (name, what) = (module.as_str(), part.as_str());
        tracing::warn!(module = name, what, "it is put right");
        let what = what.to_owned();
        drop(self.queue.try_send(Command::ReportDrift { module, what }));
    }

    /// What was said last.
    pub(super) fn last(&self) -> Option<&R> {
        self.last.as_ref().map(|said| &said.report)
    }

    /// The same, unless it is to be said again where the view does not show it.
    pub(super) fn lately(&self) -> Option<&R> {
        let refusals = *self.refusals.borrow();
        let said = self.last.as_ref()?;
        let quiet = said.at.elapsed() < refusals.quiet_for(said.refused_before);
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
            if self.refusals.changed().await.is_err() {
                return std::future::pending().await;
            }
            let refusals = *self.refusals.borrow_and_update();
            if refusals.in_a_row > 0 {
                return refusals.pause();
            }
        }
    }
}

/// Runs until nobody reports any more.
async fn agree_in_order(
    proposer: Proposer,
    mut queue: mpsc::Receiver<Command>,
    answers: watch::Sender<Refusals>,
) {
    while let Some(command) = queue.recv().await {
        let name = command.name();
        let agreed = loop {
            match proposer.agree(command.clone()).await {
                Ok((LogIndex(index), _)) => {
                    tracing::debug!(report = name, index, "reported");
                    break true;
                }
                Err(error) if ["NoMajorityError", BUSY].contains(&error.code.as_str()) => {
                    sleep(REPORT_PAUSE).await;
                }
                Err(error) => {
                    tracing::debug!(report = name, code = error.code, %error, "a report was refused");
                    break false;
                }
            }
        };
        answers.send_modify(|refusals| refusals.handle_answer(agreed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(answers: &[bool]) -> Refusals {
        let mut refusals = Refusals::default();
        for agreed in answers {
            refusals.handle_answer(*agreed);
        }
        refusals
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
            let refusals = after(&vec![false; said + 1]);
            let before = u64::try_from(said).unwrap();
            seconds.push(refusals.quiet_for(before).as_secs());
        }
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30, 30]);
    }

    #[test]
    fn a_report_that_is_agreed_ends_a_row_of_refusals() {
        let refusals = after(&[false, false, false, true, false]);
        assert_eq!(refusals.quiet_for(3), REFUSED_PAUSE);
    }
}
