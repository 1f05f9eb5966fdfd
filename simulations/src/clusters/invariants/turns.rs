//! In a change that goes round a cluster no server is stopped for it while another one that was stopped to
//! be changed is not up again; and when it is over, every node that is ready has it.
//!
//! Decides by what is done to processes and by what is agreed at that moment. A K3s that dies, or is started
//! again as it was, is nobody's turn. Source: SPEC 5.7; etcd's majority.

use std::collections::BTreeMap;

use consensus_core::{Agreed, ClusterStatus, K3sNode, K3sRole, LogIndex, RolloutKind};

use crate::node::node_id;

/// Servers that were stopped to be changed and are not up again, and the stay in which that was.
#[derive(Debug, Default)]
pub struct Turns {
    changing: BTreeMap<usize, LogIndex>,
}

impl Turns {
    /// A K3s is stopped to be started as something else.
    ///
    /// # Errors
    /// When another server of its cluster is down for the same reason.
    pub fn stopped(&mut self, agreed: &Agreed, node: usize) -> Result<(), String> {
        let Some(row) = settled(agreed, node) else {
            return Ok(());
        };
        let same = |other: &usize, stay: LogIndex| {
            let theirs = settled(agreed, *other);
            theirs.is_some_and(|theirs| (theirs.cluster, theirs.attempt) == (row.cluster, stay))
        };
        let mut others = self.changing.iter().filter(|(other, _)| **other != node);
        let other = others.find(|(other, begun)| same(other, **begun));
        if let Some((other, _)) = other {
            return Err(format!(
                "n{node} is stopped to be changed while n{other} is not up again"
            ));
        }
        self.changing.insert(node, row.attempt);
        Ok(())
    }

    /// It is up again, or never will be.
    pub fn over(&mut self, node: usize) {
        self.changing.remove(&node);
    }
}

/// A server whose part others count on.
fn settled(agreed: &Agreed, node: usize) -> Option<&K3sNode> {
    let row = agreed.k3s_nodes.get(&node_id(node))?;
    let counts = row.role == K3sRole::Server && row.has_been_ready() && !row.is_leaving();
    counts.then_some(row)
}

/// A change that is over has reached all.
///
/// # Errors
/// When it has not.
pub fn finished(before: &Agreed, after: &Agreed) -> Result<(), String> {
    for (id, was) in &before.clusters {
        let Some(now) = after.clusters.get(id) else {
            continue;
        };
        let (Some(rollout), None) = (&was.rollout, &now.rollout) else {
            continue;
        };
        if now.status != ClusterStatus::Active {
            continue;
        }
        let wanted = match &rollout.kind {
            RolloutKind::Upgrade { binary } => binary.version.as_ref(),
            RolloutKind::PodSubnet => None,
        };
        let mut ready = after.k3s_nodes_of(*id).filter(|(_, row)| row.is_ready());
        let other = ready.find(|(_, row)| {
            let version = wanted.is_some_and(|wanted| row.version.as_ref() != Some(wanted));
            version || row.generation < now.generation
        });
        if let Some((node, row)) = other {
            return Err(format!(
                "a change of {} to {wanted:?} is over, and {} is ready with {:?} of {}",
                now.name,
                after.name_of(node),
                row.version,
                row.generation
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use consensus_core::{ClusterId, K3sBinary, K3sPhase, WallMs};

    use super::*;

    fn agreed() -> Agreed {
        let mut agreed = Agreed::default();
        for node in 0..3 {
            let row = K3sNode {
                cluster: ClusterId::from_bytes([1; 16]),
                role: K3sRole::Server,
                attempt: LogIndex(3),
                binary: K3sBinary::INSTALLED,
                phase: K3sPhase::Starting,
                since: WallMs(0),
                token: None,
                version: Some("v1.31.2+k3s1".to_owned()),
                generation: LogIndex(3),
                pods: BTreeSet::new(),
            };
            agreed.k3s_nodes.insert(node_id(node), row);
        }
        agreed
    }

    #[test]
    fn two_servers_that_are_changed_at_once_are_found() {
        let (mut turns, mut agreed) = (Turns::default(), agreed());
        assert_eq!(turns.stopped(&agreed, 0), Ok(()));
        assert_eq!(turns.stopped(&agreed, 0), Ok(()));
        assert!(turns.stopped(&agreed, 1).is_err());
        turns.over(0);
        assert_eq!(turns.stopped(&agreed, 1), Ok(()));
        // Whoever began another stay is none of them any more.
        agreed.k3s_nodes.get_mut(&node_id(1)).unwrap().attempt = LogIndex(9);
        assert_eq!(turns.stopped(&agreed, 2), Ok(()));
    }
}
