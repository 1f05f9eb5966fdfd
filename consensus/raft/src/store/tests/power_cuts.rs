//! Claims about the whole store on a disk that forgets and fails.
//!
//! `SHOAL_POWER_CUTS` and `SHOAL_SEED` choose how many cuts and which ones; a failure prints both.

use std::{collections::BTreeMap, env, io, sync::Arc};

use consensus_log::{
    Options,
    simulation::{Fault, FaultKind, Random, SimDisk},
};
use futures::FutureExt as _;
use openraft::{
    storage::{IOFlushed, RaftLogStorage as _},
    type_config::TypeConfigExt as _,
};

use super::*;

/// Power cuts of one run, unless the environment says otherwise.
const POWER_CUTS: u64 = 1000;
/// Power cuts that one store lives through.
const CUTS_PER_STORE: u64 = 10;
/// Steps between two power cuts, at most.
const STEPS_MAX: u64 = 40;
const OPTIONS: Options = Options {
    segment_bytes: 16 * 1024,
};

/// What a store holds. Entries are told apart by their stamps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct State {
    entries: BTreeMap<u64, u64>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    snapshot: Option<LogId>,
    purged: Option<LogId>,
}

impl State {
    fn end(&self) -> u64 {
        let last = self.entries.keys().next_back().copied();
        let last = last.max(self.purged.map(|id| id.index));
        last.map_or(0, |last| last + 1)
    }
}

/// A store and what may be in it.
struct Server {
    store: Store,
    writer: Writer,
    /// Every state since the last acknowledged one, that one first.
    states: Vec<State>,
    stamp: u64,
}

fn bytes_of(stamp: u64) -> Vec<u8> {
    let mut random = Random::new(stamp);
    let mut bytes = stamp.to_le_bytes().to_vec();
    bytes.resize(usize::try_from(8 + random.below(400)).unwrap(), 1);
    bytes
}

async fn found(store: &Store) -> io::Result<State> {
    let mut log = store.log.clone();
    let entries = log.try_get_log_entries(..).await?.into_iter().map(|entry| {
        let Payload::Normal(payload) = &entry.payload else {
            panic!("an entry that nobody wrote");
        };
        let stamp = u64::from_le_bytes(payload.0[..8].try_into().unwrap());
        assert_eq!(payload.0, bytes_of(stamp));
        (entry.log_id.index, stamp)
    });
    Ok(State {
        entries: entries.collect(),
        vote: log.read_vote().await?,
        committed: log.read_committed().await?,
        snapshot: store.log.snapshot()?.and_then(|stored| {
            let state = Vec::from(stored.generation.to_le_bytes());
            assert_eq!(stored.state, state.repeat(100), "half a snapshot");
            stored.meta.last_log_id
        }),
        purged: log.get_log_state().await?.last_purged_log_id,
    })
}

impl Server {
    fn open(disk: &SimDisk, states: Vec<State>, stamp: u64) -> Result<Self, OpenError> {
        let disk = Arc::new(disk.clone());
        let (store, writer) = Store::open_on(disk, OPTIONS, RaftId(1), &node())?;
        let found = now(found(&store)).map_err(OpenError::Io)?;
        assert!(
            states.contains(&found),
            "found {found:?}, acknowledged {:?}, last written {:?}",
            states.first(),
            states.last()
        );
        Ok(Self {
            store,
            writer,
            states: vec![found],
            stamp,
        })
    }

    fn change(&mut self, change: impl FnOnce(&mut State)) {
        let mut state = self.states.last().unwrap().clone();
        change(&mut state);
        self.states.push(state);
    }

    /// Notes that all that was queued is acknowledged, or that it never will be.
    fn acknowledge<T>(&mut self, acknowledged: io::Result<T>) -> io::Result<()> {
        acknowledged?;
        self.states.drain(..self.states.len() - 1);
        Ok(())
    }

    fn step(&mut self, random: &mut Random) -> io::Result<()> {
        let state = self.states.last().unwrap().clone();
        let log = self.store.log.clone();
        match random.below(12) {
            0..6 => self.append(log, random),
            6 => self.vote(log),
            7 => self.snapshot(log),
            8 => {
                let agreed = state.committed.max(state.purged).max(state.snapshot);
                let first = agreed.map_or(0, |id| id.index + 1);
                let from = first + random.below(state.end().saturating_sub(first) + 1);
                let Some(last) = from.checked_sub(1) else {
                    return Ok(());
                };
                self.change(|state| drop(state.entries.split_off(&from)));
                now(log.clone().truncate_after(Some(id(last))))
            }
            9 => {
                let Some(last) = state.end().checked_sub(1) else {
                    return Ok(());
                };
                let committed = Some(id(last)).max(state.committed);
                self.change(|state| state.committed = committed);
                now(log.clone().save_committed(committed))
            }
            10 => {
                let Some(upto) = state.snapshot.filter(|upto| state.purged < Some(*upto)) else {
                    return Ok(());
                };
                self.change(|state| {
                    state.entries = state.entries.split_off(&(upto.index + 1));
                    state.purged = Some(upto);
                });
                now(log.clone().purge(upto))
            }
            _ => {
                self.writer.write_queued();
                Ok(())
            }
        }
    }

