//! What a node shows of itself and what it holds others against.
//!
//! Decides that a peer on the wire is the node that its chain names. Whether the chain is to be
//! believed is `consensus_authority::Trust`'s decision. Never reads a file.

use std::{collections::BTreeSet, fmt, sync::Arc, time::SystemTime};

use consensus_authority::{Trust, Verified, wall};
use consensus_core::{LogIndex, MeshId, NodeId};

use crate::gate::GateError;

/// What a node shows of itself, and what it holds others against.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// This node's certificates in DER: its leaf, then authorities up to the root (without it).
    pub chain: Vec<Vec<u8>>,
    /// Whom it believes.
    pub trust: Arc<Trust>,
    /// Who is a member no more. A former server may have signed itself a chain that is in order.
    pub removed: Arc<BTreeSet<NodeId>>,
    /// The agreed state that `trust` was made from.
    pub revision: LogIndex,
}

impl Credentials {
    /// This node's own certificate in DER; empty if it has none.
    pub fn leaf(&self) -> &[u8] {
        self.chain.first().map_or(&[], Vec::as_slice)
    }

    /// The trust domain.
    pub fn mesh(&self) -> MeshId {
        self.trust.mesh()
    }

    /// Whether `chain` makes whoever proved to be `peer` a member.
    pub(crate) fn admit(&self, chain: &[Vec<u8>], peer: &NodeId) -> Result<Verified, GateError> {
        // Said first: its certificates are revoked too, which says less.
        if self.removed.contains(peer) {
            return Err(GateError::Removed);
        }
        let verified = self.trust.verify(chain, wall(SystemTime::now()))?;
        verified.require_node(peer)?;
        Ok(verified)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("chain", &self.chain.len())
            .field("trust", &self.trust)
            .field("revision", &self.revision)
            .finish()
    }
}

/// A peer's chain and what it says, as long as its connection lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proof {
    /// Kept, because what is believed now may not be believed later: a root may go.
    pub(crate) chain: Vec<Vec<u8>>,
    pub(crate) verified: Verified,
}

impl Proof {
    /// Whether it still holds by these credentials.
    pub(crate) fn recheck(&self, by: &Credentials, peer: &NodeId) -> Result<(), GateError> {
        by.admit(&self.chain, peer).map(|_| ())
    }
}
