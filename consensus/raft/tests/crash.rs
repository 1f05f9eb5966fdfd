//! A claim about a process that is killed: the parent starts this very program as a server,
//! reads what it acknowledges, kills it in the middle, and looks at what is left.

use std::{
    env,
    io::{self, BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use consensus_core::{LogIndex, NodeId, RaftId};
use consensus_raft::{
    Agreement, Carrier, CarrierError, FoundError, Lane, Machine, Role, Settings, Timers,
};
use futures::future::BoxFuture;

/// Names the directory of the server's store; its presence makes this program the server.
const STORE: &str = "SHOAL_TEST_CRASH_STORE";
/// Kills; each at another point of the server's work.
const ROUNDS: u64 = 5;
/// Acknowledgements before the first kill; each later one waits for one more. Across all
/// rounds this passes a snapshot and a purge.
const ACKNOWLEDGED_MIN: u64 = 400;
/// How long the server may take to lead again.
const DEADLINE: Duration = Duration::from_secs(30);

/// Remembers numbers.
#[derive(Clone, Default)]
struct Numbers(Vec<u64>);

impl Machine for Numbers {
    fn apply(&mut self, _: LogIndex, entry: &[u8]) -> Vec<u8> {
        self.0.extend(entry.try_into().map(u64::from_be_bytes));
        Vec::new()
    }

    fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(&self.0).expect("numbers encode")
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        postcard::from_bytes(bytes)
            .map(Self)
            .map_err(|error| error.to_string())
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

async fn lead(dir: PathBuf) -> anyhow::Result<Agreement<Numbers>> {
    let node = "12D3KooWGRUVLJpQ8sJtbTNGXJFvBVnEKdGBAcQnzHqPVKqGNfcm".parse()?;
    let settings = Settings {
        dir,
        raft_id: RaftId(1),
        node,
        timers: Timers::LAN,
    };
    let server = Agreement::open(settings, Numbers::default(), Arc::new(Nobody)).await?;
    match server.found().await {
        Ok(()) | Err(FoundError::AlreadyFounded) => {}
        Err(error) => return Err(error.into()),
    }
    let mut status = server.status();
    let leads = status.wait_for(|status| status.role == Role::Leader);
    drop(tokio::time::timeout(DEADLINE, leads).await??);
    server.read_index().await?;
    Ok(server)
}

/// Writes numbers until it is killed, eight at a time, and prints each acknowledged one.
async fn serve(dir: PathBuf) -> anyhow::Result<()> {
    let server = lead(dir).await?;
    let known = server.published().borrow().machine.0.iter().max().copied();
    let mut next = known.map_or(0, |last| last + 1);
    loop {
        let numbers = next..next + 8;
        next = numbers.end;
        let proposals = numbers.map(|number| {
            let server = server.clone();
            async move {
                server.propose(number.to_be_bytes().to_vec()).await?;
                writeln!(io::stdout(), "{number}")?;
                io::stdout().flush()?;
                anyhow::Ok(())
            }
        });
        futures::future::try_join_all(proposals).await?;
    }
}

/// Whatever was acknowledged before a kill is there afterwards, once and in order.
async fn a_killed_process_loses_nothing_that_it_acknowledged() -> anyhow::Result<()> {
    let disk = tempfile::TempDir::new()?;
    let mut acknowledged = Vec::new();
    for round in 0..ROUNDS {
        let mut server = Command::new(env::current_exe()?)
            .env(STORE, disk.path())
            .stdout(Stdio::piped())
            .spawn()?;
        let goal = usize::try_from(ACKNOWLEDGED_MIN + round)?;
        let lines = BufReader::new(server.stdout.take().expect("it is piped")).lines();
        let before = acknowledged.len();
        for line in lines {
            // A torn last line was not acknowledged to anyone.
            let Ok(number) = line?.parse::<u64>() else {
                break;
            };
            acknowledged.push(number);
            if acknowledged.len() - before == goal {
                server.kill()?;
            }
        }
        server.wait()?;
        anyhow::ensure!(
            acknowledged.len() - before >= goal,
            "the server ended by itself"
        );

        let server = lead(disk.path().to_owned()).await?;
        let kept = server.published().borrow().machine.0.clone();
        server.shutdown().await;
        let missing = acknowledged
            .iter()
            .filter(|number| kept.binary_search(number).is_err());
        let missing: Vec<_> = missing.collect();
        anyhow::ensure!(missing.is_empty(), "round {round}: lost {missing:?}");
        anyhow::ensure!(
            kept.is_sorted_by(|a, b| a < b),
            "round {round}: out of order or twice"
        );
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    if let Some(dir) = env::var_os(STORE) {
        return runtime.block_on(serve(dir.into()));
    }
    runtime.block_on(a_killed_process_loses_nothing_that_it_acknowledged())?;
    writeln!(
        io::stdout(),
        "test a_killed_process_loses_nothing_that_it_acknowledged ... ok"
    )?;
    Ok(())
}
