//! Access grants: whose address and key is whose, and who may be a gateway.

use std::collections::BTreeSet;

use super::world::*;
use crate::{
    AccessGrant, Command, EventKind, GrantState, LogIndex, NewGrant, Refusal, Role, WallMs,
    limits::ACCESS_GRANTS_MAX,
};

/// A grant in `default` by way of node 1, for a device with key `k`.
pub(super) fn grant(name: &str, k: u8) -> Command {
    Command::CreateGrant(new_grant(name, k))
}

fn new_grant(name: &str, k: u8) -> NewGrant {
    NewGrant {
        name: name.into(),
        network: "default".into(),
        gateway: "n1".into(),
        public_key: [k; 32],
        expires_at: None,
    }
}

pub(super) fn move_to(n: u32) -> Command {
    Command::MoveGrant {
        grant: "ann".into(),
        gateway: name(n),
    }
}

pub(super) fn suspend() -> Command {
    Command::SuspendGrant {
        grant: "ann".into(),
    }
}

pub(super) fn resume() -> Command {
    Command::ResumeGrant {
        grant: "ann".into(),
    }
}

pub(super) fn revoke() -> Command {
    Command::RevokeGrant {
        grant: "ann".into(),
    }
}

fn row<'a>(world: &'a World, name: &str) -> &'a AccessGrant {
    &world.agreed().access_grants[name]
}

#[test]
fn a_grant_is_made_suspended_resumed_moved_and_revoked_with_an_event_each() {
    let mut world = World::of(1, 2);
    world.ok(1, grant("ann", 20));
    assert_eq!(world.kinds(), [EventKind::AccessGranted]);
    let made = row(&world, "ann").clone();
    assert_eq!((made.gateway.clone(), made.ipv4), (id(1), ipv4(0, 3)));
    assert!(world.agreed().networks[&NETWORK].ipv6.contains(made.ipv6));
    let steps = [
        (suspend(), EventKind::AccessSuspended),
        (resume(), EventKind::AccessResumed),
        (move_to(2), EventKind::AccessMoved),
    ];
    for (command, kind) in steps {
        world.ok(1, command.clone());
        assert_eq!(world.kinds(), [kind]);
        world.ignored(1, command);
    }
    let moved = AccessGrant {
        gateway: id(2),
        ..made
    };
    assert_eq!(row(&world, "ann"), &moved, "nothing else has changed");
    world.ok(1, revoke());
    assert_eq!(world.kinds(), [EventKind::AccessRevoked]);
    assert!(world.agreed().access_grants.is_empty());
}

#[test]
fn who_is_let_in_is_said_by_the_state_and_the_time() {
    let mut world = World::of(1, 1);
    let end = WallMs(START.0 + HOUR_MS);
    let limited = NewGrant {
        expires_at: Some(end),
        ..new_grant("ann", 20)
    };
    world.ok(1, Command::CreateGrant(limited));
    world.ok(1, grant("bob", 21));
    let open = |world: &World, at| world.agreed().open_grants(NETWORK, at).count();
    let before = WallMs(end.0 - 1);
    assert_eq!((open(&world, before), open(&world, end)), (2, 1));
    world.ok(1, suspend());
    assert_eq!((open(&world, before), open(&world, end)), (1, 1));
    let states = [before, end].map(|at| row(&world, "ann").state(at));
    assert_eq!(states, [GrantState::Suspended, GrantState::Expired]);
}

#[test]
fn peers_devices_and_virtual_ips_have_no_address_twice() {
    let mut world = World::of(1, 2);
    world.ok(1, grant("ann", 20));
    world.join(3, Role::Agent);
    world.ok(1, grant("bob", 21));
    let mut v4 = BTreeSet::from([row(&world, "ann").ipv4, row(&world, "bob").ipv4]);
    v4.extend((1..=3).map(|n| world.peer(n).ipv4));
    assert_eq!(v4, (1..=5).map(|d| ipv4(0, d)).collect());
    // Somebody has the address that the next entry's grant would get.
    let taken = |world: &mut World| {
        let mesh = world.agreed().mesh.as_ref().unwrap().id;
        let next = LogIndex(world.state.applied.0 + 1);
        AccessGrant::address(mesh, next, world.agreed().networks[&NETWORK].ipv6)
    };
    let collision = |world: &mut World| {
        let refusal = world.refused(1, grant("eve", 22));
        let Refusal::GrantCollision { by, .. } = refusal else {
            panic!("{refusal}");
        };
        by
    };
    let mut with_peer = world.clone();
    let address = taken(&mut with_peer);
    let agreed = std::sync::Arc::make_mut(&mut with_peer.state.agreed);
    agreed.peers.get_mut(&(NETWORK, id(2))).unwrap().ipv6 = address;
    assert_eq!(collision(&mut with_peer), "n2");
    let address = taken(&mut world);
    let agreed = std::sync::Arc::make_mut(&mut world.state.agreed);
    agreed.access_grants.get_mut("bob").unwrap().ipv6 = address;
    assert_eq!(collision(&mut world), "bob");
    // And the other way round: a node whose own address a device has.
    let token = world.token(Role::Agent, false);
    let agreed = std::sync::Arc::make_mut(&mut world.state.agreed);
    let own = agreed.networks[&NETWORK].ipv6.host(&id(4));
    agreed.access_grants.get_mut("bob").unwrap().ipv6 = own;
    let refusal = world.refused(1, admit(4, token));
    assert!(
        matches!(&refusal, Refusal::AddressCollision { by, .. } if by == "bob"),
        "{refusal}"
    );
}

