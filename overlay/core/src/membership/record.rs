//! What a node says of itself, and what is believed of it.
//!
//! Decides: which of two points of a node's history is the later one. Never: who is believed; that
//! is `facts`.
//!
//! Invariant: only the subject signs its records, so only it raises its incarnation.

use std::{net::SocketAddr, ops::Deref, sync::Arc, time::Duration};

use consensus_core::{NetworkId, NodeId, Time};

use super::{
    keys::{Keys, SIGNATURE_BYTES, Signature},
    wire,
};

/// Addresses in one record; a host has a handful, and a record must stay below a few KiB.
pub const ADDRESSES_MAX: usize = 8;
/// Networks in one record.
pub const NETWORKS_MAX: usize = 32;
/// Endpoints of one network in one record.
pub const ENDPOINTS_MAX: usize = 4;
/// Relays in one record: a node that needs them keeps two, so that one may fail.
pub const RELAYS_MAX: usize = 2;
/// Unreachable peers in one record, those of all networks counted: a few pairs between two sites.
/// Sixteen of the largest records must fit into a message, which leaves room for eight, each in a
/// network of its own. Who reaches nobody has no use for a hub either.
pub const UNREACHABLE_MAX: usize = 8;

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
    /// The nodes through which it is reached when it cannot be dialled; at most [`RELAYS_MAX`].
    pub relays: Vec<NodeId>,
    /// The nodes whose overlay packets do not reach it straight, or its not them, per network; at
    /// most [`UNREACHABLE_MAX`] in all.
    pub unreachable: Vec<(NetworkId, Vec<NodeId>)>,
    /// Whether it passes on overlay packets between nodes that do not reach each other.
    pub forwards: bool,
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
        self.relays.truncate(RELAYS_MAX);
        let mut left = UNREACHABLE_MAX;
        for (_, nodes) in &mut self.unreachable {
            nodes.truncate(left);
            left -= nodes.len();
        }
        self.unreachable.retain(|(_, nodes)| !nodes.is_empty());
        self.wireguard.truncate(NETWORKS_MAX);
        for (_, endpoints) in &mut self.wireguard {
            endpoints.truncate(ENDPOINTS_MAX);
        }
        self
    }

    pub(super) const fn unheard(node: NodeId) -> Self {
        Self {
            node,
            generation: 0,
            version: 0,
            addresses: Vec::new(),
            wireguard: Vec::new(),
            relays: Vec::new(),
            unreachable: Vec::new(),
            forwards: false,
        }
    }
}

/// A record below which its subject has put its name. Reads like the record itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedRecord {
    /// What is said.
    pub record: Record,
    /// The subject's, over [`wire::v1::record_text`].
    pub signature: Signature,
}

impl SignedRecord {
    /// Signs a record. The keys must be its subject's.
    pub fn sign(record: Record, keys: &dyn Keys) -> Arc<Self> {
        let signature = keys.sign(&wire::v1::record_text(&record));
        Arc::new(Self { record, signature })
    }

    /// Whether the subject itself signed it.
    pub fn is_genuine(&self, keys: &dyn Keys) -> bool {
        let text = wire::v1::record_text(&self.record);
        keys.verify(&self.record.node, &text, &self.signature)
    }

    /// Stands for the record of a member that nothing was heard of. It proves nothing.
    pub(super) fn unheard(node: NodeId) -> Arc<Self> {
        Arc::new(Self {
            record: Record::unheard(node),
            signature: Signature([0; SIGNATURE_BYTES]),
        })
    }
}

impl Deref for SignedRecord {
    type Target = Record;

    fn deref(&self) -> &Record {
        &self.record
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
    pub record: Arc<SignedRecord>,
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
