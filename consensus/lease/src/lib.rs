//! Leases of virtual IPs: never two holders at one true time, whoever leads.
//!
//! Decides: when a holder may keep its gate open ([`Holder`], [`GateRule`]), what a voter
//! acknowledges and when it answers a close ([`Voter`]), when a holder is closed out, who is next
//! and how an epoch's voters change ([`Coordinator`], [`choose`]). Never: reads a clock, sends,
//! writes or touches a kernel; what must be durable leaves as an output and comes back confirmed.
//! In the replicated state: VIP -> (holder, epoch, voters). Not in it: the renewals.
//!
//! Time is microseconds of the machine's `CLOCK_BOOTTIME`: it goes on while the machine sleeps and
//! through restarts of the daemon. Two machines' clocks may drift by half a percent
//! ([`consensus_core::CLOCK_DRIFT_PPM`]); they need not agree on what time it is.
//!
//! The lease is that of Gray and Cheriton (SOSP 1989), given by a majority; the change of voters
//! follows Raft's joint consensus (Ongaro 2014, 4.3), with the differences that renewals and closes
//! each need. `docs/leases.md` has the argument, and what was searched exhaustively.

mod agreed;
mod choose;
mod coordinator;
mod gate;
mod held;
mod holder;
mod message;
#[cfg(feature = "planted-bugs")]
pub mod planted;
#[cfg(not(feature = "planted-bugs"))]
mod planted;
#[cfg(test)]
mod testing;
mod timings;
mod voter;
mod watched;
pub mod wire;

pub use agreed::{Assignment, Assignments};
pub use choose::{Candidate, Rejected, Unfit, candidates, choose};
pub use coordinator::{Coordinator, CoordinatorOutput, Majority, MoveReason};
pub use gate::{GateOrder, GateRule};
pub use held::HolderOutput;
pub use holder::{Holder, HolderRecord};
pub use message::{Granted, Life, Message, RENEWALS_PER_MESSAGE_MAX, Renewal};
pub use timings::Timings;
pub use voter::{CLOSURES_OF_GONE_KEPT, Voter, VoterOutput};
