//! When a failed step is tried again.
//!
//! Decides: the pause after the n-th failure in a row and when a row of failures is forgotten.
//! Never: waits. The caller compares [`Failure::retry_at`] with its own time.
//!
//! Invariant: an engine that becomes ready and dies at once does not reset the pause; only a
//! stretch of [`STEADY`] does.

use std::{collections::BTreeMap, time::Duration};

use consensus_core::Time;

/// Pause after the first failure: long enough not to spin, short enough not to be noticed.
pub const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause: a person who has mended the cause waits at most so long.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// An engine that was ready for so long has recovered; equals the longest pause, so that a crash
/// loop can never run faster than its own pause.
pub const STEADY: Duration = Duration::from_secs(60);

/// The last of one or more failures in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Stable code of the error.
    pub code: &'static str,
    /// The fact, for people.
    pub reason: String,
    /// How many failures came in a row, this one included.
    pub count: u32,
    /// When the step is tried again.
    pub retry_at: Time,
}

/// The failures of one runtime on one node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Retries {
    failure: Option<Failure>,
    ready_since: Option<Time>,
    /// Starts since the engine was last steady, and when the last one was.
    starts: Option<(u32, Time)>,
    /// Failures since the last of these, by their codes. As many entries as there are codes.
    since_start: BTreeMap<&'static str, u32>,
}

impl Retries {
    /// The last failure, unless it has been forgotten.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// A step failed, or the engine died.
    pub fn handle_failure(&mut self, code: &'static str, reason: String, now: Time) {
        self.handle_costly_failure(code, reason, Duration::ZERO, now);
    }

    /// A step failed that is too dear to be tried again before so much time has passed.
    pub fn handle_costly_failure(
        &mut self,
        code: &'static str,
        reason: String,
        pause: Duration,
        now: Time,
    ) {
        let count = self.failure.as_ref().map_or(0, |failure| failure.count) + 1;
        self.ready_since = None;
        let same = self.since_start.entry(code).or_default();
        *same = same.saturating_add(1);
        self.failure = Some(Failure {
            code,
            reason,
            count,
            retry_at: now + pause_after(count).max(pause),
        });
    }

    /// The engine is being started; call it before performing the start.
    pub fn handle_start(&mut self, now: Time) {
        let count = self.starts.map_or(0, |(count, _)| count) + 1;
        self.starts = Some((count, now));
        self.ready_since = None;
        self.since_start.clear();
    }

    /// How often in a row anything failed since the engine was started. What failed before says nothing
    /// about it.
    fn unanswered(&self) -> u32 {
        match &self.failure {
            Some(failure) => failure.count.min(self.since_start.values().sum()),
            None => 0,
        }
    }

    /// How often in a row an engine that was started failed for this one reason. What failed for another
    /// one, or before it was started, says nothing about it.
    pub fn unanswered_as(&self, code: &'static str) -> u32 {
        let same = self.since_start.get(code).copied().unwrap_or_default();
        same.min(self.unanswered())
    }

    /// The last failure, unless the engine was seen ready since.
    pub fn lasting(&self) -> Option<&Failure> {
        self.failure.as_ref().filter(|_| self.ready_since.is_none())
    }

    /// The crash that an engine which must be started once more has suffered, with the time
    /// from which on it may be started. Code and reason are the engine's.
    pub fn crash(&self, code: &'static str, reason: &str) -> Option<Failure> {
        let (count, last) = self.starts?;
        Some(Failure {
            code,
            reason: reason.to_owned(),
            count,
            retry_at: last + pause_after(count),
        })
    }

    /// The engine was seen ready.
    pub fn handle_ready(&mut self, now: Time) {
        let since = *self.ready_since.get_or_insert(now);
        if now.since(since) >= STEADY {
            self.failure = None;
            self.starts = None;
            self.since_start.clear();
        }
    }

    /// What is desired has changed: the failure may no longer apply, so try at once.
    pub fn handle_new_desired(&mut self) {
        *self = Self::default();
    }

    /// When the next attempt is due, if one is being waited for.
    pub fn poll_timeout(&self, now: Time) -> Option<Time> {
        let failed = self.failure.as_ref().map(|failure| failure.retry_at);
        let crashed = self.starts.map(|(count, last)| last + pause_after(count));
        failed.max(crashed).filter(|retry_at| *retry_at > now)
    }
}

