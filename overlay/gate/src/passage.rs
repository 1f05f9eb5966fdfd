//! What the kernel is told, by whichever line it has.
//!
//! Decides: which calls make up a step of `decision`. Never: whether a step is allowed.

use std::net::Ipv6Addr;

use rustix::io::Errno;

use crate::{
    address::{AddressError, Addresses},
    ebpf::Deadlines,
    nftables::{Guarded, Living, Table},
    order::{GateKind, GateOrder},
};

/// The kernel's side of all addresses.
#[derive(Debug)]
pub(crate) struct Kernel {
    line: Line,
    addresses: Addresses,
}

/// What lets packets through, or does not.
#[derive(Debug)]
pub(crate) enum Line {
    Nftables(Table),
    Ebpf(Box<Deadlines>),
    /// Nothing but the lifetime of the address.
    Lifetime,
}

/// The kernel did not do a step.
#[derive(Debug, Clone)]
pub(crate) enum StepError {
    /// The element, or the arm, is no more: what was to be prolonged is over.
    Over,
    /// The address cannot be put on the interface.
    Address(AddressError),
    /// Another reason.
    Kernel(Errno),
}

impl From<Errno> for StepError {
    fn from(errno: Errno) -> Self {
        if errno == Errno::NOENT {
            Self::Over
        } else {
            Self::Kernel(errno)
        }
    }
}

impl From<AddressError> for StepError {
    fn from(error: AddressError) -> Self {
        Self::Address(error)
    }
}

impl Kernel {
    pub(crate) fn new(line: Line, addresses: Addresses) -> Self {
        Self { line, addresses }
    }

    pub(crate) fn kind(&self) -> GateKind {
        match self.line {
            Line::Nftables(_) => GateKind::Nftables,
            Line::Ebpf(_) => GateKind::Ebpf,
            Line::Lifetime => GateKind::AddressLifetime,
        }
    }

    pub(crate) fn table(&mut self) -> Option<&mut Table> {
        match &mut self.line {
            Line::Nftables(table) => Some(table),
            Line::Ebpf(_) | Line::Lifetime => None,
        }
    }

    pub(crate) fn watched(&self) -> Option<&Table> {
        match &self.line {
            Line::Nftables(table) => Some(table),
            Line::Ebpf(_) | Line::Lifetime => None,
        }
    }

    pub(crate) fn addresses(&mut self) -> &mut Addresses {
        &mut self.addresses
    }

    /// What an earlier process left: addresses under guard, and what is open. Of the others, the
    /// address is taken away.
    pub(crate) fn inherited(&mut self) -> Result<(Vec<Guarded>, Vec<Living>), Errno> {
        let (guarded, living) = match &mut self.line {
            Line::Nftables(table) => (table.guarded()?, table.living()?),
            Line::Ebpf(deadlines) => deadlines.inherited(),
            Line::Lifetime => return Ok((Vec::new(), Vec::new())),
        };
        let open = |it: &Guarded| living.iter().any(|living| living.address == it.address);
        let shut: Vec<_> = guarded.iter().filter(|it| !open(it)).collect();
        let addresses: Vec<_> = shut.iter().map(|it| it.address).collect();
        self.addresses.take_everywhere(&addresses)?;
        if let Line::Ebpf(deadlines) = &mut self.line {
            shut.into_iter().try_for_each(|it| deadlines.leave(it))?;
        }
        Ok((guarded, living))
    }

    pub(crate) fn guard(&mut self, guarded: &Guarded) -> Result<(), Errno> {
        match &mut self.line {
            Line::Nftables(table) => table.guard(guarded),
            Line::Ebpf(_) | Line::Lifetime => Ok(()),
        }
    }

    pub(crate) fn unguard(&mut self, address: Ipv6Addr) -> Result<(), Errno> {
        let done = match &mut self.line {
            Line::Nftables(table) => table.unguard(address),
            Line::Ebpf(deadlines) => {
                deadlines.forget(address);
                Ok(())
            }
            Line::Lifetime => Ok(()),
        };
        match done {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
    }

    /// Puts the address behind the closed gate, and makes one opening possible within `life_us`.
    /// `guarded` is what is known of the address; what is `open` already stays so.
    pub(crate) fn arm(
        &mut self,
        order: &GateOrder,
        guarded: &Guarded,
        open: bool,
        life_us: u64,
    ) -> Result<(), StepError> {
        match &mut self.line {
            Line::Nftables(table) => {
                self.addresses.put(&order.interface, order.address)?;
                table.arm(order.address, order.epoch, life_us)?;
            }
            Line::Ebpf(deadlines) => {
                if !open {
                    deadlines.close(guarded).map_err(StepError::Kernel)?;
                }
                deadlines
                    .attach(&order.interface)
                    .map_err(StepError::Kernel)?;
                self.addresses.put(&order.interface, order.address)?;
            }
            Line::Lifetime => {}
        }
        Ok(())
    }

    pub(crate) fn open(
        &mut self,
        order: &GateOrder,
        previous: Option<u64>,
        life_us: u64,
    ) -> Result<(), StepError> {
        match &mut self.line {
            Line::Nftables(table) => {
                table.open(order.address, order.epoch, previous, life_us)?;
            }
            Line::Ebpf(deadlines) => write_deadline(deadlines, order)?,
            Line::Lifetime => self.addresses.put(&order.interface, order.address)?,
        }
        Ok(())
    }

    pub(crate) fn refresh(&mut self, order: &GateOrder, life_us: u64) -> Result<(), StepError> {
        match &mut self.line {
            Line::Nftables(table) => {
                table.refresh(order.address, order.epoch, life_us)?;
            }
            Line::Ebpf(deadlines) => write_deadline(deadlines, order)?,
            Line::Lifetime => self.addresses.put(&order.interface, order.address)?,
        }
        Ok(())
    }

    /// Gives an open address another lifetime. Its interface may have been made anew since, and then
    /// has no programs yet.
    pub(crate) fn renew_address(
        &mut self,
        interface: &str,
        address: Ipv6Addr,
    ) -> Result<(), StepError> {
        if let Line::Ebpf(deadlines) = &mut self.line {
            deadlines.attach(interface).map_err(StepError::Kernel)?;
        }
        Ok(self.addresses.put(interface, address)?)
    }

    /// Closes at once, then takes the address away, even if the first was refused.
    pub(crate) fn close(
        &mut self,
        guarded: &Guarded,
        interface: Option<&str>,
    ) -> Result<(), Errno> {
        let closed = match &mut self.line {
            Line::Nftables(table) => table.close(guarded),
            Line::Ebpf(deadlines) => deadlines.close(guarded),
            Line::Lifetime => Ok(()),
        };
        closed.and(self.take(guarded.address, interface))?;
        match &mut self.line {
            Line::Ebpf(deadlines) => deadlines.leave(guarded),
            Line::Nftables(_) | Line::Lifetime => Ok(()),
        }
    }

    fn take(&mut self, address: Ipv6Addr, interface: Option<&str>) -> Result<(), Errno> {
        let Some(interface) = interface else {
            return self.addresses.take_everywhere(&[address]);
        };
        match self.addresses.take(interface, address) {
            Err(AddressError::Refused { errno, .. }) => Err(errno),
            Err(AddressError::NoInterface(_)) | Ok(()) => Ok(()),
        }
    }
}

fn write_deadline(deadlines: &mut Deadlines, order: &GateOrder) -> Result<(), StepError> {
    deadlines
        .open(order.address, order.epoch, order.deadline_us())
        .map_err(StepError::Kernel)
}
