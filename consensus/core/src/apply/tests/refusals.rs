//! Every refusal is reached, and changes nothing ([`World::refused`] looks).

use std::collections::BTreeSet;

use super::{
    access_grants, cluster_tables, firewalls, golden,
    virtual_ips::{create_vip, fail_over},
    wireguard_keys,
    world::*,
};
use crate::{
    Applied, Command, LogIndex, NodeState, OperatorRole, Refusal, Revocation, Role, RotationStep,
    TokenId, VipId, WallMs, wire::v1,
};

/// Said by the daemon, before anything is proposed.
const BEFORE_APPLY: [&str; 1] = ["ModuleNotFoundError"];

#[test]
fn every_refusal_is_reached_and_changes_nothing() {
    let mut reached = codes_of_admission();
    reached.extend(codes_of_nodes());
    reached.extend(codes_of_modules());
    reached.extend(codes_of_the_authority());
    reached.extend(codes_of_networks());
    reached.extend(codes_of_virtual_ips());
    reached.extend(access_grants::codes());
    reached.extend(wireguard_keys::codes());
    reached.extend(firewalls::codes());
    reached.extend(cluster_tables::codes());
    reached.extend(BEFORE_APPLY);
    let all: BTreeSet<_> = golden::refusals().iter().map(Refusal::code).collect();
    assert_eq!(reached, all);
}

#[test]
fn codes_are_distinct_and_every_refusal_has_a_hint_and_one_line_of_text() {
    let refusals = golden::refusals();
    let codes: BTreeSet<_> = refusals.iter().map(Refusal::code).collect();
    assert_eq!(codes.len(), refusals.len());
    for refusal in refusals {
        assert!(refusal.code().ends_with("Error"));
        assert!(!refusal.hint().is_empty());
        let text = refusal.to_string();
        assert!(
            !text.is_empty() && !text.contains('\n') && !text.contains("WallMs"),
            "{text}"
        );
        let answer: Applied = Err(refusal);
        assert_eq!(v1::decode::<Applied>(&v1::encode(&answer)), Ok(answer));
    }
}

fn codes_of_admission() -> BTreeSet<&'static str> {
    let mut empty = World::empty();
    let mut world = World::of(2, 2);
    let token = world.token(Role::Agent, false);
    let unknown = TokenId::from_bytes([0xee; 16]);
    let Command::AdmitNode {
        enrolment: joiner,
        certificate,
        ..
    } = admit(3, token)
    else {
        unreachable!()
    };
    let guess = Command::AdmitNode {
        token,
        secret_hash: [0; 32],
        enrolment: joiner,
        certificate,
    };
    let mut namesake = enrolment(3);
    namesake.name = name(1);
    let mut collides = world.clone();
    let address = collides.agreed().networks[&NETWORK].ipv6.host(&id(3));
    let agreed = std::sync::Arc::make_mut(&mut collides.state.agreed);
    agreed.peers.get_mut(&(NETWORK, id(2))).unwrap().ipv6 = address;
    let mut full = world.clone();
    let agreed = std::sync::Arc::make_mut(&mut full.state.agreed);
    let network = agreed.networks.get_mut(&NETWORK).unwrap();
    network.ipv4 = "100.96.0.0/29".parse().unwrap();
    for n in 3..=6 {
        full.join(n, Role::Agent);
    }
    let mut late = world.clone();
    late.now = WallMs(START.0 + DAY_MS);
    let mut used = world.clone();
    used.ok(1, admit(3, token));
    BTreeSet::from([
        empty.refused(1, attach(1)).code(),
        empty.refused(2, create_mesh(1)).code(),
        world.refused(1, create_mesh(1)).code(),
        world.refused(1, admit(3, unknown)).code(),
        world.refused(1, guess).code(),
        world.refused(1, admit_as(namesake, token, "b3")).code(),
        world.refused(1, admit(2, token)).code(),
        world.refused(3, admit(3, token)).code(),
        late.refused(1, admit(3, token)).code(),
        used.refused(1, admit(4, token)).code(),
        collides.refused(1, admit(3, token)).code(),
        full.refused(1, admit(7, token)).code(),
    ])
}

fn codes_of_nodes() -> BTreeSet<&'static str> {
    let mut alone = World::founded();
    let mut world = World::of(2, 2);
    let many = vec!["192.0.2.1:1".parse().unwrap(); 17];
    let crowd = Command::ReportNode {
        state: NodeState::Running,
        addresses: many,
    };
    let nowhere = attach_to(2, "x");
    let unseen = Command::SetRole {
        node: name(2),
        role: Role::Agent,
        reachable: BTreeSet::new(),
        force: false,
    };
    let mut codes = BTreeSet::from([
        alone.refused(1, set_role(1, Role::Agent)).code(),
        world.refused(1, unseen).code(),
        world.refused(1, remove(9)).code(),
        world.refused(1, label(1, &[("", "")], &[])).code(),
        world.refused(1, set_role(2, Role::Server)).code(),
        world.refused(1, crowd).code(),
        world.refused(1, nowhere).code(),
        world.refused(1, attach(2)).code(),
    ]);
    world.ok(1, detach(2));
    codes.insert(world.refused(1, detach(2)).code());
    codes
}

