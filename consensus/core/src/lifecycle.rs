//! When a silent node is given up (SPEC 1.5).
//!
//! Decides who is pruned, from agreed lifecycle classes and one observer's silences. Never prunes
//! a persistent node, a server or the issuer, and never anyone while more than a quarter of the mesh is
//! silent: then it is rather the observer who is cut off.

use std::{collections::BTreeMap, time::Duration};

use crate::{Agreed, LifecycleClass, NodeId, Role};

/// A spot instance is gone for good when its provider took it; ten minutes outlast a reboot.
pub const SPOT_SILENCE_MAX: Duration = Duration::from_secs(600);
/// An ephemeral machine may be rebuilt in place; an hour outlasts that.
pub const EPHEMERAL_SILENCE_MAX: Duration = Duration::from_secs(3600);

/// How long a node of this class may be silent before it is pruned; none: for ever.
pub fn silence_max(class: LifecycleClass) -> Option<Duration> {
    match class {
        LifecycleClass::Persistent => None,
        LifecycleClass::Ephemeral => Some(EPHEMERAL_SILENCE_MAX),
        LifecycleClass::Spot => Some(SPOT_SILENCE_MAX),
    }
}

/// The nodes to prune now, given how long each silent node has been silent.
pub fn silent_too_long(agreed: &Agreed, silences: &BTreeMap<NodeId, Duration>) -> Vec<NodeId> {
    let silent = silences
        .keys()
        .filter(|id| agreed.nodes.contains_key(id))
        .count();
    if silent * 4 > agreed.nodes.len() {
        return Vec::new();
    }
    let issuer = agreed.mesh.as_ref().map(|mesh| &mesh.issuer);
    let over = |id: &&NodeId| {
        agreed.nodes.get(id).is_some_and(|node| {
            let max = silence_max(node.lifecycle_class);
            node.role == Role::Agent
                && Some(*id) != issuer
                && max.is_some_and(|max| silences[id] > max)
        })
    };
    silences.keys().filter(over).cloned().collect()
}
