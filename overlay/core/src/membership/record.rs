//! What is said about a node, and by whom.
//!
//! Decides: which of two statements about a node is the later one ([`Standing`]). Never: who is
//! believed; that is `facts`.
//!
//! Invariant: standings form a total order in which only the subject itself reaches a higher
//! incarnation, so all nodes that have heard the same statements hold the same one.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use consensus_core::{NetworkId, NodeId, Time};

use super::{rtt::RttEstimate, suspicion::Suspicion};

/// Addresses in one record; a host has a handful, and a record must stay below a few KiB.
pub const ADDRESSES_MAX: usize = 8;
/// Networks in one record.
pub const NETWORKS_MAX: usize = 32;
/// Endpoints of one network in one record.
pub const ENDPOINTS_MAX: usize = 4;

/// What a node says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The subject, and the only one to write it.
    pub node: NodeId,
    /// Restart count, kept by the shell across restarts.
    pub generation: u64,
    /// Changes within one generation.
    pub version: u64,
    /// Where libp2p may be reached; at most [`ADDRESSES_MAX`].
    pub addresses: Vec<SocketAddr>,
    /// Underlay endpoints of the WireGuard interface per network; at most [`NETWORKS_MAX`] of
    /// [`ENDPOINTS_MAX`] each.
    pub wireguard: Vec<(NetworkId, Vec<SocketAddr>)>,
}

impl Record {
    /// The record's place in its subject's history.
    pub const fn incarnation(&self) -> Incarnation {
        Incarnation {
            generation: self.generation,
            version: self.version,
        }
    }

    /// The record without what exceeds the limits; the first entries stay.
    pub(super) fn bounded(mut self) -> Self {
        self.addresses.truncate(ADDRESSES_MAX);
        self.wireguard.truncate(NETWORKS_MAX);
        for (_, endpoints) in &mut self.wireguard {
            endpoints.truncate(ENDPOINTS_MAX);
        }
        self
    }

    const fn unheard(node: NodeId) -> Self {
        Self {
            node,
            generation: 0,
            version: 0,
            addresses: Vec::new(),
            wireguard: Vec::new(),
        }
    }
}

/// A point in a node's history: restarts first, then changes. Only the node itself raises it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Incarnation {
    /// See [`Record::generation`].
    pub generation: u64,
    /// See [`Record::version`].
    pub version: u64,
}

impl Incarnation {
    /// The next one; a used-up version carries into the generation.
    pub(super) const fn next(self) -> Self {
        match self.version.checked_add(1) {
            Some(version) => Self { version, ..self },
            None => Self {
                generation: self.generation.saturating_add(1),
                version: 0,
            },
        }
    }
}

/// What this node believes of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// Admitted, but nothing heard of it yet.
    Unknown,
    /// Heard of, and nobody complains.
    Alive,
    /// Somebody's probes fail; it may still refute.
    Suspect,
    /// The suspicion ran out, or it said goodbye.
    Dead,
}

/// One admitted node as seen from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its latest known record; generation 0 and no addresses while nothing was heard.
    pub record: Record,
    /// What is believed of it.
    pub condition: Condition,
    /// Whether it said goodbye (then it is also [`Condition::Dead`]).
    pub left: bool,
    /// When `condition` last changed.
    pub since: Time,
    /// When a message last came from the node itself.
    pub last_heard: Option<Time>,
    /// Smoothed round-trip time of direct probes.
    pub rtt: Option<Duration>,
}

/// Severity of a statement within one incarnation. The order is the protocol's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    Unknown,
    Alive,
    Suspect,
    Dead,
    Left,
}

impl Rank {
    const fn condition(self) -> Condition {
        match self {
            Self::Unknown => Condition::Unknown,
            Self::Alive => Condition::Alive,
            Self::Suspect => Condition::Suspect,
            Self::Dead | Self::Left => Condition::Dead,
        }
    }
}

/// The later of two standings wins, everywhere (SWIM section 4.2, with rejoin).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Standing {
    pub(super) incarnation: Incarnation,
    pub(super) rank: Rank,
}

/// A member and what else must be remembered of it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) member: Member,
    pub(super) standing: Standing,
    /// Whether `member.record` was ever heard.
    pub(super) recorded: bool,
    pub(super) suspicion: Option<Suspicion>,
    pub(super) rtt: RttEstimate,
    /// When it was last asked for what it knows, or told what is held against it.
    pub(super) nudged: Option<Time>,
    /// Its bucket in the digest.
    pub(super) bucket: u8,
}

impl Entry {
    pub(super) fn unheard(node: NodeId, now: Time) -> Self {
        let bucket = super::digest::bucket(&node);
        Self {
            member: Member {
                record: Record::unheard(node),
                condition: Condition::Unknown,
                left: false,
                since: now,
                last_heard: None,
                rtt: None,
            },
            standing: Standing {
                incarnation: Incarnation::default(),
                rank: Rank::Unknown,
            },
            recorded: false,
            suspicion: None,
            rtt: RttEstimate::default(),
            nudged: None,
            bucket,
        }
    }

    pub(super) fn local(record: Record, now: Time) -> Self {
        let mut entry = Self::unheard(record.node.clone(), now);
        entry.stand(
            Standing {
                incarnation: record.incarnation(),
                rank: Rank::Alive,
            },
            now,
        );
        entry.store(record);
        entry
    }

    /// Takes a standing over. True when the condition changed with it.
    pub(super) fn stand(&mut self, standing: Standing, now: Time) -> bool {
        self.standing = standing;
        self.member.left = standing.rank == Rank::Left;
        if standing.rank != Rank::Suspect {
            self.suspicion = None;
        }
        let condition = standing.rank.condition();
        let changed = condition != self.member.condition;
        if changed {
            self.member.condition = condition;
            self.member.since = now;
        }
        changed
    }

    /// Keeps the record if it is newer than the one at hand. True when it is.
    pub(super) fn store(&mut self, record: Record) -> bool {
        let newer = !self.recorded || record.incarnation() > self.member.record.incarnation();
        if newer {
            self.member.record = record;
            self.recorded = true;
        }
        newer
    }

    pub(super) fn accusers(&self) -> Option<&BTreeSet<NodeId>> {
        self.suspicion.as_ref().map(|suspicion| &suspicion.accusers)
    }
}
