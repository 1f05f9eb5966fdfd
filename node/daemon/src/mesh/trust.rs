//! Whom this node believes, as the agreed state says it.
//!
//! Decides one thing beyond the state: a server that was removed is believed until the voters no
//! longer name it, because the very change that takes its vote may need it.

use std::collections::{BTreeMap, BTreeSet};

use consensus_authority::Trust;
use consensus_core::{Agreed, Holder, MeshId, NodeId};

/// The trust that follows from a view and the present voters.
pub(crate) fn trust(mesh: MeshId, agreed: &Agreed, voters: &BTreeSet<NodeId>) -> Trust {
    let leaving = |holder: &Holder| match holder {
        Holder::Node(node) => !agreed.nodes.contains_key(node) && voters.contains(node),
        Holder::Operator(_) => false,
    };
    let revoked: BTreeSet<String> = agreed
        .revoked
        .iter()
        .filter(|(_, row)| !leaving(&row.holder))
        .map(|(serial, _)| serial.clone())
        .collect();
    Trust::of(mesh, agreed).revoking(&revoked)
}

/// Who is let in no more, whatever he shows.
pub(crate) fn removed(agreed: &Agreed, voters: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let gone = agreed.removed.keys().filter(|id| !voters.contains(*id));
    gone.cloned().collect()
}

/// Trust in some roots and nothing else: what a node starts with before it has a view.
pub(crate) fn bare_trust(mesh: MeshId, roots: &[Vec<u8>]) -> Trust {
    Trust::new(mesh, roots, &BTreeSet::new(), &BTreeMap::new())
}
