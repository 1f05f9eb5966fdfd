//! Claims about one node, driven by hand. Whole meshes are `simulations`' matter.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use consensus_core::{NetworkId, NodeId, Time};

use super::*;

#[test]
fn nobody_is_watched_or_contacted_before_the_roster_is_known() {
    let mut one = Fixture::alone();
    assert_eq!(one.core.poll_timeout(), None);
    assert!(one.drain().is_empty());
}

#[test]
fn in_a_small_mesh_everybody_is_a_neighbour_and_unknown_at_first() {
    let mut one = Fixture::alone();
    one.roster(5);
    assert_eq!(one.core.neighbours(), (1..5).map(node).collect());
    assert!(
        one.drain()
            .contains(&Output::Neighbours((1..5).map(node).collect()))
    );
    assert_eq!(one.condition(3), Condition::Unknown);
    assert_eq!(one.condition(0), Condition::Alive);
}

#[test]
fn a_larger_mesh_keeps_a_bounded_number_of_edges() {
    let mut one = Fixture::alone();
    one.roster(50);
    let edges = one.core.neighbours().len();
    assert!((8..=18).contains(&edges), "{edges}");
}

#[test]
fn a_record_makes_its_subject_alive() {
    let mut one = Fixture::alone();
    one.roster(3);
    one.hears(1, vec![Update::Alive(signed(1, 4, 2))]);
    let member = one.core.member(&node(1)).unwrap();
    assert_eq!(
        (member.condition, member.record.generation),
        (Condition::Alive, 4)
    );
    assert_eq!(member.last_heard, Some(one.now));
}

#[test]
fn strangers_and_facts_about_strangers_change_nothing() {
    let mut one = Fixture::alone();
    one.roster(3);
    one.drain();
    one.hears(9, vec![Update::Alive(signed(1, 1, 0))]);
    one.hears(1, vec![Update::Alive(signed(8, 1, 0))]);
    assert_eq!(one.condition(1), Condition::Unknown);
    assert!(one.core.member(&node(8)).is_none());
}

#[test]
fn what_a_node_says_of_its_paths_is_a_later_record_and_bounded() {
    let mut one = Fixture::with_alive(3);
    let before = one.core.record().incarnation();
    let names = |range: std::ops::Range<usize>| range.map(node).collect::<Vec<NodeId>>();
    let network = |n| NetworkId::from_bytes([n; 16]);
    let many = vec![
        (network(1), names(10..13)),
        (network(2), Vec::new()),
        (network(3), names(10..30)),
        (network(4), names(10..11)),
    ];
    one.core.handle_paths(many.clone(), true, one.now);
    let record = one.core.record().clone();
    assert!(record.incarnation() > before && record.forwards);
    let bounded = [
        (network(1), names(10..13)),
        (network(3), names(10..10 + UNREACHABLE_MAX - 3)),
    ];
    assert_eq!(record.unreachable, bounded);
    one.core.handle_paths(many, true, one.now);
    assert_eq!(*one.core.record(), record, "the same is no news");
}

#[test]
fn who_left_the_roster_is_forgotten() {
    let mut one = Fixture::with_alive(4);
    one.roster(3);
    assert!(one.core.member(&node(3)).is_none());
    assert!(!one.core.neighbours().contains(&node(3)));
}

#[test]
fn an_unanswered_probe_asks_helpers_and_then_suspects() {
    let mut one = Fixture::with_alive(6);
    one.run_until(
        |one| one.condition(1) == Condition::Suspect,
        Duration::from_secs(4),
    );
    let asked: BTreeSet<_> = one.sent_to_about(1);
    assert_eq!(asked.len(), 3, "{asked:?}");
}

