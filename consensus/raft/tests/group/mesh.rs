//! Several servers in one process, joined by links that a test can cut.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use consensus_core::{LogIndex, NodeId, RaftId};
use consensus_raft::{
    Agreement, Carrier, CarrierError, Lane, Machine, RaftStatus, Removed, Role, Settings, Timers,
};
use futures::future::BoxFuture;
use tempfile::TempDir;

/// Long enough for anything that happens at all, on a busy machine with a slow disk.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Keeps every entry, in order; the answer to an entry is its position.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub(crate) struct Ledger(pub(crate) Vec<Vec<u8>>);

impl Machine for Ledger {
    fn apply(&mut self, _: LogIndex, entry: &[u8]) -> Vec<u8> {
        self.0.push(entry.to_vec());
        self.0.len().to_string().into_bytes()
    }

    fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(&self.0).unwrap()
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        postcard::from_bytes(bytes)
            .map(Self)
            .map_err(|error| error.to_string())
    }
}

#[derive(Default)]
struct Links {
    servers: BTreeMap<NodeId, Agreement<Ledger>>,
    cut_off: BTreeSet<NodeId>,
    snapshots: BTreeMap<NodeId, usize>,
}

/// The links and the disks.
pub(crate) struct Mesh {
    links: Arc<Mutex<Links>>,
    disks: BTreeMap<u64, TempDir>,
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
            if !connected() {
                futures::future::pending::<()>().await;
            }
            let server = links.lock().unwrap().servers.get(&to).cloned();
            let Some(server) = server else {
                return Err(CarrierError::Unreachable("connection refused".to_owned()));
            };
            let reply = server.handle(lane, body).await;
            drop(server);
            if !connected() {
                futures::future::pending::<()>().await;
            }
            if lane == Lane::Snapshot && reply.is_ok() {
                *links.lock().unwrap().snapshots.entry(to).or_default() += 1;
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
        }
    }

    /// Voters `1..=count`, founded by the first.
    pub(crate) async fn founded(count: u64) -> Self {
        let mut mesh = Self::new();
        mesh.start(1).await.found().await.unwrap();
        mesh.leader().await;
        for number in 2..=count {
            mesh.start(number).await;
            mesh.server(1)
                .add_learner(RaftId(number), node(number))
                .await
                .unwrap();
        }
        if count > 1 {
            let voters = ids(1..=count);
            mesh.server(1)
                .change_voters(voters, Removed::Leave)
                .await
                .unwrap();
        }
        mesh
    }

    /// Opens a server on its disk, old or new.
    pub(crate) async fn start(&mut self, number: u64) -> Agreement<Ledger> {
        let disk = self
            .disks
            .entry(number)
            .or_insert_with(|| TempDir::new().unwrap());
        let settings = Settings {
            dir: disk.path().to_owned(),
            raft_id: RaftId(number),
            node: node(number),
            timers: Timers::SAFE,
        };
        let carrier = Arc::new(Post {
            own: node(number),
            links: Arc::clone(&self.links),
        });
        let server = Agreement::open(settings, Ledger::default(), carrier)
            .await
            .unwrap();
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

    pub(crate) fn server(&self, number: u64) -> Agreement<Ledger> {
        self.links.lock().unwrap().servers[&node(number)].clone()
    }

    /// The directory of a server's store.
    pub(crate) fn store(&self, number: u64) -> &Path {
        self.disks[&number].path()
    }

    pub(crate) fn cut_off(&self, number: u64) {
        self.links.lock().unwrap().cut_off.insert(node(number));
    }

    pub(crate) fn reconnect(&self, number: u64) {
        self.links.lock().unwrap().cut_off.remove(&node(number));
    }

    /// Whole snapshots that a server has accepted.
    pub(crate) fn snapshots_sent_to(&self, number: u64) -> usize {
        self.links
            .lock()
            .unwrap()
            .snapshots
            .get(&node(number))
            .copied()
            .unwrap_or(0)
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

/// Waits until a server has applied `index` and gives its ledger.
pub(crate) async fn ledger_at(server: &Agreement<Ledger>, index: LogIndex) -> Ledger {
    let mut published = server.published();
    let waited = tokio::time::timeout(DEADLINE, published.wait_for(|now| now.index >= index)).await;
    let published = waited.expect("never applied").unwrap();
    Ledger::clone(&published.machine)
}
