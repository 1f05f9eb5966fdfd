//! Keeps this node's WireGuard interface as the agreed state and gossip say.
//!
//! Decides which endpoint of a peer to use: the address at which libp2p talks to it now, with the
//! WireGuard port that it gossips; else the first that it gossips. What to change is the peer
//! plan's decision. An interface that can't come up is a condition, not an end: the node stays a
//! member and tries again.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::{IpAddr, SocketAddr},
    ops::ControlFlow,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use consensus_core::{Agreed, LogIndex, Network, NetworkId, Node, NodeId, Peer};
use overlay_core::{
    paths::{End, KEEPALIVE_S, by_hubs, hub},
    peers::{Cidr, DEFAULT_MTU, InterfacePlan, PeerPlan, PublicKey, plan},
};
use overlay_net::{Connection, Net};
use overlay_wireguard::{Backend, Interface, InterfaceSettings, PrivateKey, bring_up};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    MembersRx, forwarding,
    greeting::greet_added,
    views::{Following, Views},
};

/// Repairs what somebody else changed on the interface.
const REPAIR_EVERY: Duration = Duration::from_secs(10);
/// After an interface could not come up.
const RETRY_PAUSE: Duration = Duration::from_secs(3);
/// Where device sockets, pidfiles and logs are.
const RUN_FOLDER: &str = "/run/shoal";

/// What the rest of the daemon sees of the overlay.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct OverlayStatus {
    /// `kernel` or `userspace`, once an interface is up.
    pub(crate) backend: Option<&'static str>,
    /// The networks whose interface is up with this node's addresses.
    pub(crate) up: BTreeMap<NetworkId, Peer>,
    /// What is wrong, in words, by network handle.
    pub(crate) conditions: BTreeMap<String, String>,
    /// The revision of the view that the interfaces' peers were last brought in line with.
    pub(crate) enforced: LogIndex,
    /// Endpoint and seconds since the last handshake, by WireGuard public key.
    pub(crate) peers: BTreeMap<[u8; 32], (Option<SocketAddr>, Option<u64>)>,
}

/// The task's inputs.
pub(crate) struct Overlay {
    pub(crate) me: NodeId,
    pub(crate) key: PrivateKey,
    pub(crate) net: Net,
    /// Whether the operator lets this node help others, while it is a server.
    pub(crate) relaying: bool,
    pub(crate) views: Views,
    pub(crate) members: MembersRx,
    pub(crate) status: watch::Sender<OverlayStatus>,
    pub(crate) stop: CancellationToken,
}

/// What the interfaces follow from.
struct Inputs {
    view: Following,
    members: MembersRx,
    connections: watch::Receiver<BTreeMap<NodeId, Connection>>,
}

impl Inputs {
    fn view(&mut self) -> (LogIndex, Arc<Agreed>) {
        let view = self.view.borrow_and_update();
        (view.revision, view.agreed.clone())
    }
}

/// An interface that is up.
struct Up {
    interface: Interface,
    network: Network,
    /// Where libp2p talked to each peer last.
    talked: BTreeMap<NodeId, IpAddr>,
    /// Whether it forwards between its peers.
    forwards: bool,
}

impl Overlay {
    /// Runs until cancelled. Interfaces stay up when the daemon ends: containers go on talking.
    pub(crate) async fn run(self) {
        let mut inputs = Inputs {
            view: self.views.watch(),
            members: self.members.clone(),
            connections: self.net.connections(),
        };
        let mut interfaces: BTreeMap<NetworkId, Up> = BTreeMap::new();
        loop {
            let (revision, agreed) = inputs.view();
            inputs.members.mark_unchanged();
            inputs.connections.mark_unchanged();
            let status = self.bring_in_line(revision, &agreed, &mut interfaces).await;
            let settled = status.conditions.is_empty();
            self.publish(status);
            let pause = if settled { REPAIR_EVERY } else { RETRY_PAUSE };
            let in_line = settled.then_some(agreed);
            let again = self.wait(&mut inputs, in_line, Instant::now() + pause);
            if again.await.is_break() {
                return;
            }
        }
    }

