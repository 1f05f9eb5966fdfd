//! Names inside the mesh: which name means which address, for whom.
//!
//! Decides: what a name of the zone [`ZONE`] means to whoever asks, which Docker host is to be asked
//! for it, and what is none of the mesh's business. `NODE.NETWORK.shoal.internal` is a node,
//! `CONTAINER.NODE.NETWORK.shoal.internal` a container, `CONTAINER.NETWORK.shoal.internal` and a bare
//! `CONTAINER` every container of that name in the network. `.internal` is nobody's on the Internet
//! (ICANN, resolution 2024.07.29.06). Backwards, an address of the network is called by its node's or
//! its container's name, and is never asked for outside.
//!
//! Never: sends or reads a message, remembers anything between calls.
//!
//! Invariants:
//! - Who asks is told by the source address, and each source belongs to one network: the packet
//!   filter and WireGuard's allowed IPs let no other be used. A name of another network does not
//!   exist for it.
//! - A container can't take a node's name: an agreed name wins over one that somebody gave a
//!   container.
//! - A host that is asked by another never asks on: no question goes in circles.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use consensus_core::NetworkId;

use crate::peers::Cidr;

/// Where the mesh's names are.
pub const ZONE: &str = "shoal.internal";

/// Another Docker host of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherHost {
    /// Where it answers.
    pub address: Ipv4Addr,
    /// Where its containers are: another address is not believed of it.
    pub subnet: Cidr,
}

/// What this node knows of one network's names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Names {
    /// The network's name.
    pub network: String,
    /// This node's name.
    pub node: String,
    /// The overlay's interface: other hosts are asked through it alone.
    pub interface: String,
    /// Where its peers' and devices' addresses are.
    pub overlay: Vec<Cidr>,
    /// Where this node's containers are, if it has any.
    pub subnet: Option<Cidr>,
    /// The peers, by name.
    pub nodes: BTreeMap<String, Vec<IpAddr>>,
    /// The other Docker hosts that are not known to be dead, by name.
    pub hosts: BTreeMap<String, OtherHost>,
    /// This node's own containers, by name in lower case.
    pub containers: BTreeMap<String, BTreeSet<Ipv4Addr>>,
}

/// What this node knows of names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Directory {
    /// Its networks.
    pub networks: BTreeMap<NetworkId, Names>,
    /// This node's other containers: in networks of Docker that are none of the mesh.
    pub bystanders: BTreeSet<Cidr>,
}

/// Whoever asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asker {
    /// A container of this node in a network of the mesh.
    Container(NetworkId),
    /// A node or a device in a network of the mesh.
    Peer(NetworkId),
    /// A container of this node elsewhere.
    Bystander,
}

/// Whom a name is to be asked of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// It means these addresses. It exists even if they are none.
    Known(BTreeSet<IpAddr>),
    /// It is an address read backwards, of whoever is called so.
    Called(String),
    /// A container's: what this node has itself, and whom to ask for the rest.
    Ask {
        /// This node's own containers of that name.
        own: BTreeSet<IpAddr>,
        /// The other hosts to be asked.
        hosts: Vec<OtherHost>,
        /// The container's name.
        container: String,
        /// Whether it may be a name of the outside if no host has it.
        else_outside: bool,
    },
    /// There is no such name.
    Unknown,
    /// It is not the mesh's, and the host's own resolvers are asked.
    Outside,
    /// It is not the mesh's, and the asker has other resolvers for that.
    Refused,
}

impl Directory {
    /// Who asks from this address; nobody who is to be answered, if none.
    pub fn asker(&self, source: IpAddr) -> Option<Asker> {
        for (id, names) in &self.networks {
            if names.subnet.is_some_and(|subnet| subnet.contains(source)) {
                return Some(Asker::Container(*id));
            }
            if names.overlay.iter().any(|prefix| prefix.contains(source)) {
                return Some(Asker::Peer(*id));
            }
        }
        let bystander = self.bystanders.iter().any(|net| net.contains(source));
        bystander.then_some(Asker::Bystander)
    }

