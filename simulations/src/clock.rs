//! What a host's clock shows.
//!
//! Decides: the local time at every moment of the world, and the moment at which a local time is
//! reached. Cores see nothing but local times, so two nodes never share a clock.
//!
//! Invariant: a local clock never runs backwards, and [`LocalClock::reaches`] names the first
//! moment at which [`LocalClock::at`] is not before the time asked for.

use std::time::Duration;

use consensus_core::Time;

use crate::random::{as_micros, mix};

/// How far the clocks of a mesh differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Clocks {
    /// Each shows up to this much more than the world's time.
    pub skew_max: Duration,
    /// Each runs faster or slower by up to this many millionths.
    pub drift_ppm_max: u32,
}

/// One host's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LocalClock {
    ahead_us: u64,
    /// Millionths of a second per second.
    rate: u64,
}

/// The rate of a clock without drift.
const TRUE_RATE: u64 = 1_000_000;

impl LocalClock {
    /// The clock that `key` stands for.
    pub(crate) fn draw(clocks: Clocks, key: u64) -> Self {
        let skew = as_micros(clocks.skew_max).saturating_add(1);
        let drift = u64::from(clocks.drift_ppm_max.min(100_000));
        Self {
            ahead_us: mix(key) % skew,
            rate: TRUE_RATE - drift + mix(key ^ u64::MAX) % (2 * drift + 1),
        }
    }

    /// What it shows.
    pub(crate) const fn at(self, now_us: u64) -> Time {
        if self.rate == TRUE_RATE {
            return Time::from_micros(now_us + self.ahead_us);
        }
        let run = now_us as u128 * self.rate as u128 / TRUE_RATE as u128;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a tenth more than a u64 of microseconds is not reached in any run"
        )]
        Time::from_micros(run as u64 + self.ahead_us)
    }

    /// When it shows `local`, or later at once.
    pub(crate) const fn reaches(self, local: Time) -> u64 {
        let run = local.as_micros().saturating_sub(self.ahead_us);
        if self.rate == TRUE_RATE {
            return run;
        }
        let wide = run as u128 * TRUE_RATE as u128;
        #[expect(clippy::cast_possible_truncation, reason = "as above")]
        let now = wide.div_ceil(self.rate as u128) as u64;
        now
    }

    /// How many microseconds it counts in a second.
    pub(crate) fn rate_ppm(self) -> u32 {
        u32::try_from(self.rate).unwrap_or(u32::MAX)
    }

    /// Whether it shows anything but the world's time.
    pub(crate) const fn is_off(self) -> bool {
        self.ahead_us != 0 || self.rate != TRUE_RATE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_is_due_exactly_when_its_clock_says_so() {
        let clocks = Clocks {
            skew_max: Duration::from_secs(5),
            drift_ppm_max: 500,
        };
        for key in 0..200 {
            let clock = LocalClock::draw(clocks, key);
            for us in [1, 999, 1_000_000, 3_600_000_000] {
                let local = clock.at(us);
                let due = clock.reaches(local);
                assert!(due <= us && clock.at(due) >= local, "{clock:?} {us}");
                assert!(due == 0 || clock.at(due - 1) < local, "{clock:?} {us}");
            }
        }
    }

    #[test]
    fn clocks_differ_when_they_may_and_agree_when_they_must() {
        assert!(!LocalClock::draw(Clocks::default(), 7).is_off());
        let clocks = Clocks {
            skew_max: Duration::ZERO,
            drift_ppm_max: 100,
        };
        assert!((0..10).any(|key| LocalClock::draw(clocks, key).is_off()));
    }
}
