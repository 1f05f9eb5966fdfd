//! Keeps this node's WireGuard interface as the agreed state and gossip say.
//!
//! Decides when to look at which interface, and where routes of this machine stand in the way: a
//! network whose IPv4 prefix it routes elsewhere does not come up, a LAN behind a peer that it
//! routes elsewhere stays so. What an interface should be is `desired`'s decision, what to change
//! the peer plan's. An interface that can't come up is a condition, not an end: the node stays a
//! member and tries again. One whose device is only late with an answer stays up for once.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::{IpAddr, SocketAddr},
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use consensus_core::{Agreed, LogIndex, Network, NetworkId, NodeId, Peer, WallMs};
use overlay_core::{
    mtu::OVERLAY_MTU,
    peers::{Cidr, InterfacePlan, plan},
};
use overlay_filter::Filter;
use overlay_net::{Connection, Net, membership::LocalPaths};
use overlay_wireguard::{
    Backend, Interface, InterfaceSettings, Keyring, PrefixOverlapError, bring_up, check_overlap,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    MembersRx,
    desired::prefixes,
    filtering::tell,
    greeting::{greet, to_greet},
    leftovers::{LINKS, is_there, leftovers, remove},
    news::says_the_same,
    proposer::wall_now,
    straight::Looks,
    views::{Following, Views},
    wireguard_key::follow_key,
};

/// Repairs what somebody else changed on the interface.
const REPAIR_EVERY: Duration = Duration::from_secs(10);
/// After an interface could not come up.
const RETRY_PAUSE: Duration = Duration::from_secs(3);
/// Looks in a row at which a device may be late with its answer. A host whose processors and disk are
/// busy keeps one waiting for seconds now and then, and packets pass meanwhile.
const LATE_MAX: u8 = 1;
/// Where device sockets, pidfiles and logs are.
pub(crate) const RUN_FOLDER: &str = "/run/shoal";

/// What the rest of the daemon sees of the overlay.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct OverlayStatus {
    /// `kernel` or `userspace`, once an interface is up.
    pub(crate) backend: Option<&'static str>,
    /// The networks whose interface is up with this node's addresses.
    pub(crate) up: BTreeMap<NetworkId, Peer>,
    /// What is wrong, in words, by network.
    pub(crate) conditions: BTreeMap<String, String>,
    /// The revision of the view that the interfaces' peers were last brought in line with.
    pub(crate) enforced: LogIndex,
    /// Endpoint and seconds since the last handshake, by network and WireGuard public key: a node
    /// has one key for all its networks.
    pub(crate) peers: BTreeMap<(NetworkId, [u8; 32]), Contact>,
}

/// Where a peer is, and how many seconds ago the last handshake was.
type Contact = (Option<SocketAddr>, Option<u64>);

impl OverlayStatus {
    /// Where the node's own services listen: its oldest place, once it is up.
    pub(crate) fn own(&self) -> Option<&Peer> {
        self.up.values().min_by_key(|peer| peer.attached)
    }
}

/// The task's inputs.
pub(crate) struct Overlay {
    pub(crate) me: NodeId,
    pub(crate) keys: Arc<Keyring>,
    pub(crate) net: Net,
    /// Whether the operator lets this node help others, while it is a server.
    pub(crate) relaying: bool,
    /// What gossip is told of the ways to peers.
    pub(crate) paths: watch::Sender<LocalPaths>,
    pub(crate) views: Views,
    pub(crate) members: MembersRx,
    /// The bridges of containers here that are no network's, as Docker says.
    pub(crate) tenants: watch::Receiver<BTreeSet<String>>,
    pub(crate) status: watch::Sender<OverlayStatus>,
    pub(crate) stop: CancellationToken,
}

/// What the interfaces follow from.
struct Inputs {
    view: Following,
    members: MembersRx,
    tenants: watch::Receiver<BTreeSet<String>>,
    connections: watch::Receiver<BTreeMap<NodeId, Connection>>,
}

impl Inputs {
    fn view(&mut self) -> (LogIndex, Arc<Agreed>) {
        let view = self.view.borrow_and_update();
        (view.revision, view.agreed.clone())
    }
}

/// An interface that is up.
pub(super) struct Up {
    pub(super) interface: Interface,
    network: Network,
    /// Where libp2p talked to each peer last.
    talked: BTreeMap<NodeId, IpAddr>,
    /// Networks behind peers that this machine routes elsewhere.
    elsewhere: BTreeSet<Cidr>,
    /// Whether it has a new key, with which no peer has shaken hands.
    greets_all: bool,
    /// Looks in a row at which its device was late with an answer.
    late: u8,
}

impl Up {
    fn backend(&self) -> &'static str {
        match self.interface.backend() {
            Backend::Kernel => "kernel",
            Backend::Userspace => "userspace",
        }
    }
}

