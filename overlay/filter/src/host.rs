//! What a host is, as far as packets go: its places in networks, and what lies behind it.
//!
//! Decides what a rule's end means on this host and in addresses, and when nobody needs any rule.
//! Never: looks at the machine.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use consensus_core::{
    Agreed, FirewallRule, IpPrefix, NetworkId, NodeId, PortRange, RuleEnd, RuleNumber,
    RuleProtocol, Verdict,
};
use overlay_core::peers::Cidr;

/// A bridge on this host with the containers of one network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContainerBridge {
    /// The bridge's name.
    pub interface: String,
    /// Where this host's containers have their addresses: an IPv4 prefix, no other host's.
    pub subnet: Cidr,
    /// Whose containers they are.
    pub network: NetworkId,
}

/// The bridge that K3s makes for its pods (flannel's CNI plugin).
const POD_BRIDGE: &str = "cni0";
/// The interfaces that K3s makes for its pods: the bridge, and the tunnel of those that the overlay does
/// not route.
pub(crate) const POD_INTERFACES: [&str; 2] = [POD_BRIDGE, "flannel.1"];

/// The K3s on this host, as far as packets go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pods {
    /// The network that its cluster is in.
    pub network: NetworkId,
    /// Where all pods of the cluster have their addresses, if the overlay routes them.
    pub prefix: Option<Cidr>,
    /// Where those of this host have.
    pub subnets: BTreeSet<Cidr>,
}

impl Pods {
    /// What the overlay routes to this host's pods is let through as to its containers.
    pub fn bridges(&self) -> impl Iterator<Item = ContainerBridge> {
        self.subnets.iter().map(|subnet| ContainerBridge {
            interface: POD_BRIDGE.to_owned(),
            subnet: *subnet,
            network: self.network,
        })
    }
}

impl ContainerBridge {
    /// Whether there are pods behind it: Kubernetes has names of its own for them.
    pub(crate) fn has_pods(&self) -> bool {
        self.interface == POD_BRIDGE
    }

    /// This host's own address on the bridge, the subnet's first, where containers ask for names.
    pub(crate) fn gateway(&self) -> Option<Ipv4Addr> {
        match self.subnet.address() {
            _ if self.has_pods() => None,
            IpAddr::V4(first) => first.to_bits().checked_add(1).map(Ipv4Addr::from_bits),
            IpAddr::V6(_) => None,
        }
    }
}

/// This host's place in a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// The network.
    pub network: NetworkId,
    /// Its interface here, whether or not that is up.
    pub interface: String,
    /// The addresses of its members: its /64 and its IPv4 prefix.
    pub prefixes: [Cidr; 2],
    /// Whether this host forwards between its peers.
    pub hub: bool,
    /// The networks behind this host that its peers may reach.
    pub lan: BTreeSet<Cidr>,
    /// The devices that this host is the gateway of.
    pub devices: BTreeSet<Cidr>,
    /// TCP ports of what the mesh itself runs here; who connects proves who he is. No rule closes
    /// them.
    pub own_ports: BTreeSet<u16>,
    /// What becomes of connections that no rule fits.
    pub default: Verdict,
    /// The rules, the first to be asked first.
    pub rules: Vec<Rule>,
}

impl Overlay {
    /// Whether connections from peers need not be looked at one by one.
    pub(crate) fn is_open(&self) -> bool {
        self.default == Verdict::Allow && self.rules.is_empty()
    }

    pub(crate) fn forwards_ipv6(&self) -> bool {
        self.hub || !self.lan.is_empty()
    }
}

/// A firewall rule as this host has to carry it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its number in its network.
    pub number: RuleNumber,
    /// Who opens the connection; `None` for anybody.
    pub from: Option<BTreeSet<Cidr>>,
    /// Whether it is about this host, and what is reached through it.
    pub to_host: bool,
    /// Whether it is about the devices that this host is the gateway of: they are nobody's node.
    pub to_devices: bool,
    /// Of which protocol the connection is.
    pub protocol: RuleProtocol,
    /// At which ports it was asked for; at any, if none are given.
    pub ports: Vec<PortRange>,
    /// What becomes of it.
    pub verdict: Verdict,
}

impl Rule {
    /// The rule as `me` has to carry it out; `None` if it is not about anything here, or about
    /// connections from nobody.
    pub fn on(
        agreed: &Agreed,
        network: NetworkId,
        me: &NodeId,
        rule: &FirewallRule,
    ) -> Option<Self> {
        let from = addresses(agreed, network, &rule.from);
        let to_host = rule.to.covers(agreed, me);
        let nobody = from.as_ref().is_some_and(BTreeSet::is_empty);
        (to_host && !nobody).then(|| Self {
            number: rule.number,
            from,
            to_host,
            to_devices: rule.to == RuleEnd::Any,
            protocol: rule.protocol,
            ports: rule.ports.clone(),
            verdict: rule.verdict,
        })
    }
}

