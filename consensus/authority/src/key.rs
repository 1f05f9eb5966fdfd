//! Keys: what may sign, and whose a public key is.
//!
//! Decides which algorithms exist here (Ed25519 for every authority and node; P-256 for browsers
//! and operators whose tools want it) and how a node's id follows from its key. Private keys are
//! wiped when dropped, and their `Debug` shows the public half only.

use std::fmt;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        self, ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ED25519, EcdsaKeyPair,
        Ed25519KeyPair, KeyPair as _, UnparsedPublicKey,
    },
};
use consensus_core::NodeId;
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SignatureAlgorithm};
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};
use zeroize::Zeroizing;

/// Ed25519 keys and signatures (RFC 8410).
const ED25519_OID: &str = "1.3.101.112";
/// Elliptic-curve keys (RFC 5480).
const EC_KEY_OID: &str = "1.2.840.10045.2.1";
/// The P-256 curve (RFC 5480).
const P256_OID: &str = "1.2.840.10045.3.1.7";
/// ECDSA with SHA-256 signatures (RFC 5758).
const ECDSA_SHA256_OID: &str = "1.2.840.10045.4.3.2";
/// An Ed25519 public key's length (RFC 8032).
const ED25519_BYTES: usize = 32;
/// An uncompressed P-256 point: a tag and two coordinates (SEC 1).
const P256_BYTES: usize = 65;
/// What precedes an Ed25519 key in a PeerId: an identity multihash (code 0, length 36) of the
/// protobuf message of type 1 (Ed25519) with 32 bytes of key (libp2p's peer-ids specification).
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];
/// Longest private key read. PKCS#8 of both algorithms is below 150 bytes.
const PKCS8_BYTES_MAX: usize = 512;

/// Why a private key could not be made or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The bytes are no private key of a known algorithm.
    #[error("this is no private key in PKCS#8 of Ed25519 or P-256")]
    Malformed,
    /// The key is of the wrong algorithm for its purpose.
    #[error("the key of a certificate authority must be Ed25519")]
    Algorithm,
    /// The system's randomness or the library failed.
    #[error("no key could be made")]
    Generate,
}

impl KeyError {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed => "PrivateKeyMalformedError",
            Self::Algorithm => "PrivateKeyAlgorithmError",
            Self::Generate => "PrivateKeyGenerationError",
        }
    }

    /// What to do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Malformed | Self::Algorithm => Some("restore the key's file from a backup"),
            Self::Generate => None,
        }
    }
}

/// What a key signs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyAlgorithm {
    /// RFC 8032.
    Ed25519,
    /// ECDSA on P-256 with SHA-256.
    P256,
}

impl KeyAlgorithm {
    pub(crate) fn for_rcgen(self) -> &'static SignatureAlgorithm {
        match self {
            Self::Ed25519 => &PKCS_ED25519,
            Self::P256 => &PKCS_ECDSA_P256_SHA256,
        }
    }
}

/// A certificate's public key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PublicKey {
    /// Ed25519.
    Ed25519([u8; ED25519_BYTES]),
    /// P-256, as an uncompressed point.
    P256([u8; P256_BYTES]),
}

impl PublicKey {
    /// Reads a key of a known algorithm; anything else is none.
    pub(crate) fn read(info: &SubjectPublicKeyInfo<'_>) -> Option<Self> {
        let bytes = info.subject_public_key.data.as_ref();
        if info.subject_public_key.unused_bits != 0 {
            return None;
        }
        let algorithm = &info.algorithm;
        match algorithm.algorithm.to_id_string().as_str() {
            ED25519_OID if algorithm.parameters.is_none() => {
                bytes.try_into().ok().map(Self::Ed25519)
            }
            EC_KEY_OID => {
                let curve = algorithm.parameters.as_ref()?.as_oid().ok()?;
                let uncompressed = bytes.first() == Some(&4);
                (curve.to_id_string() == P256_OID && uncompressed)
                    .then(|| bytes.try_into().ok().map(Self::P256))
                    .flatten()
            }
            _ => None,
        }
    }

    /// Its algorithm.
    pub fn algorithm(&self) -> KeyAlgorithm {
        match self {
            Self::Ed25519(_) => KeyAlgorithm::Ed25519,
            Self::P256(_) => KeyAlgorithm::P256,
        }
    }

    /// The raw key.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Ed25519(key) => key,
            Self::P256(point) => point,
        }
    }

    /// The node whose identity this key is; a P-256 key is nobody's.
    pub fn node_id(&self) -> Option<NodeId> {
        match self {
            Self::Ed25519(key) => Some(node_id_of(key)),
            Self::P256(_) => None,
        }
    }

    /// Whether `signature`, made as `algorithm` says, is this key's on `message`.
    pub(crate) fn verifies(
        &self,
        algorithm: &AlgorithmIdentifier<'_>,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        let bare = algorithm.parameters.is_none();
        let oid = algorithm.algorithm.to_id_string();
        let verifier: &'static dyn signature::VerificationAlgorithm = match self {
            Self::Ed25519(_) if oid == ED25519_OID && bare => &ED25519,
            Self::P256(_) if oid == ECDSA_SHA256_OID && bare => &ECDSA_P256_SHA256_ASN1,
            Self::Ed25519(_) | Self::P256(_) => return false,
        };
        UnparsedPublicKey::new(verifier, self.as_bytes())
            .verify(message, signature)
            .is_ok()
    }
}

