//! Claims about one node of a large mesh, of a mesh of several sites, and of one in which many
//! fall at once.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use consensus_core::{NodeId, Time};

use super::{
    rings::Way,
    tests::{goodbye, keys, node, suspects},
    *,
};

const INITIAL: Incarnation = Incarnation {
    generation: 1,
    version: 0,
};

#[test]
fn above_the_limit_an_edge_that_brings_only_what_is_known_turns_lazy() {
    let mut one = Large::of(100);
    let [first, second] = one.peers();
    let news = goodbye(first.0, INITIAL);
    one.gossip(&second.1, vec![news.clone()]);
    one.sent.clear();
    one.gossip(&first.1, vec![news]);
    assert_eq!(one.sent, [(first.1.clone(), Message::Prune)]);
    one.sent.clear();
    one.gossip(&second.1, vec![goodbye(second.0, INITIAL)]);
    let pushed = one.sent.iter().filter(|(to, _)| *to == first.1);
    assert_eq!(pushed.count(), 0, "nothing is pushed over it");
    one.run(Duration::from_millis(150));
    let named = one.sent.iter().find_map(|(to, message)| {
        if let (true, Message::Have { facts }) = (*to == first.1, message) {
            Some(facts.clone())
        } else {
            None
        }
    });
    let id = goodbye(second.0, INITIAL).id();
    assert!(
        named.is_some_and(|facts| facts.contains(&id)),
        "it is named"
    );
}

#[test]
fn some_edges_stay_eager_whatever_they_bring() {
    let mut one = Large::of(100);
    let peers: Vec<NodeId> = one.core.neighbours().into_iter().collect();
    let news = goodbye(one.stranger(), INITIAL);
    for peer in &peers {
        one.gossip(peer, vec![news.clone()]);
    }
    let pruned = one
        .sent
        .iter()
        .filter(|(_, message)| *message == Message::Prune);
    assert_eq!(pruned.count(), peers.len() - 4);
}

#[test]
fn a_fact_that_was_named_and_did_not_come_is_asked_for_once() {
    let mut one = Large::of(100);
    let [first, second] = one.peers();
    let id = goodbye(one.stranger(), INITIAL).id();
    for peer in [&first.1, &second.1] {
        let have = Message::Have { facts: vec![id] };
        one.core.handle_message(peer, have, one.now);
    }
    one.run(Duration::from_secs(1));
    let grafts: Vec<_> = one
        .sent
        .iter()
        .filter(|(_, m)| matches!(m, Message::Graft { .. }))
        .collect();
    assert_eq!(grafts, [&(first.1, Message::Graft { facts: vec![id] })]);
}

#[test]
fn who_asks_for_a_fact_gets_it_and_later_ones_unasked() {
    let mut one = Large::of(100);
    let [first, second] = one.peers();
    let news = goodbye(one.stranger(), INITIAL);
    one.gossip(&second.1, vec![news.clone()]);
    one.core.handle_message(&first.1, Message::Prune, one.now);
    one.now = one.now + Duration::from_secs(1);
    one.sent.clear();
    let graft = Message::Graft {
        facts: vec![news.id()],
    };
    one.core.handle_message(&first.1, graft, one.now);
    one.drain();
    let updates = vec![news];
    let answer = (first.1.clone(), Message::Gossip { updates });
    assert!(one.sent.contains(&answer));
    one.sent.clear();
    one.gossip(&second.1, vec![goodbye(second.0, INITIAL)]);
    assert!(one.sent.iter().any(|(to, _)| *to == first.1));
}

#[test]
fn a_small_mesh_knows_no_lazy_edges() {
    let mut one = Large::of(30);
    let [first, second] = one.peers();
    for peer in [first.1, second.1] {
        one.gossip(&peer, vec![goodbye(one.stranger(), INITIAL)]);
    }
    assert!(
        one.sent
            .iter()
            .all(|(_, message)| *message != Message::Prune)
    );
    assert_eq!(one.core.load().facts, 0);
}

