//! Whether a leader still hears a majority, and what follows if it does not.
//!
//! Decides: when a leader that nobody answers counts as deaf, and when it then is silent, so that
//! those who hear it stop following and elect another. Never: ends a term by itself; it goes on
//! leading as far as Raft is concerned, until it hears of the next leader or a majority answers.
//!
//! Without it a leader that hears nobody and is heard by all holds elections back for as long as the
//! link is down one way, and agrees nothing. Raft dissertation (Ongaro 2014), 6.2; etcd calls it
//! CheckQuorum.
//!
//! Invariants: a deaf leader is not silent all the time, or two servers that lost each other for a
//! while might each wait for the other; time is counted in heartbeats that were sent, so that a
//! process that stood still does not blame the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use openraft::{AsyncRuntime as _, async_runtime::watch::WatchReceiver as _};
use tokio::sync::watch;

use crate::{
    clock::{self, Instant},
    machine::Machine,
    raft_types::{Metrics, Runtime},
    running::Group,
    status::Role,
    timers::{COMMIT_WAIT_ELECTIONS, Timers},
};

/// Heartbeats without an answer, in longest election timeouts, after which a leader is deaf. One
/// would do; but where everybody is slow the next leader is as slow, and changing it costs more than
/// waiting. Half as long as a proposal waits for its commit.
const DEAF_AFTER_ELECTIONS: u32 = COMMIT_WAIT_ELECTIONS / 2;
/// How long it is silent then, in the same unit: the others' lease of it, their longest wait, a vote,
/// and as much again.
const SILENT_FOR_ELECTIONS: u32 = 4;

/// How a leader fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Hearing {
    /// No majority has answered for longer than an election takes.
    pub(crate) deaf: bool,
    /// Nothing is sent, so that the others elect a leader.
    pub(crate) silent: bool,
    /// A majority has answered what was sent at this moment or later, on time for Raft or not.
    pub(crate) answered: Option<Instant>,
}

/// When what each server last answered was sent, and in which term.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answers(Arc<Mutex<BTreeMap<u64, (u64, Instant)>>>);

impl Answers {
    /// A server answered what was sent to it then, and follows this term's leader.
    pub(crate) fn note(&self, server: u64, term: u64, sent: Instant) {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = answers.entry(server).or_insert((term, sent));
        *last = (term, sent).max(*last);
    }

    /// Since when a majority of each of these sets has answered in this term, `own` always included.
    fn majority(
        &self,
        own: u64,
        term: u64,
        sets: &[BTreeSet<u64>],
        now: Instant,
    ) -> Option<Instant> {
        let answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = |server: &u64| match answers.get(server) {
            _ if *server == own => Some(now),
            Some((of, sent)) if *of == term => Some(*sent),
            Some(_) | None => None,
        };
        let of_set = |set: &BTreeSet<u64>| {
            let mut sent: Vec<Option<Instant>> = set.iter().map(sent).collect();
            sent.sort_unstable_by(|a, b| b.cmp(a));
            sent.get(sent.len() / 2).copied().flatten()
        };
        let each: Option<Vec<Instant>> = sets.iter().map(of_set).collect();
        each?.into_iter().min()
    }
}

/// Counts heartbeats.
#[derive(Debug)]
struct Listener<T> {
    deaf_after: u32,
    silent_for: u32,
    /// When a majority last answered.
    answered: Option<T>,
    /// Heartbeats since.
    unanswered: u32,
}

impl<T: PartialEq> Listener<T> {
    fn new(timers: &Timers) -> Self {
        let heartbeats = |elections: u32| {
            let span = timers.election_max * elections;
            let count = span.as_millis() / timers.heartbeat.as_millis().max(1);
            u32::try_from(count).unwrap_or(u32::MAX).max(1)
        };
        Self {
            deaf_after: heartbeats(DEAF_AFTER_ELECTIONS),
            silent_for: heartbeats(SILENT_FOR_ELECTIONS),
            answered: None,
            unanswered: 0,
        }
    }

    /// One heartbeat more. `answered` is when a majority last did; `leads` whether this server leads
    /// others.
    fn beat(&mut self, leads: bool, answered: T) -> Hearing {
        if !leads || self.answered.as_ref() != Some(&answered) {
            self.answered = Some(answered);
            self.unanswered = 0;
            return Hearing::default();
        }
        self.unanswered = self.unanswered.saturating_add(1);
        let Some(over) = self.unanswered.checked_sub(self.deaf_after) else {
            return Hearing::default();
        };
        // Silent for a while, then heard again for as long as it took to find out, and so on.
        let silent = over % (self.silent_for + self.deaf_after) < self.silent_for;
        Hearing {
            deaf: true,
            silent,
            answered: None,
        }
    }
}

