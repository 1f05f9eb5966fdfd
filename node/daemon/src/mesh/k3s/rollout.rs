//! A server's turn in a change that goes round its cluster: another K3s, another pod prefix.
//!
//! Decides: whether this server may stop being ready now. The others must be a majority of etcd
//! without it, as far as they are heard: a server that died says nothing of itself, so its row does
//! not tell. And the cluster is saved first (SPEC 5.12), because a newer K3s may write what an older
//! one does not read. Never: whose turn it is, which is agreed; what is done in it, which is planned.
//!
//! Invariant: of three servers or more, none is emptied for a change unless the others go on without it.

use std::collections::BTreeSet;

use consensus_core::{Agreed, Command, K3sRole, NodeId, VirtualIp};
use overlay_core::membership::Condition;
use overlay_net::membership::Members;
use runtimes_k3s::{
    Paths,
    snapshots::{self, SnapshotError},
};

use crate::mesh::proposer::Proposer;

/// How such a snapshot's name begins.
const SNAPSHOT: &str = "shoal-before-change";
/// With fewer servers etcd stands still for the turn anyhow.
const MAJORITY_OF: usize = 3;

/// Why a turn does not begin yet. It is tried again, and the change stops here meanwhile.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeldBack {
    /// The others could not go on.
    #[error(
        "the other servers are no majority of {members} without this one; not ready or not heard: {missing}"
    )]
    Quorum {
        /// Members of etcd.
        members: usize,
        /// The names of those that are missing.
        missing: String,
    },
    /// What is in the cluster could not be saved.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

impl HeldBack {
    /// Stable text for programs.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Quorum { .. } => "K3sQuorumAtRiskError",
            Self::Snapshot(error) => error.code(),
        }
    }

    /// What to do about it.
    pub(super) fn hint(&self) -> &'static str {
        match self {
            Self::Quorum { .. } => {
                "bring them back, or take them out: `shoal module unassign NODE k3s-server`"
            }
            Self::Snapshot(_) => "look at K3s's log on this node",
        }
    }
}

/// Gets ready for this node's turn, once: nothing is done again for one that is being emptied.
pub(super) async fn begin(
    agreed: &Agreed,
    me: &NodeId,
    members: &Members,
    paths: &Paths,
) -> Result<(), HeldBack> {
    let row = agreed.k3s_nodes.get(me);
    if row.is_none_or(|row| row.role == K3sRole::Agent) || paths.vacated().exists() {
        return Ok(());
    }
    let alive = members.iter();
    let alive = alive.filter(|(_, member)| member.condition == Condition::Alive);
    let heard: BTreeSet<&NodeId> = alive.map(|(id, _)| id).collect();
    check_quorum(agreed, me, &heard)?;
    let taken = snapshots::take(paths, SNAPSHOT).await?;
    tracing::info!(name = taken.name, "k3s: saved before it is changed");
    Ok(())
}

/// Asks for the API's address to be moved to another server, which costs milliseconds. Where that is
/// refused it goes once this one says that it is being emptied; its K3s does not stop before.
pub(super) async fn let_address_go(proposer: &Proposer, agreed: &Agreed) {
    let me = &proposer.me;
    let cluster = agreed.k3s_nodes.get(me).map(|row| row.cluster);
    let Some(cluster) = cluster.and_then(|id| agreed.clusters.get(&id)) else {
        return;
    };
    let vip = agreed.virtual_ips.get(&cluster.vip);
    let others = |vip: &&VirtualIp| vip.candidates.iter().any(|candidate| candidate != me);
    if vip.filter(others).is_none_or(|vip| !vip.is_holder(me)) {
        return;
    }
    let members = proposer.members.borrow().clone();
    let alive = members.iter();
    let alive = alive.filter(|(id, member)| *id != me && member.condition == Condition::Alive);
    let command = Command::RequestFailover {
        vip: cluster.vip.to_string(),
        to: None,
        reachable: alive.map(|(id, _)| id.clone()).collect(),
    };
    if let Err(error) = proposer.submit(command).await {
        tracing::info!(
            reason = error.message,
            "k3s: the API's address stays for now"
        );
    }
}

