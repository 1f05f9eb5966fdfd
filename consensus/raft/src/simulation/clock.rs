//! What a simulated process takes for the time.
//!
//! Decides when a moment of a process's own clock is reached on tokio's. A [`Clock`] may run faster
//! or slower than others, and it may be stretched: tokio's timers are exact to a millisecond, so a
//! simulation that wants microseconds lets each of them last a millisecond of tokio's.
//!
//! Invariants: no timer fires before its own clock has reached its time; a process's clock never
//! goes backwards. Outside of a process, and in one without a clock, all this is tokio's own.

use std::{
    future::Future,
    ops::{Add, AddAssign, Sub, SubAssign},
    time::Duration,
};

use tokio::time::{Sleep, Timeout};

use super::Process;

/// The rate of a clock without drift.
const TRUE_RATE_PPM: u32 = 1_000_000;
/// Longer waits count as for ever: no run is that long.
const FOREVER: Duration = Duration::from_secs(1 << 20);

/// A clock that began with the simulation.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    begun: tokio::time::Instant,
    stretch: u32,
    rate_ppm: u32,
}

impl Clock {
    /// A clock that shows zero at `begun`. One unit of its time takes `stretch` of tokio's, were it
    /// right; it shows `rate_ppm` millionths of the time that has passed.
    pub fn new(begun: tokio::time::Instant, stretch: u32, rate_ppm: u32) -> Self {
        Self {
            begun,
            stretch: stretch.max(1),
            rate_ppm: rate_ppm.max(1),
        }
    }

    /// What it shows.
    pub fn now(&self) -> Duration {
        let passed = self.begun.elapsed() / self.stretch;
        if self.rate_ppm == TRUE_RATE_PPM {
            return passed;
        }
        let wide = passed.as_nanos() * u128::from(self.rate_ppm) / u128::from(TRUE_RATE_PPM);
        Duration::from_nanos(u64::try_from(wide).unwrap_or(u64::MAX))
    }

    /// When it shows `local`, or just after; nothing if never.
    fn reaches(&self, local: Duration) -> Option<tokio::time::Instant> {
        if local > FOREVER {
            return None;
        }
        let wide = local.as_nanos() * u128::from(TRUE_RATE_PPM);
        let passed = wide.div_ceil(u128::from(self.rate_ppm)) * u128::from(self.stretch);
        let passed = Duration::from_nanos(u64::try_from(passed).ok()?);
        self.begun.checked_add(passed)
    }

    fn at(&self, local: Duration) -> Instant {
        Instant(self.begun.into_std() + local)
    }
}

/// A moment of a process's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(std::time::Instant);

impl Instant {
    /// The present.
    pub fn now() -> Self {
        Process::current_clock().map_or_else(
            || Self(tokio::time::Instant::now().into_std()),
            |clock| clock.at(clock.now()),
        )
    }

    pub(crate) fn into_std(self) -> std::time::Instant {
        self.0
    }
}

impl openraft::Instant for Instant {
    fn now() -> Self {
        Self::now()
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0 + span)
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, span: Duration) {
        self.0 += span;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, span: Duration) -> Self {
        Self(self.0 - span)
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, span: Duration) {
        self.0 -= span;
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0 - earlier.0
    }
}

/// When tokio's clock has reached `deadline` of the current process's; nothing if never.
fn due(deadline: Instant) -> Option<tokio::time::Instant> {
    let Some(clock) = Process::current_clock() else {
        return Some(tokio::time::Instant::from_std(deadline.0));
    };
    let begun = clock.begun.into_std();
    clock.reaches(deadline.0.saturating_duration_since(begun))
}

fn due_after(span: Duration) -> Option<tokio::time::Instant> {
    let Some(clock) = Process::current_clock() else {
        return tokio::time::Instant::now().checked_add(span);
    };
    clock.reaches(clock.now().checked_add(span)?)
}

/// Waits until the process's clock shows `deadline`.
pub fn sleep_until(deadline: Instant) -> Sleep {
    match due(deadline) {
        Some(at) => tokio::time::sleep_until(at),
        None => tokio::time::sleep(Duration::MAX),
    }
}

/// Waits for `span` by the process's clock.
pub fn sleep(span: Duration) -> Sleep {
    match due_after(span) {
        Some(at) => tokio::time::sleep_until(at),
        None => tokio::time::sleep(Duration::MAX),
    }
}

/// Gives `work` this long by the process's clock.
pub fn timeout<F: Future>(span: Duration, work: F) -> Timeout<F> {
    match due_after(span) {
        Some(at) => tokio::time::timeout_at(at, work),
        None => tokio::time::timeout(Duration::MAX, work),
    }
}

/// Gives `work` until the process's clock shows `deadline`.
pub fn timeout_at<F: Future>(deadline: Instant, work: F) -> Timeout<F> {
    match due(deadline) {
        Some(at) => tokio::time::timeout_at(at, work),
        None => tokio::time::timeout(Duration::MAX, work),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As fine as the laboratory's.
    const STRETCH: u32 = 1000;

    #[tokio::test(start_paused = true)]
    async fn a_timer_is_due_when_its_own_clock_says_so_and_never_before() {
        let begun = tokio::time::Instant::now();
        for rate_ppm in [TRUE_RATE_PPM, 995_000, 1_005_000, 1_000_001] {
            let clock = Clock::new(begun, STRETCH, rate_ppm);
            let local = clock.now() + Duration::from_micros(150_000);
            let due = clock.reaches(local).expect("not for ever");
            tokio::time::sleep_until(due).await;
            let late = clock.now().checked_sub(local).expect("not before");
            // A step of tokio's clock, and what rounding adds.
            assert!(late <= Duration::from_micros(2), "{rate_ppm}: {late:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_fast_clock_gains_on_a_slow_one() {
        let begun = tokio::time::Instant::now();
        let (fast, slow) = (
            Clock::new(begun, STRETCH, 1_005_000),
            Clock::new(begun, STRETCH, 995_000),
        );
        tokio::time::sleep(Duration::from_secs(10) * STRETCH).await;
        assert_eq!(fast.now() - slow.now(), Duration::from_millis(100));
    }

    #[test]
    fn a_wait_for_ever_has_no_end_on_any_clock() {
        let clock = Clock::new(tokio::time::Instant::now(), STRETCH, TRUE_RATE_PPM);
        assert_eq!(clock.reaches(Duration::MAX), None);
    }
}