    /// Has `work` queue something, writes it, and gives the outcome.
    fn while_writing<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        assert!((&mut work).now_or_never().is_none(), "it did not wait");
        self.writer.write_queued();
        now(work)
    }

    fn append(&mut self, mut log: LogStore, random: &mut Random) -> io::Result<()> {
        let many = random.below(5) + 1;
        let first = self.states.last().unwrap().end();
        let entries: Vec<LogEntry> = (first..first + many)
            .map(|index| {
                self.stamp += 1;
                let stamp = self.stamp;
                self.change(|state| {
                    state.entries.insert(index, stamp);
                });
                entry(index, bytes_of(stamp))
            })
            .collect();
        let (done, durable) = Types::oneshot();
        now(log.append(entries, IOFlushed::signal(done)))?;
        self.writer.write_queued();
        self.acknowledge(now(durable).unwrap())
    }

    fn vote(&mut self, mut log: LogStore) -> io::Result<()> {
        let vote = self.states.last().unwrap().vote;
        let vote = Vote::new(vote.map_or(1, |vote| vote.leader_id.term + 1), 1);
        self.change(|state| state.vote = Some(vote));
        let saved = self.while_writing(async move { log.save_vote(&vote).await });
        self.acknowledge(saved)
    }

    fn snapshot(&mut self, log: LogStore) -> io::Result<()> {
        let state = self.states.last().unwrap();
        let Some(covered) = state.committed.max(state.snapshot) else {
            return Ok(());
        };
        self.change(|state| state.snapshot = Some(covered));
        // The writer counts snapshots; so does their content.
        let generation = self.writer.next_generation();
        let content = Vec::from(generation.to_le_bytes()).repeat(100);
        let covered = meta(covered.index);
        let saved = self.while_writing(async move { log.put_snapshot(covered, content).await });
        self.acknowledge(saved)
    }
}

/// The result of what need not wait.
fn now<T>(work: impl Future<Output = T>) -> T {
    work.now_or_never().expect("it has nothing to wait for")
}

fn power_cuts(seed: u64) -> u64 {
    let mut random = Random::new(seed);
    let disk = SimDisk::new();
    let (mut states, mut stamp) = (vec![State::default()], 0);
    for _ in 0..CUTS_PER_STORE {
        let mut server = Server::open(&disk, states, stamp).expect("a power cut is no damage");
        if random.chance(70) {
            disk.plan(Fault {
                call: disk.calls() + 1 + random.below(4 * STEPS_MAX),
                kind: FaultKind::Broken,
                lasting: true,
            });
        }
        for _ in 0..random.below(STEPS_MAX) {
            if server.step(&mut random).is_err() {
                break;
            }
        }
        disk.repair();
        disk.power_cut(&mut random);
        (states, stamp) = (server.states, server.stamp);
    }
    let server = Server::open(&disk, states, stamp).expect("a power cut is no damage");
    let snapshot = server.states[0].snapshot;
    snapshot.map_or(0, |id| id.index + 1)
}

fn from_environment(name: &str, otherwise: u64) -> u64 {
    env::var(name).map_or(otherwise, |value| value.parse().expect("it is a number"))
}

#[test]
fn what_was_acknowledged_survives_every_power_cut() {
    let cuts = from_environment("SHOAL_POWER_CUTS", POWER_CUTS);
    let first = from_environment("SHOAL_SEED", 0);
    let mut covered = 0;
    for seed in first..first + cuts.div_ceil(CUTS_PER_STORE) {
        let run = std::panic::catch_unwind(|| power_cuts(seed));
        covered += run.unwrap_or_else(|panic| {
            eprintln!(
                "replay: SHOAL_SEED={seed} SHOAL_POWER_CUTS={CUTS_PER_STORE} \
                 cargo test -p consensus-raft --lib what_was_acknowledged_survives"
            );
            std::panic::resume_unwind(panic)
        });
    }
    // A workload that does nothing would lose nothing.
    assert!(covered > cuts / CUTS_PER_STORE, "only {covered} entries");
    println!("{cuts} power cuts, {covered} entries covered by snapshots, 0 lost");
}

/// A store that always does the same, until a call fails.
fn workload(disk: &SimDisk) -> (Result<(), OpenError>, Vec<State>) {
    let mut random = Random::new(11);
    let mut server = match Server::open(disk, vec![State::default()], 0) {
        Ok(server) => server,
        Err(error) => return (Err(error), vec![State::default()]),
    };
    for _ in 0..70 {
        if let Err(error) = server.step(&mut random) {
            // Nothing is acknowledged by a store that failed.
            server.vote(server.store.log.clone()).unwrap_err();
            let log = server.store.log.clone();
            server.append(log, &mut random).unwrap_err();
            return (Err(OpenError::Io(error)), server.states);
        }
    }
    (Ok(()), server.states)
}

#[test]
fn whichever_call_fails_nothing_acknowledged_is_lost() {
    let disk = SimDisk::new();
    workload(&disk).0.unwrap();
    let calls = disk.calls();
    let mut told = 0;
    for call in 1..=calls {
        for (kind, cut) in [
            (FaultKind::Broken, false),
            (FaultKind::Broken, true),
            (FaultKind::Full, false),
            (FaultKind::Full, true),
        ] {
            let disk = SimDisk::new();
            disk.plan(Fault {
                call,
                kind,
                lasting: true,
            });
            let (result, states) = workload(&disk);
            match result {
                Ok(()) => {}
                Err(OpenError::Io(_)) => told += 1,
                Err(other) => panic!("call {call}, {kind:?}: {other:?}"),
            }
            disk.repair();
            if cut {
                disk.power_cut(&mut Random::new(call));
            }
            let mut server = Server::open(&disk, states, 1_000_000)
                .unwrap_or_else(|error| panic!("call {call}, {kind:?}, {cut}: {error:?}"));
            server.vote(server.store.log.clone()).unwrap();
        }
    }
    assert!(told > calls, "{told} of {} runs", 4 * calls);
    println!("{calls} calls, each failing in 4 ways, {told} runs ended by it");
}
