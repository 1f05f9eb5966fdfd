//! When the API of a K3s cluster answers, as its clients see it.
//!
//! Requests are made again and again and what became of each is logged; decides when the API was
//! away out of such logs ([`attempts`]), and whether a node is ready ([`nodes`]). Times are of one
//! machine's CLOCK_MONOTONIC, which all of its hosts share. [`client`] is the shell that asks.
//!
//! Knows nothing of what keeps the API up, and nothing of who installed K3s: one that was started by
//! hand is asked the same.

pub mod attempts;
pub mod client;
pub mod kubeconfig;
pub mod nodes;
