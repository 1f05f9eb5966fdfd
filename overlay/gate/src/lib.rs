//! The kernel gate of virtual IPs: whether this host's kernel lets packets to and from an address
//! through, and for how long without being told again.
//!
//! A node holds a virtual address only while it has a lease, and stops by itself when the lease
//! ends: whatever happens to the daemon, its threads or the processor. So the kernel is given
//! permission for a short time only, again and again, and forgets by itself.
//!
//! - [`Gate`] owns a thread (`worker`) that takes the latest [`GateOrder`] of each address and does
//!   what `decision` allows: it arms, opens, refreshes, closes.
//! - `nftables` is the first line: a set element that lives for [`Timing::gate_us`].
//! - `ebpf` can stand in for it, with a deadline in absolute time.
//! - `address` is the second: the address itself has a lifetime of two seconds.
//! - Where the kernel has neither, the second line is the only one, and needs longer leases
//!   ([`GateKind`]).
//!
//! Never: judges who holds an address (the lease's work), nor waits for anything but its mailbox.
//!
//! # Why it holds
//!
//! A refresh deletes and adds the element in one transaction. The kernel refuses it once the
//! element has expired, so it takes effect by the end of the element before it, which is known from
//! when that was acknowledged; and what it writes lives for as long as it is told. It is told no more
//! than what the lease has left after that end, without delta, and T at most. So it ends inside the
//! lease, however long the thread stood still in between. An opening has no element before it; it
//! consumes an *arm*, whose end is known in the same way.

mod address;
mod advertisement;
mod decision;
mod ebpf;
mod events;
mod gate;
mod life;
mod mailbox;
pub mod measuring;
mod netlink;
mod nftables;
mod order;
mod passage;
mod priority;
mod worker;

pub use address::AddressError;
pub use decision::ClosedWhy;
pub use events::{GateEvent, GateStatus, RefusedWhy};
pub use gate::{Gate, GateConfig, GateError, uninstall};
pub use order::{GateKind, GateOrder, InvalidOrder, Timing};
pub use priority::{Priority, take_precedence};
pub use worker::now_us;
