//! The deterministic cores in a simulated world.
//!
//! Decides: when simulated messages arrive, which faults strike when, whether what the cores did
//! broke an invariant. Never: replaces a part of a core; the cores, their wire formats included,
//! are the real ones, only clock, network and processes are simulated.
//!
//! Invariants: time is whole microseconds and moves only by events; the same scenario and seed give
//! the same [`Outcome::trace`], on every machine.

mod connections;
mod faults;
pub mod invariants;
mod network;
mod node;
mod report;
mod run;
pub mod scenarios;
mod trace;
mod world;

pub use faults::Fault;
pub use network::NetworkPlan;
pub use node::node_id;
pub use report::{Detection, Distribution};
pub use run::{Failure, Outcome, run};
pub use scenarios::Scenario;
pub use world::{Change, World};
