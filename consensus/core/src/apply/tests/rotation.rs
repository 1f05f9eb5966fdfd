//! One root replaces another: the order of the steps, and when each is due.

use std::{collections::BTreeMap, time::Duration};

use super::world::*;
use crate::{
    CertificateProfile as Profile, Command, EventKind, Holder, LogIndex, NodeFacts, NodeState,
    Refusal, Role, RotationFacts, RotationHold, RotationStep, RotationWaits, WallMs,
    certificates_due, intermediate_due, reseal_due, rotation_holds, rotation_step,
};

const NO_WAIT: RotationWaits = RotationWaits {
    trusting_min: Duration::ZERO,
    step_max: Duration::from_secs(7 * 24 * 3600),
};

fn issue() -> Command {
    Command::AdvanceRotation {
        to: RotationStep::Issuing,
    }
}

fn finish(k: u8, leave_behind: bool) -> Command {
    Command::FinishRotation {
        root: fingerprint(k),
        leave_behind,
    }
}

fn abort() -> Command {
    Command::AbortRotation {
        reason: "later".into(),
    }
}

/// Node 1 has an intermediate under root `k`, and gives each of these nodes a leaf under it.
fn reissue(world: &mut World, k: u8, nodes: &[u32]) {
    let serial = format!("ce{k:02x}");
    let new = intermediate_under(k, &serial, world.now);
    world.ok(1, Command::RecordIntermediate(new));
    for n in nodes {
        let holder = Holder::Node(id(*n));
        let leaf = leaf(
            &serial,
            &format!("e{k}{n}"),
            holder,
            Profile::Node,
            world.now,
        );
        world.ok(1, Command::RecordCertificate(leaf));
    }
}

/// A mesh whose nodes all run.
fn running(servers: u32, nodes: u32) -> World {
    let mut world = World::of(servers, nodes);
    for n in 1..=nodes {
        let up = Command::ReportNode {
            state: NodeState::Running,
            addresses: vec![],
        };
        world.ok(n, up);
    }
    world
}

/// What the leader hears when every node has put everything into force and shows these leaves.
fn all_enforced(world: &World, leaves: &[(u32, &str)]) -> RotationFacts {
    let leaves: BTreeMap<_, _> = leaves.iter().map(|(n, serial)| (id(*n), *serial)).collect();
    let nodes = world.agreed().nodes.keys();
    let told = nodes.map(|id| {
        let facts = NodeFacts {
            enforced: world.state.applied,
            leaf: leaves.get(id).map(|serial| (*serial).to_owned()),
        };
        (id.clone(), facts)
    });
    RotationFacts {
        now: world.now,
        nodes: told.collect(),
        silent: [].into(),
        waits: NO_WAIT,
    }
}

#[test]
fn a_rotation_trusts_then_issues_then_drops() {
    let mut world = World::of(1, 2);
    world.begin_rotation(1);
    assert_eq!(world.kinds(), [EventKind::RotationStarted]);
    let both = [root(0).certificate, root(1).certificate];
    assert_eq!(world.agreed().trusted_roots(), both);
    assert_eq!(
        world.agreed().active_root().unwrap().fingerprint(),
        fingerprint(0)
    );
    assert_eq!(world.state.root_keys.len(), 2);
    world.ok(1, issue());
    assert_eq!(world.kinds(), [EventKind::RotationAdvanced]);
    assert_eq!(
        world.agreed().active_root().unwrap().fingerprint(),
        fingerprint(1)
    );
    // The old intermediate is no longer signed with, but what it just signed is still recorded.
    assert_eq!(world.agreed().signing_intermediate(&id(1), START), None);
    world.ok(1, Command::RecordCertificate(certificate("c2", 2, START)));
    reissue(&mut world, 1, &[1, 2]);
    world.ok(1, finish(0, false));
    assert_eq!(world.kinds(), [EventKind::RotationFinished]);
    let agreed = world.agreed();
    assert_eq!(agreed.trusted_roots(), [root(1).certificate]);
    assert_eq!(agreed.authority.rotation, None);
    let serials: Vec<_> = agreed.certificates.keys().collect();
    assert_eq!(serials, ["e11", "e12"]);
    assert_eq!(agreed.authority.intermediates.len(), 1);
    assert_eq!(world.state.root_keys.len(), 1);
    // Whoever slept through it is led to the new root by the old one's signature.
    let chain = agreed.chain(b"leaf", "ce01").unwrap();
    assert_eq!(chain[2], [0x30, 0xcc, 1]);
    world.begin_rotation(2);
}

