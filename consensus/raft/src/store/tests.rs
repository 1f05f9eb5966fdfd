//! Claims about the store on a real disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

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

/// Changes the database behind the store's back.
fn tamper(dir: &TempDir, change: impl FnOnce(&sled::Db)) {
    let db = disk::open_sled(&dir.path().join("sled")).unwrap();
    change(&db);
    db.flush().unwrap();
}

/// The key of one piece of an entry; repeated here because the layout is a promise.
fn key(index: u64, piece: u16) -> Vec<u8> {
    [b"l".as_slice(), &index.to_be_bytes(), &piece.to_be_bytes()].concat()
}

/// A store with entries 0 to 9, the last one agreed, closed again.
async fn ten_entries() -> TempDir {
    let dir = TempDir::new().unwrap();
    let store = open(&dir).unwrap();
    let mut log = store.log.clone();
    log.blocking_append((0..10).map(|index| entry(index, vec![7; 100])))
        .await
        .unwrap();
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
    // One entry spans several pieces.
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
async fn no_value_becomes_a_file_of_its_own() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir).unwrap();
    let mut log = store.log.clone();
    for index in 0..40 {
        log.blocking_append([entry(index, vec![1; 250_000])])
            .await
            .unwrap();
    }
    let state = vec![9; 1_000_000];
    log.put_snapshot(meta(39), state).await.unwrap();
    log.purge(id(39)).await.unwrap();
    drop(log);
    store.close();
    assert_eq!(
        fs::read_dir(dir.path().join("sled/blobs")).unwrap().count(),
        0
    );
}

#[tokio::test]
async fn a_changed_byte_in_an_entry_is_found_when_opening() {
    let dir = ten_entries().await;
    tamper(&dir, |db| {
        let mut record = db.get(key(4, 0)).unwrap().unwrap().to_vec();
        *record.last_mut().unwrap() ^= 1;
        db.insert(key(4, 0), record).unwrap();
    });
    assert_eq!(
        damage(&dir),
        StoreDamage::Checksum("log entry 4".to_owned())
    );
}

#[tokio::test]
async fn a_missing_entry_is_found_when_opening() {
    let dir = ten_entries().await;
    tamper(&dir, |db| drop(db.remove(key(4, 0)).unwrap()));
    assert_eq!(
        damage(&dir),
        StoreDamage::Gap {
            before: LogIndex(3),
            after: LogIndex(5)
        }
    );
}

#[tokio::test]
async fn a_missing_head_of_the_log_is_found_when_opening() {
    let dir = ten_entries().await;
    tamper(&dir, |db| drop(db.remove(key(0, 0)).unwrap()));
    assert_eq!(damage(&dir), StoreDamage::HeadMissing(LogIndex(1)));
}

#[tokio::test]
async fn a_missing_agreed_tail_is_found_when_opening() {
    let dir = ten_entries().await;
    tamper(&dir, |db| drop(db.remove(key(9, 0)).unwrap()));
    let (committed, last) = (LogIndex(9), LogIndex(8));
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
    tamper(&dir, |db| {
        let (key, piece) = db.scan_prefix(b"s").next().unwrap().unwrap();
        let mut piece = piece.to_vec();
        piece[17] ^= 1;
        db.insert(key, piece).unwrap();
    });
    assert_eq!(
        damage(&dir),
        StoreDamage::Checksum("the snapshot".to_owned())
    );
}

#[tokio::test]
async fn a_record_of_a_newer_release_is_named_as_such() {
    let dir = ten_entries().await;
    tamper(&dir, |db| {
        let mut record = db.get(key(2, 0)).unwrap().unwrap().to_vec();
        record[0] = 2;
        db.insert(key(2, 0), record).unwrap();
    });
    let what = "log entry 2".to_owned();
    assert_eq!(damage(&dir), StoreDamage::Format { what, format: 2 });
}

#[tokio::test]
async fn a_database_that_sled_refuses_is_damage() {
    let dir = ten_entries().await;
    // sled writes its index when it opens a database that has something in it.
    open(&dir).unwrap().close();
    let index = fs::read_dir(dir.path().join("sled"))
        .unwrap()
        .map(|file| file.unwrap().path());
    let index: Vec<PathBuf> = index
        .filter(|path| path.to_string_lossy().contains("snap."))
        .collect();
    fs::write(&index[0], b"this is no index at all").unwrap();
    assert!(matches!(damage(&dir), StoreDamage::Database(_)));
}

#[tokio::test]
async fn an_index_that_sled_left_unfinished_is_ignored() {
    let dir = ten_entries().await;
    let unfinished = dir.path().join("sled/snap.FFFFFFFFFFFFFFF0.generating");
    fs::write(&unfinished, b"half an index").unwrap();
    let store = open(&dir).unwrap();
    assert_eq!(
        store
            .log
            .clone()
            .try_get_log_entries(..)
            .await
            .unwrap()
            .len(),
        10
    );
    store.close();
    assert!(!unfinished.exists());
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
