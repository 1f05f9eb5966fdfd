//! Waits for conditions. The only place of the harness that sleeps.
//!
//! A test never waits for a time to pass, only for something to become true before a deadline.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Short beside everything that is waited for, long beside what a look costs.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Returns the time it took for `condition` to hold; panics with `what` at the deadline.
#[track_caller]
pub fn wait_until(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Duration {
    match poll(deadline, || condition().then_some(())) {
        Some(((), took)) => took,
        None => panic!("after {deadline:?} it was still not so that {what}"),
    }
}

/// Asks until there is an answer; `None` at the deadline. Always asks at least once.
pub(crate) fn poll<T>(
    deadline: Duration,
    mut ask: impl FnMut() -> Option<T>,
) -> Option<(T, Duration)> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Some((answer, start.elapsed()));
        }
        if start.elapsed() >= deadline {
            return None;
        }
        thread::sleep(LOOK_EVERY);
    }
}
