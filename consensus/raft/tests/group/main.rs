//! Claims about several servers that agree over links which fail.

#[cfg(test)]
mod load;
#[cfg(test)]
mod members;
#[cfg(test)]
mod mesh;
#[cfg(test)]
mod recovery;
#[cfg(test)]
mod snapshots;

use consensus_core::{LogIndex, RaftId};
use consensus_raft::{
    ChangeError, FoundError, HandleError, Lane, ProposeError, RaftStatus, ReadError, Removed, Role,
    TransferError,
};

use crate::mesh::{CALM, DEADLINE, Mesh, STEADY, ids, ledger_at, node, once, until};

fn others(of: u64) -> Vec<u64> {
    (1..=3).filter(|number| *number != of).collect()
}

#[tokio::test]
async fn a_founder_leads_alone_and_commits() {
    let mesh = Mesh::founded(1).await;
    let server = mesh.server(1);
    let (index, answer) = server.propose(b"first".to_vec()).await.unwrap();
    assert_eq!(answer, b"1");
    assert_eq!(ledger_at(&server, index).await.0, [b"first"]);
    assert_eq!(server.found().await, Err(FoundError::AlreadyFounded));
}

#[tokio::test]
async fn a_proposer_finds_its_own_change_published() {
    let mesh = Mesh::founded(1).await;
    let server = mesh.server(1);
    for count in 1..50 {
        let (index, _) = server.propose(vec![1]).await.unwrap();
        let published = server.published().borrow().clone();
        assert!(published.index >= index);
        assert_eq!(published.machine.0.len(), count);
    }
}

#[tokio::test]
async fn three_voters_elect_a_leader_and_apply_the_same_entries() {
    let mesh = Mesh::founded(3).await;
    let mut last = LogIndex(0);
    for number in 0..20u8 {
        last = mesh.propose(&[number]).await.0;
    }
    let first = ledger_at(&mesh.server(1), last).await;
    assert_eq!(once(first.clone()).len(), 20);
    for number in 2..=3 {
        assert_eq!(ledger_at(&mesh.server(number), last).await, first);
    }
}

#[tokio::test]
async fn a_follower_names_the_leader() {
    let mesh = Mesh::founded_with(3, STEADY).await;
    let leader = mesh.leader().await;
    for number in others(leader) {
        let follower = mesh.server(number);
        until(&follower, |status| status.leader == Some(node(leader))).await;
        let refused = follower.propose(vec![1]).await;
        assert_eq!(
            refused,
            Err(ProposeError::NotLeader {
                leader: Some(node(leader))
            })
        );
        let refused = follower.read_index().await;
        assert_eq!(
            refused,
            Err(ReadError::NotLeader {
                leader: Some(node(leader))
            })
        );
        let refused = follower.transfer_leader(RaftId(number)).await;
        assert_eq!(
            refused,
            Err(TransferError::NotLeader {
                leader: Some(node(leader))
            })
        );
    }
}

#[tokio::test]
async fn the_rest_goes_on_without_a_leader_that_was_cut_off() {
    let mesh = Mesh::founded(3).await;
    mesh.propose(b"before").await;
    let old = mesh.leader().await;
    mesh.cut_off(old);
    let (index, _) = mesh.propose(b"meanwhile").await;
    assert_ne!(mesh.leader().await, old);
    mesh.reconnect(old);
    let ledger = ledger_at(&mesh.server(old), index).await;
    assert_eq!(once(ledger), [b"before".to_vec(), b"meanwhile".to_vec()]);
}

#[tokio::test]
async fn a_leader_that_hears_nobody_is_replaced_though_everybody_hears_it() {
    let mesh = Mesh::founded(3).await;
    mesh.propose(b"before").await;
    let old = loop {
        let old = mesh.leader().await;
        mesh.deafen(old);
        let deaf = |status: &RaftStatus| status.deaf || status.role != Role::Leader;
        let status = until(&mesh.server(old), deaf).await;
        if status.deaf {
            assert!(!status.leads());
            break old;
        }
        // On a busy machine another one was elected meanwhile.
        mesh.reconnect(old);
    };
    let other = mesh.server(others(old)[0]);
    until(&other, |status| {
        status
            .leader
            .as_ref()
            .is_some_and(|leader| *leader != node(old))
    })
    .await;
    mesh.reconnect(old);
    until(&mesh.server(old), |status| !status.deaf).await;
    let (index, _) = mesh.propose(b"after").await;
    let ledger = ledger_at(&mesh.server(old), index).await;
    assert_eq!(once(ledger), [b"before".to_vec(), b"after".to_vec()]);
}

