//! Whole nodes on loopback, and ways to disturb them.

use std::{
    future::Future,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use consensus_core::NodeId;
use overlay_net::{Channel, Credentials, Incoming, Net, NodeKey, Settings};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::authority::Authority;

pub(crate) const LOCAL: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) net: Net,
    pub(crate) incoming: Incoming,
    pub(crate) credentials: watch::Sender<Arc<Credentials>>,
}

impl Node {
    pub(crate) fn start(authority: &Authority, key: &NodeKey) -> Self {
        Self::with(key, authority.credentials(key), LOCAL)
    }

    pub(crate) fn with(key: &NodeKey, credentials: Credentials, listen: SocketAddr) -> Self {
        let (credentials, watched) = Authority::watched(credentials);
        let settings = Settings::new(key.clone(), vec![listen], watched);
        let (net, incoming) = Net::start(settings).unwrap();
        Self {
            id: key.node_id(),
            net,
            incoming,
            credentials,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.net.bound()[0]
    }

    pub(crate) fn knows(&self, other: &Self) {
        self.net
            .set_addresses(other.id.clone(), vec![other.address()]);
    }

    /// Answers every call of a channel with its own bytes.
    pub(crate) fn echo(&mut self, channel: Channel) {
        let mut calls = self.incoming.take_calls(channel).unwrap();
        tokio::spawn(async move {
            while let Some(call) = calls.recv().await {
                let _ = call.reply.send(Ok(call.body));
            }
        });
    }
}

/// A mesh of one root with two nodes that know each other.
pub(crate) fn pair() -> (Authority, Node, Node) {
    let authority = Authority::new(1);
    let a = Node::start(&authority, &NodeKey::generate());
    let b = Node::start(&authority, &NodeKey::generate());
    a.knows(&b);
    b.knows(&a);
    (authority, a, b)
}

/// An address where only TCP gets through to the node behind.
pub(crate) async fn tcp_only(target: SocketAddr) -> SocketAddr {
    let (address, open) = tcp_valve(target).await;
    // Open for as long as the test runs.
    tokio::spawn(async move { open.closed().await });
    address
}

/// The same, until the valve is shut: then bytes stop and nothing is closed, as when a cable is
/// pulled.
pub(crate) async fn tcp_valve(target: SocketAddr) -> (SocketAddr, watch::Sender<bool>) {
    let listener = TcpListener::bind(LOCAL).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (open, valve) = watch::channel(true);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut valve = valve.clone();
            tokio::spawn(async move {
                let Ok(mut far) = TcpStream::connect(target).await else {
                    return;
                };
                tokio::select! {
                    _ = copy_bidirectional(&mut near, &mut far) => {}
                    () = async { drop(valve.wait_for(|open| !open).await) } => {
                        // Held open, and silent.
                        std::future::pending::<()>().await;
                    }
                }
            });
        }
    });
    (address, open)
}

/// Repeats a check until it holds, or fails loudly.
pub(crate) async fn until<F, Fut>(what: &str, mut check: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let deadline = Instant::now() + PATIENCE;
    while !check().await {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) async fn connected(node: &Node, to: &NodeId) {
    let mut connections = node.net.connections();
    let found = connections.wait_for(|table| table.contains_key(to));
    tokio::time::timeout(PATIENCE, found)
        .await
        .expect("never connected")
        .unwrap();
}

pub(crate) async fn disconnected(node: &Node, from: &NodeId) {
    let mut connections = node.net.connections();
    let gone = connections.wait_for(|table| !table.contains_key(from));
    tokio::time::timeout(PATIENCE, gone)
        .await
        .expect("never disconnected")
        .unwrap();
}
