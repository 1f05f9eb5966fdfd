//! How nodes find and watch each other, and what each must tell its kernel.
//!
//! Decides: who is alive (`membership`), which WireGuard peers, addresses and routes a node has
//! (`peers`), which of them answer straight (`straight`) and which are reached by a hub (`paths`), what a
//! name means to whom (`names`), how large a packet may be (`mtu`). Never: touches a socket, a clock or netlink.

pub mod membership;
pub mod mtu;
pub mod names;
pub mod paths;
pub mod peers;
pub mod straight;
