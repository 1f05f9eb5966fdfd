//! End to end: real processes in network namespaces, real WireGuard, real dockerd.
//!
//! One module per area of claims; each test builds its own lab and leaves nothing behind. Needs
//! root and says so loudly where it has none.

mod access;
mod certificates;
mod cluster_operating;
mod cluster_upgrade;
mod cluster_vip;
mod containers;
mod daemon;
mod detours;
mod discovery;
mod docker;
mod drain;
mod drain_clusters;
mod enrolment;
mod firewall;
mod k3s;
mod k3s_second_thoughts;
mod k3s_servers;
mod k3s_trouble;
mod lab;
mod lifetime;
mod mesh;
mod nat;
mod networks;
mod operators;
mod overlay;
mod pods;
mod recovery;
mod remove;
mod vip;
mod wrong_input;
