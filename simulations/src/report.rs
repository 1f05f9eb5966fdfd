//! What a run showed, in numbers.

use std::{fmt, time::Duration};

use consensus_core::Time;
use overlay_core::membership::Condition;

use crate::World;

/// How long after its end a node was held dead by the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detection {
    /// One value per observer, in their order; `None` for who never came to believe it.
    pub after: Vec<Option<Duration>>,
}

impl Detection {
    /// Reads the end of `subject` at `from` out of the changes of a world.
    pub fn of(world: &World, subject: usize, from: Time) -> Self {
        let others = (0..world.len()).filter(|node| *node != subject && world.is_running(*node));
        let after = others.map(|observer| {
            let mut changes = world.changes().iter();
            let death = changes.find(|change| {
                change.observer == observer
                    && change.subject == subject
                    && change.condition == Condition::Dead
                    && change.at >= from
            });
            death.map(|change| change.at.since(from))
        });
        Self {
            after: after.collect(),
        }
    }

    /// When the last of them knew; `None` when not all do.
    pub fn by_all(&self) -> Option<Duration> {
        self.after
            .iter()
            .copied()
            .collect::<Option<Vec<_>>>()?
            .into_iter()
            .max()
    }
}

/// Durations, summed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    sorted: Vec<Duration>,
}

impl Distribution {
    /// Takes any number of durations, in any order.
    pub fn new(durations: impl IntoIterator<Item = Duration>) -> Self {
        let mut sorted: Vec<_> = durations.into_iter().collect();
        sorted.sort();
        Self { sorted }
    }

    /// The smallest value that `percent` of all do not exceed; zero when there is none.
    pub fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.sorted.len() * percent).div_ceil(100).max(1);
        self.sorted.get(rank - 1).copied().unwrap_or_default()
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [min, median, p99, max] = [0, 50, 99, 100].map(|percent| self.percentile(percent));
        let count = self.sorted.len();
        write!(
            f,
            "n {count}, min {min:.3?}, median {median:.3?}, p99 {p99:.3?}, max {max:.3?}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let all = Distribution::new((1..=100).rev().map(Duration::from_secs));
        assert_eq!(all.percentile(0), Duration::from_secs(1));
        assert_eq!(all.percentile(50), Duration::from_secs(50));
        assert_eq!(all.percentile(100), Duration::from_secs(100));
        assert_eq!(Distribution::new([]).percentile(50), Duration::ZERO);
    }
}
