//! Claims about who is silent, and how long.

use std::ops::Range;

use proptest::prelude::*;

use super::*;

const NETWORK: NetworkId = NetworkId::from_bytes([7; 16]);
/// A handshake initiation (WireGuard whitepaper, section 5.4.2).
const HANDSHAKE_BYTES: u64 = 148;

/// In the order of their numbers.
fn node(n: usize) -> NodeId {
    let digit = char::from(b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghij"[n]);
    let text = format!("12D3KooW{}", digit.to_string().repeat(44));
    text.parse().unwrap()
}

/// A device with one peer, looked at every second.
struct Device {
    straight: Straight,
    counted: Counters,
    peer: NodeId,
    now: Time,
    pings_pass: bool,
    asked: u32,
}

impl Device {
    fn new() -> Self {
        let mut device = Self {
            straight: Straight::default(),
            counted: Counters {
                sent_bytes: 1000,
                received_bytes: 1000,
            },
            peer: node(1),
            now: Time::ZERO,
            pings_pass: true,
            asked: 0,
        };
        device.look(Duration::ZERO);
        device
    }

    fn look(&mut self, later: Duration) {
        self.now = self.now + later;
        let counted = [(self.peer.clone(), self.counted)].into();
        let asked = self
            .straight
            .look(NETWORK, &counted, |_| true, self.pings_pass, self.now);
        assert!(asked.iter().all(|node| *node == self.peer));
        self.asked += u32::try_from(asked.len()).unwrap();
    }

    /// So many seconds, in each of which so much is sent and received.
    fn pass(&mut self, seconds: u64, sent: u64, received: u64) {
        for _ in 0..seconds {
            self.counted.sent_bytes += sent;
            self.counted.received_bytes += received;
            self.look(Duration::from_secs(1));
        }
    }

    /// A look at which the peer is believed dead.
    fn look_without(&mut self, is_peer: bool) {
        let nobody = BTreeMap::new();
        let asked = self
            .straight
            .look(NETWORK, &nobody, |_| is_peer, self.pings_pass, self.now);
        assert!(asked.is_empty());
    }

    fn is_silent(&self) -> bool {
        let silent = self.straight.unreachable();
        assert!(silent.is_empty() || silent == [(NETWORK, vec![self.peer.clone()])]);
        !silent.is_empty()
    }

    /// Seconds of the same, until the peer is silent or is not.
    fn seconds_until(&mut self, silent: bool, sent: u64, received: u64) -> u64 {
        for seconds in 0..2000 {
            if self.is_silent() == silent {
                return seconds;
            }
            self.pass(1, sent, received);
        }
        panic!("silent: {silent} never came");
    }
}

#[test]
fn a_peer_to_whom_nothing_or_only_keepalives_are_sent_is_never_silent_or_asked() {
    let mut device = Device::new();
    device.pass(500, 0, 0);
    for _ in 0..50 {
        device.pass(1, KEEPALIVE_BYTES, 0);
        device.pass(24, 0, 0);
    }
    assert!(!device.is_silent());
    assert_eq!(device.asked, 0);
}

#[test]
fn a_peer_that_does_not_answer_is_asked_and_then_silent() {
    let mut device = Device::new();
    device.pass(11, HANDSHAKE_BYTES, 0);
    assert_eq!(device.asked, 1, "it is asked before it is judged");
    let more = device.seconds_until(true, HANDSHAKE_BYTES, 0);
    assert!((14..=16).contains(&more), "{more}");
}

#[test]
fn an_answer_to_a_question_is_enough() {
    let mut device = Device::new();
    for _ in 0..20 {
        // Data that nobody answers in bytes that are counted, and the answer to a ping.
        device.pass(12, 1000, 0);
        device.pass(1, 1000, 80);
    }
    assert!(!device.is_silent());
    assert!(device.asked >= 20);
}

#[test]
fn a_peer_that_was_never_heard_is_silent_though_nothing_could_be_sent() {
    let mut device = Device::new();
    device.counted = Counters {
        sent_bytes: 0,
        received_bytes: 0,
    };
    let seconds = device.seconds_until(true, 0, 0);
    assert!((25..=30).contains(&seconds), "{seconds}");
}

#[test]
fn where_no_ping_is_sure_to_be_answered_a_session_is_waited_for() {
    let mut device = Device::new();
    device.pings_pass = false;
    // A flow in one direction: only handshakes are counted as received.
    for _ in 0..10 {
        device.pass(165, 1000, 0);
        device.pass(1, 1000, 92);
    }
    assert!(!device.is_silent());
    assert!(device.seconds_until(true, 1000, 0) >= 199);
}

#[test]
fn a_node_that_stood_still_judges_nobody() {
    let mut device = Device::new();
    device.pass(20, HANDSHAKE_BYTES, 0);
    device.counted.sent_bytes += HANDSHAKE_BYTES;
    device.look(Duration::from_secs(60));
    assert!(!device.is_silent());
    assert!(device.seconds_until(true, HANDSHAKE_BYTES, 0) >= 25);
}

#[test]
fn a_standstill_is_no_time_in_which_a_returning_peer_was_heard() {
    let mut device = Device::new();
    device.seconds_until(true, HANDSHAKE_BYTES, 0);
    device.pass(10, HANDSHAKE_BYTES, 100);
    device.look(Duration::from_secs(60));
    assert!(device.is_silent());
    assert_eq!(device.seconds_until(false, HANDSHAKE_BYTES, 100), 40);
}

#[test]
fn a_pair_that_heals_returns_and_each_return_that_does_not_last_makes_the_next_later() {
    let mut device = Device::new();
    let mut waits = Vec::new();
    for _ in 0..7 {
        device.seconds_until(true, HANDSHAKE_BYTES, 0);
        device.pass(300, HANDSHAKE_BYTES, 0);
        assert!(device.is_silent(), "nothing was heard");
        waits.push(device.seconds_until(false, HANDSHAKE_BYTES, 100));
    }
    assert_eq!(waits[..3], [41, 81, 161]);
    assert_eq!(waits[5..], [601, 601]);
    device.pass(700, HANDSHAKE_BYTES, 100);
    device.seconds_until(true, HANDSHAKE_BYTES, 0);
    assert_eq!(device.seconds_until(false, HANDSHAKE_BYTES, 100), 41);
}

#[test]
fn a_silent_way_is_asked_for_as_long_as_it_is_silent() {
    let mut device = Device::new();
    device.seconds_until(true, HANDSHAKE_BYTES, 0);
    let before = device.asked;
    device.pass(1000, 0, 0);
    assert_eq!(device.asked - before, 50);
}

#[test]
fn a_peer_that_left_its_network_or_whose_network_is_gone_is_named_no_more() {
    let mut device = Device::new();
    device.seconds_until(true, HANDSHAKE_BYTES, 0);
    device.straight.keep(|network| *network == NETWORK);
    assert!(device.is_silent());
    device.look_without(false);
    assert!(!device.is_silent());
    device.look(Duration::ZERO);
    device.seconds_until(true, HANDSHAKE_BYTES, 0);
    device.straight.keep(|_| false);
    assert!(!device.is_silent());
}

#[test]
fn a_peer_that_was_believed_dead_is_as_silent_as_before_and_returns_no_sooner() {
    let mut device = Device::new();
    device.seconds_until(true, HANDSHAKE_BYTES, 0);
    device.look_without(true);
    assert!(device.is_silent());
    device.look(Duration::from_secs(15));
    assert!(device.is_silent(), "nothing was heard since");
    assert_eq!(device.seconds_until(false, HANDSHAKE_BYTES, 100), 41);
    device.look_without(true);
    device.seconds_until(true, HANDSHAKE_BYTES, 0);
    assert_eq!(device.seconds_until(false, HANDSHAKE_BYTES, 100), 81);
}

#[test]
fn a_peer_that_is_silent_in_one_network_is_not_named_in_another() {
    let other = NetworkId::from_bytes([8; 16]);
    let mut device = Device::new();
    for second in 1..100 {
        device.pass(1, HANDSHAKE_BYTES, 0);
        let answered = Counters {
            sent_bytes: 1000 * second,
            received_bytes: 1000 * second,
        };
        let counted = [(device.peer.clone(), answered)].into();
        device
            .straight
            .look(other, &counted, |_| true, true, device.now);
    }
    assert!(device.is_silent());
}

#[test]
fn of_too_many_silent_peers_those_are_named_that_are_there_and_silent_the_longest() {
    let mut straight = Straight::default();
    let look = |straight: &mut Straight, second: u64, peers: Range<usize>| {
        let counted = Counters {
            sent_bytes: 1000 * second,
            received_bytes: 1,
        };
        let counted = peers.map(|n| (node(n), counted)).collect();
        let now = Time::from_micros(1_000_000 * second);
        straight.look(NETWORK, &counted, |_| true, true, now);
    };
    let named = |straight: &Straight| {
        let mut named = straight.unreachable();
        assert_eq!(named.len(), 1);
        named.remove(0).1
    };
    for second in 0..40 {
        look(&mut straight, second, 10..15);
    }
    let first: Vec<NodeId> = (10..15).map(node).collect();
    assert_eq!(named(&straight), first);
    for second in 40..80 {
        look(&mut straight, second, 10..40);
    }
    let most = named(&straight);
    assert_eq!(most.len(), UNREACHABLE_MAX);
    assert!(first.iter().all(|node| most.contains(node)));
    look(&mut straight, 80, 15..40);
    let present = named(&straight);
    assert_eq!(present.len(), UNREACHABLE_MAX);
    assert!(!first.iter().any(|node| present.contains(node)));
}

#[test]
fn the_address_by_which_a_peer_is_asked_is_in_its_network_and_not_its_own() {
    let own: Ipv6Addr = "fd12:3456:789a:1:23:4567:89ab:cdef".parse().unwrap();
    let asked = probe_address(own);
    let there: Ipv6Addr = "fd12:3456:789a:1:8023:4567:89ab:cdef".parse().unwrap();
    assert_eq!(asked, there);
    assert_eq!(probe_address(asked), own);
}

proptest! {
    #[test]
    fn whoever_answers_every_question_is_never_silent(
        seconds in proptest::collection::vec((0_u64..3000, 0_u64..10), 1..400),
    ) {
        let mut device = Device::new();
        for (sent, later) in seconds {
            let before = device.asked;
            device.counted.sent_bytes += sent;
            device.look(Duration::from_secs(later));
            if device.asked > before {
                device.counted.received_bytes += 80;
            }
            prop_assert!(!device.is_silent());
        }
    }

    #[test]
    fn whatever_came_before_a_peer_that_is_heard_for_long_enough_is_straight_again(
        seconds in proptest::collection::vec((0_u64..300, 0_u64..100), 1..400),
    ) {
        let mut device = Device::new();
        for (sent, received) in seconds {
            // Half of them hear nothing.
            device.pass(1, sent, received.saturating_sub(50));
        }
        device.pass(601, HANDSHAKE_BYTES, 100);
        prop_assert!(!device.is_silent());
    }
}
