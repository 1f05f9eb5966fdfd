//! One server of a Raft group and nothing else: `consensus-raft` over plain TCP.
//!
//! Decides nothing. Its state keeps a checksum of everything agreed, so that it costs as little as
//! a state can and groups that disagree are found out. Ends when it is killed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use clap::Parser;
use consensus_core::{LogIndex, NodeId, RaftId};
use consensus_raft::{
    Agreement, Carrier, CarrierError, FoundError, Lane, Machine, ProposeError, Removed, Role,
    Settings, Timers,
};
use futures::future::BoxFuture;
use raft_bench::{
    calls::{self, CallError, Caller, Message},
    client_words::{DONE, FAILED, NOT_LEADER, PROPOSE, RAFT_RPC, RAFT_SNAPSHOT, STATUS, Standing},
};
use tokio::net::TcpListener;

/// Between two attempts to add a member that may still be starting.
const ADD_PAUSE: Duration = Duration::from_millis(100);
/// Attempts to add a member before giving up.
const ADD_ATTEMPTS: u32 = 50;

/// One server of a group, for measurements.
#[derive(Parser)]
struct Options {
    /// Its log's directory.
    #[arg(long)]
    dir: PathBuf,
    /// Its number, from 1.
    #[arg(long)]
    id: u64,
    /// Every member's address, the first one's first.
    #[arg(long, value_delimiter = ',')]
    members: Vec<SocketAddr>,
    /// Found the group and take the others in.
    #[arg(long)]
    found: bool,
    /// The patience of the profile for one place and good disks.
    #[arg(long)]
    lan: bool,
}

/// How many entries were agreed, and a checksum over them.
#[derive(Clone, Default)]
struct Sum {
    entries: u64,
    crc: u32,
}

impl Machine for Sum {
    fn apply(&mut self, _: LogIndex, entry: &[u8]) -> Vec<u8> {
        let mut crc = crc32fast::Hasher::new_with_initial(self.crc);
        crc.update(entry);
        self.crc = crc.finalize();
        self.entries += 1;
        Vec::new()
    }

    fn encode(&self) -> Vec<u8> {
        [&self.entries.to_be_bytes()[..], &self.crc.to_be_bytes()].concat()
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let parts = bytes.split_first_chunk().and_then(|(entries, rest)| {
            Some((u64::from_be_bytes(*entries), rest.try_into().ok()?))
        });
        let (entries, crc) = parts.ok_or("twelve bytes were expected")?;
        let crc = u32::from_be_bytes(crc);
        Ok(Self { entries, crc })
    }
}

/// The way to the other members: a connection per member and lane.
struct Tcp(BTreeMap<NodeId, [Caller; 2]>);

