//! One honest member, the hostile one, and the rest of a quiet mesh.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use consensus_core::{NodeId, Time};
use overlay_core::membership::{
    Accusation, Condition, Goodbye, Incarnation, Keys, Member, Membership, Message, Output, Pace,
    Record, Rings, Settings, SignedRecord, SimulatedKeys, Update, Verdict, wire::v1,
};

/// The honest member.
pub(crate) const HONEST: usize = 0;
/// The hostile one.
pub(crate) const HOSTILE: usize = 1;
/// Where all members begin.
pub(crate) const BEGIN: Incarnation = Incarnation {
    generation: 1,
    version: 0,
};

/// The honest member's core; everybody answers its pings.
pub(crate) struct Mesh {
    pub(crate) core: Membership,
    pub(crate) now: Time,
    count: usize,
    /// What the core sent since it was last asked.
    pub(crate) sent: Vec<(NodeId, Message)>,
}

impl Mesh {
    /// All are known, alive and connected to the honest member.
    pub(crate) fn of(count: usize) -> Self {
        let now = Time::from_micros(1_000_000);
        let core = Membership::new(record(HONEST), keys(HONEST), Settings::lan(), 7, now);
        let mut mesh = Self {
            core,
            now,
            count,
            sent: Vec::new(),
        };
        mesh.admit(0..count);
        for index in 1..count {
            mesh.core.handle_connected(&node(index), mesh.now);
            mesh.hears_from(index, vec![Update::Alive(signed(record(index)))]);
        }
        mesh.drain();
        mesh.sent.clear();
        mesh
    }

    pub(crate) fn admit(&mut self, members: impl IntoIterator<Item = usize>) {
        let agreed = members.into_iter().map(node).collect();
        self.core.handle_roster(agreed, 1, self.now);
        self.drain();
    }

    pub(crate) fn hears_from(&mut self, from: usize, updates: Vec<Update>) {
        self.receives(from, &Message::Gossip { updates });
        self.drain();
    }

    /// Takes a message in as it comes: as bytes.
    pub(crate) fn receives(&mut self, from: usize, message: &Message) {
        let message = v1::decode(&v1::encode(message)).expect("it is within the limits");
        self.core.handle_message(&node(from), message, self.now);
    }

    /// The hostile member says it.
    pub(crate) fn is_told(&mut self, update: Update) {
        self.hears_from(HOSTILE, vec![update]);
    }

    pub(crate) fn member(&self, index: usize) -> Member {
        self.core.member(&node(index)).expect("it is a member")
    }

    pub(crate) fn condition(&self, index: usize) -> Condition {
        self.member(index).condition
    }

    /// Facts sent to a member since last asked.
    pub(crate) fn told(&self, to: usize) -> Vec<Update> {
        let to = node(to);
        let sent = self.sent.iter().filter(|(receiver, _)| *receiver == to);
        sent.flat_map(|(_, message)| message.updates().to_vec())
            .collect()
    }

    /// A member other than the first two that `observer` observes, or does not.
    pub(crate) fn subject_of(&self, observer: usize, observed: bool) -> usize {
        let agreed: BTreeSet<NodeId> = (0..self.count).map(node).collect();
        let rings = Arc::new(Rings::new(&agreed, 1));
        let mut watcher = Membership::new(
            record(observer),
            keys(observer),
            Settings::lan(),
            9,
            self.now,
        );
        watcher.handle_rings(Arc::clone(&rings), self.now);
        watcher.handle_known(
            &(0..self.count)
                .map(|index| signed(record(index)))
                .collect::<Vec<_>>(),
            self.now,
        );
        // Whom it probes within a period is whom it observes.
        let mut probed = BTreeSet::new();
        let end = self.now + Duration::from_secs(2);
        while let Some(due) = watcher.poll_timeout().filter(|due| *due < end) {
            watcher.handle_timeout(due);
            while let Some(output) = watcher.poll_output() {
                if let Output::Send {
                    to,
                    message: Message::Ping { .. },
                } = output
                {
                    probed.insert(to);
                }
            }
        }
        let mut others = (2..self.count).filter(|index| *index != observer);
        others
            .find(|index| probed.contains(&node(*index)) == observed)
            .expect("the mesh is large enough for both")
    }

    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(due) = self.core.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.core.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    pub(crate) fn drain(&mut self) {
        while let Some(output) = self.core.poll_output() {
            if let Output::Send { to, message } = output {
                if let Message::Ping { sequence, .. } = &message {
                    let ack = Message::Ack {
                        sequence: *sequence,
                        updates: Vec::new(),
                    };
                    self.core.handle_message(&to, ack, self.now);
                }
                self.sent.push((to, message));
            }
        }
    }
}

pub(crate) fn node(index: usize) -> NodeId {
    const DIGITS: &[u8] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let digit = |place: u32| char::from(DIGITS[index / 58_usize.pow(place) % 58]);
    let text = format!("12D3KooW{}{}{}", "1".repeat(42), digit(1), digit(0));
    text.parse().expect("52 characters of base58")
}

pub(crate) fn keys(index: usize) -> Arc<dyn Keys> {
    Arc::new(SimulatedKeys(node(index)))
}

pub(crate) fn record(index: usize) -> Record {
    Record {
        node: node(index),
        generation: BEGIN.generation,
        version: BEGIN.version,
        addresses: vec![format!("10.0.0.{index}:4001").parse().expect("an address")],
        wireguard: Vec::new(),
        relays: Vec::new(),
        unreachable: Vec::new(),
        forwards: false,
    }
}

/// In its subject's own name.
pub(crate) fn signed(record: Record) -> Arc<SignedRecord> {
    let keys = SimulatedKeys(record.node.clone());
    SignedRecord::sign(record, &keys)
}

/// In `accuser`'s name, with `signer`'s key.
pub(crate) fn accuses(
    verdict: Verdict,
    subject: usize,
    incarnation: Incarnation,
    accuser: usize,
    signer: usize,
) -> Update {
    let by = (node(accuser), &*keys(signer));
    let accusation = Accusation::sign(verdict, node(subject), incarnation, by, Pace::Lan);
    match verdict {
        Verdict::Suspect => Update::Suspect(accusation),
        Verdict::Dead => Update::Dead(accusation),
    }
}

/// In `subject`'s name, with `signer`'s key.
pub(crate) fn goodbye(subject: usize, incarnation: Incarnation, signer: usize) -> Update {
    Update::Left(Goodbye::sign(node(subject), incarnation, &*keys(signer)))
}
