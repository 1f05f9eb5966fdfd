//! The gate's table in nf_tables, spoken to without a program between.
//!
//! Decides: the rules, and what each transaction contains. Never: whether a transaction is allowed
//! now (`decision`).
//!
//! ```text
//! table inet shoal_gate {
//!     set guarded { type ipv6_addr; }                          comment: highest epoch, open or closed
//!     set open    { type ipv6_addr; flags timeout; }           comment: epoch
//!     set armed   { type ipv6_addr . mark . mark; flags timeout; }   address, epoch's two halves
//!     chain arriving { type filter hook prerouting priority -310;
//!         ip6 daddr @guarded ip6 daddr != @open fib daddr type local counter drop }
//!     chain leaving  { type filter hook postrouting priority 310;
//!         ip6 saddr @guarded ip6 saddr != @open iifname != "shoal*" counter drop }
//! }
//! ```
//!
//! Arriving packets are judged before conntrack and before any DNAT to a container. Leaving ones
//! after SNAT, so that a container's answers are judged by the address that the peer would see. A
//! node that only passes a packet on between two peers is not the address's holder: such packets
//! are not for a local address, or came in over the overlay.
//!
//! Invariants, each the kernel's work (`net/netfilter/nf_tables_api.c`): a batch takes effect as a
//! whole or not at all; deleting an element that is not there, or that has expired when the batch
//! begins, is ENOENT; an element's lifetime begins when the kernel reads it.

mod elements;
mod rules;

use std::net::Ipv6Addr;

use rustix::{io::Errno, net::netlink};

pub(crate) use self::elements::{Guarded, Living};
use self::elements::{
    add_armed, add_guarded, add_open, delete, delete_armed, read_guarded, read_living,
};
use crate::netlink::{ACK, CREATE, Messages, Received, Socket, attribute, attributes, text};

/// `NFNL_SUBSYS_NFTABLES`, which is the upper byte of every message's type.
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const DELETE_CHAIN: u16 = 5;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const DELETE_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const DELETE_SET: u16 = 11;
const NEW_ELEMENT: u16 = 12;
const GET_ELEMENT: u16 = 13;
const DELETE_ELEMENT: u16 = 14;

/// `struct nfgenmsg` of the family inet.
const INET: [u8; 4] = [1, 0, 0, 0];
/// `struct nfgenmsg` around a batch: the subsystem is in network byte order.
const BATCH: [u8; 4] = [0, 0, 0, 10];

/// `NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST` (Linux 6.9): nobody else changes or flushes the table
/// while our socket lives, and it stays when our socket dies.
const OWNED_AND_PERSISTENT: u32 = 0x2 | 0x4;
/// `NFNLGRP_NFTABLES`, as a bit of the mask that a socket is bound with.
const NOTIFICATIONS: u32 = 1 << (7 - 1);

const GUARDED: &str = "guarded";
const OPEN: &str = "open";
const ARMED: &str = "armed";

/// The table, and the socket that owns it.
#[derive(Debug)]
pub(crate) struct Table {
    name: String,
    socket: Socket,
    /// Hears what others do to the table; none where the kernel keeps them from it.
    listener: Option<Socket>,
}

impl Table {
    /// Puts the table up, or takes over the one that is there with its elements.
    pub(crate) fn put_up(name: &str) -> Result<Self, Errno> {
        let socket = open(0)?;
        let mut table = Self {
            name: name.to_owned(),
            socket,
            listener: None,
        };
        match table.write_rules(Some(OWNED_AND_PERSISTENT), &[]) {
            // Kernels before 6.9 do not know the flags; then notifications have to do.
            Err(Errno::OPNOTSUPP | Errno::INVAL) => {
                table.listener = Some(open(NOTIFICATIONS)?);
                table.write_rules(None, &[])?;
            }
            other => other?,
        }
        Ok(table)
    }

    /// Puts the table up where only notifications guard it, as on kernels before 6.9.
    pub(crate) fn put_up_unowned(name: &str) -> Result<Self, Errno> {
        let mut table = Self {
            name: name.to_owned(),
            socket: open(0)?,
            listener: Some(open(NOTIFICATIONS)?),
        };
        table.write_rules(None, &[])?;
        Ok(table)
    }

