//! A new group from one server's store, when the majority is lost for good.
//!
//! Decides what such a server keeps: everything that it holds. An acknowledged entry is on a
//! majority's disks, and this server may have been in that majority without having heard that the
//! entry was agreed, so an entry whose agreement is not known here is adopted all the same
//! (etcd's `--force-new-cluster` and Consul's `peers.json` do so too). It may be one that nobody
//! acknowledged: its proposer was told that the outcome is unknown. What the lost servers
//! acknowledged without this one is gone, and nothing here can tell how much that was.
//!
//! The result is a store of its own under a new Raft id: a snapshot of the state with everything
//! applied, whose only member is this server, at the beginning of the next [`Era`]. The old
//! store is left as it is. Old voters are kept out twice: what they send is addressed to Raft ids
//! that are gone, and it is of an era that is over, whatever terms their elections reach.
//!
//! Invariants:
//! - The new store appears under its name only when it is complete and durable.
//! - No Raft id of the old group is used again.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    thread,
};

use consensus_core::{LogIndex, NodeId, RaftId, WallMs};
use openraft::{
    RaftLogReader as _,
    storage::{RaftLogStorage as _, RaftStateMachine as _},
    vote::RaftLeaderId as _,
};
use tokio::runtime::Builder;

use crate::{
    agreement::Settings,
    era::{self, Era},
    errors::{OpenError, StoreDamage},
    fence,
    machine::Machine,
    raft_types::{
        LeaderId, LogId, Member, Membership, Payload, SnapshotMeta, StoredMembership, Vote,
    },
    store::{Applied, Store},
};

/// Entries applied in one go; with the largest entries still only 16 MiB in memory.
const ENTRIES_AT_ONCE: u64 = 64;
/// Appended to the new store's name until it is complete.
const UNFINISHED: &str = ".unfinished";

/// What a stopped server's store holds, and so what a recovery from it would keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// The last entry in it. What was acknowledged beyond it is lost.
    pub last: LogIndex,
    /// The last entry known there to be agreed.
    pub committed: LogIndex,
    /// Entries after that one, which are adopted although it is not known that they were agreed.
    pub adopted: u64,
    /// The highest term in it, counted from the beginning of the era.
    pub term: u64,
    /// The era that it belongs to.
    pub era: Era,
    /// Who votes (during a change: the old and the new voters), this server perhaps included.
    pub voters: BTreeMap<RaftId, NodeId>,
    /// Who only follows.
    pub learners: BTreeMap<RaftId, NodeId>,
    /// A Raft id that was never used: the position that the recovery takes in the log.
    pub next_raft_id: RaftId,
}

/// A group's part that begins with a state and not with a log.
#[derive(Debug, Clone)]
pub struct NewPart {
    /// The new store's directory. There must be nothing of that name.
    pub dir: PathBuf,
    /// A Raft id that was never used: [`Survey::next_raft_id`].
    pub raft_id: RaftId,
    /// This server.
    pub node: NodeId,
    /// The era that begins.
    pub era: Era,
    /// The position in the log that the state has.
    pub at: LogIndex,
}

/// What was made of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// What was found and kept.
    pub survey: Survey,
    /// The era that begins.
    pub era: Era,
    /// The server's Raft id from now on.
    pub raft_id: RaftId,
    /// The position that the recovery has in the log.
    pub at: LogIndex,
}

/// Why a store could not be recovered from. The old store is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// There is no store.
    #[error("there is no store at {}", .0.display())]
    NoStore(PathBuf),
    /// The store has never taken part in a group.
    #[error("the store has never taken part in a group")]
    Empty,
    /// The store could not be opened.
    #[error("the old store could not be opened")]
    Old(#[source] OpenError),
    /// The state in the store makes no sense.
    #[error("the old store's content cannot be used")]
    Content(#[source] io::Error),
    /// The Raft id was used before.
    #[error("Raft id {} may have been used before", .0.0)]
    IdTaken(RaftId),
    /// The new store's name is taken.
    #[error("there is something at {} already", .0.display())]
    TargetExists(PathBuf),
    /// The new store could not be written.
    #[error("the new store could not be written")]
    New(#[source] OpenError),
    /// No era comes after the present one.
    #[error("this was the last era")]
    LastEra,
}

impl RecoverError {
    /// A stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoStore(_) => "NoStore",
            Self::Empty => "StoreEmpty",
            Self::Old(error) | Self::New(error) => error.code(),
            Self::Content(_) => "StoreDamaged",
            Self::IdTaken(_) => "RaftIdTaken",
            Self::TargetExists(_) => "TargetExists",
            Self::LastEra => "LastEra",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoStore(_) | Self::Empty => "recover on a machine that was a server",
            Self::Old(error) | Self::New(error) => error.hint(),
            Self::Content(_) => "recover from another server's store, or from a backup",
            Self::IdTaken(_) => "take the id that the survey names",
            Self::TargetExists(_) => "move it aside if an earlier recovery left it",
            Self::LastEra => "restore a backup into a new mesh",
        }
    }
}

