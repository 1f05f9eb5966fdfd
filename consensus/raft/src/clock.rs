//! The clock by which Raft and all that belongs to it measure time.
//!
//! Decides nothing: it is tokio's. In a simulation it is the simulated process's own, which may run
//! faster or slower than others'. Whatever runs on the Raft thread takes its time from here and
//! never from tokio directly, or a simulation would not govern it.

use openraft::alias::InstantOf;

use crate::raft_types::Types;
#[cfg(feature = "simulation")]
pub(crate) use crate::simulation::clock::{Instant, sleep, sleep_until, timeout};
#[cfg(not(feature = "simulation"))]
pub(crate) use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Moments that openraft tells of, on this clock. openraft has a type of its own for them, of which
/// only differences are known: all are measured from one moment, so that the same one is always told
/// as the same.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    rafts: InstantOf<Types>,
    ours: Instant,
}

fn now() -> InstantOf<Types> {
    <InstantOf<Types> as openraft::Instant>::now()
}

impl Scale {
    /// Measures from now on.
    pub(crate) fn new() -> Self {
        Self {
            rafts: now(),
            ours: Instant::now(),
        }
    }

    pub(crate) fn at(&self, moment: InstantOf<Types>) -> Instant {
        if moment >= self.rafts {
            self.ours + (moment - self.rafts)
        } else {
            self.ours - (self.rafts - moment)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_moment_is_told_as_the_same_before_and_after_the_beginning() {
        let before = now();
        let scale = Scale::new();
        let after = now();
        assert_eq!(scale.at(before), scale.at(before));
        assert!(scale.at(before) <= scale.at(scale.rafts));
        assert_eq!(scale.at(scale.rafts), scale.ours);
        assert!(scale.at(after) >= scale.ours);
        assert_eq!(scale.at(after) - scale.at(before), after - before);
    }
}
