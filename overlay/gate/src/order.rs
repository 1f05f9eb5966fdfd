//! What the gate of an address may be told, and by what means an address is held.
//!
//! Decides: which orders are possible at all, and how long each kind of gate stays open at most without
//! being told again. Never: looks at a clock or a kernel.

use std::net::Ipv6Addr;

/// Shorter gates would need refreshing more often than a loaded host wakes a thread.
const GATE_US_MIN: u64 = 20_000;
/// Longer ones would be no gate.
const GATE_US_MAX: u64 = 60_000_000;
/// The kernel's names for interfaces have at most 15 bytes.
const INTERFACE_BYTES_MAX: usize = 15;

/// The lifetime that addresses are given, in the kernel's unit.
pub(crate) const ADDRESS_LIFETIME_S: u32 = 2;
/// How long an address lives at most with [`ADDRESS_LIFETIME_S`]: the kernel counts lifetimes in
/// whole seconds and looks once a second (`addrconf_verify_rtnl`).
pub(crate) const ADDRESS_LIFE_US: u64 = 3_000_000;
/// How long it lives at least, unless somebody takes it away.
pub(crate) const ADDRESS_SURE_US: u64 = 2_000_000;
/// An address whose lifetime is renewed this often outlives two lost renewals.
pub(crate) const ADDRESS_RENEWED_EVERY_US: u64 = 500_000;

/// What an address is held by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateKind {
    /// An nf_tables element with a timeout; the kernel refuses to refresh an expired one.
    Nftables,
    /// A program of ours on the overlay's interface, with a deadline in absolute time: a late order
    /// changes nothing, and neither does a suspended host. Guards what passes that interface only.
    Ebpf,
    /// The lifetime of the address alone. The kernel refuses nothing, and counts seconds.
    AddressLifetime,
}

impl GateKind {
    /// How long the kernel lets packets through at most without being told again; what [`Self::Ebpf`]
    /// is told is the end instead.
    pub const fn life_us(self, timing: &Timing) -> u64 {
        match self {
            Self::Nftables | Self::Ebpf => timing.gate_us,
            Self::AddressLifetime => ADDRESS_LIFE_US,
        }
    }

    /// 2T + delta: with so much left of a lease it opens and is refreshed, each time for a whole life.
    pub const fn lease_left_us(self, timing: &Timing) -> u64 {
        2 * self.life_us(timing) + timing.delta_us
    }

    /// What it is, for people.
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::Nftables => "nftables element with a timeout, address lifetime behind it",
            Self::Ebpf => "eBPF program with a deadline, address lifetime behind it",
            Self::AddressLifetime => {
                "address lifetime only: leases must be longer than 6 s, and a daemon that is stopped \
                 for longer than 3 s between its look at the clock and its system call can renew an \
                 address too late"
            }
        }
    }
}

/// The times of the lease protocol that concern the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// T: how long an element lives. From 20 ms to 60 s.
    pub gate_us: u64,
    /// What is kept free at the lease's end for the coarseness of the kernel's timers. An element
    /// can live one tick of the kernel longer than asked, and five more on a virtual machine whose
    /// processor that counts the ticks is not scheduled: 25 ms at 250 Hz.
    pub delta_us: u64,
}

/// That this host may hold an address until a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateOrder {
    /// The virtual address.
    pub address: Ipv6Addr,
    /// The interface that has it while it is held.
    pub interface: String,
    /// Which assignment of the address this is; from 1, only rises.
    pub epoch: u64,
    /// The end of the lease, microseconds of `CLOCK_BOOTTIME`.
    pub lease_until_us: u64,
    /// The times agreed for this lease.
    pub timing: Timing,
}

/// An order says something impossible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOrder {
    /// The epoch is 0.
    #[error("epochs begin with 1")]
    Epoch,
    /// The lifetime of the element is out of range.
    #[error("a gate of {0} us is not between 20 ms and 60 s")]
    GateTime(u64),
    /// Not the name of an interface.
    #[error("an interface's name has 1 to 15 bytes, no slash and no space")]
    Interface,
    /// An address that no host can hold for itself.
    #[error("{0} is no address that one host can hold")]
    Address(Ipv6Addr),
}

impl InvalidOrder {
    /// Stable name of the failure.
    pub const fn code(&self) -> &'static str {
        "GateOrderInvalidError"
    }
}

impl GateOrder {
    /// Where a gate that knows the time closes.
    pub(crate) fn deadline_us(&self) -> u64 {
        self.lease_until_us.saturating_sub(self.timing.delta_us)
    }

    /// Refuses what the kernel could not do or would misunderstand.
    pub fn check(&self) -> Result<(), InvalidOrder> {
        let address = &self.address;
        if self.epoch == 0 {
            return Err(InvalidOrder::Epoch);
        }
        if !(GATE_US_MIN..=GATE_US_MAX).contains(&self.timing.gate_us) {
            return Err(InvalidOrder::GateTime(self.timing.gate_us));
        }
        if address.is_multicast() || address.is_unspecified() || address.is_loopback() {
            return Err(InvalidOrder::Address(*address));
        }
        let name = &self.interface;
        let odd = |c: char| c.is_whitespace() || c == '/' || c == '\0';
        if name.is_empty() || name.len() > INTERFACE_BYTES_MAX || name.contains(odd) {
            return Err(InvalidOrder::Interface);
        }
        Ok(())
    }
}
