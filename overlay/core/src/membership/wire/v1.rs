//! Version 1 of the membership wire format.
//!
//! One byte 1, then the message in postcard. Decides: which bytes are a message. Never: whom to
//! believe. Invariants: `decode(encode(m)) == m` for every message within the limits; whatever the
//! input, decoding allocates in proportion to it and no more than [`MESSAGE_BYTES_MAX`] permits.
//! The order of fields and variants is the format; the golden bytes below hold it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use consensus_core::{NetworkId, NodeId};
use serde::{Deserialize, Serialize};

pub use super::refusal::DecodeError;
use crate::membership::{
    ADDRESSES_MAX, Accusation, BUCKETS_MAX, Bucket, ENDPOINTS_MAX, FACTS_MAX, FactId, Goodbye,
    Incarnation, Message, NETWORKS_MAX, Pace, RELAYS_MAX, Record, Sequence, Signature,
    SignedRecord, UNREACHABLE_MAX, UPDATES_MAX, Update, Verdict,
};

/// The first byte of every message.
pub const VERSION: u8 = 1;
/// Sixteen of the largest records fit; the carrier refuses longer frames unread.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Writes a message.
pub fn encode(message: &Message) -> Vec<u8> {
    let bytes = postcard::to_extend(&WireMessage::from(message), vec![VERSION]);
    bytes.expect("writing into a vector does not fail, and no type here refuses to be written")
}

/// Reads a message.
///
/// # Errors
/// When the bytes are not exactly one message within the limits.
pub fn decode(bytes: &[u8]) -> Result<Message, DecodeError> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(DecodeError::TooLong { bytes: bytes.len() });
    }
    let (version, body) = bytes.split_first().ok_or(DecodeError::Empty)?;
    if *version != VERSION {
        return Err(DecodeError::Version { version: *version });
    }
    let (message, rest): (WireMessage, _) =
        postcard::take_from_bytes(body).map_err(DecodeError::Malformed)?;
    if !rest.is_empty() {
        return Err(DecodeError::Trailing { bytes: rest.len() });
    }
    message.try_into()
}

/// The bytes that a node signs below its record.
pub fn record_text(record: &Record) -> Vec<u8> {
    text(b"shoal membership 1: record", &WireRecord::from(record))
}

/// The bytes that an accuser signs.
pub fn accusation_text(
    verdict: Verdict,
    subject: &NodeId,
    incarnation: Incarnation,
    accuser: &NodeId,
    pace: Pace,
) -> Vec<u8> {
    let kind: &[u8] = match verdict {
        Verdict::Suspect => b"shoal membership 1: suspect",
        Verdict::Dead => b"shoal membership 1: dead",
    };
    let relayed = pace == Pace::Wan;
    let Incarnation {
        generation,
        version,
    } = incarnation;
    text(kind, &(subject, generation, version, accuser, relayed))
}

/// The bytes that a node signs when it goes.
pub fn goodbye_text(subject: &NodeId, incarnation: Incarnation) -> Vec<u8> {
    let Incarnation {
        generation,
        version,
    } = incarnation;
    let kind = b"shoal membership 1: goodbye";
    text(kind, &(subject, generation, version))
}

/// What is signed begins with what it is, so that no signature serves for another kind.
fn text(kind: &[u8], value: &impl Serialize) -> Vec<u8> {
    let bytes = postcard::to_extend(value, [kind, &[0]].concat());
    bytes.expect("writing into a vector does not fail, and no type here refuses to be written")
}

/// Ed25519's two halves; serde knows arrays up to 32.
type WireSignature = ([u8; 32], [u8; 32]);

#[derive(Serialize, Deserialize)]
struct WireRecord {
    node: NodeId,
    generation: u64,
    version: u64,
    addresses: Vec<SocketAddr>,
    wireguard: Vec<(NetworkId, Vec<SocketAddr>)>,
    relays: Vec<NodeId>,
    unreachable: Vec<(NetworkId, Vec<NodeId>)>,
    forwards: bool,
}

#[derive(Serialize, Deserialize)]
struct WireAccusation {
    subject: NodeId,
    generation: u64,
    version: u64,
    accuser: NodeId,
    /// Whether the accuser watches over a slow edge ([`Pace::Wan`]).
    slow: bool,
    signature: WireSignature,
}

#[derive(Serialize, Deserialize)]
enum WireUpdate {
    Alive(WireRecord, WireSignature),
    Suspect(WireAccusation),
    Dead(WireAccusation),
    Left {
        subject: NodeId,
        generation: u64,
        version: u64,
        signature: WireSignature,
    },
}

#[derive(Serialize, Deserialize)]
struct WireBucket {
    index: u8,
    /// Little-endian.
    hash: [u8; 8],
}

