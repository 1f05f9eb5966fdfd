//! Up to where in the log this node has put into force what was agreed: who is believed, whose
//! connections stand, whose WireGuard peers there are.
//!
//! Decides what counts as enforced: the slowest of the three. Asks others the same, for those who
//! want to know when a revocation holds everywhere.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use consensus_core::{LogIndex, NodeFacts, NodeId};
use futures::{StreamExt as _, stream};
use node_api::types::{EnforcedBy, Enforcement};
use overlay_net::Channel;
use tokio::{
    sync::watch,
    time::{Instant as Deadline, timeout_at},
};

use super::{
    overlay::OverlayStatus,
    peer_wire::{PeerAnswer, PeerRequest, decode, encode},
    proposer::Proposer,
};

/// How long a node is waited for. Whoever is up enforces in milliseconds; more is silence.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Nodes asked at once.
const ASKED_AT_ONCE: usize = 64;

/// What this node has put into force.
#[derive(Clone)]
pub(crate) struct Enforced {
    /// Verifier and connections.
    pub(crate) net: watch::Receiver<LogIndex>,
    /// WireGuard peers.
    pub(crate) overlay: watch::Receiver<OverlayStatus>,
}

impl Enforced {
    /// Up to where.
    pub(crate) fn index(&self) -> LogIndex {
        let net = *self.net.borrow();
        let overlay = self.overlay.borrow().enforced;
        net.min(overlay)
    }

    /// Waits, within bounds, until it is as far as `index`. Tells how far it is then.
    pub(crate) async fn at_least(&self, index: LogIndex) -> LogIndex {
        let (mut net, mut overlay) = (self.net.clone(), self.overlay.clone());
        let until = Deadline::now() + ANSWER_WITHIN;
        // A missed deadline shows in the index.
        let _ = timeout_at(until, net.wait_for(|now| *now >= index)).await;
        let _ = timeout_at(until, overlay.wait_for(|now| now.enforced >= index)).await;
        self.index()
    }
}

/// What every member of the mesh says of itself, this node included; none for who does not answer.
pub(crate) async fn ask_all(
    proposer: &Proposer,
    enforced: &Enforced,
    own_leaf: Option<String>,
    index: LogIndex,
) -> BTreeMap<NodeId, Option<(NodeFacts, Duration)>> {
    let nodes: Vec<NodeId> = proposer.views.view().agreed.nodes.keys().cloned().collect();
    ask_these(nodes, proposer, enforced, own_leaf, index).await
}

/// The same of some.
pub(crate) async fn ask_these(
    nodes: Vec<NodeId>,
    proposer: &Proposer,
    enforced: &Enforced,
    own_leaf: Option<String>,
    index: LogIndex,
) -> BTreeMap<NodeId, Option<(NodeFacts, Duration)>> {
    let began = Instant::now();
    let asked = stream::iter(nodes).map(|node| {
        let own_leaf = own_leaf.clone();
        async move {
            let facts = if node == proposer.me {
                let enforced = enforced.at_least(index).await;
                Some(NodeFacts {
                    enforced,
                    leaf: own_leaf,
                })
            } else {
                ask(proposer, &node, index).await
            };
            (node, facts.map(|facts| (facts, began.elapsed())))
        }
    });
    asked.buffer_unordered(ASKED_AT_ONCE).collect().await
}

async fn ask(proposer: &Proposer, node: &NodeId, index: LogIndex) -> Option<NodeFacts> {
    let body = encode(&PeerRequest::Enforced { index });
    let answer = proposer
        .net
        .call(
            node,
            Channel::Command,
            body,
            ANSWER_WITHIN + ANSWER_WITHIN / 2,
        )
        .await;
    match decode::<PeerAnswer>(&answer.ok()?).ok()? {
        PeerAnswer::Enforced(facts) => Some(facts),
        PeerAnswer::Applied(..)
        | PeerAnswer::NotLeader(_)
        | PeerAnswer::NoMajority { .. }
        | PeerAnswer::Enrolled(_)
        | PeerAnswer::Certificate { .. }
        | PeerAnswer::ReadAt(_)
        | PeerAnswer::RotationBegun(_)
        | PeerAnswer::Failed(_)
        | PeerAnswer::Probed(_)
        | PeerAnswer::Vip(_)
        | PeerAnswer::Cluster(_)
        | PeerAnswer::Departing => None,
    }
}

/// The same for an operator: who has put the change at `index` into force, and when.
pub(crate) async fn enforcement(
    proposer: &Proposer,
    enforced: &Enforced,
    index: LogIndex,
) -> Enforcement {
    let answers = ask_all(proposer, enforced, None, index).await;
    let agreed = proposer.views.view().agreed.clone();
    let ms = |took: Duration| u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let mut each: Vec<EnforcedBy> = answers
        .into_iter()
        .map(|(node, answer)| {
            let node = agreed.name_of(&node);
            match answer {
                Some((facts, took)) if facts.enforced >= index => EnforcedBy {
                    node,
                    after_ms: Some(ms(took)),
                    reason: None,
                },
                Some((facts, _)) => EnforcedBy {
                    node,
                    after_ms: None,
                    reason: Some(format!("it is at log index {}", facts.enforced)),
                },
                None => EnforcedBy {
                    node,
                    after_ms: None,
                    reason: Some("it does not answer; it enforces when it is back".to_owned()),
                },
            }
        })
        .collect();
    each.sort_by(|a, b| a.node.cmp(&b.node));
    let done = each.iter().filter_map(|node| node.after_ms);
    Enforcement {
        nodes: each.len() as u64,
        enforced: done.clone().count() as u64,
        last_ms: done.max(),
        each,
    }
}
