//! The outer form of what is signed: content, algorithm, signature (RFC 5280, 4.1.1; RFC 2986).
//!
//! Decides that it is written in the one way that DER has. The signature covers only the content,
//! and parsers forgive; without this, others could change bytes of a certificate that stays good.

use crate::key::KeyAlgorithm;

/// Ed25519 as an algorithm identifier (RFC 8410).
const ED25519: [u8; 7] = [0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];
/// ECDSA with SHA-256 as an algorithm identifier (RFC 5758).
const ECDSA_SHA256: [u8; 12] = [
    0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02,
];
/// DER's tag of a sequence.
const SEQUENCE: u8 = 0x30;
/// DER's tag of a bit string.
const BIT_STRING: u8 = 0x03;

/// Whether `der` is exactly `content` with this signature on it.
pub(crate) fn is_canonical(
    der: &[u8],
    content: &[u8],
    algorithm: KeyAlgorithm,
    signature: &[u8],
) -> bool {
    let algorithm: &[u8] = match algorithm {
        KeyAlgorithm::Ed25519 => &ED25519,
        KeyAlgorithm::P256 => &ECDSA_SHA256,
    };
    // The first byte of a bit string counts its unused bits.
    let bits = [&[0], signature].concat();
    let Some(signature) = element(BIT_STRING, &bits) else {
        return false;
    };
    element(SEQUENCE, &[content, algorithm, &signature].concat()).is_some_and(|whole| whole == der)
}

/// Tag, length, content; lengths up to 64 KiB, far beyond what is read here.
fn element(tag: u8, content: &[u8]) -> Option<Vec<u8>> {
    let [high, low] = u16::try_from(content.len()).ok()?.to_be_bytes();
    let header = match (high, low) {
        (0, 0..=0x7f) => vec![tag, low],
        (0, _) => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    Some([&header, content].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_written_in_their_shortest_form() {
        let header = |length: usize| {
            let whole = element(SEQUENCE, &vec![0; length])?;
            Some(whole[..whole.len() - length].to_vec())
        };
        assert_eq!(header(0), Some(vec![0x30, 0]));
        assert_eq!(header(127), Some(vec![0x30, 127]));
        assert_eq!(header(128), Some(vec![0x30, 0x81, 128]));
        assert_eq!(header(255), Some(vec![0x30, 0x81, 255]));
        assert_eq!(header(256), Some(vec![0x30, 0x82, 1, 0]));
        assert_eq!(header(65_536), None);
    }
}