#[tokio::test]
async fn a_leader_without_a_majority_refuses_in_bounded_time() {
    let mesh = Mesh::founded_with(3, CALM).await;
    let leader = mesh.leader().await;
    let server = mesh.server(leader);
    for number in others(leader) {
        mesh.cut_off(number);
    }
    // Within the lease the entry is still written, later it is refused outright; and who is there is
    // known when the others have been silent for as long.
    let alone = ProposeError::NoMajority {
        reachable: 1,
        needed: 2,
    };
    let refused = async {
        loop {
            let refused = server.propose(b"lost".to_vec()).await.unwrap_err();
            let majority = matches!(
                refused,
                ProposeError::NoMajority { needed: 2, .. }
                    | ProposeError::OutcomeUnknown { needed: 2, .. }
            );
            assert!(majority, "{refused:?}");
            if refused == alone {
                return;
            }
        }
    };
    let refused = tokio::time::timeout(DEADLINE, refused).await;
    refused.expect("it is not refused in bounded time");
    let refused = tokio::time::timeout(DEADLINE, server.read_index()).await;
    assert_eq!(
        refused.expect("nor is a read"),
        Err(ReadError::NoMajority {
            reachable: 1,
            needed: 2
        })
    );
    for number in others(leader) {
        mesh.reconnect(number);
    }
    mesh.propose(b"again").await;
}

#[tokio::test]
async fn a_voter_that_was_dropped_comes_back_with_all_that_was_acknowledged() {
    let mut mesh = Mesh::founded(3).await;
    let mut acknowledged = Vec::new();
    for round in 0..3u8 {
        let victim = mesh.leader().await;
        for number in 0..10u8 {
            mesh.propose(&[round, number]).await;
            acknowledged.push(vec![round, number]);
        }
        mesh.drop_server(victim);
        for number in 10..20u8 {
            mesh.propose(&[round, number]).await;
            acknowledged.push(vec![round, number]);
        }
        mesh.start(victim).await;
        let (index, _) = mesh.propose(&[round, 20]).await;
        acknowledged.push(vec![round, 20]);
        // A proposal whose answer was lost may have been agreed twice, but none is missing
        // and the order holds.
        let ledger = once(ledger_at(&mesh.server(victim), index).await);
        assert_eq!(ledger, acknowledged);
    }
}

#[tokio::test]
async fn a_whole_group_that_was_dropped_comes_back_with_all_that_was_acknowledged() {
    let mut mesh = Mesh::founded(3).await;
    for number in 0..30u8 {
        mesh.propose(&[number]).await;
    }
    for number in 1..=3 {
        mesh.drop_server(number);
    }
    for number in 1..=3 {
        mesh.start(number).await;
    }
    let (index, _) = mesh.propose(&[30]).await;
    for number in 1..=3 {
        let ledger = once(ledger_at(&mesh.server(number), index).await);
        assert_eq!(
            ledger,
            (0..=30u8).map(|number| vec![number]).collect::<Vec<_>>()
        );
    }
}

#[tokio::test]
async fn a_server_waits_as_a_learner_and_is_promoted() {
    let mut mesh = Mesh::founded(1).await;
    let (index, _) = mesh.propose(b"before").await;
    let waiting = mesh.start(2).await;
    assert_eq!(waiting.status().borrow().role, Role::Learner);
    let leader = mesh.server(1);
    let refused = leader.change_voters(ids([1, 2]), Removed::Leave).await;
    assert_eq!(refused, Err(ChangeError::NotALearner(RaftId(2))));
    leader.add_learner(RaftId(2), node(2)).await.unwrap();
    assert_eq!(ledger_at(&waiting, index).await.0, [b"before"]);
    until(&waiting, |status| status.learners.contains_key(&RaftId(2))).await;
    leader
        .change_voters(ids([1, 2]), Removed::Leave)
        .await
        .unwrap();
    let status = until(&waiting, |status| status.role == Role::Follower).await;
    assert_eq!(status.needed, 2);
    assert_eq!(
        status.voters.keys().copied().collect::<Vec<_>>(),
        [RaftId(1), RaftId(2)]
    );
}

#[tokio::test]
async fn a_removed_leader_leaves_and_the_rest_goes_on() {
    let mesh = Mesh::founded_with(3, STEADY).await;
    let leader = mesh.leader().await;
    let rest = others(leader);
    mesh.server(leader)
        .change_voters(ids(rest.clone()), Removed::Leave)
        .await
        .unwrap();
    until(&mesh.server(rest[0]), |status| {
        status.leader_id.is_some_and(|id| id != RaftId(leader)) && status.voters.len() == 2
    })
    .await;
    mesh.drop_server(leader);
    mesh.propose(b"after").await;
}