/// What this node has on its machine.
#[derive(Default)]
struct Machine {
    interfaces: BTreeMap<NetworkId, Up>,
    looks: Looks,
    filter: Filter,
    /// Whether it was told that there are no rules.
    unfiltered: bool,
    /// Whether it was looked for interfaces from before this daemon.
    swept: bool,
}

impl Overlay {
    /// Runs until cancelled. Interfaces stay up when the daemon ends: containers go on talking.
    pub(crate) async fn run(self) {
        let mut inputs = Inputs {
            view: self.views.watch(),
            members: self.members.clone(),
            tenants: self.tenants.clone(),
            connections: self.net.connections(),
        };
        let mut machine = Machine::default();
        loop {
            let (revision, agreed) = inputs.view();
            inputs.members.mark_unchanged();
            inputs.tenants.mark_unchanged();
            inputs.connections.mark_unchanged();
            let status = self.bring_in_line(revision, &agreed, &mut machine).await;
            let settled = status.conditions.is_empty();
            self.publish(status);
            let pause = if settled { REPAIR_EVERY } else { RETRY_PAUSE };
            let pause = pause.min(until_next_end(&agreed, wall_now()));
            let in_line = settled.then_some(agreed);
            let until = Instant::now() + pause;
            let again = self.wait(&mut inputs, &mut machine.filter, in_line, until);
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
        filter: &mut Filter,
        mut in_line: Option<Arc<Agreed>>,
        until: Instant,
    ) -> ControlFlow<()> {
        loop {
            // All arms only wait for changes; everything is read anew by the caller. The filter keeps
            // in mind what it was told.
            let open = tokio::select! {
                () = self.stop.cancelled() => return ControlFlow::Break(()),
                changed = inputs.members.changed() => changed.is_ok(),
                changed = inputs.connections.changed() => changed.is_ok(),
                () = sleep_until(until) => true,
                () = changed_ever(&mut inputs.tenants) => true,
                () = filter.disturbed() => {
                    if filter.repair().await.is_ok() {
                        continue;
                    }
                    true
                }
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
        machine: &mut Machine,
    ) -> OverlayStatus {
        let mut status = OverlayStatus {
            enforced: revision,
            ..OverlayStatus::default()
        };
        if !machine.swept && agreed.nodes.contains_key(&self.me) {
            machine.swept = true;
            self.sweep(agreed).await;
        }
        let interfaces = &mut machine.interfaces;
        if let Some(row) = agreed.nodes.get(&self.me) {
            let up = interfaces.values_mut();
            let up = up.map(|up| (&mut up.interface, &mut up.greets_all));
            follow_key(&self.keys, row, up, &mut status).await;
        }
        self.take_down(agreed, interfaces).await;
        // Before any interface comes up: nothing passes that the rules would have dropped.
        let host = self.filtered(agreed, wall_now());
        let needed = host.needs_rules();
        let known = agreed.nodes.contains_key(&self.me);
        let filtered = match known {
            true => machine.filter.bring_in_line(host).await,
            // Until something is agreed, the rules of an earlier daemon stay.
            false => Ok(()),
        };
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
                    if let Some(up) = interfaces.get(network_id) {
                        let before = self.status.borrow();
                        status.enforced = before.enforced;
                        if (1..=LATE_MAX).contains(&up.late) && before.up.contains_key(network_id) {
                            status.backend = Some(up.backend());
                            status.up.insert(*network_id, peer.clone());
                        }
                    }
                    status.conditions.insert(network.name.clone(), reason);
                }
            }
        }
        self.look(agreed, interfaces, &mut machine.looks, &mut status)
            .await;
        let filtered = match filtered {
            Ok(()) if known => machine.filter.switch_forwarding_on(),
            other => other,
        };
        tell(filtered, needed, &mut machine.unfiltered, &mut status);
        status
    }

    fn publish(&self, status: OverlayStatus) {
        self.status.send_if_modified(|present| {
            for (network, reason) in &status.conditions {
                if present.conditions.get(network) != Some(reason) {
                    tracing::warn!(network, reason, "the overlay is not as it should be");
                }
            }
            let differs = *present != status;
            *present = status;
            differs
        });
    }