    /// What a name (without its last dot) means to somebody who asks for the whole answer.
    pub fn resolve(&self, asker: Asker, name: &str) -> Meaning {
        let name = name.to_ascii_lowercase();
        let (names, forwards) = match asker {
            Asker::Container(id) => (self.networks.get(&id), true),
            Asker::Peer(id) => (self.networks.get(&id), false),
            Asker::Bystander => (None, true),
        };
        let outside = match forwards {
            true => Meaning::Outside,
            false => Meaning::Refused,
        };
        let backwards = reversed(&name).zip(names);
        if let Some(meaning) = backwards.and_then(|(address, names)| names.called(address)) {
            return meaning;
        }
        let Some(below) = below(&name, ZONE) else {
            return match names {
                Some(names) if forwards && is_bare(&name) => names.bare(&name),
                Some(_) | None => outside,
            };
        };
        match names {
            Some(names) => names.in_zone(below),
            // The zone's own name is nobody's secret.
            None if below.is_empty() => Meaning::Known(BTreeSet::new()),
            None => Meaning::Unknown,
        }
    }

    /// What this node has itself under a name, for a host that asks all: its containers.
    pub fn own(&self, network: NetworkId, name: &str) -> Option<BTreeSet<IpAddr>> {
        let names = self.networks.get(&network)?;
        let name = name.to_ascii_lowercase();
        let below_network = below(below(&name, ZONE)?, &names.network)?;
        let container = below(below_network, &names.node).filter(|name| !name.is_empty())?;
        let own = names.own(container);
        (!own.is_empty()).then_some(own)
    }
}

/// The name under which a host is asked for its container.
pub fn question(names: &Names, host: &str, container: &str) -> String {
    format!("{container}.{host}.{}.{ZONE}", names.network)
}

impl Names {
    /// The name of another host, by its address.
    pub fn host_at(&self, address: Ipv4Addr) -> Option<&str> {
        let mut hosts = self.hosts.iter();
        let host = hosts.find(|(_, host)| host.address == address);
        host.map(|(name, _)| name.as_str())
    }

    fn in_zone(&self, name: &str) -> Meaning {
        if name.is_empty() {
            return Meaning::Known(BTreeSet::new());
        }
        match below(name, &self.network) {
            None => Meaning::Unknown,
            Some("") => Meaning::Known(BTreeSet::new()),
            Some(rest) => self.in_network(rest),
        }
    }

    fn in_network(&self, rest: &str) -> Meaning {
        if let Some(addresses) = self.nodes.get(rest) {
            return Meaning::Known(addresses.iter().copied().collect());
        }
        let (container, node) = rest.rsplit_once('.').unwrap_or((rest, ""));
        if node == self.node {
            return match self.own(container) {
                own if own.is_empty() => Meaning::Unknown,
                own => Meaning::Known(own),
            };
        }
        if let Some(host) = self.hosts.get(node) {
            return Meaning::Ask {
                own: BTreeSet::new(),
                hosts: vec![*host],
                container: container.to_owned(),
                else_outside: false,
            };
        }
        // A container's name may have dots in it, but not end in the name of a node.
        match self.nodes.contains_key(node) {
            true => Meaning::Unknown,
            false => self.ask_all(rest, false),
        }
    }

    fn bare(&self, name: &str) -> Meaning {
        match self.nodes.get(name) {
            Some(addresses) => Meaning::Known(addresses.iter().copied().collect()),
            None => self.ask_all(name, true),
        }
    }

