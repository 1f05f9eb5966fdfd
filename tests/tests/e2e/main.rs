//! End to end: real processes in network namespaces, real WireGuard, real dockerd.
//!
//! One module per area of claims; each test builds its own lab and leaves nothing behind. Needs
//! root and says so loudly where it has none.

mod access;
mod certificates;
mod containers;
mod daemon;
mod discovery;
mod docker;
mod enrolment;
mod firewall;
mod lab;
mod mesh;
mod nat;
mod networks;
mod operators;
mod overlay;
mod recovery;
mod vip;
mod wrong_input;
