//! The packet filter of this host: one nftables table for all its overlay networks.
//!
//! [`Host`] says what the host is, out of what was agreed. `rules` is the pure function from that to
//! the table's text, `beside_docker` to what dockerd's chains must let pass. [`Filter`] puts both in
//! force, and back when somebody removes them.
//!
//! Never: decides who is a peer, or which addresses are believed from whom (WireGuard's allowed IPs
//! do); touches another table of nftables, except that an earlier version's are replaced.

mod beside_docker;
mod filter;
mod host;
mod listener;
mod program;
mod rules;
mod switches;

pub use filter::{Filter, FilterError};
pub use host::{ContainerBridge, Host, Overlay, Pods, Rule, cidr};
pub use program::ProgramError;
pub use switches::SwitchError;
