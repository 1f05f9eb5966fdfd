//! What the agreed state and Docker's lists mean for this node's containers and their names.
//!
//! Decides: which networks Docker is to have, where names are served, whom dockerd's containers are to
//! ask for them, and who else is to be asked: the other Docker hosts of the network that gossip does
//! not believe dead.
//! Never: asks anybody anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use consensus_core::{Agreed, DockerHost, DockerPhase, IpPrefix, Network, NetworkId, NodeId, Peer};
use overlay_core::{
    mtu::BRIDGE_MTU,
    names::{Directory, Names, OtherHost},
};
use overlay_filter::{ContainerBridge, cidr};
use overlay_names::Listening;
use runtimes_core::networks::BridgeNetwork;
use runtimes_docker::NetworkSurvey;

/// Whether containers can ask this node for names at a bridge's address. An address that it was given
/// a moment ago is not among them.
pub(crate) type Served = BTreeMap<IpAddr, bool>;

/// Whom dockerd's containers are to ask for names, before the host's own resolvers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NamesServer {
    /// This node, there.
    At(IpAddr),
    /// Nobody.
    Nobody,
    /// That is known in a moment. dockerd would have to be restarted for another word.
    Undecided,
}

/// A network in which this node's containers have addresses.
#[derive(Debug, Clone)]
pub(super) struct Place {
    id: NetworkId,
    network: Network,
    own: Peer,
    subnet: IpPrefix,
    bridge: BridgeNetwork,
    /// Whether the overlay's interface has this node's addresses.
    is_up: bool,
}

impl Place {
    /// This node's address on the bridge.
    fn gateway(&self) -> Option<IpAddr> {
        self.bridge.gateway().map(IpAddr::V4)
    }

    /// Where names are served: for the containers, and for the other hosts.
    pub(super) fn listens_at(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let overlay = [IpAddr::from(self.own.ipv6), self.own.ipv4.into()];
        let overlay = overlay.into_iter().filter({
            let is_up = self.is_up;
            move |_| is_up
        });
        self.gateway().into_iter().chain(overlay)
    }
}

/// This node's places with a container subnet, the oldest first, while it is a Docker host.
pub(super) fn places(agreed: &Agreed, me: &NodeId, up: &BTreeSet<NetworkId>) -> Vec<Place> {
    if !is_docker_host(agreed, me) {
        return Vec::new();
    }
    let mut places: Vec<Place> = agreed
        .peers
        .iter()
        .filter(|((_, node), _)| node == me)
        .filter_map(|((id, _), own)| {
            let network = agreed.networks.get(id)?;
            let subnet = own.container_subnet?;
            Some(Place {
                id: *id,
                network: network.clone(),
                own: own.clone(),
                subnet,
                bridge: BridgeNetwork {
                    network: network.name.clone(),
                    bridge: network.container_bridge(),
                    subnet,
                    mtu: BRIDGE_MTU,
                },
                is_up: up.contains(id),
            })
        })
        .collect();
    places.sort_by_key(|place| (place.own.attached, place.id));
    places
}

fn is_docker_host(agreed: &Agreed, node: &NodeId) -> bool {
    agreed.docker_hosts.get(node).is_some_and(has_containers)
}

/// Whether a Docker host has containers of the mesh, or is about to.
pub(crate) fn has_containers(host: &DockerHost) -> bool {
    !matches!(host.phase, DockerPhase::Stopping | DockerPhase::Stopped)
}

/// Whether these may run: they are not where the host is at rest.
fn runs_containers(agreed: &Agreed, node: &NodeId) -> bool {
    let host = agreed.docker_hosts.get(node);
    host.is_some_and(|host| has_containers(host) && host.phase != DockerPhase::Drained)
}

/// Whom dockerd's containers ask for names: this node, at the bridge of its oldest place where that can
/// be. It is an address of the host itself, so containers of every network reach it.
pub(crate) fn names_server(agreed: &Agreed, me: &NodeId, served: &Served) -> NamesServer {
    for place in places(agreed, me, &BTreeSet::new()) {
        if let Some(address) = place.gateway() {
            match served.get(&address) {
                Some(true) => return NamesServer::At(address),
                Some(false) => {}
                None => return NamesServer::Undecided,
            }
        }
    }
    NamesServer::Nobody
}