#[test]
fn an_observer_signs_a_death_that_no_observer_of_today_has_signed() {
    let mut one = Large::of(40);
    let own = one.core.own_seat.unwrap();
    let target = *one.core.targets.first().unwrap();
    // Its only witness dies with it.
    let witness = one
        .core
        .rings
        .walk(target, 0, Way::Backward)
        .find(|seat| *seat != own)
        .unwrap();
    for dead in [witness, target] {
        let word = Update::Dead(condemned(&one, dead, own));
        one.core.learn(dead, word, None, one.now);
        one.core.settle(one.now);
    }
    one.drain();
    assert!(one.core.has_evidence(target));
    let shown: BTreeSet<_> = one
        .sent
        .iter()
        .flat_map(|(_, m)| m.updates().to_vec())
        .filter_map(|update| {
            let (verdict, word) = update.accusation()?;
            (verdict == Verdict::Dead).then(|| (word.subject.clone(), word.accuser.clone()))
        })
        .collect();
    assert!(shown.contains(&(one.core.rings.node(target).clone(), node(0))));
}

#[test]
fn a_relayed_edge_has_wan_timers_and_direct_ones_keep_theirs() {
    let mut one = Large::of(10);
    one.core.handle_path(&node(3), Path::Relayed);
    one.answering = false;
    one.run(Duration::from_millis(2400));
    assert_eq!(one.condition(4), Condition::Suspect);
    assert_eq!(
        one.condition(3),
        Condition::Alive,
        "it has a second to answer directly"
    );
    one.run(Duration::from_secs(7));
    assert_eq!(one.condition(4), Condition::Dead);
    assert_eq!(
        one.condition(3),
        Condition::Suspect,
        "it has ten seconds to refute"
    );
}

#[test]
fn a_node_that_is_reached_through_relays_is_watched_by_wan_timers_by_everybody() {
    let mut one = Large::of(10);
    let mut told = record(3);
    (told.version, told.relays) = (1, vec![node(5)]);
    one.hears(3, Update::Alive(SignedRecord::sign(told, &*keys(3))));
    let seat = |index| one.core.rings.seat(&node(index)).unwrap();
    assert_eq!(one.core.pace(seat(3)), Pace::Wan);
    assert_eq!(one.core.pace(seat(4)), Pace::Lan);
}

#[test]
fn a_suspicion_lasts_by_the_timers_of_its_fastest_accuser() {
    let slow = |accuser: usize| {
        let by = (node(accuser), &*keys(accuser));
        Update::Suspect(Accusation::sign(
            Verdict::Suspect,
            node(2),
            INITIAL,
            by,
            Pace::Wan,
        ))
    };
    let mut one = Large::of(10);
    for accuser in 3..7 {
        one.hears(3, slow(accuser));
    }
    one.run(Duration::from_secs(9));
    assert_eq!(
        one.condition(2),
        Condition::Suspect,
        "ten seconds over slow edges"
    );
    one.hears(3, Update::Suspect(suspects(2, INITIAL, 8)));
    let mut mixed = Large::of(10);
    for accuser in 3..6 {
        mixed.hears(3, slow(accuser));
    }
    mixed.hears(3, Update::Suspect(suspects(2, INITIAL, 8)));
    mixed.run(Duration::from_secs(4));
    assert_eq!(mixed.condition(2), Condition::Dead);
}

#[test]
fn a_mass_of_suspicions_freezes_pruning_until_most_are_back() {
    let mut one = Large::of(20);
    for index in 2..7 {
        one.hears(
            1,
            Update::Suspect(suspects(index, INITIAL, one.observer(index))),
        );
    }
    assert_eq!(one.core.frozen_since(), None, "a quarter");
    one.hears(1, Update::Suspect(suspects(7, INITIAL, one.observer(7))));
    assert_eq!(one.core.frozen_since(), Some(one.now));
    let mut back = record(7);
    back.version = 1;
    one.hears(7, Update::Alive(SignedRecord::sign(back, &*keys(7))));
    assert_eq!(one.core.frozen_since(), None);
}

