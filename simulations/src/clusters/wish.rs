//! What the agreed state wants of a node's K3s.
//!
//! Decides nothing: `runtimes_core::k3s::wish` does, for the daemon too. What differs is that an address
//! that is to move has moved.

use std::collections::BTreeSet;

use consensus_core::{Agreed, NodeId};
use runtimes_core::k3s::{Desired, wish};

/// What a node is to be.
pub(super) fn desired(agreed: &Agreed, me: &NodeId) -> Desired {
    let mut desired = wish::desired(agreed, me, &BTreeSet::new());
    if let Some(stay) = &mut desired.stay {
        stay.holds_api = false;
    }
    desired
}