#[tokio::test]
async fn a_voter_becomes_a_learner_and_a_learner_leaves() {
    let mesh = Mesh::founded_with(3, STEADY).await;
    let leader = mesh.leader().await;
    let rest = others(leader);
    let server = mesh.server(leader);
    let voters = ids([leader, rest[0]]);
    server
        .change_voters(voters, Removed::BecomeLearners)
        .await
        .unwrap();
    let learner = RaftId(rest[1]);
    until(&server, |status| status.learners.contains_key(&learner)).await;
    server.remove_learners([learner].into()).await.unwrap();
    until(&server, |status| {
        status.learners.is_empty() && !status.changing
    })
    .await;
}

#[tokio::test]
async fn leadership_is_handed_over() {
    let mesh = Mesh::founded_with(3, STEADY).await;
    let leader = mesh.leader().await;
    let heir = others(leader)[0];
    mesh.server(leader)
        .transfer_leader(RaftId(heir))
        .await
        .unwrap();
    until(&mesh.server(heir), |status| status.role == Role::Leader).await;
    mesh.propose(b"after").await;
    let refused = mesh.server(heir).transfer_leader(RaftId(9)).await;
    assert_eq!(refused, Err(TransferError::NotAVoter(RaftId(9))));
}

#[tokio::test]
async fn a_read_index_covers_every_acknowledged_entry() {
    let mesh = Mesh::founded_with(3, STEADY).await;
    for number in 0..10u8 {
        let (written, _) = mesh.propose(&[number]).await;
        let leader = mesh.server(mesh.leader().await);
        let at = leader.read_index().await.unwrap();
        assert!(at >= written);
        // Any server may answer once it has applied that far.
        let follower = mesh.server(others(mesh.leader().await)[0]);
        assert!(ledger_at(&follower, at).await.0.contains(&vec![number]));
    }
}

#[tokio::test]
async fn a_message_for_another_raft_id_is_refused() {
    let mesh = Mesh::founded(1).await;
    let server = mesh.server(1);
    // A pre-vote for Raft id 9: format, receiver, kind, vote (term, candidate, granted), no log.
    let message = vec![1, 9, 2, 5, 2, 0, 0, 0];
    let refused = server.handle(Lane::Rpc, message).await;
    assert_eq!(
        refused,
        Err(HandleError::NotForUs {
            to: RaftId(9),
            own: RaftId(1)
        })
    );
    let message = vec![1, 1, 2, 5, 2, 0, 0, 0];
    assert!(server.handle(Lane::Rpc, message.clone()).await.is_ok());
    assert_eq!(
        server.handle(Lane::Snapshot, message).await,
        Err(HandleError::WrongLane)
    );
}

#[tokio::test]
async fn noise_is_refused_and_harms_nobody() {
    let mesh = Mesh::founded(1).await;
    let server = mesh.server(1);
    for noise in [
        vec![],
        vec![1],
        vec![2, 0, 0],
        vec![1; 100],
        vec![255; 10_000],
    ] {
        let refused = server.handle(Lane::Rpc, noise).await;
        assert!(matches!(
            refused,
            Err(HandleError::Malformed(_) | HandleError::NotForUs { .. })
        ));
    }
    mesh.propose(b"still here").await;
}

#[tokio::test]
async fn an_entry_that_is_too_large_is_refused_before_it_is_written() {
    let mesh = Mesh::founded(1).await;
    let refused = mesh.server(1).propose(vec![0; 10_000_000]).await;
    assert!(matches!(
        refused,
        Err(ProposeError::TooLarge {
            bytes: 10_000_000,
            ..
        })
    ));
}

#[tokio::test]
async fn a_server_that_was_shut_down_says_so_and_frees_its_store() {
    let mut mesh = Mesh::founded(1).await;
    mesh.propose(b"before").await;
    let server = mesh.server(1);
    mesh.drop_server(1);
    let witness = server.clone();
    server.shutdown().await;
    assert!(matches!(
        witness.propose(vec![1]).await,
        Err(ProposeError::Stopped(_))
    ));
    drop(witness);
    let (index, _) = {
        mesh.start(1).await;
        mesh.propose(b"after").await
    };
    assert_eq!(
        ledger_at(&mesh.server(1), index).await.0,
        [b"before".to_vec(), b"after".to_vec()]
    );
}

#[tokio::test]
async fn a_server_whose_store_fails_stops_and_the_rest_goes_on() {
    let mesh = Mesh::founded_with(3, STEADY).await;
    let broken = mesh.leader().await;
    mesh.propose(b"before").await;
    // The next file that the store begins has no place.
    std::fs::remove_dir_all(mesh.store(broken)).unwrap();
    let server = mesh.server(broken);
    let failed = loop {
        if let Err(failed) = server.propose(vec![7; 256 * 1024]).await {
            break failed;
        }
    };
    assert!(failed.is_outcome_unknown(), "{failed:?}");
    let status = until(&server, |status| status.role == Role::Stopped).await;
    assert!(status.failure.is_some());
    mesh.drop_server(broken);
    mesh.propose(b"after").await;
}
