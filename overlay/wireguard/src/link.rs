//! The link, its addresses and its routes, through rtnetlink.
//!
//! Never: changes a link, address or route of another interface. Routes carry a protocol number
//! of shoal's own, so that those which flannel or an operator put on the same link are told apart.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use futures::{Stream, StreamExt as _, TryStreamExt as _};
use overlay_core::peers::Cidr;
use rtnetlink::{
    Handle, LinkUnspec, LinkWireguard, RouteMessageBuilder,
    packet_route::{
        address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressScope},
        link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
        route::{
            RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
            RouteType,
        },
    },
};
use rustix::io::Errno;
use tokio::time::{Instant, sleep};

/// Routing protocol number of shoal's routes; unassigned in rtnetlink.h and below 128, where the
/// kernel's list of well-known daemons begins.
const ROUTE_PROTOCOL: RouteProtocol = RouteProtocol::Other(83);

/// The kernel's work queue takes about 3 ms; the rest is for a host under load.
const ADDRESS_USABLE_WITHIN: Duration = Duration::from_secs(3);

/// Between two looks at an address that is being entered.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A request to the kernel about a link failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}")]
pub struct LinkError {
    /// What was attempted, with its object.
    action: String,
    /// Why it failed.
    source: io::Error,
}

impl LinkError {
    /// Stable name of the failure.
    pub fn code(&self) -> &'static str {
        match self.errno() {
            Some(Errno::PERM | Errno::ACCESS) => "NetAdminPermissionError",
            // The kernel's device opens its port when its link comes up.
            Some(Errno::ADDRINUSE) => "ListenPortTaken",
            Some(_) | None => "NetlinkError",
        }
    }

    /// What the operator can do.
    pub fn hint(&self) -> &'static str {
        match self.errno() {
            Some(Errno::PERM | Errno::ACCESS) => "run shoald as root or with CAP_NET_ADMIN",
            Some(Errno::ADDRINUSE) => {
                "choose another listen port, or stop the program that has it (`ss -ulpn`)"
            }
            Some(_) | None => "the kernel refused the change; `ip -d link` and `ip route` show why",
        }
    }

    pub(crate) fn new(action: impl Into<String>, source: io::Error) -> Self {
        Self {
            action: action.into(),
            source,
        }
    }

    pub(crate) fn errno(&self) -> Option<Errno> {
        Errno::from_io_error(&self.source)
    }
}

/// What carries a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkKind {
    Wireguard,
    Tun,
    Other,
}

/// A link as the kernel shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) kind: LinkKind,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
}

