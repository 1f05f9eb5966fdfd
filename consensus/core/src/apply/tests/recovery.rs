//! Going on after the majority is lost: alone, or from a backup.

use std::collections::{BTreeMap, BTreeSet};

use super::world::{
    NETWORK, World, admit, ca_serial, certificate_by, enrolment, fingerprint, id, intermediate,
    label, name, recipient, recovery, sealed,
};
use crate::{
    Agreed, EventKind, LogIndex, RaftId, Refusal, Restorer, Role, WallMs, go_on_alone, reseal_due,
    restore,
};

const AT: LogIndex = LogIndex(1 << 40);
const RAFT_ID: RaftId = RaftId(1 << 40);

fn servers(agreed: &Agreed) -> Vec<(String, u64)> {
    let servers = agreed.servers();
    servers
        .map(|(id, raft)| (agreed.name_of(id), raft.0))
        .collect()
}

/// Node 9 on a machine called like node `called`.
fn restorer(called: u32, at: WallMs) -> Restorer {
    let mut enrolment = enrolment(9);
    enrolment.name = name(called);
    let recipients = BTreeSet::from([recipient(9), recovery()]);
    Restorer {
        enrolment,
        intermediate: intermediate(9, at),
        certificate: certificate_by(9, "9999", 9, at),
        root_keys: BTreeMap::from([(fingerprint(0), sealed(recipients))]),
    }
}

#[test]
fn the_survivor_is_the_only_server_and_agreement_goes_on() {
    let mut world = World::of(3, 5);
    let now = world.now;
    let demoted = go_on_alone(&mut world.state, AT, now, &id(2), RAFT_ID).unwrap();
    assert_eq!(demoted.len(), 2);
    assert_eq!(servers(world.agreed()), [(name(2), RAFT_ID.0)]);
    assert_eq!(world.agreed().nodes.len(), 5, "nobody is thrown out");
    assert_eq!(world.state.applied, AT);
    assert_eq!(world.kinds().last(), Some(&EventKind::MeshRecovered));
    assert!(
        reseal_due(&world.state).is_some(),
        "the lost may open the root key no more"
    );
    world.ok(2, label(4, &[("after", "recovery")], &[]));
    // A former server signs nobody in.
    let token = world.token(Role::Agent, false);
    let mut late = admit(7, token);
    if let crate::Command::AdmitNode { certificate, .. } = &mut late {
        certificate.record.issuer = ca_serial(3);
    }
    assert!(matches!(world.refused(3, late), Refusal::NotServer { .. }));
}

#[test]
fn leaves_that_the_lost_servers_signed_stay_good_until_they_are_renewed() {
    let mut world = World::of(3, 4);
    let now = world.now;
    let before: Vec<String> = world.agreed().certificates.keys().cloned().collect();
    go_on_alone(&mut world.state, AT, now, &id(2), RAFT_ID).unwrap();
    for serial in before {
        assert!(!world.agreed().revoked.contains_key(&serial), "{serial}");
    }
}

#[test]
fn only_a_member_survives() {
    let mut world = World::of(3, 3);
    let (before, now) = (world.state.clone(), world.now);
    let error = go_on_alone(&mut world.state, AT, now, &id(8), RAFT_ID).unwrap_err();
    assert!(matches!(error, Refusal::NodeUnknown { .. }));
    assert_eq!(world.state, before);
}

#[test]
fn a_new_machine_takes_a_mesh_over_from_a_backup() {
    let mut world = World::of(3, 5);
    let now = world.now;
    restore(&mut world.state, AT, now, RAFT_ID, &restorer(9, now)).unwrap();
    assert_eq!(servers(world.agreed()), [(name(9), RAFT_ID.0)]);
    assert_eq!(world.agreed().nodes.len(), 6);
    assert!(world.agreed().peers.contains_key(&(NETWORK, id(9))));
    assert_eq!(reseal_due(&world.state), None);
    assert_eq!(world.kinds().last(), Some(&EventKind::MeshRestored));
    world.ok(9, label(4, &[("after", "restore")], &[]));
}

#[test]
fn a_machine_called_like_a_lost_one_replaces_it() {
    let mut world = World::of(3, 3);
    let now = world.now;
    restore(&mut world.state, AT, now, RAFT_ID, &restorer(1, now)).unwrap();
    assert_eq!(servers(world.agreed()), [(name(1), RAFT_ID.0)]);
    assert!(!world.agreed().nodes.contains_key(&id(1)));
    assert!(
        world.agreed().removed.contains_key(&id(1)),
        "it is told when it comes back"
    );
}

#[test]
fn root_keys_that_the_restoring_machine_cannot_open_are_refused() {
    let world = World::of(3, 3);
    let now = world.now;
    let mut wrong = restorer(9, now);
    wrong.root_keys = BTreeMap::from([(fingerprint(0), sealed(BTreeSet::from([recovery()])))]);
    let error = restore(&mut world.state.clone(), AT, now, RAFT_ID, &wrong).unwrap_err();
    assert_eq!(error, Refusal::SealedToOthers);
    wrong.root_keys.clear();
    let error = restore(&mut world.state.clone(), AT, now, RAFT_ID, &wrong).unwrap_err();
    assert!(matches!(error, Refusal::RootUnknown { .. }));
}