impl PublicKey {
    /// Whether signatures made as `algorithm` says are Ed25519 (RFC 8410: without parameters).
    pub(crate) fn is_ed25519(algorithm: &AlgorithmIdentifier<'_>) -> bool {
        algorithm.parameters.is_none() && algorithm.algorithm.to_id_string() == ED25519_OID
    }

    /// Whether `signature` is this key's Ed25519 signature on `message`.
    pub(crate) fn verifies_ed25519(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key)
                .verify(message, signature)
                .is_ok(),
            Self::P256(_) => false,
        }
    }
}

impl rcgen::PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        self.as_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        Self::algorithm(self).for_rcgen()
    }
}

/// The id of the node with this Ed25519 key: its PeerId's text.
pub fn node_id_of(key: &[u8; 32]) -> NodeId {
    let mut multihash = [0; PEER_ID_PREFIX.len() + ED25519_BYTES];
    let (prefix, tail) = multihash.split_at_mut(PEER_ID_PREFIX.len());
    prefix.copy_from_slice(&PEER_ID_PREFIX);
    tail.copy_from_slice(key);
    bs58::encode(multihash)
        .into_string()
        .parse()
        .expect("base58 of this prefix and 32 bytes is a node id")
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
}

/// A private key: in PKCS#8, wiped when dropped, never shown.
pub struct PrivateKey {
    pair: Pair,
    public: PublicKey,
    pkcs8: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

impl PrivateKey {
    /// A new key from the system's randomness.
    pub fn generate(algorithm: KeyAlgorithm) -> Result<Self, KeyError> {
        let document = match algorithm {
            KeyAlgorithm::Ed25519 => Ed25519KeyPair::generate().and_then(|pair| pair.to_pkcs8v1()),
            KeyAlgorithm::P256 => EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
                .and_then(|pair| pair.to_pkcs8v1()),
        };
        Self::from_pkcs8(document.map_err(|_| KeyError::Generate)?.as_ref())
    }

    /// Reads a key in PKCS#8, DER.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, KeyError> {
        if pkcs8.len() > PKCS8_BYTES_MAX {
            return Err(KeyError::Malformed);
        }
        let (pair, public) = match Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8) {
            Ok(pair) => {
                let key = pair.public_key().as_ref().try_into();
                (Pair::Ed25519(pair), key.ok().map(PublicKey::Ed25519))
            }
            Err(_) => {
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8)
                    .map_err(|_| KeyError::Malformed)?;
                let point = pair.public_key().as_ref().try_into();
                (Pair::P256(pair), point.ok().map(PublicKey::P256))
            }
        };
        Ok(Self {
            pair,
            public: public.ok_or(KeyError::Malformed)?,
            pkcs8: Zeroizing::new(pkcs8.to_vec()),
        })
    }

    /// The key in PKCS#8, DER, for a file that only its owner may read.
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// Its public half.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }
}

impl rcgen::PublicKeyData for PrivateKey {
    fn der_bytes(&self) -> &[u8] {
        self.public.as_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.public.algorithm().for_rcgen()
    }
}

impl rcgen::SigningKey for PrivateKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        match &self.pair {
            Pair::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
            Pair::P256(pair) => pair
                .sign(&SystemRandom::new(), message)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(|_| rcgen::Error::RemoteKeyError),
        }
    }
}

/// An authority's private key, told apart by type so that none is used for the other.
macro_rules! authority_key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name(PrivateKey);

        impl $name {
            /// A new Ed25519 key from the system's randomness.
            pub fn generate() -> Result<Self, KeyError> {
                PrivateKey::generate(KeyAlgorithm::Ed25519).map(Self)
            }

            /// Reads an Ed25519 key in PKCS#8, DER.
            pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, KeyError> {
                let key = PrivateKey::from_pkcs8(pkcs8)?;
                match key.public_key().algorithm() {
                    KeyAlgorithm::Ed25519 => Ok(Self(key)),
                    KeyAlgorithm::P256 => Err(KeyError::Algorithm),
                }
            }

            /// The key in PKCS#8, DER: to be sealed, or kept in a file of its owner only.
            pub fn pkcs8(&self) -> &[u8] {
                self.0.pkcs8()
            }

            /// Its public half.
            pub fn public_key(&self) -> &PublicKey {
                self.0.public_key()
            }

            pub(crate) fn private(&self) -> &PrivateKey {
                &self.0
            }
        }
    };
}

authority_key!(
    /// The root's key. In memory only while it signs; at rest only sealed.
    RootKey
);
authority_key!(
    /// A server's intermediate's key. Made on that server, never leaves it.
    IntermediateKey
);

impl IntermediateKey {
    /// A request for this key's certificate (PKCS#10, DER).
    pub fn request(&self) -> Result<Vec<u8>, KeyError> {
        self.0.request()
    }
}