    /// Interfaces of networks that this node lost its place in before this daemon.
    async fn sweep(&self, agreed: &Agreed) {
        let own = agreed.peers.keys().filter(|(_, node)| *node == self.me);
        let wanted = own.filter_map(|(id, _)| agreed.networks.get(id));
        let wanted = wanted.map(Network::interface).collect();
        for name in leftovers(Path::new(LINKS), &wanted) {
            remove(name, self.keys.current(), PathBuf::from(RUN_FOLDER)).await;
        }
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
                    network = up.network.name,
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
                refuse_overlap(network).await?;
                let up = self.bring_up(network).await?;
                tracing::info!(network = network.name, backend = ?up.interface.backend(), "the overlay interface is up");
                place.insert(up)
            }
        };
        let mut desired = self.desired(agreed, id, network, peer, &mut up.talked, wall_now());
        let observed = match up.interface.observe().await {
            Ok(observed) => observed,
            Err(error) if error.is_late() && up.late < LATE_MAX => {
                up.late += 1;
                return Err(with_sources(&error));
            }
            Err(error) => {
                // The device died or somebody removed the link: begin anew.
                interfaces.remove(&id);
                return Err(with_sources(&error));
            }
        };
        leave_elsewhere(up, &mut desired, &observed.routes).await;
        let steps = plan(&desired, &observed);
        if !steps.is_empty() {
            tracing::debug!(
                network = network.name,
                steps = steps.len(),
                "adjusting the overlay interface"
            );
            if let Err(error) = up.interface.apply(&steps).await {
                up.late = up.late.saturating_add(u8::from(error.is_late()));
                return Err(with_sources(&error));
            }
        }
        up.late = 0;
        let all = std::mem::take(&mut up.greets_all);
        greet(&to_greet(&desired, &observed, all), peer);
        Ok(up.backend())
    }

    async fn bring_up(&self, network: &Network) -> Result<Up, String> {
        let settings = InterfaceSettings {
            name: network.interface(),
            private_key: self.keys.current(),
            listen_port: network.wireguard_port,
            mtu: OVERLAY_MTU,
            run_folder: PathBuf::from(RUN_FOLDER),
            device_command: InterfaceSettings::own_device_command(),
        };
        let interface = bring_up(settings).await.map_err(|error| {
            format!(
                "{} ({}); {}",
                with_sources(&error),
                error.code(),
                error.hint()
            )
        })?;
        Ok(Up {
            interface,
            network: network.clone(),
            talked: BTreeMap::new(),
            elsewhere: BTreeSet::new(),
            greets_all: false,
            late: 0,
        })
    }
}

/// How long until the next device is let in no more by itself; for ever, unless one is to end.
fn until_next_end(agreed: &Agreed, now: WallMs) -> Duration {
    let ends = agreed
        .access_grants
        .values()
        .filter_map(|grant| grant.expires_at);
    let next = ends.filter(|end| *end > now).min();
    next.map_or(Duration::MAX, |end| Duration::from_millis(end.0 - now.0))
}

/// A network whose addresses this machine routes elsewhere would take them away from there. One
/// whose interface is up had its place before whatever came later.
async fn refuse_overlap(network: &Network) -> Result<(), String> {
    let interface = network.interface();
    if is_there(&interface) {
        return Ok(());
    }
    let [_, ipv4] = prefixes(network);
    check_overlap(ipv4, &interface)
        .await
        .map_err(|error| format!("{error} ({}); {}", error.code(), error.hint()))
}

/// What this machine reaches by a route of its own, it goes on reaching so: it may itself stand in
/// a LAN that lies behind a peer.
async fn leave_elsewhere(up: &mut Up, desired: &mut InterfacePlan, present: &BTreeSet<Cidr>) {
    let own = prefixes(&up.network);
    // What carries the tunnel must not be sent into it.
    let endpoints = desired.peers.values().filter_map(|peer| peer.endpoint);
    let endpoints: Vec<IpAddr> = endpoints.map(|endpoint| endpoint.ip()).collect();
    let carries = |route: &Cidr| endpoints.iter().any(|ip| route.contains(*ip));
    let carriers = desired
        .routes
        .extract_if(.., |route| !own.contains(route) && carries(route));
    for route in carriers {
        if up.elsewhere.insert(route) {
            let network = &up.network.name;
            tracing::warn!(network, %route, "a LAN subnet has a peer's endpoint in it and is not routed");
        }
    }
    let new = desired.routes.difference(present);
    let new: Vec<Cidr> = new.filter(|route| !own.contains(route)).copied().collect();
    for route in new {
        match check_overlap(route, up.interface.name()).await {
            Ok(()) => drop(up.elsewhere.remove(&route)),
            Err(error @ PrefixOverlapError::Overlaps { .. }) => {
                desired.routes.remove(&route);
                if up.elsewhere.insert(route) {
                    let network = &up.network.name;
                    tracing::warn!(network, %error, "a LAN subnet is not routed to its peer");
                }
            }
            Err(error @ PrefixOverlapError::Unreadable(_)) => {
                desired.routes.remove(&route);
                tracing::warn!(%error, %route, "a LAN subnet is not routed yet");
            }
        }
    }
}

/// Waits for a change; for ever, if nobody is left to make one.
async fn changed_ever<T>(values: &mut watch::Receiver<T>) {
    if values.changed().await.is_err() {
        std::future::pending().await
    }
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
