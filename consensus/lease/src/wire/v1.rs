//! Version 1 of the lease protocol's wire format.
//!
//! One byte 1, then the message in postcard. Decides: which bytes are a message. Never: whom to
//! believe. Invariants: `decode(encode(m)) == m` for every message within the limits; whatever the
//! input, decoding allocates in proportion to it and no more than [`MESSAGE_BYTES_MAX`] permits.
//! The order of fields and variants is the format; the golden bytes below hold it.

use consensus_core::{Epoch, LeaseProfile, LogIndex, Time, VipId};
use serde::{Deserialize, Serialize};

use crate::{Granted, Life, Message, RENEWALS_PER_MESSAGE_MAX, Renewal};

/// The first byte of every message.
pub const VERSION: u8 = 1;
/// 512 renewals of 16 bytes of id, at most 10 of epoch and one of profile, and their head.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024;

const _: () = assert!(RENEWALS_PER_MESSAGE_MAX * (16 + 10 + 1) + 32 <= MESSAGE_BYTES_MAX);

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Nothing at all.
    #[error("the lease message is empty")]
    Empty,
    /// Longer than any message.
    #[error("the lease message has {bytes} bytes, more than {MESSAGE_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// From a later or foreign program.
    #[error("the lease message has format version {version}, this program reads {VERSION}")]
    Version {
        /// Its first byte.
        version: u8,
    },
    /// Not what it claims to be.
    #[error("the lease message is malformed")]
    Malformed(#[source] postcard::Error),
    /// A message followed by something else.
    #[error("{bytes} bytes follow the lease message")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A list longer than its limit.
    #[error("the lease message names {count} virtual IPs, more than {RENEWALS_PER_MESSAGE_MAX}")]
    TooMany {
        /// How many there are.
        count: usize,
    },
}

impl DecodeError {
    /// Stable text for logs and counters.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Empty => "LeaseMessageEmptyError",
            Self::TooLong { .. } => "LeaseMessageTooLongError",
            Self::Version { .. } => "LeaseMessageVersionError",
            Self::Malformed(_) => "LeaseMessageMalformedError",
            Self::Trailing { .. } => "LeaseMessageTrailingError",
            Self::TooMany { .. } => "LeaseMessageTooManyError",
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
enum WireProfile {
    Lan,
    Safe,
    Wan,
    Slow,
}

type WireRenewal = (VipId, Epoch, WireProfile);
type WireGranted = (VipId, Epoch);

#[derive(Serialize, Deserialize)]
enum WireMessage {
    Renew {
        life: u64,
        sent_us: u64,
        renewals: Vec<WireRenewal>,
    },
    Ack {
        life: u64,
        sent_us: u64,
        granted: Vec<WireGranted>,
    },
    Close(VipId, Epoch),
    Closed(VipId, Epoch),
    LetGo(VipId, Epoch),
    RestsOnJoint(VipId, Epoch, LogIndex),
}

impl From<LeaseProfile> for WireProfile {
    fn from(profile: LeaseProfile) -> Self {
        match profile {
            LeaseProfile::Lan => Self::Lan,
            LeaseProfile::Safe => Self::Safe,
            LeaseProfile::Wan => Self::Wan,
            LeaseProfile::Slow => Self::Slow,
        }
    }
}

impl From<WireProfile> for LeaseProfile {
    fn from(profile: WireProfile) -> Self {
        match profile {
            WireProfile::Lan => Self::Lan,
            WireProfile::Safe => Self::Safe,
            WireProfile::Wan => Self::Wan,
            WireProfile::Slow => Self::Slow,
        }
    }
}

impl From<&Message> for WireMessage {
    fn from(message: &Message) -> Self {
        match message {
            Message::Renew {
                life,
                sent,
                renewals,
            } => Self::Renew {
                life: life.0,
                sent_us: sent.as_micros(),
                renewals: (renewals.iter())
                    .map(|renewal| (renewal.vip, renewal.epoch, renewal.profile.into()))
                    .collect(),
            },
            Message::Ack {
                life,
                sent,
                granted,
            } => Self::Ack {
                life: life.0,
                sent_us: sent.as_micros(),
                granted: granted.iter().map(|one| (one.vip, one.epoch)).collect(),
            },
            Message::Close { vip, epoch } => Self::Close(*vip, *epoch),
            Message::Closed { vip, epoch } => Self::Closed(*vip, *epoch),
            Message::LetGo { vip, epoch } => Self::LetGo(*vip, *epoch),
            Message::RestsOnJoint {
                vip,
                epoch,
                voters_since,
            } => Self::RestsOnJoint(*vip, *epoch, *voters_since),
        }
    }
}

impl TryFrom<WireMessage> for Message {
    type Error = DecodeError;

    fn try_from(wire: WireMessage) -> Result<Self, DecodeError> {
        Ok(match wire {
            WireMessage::Renew {
                life,
                sent_us,
                renewals,
            } => Self::Renew {
                life: Life(life),
                sent: Time::from_micros(sent_us),
                renewals: bounded(renewals)?
                    .into_iter()
                    .map(|(vip, epoch, profile)| Renewal {
                        vip,
                        epoch,
                        profile: profile.into(),
                    })
                    .collect(),
            },
            WireMessage::Ack {
                life,
                sent_us,
                granted,
            } => Self::Ack {
                life: Life(life),
                sent: Time::from_micros(sent_us),
                granted: bounded(granted)?
                    .into_iter()
                    .map(|(vip, epoch)| Granted { vip, epoch })
                    .collect(),
            },
            WireMessage::Close(vip, epoch) => Self::Close { vip, epoch },
            WireMessage::Closed(vip, epoch) => Self::Closed { vip, epoch },
            WireMessage::LetGo(vip, epoch) => Self::LetGo { vip, epoch },
            WireMessage::RestsOnJoint(vip, epoch, voters_since) => Self::RestsOnJoint {
                vip,
                epoch,
                voters_since,
            },
        })
    }
}

fn bounded<T>(list: Vec<T>) -> Result<Vec<T>, DecodeError> {
    if list.len() > RENEWALS_PER_MESSAGE_MAX {
        Err(DecodeError::TooMany { count: list.len() })
    } else {
        Ok(list)
    }
}

#[cfg(test)]
#[path = "v1_tests.rs"]
mod tests;
