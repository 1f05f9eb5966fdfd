//! What a silent leader asks the others: nothing but an answer.
//!
//! Decides how it is asked: with a pre-vote, which changes nothing at whoever is asked and renews
//! nobody's trust in a leader, so that it holds no election back (Raft dissertation, Ongaro 2014,
//! 9.6), and which has no log behind it, so that nobody would grant it. Never: what an answer means
//! for leadership. Whoever answers was reached and is heard; more is not read from it.
//!
//! Invariant: at any time no more questions are under way to one server than heartbeats fit into the
//! time that an answer is waited for.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use consensus_core::{NodeId, RaftId};
use openraft::{AsyncRuntime as _, raft::VoteRequest};

use crate::{
    carrier::{Carrier, Lane},
    clock::{self, Instant},
    hearing::Answers,
    raft_types::{LeaderId, Metrics, Runtime, Vote},
    timers::Timers,
    wire::v1::{self, EnvelopeV1, ReplyV1, RequestV1},
};

/// Asks, and notes who answers.
pub(crate) struct Probes {
    carrier: Arc<dyn Carrier>,
    /// Late answers count: where they take long, everything does.
    patience: Duration,
    answers: Answers,
}

/// Whom to ask, and as whom.
#[derive(Default)]
pub(crate) struct Question {
    others: Vec<(u64, NodeId)>,
    own: u64,
    term: u64,
}

impl Question {
    /// To all voters but the one that asks.
    pub(crate) fn of(metrics: &Metrics) -> Self {
        let membership = metrics.membership_config.membership();
        let voters = membership.voter_ids().filter(|id| *id != metrics.id);
        let named = |id: u64| Some((id, membership.get_node(&id)?.0.clone()?));
        Self {
            others: voters.filter_map(named).collect(),
            own: metrics.id,
            term: metrics.current_term,
        }
    }
}

impl Probes {
    pub(crate) fn new(carrier: Arc<dyn Carrier>, timers: &Timers) -> Self {
        Self {
            carrier,
            patience: timers.election_max,
            answers: Answers::default(),
        }
    }

    /// Asks everybody once more and waits for nobody.
    pub(crate) fn ask(&self, question: &Question) {
        let sent = Instant::now();
        let vote = Vote {
            leader_id: LeaderId {
                term: question.term,
                node_id: question.own,
            },
            committed: false,
        };
        for (id, node) in &question.others {
            let (id, term) = (*id, question.term);
            let envelope = EnvelopeV1 {
                to: RaftId(id),
                request: RequestV1::pre_vote(&VoteRequest::new(vote, None)),
            };
            let (patience, answers) = (self.patience, self.answers.clone());
            let body = v1::message(&envelope);
            let exchange = self.carrier.call(node, Lane::Rpc, body, patience);
            drop(Runtime::spawn(async move {
                let answer = clock::timeout(patience, exchange).await;
                let answer = answer.ok().and_then(Result::ok);
                if answer.is_some_and(|body| is_a_servers(&body)) {
                    answers.note(id, term, sent);
                }
            }));
        }
    }

    /// Since when a majority of each of these sets has answered in this term, `own` always included:
    /// when that was asked which they answered last.
    pub(crate) fn answered(
        &self,
        own: u64,
        term: u64,
        sets: &[BTreeSet<u64>],
        now: Instant,
    ) -> Option<Instant> {
        self.answers.majority(own, term, sets, now)
    }
}

/// Whether a server of the same group answered, whatever it said.
fn is_a_servers(body: &[u8]) -> bool {
    matches!(v1::open_message(body), Ok(ReplyV1::Vote { .. }))
}
