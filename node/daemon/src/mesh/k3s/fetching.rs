//! A K3s that is being fetched while something else comes to be wanted.
//!
//! Decides: when nobody wants it any more. A file server may send for half an hour, and who unassigns the
//! node, or names another K3s, is not to wait for that. Whatever is there by then is in files that the
//! manifest names, and the next step writes them anew or takes them off. Never: ends a K3s that runs.

use std::{collections::BTreeSet, future::pending};

use consensus_core::{Agreed, K3sBinary, LogIndex, NodeId};
use runtimes_core::k3s::wish::desired;

use super::{K3s, Wish};

impl K3s {
    /// Waits until another K3s is wanted than in this wish, or none. Cancel-safe: it only waits.
    pub(super) async fn wanted_otherwise(&self, wish: &Wish) {
        let stay = wish.desired.stay.as_ref();
        let before = stay.map(|stay| (stay.attempt, stay.binary.clone()));
        let me = &self.proposer.me;
        let mut view = self.proposer.views.watch_at_once();
        let otherwise = view.wait_for(|view| wanted(&view.agreed, me) != before);
        if otherwise.await.is_err() {
            // There will be no more views: the daemon ends.
            pending().await
        }
    }
}

/// Which K3s is wanted here, and in which stay.
fn wanted(agreed: &Agreed, me: &NodeId) -> Option<(LogIndex, K3sBinary)> {
    // Who is heard matters to the API's address alone.
    let stay = desired(agreed, me, &BTreeSet::new()).stay?;
    Some((stay.attempt, stay.binary))
}

#[cfg(test)]
mod tests {
    use consensus_core::{BinaryOrigin, ClusterStatus, K3sPhase};

    use super::*;
    use crate::mesh::k3s::testing::{founded, node, of};

    /// A node whose K3s is on its way.
    fn fetching(status: ClusterStatus) -> Agreed {
        let mut agreed = of(1);
        founded(&mut agreed, status);
        agreed.k3s_nodes.get_mut(&node(1)).unwrap().phase = K3sPhase::Installing;
        agreed
    }

    #[test]
    fn who_is_unassigned_or_to_have_another_k3s_does_not_want_the_one_that_is_fetched() {
        let agreed = fetching(ClusterStatus::Bootstrapping);
        let before = wanted(&agreed, &node(1));
        assert!(before.is_some());
        let changed = |change: &dyn Fn(&mut consensus_core::K3sNode)| {
            let mut agreed = agreed.clone();
            change(agreed.k3s_nodes.get_mut(&node(1)).unwrap());
            wanted(&agreed, &node(1))
        };
        assert_eq!(changed(&|row| row.phase = K3sPhase::Leaving), None);
        let another = changed(&|row| row.binary.origin = Some(BinaryOrigin::Path("/k3s".into())));
        assert!(another.is_some() && another != before);
        assert_ne!(changed(&|row| row.attempt = LogIndex(9)), before);
        let mut gone = agreed.clone();
        gone.k3s_nodes.remove(&node(1));
        assert_eq!(wanted(&gone, &node(1)), None);
        // How far it is, and how its cluster is, changes nothing about it.
        assert_eq!(changed(&|row| row.phase = K3sPhase::Assigned), before);
        let active = fetching(ClusterStatus::Active);
        assert_eq!(wanted(&active, &node(1)), before);
    }
}
