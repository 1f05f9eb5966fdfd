//! Several servers in one process, joined by links that a test can cut.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use consensus_core::{LogIndex, NodeId, RaftId};
use consensus_raft::{
    Agreement, Carrier, CarrierError, Lane, Machine, OpenError, RaftStatus, Removed, Role,
    Settings, Timers,
};
use futures::future::BoxFuture;
use tempfile::TempDir;
use tokio::sync::{Semaphore, watch};

/// Long enough for anything that happens at all, on a busy machine with a slow disk.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// Patient enough for a machine that is busy with other tests. Elections still take a moment.
pub(crate) const PATIENT: Timers = Timers {
    heartbeat: Duration::from_millis(50),
    election_min: Duration::from_millis(500),
    election_max: Duration::from_millis(1000),
    snapshot_ttl: Duration::from_secs(300),
};
/// For tests in which a leader must stay and yet fail to agree on something, for which it takes ten
/// times as long as an election.
pub(crate) const CALM: Timers = Timers {
    heartbeat: Duration::from_millis(50),
    election_min: Duration::from_millis(1500),
    election_max: Duration::from_secs(3),
    ..PATIENT
};
/// For tests in which the leader must stay the same whatever else the machine does.
pub(crate) const STEADY: Timers = Timers {
    heartbeat: Duration::from_millis(100),
    election_min: Duration::from_secs(4),
    election_max: Duration::from_secs(8),
    ..PATIENT
};

/// Keeps every entry, in order; the answer to an entry is its position. An entry that begins
/// with [`SLOT`] takes the place of the one with the same second byte, so that the log grows
/// and the state does not.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub(crate) struct Ledger(pub(crate) Vec<Vec<u8>>);

/// See [`Ledger`].
pub(crate) const SLOT: u8 = b'=';

impl Machine for Ledger {
    fn apply(&mut self, _: LogIndex, entry: &[u8]) -> Vec<u8> {
        let same = |old: &Vec<u8>| entry.first() == Some(&SLOT) && old.get(..2) == entry.get(..2);
        match self.0.iter().position(same) {
            Some(at) => self.0[at] = entry.to_vec(),
            None => self.0.push(entry.to_vec()),
        }
        self.0.len().to_string().into_bytes()
    }

    fn encode(&self) -> Vec<u8> {
        let framed = |entry: &Vec<u8>| {
            let length = u32::try_from(entry.len()).unwrap();
            [&length.to_be_bytes(), entry.as_slice()].concat()
        };
        self.0.iter().flat_map(framed).collect()
    }

    fn decode(mut bytes: &[u8]) -> Result<Self, String> {
        let mut entries = Vec::new();
        while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap();
            let (entry, rest) = rest.split_at_checked(length).ok_or("it is cut off")?;
            entries.push(entry.to_vec());
            bytes = rest;
        }
        let whole = bytes.is_empty().then_some(Self(entries));
        whole.ok_or_else(|| "it is cut off".to_owned())
    }
}

/// What happens to the messages on the snapshot lane, from the next one on.
#[derive(Default)]
pub(crate) struct SnapshotLane {
    /// Pieces that arrived.
    pub(crate) pieces: watch::Sender<usize>,
    /// The last piece's message.
    pub(crate) last: Option<(NodeId, Vec<u8>)>,
    /// Pieces, counted from the first, that are lost on their way.
    pub(crate) lost: BTreeSet<usize>,
    /// Pieces, counted from the first, whose answer is lost.
    pub(crate) unanswered: BTreeSet<usize>,
    /// Messages that are still lost after a lost one.
    pub(crate) silent: usize,
    sent: usize,
}

/// Messages on the snapshot lane that are longer carry a piece.
const OFFER_BYTES_MAX: usize = 4096;

struct Links {
    servers: BTreeMap<NodeId, Agreement<Ledger>>,
    cut_off: BTreeSet<NodeId>,
    /// They are heard and hear nobody.
    deafened: BTreeSet<NodeId>,
    lane: SnapshotLane,
    /// Every piece takes one; given back never.
    pieces_let_through: Arc<Semaphore>,
    silent_left: usize,
}

