//! The replicated register: who leads, what is accepted, what is committed.
//!
//! Invariants: a state is committed only when a majority of its own voters has accepted it in its
//! leader's term; a vote goes only to a candidate whose accepted state is at least as new as the
//! voter's; nothing is answered before it is on the disk (the driver's duty). Time is an argument.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::state::{Command, Member, Refusal, State};

/// Orders states: by the term of the leader that proposed them, then by their number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Ballot {
    pub(crate) term: u64,
    pub(crate) revision: u64,
}

/// What must survive.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Durable {
    pub(crate) term: u64,
    pub(crate) voted_for: Option<String>,
    pub(crate) ballot: Ballot,
    pub(crate) state: State,
}

/// `RequestVote`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct VoteRequest {
    pub(crate) term: u64,
    pub(crate) candidate: String,
    pub(crate) ballot: Ballot,
    /// Only asks whether a vote would be given.
    pub(crate) pre: bool,
}

/// Answer to [`VoteRequest`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct VoteAnswer {
    pub(crate) term: u64,
    pub(crate) granted: bool,
    /// A newer committed state knows the candidate no longer.
    pub(crate) removed: bool,
}

/// `AppendEntries`, with the whole state where the follower may lack it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Append {
    pub(crate) term: u64,
    pub(crate) leader: String,
    pub(crate) ballot: Ballot,
    pub(crate) committed: Ballot,
    pub(crate) state: Option<State>,
}

/// Answer to [`Append`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AppendAnswer {
    pub(crate) term: u64,
    /// What the follower has accepted.
    pub(crate) ballot: Ballot,
}

/// What a leader knows of a follower.
#[derive(Debug, Clone, Copy)]
struct Follower {
    ballot: Ballot,
    /// When the newest answered message was sent.
    sent: Instant,
}

#[derive(Debug)]
enum Role {
    Follower {
        leader: Option<String>,
    },
    Leader {
        followers: BTreeMap<String, Follower>,
    },
}

/// One member's part.
#[derive(Debug)]
pub(crate) struct Register {
    me: String,
    election: Duration,
    durable: Durable,
    committed: Ballot,
    committed_state: Arc<State>,
    role: Role,
    heard: Instant,
    election_at: Instant,
}

impl Register {
    /// `jitter` is between 0 and 1 and spreads elections.
    pub(crate) fn new(
        me: String,
        durable: Durable,
        election: Duration,
        now: Instant,
        jitter: f64,
    ) -> Self {
        // Long enough ago that a restarted member does not take itself for led.
        let heard = now.checked_sub(election).unwrap_or(now);
        let mut register = Self {
            me,
            election,
            durable,
            committed: Ballot::default(),
            committed_state: Arc::default(),
            role: Role::Follower { leader: None },
            heard,
            election_at: now,
        };
        register.rest(now, jitter);
        if register.durable.state.voters() <= 1 {
            register.election_at = now;
        }
        register
    }

    pub(crate) fn durable(&self) -> &Durable {
        &self.durable
    }

    pub(crate) fn committed(&self) -> (Ballot, Arc<State>) {
        (self.committed, self.committed_state.clone())
    }

    pub(crate) fn members(&self) -> Vec<Member> {
        self.durable.state.members.values().cloned().collect()
    }

    pub(crate) fn leads(&self) -> bool {
        matches!(self.role, Role::Leader { .. })
    }

    /// Who leads, if that is known and fresh.
    pub(crate) fn leader(&self, now: Instant) -> Option<&str> {
        match &self.role {
            Role::Leader { .. } => Some(&self.me),
            Role::Follower { leader } => {
                let fresh = now.duration_since(self.heard) < self.election;
                leader.as_deref().filter(|_| fresh)
            }
        }
    }

    /// Whether this member is one, as far as it knows.
    pub(crate) fn is_member(&self) -> bool {
        self.committed == Ballot::default() || self.committed_state.members.contains_key(&self.me)
    }

