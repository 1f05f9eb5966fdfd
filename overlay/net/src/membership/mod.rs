//! Drives the membership core over the network.
//!
//! Decides nothing about who is alive: it hands the core its inputs in the right order and carries
//! out what comes out. Inputs: messages, connections, the roster, the own addresses
//! and the overlay's own paths. Outputs:
//! messages, wanted connections, dial candidates, and a snapshot of all members.
//!
//! Invariants: messages that have arrived are handed in before a timer fires; what waits for a
//! peer is bounded and the latest wins.

mod keys;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    net::SocketAddr,
    ops::Deref,
    sync::Arc,
    time::Duration,
};

use consensus_core::{NetworkId, NodeId, Time};
use overlay_core::membership::{
    Condition, Member, Membership, Message, Output, Path, Record, wire,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

pub(crate) use self::keys::MeshKeys;
use crate::{
    channel::Channel,
    frame::FrameStream,
    letters::{Inbox, Letters},
    net::{Net, Source},
    peering::Connection,
};

/// Messages handed to the core between two looks at everything else.
const MESSAGES_AT_ONCE: usize = 256;
/// Shortest time between two snapshots: each copies every member.
const SNAPSHOT_GAP: Duration = Duration::from_millis(50);
/// Round-trip times and last-heard times change without being told; they are shown this fresh.
const SNAPSHOT_PERIOD: Duration = Duration::from_secs(1);
/// Every so many members make snapshots that much rarer: copying ten thousand takes milliseconds.
const SNAPSHOT_MEMBERS: usize = 1000;
/// How often a standstill is looked at.
const STANDSTILL_LOOK: Duration = Duration::from_millis(50);
/// How long goodbyes may take to leave.
const GOODBYE: Duration = Duration::from_millis(500);

/// Whom Raft has admitted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roster {
    /// The admitted nodes.
    pub nodes: BTreeSet<NodeId>,
    /// Orders the rings; agreed by Raft.
    pub salt: u64,
}

/// Where this node may be reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalAddresses {
    /// libp2p's addresses.
    pub addresses: Vec<SocketAddr>,
    /// WireGuard's endpoints, per network.
    pub wireguard: Vec<(NetworkId, Vec<SocketAddr>)>,
}

/// What this node says of its overlay's paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalPaths {
    /// The nodes that it does not reach straight, per network.
    pub unreachable: Vec<(NetworkId, Vec<NodeId>)>,
    /// Whether it passes on packets between others.
    pub forwards: bool,
}

/// What this node knows of the members. Reads like the map in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// All members by node, this one included.
    pub members: BTreeMap<NodeId, Member>,
    /// Whether so many fell silent at once that nobody may be pruned for it.
    pub pruning_frozen: bool,
}

impl Deref for Snapshot {
    type Target = BTreeMap<NodeId, Member>;

    fn deref(&self) -> &Self::Target {
        &self.members
    }
}

/// The latest snapshot.
pub type Members = Arc<Snapshot>;

/// What the driver listens to.
#[derive(Debug)]
pub struct Inputs {
    /// Raft's admitted set.
    pub roster: watch::Receiver<Roster>,
    /// This node's addresses.
    pub local: watch::Receiver<LocalAddresses>,
    /// This node's paths.
    pub paths: watch::Receiver<LocalPaths>,
    /// Inbound streams of [`crate::Channel::Membership`].
    pub streams: mpsc::Receiver<(NodeId, FrameStream)>,
}

/// Runs the core until `leave` resolves, says goodbye, and gives back the own record: its
/// generation must be kept for the next start.
///
/// The core's clock starts here: make it with [`Time::ZERO`]. Once its senders are gone, an input
/// keeps its last value.
pub async fn drive(
    net: Net,
    core: Membership,
    inputs: Inputs,
    members: watch::Sender<Members>,
    leave: impl Future<Output = ()> + Send,
) -> Record {
    let driver = Driver {
        letters: Letters::new(net.clone(), Channel::Membership),
        net,
        core,
        members,
        began: Instant::now(),
        connected: BTreeMap::new(),
        named: BTreeSet::new(),
        stale: true,
        published: None,
    };
    driver.run(inputs, leave).await
}