    /// What an address is called that is one of the network's. Other hosts' containers have no name
    /// here: MariaDB asks for each client's, and would rather have none than wait.
    fn called(&self, address: IpAddr) -> Option<Meaning> {
        let hosts = self.hosts.values().map(|host| &host.subnet);
        let mut prefixes = self.overlay.iter().chain(&self.subnet).chain(hosts);
        if !prefixes.any(|prefix| prefix.contains(address)) {
            return None;
        }
        let mut nodes = self.nodes.iter();
        let node = nodes.find(|(_, addresses)| addresses.contains(&address));
        let mut containers = self.containers.iter();
        let is_own = |own: &BTreeSet<Ipv4Addr>| own.iter().any(|own| address == IpAddr::V4(*own));
        let container = containers.find(|(_, addresses)| is_own(addresses));
        Some(match (node, container) {
            (Some((node, _)), _) => Meaning::Called(format!("{node}.{}.{ZONE}", self.network)),
            (None, Some((container, _))) => Meaning::Called(question(self, &self.node, container)),
            (None, None) => Meaning::Unknown,
        })
    }

    fn ask_all(&self, container: &str, else_outside: bool) -> Meaning {
        Meaning::Ask {
            own: self.own(container),
            hosts: self.hosts.values().copied().collect(),
            container: container.to_owned(),
            else_outside,
        }
    }

    fn own(&self, container: &str) -> BTreeSet<IpAddr> {
        let own = self.containers.get(container);
        own.into_iter().flatten().copied().map(IpAddr::V4).collect()
    }
}

/// What stands before a suffix, without the dot between them.
fn below<'a>(name: &'a str, suffix: &str) -> Option<&'a str> {
    let rest = name.strip_suffix(suffix)?;
    match rest.is_empty() {
        true => Some(rest),
        false => rest.strip_suffix('.'),
    }
}

/// The address that a name stands for in the tree of addresses read backwards (RFC 1035, section 3.5;
/// RFC 3596, section 2.5).
fn reversed(name: &str) -> Option<IpAddr> {
    if let Some(octets) = name.strip_suffix(".in-addr.arpa") {
        let mut octets: Vec<&str> = octets.split('.').collect();
        octets.reverse();
        let address: Ipv4Addr = octets.join(".").parse().ok()?;
        return Some(address.into());
    }
    let digits: Vec<&str> = name.strip_suffix(".ip6.arpa")?.split('.').collect();
    let is_digit = |digit: &&str| matches!(digit.as_bytes(), [byte] if byte.is_ascii_hexdigit());
    let whole = digits.len() == 32 && digits.iter().all(is_digit);
    let digits: String = digits.into_iter().rev().filter(|_| whole).collect();
    let bits = u128::from_str_radix(&digits, 16).ok()?;
    Some(Ipv6Addr::from_bits(bits).into())
}

