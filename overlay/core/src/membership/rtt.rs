//! How long a member's answers take, after RFC 6298 (Jacobson and Karels) in integers.
//!
//! Decides: a member's direct probe timeout. Sequence numbers are never reused, so that a sample
//! cannot belong to another probe (Karn's problem does not arise).

use std::time::Duration;

/// Smoothed round-trip time and its mean deviation, in microseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RttEstimate {
    smoothed_us: Option<u64>,
    deviation_us: u64,
}

/// No link is this slow; it bounds the arithmetic.
const SAMPLE_MAX_US: u64 = 60_000_000;

impl RttEstimate {
    /// Adds a measured round trip.
    pub(super) fn sample(&mut self, rtt: Duration) {
        let sample = u64::try_from(rtt.as_micros())
            .unwrap_or(u64::MAX)
            .min(SAMPLE_MAX_US);
        if let Some(smoothed) = self.smoothed_us {
            self.deviation_us = (3 * self.deviation_us + smoothed.abs_diff(sample)) / 4;
            self.smoothed_us = Some((7 * smoothed + sample) / 8);
        } else {
            self.smoothed_us = Some(sample);
            self.deviation_us = sample / 2;
        }
    }

    /// The smoothed round trip, once one was measured.
    pub(super) fn smoothed(&self) -> Option<Duration> {
        self.smoothed_us.map(Duration::from_micros)
    }

    /// By when an answer is all but sure to have come; nothing as long as none was measured.
    pub(super) fn expected(&self) -> Duration {
        let smoothed = self.smoothed_us.unwrap_or_default();
        Duration::from_micros(smoothed + 4 * self.deviation_us)
    }

    /// When to give up waiting; `max` as long as nothing was measured.
    pub(super) fn timeout(&self, min: Duration, max: Duration) -> Duration {
        self.smoothed_us
            .map_or(max, |_| self.expected().clamp(min, max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(200);
    const MAX: Duration = Duration::from_millis(500);

    #[test]
    fn timeout_stays_within_its_bounds() {
        let mut rtt = RttEstimate::default();
        assert_eq!(rtt.timeout(MIN, MAX), MAX);
        rtt.sample(Duration::from_millis(1));
        assert_eq!(rtt.timeout(MIN, MAX), MIN);
        rtt.sample(Duration::from_secs(100));
        assert_eq!(rtt.timeout(MIN, MAX), MAX);
    }

    #[test]
    fn steady_round_trips_shrink_the_timeout_towards_them() {
        let mut rtt = RttEstimate::default();
        for _ in 0..50 {
            rtt.sample(Duration::from_millis(300));
        }
        let timeout = rtt.timeout(MIN, MAX);
        assert!(timeout >= Duration::from_millis(300) && timeout < Duration::from_millis(310));
        assert_eq!(rtt.smoothed(), Some(Duration::from_millis(300)));
    }
}
