//! When a silent node is given up (SPEC 1.5).
//!
//! Decides who is pruned, from agreed lifecycle classes and one observer's silences. Never prunes
//! a persistent node or a server, and never anyone while more than a quarter of the mesh is silent:
//! then it is rather the observer who is cut off.

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
    let over = |id: &&NodeId| {
        agreed.nodes.get(id).is_some_and(|node| {
            let max = silence_max(node.lifecycle_class);
            node.role == Role::Agent && max.is_some_and(|max| silences[id] > max)
        })
    };
    silences.keys().filter(over).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{NetworkProfile, Node, NodeState, WallMs};

    const OVER_AN_HOUR: Duration = Duration::from_secs(3601);

    #[test]
    fn each_class_has_its_own_patience() {
        for (class, at, over) in [
            (LifecycleClass::Spot, 600, 601),
            (LifecycleClass::Ephemeral, 3600, 3601),
        ] {
            let agreed = mesh(&[class], Role::Agent);
            assert_eq!(pruned(&agreed, &[(1, Duration::from_secs(at))]), []);
            assert_eq!(pruned(&agreed, &[(1, Duration::from_secs(over))]), [id(1)]);
        }
        let agreed = mesh(&[LifecycleClass::Persistent], Role::Agent);
        assert_eq!(pruned(&agreed, &[(1, Duration::MAX)]), []);
    }

    #[test]
    fn a_server_is_never_pruned() {
        let agreed = mesh(&[LifecycleClass::Spot], Role::Server);
        assert_eq!(pruned(&agreed, &[(1, OVER_AN_HOUR)]), []);
    }

    #[test]
    fn pruning_freezes_while_more_than_a_quarter_is_silent() {
        // Eight members: two silent ones are a quarter, three are more.
        let agreed = mesh(&[LifecycleClass::Spot; 2], Role::Agent);
        assert_eq!(agreed.nodes.len(), 8);
        let two = [(1, OVER_AN_HOUR), (2, OVER_AN_HOUR)];
        assert_eq!(pruned(&agreed, &two), [id(1), id(2)]);
        let three = [two[0], two[1], (3, Duration::from_secs(1))];
        assert_eq!(pruned(&agreed, &three), []);
    }

    #[test]
    fn strangers_neither_count_nor_go() {
        let agreed = mesh(&[LifecycleClass::Spot], Role::Agent);
        let strangers = [11, 12, 13, 14].map(|n| (n, OVER_AN_HOUR));
        assert_eq!(pruned(&agreed, &strangers), []);
        let with_one = [&strangers[..], &[(1, OVER_AN_HOUR)]].concat();
        assert_eq!(pruned(&agreed, &with_one), [id(1)]);
    }

    fn pruned(agreed: &Agreed, silences: &[(u32, Duration)]) -> Vec<NodeId> {
        let silences = silences.iter().map(|(n, silence)| (id(*n), *silence));
        silent_too_long(agreed, &silences.collect())
    }

    fn id(n: u32) -> NodeId {
        format!("12D3KooW{n:A>44}").parse().unwrap()
    }

    /// Nodes 1 and up of these classes and this role, and persistent agents up to eight.
    fn mesh(classes: &[LifecycleClass], role: Role) -> Agreed {
        let node = |n: u32| {
            let class = usize::try_from(n - 1).ok().and_then(|at| classes.get(at));
            Node {
                name: format!("n{n}"),
                role: if class.is_some() { role } else { Role::Agent },
                raft_id: None,
                state: NodeState::Running,
                labels: BTreeMap::new(),
                metadata: BTreeMap::new(),
                lifecycle_class: class.copied().unwrap_or_default(),
                tmpfs_store: false,
                network_profile: NetworkProfile::Heavyweight,
                addresses: Vec::new(),
                wireguard_public_key: [0; 32],
                sealing_recipient: String::new(),
                has_served: false,
                joined_at: WallMs(0),
            }
        };
        Agreed {
            nodes: (1..=8).map(|n| (id(n), node(n))).collect(),
            ..Agreed::default()
        }
    }
}