#[test]
fn a_silent_peer_is_asked_again_each_time_with_another_number() {
    let mut one = Fixture::with_alive(2);
    one.run_until(
        |one| one.condition(1) == Condition::Suspect,
        Duration::from_secs(4),
    );
    let numbers = one.numbers_asked(1);
    assert!(numbers.len() >= 5, "{numbers:?}");
    let different: BTreeSet<_> = numbers.iter().collect();
    assert_eq!(different.len(), numbers.len());
}

#[test]
fn an_answer_to_any_of_the_questions_ends_the_probe_and_is_timed_from_that_question() {
    let mut one = Fixture::with_alive(2);
    one.run_until(
        |one| one.numbers_asked(1).len() == 3,
        Duration::from_secs(2),
    );
    let last = one.numbers_asked(1)[2];
    let took = Duration::from_millis(7);
    one.now = one.now + took;
    let ack = Message::Ack {
        sequence: last,
        updates: Vec::new(),
    };
    one.core.handle_message(&node(1), ack, one.now);
    assert_eq!(one.core.load().probes, 0);
    assert_eq!(one.core.member(&node(1)).unwrap().rtt, Some(took));
}

#[test]
fn an_answering_peer_is_asked_once_a_period() {
    let mut one = Fixture::with_alive(2);
    one.answering = true;
    one.run(Duration::from_secs(30));
    let asked = one.numbers_asked(1).len();
    assert!((29..=31).contains(&asked), "{asked}");
}

#[test]
fn a_peer_without_a_connection_is_not_asked_again() {
    let mut one = Fixture::with_alive(2);
    one.drain();
    one.sends.clear();
    one.core.handle_disconnected(&node(1), one.now);
    one.run(Duration::from_millis(900));
    assert_eq!(one.numbers_asked(1).len(), 1);
}

#[test]
fn silent_peer_is_suspected_before_it_is_dead() {
    let mut one = Fixture::with_alive(2);
    let begin = one.now;
    one.run_until(
        |one| one.condition(1) == Condition::Dead,
        Duration::from_secs(10),
    );
    let changes: Vec<_> = one.changes.iter().filter(|(n, _)| *n == node(1)).collect();
    let conditions: Vec<_> = changes.iter().map(|(_, condition)| *condition).collect();
    assert_eq!(conditions, [Condition::Suspect, Condition::Dead]);
    assert!(one.now.since(begin) >= Settings::lan().suspicion_min);
}

#[test]
fn an_answering_peer_is_never_suspected_and_its_round_trip_is_known() {
    let mut one = Fixture::with_alive(2);
    one.answering = true;
    one.run(Duration::from_secs(30));
    assert!(one.changes.is_empty());
    assert_eq!(one.core.member(&node(1)).unwrap().rtt, Some(Duration::ZERO));
}

#[test]
fn an_unknown_member_has_the_longest_suspicion_to_appear() {
    let mut one = Fixture::alone();
    one.roster(2);
    one.run(Duration::from_secs(29));
    assert_eq!(one.condition(1), Condition::Unknown);
    one.run(Duration::from_secs(10));
    assert_eq!(one.condition(1), Condition::Dead);
}

#[test]
fn an_accused_node_refutes_with_a_later_incarnation() {
    let mut one = Fixture::with_alive(3);
    one.drain();
    let own = one.core.record().incarnation();
    one.hears(1, vec![Update::Suspect(suspects(0, own, 2))]);
    assert!(one.core.record().incarnation() > own);
    assert!(
        one.told(2)
            .iter()
            .any(|update| *update == Update::Alive(one.core.signed_record().clone()))
    );
    assert!(one.core.load().health > 0);
}

#[test]
fn a_node_that_forgot_its_generation_surpasses_what_the_mesh_remembers() {
    let mut one = Fixture::with_alive(3);
    one.hears(1, vec![Update::Alive(signed(0, 7, 3))]);
    let own = one.core.record();
    assert_eq!((own.generation, own.version), (7, 4));
}