fn check_quorum(agreed: &Agreed, me: &NodeId, heard: &BTreeSet<&NodeId>) -> Result<(), HeldBack> {
    let Some(cluster) = agreed.k3s_nodes.get(me).map(|row| row.cluster) else {
        return Ok(());
    };
    // One that was never ready is no member of etcd yet.
    let servers = agreed.k3s_servers_of(cluster);
    let servers = servers.filter(|(_, row)| row.has_been_ready());
    let (mut members, mut others, mut missing) = (0, 0, Vec::new());
    for (id, row) in servers {
        members += 1;
        if id == me {
            continue;
        }
        match row.is_ready() && heard.contains(id) {
            true => others += 1,
            false => missing.push(agreed.name_of(id)),
        }
    }
    if members < MAJORITY_OF || others > members / 2 {
        return Ok(());
    }
    Err(HeldBack::Quorum {
        members,
        missing: missing.join(", "),
    })
}

#[cfg(test)]
mod tests {
    use consensus_core::{ClusterId, K3sBinary, K3sNode, K3sPhase, LogIndex, WallMs};

    use super::*;

    fn node(n: usize) -> NodeId {
        let letter = ["a", "b", "c", "d", "e", "f"][n];
        let text = format!("12D3KooW{}", letter.repeat(44));
        text.parse().expect("52 characters of base58")
    }

    /// A cluster of so many servers, all ready, from node 1 on.
    fn of(servers: usize) -> Agreed {
        let mut agreed = Agreed::default();
        for n in 1..=servers {
            let row = K3sNode {
                cluster: ClusterId::from_bytes([7; 16]),
                role: K3sRole::Server,
                attempt: LogIndex(3),
                binary: K3sBinary::INSTALLED,
                phase: K3sPhase::Ready {
                    version: "v1.31.2+k3s1".into(),
                },
                since: WallMs(0),
                token: None,
                version: Some("v1.31.2+k3s1".into()),
                generation: LogIndex(3),
                pods: BTreeSet::new(),
            };
            agreed.k3s_nodes.insert(node(n), row);
        }
        agreed
    }

    fn may_begin(agreed: &Agreed, heard: &[usize]) -> bool {
        let nodes: Vec<NodeId> = heard.iter().map(|n| node(*n)).collect();
        check_quorum(agreed, &node(1), &nodes.iter().collect()).is_ok()
    }

    #[test]
    fn a_server_stops_only_while_the_others_are_a_majority() {
        for (servers, heard, may) in [
            (3, &[2, 3][..], true),
            (3, &[2], false),
            (5, &[2, 3, 4, 5], true),
            (5, &[2, 3, 4], true),
            (5, &[2, 3], false),
        ] {
            assert_eq!(may_begin(&of(servers), heard), may, "{servers}, {heard:?}");
        }
    }

    #[test]
    fn fewer_than_three_servers_have_no_majority_to_lose() {
        assert!(may_begin(&of(1), &[]));
        assert!(may_begin(&of(2), &[2]));
    }

    #[test]
    fn a_server_that_says_itself_that_it_is_not_ready_is_missing() {
        let mut agreed = of(3);
        let row = agreed.k3s_nodes.get_mut(&node(2)).unwrap();
        row.phase = K3sPhase::Starting;
        assert!(!may_begin(&agreed, &[2, 3]));
    }

    #[test]
    fn a_server_that_is_still_joining_is_no_member_yet() {
        let mut agreed = of(4);
        let row = agreed.k3s_nodes.get_mut(&node(4)).unwrap();
        row.phase = K3sPhase::JoinRequest;
        row.version = None;
        assert!(may_begin(&agreed, &[2, 3]));
    }
}
