//! What was seen in a run.
//!
//! Decides what counts as a failover: from a blow to the leader until a write is acknowledged that
//! began after it. Never interferes with the run; the invariants judge, and the first one broken is
//! kept.

use std::collections::BTreeMap;

use consensus_core::Time;
use simulated_raft::simulation::spy::{Ballot, Reply, Request};

use super::{
    invariants::{
        linearizable::{Called, Linearizable},
        nothing_lost::NothingLost,
        one_leader::OneLeader,
        same_entries::SameEntries,
        votes_kept::VotesKept,
    },
    virtual_ips::VirtualIps,
};
use crate::{
    distribution::Distribution,
    invariants::Violation,
    timeline::{Happening, Line},
};

/// Lines of one story; nobody reads more.
const LINES_MAX: usize = 250;

/// How operations ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Counts {
    /// Writes that were acknowledged.
    pub writes: u64,
    /// Attempts of which the client was told that nothing was written.
    pub refused: u64,
    /// Attempts whose outcome the client never knew.
    pub unknown: u64,
    /// Reads answered.
    pub reads: u64,
    /// Reads answered by a server that did not lead.
    pub follower_reads: u64,
    /// Leaders that were elected.
    pub leaders: u64,
}

impl Counts {
    /// Adds another run's.
    pub(crate) fn add(&mut self, other: &Self) {
        self.writes += other.writes;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.reads += other.reads;
        self.follower_reads += other.follower_reads;
        self.leaders += other.leaders;
    }
}

/// One try of a write, as its client knows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempt {
    pub(crate) number: u64,
    called: Called,
    at: Time,
}

/// Everything seen.
#[derive(Default)]
pub(crate) struct Evidence {
    pub(crate) messages: u64,
    pub(crate) counts: Counts,
    pub(crate) failovers: Distribution,
    pub(crate) writes: Distribution,
    /// Writes acknowledged in each second.
    pub(crate) seconds: BTreeMap<u64, u64>,
    pub(crate) story: Vec<Line>,
    /// The last blow to a leader, until a write is acknowledged that began after it.
    blow: Option<Time>,
    pub(crate) vips: VirtualIps,
    attempts: u64,
    broken: Option<Violation>,
    same_entries: SameEntries,
    one_leader: OneLeader,
    votes_kept: VotesKept,
    nothing_lost: NothingLost,
    linearizable: Linearizable,
}

impl Evidence {
    /// Keeps the first broken invariant.
    pub(crate) fn judge(&mut self, invariant: &'static str, at: Time, held: Result<(), String>) {
        if let Err(detail) = held {
            self.broken.get_or_insert(Violation {
                invariant,
                at,
                detail,
            });
        }
    }

    /// The first broken invariant.
    pub(crate) const fn broken(&self) -> Option<&Violation> {
        self.broken.as_ref()
    }

    pub(crate) fn tell(&mut self, at: Time, happening: Happening, what: String) {
        if self.story.len() < LINES_MAX {
            let at_ms = at.as_micros() / 1000;
            self.story.push(Line {
                at_ms,
                happening,
                what,
            });
        }
    }

    /// Whether a leader was hit and no write has been acknowledged since.
    pub(crate) const fn is_leaderless(&self) -> bool {
        self.blow.is_some()
    }

    /// A fault hits whoever leads.
    pub(crate) fn leader_hit(&mut self, at: Time) {
        self.blow.get_or_insert(at);
    }

    pub(crate) fn started(&mut self, at: Time, server: usize) {
        self.tell(at, Happening::Process, format!("server {server} starts"));
    }

    pub(crate) fn leads(&mut self, at: Time, server: usize, ballot: Ballot, process: u64) {
        match self.one_leader.leads(ballot, process) {
            Ok(false) => {}
            Ok(true) => {
                self.counts.leaders += 1;
                let what = format!("server {server} leads, in term {}", ballot.term);
                self.tell(at, Happening::Leader, what);
            }
            Err(detail) => self.judge("one_leader", at, Err(detail)),
        }
    }

