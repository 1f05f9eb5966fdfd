//! Claims about a group that lost its majority for good and goes on from one server.

use std::{sync::Arc, time::Duration};

use consensus_core::{LogIndex, NodeId, RaftId, WallMs};
use consensus_raft::{
    Agreement, Carrier, CarrierError, Era, HandleError, Lane, OpenError, ProposeError,
    RecoverError, Removed, Role, Settings, recover, survey,
};

use futures::future::BoxFuture;

use crate::mesh::{CALM, DEADLINE, Ledger, Mesh, ledger_at, node, until};

struct Nobody;

impl Carrier for Nobody {
    fn call(
        &self,
        _: &NodeId,
        _: Lane,
        _: Vec<u8>,
        _: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, CarrierError>> {
        Box::pin(futures::future::pending())
    }
}

/// Three voters that agreed on some entries which the third has, all stopped.
async fn stopped() -> (Mesh, Vec<Vec<u8>>) {
    let mesh = Mesh::founded_with(3, CALM).await;
    let mut acknowledged = Vec::new();
    let mut last = LogIndex(0);
    for number in 0..20u8 {
        last = mesh.propose(&[number]).await.0;
        acknowledged.push(vec![number]);
    }
    ledger_at(&mesh.server(3), last).await;
    for number in 1..=3 {
        stop(&mesh, number).await;
    }
    (mesh, acknowledged)
}

async fn stop(mesh: &Mesh, number: u64) {
    let server = mesh.server(number);
    mesh.drop_server(number);
    server.shutdown().await;
}

/// Recovers the third server's store and starts it.
async fn recovered(mesh: &mut Mesh) -> (Agreement<Ledger>, RaftId) {
    let old = mesh.settings(3);
    let dir = old.dir.with_file_name("recovered");
    let mut adapted_at = None;
    let recovered = recover(
        &old,
        Ledger::default(),
        WallMs(0),
        |_| dir.clone(),
        |_, at| adapted_at = Some(at),
    )
    .unwrap();
    let raft_id = recovered.raft_id;
    assert_eq!(recovered.era, Era(1));
    assert_eq!(recovered.at, Era(1).first_index());
    assert_eq!(adapted_at, Some(recovered.at));
    let settings = Settings {
        dir,
        raft_id,
        ..old
    };
    let server = mesh.start_as(3, settings).await;
    until(&server, |status| status.role == Role::Leader).await;
    (server, raft_id)
}

#[tokio::test]
async fn the_last_voter_goes_on_alone_with_all_that_was_acknowledged() {
    let (mut mesh, acknowledged) = stopped().await;
    let found = survey(&mesh.settings(3), Ledger::default()).unwrap();
    assert_eq!(
        (found.era, found.adopted),
        (Era(0), found.last.0 - found.committed.0)
    );
    assert_eq!(found.voters.len(), 3);
    let (server, raft_id) = recovered(&mut mesh).await;
    let (index, _) = server.propose(b"after".to_vec()).await.unwrap();
    let expected = [acknowledged, vec![b"after".to_vec()]].concat();
    assert_eq!(ledger_at(&server, index).await.0, expected);
    let status = server.status().borrow().clone();
    assert_eq!((status.era, status.needed), (Era(1), 1));
    assert_eq!(status.voters, [(raft_id, node(3))].into());

    // It takes new voters, and a restart finds all of it again.
    let new = RaftId(raft_id.0 + 1);
    let settings = Settings {
        raft_id: new,
        ..mesh.settings(4)
    };
    let fourth = mesh.start_as(4, settings.clone()).await;
    server.add_learner(new, node(4)).await.unwrap();
    server
        .change_voters([raft_id, new].into(), Removed::Leave)
        .await
        .unwrap();
    assert_eq!(ledger_at(&fourth, index).await.0, expected);
    assert_eq!(fourth.era().await, Some(Era(1)));
    drop((server, fourth));
    stop(&mesh, 3).await;
    stop(&mesh, 4).await;
    let third = Settings {
        dir: mesh.store(3).with_file_name("recovered"),
        raft_id,
        ..mesh.settings(3)
    };
    mesh.start_as(3, third).await;
    mesh.start_as(4, settings).await;
    let (index, _) = mesh.propose(b"again").await;
    for number in [3, 4] {
        let ledger = ledger_at(&mesh.server(number), index).await.0;
        assert_eq!(ledger[..21], expected);
    }
}

#[tokio::test]
async fn entries_that_are_not_known_to_be_agreed_are_adopted_and_counted() {
    let mut mesh = Mesh::founded_with(3, CALM).await;
    mesh.propose(b"acknowledged").await;
    if mesh.leader().await != 3 {
        mesh.server(mesh.leader().await)
            .transfer_leader(RaftId(3))
            .await
            .unwrap();
    }
    mesh.propose(b"more").await;
    mesh.cut_off(1);
    mesh.cut_off(2);
    let unknown = mesh
        .server(3)
        .propose(b"unknown".to_vec())
        .await
        .unwrap_err();
    assert!(unknown.is_outcome_unknown(), "{unknown:?}");
    for number in 1..=3 {
        stop(&mesh, number).await;
    }
    let found = survey(&mesh.settings(3), Ledger::default()).unwrap();
    assert!(found.adopted >= 1, "{found:?}");
    let (server, _) = recovered(&mut mesh).await;
    let ledger = server.published().borrow().machine.0.clone();
    assert_eq!(ledger.last().unwrap(), b"unknown");
}

#[tokio::test]
async fn old_voters_that_come_back_disturb_nobody_and_agree_on_nothing() {
    let (mut mesh, _) = stopped().await;
    let (server, raft_id) = recovered(&mut mesh).await;
    server.propose(b"after".to_vec()).await.unwrap();
    let before = server.status().borrow().clone();
    // Two of three: in their own eyes they are a majority.
    let old = [mesh.start(1).await, mesh.start(2).await];
    for old in &old {
        let mut fenced = old.fenced();
        let fenced = fenced.wait_for(Option::is_some);
        let era = *tokio::time::timeout(DEADLINE, fenced)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(era, Some(Era(1)));
        let refused = old.propose(b"lost".to_vec()).await;
        let Err(ProposeError::Stopped(why)) = &refused else {
            panic!("{refused:?}");
        };
        assert!(why.contains("recovered without this server"), "{why}");
    }
    // They know it for good, and nobody makes a second group of one of their stores.
    for (number, old) in (1..).zip(old) {
        mesh.drop_server(number);
        old.shutdown().await;
        let settings = mesh.settings(number);
        let nobody = Arc::new(Nobody);
        let again = Agreement::open(settings.clone(), Ledger::default(), nobody).await;
        assert!(matches!(again, Err(OpenError::Fenced { era: Era(1) })));
        let refused = survey(&settings, Ledger::default()).unwrap_err();
        assert_eq!(refused.code(), "Fenced");
    }
    let after = server.status().borrow().clone();
    assert_eq!(
        (after.term, after.role, after.era),
        (before.term, Role::Leader, Era(1))
    );
    let (index, _) = server.propose(b"undisturbed".to_vec()).await.unwrap();
    let ledger = ledger_at(&server, index).await.0;
    assert!(!ledger.contains(&b"lost".to_vec()));
    assert_eq!(server.status().borrow().voters, [(raft_id, node(3))].into());
}

/// A number as postcard writes it: seven bits a byte, the lowest first.
fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
        number >>= 7;
    }
    bytes.push(u8::try_from(number).unwrap());
    bytes
}

