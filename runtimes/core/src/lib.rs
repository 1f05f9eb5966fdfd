//! What a node's runtimes should do next.
//!
//! Decides: which modules exist, what dockerd's configuration says, the one next step that brings a
//! Docker engine or K3s from what is observed to what is desired, which networks of Docker there
//! are, in which order a node is emptied, and what on a host is not as it was left.
//! Never: reads a clock, a disk or a socket, starts a process, draws randomness.
//!
//! Invariants:
//! - [`docker::plan`] and [`k3s::plan`] are total and pure: the same input gives the same step and
//!   phase.
//! - An override can never move dockerd's listeners nor weaken its TLS ([`daemon_json`]).

pub mod catalogue;
pub mod daemon_json;
pub mod docker;
pub mod drain;
pub mod drift;
pub mod k3s;
pub mod networks;
pub mod retries;
pub mod version;
