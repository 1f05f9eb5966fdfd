//! Claims about the store on a real disk.

mod power_cuts;

use std::collections::{BTreeMap, BTreeSet};

use openraft::{
    RaftLogReader as _, RaftSnapshotBuilder as _,
    entry::RaftEntry as _,
    storage::{RaftLogStorage as _, RaftLogStorageExt as _, RaftStateMachine as _},
    testing::log::{StoreBuilder, Suite},
};
use tempfile::TempDir;

use super::*;
use crate::{
    machine::Machine,
    raft_types::{Entry, LeaderId, Member, Membership, Payload, Types},
};

/// Remembers every entry.
#[derive(Clone, Default)]
struct Diary(Vec<(u64, Vec<u8>)>);

impl Machine for Diary {
    fn apply(&mut self, index: LogIndex, entry: &[u8]) -> Vec<u8> {
        self.0.push((index.0, entry.to_vec()));
        entry.to_vec()
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

fn node() -> NodeId {
    "12D3KooWGRUVLJpQ8sJtbTNGXJFvBVnEKdGBAcQnzHqPVKqGNfcm"
        .parse()
        .unwrap()
}

fn open(dir: &TempDir) -> Result<Store, OpenError> {
    Store::open(dir.path(), RaftId(1), &node())
}

fn id(index: u64) -> LogId {
    LogId {
        leader_id: LeaderId {
            term: 1,
            node_id: 1,
        },
        index,
    }
}

fn entry(index: u64, bytes: Vec<u8>) -> LogEntry {
    LogEntry {
        log_id: id(index),
        payload: Payload::Normal(Entry(bytes)),
    }
}

fn damage(dir: &TempDir) -> StoreDamage {
    match open(dir) {
        Err(OpenError::Damaged(damage)) => damage,
        Err(other) => panic!("refused for another reason: {other:?}"),
        Ok(_) => panic!("a damaged store was opened"),
    }
}

/// The log's first segment.
const SEGMENT: &str = "log-00000000000000000001";

/// Flips a bit behind the store's back, in the first place where `what` is found.
fn flip(dir: &TempDir, file: &str, what: &[u8]) {
    let path = dir.path().join(file);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(what.len()).position(|part| part == what);
    bytes[at.unwrap()] ^= 1;
    fs::write(&path, bytes).unwrap();
}

/// A store with entries 0 to 9, the last one agreed, closed again.
async fn ten_entries() -> TempDir {
    let dir = TempDir::new().unwrap();
    let store = open(&dir).unwrap();
    let mut log = store.log.clone();
    for index in 0..10u8 {
        log.blocking_append([entry(index.into(), vec![index; 100])])
            .await
            .unwrap();
    }
    log.save_committed(Some(id(9))).await.unwrap();
    drop(log);
    store.close();
    dir
}

struct SuiteStores;

impl StoreBuilder<Types, LogStore, Applied<Diary>, (Store, TempDir)> for SuiteStores {
    async fn build(
        &self,
    ) -> Result<((Store, TempDir), LogStore, Applied<Diary>), openraft::StorageError<Types>> {
        let dir = TempDir::new().unwrap();
        let mut store = open(&dir).unwrap();
        let log = store.log.clone();
        let applied = Applied::open(Diary::default(), store.snapshot.take(), log.clone()).unwrap();
        Ok(((store, dir), log, applied))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_store_passes_the_suite_of_openraft() {
    Suite::test_all(SuiteStores).await.unwrap();
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_reopening() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir).unwrap();
    let mut log = store.log.clone();
    let vote = Vote::new(3, 1);
    log.save_vote(&vote).await.unwrap();
    let big = vec![42; 100_000];
    log.blocking_append([entry(0, vec![1]), entry(1, big.clone()), entry(2, vec![])])
        .await
        .unwrap();
    log.truncate_after(Some(id(1))).await.unwrap();
    log.blocking_append([entry(2, vec![2])]).await.unwrap();
    drop(log);
    store.close();

    let store = open(&dir).unwrap();
    let mut log = store.log.clone();
    assert_eq!(log.read_vote().await.unwrap(), Some(vote));
    let entries = log.try_get_log_entries(0..10).await.unwrap();
    assert_eq!(
        entries,
        [entry(0, vec![1]), entry(1, big), entry(2, vec![2])]
    );
    drop(log);
    store.close();
}

#[tokio::test]
async fn an_append_request_is_bounded_in_bytes_but_never_empty() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir).unwrap();
    let mut log = store.log.clone();
    log.blocking_append((0..8).map(|index| entry(index, vec![0; 250_000])))
        .await
        .unwrap();
    assert_eq!(log.limited_get_log_entries(0, 8).await.unwrap().len(), 4);
    assert_eq!(log.limited_get_log_entries(7, 8).await.unwrap().len(), 1);
    assert_eq!(log.try_get_log_entries(0..8).await.unwrap().len(), 8);
    drop(log);
    store.close();
}

#[tokio::test]
async fn entries_that_are_no_longer_in_memory_are_read_from_the_log() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir).unwrap();
    let mut log = store.log.clone();
    // Ten times what is kept in memory, and several segments.
    for index in 0..40u8 {
        log.blocking_append([entry(index.into(), vec![index; 250_000])])
            .await
            .unwrap();
    }
    let entries = log.try_get_log_entries(..).await.unwrap();
    let expected: Vec<_> = (0..40u8)
        .map(|index| entry(index.into(), vec![index; 250_000]))
        .collect();
    assert!(entries == expected);
    let state = vec![9; 1_000_000];
    log.put_snapshot(meta(39), state).await.unwrap();
    log.purge(id(38)).await.unwrap();
    assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 1);
    drop(log);
    store.close();
    // The first segments are gone, one of them waits to be used again.
    assert!(!dir.path().join(SEGMENT).exists());
    assert!(dir.path().join("spare").exists());
    open(&dir).unwrap().close();
}

