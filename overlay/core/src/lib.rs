//! How nodes find and watch each other, and what each must tell its kernel.
//!
//! Decides: who is alive (`membership`), which WireGuard peers, addresses and routes a node has
//! (`peers`), which of them are reached by a hub (`paths`). Never: touches a socket, a clock or netlink.

pub mod membership;
pub mod paths;
pub mod peers;