    /// The table that an earlier process left, to be read; `None` if there is none.
    pub(crate) fn adopt(name: &str) -> Result<Option<Self>, Errno> {
        let socket = match open(0) {
            Ok(socket) => socket,
            Err(errno) if lacks_the_parts(errno) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        let mut table = Self {
            name: name.to_owned(),
            socket,
            listener: None,
        };
        match table.exists() {
            Ok(found) => Ok(found.then_some(table)),
            Err(errno) if lacks_the_parts(errno) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Whether the kernel keeps others from changing the table.
    pub(crate) fn is_owned(&self) -> bool {
        self.listener.is_none()
    }

    /// What becomes readable when others change rules.
    pub(crate) fn listener(&self) -> Option<&Socket> {
        self.listener.as_ref()
    }

    /// Writes the rules anew with the sets as they are, and guards `addresses`.
    pub(crate) fn restore(&mut self, addresses: &[Guarded]) -> Result<(), Errno> {
        let flags = self.is_owned().then_some(OWNED_AND_PERSISTENT);
        self.write_rules(flags, addresses)
    }

    /// Without flags, a table that is there keeps its own.
    fn write_rules(&mut self, flags: Option<u32>, addresses: &[Guarded]) -> Result<(), Errno> {
        let name = self.name.clone();
        self.transaction(|row| {
            row.begin(kind(NEW_TABLE), CREATE, &INET).put_text(1, &name);
            if let Some(flags) = flags {
                row.put_be32(2, flags);
            }
            rules::write(row, &name);
            for guarded in addresses {
                add_guarded(row, &name, guarded);
            }
        })
    }

    /// Takes this table down; it is no failure if there is none. From Linux 6.9 on nobody can but the socket
    /// that owns it, if there is one.
    pub(crate) fn end(mut self) -> Result<(), Errno> {
        let name = self.name.clone();
        let ended = self.transaction(|row| {
            row.begin(kind(DELETE_TABLE), 0, &INET).put_text(1, &name);
        });
        match ended {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Drops packets to and from an address from now on, unless its element lives.
    pub(crate) fn guard(&mut self, guarded: &Guarded) -> Result<(), Errno> {
        let name = self.name.clone();
        self.transaction(|row| add_guarded(row, &name, guarded))
    }

    /// Lets an address be, whoever holds it.
    pub(crate) fn unguard(&mut self, address: Ipv6Addr) -> Result<(), Errno> {
        let name = self.name.clone();
        self.transaction(|row| delete(row, &name, GUARDED, &address.octets()))
    }

    /// Makes one opening possible, within `gate_us`.
    pub(crate) fn arm(&mut self, address: Ipv6Addr, epoch: u64, gate_us: u64) -> Result<(), Errno> {
        let name = self.name.clone();
        self.transaction(|row| {
            add_armed(row, &name, address, epoch, gate_us);
        })
    }

    /// Opens the address for `gate_us`, at the expense of the arm; an element of an older epoch
    /// makes room in the same transaction.
    pub(crate) fn open(
        &mut self,
        address: Ipv6Addr,
        epoch: u64,
        previous: Option<u64>,
        gate_us: u64,
    ) -> Result<(), Errno> {
        let name = self.name.clone();
        let guarded = Guarded {
            address,
            epoch,
            released: false,
        };
        self.transaction(|row| {
            delete_armed(row, &name, address, epoch);
            if previous.is_some() {
                delete(row, &name, OPEN, &address.octets());
            }
            delete(row, &name, GUARDED, &address.octets());
            add_guarded(row, &name, &guarded);
            add_open(row, &name, address, epoch, gate_us);
        })
    }

    /// Gives the element `gate_us` from now; ENOENT when it has expired.
    pub(crate) fn refresh(
        &mut self,
        address: Ipv6Addr,
        epoch: u64,
        gate_us: u64,
    ) -> Result<(), Errno> {
        let name = self.name.clone();
        self.transaction(|row| {
            delete(row, &name, OPEN, &address.octets());
            add_open(row, &name, address, epoch, gate_us);
        })
    }

    /// Closes the address at once and writes down what became of its epoch.
    pub(crate) fn close(&mut self, guarded: &Guarded) -> Result<(), Errno> {
        let name = self.name.clone();
        let key = guarded.address.octets();
        let rewrite = |row: &mut Messages| {
            delete(row, &name, GUARDED, &key);
            add_guarded(row, &name, guarded);
        };
        let closed = self.transaction(|row| {
            delete(row, &name, OPEN, &key);
            rewrite(row);
        });
        match closed {
            // It has expired, which is as well.
            Err(Errno::NOENT) => self.transaction(rewrite),
            other => other,
        }
    }

    /// The addresses under guard.
    pub(crate) fn guarded(&mut self) -> Result<Vec<Guarded>, Errno> {
        let mut found = Vec::new();
        self.elements(GUARDED, |element| found.extend(read_guarded(element)))?;
        Ok(found)
    }

    /// The elements that let packets through now.
    pub(crate) fn living(&mut self) -> Result<Vec<Living>, Errno> {
        let mut found = Vec::new();
        self.elements(OPEN, |element| found.extend(read_living(element)))?;
        Ok(found)
    }

    /// Whether the rules stand as they were written.
    pub(crate) fn stands(&mut self) -> Result<bool, Errno> {
        if !self.exists()? {
            return Ok(false);
        }
        let name = self.name.clone();
        let mut found = 0;
        let filter = |row: &mut Messages| {
            row.put_text(1, &name);
        };
        self.socket.list(kind(GET_RULE), &INET, filter, |message| {
            let body = message.body.get(INET.len()..).unwrap_or_default();
            let ours = attribute(body, 1).is_some_and(|table| text(table) == name);
            found += usize::from(ours);
        })?;
        Ok(found == rules::RULES)
    }

    fn exists(&mut self) -> Result<bool, Errno> {
        let mut row = self.socket.compose();
        row.begin(kind(GET_TABLE), ACK, &INET)
            .put_text(1, &self.name);
        match self.socket.carry_out(&row) {
            Ok(()) => Ok(true),
            // Without the module for tables, there are none.
            Err(Errno::NOENT | Errno::INVAL | Errno::OPNOTSUPP) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Takes the notifications there are; says whether one concerns this table's rules.
    pub(crate) fn hear(&mut self) -> bool {
        let Some(listener) = self.listener.as_mut() else {
            return false;
        };
        let mut concerned = false;
        let lost = listener.hear(|message| {
            let theirs = [
                DELETE_TABLE,
                DELETE_CHAIN,
                DELETE_RULE,
                NEW_RULE,
                DELETE_SET,
            ];
            if theirs.map(kind).contains(&message.kind) {
                let body = message.body.get(INET.len()..).unwrap_or_default();
                let table = attribute(body, 1).map(text);
                concerned |= table == Some(self.name.as_str());
            }
        });
        concerned || lost
    }

    fn elements(&mut self, set: &str, mut each: impl FnMut(&[u8])) -> Result<(), Errno> {
        let name = self.name.clone();
        let filter = |row: &mut Messages| {
            row.put_text(1, &name).put_text(2, set);
        };
        let entry = |message: Received<'_>| {
            let body = message.body.get(INET.len()..).unwrap_or_default();
            let list = attribute(body, 3).unwrap_or_default();
            attributes(list).for_each(|(_, element)| each(element));
        };
        self.socket.list(kind(GET_ELEMENT), &INET, filter, entry)
    }

    fn transaction(&mut self, fill: impl FnOnce(&mut Messages)) -> Result<(), Errno> {
        let mut row = begin_batch(&self.socket);
        fill(&mut row);
        row.acknowledge_last();
        end_batch(&mut self.socket, row)
    }
}

/// Whether this is how a kernel without nf_tables, or without what the gate's rules are made of, refuses: no
/// such protocol, no such subsystem, no such expression.
pub(crate) fn lacks_the_parts(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::PROTONOSUPPORT | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOENT
    )
}

fn open(groups: u32) -> Result<Socket, Errno> {
    Socket::open(Some(netlink::NETFILTER), groups)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

const fn kind(message: u16) -> u16 {
    (SUBSYSTEM << 8) | message
}

fn begin_batch(socket: &Socket) -> Messages {
    let mut row = socket.compose();
    row.begin(BATCH_BEGIN, 0, &BATCH);
    row
}

fn end_batch(socket: &mut Socket, mut row: Messages) -> Result<(), Errno> {
    row.begin(BATCH_END, 0, &BATCH);
    socket.carry_out(&row)
}
