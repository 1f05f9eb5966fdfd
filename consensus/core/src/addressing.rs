//! The address plan of the overlay.
//!
//! Decides: a network's /64 (RFC 4193: `fd`, a 40-bit global id out of the mesh, a 16-bit subnet
//! out of the network) and a node's host part (64 bits out of its identity). Whether two nodes
//! collide is for `apply` to refuse. IPv4 host numbers are handed out by `apply`, lowest first.
//! Never: draws randomness; the same mesh, network and node always give the same address.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::{InvalidId, MeshId, NetworkId, NodeId};

/// The part of the IPv4 space that overlays may use (RFC 6598, shared address space).
pub const OVERLAY_IPV4_SPACE: Ipv4Prefix = Ipv4Prefix {
    network: Ipv4Addr::new(100, 64, 0, 0),
    bits: 10,
};

/// The first network's IPv4 prefix unless the operator names another: room for 65,534 nodes.
pub const DEFAULT_IPV4_PREFIX: Ipv4Prefix = Ipv4Prefix {
    network: Ipv4Addr::new(100, 96, 0, 0),
    bits: 16,
};

/// An IPv4 prefix with a zero host part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "UncheckedPrefix")]
pub struct Ipv4Prefix {
    network: Ipv4Addr,
    bits: u8,
}

/// Shortest and longest: the whole space of overlays, and room for six nodes.
const BITS: std::ops::RangeInclusive<u8> = 10..=29;

/// A prefix as it comes from outside.
#[derive(Deserialize)]
#[serde(rename = "Ipv4Prefix")]
struct UncheckedPrefix {
    network: Ipv4Addr,
    bits: u8,
}

impl TryFrom<UncheckedPrefix> for Ipv4Prefix {
    type Error = InvalidId;

    fn try_from(unchecked: UncheckedPrefix) -> Result<Self, InvalidId> {
        let UncheckedPrefix { network, bits } = unchecked;
        let refuse = |rule| InvalidId {
            what: "IPv4 overlay prefix",
            text: format!("{network}/{bits}"),
            rule,
        };
        if !BITS.contains(&bits) {
            return Err(refuse("a length from 10 to 29"));
        }
        let prefix = Self { network, bits };
        if prefix.network.to_bits() & !prefix.mask() != 0 {
            return Err(refuse("a zero host part"));
        }
        if !OVERLAY_IPV4_SPACE.contains(network) {
            return Err(refuse("inside 100.64.0.0/10"));
        }
        Ok(prefix)
    }
}

impl Ipv4Prefix {
    /// The prefix's first address.
    pub const fn network(self) -> Ipv4Addr {
        self.network
    }

    /// The prefix's length in bits.
    pub const fn bits(self) -> u8 {
        self.bits
    }

    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0)
    }

    /// Whether `address` lies inside.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & self.mask() == self.network.to_bits()
    }

    /// Whether any address lies in both.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }

    /// Usable host addresses, lowest first: neither the network's own nor the broadcast address.
    pub fn hosts(self) -> impl Iterator<Item = Ipv4Addr> {
        let first = self.network.to_bits() + 1;
        let last = self.network.to_bits() | !self.mask();
        (first..last).map(Ipv4Addr::from_bits)
    }
}

impl fmt::Display for Ipv4Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.bits)
    }
}

impl FromStr for Ipv4Prefix {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let refuse = || InvalidId {
            what: "IPv4 overlay prefix",
            text: text.to_owned(),
            rule: "address/length",
        };
        let (network, bits) = text.split_once('/').ok_or_else(refuse)?;
        let network: Ipv4Addr = network.parse().map_err(|_| refuse())?;
        if !bits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(refuse());
        }
        let bits: u8 = bits.parse().map_err(|_| refuse())?;
        Self::try_from(UncheckedPrefix { network, bits })
    }
}

/// What `shoal-` leaves of the 15 characters of an interface's name (Linux: IFNAMSIZ).
pub const HANDLE_CHARS_MAX: usize = 9;
/// Of a longer name the handle keeps the beginning, for people.
const HANDLE_BEGINNING_CHARS: usize = 4;
/// Digits of the rest of a handle: a million handles for one beginning.
const HANDLE_DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Not as they are: tables of the kernel's packet filter are called `shoal_<handle>`, and the rules of
/// forwarding and of virtual IPs have these names already.
const HANDLES_TAKEN: [&str; 2] = ["forward", "gate"];

