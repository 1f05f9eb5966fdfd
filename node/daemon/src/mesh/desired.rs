//! What a network's interface on this node should be.
//!
//! Decides which endpoint of a peer to use: the address at which libp2p talks to it now, with the
//! WireGuard port that it gossips; else the first that it gossips. Decides who is a hub here, and
//! which peers are reached by one; that both ends choose alike is the path plan's doing. A peer is
//! allowed its addresses, the virtual IPs that it holds, those of the devices that it is the gateway
//! of, its containers' subnet, its pods' and the networks behind it, which the others route to it. A
//! gateway has its devices for peers.
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
    paths::{End, KEEPALIVE_S, by_hubs, hub, only_by_hubs, spoke_hub},
    peers::{Cidr, InterfacePlan, PeerPlan, PublicKey},
};

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
            } else if let Some(hub) = self.hub_to(agreed, id, node) {
                hubs.insert(key, key_of(hub));
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

    /// The hub between this spoke and another: one that gossip does not believe dead.
    fn hub_of_spokes<'a>(
        &self,
        agreed: &'a Agreed,
        network: NetworkId,
        to: &NodeId,
    ) -> Option<&'a Node> {
        let members = self.members.borrow().clone();
        let hubs = agreed.peers_of(network).filter(|(_, peer)| peer.hub);
        let alive = |hub: &NodeId| {
            let known = members.get(hub);
            known.is_none_or(|member| member.condition != Condition::Dead)
        };
        let hub = spoke_hub(&self.me, to, hubs.map(|(hub, _)| hub), alive)?;
        agreed.nodes.get(hub)
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
    pub(super) fn is_hub(&self, agreed: &Agreed) -> bool {
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
