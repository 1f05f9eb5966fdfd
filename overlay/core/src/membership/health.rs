//! How far this node may trust its own verdicts (Lifeguard's local health multiplier).
//!
//! Decides: by how much the node's own probing slows down. A node that misses the NACKs of helpers
//! that should have answered, or that must refute, suspects itself first.
//!
//! Dadgar, Phillips, Currey: Lifeguard (DSN 2018, arXiv:1707.00788), section IV-A.

use std::time::Duration;

use super::{Membership, planted::PlantedBug};

/// Lifeguard's upper limit: probing slows down at most ninefold.
pub(super) const HEALTH_MAX: u8 = 8;

/// Zero is healthy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LocalHealth(u8);

impl LocalHealth {
    /// Something went well.
    pub(super) fn improve(&mut self) {
        self.0 = self.0.saturating_sub(1);
    }

    /// `weight` things went wrong that point at this node.
    fn worsen(&mut self, weight: usize) {
        let weight = u8::try_from(weight).unwrap_or(HEALTH_MAX);
        self.0 = self.0.saturating_add(weight).min(HEALTH_MAX);
    }

    /// The score, 0 to 8.
    pub(super) const fn score(self) -> u8 {
        self.0
    }

    /// A timer, stretched by the score.
    pub(super) fn stretch(self, span: Duration) -> Duration {
        span * (u32::from(self.0) + 1)
    }
}

impl Membership {
    /// Notes what points at this node.
    pub(super) fn worsen(&mut self, weight: usize) {
        if !self.has(PlantedBug::LocalHealthOff) {
            self.health.worsen(weight);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_stretches_timers_up_to_ninefold_and_recovers() {
        let mut health = LocalHealth::default();
        health.worsen(100);
        let second = Duration::from_secs(1);
        assert_eq!(health.stretch(second), 9 * second);
        for _ in 0..HEALTH_MAX {
            health.improve();
        }
        assert_eq!(health.stretch(second), second);
    }
}