#[test]
fn a_key_is_one_nodes_or_one_devices() {
    let mut world = World::of(1, 1);
    world.ok(1, grant("ann", 20));
    for (k, by) in [(20, "the access grant ann"), (7, "node n1")] {
        let expected = Refusal::GrantKeyTaken { by: by.into() };
        assert_eq!(world.refused(1, grant("bob", k)), expected);
    }
    let token = world.token(Role::Agent, false);
    let mut joiner = enrolment(2);
    joiner.wireguard_public_key = [20; 32];
    let refusal = world.refused(1, admit_as(joiner, token, "a2"));
    assert_eq!(refusal.code(), "AccessGrantKeyTakenError");
    world.ok(1, revoke());
    world.ok(1, grant("bob", 20));
}

#[test]
fn below_a_grant_no_network_goes_and_no_gateway_but_by_force_of_removal() {
    let mut world = World::of(1, 3);
    let blue = new_network(&world, "blue");
    world.ok(1, Command::CreateNetwork(blue));
    world.ok(1, attach_to(2, "blue"));
    let in_blue = NewGrant {
        network: "blue".into(),
        gateway: name(2),
        ..new_grant("ann", 20)
    };
    world.ok(1, Command::CreateGrant(in_blue));
    let refusal = world.refused(1, move_to(3));
    assert_eq!(refusal.code(), "SdwanPeerNotFoundError", "no peer of blue");
    let detach = Command::DetachPeer {
        node: name(2),
        network: "blue".into(),
    };
    let refusal = world.refused(1, detach);
    assert_eq!(refusal.code(), "AccessGrantUsesPeerError");
    // A node that is gone takes no grant along: its device gets another gateway, or none.
    world.ok(1, remove(2));
    assert_eq!(row(&world, "ann").gateway, id(2));
    let delete = Command::DeleteNetwork {
        network: "blue".into(),
    };
    let refusal = world.refused(1, delete.clone());
    assert!(
        refusal.to_string().ends_with("the access grant ann"),
        "{refusal}"
    );
    world.ok(1, attach_to(3, "blue"));
    world.ok(1, move_to(3));
    world.ok(1, revoke());
    let detach = Command::DetachPeer {
        node: name(3),
        network: "blue".into(),
    };
    world.ok(1, detach);
    world.ok(1, delete);
}

#[test]
fn what_is_no_grant_is_refused_by_its_rule() {
    let mut world = World::of(1, 2);
    let wrong = [
        new_grant("", 20),
        new_grant("Ann", 20),
        new_grant("ann", 0),
        NewGrant {
            expires_at: Some(START),
            ..new_grant("ann", 20)
        },
    ];
    for new in wrong {
        let refusal = world.refused(1, Command::CreateGrant(new));
        assert_eq!(refusal.code(), "InvalidInputError", "{refusal}");
    }
}

#[test]
fn there_are_so_many_grants_and_no_more() {
    let mut world = World::of(1, 1);
    world.ok(1, grant("ann", 20));
    let one = row(&world, "ann").clone();
    let agreed = std::sync::Arc::make_mut(&mut world.state.agreed);
    for n in 1..ACCESS_GRANTS_MAX {
        agreed.access_grants.insert(format!("g{n}"), one.clone());
    }
    let expected = Refusal::TooLarge {
        what: "the number of access grants".into(),
        limit: ACCESS_GRANTS_MAX as u64,
    };
    assert_eq!(world.refused(1, grant("bob", 21)), expected);
}

#[test]
fn a_key_is_in_no_debug_text_of_a_grant() {
    let mut world = World::of(1, 1);
    world.ok(1, grant("ann", 222));
    for text in [
        format!("{:?}", row(&world, "ann")),
        format!("{:?}", new_grant("ann", 222)),
    ] {
        assert!(!text.contains("222"), "{text}");
    }
}

/// The codes of every refusal that is about grants alone.
pub(super) fn codes() -> BTreeSet<&'static str> {
    let mut world = World::of(1, 2);
    world.ok(1, grant("ann", 20));
    let mut collides = world.clone();
    let mesh = collides.agreed().mesh.as_ref().unwrap().id;
    let next = LogIndex(collides.state.applied.0 + 1);
    let agreed = std::sync::Arc::make_mut(&mut collides.state.agreed);
    let address = AccessGrant::address(mesh, next, agreed.networks[&NETWORK].ipv6);
    agreed.access_grants.get_mut("ann").unwrap().ipv6 = address;
    let nobodys = Command::SuspendGrant {
        grant: "bob".into(),
    };
    [
        world.refused(1, grant("ann", 21)),
        world.refused(1, grant("bob", 20)),
        world.refused(1, nobodys),
        world.refused(1, detach(1)),
        collides.refused(1, grant("bob", 21)),
    ]
    .iter()
    .map(Refusal::code)
    .collect()
}
