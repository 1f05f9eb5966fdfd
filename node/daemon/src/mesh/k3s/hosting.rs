//! What a ready server does for its cluster: it gives tokens to who asked, and lets the cluster
//! forget who has left.
//!
//! Decides: nothing that the agreed state does not say; of several ready servers the first one that
//! is heard acts, and what another did meanwhile changes nothing. Never: shows a token to anybody
//! but the node that it is sealed to.

use std::{collections::BTreeSet, time::Duration};

use consensus_authority::seal;
use consensus_core::{
    Agreed, ClusterCommand, ClusterId, Command, K3sNode, K3sPhase, K3sRole, NodeId, SealedKey,
};
use overlay_core::membership::Condition;
use runtimes_k3s::{K3sRuntime, Paths};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::mesh::{MembersRx, overlay::with_sources, proposer::Proposer};

/// After something that did not work.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// What K3s does before a node is gone, an etcd member's removal for one, is a matter of its leading
/// server's next look; afterwards there is the next try.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(5);

/// The task's inputs.
pub(crate) struct Hosting {
    pub(crate) proposer: Proposer,
    pub(crate) members: MembersRx,
    pub(crate) paths: Paths,
    pub(crate) stop: CancellationToken,
}

impl Hosting {
    /// Runs until cancelled.
    pub(crate) async fn run(self) {
        let runtime = K3sRuntime::new(self.paths.clone());
        let (mut view, mut members) = (self.proposer.views.watch(), self.members.clone());
        loop {
            let agreed = view.borrow_and_update().agreed.clone();
            let heard = self.heard(&members.borrow_and_update());
            let failed = tokio::select! {
                // As by a crash: what is not agreed by then is done by whoever acts next.
                () = self.stop.cancelled() => return,
                failed = self.act(&runtime, &agreed, &heard) => failed,
            };
            // All arms only wait; everything is looked at anew above.
            tokio::select! {
                () = self.stop.cancelled() => return,
                changed = view.changed() => if changed.is_err() { return },
                changed = members.changed() => if changed.is_err() { return },
                () = sleep(RETRY_PAUSE), if failed => {}
            }
        }
    }

    /// Does what its cluster waits for. Whether some of it did not work.
    async fn act(&self, runtime: &K3sRuntime, agreed: &Agreed, heard: &BTreeSet<NodeId>) -> bool {
        let Some(cluster) = self.acts_for(agreed, heard) else {
            return false;
        };
        let issued = self.issue(runtime, agreed, cluster).await;
        let forgotten = self.forget(runtime, agreed, cluster).await;
        issued.is_err() || forgotten.is_err()
    }

    fn heard(&self, members: &overlay_net::membership::Members) -> BTreeSet<NodeId> {
        let alive = members
            .iter()
            .filter(|(_, member)| member.condition == Condition::Alive);
        let me = std::iter::once(self.proposer.me.clone());
        alive.map(|(id, _)| id.clone()).chain(me).collect()
    }

    /// The cluster that this node speaks for now.
    fn acts_for(&self, agreed: &Agreed, heard: &BTreeSet<NodeId>) -> Option<ClusterId> {
        let me = &self.proposer.me;
        let cluster = agreed.k3s_nodes.get(me)?.cluster;
        (agreed.token_issuer(cluster, heard) == Some(me)).then_some(cluster)
    }

    /// Gives every node its token that asked for it.
    async fn issue(
        &self,
        runtime: &K3sRuntime,
        agreed: &Agreed,
        cluster: ClusterId,
    ) -> Result<(), ()> {
        let Some(row) = agreed.clusters.get(&cluster) else {
            return Ok(());
        };
        let asks = |(id, node): &(&NodeId, &K3sNode)| {
            let known = row.departed.contains_key(&agreed.name_of(id));
            node.phase == K3sPhase::JoinRequest && !known
        };
        let mut done = Ok(());
        for (node, asked) in agreed.k3s_nodes_of(cluster).filter(asks) {
            let issued = self.issue_to(runtime, agreed, node, asked).await;
            if let Err(reason) = issued {
                tracing::warn!(
                    node = agreed.name_of(node),
                    reason,
                    "no token was issued yet"
                );
                done = Err(());
            }
        }
        done
    }

    async fn issue_to(
        &self,
        runtime: &K3sRuntime,
        agreed: &Agreed,
        node: &NodeId,
        asked: &K3sNode,
    ) -> Result<(), String> {
        let token = runtime
            .token_for(asked.role)
            .map_err(|error| with_sources(&error))?;
        let Some(row) = agreed.nodes.get(node) else {
            return Ok(());
        };
        let recipients = BTreeSet::from([row.sealing_recipient.clone()]);
        let age = seal(&token.to_bytes(), &recipients).map_err(|error| error.to_string())?;
        let command = Command::Cluster(ClusterCommand::IssueToken {
            node: node.clone(),
            attempt: asked.attempt,
            token: SealedKey { recipients, age },
        });
        let agreed = self.proposer.submit(command).await;
        agreed.map(drop).map_err(|error| error.to_string())
    }

    /// Has the cluster forget who is not in it any more, as long as their names are not in use again.
    async fn forget(
        &self,
        runtime: &K3sRuntime,
        agreed: &Agreed,
        cluster: ClusterId,
    ) -> Result<(), ()> {
        let departed = agreed
            .clusters
            .get(&cluster)
            .map(|row| row.departed.clone());
        let departed = departed.filter(|names| !names.is_empty());
        let Some(names) = departed else { return Ok(()) };
        let forgotten = async {
            let api = runtime
                .api(K3sRole::Server)
                .await
                .map_err(|e| with_sources(&e))?;
            let by = Instant::now() + FORGOTTEN_WITHIN;
            let (mut gone, mut stays) = (names.clone(), None);
            for name in names.keys() {
                let within = by.saturating_duration_since(Instant::now());
                let forgotten = match api.forget_wholly(name, within).await {
                    Ok(true) => continue,
                    Ok(false) => "its finalizers are not done".to_owned(),
                    Err(error) => with_sources(&error),
                };
                gone.remove(name);
                stays = Some(format!("{name}: {forgotten}"));
            }
            if !gone.is_empty() {
                let names = gone;
                let command = Command::Cluster(ClusterCommand::ForgetNodes { cluster, names });
                let agreed = self.proposer.submit(command).await;
                agreed.map_err(|error| error.to_string())?;
            }
            stays.map_or(Ok(()), Err)
        };
        forgotten.await.map_err(|reason: String| {
            tracing::warn!(reason, "the cluster has not forgotten yet who left it");
        })
    }
}