/// A network's handle: its name where that fits an interface's, else the name's beginning and four
/// digits out of the whole. Whether two networks collide is for `apply` to refuse.
pub(crate) fn network_handle(name: &str) -> String {
    if name.len() <= HANDLE_CHARS_MAX && !HANDLES_TAKEN.contains(&name) {
        return name.to_owned();
    }
    let hash = blake3::derive_key("shoal v1 network handle", name.as_bytes());
    let digit = |byte: &u8| char::from(HANDLE_DIGITS[usize::from(byte % 32)]);
    let beginning: String = name.chars().take(HANDLE_BEGINNING_CHARS).collect();
    let digits = hash[..HANDLE_CHARS_MAX - HANDLE_BEGINNING_CHARS - 1].iter();
    let rest: String = digits.map(digit).collect();
    format!("{}-{rest}", beginning.trim_end_matches('-'))
}

/// A /64 of the unique local space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ipv6Prefix64(u64);

impl Ipv6Prefix64 {
    /// The /64 of one network of one mesh.
    pub fn of(mesh: MeshId, network: NetworkId) -> Self {
        let global = blake3::derive_key("shoal v1 overlay global id", mesh.as_bytes());
        let mut both = [0; 32];
        both[..16].copy_from_slice(mesh.as_bytes());
        both[16..].copy_from_slice(network.as_bytes());
        let subnet = blake3::derive_key("shoal v1 overlay subnet", &both);
        let [a, b, c, d, e, ..] = global;
        let [f, g, ..] = subnet;
        Self(u64::from_be_bytes([0xfd, a, b, c, d, e, f, g]))
    }

    /// The prefix's first address.
    pub fn network(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(u128::from(self.0) << 64)
    }

    /// The address of `node` in this network.
    pub fn host(self, node: &NodeId) -> Ipv6Addr {
        let hash = blake3::derive_key("shoal v1 overlay host part", node.as_str().as_bytes());
        let [a, b, c, d, e, f, g, h, ..] = hash;
        let host = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        Ipv6Addr::from_bits((u128::from(self.0) << 64) | u128::from(host))
    }

    /// Whether `address` lies inside.
    pub fn contains(self, address: Ipv6Addr) -> bool {
        address.to_bits() >> 64 == u128::from(self.0)
    }
}