    /// Waits until there may be something to do on the interfaces. A view that says of them what
    /// they are in line with already is enforced as it comes.
    async fn wait(
        &self,
        inputs: &mut Inputs,
        mut in_line: Option<Arc<Agreed>>,
        until: Instant,
    ) -> ControlFlow<()> {
        loop {
            // All arms only wait for changes; everything is read anew by the caller.
            let open = tokio::select! {
                () = self.stop.cancelled() => return ControlFlow::Break(()),
                changed = inputs.members.changed() => changed.is_ok(),
                changed = inputs.connections.changed() => changed.is_ok(),
                () = sleep_until(until) => true,
                changed = inputs.view.changed() => {
                    let (revision, agreed) = inputs.view();
                    if changed.is_ok() && in_line.as_ref().is_some_and(|to| says_the_same(to, &agreed)) {
                        self.status.send_modify(|status| status.enforced = revision);
                        in_line = Some(agreed);
                        continue;
                    }
                    changed.is_ok()
                }
            };
            return if open {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            };
        }
    }

    /// Makes the interfaces what the view wants, as far as they can be made so.
    async fn bring_in_line(
        &self,
        revision: LogIndex,
        agreed: &Agreed,
        interfaces: &mut BTreeMap<NetworkId, Up>,
    ) -> OverlayStatus {
        let mut status = OverlayStatus {
            enforced: revision,
            ..OverlayStatus::default()
        };
        self.take_down(agreed, interfaces).await;
        for ((network_id, node), peer) in &agreed.peers {
            if *node != self.me {
                continue;
            }
            let Some(network) = agreed.networks.get(network_id) else {
                continue;
            };
            match self
                .keep(agreed, *network_id, network, peer, interfaces)
                .await
            {
                Ok(backend) => {
                    status.backend = Some(backend);
                    status.up.insert(*network_id, peer.clone());
                }
                Err(reason) => {
                    // An interface that could not be changed may still have a peer that is to go;
                    // one that is not there has none.
                    if interfaces.contains_key(network_id) {
                        status.enforced = self.status.borrow().enforced;
                    }
                    status.conditions.insert(network.handle.clone(), reason);
                }
            }
            self.observe(interfaces, &mut status).await;
        }
        status
    }

    fn publish(&self, status: OverlayStatus) {
        self.status.send_if_modified(|present| {
            for (network, reason) in &status.conditions {
                if present.conditions.get(network) != Some(reason) {
                    tracing::warn!(network, reason, "the overlay is not up");
                }
            }
            let differs = *present != status;
            *present = status;
            differs
        });
    }

    /// Interfaces of networks that this node is no peer of any more.
    async fn take_down(&self, agreed: &Agreed, interfaces: &mut BTreeMap<NetworkId, Up>) {
        let gone: Vec<NetworkId> = interfaces
            .keys()
            .filter(|id| !agreed.peers.contains_key(&(**id, self.me.clone())))
            .copied()
            .collect();
        for id in gone {
            if let Some(up) = interfaces.remove(&id) {
                tracing::info!(
                    network = up.network.handle,
                    "the overlay interface is taken down"
                );
                if let Err(error) = up.interface.down().await {
                    tracing::warn!(%error, "the interface could not be taken down");
                }
            }
        }
    }

