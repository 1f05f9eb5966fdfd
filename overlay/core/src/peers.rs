//! Which WireGuard peers, addresses and routes a node's overlay interface has.
//!
//! Decides: the steps from an observed interface to the desired one ([`plan`]), by difference.
//! Never: talks to the kernel or to a device, reads a clock, remembers anything between calls.
//!
//! Invariants:
//! - The same input gives the same steps in the same order.
//! - A peer that is as desired is never named in a step, so that its session lives on.
//! - Allowed IPs are taken away before they are given, so that between two steps an address has
//!   no owner rather than two. An address that two desired peers claim goes to the lower key.
//! - An endpoint learnt by roaming (WireGuard whitepaper, section 2.1) is not set back: a desired
//!   endpoint is written when it differs from the one written last, or when the peer cannot be
//!   reached where it is believed to be.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

/// A session older than this cannot carry packets: WireGuard rejects keys after 180 s, and the
/// handshake that would replace them is given up 90 s later. Past it, a learnt endpoint is worth
/// no more than the published one.
const SESSION_LIFE_MAX: Duration = Duration::from_secs(180 + 90);

/// An IP prefix. Host bits are zero by construction, so that equal prefixes compare equal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    length: u8,
}

/// Why a text is not an IP prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an IP prefix: expected ADDRESS/LENGTH")]
pub struct InvalidCidr {
    /// The offending text.
    pub text: String,
}

impl Cidr {
    /// The prefix of `length` bits that contains `address`; `None` when it is longer than the
    /// address.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(v4) if length <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(v4) & mask))
            }
            IpAddr::V6(v6) if length <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask))
            }
            IpAddr::V4(_) | IpAddr::V6(_) => return None,
        };
        Some(Self { address, length })
    }

    /// The /32 or /128 of one address.
    pub fn host(address: IpAddr) -> Self {
        let length = match address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        Self { address, length }
    }

    /// The prefix's first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The prefix's length in bits.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether `address` lies in this prefix.
    pub fn contains(&self, address: IpAddr) -> bool {
        Self::new(address, self.length)
            .is_some_and(|prefix| prefix == *self && address.is_ipv4() == self.address.is_ipv4())
    }

    /// Whether the two have an address in common: prefixes either nest or are disjoint.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let parse = || {
            let (address, length) = text.split_once('/')?;
            Self::new(address.parse().ok()?, length.parse().ok()?)
        };
        parse().ok_or_else(|| InvalidCidr {
            text: text.to_owned(),
        })
    }
}

/// A peer's Curve25519 public key, written in base64 as WireGuard's own programs write it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

/// Why a text is not a public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a WireGuard key: expected 44 characters of base64")]
pub struct InvalidPublicKey {
    /// The offending text.
    pub text: String,
}

/// The alphabet of RFC 4648, section 4.
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

impl PublicKey {
    /// Takes the key's 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key's 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn from_base64(text: &str) -> Option<Self> {
        let digits = text.strip_suffix('=')?;
        if digits.len() != 43 {
            return None;
        }
        let mut bits = 0_u32;
        let mut bit_count = 0;
        let mut bytes = Vec::with_capacity(32);
        for digit in digits.bytes() {
            let value = BASE64.iter().position(|symbol| *symbol == digit)?;
            bits = bits << 6 | u32::try_from(value).ok()?;
            bit_count += 6;
            if bit_count >= 8 {
                bit_count -= 8;
                bytes.push(u8::try_from(bits >> bit_count).ok()?);
                bits &= (1 << bit_count) - 1;
            }
        }
        // Left-over bits would give one key two texts.
        (bits == 0).then_some(())?;
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.chunks(3) {
            let mut group = [0; 3];
            group[..chunk.len()].copy_from_slice(chunk);
            let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
            for digit in 0..=chunk.len() {
                let symbol = BASE64[(bits >> (18 - 6 * digit) & 63) as usize];
                write!(f, "{}", char::from(symbol))?;
            }
        }
        f.write_str("=")
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = InvalidPublicKey;

