//! A Docker host as the mesh agrees on it: how far it is, where it listens, its certificate.
//!
//! Decides what a phase is called and what status it comes to (SPEC 4.3, 4.6). Which phase follows
//! which is `apply`'s decision.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

use crate::WallMs;

/// How far a Docker host is (SPEC 4.3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DockerPhase {
    /// The node has not answered yet.
    Assigned,
    /// The engine is being looked for or installed.
    Installing,
    /// The node made a key and asks for a certificate.
    WantsCert {
        /// PKCS#10, DER.
        csr: Vec<u8>,
    },
    /// The certificate is there; configuration and TLS files come next.
    WantsConfig,
    /// dockerd listens.
    Ready {
        /// dockerd's version.
        version: String,
    },
    /// Unassigned; dockerd is being stopped.
    Stopping,
    /// Unassigned and stopped.
    Stopped,
    /// A step failed; it is tried again.
    Failed {
        /// What went wrong, in words.
        reason: String,
        /// The stable code of it.
        code: String,
        /// When it is tried again.
        retry_at: WallMs,
    },
    /// Its node is emptied: containers and dockerd are stopped, and nothing else has changed.
    Drained,
}

impl DockerPhase {
    /// Whether two phases tell the same; the time of a retry alone is no news.
    pub fn tells_the_same(&self, other: &Self) -> bool {
        if let (
            Self::Failed { reason, code, .. },
            Self::Failed {
                reason: r, code: c, ..
            },
        ) = (self, other)
        {
            return (reason, code) == (r, c);
        }
        self == other
    }

    /// The word in tables and JSON.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Assigned => "assigned",
            Self::Installing => "installing",
            Self::WantsCert { .. } => "wants_cert",
            Self::WantsConfig => "wants_config",
            Self::Ready { .. } => "ready",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed { .. } => "failed",
            Self::Drained => "drained",
        }
    }
}

/// A certificate as its owner needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedCertificate {
    /// Serial number, hexadecimal.
    pub serial: String,
    /// The serial number of the intermediate that signed it.
    pub issuer: String,
    /// The leaf, DER.
    pub leaf: Vec<u8>,
    /// The request it answers, so that an answer to an older key is not mistaken.
    pub csr: Vec<u8>,
    /// When it begins.
    pub not_before: WallMs,
    /// When it ends.
    pub not_after: WallMs,
}

/// A Docker host that the mesh runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DockerHost {
    /// How far it is.
    pub phase: DockerPhase,
    /// Since when.
    pub since: WallMs,
    /// Where dockerd listens.
    pub listen: Option<Ipv6Addr>,
    /// dockerd's version when it was last ready.
    pub version: Option<String>,
    /// Its present server certificate.
    pub certificate: Option<IssuedCertificate>,
    /// Whether it was ready since it was assigned.
    pub provisioned: bool,
}

/// The port of dockerd's mutual-TLS listener (IANA: docker-s).
pub const DOCKER_TLS_PORT: u16 = 2376;

impl DockerHost {
    /// pending, connected or disconnected (SPEC 4.6). A host that gets its next certificate is
    /// connected all the while: clients wait for the moment in which dockerd restarts.
    pub fn status(&self) -> &'static str {
        match self.phase {
            DockerPhase::Ready { .. } => "connected",
            DockerPhase::WantsCert { .. } | DockerPhase::WantsConfig if self.provisioned => {
                "connected"
            }
            DockerPhase::Stopping | DockerPhase::Stopped | DockerPhase::Drained => "disconnected",
            DockerPhase::Assigned
            | DockerPhase::Installing
            | DockerPhase::WantsCert { .. }
            | DockerPhase::WantsConfig
            | DockerPhase::Failed { .. } => "pending",
        }
    }

    /// `tcp://[address]:2376`, once an address is known.
    pub fn api_endpoint(&self) -> Option<String> {
        self.listen
            .map(|address| format!("tcp://[{address}]:{DOCKER_TLS_PORT}"))
    }
}