    fn rest(&mut self, now: Instant, jitter: f64) {
        self.election_at = now + self.election.mul_f64(1.0 + jitter);
    }

    fn follow(&mut self, term: u64, leader: Option<String>) {
        if term > self.durable.term {
            self.durable.term = term;
            self.durable.voted_for = None;
        }
        self.role = Role::Follower { leader };
    }

    /// Whether an election is due. A leader that has not heard a majority for an election's time
    /// stops leading.
    pub(crate) fn tick(&mut self, now: Instant, jitter: f64) -> bool {
        if self.leads() {
            if !self.heard_majority_since(now.checked_sub(self.election).unwrap_or(now)) {
                self.follow(self.durable.term, None);
                self.rest(now, jitter);
            }
            return false;
        }
        let votes = self
            .durable
            .state
            .members
            .get(&self.me)
            .is_some_and(|me| !me.learner);
        if !votes || now < self.election_at {
            return false;
        }
        self.rest(now, jitter);
        true
    }

    /// What to ask the other voters; for the real round the own vote is given already.
    pub(crate) fn campaign(&mut self, pre: bool) -> VoteRequest {
        if !pre {
            self.durable.term += 1;
            self.durable.voted_for = Some(self.me.clone());
            self.role = Role::Follower { leader: None };
        }
        VoteRequest {
            term: self.durable.term + u64::from(pre),
            candidate: self.me.clone(),
            ballot: self.durable.ballot,
            pre,
        }
    }

    /// Whether these voters and this member are a majority.
    pub(crate) fn is_majority(&self, granted: &[String]) -> bool {
        let voters = self
            .durable
            .state
            .members
            .values()
            .filter(|member| !member.learner);
        let yes = voters.filter(|voter| voter.name == self.me || granted.contains(&voter.name));
        yes.count() > self.durable.state.voters() / 2
    }

    /// Leads from now on, if the term is still the one that was voted in. The state is proposed
    /// anew in it.
    pub(crate) fn lead(&mut self, term: u64, now: Instant) -> bool {
        if self.durable.term != term || self.leads() {
            return false;
        }
        let follower = Follower {
            ballot: Ballot::default(),
            sent: now,
        };
        let names = self
            .durable
            .state
            .members
            .keys()
            .filter(|name| **name != self.me);
        let followers = names.map(|name| (name.clone(), follower)).collect();
        self.role = Role::Leader { followers };
        self.durable.ballot = Ballot {
            term,
            revision: self.durable.ballot.revision + 1,
        };
        self.commit();
        true
    }

    pub(crate) fn handle_vote(
        &mut self,
        request: &VoteRequest,
        now: Instant,
        jitter: f64,
    ) -> VoteAnswer {
        let removed = self.committed > request.ballot
            && !self
                .committed_state
                .members
                .contains_key(&request.candidate);
        let led = self.leader(now).is_some();
        let newer = request.ballot >= self.durable.ballot;
        if request.pre {
            return VoteAnswer {
                term: self.durable.term,
                granted: !led && newer && request.term > self.durable.term && !removed,
                removed,
            };
        }
        if request.term > self.durable.term && !led {
            self.follow(request.term, None);
        }
        let free = self
            .durable
            .voted_for
            .as_ref()
            .is_none_or(|name| *name == request.candidate);
        let granted =
            request.term == self.durable.term && free && newer && !removed && !self.leads();
        if granted {
            self.durable.voted_for = Some(request.candidate.clone());
            self.rest(now, jitter);
        }
        VoteAnswer {
            term: self.durable.term,
            granted,
            removed,
        }
    }

