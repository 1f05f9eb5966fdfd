//! Claims about more work than there is room for, and about reads.

use std::{collections::BTreeSet, time::Duration};

use consensus_core::LogIndex;
use consensus_raft::{ProposeError, WaitError};

use crate::mesh::{CALM, DEADLINE, Mesh, STEADY, ledger_at};

/// As the crate has them.
const PROPOSALS_MAX: usize = 1024;
const PROPOSAL_BYTES_MAX: usize = 32 * 1024 * 1024;

#[tokio::test]
async fn a_flood_of_proposals_is_told_to_wait_and_loses_nothing_that_was_acknowledged() {
    let mesh = Mesh::founded_with(3, STEADY).await;
    let server = mesh.server(mesh.leader().await);
    let proposals = (0..10_000u32).map(|number| {
        let server = server.clone();
        async move { (number, server.propose(number.to_be_bytes().to_vec()).await) }
    });
    let mut acknowledged = BTreeSet::new();
    let (mut busy, mut last) = (BTreeSet::new(), LogIndex(0));
    for (number, answer) in futures::future::join_all(proposals).await {
        match answer {
            Ok((index, _)) => {
                last = last.max(index);
                acknowledged.insert(number);
            }
            Err(ProposeError::Busy) => drop(busy.insert(number)),
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(acknowledged.len() + busy.len(), 10_000);
    assert!(acknowledged.len() >= PROPOSALS_MAX);
    assert!(!busy.is_empty());
    for number in 1..=3 {
        let ledger = ledger_at(&mesh.server(number), last).await.0;
        let entries = ledger
            .iter()
            .map(|entry| u32::from_be_bytes(entry[..].try_into().unwrap()));
        let entries = entries.collect::<Vec<_>>();
        assert_eq!(
            entries.len(),
            acknowledged.len(),
            "an entry is there twice, or a refused one"
        );
        assert_eq!(entries.into_iter().collect::<BTreeSet<_>>(), acknowledged);
    }
    mesh.propose(b"room again").await;
}

#[tokio::test]
async fn few_but_large_proposals_are_told_to_wait_too() {
    const ENTRY_BYTES: usize = 256 * 1024;
    let mesh = Mesh::founded_with(3, CALM).await;
    let leader = mesh.leader().await;
    let server = mesh.server(leader);
    // Nothing is agreed meanwhile, so what has room keeps it.
    for number in (1..=3).filter(|number| *number != leader) {
        mesh.cut_off(number);
    }
    let room = PROPOSAL_BYTES_MAX / ENTRY_BYTES;
    let proposals = (0..2 * room).map(|_| server.propose(vec![7; ENTRY_BYTES]));
    let answers = futures::future::join_all(proposals).await;
    let busy = answers
        .iter()
        .filter(|answer| **answer == Err(ProposeError::Busy))
        .count();
    assert!(busy > 0 && busy <= room, "{busy} of {}", 2 * room);
    assert!(answers.iter().all(Result::is_err));
    for number in (1..=3).filter(|number| *number != leader) {
        mesh.reconnect(number);
    }
    mesh.propose(b"room again").await;
}

#[tokio::test]
async fn a_follower_answers_a_read_at_the_leaders_index() {
    let mesh = Mesh::founded_with(3, STEADY).await;
    let leader = mesh.leader().await;
    for number in 0..20u8 {
        mesh.propose(&[number]).await;
        let at = mesh.server(leader).read_index().await.unwrap();
        for follower in (1..=3).filter(|number| *number != leader) {
            let state = mesh
                .server(follower)
                .applied_at_least(at, DEADLINE)
                .await
                .unwrap();
            assert!(state.index >= at);
            assert!(state.machine.0.contains(&vec![number]));
        }
    }
}

#[tokio::test]
async fn a_follower_that_is_cut_off_says_how_far_behind_it_is() {
    let mesh = Mesh::founded_with(3, STEADY).await;
    mesh.propose(b"before").await;
    let leader = mesh.leader().await;
    let follower = (1..=3).find(|number| *number != leader).unwrap();
    mesh.cut_off(follower);
    mesh.propose(b"meanwhile").await;
    let at = mesh.server(mesh.leader().await).read_index().await.unwrap();
    let behind = mesh.server(follower);
    let late = behind.applied_at_least(at, Duration::from_millis(50)).await;
    let Err(WaitError::Behind { index, applied }) = late else {
        panic!("{:?}", late.map(|state| state.index));
    };
    assert_eq!(index, at);
    assert!(applied < at);
    mesh.reconnect(follower);
    behind.applied_at_least(at, DEADLINE).await.unwrap();
}