#[tokio::test]
async fn a_message_of_the_old_era_is_not_answered_whatever_its_term() {
    let (mut mesh, _) = stopped().await;
    let (server, raft_id) = recovered(&mut mesh).await;
    let before = server.status().borrow().clone();
    let own = varint(raft_id.0);
    // The highest term of era 0, and the lowest of era 2.
    let terms: [(&[u8], bool); 2] = [
        (&[0xff, 0xff, 0xff, 0xff, 0x0f], false),
        (&[0x80, 0x80, 0x80, 0x80, 0x20], true),
    ];
    for (term, later) in terms {
        for to in [vec![1], vec![2], vec![3], own.clone()] {
            let to = to.as_slice();
            // Vote, pre-vote, and an append as the leader: format, receiver, kind, vote, rest.
            let vote = [&[1], to, &[1], term, &[2, 0, 0, 0]].concat();
            let pre_vote = [&[1], to, &[2], term, &[2, 0, 0, 0]].concat();
            let append = [&[1], to, &[0], term, &[2, 1, 0, 0, 0]].concat();
            for message in [vote, pre_vote, append] {
                let answer = server.handle(Lane::Rpc, message).await;
                if later {
                    let (theirs, own) = (Era(2), Era(1));
                    assert_eq!(answer, Err(HandleError::OtherEra { theirs, own }));
                } else {
                    // Only that its era is over.
                    assert_eq!(answer, Ok(vec![1, 4, 1]));
                }
            }
        }
    }
    server.propose(b"undisturbed".to_vec()).await.unwrap();
    let after = server.status().borrow().clone();
    assert_eq!((after.term, after.role), (before.term, Role::Leader));
}

#[tokio::test]
async fn a_recovery_that_cannot_be_right_is_refused_and_leaves_the_store_as_it_was() {
    let (mut mesh, acknowledged) = stopped().await;
    let old = mesh.settings(3);
    let next = survey(&old, Ledger::default()).unwrap().next_raft_id;
    assert!(
        Era(1).first_index().0 >= next.0,
        "an id that was never given"
    );
    let onto_itself = |_| old.dir.clone();
    let refused = recover(&old, Ledger::default(), WallMs(0), onto_itself, |_, _| {}).unwrap_err();
    assert!(
        matches!(refused, RecoverError::TargetExists(_)),
        "{refused:?}"
    );
    let nowhere = Settings {
        dir: old.dir.with_file_name("nowhere"),
        ..old.clone()
    };
    let refused = survey(&nowhere, Ledger::default()).unwrap_err();
    assert!(matches!(refused, RecoverError::NoStore(_)), "{refused:?}");
    assert!(!nowhere.dir.exists());
    let other = Settings {
        raft_id: RaftId(2),
        ..old.clone()
    };
    let refused = survey(&other, Ledger::default()).unwrap_err();
    assert!(
        matches!(refused, RecoverError::Old(OpenError::OtherOwner { .. })),
        "{refused:?}"
    );

    let running = mesh.start(3).await;
    let refused = survey(&old, Ledger::default()).unwrap_err();
    assert!(
        matches!(refused, RecoverError::Old(OpenError::InUse(_))),
        "{refused:?}"
    );
    drop(running);
    mesh.start(1).await;
    let (index, _) = mesh.propose(b"after").await;
    let ledger = ledger_at(&mesh.server(3), index).await.0;
    assert_eq!(ledger[..acknowledged.len()], acknowledged);
    assert_eq!(mesh.server(3).era().await, Some(Era(0)));
}