impl fmt::Display for Ipv6Prefix64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/64", self.network())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_networks_of_a_mesh_share_the_global_id_and_differ_in_the_subnet() {
        let mesh = MeshId::from_bytes([1; 16]);
        let a = Ipv6Prefix64::of(mesh, NetworkId::from_bytes([2; 16]));
        let b = Ipv6Prefix64::of(mesh, NetworkId::from_bytes([3; 16]));
        assert_eq!(a.0 >> 16, b.0 >> 16);
        assert_ne!(a, b);
        assert_eq!(a.network().octets()[0], 0xfd);
    }

    #[test]
    fn a_handle_is_the_name_or_derived_from_it_and_fits_an_interface() {
        for name in ["default", "a", "ninechars", "b-1"] {
            assert_eq!(network_handle(name), name);
        }
        // Derived handles never change between versions: interfaces outlive daemons.
        assert_eq!(network_handle("production"), "prod-5ewf");
        for taken in HANDLES_TAKEN {
            assert_ne!(network_handle(taken), taken);
        }
        let long = [
            "production",
            "production-2",
            "abc-and-much-more",
            &"x".repeat(63),
        ];
        let handles: std::collections::BTreeSet<_> = long.map(network_handle).into();
        assert_eq!(handles.len(), long.len());
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        for handle in handles {
            assert!(
                handle.len() <= HANDLE_CHARS_MAX && handle.chars().all(plain),
                "{handle}"
            );
        }
    }

    #[test]
    fn a_prefix_outside_the_shared_space_or_with_host_bits_is_refused() {
        for bad in [
            "10.0.0.0/16",
            "100.96.0.1/16",
            "100.96.0.0/30",
            "100.96.0.0",
            "x/16",
        ] {
            assert!(bad.parse::<Ipv4Prefix>().is_err(), "{bad}");
        }
        assert_eq!("100.96.0.0/16".parse(), Ok(DEFAULT_IPV4_PREFIX));
    }

    #[test]
    fn hosts_leave_out_the_network_and_the_broadcast_address() {
        let prefix: Ipv4Prefix = "100.64.0.0/29".parse().unwrap();
        let hosts: Vec<_> = prefix.hosts().collect();
        assert_eq!(hosts.first(), Some(&Ipv4Addr::new(100, 64, 0, 1)));
        assert_eq!(hosts.last(), Some(&Ipv4Addr::new(100, 64, 0, 6)));
    }

    #[test]
    fn the_shortest_and_the_longest_prefix_have_their_hosts() {
        assert_eq!("100.64.0.0/10".parse(), Ok(OVERLAY_IPV4_SPACE));
        assert_eq!(OVERLAY_IPV4_SPACE.hosts().count(), (1 << 22) - 2);
        let last: Ipv4Prefix = "100.127.255.248/29".parse().unwrap();
        assert_eq!(last.hosts().count(), 6);
        assert_eq!(last.hosts().last(), Some(Ipv4Addr::new(100, 127, 255, 254)));
        assert_eq!(DEFAULT_IPV4_PREFIX.hosts().count(), 65_534);
    }

    #[test]
    fn a_length_out_of_range_or_malformed_is_refused() {
        for bad in [
            "100.64.0.0/9",
            "100.64.0.0/0",
            "100.64.0.0/33",
            "100.64.0.0/256",
        ] {
            assert!(bad.parse::<Ipv4Prefix>().is_err(), "{bad}");
        }
        for bad in [
            "100.64.0.0/-1",
            "100.64.0.0/",
            "/16",
            "",
            "100.64.0.0/16/16",
        ] {
            assert!(bad.parse::<Ipv4Prefix>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_prefix_from_the_wire_is_as_valid_as_one_from_text() {
        let good = postcard::to_stdvec(&DEFAULT_IPV4_PREFIX).unwrap();
        assert_eq!(good, [100, 96, 0, 0, 16]);
        assert_eq!(postcard::from_bytes(&good), Ok(DEFAULT_IPV4_PREFIX));
        for bad in [
            [100, 96, 0, 0, 200],
            [100, 96, 0, 0, 30],
            [100, 96, 0, 1, 16],
            [255, 255, 255, 255, 32],
        ] {
            assert!(postcard::from_bytes::<Ipv4Prefix>(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn prefixes_overlap_when_one_lies_in_the_other() {
        let prefix = |text: &str| text.parse::<Ipv4Prefix>().unwrap();
        let (wide, inside, beside) = (
            prefix("100.96.0.0/16"),
            prefix("100.96.8.0/24"),
            prefix("100.97.0.0/16"),
        );
        assert!(wide.overlaps(inside) && inside.overlaps(wide) && wide.overlaps(wide));
        assert!(!wide.overlaps(beside) && !beside.overlaps(inside));
        assert!(wide.contains(Ipv4Addr::new(100, 96, 255, 255)));
        assert!(!wide.contains(Ipv4Addr::new(100, 97, 0, 0)));
    }

    #[test]
    fn a_node_has_the_same_host_part_in_every_network() {
        let node: NodeId = "12D3KooWGRUVLJpQ8sJtbTNGXJFvBVnEKdGBAcQnzHqPVKqGNfcm"
            .parse()
            .unwrap();
        let mesh = MeshId::from_bytes([1; 16]);
        let [a, b] = [2, 3].map(|n| Ipv6Prefix64::of(mesh, NetworkId::from_bytes([n; 16])));
        assert_eq!(a.host(&node).segments()[4..], b.host(&node).segments()[4..]);
        assert!(a.contains(a.host(&node)) && !a.contains(b.host(&node)));
        // Derived addresses never change between versions: peers compute them apart.
        assert_eq!(
            a.host(&node).to_string(),
            "fd88:12ee:b2d:7acb:4c14:8abb:4e2:8644"
        );
    }
}