struct Driver {
    net: Net,
    core: Membership,
    letters: Letters,
    members: watch::Sender<Members>,
    began: Instant,
    /// Peers that the core holds connected.
    connected: BTreeMap<NodeId, Path>,
    /// Nodes whose addresses the network has from here.
    named: BTreeSet<NodeId>,
    /// Whether the snapshot is behind.
    stale: bool,
    published: Option<Instant>,
}

impl Driver {
    async fn run(mut self, inputs: Inputs, leave: impl Future<Output = ()> + Send) -> Record {
        let Inputs {
            mut roster,
            mut local,
            mut paths,
            mut streams,
        } = inputs;
        let mut connections = self.net.connections();
        let mut relays = self.net.relays();
        let mut inbox = Inbox::new(decode);
        let mut leave = std::pin::pin!(leave);
        roster.mark_changed();
        local.mark_changed();
        paths.mark_changed();
        connections.mark_changed();
        relays.mark_changed();
        loop {
            tokio::select! {
                biased;
                () = &mut leave => return self.leave().await,
                () = self.until_carried() => {}
            }
            self.hand_in(&mut inbox);
            self.fire_timers(&mut inbox).await;
            self.carry_out();
            let due = self.next_deadline();
            // Every arm is cancel-safe: channels and watches keep what was not taken. Messages
            // come last but for the clock, which has had its turn above: a flood starves nobody.
            tokio::select! {
                biased;
                () = &mut leave => return self.leave().await,
                Ok(()) = local.changed() => {
                    let LocalAddresses { addresses, wireguard } = local.borrow_and_update().clone();
                    self.core.handle_local(addresses, wireguard, self.now());
                    self.stale = true;
                }
                Ok(()) = paths.changed() => {
                    let LocalPaths { unreachable, forwards } = paths.borrow_and_update().clone();
                    self.core.handle_paths(unreachable, forwards, self.now());
                    self.stale = true;
                }
                Ok(()) = relays.changed() => {
                    let relays = relays.borrow_and_update().clone();
                    self.core.handle_relays(relays, self.now());
                    self.stale = true;
                }
                Ok(()) = roster.changed() => {
                    let Roster { nodes, salt } = roster.borrow_and_update().clone();
                    self.take_roster(nodes, salt);
                }
                Ok(()) = connections.changed() => {
                    let now = edges(&connections.borrow_and_update());
                    self.take_connections(now);
                }
                Some((from, stream)) = streams.recv() => inbox.accept(from, stream),
                Some((from, message)) = inbox.next() => {
                    self.core.handle_message(&from, message, self.now());
                }
                () = sleep_until(due) => {}
            }
        }
    }

    /// Stands still while nothing is carried: the core, called late, then knows that it was this
    /// node, and not the others.
    async fn until_carried(&self) {
        if !self.net.is_standing_still() {
            return;
        }
        let began = Instant::now();
        while self.net.is_standing_still() {
            sleep_until(Instant::now() + STANDSTILL_LOOK).await;
        }
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::warn!(ms, "connections were not served for a while");
    }

    /// Fires what is due, after the messages that have arrived.
    async fn fire_timers(&mut self, inbox: &mut Inbox<Message>) {
        let is_due = |core: &Membership, now| core.poll_timeout().is_some_and(|due| due <= now);
        if !is_due(&self.core, self.now()) {
            return;
        }
        // Readers that hold a message get to hand it over before anybody is judged.
        tokio::task::yield_now().await;
        self.hand_in(inbox);
        if is_due(&self.core, self.now()) {
            self.core.handle_timeout(self.now());
        }
    }

    fn now(&self) -> Time {
        Time::ZERO + self.began.elapsed()
    }

    fn next_deadline(&self) -> Instant {
        let core = self
            .core
            .poll_timeout()
            .map(|due| self.began + Duration::from_micros(due.as_micros()));
        let gap = self.snapshot_gap();
        let snapshot = self.published.map_or(self.began, |last| last + gap);
        core.map_or(snapshot, |core| core.min(snapshot))
    }

