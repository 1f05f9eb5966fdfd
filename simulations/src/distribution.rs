//! Times, counted by the millisecond.
//!
//! Decides: what a percentile is: a value that occurred, and that so many of a hundred do not
//! exceed. However many runs are added up, the memory is that of the different values.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

/// How often each number of milliseconds occurred; parts of one count as the next whole one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Distribution {
    counts: BTreeMap<u64, u64>,
    total: u64,
}

/// The usual percentiles, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// How many values there are.
    pub count: u64,
    /// The least.
    pub min: u64,
    /// Half are no greater.
    pub p50: u64,
    /// Nine of ten are no greater.
    pub p90: u64,
    /// All but one of a hundred are no greater.
    pub p99: u64,
    /// The greatest.
    pub max: u64,
}

impl Distribution {
    /// Adds a time.
    pub fn add(&mut self, span: Duration) {
        let ms = u64::try_from(span.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        *self.counts.entry(ms).or_default() += 1;
        self.total += 1;
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        for (ms, count) in &other.counts {
            *self.counts.entry(*ms).or_default() += count;
        }
        self.total += other.total;
    }

    /// Each value with how often it occurred, by rising value.
    pub fn counts(&self) -> impl Iterator<Item = (u64, u64)> {
        self.counts.iter().map(|(ms, count)| (*ms, *count))
    }

    /// The smallest value that `percent` of all do not exceed; `None` when there is none.
    pub fn percentile(&self, percent: u64) -> Option<u64> {
        let rank = (self.total * percent).div_ceil(100).max(1);
        let mut passed = 0;
        let mut values = self.counts();
        values.find_map(|(ms, count)| {
            passed += count;
            (passed >= rank).then_some(ms)
        })
    }

    /// All of them at once; `None` when there is no value.
    pub fn percentiles(&self) -> Option<Percentiles> {
        Some(Percentiles {
            count: self.total,
            min: self.percentile(0)?,
            p50: self.percentile(50)?,
            p90: self.percentile(90)?,
            p99: self.percentile(99)?,
            max: self.percentile(100)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let mut all = Distribution::default();
        assert_eq!(all.percentiles(), None);
        (1..=100)
            .rev()
            .for_each(|ms| all.add(Duration::from_millis(ms)));
        let found = all.percentiles().unwrap();
        assert_eq!((found.min, found.p50, found.p90), (1, 50, 90));
        assert_eq!((found.p99, found.max, found.count), (99, 100, 100));
    }

    #[test]
    fn merging_is_the_same_as_adding() {
        let (mut one, mut two, mut both) = <(Distribution, Distribution, Distribution)>::default();
        for ms in 0..50 {
            let span = Duration::from_millis(ms * ms % 37);
            if ms % 3 == 0 {
                one.add(span)
            } else {
                two.add(span)
            }
            both.add(span);
        }
        one.merge(&two);
        assert_eq!(one, both);
    }
}
