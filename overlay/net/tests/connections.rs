//! How many connections a node has in a mesh far larger than its neighbourhood. A test binary of
//! its own, because so many nodes in one process leave no time for others.
#![allow(
    clippy::unwrap_used,
    reason = "the whole crate is tests, which clippy sees only inside test functions"
)]

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use consensus_core::NodeId;
use overlay_core::membership::{Condition, Settings};
use overlay_net::{Channel, NodeKey, membership::Roster};
use tokio::sync::watch;

#[allow(dead_code, reason = "the other test binary uses the rest")]
#[path = "net/authority.rs"]
mod authority;
#[allow(dead_code, reason = "the other test binary uses the rest")]
#[path = "net/living.rs"]
mod living;
#[allow(dead_code, reason = "the other test binary uses the rest")]
#[path = "net/nodes.rs"]
mod nodes;

/// Far above 17, below which everyone is connected to everyone.
const NODES: usize = 32;
/// Successors and predecessors on eight rings.
const NEIGHBOURS: usize = 16;
/// Own random edges and others', a digest to a random member, and what is just ending.
const SLACK_MEAN: usize = 7;
/// Random edges do not spread evenly.
const SLACK_MAX: usize = 14;
/// So many nodes share one machine with everything else that runs on it.
const PATIENCE: Duration = Duration::from_secs(480);

async fn within(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_keeps_the_connections_of_its_rings_and_sheds_the_others() {
    let authority = authority::Authority::new(1);
    let mut nodes: Vec<_> = (0..NODES)
        .map(|_| nodes::Node::start(&authority, &NodeKey::generate()))
        .collect();
    for node in &mut nodes {
        node.echo(Channel::Command);
    }
    for node in &nodes[1..] {
        node.knows(&nodes[0]);
    }
    let ids: BTreeSet<NodeId> = nodes.iter().map(|node| node.id.clone()).collect();
    let (roster, _) = watch::channel(Roster {
        nodes: ids.clone(),
        salt: 7,
    });
    let all: Vec<_> = (nodes.into_iter().zip(0..))
        .map(|(node, seed)| living::live(node, &roster, Settings::lan(), seed))
        .collect();
    within("all hold all alive", || {
        all.iter().all(|one| {
            ids.iter()
                .all(|id| living::holds(one, id, Condition::Alive))
        })
    })
    .await;

    // A node that has just talked to everybody, as the daemon of a server does.
    let busy = &all[0];
    for other in &all[1..] {
        let call = busy
            .node
            .net
            .call(&other.node.id, Channel::Command, vec![1], PATIENCE);
        call.await.unwrap();
    }
    let count = |one: &living::Living| one.node.net.connections().borrow().len();
    assert_eq!(count(busy), NODES - 1);

    let mut counts = Vec::new();
    within("only neighbours are connected", || {
        counts = all.iter().map(count).collect();
        let sum: usize = counts.iter().sum();
        let max = counts.iter().max().unwrap();
        sum <= NODES * (NEIGHBOURS + SLACK_MEAN) && *max <= NEIGHBOURS + SLACK_MAX
    })
    .await;
    counts.sort_unstable();
    eprintln!("connections of {NODES} nodes: {counts:?}");
}