#[test]
fn a_member_nobody_complains_of_costs_three_words() {
    assert_eq!(size_of::<table::Entry>(), 3 * size_of::<u64>());
}

fn condemned(one: &Large, dead: Seat, by: Seat) -> Arc<Accusation> {
    let rings = &one.core.rings;
    let accuser = rings.node(by).clone();
    let signer = SimulatedKeys(accuser.clone());
    let subject = rings.node(dead).clone();
    Accusation::sign(
        Verdict::Dead,
        subject,
        INITIAL,
        (accuser, &signer),
        Pace::Lan,
    )
}

/// Node 0 of a mesh in which all others are known and its neighbours connected.
struct Large {
    core: Membership,
    now: Time,
    answering: bool,
    sent: Vec<(NodeId, Message)>,
}

impl Large {
    /// Lazy above fifty members.
    fn of(count: usize) -> Self {
        let now = Time::from_micros(1_000_000);
        let settings = Settings {
            lazy_above: 50,
            ..Settings::lan()
        };
        let mut core = Membership::new(record(0), keys(0), settings, 3, now);
        core.handle_roster((0..count).map(node).collect(), 5, now);
        let known: Vec<_> = (0..count)
            .map(|n| SignedRecord::sign(record(n), &*keys(n)))
            .collect();
        core.handle_known(&known, now);
        for peer in core.neighbours() {
            core.handle_connected(&peer, now);
        }
        let mut one = Self {
            core,
            now,
            answering: true,
            sent: Vec::new(),
        };
        one.drain();
        one.sent.clear();
        one
    }

    /// Two neighbours, with their numbers.
    fn peers(&self) -> [(usize, NodeId); 2] {
        let peers = self.core.neighbours();
        let mut numbered = (1..1000)
            .map(|n| (n, node(n)))
            .filter(|(_, id)| peers.contains(id));
        [(); 2].map(|()| numbered.next().unwrap())
    }

    /// The number of a member that is no neighbour.
    fn stranger(&self) -> usize {
        let peers = self.core.neighbours();
        (1..1000)
            .find(|n| !peers.contains(&node(*n)) && self.core.rings.seat(&node(*n)).is_some())
            .unwrap_or(1)
    }

    /// The number of one that observes that member and is neither suspect nor the speaker.
    fn observer(&self, index: usize) -> usize {
        let seat = |n: usize| self.core.rings.seat(&node(n)).unwrap();
        let fits = |n: &usize| self.core.observes(seat(*n), seat(index));
        (8..20).find(fits).unwrap()
    }

    fn gossip(&mut self, from: &NodeId, updates: Vec<Update>) {
        let gossip = Message::Gossip { updates };
        self.core.handle_message(from, gossip, self.now);
        self.drain();
    }

    fn hears(&mut self, from: usize, update: Update) {
        self.gossip(&node(from), vec![update]);
    }

    fn condition(&self, index: usize) -> Condition {
        self.core.member(&node(index)).unwrap().condition
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(due) = self.core.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.core.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn drain(&mut self) {
        while let Some(output) = self.core.poll_output() {
            if let Output::Send { to, message } = output {
                if let (true, Message::Ping { sequence, .. }) = (self.answering, &message) {
                    let updates = Vec::new();
                    let ack = Message::Ack {
                        sequence: *sequence,
                        updates,
                    };
                    self.core.handle_message(&to, ack, self.now);
                } else {
                    self.sent.push((to, message));
                }
            }
        }
    }
}

fn record(index: usize) -> Record {
    Record {
        generation: 1,
        ..Record::unheard(node(index))
    }
}
