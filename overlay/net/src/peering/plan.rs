//! When to dial a peer again, over what, and which of its connections to use.
//!
//! Pure: instants and jitter come in. A round dials the address that was good last, then every
//! address over QUIC, then circuits through the peer's relays, then TCP, each a little after the
//! other unless all before it have failed (RFC 8305's way with several addresses). Rounds follow
//! each other with exponential back-off, except when somebody waits for the peer.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

/// How long the address that was good last goes unchallenged: RFC 8305's attempt delay.
const OTHERS_DELAY: Duration = Duration::from_millis(250);
/// How long a direct way goes unchallenged before circuits are dialled too: a relay's help is not
/// asked for where a handshake on one continent is enough.
const CIRCUIT_DELAY: Duration = Duration::from_millis(200);
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
const ATTEMPTS_MAX: usize = 8;
/// How long a circuit is left in peace before a direct way is looked for again, at first.
const UPGRADE_GAP_MIN: Duration = Duration::from_secs(30);
/// And at last: most NATs stay what they are.
const UPGRADE_GAP_MAX: Duration = Duration::from_secs(600);

/// What to dial now, in the order of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// The address that was good last, over QUIC.
    Good,
    /// Every address over QUIC.
    Quic,
    /// Every relay of the peer.
    Circuits,
    /// Every address over TCP.
    Tcp,
}

/// What a round has to work with.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Known {
    /// Addresses of the peer.
    pub(crate) addresses: bool,
    /// One of them that was good last, and others.
    pub(crate) good: bool,
    /// Relays that keep a place for it.
    pub(crate) relays: bool,
}

impl Known {
    fn steps(self, now: Instant) -> BTreeMap<Step, Instant> {
        let quic = if self.good {
            OTHERS_DELAY
        } else {
            Duration::ZERO
        };
        let circuits = if self.addresses {
            CIRCUIT_DELAY
        } else {
            Duration::ZERO
        };
        [
            (self.good, Step::Good, Duration::ZERO),
            (self.addresses, Step::Quic, quic),
            (self.relays, Step::Circuits, circuits),
            (self.addresses, Step::Tcp, TCP_DELAY),
        ]
        .into_iter()
        .filter(|(possible, ..)| *possible)
        .map(|(_, step, delay)| (step, now + delay))
        .collect()
    }
}

/// One peer's rounds.
#[derive(Debug, Default)]
pub(crate) struct DialPlan {
    began: Option<Instant>,
    next: Option<Instant>,
    /// What the present round has still to do.
    steps: BTreeMap<Step, Instant>,
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
        self.steps.values().copied().chain(self.next).min()
    }

    /// What to dial now. `jitter` is in 0..1.
    pub(crate) fn step(
        &mut self,
        now: Instant,
        attempts: usize,
        known: Known,
        jitter: f64,
    ) -> Option<Step> {
        if let Some(step) = self.take_due(now) {
            return Some(step);
        }
        if self.next.is_none_or(|due| due > now) {
            return None;
        }
        if attempts >= ATTEMPTS_MAX {
            self.next = Some(now + ROUND_GAP_MIN);
            return None;
        }
        self.began = Some(now);
        self.steps = known.steps(now);
        self.next = Some(now + gap(self.failures).mul_f64(0.8 + 0.4 * jitter));
        self.failures = self.failures.saturating_add(1);
        self.take_due(now)
    }

    fn take_due(&mut self, now: Instant) -> Option<Step> {
        let (step, _) = self.steps.iter().find(|(_, due)| **due <= now)?;
        let step = *step;
        self.steps.remove(&step);
        Some(step)
    }

    /// All that was dialled has failed: the next way need not wait. Says whether there is one.
    pub(crate) fn all_failed(&mut self, now: Instant) -> bool {
        let next = self.steps.values_mut().min();
        next.map(|due| *due = now).is_some()
    }

    /// A connection stands, or nobody wants one any more.
    pub(crate) fn rest(&mut self) {
        *self = Self {
            began: self.began,
            ..Self::default()
        };
    }
}

/// When a direct way to a peer behind a relay is looked for.
#[derive(Debug, Default)]
pub(crate) struct Upgrade {
    next: Option<Instant>,
    tried: u32,
}

impl Upgrade {
    /// The peer is reached through a relay alone.
    pub(crate) fn wish(&mut self, now: Instant) {
        self.next.get_or_insert(now + UPGRADE_GAP_MIN);
    }

