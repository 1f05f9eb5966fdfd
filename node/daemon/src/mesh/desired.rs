//! What a network's interface on this node should be.
//!
//! Decides which endpoint of a peer to use: the address at which libp2p talks to it now, with the
//! WireGuard port that it gossips; else the first that it gossips. Decides who is a hub here, and
//! which peers may be reached by which hubs, from what is agreed and gossiped; that both ends choose
//! alike is the path plan's doing. A peer is allowed its addresses, the virtual IPs that it holds,
//! those of the devices that it is the gateway of, its containers' subnet, its pods' and the networks
//! behind it, which the others route to it. A gateway has its devices for peers.
//!
//! Never: asks the machine anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use consensus_core::{
    AccessGrant, Agreed, IpPrefix, Network, NetworkId, Node, NodeId, Peer, RoutingMode, WallMs,
};
use overlay_core::{
    membership::Condition,
    mtu::OVERLAY_MTU,
    paths::{Behind, Detour, End, KEEPALIVE_S, by_hubs, detour, only_by_hubs, spoke_hub},
    peers::{Cidr, InterfacePlan, PeerPlan, PublicKey},
    straight::probe_address,
};
use overlay_net::membership::Members;

use super::{overlay::Overlay, pods::Pods};

impl Overlay {
    /// The interface of a network that this node has a place in.
    pub(super) fn desired(
        &self,
        agreed: &Agreed,
        id: NetworkId,
        network: &Network,
        own: &Peer,
        talked: &mut BTreeMap<NodeId, IpAddr>,
        now: WallMs,
    ) -> InterfacePlan {
        let (mut peers, mut hubs) = (BTreeMap::new(), BTreeMap::new());
        let mut spokes = BTreeMap::new();
        let mut routes: BTreeSet<Cidr> = prefixes(network).into();
        let keepalive_s = self.is_behind_nat().then_some(KEEPALIVE_S);
        let pods = Pods::seen_by(agreed, &self.me, id);
        for (node, peer) in agreed.peers_of(id).filter(|(node, _)| **node != self.me) {
            let Some(row) = agreed.nodes.get(node) else {
                continue;
            };
            let mut behind = cidrs(&peer.lan_subnets);
            behind.extend(peer.container_subnet.map(cidr));
            routes.extend(&behind);
            routes.extend(pods.routed_to(node));
            let endpoint = self.endpoint(talked, id, node, network.wireguard_port, &row.addresses);
            let plan = PeerPlan {
                endpoint,
                allowed_ips: [Cidr::host(peer.ipv6.into()), Cidr::host(peer.ipv4.into())]
                    .into_iter()
                    .chain(virtual_addresses(agreed, id, node))
                    .chain(devices_of(agreed, id, node, now).flat_map(device_addresses))
                    .chain(behind)
                    .chain(pods.of(node))
                    .collect(),
                keepalive_s,
            };
            let key = PublicKey::from_bytes(row.wireguard_public_key);
            peers.insert(key, plan);
            let key_of = |node: &Node| PublicKey::from_bytes(node.wireguard_public_key);
            if network.routing_mode == RoutingMode::Hub && !own.hub && !peer.hub {
                let hub = self.hub_of_spokes(agreed, id, node);
                spokes.insert(key, hub.map(key_of));
            } else if let Some(detour) = self.detour_to(agreed, id, network, node)
                && let Some(hub) = agreed.nodes.get(&detour.hub)
            {
                let tried_by = detour.retried.then(|| probe_address(peer.ipv6));
                let hub = key_of(hub);
                hubs.insert(key, Behind { hub, tried_by });
            }
        }
        only_by_hubs(&mut peers, &spokes);
        by_hubs(&mut peers, &hubs);
        peers.extend(self.announced(agreed, id, &peers));
        peers.extend(devices_of(agreed, id, &self.me, now).map(device));
        InterfacePlan {
            addresses: [IpAddr::from(own.ipv6), own.ipv4.into()].into(),
            routes,
            mtu: OVERLAY_MTU,
            listen_port: network.wireguard_port,
            peers,
        }
    }

    /// The keys that nodes are about to have: peers without addresses yet, so that the first
    /// handshake with such a key is answered.
    fn announced(
        &self,
        agreed: &Agreed,
        network: NetworkId,
        peers: &BTreeMap<PublicKey, PeerPlan>,
    ) -> Vec<(PublicKey, PeerPlan)> {
        let nodes = agreed.peers_of(network).map(|(node, _)| node);
        let others = nodes.filter(|node| **node != self.me);
        let announced = others.filter_map(|node| {
            let key = PublicKey::from_bytes(agreed.announced_key(node)?);
            let present = agreed.nodes.get(node)?.wireguard_public_key;
            let plan = PeerPlan {
                endpoint: peers.get(&PublicKey::from_bytes(present))?.endpoint,
                ..PeerPlan::default()
            };
            Some((key, plan))
        });
        announced.collect()
    }

