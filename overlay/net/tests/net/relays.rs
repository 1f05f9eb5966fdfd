//! Nodes that cannot be dialled: their places at relays, and circuits through them.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use consensus_core::NodeId;
use overlay_core::membership::Condition;
use overlay_net::{Channel, Credentials, Net, NodeKey, Path, Settings, Ways, membership::Roster};
use tokio::sync::watch;

use crate::{
    authority::Authority,
    living::{Living, holds, live, live_at},
    membership::quick,
    nodes::{LOCAL, Node, PATIENCE, until},
};

/// Relays that listen, and nodes that tell nobody where they are.
struct Site {
    relays: Vec<Living>,
    hidden: Vec<Living>,
    _roster: watch::Sender<Roster>,
}

fn ways(relaying: bool, relays: &[Node]) -> Ways {
    Ways {
        relaying,
        relays: relays.iter().map(|relay| relay.id.clone()).collect(),
        reachable: Some(relaying),
        seeds: BTreeSet::new(),
    }
}

fn site(relays: usize, hidden: Vec<Node>, authority: &Authority) -> Site {
    let relays: Vec<Node> = (0..relays)
        .map(|_| Node::start(authority, &NodeKey::generate()))
        .collect();
    for node in &relays {
        node.net.set_ways(ways(true, &relays));
        for other in &relays {
            if node.id != other.id {
                node.knows(other);
            }
        }
    }
    for node in &hidden {
        node.net.set_ways(ways(false, &relays));
        for relay in &relays {
            node.knows(relay);
        }
    }
    let ids = relays.iter().chain(&hidden).map(|node| node.id.clone());
    let (roster, _) = watch::channel(Roster {
        nodes: ids.collect(),
        salt: 7,
    });
    let relays =
        (relays.into_iter().zip(0..)).map(|(node, seed)| live(node, &roster, quick(), seed));
    let relays = relays.collect();
    let hidden = hidden.into_iter().zip(100..);
    let hidden = hidden.map(|(node, seed)| live_at(node, &roster, quick(), seed, Vec::new()));
    Site {
        relays,
        hidden: hidden.collect(),
        _roster: roster,
    }
}

fn hidden(authority: &Authority) -> Node {
    let mut node = Node::start(authority, &NodeKey::generate());
    node.echo(Channel::Command);
    node
}

fn path(from: &Net, to: &NodeId) -> Option<Path> {
    let connections = from.connections();
    let known = connections.borrow().get(to).cloned();
    known.map(|connection| connection.path)
}

async fn settled(site: &Site) {
    let all: Vec<&Living> = site.relays.iter().chain(&site.hidden).collect();
    until("everyone holds everyone alive", async || {
        all.iter().all(|one| {
            all.iter()
                .all(|other| holds(one, &other.node.id, Condition::Alive))
        })
    })
    .await;
}

