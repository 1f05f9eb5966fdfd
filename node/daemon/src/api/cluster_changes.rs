//! What a change means for K3s clusters beside what it is about: a server less, a drain, two left.
//!
//! Decides: which clusters are saved before a server of theirs is emptied or leaves (SPEC 5.12), and
//! what an operator is told of a cluster that is left with two servers (SPEC 1.3). It tries the change
//! on what this node knows, so that what is going to be refused does nothing before. Never: refuses a
//! change itself, nor holds one up for longer than one snapshot may take.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::Json;
use consensus_core::{
    Agreed, ClusterId, ClusterStatus, Command, Envelope, K3sNode, LogIndex, NodeId, Refusal,
    RequestId, State, apply,
};
use futures::future::join_all;
use node_api::types::Changed;
use overlay_core::membership::Condition;

use super::{Answer, change};
use crate::mesh::{Mesh, cluster_desk::Occasion, proposer::wall_now};

/// etcd with two members is as lost as with one when either is, and twice as likely.
const TWO_SERVERS: &str = "it stands still when either is lost: add a third one";

/// What is agreed, as far as this node knows, before a change and after it.
pub(super) struct Foresight {
    before: Arc<Agreed>,
    after: Arc<Agreed>,
}

/// Which of a cluster's servers are affected, and how.
type Affected = BTreeMap<(ClusterId, Occasion), BTreeSet<NodeId>>;

impl Foresight {
    /// Tries a change.
    ///
    /// # Errors
    /// It would be refused.
    pub(super) fn of(mesh: &Mesh, command: &Command) -> Result<Self, Refusal> {
        let view = mesh.proposer.views.view();
        let before = view.agreed.clone();
        let mut copy = State {
            agreed: before.clone(),
            ..State::default()
        };
        let envelope = Envelope {
            request: RequestId::from_bytes(rand::random()),
            actor: mesh.me.clone(),
            time: wall_now(),
            operator: None,
            command: command.clone(),
        };
        apply(&mut copy, LogIndex(view.revision.0 + 1), &envelope)?;
        Ok(Self {
            before,
            after: copy.agreed,
        })
    }

    /// Has every cluster saved that loses a server, by one that stays. Says of which ones that failed:
    /// a cluster that cannot be saved is no reason to keep a broken machine.
    pub(super) async fn save(&self, mesh: &Mesh) -> Vec<String> {
        let affected = affected(&self.before, &self.after);
        let each = affected
            .into_iter()
            .map(|((cluster, occasion), servers)| async move {
                let taken = mesh.clusters.snapshot(cluster, occasion, &servers).await;
                let error = taken.err()?;
                let name = &self.before.clusters.get(&cluster)?.name;
                let message = &error.message;
                Some(format!(
                    "no snapshot of cluster {name} was taken before: {message}"
                ))
            });
        join_all(each).await.into_iter().flatten().collect()
    }

    /// What is to be said of clusters that the change leaves with two servers.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = two_servers(&self.before, &self.after);
        warnings.extend(standstills(&self.before, &self.after));
        warnings
    }
}

/// The servers, of the mesh and of K3s clusters, that this node hears: what a change that takes one of
/// them is weighed against. All members would be too many for an entry of the log. The one that is
/// taken counts unless it is known to be dead: for a while after its own start a daemon knows nothing
/// of the others, and a suspected one lives in most cases.
pub(super) fn heard_servers(mesh: &Mesh, taken: Option<&str>) -> BTreeSet<NodeId> {
    let agreed = mesh.proposer.views.view().agreed.clone();
    let mut heard = servers_among(&agreed, mesh.vips.heard());
    let members = mesh.proposer.members.borrow().clone();
    let dead = |id: &NodeId| {
        let member = members.get(id);
        member.is_some_and(|member| member.condition == Condition::Dead)
    };
    let taken = taken.and_then(|name| agreed.find_node(name));
    heard.extend(taken.map(|(id, _)| id.clone()).filter(|id| !dead(id)));
    heard
}

fn servers_among(agreed: &Agreed, mut heard: BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    heard.retain(|id| agreed.is_server(id));
    heard
}

/// Has a command agreed, with what belongs to it for clusters before and after.
pub(super) async fn change_clusters(mesh: &Mesh, command: Command) -> Answer<Changed> {
    // What this node does not know yet, the leader may: it is the one who refuses.
    let Ok(foresight) = Foresight::of(mesh, &command) else {
        return change(mesh, command).await;
    };
    let unsaved = foresight.save(mesh).await;
    let Json(mut answer) = change(mesh, command).await?;
    answer.warnings.extend(unsaved);
    answer.warnings.extend(foresight.warnings());
    Ok(Json(answer))
}

/// How many servers a cluster is to have.
fn servers_of(agreed: &Agreed, cluster: ClusterId) -> usize {
    let servers = agreed.k3s_servers_of(cluster);
    servers.filter(|(_, row)| !row.is_leaving()).count()
}

fn two_servers(before: &Agreed, after: &Agreed) -> Vec<String> {
    let now_two = |id: &ClusterId| servers_of(after, *id) == 2 && servers_of(before, *id) != 2;
    let clusters = after.clusters.iter().filter(|(id, _)| now_two(id));
    clusters
        .map(|(_, row)| format!("cluster {} now has two servers: {TWO_SERVERS}", row.name))
        .collect()
}

fn standstills(before: &Agreed, after: &Agreed) -> Vec<String> {
    let works = |agreed: &Agreed, id| agreed.etcd(id).has_majority();
    let stops = |id: &ClusterId| works(before, *id) && !works(after, *id);
    let clusters = after.clusters.iter().filter(|(id, _)| stops(id));
    clusters
        .map(|(_, row)| {
            let name = &row.name;
            format!("cluster {name} stands still until more than half of its servers work again")
        })
        .collect()
}