#[test]
fn steps_out_of_order_are_refused() {
    let mut world = World::of(1, 2);
    for command in [issue(), finish(0, true), abort()] {
        assert_eq!(world.refused(1, command), Refusal::NoRotation);
    }
    let begin = world.rotation_to(1);
    assert_eq!(world.refused(2, begin.clone()).code(), "NotServerError");
    world.ok(1, begin.clone());
    assert_eq!(world.refused(1, begin).code(), "RotationUnderWayError");
    assert_eq!(
        world.refused(1, finish(0, true)).code(),
        "RotationOutOfStepError"
    );
    let back = Command::AdvanceRotation {
        to: RotationStep::Trusting,
    };
    assert_eq!(
        world.refused(1, back.clone()).code(),
        "RotationOutOfStepError"
    );
    for command in [issue(), abort()] {
        assert_eq!(world.refused(2, command).code(), "NotServerError");
    }
    world.ok(1, issue());
    for command in [issue(), back, abort()] {
        assert_eq!(world.refused(1, command).code(), "RotationOutOfStepError");
    }
    assert_eq!(world.refused(2, finish(0, true)).code(), "NotServerError");
    assert_eq!(
        world.refused(1, finish(1, true)).code(),
        "RootNotFoundError"
    );
}

#[test]
fn a_new_root_is_new_signed_by_the_old_one_and_sealed_to_todays_servers() {
    let mut world = World::of(1, 1);
    let changed = |world: &World, change: fn(&mut crate::NewRoot, &mut crate::SealedKey)| {
        let Command::BeginRotation {
            mut root,
            mut key,
            reason,
        } = world.rotation_to(1)
        else {
            unreachable!()
        };
        change(&mut root, &mut key);
        Command::BeginRotation { root, key, reason }
    };
    let same = changed(&world, |root, _| root.certificate[2] = 0);
    assert_eq!(world.refused(1, same).code(), "InvalidInputError");
    let uncrossed = changed(&world, |root, _| root.cross = None);
    assert_eq!(world.refused(1, uncrossed).code(), "InvalidInputError");
    let stale = changed(&world, |_, key| key.recipients = [recovery()].into());
    assert_eq!(world.refused(1, stale), Refusal::SealedToOthers);
}

#[test]
fn a_rotation_is_aborted_while_nothing_rests_on_it() {
    let mut world = World::of(1, 1);
    world.begin_rotation(1);
    world.ok(1, abort());
    assert_eq!(world.kinds(), [EventKind::RotationAborted]);
    assert_eq!(world.agreed().trusted_roots(), [root(0).certificate]);
    assert_eq!(world.state.root_keys.len(), 1);
    world.begin_rotation(2);
}

#[test]
fn both_roots_keys_are_sealed_anew_when_the_servers_change() {
    let mut world = World::of(1, 2);
    world.begin_rotation(1);
    world.ok(1, set_role(2, Role::Server));
    for k in [0, 1] {
        assert!(reseal_due(&world.state).is_some());
        let fresh = reseal(&world, k);
        world.ok(1, fresh);
    }
    assert_eq!(reseal_due(&world.state), None);
}

#[test]
fn a_demand_for_rotation_stands_until_one_has_begun_after_it_and_was_not_aborted() {
    let wanted = |world: &World| world.agreed().authority.rotation_wanted.is_some();
    let mut world = World::of(4, 4);
    world.ok(1, remove_as(2, true));
    assert!(wanted(&world));
    world.begin_rotation(1);
    assert!(!wanted(&world));
    world.ok(1, abort());
    assert!(wanted(&world));
    world.begin_rotation(2);
    // This one could open the new root's key as well.
    world.ok(1, remove_as(3, true));
    world.ok(1, issue());
    world.ok(1, finish(0, true));
    assert!(wanted(&world));
}

#[test]
fn the_old_root_stays_while_a_leaf_in_force_has_no_successor_unless_it_is_left_behind() {
    let mut world = World::of(1, 3);
    world.begin_rotation(1);
    world.ok(1, issue());
    reissue(&mut world, 1, &[1, 2]);
    let held = Refusal::RotationHeld {
        remaining: 1,
        first: "n3".into(),
    };
    assert_eq!(world.refused(1, finish(0, false)), held);
    let mut left = world.clone();
    left.ok(1, finish(0, true));
    assert_eq!(
        left.state.events.back().unwrap().payload["left_behind"],
        "1"
    );
    // Past its end it holds nothing up.
    world.now = WallMs(START.0 + DAY_MS);
    world.ok(1, finish(0, false));
}