#[derive(Serialize, Deserialize)]
enum WireMessage {
    Ping {
        sequence: u64,
        updates: Vec<WireUpdate>,
    },
    Ack {
        sequence: u64,
        updates: Vec<WireUpdate>,
    },
    PingRequest {
        sequence: u64,
        target: NodeId,
        timeout_ms: u32,
        updates: Vec<WireUpdate>,
    },
    IndirectAck {
        sequence: u64,
        updates: Vec<WireUpdate>,
    },
    Nack {
        sequence: u64,
        updates: Vec<WireUpdate>,
    },
    Gossip {
        updates: Vec<WireUpdate>,
    },
    Digest {
        buckets: Vec<WireBucket>,
    },
    Repair {
        updates: Vec<WireUpdate>,
        wanted: Vec<u8>,
        more: bool,
    },
    Have {
        facts: Vec<WireFact>,
    },
    Graft {
        facts: Vec<WireFact>,
    },
    Prune,
}

/// Little-endian.
type WireFact = [u8; 8];

fn split(signature: Signature) -> WireSignature {
    let mut halves = WireSignature::default();
    let (first, second) = signature.0.split_at(32);
    halves.0.copy_from_slice(first);
    halves.1.copy_from_slice(second);
    halves
}

fn joined((first, second): WireSignature) -> Signature {
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(&first);
    bytes[32..].copy_from_slice(&second);
    Signature(bytes)
}

impl From<&Record> for WireRecord {
    fn from(record: &Record) -> Self {
        Self {
            node: record.node.clone(),
            generation: record.generation,
            version: record.version,
            addresses: record.addresses.clone(),
            wireguard: record.wireguard.clone(),
            relays: record.relays.clone(),
            unreachable: record.unreachable.clone(),
            forwards: record.forwards,
        }
    }
}

impl From<&Accusation> for WireAccusation {
    fn from(accusation: &Accusation) -> Self {
        Self {
            subject: accusation.subject.clone(),
            generation: accusation.incarnation.generation,
            version: accusation.incarnation.version,
            accuser: accusation.accuser.clone(),
            slow: accusation.pace == Pace::Wan,
            signature: split(accusation.signature),
        }
    }
}

impl From<&Update> for WireUpdate {
    fn from(update: &Update) -> Self {
        match update {
            Update::Alive(signed) => Self::Alive((&signed.record).into(), split(signed.signature)),
            Update::Suspect(accusation) => Self::Suspect((&**accusation).into()),
            Update::Dead(accusation) => Self::Dead((&**accusation).into()),
            Update::Left(goodbye) => Self::Left {
                subject: goodbye.subject.clone(),
                generation: goodbye.incarnation.generation,
                version: goodbye.incarnation.version,
                signature: split(goodbye.signature),
            },
        }
    }
}

impl From<&Message> for WireMessage {
    fn from(message: &Message) -> Self {
        let wire = |updates: &Vec<Update>| updates.iter().map(WireUpdate::from).collect();
        match message {
            Message::Ping { sequence, updates } => Self::Ping {
                sequence: sequence.0,
                updates: wire(updates),
            },
            Message::Ack { sequence, updates } => Self::Ack {
                sequence: sequence.0,
                updates: wire(updates),
            },
            Message::PingRequest {
                sequence,
                target,
                timeout,
                updates,
            } => Self::PingRequest {
                sequence: sequence.0,
                target: target.clone(),
                timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
                updates: wire(updates),
            },
            Message::IndirectAck { sequence, updates } => Self::IndirectAck {
                sequence: sequence.0,
                updates: wire(updates),
            },
            Message::Nack { sequence, updates } => Self::Nack {
                sequence: sequence.0,
                updates: wire(updates),
            },
            Message::Gossip { updates } => Self::Gossip {
                updates: wire(updates),
            },
            Message::Digest { buckets } => Self::Digest {
                buckets: buckets
                    .iter()
                    .map(|b| WireBucket {
                        index: b.index,
                        hash: b.hash.to_le_bytes(),
                    })
                    .collect(),
            },
            Message::Repair {
                updates,
                wanted,
                more,
            } => Self::Repair {
                updates: wire(updates),
                wanted: wanted.clone(),
                more: *more,
            },
            Message::Have { facts } => Self::Have {
                facts: facts.iter().map(|id| id.0.to_le_bytes()).collect(),
            },
            Message::Graft { facts } => Self::Graft {
                facts: facts.iter().map(|id| id.0.to_le_bytes()).collect(),
            },
            Message::Prune => Self::Prune,
        }
    }
}

impl TryFrom<WireRecord> for Record {
    type Error = DecodeError;

