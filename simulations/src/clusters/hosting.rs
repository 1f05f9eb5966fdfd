//! What a ready server does for its cluster: it gives tokens to who asked, and lets the cluster forget
//! who has left.
//!
//! Decides nothing that is not agreed. The daemon's own is `node/daemon/src/mesh/k3s/hosting.rs`.

use std::collections::BTreeSet;

use consensus_core::{Agreed, ClusterCommand, ClusterId, Command, K3sPhase, NodeId, SealedKey};

use super::{
    bug::PlantedBug,
    host::Sealed,
    mesh::recipient,
    world::{Chore, Event, Talk, World},
};
use crate::{node::node_id, random::Span};

/// To read a token, seal it, or have the API delete a node.
const CHORE: Span = Span::micros(5_000, 400_000);
/// A silent node is held dead after about this.
const HEARD_FOR_US: u64 = 4_000_000;

impl World {
    fn heard(&self) -> BTreeSet<NodeId> {
        let heard = |node: &usize| {
            let shoald = &self.nodes[*node];
            shoald.runs || self.now_us < shoald.ended_us + HEARD_FOR_US
        };
        (0..self.nodes.len()).filter(heard).map(node_id).collect()
    }

    /// Begins what there is to do for others, one thing at a time.
    pub(super) fn host_others(&mut self, node: usize) {
        if self.nodes[node].chore.is_some() || self.nodes[node].hosting.is_some() {
            return;
        }
        let agreed = self.nodes[node].view.agreed.clone();
        let me = node_id(node);
        let Some(cluster) = agreed.k3s_nodes.get(&me).map(|row| row.cluster) else {
            return;
        };
        if agreed.token_issuer(cluster, &self.heard()) != Some(&me) {
            return;
        }
        let Some(command) = self
            .token(node, &agreed, cluster)
            .or_else(|| forgetting(&agreed, cluster))
        else {
            return;
        };
        let number = self.fresh();
        self.nodes[node].chore = Some(Chore { number, command });
        let boot = self.nodes[node].boot;
        self.after_some(CHORE, Event::ChoreOver { node, boot, number });
    }

    /// The token of this server's K3s, sealed for the first node that asks.
    fn token(&mut self, node: usize, agreed: &Agreed, cluster: ClusterId) -> Option<Command> {
        let row = agreed.clusters.get(&cluster)?;
        let bug = self.bug == Some(PlantedBug::NamesNotForgotten);
        let known = |id: &NodeId| !bug && row.departed.contains_key(&agreed.name_of(id));
        let mut asking = agreed.k3s_nodes_of(cluster);
        let (id, asks) =
            asking.find(|(id, one)| one.phase == K3sPhase::JoinRequest && !known(id))?;
        let (_, secret) = self.kubernetes.of(&self.hosts[node])?;
        let index = (0..self.nodes.len()).find(|index| node_id(*index) == *id)?;
        let sealed = Sealed {
            secret,
            node: index,
            attempt: asks.attempt,
        };
        let token = SealedKey {
            recipients: BTreeSet::from([recipient(index)]),
            age: sealed.to_bytes(self.fresh()),
        };
        Some(Command::Cluster(ClusterCommand::IssueToken {
            node: id.clone(),
            attempt: asks.attempt,
            token,
        }))
    }

    /// It was done; the mesh is to know.
    pub(super) fn chore_over(&mut self, node: usize, number: u64) {
        let due = self.nodes[node]
            .chore
            .take_if(|chore| chore.number == number);
        let Some(Chore { command, .. }) = due else {
            return;
        };
        if let Command::Cluster(ClusterCommand::ForgetNodes { names, .. }) = &command {
            let ready = self.kubernetes.is_ready(&self.hosts, node);
            let Some(data) = self.hosts[node].data.filter(|_| ready) else {
                return;
            };
            for name in names.keys() {
                self.forget(node, data.store, name);
            }
        }
        self.note(b'H', node, number);
        self.propose(node, Talk::Hosting, command);
    }

    fn forget(&mut self, by: usize, store: usize, name: &str) {
        let index = name
            .strip_prefix('n')
            .and_then(|digits| digits.parse().ok());
        let index = index.unwrap_or(usize::MAX);
        let alive = self.kubernetes.forget(&self.hosts, store, name, index);
        let Some(alive) = alive else { return };
        let row = self.log.agreed().k3s_nodes.get(&node_id(alive));
        let wanted = row.is_some_and(|row| {
            let stay = self.hosts[alive]
                .record
                .as_ref()
                .map(|record| record.attempt);
            !row.is_leaving() && stay == Some(row.attempt)
        });
        let held = match wanted {
            true => Err(format!(
                "n{by} has the cluster forget {name}, which is in it"
            )),
            false => Ok(()),
        };
        self.judge("leaves_first", held);
    }
}

fn forgetting(agreed: &Agreed, cluster: ClusterId) -> Option<Command> {
    let names = agreed.clusters.get(&cluster)?.departed.clone();
    let some = !names.is_empty();
    some.then_some(Command::Cluster(ClusterCommand::ForgetNodes {
        cluster,
        names,
    }))
}
