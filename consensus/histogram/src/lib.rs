//! The histogram openraft counts its batches with, in 2 KB instead of 26 MB.
//!
//! Has the part of base2histogram 0.2's interface that openraft 0.10 uses, written anew. The
//! original prepares a table for every bucket width there could be at its first use, and keeps
//! them: 26 MB in every process that opens a Raft group, of which openraft reads one hundredth.
//! Here a bucket is computed from the value's leading bits, so there is no table.
//!
//! Decides the bucket of a value: values below 4 each have their own, larger ones share one with
//! those of the same binary magnitude and the same next two bits, so a bucket is at most a quarter
//! as wide as its values are large. Never allocates before the first value. Invariant: the counts
//! add up to the total.

use std::{fmt, marker::PhantomData};

/// Bits after the leading one that tell buckets of a magnitude apart.
const FINE_BITS: u32 = 2;
/// Buckets of one magnitude.
const FINE: usize = 1 << FINE_BITS;
/// One per value below `FINE`, then `FINE` for each magnitude up to that of `u64::MAX`.
const BUCKETS: usize = FINE * (u64::BITS - FINE_BITS + 1) as usize;

/// How often values of each size came up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    /// Empty until a value is recorded, then one per bucket.
    counts: Vec<u64>,
    total: u64,
    largest: u64,
    /// The original can attach something to a span of time. openraft attaches nothing.
    attached: PhantomData<T>,
}

impl<T> Histogram<T> {
    /// With nothing recorded.
    pub fn new() -> Self {
        Self {
            counts: Vec::new(),
            total: 0,
            largest: 0,
            attached: PhantomData,
        }
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value that came up `times` times.
    pub fn record_n(&mut self, value: u64, times: u64) {
        if times == 0 {
            return;
        }
        if self.counts.is_empty() {
            self.counts = vec![0; BUCKETS];
        }
        let count = &mut self.counts[bucket_of(value)];
        *count = count.saturating_add(times);
        self.total = self.total.saturating_add(times);
        self.largest = self.largest.max(value);
    }

    /// How many values were counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// A value that the given share of the values, in thousandths, does not exceed: the largest of
    /// its bucket. 0 when nothing was counted.
    pub fn permille(&self, share: u16) -> u64 {
        let rank = (u128::from(self.total) * u128::from(share)).div_ceil(1000);
        let rank = rank.max(1);
        let mut passed = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            passed += u128::from(*count);
            if passed >= rank {
                return last_of(bucket).min(self.largest);
            }
        }
        self.largest
    }

    /// The shares people look at.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total,
            p0_1: self.permille(1),
            p1: self.permille(10),
            p5: self.permille(50),
            p10: self.permille(100),
            p50: self.permille(500),
            p90: self.permille(900),
            p99: self.permille(990),
            p99_9: self.permille(999),
        }
    }

    /// The largest value of every bucket that has some, and how many.
    fn filled(&self) -> impl Iterator<Item = (u64, u64)> {
        (self.counts.iter().enumerate())
            .filter(|(_, count)| **count > 0)
            .map(|(bucket, count)| (last_of(bucket).min(self.largest), *count))
    }
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Where a value is counted.
fn bucket_of(value: u64) -> usize {
    // Below FINE the value is its own bucket, as if its magnitude were that of FINE.
    let magnitude = u64::BITS - value.leading_zeros();
    let coarse = magnitude.saturating_sub(FINE_BITS + 1);
    let leading = usize::try_from(value >> coarse).expect("three bits fit");
    coarse as usize * FINE + leading
}

/// The largest value that is counted there.
fn last_of(bucket: usize) -> u64 {
    // The first bucket of the next value less one; of the last bucket that is u64::MAX.
    let next = bucket + 1;
    let coarse = (next / FINE).saturating_sub(1);
    let leading = (next - coarse * FINE) as u128;
    u64::try_from((leading << coarse) - 1).unwrap_or(u64::MAX)
}

