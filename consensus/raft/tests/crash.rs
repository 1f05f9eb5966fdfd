//! Claims about a process that is killed: the parent starts this very program as a server, reads
//! what it acknowledges, kills it at a moment chosen by chance, and looks at what the next one has.
//!
//! `SHOAL_CRASHES` chooses how often (the full test is 2000), `SHOAL_SEED` which moments.

use std::{
    collections::BTreeSet,
    env, fmt,
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    str::FromStr,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use consensus_core::{LogIndex, NodeId, RaftId};
use consensus_log::simulation::Random;
use consensus_raft::{
    Agreement, Carrier, CarrierError, FoundError, Lane, Machine, ProposeError, ReadError, Role,
    Settings, Timers,
};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

/// Names the directory of the server's store; its presence makes this program the server.
const STORE: &str = "SHOAL_TEST_CRASH_STORE";
/// Kills, unless the environment says otherwise: what fits into some 20 s.
const CRASHES: u64 = 40;
/// Proposals that the server has under way at once.
const AT_ONCE: u64 = 8;
/// An entry's largest size: with it some dozen kills pass several segments of the log, and two
/// thousand pass many snapshots and purges.
const ENTRY_BYTES_MAX: u64 = 16 * 1024;
/// How long the server may take to lead again.
const DEADLINE: Duration = Duration::from_secs(60);
/// A server leads well within this, so that such a delay falls into all parts of its life.
const DELAY_MS_MAX: u64 = 400;

/// Remembers numbers: ranges without gaps, and how many came twice or out of order.
#[derive(Clone, Default, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Numbers {
    ranges: Vec<(u64, u64)>,
    odd: u64,
}

impl Numbers {
    fn take(&mut self, number: u64) {
        match self.ranges.last_mut() {
            Some((_, end)) if number == *end => *end += 1,
            Some((_, end)) if number < *end => self.odd += 1,
            Some(_) | None => self.ranges.push((number, number + 1)),
        }
    }

    fn end(&self) -> u64 {
        self.ranges.last().map_or(0, |(_, end)| *end)
    }

    fn has(&self, number: u64) -> bool {
        let after = self.ranges.partition_point(|(first, _)| *first <= number);
        after > 0 && number < self.ranges[after - 1].1
    }
}

impl Machine for Numbers {
    fn apply(&mut self, _: LogIndex, entry: &[u8]) -> Vec<u8> {
        if let Some(number) = entry.first_chunk() {
            self.take(u64::from_be_bytes(*number));
        }
        Vec::new()
    }

    fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("numbers encode")
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        postcard::from_bytes(bytes).map_err(|error| error.to_string())
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

/// What a server tells its parent. A line that is cut off was told to nobody.
#[derive(Debug)]
enum Line {
    /// What it has, once it leads.
    Kept(Numbers),
    /// The term in which it leads.
    Term(u64),
    /// A number that was acknowledged.
    Acknowledged(u64),
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept(numbers) => write!(f, "kept {}.", hex::encode(numbers.encode())),
            Self::Term(term) => write!(f, "term {term}."),
            Self::Acknowledged(number) => write!(f, "ack {number}."),
        }
    }
}

impl FromStr for Line {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let line = line.strip_suffix('.').context("it is cut off")?;
        match line.split_once(' ') {
            Some(("kept", numbers)) => {
                let numbers = Numbers::decode(&hex::decode(numbers)?);
                Ok(Self::Kept(numbers.map_err(anyhow::Error::msg)?))
            }
            Some(("term", term)) => Ok(Self::Term(term.parse()?)),
            Some(("ack", number)) => Ok(Self::Acknowledged(number.parse()?)),
            Some(_) | None => bail!("no server says {line:?}"),
        }
    }
}

fn tell(line: &Line) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// The server: leads a group of its own, says what it has, and writes numbers until it is killed.
async fn serve(dir: PathBuf) -> anyhow::Result<()> {
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
    let mut lead = async || {
        let leads = status.wait_for(|status| status.role == Role::Leader);
        anyhow::Ok(tokio::time::timeout(DEADLINE, leads).await??.term)
    };
    tell(&Line::Term(lead().await?))?;
    // On a busy machine an answer may come too late even from oneself.
    while let Err(error) = server.read_index().await {
        ensure!(!matches!(error, ReadError::Stopped(_)), error);
        lead().await?;
    }
    let kept = Numbers::clone(&server.published().borrow().machine);
    let mut next = kept.end();
    tell(&Line::Kept(kept))?;
    loop {
        let numbers = next..next + AT_ONCE;
        next = numbers.end;
        let proposals = numbers.map(|number| propose(server.clone(), number));
        futures::future::try_join_all(proposals).await?;
        lead().await?;
    }
}

/// Proposes a number and tells when it is acknowledged.
async fn propose(server: Agreement<Numbers>, number: u64) -> anyhow::Result<()> {
    let mut entry = number.to_be_bytes().to_vec();
    let padding = Random::new(number).below(ENTRY_BYTES_MAX);
    entry.resize(entry.len() + usize::try_from(padding)?, 1);
    match server.propose(entry).await {
        Ok(_) => Ok(tell(&Line::Acknowledged(number))?),
        Err(error @ ProposeError::Stopped(_)) => Err(error.into()),
        // Agreed or not, nobody was told so.
        Err(
            ProposeError::NotLeader { .. }
            | ProposeError::NoMajority { .. }
            | ProposeError::OutcomeUnknown { .. }
            | ProposeError::Busy
            | ProposeError::TooLarge { .. },
        ) => Ok(()),
    }
}

