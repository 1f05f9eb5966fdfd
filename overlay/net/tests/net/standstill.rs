//! Nodes that stand still, and consumers that do not consume.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use consensus_core::NodeId;
use overlay_core::membership::{Condition, Settings};
use overlay_net::{Channel, NodeKey, membership::Roster};
use tokio::sync::watch;

use crate::{
    authority::Authority,
    living::{Living, holds, live},
    membership::quick,
    nodes::{Node, until},
};

async fn all_alive(all: &[Living], ids: &BTreeSet<NodeId>) {
    until("all hold all alive", async || {
        all.iter()
            .all(|one| ids.iter().all(|id| holds(one, id, Condition::Alive)))
    })
    .await;
}

fn know_each_other(nodes: &[Node]) -> (BTreeSet<NodeId>, watch::Sender<Roster>) {
    for node in nodes {
        for other in nodes {
            if node.id != other.id {
                node.knows(other);
            }
        }
    }
    let ids: BTreeSet<NodeId> = nodes.iter().map(|node| node.id.clone()).collect();
    let nodes = ids.clone();
    (ids, watch::channel(Roster { nodes, salt: 7 }).0)
}

/// The usual timers, but for suspicions that would otherwise outlast the test.
fn usual() -> Settings {
    Settings {
        suspicion_max: Duration::from_secs(4),
        ..Settings::lan()
    }
}

/// The node's connections live in a runtime that is brought to a standstill far longer than any
/// suspicion lasts; its membership core goes on by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_connections_stand_still_accuses_nobody() {
    let authority = Authority::new(1);
    let carrier = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let mut nodes = vec![{
        let _inside = carrier.enter();
        Node::start(&authority, &NodeKey::generate())
    }];
    nodes.extend((0..3).map(|_| Node::start(&authority, &NodeKey::generate())));
    let (ids, roster) = know_each_other(&nodes);
    let all: Vec<Living> = (nodes.into_iter().zip(0..))
        .map(|(node, seed)| live(node, &roster, usual(), seed))
        .collect();
    all_alive(&all, &ids).await;

    let standstill = 2 * usual().suspicion_max;
    let stood = carrier.spawn(async move { std::thread::sleep(standstill) });
    let began = Instant::now();
    let still = &all[0];
    until(
        "it has come back, and a suspicion would have run out",
        async || {
            for (id, member) in still.members.borrow().iter() {
                let accused = matches!(member.condition, Condition::Suspect | Condition::Dead);
                assert!(!accused, "{id} is held {:?}", member.condition);
            }
            stood.is_finished() && began.elapsed() > standstill + usual().suspicion_max
        },
    )
    .await;
    all_alive(&all, &ids).await;
    tokio::task::spawn_blocking(move || carrier.shutdown_timeout(Duration::from_secs(1)))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_takes_nothing_does_not_hold_up_the_detector() {
    let authority = Authority::new(1);
    let nodes: Vec<Node> = (0..2)
        .map(|_| Node::start(&authority, &NodeKey::generate()))
        .collect();
    let (ids, roster) = know_each_other(&nodes);
    let all: Vec<Living> = (nodes.into_iter().zip(0..))
        .map(|(node, seed)| live(node, &roster, quick(), seed))
        .collect();
    all_alive(&all, &ids).await;
    let [from, to] = &all[..] else { panic!() };
    // Taken by nobody at the other end: bytes pile up until there is no room for more.
    let mut stream = from
        .node
        .net
        .open(&to.node.id, Channel::Watch)
        .await
        .unwrap();
    let stuck = tokio::spawn(async move { while stream.send(vec![0; 64 * 1024]).await.is_ok() {} });
    let calls = (0..300).map(|_| {
        let (net, to) = (from.node.net.clone(), to.node.id.clone());
        tokio::spawn(async move {
            net.call(&to, Channel::Command, vec![1], Duration::from_secs(1))
                .await
        })
    });
    let calls: Vec<_> = calls.collect();
    let began = Instant::now();
    until("three suspicions would have run out", async || {
        for (one, other) in [(from, to), (to, from)] {
            assert!(holds(one, &other.node.id, Condition::Alive));
        }
        began.elapsed() > 3 * quick().suspicion_max
    })
    .await;
    assert!(!stuck.is_finished(), "the stream is stuck, as it should be");
    for call in calls {
        assert!(call.await.unwrap().is_err(), "nobody answers");
    }
    stuck.abort();
}
