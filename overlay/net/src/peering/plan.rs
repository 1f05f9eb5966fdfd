//! When to dial a peer again, and which of its connections to use.
//!
//! Pure: instants and jitter come in. A round dials QUIC first and TCP a little later; rounds
//! follow each other with exponential back-off, except when somebody waits for the peer.

use std::time::Duration;

use tokio::time::Instant;

/// How long QUIC goes unchallenged before TCP is dialled too.
const TCP_DELAY: Duration = Duration::from_millis(300);
/// Shortest time between two rounds: a restarted peer is found this soon.
const ROUND_GAP_MIN: Duration = Duration::from_millis(500);
/// Longest time between two rounds when nobody waits.
const ROUND_GAP_MAX: Duration = Duration::from_secs(10);
/// Doublings until the longest gap.
const DOUBLINGS_MAX: u32 = 5;
/// Attempts on one peer under way at once; a new one is worth it because QUIC repeats its first
/// packet only after a second.
const ATTEMPTS_MAX: usize = 6;

/// What to dial now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Every address over QUIC.
    Quic,
    /// Every address over TCP.
    Tcp,
}

/// One peer's rounds.
#[derive(Debug, Default)]
pub(crate) struct DialPlan {
    began: Option<Instant>,
    next: Option<Instant>,
    tcp_due: Option<Instant>,
    failures: u32,
}

impl DialPlan {
    /// Somebody waits: a round starts as soon as the shortest gap allows.
    pub(crate) fn demand(&mut self, now: Instant) {
        let earliest = self.began.map_or(now, |began| began + ROUND_GAP_MIN);
        let due = earliest.max(now);
        self.next = Some(self.next.map_or(due, |next| next.min(due)));
    }

    /// When `step` has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        [self.next, self.tcp_due].into_iter().flatten().min()
    }

    /// What to dial now. `jitter` is in 0..1.
    pub(crate) fn step(&mut self, now: Instant, attempts: usize, jitter: f64) -> Option<Step> {
        if self.tcp_due.is_some_and(|due| due <= now) {
            self.tcp_due = None;
            return Some(Step::Tcp);
        }
        if self.next.is_none_or(|due| due > now) {
            return None;
        }
        if attempts >= ATTEMPTS_MAX {
            self.next = Some(now + ROUND_GAP_MIN);
            return None;
        }
        self.began = Some(now);
        self.tcp_due = Some(now + TCP_DELAY);
        self.next = Some(now + gap(self.failures).mul_f64(0.8 + 0.4 * jitter));
        self.failures = self.failures.saturating_add(1);
        Some(Step::Quic)
    }

    /// QUIC has failed already: TCP need not wait. Says whether TCP is still to come.
    pub(crate) fn quic_failed(&mut self, now: Instant) -> bool {
        if let Some(due) = &mut self.tcp_due {
            *due = now;
            return true;
        }
        false
    }

    /// A connection stands, or nobody wants one any more.
    pub(crate) fn rest(&mut self) {
        *self = Self {
            began: self.began,
            ..Self::default()
        };
    }
}

/// The time from one round to the next after so many fruitless ones.
fn gap(failures: u32) -> Duration {
    ROUND_GAP_MAX.min(ROUND_GAP_MIN * 2_u32.pow(failures.min(DOUBLINGS_MAX)))
}

/// Probes of a peer that stands connected but does not answer: has it restarted?
#[derive(Debug)]
pub(crate) struct Suspicion {
    next: Option<Instant>,
    gap: Duration,
}

impl Default for Suspicion {
    fn default() -> Self {
        Self {
            next: None,
            gap: ROUND_GAP_MIN,
        }
    }
}

impl Suspicion {
    /// A call went unanswered. Says whether to probe now.
    pub(crate) fn raise(&mut self, now: Instant) -> bool {
        if self.next.is_some_and(|next| next > now) {
            return false;
        }
        // Long quiet: the last doubts were about something else.
        if self.next.is_some_and(|next| next + ROUND_GAP_MAX < now) {
            self.gap = ROUND_GAP_MIN;
        }
        self.next = Some(now + self.gap);
        true
    }

    /// The probe reached the very process that is connected: it is slow, not gone, so it is left
    /// alone for longer each time.
    pub(crate) fn unfounded(&mut self) {
        self.gap = (self.gap * 2).min(3 * ROUND_GAP_MAX);
    }
}

/// What speaks for a connection, the greatest first. Both ends rank alike: QUIC over TCP, then
/// the one that the smaller node id dialled, then the older.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) quic: bool,
    pub(crate) smaller_dialled: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_round_dials_quic_and_then_tcp() {
        let start = Instant::now();
        let mut plan = DialPlan::default();
        assert_eq!(plan.step(start, 0, 0.5), None, "nobody asked");
        plan.demand(start);
        assert_eq!(plan.step(start, 0, 0.5), Some(Step::Quic));
        assert_eq!(plan.step(start, 1, 0.5), None);
        assert_eq!(plan.deadline(), Some(start + TCP_DELAY));
        assert_eq!(plan.step(start + TCP_DELAY, 1, 0.5), Some(Step::Tcp));
    }

    #[test]
    fn rounds_back_off_to_ten_seconds() {
        let mut now = Instant::now();
        let mut plan = DialPlan::default();
        plan.demand(now);
        let mut gaps = Vec::new();
        for _ in 0..8 {
            assert_eq!(plan.step(now, 0, 0.5), Some(Step::Quic));
            assert!(plan.quic_failed(now));
            assert_eq!(plan.step(now, 0, 0.5), Some(Step::Tcp));
            let next = plan.deadline().unwrap();
            gaps.push((next - now).as_millis());
            now = next;
        }
        assert_eq!(gaps, [500, 1000, 2000, 4000, 8000, 10000, 10000, 10000]);
    }

    #[test]
    fn demand_never_waits_longer_than_the_shortest_gap() {
        let start = Instant::now();
        let mut plan = DialPlan::default();
        plan.demand(start);
        for _ in 0..6 {
            let now = plan.deadline().unwrap();
            plan.step(now, 0, 0.5);
        }
        let now = plan.began.unwrap() + ms(100);
        plan.demand(now);
        assert!(plan.next.unwrap() <= now + ROUND_GAP_MIN);
        plan.demand(now + ms(700));
        assert!(plan.next.unwrap() <= now + ms(700));
    }

    #[test]
    fn attempts_under_way_are_bounded() {
        let start = Instant::now();
        let mut plan = DialPlan::default();
        plan.demand(start);
        assert_eq!(plan.step(start, ATTEMPTS_MAX, 0.5), None);
        assert!(plan.deadline().unwrap() > start);
    }

    #[test]
    fn a_slow_peer_is_probed_less_and_less() {
        let mut now = Instant::now();
        let mut suspicion = Suspicion::default();
        assert!(suspicion.raise(now));
        assert!(!suspicion.raise(now + ms(100)));
        assert!(suspicion.raise(now + ms(500)), "unanswered: again soon");
        for _ in 0..10 {
            suspicion.unfounded();
        }
        now += ms(1100);
        assert!(suspicion.raise(now));
        assert!(!suspicion.raise(now + ms(9000)));
    }

    #[test]
    fn quic_outranks_tcp_and_both_ends_rank_alike() {
        let rank = |quic, smaller_dialled| Rank {
            quic,
            smaller_dialled,
        };
        assert!(rank(true, false) > rank(false, true));
        assert!(rank(true, true) > rank(true, false));
    }
}
