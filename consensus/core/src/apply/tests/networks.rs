//! Overlay addresses: handed out, freed, exhausted.

use super::world::*;
use crate::{Command, EventKind, Refusal, Role};

#[test]
fn the_lowest_free_ipv4_address_is_handed_out_and_a_freed_one_again() {
    let mut world = World::of(1, 4);
    assert_eq!(world.peer(4).ipv4, ipv4(0, 4));
    world.ok(1, detach(2));
    assert_eq!(world.kinds(), [EventKind::PeerDetached]);
    world.ok(1, remove(3));
    world.join(5, Role::Agent);
    world.ok(1, attach(2));
    assert_eq!(world.kinds(), [EventKind::PeerAttached]);
    assert_eq!(
        (world.peer(5).ipv4, world.peer(2).ipv4),
        (ipv4(0, 2), ipv4(0, 3))
    );
}

#[test]
fn a_nodes_ipv6_address_comes_back_unchanged() {
    let mut world = World::of(1, 2);
    let before = world.peer(2).ipv6;
    world.ok(1, detach(2));
    world.ok(1, attach(2));
    assert_eq!(world.peer(2).ipv6, before);
    assert!(world.agreed().networks[&NETWORK].ipv6.contains(before));
}

#[test]
fn a_network_without_a_free_address_refuses_and_the_token_stays_good() {
    let mut world = World::empty();
    let small = "100.64.0.0/29".parse().unwrap();
    world.ok(1, create_mesh_with(1, small));
    let token = world.token(Role::Agent, true);
    for n in 2..=6 {
        world.ok(1, admit(n, token));
    }
    let last = world.token(Role::Agent, false);
    let full = Refusal::AddressesExhausted {
        network: "default".into(),
        prefix: "100.64.0.0/29".into(),
    };
    assert_eq!(world.refused(1, admit(7, last)), full);
    world.ok(1, remove(6));
    world.ok(1, admit(7, last));
}

#[test]
fn two_identities_with_one_host_part_are_refused() {
    let mut world = World::of(1, 2);
    let third = world.agreed().networks[&NETWORK].ipv6.host(&id(3));
    let agreed = std::sync::Arc::make_mut(&mut world.state.agreed);
    agreed.peers.get_mut(&(NETWORK, id(2))).unwrap().ipv6 = third;
    let token = world.token(Role::Agent, false);
    let refusal = world.refused(1, admit(3, token));
    assert_eq!(refusal.code(), "AddressCollisionError");
    assert!(
        refusal.to_string().contains("of n3 is taken by n2"),
        "{refusal}"
    );
}

#[test]
fn a_peer_is_attached_once_and_detached_once() {
    let mut world = World::of(1, 2);
    assert_eq!(world.refused(1, attach(2)).code(), "SdwanPeerExistsError");
    world.ok(1, detach(2));
    let refusal = world.refused(1, detach(2));
    assert_eq!(refusal.code(), "SdwanPeerNotFoundError");
    assert_eq!(
        refusal.hint(),
        "`shoal network show default` lists its peers"
    );
    let elsewhere = attach_to(2, "other");
    assert_eq!(world.refused(1, elsewhere).code(), "NetworkNotFoundError");
}

#[test]
fn a_peer_that_dockerd_listens_on_stays() {
    let mut world = World::of(1, 2);
    world.docker_ready(2, "d1");
    assert_eq!(world.refused(1, detach(2)).code(), "SdwanPeerInUseError");
    world.ok(1, Command::UnassignModule(docker_on(2)));
    assert_eq!(world.refused(1, detach(2)).code(), "SdwanPeerInUseError");
    world.report(2, crate::DockerPhase::Stopped);
    world.ok(1, detach(2));
}