/// What shares of the values do not exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PercentileStats {
    /// How many values were counted.
    pub samples: u64,
    /// One in a thousand is not larger.
    pub p0_1: u64,
    /// One in a hundred is not larger.
    pub p1: u64,
    /// One in twenty is not larger.
    pub p5: u64,
    /// One in ten is not larger.
    pub p10: u64,
    /// The median.
    pub p50: u64,
    /// One in ten is larger.
    pub p90: u64,
    /// One in a hundred is larger.
    pub p99: u64,
    /// One in a thousand is larger.
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, .. } = self;
        write!(f, "{samples} values, P0.1 {}, P1 {}, ", self.p0_1, self.p1)?;
        write!(f, "P5 {}, P10 {}, P50 {}, ", self.p5, self.p10, self.p50)?;
        write!(
            f,
            "P90 {}, P99 {}, P99.9 {}",
            self.p90, self.p99, self.p99_9
        )
    }
}

/// Histograms under each other, to be read by people.
#[derive(Debug, Clone)]
pub struct AsciiChart<T = ()> {
    named: Vec<(String, Histogram<T>)>,
}

impl<T> AsciiChart<T> {
    /// Without a histogram.
    pub fn new() -> Self {
        Self { named: Vec::new() }
    }

    /// With one more.
    #[must_use]
    pub fn add(mut self, name: &str, histogram: Histogram<T>) -> Self {
        self.named.push((name.to_owned(), histogram));
        self
    }

    /// Every bucket with its count.
    pub fn detailed(&self) -> impl fmt::Display {
        fmt::from_fn(|f| {
            for (name, histogram) in &self.named {
                writeln!(f, "{name}: {}", histogram.percentile_stats())?;
                for (last, count) in histogram.filled() {
                    writeln!(f, "  up to {last:>20}: {count}")?;
                }
            }
            Ok(())
        })
    }
}

impl<T> Default for AsciiChart<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_between_the_ends_of_its_bucket() {
        let magnitudes = (0..u64::BITS).map(|bits| 1_u64 << bits);
        let values = (0..5000)
            .chain(magnitudes.flat_map(|value| [value - 1, value, value + value / 3]))
            .chain([u64::MAX - 1, u64::MAX]);
        for value in values {
            let bucket = bucket_of(value);
            assert!(value <= last_of(bucket), "{value} in {bucket}");
            assert!(bucket == 0 || value > last_of(bucket - 1), "{value}");
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        assert_eq!(last_of(BUCKETS - 1), u64::MAX);
    }

    #[test]
    fn a_bucket_is_at_most_a_quarter_as_wide_as_its_values_are_large() {
        for bucket in 1..BUCKETS {
            let first = last_of(bucket - 1) + 1;
            let width = last_of(bucket) - first;
            assert!(width <= first / 4, "bucket {bucket} from {first}");
        }
    }

    #[test]
    fn shares_are_those_of_the_sorted_values_but_for_the_bucket_width() {
        let mut histogram = Histogram::<()>::new();
        for value in 1..=1000 {
            histogram.record(value);
        }
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p0_1), (1000, 1));
        for (exact, found) in [(10, stats.p1), (500, stats.p50), (990, stats.p99)] {
            assert!(found >= exact && found <= exact + exact / 4, "{stats:?}");
        }
        assert_eq!(histogram.permille(1000), 1000);
    }

    #[test]
    fn nothing_counted_is_all_zeroes() {
        let mut histogram = Histogram::<()>::new();
        histogram.record_n(7, 0);
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p0_1, stats.p99_9), (0, 0, 0));
        assert_eq!(histogram, Histogram::default());
    }

    #[test]
    fn many_at_once_are_as_many_one_by_one() {
        let (mut once, mut each) = (Histogram::<()>::new(), Histogram::<()>::new());
        once.record_n(300, 40);
        (0..40).for_each(|_| each.record(300));
        assert_eq!(once, each);
        assert_eq!(once.total(), 40);
    }

    #[test]
    fn a_count_that_cannot_grow_stays() {
        let mut histogram = Histogram::<()>::new();
        histogram.record_n(1, u64::MAX);
        histogram.record_n(u64::MAX, u64::MAX);
        assert_eq!(histogram.total(), u64::MAX);
        assert_eq!(histogram.permille(1000), 1);
    }

    #[test]
    fn a_chart_shows_every_filled_bucket() {
        let mut histogram = Histogram::<()>::new();
        histogram.record_n(2, 3);
        histogram.record(1 << 40);
        let text = AsciiChart::new()
            .add("batches", histogram)
            .detailed()
            .to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("batches: 4 values, P0.1 2,"), "{text}");
        assert!(lines[1].ends_with(" 2: 3"), "{text}");
        assert!(lines[2].ends_with(" 1099511627776: 1"), "{text}");
        assert_eq!(lines.len(), 3);
    }
}
