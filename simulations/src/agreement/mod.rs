//! Groups of servers that agree, in a simulated world.
//!
//! Decides: when messages arrive, which faults strike when, whether what the servers did broke an
//! invariant. Never: replaces a part of a server. Each runs the real Raft layer (`simulated_raft` is
//! `consensus_raft`'s own source) with its real log, snapshots and wire format, and the mesh's real
//! state machine; only clocks, network, disks and processes are simulated.
//!
//! Invariants: everything runs in one thread, on a clock that moves when nobody is awake; the same
//! scenario and seed give the same [`Outcome::trace`].

mod evidence;
pub mod fault;
mod file;
pub mod gate;
pub mod invariants;
mod leases;
mod ledger;
mod load;
mod network;
mod operator;
mod outcome;
mod page;
pub mod report;
mod run;
pub mod scenario;
mod servers;
mod shipped;
mod strike;
mod virtual_ips;
mod world;

#[cfg(feature = "planted-bugs")]
pub use consensus_lease::planted::PlantedBug;
pub use evidence::Counts;
pub use outcome::Outcome;
pub use report::Report;
pub use run::run;
#[cfg(feature = "planted-bugs")]
pub use run::run_with_bug;
pub use scenario::{Leases, Load, Profile, Scenario};
pub use shipped::{find, shipped};