#[tokio::test]
async fn a_changed_byte_in_an_entry_is_found_when_opening() {
    let dir = ten_entries().await;
    flip(&dir, SEGMENT, &[4; 100]);
    let StoreDamage::Log(story) = damage(&dir) else {
        panic!("damaged in another way");
    };
    assert!(story.starts_with("segment 1 of the log is damaged at byte"));
}

#[tokio::test]
async fn a_missing_segment_is_found_when_opening() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir).unwrap();
    let mut log = store.log.clone();
    for index in 0..40 {
        log.blocking_append([entry(index, vec![1; 250_000])])
            .await
            .unwrap();
    }
    drop(log);
    store.close();
    fs::remove_file(dir.path().join(SEGMENT)).unwrap();
    let missing = "the log's entries from 0 on are missing".to_owned();
    assert_eq!(damage(&dir), StoreDamage::Log(missing));
}

#[tokio::test]
async fn a_snapshot_without_a_log_is_damage() {
    let dir = ten_entries().await;
    let store = open(&dir).unwrap();
    store.log.put_snapshot(meta(9), vec![5; 100]).await.unwrap();
    store.close();
    fs::remove_file(dir.path().join(SEGMENT)).unwrap();
    assert_eq!(damage(&dir), StoreDamage::LogMissing);
}

#[tokio::test]
async fn a_missing_agreed_tail_is_found_when_opening() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir).unwrap();
    let mut log = store.log.clone();
    log.blocking_append([entry(0, vec![])]).await.unwrap();
    log.save_committed(Some(id(3))).await.unwrap();
    drop(log);
    store.close();
    let (committed, last) = (LogIndex(3), LogIndex(0));
    assert_eq!(damage(&dir), StoreDamage::TailMissing { committed, last });
}

#[tokio::test]
async fn a_purge_without_its_snapshot_is_found_when_opening() {
    let dir = ten_entries().await;
    let store = open(&dir).unwrap();
    let mut log = store.log.clone();
    log.purge(id(4)).await.unwrap();
    drop(log);
    store.close();
    let (purged, snapshot) = (LogIndex(4), LogIndex(0));
    assert_eq!(
        damage(&dir),
        StoreDamage::SnapshotBehind { purged, snapshot }
    );
}

#[tokio::test]
async fn a_changed_byte_in_the_snapshot_is_found_when_opening() {
    let dir = ten_entries().await;
    let store = open(&dir).unwrap();
    store
        .log
        .put_snapshot(meta(9), vec![5; 10_000])
        .await
        .unwrap();
    store.close();
    flip(&dir, "snapshot", &[5; 100]);
    assert_eq!(
        damage(&dir),
        StoreDamage::Checksum("the snapshot".to_owned())
    );
}

