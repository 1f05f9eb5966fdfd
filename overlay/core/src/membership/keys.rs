//! Who said it: signatures below records, accusations and goodbyes.
//!
//! Decides nothing: the shell brings the keys. A node's id carries its public key, so that
//! anybody can check what anybody signed, and facts may travel through members that nobody trusts.
//!
//! Invariant: a signature that [`Keys::verify`] accepts for a signer and a text was made by the
//! holder of that signer's key over exactly that text.

use std::fmt;

use consensus_core::NodeId;

/// Bytes of an Ed25519 signature (RFC 8032).
pub const SIGNATURE_BYTES: usize = 64;

/// A signature, as bytes that only [`Keys`] can read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; SIGNATURE_BYTES]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "Signature({a:02x}{b:02x}{c:02x}{d:02x}…)")
    }
}

/// The node's own key, and the means to check others' signatures. Must be deterministic.
pub trait Keys: fmt::Debug + Send + Sync {
    /// Signs with this node's key.
    fn sign(&self, text: &[u8]) -> Signature;

    /// Whether `signer` signed exactly this text.
    fn verify(&self, signer: &NodeId, text: &[u8], signature: &Signature) -> bool;
}

/// Keys of a simulated mesh: no cryptography, the same face.
///
/// The signature is a hash over signer and text. Simulated members do not forge it because nobody
/// has them call [`Keys::sign`] for another; real ones could, so this never leaves simulations.
#[cfg(any(test, feature = "simulation"))]
#[derive(Debug, Clone)]
pub struct SimulatedKeys(pub NodeId);

#[cfg(any(test, feature = "simulation"))]
impl SimulatedKeys {
    fn hash(signer: &NodeId, text: &[u8]) -> Signature {
        let mut hasher = blake3::Hasher::new();
        hasher.update(signer.as_str().as_bytes());
        hasher.update(text);
        let hash = *hasher.finalize().as_bytes();
        let mut bytes = [0; SIGNATURE_BYTES];
        let (first, second) = bytes.split_at_mut(hash.len());
        first.copy_from_slice(&hash);
        second.copy_from_slice(&hash);
        Signature(bytes)
    }
}

#[cfg(any(test, feature = "simulation"))]
impl Keys for SimulatedKeys {
    fn sign(&self, text: &[u8]) -> Signature {
        Self::hash(&self.0, text)
    }

    fn verify(&self, signer: &NodeId, text: &[u8], signature: &Signature) -> bool {
        Self::hash(signer, text) == *signature
    }
}
