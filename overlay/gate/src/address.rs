//! The virtual address on its interface, with a lifetime of its own (the gate's second line).
//!
//! Decides: flags and lifetimes. Never: whether the address may be there now (`decision`).
//!
//! - No duplicate address detection: it takes a second, and the lease has settled who may.
//! - Preferred for no time at all: a deprecated address (RFC 4862, 5.5.4) takes connections, and is
//!   no source for new ones of the host's own while the host has another.
//! - No route to a prefix: the address is alone.

use std::{io, net::Ipv6Addr};

use rustix::{io::Errno, net::netdevice};

use crate::{
    netlink::{ACK, CREATE, REPLACE, Socket, attribute, u32_at},
    order::ADDRESS_LIFETIME_S,
};

const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;

/// `AF_INET6`.
const INET6: u8 = 10;
/// `IFA_F_NODAD | IFA_F_NOPREFIXROUTE`.
const FLAGS: u32 = 0x02 | 0x200;
/// `IFA_F_PERMANENT`: an address without a lifetime is none of ours.
const PERMANENT: u8 = 0x80;

/// `ARPHRD_ETHER`.
const ETHERNET: u16 = 1;
/// `IFF_LOOPBACK | IFF_NOARP`: nobody on such a link keeps neighbours.
const WITHOUT_NEIGHBOURS: u32 = 0x8 | 0x80;

/// The address could not be given to the interface, or taken from it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AddressError {
    /// The interface is not there.
    #[error("there is no interface {0}")]
    NoInterface(String),
    /// The kernel refused.
    #[error("the kernel refused to {action} {address} on {interface}: {}", io::Error::from(*.errno))]
    Refused {
        /// What was asked.
        action: &'static str,
        /// The address.
        address: Ipv6Addr,
        /// The interface.
        interface: String,
        /// The kernel's reason.
        errno: Errno,
    },
}

impl AddressError {
    /// Stable name of the failure.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoInterface(_) => "VipInterfaceMissingError",
            Self::Refused { .. } => "VipAddressRefusedError",
        }
    }

    /// What the operator can do.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::NoInterface(_) => "the overlay is not up; `shoal status` shows why",
            Self::Refused { .. } => "check that shoald has CAP_NET_ADMIN and that IPv6 is enabled",
        }
    }
}

/// A rtnetlink connection for addresses.
#[derive(Debug)]
pub(crate) struct Addresses {
    socket: Socket,
}

impl Addresses {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self {
            socket: Socket::open(None, 0)?,
        })
    }

    /// Gives `interface` the address for another lifetime.
    pub(crate) fn put(&mut self, interface: &str, address: Ipv6Addr) -> Result<(), AddressError> {
        let header = self.header(interface)?;
        let mut row = self.socket.compose();
        row.begin(NEW_ADDRESS, ACK | CREATE | REPLACE, &header)
            .put(1, &address.octets())
            .put(2, &address.octets())
            .put(6, &lifetimes())
            .put(8, &FLAGS.to_ne_bytes());
        let refused = refusal("put", interface, address);
        self.socket.carry_out(&row).map_err(refused)
    }

    /// Takes the address away; it is no failure if it, or the interface, is not there.
    pub(crate) fn take(&mut self, interface: &str, address: Ipv6Addr) -> Result<(), AddressError> {
        let header = match self.header(interface) {
            Ok(header) => header,
            Err(AddressError::NoInterface(_)) => return Ok(()),
            Err(error @ AddressError::Refused { .. }) => return Err(error),
        };
        self.delete(&header, address)
            .map_err(refusal("take", interface, address))
    }

    /// Takes those of `addresses` that have a lifetime from whatever interface has them.
    pub(crate) fn take_everywhere(&mut self, addresses: &[Ipv6Addr]) -> Result<(), Errno> {
        let mut found = Vec::new();
        self.socket.list(
            GET_ADDRESS,
            &header(0),
            |_| {},
            |message| {
                let flags = message.body.get(2).copied().unwrap_or_default();
                let index = u32_at(message.body, 4).unwrap_or_default();
                let value = message.body.get(8..).and_then(|body| attribute(body, 1));
                let octets: Option<[u8; 16]> = value.and_then(|value| value.try_into().ok());
                let ours = octets
                    .map(Ipv6Addr::from)
                    .filter(|it| addresses.contains(it));
                if flags & PERMANENT == 0 {
                    found.extend(ours.map(|address| (index, address)));
                }
            },
        )?;
        for (index, address) in found {
            self.delete(&header(index), address)?;
        }
        Ok(())
    }

    /// The hardware address of an interface on whose link others keep neighbours.
    pub(crate) fn hardware(&mut self, interface: &str) -> Option<(u32, [u8; 6])> {
        let wanted = netdevice::name_to_index(&self.socket, interface).ok()?;
        let mut found = None;
        let each = |message: crate::netlink::Received<'_>| {
            let body = message.body;
            let kind = body
                .get(2..4)
                .map(|kind| u16::from_ne_bytes([kind[0], kind[1]]));
            let flags = u32_at(body, 8).unwrap_or_default();
            if u32_at(body, 4) == Some(wanted)
                && kind == Some(ETHERNET)
                && flags & WITHOUT_NEIGHBOURS == 0
            {
                let value = body.get(16..).and_then(|body| attribute(body, 1));
                found = value.and_then(|value| value.try_into().ok());
            }
        };
        self.socket.list(GET_LINK, &[0; 16], |_| {}, each).ok()?;
        found.map(|hardware| (wanted, hardware))
    }

    fn delete(&mut self, header: &[u8; 8], address: Ipv6Addr) -> Result<(), Errno> {
        let mut row = self.socket.compose();
        row.begin(DELETE_ADDRESS, ACK, header)
            .put(1, &address.octets())
            .put(2, &address.octets());
        match self.socket.carry_out(&row) {
            // Without IPv6 (ENXIO: its MTU is too small for that) an interface has no such address.
            Err(Errno::ADDRNOTAVAIL | Errno::NODEV | Errno::NXIO) => Ok(()),
            other => other,
        }
    }

    fn header(&self, interface: &str) -> Result<[u8; 8], AddressError> {
        netdevice::name_to_index(&self.socket, interface)
            .map(header)
            .map_err(|_| AddressError::NoInterface(interface.to_owned()))
    }
}

/// `struct ifaddrmsg` of a /128.
fn header(index: u32) -> [u8; 8] {
    let mut header = [INET6, 128, 0, 0, 0, 0, 0, 0];
    header[4..].copy_from_slice(&index.to_ne_bytes());
    header
}

/// `struct ifa_cacheinfo`: preferred, valid, and two times that the kernel writes.
fn lifetimes() -> [u8; 16] {
    let mut lifetimes = [0; 16];
    lifetimes[4..8].copy_from_slice(&ADDRESS_LIFETIME_S.to_ne_bytes());
    lifetimes
}

fn refusal(
    action: &'static str,
    interface: &str,
    address: Ipv6Addr,
) -> impl FnOnce(Errno) -> AddressError {
    let interface = interface.to_owned();
    move |errno| AddressError::Refused {
        action,
        address,
        interface,
        errno,
    }
}
