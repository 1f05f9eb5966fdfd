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
    AccessGrant, Agreed, IpPrefix, Network, NetworkId, Node, NodeId, Peer, Role, RoutingMode,
    WallMs,
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
        let members = self.members.borrow().clone();
        let forwarders = forwarders(agreed, id, network, &members);
        let lans = lans(agreed, id);
        for (node, peer) in agreed.peers_of(id).filter(|(node, _)| **node != self.me) {
            let Some(row) = agreed.nodes.get(node) else {
                continue;
            };
            let mut behind = cidrs(&peer.lan_subnets);
            behind.extend(peer.container_subnet.map(cidr));
            routes.extend(&behind);
            routes.extend(pods.routed_to(node));
            let port = network.wireguard_port;
            let endpoint = self.endpoint(talked, (id, node), port, &row.addresses, &lans);
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
            } else if let Some(detour) = self.detour_to(agreed, id, &members, &forwarders, node)
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
        let spokes = [&self.me, to].map(|spoke| end(&members, spoke, network));
        let usable = |hub: &NodeId| {
            let joins = |spoke: &End<'_>| !end(&members, hub, network).is_apart_from(spoke);
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
        members: &Members,
        forwarders: &Forwarders<'_>,
        to: &NodeId,
    ) -> Option<Detour> {
        let (one, other) = (end(members, &self.me, id), end(members, to, id));
        if !one.is_apart_from(&other) && !one.is_hidden_from(&other) {
            return None;
        }
        let relays = |hub: &NodeId| relays_in(agreed, id, hub);
        forwarders.between(one, other, relays)
    }

    /// Whether others use this one as their hub in a network, and may: a record alone makes nobody
    /// forward. A pair goes by the word of either end, also of one that is believed dead here.
    pub(super) fn is_hub(&self, agreed: &Agreed, network: NetworkId) -> bool {
        let members = self.members.borrow().clone();
        let needed = |node: &NodeId| {
            let said = end(&members, node, network);
            let is_far = |far: &NodeId| *far != self.me && members.contains_key(far);
            let apart = *node != self.me && said.unreachable.iter().any(is_far);
            // One whose relays have no place in the network draws its hubs from all that forward.
            let relayed = |relay| relays_in(agreed, network, relay);
            let stranded = !said.relays.is_empty()
                && agreed.peers.contains_key(&(network, node.clone()))
                && !said.relays.iter().any(relayed);
            apart || said.relays.contains(&self.me) || (*node != self.me && stranded)
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
        (network, node): (NetworkId, &NodeId),
        port: u16,
        agreed: &[SocketAddr],
        lans: &BTreeSet<Cidr>,
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
        // An address in a LAN behind a peer is that peer's to reach; as an endpoint it would keep the
        // LAN from being routed there.
        let in_lan = |ip: IpAddr| lans.iter().any(|lan| lan.contains(ip));
        let outside = gossiped.iter().find(|endpoint| !in_lan(endpoint.ip()));
        let first = outside.or(gossiped.first()).copied();
        first.or_else(|| {
            agreed
                .first()
                .map(|address| SocketAddr::new(address.ip(), port))
        })
    }
}

/// The LANs that lie behind a network's peers.
fn lans(agreed: &Agreed, network: NetworkId) -> BTreeSet<Cidr> {
    let peers = agreed.peers_of(network);
    peers
        .flat_map(|(_, peer)| cidrs(&peer.lan_subnets))
        .collect()
}

/// What a node says of its ways in a network.
pub(super) fn end<'a>(members: &'a Members, node: &'a NodeId, network: NetworkId) -> End<'a> {
    let record = members.get(node).map(|member| &member.record);
    let relays: &[NodeId] = record.map_or(&[], |record| &record.relays);
    let named = record.and_then(|record| {
        let mut named = record.unreachable.iter();
        named.find(|(id, _)| *id == network)
    });
    let unreachable: &[NodeId] = named.map_or(&[], |(_, nodes)| nodes);
    End {
        node,
        relays,
        unreachable,
    }
}

/// Who forwards between two nodes of a network that do not reach each other: those that live, and
/// others in whose place nobody may be. A daemon that has ended leaves the overlay as it is.
struct Forwarders<'a> {
    living: Vec<End<'a>>,
    dead: Vec<End<'a>>,
}

