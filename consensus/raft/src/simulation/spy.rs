//! What a simulated network may see of the messages it carries.
//!
//! Decides nothing. A message is opaque to every carrier of ours; a judge of a simulation looks
//! at ballots and entries to see promises broken that no answer to a client would show.

use consensus_core::LogIndex;

use crate::{
    raft_types::{LogId, Vote},
    wire::v1::{self, AppendReplyV1, EnvelopeV1, ReplyV1, RequestV1},
};

/// A claim to lead: by term, then by server. openraft lets several servers lead in one term, one
/// after the other; the order of ballots is what a vote promises to respect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ballot {
    /// Raft's term.
    pub term: u64,
    /// The Raft id of whoever leads or wants to.
    pub server: u64,
}

/// A request, as far as a judge cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// A leader speaks.
    Append {
        /// As whom.
        ballot: Ballot,
        /// The entries it sends, with the ballots they were written under.
        entries: Vec<(LogIndex, Ballot)>,
    },
    /// A candidate asks for a vote.
    Vote(Ballot),
    /// Anything else.
    Other,
}

/// An answer, as far as a judge cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The vote was granted.
    Granted,
    /// The leader was accepted, and all its entries were stored or part of them were.
    Accepted,
    /// Anything else.
    Other,
}

/// What a request says; nothing if it is no request.
pub fn request(body: &[u8]) -> Option<Request> {
    let envelope: EnvelopeV1 = v1::open_message(body).ok()?;
    if let RequestV1::Append { vote, entries, .. } = envelope.request {
        let entries = entries.into_iter().filter_map(|entry| {
            let at = entry.into_entry().ok()?.log_id;
            Some((LogIndex(at.index), written_under(&at)))
        });
        Some(Request::Append {
            ballot: ballot(vote.into()),
            entries: entries.collect(),
        })
    } else if let RequestV1::Vote { vote, .. } = envelope.request {
        Some(Request::Vote(ballot(vote.into())))
    } else {
        Some(Request::Other)
    }
}

/// What an answer says; nothing if it is no answer.
pub fn reply(body: &[u8]) -> Option<Reply> {
    let reply = v1::open_message(body).ok()?;
    if let ReplyV1::Append(AppendReplyV1::Success | AppendReplyV1::Partial(_)) = reply {
        Some(Reply::Accepted)
    } else if let ReplyV1::Vote { granted: true, .. } = reply {
        Some(Reply::Granted)
    } else {
        Some(Reply::Other)
    }
}

fn ballot(vote: Vote) -> Ballot {
    Ballot {
        term: vote.leader_id.term,
        server: vote.leader_id.node_id,
    }
}

fn written_under(at: &LogId) -> Ballot {
    Ballot {
        term: at.leader_id.term,
        server: at.leader_id.node_id,
    }
}
