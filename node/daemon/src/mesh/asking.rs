//! Whom a command is given to next, and what is told in the end when nobody had it agreed.
//!
//! Decides: the order, how long one server is waited for before another is asked beside it, which
//! answers end the command, and whether it may be agreed after all. Never sends, never waits, never
//! decides what a command means.
//!
//! Invariants: nobody is asked twice at a time; whoever only named a server that is being asked is asked
//! again less and less often, so that commands to a slow leader do not make everything slower; that
//! nothing was changed is said only where no attempt's outcome is unknown.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use consensus_core::{Applied, LogIndex, NodeId};
use consensus_raft::Timers;
use node_api::ApiError;

/// A command is tried for at least so long: longer than any election with the usual timers; a
/// client's patience is shorter than that of scripts.
pub(super) const SUBMIT_WITHIN: Duration = Duration::from_secs(10);
/// One attempt at one server takes at least so long.
const ATTEMPT_WITHIN: Duration = Duration::from_secs(4);
/// A healthy leader has a command agreed in a few milliseconds, a slow disk in tens.
const HEDGE_AFTER: Duration = Duration::from_millis(150);
/// Between two that are asked beside each other at most: each time twice as long, up to this. Who
/// leads next is told by itself.
const HEDGE_AFTER_MAX: Duration = Duration::from_secs(1);
/// Pause between rounds in which nobody is being asked: an election lasts about this long. Longer
/// and longer, up to the same, while the leader has too much to do.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The code of a leader's word that it takes no more commands at present.
pub(super) const BUSY: &str = "BusyError";

/// How long commands may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// All attempts.
    pub(crate) submit: Duration,
    /// One attempt at one server.
    pub(crate) attempt: Duration,
}

impl Patience {
    /// A server answers after the time that it gives a commit; once more than that a leader may have
    /// to be elected before.
    pub(crate) fn of(timers: &Timers) -> Self {
        let attempt = ATTEMPT_WITHIN.max(timers.commit_wait() + timers.election_max);
        Self {
            submit: SUBMIT_WITHIN.max(attempt + timers.election_max * 3),
            attempt,
        }
    }
}

/// What one attempt came to.
pub(super) enum Attempt {
    /// It is agreed at this index, with this outcome.
    Applied(LogIndex, Applied),
    /// Somebody else may have it agreed.
    Elsewhere(Option<NodeId>),
    /// The leader heard too few voters, or heard them too late. It may be agreed yet.
    NoMajority(Voters),
    /// The leader has too much to do: nothing was written.
    Busy,
    /// Refused, whoever is asked.
    Failed(ApiError),
    /// The answer is not understood: the command may be agreed.
    Strange(ApiError),
    /// It never got there.
    Unsent,
    /// It may have got there.
    NoAnswer,
}

/// Voters that answer, and voters needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Voters {
    /// How many answer whoever says it.
    pub(super) reachable: u64,
    /// How many it takes.
    pub(super) needed: u64,
}

/// One command's way from server to server.
pub(super) struct Asking {
    queue: VecDeque<NodeId>,
    in_flight: BTreeSet<NodeId>,
    /// Whether more than the leader that was known was asked.
    all_queued: bool,
    /// How long those in flight are waited for before the next one is asked.
    hedge_after: Duration,
    /// Whether some attempt may have had it agreed.
    outcome_unknown: bool,
    /// Who has too much to do; not asked again before the next round.
    busy: Option<NodeId>,
    was_busy: bool,
    retry_after: Duration,
    strange: Option<ApiError>,
    /// The leader's last word.
    heard_by_leader: Option<Voters>,
}

impl Asking {
    /// A leader that is known nearly always answers; only if not is anybody else looked for.
    pub(super) fn new(leader: Option<NodeId>) -> Self {
        Self {
            queue: leader.into_iter().collect(),
            in_flight: BTreeSet::new(),
            all_queued: false,
            hedge_after: HEDGE_AFTER,
            outcome_unknown: false,
            busy: None,
            was_busy: false,
            retry_after: RETRY_PAUSE,
            strange: None,
            heard_by_leader: None,
        }
    }

    /// Whether everybody is to be asked at once.
    pub(super) fn wants_all(&self) -> bool {
        self.is_through() && !self.all_queued
    }

    fn is_through(&self) -> bool {
        self.queue.is_empty() && self.in_flight.is_empty()
    }

    /// Everybody is to be asked, in this order.
    pub(super) fn ask_all(&mut self, servers: Vec<NodeId>) {
        self.queue = servers.into();
        self.all_queued = true;
    }

    /// Whom to ask now. Who is being asked already costs no turn.
    pub(super) fn next(&mut self) -> Option<NodeId> {
        while let Some(target) = self.queue.pop_front() {
            if self.busy.as_ref() != Some(&target) && self.in_flight.insert(target.clone()) {
                return Some(target);
            }
        }
        None
    }

