//! Claims about who votes, and about leaders that leave.

use consensus_core::RaftId;
use consensus_raft::{ChangeError, ProposeError, Removed, Role, VOTERS_MAX};

use crate::mesh::{CALM, DEADLINE, Mesh, STEADY, ids, node, until};

#[tokio::test]
async fn groups_of_one_three_five_and_seven_bear_the_loss_of_a_minority_and_no_more() {
    for voters in [1, 3, 5, 7] {
        let mesh = Mesh::founded(voters).await;
        mesh.propose(b"before").await;
        let leader = mesh.leader().await;
        let others = (1..=voters).filter(|number| *number != leader);
        let half = usize::try_from(voters / 2).unwrap();
        for victim in others.take(half) {
            mesh.drop_server(victim);
        }
        mesh.propose(b"after").await;
        if voters == 1 {
            continue;
        }
        let leader = mesh.leader().await;
        let left = mesh.numbers();
        let one_more = left.iter().find(|number| **number != leader);
        mesh.drop_server(*one_more.expect("more than half are left"));
        // Whoever of the rest leads, or leads no more.
        let rest = mesh.numbers().into_iter().map(|number| {
            let server = mesh.server(number);
            async move { server.propose(b"lost".to_vec()).await.unwrap_err() }
        });
        for refused in futures::future::join_all(rest).await {
            match refused {
                ProposeError::OutcomeUnknown { needed, .. }
                | ProposeError::NoMajority { needed, .. } => assert_eq!(needed, half + 1),
                ProposeError::NotLeader { .. } => {}
                other @ (ProposeError::Busy
                | ProposeError::TooLarge { .. }
                | ProposeError::Stopped(_)) => panic!("{voters} voters: {other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn an_eighth_voter_is_refused() {
    let mut mesh = Mesh::founded_with(7, STEADY).await;
    mesh.start(8).await;
    let leader = mesh.led().await;
    leader.add_learner(RaftId(8), node(8)).await.unwrap();
    let too_many = Err(ChangeError::TooManyVoters {
        voters: 8,
        voters_max: VOTERS_MAX,
    });
    let refused = leader.change_voters(ids(1..=8), Removed::Leave).await;
    assert_eq!(refused, too_many);
    let refused = leader.force_voters(ids(1..=8), Removed::Leave).await;
    assert_eq!(refused, too_many);
    let refused = leader.change_voters(ids([]), Removed::Leave).await;
    assert_eq!(refused, Err(ChangeError::NoVoters));
    let voters = ids((1..=8).filter(|number| *number != 7));
    if mesh.leader().await != 7 {
        leader.change_voters(voters, Removed::Leave).await.unwrap();
    }
}

#[tokio::test]
async fn a_dead_voter_is_removed_while_a_majority_lives() {
    let mesh = Mesh::founded_with(3, STEADY).await;
    let leader = mesh.leader().await;
    let dead = (1..=3).find(|number| *number != leader).unwrap();
    mesh.drop_server(dead);
    let server = mesh.server(leader);
    let rest = ids((1..=3).filter(|number| *number != dead));
    server
        .change_voters(rest.clone(), Removed::Leave)
        .await
        .unwrap();
    let status = until(&server, |status| !status.changing).await;
    assert_eq!(
        status
            .voters
            .keys()
            .copied()
            .collect::<std::collections::BTreeSet<_>>(),
        rest
    );
    assert!(!status.learners.contains_key(&RaftId(dead)));
    mesh.propose(b"after").await;
}

#[tokio::test]
async fn a_change_that_would_lose_the_majority_is_refused_unless_forced() {
    let mesh = Mesh::founded_with(3, CALM).await;
    let leader = mesh.leader().await;
    let gone = (1..=3).find(|number| *number != leader).unwrap();
    mesh.cut_off(gone);
    let server = mesh.server(leader);
    until(&server, |status| {
        let heard = status.heard.get(&RaftId(gone));
        heard.is_none_or(|at| at.elapsed() > CALM.election_max * 6)
    })
    .await;
    let voters = ids([leader, gone]);
    let refused = server.change_voters(voters.clone(), Removed::Leave).await;
    assert_eq!(
        refused,
        Err(ChangeError::LosesMajority {
            reachable: 1,
            needed: 2
        })
    );
    assert!(!server.status().borrow().changing);
    mesh.propose(b"still here").await;

    let forced = server.force_voters(voters.clone(), Removed::Leave).await;
    assert!(forced.is_err(), "{forced:?}");
    mesh.reconnect(gone);
    // Once its voters are back it is finished by asking again, whoever leads then.
    let finished = async {
        while mesh
            .server(mesh.leader().await)
            .change_voters(voters.clone(), Removed::Leave)
            .await
            .is_err()
        {}
    };
    tokio::time::timeout(DEADLINE, finished)
        .await
        .expect("never finished");
    until(&mesh.server(gone), |status| {
        !status.changing && status.voters.keys().copied().eq(voters.iter().copied())
    })
    .await;
}

#[tokio::test]
async fn an_id_is_not_given_to_another_server_and_a_laggard_does_not_vote() {
    let mut mesh = Mesh::founded(1).await;
    let server = mesh.server(1);
    let taken = server.add_learner(RaftId(1), node(9)).await;
    assert_eq!(taken, Err(ChangeError::IdTaken(RaftId(1))));
    mesh.start(2).await;
    server.add_learner(RaftId(2), node(2)).await.unwrap();
    let taken = server.add_learner(RaftId(2), node(9)).await;
    assert_eq!(taken, Err(ChangeError::IdTaken(RaftId(2))));

    mesh.cut_off(2);
    for _ in 0..5 {
        let proposals = (0..500).map(|_| server.propose(vec![7]));
        for proposed in futures::future::join_all(proposals).await {
            proposed.unwrap();
        }
    }
    let refused = server.change_voters(ids([1, 2]), Removed::Leave).await;
    assert_eq!(refused, Err(ChangeError::NotCaughtUp(RaftId(2))));
    mesh.reconnect(2);
    // Added again, it is waited for.
    server.add_learner(RaftId(2), node(2)).await.unwrap();
    server
        .change_voters(ids([1, 2]), Removed::Leave)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_leader_that_is_shut_down_hands_over_first() {
    let mesh = Mesh::founded_with(3, STEADY).await;
    let leader = mesh.leader().await;
    let status = mesh.server(leader).status();
    mesh.server(leader).shutdown().await;
    mesh.drop_server(leader);
    // The last that it saw was that another one leads.
    let last = status.borrow().clone();
    let heir = last.leader_id.expect("nobody took over");
    assert_ne!(heir, RaftId(leader));
    until(&mesh.server(heir.0), |status| status.role == Role::Leader).await;
    mesh.propose(b"after").await;
}

#[tokio::test]
async fn a_leader_without_others_is_shut_down_all_the_same() {
    let mesh = Mesh::founded(1).await;
    assert_eq!(mesh.server(1).hand_over().await, Ok(None));
    let server = mesh.server(1);
    mesh.drop_server(1);
    server.shutdown().await;
}