    fn from_str(text: &str) -> Result<Self, InvalidPublicKey> {
        Self::from_base64(text).ok_or_else(|| InvalidPublicKey {
            text: text.to_owned(),
        })
    }
}

/// A peer as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerPlan {
    /// Where the peer is known to listen; `None` waits for the peer to speak first.
    pub endpoint: Option<SocketAddr>,
    /// Addresses that the peer may send from and that are routed to it.
    pub allowed_ips: BTreeSet<Cidr>,
    /// Seconds between keepalives, for a peer behind NAT; `None` sends none.
    pub keepalive_s: Option<u16>,
}

/// The overlay interface as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfacePlan {
    /// The node's own addresses: its /128 and its /32.
    pub addresses: BTreeSet<IpAddr>,
    /// Prefixes that are on-link: the network's /64 and its IPv4 prefix. The IPv4 one must be a
    /// link-scope route, as flannel's host-gw needs an on-link next hop.
    pub routes: BTreeSet<Cidr>,
    /// MTU in bytes.
    pub mtu: u32,
    /// UDP port of the device.
    pub listen_port: u16,
    /// Every peer of the network, by public key.
    pub peers: BTreeMap<PublicKey, PeerPlan>,
}

/// A peer as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ObservedPeer {
    /// Where the device sends now: written by us or learnt from the peer's packets.
    pub endpoint: Option<SocketAddr>,
    /// The endpoint that this node wrote last; `None` when it never did, or has forgotten.
    pub endpoint_written: Option<SocketAddr>,
    /// Time since the last handshake; `None` when there was none.
    pub handshake_age: Option<Duration>,
    /// Addresses the device lets the peer have.
    pub allowed_ips: BTreeSet<Cidr>,
    /// Seconds between keepalives.
    pub keepalive_s: Option<u16>,
}

/// The overlay interface as it is. Contains only what shoal wrote: no link-local address, no
/// address with a lifetime (the VIP gate's), no route of another protocol (flannel's).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ObservedInterface {
    /// Permanent addresses of global scope.
    pub addresses: BTreeSet<IpAddr>,
    /// Link-scope routes with shoal's protocol number.
    pub routes: BTreeSet<Cidr>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Whether the link is administratively up.
    pub up: bool,
    /// UDP port of the device; `None` when it has none yet.
    pub listen_port: Option<u16>,
    /// The device's peers, by public key.
    pub peers: BTreeMap<PublicKey, ObservedPeer>,
}

/// What changes in one peer. `None` leaves a value as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerChange {
    /// Write this endpoint.
    pub endpoint: Option<SocketAddr>,
    /// The whole set of allowed IPs that the peer has from now on.
    pub allowed_ips: Option<BTreeSet<Cidr>>,
    /// Those that it has today and loses. A device that replaces a set has none for a moment, and
    /// packets of the others fail in it: where this is empty, adding is enough.
    pub lost_ips: BTreeSet<Cidr>,
    /// Write this interval in seconds; zero turns keepalives off.
    pub keepalive_s: Option<u16>,
}

/// One change to the interface. Steps are idempotent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Listen on this UDP port.
    SetListenPort(u16),
    /// Set the link's MTU, in bytes.
    SetMtu(u32),
    /// Remove a link-scope route.
    RemoveRoute(Cidr),
    /// Remove an address.
    RemoveAddress(IpAddr),
    /// Add an address, as a /128 or /32, without duplicate address detection.
    AddAddress(IpAddr),
    /// Bring the link up.
    BringUp,
    /// Add a link-scope route.
    AddRoute(Cidr),
    /// Remove a peer and its session.
    RemovePeer(PublicKey),
    /// Change a peer that exists; its session lives on.
    UpdatePeer {
        /// The peer.
        key: PublicKey,
        /// What changes.
        change: PeerChange,
    },
    /// Add a peer.
    AddPeer {
        /// The peer.
        key: PublicKey,
        /// All that is known of it.
        peer: PeerPlan,
    },
}

