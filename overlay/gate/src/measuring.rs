//! The bare transactions, for benches and for tests of what the kernel promises.
//!
//! Decides nothing: whoever calls these may open an address without a lease.

use std::{io, net::Ipv6Addr, path::Path};

use crate::{
    ebpf::Deadlines,
    gate::GateError,
    nftables::{Guarded, Table},
};

/// A table that only notifications guard, and its transactions.
#[derive(Debug)]
pub struct Transactions(Table);

impl Transactions {
    /// Puts a table up, or takes over the one that is there.
    pub fn begin(table: &str) -> Result<Self, GateError> {
        Ok(Self(Table::put_up_unowned(table)?))
    }

    /// Drops packets to and from an address, unless it is open.
    pub fn guard(&mut self, address: Ipv6Addr) -> io::Result<()> {
        let guarded = Guarded {
            address,
            epoch: 0,
            released: false,
        };
        Ok(self.0.guard(&guarded)?)
    }

    /// Makes one opening possible.
    pub fn arm(&mut self, address: Ipv6Addr, epoch: u64, gate_us: u64) -> io::Result<()> {
        Ok(self.0.arm(address, epoch, gate_us)?)
    }

    /// Opens at the expense of the arm.
    pub fn open(&mut self, address: Ipv6Addr, epoch: u64, gate_us: u64) -> io::Result<()> {
        Ok(self.0.open(address, epoch, None, gate_us)?)
    }

    /// Prolongs what is open.
    pub fn refresh(&mut self, address: Ipv6Addr, epoch: u64, gate_us: u64) -> io::Result<()> {
        Ok(self.0.refresh(address, epoch, gate_us)?)
    }

    /// How long each open address stays so.
    pub fn living(&mut self) -> io::Result<Vec<(Ipv6Addr, u64)>> {
        let living = self.0.living()?.into_iter();
        Ok(living.map(|it| (it.address, it.left_us)).collect())
    }

    /// Takes the table down.
    pub fn end(self) -> io::Result<()> {
        Ok(self.0.end()?)
    }
}

/// A map of deadlines, which no interface's packets are held against.
#[derive(Debug)]
pub struct Writes(Deadlines);

impl Writes {
    /// Loads the programs, and keeps the map in a folder of a bpf file system.
    pub fn begin(folder: &Path) -> Result<Self, GateError> {
        Ok(Self(Deadlines::put_up(folder)?))
    }

    /// Opens an address, or prolongs what is open.
    pub fn open(&mut self, address: Ipv6Addr, epoch: u64, until_us: u64) -> io::Result<()> {
        Ok(self.0.open(address, epoch, until_us)?)
    }

    /// Takes everything in the folder down.
    pub fn end(self, folder: &Path) -> io::Result<()> {
        Ok(Deadlines::take_down(folder)?)
    }
}