    /// Brings the network's interface up if need be, and takes the steps that are missing.
    async fn keep(
        &self,
        agreed: &Agreed,
        id: NetworkId,
        network: &Network,
        peer: &Peer,
        interfaces: &mut BTreeMap<NetworkId, Up>,
    ) -> Result<&'static str, String> {
        let up = match interfaces.entry(id) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(place) => {
                let up = self.bring_up(network).await?;
                tracing::info!(network = network.handle, backend = ?up.interface.backend(), "the overlay interface is up");
                place.insert(up)
            }
        };
        let desired = self.desired(agreed, id, network, peer, &mut up.talked);
        let observed = match up.interface.observe().await {
            Ok(observed) => observed,
            Err(error) => {
                // The device died or somebody removed the link: begin anew.
                interfaces.remove(&id);
                return Err(with_sources(&error));
            }
        };
        let steps = plan(&desired, &observed);
        if !steps.is_empty() {
            tracing::debug!(
                network = network.handle,
                steps = steps.len(),
                "adjusting the overlay interface"
            );
            up.interface
                .apply(&steps)
                .await
                .map_err(|error| with_sources(&error))?;
            greet_added(&steps, peer);
        }
        if self.is_hub(agreed) && !up.forwards {
            forwarding::allow(&network.handle)
                .await
                .map_err(|error| with_sources(&error))?;
            up.forwards = true;
        }
        Ok(match up.interface.backend() {
            Backend::Kernel => "kernel",
            Backend::Userspace => "userspace",
        })
    }

    async fn bring_up(&self, network: &Network) -> Result<Up, String> {
        let name = format!("shoal-{}", network.handle);
        let settings = InterfaceSettings {
            name: name.clone(),
            private_key: self.key.clone(),
            listen_port: network.wireguard_port,
            mtu: DEFAULT_MTU,
            run_folder: PathBuf::from(RUN_FOLDER),
            device_command: InterfaceSettings::own_device_command(),
        };
        let mut interface = bring_up(settings).await.map_err(|error| {
            format!(
                "{} ({}); {}",
                with_sources(&error),
                error.code(),
                error.hint()
            )
        })?;
        if let Err(error) = interface
            .raise_fence(&network.handle, prefixes(network))
            .await
        {
            let code = error.code();
            tracing::warn!(%error, code, "overlay addresses are not fenced off from other interfaces");
        }
        Ok(Up {
            interface,
            network: network.clone(),
            talked: BTreeMap::new(),
            forwards: false,
        })
    }

    fn desired(
        &self,
        agreed: &Agreed,
        id: NetworkId,
        network: &Network,
        own: &Peer,
        talked: &mut BTreeMap<NodeId, IpAddr>,
    ) -> InterfacePlan {
        let mut peers = BTreeMap::new();
        let mut hubs = BTreeMap::new();
        let keepalive_s = self.is_behind_nat().then_some(KEEPALIVE_S);
        for ((of, node), peer) in &agreed.peers {
            if *of != id || *node == self.me {
                continue;
            }
            let Some(row) = agreed.nodes.get(node) else {
                continue;
            };
            let allowed_ips: BTreeSet<Cidr> =
                [Cidr::host(peer.ipv6.into()), Cidr::host(peer.ipv4.into())].into();
            let endpoint = self.endpoint(talked, id, node, network.wireguard_port, &row.addresses);
            let plan = PeerPlan {
                endpoint,
                allowed_ips,
                keepalive_s,
            };
            let key = PublicKey::from_bytes(row.wireguard_public_key);
            peers.insert(key, plan);
            if let Some(hub) = self.hub_to(agreed, id, node) {
                hubs.insert(key, PublicKey::from_bytes(hub.wireguard_public_key));
            }
        }
        by_hubs(&mut peers, &hubs);
        InterfacePlan {
            addresses: [IpAddr::from(own.ipv6), own.ipv4.into()].into(),
            routes: prefixes(network).into(),
            mtu: DEFAULT_MTU,
            listen_port: network.wireguard_port,
            peers,
        }
    }

    /// Whether packets from here pass a router that forgets them, so that they must be repeated.
    fn is_behind_nat(&self) -> bool {
        self.net.reachability().borrow().is_translated()
    }

    /// The hub by which packets go to a node that cannot be reached from here.
    fn hub_to<'a>(&self, agreed: &'a Agreed, network: NetworkId, to: &NodeId) -> Option<&'a Node> {
        let members = self.members.borrow().clone();
        let relays = |node: &NodeId| {
            let record = members.get(node).map(|member| &member.record);
            record.map_or(Vec::new(), |record| record.relays.clone())
        };
        let (ours, theirs) = (relays(&self.me), relays(to));
        let one = End {
            node: &self.me,
            relays: &ours,
        };
        let other = End {
            node: to,
            relays: &theirs,
        };
        let usable = |hub: &NodeId| {
            agreed.servers().any(|(id, _)| id == hub)
                && agreed.peers.contains_key(&(network, hub.clone()))
        };
        agreed.nodes.get(&hub(one, other, usable)?)
    }

    /// Whether others use this one as their hub, and may: a record alone makes nobody forward.
    fn is_hub(&self, agreed: &Agreed) -> bool {
        let members = self.members.borrow().clone();
        let mut named = members.values().map(|member| &member.record.relays);
        self.relaying
            && agreed.servers().any(|(id, _)| *id == self.me)
            && named.any(|relays| relays.contains(&self.me))
    }

    /// Where to send a peer's packets: where libp2p talks to it, or talked to it last.
    fn endpoint(
        &self,
        talked: &mut BTreeMap<NodeId, IpAddr>,
        network: NetworkId,
        node: &NodeId,
        port: u16,
        agreed: &[SocketAddr],
    ) -> Option<SocketAddr> {
        let members = self.members.borrow().clone();
        let gossiped: &[SocketAddr] = members
            .get(node)
            .and_then(|member| {
                member
                    .record
                    .wireguard
                    .iter()
                    .find(|(id, _)| *id == network)
            })
            .map_or(&[], |(_, endpoints)| endpoints);
        let remote = self
            .net
            .connections()
            .borrow()
            .get(node)
            .and_then(|now| now.path.remote())
            .map(|remote| remote.ip());
        if let Some(ip) = remote {
            talked.insert(node.clone(), ip);
        }
        // A connection that ends, as at every restart of the peer's daemon, says nothing about
        // the peer's WireGuard: it stays where it was.
        if let Some(ip) = talked.get(node) {
            let known = gossiped.iter().find(|endpoint| endpoint.ip() == *ip);
            let port = known.or(gossiped.first()).map_or(port, SocketAddr::port);
            return Some(SocketAddr::new(*ip, port));
        }
        let first = gossiped.first().copied();
        first.or_else(|| {
            agreed
                .first()
                .map(|address| SocketAddr::new(address.ip(), port))
        })
    }

    async fn observe(&self, interfaces: &BTreeMap<NetworkId, Up>, status: &mut OverlayStatus) {
        for up in interfaces.values() {
            if let Ok(observed) = up.interface.observe().await {
                for (key, peer) in observed.peers {
                    // In steps of five seconds, so that a mere passing of time is no news.
                    let age = peer.handshake_age.map(|age| age.as_secs() / 5 * 5);
                    status.peers.insert(*key.as_bytes(), (peer.endpoint, age));
                }
            }
        }
    }
}