    /// How long the next snapshot waits for the last one.
    fn snapshot_gap(&self) -> Duration {
        let gap = if self.stale {
            SNAPSHOT_GAP
        } else {
            SNAPSHOT_PERIOD
        };
        let factor = self.core.rings().len() / SNAPSHOT_MEMBERS + 1;
        gap * u32::try_from(factor).unwrap_or(u32::MAX)
    }

    fn hand_in(&mut self, inbox: &mut Inbox<Message>) {
        for _ in 0..MESSAGES_AT_ONCE {
            let Some((from, message)) = inbox.try_next() else {
                return;
            };
            self.core.handle_message(&from, message, self.now());
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::Send { to, message } => {
                    self.letters.post(to, wire::v1::encode(&message));
                }
                Output::Neighbours(neighbours) => self.net.want(Source::Membership, neighbours),
                Output::Changed { node, condition } => self.on_changed(node, condition),
            }
        }
        let now = Instant::now();
        let gap = self.snapshot_gap();
        if self.published.is_none_or(|last| last + gap <= now) {
            self.publish(now);
        }
    }

    fn publish(&mut self, now: Instant) {
        let members = self
            .core
            .members()
            .map(|member| (member.record.node.clone(), member))
            .collect();
        let pruning_frozen = self.core.frozen_since().is_some();
        if pruning_frozen != self.members.borrow().pruning_frozen {
            tracing::warn!(pruning_frozen, "many members fell silent, or are back");
        }
        let snapshot = Snapshot {
            members,
            pruning_frozen,
        };
        self.members.send_replace(Arc::new(snapshot));
        self.published = Some(now);
        self.stale = false;
    }

    fn on_changed(&mut self, node: NodeId, condition: Condition) {
        tracing::info!(%node, ?condition, "member changed");
        self.stale = true;
        if let Some(member) = self.core.member(&node)
            && node != *self.net.node()
            && !(member.record.addresses.is_empty() && member.record.relays.is_empty())
        {
            let Record {
                addresses, relays, ..
            } = member.record.record.clone();
            self.named.insert(node.clone());
            self.net.set_relays_of(node.clone(), relays);
            self.net.note_addresses(node, Source::Membership, addresses);
        }
    }

    fn take_roster(&mut self, nodes: BTreeSet<NodeId>, salt: u64) {
        for gone in self.named.extract_if(.., |node| !nodes.contains(node)) {
            self.net.set_relays_of(gone.clone(), Vec::new());
            self.net
                .note_addresses(gone, Source::Membership, Vec::new());
        }
        self.core.handle_roster(nodes, salt, self.now());
        self.stale = true;
    }

    fn take_connections(&mut self, connected: BTreeMap<NodeId, Path>) {
        let now = self.now();
        for peer in self.connected.keys() {
            if !connected.contains_key(peer) {
                self.core.handle_disconnected(peer, now);
            }
        }
        for (peer, path) in &connected {
            let before = self.connected.get(peer);
            if before.is_none() {
                self.core.handle_connected(peer, now);
            }
            if before != Some(path) {
                self.core.handle_path(peer, *path);
            }
        }
        self.connected = connected;
    }

    async fn leave(mut self) -> Record {
        self.core.handle_leave(self.now());
        self.carry_out();
        self.publish(Instant::now());
        self.letters.deliver(GOODBYE).await;
        self.net.want(Source::Membership, BTreeSet::new());
        self.core.record().clone()
    }
}

fn decode(letter: &[u8]) -> Result<Message, String> {
    wire::v1::decode(letter).map_err(|error| format!("{}: {error}", error.code()))
}

/// The connections that are there to stay. Gossip goes over them alone: over others it would keep
/// them from ending, until everybody is connected to everybody.
fn edges(connections: &BTreeMap<NodeId, Connection>) -> BTreeMap<NodeId, Path> {
    let kept = connections.iter().filter(|(_, connection)| connection.kept);
    kept.map(|(node, connection)| {
        let path = match connection.path {
            crate::Path::Direct { .. } => Path::Direct,
            crate::Path::Relayed { .. } => Path::Relayed,
        };
        (node.clone(), path)
    })
    .collect()
}