#[test]
fn the_new_root_issues_when_every_node_that_runs_and_is_heard_has_said_that_it_trusts_it() {
    let mut world = running(1, 4);
    let facts = all_enforced(&world, &[]);
    assert_eq!(rotation_step(world.agreed(), &facts), None);
    let before = world.state.applied;
    world.begin_rotation(1);
    let mut facts = all_enforced(&world, &[]);
    assert_eq!(rotation_step(world.agreed(), &facts), Some(issue()));
    facts.nodes.get_mut(&id(2)).unwrap().enforced = before;
    facts.nodes.remove(&id(3));
    let holds = [2, 3].map(|n| RotationHold::NotEnforced(id(n)));
    assert_eq!(rotation_holds(world.agreed(), &facts), holds);
    assert_eq!(rotation_step(world.agreed(), &facts), None);
    // One is away, the other only joins: neither is waited for.
    facts.silent.insert(id(2));
    let agreed = std::sync::Arc::make_mut(&mut world.state.agreed);
    agreed.nodes.get_mut(&id(3)).unwrap().state = NodeState::Joining;
    assert_eq!(rotation_step(world.agreed(), &facts), Some(issue()));
}

#[test]
fn the_new_root_is_trusted_for_a_while_before_it_issues() {
    let mut world = running(1, 1);
    world.begin_rotation(1);
    let mut facts = all_enforced(&world, &[]);
    facts.waits.trusting_min = Duration::from_secs(10);
    facts.now = WallMs(START.0 + 9_999);
    assert_eq!(
        rotation_holds(world.agreed(), &facts),
        [RotationHold::TooSoon]
    );
    assert_eq!(rotation_step(world.agreed(), &facts), None);
    facts.now = WallMs(START.0 + 10_000);
    assert_eq!(rotation_step(world.agreed(), &facts), Some(issue()));
}

#[test]
fn the_old_root_goes_when_everything_was_reissued_and_is_in_use() {
    let mut world = running(1, 2);
    world.begin_rotation(1);
    world.ok(1, issue());
    let facts = all_enforced(&world, &[(1, "a0"), (2, "a2")]);
    let holds = rotation_holds(world.agreed(), &facts);
    assert_eq!(holds.len(), 5, "{holds:?}");
    assert_eq!(holds[0], RotationHold::NoIntermediate(id(1)));
    reissue(&mut world, 1, &[1, 2]);
    let facts = all_enforced(&world, &[(1, "e11"), (2, "a2")]);
    let unused = RotationHold::NotInUse(id(2), Profile::Node);
    assert_eq!(rotation_holds(world.agreed(), &facts), [unused]);
    assert_eq!(rotation_step(world.agreed(), &facts), None);
    let facts = all_enforced(&world, &[(1, "e11"), (2, "e12")]);
    let step = rotation_step(world.agreed(), &facts);
    assert_eq!(step, Some(finish(0, false)));
    world.ok(1, step.unwrap());
    assert_eq!(rotation_step(world.agreed(), &facts), None);
}

#[test]
fn a_dockerd_that_has_not_taken_its_new_certificate_holds_the_old_root() {
    let mut world = running(1, 1);
    world.docker_ready(1, "d1");
    world.begin_rotation(1);
    world.ok(1, issue());
    reissue(&mut world, 1, &[1]);
    let facts = |world: &World| all_enforced(world, &[(1, "e11")]);
    let holds = |world: &World| rotation_holds(world.agreed(), &facts(world));
    let unreplaced = RotationHold::Unreplaced {
        serial: "d1".into(),
        holder: Holder::Node(id(1)),
        profile: Profile::DockerServer,
    };
    assert_eq!(holds(&world), [unreplaced]);
    world.report(1, wants_cert(2));
    let Command::DockerCertSigned {
        node,
        mut certificate,
    } = signed(1, 2, "d2")
    else {
        unreachable!()
    };
    certificate.issuer = "ce01".into();
    world.ok(1, Command::DockerCertSigned { node, certificate });
    let unused = RotationHold::NotInUse(id(1), Profile::DockerServer);
    assert_eq!(holds(&world), [unused]);
    world.report(1, ready());
    assert_eq!(holds(&world), []);
}

#[test]
fn each_docker_clients_leaf_holds_the_old_root_until_its_end() {
    let mut world = running(1, 1);
    let client = |issuer: &str, serial: &str| {
        let holder = Holder::Node(id(1));
        Command::RecordCertificate(leaf(issuer, serial, holder, Profile::DockerClient, START))
    };
    world.ok(1, client(&ca_serial(1), "0c1"));
    world.begin_rotation(1);
    world.ok(1, issue());
    reissue(&mut world, 1, &[1]);
    world.ok(1, client("ce01", "0c2"));
    let mut facts = all_enforced(&world, &[(1, "e11")]);
    assert_eq!(rotation_step(world.agreed(), &facts), None);
    facts.now = WallMs(START.0 + DAY_MS);
    assert_eq!(
        rotation_step(world.agreed(), &facts),
        Some(finish(0, false))
    );
}

