//! Whether a leader still hears a majority and a follower its leader, and what follows if not.
//!
//! Decides: when a leader sends its heartbeats, when one that nobody answers counts as deaf, when it
//! then is silent, so that those who hear it stop following and elect another, and when it speaks
//! again; when a follower has lost its leader. Never: ends a term by
//! itself; it goes on leading as far as Raft is concerned, until it hears of the next leader or a
//! majority answers.
//!
//! Without it a leader that hears nobody and is heard by all holds elections back for as long as the
//! link is down one way, and agrees nothing. Raft dissertation (Ongaro 2014), 6.2; etcd calls it
//! CheckQuorum. openraft has one of its own (`quorum_loss_probe_interval`, off here) that counts
//! answers on time only, and whose silence has one length.
//!
//! A silent leader asks the others for nothing but an answer ([`Probes`]), which holds no election
//! back. When a majority has answered the links are there again in both ways, and it speaks at once.
//! What others ask of it meanwhile does not end its silence: that it hears them says nothing of
//! whether their answers reach it, and Raft itself answers them. A candidate whose log is as long as
//! its own gets its vote; one whose log is shorter may need it to speak, and answers.
//!
//! A follower whose leader is gone stays one while it asks for votes in vain, because asking changes
//! nothing (6.2 and 9.6 there). As far as Raft is concerned it has its leader for ever; so what it was
//! sent is counted here.
//!
//! Invariants: a deaf leader is not silent all the time, or two servers that lost each other for a
//! while might each wait for the other; time is counted in heartbeats that were sent, so that a
//! process that stood still does not blame the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use openraft::{AsyncRuntime as _, async_runtime::watch::WatchReceiver as _};
use tokio::sync::watch;

use crate::{
    clock::{self, Instant, Scale},
    machine::Machine,
    probes::{Probes, Question},
    raft_types::{Metrics, Runtime},
    running::Group,
    status::Role,
    timers::{COMMIT_WAIT_ELECTIONS, Timers},
};

/// Heartbeats without an answer, in longest election timeouts, after which a leader is deaf; and as many
/// that did not come, after which a follower has lost it. One
/// would do; but where everybody is slow the next leader is as slow, and changing it costs more than
/// waiting. Half as long as a proposal waits for its commit.
const DEAF_AFTER_ELECTIONS: u32 = COMMIT_WAIT_ELECTIONS / 2;
/// How long it is silent then at most, in the same unit: the others' lease of it, their longest wait,
/// a vote, and as much again.
const SILENT_FOR_ELECTIONS: u32 = 4;

/// How a leader fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Hearing {
    /// No majority has answered for longer than an election takes.
    pub(crate) deaf: bool,
    /// Nothing is sent, so that the others elect a leader.
    pub(crate) silent: bool,
    /// A majority has answered what was sent at this moment or later, too late for Raft. None where
    /// Raft itself knows of answers as young.
    pub(crate) answered: Option<Instant>,
    /// The term of a leader elsewhere of which nothing that could be written has come for long, be there one or
    /// not.
    pub(crate) lost: Option<u64>,
}

/// Counts what came from leaders and was taken.
#[derive(Debug, Clone, Default)]
pub(crate) struct Led(Arc<AtomicU64>);

