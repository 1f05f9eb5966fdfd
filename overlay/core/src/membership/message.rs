//! What members say to each other, as domain types. The bytes are `wire::v1`'s.
//!
//! Decides nothing. Facts are shared, not copied: a push to twenty neighbours costs twenty counts.

use std::{sync::Arc, time::Duration};

use consensus_core::NodeId;

use super::{
    keys::{Keys, Signature},
    record::{Incarnation, SignedRecord},
    settings::Pace,
    table::{Rank, Standing},
    wire,
};

/// Facts in one message: sixteen records of the largest size stay below the wire's 64 KiB.
pub const UPDATES_MAX: usize = 16;
/// Buckets of a digest: one per first byte of a node's hash.
pub const BUCKETS_MAX: usize = 256;
/// Facts named in one message by their hash alone.
pub const FACTS_MAX: usize = 256;

/// Names one probe of one prober; never reused within a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

/// Names a fact by its hash, to those who may lack it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FactId(pub u64);

/// What an accuser claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Its probes fail.
    Suspect,
    /// Its suspicion ran out.
    Dead,
}

/// One node's claim that it cannot reach another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accusation {
    /// The accused.
    pub subject: NodeId,
    /// The history the accused must surpass to refute.
    pub incarnation: Incarnation,
    /// Who claims it.
    pub accuser: NodeId,
    /// By which timers the accuser waited for the accused.
    pub pace: Pace,
    /// The accuser's, over [`wire::v1::accusation_text`].
    pub signature: Signature,
}

impl Accusation {
    /// Signs an accusation. The keys must be the accuser's.
    pub fn sign(
        verdict: Verdict,
        subject: NodeId,
        incarnation: Incarnation,
        (accuser, keys): (NodeId, &dyn Keys),
        pace: Pace,
    ) -> Arc<Self> {
        let text = wire::v1::accusation_text(verdict, &subject, incarnation, &accuser, pace);
        Arc::new(Self {
            subject,
            incarnation,
            accuser,
            pace,
            signature: keys.sign(&text),
        })
    }

    /// Whether the accuser itself signed this verdict.
    pub fn is_genuine(&self, verdict: Verdict, keys: &dyn Keys) -> bool {
        let (subject, accuser) = (&self.subject, &self.accuser);
        let text =
            wire::v1::accusation_text(verdict, subject, self.incarnation, accuser, self.pace);
        keys.verify(accuser, &text, &self.signature)
    }
}

/// A node's own word that it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goodbye {
    /// Who goes.
    pub subject: NodeId,
    /// The history that ends.
    pub incarnation: Incarnation,
    /// The subject's, over [`wire::v1::goodbye_text`].
    pub signature: Signature,
}

impl Goodbye {
    /// Signs a goodbye. The keys must be the subject's.
    pub fn sign(subject: NodeId, incarnation: Incarnation, keys: &dyn Keys) -> Arc<Self> {
        let text = wire::v1::goodbye_text(&subject, incarnation);
        Arc::new(Self {
            subject,
            incarnation,
            signature: keys.sign(&text),
        })
    }

    /// Whether the subject itself signed it.
    pub fn is_genuine(&self, keys: &dyn Keys) -> bool {
        let text = wire::v1::goodbye_text(&self.subject, self.incarnation);
        keys.verify(&self.subject, &text, &self.signature)
    }
}

/// One fact about one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// The subject's own words.
    Alive(Arc<SignedRecord>),
    /// The accuser's probes fail.
    Suspect(Arc<Accusation>),
    /// The accuser's suspicion ran out.
    Dead(Arc<Accusation>),
    /// The subject said goodbye.
    Left(Arc<Goodbye>),
}

impl Update {
    /// Whom the fact is about.
    pub fn subject(&self) -> &NodeId {
        match self {
            Self::Alive(signed) => &signed.record.node,
            Self::Suspect(accusation) | Self::Dead(accusation) => &accusation.subject,
            Self::Left(goodbye) => &goodbye.subject,
        }
    }

    /// The point of its subject's history that it speaks of.
    pub fn incarnation(&self) -> Incarnation {
        match self {
            Self::Alive(signed) => signed.record.incarnation(),
            Self::Suspect(accusation) | Self::Dead(accusation) => accusation.incarnation,
            Self::Left(goodbye) => goodbye.incarnation,
        }
    }

    /// The claim, if it is one.
    pub fn accusation(&self) -> Option<(Verdict, &Arc<Accusation>)> {
        match self {
            Self::Suspect(accusation) => Some((Verdict::Suspect, accusation)),
            Self::Dead(accusation) => Some((Verdict::Dead, accusation)),
            Self::Alive(_) | Self::Left(_) => None,
        }
    }

    /// Whether whoever it names as its author has signed it.
    pub fn is_genuine(&self, keys: &dyn Keys) -> bool {
        match self {
            Self::Alive(signed) => signed.is_genuine(keys),
            Self::Suspect(accusation) => accusation.is_genuine(Verdict::Suspect, keys),
            Self::Dead(accusation) => accusation.is_genuine(Verdict::Dead, keys),
            Self::Left(goodbye) => goodbye.is_genuine(keys),
        }
    }

    /// The fact's name. Equal facts of one author have one name.
    pub fn id(&self) -> FactId {
        let mut hasher = blake3::Hasher::new();
        let standing = self.standing();
        hasher.update(&[standing.rank as u8]);
        hasher.update(&standing.incarnation.generation.to_le_bytes());
        hasher.update(&standing.incarnation.version.to_le_bytes());
        hasher.update(self.subject().as_str().as_bytes());
        if let Some((_, accusation)) = self.accusation() {
            hasher.update(accusation.accuser.as_str().as_bytes());
        }
        let mut first = [0; 8];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        FactId(u64::from_le_bytes(first))
    }

    pub(super) fn standing(&self) -> Standing {
        let rank = match self {
            Self::Alive(_) => Rank::Alive,
            Self::Suspect(_) => Rank::Suspect,
            Self::Dead(_) => Rank::Dead,
            Self::Left(_) => Rank::Left,
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
        /// Whether the sender held back more than it sent: another digest brings it.
        more: bool,
    },
    /// Facts that the sender has and does not push over this edge (Plumtree's IHAVE).
    Have {
        /// Their names; at most [`FACTS_MAX`].
        facts: Vec<FactId>,
    },
    /// Send me these, and push over this edge from now on (Plumtree's GRAFT).
    Graft {
        /// Their names; at most [`FACTS_MAX`].
        facts: Vec<FactId>,
    },
    /// What you push I have from others: only name your facts from now on (Plumtree's PRUNE).
    Prune,
}

impl Message {
    /// Whether it is a question or an answer without any facts, like nearly all.
    pub(super) const fn brings_nothing(&self) -> bool {
        match self {
            Self::Ping { updates, .. } | Self::Ack { updates, .. } => updates.is_empty(),
            Self::PingRequest { .. }
            | Self::IndirectAck { .. }
            | Self::Nack { .. }
            | Self::Gossip { .. }
            | Self::Digest { .. }
            | Self::Repair { .. }
            | Self::Have { .. }
            | Self::Graft { .. }
            | Self::Prune => false,
        }
    }

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
            Self::Digest { .. } | Self::Have { .. } | Self::Graft { .. } | Self::Prune => &[],
        }
    }
}
