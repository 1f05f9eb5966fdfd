//! Who carries a cluster's etcd, as far as the mesh knows.
//!
//! Decides: which servers etcd counts, which of them serve, and whether those are a majority. One
//! answer for everybody who asks: a drain, a server that is taken out, a turn in an upgrade. Never:
//! knows who is alive; whoever asks says whom it hears, because a machine that died says nothing of
//! itself and its row stays ready.
//!
//! Invariant: who serves is a member.

use std::collections::BTreeSet;

use crate::{Agreed, ClusterId, K3sRole, NodeId, Role};

/// A cluster's etcd.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Etcd {
    /// The servers that it counts.
    pub members: BTreeSet<NodeId>,
    /// Those of them that are ready and not emptied.
    pub serving: BTreeSet<NodeId>,
    /// Servers on their way out. One that lives is a member until it has had itself taken off, and
    /// serves until then; so it counts for nothing.
    leaving: BTreeSet<NodeId>,
    /// So many servers that are gone it counts until it has forgotten them.
    lost: usize,
}

impl Etcd {
    /// As whoever hears these nodes has it: who is silent does not serve, and does not take itself off.
    #[must_use]
    pub fn heard(mut self, heard: &BTreeSet<NodeId>) -> Self {
        self.serving.retain(|node| heard.contains(node));
        let stuck = self.leaving.difference(heard).cloned();
        self.members.extend(stuck);
        self
    }

    /// As it is while this node is stopped: it counts, and does not serve.
    #[must_use]
    pub fn stopped(mut self, node: &NodeId) -> Self {
        self.serving.remove(node);
        self
    }

    /// As it is while this node, on its way out, has not had itself taken off yet.
    #[must_use]
    pub(crate) fn with(mut self, node: &NodeId) -> Self {
        self.leaving.remove(node);
        self.serving.insert(node.clone());
        self.members.insert(node.clone());
        self
    }

    /// As it is once this node has left.
    #[must_use]
    pub fn without(mut self, node: &NodeId) -> Self {
        self.members.remove(node);
        self.leaving.remove(node);
        self.stopped(node)
    }

    /// So many members it counts, with those that are gone and not forgotten yet.
    pub fn counted(&self) -> usize {
        self.members.len() + self.lost
    }

    /// So many members have to serve.
    pub fn needed(&self) -> usize {
        self.counted() / 2 + 1
    }

    /// Whether so many do.
    pub fn has_majority(&self) -> bool {
        self.serving.len() >= self.needed()
    }

    /// Those members that do not serve.
    pub fn missing(&self) -> impl Iterator<Item = &NodeId> {
        self.members.difference(&self.serving)
    }
}

impl Agreed {
    /// A cluster's etcd by what is agreed alone. A server that was never ready is no member yet.
    pub fn etcd(&self, cluster: ClusterId) -> Etcd {
        let lost = self.clusters.get(&cluster).map_or(0, |row| row.lost.len());
        let mut etcd = Etcd {
            lost,
            ..Etcd::default()
        };
        let servers = self.k3s_servers_of(cluster);
        for (id, row) in servers.filter(|(_, row)| row.has_been_ready()) {
            if row.is_leaving() {
                etcd.leaving.insert(id.clone());
                continue;
            }
            etcd.members.insert(id.clone());
            if row.is_ready() && !self.is_emptied(id) {
                etcd.serving.insert(id.clone());
            }
        }
        etcd
    }

    /// Whether a node is a server, of the mesh or of a K3s cluster.
    pub fn is_server(&self, node: &NodeId) -> bool {
        let of_mesh = self.nodes.get(node).map(|row| row.role);
        let of_cluster = self.k3s_nodes.get(node).map(|row| row.role);
        of_mesh == Some(Role::Server) || of_cluster == Some(K3sRole::Server)
    }

    /// Whether a node is emptied, or is to be: what runs on it stops. One that only nothing new comes to
    /// works on.
    pub fn is_emptied(&self, node: &NodeId) -> bool {
        self.drains.get(node).is_some_and(|one| !one.cordon_only)
    }
}
