//! K3s clusters in a simulated world: nodes that found, join, leave and lose them.
//!
//! Decides: when words arrive, which processes, machines and disks fail when, whether what came of it
//! broke an invariant. Never: replaces a decision. What is agreed is `consensus_core::apply`'s, each
//! step of a node is `runtimes_core::k3s::plan`'s, with its own settings and retries; the log that all
//! agree on, hosts, K3s itself and the way of a word are simulated.
//!
//! What a K3s does here is what matters to who drives it: it initialises a datastore or joins the one
//! of its cluster, with the right token, under a name that the cluster does not know from before; it
//! takes its time, and dies with its machine. Leases have a laboratory of their own
//! ([`agreement`](crate::agreement)): an address that is to move has moved here. etcd's majorities are
//! the stand-in's affair, in `tests/k3s`.
//!
//! Invariants: one thread, integer microseconds; the same scenario and seed give the same
//! [`Outcome::trace`].

mod bug;
mod file;
mod host;
mod hosting;
pub mod invariants;
mod kubernetes;
mod mesh;
mod operator;
mod outcome;
mod post;
pub mod report;
mod run;
mod scenario;
mod shoald;
mod steps;
mod strike;
mod wish;
mod world;

pub use bug::PlantedBug;
pub use outcome::{Counts, Outcome, Struck};
pub use report::Report;
pub use run::{run, run_with_bug};
pub use scenario::{Post, Scenario, Strikes, find, shipped};