#[test]
fn an_outdated_accusation_is_answered_but_costs_no_incarnation() {
    let mut one = Fixture::with_alive(3);
    one.core
        .handle_local(vec!["10.0.0.1:1".parse().unwrap()], Vec::new(), one.now);
    let own = one.core.record().clone();
    assert_eq!(own.version, 1);
    let old = Incarnation {
        generation: own.generation,
        version: 0,
    };
    one.hears(1, vec![Update::Dead(condemns(0, old, 1))]);
    assert_eq!(*one.core.record(), own);
}

#[test]
fn a_later_incarnation_revives_suspect_and_dead_alike() {
    let mut one = Fixture::with_alive(3);
    one.hears(1, vec![Update::Suspect(suspects(2, INITIAL, 1))]);
    assert_eq!(one.condition(2), Condition::Suspect);
    one.hears(1, vec![Update::Alive(signed(2, 1, 1))]);
    assert_eq!(one.condition(2), Condition::Alive);
    one.hears(1, vec![goodbye(2, second())]);
    assert_eq!(one.condition(2), Condition::Dead);
    one.hears(1, vec![Update::Alive(signed(2, 2, 0))]);
    assert_eq!(one.condition(2), Condition::Alive);
}

#[test]
fn the_same_incarnation_does_not_clear_a_suspicion() {
    let mut one = Fixture::with_alive(3);
    one.hears(1, vec![Update::Suspect(suspects(2, INITIAL, 1))]);
    one.hears(1, vec![Update::Alive(signed(2, 1, 0))]);
    assert_eq!(one.condition(2), Condition::Suspect);
}

#[test]
fn a_foreign_verdict_of_death_on_a_living_member_is_only_a_suspicion() {
    let mut one = Fixture::with_alive(4);
    one.hears(1, vec![Update::Dead(condemns(2, INITIAL, 1))]);
    one.hears(3, vec![Update::Dead(condemns(2, INITIAL, 3))]);
    assert_eq!(one.condition(2), Condition::Suspect);
}

#[test]
fn a_foreign_verdict_ends_a_suspicion_of_some_age() {
    let mut one = Fixture::with_alive(4);
    one.answering = true;
    one.hears(1, vec![Update::Suspect(suspects(2, INITIAL, 1))]);
    one.run(Duration::from_secs(2));
    one.hears(1, vec![Update::Dead(condemns(2, INITIAL, 1))]);
    assert_eq!(one.condition(2), Condition::Dead);
}

#[test]
fn the_dead_accuse_nobody() {
    let mut one = Fixture::with_alive(4);
    one.hears(1, vec![goodbye(3, INITIAL)]);
    one.hears(3, vec![Update::Suspect(suspects(2, INITIAL, 3))]);
    one.hears(1, vec![Update::Suspect(suspects(2, INITIAL, 3))]);
    assert_eq!(one.condition(2), Condition::Alive);
}

#[test]
fn confirmations_shorten_a_suspicion() {
    let mut lone = Fixture::with_alive(7);
    let mut confirmed = Fixture::with_alive(7);
    for one in [&mut lone, &mut confirmed] {
        one.answering = true;
        one.hears(1, vec![Update::Suspect(suspects(2, INITIAL, 1))]);
    }
    confirmed.hears(3, vec![Update::Suspect(suspects(2, INITIAL, 3))]);
    confirmed.hears(4, vec![Update::Suspect(suspects(2, INITIAL, 4))]);
    confirmed.hears(5, vec![Update::Suspect(suspects(2, INITIAL, 5))]);
    lone.run(Duration::from_secs(4));
    confirmed.run(Duration::from_secs(4));
    assert_eq!(lone.condition(2), Condition::Suspect);
    assert_eq!(confirmed.condition(2), Condition::Dead);
}

