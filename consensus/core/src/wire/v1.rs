//! Version 1: one byte `1`, then postcard.

use serde::{Serialize, de::DeserializeOwned};

use crate::{Agreed, Applied, Envelope, Event, State};

/// The leading byte.
const VERSION: u8 = 1;

/// A command with its envelope is never larger; a larger one is refused before it enters the log.
pub const ENVELOPE_BYTES_MAX: usize = 48 * 1024;

/// Bytes that are not what they were taken for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No bytes at all.
    #[error("empty")]
    Empty,
    /// Written by another version.
    #[error("format version {found}, and this program reads version 1")]
    Version {
        /// The version byte found.
        found: u8,
    },
    /// Right version, wrong content.
    #[error("malformed: {reason}")]
    Malformed {
        /// postcard's words.
        reason: String,
    },
}

mod sealed {
    /// Only replicated types have a version 1.
    pub trait Wire {}
    impl Wire for super::Envelope {}
    impl Wire for super::Applied {}
    impl Wire for super::State {}
    impl Wire for super::Agreed {}
    impl Wire for super::Event {}
}

/// Encodes a replicated type.
pub fn encode<T: Serialize + sealed::Wire>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![VERSION]).expect("replicated types are always encodable")
}

/// Decodes a replicated type; trailing bytes are refused.
pub fn decode<T: DeserializeOwned + sealed::Wire>(bytes: &[u8]) -> Result<T, DecodeError> {
    match bytes {
        [] => Err(DecodeError::Empty),
        [VERSION, body @ ..] => match postcard::take_from_bytes(body) {
            Ok((value, [])) => Ok(value),
            Ok((_, rest)) => Err(DecodeError::Malformed {
                reason: format!("{} bytes too many", rest.len()),
            }),
            Err(error) => Err(DecodeError::Malformed {
                reason: error.to_string(),
            }),
        },
        [found, ..] => Err(DecodeError::Version { found: *found }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Command, NodeId, RequestId, WallMs};

    /// The command's number among its kind.
    const DETACH_PEER: u8 = 22;

    fn envelope() -> Envelope {
        let actor: NodeId = "12D3KooWGRUVLJpQ8sJtbTNGXJFvBVnEKdGBAcQnzHqPVKqGNfcm"
            .parse()
            .unwrap();
        Envelope {
            request: RequestId::from_bytes([7; 16]),
            actor,
            operator: Some("ann".into()),
            time: WallMs(1_700_000_000_000),
            command: Command::DetachPeer {
                node: "n1".into(),
                network: "default".into(),
            },
        }
    }

    #[test]
    fn an_envelope_keeps_its_golden_bytes() {
        let mut golden = vec![1];
        golden.extend([7; 16]);
        golden.push(52);
        golden.extend(b"12D3KooWGRUVLJpQ8sJtbTNGXJFvBVnEKdGBAcQnzHqPVKqGNfcm");
        golden.extend(b"\x01\x03ann");
        golden.extend([0x80, 0xd0, 0x95, 0xff, 0xbc, 0x31]);
        golden.push(DETACH_PEER);
        golden.extend(b"\x02n1\x07default");
        assert_eq!(encode(&envelope()), golden);
        assert_eq!(decode(&golden), Ok(envelope()));
    }

    #[test]
    fn a_foreign_version_a_torn_and_an_overlong_text_are_told_apart() {
        let bytes = encode(&envelope());
        assert_eq!(decode::<Envelope>(&[]), Err(DecodeError::Empty));
        assert_eq!(
            decode::<Envelope>(&[2, 1]),
            Err(DecodeError::Version { found: 2 })
        );
        for cut in 1..bytes.len() {
            assert!(decode::<Envelope>(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let long = [bytes, vec![0]].concat();
        assert!(matches!(
            decode::<Envelope>(&long),
            Err(DecodeError::Malformed { .. })
        ));
    }
}