/// Tells what a recovery from a stopped server's store would keep. Blocks.
///
/// # Errors
/// See [`RecoverError`].
pub fn survey<M: Machine>(old: &Settings, initial: M) -> Result<Survey, RecoverError> {
    let found = beside(|| read(old, initial))?;
    Ok(found.survey)
}

/// Makes a new store, of a group of this server alone, from a stopped server's. Blocks.
///
/// The state is at the beginning of the next era ([`Era::first_index`]), and the server's Raft id
/// is that position. `adapt` makes of the old group's state the new one's.
///
/// # Errors
/// See [`RecoverError`].
pub fn recover<M: Machine>(
    old: &Settings,
    initial: M,
    now: WallMs,
    dir: impl FnOnce(RaftId) -> PathBuf + Send,
    adapt: impl FnOnce(&mut M, LogIndex) + Send,
) -> Result<Recovered, RecoverError> {
    beside(|| {
        let mut found = read(old, initial.clone())?;
        let (last, term) = (found.survey.last, Era::of(found.term));
        let era = Era::begun_at(now, last, term).ok_or(RecoverError::LastEra)?;
        let at = era.first_index();
        // Ids are positions in the log, so one beyond its end was never given.
        let raft_id = RaftId(at.0);
        if raft_id < found.survey.next_raft_id {
            return Err(RecoverError::IdTaken(raft_id));
        }
        adapt(&mut found.machine, at);
        let new = NewPart {
            dir: dir(raft_id),
            raft_id,
            node: old.node.clone(),
            era,
            at,
        };
        begin(&new, found.machine, initial)?;
        Ok(Recovered {
            survey: found.survey,
            era,
            raft_id,
            at,
        })
    })
}

/// Makes a new store, of a group of one server, that begins with `machine`: what a backup is
/// restored into. Blocks.
///
/// # Errors
/// See [`RecoverError`].
pub fn restore<M: Machine>(new: &NewPart, machine: M, initial: M) -> Result<(), RecoverError> {
    beside(|| begin(new, machine, initial))
}

fn begin<M: Machine>(new: &NewPart, machine: M, initial: M) -> Result<(), RecoverError> {
    if new.dir.exists() {
        return Err(RecoverError::TargetExists(new.dir.clone()));
    }
    let unfinished = unfinished(&new.dir);
    write(&unfinished, new, (machine, initial))
        .and_then(|()| publish(&unfinished, &new.dir).map_err(OpenError::Io))
        .map_err(RecoverError::New)
}

/// Runs `work` in a thread of its own: the caller may be in a runtime, and work makes one.
fn beside<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let worker = scope.spawn(work);
        worker
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// What is in an old store, with everything applied.
struct Found<M> {
    survey: Survey,
    term: u64,
    machine: M,
}

fn read<M: Machine>(old: &Settings, initial: M) -> Result<Found<M>, RecoverError> {
    if !old.dir.exists() {
        return Err(RecoverError::NoStore(old.dir.clone()));
    }
    // Another server was recovered from: two groups would claim to be the one.
    fence::check(&old.dir).map_err(RecoverError::Old)?;
    let opened = Store::open(&old.dir, old.raft_id, &old.node);
    let mut store = opened.map_err(RecoverError::Old)?;
    let found = block_on(replay(&mut store, initial));
    store.close();
    match found.map_err(RecoverError::Old)? {
        Ok(found) => found.ok_or(RecoverError::Empty),
        Err(error) => Err(RecoverError::Content(error)),
    }
}

