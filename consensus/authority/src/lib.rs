//! The mesh's X.509 in one place: making, cross-signing, sealing and verifying.
//!
//! Decides what a certificate says and which chain is believed. Never decides who gets one or
//! whose is revoked; that is agreed. No clock, socket or file: the time is an argument
//! ([`WallMs`](consensus_core::WallMs)); keys, serial numbers and nonces come from the system's
//! randomness.
//!
//! A chain runs root (Ed25519, 10 years) → intermediate (one for each server, 7 days, path length
//! 0) → leaf (24 hours; an operator's up to 90 days). What a peer shows is `[leaf, intermediate]`
//! and, while the root is rotated, a cross certificate: the new root's key signed by the old one.
//! Subjects are O = mesh id, OU = [`CertificateProfile`] (`root` and `intermediate` for authorities),
//! CN = who.
//!
//! RFC 5280 (profile and path validation), RFC 8410 (Ed25519), RFC 2986 (requests), age v1
//! (sealing).

pub use consensus_core::{CertificateProfile, Holder};

mod certificate;
mod fingerprint;
mod issue;
mod key;
mod pem;
mod profile;
mod refusal;
mod request;
mod root;
mod seal;
mod signed;
mod tls;
mod trust;
mod validity;

pub use certificate::{Certificate, serial_hex};
pub use fingerprint::{fingerprint, words};
pub use issue::{IssueError, Issuer, Leaf, Names};
pub use key::{
    IntermediateKey, KeyAlgorithm, KeyError, PrivateKey, PublicKey, RootKey, node_id_of,
};
pub use pem::{PemError, certificates_from_pem, certificates_to_pem, key_to_pem};
pub use profile::{allows_key, lifetime_max};
pub use refusal::Refusal;
pub use root::{Intermediate, Root};
pub use seal::{RecoveryKey, SealError, SealingKey, recipients_are_valid, seal, unseal};
pub use tls::{ClientVerifier, Expected, ServerVerifier, client_config, refusal_of, server_config};
pub use trust::{SharedTrust, Trust, Verified};
pub use validity::{
    INTERMEDIATE_LIFETIME, LEAF_LIFETIME, OPERATOR_LIFETIME_MAX, ROOT_LIFETIME, Validity, renew_at,
    wall,
};
