//! The clock by which Raft and all that belongs to it measure time.
//!
//! Decides nothing: it is tokio's. In a simulation it is the simulated process's own, which may run
//! faster or slower than others'. Whatever runs on the Raft thread takes its time from here and
//! never from tokio directly, or a simulation would not govern it.

#[cfg(feature = "simulation")]
pub(crate) use crate::simulation::clock::{Instant, sleep, sleep_until, timeout};
#[cfg(not(feature = "simulation"))]
pub(crate) use tokio::time::{Instant, sleep, sleep_until, timeout};
