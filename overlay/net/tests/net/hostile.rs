//! What a member with a valid certificate can do to the others: letters of its own making, over real
//! connections, below which stand real signatures.
//!
//! More of the same, message by message, is in `overlay/core/tests/hostile.rs`.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use consensus_core::NodeId;
use overlay_core::membership::{
    Accusation, Condition, Goodbye, Incarnation, Keys, Message, Pace, Record, Sequence, Settings,
    SignedRecord, UPDATES_MAX, Update, Verdict, wire::v1,
};
use overlay_net::{Channel, FrameStream, NodeKey, membership::Roster};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use crate::{
    authority::Authority,
    living::{Living, holds, live},
    nodes::{Node, PATIENCE, until},
};

/// Nobody is known to be there.
const ELSEWHERE: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1)),
    4001,
);

/// Two honest members, a hostile one, and one that is a member by name only.
struct Stage {
    honest: Living,
    victim: Living,
    hostile: Hostile,
    absent: Node,
    roster: watch::Sender<Roster>,
}

/// A member whose letters are written by hand.
struct Hostile {
    node: Node,
    letters: FrameStream,
    streams: mpsc::Receiver<(NodeId, FrameStream)>,
    answers: Option<FrameStream>,
    sequence: u64,
}

impl Stage {
    async fn set() -> Self {
        let authority = Authority::new(1);
        let mut nodes: Vec<Node> = (0..4)
            .map(|_| Node::start(&authority, &NodeKey::generate()))
            .collect();
        let ids: BTreeSet<NodeId> = nodes.iter().map(|node| node.id.clone()).collect();
        let (roster, _) = watch::channel(Roster {
            nodes: ids,
            salt: 7,
        });
        let absent = nodes.pop().unwrap();
        let mut hostile = nodes.pop().unwrap();
        let (one, other) = (&nodes[0], &nodes[1]);
        one.knows(other);
        other.knows(one);
        // Nobody else dials: of two connections one would be closed, and the letters with it.
        hostile.knows(one);
        let [honest, victim] = <[Node; 2]>::try_from(nodes).ok().unwrap();
        let honest = live(honest, &roster, Settings::lan(), 1);
        let victim = live(victim, &roster, Settings::lan(), 2);
        let letters = hostile.net.open(&honest.node.id, Channel::Membership);
        let hostile = Hostile {
            letters: letters.await.unwrap(),
            streams: hostile.incoming.take_streams(Channel::Membership).unwrap(),
            node: hostile,
            answers: None,
            sequence: 0,
        };
        let stage = Self {
            honest,
            victim,
            hostile,
            absent,
            roster,
        };
        until("both have heard of each other", async || {
            let (honest, victim) = (&stage.honest, &stage.victim);
            holds(honest, &victim.node.id, Condition::Alive)
                && holds(victim, &honest.node.id, Condition::Alive)
        })
        .await;
        stage
    }

    /// The honest member is told, and shows what it makes of it.
    async fn tell(&mut self, updates: Vec<Update>) {
        self.hostile.says(updates).await;
        let shown = self.honest.members.clone();
        timeout(PATIENCE, next(shown)).await.expect("it goes on");
    }

    /// What the honest member holds of another.
    fn held(&self, of: &NodeId) -> Option<(Condition, Record)> {
        let members = self.honest.members.borrow();
        let member = members.get(of)?;
        Some((member.condition, member.record.record.clone()))
    }

    fn of_victim(&self) -> (Condition, Record) {
        self.held(&self.victim.node.id).unwrap()
    }
}

impl Hostile {
    /// Tells the honest member, and waits until that has heard it.
    async fn says(&mut self, updates: Vec<Update>) {
        self.sends(&Message::Gossip { updates }).await;
        self.sequence += 1;
        let sequence = Sequence(self.sequence);
        let updates = Vec::new();
        self.sends(&Message::Ping { sequence, updates }).await;
        let heard = timeout(PATIENCE, self.hears_ack(sequence)).await;
        heard.expect("the honest member answers");
    }

    async fn sends(&mut self, message: &Message) {
        self.letters.send(v1::encode(message)).await.unwrap();
    }

    async fn hears_ack(&mut self, awaited: Sequence) {
        loop {
            let Some(stream) = &mut self.answers else {
                self.answers = Some(self.streams.recv().await.unwrap().1);
                continue;
            };
            let Some(letter) = stream.next().await else {
                self.answers = None;
                continue;
            };
            let message = v1::decode(&letter).unwrap();
            if matches!(message, Message::Ack { sequence, .. } if sequence == awaited) {
                return;
            }
        }
    }

    fn keys(&self) -> Arc<dyn Keys> {
        self.node.net.membership_keys()
    }

    /// With its own key.
    fn goodbye_of(&self, other: &Record) -> Update {
        let keys = self.keys();
        Update::Left(Goodbye::sign(
            other.node.clone(),
            other.incarnation(),
            &*keys,
        ))
    }

    /// With its own key, in whosever name.
    fn accuses(&self, verdict: Verdict, subject: &Record, accuser: &NodeId) -> Update {
        let keys = self.keys();
        let by = (accuser.clone(), &*keys);
        let at = subject.incarnation();
        let accusation = Accusation::sign(verdict, subject.node.clone(), at, by, Pace::Lan);
        match verdict {
            Verdict::Suspect => Update::Suspect(accusation),
            Verdict::Dead => Update::Dead(accusation),
        }
    }
}

