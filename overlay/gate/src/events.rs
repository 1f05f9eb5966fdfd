//! What the gate tells: events with their times, and how things are.

use std::net::Ipv6Addr;

use rustix::io::Errno;

use crate::{address::AddressError, decision::ClosedWhy};

/// Something happened. Times are microseconds of `CLOCK_BOOTTIME`.
#[derive(Debug, Clone)]
pub enum GateEvent {
    /// The kernel lets packets through.
    Opened {
        /// Which address.
        address: Ipv6Addr,
        /// By which assignment.
        epoch: u64,
        /// When the kernel had acknowledged it.
        at_us: u64,
    },
    /// The kernel lets no packets through.
    Closed {
        /// Which address.
        address: Ipv6Addr,
        /// By which assignment it was open.
        epoch: u64,
        /// When that was known; of what the kernel closed by itself, it is later than the fact.
        at_us: u64,
        /// Why.
        why: ClosedWhy,
    },
    /// An order cannot be followed, or not now; said once for each epoch and reason.
    Refused {
        /// Which address.
        address: Ipv6Addr,
        /// The epoch of the order.
        epoch: u64,
        /// When.
        at_us: u64,
        /// Why.
        why: RefusedWhy,
    },
    /// Somebody had removed the gate's rules; they are back. Between, nothing was dropped.
    RulesRestored {
        /// When they were back.
        at_us: u64,
    },
    /// Somebody has removed the gate's rules, and the kernel refuses to have them back.
    RulesMissing {
        /// When.
        at_us: u64,
        /// The kernel's reason.
        errno: Errno,
    },
}

/// Why an order was not followed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RefusedWhy {
    /// A higher epoch was opened here, or this one was released.
    #[error("its epoch is over here; {lowest} is the lowest that may be opened")]
    EpochOver {
        /// The lowest that would not be refused.
        lowest: u64,
    },
    /// What is left of the lease does not cover twice the gate's life.
    #[error("too little of the lease is left to open")]
    LeaseTooShort,
    /// Twice in a row the kernel took so long to prepare an opening that the lease was too far gone.
    #[error("its kernel takes so long to open that too little of the lease is left")]
    TooSlow,
    /// The address cannot be put on the interface.
    #[error("the address cannot be put on its interface: {0}")]
    Address(AddressError),
    /// The kernel refused a transaction.
    #[error("the kernel refused: {0}")]
    Kernel(Errno),
    /// This host holds as many addresses as it can.
    #[error("this host is a candidate for 256 addresses already")]
    TooManyAddresses,
}

impl RefusedWhy {
    /// Stable name of the reason.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::EpochOver { .. } => "VipEpochOverError",
            Self::LeaseTooShort => "VipLeaseTooShortError",
            Self::TooSlow => "GateTooSlowError",
            Self::Address(error) => error.code(),
            Self::Kernel(_) => "GateKernelError",
            Self::TooManyAddresses => "TooManyVipsError",
        }
    }
}

/// How things are with an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateStatus {
    /// The interface that it was put on, by this process.
    pub interface: Option<String>,
    /// The highest epoch that was opened or released here; 0 for none.
    pub epoch: u64,
    /// Whether packets are let through.
    pub open: bool,
    /// Since when, microseconds of `CLOCK_BOOTTIME`.
    pub since_us: u64,
}