#[test]
fn a_node_that_is_away_holds_the_old_root_only_as_long_as_it_has_a_leaf_in_force() {
    let mut world = running(1, 2);
    world.begin_rotation(1);
    world.ok(1, issue());
    reissue(&mut world, 1, &[1]);
    let mut facts = all_enforced(&world, &[(1, "e11")]);
    facts.silent.insert(id(2));
    assert_eq!(rotation_holds(world.agreed(), &facts).len(), 1);
    facts.now = WallMs(START.0 + DAY_MS);
    assert_eq!(
        rotation_step(world.agreed(), &facts),
        Some(finish(0, false))
    );
}

#[test]
fn past_its_deadline_a_step_waits_for_nobody() {
    let mut world = running(1, 2);
    world.begin_rotation(1);
    let mut facts = RotationFacts {
        now: WallMs(START.0 + 1_000),
        nodes: [(id(1), NodeFacts::default())].into(),
        silent: [].into(),
        waits: RotationWaits {
            step_max: Duration::from_secs(2),
            ..NO_WAIT
        },
    };
    assert_eq!(facts.nodes[&id(1)].enforced, LogIndex(0));
    assert_eq!(rotation_step(world.agreed(), &facts), None);
    facts.now = WallMs(START.0 + 2_000);
    assert_eq!(rotation_step(world.agreed(), &facts), Some(issue()));
    world.now = facts.now;
    world.ok(1, issue());
    assert_eq!(rotation_step(world.agreed(), &facts), None);
    facts.now = WallMs(START.0 + 4_000);
    assert_eq!(rotation_step(world.agreed(), &facts), Some(finish(0, true)));
    world.ok(1, finish(0, true));
}

/// Everybody does what is due: servers make intermediates, and the first of them signs.
fn do_what_is_due(world: &mut World, round: u32) {
    let servers: Vec<_> = world.agreed().servers().map(|(id, _)| id.clone()).collect();
    for n in 1..=6 {
        let due = intermediate_due(world.agreed(), &id(n), world.now).is_some();
        if servers.contains(&id(n)) && due {
            let mut new = intermediate_under(0, &format!("9{n}{round:02x}"), world.now);
            new.root = world.agreed().active_root().unwrap().fingerprint();
            world.ok(n, Command::RecordIntermediate(new));
        }
        for (profile, _) in certificates_due(world.agreed(), &id(n), world.now) {
            let by = world.agreed().signing_intermediate(&id(1), world.now);
            let by = by.unwrap().0.clone();
            let serial = format!("8{n}{round:02x}");
            let leaf = leaf(&by, &serial, Holder::Node(id(n)), profile, world.now);
            world.ok(1, Command::RecordCertificate(leaf));
        }
    }
}

/// What each node would tell: its newest leaf.
fn told(world: &World) -> RotationFacts {
    let agreed = world.agreed();
    let newest = |n: u32| {
        let own = agreed.certificates.iter();
        let own = own.filter(|(_, leaf)| leaf.holder == Holder::Node(id(n)));
        own.max_by_key(|(_, leaf)| leaf.not_before)
    };
    let shown: Vec<_> = (1..=6)
        .filter_map(|n| Some((n, newest(n)?.0.as_str())))
        .collect();
    all_enforced(world, &shown)
}

#[test]
fn one_rotation_after_another_comes_to_its_end_when_everybody_does_what_is_due() {
    let mut world = running(3, 6);
    for k in 1..=3 {
        world.begin_rotation(k);
        let mut rounds = 0;
        while world.agreed().authority.rotation.is_some() {
            rounds += 1;
            assert!(
                rounds < 6,
                "{:?}",
                rotation_holds(world.agreed(), &told(&world))
            );
            world.now.0 += HOUR_MS;
            do_what_is_due(&mut world, u32::from(k) * 16 + rounds);
            if let Some(step) = rotation_step(world.agreed(), &told(&world)) {
                world.ok(2, step);
            }
        }
        assert_eq!(rounds, 2);
        assert_eq!(world.agreed().trusted_roots(), [root(k).certificate]);
        for n in 1..=6 {
            assert!(certificates_due(world.agreed(), &id(n), world.now).is_empty());
        }
    }
}