fn is_bare(name: &str) -> bool {
    !name.is_empty() && !name.contains('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLUE: NetworkId = NetworkId::from_bytes([1; 16]);
    const RED: NetworkId = NetworkId::from_bytes([2; 16]);
    const IN_BLUE: Asker = Asker::Container(BLUE);

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// n1, in two networks; in blue n2 is a Docker host too, and n3 none.
    fn directory() -> Directory {
        let names = |network: &str, third: &str| Names {
            network: network.into(),
            node: "n1".into(),
            overlay: vec![cidr(&format!("100.{third}.0.0/16")), cidr("fd01::/64")],
            subnet: Some(cidr(&format!("10.{third}.1.0/24"))),
            ..Names::default()
        };
        let mut blue = names("blue", "96");
        for (node, last) in [("n1", 1), ("n2", 2), ("n3", 3)] {
            let addresses = [format!("100.96.0.{last}"), format!("fd01::{last}")];
            let addresses = addresses.iter().map(|text| ip(text)).collect();
            blue.nodes.insert(node.into(), addresses);
        }
        blue.hosts.insert("n2".into(), second());
        let address = "10.96.1.2".parse().unwrap();
        for name in ["web", "n3", "my.app_1"] {
            blue.containers.insert(name.into(), [address].into());
        }
        let mut red = names("red", "97");
        let address = "10.97.1.2".parse().unwrap();
        red.containers.insert("secret".into(), [address].into());
        Directory {
            networks: [(BLUE, blue), (RED, red)].into(),
            bystanders: [cidr("172.17.0.0/16")].into(),
        }
    }

    fn second() -> OtherHost {
        OtherHost {
            address: "100.96.0.2".parse().unwrap(),
            subnet: cidr("10.96.2.0/24"),
        }
    }

    fn ask(own: &[&str], container: &str, else_outside: bool) -> Meaning {
        Meaning::Ask {
            own: own.iter().map(|text| ip(text)).collect(),
            hosts: vec![second()],
            container: container.into(),
            else_outside,
        }
    }

    fn known(addresses: &[&str]) -> Meaning {
        Meaning::Known(addresses.iter().map(|text| ip(text)).collect())
    }

    #[test]
    fn the_source_tells_the_network_and_strangers_are_nobody() {
        let directory = directory();
        for (source, asker) in [
            ("10.96.1.7", Some(IN_BLUE)),
            ("10.97.1.7", Some(Asker::Container(RED))),
            ("100.96.0.9", Some(Asker::Peer(BLUE))),
            ("fd01::9", Some(Asker::Peer(BLUE))),
            ("172.17.0.5", Some(Asker::Bystander)),
            // Another host's container asks its own host.
            ("10.96.2.7", None),
            ("192.0.2.1", None),
        ] {
            assert_eq!(directory.asker(ip(source)), asker, "{source}");
        }
    }

    #[test]
    fn a_node_has_its_overlay_addresses() {
        let directory = directory();
        let second = known(&["100.96.0.2", "fd01::2"]);
        for name in ["n2.blue.shoal.internal", "N2.Blue.Shoal.Internal", "n2"] {
            assert_eq!(directory.resolve(IN_BLUE, name), second, "{name}");
        }
    }

    #[test]
    fn a_container_is_found_on_its_host_or_asked_of_all() {
        let directory = directory();
        let resolve = |name: &str| directory.resolve(IN_BLUE, name);
        assert_eq!(resolve("web.n1.blue.shoal.internal"), known(&["10.96.1.2"]));
        assert_eq!(resolve("db.n1.blue.shoal.internal"), Meaning::Unknown);
        let there = |container| Meaning::Ask {
            own: BTreeSet::new(),
            hosts: vec![second()],
            container: String::from(container),
            else_outside: false,
        };
        assert_eq!(resolve("web.n2.blue.shoal.internal"), there("web"));
        assert_eq!(resolve("web.n3.blue.shoal.internal"), Meaning::Unknown);
        let all = resolve("web.blue.shoal.internal");
        assert_eq!(all, ask(&["10.96.1.2"], "web", false));
        assert_eq!(resolve("WEB"), ask(&["10.96.1.2"], "web", true));
        assert_eq!(resolve("db"), ask(&[], "db", true));
    }

    #[test]
    fn a_container_takes_no_nodes_name_and_may_have_dots_in_its_own() {
        let directory = directory();
        let node = known(&["100.96.0.3", "fd01::3"]);
        assert_eq!(directory.resolve(IN_BLUE, "n3"), node);
        assert_eq!(
            directory.resolve(IN_BLUE, "my.app_1.blue.shoal.internal"),
            ask(&["10.96.1.2"], "my.app_1", false)
        );
        assert_eq!(
            directory.resolve(IN_BLUE, "my.app_1.n1.blue.shoal.internal"),
            known(&["10.96.1.2"])
        );
    }

    #[test]
    fn an_address_of_the_network_is_called_by_its_name_and_asked_for_nowhere_else() {
        let directory = directory();
        let called = |name: &str| Meaning::Called(name.to_owned());
        let nibbles = |address: &str| {
            let address: Ipv6Addr = address.parse().unwrap();
            let digits = format!("{:032x}", address.to_bits());
            let digits: Vec<String> = digits.chars().rev().map(String::from).collect();
            format!("{}.ip6.arpa", digits.join("."))
        };
        for (name, meaning) in [
            ("2.0.96.100.in-addr.arpa", called("n2.blue.shoal.internal")),
            ("2.0.96.100.IN-ADDR.ARPA", called("n2.blue.shoal.internal")),
            (
                nibbles("fd01::3").as_str(),
                called("n3.blue.shoal.internal"),
            ),
            // Another host's container, a node that is none any more, a part of an address.
            ("5.2.96.10.in-addr.arpa", Meaning::Unknown),
            ("77.0.96.100.in-addr.arpa", Meaning::Unknown),
            ("0.96.100.in-addr.arpa", Meaning::Outside),
            // Another network's container, and somebody's on the Internet.
            ("2.1.97.10.in-addr.arpa", Meaning::Outside),
            (nibbles("2001:db8::1").as_str(), Meaning::Outside),
            ("1.ip6.arpa", Meaning::Outside),
            ("1.2.3.4.5.in-addr.arpa", Meaning::Outside),
        ] {
            assert_eq!(directory.resolve(IN_BLUE, name), meaning, "{name}");
        }
        // This host's containers all have one address here: any of them will do.
        let own = directory.resolve(IN_BLUE, "2.1.96.10.in-addr.arpa");
        assert_eq!(own, called("my.app_1.n1.blue.shoal.internal"));
        let stranger = directory.resolve(Asker::Bystander, "2.0.96.100.in-addr.arpa");
        assert_eq!(stranger, Meaning::Outside);
    }

    #[test]
    fn names_of_another_network_do_not_exist() {
        let directory = directory();
        for name in [
            "secret.red.shoal.internal",
            "secret.n1.red.shoal.internal",
            "red.shoal.internal",
            "n1.red.shoal.internal",
        ] {
            assert_eq!(directory.resolve(IN_BLUE, name), Meaning::Unknown, "{name}");
            let bystander = directory.resolve(Asker::Bystander, name);
            assert_eq!(bystander, Meaning::Unknown, "{name}");
        }
        assert_eq!(
            directory.resolve(IN_BLUE, "secret"),
            ask(&[], "secret", true)
        );
        assert_eq!(directory.own(BLUE, "secret.n1.red.shoal.internal"), None);
        assert_eq!(directory.own(BLUE, "secret.n1.blue.shoal.internal"), None);
    }

    #[test]
    fn what_is_outside_is_asked_for_containers_and_refused_to_peers() {
        let directory = directory();
        for name in [
            "example.org",
            "shoal.internal.example.org",
            "notshoal.internal",
        ] {
            assert_eq!(directory.resolve(IN_BLUE, name), Meaning::Outside, "{name}");
            let peer = directory.resolve(Asker::Peer(BLUE), name);
            assert_eq!(peer, Meaning::Refused, "{name}");
        }
        let bystander = |name: &str| directory.resolve(Asker::Bystander, name);
        assert_eq!(bystander("web"), Meaning::Outside);
        assert_eq!(
            directory.resolve(Asker::Peer(BLUE), "web"),
            Meaning::Refused
        );
    }

    #[test]
    fn the_zone_and_the_network_exist_and_have_no_address() {
        let directory = directory();
        for name in ["shoal.internal", "blue.shoal.internal"] {
            assert_eq!(directory.resolve(IN_BLUE, name), known(&[]), "{name}");
        }
    }

    #[test]
    fn a_host_that_is_asked_tells_its_own_containers_and_nothing_else() {
        let directory = directory();
        let own = |name: &str| directory.own(BLUE, name);
        let web = [ip("10.96.1.2")].into();
        assert_eq!(own("web.n1.blue.shoal.internal"), Some(web));
        for name in [
            "web.n2.blue.shoal.internal",
            "web.blue.shoal.internal",
            "n1.blue.shoal.internal",
            "web",
            "example.org",
        ] {
            assert_eq!(own(name), None, "{name}");
        }
        let blue = &directory.networks[&BLUE];
        assert_eq!(blue.host_at(second().address), Some("n2"));
        assert_eq!(question(blue, "n2", "web"), "web.n2.blue.shoal.internal");
    }
}
