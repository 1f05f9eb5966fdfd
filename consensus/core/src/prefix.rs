//! IP prefixes beside the overlay's own address plan: networks behind a node, pods, containers.
//!
//! Decides: which prefixes may stand for such a network at all. Whether one is free is for `apply`.
//! Never: a default route, however written, nor addresses that mean another thing on every machine
//! (loopback, link-local, multicast; RFC 6890).
//!
//! Invariant: host bits are zero, so that equal prefixes compare equal.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::{InvalidId, Ipv4Prefix, Ipv6Prefix64};

/// Nobody's network is wider than 10.0.0.0/8; and a few short prefixes make a default route.
const IPV4_BITS_MIN: u8 = 8;
/// A registry gives its members a /32 at most, and sites a /48; fc00::/7 as a whole is nobody's.
const IPV6_BITS_MIN: u8 = 16;
/// Each node takes a /24 out of such a prefix; two nodes at least.
const SUBDIVIDED_BITS_MAX: u8 = 23;

/// An IPv4 or IPv6 prefix with a zero host part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "UncheckedPrefix")]
pub struct IpPrefix {
    address: IpAddr,
    bits: u8,
}

/// A prefix as it comes from outside.
#[derive(Deserialize)]
#[serde(rename = "IpPrefix")]
struct UncheckedPrefix {
    address: IpAddr,
    bits: u8,
}

impl TryFrom<UncheckedPrefix> for IpPrefix {
    type Error = InvalidId;

    fn try_from(unchecked: UncheckedPrefix) -> Result<Self, InvalidId> {
        let UncheckedPrefix { address, bits } = unchecked;
        let (least, most) = match address {
            IpAddr::V4(_) => (IPV4_BITS_MIN, 32),
            IpAddr::V6(_) => (IPV6_BITS_MIN, 128),
        };
        let refuse = |rule| {
            Err(InvalidId {
                what: "IP prefix",
                text: format!("{address}/{bits}"),
                rule,
            })
        };
        if !(least..=most).contains(&bits) {
            return refuse("a length from 8 to 32, of IPv6 from 16 to 128");
        }
        let prefix = Self { address, bits };
        if left_aligned(address) & !prefix.mask() != 0 {
            return refuse("a zero host part");
        }
        if means_nothing_elsewhere(address) {
            return refuse("of unicast addresses, not loopback or link-local");
        }
        Ok(prefix)
    }
}

/// The address in the upper bits of 128.
fn left_aligned(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn means_nothing_elsewhere(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let first = v4.octets()[0];
            first == 0 || first >= 224 || v4.is_loopback() || v4.is_link_local()
        }
        // ::/16 has loopback and mapped IPv4, fe80::/10 is link-local, ff00::/8 multicast.
        IpAddr::V6(v6) => {
            let first = v6.segments()[0];
            first == 0 || first & 0xffc0 == 0xfe80 || first >= 0xff00
        }
    }
}

impl IpPrefix {
    /// For constants, whose host part is seen to be zero.
    pub(crate) const fn ipv4(address: Ipv4Addr, bits: u8) -> Self {
        Self {
            address: IpAddr::V4(address),
            bits,
        }
    }

    /// The prefix's first address.
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// The prefix's length in bits.
    pub const fn bits(self) -> u8 {
        self.bits
    }

    fn mask(self) -> u128 {
        u128::MAX
            .checked_shl(128 - u32::from(self.bits))
            .unwrap_or(0)
    }

    /// Whether any address lies in both.
    pub fn overlaps(self, other: Self) -> bool {
        let common = self.mask() & other.mask();
        self.address.is_ipv4() == other.address.is_ipv4()
            && left_aligned(self.address) & common == left_aligned(other.address) & common
    }

    /// Whether all of the other lies in it.
    pub fn contains(self, other: Self) -> bool {
        self.bits <= other.bits && self.overlaps(other)
    }

    /// How many /24 there are in it.
    pub(crate) fn count_of_24s(self) -> u32 {
        match self.is_divisible() {
            true => 1 << (24 - self.bits),
            false => 0,
        }
    }

    /// One of its /24, counted from zero.
    pub(crate) fn nth_24(self, place: u32) -> Option<Self> {
        match self.address {
            IpAddr::V4(v4) if place < self.count_of_24s() => Some(Self {
                address: Ipv4Addr::from_bits(v4.to_bits() | place << 8).into(),
                bits: 24,
            }),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        }
    }

    /// Whether every node can have a /24 of it.
    pub fn is_divisible(self) -> bool {
        self.address.is_ipv4() && self.bits <= SUBDIVIDED_BITS_MAX
    }
}