impl Forwarders<'_> {
    fn between(
        &self,
        one: End<'_>,
        other: End<'_>,
        relays: impl Fn(&NodeId) -> bool,
    ) -> Option<Detour> {
        detour(one, other, &self.living, &relays)
            .or_else(|| detour(one, other, &self.dead, &relays))
    }
}

fn forwarders<'a>(
    agreed: &'a Agreed,
    id: NetworkId,
    network: &Network,
    members: &'a Members,
) -> Forwarders<'a> {
    let forwards = |hub: &NodeId, peer: &Peer| match network.routing_mode {
        RoutingMode::Hub => peer.hub,
        RoutingMode::Mesh => {
            let member = members.get(hub);
            is_server(agreed, hub) && member.is_some_and(|member| member.record.forwards)
        }
    };
    let peers = agreed.peers_of(id);
    let hubs = peers.filter(|(hub, peer)| forwards(hub, peer));
    let (dead, living) = hubs.partition::<Vec<_>, _>(|(hub, _)| is_dead(members, hub));
    let [living, dead] = [living, dead].map(|hubs| {
        let ends = hubs.into_iter().map(|(hub, _)| end(members, hub, id));
        ends.collect()
    });
    Forwarders { living, dead }
}

/// Whether a node may be the relay of others in a network.
fn relays_in(agreed: &Agreed, network: NetworkId, node: &NodeId) -> bool {
    is_server(agreed, node) && agreed.peers.contains_key(&(network, node.clone()))
}

/// Whether a node is one of [`Agreed::servers`].
pub(super) fn is_server(agreed: &Agreed, node: &NodeId) -> bool {
    let row = agreed.nodes.get(node);
    row.is_some_and(|row| row.role == Role::Server && row.raft_id.is_some())
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

#[cfg(test)]
mod tests {
    use consensus_core::Time;
    use overlay_core::membership::{Member, Record, Signature, SignedRecord};
    use overlay_net::membership::Snapshot;

    use super::*;

    fn node(digit: &str) -> NodeId {
        let text = format!("12D3KooW{}", digit.repeat(44));
        text.parse().unwrap()
    }

    #[test]
    fn a_pair_is_apart_in_the_network_that_is_named_and_in_no_other() {
        let (one, far) = (node("1"), node("2"));
        let [named, other] = [1, 2].map(|n| NetworkId::from_bytes([n; 16]));
        let record = Record {
            node: one.clone(),
            generation: 1,
            version: 1,
            addresses: Vec::new(),
            wireguard: Vec::new(),
            relays: Vec::new(),
            unreachable: vec![(named, vec![far.clone()])],
            forwards: false,
        };
        let signature = Signature([0; 64]);
        let member = Member {
            record: Arc::new(SignedRecord { record, signature }),
            condition: Condition::Alive,
            left: false,
            since: Time::ZERO,
            last_heard: None,
            rtt: None,
        };
        let mut snapshot = Snapshot::default();
        snapshot.members.insert(one.clone(), member);
        let members: Members = Arc::new(snapshot);
        let is_apart = |network| {
            let ends = [&one, &far].map(|node| end(&members, node, network));
            ends[0].is_apart_from(&ends[1]) && ends[1].is_apart_from(&ends[0])
        };
        assert!(is_apart(named) && !is_apart(other));
    }

    #[test]
    fn a_hub_that_is_believed_dead_is_used_where_no_other_is() {
        let [one, far, living, dead] = ["1", "2", "3", "4"].map(node);
        let named = [far.clone()];
        let open = |node| End {
            node,
            relays: &[],
            unreachable: &[],
        };
        let apart = End {
            unreachable: &named,
            ..open(&one)
        };
        let mut forwarders = Forwarders {
            living: vec![open(&living)],
            dead: vec![open(&dead)],
        };
        let hub = |forwarders: &Forwarders<'_>| {
            let detour = forwarders.between(apart, open(&far), |_| true);
            detour.map(|detour| detour.hub)
        };
        assert_eq!(hub(&forwarders), Some(living.clone()));
        forwarders.living.clear();
        assert_eq!(hub(&forwarders), Some(dead.clone()));
        forwarders.dead.clear();
        assert_eq!(hub(&forwarders), None);
    }
}