    pub(crate) fn handle_append(
        &mut self,
        append: Append,
        now: Instant,
        jitter: f64,
    ) -> AppendAnswer {
        if append.term >= self.durable.term {
            self.follow(append.term, Some(append.leader));
            self.heard = now;
            self.rest(now, jitter);
            if append.ballot > self.durable.ballot
                && let Some(state) = append.state
            {
                self.durable.ballot = append.ballot;
                self.durable.state = state;
            }
            // The accepted state is the committed one, or newer than it: only the former is shown.
            if append.committed == self.durable.ballot {
                self.commit_accepted();
            }
        }
        AppendAnswer {
            term: self.durable.term,
            ballot: self.durable.ballot,
        }
    }

    fn commit_accepted(&mut self) {
        if self.durable.ballot > self.committed {
            self.committed = self.durable.ballot;
            self.committed_state = Arc::new(self.durable.state.clone());
        }
    }

    /// What to send to a follower.
    pub(crate) fn append_for(&self, peer: &str) -> Option<Append> {
        let Role::Leader { followers } = &self.role else {
            return None;
        };
        let has = followers.get(peer).map(|follower| follower.ballot);
        Some(Append {
            term: self.durable.term,
            leader: self.me.clone(),
            ballot: self.durable.ballot,
            committed: self.committed,
            state: (has != Some(self.durable.ballot)).then(|| self.durable.state.clone()),
        })
    }

    /// Takes a follower's answer to what was sent at `sent`. Whether something was committed.
    pub(crate) fn handle_append_answer(
        &mut self,
        peer: &str,
        answer: &AppendAnswer,
        sent: Instant,
    ) -> bool {
        if answer.term > self.durable.term {
            self.follow(answer.term, None);
            return false;
        }
        let Role::Leader { followers } = &mut self.role else {
            return false;
        };
        let known = Follower {
            ballot: answer.ballot,
            sent,
        };
        let follower = followers.entry(peer.to_owned()).or_insert(known);
        follower.ballot = answer.ballot;
        follower.sent = follower.sent.max(sent);
        self.commit()
    }

    /// Commits what a majority has accepted. Only states of the own term are counted.
    fn commit(&mut self) -> bool {
        let Role::Leader { followers } = &self.role else {
            return false;
        };
        let accepted: Vec<String> = followers
            .iter()
            .filter(|(_, follower)| follower.ballot == self.durable.ballot)
            .map(|(name, _)| name.clone())
            .collect();
        if self.durable.ballot <= self.committed || !self.is_majority(&accepted) {
            return false;
        }
        self.commit_accepted();
        true
    }

    /// Whether a majority has answered something that was sent since.
    pub(crate) fn heard_majority_since(&self, since: Instant) -> bool {
        let Role::Leader { followers } = &self.role else {
            return false;
        };
        let heard: Vec<String> = followers
            .iter()
            .filter(|(_, follower)| follower.sent >= since)
            .map(|(name, _)| name.clone())
            .collect();
        self.is_majority(&heard)
    }

    /// A learner that has everything.
    pub(crate) fn ready_learner(&self) -> Option<String> {
        let Role::Leader { followers } = &self.role else {
            return None;
        };
        let learners = self
            .durable
            .state
            .members
            .values()
            .filter(|member| member.learner);
        learners.map(|learner| learner.name.clone()).find(|name| {
            followers
                .get(name)
                .is_some_and(|known| known.ballot == self.durable.ballot)
        })
    }

    /// Applies a command to the newest accepted state; it counts once it is committed.
    pub(crate) fn propose(
        &mut self,
        command: &Command,
    ) -> Result<(serde_json::Value, Ballot), Refusal> {
        if !self.leads() {
            return Err(Refusal::timed_out());
        }
        let revision = self.durable.ballot.revision + 1;
        let mut state = self.durable.state.clone();
        let result = state.apply(revision, command)?;
        self.durable.state = state;
        self.durable.ballot = Ballot {
            term: self.durable.term,
            revision,
        };
        self.commit();
        Ok((result, self.durable.ballot))
    }
}

#[cfg(test)]
#[path = "register_tests.rs"]
mod tests;