    /// The hub between this spoke and another: one that gossip does not believe dead, and that
    /// neither is apart from.
    fn hub_of_spokes<'a>(
        &self,
        agreed: &'a Agreed,
        network: NetworkId,
        to: &NodeId,
    ) -> Option<&'a Node> {
        let members = self.members.borrow().clone();
        let hubs = agreed.peers_of(network).filter(|(_, peer)| peer.hub);
        let spokes = [end(&members, &self.me), end(&members, to)];
        let usable = |hub: &NodeId| {
            let joins = |spoke: &End<'_>| !end(&members, hub).is_apart_from(spoke);
            !is_dead(&members, hub) && spokes.iter().all(joins)
        };
        let hub = spoke_hub(&self.me, to, hubs.map(|(hub, _)| hub), usable)?;
        agreed.nodes.get(hub)
    }

    /// Whether packets from here pass a router that forgets them, so that they must be repeated.
    fn is_behind_nat(&self) -> bool {
        self.net.reachability().borrow().is_translated()
    }

    /// How packets go to a node that cannot be reached straight from here.
    fn detour_to(
        &self,
        agreed: &Agreed,
        id: NetworkId,
        network: &Network,
        to: &NodeId,
    ) -> Option<Detour> {
        let members = self.members.borrow().clone();
        let (one, other) = (end(&members, &self.me), end(&members, to));
        if !one.is_apart_from(&other) && !one.is_hidden_from(&other) {
            return None;
        }
        let is_server = |hub: &NodeId| agreed.servers().any(|(id, _)| id == hub);
        let forwards = |hub: &NodeId, peer: &Peer| match network.routing_mode {
            RoutingMode::Hub => peer.hub,
            RoutingMode::Mesh => {
                let member = members.get(hub);
                is_server(hub) && member.is_some_and(|member| member.record.forwards)
            }
        };
        let peers = agreed.peers_of(id);
        let hubs = peers.filter(|(hub, peer)| forwards(hub, peer) && !is_dead(&members, hub));
        let hubs: Vec<End<'_>> = hubs.map(|(hub, _)| end(&members, hub)).collect();
        let relays = |hub: &NodeId| is_server(hub) && agreed.peers.contains_key(&(id, hub.clone()));
        detour(one, other, &hubs, relays)
    }

    /// Whether others use this one as their hub, and may: a record alone makes nobody forward.
    pub(super) fn is_hub(&self, agreed: &Agreed) -> bool {
        let members = self.members.borrow().clone();
        let needed = |node: &NodeId| {
            let said = end(&members, node);
            let apart = said.unreachable.iter().any(|far| *far != self.me);
            let apart = apart && *node != self.me && !is_dead(&members, node);
            apart || said.relays.contains(&self.me)
        };
        self.may_forward(agreed) && members.keys().any(needed)
    }

    /// Whether this node passes on packets between others who need it.
    pub(super) fn may_forward(&self, agreed: &Agreed) -> bool {
        self.relaying && agreed.servers().any(|(id, _)| *id == self.me)
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
}

/// What a node says of its ways.
pub(super) fn end<'a>(members: &'a Members, node: &'a NodeId) -> End<'a> {
    let record = members.get(node).map(|member| &member.record);
    let named: [&'a [NodeId]; 2] = record.map_or([&[], &[]], |record| {
        [record.relays.as_slice(), record.unreachable.as_slice()]
    });
    let [relays, unreachable] = named;
    End {
        node,
        relays,
        unreachable,
    }
}

/// Whether gossip believes it dead, of which both ends of a pair hear.
fn is_dead(members: &Members, node: &NodeId) -> bool {
    let known = members.get(node);
    known.is_some_and(|member| member.condition == Condition::Dead)
}

/// The virtual IPs that a node holds in a network: nobody else's packets from there are believed.
fn virtual_addresses<'a>(
    agreed: &'a Agreed,
    network: NetworkId,
    node: &'a NodeId,
) -> impl Iterator<Item = Cidr> + 'a {
    let all = agreed.virtual_ips.values();
    let held = all.filter(move |vip| vip.network == network && vip.is_holder(node));
    held.map(|vip| Cidr::host(vip.address.into()))
}

/// The devices that a node is the gateway of in a network, as long as they are let in.
pub(super) fn devices_of<'a>(
    agreed: &'a Agreed,
    network: NetworkId,
    gateway: &'a NodeId,
    now: WallMs,
) -> impl Iterator<Item = &'a AccessGrant> {
    let grants = agreed.open_grants(network, now);
    grants.filter(move |grant| grant.gateway == *gateway)
}

pub(super) fn device_addresses(grant: &AccessGrant) -> [Cidr; 2] {
    [Cidr::host(grant.ipv6.into()), Cidr::host(grant.ipv4.into())]
}

/// A device as its gateway's peer: it sends first, from wherever it is.
fn device(grant: &AccessGrant) -> (PublicKey, PeerPlan) {
    let plan = PeerPlan {
        endpoint: None,
        allowed_ips: device_addresses(grant).into(),
        keepalive_s: None,
    };
    (PublicKey::from_bytes(grant.public_key), plan)
}

/// What a network has on-link.
pub(super) fn prefixes(network: &Network) -> [Cidr; 2] {
    [network.ipv6.into(), network.ipv4.into()].map(cidr)
}

pub(super) fn cidrs(prefixes: &BTreeSet<IpPrefix>) -> BTreeSet<Cidr> {
    prefixes.iter().copied().map(cidr).collect()
}

pub(super) fn cidr(prefix: IpPrefix) -> Cidr {
    Cidr::new(prefix.address(), prefix.bits())
        .expect("agreed prefixes are no longer than addresses")
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
