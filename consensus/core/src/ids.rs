//! Typed identifiers and units shared by every crate.
//!
//! Decides nothing. An identifier is valid by construction: parsing is the only way in.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Why a text is not the identifier it was taken for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: {rule}")]
pub struct InvalidId {
    /// The kind of identifier that was expected.
    pub what: &'static str,
    /// The offending text.
    pub text: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

/// A node's identity: the libp2p PeerId of its Ed25519 key, in base58 text form.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(String);

/// Text form of every Ed25519 PeerId starts so (identity multihash of the protobuf key).
const NODE_ID_PREFIX: &str = "12D3KooW";
/// Length of an Ed25519 PeerId in base58.
const NODE_ID_CHARS: usize = 52;
/// Bitcoin's base58 alphabet, which libp2p uses.
const BASE58: &str = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

impl NodeId {
    /// The base58 text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last eight characters, enough to tell nodes apart in logs.
    pub fn short(&self) -> &str {
        &self.0[NODE_ID_CHARS - 8..]
    }
}

impl FromStr for NodeId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let ok = text.len() == NODE_ID_CHARS
            && text.starts_with(NODE_ID_PREFIX)
            && text.chars().all(|c| BASE58.contains(c));
        if ok {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidId {
                what: "node id",
                text: text.to_owned(),
                rule: "52 base58 characters starting with 12D3KooW",
            })
        }
    }
}

impl TryFrom<String> for NodeId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        id.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId(…{})", self.short())
    }
}

/// Sixteen random bytes, written as 32 hexadecimal digits.
macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name([u8; 16]);

        impl $name {
            /// Takes sixteen bytes from a source of randomness.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The sixteen bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                $crate::ids::parse_hex16(text).map(Self).ok_or_else(|| InvalidId {
                    what: $what,
                    text: text.to_owned(),
                    rule: "32 hexadecimal digits",
                })
            }
        }
    };
}

random_id!(
    /// One trust domain.
    MeshId,
    "mesh id"
);
random_id!(
    /// A bootstrap token's public name; its secret is something else.
    TokenId,
    "token id"
);
random_id!(
    /// Makes a command idempotent: a client that lost the answer sends the same id again.
    RequestId,
    "request id"
);
random_id!(
    /// One isolated overlay network.
    NetworkId,
    "network id"
);

/// For the modules that name things of their own so.
pub(crate) use random_id;

pub(crate) fn parse_hex16(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(bytes)
}

/// A position in the replicated log.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct LogIndex(pub u64);

impl fmt::Display for LogIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A voter's or learner's name inside Raft: the log index of its join entry, never reused.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct RaftId(pub u64);

/// Monotonic time as a core sees it: microseconds since its process (or simulation) began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(u64);

impl Time {
    /// The beginning.
    pub const ZERO: Self = Self(0);

    /// A point `us` microseconds after the beginning.
    pub const fn from_micros(us: u64) -> Self {
        Self(us)
    }

    /// Microseconds since the beginning.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// The time that passed since `earlier`; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add<std::time::Duration> for Time {
    type Output = Self;

    fn add(self, span: std::time::Duration) -> Self {
        let us = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(us))
    }
}

/// Wall-clock time in milliseconds since 1970 (UTC). Enters the state only as a field of a command.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct WallMs(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "12D3KooWGRUVLJpQ8sJtbTNGXJFvBVnEKdGBAcQnzHqPVKqGNfcm";

    #[test]
    fn a_peer_id_parses_and_prints_unchanged() {
        assert_eq!(ID.parse::<NodeId>().unwrap().to_string(), ID);
    }

    #[test]
    fn a_truncated_or_foreign_text_is_no_node_id() {
        for bad in ["", "node-1", &ID[..51], &ID.replace('W', "0")] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn random_ids_round_trip_through_text() {
        let id = MeshId::from_bytes(*b"0123456789abcdef");
        assert_eq!(id.to_string().parse::<MeshId>(), Ok(id));
        assert!("zz".repeat(16).parse::<MeshId>().is_err());
        assert!("é".repeat(16).parse::<MeshId>().is_err());
    }
}
