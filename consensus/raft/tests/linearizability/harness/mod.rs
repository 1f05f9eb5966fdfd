//! A simulated world around real servers, and the judge of what happens in it.
//!
//! The servers are whole [`Agreement`](consensus_raft::Agreement)s with their real log, wire
//! format and openraft inside; network, disks, processes and the clock are simulated. The same
//! seed gives the same run.

pub(crate) mod bugs;
pub(crate) mod checker;
pub(crate) mod clients;
pub(crate) mod disk;
pub(crate) mod faults;
pub(crate) mod history;
pub(crate) mod judge;
pub(crate) mod machine;
pub(crate) mod network;
pub(crate) mod object;
pub(crate) mod run;
pub(crate) mod seats;