/// The steps that turn `observed` into `desired`, in the order in which to take them. An interface
/// that is as desired needs none.
pub fn plan(desired: &InterfacePlan, observed: &ObservedInterface) -> Vec<Step> {
    let mut steps = link_steps(desired, observed);
    steps.extend(peer_steps(desired, observed));
    steps
}

fn link_steps(desired: &InterfacePlan, observed: &ObservedInterface) -> Vec<Step> {
    let mut steps = Vec::new();
    if observed.listen_port != Some(desired.listen_port) {
        steps.push(Step::SetListenPort(desired.listen_port));
    }
    if observed.mtu != desired.mtu {
        steps.push(Step::SetMtu(desired.mtu));
    }
    let gone = observed.routes.difference(&desired.routes);
    steps.extend(gone.map(|route| Step::RemoveRoute(*route)));
    let gone = observed.addresses.difference(&desired.addresses);
    steps.extend(gone.map(|address| Step::RemoveAddress(*address)));
    let missing = desired.addresses.difference(&observed.addresses);
    steps.extend(missing.map(|address| Step::AddAddress(*address)));
    if !observed.up {
        steps.push(Step::BringUp);
    }
    // The kernel drops the routes of a link that goes down: routes come last, and all of them
    // when the link was down.
    let missing = desired
        .routes
        .iter()
        .filter(|route| !observed.up || !observed.routes.contains(route));
    steps.extend(missing.map(|route| Step::AddRoute(*route)));
    steps
}

fn peer_steps(desired: &InterfacePlan, observed: &ObservedInterface) -> Vec<Step> {
    let wanted = with_single_owners(&desired.peers);
    let gone = observed
        .peers
        .keys()
        .filter(|key| !wanted.contains_key(key));
    let mut steps: Vec<_> = gone.map(|key| Step::RemovePeer(*key)).collect();
    let mut giving = Vec::new();
    for (key, peer) in wanted {
        let Some(seen) = observed.peers.get(&key) else {
            giving.push(Step::AddPeer { key, peer });
            continue;
        };
        let mut change = peer_change(&peer, seen);
        if !change.lost_ips.is_empty() {
            // Everybody loses before anybody gets: what a peer gets may be another's still, whose loss
            // would take it along.
            let kept = &seen.allowed_ips & &peer.allowed_ips;
            if kept == peer.allowed_ips {
                change.allowed_ips = None;
            }
            let change = PeerChange {
                allowed_ips: Some(kept),
                lost_ips: std::mem::take(&mut change.lost_ips),
                ..PeerChange::default()
            };
            steps.push(Step::UpdatePeer { key, change });
        }
        if change != PeerChange::default() {
            giving.push(Step::UpdatePeer { key, change });
        }
    }
    steps.extend(giving);
    steps
}

/// Gives an allowed IP that several peers claim to the lowest key, as a device would otherwise
/// give it to whichever peer was written last, differently on every node and in every pass.
fn with_single_owners(peers: &BTreeMap<PublicKey, PeerPlan>) -> BTreeMap<PublicKey, PeerPlan> {
    let mut owned = BTreeSet::new();
    let mut wanted = peers.clone();
    for peer in wanted.values_mut() {
        peer.allowed_ips.retain(|prefix| owned.insert(*prefix));
    }
    wanted
}

fn peer_change(peer: &PeerPlan, seen: &ObservedPeer) -> PeerChange {
    let keepalive_s = peer.keepalive_s.unwrap_or(0);
    PeerChange {
        endpoint: endpoint_to_write(peer, seen),
        allowed_ips: (peer.allowed_ips != seen.allowed_ips).then(|| peer.allowed_ips.clone()),
        lost_ips: &seen.allowed_ips - &peer.allowed_ips,
        keepalive_s: (keepalive_s != seen.keepalive_s.unwrap_or(0)).then_some(keepalive_s),
    }
}

