//! The stand-in, run as K3s would be, in hosts made of namespaces, used with the real `kubectl`.
//!
//! `STAND_IN_KUBECTL` names another `kubectl` than the one on the path.

#[path = "stand_in/cluster.rs"]
mod cluster;
#[path = "stand_in/joining.rs"]
mod joining;
#[path = "stand_in/members.rs"]
mod members;
#[path = "stand_in/nodes.rs"]
mod nodes;
#[path = "stand_in/strictness.rs"]
mod strictness;
