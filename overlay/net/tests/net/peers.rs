//! Connections over time: wanted peers, restarts, both ends dialling at once.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use overlay_net::{Channel, NodeKey, Path, Transport};

use crate::{
    authority::Authority,
    nodes::{LOCAL, Node, PATIENCE, connected, disconnected, pair, tcp_valve, until},
};

const HEARTBEAT: Duration = Duration::from_millis(100);

/// A node in a runtime of its own, which can be killed without a farewell.
struct Process {
    runtime: Option<tokio::runtime::Runtime>,
    node: Option<Node>,
}

impl Process {
    fn start(authority: &Authority, key: &NodeKey, listen: std::net::SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let node = {
            let _inside = runtime.enter();
            let mut node = Node::with(key, authority.credentials(key), listen);
            node.echo(Channel::Raft);
            node
        };
        Self {
            runtime: Some(runtime),
            node: Some(node),
        }
    }

    fn node(&self) -> &Node {
        self.node.as_ref().unwrap()
    }

    /// As `kill -9`: no packet says good-bye.
    async fn kill(&mut self) {
        let runtime = self.runtime.take().unwrap();
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(5)))
            .await
            .unwrap();
        self.node = None;
    }
}

async fn beat(from: &Node, to: &consensus_core::NodeId) -> bool {
    from.net
        .call(to, Channel::Raft, vec![1], HEARTBEAT)
        .await
        .is_ok()
}

#[tokio::test]
async fn wanted_peers_are_connected_without_a_call() {
    let (_, a, b) = pair();
    a.net.set_wanted(BTreeSet::from([b.id.clone()]));
    connected(&a, &b.id).await;
    connected(&b, &a.id).await;
    let table = a.net.connections();
    let direct = Path::Direct {
        remote: b.address(),
        transport: Transport::Quic,
    };
    assert_eq!(table.borrow()[&b.id].path, direct);
}

#[tokio::test]
async fn a_wanted_peer_that_was_disconnected_comes_back() {
    let (_, a, b) = pair();
    a.net.set_wanted(BTreeSet::from([b.id.clone()]));
    connected(&b, &a.id).await;
    b.net.disconnect(&a.id);
    disconnected(&b, &a.id).await;
    connected(&b, &a.id).await;
}

#[tokio::test]
async fn peers_that_dial_each_other_at_once_all_get_through() {
    for _ in 0..5 {
        let (_, mut a, mut b) = pair();
        a.echo(Channel::Raft);
        b.echo(Channel::Raft);
        a.net.set_wanted(BTreeSet::from([b.id.clone()]));
        b.net.set_wanted(BTreeSet::from([a.id.clone()]));
        let calls = (0..20).map(|n| {
            let (from, to) = if n % 2 == 0 { (&a, &b) } else { (&b, &a) };
            from.net.call(&to.id, Channel::Raft, vec![n], PATIENCE)
        });
        for answer in futures::future::join_all(calls).await {
            answer.unwrap();
        }
    }
}

