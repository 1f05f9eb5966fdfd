//! How a snapshot travels: an offer, then pieces, each answered with what is wanted next.
//!
//! Decides the layout only. The transfer's name is its content's BLAKE3, so that two transfers
//! with one name carry the same bytes.
//!
//! Specification of the checksum: <https://github.com/BLAKE3-team/BLAKE3-specs>.

use serde::{Deserialize, Serialize};

use super::{SnapshotMetaV1, VoteV1};

/// What a transfer will bring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OfferV1 {
    pub(crate) meta: SnapshotMetaV1,
    /// Length of the state.
    pub(crate) bytes: u64,
    /// See [`name`].
    pub(crate) name: [u8; 32],
}

/// One piece of the state.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PieceV1 {
    pub(crate) name: [u8; 32],
    pub(crate) offset: u64,
    /// See [`PieceV1::checksum`].
    pub(crate) crc: u32,
    #[serde(with = "super::bytes")]
    pub(crate) bytes: Vec<u8>,
}

impl PieceV1 {
    /// The CRC32 of all the rest, so that a right piece in the wrong place is noticed too.
    pub(crate) fn checksum(name: &[u8; 32], offset: u64, bytes: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(name);
        hasher.update(&offset.to_le_bytes());
        hasher.update(bytes);
        hasher.finalize()
    }
}

impl std::fmt::Debug for PieceV1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { offset, bytes, .. } = self;
        write!(f, "PieceV1({} bytes at {offset})", bytes.len())
    }
}

/// The answer to an offer or a piece.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum TransferAnswerV1 {
    /// The next piece should begin here.
    Wanted { offset: u64 },
    /// All of it is here and in force.
    Installed { vote: VoteV1 },
    /// The sender no longer leads.
    HigherVote { vote: VoteV1 },
    /// Nothing was changed.
    Refused(TransferRefusalV1),
}

/// Why an offer or a piece was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub(crate) enum TransferRefusalV1 {
    #[error("the snapshot has {bytes} bytes and at most {bytes_max} are accepted")]
    TooLarge { bytes: u64, bytes_max: u64 },
    #[error("no transfer of this name is under way")]
    Unknown,
    #[error("the piece's checksum does not match")]
    PieceDamaged,
    #[error("the whole snapshot's checksum does not match")]
    WholeDamaged,
    #[error("the piece does not fit into the snapshot")]
    Misfit,
    #[error("the snapshot cannot come from the leader that offers it")]
    NotTheLeaders,
    #[error("the state in it is none")]
    NoState,
    #[error("too many pieces are being handled")]
    Busy,
}

/// The BLAKE3 of the snapshot's meta and of its state.
pub(crate) fn name(meta: &SnapshotMetaV1, state: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    let meta = postcard::to_stdvec(meta).expect("writing to a Vec cannot fail");
    // Postcard says itself where the meta ends, so no two pairs give the same input.
    hasher.update(&meta).update(state);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::{super::tests as v1, *};

    #[test]
    fn transfers_are_the_promised_bytes() {
        let meta = v1::empty_meta();
        let offer = OfferV1 {
            bytes: 300,
            name: [7; 32],
            meta,
        };
        v1::promised_message(
            &offer,
            &[
                "01010307090103070000 00ac02".replace(' ', ""),
                "07".repeat(32),
            ]
            .concat(),
        );
        let piece = PieceV1 {
            name: [7; 32],
            offset: 300,
            crc: 1,
            bytes: vec![5, 6],
        };
        let promised = ["01", &"07".repeat(32), "ac0201020506"].concat();
        v1::promised_message(&piece, &promised);
        let wanted = TransferAnswerV1::Wanted { offset: 300 };
        v1::promised_message(&wanted, "0100ac02");
        let vote = v1::vote();
        v1::promised_message(&TransferAnswerV1::Installed { vote }, "0101ac020701");
        v1::promised_message(&TransferAnswerV1::HigherVote { vote }, "0102ac020701");
        let refusals = [
            (
                TransferRefusalV1::TooLarge {
                    bytes: 300,
                    bytes_max: 2,
                },
                "010300ac0202",
            ),
            (TransferRefusalV1::Unknown, "010301"),
            (TransferRefusalV1::PieceDamaged, "010302"),
            (TransferRefusalV1::WholeDamaged, "010303"),
            (TransferRefusalV1::Misfit, "010304"),
            (TransferRefusalV1::NotTheLeaders, "010305"),
            (TransferRefusalV1::NoState, "010306"),
            (TransferRefusalV1::Busy, "010307"),
        ];
        for (refusal, promised) in refusals {
            v1::promised_message(&TransferAnswerV1::Refused(refusal), promised);
        }
    }

    #[test]
    fn the_name_is_the_promised_hash() {
        let meta = v1::empty_meta();
        let promised = "12319689ed17b0b43b23900f176afefa876c456fe3bfc7cee148de420015e013";
        assert_eq!(hex::encode(name(&meta, &[5])), promised);
        assert_ne!(name(&meta, &[5]), name(&meta, &[6]));
    }
}
