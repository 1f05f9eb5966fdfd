//! What members say to each other, as domain types. The bytes are `wire::v1`'s.
//!
//! Decides nothing.

use std::time::Duration;

use consensus_core::NodeId;

use super::record::{Incarnation, Rank, Record, Standing};

/// Facts in one message: sixteen records of the largest size stay below the wire's 64 KiB.
pub const UPDATES_MAX: usize = 16;
/// Buckets of a digest: one per first byte of a node's hash.
pub const BUCKETS_MAX: usize = 256;

/// Names one probe of one prober; never reused within a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

/// One node's claim that it cannot reach another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accusation {
    /// The accused.
    pub subject: NodeId,
    /// The history the accused must surpass to refute.
    pub incarnation: Incarnation,
    /// Who claims it.
    pub accuser: NodeId,
}

/// One fact about one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// The subject's own words.
    Alive(Record),
    /// The accuser's probes fail.
    Suspect(Accusation),
    /// The accuser's suspicion ran out.
    Dead(Accusation),
    /// The subject said goodbye.
    Left {
        /// Who goes.
        subject: NodeId,
        /// The history that ends.
        incarnation: Incarnation,
    },
}

impl Update {
    /// Whom the fact is about.
    pub const fn subject(&self) -> &NodeId {
        match self {
            Self::Alive(record) => &record.node,
            Self::Suspect(accusation) | Self::Dead(accusation) => &accusation.subject,
            Self::Left { subject, .. } => subject,
        }
    }

    /// The point of its subject's history that it speaks of.
    pub const fn incarnation(&self) -> Incarnation {
        match self {
            Self::Alive(record) => record.incarnation(),
            Self::Suspect(accusation) | Self::Dead(accusation) => accusation.incarnation,
            Self::Left { incarnation, .. } => *incarnation,
        }
    }

    pub(super) const fn standing(&self) -> Standing {
        let rank = match self {
            Self::Alive(_) => Rank::Alive,
            Self::Suspect(_) => Rank::Suspect,
            Self::Dead(_) => Rank::Dead,
            Self::Left { .. } => Rank::Left,
        };
        Standing {
            incarnation: self.incarnation(),
            rank,
        }
    }
}

/// One bucket of a digest: the members whose hash starts with `index`, summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// The first byte of the members' hashes.
    pub index: u8,
    /// The exclusive or of what is held of them; empty buckets are left out.
    pub hash: u64,
}

/// What travels between two members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Are you there?
    Ping {
        /// Echoed by the answer.
        sequence: Sequence,
        /// Piggybacked facts.
        updates: Vec<Update>,
    },
    /// I am.
    Ack {
        /// Of the ping.
        sequence: Sequence,
        /// Piggybacked facts.
        updates: Vec<Update>,
    },
    /// Please ping somebody for me.
    PingRequest {
        /// The asker's; echoed by `IndirectAck` and `Nack`.
        sequence: Sequence,
        /// Whom to ping.
        target: NodeId,
        /// How long the asker waits; whole milliseconds.
        timeout: Duration,
        /// Piggybacked facts.
        updates: Vec<Update>,
    },
    /// It answered me.
    IndirectAck {
        /// Of the request.
        sequence: Sequence,
        /// Piggybacked facts.
        updates: Vec<Update>,
    },
    /// It has not answered me yet, but I heard your request (Lifeguard).
    Nack {
        /// Of the request.
        sequence: Sequence,
        /// Piggybacked facts.
        updates: Vec<Update>,
    },
    /// News, pushed on as soon as learned.
    Gossip {
        /// The news.
        updates: Vec<Update>,
    },
    /// A summary of everything held; whoever holds something else answers with `Repair`.
    Digest {
        /// The non-empty buckets, by rising index.
        buckets: Vec<Bucket>,
    },
    /// Facts from buckets that differ.
    Repair {
        /// The facts.
        updates: Vec<Update>,
        /// Buckets of which the sender wants the receiver's facts in return.
        wanted: Vec<u8>,
    },
}

impl Message {
    /// The facts it carries.
    pub fn updates(&self) -> &[Update] {
        match self {
            Self::Ping { updates, .. }
            | Self::Ack { updates, .. }
            | Self::PingRequest { updates, .. }
            | Self::IndirectAck { updates, .. }
            | Self::Nack { updates, .. }
            | Self::Gossip { updates }
            | Self::Repair { updates, .. } => updates,
            Self::Digest { .. } => &[],
        }
    }
}
