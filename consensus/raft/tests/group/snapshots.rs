//! Claims about snapshots that travel while the group goes on.

use consensus_core::{LogIndex, RaftId};
use consensus_raft::{Agreement, ChangeError, HandleError, Lane};
use tokio::sync::Semaphore;

use crate::mesh::{Ledger, Mesh, SLOT, STEADY, ledger_at, node, until};

/// Slots times their size is the state: some 5 MiB, in 20 pieces.
const SLOTS: u8 = 20;
const SLOT_BYTES: usize = 250 * 1024;
/// As the crate cuts them.
const PIECE_BYTES: usize = 256 * 1024;

fn filled(slot: u8) -> Vec<u8> {
    let mut entry = vec![slot; SLOT_BYTES];
    entry[..2].copy_from_slice(&[SLOT, slot % SLOTS]);
    entry
}

/// Pieces that the leader's state has.
fn pieces_of(server: &Agreement<Ledger>) -> usize {
    let published = server.published();
    let entries = &published.borrow().machine.0;
    let bytes = entries.iter().map(|entry| entry.len() + 4).sum::<usize>();
    bytes.div_ceil(PIECE_BYTES)
}

async fn write(server: &Agreement<Ledger>, slots: impl IntoIterator<Item = u8>) {
    let proposals = slots.into_iter().map(|slot| server.propose(filled(slot)));
    for proposed in futures::future::join_all(proposals).await {
        proposed.unwrap();
    }
}

/// A group whose log no longer has its beginning, in which nobody writes; and its leader.
async fn with_a_purged_log(voters: u64) -> (Mesh, u64) {
    let mesh = Mesh::founded_with(voters, STEADY).await;
    let leader = mesh.leader().await;
    let server = mesh.server(leader);
    while server.status().borrow().purged.is_none() {
        write(&server, 0..SLOTS).await;
    }
    // No server makes a further snapshot meanwhile: the bytes since the last one are far from it.
    for number in 1..=voters {
        until(&mesh.server(number), |status| status.purged.is_some()).await;
    }
    (mesh, leader)
}

/// Adds a learner, however long it takes to catch up.
async fn add(server: &Agreement<Ledger>, number: u64) {
    let late = Err(ChangeError::NotCaughtUp(RaftId(number)));
    loop {
        let added = server.add_learner(RaftId(number), node(number)).await;
        if added != late {
            return added.unwrap();
        }
    }
}

#[tokio::test]
async fn a_server_far_behind_catches_up_by_snapshot_while_writes_go_on() {
    let (mut mesh, leader) = with_a_purged_log(3).await;
    let server = mesh.server(leader);
    let before = server.status().borrow().clone();
    let gate = mesh.hold_pieces();
    let behind = mesh.start(4).await;
    let adding = {
        let server = server.clone();
        tokio::spawn(async move { add(&server, 4).await })
    };
    // Every piece waits for 1 MiB of writes, so that the leader makes new snapshots and would
    // purge what the learner needs next.
    let known = before.last_log.unwrap();
    let mut rounds = 0;
    while behind.published().borrow().index < known {
        write(&server, (0..4).map(|slot| slot + rounds % 16)).await;
        gate.add_permits(1);
        rounds += 1;
    }
    gate.add_permits(Semaphore::MAX_PERMITS / 2);
    adding.await.unwrap();
    let after = server.status().borrow().clone();
    assert!(
        after.snapshot > before.snapshot,
        "no snapshot was made meanwhile"
    );
    assert_eq!(
        (after.term, after.leader_id),
        (before.term, before.leader_id)
    );
    let (index, _) = server.propose(b"after".to_vec()).await.unwrap();
    let expected = ledger_at(&server, index).await;
    assert_eq!(ledger_at(&behind, index).await, expected);
    // One transfer was enough although it took longer than the making of the next snapshots.
    let pieces = mesh.pieces();
    assert!(
        pieces >= 20,
        "{pieces} pieces: it caught up without a snapshot"
    );
    assert!(pieces <= 22, "{pieces} pieces: the snapshot was sent again");

    // What came by snapshot is durable too.
    drop(behind);
    mesh.drop_server(4);
    let reopened = mesh.start(4).await;
    assert_eq!(ledger_at(&reopened, index).await, expected);
}

#[tokio::test]
async fn a_transfer_that_breaks_goes_on_where_it_was() {
    // How many messages are lost in a row: fewer than the sender bears, and more.
    for silent in [0, 1, 9] {
        let (mut mesh, leader) = with_a_purged_log(1).await;
        let server = mesh.server(leader);
        mesh.lane(|lane| {
            lane.lost = [3].into();
            lane.unanswered = [8, 15].into();
            lane.silent = silent;
        });
        let behind = mesh.start(2).await;
        add(&server, 2).await;
        let (index, _) = server.propose(b"after".to_vec()).await.unwrap();
        let expected = ledger_at(&server, index).await;
        assert_eq!(ledger_at(&behind, index).await, expected);
        let whole = pieces_of(&server);
        mesh.lane(|lane| {
            assert!(
                lane.lost.is_empty() && lane.unanswered.is_empty(),
                "nothing broke"
            );
            assert_eq!(
                *lane.pieces.borrow(),
                whole,
                "with {silent} more messages lost"
            );
        });
    }
}