impl From<Ipv4Prefix> for IpPrefix {
    fn from(prefix: Ipv4Prefix) -> Self {
        Self {
            address: prefix.network().into(),
            bits: prefix.bits(),
        }
    }
}

impl From<Ipv6Prefix64> for IpPrefix {
    fn from(prefix: Ipv6Prefix64) -> Self {
        Self {
            address: prefix.network().into(),
            bits: 64,
        }
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl FromStr for IpPrefix {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let parse = || {
            let (address, bits) = text.split_once('/')?;
            let digits = bits.bytes().all(|byte| byte.is_ascii_digit());
            let address: IpAddr = address.parse().ok()?;
            let bits: u8 = bits.parse().ok().filter(|_| digits)?;
            Some(UncheckedPrefix { address, bits })
        };
        let unchecked = parse().ok_or_else(|| InvalidId {
            what: "IP prefix",
            text: text.to_owned(),
            rule: "address/length",
        })?;
        Self::try_from(unchecked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> IpPrefix {
        text.parse().unwrap()
    }

    #[test]
    fn default_routes_and_addresses_that_mean_nothing_elsewhere_are_refused() {
        let length = "a length from 8 to 32, of IPv6 from 16 to 128";
        let unicast = "of unicast addresses, not loopback or link-local";
        for (bad, rule) in [
            ("0.0.0.0/0", length),
            ("128.0.0.0/1", length),
            ("::/0", length),
            ("2000::/3", length),
            ("10.0.0.0/33", length),
            ("192.168.1.5/24", "a zero host part"),
            ("fd00::1/64", "a zero host part"),
            ("0.0.0.0/8", unicast),
            ("127.0.0.0/8", unicast),
            ("169.254.0.0/16", unicast),
            ("224.0.0.0/8", unicast),
            ("fe80::/64", unicast),
            ("ff02::/16", unicast),
            ("::/96", unicast),
            ("192.168.1.0", "address/length"),
            ("192.168.1.0/+24", "address/length"),
            ("lan/24", "address/length"),
            ("", "address/length"),
        ] {
            let refused = bad.parse::<IpPrefix>().unwrap_err();
            assert_eq!(refused.rule, rule, "{bad}");
        }
    }

    #[test]
    fn prefixes_overlap_when_one_lies_in_the_other_and_never_across_families() {
        let (wide, inside, beside) = (
            prefix("10.0.0.0/8"),
            prefix("10.42.0.0/16"),
            prefix("192.168.0.0/16"),
        );
        assert!(wide.overlaps(inside) && inside.overlaps(wide) && wide.overlaps(wide));
        assert!(!wide.overlaps(beside) && !beside.overlaps(inside));
        assert!(!prefix("a00::/16").overlaps(wide));
        assert!(prefix("fd00:1::/32").overlaps(prefix("fd00:1:2::/48")));
    }

    #[test]
    fn a_prefix_from_the_wire_is_as_valid_as_one_from_text() {
        let lan = prefix("192.168.7.0/24");
        let good = postcard::to_stdvec(&lan).unwrap();
        assert_eq!(good, [0, 192, 168, 7, 0, 24]);
        assert_eq!(postcard::from_bytes(&good), Ok(lan));
        for bad in [[0, 0, 0, 0, 0, 0], [0, 192, 168, 7, 1, 24]] {
            assert!(postcard::from_bytes::<IpPrefix>(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_what_has_a_24_for_two_nodes_is_divisible() {
        assert!(prefix("10.42.0.0/16").is_divisible() && prefix("10.42.0.0/23").is_divisible());
        assert!(!prefix("10.42.0.0/24").is_divisible() && !prefix("fd42::/48").is_divisible());
    }

    #[test]
    fn each_24_of_a_prefix_has_a_number() {
        let prefix24 = |prefix: IpPrefix, place| prefix.nth_24(place).map(|it| it.to_string());
        let wide = prefix("10.42.0.0/15");
        assert_eq!(wide.count_of_24s(), 512);
        assert_eq!(prefix24(wide, 0).unwrap(), "10.42.0.0/24");
        assert_eq!(prefix24(wide, 511).unwrap(), "10.43.255.0/24");
        assert_eq!(prefix24(wide, 512), None);
        assert!((0..512).all(|place| wide.contains(wide.nth_24(place).unwrap())));
        assert!(!wide.contains(prefix("10.44.0.0/24")) && !prefix("10.42.0.0/24").contains(wide));
        assert_eq!(prefix("fd42::/48").count_of_24s(), 0);
    }
}
