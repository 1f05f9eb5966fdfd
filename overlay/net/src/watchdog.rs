//! Whether the task that carries every connection still runs.
//!
//! Decides when it stands still. The membership core runs on a thread of its own, so it would go on
//! while nothing is carried, and take everybody's silence for death. Its driver therefore stands
//! still for as long, and the core, whose timers then are late, knows what that means: it judges
//! nobody by it, and holds itself for unwell (Lifeguard's local health).

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// How often the carrier shows that it lives, at least. Five wake-ups a second cost nothing.
pub(crate) const BEAT: Duration = Duration::from_millis(200);
/// Silence that means standstill: two beats missed. Before the core gives up a probe, which takes
/// it 700 ms at least (a direct attempt, then the helpers'), and no shorter than what the core
/// itself takes for a standstill.
const LATE: Duration = Duration::from_millis(500);
/// Stands for the end.
const ENDED: u64 = u64::MAX;

/// The carrier's last sign of life.
#[derive(Debug)]
pub(crate) struct Watchdog {
    began: Instant,
    /// Milliseconds since then.
    beaten: AtomicU64,
}

impl Watchdog {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            beaten: AtomicU64::new(0),
        }
    }

    /// The carrier lives.
    pub(crate) fn beat(&self) {
        self.beat_at(self.began.elapsed());
    }

    fn beat_at(&self, now: Duration) {
        let now = u64::try_from(now.as_millis()).unwrap_or(ENDED - 1);
        self.beaten.store(now, Ordering::Relaxed);
    }

    /// The carrier has ended on purpose.
    pub(crate) fn end(&self) {
        self.beaten.store(ENDED, Ordering::Relaxed);
    }

    /// Whether it stands still.
    pub(crate) fn is_late(&self) -> bool {
        self.is_late_at(self.began.elapsed())
    }

    fn is_late_at(&self, now: Duration) -> bool {
        let beaten = self.beaten.load(Ordering::Relaxed);
        let last = Duration::from_millis(beaten);
        beaten != ENDED && now.saturating_sub(last) > LATE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_missed_beats_are_a_standstill_and_an_end_is_none() {
        let watchdog = Watchdog::new();
        assert!(!watchdog.is_late_at(BEAT * 2));
        assert!(watchdog.is_late_at(BEAT * 3));
        watchdog.beat_at(BEAT * 4);
        assert!(!watchdog.is_late_at(BEAT * 4));
        assert!(watchdog.is_late_at(BEAT * 9));
        watchdog.end();
        assert!(!watchdog.is_late_at(BEAT * 9));
    }
}