#[tokio::test]
async fn a_stopped_peer_is_missed_at_once() {
    let (_, a, b) = pair();
    a.net.set_wanted(BTreeSet::from([b.id.clone()]));
    connected(&a, &b.id).await;
    connected(&b, &a.id).await;
    let began = Instant::now();
    let id = b.id.clone();
    b.net.stop().await;
    disconnected(&a, &id).await;
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_stopped_node_frees_its_port() {
    let authority = Authority::new(1);
    let key = NodeKey::generate();
    let node = Node::start(&authority, &key);
    let address = node.address();
    node.net.stop().await;
    until("the port is free", async || {
        std::net::UdpSocket::bind(address).is_ok() && std::net::TcpListener::bind(address).is_ok()
    })
    .await;
    Node::with(&key, authority.credentials(&key), address);
}

#[tokio::test]
async fn a_killed_peer_is_noticed() {
    let authority = Authority::new(1);
    let a = Node::start(&authority, &NodeKey::generate());
    let mut b = Process::start(&authority, &NodeKey::generate(), LOCAL);
    a.knows(b.node());
    let id = b.node().id.clone();
    until("the first call", async || beat(&a, &id).await).await;
    b.kill().await;
    let began = Instant::now();
    assert!(!beat(&a, &id).await);
    disconnected(&a, &id).await;
    assert!(began.elapsed() < Duration::from_secs(15));
}

#[tokio::test]
async fn a_restarted_peer_is_called_again_within_two_seconds() {
    let authority = Authority::new(1);
    let key = NodeKey::generate();
    let a = Node::start(&authority, &NodeKey::generate());
    let mut b = Process::start(&authority, &key, LOCAL);
    a.knows(b.node());
    let (id, address) = (b.node().id.clone(), b.node().address());
    until("the first call", async || beat(&a, &id).await).await;
    for downtime_ms in [0, 1500] {
        b.kill().await;
        let back = Instant::now() + Duration::from_millis(downtime_ms);
        // Heartbeats go on while the peer is down, as Raft's do.
        while Instant::now() < back {
            assert!(!beat(&a, &id).await);
        }
        b = Process::start(&authority, &key, address);
        let began = Instant::now();
        until("a call after the restart", async || beat(&a, &id).await).await;
        let taken = began.elapsed();
        assert!(taken < Duration::from_secs(2), "took {taken:?}");
    }
    b.kill().await;
}

#[tokio::test]
async fn a_tcp_connection_that_falls_silent_is_noticed_on_both_sides() {
    let (_, a, mut b) = pair();
    b.echo(Channel::Raft);
    let (address, valve) = tcp_valve(b.address()).await;
    a.net.set_addresses(b.id.clone(), vec![address]);
    b.net.set_addresses(a.id.clone(), vec![]);
    let answer = a.net.call(&b.id, Channel::Raft, vec![1], PATIENCE).await;
    answer.unwrap();
    connected(&b, &a.id).await;
    let connection = a.net.connections().borrow()[&b.id].clone();
    let transport = Transport::Tcp;
    let remote = address;
    assert_eq!(connection.path, Path::Direct { remote, transport });
    valve.send_replace(false);
    disconnected(&a, &b.id).await;
    disconnected(&b, &a.id).await;
}

#[tokio::test]
async fn several_addresses_are_tried() {
    let (_, a, mut b) = pair();
    b.echo(Channel::Raft);
    let nobody = std::net::UdpSocket::bind(LOCAL).unwrap();
    let dead = nobody.local_addr().unwrap();
    a.net.set_addresses(b.id.clone(), vec![dead, b.address()]);
    let answer = a.net.call(&b.id, Channel::Raft, vec![1], PATIENCE).await;
    assert_eq!(answer.unwrap(), [1]);
}

#[tokio::test]
async fn a_peer_that_starts_late_is_reached_once_it_is_there() {
    let authority = Authority::new(1);
    let key = NodeKey::generate();
    let b = Node::start(&authority, &key);
    let (id, address) = (b.id.clone(), b.address());
    b.net.stop().await;
    let a = Node::start(&authority, &NodeKey::generate());
    a.net.set_addresses(id.clone(), vec![address]);
    assert!(!beat(&a, &id).await);
    until("the port is free", async || {
        std::net::UdpSocket::bind(address).is_ok()
    })
    .await;
    let mut b = Node::with(&key, authority.credentials(&key), address);
    b.echo(Channel::Raft);
    let began = Instant::now();
    until("the late peer answers", async || beat(&a, &id).await).await;
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_connection_that_nobody_wants_ends_when_nobody_has_used_it_for_a_while() {
    let (_, a, mut b) = pair();
    b.echo(Channel::Raft);
    let answer = a.net.call(&b.id, Channel::Raft, vec![1], PATIENCE).await;
    assert_eq!(answer.unwrap(), [1]);
    let gone = async |node: &Node, from: &consensus_core::NodeId| {
        let mut connections = node.net.connections();
        let gone = connections.wait_for(|table| !table.contains_key(from));
        // A call's stream is kept for a while, and then the connection for another.
        tokio::time::timeout(3 * PATIENCE, gone)
            .await
            .expect("never ended")
            .unwrap();
    };
    gone(&a, &b.id).await;
    gone(&b, &a.id).await;
}
