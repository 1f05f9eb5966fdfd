//! Measures a server that is alone: `idle DIR [PROPOSALS [AT_ONCE [BYTES]]]`.
//!
//! Prints resident memory, threads and the store's size when idle, after the proposals and
//! after ten idle seconds, and the proposals' rate and latency.

use std::{
    env, fs,
    io::{self, Write as _},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use consensus_core::{LogIndex, NodeId, RaftId};
use consensus_raft::{Agreement, Carrier, CarrierError, Lane, Machine, Role, Settings, Timers};
use futures::{StreamExt as _, future::BoxFuture};

/// Counts.
#[derive(Clone)]
struct Count(u64);

impl Machine for Count {
    fn apply(&mut self, _: LogIndex, _: &[u8]) -> Vec<u8> {
        self.0 += 1;
        Vec::new()
    }

    fn encode(&self) -> Vec<u8> {
        self.0.to_be_bytes().to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let bytes = bytes
            .try_into()
            .map_err(|_| "eight bytes were expected".to_owned())?;
        Ok(Self(u64::from_be_bytes(bytes)))
    }
}

struct Nobody;

impl Carrier for Nobody {
    fn call(
        &self,
        _: &NodeId,
        _: Lane,
        _: Vec<u8>,
        _: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, CarrierError>> {
        Box::pin(async { Err(CarrierError::Unreachable("there is nobody".to_owned())) })
    }
}

fn report(when: &str, dir: &Path) -> anyhow::Result<()> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let (rss, anon, threads) = (line("VmRSS:"), line("RssAnon:"), line("Threads:"));
    let mut store = 0;
    for file in fs::read_dir(dir)? {
        store += file?.metadata()?.len() / 1024;
    }
    writeln!(
        io::stdout(),
        "{when}: RSS {rss}, of it anonymous {anon}, {threads} threads, store {store} kB"
    )?;
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut words = env::args().skip(1);
    let dir = words
        .next()
        .ok_or_else(|| anyhow::anyhow!("idle DIR [PROPOSALS [AT_ONCE [BYTES]]]"))?;
    let dir = Path::new(&dir).to_owned();
    let mut number = |otherwise: usize| words.next().map_or(Ok(otherwise), |word| word.parse());
    let (proposals, at_once, bytes) = (number(0)?, number(1)?, number(200)?);
    report("nothing open", &dir)?;
    let node = "12D3KooWGRUVLJpQ8sJtbTNGXJFvBVnEKdGBAcQnzHqPVKqGNfcm".parse()?;
    let settings = Settings {
        dir: dir.clone(),
        raft_id: RaftId(1),
        node,
        timers: Timers::SAFE,
    };
    let server = Agreement::open(settings, Count(0), Arc::new(Nobody)).await?;
    server.found().await.or_else(|error| match error {
        consensus_raft::FoundError::AlreadyFounded => Ok(()),
        consensus_raft::FoundError::Stopped(_) => Err(error),
    })?;
    drop(
        server
            .status()
            .wait_for(|status| status.role == Role::Leader)
            .await?,
    );
    report("leading, idle", &dir)?;
    let begin = Instant::now();
    let latencies = futures::stream::iter(0..proposals).map(|_| async {
        let begin = Instant::now();
        server
            .propose(vec![7; bytes])
            .await
            .map(|_| begin.elapsed())
    });
    let latencies: Vec<_> = latencies.buffer_unordered(at_once).collect().await;
    let mut latencies = latencies.into_iter().collect::<Result<Vec<_>, _>>()?;
    latencies.sort();
    if let (Some(median), Some(slow)) = (
        latencies.get(proposals / 2),
        latencies.get(proposals * 99 / 100),
    ) {
        let rate = latencies.len() as f64 / begin.elapsed().as_secs_f64();
        writeln!(
            io::stdout(),
            "{rate:.0} commits/s, p50 {median:?}, p99 {slow:?}"
        )?;
        report("after the proposals", &dir)?;
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    report("ten seconds later", &dir)?;
    server.shutdown().await;
    Ok(())
}
