//! A fingerprint of everything that happened, so that two runs can be compared.
//!
//! Decides: what enters it: every event with its time, who and with whom. Never: anything that a
//! machine could have of its own (addresses, wall clock, order of a hash table).

/// One event; a power of two, so that whole records fill whole chunks.
const RECORD_BYTES: usize = 32;
/// How much is gathered before it is hashed: BLAKE3 is fastest on many whole chunks at once.
const GATHER_BYTES: usize = 16 * 1024;

/// Hashes events in their order.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    hasher: blake3::Hasher,
    gathered: Vec<u8>,
}

impl Trace {
    /// Adds one event: when, what (a letter), who, with whom, and what else tells it apart.
    pub(crate) fn note(&mut self, at_us: u64, kind: u8, node: usize, other: usize, detail: u64) {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..8].copy_from_slice(&at_us.to_le_bytes());
        bytes[8] = kind;
        let pair = (node as u64) << 32 | (other as u64 & 0xffff_ffff);
        bytes[9..17].copy_from_slice(&pair.to_le_bytes());
        bytes[17..25].copy_from_slice(&detail.to_le_bytes());
        self.gathered.extend_from_slice(&bytes);
        if self.gathered.len() >= GATHER_BYTES {
            self.hasher.update(&self.gathered);
            self.gathered.clear();
        }
    }

    /// 64 hexadecimal digits, equal for equal histories.
    pub(crate) fn fingerprint(&self) -> String {
        let mut hasher = self.hasher.clone();
        hasher.update(&self.gathered);
        hasher.finalize().to_hex().to_string()
    }
}