    pub(crate) const fn arrives(&mut self) -> u64 {
        self.votes_kept.arrives()
    }

    pub(crate) fn answered(
        &mut self,
        at: Time,
        raft_id: u64,
        request: &Request,
        arrived: u64,
        reply: Reply,
    ) {
        let held = self.votes_kept.answered(raft_id, request, arrived, reply);
        self.judge("votes_kept", at, held);
    }

    pub(crate) fn applied(
        &mut self,
        at: Time,
        before: u64,
        index: u64,
        digest: u64,
        attempt: Option<u64>,
    ) {
        let held = self.same_entries.applied(before, index, digest);
        self.judge("same_entries", at, held);
        if let Some(attempt) = attempt {
            let held = self.nothing_lost.applied(index, attempt);
            self.judge("nothing_lost", at, held);
        }
    }

    /// A server's state was looked at.
    pub(crate) fn seen(&mut self, at: Time, applied: u64, digest: u64) {
        let held = self.same_entries.seen(applied, digest);
        self.judge("same_entries", at, held);
    }

    /// A server's state ends here when all is over.
    pub(crate) fn ends(&mut self, at: Time, applied: u64) {
        let held = self.nothing_lost.ends_at(applied);
        self.judge("nothing_lost", at, held);
    }

    /// A client begins to write.
    pub(crate) const fn tries(&mut self, at: Time) -> Attempt {
        self.attempts += 1;
        Attempt {
            number: self.attempts,
            called: self.linearizable.call(),
            at,
        }
    }

    /// It is told that it wrote entry `index`.
    pub(crate) fn wrote(&mut self, at: Time, attempt: Attempt, index: u64) {
        self.counts.writes += 1;
        self.writes.add(at.since(attempt.at));
        *self.seconds.entry(at.as_micros() / 1_000_000).or_default() += 1;
        let held = self.nothing_lost.acknowledged(index, attempt.number);
        self.judge("nothing_lost", at, held);
        let held = self.linearizable.wrote(attempt.called, index);
        self.judge("linearizable", at, held);
        if let Some(blow) = self.blow.filter(|blow| *blow <= attempt.at) {
            self.blow = None;
            let took = at.since(blow);
            self.failovers.add(took);
            let ms = took.as_millis();
            self.tell(at, Happening::Trust, format!("writes go on after {ms} ms"));
        }
    }

    /// It is told that nothing was written.
    pub(crate) fn refused(&mut self, at: Time, attempt: Attempt) {
        self.counts.refused += 1;
        let held = self.nothing_lost.refused(attempt.number);
        self.judge("nothing_lost", at, held);
    }

    /// A client begins to read.
    pub(crate) const fn asks(&self) -> Called {
        self.linearizable.call()
    }

    /// It is shown a state.
    pub(crate) fn read(&mut self, at: Time, called: Called, applied: u64, digest: u64) {
        self.counts.reads += 1;
        self.seen(at, applied, digest);
        let held = self.linearizable.read(called, applied);
        self.judge("linearizable", at, held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Time {
        Time::from_micros(ms * 1000)
    }

    #[test]
    fn a_failover_lasts_until_a_write_that_began_after_the_blow() {
        let mut evidence = Evidence::default();
        let early = evidence.tries(ms(5));
        evidence.leader_hit(ms(10));
        evidence.leader_hit(ms(12));
        let late = evidence.tries(ms(15));
        evidence.applied(ms(15), 0, 1, 7, Some(early.number));
        evidence.wrote(ms(16), early, 1);
        assert!(evidence.is_leaderless());
        evidence.applied(ms(17), 1, 2, 8, Some(late.number));
        evidence.wrote(ms(18), late, 2);
        assert!(!evidence.is_leaderless());
        assert_eq!(evidence.failovers.percentile(100), Some(8));
        assert_eq!(evidence.broken(), None);
        let again = evidence.tries(ms(20));
        evidence.wrote(ms(21), again, 2);
        let broken = evidence.broken().expect("two writes at one place");
        assert_eq!(broken.invariant, "nothing_lost");
    }
}