    fn try_from(wire: WireRecord) -> Result<Self, DecodeError> {
        within("addresses", wire.addresses.len(), ADDRESSES_MAX)?;
        within("networks", wire.wireguard.len(), NETWORKS_MAX)?;
        within("relays", wire.relays.len(), RELAYS_MAX)?;
        // A list without names takes the place of one.
        let named = wire.unreachable.iter().map(|(_, nodes)| nodes.len().max(1));
        within("unreachable", named.sum(), UNREACHABLE_MAX)?;
        for (_, endpoints) in &wire.wireguard {
            within("endpoints", endpoints.len(), ENDPOINTS_MAX)?;
        }
        Ok(Self {
            node: wire.node,
            generation: wire.generation,
            version: wire.version,
            addresses: wire.addresses,
            wireguard: wire.wireguard,
            relays: wire.relays,
            unreachable: wire.unreachable,
            forwards: wire.forwards,
        })
    }
}

impl From<WireAccusation> for Accusation {
    fn from(wire: WireAccusation) -> Self {
        Self {
            subject: wire.subject,
            incarnation: Incarnation {
                generation: wire.generation,
                version: wire.version,
            },
            accuser: wire.accuser,
            pace: if wire.slow { Pace::Wan } else { Pace::Lan },
            signature: joined(wire.signature),
        }
    }
}

impl TryFrom<WireUpdate> for Update {
    type Error = DecodeError;

    fn try_from(wire: WireUpdate) -> Result<Self, DecodeError> {
        Ok(match wire {
            WireUpdate::Alive(record, signature) => Self::Alive(Arc::new(SignedRecord {
                record: record.try_into()?,
                signature: joined(signature),
            })),
            WireUpdate::Suspect(accusation) => Self::Suspect(Arc::new(accusation.into())),
            WireUpdate::Dead(accusation) => Self::Dead(Arc::new(accusation.into())),
            WireUpdate::Left {
                subject,
                generation,
                version,
                signature,
            } => Self::Left(Arc::new(Goodbye {
                subject,
                incarnation: Incarnation {
                    generation,
                    version,
                },
                signature: joined(signature),
            })),
        })
    }
}

impl TryFrom<WireMessage> for Message {
    type Error = DecodeError;

    fn try_from(wire: WireMessage) -> Result<Self, DecodeError> {
        Ok(match wire {
            WireMessage::Ping { sequence, updates } => Self::Ping {
                sequence: Sequence(sequence),
                updates: domain(updates)?,
            },
            WireMessage::Ack { sequence, updates } => Self::Ack {
                sequence: Sequence(sequence),
                updates: domain(updates)?,
            },
            WireMessage::PingRequest {
                sequence,
                target,
                timeout_ms,
                updates,
            } => Self::PingRequest {
                sequence: Sequence(sequence),
                target,
                timeout: Duration::from_millis(timeout_ms.into()),
                updates: domain(updates)?,
            },
            WireMessage::IndirectAck { sequence, updates } => Self::IndirectAck {
                sequence: Sequence(sequence),
                updates: domain(updates)?,
            },
            WireMessage::Nack { sequence, updates } => Self::Nack {
                sequence: Sequence(sequence),
                updates: domain(updates)?,
            },
            WireMessage::Gossip { updates } => Self::Gossip {
                updates: domain(updates)?,
            },
            WireMessage::Digest { buckets } => {
                within("buckets", buckets.len(), BUCKETS_MAX)?;
                let read = |b: WireBucket| Bucket {
                    index: b.index,
                    hash: u64::from_le_bytes(b.hash),
                };
                Self::Digest {
                    buckets: buckets.into_iter().map(read).collect(),
                }
            }
            WireMessage::Repair {
                updates,
                wanted,
                more,
            } => {
                within("wanted buckets", wanted.len(), BUCKETS_MAX)?;
                Self::Repair {
                    updates: domain(updates)?,
                    wanted,
                    more,
                }
            }
            WireMessage::Have { facts } => Self::Have {
                facts: named(facts)?,
            },
            WireMessage::Graft { facts } => Self::Graft {
                facts: named(facts)?,
            },
            WireMessage::Prune => Self::Prune,
        })
    }
}

fn named(facts: Vec<WireFact>) -> Result<Vec<FactId>, DecodeError> {
    within("facts", facts.len(), FACTS_MAX)?;
    let read = |bytes| FactId(u64::from_le_bytes(bytes));
    Ok(facts.into_iter().map(read).collect())
}

fn domain(updates: Vec<WireUpdate>) -> Result<Vec<Update>, DecodeError> {
    within("updates", updates.len(), UPDATES_MAX)?;
    updates.into_iter().map(Update::try_from).collect()
}

const fn within(what: &'static str, count: usize, limit: usize) -> Result<(), DecodeError> {
    if count > limit {
        Err(DecodeError::TooMany { what, count, limit })
    } else {
        Ok(())
    }
}

#[cfg(test)]
#[path = "v1_tests.rs"]
mod tests;