#[tokio::test]
async fn the_answer_to_the_last_piece_may_be_lost() {
    let (mut mesh, leader) = with_a_purged_log(1).await;
    let server = mesh.server(leader);
    let whole = pieces_of(&server);
    mesh.lane(|lane| lane.unanswered = [whole].into());
    let behind = mesh.start(2).await;
    add(&server, 2).await;
    let (index, _) = server.propose(b"after".to_vec()).await.unwrap();
    let expected = ledger_at(&server, index).await;
    assert_eq!(ledger_at(&behind, index).await, expected);
    assert_eq!(mesh.pieces(), whole);
}

#[tokio::test]
async fn a_transfer_whose_leader_dies_begins_anew_with_the_next_one() {
    let (mut mesh, leader) = with_a_purged_log(3).await;
    let server = mesh.server(leader);
    let gate = mesh.hold_pieces();
    gate.add_permits(7);
    let behind = mesh.start(4).await;
    let adding = {
        let server = server.clone();
        tokio::spawn(async move { add(&server, 4).await })
    };
    mesh.pieces_arrived(7).await;
    adding.abort();
    drop(adding.await);
    drop(server);
    // The dead send nothing: its tasks end a little after its last handle.
    mesh.end_server(leader).await;
    gate.add_permits(Semaphore::MAX_PERMITS / 2);
    let (index, _) = mesh.propose(b"after").await;
    let next = mesh.leader().await;
    assert_ne!(next, leader);
    let expected = ledger_at(&mesh.server(next), index).await;
    assert_eq!(ledger_at(&behind, index).await, expected);
    let pieces = mesh.pieces();
    assert!(
        pieces >= 7 + 20,
        "{pieces} pieces: the new leader's snapshot was not sent whole"
    );
}

#[tokio::test]
async fn noise_among_the_pieces_is_refused_and_changes_nothing() {
    let (mut mesh, leader) = with_a_purged_log(1).await;
    let server = mesh.server(leader);
    let whole = pieces_of(&server);
    let gate = mesh.hold_pieces();
    gate.add_permits(7);
    let behind = mesh.start(2).await;
    let adding = {
        let server = server.clone();
        tokio::spawn(async move { add(&server, 2).await })
    };
    mesh.pieces_arrived(7).await;
    let (_, piece) = mesh.lane(|lane| lane.last.clone()).unwrap();
    let refused = |answer: Result<Vec<u8>, HandleError>| match answer {
        // Format, snapshot, and what follows: refused, or wanted from another offset on.
        Ok(answer) => matches!(answer[..3], [1, 3, 3 | 0]),
        Err(error) => matches!(
            error,
            HandleError::Malformed(_) | HandleError::TooLarge { .. } | HandleError::NotForUs { .. }
        ),
    };
    let mut noise = vec![
        piece.clone(),
        vec![],
        vec![1; 4],
        vec![0xff; PIECE_BYTES],
        vec![0; 1024 * 1024],
        [piece.clone(), vec![0]].concat(),
        piece[..piece.len() - 1].to_vec(),
    ];
    // Every byte before the piece's own, and some of those.
    for at in (8..60).chain([1000, 100_000]) {
        let mut flipped = piece.clone();
        flipped[at] ^= 0x10;
        noise.push(flipped);
    }
    for noise in noise {
        let length = noise.len();
        let answer = behind.handle(Lane::Snapshot, noise).await;
        assert!(refused(answer.clone()), "{length} bytes: {answer:?}");
    }
    assert_eq!(behind.published().borrow().index, LogIndex(0));
    let misled = behind.handle(Lane::Rpc, piece).await;
    assert_eq!(misled, Err(HandleError::WrongLane));
    gate.add_permits(Semaphore::MAX_PERMITS / 2);
    adding.await.unwrap();
    let (index, _) = server.propose(b"after".to_vec()).await.unwrap();
    let expected = ledger_at(&server, index).await;
    assert_eq!(ledger_at(&behind, index).await, expected);
    assert_eq!(mesh.pieces(), whole, "the transfer was not the same");
}

#[tokio::test]
async fn a_transfer_that_stands_still_costs_nobody_the_leader() {
    let (mut mesh, leader) = with_a_purged_log(3).await;
    let server = mesh.server(leader);
    let before = server.status().borrow().clone();
    let gate = mesh.hold_pieces();
    gate.add_permits(2);
    let behind = mesh.start(4).await;
    let adding = {
        let server = server.clone();
        tokio::spawn(async move { add(&server, 4).await })
    };
    mesh.pieces_arrived(2).await;
    for number in 0..100u8 {
        server.propose(vec![number]).await.unwrap();
    }
    let status = until(&behind, |status| status.leader_id.is_some()).await;
    assert_eq!(status.leader_id, before.leader_id);
    let after = server.status().borrow().clone();
    assert_eq!((after.term, after.role), (before.term, before.role));
    assert_eq!(mesh.pieces(), 2);
    gate.add_permits(Semaphore::MAX_PERMITS / 2);
    adding.await.unwrap();
}
