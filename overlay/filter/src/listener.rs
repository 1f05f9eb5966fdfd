//! What others do to this host's rules and interfaces, told by the kernel as it happens.
//!
//! Decides which of its notices concern the filter: changes of its own table, chains that come and go
//! in which others let it speak, rules that are taken from these, links. Whether something has to be done about it is found by looking.
//!
//! Sources: `linux/netfilter/nfnetlink.h`, `linux/netfilter/nf_tables.h`, netlink(7), rtnetlink(7).
//! The kernel queues a notice before the call that made the change returns; notices that found no
//! room are reported as lost, which concerns everybody.

use std::io;

use rustix::{
    io::Errno,
    net::{
        AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, bind,
        netlink::{self, SocketAddrNetlink},
        recv, socket_with,
    },
};
use tokio::{io::Interest, net::UnixDatagram};

use crate::{beside_docker::CHAINS, rules::TABLE};

/// `NFNLGRP_NFTABLES`, as a bit of the mask that a socket is bound with.
const NFTABLES_GROUP: u32 = 1 << (7 - 1);
/// `RTNLGRP_LINK`, likewise.
const LINK_GROUP: u32 = 1;
/// `NFNL_SUBSYS_NFTABLES`, the upper byte of a message's type.
const NFTABLES: u16 = 10;
/// `NFT_MSG_NEWCHAIN` and `NFT_MSG_DELCHAIN`.
const CHAIN_KINDS: [u16; 2] = [3, 5];
/// `NFT_MSG_DELRULE`. What others add concerns nobody.
const RULE_GONE: u16 = 8;
/// `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE`, `NFTA_RULE_TABLE`, `NFTA_SET_TABLE`.
const TABLE_ATTRIBUTE: u16 = 1;
/// `NFTA_CHAIN_NAME`.
const CHAIN_NAME_ATTRIBUTE: u16 = 3;
/// `NFTA_RULE_CHAIN`.
const RULE_CHAIN_ATTRIBUTE: u16 = 2;
/// Length of `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
/// Length of `struct nfgenmsg`.
const FAMILY_BYTES: usize = 4;
/// The kernel sends notices in pieces below that.
const RECEIVE_BYTES: usize = 64 * 1024;

/// What was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// Somebody was at the rules.
    Rules,
    /// An interface came, went or changed.
    Links,
}

/// Hears of changes in the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Listener {
    rules: UnixDatagram,
    links: UnixDatagram,
}

impl Listener {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self {
            rules: socket(Some(netlink::NETFILTER), NFTABLES_GROUP)?,
            links: socket(None, LINK_GROUP)?,
        })
    }

    /// Waits until something happens that concerns the filter. Cancel safe: nothing is awaited
    /// between taking a notice and telling of it.
    pub(crate) async fn concerned(&self) -> io::Result<Told> {
        loop {
            // Both arms only wait.
            tokio::select! {
                ready = self.rules.readable() => {
                    ready?;
                    if drain(&self.rules, concerns)? {
                        return Ok(Told::Rules);
                    }
                }
                ready = self.links.readable() => {
                    ready?;
                    if drain(&self.links, |_| true)? {
                        return Ok(Told::Links);
                    }
                }
            }
        }
    }

    /// Forgets what was told until now.
    pub(crate) fn forget(&self) -> io::Result<()> {
        drain(&self.rules, |_| true).map(drop)
    }
}

/// Of routing, unless another protocol is given. tokio waits for descriptors of any kind by an unsafe
/// call only, and for those that are called a socket of the local domain by a safe one: reading is
/// ours, and what is waited for is the same.
fn socket(protocol: Option<Protocol>, groups: u32) -> io::Result<UnixDatagram> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    UnixDatagram::from_std(socket.into())
}