/// Whether two views want the same interfaces with the same peers.
fn says_the_same(one: &Agreed, other: &Agreed) -> bool {
    fn reached<'a>(
        (id, node): (&'a NodeId, &'a Node),
    ) -> (&'a NodeId, &'a [u8; 32], &'a [SocketAddr]) {
        (id, &node.wireguard_public_key, &node.addresses)
    }
    one.peers == other.peers
        && one.networks == other.networks
        && (one.nodes.iter().map(reached)).eq(other.nodes.iter().map(reached))
}

fn prefixes(network: &Network) -> [Cidr; 2] {
    let v6 = Cidr::new(network.ipv6.network().into(), 64);
    let v4 = Cidr::new(network.ipv4.network().into(), network.ipv4.bits());
    [v6, v4].map(|prefix| prefix.expect("agreed prefixes have no host bits"))
}

/// An error and what lies behind it, on one line.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

/// The networks' endpoints that this node gossips: its addresses with each network's port.
pub(crate) fn own_endpoints(
    agreed: &Arc<Agreed>,
    me: &NodeId,
    addresses: &[SocketAddr],
) -> Vec<(NetworkId, Vec<SocketAddr>)> {
    agreed
        .peers
        .keys()
        .filter(|(_, node)| node == me)
        .filter_map(|(id, _)| {
            let network = agreed.networks.get(id)?;
            let mut endpoints: Vec<SocketAddr> = Vec::new();
            for address in addresses {
                let endpoint = SocketAddr::new(address.ip(), network.wireguard_port);
                if !endpoints.contains(&endpoint) {
                    endpoints.push(endpoint);
                }
            }
            Some((*id, endpoints))
        })
        .collect()
}
