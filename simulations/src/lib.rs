//! The deterministic cores in a simulated world.
//!
//! Decides: when simulated messages arrive, which faults strike when, whether what the cores did
//! broke an invariant. Never: replaces a part of a core; the cores, their wire formats included,
//! are the real ones, only clocks, network, disks and processes are simulated.
//!
//! Invariants: time is whole microseconds and moves only by events; the same scenario and seed give
//! the same [`Outcome::trace`], on every machine.

pub mod agreement;
mod clock;
pub mod clusters;
mod connections;
mod distribution;
mod experiment;
mod fault;
mod forgery;
mod history;
pub mod invariants;
mod network;
mod node;
mod outcome;
mod queue;
mod random;
pub mod report;
mod run;
pub mod scenario;
mod seeds;
mod shell;
mod strike;
mod timeline;
mod trace;
mod world;

pub use clock::Clocks;
pub use distribution::{Distribution, Percentiles};
pub use experiment::{Experiment, Findings};
pub use fault::{Disk, Fault, Nodes, What};
pub use history::{Change, End, History, Moment, Resurrection, Second, Worth};
pub use node::node_id;
pub use outcome::{Bandwidth, Detections, Outcome, wire_bytes};
#[cfg(feature = "planted-bugs")]
pub use overlay_core::membership::planted::PlantedBug;
pub use random::{Jitter, Span};
#[cfg(feature = "planted-bugs")]
pub use run::run_with_bug;
pub use run::{Run, run};
pub use scenario::{Scenario, ScenarioError};
pub use seeds::{run_agreement_seeds, run_cluster_seeds, run_seeds};
pub use strike::Struck;
pub use timeline::{Happening, Line};
pub use world::World;
