//! The unsolicited neighbour advertisement (RFC 4861, 7.2.6) of an address that has moved here.
//!
//! Decides: its bytes, and how often it is sent. Sent on links with neighbours only: a WireGuard
//! interface has none, there the peers' allowed IPs move the address.

use std::net::{Ipv6Addr, SocketAddrV6};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, SendFlags, SocketFlags, SocketType, bind, ipproto, sendto, socket_with,
        sockopt,
    },
};

/// How often it is sent, with [`crate::order::ADDRESS_RENEWED_EVERY_US`] between
/// (`MAX_NEIGHBOR_ADVERTISEMENT`): one that is lost costs what a neighbour's cache takes to expire.
pub(crate) const TIMES: u8 = 3;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Receivers drop what has passed a router.
const HOP_LIMIT: u8 = 255;

/// Tells the neighbours on the link `index` that `address` is at `hardware`.
pub(crate) fn send(index: u32, hardware: [u8; 6], address: Ipv6Addr) -> Result<(), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(
        AddressFamily::INET6,
        SocketType::RAW,
        flags,
        Some(ipproto::ICMPV6),
    )?;
    sockopt::set_ipv6_multicast_hops(&socket, u32::from(HOP_LIMIT))?;
    sockopt::set_ipv6_multicast_if(&socket, index)?;
    // The kernel enters a new address into its tables some milliseconds later.
    sockopt::set_ipv6_freebind(&socket, true)?;
    bind(&socket, &SocketAddrV6::new(address, 0, 0, index))?;
    let to = SocketAddrV6::new(ALL_NODES, 0, 0, index);
    sendto(
        &socket,
        &message(hardware, address),
        SendFlags::empty(),
        &to,
    )
    .map(drop)
}

/// The kernel fills in the checksum.
fn message(hardware: [u8; 6], address: Ipv6Addr) -> [u8; 32] {
    const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    /// Neighbours are to replace what they have cached.
    const OVERRIDE: u8 = 0x20;
    const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
    let mut bytes = [0; 32];
    bytes[0] = NEIGHBOUR_ADVERTISEMENT;
    bytes[4] = OVERRIDE;
    bytes[8..24].copy_from_slice(&address.octets());
    bytes[24] = TARGET_LINK_LAYER_ADDRESS;
    bytes[25] = 1;
    bytes[26..].copy_from_slice(&hardware);
    bytes
}