/// The pause after the `count`-th failure in a row: 1, 2, 4 … 60 seconds.
fn pause_after(count: u32) -> Duration {
    let doublings = count.saturating_sub(1).min(6);
    (FIRST_PAUSE * 2u32.pow(doublings)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn the_pause_doubles_up_to_a_minute() {
        let pauses: Vec<_> = (1..=8).map(|n| pause_after(n).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause_after(u32::MAX), LONGEST_PAUSE);
    }

    #[test]
    fn what_is_dear_is_not_tried_again_before_its_time() {
        let mut retries = Retries::default();
        let pause = Duration::from_secs(900);
        retries.handle_costly_failure("X", "no".into(), pause, at(0));
        assert_eq!(retries.failure().unwrap().retry_at, at(900));
        retries.handle_failure("X", "no".into(), at(900));
        assert_eq!(retries.failure().unwrap().retry_at, at(902));
        // Something else is wanted: nothing is waited for.
        retries.handle_new_desired();
        assert_eq!(retries.poll_timeout(at(1)), None);
    }

    #[test]
    fn an_engine_that_dies_soon_after_being_ready_keeps_its_row_of_failures() {
        let mut retries = Retries::default();
        retries.handle_failure("X", "died".into(), at(0));
        retries.handle_ready(at(2));
        retries.handle_failure("X", "died".into(), at(5));
        let failure = retries.failure().unwrap();
        assert_eq!((failure.count, failure.retry_at), (2, at(7)));
    }

    #[test]
    fn what_failed_before_a_start_is_not_held_against_what_was_started() {
        let mut retries = Retries::default();
        for second in 0..3 {
            retries.handle_failure("K3sBinaryError", "no".into(), at(second));
        }
        assert_eq!(retries.unanswered(), 3);
        retries.handle_start(at(9));
        assert_eq!(retries.unanswered(), 0);
        retries.handle_failure("K3sNotReadyError", "no".into(), at(309));
        assert_eq!(retries.unanswered(), 1);
    }

    #[test]
    fn failures_of_one_reason_are_told_from_those_of_others() {
        let mut retries = Retries::default();
        retries.handle_start(at(0));
        for second in 1..=3 {
            retries.handle_failure("HostFileError", "no".into(), at(second));
        }
        retries.handle_failure("K3sNotReadyError", "no".into(), at(300));
        assert_eq!(retries.unanswered(), 4);
        assert_eq!(retries.unanswered_as("K3sNotReadyError"), 1);
        retries.handle_failure("K3sNotReadyError", "no".into(), at(600));
        assert_eq!(retries.unanswered_as("K3sNotReadyError"), 2);
        // A steady minute forgets them all.
        retries.handle_ready(at(700));
        retries.handle_ready(at(760));
        assert_eq!(retries.unanswered_as("K3sNotReadyError"), 0);
        retries.handle_failure("K3sNotReadyError", "no".into(), at(1100));
        assert_eq!(retries.unanswered_as("K3sNotReadyError"), 1);
    }

    #[test]
    fn a_failure_lasts_until_the_engine_is_seen_ready() {
        let mut retries = Retries::default();
        assert_eq!(retries.lasting(), None);
        retries.handle_failure("X", "silent".into(), at(0));
        assert_eq!(retries.lasting(), retries.failure());
        retries.handle_ready(at(2));
        assert_eq!(retries.lasting(), None);
        assert!(retries.failure().is_some());
    }

    #[test]
    fn each_start_without_a_steady_minute_makes_the_next_one_wait_longer() {
        let mut retries = Retries::default();
        let crash = |retries: &Retries| retries.crash("X", "died").map(|crash| crash.retry_at);
        assert_eq!(crash(&retries), None);
        retries.handle_start(at(0));
        retries.handle_ready(at(1));
        assert_eq!(crash(&retries), Some(at(1)));
        retries.handle_start(at(2));
        assert_eq!(crash(&retries), Some(at(4)));
        retries.handle_ready(at(10));
        retries.handle_ready(at(70));
        assert_eq!(crash(&retries), None);
    }

    #[test]
    fn a_minute_of_readiness_forgets_the_failures() {
        let mut retries = Retries::default();
        retries.handle_failure("X", "died".into(), at(0));
        retries.handle_ready(at(2));
        retries.handle_ready(at(62));
        assert_eq!(retries.failure(), None);
    }

    #[test]
    fn a_new_wish_is_tried_at_once() {
        let mut retries = Retries::default();
        retries.handle_failure("X", "bad override".into(), at(0));
        assert_eq!(retries.poll_timeout(at(0)), Some(at(1)));
        retries.handle_new_desired();
        assert_eq!(retries.poll_timeout(at(0)), None);
    }
}