/// Waits for what is shown after this.
async fn next<T>(mut shown: watch::Receiver<T>) {
    shown.mark_unchanged();
    shown.changed().await.unwrap();
}

fn plain(node: &NodeId, generation: u64) -> Record {
    Record {
        node: node.clone(),
        generation,
        version: 0,
        addresses: vec![ELSEWHERE],
        wireguard: Vec::new(),
        relays: Vec::new(),
        unreachable: Vec::new(),
        forwards: false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_cannot_forge_accusations_past_its_own() {
    let mut stage = Stage::set().await;
    let (_, before) = stage.of_victim();
    let own = stage.hostile.node.id.clone();
    let accusation = stage.hostile.accuses(Verdict::Suspect, &before, &own);
    stage.tell(vec![accusation]).await;
    until("its own counts, and is refuted", async || {
        let (condition, record) = stage.of_victim();
        condition == Condition::Alive && record.incarnation() > before.incarnation()
    })
    .await;

    // Whose forgery was found out is not listened to for a minute: each needs a stage of its own.
    for kind in 0..3 {
        let mut stage = Stage::set().await;
        let (_, before) = stage.of_victim();
        let forged = match kind {
            0 => stage.hostile.goodbye_of(&before),
            1 => (stage.hostile).accuses(Verdict::Suspect, &before, &stage.absent.id),
            _ => (stage.hostile).accuses(Verdict::Dead, &before, &stage.honest.node.id),
        };
        stage.tell(vec![forged]).await;
        assert_eq!(stage.of_victim(), (Condition::Alive, before), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_cannot_resurrect_a_removed_node() {
    let mut stage = Stage::set().await;
    let removed = stage.absent.id.clone();
    let keys = stage.absent.net.membership_keys();
    let word = |generation| Update::Alive(SignedRecord::sign(plain(&removed, generation), &*keys));
    stage.tell(vec![word(1)]).await;
    let held = stage.held(&removed);
    assert_eq!(held, Some((Condition::Alive, plain(&removed, 1))));

    stage.roster.send_modify(|roster| {
        roster.nodes.remove(&removed);
    });
    until("it is removed", async || stage.held(&removed).is_none()).await;
    stage.tell(vec![word(1), word(50)]).await;
    assert_eq!(stage.held(&removed), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_cannot_poison_addresses_of_others() {
    let mut stage = Stage::set().await;
    let own = plain(&stage.hostile.node.id, 1);
    let signed = SignedRecord::sign(own.clone(), &*stage.hostile.keys());
    stage.tell(vec![Update::Alive(signed)]).await;
    let held = stage.held(&own.node);
    assert_eq!(held, Some((Condition::Alive, own)), "its own are its own");

    for bent in [false, true] {
        let mut stage = Stage::set().await;
        let before = stage.of_victim();
        let version = before.1.version + 9;
        let lie = if bent {
            let later = Record {
                version,
                ..before.1.clone()
            };
            let keys = stage.victim.node.net.membership_keys();
            let mut bent = SignedRecord::clone(&SignedRecord::sign(later, &*keys));
            bent.record.addresses = vec![ELSEWHERE];
            Arc::new(bent)
        } else {
            let poisoned = Record {
                version,
                ..plain(&before.1.node, before.1.generation)
            };
            SignedRecord::sign(poisoned, &*stage.hostile.keys())
        };
        stage.tell(vec![Update::Alive(lie)]).await;
        assert_eq!(stage.of_victim(), before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_cannot_make_memory_grow_by_speaking_of_ever_more() {
    let mut stage = Stage::set().await;
    let members = stage.honest.members.borrow().len();
    for _ in 0..40 {
        let keys = stage.hostile.keys();
        let strangers = (0..UPDATES_MAX).map(|_| {
            let stranger = plain(&NodeKey::generate().node_id(), 1);
            Update::Alive(SignedRecord::sign(stranger, &*keys))
        });
        stage.hostile.says(strangers.collect()).await;
    }
    stage.tell(Vec::new()).await;
    assert_eq!(stage.honest.members.borrow().len(), members);

    let before = stage.of_victim();
    let unheard = Incarnation {
        generation: u64::MAX,
        version: u64::MAX,
    };
    let future = Record {
        generation: unheard.generation,
        version: unheard.version,
        ..before.1.clone()
    };
    let own = stage.hostile.node.id.clone();
    for _ in 0..40 {
        let accusation = stage.hostile.accuses(Verdict::Dead, &future, &own);
        stage.hostile.says(vec![accusation; UPDATES_MAX]).await;
    }
    stage.tell(Vec::new()).await;
    assert_eq!(stage.of_victim(), before);

    // More in one letter than a letter may hold is not read at all, and ends the stream.
    let own = SignedRecord::sign(plain(&own, 1), &*stage.hostile.keys());
    let updates = vec![Update::Alive(own); UPDATES_MAX + 1];
    stage.hostile.sends(&Message::Gossip { updates }).await;
    let prune = v1::encode(&Message::Prune);
    let speaks_on = async { while stage.hostile.letters.send(prune.clone()).await.is_ok() {} };
    let ended = timeout(PATIENCE, speaks_on).await;
    ended.expect("the honest member listens no more");
    assert_eq!(
        stage.held(&stage.hostile.node.id).unwrap().0,
        Condition::Unknown
    );
}