fn codes_of_networks() -> BTreeSet<&'static str> {
    let mut world = World::of(1, 1);
    let create = |change: &dyn Fn(&mut crate::NewNetwork), world: &World| {
        let mut new = new_network(world, "blue");
        change(&mut new);
        Command::CreateNetwork(new)
    };
    let named = create(&|new| new.name = "default".into(), &world);
    let mut longer = new_network(&world, "production");
    let handle = {
        let mut derived = world.clone();
        derived.ok(1, Command::CreateNetwork(longer.clone()));
        derived.agreed().networks[&longer.id].handle.clone()
    };
    longer.name = handle;
    world.ok(1, Command::CreateNetwork(longer));
    let same_handle = create(&|new| new.name = "production".into(), &world);
    let same_port = create(&|new| new.wireguard_port = 7450, &world);
    let same_prefix = create(&|new| new.ipv4 = crate::DEFAULT_IPV4_PREFIX, &world);
    let delete = Command::DeleteNetwork {
        network: "default".into(),
    };
    [named, same_handle, same_port, same_prefix, delete]
        .map(|command| world.refused(1, command).code())
        .into()
}

fn codes_of_virtual_ips() -> BTreeSet<&'static str> {
    let mut world = World::with_vip();
    let mesh = world.agreed().mesh.as_ref().unwrap().id;
    let next = LogIndex(world.state.applied.0 + 1);
    let mut collides = world.clone();
    let agreed = std::sync::Arc::make_mut(&mut collides.state.agreed);
    let address = VipId::made_at(mesh, next).address(agreed.networks[&NETWORK].ipv6);
    agreed.peers.get_mut(&(NETWORK, id(1))).unwrap().ipv6 = address;
    let unknown = Command::DeleteVip { vip: "db".into() };
    let mut stale = world.clone();
    stale.ok(2, world.releasing(None));
    let commands = [
        (1, create_vip("web", &[2])),
        (1, unknown),
        (1, fail_over(Some(1), &[1])),
        (1, fail_over(None, &[1])),
        (1, fail_over(Some(2), &[2])),
        (3, world.releasing(None)),
        (1, world.assigning(Some(3), &[1])),
        (2, world.finish()),
        (1, detach(2)),
    ];
    let mut codes: BTreeSet<_> = commands
        .into_iter()
        .map(|(by, command)| world.refused(by, command).code())
        .collect();
    codes.insert(collides.refused(1, create_vip("db", &[2])).code());
    codes.insert(stale.refused(2, world.releasing(None)).code());
    codes
}

fn codes_of_modules() -> BTreeSet<&'static str> {
    let mut world = World::of(1, 3);
    world.ok(1, detach(3));
    let mut codes = BTreeSet::from([
        world.refused(1, Command::AssignModule(docker_on(3))).code(),
        world
            .refused(1, Command::UnassignModule(docker_on(2)))
            .code(),
        world.refused(1, decommission(2)).code(),
    ]);
    world.ok(1, Command::AssignModule(docker_on(2)));
    world.ok(1, register("attic"));
    codes.extend([
        world.refused(1, Command::AssignModule(docker_on(2))).code(),
        world.refused(1, detach(2)).code(),
        world.refused(1, register("attic")).code(),
    ]);
    world.ok(1, label(2, &[("a", "b")], &[]));
    world.ok(1, Command::AssignModule(docker_where(&[("a", "b")])));
    codes.insert(
        world
            .refused(1, Command::UnassignModule(docker_on(2)))
            .code(),
    );
    codes
}

fn codes_of_the_authority() -> BTreeSet<&'static str> {
    let mut world = World::of(1, 2);
    let record = |by, serial| Command::RecordCertificate(certificate_by(by, serial, 2, START));
    let finish = |k| Command::FinishRotation {
        root: fingerprint(k),
        leave_behind: false,
    };
    let stale = Command::SealRootKey {
        root: fingerprint(0),
        key: sealed(BTreeSet::new()),
    };
    let fire = Command::RemoveOperator { name: "ann".into() };
    let ann = create_operator("ann", OperatorRole::Viewer);
    let mut removed = world.clone();
    removed.ok(1, remove(2));
    let mut codes = BTreeSet::from([
        world.refused(2, record(1, "c1")).code(),
        removed.refused(1, record(1, "c1")).code(),
        world.refused(1, record(3, "c1")).code(),
        world
            .refused(1, revoke(Revocation::Serial("ee".into())))
            .code(),
        world.refused(1, stale).code(),
        world.refused(1, finish(0)).code(),
        world.refused(1, fire).code(),
    ]);
    world.ok(1, ann.clone());
    codes.insert(world.refused(1, ann).code());
    world.begin_rotation(1);
    let again = world.rotation_to(2);
    codes.insert(world.refused(1, again).code());
    codes.insert(world.refused(1, finish(0)).code());
    let issue = Command::AdvanceRotation {
        to: RotationStep::Issuing,
    };
    world.ok(1, issue);
    codes.insert(world.refused(1, finish(1)).code());
    codes.insert(world.refused(1, finish(0)).code());
    codes
}
