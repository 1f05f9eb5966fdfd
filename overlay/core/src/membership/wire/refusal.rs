//! Why bytes are no membership message.
//!
//! Decides nothing: the words and the stable codes.

use super::v1::{MESSAGE_BYTES_MAX, VERSION};

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
