//! The types openraft is instantiated with.
//!
//! Decides nothing. Serde derives exist because openraft demands them; what goes to disk or
//! over the wire is written by [`wire`](crate::wire) alone.

use std::fmt;

use consensus_core::NodeId;
use openraft::alias;
use serde::{Deserialize, Serialize};

openraft::declare_raft_types!(
    /// Raft over opaque entries.
    pub(crate) Types:
        D = Entry,
        R = Answer,
        NodeId = u64,
        Node = Member,
        AsyncRuntime = Runtime,
);

#[allow(
    deprecated,
    reason = "the alternative is to name one more crate of openraft's"
)]
pub(crate) type Tokio = openraft::impls::TokioRuntime;
#[cfg(not(feature = "simulation"))]
pub(crate) type Runtime = Tokio;
#[cfg(feature = "simulation")]
pub(crate) use crate::simulation::Runtime;

/// One opaque entry of the log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry(pub(crate) Vec<u8>);

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entry({} bytes)", self.0.len())
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// The machine's answer to one entry; empty for entries that are Raft's own.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer(pub(crate) Vec<u8>);

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answer({} bytes)", self.0.len())
    }
}

/// Who is behind a Raft id. The name is absent only in openraft's own test suite.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member(pub(crate) Option<NodeId>);

pub(crate) type LogId = alias::LogIdOf<Types>;
pub(crate) type LeaderId = alias::LeaderIdOf<Types>;
pub(crate) type Vote = alias::VoteOf<Types>;
pub(crate) type LogEntry = alias::EntryOf<Types>;
pub(crate) type Payload = openraft::EntryPayload<Entry, u64, Member>;
pub(crate) type Membership = openraft::Membership<u64, Member>;
pub(crate) type StoredMembership = alias::StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = alias::SnapshotMetaOf<Types>;
pub(crate) type Snapshot = alias::SnapshotOf<Types, Vec<u8>>;
pub(crate) type Metrics = openraft::RaftMetrics<Types>;