async fn places(node: &Living, count: usize) -> Vec<NodeId> {
    let mut relays = node.node.net.relays();
    let held = relays.wait_for(|relays| relays.len() == count);
    let held = tokio::time::timeout(PATIENCE, held);
    held.await.expect("never got its places").unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_that_cannot_be_dialled_are_members_and_meet_through_a_relay() {
    let authority = Authority::new(1);
    let site = site(2, vec![hidden(&authority), hidden(&authority)], &authority);
    let [one, other] = &site.hidden[..] else {
        panic!()
    };
    places(one, 2).await;
    places(other, 2).await;
    settled(&site).await;
    let answer = one
        .node
        .net
        .call(&other.node.id, Channel::Command, vec![7], PATIENCE);
    assert_eq!(answer.await.unwrap(), [7]);
    let relays: BTreeSet<NodeId> = site
        .relays
        .iter()
        .map(|relay| relay.node.id.clone())
        .collect();
    for (from, to) in [(one, other), (other, one)] {
        let taken = path(&from.node.net, &to.node.id);
        let Some(Path::Relayed { via: Some(via) }) = taken else {
            panic!("{taken:?}")
        };
        assert!(relays.contains(&via));
    }
    until("its record says where it is reached", async || {
        let members = other.members.borrow();
        let told = members[&one.node.id].record.relays.iter().cloned();
        told.collect::<BTreeSet<NodeId>>() == relays
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_dies_is_replaced_and_its_nodes_stay_members() {
    let authority = Authority::new(1);
    let mut site = site(3, vec![hidden(&authority), hidden(&authority)], &authority);
    settled(&site).await;
    let held = places(&site.hidden[0], 2).await;
    let dies = (site
        .relays
        .iter()
        .position(|relay| relay.node.id == held[0]))
    .unwrap();
    let dead = site.relays.remove(dies);
    dead.driver.abort();
    dead.node.net.clone().stop().await;
    let mut relays = site.hidden[0].node.net.relays();
    let replaced = relays.wait_for(|now| now.len() == 2 && !now.contains(&held[0]));
    tokio::time::timeout(PATIENCE, replaced)
        .await
        .expect("never replaced")
        .unwrap();
    let [one, other] = &site.hidden[..] else {
        panic!()
    };
    until("they reach each other", async || {
        let call = one
            .node
            .net
            .call(&other.node.id, Channel::Command, vec![1], PATIENCE);
        call.await.is_ok()
    })
    .await;
    assert!(!holds(one, &other.node.id, Condition::Dead));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_is_renewed_before_it_ends() {
    let authority = Authority::new(1);
    let life = Duration::from_secs(4);
    let start = || {
        let key = NodeKey::generate();
        let (credentials, watched) = Authority::watched(authority.credentials(&key));
        let settings = Settings {
            reservation: life,
            ..Settings::new(key.clone(), vec![LOCAL], watched)
        };
        let (net, incoming) = Net::start(settings).unwrap();
        Node {
            id: key.node_id(),
            net,
            incoming,
            credentials,
        }
    };
    let relay = start();
    let node = start();
    let mut other = start();
    other.echo(Channel::Command);
    for one in [&node, &other] {
        one.knows(&relay);
    }
    let relays = [relay];
    relays[0].net.set_ways(ways(true, &relays));
    other.net.set_ways(ways(false, &relays));
    let mut held = other.net.relays();
    tokio::time::timeout(PATIENCE, held.wait_for(|held| held.len() == 1))
        .await
        .unwrap()
        .unwrap();
    held.mark_unchanged();
    let granted = Instant::now();
    // Past two lives: an unrenewed place would be gone at the relay.
    until("two lives pass", async || {
        granted.elapsed() > 2 * life + Duration::from_secs(1)
    })
    .await;
    assert!(!held.has_changed().unwrap(), "never lost in between");
    node.net
        .set_relays_of(other.id.clone(), vec![relays[0].id.clone()]);
    let answer = node
        .net
        .call(&other.id, Channel::Command, vec![3], PATIENCE)
        .await;
    assert_eq!(answer.unwrap(), [3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gate_stands_at_the_end_of_a_circuit_too() {
    let authority = Authority::new(1);
    let refused = hidden(&authority);
    let strict = hidden(&authority);
    let chain = refused.credentials.borrow().chain.clone();
    let now = consensus_authority::wall(std::time::SystemTime::now());
    let serial = authority.trust(&[]).verify(&chain, now).unwrap();
    let serial = serial.serial().to_owned();
    // The relay believes both; only the node at the circuit's end knows of the revocation.
    let mut credentials = Credentials::clone(&strict.credentials.borrow());
    credentials.trust = Arc::new(authority.trust(&[&serial]));
    strict.credentials.send_replace(Arc::new(credentials));
    let site = site(1, vec![refused, strict], &authority);
    let [refused, strict] = &site.hidden[..] else {
        panic!()
    };
    places(strict, 1).await;
    let relay = site.relays[0].node.id.clone();
    refused
        .node
        .net
        .set_relays_of(strict.node.id.clone(), vec![relay]);
    // The strict one dials as well, and what it dials ends as soon as it has seen the certificate:
    // a call on such a connection fails too, without saying why.
    until("the one who is refused is told why", async || {
        let to = &strict.node.id;
        let call = refused
            .node
            .net
            .call(to, Channel::Command, vec![7], PATIENCE);
        let error = call.await.unwrap_err();
        error.code() == "AdmissionRevokedError"
    })
    .await;
    assert_eq!(path(&strict.node.net, &refused.node.id), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_relay_grants_no_place() {
    let authority = Authority::new(1);
    let site = site(1, vec![hidden(&authority)], &authority);
    let hidden = &site.hidden[0];
    places(hidden, 1).await;
    let mut ways = ways(true, &[]);
    ways.relaying = false;
    site.relays[0].node.net.set_ways(ways);
    site.relays[0].node.net.disconnect(&hidden.node.id);
    places(hidden, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_relays_can_dial_is_told_so_and_asks_for_no_place() {
    let authority = Authority::new(1);
    let relay = Node::start(&authority, &NodeKey::generate());
    let node = Node::start(&authority, &NodeKey::generate());
    node.knows(&relay);
    let relays = [relay];
    relays[0].net.set_ways(ways(true, &relays));
    let found_out = Ways {
        reachable: None,
        ..ways(false, &relays)
    };
    node.net.set_ways(found_out);
    let mut reachability = node.net.reachability();
    let known = reachability.wait_for(|known| known.dialable.is_some());
    let known = *tokio::time::timeout(PATIENCE, known)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(known.dialable, Some(true));
    assert!(!known.address_differs);
    assert!(node.net.relays().borrow().is_empty());
}
