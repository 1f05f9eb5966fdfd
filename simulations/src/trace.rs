//! A fingerprint of everything that happened, so that two runs can be compared.

use consensus_core::Time;

/// Hashes events in their order.
#[derive(Debug, Default)]
pub(crate) struct Trace(blake3::Hasher);

impl Trace {
    /// Adds one event: when, what (a letter), who, with whom, and its bytes.
    pub(crate) fn note(&mut self, at: Time, kind: u8, node: usize, other: usize, bytes: &[u8]) {
        self.0.update(&at.as_micros().to_le_bytes());
        self.0.update(&[kind]);
        for number in [node, other, bytes.len()] {
            self.0.update(&(number as u64).to_le_bytes());
        }
        self.0.update(bytes);
    }

    pub(crate) fn fingerprint(&self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}