/// Applies all that the store holds; nothing if that is nothing.
async fn replay<M: Machine>(store: &mut Store, initial: M) -> io::Result<Option<Found<M>>> {
    let undecodable =
        |why| io::Error::new(io::ErrorKind::InvalidData, StoreDamage::Undecodable(why));
    let (mut machine, meta) = match store.snapshot.take() {
        Some(stored) => (M::decode(&stored.state).map_err(undecodable)?, stored.meta),
        None => (initial, SnapshotMeta::default()),
    };
    let mut log = store.log.clone();
    let (vote, committed) = (log.read_vote().await?, log.read_committed().await?);
    let mut members = meta.last_membership.membership().clone();
    let mut last = meta.last_log_id;
    let end = log
        .get_log_state()
        .await?
        .last_log_id
        .map_or(0, |id| id.index + 1);
    let next = |last: Option<LogId>| last.map_or(0, |last| last.index + 1);
    while next(last) < end {
        let first = next(last);
        let entries = first..end.min(first + ENTRIES_AT_ONCE);
        for entry in log.try_get_log_entries(entries).await? {
            match &entry.payload {
                Payload::Blank => {}
                // The answer is for a proposer that is gone.
                Payload::Normal(bytes) => {
                    drop(machine.apply(LogIndex(entry.log_id.index), &bytes.0));
                }
                Payload::Membership(membership) => members = membership.clone(),
            }
            last = Some(entry.log_id);
        }
        if next(last) == first {
            return Err(io::Error::other(format!("log entry {first} is missing")));
        }
    }
    let Some(last) = last else {
        return Ok(None);
    };
    let committed = committed.max(meta.last_log_id).map_or(0, |id| id.index);
    let term = vote
        .map_or(0, |vote| vote.leader_id.term)
        .max(last.leader_id.term);
    let named = |id: u64| Some((RaftId(id), members.get_node(&id)?.0.clone()?));
    let survey = Survey {
        last: LogIndex(last.index),
        committed: LogIndex(committed),
        adopted: last.index.saturating_sub(committed),
        term: era::elections(term),
        era: Era::of(term),
        voters: members.voter_ids().filter_map(named).collect(),
        learners: members.learner_ids().filter_map(named).collect(),
        next_raft_id: RaftId(last.index + 1),
    };
    Ok(Some(Found {
        survey,
        term,
        machine,
    }))
}

/// Writes the new store.
fn write<M: Machine>(
    dir: &Path,
    new: &NewPart,
    (machine, initial): (M, M),
) -> Result<(), OpenError> {
    let (raft_id, node) = (new.raft_id, &new.node);
    let at = LogId {
        leader_id: LeaderId::new(new.era.first_term(), raft_id.0),
        index: new.at.0,
    };
    // What an earlier attempt left; nobody ever took part with it.
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(OpenError::Io(error)),
        Ok(()) | Err(_) => {}
    }
    let members = BTreeMap::from([(raft_id.0, Member(Some(node.clone())))]);
    let members = Membership::new(vec![[raft_id.0].into()], members);
    let members = members.map_err(|error| OpenError::Raft(error.to_string()))?;
    let meta = SnapshotMeta {
        last_log_id: Some(at),
        last_membership: StoredMembership::new(Some(at), members),
    };
    let vote = Vote {
        leader_id: at.leader_id,
        committed: false,
    };
    let store = Store::open(dir, raft_id, node)?;
    let mut log = store.log.clone();
    let written = block_on(async {
        let mut applied = Applied::open(initial, None, log.clone()).map_err(OpenError::Damaged)?;
        let state = machine.encode();
        let installed = applied.install_snapshot(&meta, state).await;
        installed.map_err(OpenError::Io)?;
        log.save_vote(&vote).await.map_err(OpenError::Io)
    });
    drop(log);
    store.close();
    written?
}

fn block_on<T>(work: impl Future<Output = T>) -> Result<T, OpenError> {
    let runtime = Builder::new_current_thread().enable_time().build();
    Ok(runtime.map_err(OpenError::Io)?.block_on(work))
}

fn unfinished(dir: &Path) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(UNFINISHED);
    name.into()
}

/// Gives the complete store its name, durably.
fn publish(unfinished: &Path, dir: &Path) -> io::Result<()> {
    fs::rename(unfinished, dir)?;
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}
