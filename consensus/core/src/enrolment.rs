//! What machines and authorities bring into the mesh.
//!
//! Decides nothing: these are parts of commands, and `apply` looks at every one.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{
    CertificateRecord, LifecycleClass, NetworkProfile, NodeId, RootFingerprint, SealedKey, WallMs,
};

/// What a node says of itself when it enrols.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// Its identity, as its connection proved.
    pub node: NodeId,
    /// The name it wants.
    pub name: String,
    /// The operator's marks on it.
    pub labels: BTreeMap<String, String>,
    /// Facts about the machine.
    pub metadata: BTreeMap<String, String>,
    /// How long it means to stay.
    pub lifecycle_class: LifecycleClass,
    /// Whether its data directory is in memory.
    pub tmpfs_store: bool,
    /// What the machine can carry.
    pub network_profile: NetworkProfile,
    /// Where it can be reached.
    pub addresses: Vec<SocketAddr>,
    /// Its WireGuard public key.
    pub wireguard_public_key: [u8; 32],
    /// The age recipient that secrets are sealed to for it.
    pub sealing_recipient: String,
}

/// A certificate's serial number and record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewCertificate {
    /// Serial number, hexadecimal.
    pub serial: String,
    /// The record.
    pub record: CertificateRecord,
}

/// A root certificate that somebody made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewRoot {
    /// DER.
    pub certificate: Vec<u8>,
    /// Its key under the signature of the present root, DER; none for a mesh's first root.
    pub cross: Option<Vec<u8>>,
    /// When it ends.
    pub not_after: WallMs,
}

/// An intermediate that a server made for itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewIntermediate {
    /// Serial number, hexadecimal.
    pub serial: String,
    /// DER.
    pub certificate: Vec<u8>,
    /// The root that signed it.
    pub root: RootFingerprint,
    /// When it begins.
    pub not_before: WallMs,
    /// When it ends.
    pub not_after: WallMs,
}

/// What a founder makes before its mesh exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundingAuthority {
    /// The root.
    pub root: NewRoot,
    /// Its key, sealed to the founder and to the recovery recipient.
    pub root_key: SealedKey,
    /// The age recipient whose identity is kept off line.
    pub recovery_recipient: String,
    /// The founder's intermediate.
    pub intermediate: NewIntermediate,
}

/// Which certificates are to be accepted no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Revocation {
    /// The one with this serial number; an intermediate with all that it signed.
    Serial(String),
    /// Every leaf that a node holds, by name or id. It stays a member and gets new ones when it
    /// proves its key.
    Node(String),
    /// Every leaf that an operator holds.
    Operator(String),
}