/// One netlink connection, bound to the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Links {
    handle: Handle,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Links {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Links {
    pub(crate) fn open() -> Result<Self, LinkError> {
        let (connection, handle, _) = rtnetlink::new_connection()
            .map_err(|source| LinkError::new("open a netlink socket", source))?;
        let driver = tokio::spawn(connection);
        Ok(Self { handle, driver })
    }

    pub(crate) async fn find(&self, name: &str) -> Result<Option<Link>, LinkError> {
        let request = self.handle.link().get().match_name(name);
        match first(request.execute()).await {
            Ok(message) => Ok(message.as_ref().map(read_link)),
            Err(error) if is(&error, Errno::NODEV) => Ok(None),
            Err(error) => Err(failed(format!("look up link {name}"), error)),
        }
    }

    /// Name of the link with `index`.
    pub(crate) async fn name(&self, index: u32) -> Option<String> {
        let request = self.handle.link().get().match_index(index);
        let message = first(request.execute()).await.ok()??;
        message.attributes.into_iter().find_map(|attribute| {
            if let LinkAttribute::IfName(name) = attribute {
                Some(name)
            } else {
                None
            }
        })
    }

    pub(crate) async fn create_wireguard(&self, name: &str) -> Result<(), LinkError> {
        let request = self.handle.link().add(LinkWireguard::new(name).build());
        request
            .execute()
            .await
            .map_err(|error| failed(format!("create WireGuard link {name}"), error))
    }

    pub(crate) async fn delete(&self, index: u32) -> Result<(), LinkError> {
        let request = self.handle.link().del(index);
        let done = request.execute().await;
        settle(done, Errno::NODEV, || format!("delete link {index}"))
    }

    pub(crate) async fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), LinkError> {
        let message = LinkUnspec::new_with_index(index).mtu(mtu);
        self.set(message.build(), || format!("set the MTU to {mtu}"))
            .await
    }

    pub(crate) async fn bring_up(&self, index: u32) -> Result<(), LinkError> {
        let message = LinkUnspec::new_with_index(index).up();
        self.set(message.build(), || "bring the link up".to_owned())
            .await
    }

    async fn set(
        &self,
        message: LinkMessage,
        action: impl FnOnce() -> String,
    ) -> Result<(), LinkError> {
        let request = self.handle.link().set(message);
        request
            .execute()
            .await
            .map_err(|error| failed(action(), error))
    }

    /// Permanent addresses of global scope: a link-local one is the kernel's, and one with a
    /// lifetime belongs to whoever renews it.
    pub(crate) async fn addresses(&self, index: u32) -> Result<BTreeSet<IpAddr>, LinkError> {
        let request = self.handle.address().get().set_link_index_filter(index);
        let messages: Vec<_> = request
            .execute()
            .try_collect()
            .await
            .map_err(|error| failed("list addresses", error))?;
        let ours = messages.into_iter().filter(|message| {
            message.header.scope == AddressScope::Universe
                && message.header.flags.contains(AddressHeaderFlags::Permanent)
        });
        Ok(ours
            .filter_map(|message| {
                message.attributes.iter().find_map(|attribute| {
                    if let AddressAttribute::Address(address) = attribute {
                        Some(*address)
                    } else {
                        None
                    }
                })
            })
            .collect())
    }

    pub(crate) async fn add_address(&self, index: u32, address: IpAddr) -> Result<(), LinkError> {
        let length = Cidr::host(address).length();
        let mut request = self.handle.address().add(index, address, length);
        if address.is_ipv6() {
            // Duplicate address detection takes a second and asks a link that has no neighbours.
            let flags = AddressAttribute::Flags(AddressFlags::Nodad);
            request.message_mut().attributes.push(flags);
        }
        let done = request.execute().await;
        settle(done, Errno::EXIST, || format!("add address {address}"))
    }

    /// Waits until the link's IPv6 addresses take packets. Without duplicate address detection too,
    /// the kernel enters an address into its local table from a work queue, milliseconds after the
    /// request or after the link came up; what arrives before is dropped.
    pub(crate) async fn await_addresses(&self, index: u32) -> Result<(), LinkError> {
        let deadline = Instant::now() + ADDRESS_USABLE_WITHIN;
        for address in self.addresses(index).await? {
            let IpAddr::V6(address) = address else {
                continue;
            };
            while !self.is_local(address).await? {
                if Instant::now() >= deadline {
                    let action = format!("use the address {address}");
                    return Err(LinkError::new(action, io::ErrorKind::TimedOut.into()));
                }
                sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    async fn is_local(&self, address: Ipv6Addr) -> Result<bool, LinkError> {
        let message = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(address, 128);
        let request = self.handle.route().get(message.build());
        match first(request.execute()).await {
            Ok(route) => Ok(route.is_some_and(|route| route.header.kind == RouteType::Local)),
            Err(error) if is(&error, Errno::NETUNREACH) => Ok(false),
            Err(error) => Err(failed(format!("look up the address {address}"), error)),
        }
    }

    pub(crate) async fn remove_address(
        &self,
        index: u32,
        address: IpAddr,
    ) -> Result<(), LinkError> {
        let length = Cidr::host(address).length();
        let mut template = self.handle.address().add(index, address, length);
        let message = template.message_mut().clone();
        let done = self.handle.address().del(message).execute().await;
        settle(done, Errno::ADDRNOTAVAIL, || {
            format!("remove address {address}")
        })
    }

    /// The link's on-link routes that shoal wrote.
    pub(crate) async fn routes(&self, index: u32) -> Result<BTreeSet<Cidr>, LinkError> {
        let mut ours = BTreeSet::new();
        for message in self.all_routes().await? {
            let on_link = !message
                .attributes
                .iter()
                .any(|attribute| matches!(attribute, RouteAttribute::Gateway(_)));
            if message.header.protocol == ROUTE_PROTOCOL
                && route_link(&message) == Some(index)
                && on_link
            {
                ours.extend(destination(&message));
            }
        }
        Ok(ours)
    }

    /// Every route of the host, of both families and all tables.
    pub(crate) async fn all_routes(&self) -> Result<Vec<RouteMessage>, LinkError> {
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        let mut routes = Vec::new();
        for family in [v4, v6] {
            let listed: Result<Vec<_>, _> = self
                .handle
                .route()
                .get(family)
                .execute()
                .try_collect()
                .await;
            routes.extend(listed.map_err(|error| failed("list routes", error))?);
        }
        Ok(routes)
    }

    pub(crate) async fn add_route(&self, index: u32, prefix: Cidr) -> Result<(), LinkError> {
        let request = self.handle.route().add(route(index, prefix));
        let done = request.execute().await;
        settle(done, Errno::EXIST, || format!("add route {prefix}"))
    }

    pub(crate) async fn remove_route(&self, index: u32, prefix: Cidr) -> Result<(), LinkError> {
        let request = self.handle.route().del(route(index, prefix));
        let done = request.execute().await;
        settle(done, Errno::SRCH, || format!("remove route {prefix}"))
    }
}

fn route(index: u32, prefix: Cidr) -> RouteMessage {
    match prefix.address() {
        IpAddr::V4(address) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(address, prefix.length())
            .output_interface(index)
            .scope(RouteScope::Link)
            .protocol(ROUTE_PROTOCOL)
            .build(),
        IpAddr::V6(address) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(address, prefix.length())
            .output_interface(index)
            .protocol(ROUTE_PROTOCOL)
            .build(),
    }
}

/// Where a route leads; `None` for what is neither IPv4 nor IPv6. A default route has no
/// destination attribute.
pub(crate) fn destination(message: &RouteMessage) -> Option<Cidr> {
    let length = message.header.destination_prefix_length;
    let found = message.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Destination(RouteAddress::Inet(v4)) = attribute {
            Some(IpAddr::V4(*v4))
        } else if let RouteAttribute::Destination(RouteAddress::Inet6(v6)) = attribute {
            Some(IpAddr::V6(*v6))
        } else {
            None
        }
    });
    Cidr::new(found?, length)
}

/// Index of the link that a route leads out of.
pub(crate) fn route_link(message: &RouteMessage) -> Option<u32> {
    message.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Oif(index) = attribute {
            Some(*index)
        } else {
            None
        }
    })
}

