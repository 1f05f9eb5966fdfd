//! Which K3s a node's assignments ask for.
//!
//! Decides: which of several assignments counts, and what would if one of them or the node's labels were
//! others. What is said of the node itself counts before what a selector says of many, and a server's
//! place before an agent's. A wish for a cluster that is no more asks for nothing.

use std::collections::BTreeMap;

use crate::{Agreed, Assignment, ClusterId, K3sBinary, K3sRole, K3sWish, Module, NodeId, Target};

/// The role, the cluster and the K3s that a node's assignments give it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedK3s {
    /// As what.
    pub role: K3sRole,
    /// Where.
    pub cluster: ClusterId,
    /// With which K3s.
    pub binary: K3sBinary,
}

/// What is supposed to be otherwise than it is agreed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Supposed<'a> {
    /// Nothing.
    Nothing,
    /// This assignment is taken back.
    Without(&'a Assignment),
    /// This assignment asks for this cluster.
    With(&'a Assignment, &'a K3sWish),
    /// This node has these labels.
    Labelled(&'a NodeId, &'a BTreeMap<String, String>),
}

impl Agreed {
    /// What a node's assignments make of it.
    pub fn wanted_k3s(&self, id: &NodeId) -> Option<WantedK3s> {
        self.wanted_k3s_if(id, Supposed::Nothing)
    }

    /// The same if something were otherwise.
    pub(crate) fn wanted_k3s_if(&self, id: &NodeId, supposed: Supposed<'_>) -> Option<WantedK3s> {
        let (without, with) = match supposed {
            Supposed::Without(assignment) => (Some(assignment), None),
            Supposed::With(assignment, wish) => (Some(assignment), Some((assignment, wish))),
            Supposed::Nothing | Supposed::Labelled(..) => (None, None),
        };
        let present = self.k3s_wishes.iter();
        let wishes = present
            .filter(|(assignment, _)| Some(*assignment) != without)
            .chain(with);
        let covering = wishes.filter(|(assignment, wish)| {
            self.clusters.contains_key(&wish.cluster)
                && self.covers_if(&assignment.target, id, supposed)
        });
        let wanted = covering.filter_map(|(assignment, wish)| {
            let role = match assignment.module {
                Module::K3sServer => K3sRole::Server,
                Module::K3sAgent => K3sRole::Agent,
                Module::DockerEngine => return None,
            };
            let direct = matches!(assignment.target, Target::Node(_));
            Some(((!direct, role, assignment), wish))
        });
        wanted
            .min_by_key(|(rank, _)| *rank)
            .map(|((_, role, _), wish)| WantedK3s {
                role,
                cluster: wish.cluster,
                binary: wish.binary.clone(),
            })
    }

    fn covers_if(&self, target: &Target, id: &NodeId, supposed: Supposed<'_>) -> bool {
        match (target, supposed) {
            (Target::Selector(wanted), Supposed::Labelled(node, labels)) if node == id => wanted
                .iter()
                .all(|(key, value)| labels.get(key) == Some(value)),
            _ => self.covers(target, id),
        }
    }
}