/// The addresses that a rule's end means in a network; `None` for any.
fn addresses(agreed: &Agreed, network: NetworkId, end: &RuleEnd) -> Option<BTreeSet<Cidr>> {
    let pods = agreed.pod_routes(network);
    match end {
        RuleEnd::Any => None,
        RuleEnd::Prefix(prefix) => Some([cidr(*prefix)].into()),
        RuleEnd::Node(_) | RuleEnd::Label { .. } => Some(
            agreed
                .peers_of(network)
                .filter(|(node, _)| end.covers(agreed, node))
                .flat_map(|(node, peer)| {
                    let vips = agreed.virtual_ips.values();
                    let held =
                        vips.filter(move |vip| vip.network == network && vip.is_holder(node));
                    let own = [peer.ipv6.into(), peer.ipv4.into()];
                    own.into_iter()
                        .chain(held.map(|vip| vip.address.into()))
                        .map(Cidr::host)
                        .chain(peer.container_subnet.map(cidr))
                        .chain(pods.get(node).into_iter().flatten().copied().map(cidr))
                })
                .collect(),
        ),
    }
}

/// An agreed prefix.
pub fn cidr(prefix: IpPrefix) -> Cidr {
    Cidr::new(prefix.address(), prefix.bits())
        .expect("agreed prefixes are no longer than addresses")
}

/// Everything that decides which packets this host lets through.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Host {
    /// Its places, the oldest first: that is where its own services listen, and the network of
    /// containers that are no network's.
    pub overlays: Vec<Overlay>,
    /// The bridges of networks' containers, and of pods.
    pub bridges: BTreeSet<ContainerBridge>,
    /// Bridges of containers that are no network's, as Docker names them. Those that go by a name of
    /// Docker's own making are found without it.
    pub tenants: BTreeSet<String>,
    /// Its K3s, if it has one.
    pub pods: Option<Pods>,
}

impl Host {
    /// Whether something here is not as it was agreed as long as there are no rules: packets would
    /// not pass that should, or would that should not. The fence alone is no such thing: without it
    /// only machines on the same wire come closer than they should.
    pub fn needs_rules(&self) -> bool {
        let special = |overlay: &Overlay| overlay.forwards_ipv6() || !overlay.is_open();
        self.overlays.len() > 1 || !self.bridges.is_empty() || self.overlays.iter().any(special)
    }

    /// Bridges with the containers of this network.
    pub(crate) fn bridges_of(&self, overlay: &Overlay) -> impl Iterator<Item = &ContainerBridge> {
        let network = overlay.network;
        self.bridges
            .iter()
            .filter(move |bridge| bridge.network == network)
    }

    /// Whether an interface is one of the mesh's own, whatever else somebody calls by its name.
    pub(crate) fn has(&self, interface: &str) -> bool {
        let mut overlays = self.overlays.iter();
        let mut bridges = self.bridges.iter();
        overlays.any(|overlay| overlay.interface == interface)
            || bridges.any(|bridge| bridge.interface == interface)
    }

    /// Whose the containers are on a bridge that is no network's: those of K3s are its cluster's, others
    /// belong where dockerd listens.
    pub(crate) fn home_of(&self, tenant: &str) -> Option<NetworkId> {
        match &self.pods {
            Some(pods) if tenant == POD_BRIDGE => Some(pods.network),
            Some(_) | None => self.overlays.first().map(|first| first.network),
        }
    }

    /// The K3s on this host, if its cluster is in this network.
    pub(crate) fn pods_in(&self, overlay: &Overlay) -> Option<&Pods> {
        let pods = self.pods.as_ref();
        pods.filter(|pods| pods.network == overlay.network)
    }

    pub(crate) fn forwards_ipv4(&self, overlay: &Overlay) -> bool {
        overlay.forwards_ipv6() || self.bridges_of(overlay).next().is_some()
    }
}

/// What was seen on the machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Machine {
    /// Bridges of containers that are no network's.
    pub(crate) tenants: BTreeSet<String>,
    /// Whether forwarding of IPv4, and of IPv6, was off before shoal switched it on: then transit
    /// between other interfaces is nobody's wish.
    pub(crate) transit_shut: [bool; 2],
}
