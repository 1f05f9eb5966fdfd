//! Why a chain is not believed.

use consensus_core::{CertificateProfile, Holder, NodeId, WallMs};

/// Why a chain is not believed. Texts speak of the other side as "it".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// What it showed is not what a certificate of a mesh looks like.
    #[error("its certificate is malformed: {0}")]
    Malformed(&'static str),
    /// The chain does not lead to a root that is trusted here.
    #[error("its certificate does not come from a root of this mesh: {0}")]
    WrongRoot(&'static str),
    /// The certificate is of another mesh.
    #[error("its certificate is of the mesh {shown}")]
    WrongMesh {
        /// The mesh that it names.
        shown: String,
    },
    /// The certificate is for something else.
    #[error("its certificate is for {shown:?}, and {expected} is needed")]
    WrongProfile {
        /// The organizational unit that it names.
        shown: String,
        /// What would do.
        expected: String,
    },
    /// A certificate of the chain has ended.
    #[error("its certificate has ended")]
    Expired {
        /// When.
        since: WallMs,
    },
    /// A certificate of the chain has not begun.
    #[error("its certificate is not valid yet")]
    NotYetValid {
        /// When it begins.
        from: WallMs,
    },
    /// A certificate of the chain was revoked.
    #[error("its certificate {serial} was revoked")]
    Revoked {
        /// Its serial number.
        serial: String,
    },
    /// The server that issued the certificate no longer issues, and the mesh has no record of
    /// this one.
    #[error("its certificate {serial} is not among those that the retired server {issuer} issued")]
    Retired {
        /// The intermediate's serial number.
        issuer: String,
        /// The leaf's serial number.
        serial: String,
    },
    /// The certificate is somebody else's.
    #[error("its certificate is of {shown}, not of {expected}")]
    WrongNode {
        /// Who was expected.
        expected: String,
        /// Whose it is.
        shown: String,
    },
}

impl Refusal {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "CertificateMalformedError",
            Self::WrongRoot(_) => "CertificateWrongRootError",
            Self::WrongMesh { .. } => "CertificateWrongMeshError",
            Self::WrongProfile { .. } => "CertificateWrongProfileError",
            Self::Expired { .. } => "CertificateExpiredError",
            Self::NotYetValid { .. } => "CertificateNotYetValidError",
            Self::Revoked { .. } => "CertificateRevokedError",
            Self::Retired { .. } => "CertificateRetiredError",
            Self::WrongNode { .. } => "CertificateWrongHolderError",
        }
    }

    /// What to do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Malformed(_) => None,
            Self::WrongRoot(_) => {
                Some("compare the fingerprints that `shoal ca status` shows on both sides")
            }
            Self::WrongMesh { .. } => Some("use the certificate of this mesh"),
            Self::WrongProfile { .. } => Some("use a certificate that was made for this purpose"),
            Self::Expired { .. } => {
                Some("it is renewed when its node reaches a server; check its clock and its log")
            }
            Self::NotYetValid { .. } => Some("compare the clocks of both machines"),
            Self::Revoked { .. } => Some("it must be enrolled again"),
            Self::Retired { .. } => Some("it must be renewed with a current server"),
            Self::WrongNode { .. } => Some("check the address: another machine may have it now"),
        }
    }

    pub(crate) fn other_profile(shown: &str, expected: &[CertificateProfile]) -> Self {
        let names: Vec<_> = expected.iter().map(|profile| profile.as_str()).collect();
        Self::WrongProfile {
            shown: shown.to_owned(),
            expected: names.join(" or "),
        }
    }

    pub(crate) fn other_node(expected: &NodeId, shown: &Holder) -> Self {
        Self::WrongNode {
            expected: expected.to_string(),
            shown: shown.to_string(),
        }
    }
}
