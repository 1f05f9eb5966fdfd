//! Version 1 of the membership wire format.
//!
//! One byte 1, then the message in postcard. Decides: which bytes are a message. Never: whom to
//! believe. Invariants: `decode(encode(m)) == m` for every message within the limits; whatever the
//! input, decoding allocates in proportion to it and no more than [`MESSAGE_BYTES_MAX`] permits.
//! The order of fields and variants is the format; the golden bytes below hold it.

use std::{net::SocketAddr, time::Duration};

use consensus_core::{NetworkId, NodeId};
use serde::{Deserialize, Serialize};

use crate::membership::{
    ADDRESSES_MAX, Accusation, BUCKETS_MAX, Bucket, ENDPOINTS_MAX, Incarnation, Message,
    NETWORKS_MAX, Record, Sequence, UPDATES_MAX, Update,
};

/// The first byte of every message.
pub const VERSION: u8 = 1;
/// Sixteen of the largest records fit; the carrier refuses longer frames unread.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Nothing at all.
    #[error("the message is empty")]
    Empty,
    /// Longer than any message.
    #[error("the message has {bytes} bytes, more than {MESSAGE_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// From a later or foreign program.
    #[error("the message has format version {version}, this program reads {VERSION}")]
    Version {
        /// Its first byte.
        version: u8,
    },
    /// Not what it claims to be.
    #[error("the message is malformed")]
    Malformed(#[source] postcard::Error),
    /// A message followed by something else.
    #[error("{bytes} bytes follow the message")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A list longer than its limit.
    #[error("the message has {count} {what}, more than {limit}")]
    TooMany {
        /// What is listed.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
}

impl DecodeError {
    /// Stable text for logs and counters.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Empty => "MembershipMessageEmpty",
            Self::TooLong { .. } => "MembershipMessageTooLong",
            Self::Version { .. } => "MembershipMessageVersion",
            Self::Malformed(_) => "MembershipMessageMalformed",
            Self::Trailing { .. } => "MembershipMessageTrailing",
            Self::TooMany { .. } => "MembershipMessageTooMany",
        }
    }
}

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

#[derive(Serialize, Deserialize)]
struct WireRecord {
    node: NodeId,
    generation: u64,
    version: u64,
    addresses: Vec<SocketAddr>,
    wireguard: Vec<(NetworkId, Vec<SocketAddr>)>,
}

#[derive(Serialize, Deserialize)]
struct WireAccusation {
    subject: NodeId,
    generation: u64,
    version: u64,
    accuser: NodeId,
}

#[derive(Serialize, Deserialize)]
enum WireUpdate {
    Alive(WireRecord),
    Suspect(WireAccusation),
    Dead(WireAccusation),
    Left {
        subject: NodeId,
        generation: u64,
        version: u64,
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
    },
}

impl From<&Record> for WireRecord {
    fn from(record: &Record) -> Self {
        Self {
            node: record.node.clone(),
            generation: record.generation,
            version: record.version,
            addresses: record.addresses.clone(),
            wireguard: record.wireguard.clone(),
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
        }
    }
}

impl From<&Update> for WireUpdate {
    fn from(update: &Update) -> Self {
        match update {
            Update::Alive(record) => Self::Alive(record.into()),
            Update::Suspect(accusation) => Self::Suspect(accusation.into()),
            Update::Dead(accusation) => Self::Dead(accusation.into()),
            Update::Left {
                subject,
                incarnation,
            } => Self::Left {
                subject: subject.clone(),
                generation: incarnation.generation,
                version: incarnation.version,
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
            Message::Repair { updates, wanted } => Self::Repair {
                updates: wire(updates),
                wanted: wanted.clone(),
            },
        }
    }
}

impl TryFrom<WireRecord> for Record {
    type Error = DecodeError;

    fn try_from(wire: WireRecord) -> Result<Self, DecodeError> {
        within("addresses", wire.addresses.len(), ADDRESSES_MAX)?;
        within("networks", wire.wireguard.len(), NETWORKS_MAX)?;
        for (_, endpoints) in &wire.wireguard {
            within("endpoints", endpoints.len(), ENDPOINTS_MAX)?;
        }
        Ok(Self {
            node: wire.node,
            generation: wire.generation,
            version: wire.version,
            addresses: wire.addresses,
            wireguard: wire.wireguard,
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
        }
    }
}

impl TryFrom<WireUpdate> for Update {
    type Error = DecodeError;

    fn try_from(wire: WireUpdate) -> Result<Self, DecodeError> {
        Ok(match wire {
            WireUpdate::Alive(record) => Self::Alive(record.try_into()?),
            WireUpdate::Suspect(accusation) => Self::Suspect(accusation.into()),
            WireUpdate::Dead(accusation) => Self::Dead(accusation.into()),
            WireUpdate::Left {
                subject,
                generation,
                version,
            } => Self::Left {
                subject,
                incarnation: Incarnation {
                    generation,
                    version,
                },
            },
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
            WireMessage::Repair { updates, wanted } => {
                within("wanted buckets", wanted.len(), BUCKETS_MAX)?;
                Self::Repair {
                    updates: domain(updates)?,
                    wanted,
                }
            }
        })
    }
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