fn endpoint_to_write(peer: &PeerPlan, seen: &ObservedPeer) -> Option<SocketAddr> {
    let wanted = peer.endpoint?;
    if seen.endpoint == Some(wanted) {
        return None;
    }
    let moved = seen.endpoint_written.is_some_and(|old| old != wanted);
    let unreachable =
        seen.endpoint.is_none() || seen.handshake_age.is_none_or(|age| age > SESSION_LIFE_MAX);
    (moved || unreachable).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_as_desired_needs_no_step() {
        let desired = desired();
        assert_eq!(plan(&desired, &settled(&desired)), []);
    }

    #[test]
    fn a_fresh_interface_gets_addresses_before_it_comes_up_and_routes_after() {
        let steps = plan(&desired(), &ObservedInterface::default());
        let position = |wanted: &Step| steps.iter().position(|step| step == wanted).unwrap();
        let up = position(&Step::BringUp);
        assert_eq!(steps[0], Step::SetListenPort(51820));
        assert_eq!(steps[1], Step::SetMtu(1420));
        assert!(position(&Step::AddAddress(ip("fd00::1"))) < up);
        assert!(position(&Step::AddAddress(ip("10.90.0.1"))) < up);
        assert!(position(&Step::AddRoute(cidr("fd00::/64"))) > up);
        assert!(position(&Step::AddRoute(cidr("10.90.0.0/16"))) > up);
        assert_eq!(steps.len(), 9);
    }

    #[test]
    fn the_same_input_gives_the_same_steps_in_the_same_order() {
        let desired = desired();
        let first = plan(&desired, &ObservedInterface::default());
        for _ in 0..10 {
            assert_eq!(plan(&desired, &ObservedInterface::default()), first);
        }
    }

    #[test]
    fn only_the_peer_that_changed_is_touched() {
        let mut desired = desired();
        let observed = settled(&desired);
        peer_mut(&mut desired, 2)
            .allowed_ips
            .insert(cidr("10.42.2.0/24"));
        let steps = plan(&desired, &observed);
        assert_eq!(
            steps,
            [Step::UpdatePeer {
                key: key(2),
                change: PeerChange {
                    allowed_ips: Some(desired.peers[&key(2)].allowed_ips.clone()),
                    ..PeerChange::default()
                }
            }]
        );
    }

    #[test]
    fn a_peer_that_is_gone_is_removed_and_the_others_are_left_alone() {
        let mut desired = desired();
        let observed = settled(&desired);
        desired.peers.remove(&key(3));
        assert_eq!(plan(&desired, &observed), [Step::RemovePeer(key(3))]);
    }

    #[test]
    fn an_address_that_moves_is_taken_from_its_old_owner_first() {
        let vip = cidr("fd00::f:1/128");
        for (old, new) in [(2, 3), (3, 2)] {
            let mut desired = desired();
            peer_mut(&mut desired, old).allowed_ips.insert(vip);
            let observed = settled(&desired);
            peer_mut(&mut desired, old).allowed_ips.remove(&vip);
            peer_mut(&mut desired, new).allowed_ips.insert(vip);
            let touched: Vec<_> = plan(&desired, &observed)
                .into_iter()
                .filter_map(|step| {
                    if let Step::UpdatePeer { key, .. } = step {
                        Some(key)
                    } else {
                        None
                    }
                })
                .collect();
            assert_eq!(touched, [key(old), key(new)]);
        }
    }

    #[test]
    fn peers_that_exchange_addresses_lose_theirs_before_any_gets_one() {
        let (moved, only) = (cidr("fd00::7/128"), cidr("fd00:0:0:0:8000::7/128"));
        for (hub, peer) in [(2, 3), (3, 2)] {
            let mut desired = desired();
            peer_mut(&mut desired, hub).allowed_ips.insert(moved);
            peer_mut(&mut desired, peer).allowed_ips.insert(only);
            let observed = settled(&desired);
            peer_mut(&mut desired, hub).allowed_ips.remove(&moved);
            peer_mut(&mut desired, peer).allowed_ips.remove(&only);
            peer_mut(&mut desired, peer).allowed_ips.insert(moved);
            let steps = plan(&desired, &observed);
            let (losing, getting) = steps.split_at(2);
            let change = |step: &Step| {
                let Step::UpdatePeer { key, change } = step else {
                    panic!("{step:?}");
                };
                (*key, change.clone())
            };
            let lost: BTreeMap<_, _> = losing.iter().map(change).collect();
            assert_eq!(lost[&key(hub)].lost_ips, [moved].into());
            assert_eq!(lost[&key(peer)].lost_ips, [only].into());
            assert_eq!(getting.len(), 1);
            let (gets, change) = change(&getting[0]);
            assert_eq!((gets, change.lost_ips), (key(peer), [].into()));
            let whole = desired.peers[&key(peer)].allowed_ips.clone();
            assert_eq!(change.allowed_ips, Some(whole));
        }
    }

    #[test]
    fn an_address_claimed_twice_has_one_owner_and_settles() {
        let vip = cidr("fd00::f:1/128");
        let mut desired = desired();
        peer_mut(&mut desired, 2).allowed_ips.insert(vip);
        peer_mut(&mut desired, 3).allowed_ips.insert(vip);
        let mut settled = settled(&desired);
        settled
            .peers
            .get_mut(&key(3))
            .unwrap()
            .allowed_ips
            .remove(&vip);
        assert_eq!(plan(&desired, &settled), []);
    }

    #[test]
    fn a_roamed_endpoint_is_not_fought() {
        let desired = desired();
        let mut observed = settled(&desired);
        seen_mut(&mut observed, 2).endpoint = Some(at("198.51.100.7:4500"));
        assert_eq!(plan(&desired, &observed), []);
        seen_mut(&mut observed, 2).endpoint_written = None;
        assert_eq!(plan(&desired, &observed), [], "nor by a node that forgot");
    }

    #[test]
    fn a_newly_published_endpoint_is_written() {
        let mut desired = desired();
        let observed = settled(&desired);
        peer_mut(&mut desired, 2).endpoint = Some(at("203.0.113.9:51820"));
        assert_eq!(
            plan(&desired, &observed),
            [endpoint_update(2, "203.0.113.9:51820")]
        );
    }

    #[test]
    fn a_peer_that_cannot_be_reached_gets_its_published_endpoint() {
        let desired = desired();
        let cases = [
            (None, Some(Duration::from_secs(1))),
            (Some(at("198.51.100.7:4500")), None),
            (
                Some(at("198.51.100.7:4500")),
                Some(SESSION_LIFE_MAX + Duration::from_secs(1)),
            ),
        ];
        for (endpoint, handshake_age) in cases {
            let mut observed = settled(&desired);
            seen_mut(&mut observed, 2).endpoint = endpoint;
            seen_mut(&mut observed, 2).handshake_age = handshake_age;
            assert_eq!(
                plan(&desired, &observed),
                [endpoint_update(2, "192.0.2.2:51820")]
            );
        }
    }

    #[test]
    fn a_peer_without_published_endpoint_keeps_the_learnt_one() {
        let mut desired = desired();
        let observed = settled(&desired);
        peer_mut(&mut desired, 2).endpoint = None;
        assert_eq!(plan(&desired, &observed), []);
    }

    #[test]
    fn a_link_that_went_down_gets_its_routes_back() {
        let desired = desired();
        let mut observed = settled(&desired);
        observed.up = false;
        assert_eq!(
            plan(&desired, &observed),
            [
                Step::BringUp,
                Step::AddRoute(cidr("10.90.0.0/16")),
                Step::AddRoute(cidr("fd00::/64")),
            ]
        );
    }

    #[test]
    fn keepalives_are_turned_on_and_off() {
        let mut desired = desired();
        let observed = settled(&desired);
        peer_mut(&mut desired, 2).keepalive_s = Some(25);
        let on = plan(&desired, &observed);
        let observed = settled(&desired);
        peer_mut(&mut desired, 2).keepalive_s = None;
        let off = plan(&desired, &observed);
        for (steps, interval) in [(on, 25), (off, 0)] {
            let change = PeerChange {
                keepalive_s: Some(interval),
                ..PeerChange::default()
            };
            assert_eq!(
                steps,
                [Step::UpdatePeer {
                    key: key(2),
                    change
                }]
            );
        }
    }

    #[test]
    fn prefixes_drop_host_bits_and_nest_or_are_disjoint() {
        assert_eq!(cidr("10.90.3.4/16"), cidr("10.90.0.0/16"));
        assert_eq!(cidr("fd00::1/0").to_string(), "::/0");
        assert!(cidr("10.90.0.0/16").overlaps(&cidr("10.90.7.0/24")));
        assert!(cidr("10.90.7.0/24").overlaps(&cidr("10.0.0.0/8")));
        assert!(!cidr("10.90.0.0/16").overlaps(&cidr("10.91.0.0/16")));
        assert!(!cidr("0.0.0.0/0").contains(ip("::")));
        for bad in ["10.0.0.0", "10.0.0.0/33", "::/129", "x/8", ""] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn public_keys_round_trip_through_the_text_of_wg() {
        let text = "DD5yKRfzExcV5+kDnTroDgCU15latdMjiQ59j1hEuk8=";
        let key: PublicKey = text.parse().unwrap();
        assert_eq!(key.as_bytes()[..3], [0x0c, 0x3e, 0x72]);
        assert_eq!(key.to_string(), text);
        for bad in [
            "",
            "AAAA",
            &text[..43],
            &text.replace("8=", "9="),
            &"é".repeat(22),
        ] {
            assert!(bad.parse::<PublicKey>().is_err(), "{bad}");
        }
    }

    fn endpoint_update(node: u8, endpoint: &str) -> Step {
        Step::UpdatePeer {
            key: key(node),
            change: PeerChange {
                endpoint: Some(at(endpoint)),
                ..PeerChange::default()
            },
        }
    }

    fn desired() -> InterfacePlan {
        let peer = |node: u8| PeerPlan {
            endpoint: Some(at(&format!("192.0.2.{node}:51820"))),
            allowed_ips: [format!("fd00::{node}/128"), format!("10.90.0.{node}/32")]
                .iter()
                .map(|text| cidr(text))
                .collect(),
            keepalive_s: None,
        };
        InterfacePlan {
            addresses: [ip("fd00::1"), ip("10.90.0.1")].into(),
            routes: [cidr("fd00::/64"), cidr("10.90.0.0/16")].into(),
            mtu: crate::mtu::OVERLAY_MTU,
            listen_port: 51820,
            peers: [(key(2), peer(2)), (key(3), peer(3))].into(),
        }
    }

    fn settled(desired: &InterfacePlan) -> ObservedInterface {
        let seen = |peer: &PeerPlan| ObservedPeer {
            endpoint: peer.endpoint,
            endpoint_written: peer.endpoint,
            handshake_age: Some(Duration::from_secs(30)),
            allowed_ips: peer.allowed_ips.clone(),
            keepalive_s: peer.keepalive_s,
        };
        ObservedInterface {
            addresses: desired.addresses.clone(),
            routes: desired.routes.clone(),
            mtu: desired.mtu,
            up: true,
            listen_port: Some(desired.listen_port),
            peers: desired
                .peers
                .iter()
                .map(|(key, peer)| (*key, seen(peer)))
                .collect(),
        }
    }

    fn peer_mut(plan: &mut InterfacePlan, node: u8) -> &mut PeerPlan {
        plan.peers.get_mut(&key(node)).unwrap()
    }

    fn seen_mut(observed: &mut ObservedInterface, node: u8) -> &mut ObservedPeer {
        observed.peers.get_mut(&key(node)).unwrap()
    }

    fn key(node: u8) -> PublicKey {
        PublicKey::from_bytes([node; 32])
    }

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }
}