#[tokio::test]
async fn an_unfinished_snapshot_is_ignored() {
    let dir = ten_entries().await;
    let unfinished = dir.path().join("snapshot.new");
    fs::write(&unfinished, b"half a snapshot").unwrap();
    let store = open(&dir).unwrap();
    assert!(store.snapshot.is_none());
    store.close();
    assert!(!unfinished.exists());
}

#[tokio::test]
async fn a_log_of_a_newer_release_is_named_as_such() {
    let dir = ten_entries().await;
    let path = dir.path().join(SEGMENT);
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 2;
    fs::write(&path, bytes).unwrap();
    let what = "segment 1 of the log".to_owned();
    assert_eq!(damage(&dir), StoreDamage::Format { what, format: 2 });
}

#[tokio::test]
async fn a_store_of_an_old_kind_is_refused_and_left_alone() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("sled")).unwrap();
    assert!(matches!(
        damage(&dir),
        StoreDamage::Format { format: 0, .. }
    ));
    assert!(!dir.path().join(SEGMENT).exists());
}

#[tokio::test]
async fn a_damaged_store_is_set_aside_as_it_is() {
    let parent = TempDir::new().unwrap();
    let dir = parent.path().join("raft-1");
    for number in 1..=2 {
        let store = Store::open(&dir, RaftId(1), &node()).unwrap();
        let refused = quarantine(&dir).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ResourceBusy);
        store.close();
        let aside = quarantine(&dir).unwrap();
        assert_eq!(
            aside,
            parent.path().join(format!("raft-1.damaged-{number}"))
        );
        assert!(aside.join(SEGMENT).exists());
        assert!(!dir.exists());
    }
    let refused = quarantine(&dir).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn another_servers_store_is_refused() {
    let dir = ten_entries().await;
    let refused = Store::open(dir.path(), RaftId(2), &node());
    assert!(matches!(
        refused,
        Err(OpenError::OtherOwner {
            found: RaftId(1),
            ..
        })
    ));
}

#[tokio::test]
async fn a_store_is_opened_once_at_a_time() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir).unwrap();
    assert!(matches!(open(&dir), Err(OpenError::InUse(_))));
    store.close();
    open(&dir).unwrap().close();
}

#[tokio::test]
async fn an_older_snapshot_never_replaces_a_newer_one() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir).unwrap();
    store.log.put_snapshot(meta(9), vec![9]).await.unwrap();
    store.log.put_snapshot(meta(5), vec![5]).await.unwrap();
    let stored = store.log.snapshot().unwrap().unwrap();
    assert_eq!((stored.meta, stored.state), (meta(9), vec![9]));
    store.close();
}

#[tokio::test]
async fn a_snapshot_brings_state_and_members_back() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir).unwrap();
    let log = store.log.clone();
    let mut applied = Applied::open(Diary::default(), store.snapshot.take(), log).unwrap();
    let members = Membership::new(
        vec![BTreeSet::from([1])],
        BTreeMap::from([(1, Member(Some(node())))]),
    );
    let joined = LogEntry {
        log_id: id(0),
        payload: Payload::Membership(members.unwrap()),
    };
    let entries = [
        joined,
        entry(1, b"one".to_vec()),
        LogEntry::new_blank(id(2)),
    ];
    let entries = entries.map(|entry| Ok((entry, None)));
    applied.apply(futures::stream::iter(entries)).await.unwrap();
    let mut builder = applied.get_snapshot_builder().await;
    builder.build_snapshot().await.unwrap();
    let before = applied.applied_state().await.unwrap();
    drop((builder, applied));
    store.close();

    let mut store = open(&dir).unwrap();
    let log = store.log.clone();
    let mut applied = Applied::open(Diary::default(), store.snapshot.take(), log).unwrap();
    assert_eq!(applied.applied_state().await.unwrap(), before);
    assert_eq!(applied.published().borrow().index, LogIndex(2));
    assert_eq!(
        applied.published().borrow().machine.0,
        [(1, b"one".to_vec())]
    );
    drop(applied);
    store.close();
}

fn meta(index: u64) -> crate::raft_types::SnapshotMeta {
    crate::raft_types::SnapshotMeta {
        last_log_id: Some(id(index)),
        ..Default::default()
    }
}