impl Default for Links {
    fn default() -> Self {
        Self {
            servers: BTreeMap::new(),
            cut_off: BTreeSet::new(),
            deafened: BTreeSet::new(),
            lane: SnapshotLane::default(),
            pieces_let_through: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            silent_left: 0,
        }
    }
}

impl Links {
    /// Whether a message on the snapshot lane gets there, and whether its answer comes back.
    fn carry(&mut self, piece: bool) -> (bool, bool) {
        if self.silent_left > 0 {
            self.silent_left -= 1;
            return (false, false);
        }
        if !piece {
            return (true, true);
        }
        self.lane.sent += 1;
        let there = !self.lane.lost.remove(&self.lane.sent);
        let back = there && !self.lane.unanswered.remove(&self.lane.sent);
        if !back {
            self.silent_left = self.lane.silent;
        }
        (there, back)
    }
}

/// The links and the disks.
pub(crate) struct Mesh {
    links: Arc<Mutex<Links>>,
    disks: BTreeMap<u64, TempDir>,
    timers: Timers,
}

/// One server's end of the links.
struct Post {
    own: NodeId,
    links: Arc<Mutex<Links>>,
}

impl Carrier for Post {
    fn call(
        &self,
        to: &NodeId,
        lane: Lane,
        body: Vec<u8>,
        _: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, CarrierError>> {
        let (own, to, links) = (self.own.clone(), to.clone(), Arc::clone(&self.links));
        Box::pin(async move {
            let connected = || {
                let links = links.lock().unwrap();
                !links.cut_off.contains(&own) && !links.cut_off.contains(&to)
            };
            // A cut link swallows what is sent, as a real one does.
            let hears = |node: &NodeId| !links.lock().unwrap().deafened.contains(node);
            if !connected() || !hears(&to) {
                futures::future::pending::<()>().await;
            }
            let server = links.lock().unwrap().servers.get(&to).cloned();
            let Some(server) = server else {
                return Err(CarrierError::Unreachable("connection refused".to_owned()));
            };
            let broken = || Err(CarrierError::Broken("reset".to_owned()));
            let mut back = true;
            if lane == Lane::Snapshot {
                let piece = body.len() > OFFER_BYTES_MAX;
                if piece {
                    let gate = Arc::clone(&links.lock().unwrap().pieces_let_through);
                    gate.acquire().await.unwrap().forget();
                }
                let mut links = links.lock().unwrap();
                let (there, answered) = links.carry(piece);
                if !there {
                    return broken();
                }
                back = answered;
                if piece {
                    links.lane.pieces.send_modify(|pieces| *pieces += 1);
                    links.lane.last = Some((to.clone(), body.clone()));
                }
            }
            let reply = server.handle(lane, body).await;
            drop(server);
            if !connected() || !hears(&own) {
                futures::future::pending::<()>().await;
            }
            if !back {
                return broken();
            }
            reply.map_err(|error| CarrierError::Broken(error.to_string()))
        })
    }
}

/// The node with a number.
pub(crate) fn node(number: u64) -> NodeId {
    let digit = char::from_digit(u32::try_from(number).unwrap(), 10).unwrap();
    format!("12D3KooWGRUVLJpQ8sJtbTNGXJFvBVnEKdGBAcQnzHqPVKqGNfc{digit}")
        .parse()
        .unwrap()
}

pub(crate) fn ids(ids: impl IntoIterator<Item = u64>) -> BTreeSet<RaftId> {
    ids.into_iter().map(RaftId).collect()
}

impl Mesh {
    /// No servers yet.
    pub(crate) fn new() -> Self {
        Self {
            links: Arc::default(),
            disks: BTreeMap::new(),
            timers: PATIENT,
        }
    }