#[test]
fn news_is_pushed_to_every_connected_neighbour_but_its_source_and_only_once() {
    let mut one = Fixture::with_alive(5);
    let fact = Update::Alive(signed(4, 9, 0));
    one.hears(1, vec![fact.clone()]);
    assert!(one.told(2).contains(&fact) && one.told(3).contains(&fact));
    assert!(!one.told(1).contains(&fact));
    one.sends.clear();
    one.hears(2, vec![fact]);
    assert!(one.told(3).is_empty());
}

#[test]
fn a_suspect_that_speaks_is_told_of_its_suspicion_at_most_once_a_second() {
    let mut one = Fixture::with_alive(4);
    one.answering = true;
    one.hears(1, vec![Update::Suspect(suspects(2, INITIAL, 1))]);
    one.drain();
    one.sends.clear();
    for _ in 0..5 {
        one.hears(2, Vec::new());
    }
    let charge = Update::Suspect(suspects(2, INITIAL, 1));
    assert_eq!(one.told(2), vec![charge]);
}

#[test]
fn a_lost_connection_is_no_death_but_is_asked_about_at_once() {
    let mut one = Fixture::with_alive(4);
    one.drain();
    one.core.handle_disconnected(&node(2), one.now);
    assert_eq!(one.condition(2), Condition::Alive);
    one.drain();
    let pinged = |(to, message): &(NodeId, Message)| {
        *to == node(2) && matches!(message, Message::Ping { .. })
    };
    assert!(one.sends.iter().any(pinged));
}

#[test]
fn a_goodbye_reaches_the_neighbours_and_silences_the_node() {
    let mut one = Fixture::with_alive(4);
    one.drain();
    one.core.handle_leave(one.now);
    for peer in 1..4 {
        assert!(one.told(peer).contains(&goodbye(0, INITIAL)));
    }
    assert_eq!(one.core.poll_timeout(), None);
    one.drain();
    one.hears(1, vec![Update::Suspect(suspects(0, INITIAL, 1))]);
    assert!(one.drain().is_empty());
}

#[test]
fn a_helper_pings_for_others_and_sends_a_nack_when_no_answer_comes() {
    let mut one = Fixture::with_alive(4);
    one.drain();
    let request = Message::PingRequest {
        sequence: Sequence(77),
        target: node(2),
        timeout: Duration::from_millis(500),
        updates: Vec::new(),
    };
    one.core.handle_message(&node(1), request, one.now);
    one.run(Duration::from_millis(450));
    let nack = |(to, message): &(NodeId, Message)| {
        *to == node(1)
            && matches!(
                message,
                Message::Nack {
                    sequence: Sequence(77),
                    ..
                }
            )
    };
    assert!(one.sends.iter().any(nack));
}

#[test]
fn an_ack_from_the_wrong_member_proves_nothing() {
    let mut one = Fixture::with_alive(2);
    one.run_until(|one| one.core.load().probes == 1, Duration::from_secs(2));
    for sequence in 0..100 {
        let ack = Message::Ack {
            sequence: Sequence(sequence),
            updates: Vec::new(),
        };
        one.core.handle_message(&node(5), ack, one.now);
    }
    assert_eq!(one.core.load().probes, 1);
}

#[test]
fn a_node_that_stood_still_judges_nobody_by_it() {
    let mut one = Fixture::with_alive(4);
    one.run_until(
        |one| one.condition(1) == Condition::Suspect,
        Duration::from_secs(4),
    );
    one.now = one.now + Duration::from_secs(60);
    one.core.handle_timeout(one.now);
    one.drain();
    assert_eq!(one.condition(1), Condition::Suspect);
    assert!(one.core.load().health >= 2);
}

#[test]
fn digests_that_differ_are_answered_with_what_is_held_and_equal_ones_are_not() {
    let mut one = Fixture::with_alive(4);
    one.drain();
    one.core.handle_message(
        &node(1),
        Message::Digest {
            buckets: Vec::new(),
        },
        one.now,
    );
    assert_eq!(
        one.told(1)
            .iter()
            .filter(|u| matches!(u, Update::Alive(_)))
            .count(),
        4
    );
    let buckets = digest::summary(&one.core.table.sums);
    one.sends.clear();
    one.core
        .handle_message(&node(1), Message::Digest { buckets }, one.now);
    assert!(one.drain().is_empty());
}

