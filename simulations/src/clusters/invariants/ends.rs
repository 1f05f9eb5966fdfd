//! When nothing strikes any more, every node is ready in its cluster or clean, and a cluster that is not
//! active says why.
//!
//! Decides by what is agreed and by what is on the hosts. Source: SPEC 5.1 to 5.3, whose handshakes all
//! wait for somebody's word.

use consensus_core::{Agreed, Cluster, ClusterId, ClusterStatus, K3sPhase, RolloutKind};

use crate::node::node_id;

/// What a host has at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Whether nothing of K3s is on it.
    pub clean: bool,
    /// Whether its K3s is ready, and in which cluster.
    pub ready: Option<ClusterId>,
}

/// Looks at what is agreed and at the hosts.
///
/// # Errors
/// What is not at its end.
pub fn check(agreed: &Agreed, hosts: &[Found]) -> Result<(), String> {
    for (id, cluster) in &agreed.clusters {
        let name = &cluster.name;
        match &cluster.status {
            ClusterStatus::Bootstrapping => {
                return Err(format!("cluster {name} is still bootstrapping"));
            }
            ClusterStatus::Active if is_being_changed(agreed, *id, cluster) => {
                return Err(format!("cluster {name} is still being changed"));
            }
            ClusterStatus::Error { reason } if reason.is_empty() => {
                return Err(format!("cluster {name} does not say what is wrong"));
            }
            ClusterStatus::Active | ClusterStatus::Error { .. } => {}
        }
    }
    for (index, found) in hosts.iter().enumerate() {
        let Some(row) = agreed.k3s_nodes.get(&node_id(index)) else {
            if found.clean {
                continue;
            }
            return Err(format!(
                "n{index} is in no cluster, and something is left on it"
            ));
        };
        let Some(cluster) = agreed.clusters.get(&row.cluster) else {
            return Err(format!("n{index} is in a cluster that is no more"));
        };
        if matches!(cluster.status, ClusterStatus::Error { .. }) {
            continue;
        }
        if !row.is_ready() || found.ready != Some(row.cluster) {
            let reason = match &row.phase {
                K3sPhase::Failed { reason, .. } => format!(": {reason}"),
                K3sPhase::Assigned
                | K3sPhase::Installing
                | K3sPhase::Bootstrap
                | K3sPhase::JoinRequest
                | K3sPhase::JoinTokenIssued
                | K3sPhase::Starting
                | K3sPhase::Ready { .. }
                | K3sPhase::Leaving
                | K3sPhase::Stopped
                | K3sPhase::Drained => String::new(),
            };
            return Err(format!(
                "n{index} is {} in cluster {}{reason}, and {found:?}",
                row.phase.as_str(),
                cluster.name
            ));
        }
    }
    Ok(())
}

/// Whether a change has an end to come to by itself. An upgrade that failed at a node that was taken out is
/// its operator's to give again.
fn is_being_changed(agreed: &Agreed, id: ClusterId, cluster: &Cluster) -> bool {
    let Some(rollout) = &cluster.rollout else {
        return false;
    };
    let upgrades = matches!(rollout.kind, RolloutKind::Upgrade { .. });
    let is_in = |node| {
        agreed
            .k3s_nodes
            .get(node)
            .is_some_and(|row| row.cluster == id)
    };
    let stopped = rollout
        .failed
        .as_ref()
        .is_some_and(|(node, _)| !is_in(node));
    !(upgrades && stopped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_on_a_host_is_found() {
        let agreed = Agreed::default();
        let found = |clean| Found { clean, ready: None };
        assert_eq!(check(&agreed, &[found(true)]), Ok(()));
        assert!(check(&agreed, &[found(true), found(false)]).is_err());
    }
}