/// When a server is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// After so many lines.
    Lines(u64),
    /// After a time, whatever it has come to.
    Delay(Duration),
}

impl Moment {
    fn random(random: &mut Random) -> Self {
        if random.chance(50) {
            Self::Lines(random.below(60) + 1)
        } else {
            let delay_us = random.below(DELAY_MS_MAX * 1000);
            Self::Delay(Duration::from_micros(delay_us))
        }
    }
}

/// Everything that servers have told so far.
#[derive(Debug, Default)]
struct Told {
    acknowledged: BTreeSet<u64>,
    term: u64,
    /// Servers that lived long enough to say what they have.
    looks: u64,
    /// How much of what was told is known to be in every store from now on.
    checked: u64,
}

impl Told {
    fn take(&mut self, line: Line) -> anyhow::Result<()> {
        match line {
            Line::Acknowledged(number) => {
                ensure!(
                    self.acknowledged.insert(number),
                    "{number} was acknowledged twice"
                );
            }
            Line::Term(term) => {
                // A server votes for itself once in a term, or it has forgotten its vote.
                ensure!(term > self.term, "it leads in {term} after {}", self.term);
                self.term = term;
            }
            Line::Kept(kept) => {
                ensure!(
                    kept.odd == 0,
                    "{} numbers came twice or late: {kept:?}",
                    kept.odd
                );
                let lost = self.acknowledged.iter().find(|number| !kept.has(**number));
                ensure!(lost.is_none(), "{lost:?} was acknowledged and is not there");
                self.looks += 1;
                self.checked = u64::try_from(self.acknowledged.len())?;
            }
        }
        Ok(())
    }
}

fn start(store: &Path) -> anyhow::Result<(Child, mpsc::Receiver<String>)> {
    let mut server = Command::new(env::current_exe()?)
        .env(STORE, store)
        .stdout(Stdio::piped())
        .spawn()?;
    let out = BufReader::new(server.stdout.take().context("it is piped")?);
    let (told, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in out.lines() {
            let Ok(line) = line else { return };
            // The other end goes when the test fails.
            if told.send(line).is_err() {
                return;
            }
        }
    });
    Ok((server, lines))
}

/// The life of one server. Killed or not, it must not have ended by itself.
fn one_life(store: &Path, moment: Moment, told: &mut Told) -> anyhow::Result<()> {
    let began = Instant::now();
    let (mut server, lines) = start(store)?;
    let (lines_max, end) = match moment {
        Moment::Lines(lines) => (lines, began + DEADLINE),
        Moment::Delay(delay) => (u64::MAX, began + delay),
    };
    let mut seen = Vec::new();
    while u64::try_from(seen.len())? < lines_max {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => seen.push(line),
            Err(mpsc::RecvTimeoutError::Timeout) => break,
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                bail!("the server ended by itself: {}", server.wait()?);
            }
        }
    }
    let running = server.try_wait()?.is_none();
    server.kill()?;
    server.wait()?;
    ensure!(running, "the server ended by itself");
    if let Moment::Lines(lines) = moment {
        ensure!(u64::try_from(seen.len())? >= lines, "no word for too long");
    }
    // What was on its way when it was killed was told too.
    seen.extend(lines.iter());
    for line in seen {
        if line.ends_with('.') {
            told.take(line.parse()?)?;
        }
    }
    Ok(())
}

fn from_environment(name: &str, otherwise: u64) -> anyhow::Result<u64> {
    env::var(name).map_or(Ok(otherwise), |value| Ok(value.parse()?))
}

/// Whatever was acknowledged before a kill is there afterwards, once and in order, and no term is
/// led in twice.
fn a_killed_process_loses_nothing_that_it_acknowledged() -> anyhow::Result<String> {
    let crashes = from_environment("SHOAL_CRASHES", CRASHES)?;
    let seed = from_environment("SHOAL_SEED", 1)?;
    let store = tempfile::TempDir::new()?;
    let mut random = Random::new(seed);
    let mut told = Told::default();
    for crash in 0..crashes {
        let moment = Moment::random(&mut random);
        one_life(store.path(), moment, &mut told)
            .with_context(|| format!("life {crash}, to be killed at {moment:?}, seed {seed}"))?;
    }
    // The last one only says what it has: its term, and its numbers.
    one_life(store.path(), Moment::Lines(2), &mut told).context("the last life")?;
    let Told {
        term,
        looks,
        checked,
        ..
    } = told;
    ensure!(looks > crashes / 3, "only {looks} servers said anything");
    ensure!(checked > crashes, "only {checked} numbers acknowledged");
    Ok(format!(
        "{crashes} kills, {checked} entries acknowledged, 0 lost; terms up to {term}, none twice"
    ))
}

fn main() -> anyhow::Result<()> {
    if let Some(dir) = env::var_os(STORE) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        return runtime.block_on(serve(dir.into()));
    }
    let figures = a_killed_process_loses_nothing_that_it_acknowledged()?;
    let mut out = io::stdout();
    writeln!(out, "{figures}")?;
    writeln!(
        out,
        "test a_killed_process_loses_nothing_that_it_acknowledged ... ok"
    )?;
    Ok(())
}
