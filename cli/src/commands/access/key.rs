//! A device's WireGuard key.
//!
//! Invariant: the private half leaves this process only in the configuration that is shown once,
//! or written to a file of its owner; what is sent is the public half.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use x25519_dalek::{PublicKey, StaticSecret};

/// A private key; wiped when it is dropped.
pub(super) struct DeviceKey(StaticSecret);

impl DeviceKey {
    /// Out of the system's randomness.
    pub(super) fn generate() -> Self {
        Self(StaticSecret::random())
    }

    /// As `wg pubkey` prints it.
    pub(super) fn public(&self) -> String {
        STANDARD.encode(PublicKey::from(&self.0).as_bytes())
    }

    /// As `wg genkey` prints it.
    pub(super) fn private(&self) -> String {
        STANDARD.encode(self.0.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_keys_differ_and_show_both_halves_as_wg_does() {
        let (one, other) = (DeviceKey::generate(), DeviceKey::generate());
        assert_ne!(one.public(), other.public());
        for key in [one, other] {
            let private: [u8; 32] = STANDARD.decode(key.private()).unwrap().try_into().unwrap();
            // Clamped, as every private key is used (RFC 7748, section 5).
            let public = x25519_dalek::x25519(private, x25519_dalek::X25519_BASEPOINT_BYTES);
            assert_eq!(STANDARD.encode(public), key.public());
            assert_eq!(key.public().len(), 44);
        }
    }
}