    /// How long to wait for an answer now.
    pub(super) fn patience(&self) -> Duration {
        if self.is_through() {
            self.retry_after
        } else {
            self.hedge_after
        }
    }

    /// Nobody answered for so long; gives whether everybody is to be asked (again).
    pub(super) fn waited(&mut self) -> bool {
        if !self.queue.is_empty() {
            return false;
        }
        if self.busy.take().is_some() {
            self.retry_after = (self.retry_after * 2).min(HEDGE_AFTER_MAX);
        }
        if self.all_queued && !self.in_flight.is_empty() {
            self.hedge_after = (self.hedge_after * 2).min(HEDGE_AFTER_MAX);
        }
        true
    }

    /// It has become known who leads now.
    pub(super) fn led_by(&mut self, leader: NodeId) {
        self.hedge_after = HEDGE_AFTER;
        self.retry_after = RETRY_PAUSE;
        self.queue.push_front(leader);
    }

    /// An attempt is over; gives the command's outcome if it has one.
    pub(super) fn ended(
        &mut self,
        target: &NodeId,
        attempt: Attempt,
    ) -> Option<Result<(LogIndex, Applied), ApiError>> {
        self.in_flight.remove(target);
        match attempt {
            Attempt::Applied(index, applied) => return Some(Ok((index, applied))),
            Attempt::Failed(error) => return Some(Err(error)),
            Attempt::Elsewhere(Some(other)) if other != *target => self.queue.push_front(other),
            Attempt::Elsewhere(Some(_)) | Attempt::Unsent => {}
            // A server whose Raft ends meanwhile says the same.
            Attempt::Elsewhere(None) => self.outcome_unknown = true,
            Attempt::Busy => {
                self.busy = Some(target.clone());
                self.was_busy = true;
            }
            Attempt::NoMajority(voters) => {
                self.heard_by_leader = Some(voters);
                self.outcome_unknown = true;
            }
            Attempt::Strange(error) => {
                self.strange = Some(error);
                self.outcome_unknown = true;
            }
            Attempt::NoAnswer => self.outcome_unknown = true,
        }
        None
    }

    /// What is told when the time is up: `heard` of `voters` are heard by this node.
    pub(super) fn in_vain(self, heard: Voters, voters: usize) -> ApiError {
        if self.was_busy && !self.outcome_unknown && self.in_flight.is_empty() {
            return busy();
        }
        if let (Some(strange), None) = (&self.strange, self.heard_by_leader) {
            return strange.clone();
        }
        let mut error = no_majority(heard, voters);
        if let Some(Voters { reachable, needed }) = self.heard_by_leader {
            let said =
                format!("the leader says: {reachable} voters answer in time, {needed} needed");
            error.caused_by.push(said);
        }
        error
    }
}

/// The error of a command that found no majority: what this node hears of them, of all voters.
pub(super) fn no_majority(heard: Voters, voters: usize) -> ApiError {
    let Voters { reachable, needed } = heard;
    let figures = format!("{reachable} of {voters} reachable, {needed} needed");
    let (message, hint) = if reachable >= needed {
        (
            format!("the mesh's voters answer too slowly to agree in time: {figures}"),
            "it may be agreed yet: look before you give the command again; if the servers are slow \
             or far apart, set `raft_timers` in all servers' configuration to a more patient profile",
        )
    } else {
        (
            format!("no majority of the mesh's voters answers: {figures}"),
            "bring servers back; the command may be agreed yet: look before you give it again; \
             reads of the last known state still work",
        )
    };
    ApiError::new("NoMajorityError", message, hint)
}

