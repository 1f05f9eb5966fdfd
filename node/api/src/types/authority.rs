//! Shapes of the certificate authority: status, rotation, revocation, operators.

use serde::{Deserialize, Serialize};

/// A change that takes certificates back, and how far it has been carried out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Revoked {
    /// The log index of the change.
    pub raft_index: u64,
    /// Serial numbers of the certificates that nobody accepts any more, hexadecimal.
    pub serials: Vec<String>,
    /// What the operator should know.
    pub warnings: Vec<String>,
    /// Who refuses them already.
    pub enforcement: Enforcement,
}

/// Who has carried out a revocation: verifier, live connections, WireGuard peers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Enforcement {
    /// Nodes that had to.
    pub nodes: u64,
    /// Nodes that have.
    pub enforced: u64,
    /// Time from the agreement to the last of them, in milliseconds.
    pub last_ms: Option<u64>,
    /// Every node, by name.
    pub each: Vec<EnforcedBy>,
}

/// One node's part in a revocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnforcedBy {
    /// Its name.
    pub node: String,
    /// Time from the agreement until it had, in milliseconds; none if it has not said so yet.
    pub after_ms: Option<u64>,
    /// Why not.
    pub reason: Option<String>,
}

/// `GET /v1/ca`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CaStatus {
    /// Roots that are trusted, the signing one first.
    pub roots: Vec<RootView>,
    /// The servers' own authorities.
    pub intermediates: Vec<IntermediateView>,
    /// Certificates of nodes, dockerds, docker clients and operators that have not ended.
    pub certificates: Vec<CertificateView>,
    /// The rotation under way.
    pub rotation: Option<RotationView>,
    /// To whom backups and the root key are sealed besides the servers (age).
    pub recovery_recipient: String,
    /// What ends soon and is not renewed.
    pub warnings: Vec<String>,
}

/// A root certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootView {
    /// BLAKE3, hexadecimal.
    pub fingerprint: String,
    /// The same as words.
    pub words: String,
    /// `active`, `incoming` or `outgoing`.
    pub state: String,
    /// When it ends, milliseconds since 1970.
    pub not_after_ms: u64,
    /// Whose keys open its sealed key: servers by name, and `recovery`.
    pub sealed_to: Vec<String>,
}

/// A server's own authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntermediateView {
    /// Serial number, hexadecimal.
    pub serial: String,
    /// The server's name.
    pub node: String,
    /// `current`, `superseded` or `retired`.
    pub state: String,
    /// Its root's fingerprint, hexadecimal.
    pub root: String,
    /// When it ends, milliseconds since 1970.
    pub not_after_ms: u64,
}

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateView {
    /// Serial number, hexadecimal.
    pub serial: String,
    /// `node`, `docker-server`, `docker-client`, `operator` or `browser`.
    pub profile: String,
    /// The node's or operator's name.
    pub holder: String,
    /// The server that signed it.
    pub issuer: String,
    /// When it ends, milliseconds since 1970.
    pub not_after_ms: u64,
}

/// How far a rotation of the root is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationView {
    /// `trusting` or `issuing`.
    pub step: String,
    /// Why it was asked for.
    pub reason: String,
    /// When it began, milliseconds since 1970.
    pub began_ms: u64,
    /// Whom it waits for, by name.
    pub waiting_for: Vec<String>,
}

/// `POST /v1/ca/rotate`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateRequest {
    /// For the event.
    pub reason: Option<String>,
}

/// `POST /v1/ca/revoke`: exactly one of the three.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeRequest {
    /// One certificate's serial number, hexadecimal.
    pub serial: Option<String>,
    /// Every certificate of a node, its own identity's too; it stays a member and gets new ones.
    pub node: Option<String>,
    /// Every certificate of an operator.
    pub operator: Option<String>,
}

/// `POST /v1/operators`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorRequest {
    /// Its name.
    pub name: String,
    /// `viewer`, `operator` or `admin`.
    pub role: String,
    /// PKCS#10, PEM, on an Ed25519 or P-256 key. The key stays with the asker.
    pub csr_pem: String,
    /// How long the certificate lives; 90 days unless given, and at most.
    pub ttl_s: Option<u64>,
}

/// `POST /v1/operators/{operator}/certificate`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorCertificateRequest {
    /// PKCS#10, PEM, on an Ed25519 or P-256 key. The key stays with the asker.
    pub csr_pem: String,
    /// How long the certificate lives; 90 days unless given, and at most.
    pub ttl_s: Option<u64>,
}

/// `POST /v1/operators/{operator}/role`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorRoleRequest {
    /// `viewer`, `operator` or `admin`.
    pub role: String,
}

/// The answer to both: what an operator's client needs besides its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorBundle {
    /// The operator's name.
    pub name: String,
    /// Its role.
    pub role: String,
    /// Leaf and intermediate, PEM.
    pub certificate_pem: String,
    /// The mesh's roots, PEM.
    pub ca_pem: String,
    /// When it ends, milliseconds since 1970.
    pub expires_ms: u64,
    /// Where the API listens: `https://[address]:7443` of every node.
    pub endpoints: Vec<String>,
}

/// An operator, as `operator ls` gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorView {
    /// Its name.
    pub name: String,
    /// `viewer`, `operator` or `admin`.
    pub role: String,
    /// When it was made, milliseconds since 1970.
    pub created_ms: u64,
    /// Serial numbers of its certificates that have not ended.
    pub serials: Vec<String>,
    /// When the last of them ends, milliseconds since 1970.
    pub expires_ms: Option<u64>,
}