#[test]
fn a_repair_of_a_dead_member_never_shows_it_alive_in_between() {
    let mut teacher = Fixture::with_alive(3);
    teacher.hears(1, vec![goodbye(2, INITIAL)]);
    teacher.drain();
    teacher.core.handle_message(
        &node(1),
        Message::Digest {
            buckets: Vec::new(),
        },
        teacher.now,
    );
    let facts = teacher.told(1);
    let mut pupil = Fixture::alone();
    pupil.roster(3);
    pupil.hears(1, facts);
    pupil.drain();
    assert!(
        pupil
            .changes
            .iter()
            .all(|(n, c)| *n != node(2) || *c == Condition::Dead)
    );
    assert_eq!(pupil.core.member(&node(2)).unwrap().record.generation, 1);
}

#[test]
fn a_record_beyond_the_limits_is_cut_to_them() {
    let mut one = Fixture::alone();
    let address = "10.0.0.1:1".parse().unwrap();
    let networks = vec![(NetworkId::from_bytes([1; 16]), vec![address; 99]); 99];
    one.core.handle_local(vec![address; 99], networks, one.now);
    let own = one.core.record();
    assert_eq!(own.addresses.len(), ADDRESSES_MAX);
    assert_eq!(own.wireguard.len(), NETWORKS_MAX);
    assert!(
        own.wireguard
            .iter()
            .all(|(_, endpoints)| endpoints.len() == ENDPOINTS_MAX)
    );
}

#[test]
fn the_same_inputs_and_seed_give_the_same_outputs() {
    let run = || {
        let mut one = Fixture::with_alive(30);
        one.run(Duration::from_secs(20));
        one.sends
    };
    assert_eq!(run(), run());
}

/// The incarnation that every fixture member starts with.
const INITIAL: Incarnation = Incarnation {
    generation: 1,
    version: 0,
};

const fn second() -> Incarnation {
    Incarnation {
        generation: 1,
        version: 1,
    }
}

/// Node 0 and what it has put out.
struct Fixture {
    core: Membership,
    now: Time,
    /// Whether the others answer direct pings, at once.
    answering: bool,
    sends: Vec<(NodeId, Message)>,
    changes: Vec<(NodeId, Condition)>,
}

impl Fixture {
    fn alone() -> Self {
        let now = Time::from_micros(1_000_000);
        let core = Membership::new(record(0, 1, 0), keys(0), Settings::lan(), 42, now);
        Self {
            core,
            now,
            answering: false,
            sends: Vec::new(),
            changes: Vec::new(),
        }
    }

    /// A mesh of `count` in which all are connected and known alive.
    fn with_alive(count: usize) -> Self {
        let mut one = Self::alone();
        one.roster(count);
        for index in 1..count {
            one.core.handle_connected(&node(index), one.now);
            one.hears(index, vec![Update::Alive(signed(index, 1, 0))]);
        }
        one.drain();
        one.sends.clear();
        one.changes.clear();
        one
    }

    fn roster(&mut self, count: usize) {
        self.core
            .handle_roster((0..count).map(node).collect(), 5, self.now);
    }

    fn hears(&mut self, from: usize, updates: Vec<Update>) {
        self.core
            .handle_message(&node(from), Message::Gossip { updates }, self.now);
    }

    fn condition(&self, index: usize) -> Condition {
        self.core.member(&node(index)).unwrap().condition
    }