/// Takes what there is; says whether any of it concerns the filter.
fn drain(socket: &UnixDatagram, concerns: impl Fn(&[u8]) -> bool) -> io::Result<bool> {
    let mut buffer = vec![0; RECEIVE_BYTES];
    let mut concerned = false;
    loop {
        let received = socket.try_io(Interest::READABLE, || {
            Ok(recv(socket, &mut buffer[..], RecvFlags::DONTWAIT)?.0)
        });
        match received {
            Ok(length) => concerned |= messages(&buffer[..length]).any(&concerns),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(concerned),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Some found no room.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => concerned = true,
            Err(error) => return Err(error),
        }
    }
}

/// Cuts a datagram into messages, headers included; what is cut off ends the row.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = bytes.get(..4)?.try_into().ok()?;
        let length = usize::try_from(u32::from_ne_bytes(length)).ok()?;
        let message = bytes.get(..length).filter(|_| length >= HEADER_BYTES)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(message)
    })
}

/// Whether a message of nf_tables is about the filter's table, or says that a chain is new or gone in
/// which others let it speak, or a rule gone from one.
fn concerns(message: &[u8]) -> bool {
    let Some(kind) = u16_at(message, 4).filter(|kind| kind >> 8 == NFTABLES) else {
        return false;
    };
    let body = message.get(HEADER_BYTES + FAMILY_BYTES..).unwrap_or(&[]);
    let chain = match kind & 0xff {
        kind if CHAIN_KINDS.contains(&kind) => text(body, CHAIN_NAME_ATTRIBUTE),
        RULE_GONE => text(body, RULE_CHAIN_ATTRIBUTE),
        _ => None,
    };
    text(body, TABLE_ATTRIBUTE) == Some(TABLE) || chain.is_some_and(|name| CHAINS.contains(&name))
}

/// The value of the first attribute of a type, without the zero byte that ends it.
fn text(mut bytes: &[u8], wanted: u16) -> Option<&str> {
    loop {
        let length = usize::from(u16_at(bytes, 0)?);
        let value = bytes.get(4..length)?;
        if u16_at(bytes, 2)? == wanted {
            return std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok();
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let found = bytes.get(at..at + 2)?.try_into().ok()?;
    Some(u16::from_ne_bytes(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, attributes: &[(u16, &str)]) -> Vec<u8> {
        let mut body = vec![1, 0, 0, 0];
        for (kind, value) in attributes {
            let length = u16::try_from(4 + value.len() + 1).unwrap();
            body.extend(length.to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(value.as_bytes());
            body.push(0);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let length = u32::try_from(HEADER_BYTES + body.len()).unwrap();
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.resize(HEADER_BYTES, 0);
        message.extend(body);
        message
    }

    #[test]
    fn the_table_and_dockers_chains_concern_the_filter_and_nothing_else() {
        let kind = |kind: u16| NFTABLES << 8 | kind;
        for (message, expected) in [
            (message(kind(2), &[(1, TABLE), (2, "x")]), true),
            (message(kind(8), &[(1, TABLE)]), true),
            (message(kind(2), &[(1, "filter")]), false),
            (message(kind(3), &[(1, "filter"), (3, "DOCKER-USER")]), true),
            (
                message(kind(6), &[(1, "filter"), (2, "DOCKER-USER")]),
                false,
            ),
            (message(kind(3), &[(1, "filter"), (3, "DOCKER")]), false),
            (message(kind(8), &[(1, "filter"), (2, "INPUT")]), true),
            (message(kind(8), &[(1, "filter"), (2, "DOCKER")]), false),
            (message(16, &[(1, TABLE)]), false),
        ] {
            assert_eq!(messages(&message).any(concerns), expected, "{message:?}");
        }
    }

    #[test]
    fn what_is_cut_off_concerns_nobody() {
        let whole = message(NFTABLES << 8 | 2, &[(1, TABLE)]);
        for length in 0..whole.len() {
            assert!(!messages(&whole[..length]).any(concerns));
            assert!(!concerns(&whole[..length.min(30)]));
        }
        assert_eq!(messages(&[0; 64]).count(), 0);
        assert_eq!(text(&[0; 64], 1), None);
    }
}