impl Carrier for Tcp {
    fn call(
        &self,
        to: &NodeId,
        lane: Lane,
        body: Vec<u8>,
        _: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, CarrierError>> {
        let Some([rpc, snapshot]) = self.0.get(to) else {
            return Box::pin(async { Err(CarrierError::Unreachable("unknown".to_owned())) });
        };
        let (caller, tag) = match lane {
            Lane::Rpc => (rpc.clone(), RAFT_RPC),
            Lane::Snapshot => (snapshot.clone(), RAFT_SNAPSHOT),
        };
        Box::pin(async move {
            match caller.call(tag, body).await {
                Ok(Message { tag: DONE, body }) => Ok(body),
                Ok(refusal) => {
                    let why = String::from_utf8_lossy(&refusal.body).into_owned();
                    Err(CarrierError::Unreachable(why))
                }
                Err(error @ CallError::Unreachable) => {
                    Err(CarrierError::Unreachable(error.to_string()))
                }
                Err(error @ CallError::Broken) => Err(CarrierError::Broken(error.to_string())),
            }
        })
    }
}

fn main() -> anyhow::Result<()> {
    // One thread for the network beside Raft's own: more would only wake each other.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(live(Options::parse()))
}

async fn live(options: Options) -> anyhow::Result<()> {
    let nodes: Vec<NodeId> = (1..=options.members.len())
        .map(|number| node(number as u64))
        .collect::<Result<_, _>>()?;
    let own = usize::try_from(options.id)? - 1;
    let address = options.members.get(own).context("no address for this id")?;
    let others = nodes.iter().zip(&options.members);
    let callers = others.map(|(node, to)| (node.clone(), [Caller::new(*to), Caller::new(*to)]));
    let settings = Settings {
        dir: options.dir,
        raft_id: RaftId(options.id),
        node: nodes[own].clone(),
        timers: if options.lan {
            Timers::LAN
        } else {
            Timers::SAFE
        },
    };
    let carrier = Arc::new(Tcp(callers.collect()));
    let listener = TcpListener::bind(address).await?;
    let agreement = Agreement::open(settings, Sum::default(), carrier).await?;
    let served = agreement.clone();
    let serving = tokio::spawn(calls::serve(listener, move |message| {
        answer(served.clone(), message)
    }));
    if options.found {
        found(&agreement, &nodes).await?;
    }
    serving.await??;
    Ok(())
}

/// A node id of the right form for the member `number`.
fn node(number: u64) -> anyhow::Result<NodeId> {
    // Base58 has no zero.
    let digits: String = format!("{number:044}").replace('0', "z");
    Ok(format!("12D3KooW{digits}").parse()?)
}

async fn answer(agreement: Agreement<Sum>, message: Message) -> Message {
    let Message { tag, body } = message;
    let failed = |why: String| (FAILED, why.into_bytes());
    let (tag, body) = match tag {
        RAFT_RPC | RAFT_SNAPSHOT => {
            let lane = if tag == RAFT_RPC {
                Lane::Rpc
            } else {
                Lane::Snapshot
            };
            match agreement.handle(lane, body).await {
                Ok(body) => (DONE, body),
                Err(error) => failed(error.to_string()),
            }
        }
        PROPOSE => match agreement.propose(body).await {
            Ok((index, _)) => (DONE, index.0.to_be_bytes().to_vec()),
            Err(ProposeError::NotLeader { .. }) => (NOT_LEADER, Vec::new()),
            Err(error) => failed(error.to_string()),
        },
        STATUS => (DONE, standing(&agreement).encode()),
        _ => failed(format!("{tag} means nothing")),
    };
    Message { tag, body }
}

fn standing(agreement: &Agreement<Sum>) -> Standing {
    let status = agreement.status();
    let status = status.borrow();
    Standing {
        leader: status.leader_id.map_or(0, |id| id.0),
        voters: status.voters.len() as u64,
        applied: status.applied.map_or(0, |index| index.0),
    }
}

/// Founds the group and makes every member a voter.
async fn found(agreement: &Agreement<Sum>, nodes: &[NodeId]) -> anyhow::Result<()> {
    agreement.found().await.or_else(|error| match error {
        FoundError::AlreadyFounded => Ok(()),
        FoundError::Stopped(_) => Err(error),
    })?;
    let mut status = agreement.status();
    let leads = |status: &consensus_raft::RaftStatus| status.role == Role::Leader;
    drop(status.wait_for(leads).await?);
    let ids: BTreeSet<RaftId> = (1..=nodes.len() as u64).map(RaftId).collect();
    for (id, node) in ids.iter().zip(nodes).skip(1) {
        add(agreement, *id, node).await?;
    }
    agreement.change_voters(ids, Removed::Leave).await?;
    Ok(())
}

async fn add(agreement: &Agreement<Sum>, id: RaftId, node: &NodeId) -> anyhow::Result<()> {
    let mut last = anyhow!("it was not tried");
    for _ in 0..ADD_ATTEMPTS {
        match agreement.add_learner(id, node.clone()).await {
            Ok(()) => return Ok(()),
            Err(error) => last = error.into(),
        }
        tokio::time::sleep(ADD_PAUSE).await;
    }
    Err(last)
}
