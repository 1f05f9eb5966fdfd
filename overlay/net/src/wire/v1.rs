//! Version 1 of the gate's messages.
//!
//! Decides the bytes only: one version byte, then postcard. Golden bytes below pin them.

use consensus_core::MeshId;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::refusal::Refused;

/// First byte of every gate message.
pub(crate) const VERSION: u8 = 1;

/// The dialer's first word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// The mesh it means.
    pub(crate) mesh: MeshId,
    /// Drawn at each start, so that a restart shows.
    pub(crate) instance: u64,
    /// What it wants.
    pub(crate) intent: Intent,
}

/// What the dialer wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Intent {
    /// To connect as a member, with this chain.
    Member { chain: Vec<Vec<u8>> },
    /// To become a member.
    Enrol,
}

/// The listener's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The listener's own proof.
    Welcome {
        /// Drawn at each start.
        instance: u64,
        /// The listener's chain.
        chain: Vec<Vec<u8>>,
        /// The roots, for a joiner that knows only a fingerprint.
        roots: Vec<Vec<u8>>,
    },
    /// No.
    Refused(Refused),
}

/// A node's new chain, told over a connection that stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Renewed {
    /// Leaf first.
    pub(crate) chain: Vec<Vec<u8>>,
}

/// The answer to an enrolment request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum EnrolAnswer {
    /// What the joiner gets.
    Accepted(Vec<u8>),
    /// No.
    Refused(Refused),
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undecodable {
    /// Another version's.
    Version(u8),
    /// Not a message at all.
    Malformed,
}

/// The bytes of a message.
pub(crate) fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    postcard::to_extend(message, vec![VERSION]).expect("a message of plain fields serializes")
}

/// The message of some bytes.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Undecodable> {
    let (version, body) = bytes.split_first().ok_or(Undecodable::Malformed)?;
    if *version != VERSION {
        return Err(Undecodable::Version(*version));
    }
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        Ok(_) | Err(_) => Err(Undecodable::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mesh() -> MeshId {
        MeshId::from_bytes(*b"0123456789abcdef")
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn messages_keep_their_golden_bytes() {
        let member = Hello {
            mesh: mesh(),
            instance: 300,
            intent: Intent::Member {
                chain: vec![vec![1, 2], vec![3]],
            },
        };
        let enrol = Hello {
            mesh: mesh(),
            instance: 0,
            intent: Intent::Enrol,
        };
        let welcome = Answer::Welcome {
            instance: 7,
            chain: vec![vec![9]],
            roots: vec![vec![8, 8]],
        };
        let refused = Answer::Refused(Refused::new("C", "m", "h"));
        let accepted = EnrolAnswer::Accepted(vec![5]);
        let renewed = Renewed {
            chain: vec![vec![4]],
        };
        let golden = [
            encode(&member),
            encode(&enrol),
            encode(&welcome),
            encode(&refused),
            encode(&accepted),
            encode(&renewed),
        ]
        .map(|bytes| hex(&bytes));
        let id = hex(mesh().as_bytes());
        assert_eq!(
            golden,
            [
                format!("01{id}ac0200020201020103"),
                format!("01{id}0001"),
                "01000701010901020808".to_owned(),
                "01010143016d0168".to_owned(),
                "01000105".to_owned(),
                "01010104".to_owned(),
            ]
        );
        assert_eq!(decode(&encode(&member)), Ok(member));
        assert_eq!(decode(&encode(&welcome)), Ok(welcome));
    }

    #[test]
    fn foreign_bytes_are_told_apart_from_another_version() {
        assert_eq!(decode::<Hello>(&[2, 0]), Err(Undecodable::Version(2)));
        assert_eq!(decode::<Hello>(&[]), Err(Undecodable::Malformed));
        assert_eq!(decode::<Hello>(&[1, 0xff]), Err(Undecodable::Malformed));
        let mut trailing = encode(&EnrolAnswer::Accepted(vec![]));
        trailing.push(0);
        assert_eq!(
            decode::<EnrolAnswer>(&trailing),
            Err(Undecodable::Malformed)
        );
    }
}
