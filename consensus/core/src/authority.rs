//! The certificate authority as every server and every verifier agrees on it.
//!
//! Decides nothing; `apply` alone changes it, and `trust` reads from it what a verifier needs.
//! No private key is in here: root keys are in [`State::root_keys`](crate::State), sealed, and an
//! intermediate's key never leaves its server.
//!
//! The chain is root, intermediate (one per server), leaf (RFC 5280). The root is left out of a
//! chain that is shown; a cross certificate of it (RFC 4158, 2.1) leads those who know only its
//! predecessor.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use crate::{LogIndex, NodeId, WallMs};

/// BLAKE3 of a certificate in DER, written as 64 hexadecimal digits.
macro_rules! fingerprint {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The fingerprint of a certificate in DER.
            pub fn of(certificate: &[u8]) -> Self {
                Self(*blake3::hash(certificate).as_bytes())
            }

            /// A fingerprint that was told.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

fingerprint!(
    /// Which root: BLAKE3 of its certificate in DER.
    RootFingerprint
);
fingerprint!(
    /// Which leaf: BLAKE3 of its certificate in DER. Serial numbers are public, and whoever keeps
    /// a former server's key could sign another leaf under a number that is still good.
    LeafFingerprint
);

/// Roots, intermediates, and whether one root is on its way to replace another.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Authority {
    /// The trusted roots, oldest first: one, and during a rotation two.
    pub roots: Vec<Root>,
    /// The servers' intermediates by serial number (hexadecimal).
    pub intermediates: BTreeMap<String, Intermediate>,
    /// The rotation under way.
    pub rotation: Option<Rotation>,
    /// Why the root has to be replaced: a compromised server was removed, and no rotation has begun
    /// since.
    pub rotation_wanted: Option<String>,
    /// Whose coming end was told already.
    pub warned: BTreeSet<ExpiringCertificate>,
}

/// A root certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// DER.
    pub certificate: Vec<u8>,
    /// This root's key under the signature of its predecessor, DER.
    pub cross: Option<Vec<u8>>,
    /// Whether it issues.
    pub state: RootState,
    /// When it ends.
    pub not_after: WallMs,
    /// When the mesh was told of it.
    pub introduced_at: WallMs,
}

impl Root {
    /// Which root this is.
    pub fn fingerprint(&self) -> RootFingerprint {
        RootFingerprint::of(&self.certificate)
    }
}

/// What a trusted root is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RootState {
    /// Signs intermediates.
    Active,
    /// Trusted, and signs nothing yet.
    Incoming,
    /// Trusted until everything under it has been re-issued, and signs nothing any more.
    Outgoing,
}

impl RootState {
    /// The word in tables and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Incoming => "incoming",
            Self::Outgoing => "outgoing",
        }
    }
}

/// A server's signing certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intermediate {
    /// The server that holds its key.
    pub node: NodeId,
    /// DER.
    pub certificate: Vec<u8>,
    /// The root that signed it.
    pub root: RootFingerprint,
    /// When it begins.
    pub not_before: WallMs,
    /// When it ends.
    pub not_after: WallMs,
    /// Whether its server is none any more. Leaves it signed are good only while they are
    /// remembered, so that whoever kept its key signs nothing new that is accepted.
    pub retired: bool,
}

/// The replacement of the root, under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// How far it is.
    pub step: RotationStep,
    /// When it began.
    pub began_at: WallMs,
    /// The log entry that made the present step: who has enforced it, knows the step.
    pub step_index: LogIndex,
    /// When the present step was made.
    pub step_at: WallMs,
    /// Why.
    pub reason: String,
    /// The demand for a rotation that this one answers; it stands again if this one is aborted.
    pub wanted: Option<String>,
}

/// How far a rotation is. After the last step the old root is dropped and the rotation is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RotationStep {
    /// Every node is told to trust the new root; the old one still issues.
    Trusting,
    /// The new root issues, and everything under the old one is re-issued.
    Issuing,
}

impl RotationStep {
    /// The word in tables and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trusting => "trusting",
            Self::Issuing => "issuing",
        }
    }
}

/// A root's private key as an age file, for servers only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedKey {
    /// Who can open it: age recipients.
    pub recipients: BTreeSet<String>,
    /// The age file.
    pub age: Vec<u8>,
}

impl fmt::Debug for SealedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedKey")
            .field("recipients", &self.recipients)
            .field("age_bytes", &self.age.len())
            .finish()
    }
}

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CertificateProfile {
    /// A node's own identity.
    Node,
    /// dockerd's listener.
    DockerServer,
    /// A plain docker CLI.
    DockerClient,
    /// An operator at a node's API.
    Operator,
    /// A node's HTTPS listener where a browser connects.
    Browser,
}

impl CertificateProfile {
    /// Every profile.
    pub const ALL: [Self; 5] = [
        Self::Node,
        Self::DockerServer,
        Self::DockerClient,
        Self::Operator,
        Self::Browser,
    ];

    /// The organizational unit that tells profiles apart in a certificate's subject.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::DockerServer => "docker-server",
            Self::DockerClient => "docker-client",
            Self::Operator => "operator",
            Self::Browser => "browser",
        }
    }

    /// The profile of that organizational unit.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|profile| profile.as_str() == name)
    }
}

/// Who holds a certificate's key: what its subject's common name says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Holder {
    /// A node.
    Node(NodeId),
    /// An operator, by name.
    Operator(String),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(id) => id.fmt(f),
            Self::Operator(name) => f.write_str(name),
        }
    }
}

/// A leaf certificate as the mesh remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRecord {
    /// Who holds its key.
    pub holder: Holder,
    /// What it is for.
    pub profile: CertificateProfile,
    /// The serial number of the intermediate that signed it.
    pub issuer: String,
    /// Which certificate has this serial number.
    pub fingerprint: LeafFingerprint,
    /// When it begins.
    pub not_before: WallMs,
    /// When it ends.
    pub not_after: WallMs,
}

/// A certificate that no verifier accepts any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// Who held its key.
    pub holder: Holder,
    /// What it was for; none for an intermediate.
    pub profile: Option<CertificateProfile>,
    /// When it ends; a day later nobody needs to be told any more.
    pub not_after: WallMs,
    /// When it was revoked.
    pub at: WallMs,
}

/// A certificate whose end is told before it comes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ExpiringCertificate {
    /// A leaf, by serial number.
    Leaf(String),
    /// A server's intermediate, by serial number.
    Intermediate(String),
    /// A root.
    Root(RootFingerprint),
}

/// What an operator may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OperatorRole {
    /// Looks.
    Viewer,
    /// Runs the mesh from day to day.
    Operator,
    /// Everything, operators and certificates included.
    Admin,
}

impl OperatorRole {
    /// Every role, the least first: each may do what those before it may.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    /// The word in tables, flags and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// The role of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == name)
    }
}

/// Somebody who may use a node's API from elsewhere. The certificate proves the name; what it may
/// do is read here at every request, so that a change counts at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    /// What it may do.
    pub role: OperatorRole,
    /// When it was made.
    pub created_at: WallMs,
    /// By whom: an operator's name, or the name of the node whose own socket was used.
    pub created_by: String,
}

/// A node that is a member no more, so that it can be told so when it comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// What it was called.
    pub name: String,
    /// When it was removed.
    pub at: WallMs,
    /// Why.
    pub reason: String,
    /// Whether it was thrown out as compromised.
    pub revoked: bool,
}
