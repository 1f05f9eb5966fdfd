//! The membership core over real connections.

use std::{collections::BTreeSet, time::Duration};

use consensus_core::NodeId;
use overlay_core::membership::{Condition, Settings};
use overlay_net::{NodeKey, membership::Roster};
use tokio::sync::watch;

use crate::{
    authority::Authority,
    living::{Living, holds, live},
    nodes::{Node, PATIENCE, until},
};

/// Timers short enough for a test.
pub(crate) fn quick() -> Settings {
    Settings {
        period: Duration::from_millis(200),
        probe_timeout_min: Duration::from_millis(80),
        probe_timeout_max: Duration::from_millis(100),
        suspicion_min: Duration::from_millis(600),
        suspicion_max: Duration::from_secs(2),
        ..Settings::lan()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_find_each_other_through_one_address_and_miss_who_leaves_or_dies() {
    let authority = Authority::new(1);
    let nodes: Vec<Node> = (0..4)
        .map(|_| Node::start(&authority, &NodeKey::generate()))
        .collect();
    // Everybody knows where the first one is; the rest they must hear.
    for node in &nodes[1..] {
        node.knows(&nodes[0]);
    }
    let ids: BTreeSet<NodeId> = nodes.iter().map(|node| node.id.clone()).collect();
    let (roster, _) = watch::channel(Roster {
        nodes: ids.clone(),
        salt: 7,
    });
    let mut all: Vec<Living> = nodes
        .into_iter()
        .zip(0..)
        .map(|(node, seed)| live(node, &roster, quick(), seed))
        .collect();
    until("all hold all alive", async || {
        all.iter()
            .all(|one| ids.iter().all(|id| holds(one, id, Condition::Alive)))
    })
    .await;
    for one in &all {
        let connections = one.node.net.connections();
        let mut others = ids.clone();
        others.remove(&one.node.id);
        until("connected to all", async || {
            connections.borrow().keys().eq(others.iter())
        })
        .await;
    }

    let leaver = all.pop().unwrap();
    leaver.leave.send(()).unwrap();
    let record = tokio::time::timeout(PATIENCE, leaver.driver).await.unwrap();
    assert_eq!(record.unwrap().generation, 1);
    until("the leaver is gone", async || {
        all.iter().all(|one| {
            let members = one.members.borrow();
            members
                .get(&leaver.node.id)
                .is_some_and(|member| member.left)
        })
    })
    .await;

    let dead = all.pop().unwrap();
    dead.driver.abort();
    dead.node.net.clone().stop().await;
    until("the dead one is dead", async || {
        all.iter()
            .all(|one| holds(one, &dead.node.id, Condition::Dead))
    })
    .await;
    let survivors: Vec<_> = all.iter().map(|one| one.node.id.clone()).collect();
    for one in &all {
        for id in &survivors {
            assert!(holds(one, id, Condition::Alive));
        }
    }
}