/// What `cluster show` says of the same.
pub(super) fn warnings_of(agreed: &Agreed, cluster: ClusterId) -> Vec<String> {
    let two = servers_of(agreed, cluster) == 2;
    let text = two.then(|| format!("it has two servers: {TWO_SERVERS}"));
    text.into_iter().collect()
}

/// The servers of clusters that go on which a change empties or takes away.
fn affected(before: &Agreed, after: &Agreed) -> Affected {
    let mut affected = Affected::new();
    for (id, cluster) in &before.clusters {
        // One that goes has nothing to come back to.
        if cluster.status != ClusterStatus::Active || !after.clusters.contains_key(id) {
            continue;
        }
        let servers = before.k3s_servers_of(*id);
        for (node, row) in servers.filter(|(_, row)| serves(row)) {
            let there = after.k3s_nodes.get(node);
            let stays = there.is_some_and(|now| now.attempt == row.attempt && !now.is_leaving());
            let occasion = match stays {
                false => Occasion::BeforeRemoval,
                true if after.is_emptied(node) && !before.is_emptied(node) => Occasion::BeforeDrain,
                true => continue,
            };
            let nodes = affected.entry((*id, occasion)).or_default();
            nodes.insert(node.clone());
        }
    }
    affected
}

fn serves(row: &K3sNode) -> bool {
    row.has_been_ready() && !row.is_leaving()
}

#[cfg(test)]
mod tests {
    use consensus_core::{K3sPhase, K3sRole};

    use super::*;
    use crate::mesh::k3s::testing::{CLUSTER, emptied, founded, node, of};

    /// An active cluster of so many servers, from node 1 on.
    fn agreed(servers: usize) -> Agreed {
        let mut agreed = of(servers);
        founded(&mut agreed, ClusterStatus::Active);
        agreed
    }

    /// One of it that is no server.
    fn agent() -> K3sNode {
        K3sNode {
            role: K3sRole::Agent,
            ..of(1).k3s_nodes[&node(1)].clone()
        }
    }

    #[test]
    fn a_server_that_leaves_or_is_emptied_has_its_cluster_saved_before() {
        let before = agreed(3);
        let mut after = agreed(3);
        emptied(&mut after, 1, false);
        after.k3s_nodes.remove(&node(2));
        let drained = ((CLUSTER, Occasion::BeforeDrain), [node(1)].into());
        let removed = ((CLUSTER, Occasion::BeforeRemoval), [node(2)].into());
        assert_eq!(affected(&before, &after), [drained, removed].into());
        let mut leaving = agreed(3);
        leaving.k3s_nodes.get_mut(&node(2)).unwrap().phase = K3sPhase::Leaving;
        let removed = ((CLUSTER, Occasion::BeforeRemoval), [node(2)].into());
        assert_eq!(affected(&before, &leaving), [removed].into());
    }

    #[test]
    fn nothing_is_saved_for_an_agent_a_cordon_or_a_cluster_that_goes() {
        let mut before = agreed(1);
        before.k3s_nodes.insert(node(4), agent());
        let mut after = agreed(1);
        emptied(&mut after, 1, true);
        assert_eq!(affected(&before, &after), Affected::new());
        let mut given_up = before.clone();
        given_up.clusters = Agreed::default().clusters;
        given_up.k3s_nodes = Agreed::default().k3s_nodes;
        assert_eq!(affected(&before, &given_up), Affected::new());
    }

    #[test]
    fn emptying_a_server_that_etcd_cannot_do_without_says_so() {
        let mut three = agreed(3);
        emptied(&mut three, 1, false);
        assert!(standstills(&agreed(3), &three).is_empty());
        let mut one_left = three.clone();
        emptied(&mut one_left, 2, false);
        assert_eq!(standstills(&three, &one_left).len(), 1);
        let mut two = agreed(2);
        emptied(&mut two, 1, true);
        assert!(standstills(&agreed(2), &two).is_empty());
        emptied(&mut two, 1, false);
        assert!(standstills(&agreed(2), &two)[0].starts_with("cluster prod stands still"));
    }

    #[test]
    fn a_server_that_is_still_joining_lets_no_cluster_stand_still() {
        let mut before = agreed(4);
        let joining = before.k3s_nodes.get_mut(&node(4)).unwrap();
        joining.phase = K3sPhase::JoinRequest;
        joining.version = None;
        let mut after = before.clone();
        emptied(&mut after, 1, false);
        assert!(standstills(&before, &after).is_empty());
    }

    #[test]
    fn a_change_is_weighed_against_servers_alone() {
        let mut agreed = agreed(2);
        agreed.k3s_nodes.insert(node(3), agent());
        let heard = (2..=5).map(node).collect();
        assert_eq!(servers_among(&agreed, heard), [node(2)].into());
    }

    #[test]
    fn a_change_that_leaves_two_servers_says_so_once() {
        let said = two_servers(&agreed(1), &agreed(2));
        assert_eq!(said.len(), 1);
        assert!(said[0].starts_with("cluster prod now has two servers: "));
        assert_eq!(two_servers(&agreed(3), &agreed(2)).len(), 1);
        assert!(two_servers(&agreed(2), &agreed(2)).is_empty());
        assert!(two_servers(&agreed(2), &agreed(3)).is_empty());
        assert_eq!(warnings_of(&agreed(2), CLUSTER).len(), 1);
        assert!(warnings_of(&agreed(3), CLUSTER).is_empty());
    }
}