/// Where containers can ask: where the server listens, and the bridge is there or can be made.
pub(super) fn served(
    places: &[Place],
    listening: &Listening,
    can_be: impl Fn(&BridgeNetwork) -> bool,
) -> Served {
    let served = places.iter().filter_map(|place| {
        let address = place.gateway()?;
        let listens = listening.at.contains(&address);
        let known = listens || listening.failed.contains_key(&address);
        match can_be(&place.bridge) {
            false => Some((address, false)),
            true => known.then_some((address, listens)),
        }
    });
    served.collect()
}

/// The networks that are to give this node's containers addresses, and have none left.
pub(super) fn without_subnet(agreed: &Agreed, me: &NodeId) -> impl Iterator<Item = String> {
    let is_host = is_docker_host(agreed, me);
    let own = agreed.peers.iter().filter(move |((_, node), _)| node == me);
    own.filter_map(move |((id, _), peer)| {
        let network = agreed.networks.get(id)?;
        let prefix = network.container_subnet_prefix?;
        (is_host && peer.container_subnet.is_none()).then(|| {
            format!(
                "no network for containers of {name}: every /24 of {prefix} is given \
                 (ContainerSubnetsExhaustedError); widen it: shoal network set {name} \
                 --container-subnet-prefix PREFIX",
                name = network.name,
            )
        })
    })
}

/// The bridges of networks' containers on this node, whether or not Docker has made them.
pub(crate) fn bridges(agreed: &Agreed, me: &NodeId) -> BTreeSet<ContainerBridge> {
    let places = places(agreed, me, &BTreeSet::new()).into_iter();
    places
        .map(|place| ContainerBridge {
            interface: place.bridge.bridge,
            subnet: cidr(place.subnet),
            network: place.id,
        })
        .collect()
}

/// What Docker is to have, by its names. A bridge needs no overlay: containers of one host talk
/// whatever becomes of the others.
pub(super) fn wanted(places: &[Place]) -> BTreeMap<String, BridgeNetwork> {
    let named = |place: &Place| (place.network.container_network(), place.bridge.clone());
    places.iter().map(named).collect()
}

/// What this node knows of names.
pub(super) fn directory(
    agreed: &Agreed,
    me: &NodeId,
    places: &[Place],
    survey: &NetworkSurvey,
    alive: impl Fn(&NodeId) -> bool,
) -> Directory {
    let names = |place: &Place| {
        let mut names = Names {
            network: place.network.name.clone(),
            node: agreed.name_of(me),
            interface: place.network.interface(),
            overlay: vec![
                cidr(place.network.ipv6.into()),
                cidr(place.network.ipv4.into()),
            ],
            subnet: Some(cidr(place.subnet)),
            containers: match runs_containers(agreed, me) {
                true => containers(place, survey),
                false => BTreeMap::new(),
            },
            ..Names::default()
        };
        for (node, peer) in agreed.peers_of(place.id) {
            let name = agreed.name_of(node);
            if let Some(subnet) = peer.container_subnet
                && node != me
                && runs_containers(agreed, node)
                && alive(node)
            {
                let (address, subnet) = (peer.ipv4, cidr(subnet));
                let host = OtherHost { address, subnet };
                names.hosts.insert(name.clone(), host);
            }
            let addresses = vec![peer.ipv4.into(), peer.ipv6.into()];
            names.nodes.insert(name, addresses);
        }
        (place.id, names)
    };
    Directory {
        networks: places.iter().map(names).collect(),
        bystanders: survey.others.iter().copied().map(cidr).collect(),
    }
}

/// The running containers in the place's network, by name.
fn containers(
    place: &Place,
    survey: &NetworkSurvey,
) -> BTreeMap<String, BTreeSet<std::net::Ipv4Addr>> {
    let mut by_name: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    let ours = survey.networks.iter();
    let ours = ours.filter(|network| network.made_of.as_ref() == Some(&place.bridge));
    for network in ours {
        for container in &survey.running {
            if let Some(address) = container.addresses.get(&network.id) {
                let name = container.name.to_ascii_lowercase();
                by_name.entry(name).or_default().insert(*address);
            }
        }
    }
    by_name
}