    /// Voters `1..=count`, founded by the first.
    pub(crate) async fn founded(count: u64) -> Self {
        Self::founded_with(count, PATIENT).await
    }

    /// The same with other timers.
    pub(crate) async fn founded_with(count: u64, timers: Timers) -> Self {
        let mut mesh = Self::new();
        mesh.timers = timers;
        mesh.start(1).await.found().await.unwrap();
        mesh.leader().await;
        // On a busy machine the leader may change meanwhile, so each step is repeated until done.
        let joined = async {
            for number in 2..=count {
                mesh.start(number).await;
                let (id, node) = (RaftId(number), node(number));
                while mesh
                    .led()
                    .await
                    .add_learner(id, node.clone())
                    .await
                    .is_err()
                {}
            }
            let all = || ids(1..=count);
            while mesh
                .led()
                .await
                .change_voters(all(), Removed::Leave)
                .await
                .is_err()
            {}
        };
        let joined = tokio::time::timeout(DEADLINE, joined).await;
        joined.expect("the group was not made");
        mesh
    }

    /// Where and as whom a server takes part.
    pub(crate) fn settings(&mut self, number: u64) -> Settings {
        let disk = self
            .disks
            .entry(number)
            .or_insert_with(|| TempDir::new().unwrap());
        Settings {
            dir: disk.path().join("raft"),
            raft_id: RaftId(number),
            node: node(number),
            timers: self.timers,
        }
    }

    /// Opens a server on its disk, old or new.
    pub(crate) async fn start(&mut self, number: u64) -> Agreement<Ledger> {
        let settings = self.settings(number);
        self.start_as(number, settings).await
    }

    /// Opens a server.
    pub(crate) async fn start_as(&self, number: u64, settings: Settings) -> Agreement<Ledger> {
        let carrier: Arc<dyn Carrier> = Arc::new(Post {
            own: node(number),
            links: Arc::clone(&self.links),
        });
        let opened = async {
            loop {
                let (settings, carrier) = (settings.clone(), Arc::clone(&carrier));
                match Agreement::open(settings, Ledger::default(), carrier).await {
                    // What was dropped here before has its store until its thread has ended.
                    Err(OpenError::InUse(_)) => {}
                    opened => return opened,
                }
            }
        };
        let opened = tokio::time::timeout(DEADLINE, opened).await;
        let server = opened.expect("its store is never free").unwrap();
        self.links
            .lock()
            .unwrap()
            .servers
            .insert(node(number), server.clone());
        server
    }

    /// Drops a server without shutting it down.
    pub(crate) fn drop_server(&self, number: u64) {
        let gone = self.links.lock().unwrap().servers.remove(&node(number));
        drop(gone);
    }

    /// Drops a server of which nobody else has a handle, and waits until nothing of it runs any more.
    pub(crate) async fn end_server(&self, number: u64) {
        let mut status = self.server(number).status();
        self.drop_server(number);
        let ended = async { while status.changed().await.is_ok() {} };
        let ended = tokio::time::timeout(DEADLINE, ended).await;
        ended.expect("somebody has a handle on it");
    }

    pub(crate) fn server(&self, number: u64) -> Agreement<Ledger> {
        self.links.lock().unwrap().servers[&node(number)].clone()
    }

    /// Those that run.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        let links = self.links.lock().unwrap();
        let runs = |number: &u64| links.servers.contains_key(&node(*number));
        (1..10).filter(runs).collect()
    }

    /// The directory of a server's store.
    pub(crate) fn store(&self, number: u64) -> PathBuf {
        self.disks[&number].path().join("raft")
    }

    pub(crate) fn cut_off(&self, number: u64) {
        self.links.lock().unwrap().cut_off.insert(node(number));
    }

    pub(crate) fn reconnect(&self, number: u64) {
        let mut links = self.links.lock().unwrap();
        links.cut_off.remove(&node(number));
        links.deafened.remove(&node(number));
    }

    /// What is sent to it, and every answer to it, is lost.
    pub(crate) fn deafen(&self, number: u64) {
        self.links.lock().unwrap().deafened.insert(node(number));
    }