    /// It is reached directly, or not at all.
    pub(crate) fn settle(&mut self) {
        *self = Self::default();
    }

    /// When `is_due` will say so.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// Whether to dial now; the next time is later each time.
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        let due = self.next.is_some_and(|next| next <= now);
        if due {
            self.tried = self.tried.saturating_add(1);
            let gap = UPGRADE_GAP_MIN * 2_u32.pow(self.tried.min(DOUBLINGS_MAX));
            self.next = Some(now + gap.min(UPGRADE_GAP_MAX));
        }
        due
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

/// What speaks for a connection, the greatest first. Both ends rank alike: a direct one over a
/// circuit, QUIC over TCP, then the one that the smaller node id dialled, then the older.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) direct: bool,
    pub(crate) quic: bool,
    pub(crate) smaller_dialled: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIRECT: Known = Known {
        addresses: true,
        good: false,
        relays: false,
    };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_round_dials_quic_and_then_tcp() {
        let start = Instant::now();
        let mut plan = DialPlan::default();
        assert_eq!(plan.step(start, 0, DIRECT, 0.5), None, "nobody asked");
        plan.demand(start);
        assert_eq!(plan.step(start, 0, DIRECT, 0.5), Some(Step::Quic));
        assert_eq!(plan.step(start, 1, DIRECT, 0.5), None);
        assert_eq!(plan.deadline(), Some(start + TCP_DELAY));
        assert_eq!(
            plan.step(start + TCP_DELAY, 1, DIRECT, 0.5),
            Some(Step::Tcp)
        );
    }

    #[test]
    fn what_was_good_comes_first_and_circuits_after_direct_ways() {
        let all = Known {
            addresses: true,
            good: true,
            relays: true,
        };
        let start = Instant::now();
        let mut plan = DialPlan::default();
        plan.demand(start);
        let mut now = start;
        let mut order = Vec::new();
        while order.len() < 4 {
            match plan.step(now, order.len(), all, 0.5) {
                Some(step) => order.push((step, (now - start).as_millis())),
                None => now = plan.deadline().unwrap(),
            }
        }
        let expected = [
            (Step::Good, 0),
            (Step::Circuits, 200),
            (Step::Quic, 250),
            (Step::Tcp, 300),
        ];
        assert_eq!(order, expected);
    }

    #[test]
    fn who_has_relays_alone_is_dialled_through_them_at_once() {
        let relays = Known {
            relays: true,
            ..Known::default()
        };
        let now = Instant::now();
        let mut plan = DialPlan::default();
        plan.demand(now);
        assert_eq!(plan.step(now, 0, relays, 0.5), Some(Step::Circuits));
        assert!(!plan.all_failed(now));
    }

    #[test]
    fn rounds_back_off_to_ten_seconds() {
        let mut now = Instant::now();
        let mut plan = DialPlan::default();
        plan.demand(now);
        let mut gaps = Vec::new();
        for _ in 0..8 {
            assert_eq!(plan.step(now, 0, DIRECT, 0.5), Some(Step::Quic));
            assert!(plan.all_failed(now));
            assert_eq!(plan.step(now, 0, DIRECT, 0.5), Some(Step::Tcp));
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
            plan.step(now, 0, DIRECT, 0.5);
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
        assert_eq!(plan.step(start, ATTEMPTS_MAX, DIRECT, 0.5), None);
        assert!(plan.deadline().unwrap() > start);
    }

    #[test]
    fn a_direct_way_is_looked_for_less_and_less_often() {
        let mut now = Instant::now();
        let mut upgrade = Upgrade::default();
        upgrade.wish(now);
        let mut gaps = Vec::new();
        for _ in 0..7 {
            let due = upgrade.deadline().unwrap();
            upgrade.wish(due);
            gaps.push((due - now).as_secs());
            now = due;
            assert!(upgrade.is_due(now));
            assert!(!upgrade.is_due(now));
        }
        assert_eq!(gaps, [30, 60, 120, 240, 480, 600, 600]);
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
            direct: true,
            quic,
            smaller_dialled,
        };
        let relayed = Rank {
            direct: false,
            ..rank(true, true)
        };
        assert!(rank(false, false) > relayed);
        assert!(rank(true, false) > rank(false, true));
        assert!(rank(true, true) > rank(true, false));
    }
}