impl Led {
    /// One message more.
    pub(crate) fn note(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// When what each server last answered was sent, and in which term.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answers(Arc<Mutex<BTreeMap<u64, (u64, Instant)>>>);

impl Answers {
    /// A server answered what was sent to it then, in this term.
    pub(crate) fn note(&self, server: u64, term: u64, sent: Instant) {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = answers.entry(server).or_insert((term, sent));
        *last = (term, sent).max(*last);
    }

    /// When that was sent which a server last answered in this term.
    pub(crate) fn of(&self, server: u64, term: u64) -> Option<Instant> {
        let answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = answers.get(&server).filter(|(of, _)| *of == term);
        last.map(|(_, sent)| *sent)
    }

    /// Since when a majority of each of these sets has answered in this term, `own` always included.
    pub(crate) fn majority(
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
        Self {
            deaf_after: heartbeats(timers, DEAF_AFTER_ELECTIONS),
            silent_for: heartbeats(timers, SILENT_FOR_ELECTIONS),
            answered: None,
            unanswered: 0,
        }
    }

    /// One heartbeat more. `answered` is when a majority last did; `leads` whether this server leads
    /// others; `shown` whether a majority has answered a probe since the silence began.
    fn beat(&mut self, leads: bool, answered: T, shown: bool) -> Hearing {
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
        let at = over % (self.silent_for + self.deaf_after);
        let left = self.silent_for.saturating_sub(at);
        if shown {
            self.unanswered = self.unanswered.saturating_add(left);
        }
        Hearing {
            deaf: true,
            silent: left > 0 && !shown,
            answered: None,
            lost: None,
        }
    }
}

/// Counts heartbeats that did not come.
#[derive(Debug)]
struct Follower {
    lost_after: u32,
    /// Messages of leaders at the last heartbeat.
    came: u64,
    /// Heartbeats since.
    missing: u32,
}

impl Follower {
    fn new(timers: &Timers) -> Self {
        Self {
            lost_after: heartbeats(timers, DEAF_AFTER_ELECTIONS),
            came: 0,
            missing: 0,
        }
    }

    /// The time of one heartbeat more. Gives whether there is a leader elsewhere that is lost.
    fn beat(&mut self, leads: bool, came: u64) -> bool {
        if leads || came != self.came {
            self.came = came;
            self.missing = 0;
            return false;
        }
        self.missing = self.missing.saturating_add(1);
        self.missing >= self.lost_after
    }
}

fn heartbeats(timers: &Timers, elections: u32) -> u32 {
    let span = timers.election_max * elections;
    let count = span.as_millis() / timers.heartbeat.as_millis().max(1);
    u32::try_from(count).unwrap_or(u32::MAX).max(1)
}

/// What is heard at one moment, by Raft's own account and by answers.
struct Heard {
    leads: bool,
    /// Whether it leads, be it itself only.
    led_here: bool,
    term: u64,
    /// Whether it leads anybody, be it learners only.
    speaks: bool,
    on_time: Option<Instant>,
    /// As far as Raft leads.
    answered: Option<Instant>,
    /// When that was asked which a majority answered.
    probed: Option<Instant>,
    question: Question,
}

impl Heard {
    fn now(metrics: &Metrics, answers: &Answers, probes: &Probes, scale: &Scale) -> Self {
        let (now, leads) = (Instant::now(), leads_others(metrics));
        let led_here = is_leader(metrics);
        let membership = metrics.membership_config.membership();
        let (own, term) = (metrics.id, metrics.current_term);
        let sets = membership.get_joint_config();
        let answered = answers.majority(own, term, sets, now);
        Self {
            leads,
            led_here,
            term,
            speaks: led_here && membership.nodes().count() > 1,
            on_time: metrics.last_quorum_acked.map(|at| scale.at(*at)),
            answered: answered.filter(|_| leads),
            probed: probes.answered(own, term, sets, now),
            question: Question::of(metrics),
        }
    }

    /// Late answers that say more than those on time do. Where both come in time they are told of by
    /// Raft, and nobody is woken twice.
    fn late(&self, heartbeat: Duration) -> Option<Instant> {
        let late = |answered: &Instant| self.on_time.is_none_or(|at| *answered > at + heartbeat);
        self.answered.filter(late)
    }
}

/// Sends heartbeats, if this server leads, and listens for as long as Raft runs.
///
/// openraft would send them itself, and give an answer no longer than until the next one.
pub(crate) fn listen<M: Machine>(
    raft: &Group<M>,
    timers: &Timers,
    (answers, led): (Answers, Led),
    probes: Probes,
    told: watch::Sender<Hearing>,
) {
    let (raft, metrics) = (raft.clone(), raft.metrics());
    let heartbeat: Duration = timers.heartbeat;
    let (mut listener, mut follower) = (Listener::new(timers), Follower::new(timers));
    Runtime::spawn(async move {
        let scale = Scale::new();
        let mut silent_since: Option<Instant> = None;
        while !told.is_closed() {
            clock::sleep(heartbeat).await;
            let heard = Heard::now(&metrics.borrow_watched(), &answers, &probes, &scale);
            let shown = silent_since.is_some_and(|since| heard.probed >= Some(since));
            let beat = listener.beat(heard.leads, (heard.on_time, heard.answered), shown);
            silent_since = beat
                .silent
                .then(|| silent_since.unwrap_or_else(Instant::now));
            if beat.silent {
                probes.ask(&heard.question);
            } else if heard.speaks {
                // Where Raft is too busy to be told, the next one will do. Where it has ended there
                // is nothing left to do, and whoever is told of what is heard ends as well.
                drop(clock::timeout(heartbeat, raft.trigger().heartbeat()).await);
            }
            let lost = follower.beat(heard.led_here, led.count());
            let hearing = Hearing {
                answered: heard.late(heartbeat),
                lost: lost.then_some(heard.term),
                ..beat
            };
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
    is_leader(metrics) && voters > 1
}

fn is_leader(metrics: &Metrics) -> bool {
    crate::status::role(metrics.state, metrics.running_state.is_err()) == Role::Leader
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Heartbeats until it is deaf, and of silence: 1500 ms and 1200 ms of 50.
    const DEAF: u32 = 30;
    const SILENT: u32 = 24;

    fn beats(listener: &mut Listener<u32>, count: u32, answered: u32) -> Vec<Hearing> {
        let beat = |_| listener.beat(true, answered, false);
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
        assert_eq!(
            listener.beat(true, 8, false),
            Hearing::default(),
            "somebody answered"
        );
    }

    #[test]
    fn a_silent_leader_to_whom_a_majority_shows_itself_speaks_at_once_and_for_as_long_as_ever() {
        let speaking = |one: &Hearing| one.deaf && !one.silent;
        for after in [1, 2, SILENT - 1, SILENT] {
            let mut listener = Listener::new(&Timers::SAFE);
            beats(&mut listener, DEAF, 7);
            let silent = beats(&mut listener, after, 7);
            assert!(silent.iter().all(|one| one.silent));
            assert!(speaking(&listener.beat(true, 7, true)), "after {after}");
            // As long as after a silence that nothing ended.
            let trying = beats(&mut listener, DEAF - 1, 7);
            assert!(trying.iter().all(speaking), "after {after}");
            // In vain: whoever answers a probe does not hear this leader lead.
            let again = beats(&mut listener, SILENT, 7);
            assert!(again.iter().all(|one| one.silent), "after {after}");
        }
    }

    #[test]
    fn a_leader_of_whom_nothing_comes_is_lost_until_something_does() {
        let mut follower = Follower::new(&Timers::SAFE);
        for came in 1..1000 {
            // Of each thirty heartbeats one comes.
            assert!((0..DEAF).all(|_| !follower.beat(false, came)));
        }
        assert!((0..3).all(|_| follower.beat(false, 999)));
        assert!(!follower.beat(false, 1000), "one came");
        assert!(
            (0..2 * DEAF).all(|_| !follower.beat(true, 1000)),
            "it leads"
        );
    }

    #[test]
    fn late_answers_are_told_where_those_on_time_say_less() {
        let heartbeat = Timers::SAFE.heartbeat;
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let heard = |on_time, answered| Heard {
            leads: true,
            led_here: true,
            term: 1,
            speaks: true,
            on_time,
            answered,
            probed: None,
            question: Question::default(),
        };
        for (on_time, answered, told) in [
            (None, None, None),
            (Some(at(10)), None, None),
            (None, Some(at(5)), Some(at(5))),
            // The same heartbeat's, or the next one's.
            (Some(at(10)), Some(at(10)), None),
            (Some(at(10)), Some(at(60)), None),
            (Some(at(10)), Some(at(61)), Some(at(61))),
        ] {
            assert_eq!(heard(on_time, answered).late(heartbeat), told);
        }
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
            assert_eq!(listener.beat(false, 0, true), Hearing::default());
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
