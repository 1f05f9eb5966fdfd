//! Waits for conditions. The only place of the harness that sleeps.
//!
//! A test never waits for a time to pass, only for something to become true before a deadline.

use std::{
    io::Write as _,
    thread,
    time::{Duration, Instant},
};

/// Says what was waited for and for how long, to whoever wants tests to be faster.
const SHOW_WAITS: &str = "SHOAL_SHOW_WAITS";

/// Short beside everything that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How often the time that a look took passes until the next one. A look may start programs on a
/// host; so it takes a third of a processor at most from what is waited for.
const PAUSES_PER_LOOK: u32 = 2;
/// No pause is longer, or a look that waited for an answer would be followed by a long silence.
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// Returns the time it took for `condition` to hold; panics with `what` at the deadline.
#[track_caller]
pub fn wait_until(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Duration {
    match poll(deadline, || condition().then_some(())) {
        Some(((), took)) => {
            show(what, took);
            took
        }
        None => panic!("after {deadline:?} it was still not so that {what}"),
    }
}

fn show(what: &str, took: Duration) {
    if std::env::var_os(SHOW_WAITS).is_some() {
        // Not eprintln: the test runner would hide it, as the test passes.
        let _ = writeln!(
            std::io::stderr(),
            "{:9.3} s until {what}",
            took.as_secs_f64()
        );
    }
}

/// Asks until there is an answer; `None` at the deadline. Always asks at least once.
pub(crate) fn poll<T>(
    deadline: Duration,
    mut ask: impl FnMut() -> Option<T>,
) -> Option<(T, Duration)> {
    let start = Instant::now();
    loop {
        let look = Instant::now();
        if let Some(answer) = ask() {
            return Some((answer, start.elapsed()));
        }
        if start.elapsed() >= deadline {
            return None;
        }
        thread::sleep((look.elapsed() * PAUSES_PER_LOOK).clamp(LOOK_EVERY, PAUSE_MAX));
    }
}