    /// Looks at the snapshot lane, or changes what happens there.
    pub(crate) fn lane<T>(&self, look: impl FnOnce(&mut SnapshotLane) -> T) -> T {
        look(&mut self.links.lock().unwrap().lane)
    }

    /// Pieces that arrived so far.
    pub(crate) fn pieces(&self) -> usize {
        self.lane(|lane| *lane.pieces.borrow())
    }

    /// Waits until so many pieces have arrived.
    pub(crate) async fn pieces_arrived(&self, count: usize) {
        let mut pieces = self.lane(|lane| lane.pieces.subscribe());
        let arrived = pieces.wait_for(|pieces| *pieces >= count);
        let arrived = tokio::time::timeout(DEADLINE, arrived).await;
        arrived.expect("too few pieces arrived").unwrap();
    }

    /// Pieces pass only as the test lets them.
    pub(crate) fn hold_pieces(&self) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        self.links.lock().unwrap().pieces_let_through = Arc::clone(&gate);
        gate
    }

    /// Waits until some server leads that a majority has confirmed, and gives its number.
    pub(crate) async fn leader(&self) -> u64 {
        let servers = self.links.lock().unwrap().servers.clone();
        let cut_off = self.links.lock().unwrap().cut_off.clone();
        let leads = servers
            .into_iter()
            .filter(|(node, _)| !cut_off.contains(node));
        let leads = leads.map(|(node, server)| {
            Box::pin(async move {
                until(&server, |status| {
                    let confirmed = status.majority_heard.is_some() || status.voters.len() == 1;
                    status.role == Role::Leader && confirmed
                })
                .await;
                node
            })
        });
        let leader = futures::future::select_all(leads).await.0;
        (1..10).find(|number| node(*number) == leader).unwrap()
    }

    /// Whoever leads.
    pub(crate) async fn led(&self) -> Agreement<Ledger> {
        self.server(self.leader().await)
    }

    /// Proposes to whoever leads, again and again until it is answered.
    pub(crate) async fn propose(&self, entry: &[u8]) -> (LogIndex, Vec<u8>) {
        let answered = async {
            loop {
                let leader = self.leader().await;
                if let Ok(answer) = self.server(leader).propose(entry.to_vec()).await {
                    return answer;
                }
            }
        };
        tokio::time::timeout(DEADLINE, answered)
            .await
            .expect("nobody answers proposals")
    }
}

impl Drop for Mesh {
    /// Servers hold their end of the links, and the links hold the servers: left alone they would go
    /// on, elect and write, beside all tests that follow.
    fn drop(&mut self) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let servers = std::mem::take(&mut links.servers);
        drop(links);
        drop(servers);
    }
}

/// Waits for a server's status.
pub(crate) async fn until(
    server: &Agreement<Ledger>,
    mut reached: impl FnMut(&RaftStatus) -> bool,
) -> RaftStatus {
    let mut status = server.status();
    let waited = tokio::time::timeout(DEADLINE, status.wait_for(|now| reached(now))).await;
    match waited {
        Ok(now) => now.unwrap().clone(),
        Err(_) => panic!("not reached; the status is {:#?}", server.status().borrow()),
    }
}

/// The entries that were agreed. One whose answer was lost on the way, because the leader changed, was
/// proposed again and may be there twice, the second right after the first.
pub(crate) fn once(ledger: Ledger) -> Vec<Vec<u8>> {
    let mut entries = ledger.0;
    entries.dedup();
    entries
}

/// Waits until a server has applied `index` and gives its ledger.
pub(crate) async fn ledger_at(server: &Agreement<Ledger>, index: LogIndex) -> Ledger {
    let mut published = server.published();
    let waited = tokio::time::timeout(DEADLINE, published.wait_for(|now| now.index >= index)).await;
    let published = waited.expect("never applied").unwrap();
    Ledger::clone(&published.machine)
}