/// The table of a route; large ids do not fit the header.
pub(crate) fn table(message: &RouteMessage) -> u32 {
    let large = message.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Table(id) = attribute {
            Some(*id)
        } else {
            None
        }
    });
    large.unwrap_or(u32::from(message.header.table))
}

/// The table of the host's own addresses (RT_TABLE_LOCAL), next above the main one.
pub(crate) const LOCAL_TABLE: u32 = RouteHeader::RT_TABLE_MAIN as u32 + 1;

fn read_link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        kind: LinkKind::Other,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
    };
    for attribute in &message.attributes {
        if let LinkAttribute::Mtu(mtu) = attribute {
            link.mtu = *mtu;
        }
        if let LinkAttribute::LinkInfo(infos) = attribute {
            if infos.contains(&LinkInfo::Kind(InfoKind::Wireguard)) {
                link.kind = LinkKind::Wireguard;
            } else if infos.contains(&LinkInfo::Kind(InfoKind::Tun)) {
                link.kind = LinkKind::Tun;
            }
        }
    }
    link
}

async fn first<T>(
    stream: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Option<T>, rtnetlink::Error> {
    let mut stream = std::pin::pin!(stream);
    stream.next().await.transpose()
}

fn is(error: &rtnetlink::Error, errno: Errno) -> bool {
    Errno::from_io_error(&to_io(error)) == Some(errno)
}

fn to_io(error: &rtnetlink::Error) -> io::Error {
    if let rtnetlink::Error::NetlinkError(message) = error {
        message.to_io()
    } else {
        io::Error::other(error.to_string())
    }
}

fn failed(action: impl Into<String>, error: rtnetlink::Error) -> LinkError {
    LinkError::new(action, to_io(&error))
}

/// Steps are idempotent: `done_already` means that the wanted state is there.
fn settle(
    result: Result<(), rtnetlink::Error>,
    done_already: Errno,
    action: impl FnOnce() -> String,
) -> Result<(), LinkError> {
    match result {
        Ok(()) => Ok(()),
        Err(error) if is(&error, done_already) => Ok(()),
        Err(error) => Err(failed(action(), error)),
    }
}