/// Listens for as long as Raft runs.
pub(crate) fn listen<M: Machine>(
    raft: &Group<M>,
    timers: &Timers,
    answers: Answers,
    told: watch::Sender<Hearing>,
) {
    let metrics = raft.metrics();
    let heartbeat: Duration = timers.heartbeat;
    let mut listener = Listener::new(timers);
    Runtime::spawn(async move {
        while !told.is_closed() {
            clock::sleep(heartbeat).await;
            let (leads, on_time, answered) = {
                let now = metrics.borrow_watched();
                let membership = now.membership_config.membership();
                let sets = membership.get_joint_config();
                let answered = answers.majority(now.id, now.current_term, sets, Instant::now());
                let on_time = now.last_quorum_acked.map(|at| *at);
                (leads_others(&now), on_time, answered)
            };
            let answered = answered.filter(|_| leads);
            let heard = listener.beat(leads, (on_time, answered));
            let hearing = Hearing { answered, ..heard };
            let mut was = Hearing::default();
            told.send_if_modified(|last| {
                was = std::mem::replace(last, hearing);
                was != hearing
            });
            if hearing.deaf && (was.deaf, was.silent) != (hearing.deaf, hearing.silent) {
                tracing::warn!(silent = hearing.silent, "leads, and no majority answers");
            }
        }
    });
}

fn leads_others(metrics: &Metrics) -> bool {
    let voters = metrics.membership_config.membership().voter_ids().count();
    crate::status::role(metrics.state, metrics.running_state.is_err()) == Role::Leader && voters > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Heartbeats until it is deaf, and of silence: 1500 ms and 1200 ms of 50.
    const DEAF: u32 = 30;
    const SILENT: u32 = 24;

    fn beats(listener: &mut Listener<u32>, count: u32, answered: u32) -> Vec<Hearing> {
        let beat = |_| listener.beat(true, answered);
        (0..count).map(beat).collect()
    }

    #[test]
    fn a_leader_that_a_majority_answers_is_never_silent() {
        let mut listener = Listener::new(&Timers::SAFE);
        for answer in 0..1000 {
            // Of each thirty heartbeats one is answered.
            let hearing = beats(&mut listener, DEAF, answer);
            assert!(hearing.iter().all(|one| *one == Hearing::default()));
        }
    }

    #[test]
    fn a_leader_that_nobody_answers_is_silent_for_an_election_and_then_tries_again() {
        let mut listener = Listener::new(&Timers::SAFE);
        let before = beats(&mut listener, DEAF, 7);
        assert!(before.iter().all(|one| !one.deaf && !one.silent));
        for _ in 0..3 {
            let silent = beats(&mut listener, SILENT, 7);
            assert!(silent.iter().all(|one| one.deaf && one.silent));
            let trying = beats(&mut listener, DEAF, 7);
            assert!(trying.iter().all(|one| one.deaf && !one.silent));
        }
        assert_eq!(beats(&mut listener, 1, 8), [Hearing::default()]);
    }

    #[test]
    fn a_majority_has_answered_when_one_of_each_set_has_in_this_term() {
        let answers = Answers::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let of = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<u64>>();
        let (old, new) = (of(&[1, 2, 3]), of(&[1, 4, 5]));
        let majority = |sets: &[BTreeSet<u64>]| answers.majority(1, 7, sets, at(100));
        assert_eq!(majority(std::slice::from_ref(&old)), None);
        answers.note(2, 6, at(90));
        assert_eq!(
            majority(std::slice::from_ref(&old)),
            None,
            "an earlier term's"
        );
        answers.note(2, 7, at(10));
        answers.note(2, 7, at(5));
        assert_eq!(majority(std::slice::from_ref(&old)), Some(at(10)));
        answers.note(3, 7, at(30));
        assert_eq!(majority(std::slice::from_ref(&old)), Some(at(30)));
        assert_eq!(majority(&[old.clone(), new.clone()]), None);
        answers.note(5, 7, at(20));
        assert_eq!(majority(&[old, new]), Some(at(20)));
        let four = of(&[1, 2, 3, 9]);
        assert_eq!(
            majority(&[four]),
            Some(at(10)),
            "of four three are a majority"
        );
        assert_eq!(majority(&[of(&[1])]), Some(at(100)));
    }

    #[test]
    fn whoever_leads_nobody_is_not_deaf() {
        let mut listener = Listener::<u32>::new(&Timers::SAFE);
        for _ in 0..1000 {
            assert_eq!(listener.beat(false, 0), Hearing::default());
        }
    }

    #[test]
    fn the_silence_is_long_enough_for_an_election_with_all_timers() {
        for timers in [Timers::SAFE, Timers::LAN, Timers::WAN] {
            let listener = Listener::<u32>::new(&timers);
            let silent = timers.heartbeat * listener.silent_for;
            // The followers' lease, their longest wait, and a round for pre-votes and votes each.
            assert!(silent >= timers.election_max * 2 + timers.election_min * 2);
        }
    }
}