/// More is asked of the leader than it takes: nothing was written.
pub(super) fn busy() -> ApiError {
    ApiError::new(
        BUSY,
        "the leader has as many commands under way as it takes; nothing was changed",
        "give the command again in a moment, and fewer at once",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(letter: char) -> NodeId {
        let rest: String = std::iter::repeat_n(letter, 44).collect();
        format!("12D3KooW{rest}").parse().unwrap()
    }

    fn heard(reachable: u64) -> Voters {
        Voters {
            reachable,
            needed: 2,
        }
    }

    /// A leader that is asked and does not answer at once, beside two others.
    fn slow_leader() -> Asking {
        let mut asking = Asking::new(Some(node('a')));
        assert_eq!(asking.next(), Some(node('a')));
        assert!(asking.waited());
        asking.ask_all(vec![node('a'), node('b'), node('c')]);
        asking
    }

    #[test]
    fn those_who_only_name_a_slow_leader_are_asked_again_less_and_less_often() {
        let mut asking = slow_leader();
        let mut pauses = Vec::new();
        for _ in 0..6 {
            for follower in ['b', 'c'] {
                assert_eq!(asking.next(), Some(node(follower)));
                let named = Attempt::Elsewhere(Some(node('a')));
                assert!(asking.ended(&node(follower), named).is_none());
            }
            assert_eq!(asking.next(), None, "the leader is being asked");
            pauses.push(asking.patience().as_millis());
            assert!(asking.waited());
            asking.ask_all(vec![node('a'), node('b'), node('c')]);
        }
        assert_eq!(pauses, [150, 300, 600, 1000, 1000, 1000]);
    }

    #[test]
    fn a_command_is_tried_for_longer_than_a_server_takes_to_give_up_with_all_timers() {
        for timers in [Timers::SAFE, Timers::LAN, Timers::WAN] {
            let Patience { submit, attempt } = Patience::of(&timers);
            assert!(attempt > timers.commit_wait());
            // The others' lease of a dead leader, their wait, and a round of votes.
            assert!(submit >= attempt + timers.election_max * 3);
        }
        let usual = Patience::of(&Timers::SAFE);
        assert_eq!(
            (usual.submit, usual.attempt),
            (SUBMIT_WITHIN, ATTEMPT_WITHIN)
        );
    }

    #[test]
    fn a_leader_with_too_much_to_do_is_asked_once_a_round_and_less_and_less_often() {
        let mut asking = Asking::new(Some(node('a')));
        let mut pauses = Vec::new();
        for _ in 0..5 {
            assert_eq!(asking.next(), Some(node('a')));
            assert!(asking.ended(&node('a'), Attempt::Busy).is_none());
            asking.ask_all(vec![node('a'), node('b')]);
            assert_eq!(asking.next(), Some(node('b')));
            asking.ended(&node('b'), Attempt::Elsewhere(Some(node('a'))));
            assert_eq!(asking.next(), None);
            pauses.push(asking.patience().as_millis());
            assert!(asking.waited());
            asking.ask_all(vec![node('a'), node('b')]);
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1000]);
    }

    #[test]
    fn whoever_leads_next_is_asked_at_once() {
        let mut asking = slow_leader();
        for _ in 0..5 {
            while let Some(follower) = asking.next() {
                asking.ended(&follower, Attempt::Elsewhere(None));
            }
            asking.waited();
        }
        asking.led_by(node('c'));
        assert_eq!(asking.next(), Some(node('c')));
        assert_eq!(asking.patience(), HEDGE_AFTER);
    }

    #[test]
    fn nothing_was_changed_only_where_no_outcome_is_unknown() {
        let told = |attempts: Vec<Attempt>| {
            let mut asking = Asking::new(None);
            asking.ask_all(vec![node('a')]);
            for attempt in attempts {
                assert_eq!(asking.next(), Some(node('a')));
                assert!(asking.ended(&node('a'), attempt).is_none());
                assert!(asking.waited());
                asking.ask_all(vec![node('a')]);
            }
            asking.in_vain(heard(3), 3).code
        };
        assert_eq!(told(vec![Attempt::Busy]), "BusyError");
        assert_eq!(told(vec![Attempt::Unsent, Attempt::Busy]), "BusyError");
        for unknown in [Attempt::NoAnswer, Attempt::NoMajority(heard(3))] {
            assert_eq!(told(vec![unknown, Attempt::Busy]), "NoMajorityError");
        }
        let strange = || Attempt::Strange(ApiError::new("PeerMessageError", "m", "h"));
        assert_eq!(told(vec![strange(), Attempt::Busy]), "PeerMessageError");
        let leader_too = vec![strange(), Attempt::NoMajority(heard(1))];
        assert_eq!(told(leader_too), "NoMajorityError");
        // Who is being asked when the time is up may have it agreed.
        let mut asking = Asking::new(Some(node('a')));
        asking.was_busy = true;
        asking.next();
        assert_eq!(asking.in_vain(heard(3), 3).code, "NoMajorityError");
    }

    #[test]
    fn slow_voters_and_missing_voters_are_told_apart_and_the_leaders_word_is_kept() {
        let told = |reachable| {
            let mut asking = Asking::new(Some(node('a')));
            asking.next();
            asking.ended(&node('a'), Attempt::NoMajority(heard(1)));
            asking.in_vain(heard(reachable), 3)
        };
        let slow = told(3);
        assert_eq!(
            slow.message,
            "the mesh's voters answer too slowly to agree in time: 3 of 3 reachable, 2 needed"
        );
        assert!(slow.hint.contains("raft_timers") && slow.hint.contains("look before"));
        assert_eq!(
            slow.caused_by,
            ["the leader says: 1 voters answer in time, 2 needed"]
        );
        let missing = told(1);
        assert!(missing.message.starts_with("no majority"), "{missing}");
        assert!(missing.hint.starts_with("bring servers back"));
        assert!(missing.hint.contains("look before"));
    }
}