    fn drain(&mut self) -> Vec<Output> {
        let mut outputs = Vec::new();
        while let Some(output) = self.core.poll_output() {
            match &output {
                Output::Send { to, message } => {
                    self.sends.push((to.clone(), message.clone()));
                    if let (true, Message::Ping { sequence, .. }) = (self.answering, message) {
                        let ack = Message::Ack {
                            sequence: *sequence,
                            updates: Vec::new(),
                        };
                        self.core.handle_message(to, ack, self.now);
                    }
                }
                Output::Changed { node, condition } => {
                    self.changes.push((node.clone(), *condition))
                }
                Output::Neighbours(_) => {}
            }
            outputs.push(output);
        }
        outputs
    }

    /// Everything pushed or ridden to a member so far, pending outputs included.
    fn told(&mut self, to: usize) -> Vec<Update> {
        self.drain();
        let messages = self
            .sends
            .iter()
            .filter(|(receiver, _)| *receiver == node(to));
        messages
            .flat_map(|(_, message)| message.updates().to_vec())
            .collect()
    }

    /// Helpers that were asked to ping the member.
    fn sent_to_about(&self, index: usize) -> BTreeSet<NodeId> {
        let asked = |(to, message): &(NodeId, Message)| {
            let about =
                matches!(message, Message::PingRequest { target, .. } if *target == node(index));
            about.then(|| to.clone())
        };
        self.sends.iter().filter_map(asked).collect()
    }

    /// The pings that a member was sent, by their numbers.
    fn numbers_asked(&self, index: usize) -> Vec<Sequence> {
        let number = |(to, message): &(NodeId, Message)| {
            let Message::Ping { sequence, .. } = message else {
                return None;
            };
            (*to == node(index)).then_some(*sequence)
        };
        self.sends.iter().filter_map(number).collect()
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        self.drain();
        while let Some(due) = self.core.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.core.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn run_until(&mut self, done: impl Fn(&Self) -> bool, limit: Duration) {
        let end = self.now + limit;
        self.drain();
        while !done(self) {
            let due = self
                .core
                .poll_timeout()
                .expect("there is somebody to watch");
            assert!(due <= end, "it did not happen within {limit:?}");
            self.now = self.now.max(due);
            self.core.handle_timeout(self.now);
            self.drain();
        }
    }
}

pub(super) fn node(index: usize) -> NodeId {
    const DIGITS: &[u8] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let digit = |place: u32| char::from(DIGITS[index / 58_usize.pow(place) % 58]);
    format!("12D3KooW{}{}{}", "1".repeat(42), digit(1), digit(0))
        .parse()
        .unwrap()
}

fn record(index: usize, generation: u64, version: u64) -> Record {
    Record {
        node: node(index),
        generation,
        version,
        addresses: Vec::new(),
        wireguard: Vec::new(),
        relays: Vec::new(),
        unreachable: Vec::new(),
        forwards: false,
    }
}

pub(super) fn keys(index: usize) -> Arc<dyn Keys> {
    Arc::new(SimulatedKeys(node(index)))
}

fn signed(index: usize, generation: u64, version: u64) -> Arc<SignedRecord> {
    SignedRecord::sign(record(index, generation, version), &*keys(index))
}

fn accuses(
    verdict: Verdict,
    subject: usize,
    incarnation: Incarnation,
    accuser: usize,
) -> Arc<Accusation> {
    let by = (node(accuser), &*keys(accuser));
    Accusation::sign(verdict, node(subject), incarnation, by, Pace::Lan)
}

pub(super) fn suspects(
    subject: usize,
    incarnation: Incarnation,
    accuser: usize,
) -> Arc<Accusation> {
    accuses(Verdict::Suspect, subject, incarnation, accuser)
}

fn condemns(subject: usize, incarnation: Incarnation, accuser: usize) -> Arc<Accusation> {
    accuses(Verdict::Dead, subject, incarnation, accuser)
}

pub(super) fn goodbye(subject: usize, incarnation: Incarnation) -> Update {
    Update::Left(Goodbye::sign(node(subject), incarnation, &*keys(subject)))
}
