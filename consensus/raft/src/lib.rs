//! Agreement among servers: openraft driven over an opaque carrier, its log in segments of our own.
//!
//! Decides what is durable before it is acknowledged, what a failed proposal means to its
//! caller, and which server speaks for the group. Never looks inside an entry: the replicated
//! state is a [`Machine`], the network a [`Carrier`].
//!
//! Invariants:
//! - An entry or a vote is acknowledged only after `fdatasync` of the file it was written to.
//! - One thread writes to the store; everything it writes is ordered by one bounded queue.
//! - A message addressed to another Raft id than this server's is refused: a server that lost
//!   its store comes back under a new id and must never be counted as the old one.
//! - Raft ids are never reused.
//! - A message of another era than this server's is refused: a group that was recovered from one
//!   server must never count the voters that were left behind.
//!
//! Follows Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm" (2014),
//! with pre-vote and ReadIndex from Ongaro's dissertation (2014), as implemented by openraft.

mod again;
mod agreement;
mod answering;
mod carrier;
mod clock;
mod compaction;
mod era;
mod errors;
mod fence;
#[doc(hidden)]
pub mod fuzzing;
mod hearing;
mod machine;
mod members;
mod network;
mod probes;
mod raft_types;
mod recover;
mod running;
#[cfg(feature = "simulation")]
pub mod simulation;
mod status;
mod store;
mod timers;
mod transfer;
mod wire;

pub use agreement::{Agreement, Settings};
pub use carrier::{Carrier, CarrierError, Lane};
pub use era::Era;
pub use errors::{
    ChangeError, FoundError, HandleError, OpenError, ProposeError, ReadError, StoreDamage,
    TransferError, WaitError,
};
pub use machine::{Machine, Published};
pub use members::{Removed, VOTERS_MAX};
pub use recover::{NewPart, RecoverError, Recovered, Survey, recover, restore, survey};
pub use status::{RaftStatus, Role};
pub use store::quarantine;
pub use timers::Timers;
