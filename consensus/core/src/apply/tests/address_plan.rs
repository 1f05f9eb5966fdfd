//! Networks beside the first, and which addresses may be whose.

use super::world::*;
use crate::{
    Command, EventKind, NetworkChange, NewNetwork, PrefixChange, Refusal, Role, RoutingMode,
    limits::{LAN_SUBNETS_MAX, NETWORKS_MAX},
};

/// Two networks: `default` with n1 to n3, and `blue` with n1 and n2, with everything that claims
/// addresses: 10.42.0.0/16 for pods, 10.43.0.0/16 for containers, 192.168.7.0/24 behind n2.
fn crowded() -> World {
    let mut world = World::of(1, 3);
    let blue = NewNetwork {
        pod_subnet_prefix: Some("10.42.0.0/16".parse().unwrap()),
        container_subnet_prefix: Some("10.43.0.0/16".parse().unwrap()),
        ..new_network(&world, "blue")
    };
    world.ok(1, Command::CreateNetwork(blue));
    world.ok(1, attach_to(1, "blue"));
    world.ok(1, attach_with(2, "blue", &["192.168.7.0/24"]));
    world
}

fn lan_of_first(subnets: &[&str]) -> Command {
    Command::SetPeer {
        node: name(1),
        network: "blue".into(),
        hub: None,
        lan_subnets: Some(prefixes(subnets)),
    }
}

fn pods_of_default(prefix: &str) -> Command {
    Command::SetNetwork {
        network: "default".into(),
        change: NetworkChange {
            pod_subnet_prefix: Some(PrefixChange::Set(prefix.parse().unwrap())),
            ..NetworkChange::default()
        },
    }
}

fn created(world: &World, change: impl Fn(&mut NewNetwork)) -> Command {
    let mut new = new_network(world, "green");
    change(&mut new);
    Command::CreateNetwork(new)
}

#[test]
fn every_overlap_is_refused_by_the_name_of_what_is_in_the_way() {
    let mut world = crowded();
    let table = [overlaps_of_networks(&world), overlaps_of_lans(&world)].concat();
    assert_eq!(table.len(), 18);
    for (command, expected) in table {
        let refusal = world.refused(1, command);
        assert_eq!(refusal.code(), "PrefixOverlapError", "{refusal}");
        assert!(refusal.hint().starts_with("choose another prefix"));
        let Refusal::PrefixOverlap { with, .. } = refusal else {
            unreachable!()
        };
        assert_eq!(with, expected);
    }
}

/// A command and what it is refused for.
type Row = (Command, String);

fn overlaps_of_networks(world: &World) -> Vec<Row> {
    let green = |ipv4: &str| created(world, |new| new.ipv4 = ipv4.parse().unwrap());
    let pods = |prefix: &str| created(world, |new| new.pod_subnet_prefix = prefix.parse().ok());
    let twice = created(world, |new| {
        new.pod_subnet_prefix = "10.50.0.0/16".parse().ok();
        new.container_subnet_prefix = "10.50.8.0/21".parse().ok();
    });
    let first = "the IPv4 prefix 100.96.0.0/16 of network default";
    let blue = "the IPv4 prefix 100.97.0.0/16 of network blue";
    let blue_pods = "the pod subnet prefix 10.42.0.0/16 of network blue";
    let containers = "the container subnet prefix 10.43.0.0/16 of network blue";
    let lan = "the LAN subnet 192.168.7.0/24 of n2 in network blue";
    let table = [
        (green("100.96.0.0/16"), first),
        (green("100.96.8.0/24"), first),
        (green("100.64.0.0/10"), first),
        (green("100.97.0.0/16"), blue),
        (pods("100.97.4.0/22"), blue),
        (pods("10.42.0.0/16"), blue_pods),
        (pods("10.43.8.0/22"), containers),
        (pods("192.168.0.0/16"), lan),
        (twice, "the pod subnet prefix 10.50.0.0/16 of network green"),
        (pods_of_default("10.42.128.0/20"), blue_pods),
        (pods_of_default("192.168.6.0/23"), lan),
    ];
    table
        .map(|(command, with)| (command, with.to_owned()))
        .into()
}

fn overlaps_of_lans(world: &World) -> Vec<Row> {
    let first = world.agreed().networks[&NETWORK].ipv6;
    let prefix = first.to_string();
    let first = format!("the IPv6 prefix {first} of network default");
    let lan = "the LAN subnet 192.168.7.0/24 of n2 in network blue";
    let table = [
        (lan_of_first(&["192.168.7.128/25"]), lan),
        (lan_of_first(&["192.168.0.0/16"]), lan),
        (lan_of_first(&[&prefix]), &first),
        (
            lan_of_first(&["100.64.0.0/10"]),
            "the IPv4 prefix 100.96.0.0/16 of network default",
        ),
        (
            lan_of_first(&["10.0.0.0/8"]),
            "the pod subnet prefix 10.42.0.0/16 of network blue",
        ),
        (
            lan_of_first(&["10.9.0.0/16", "10.9.1.0/24"]),
            "the LAN subnet 10.9.0.0/16 of n1 in network blue",
        ),
        (attach_with(3, "blue", &["192.168.7.0/24"]), lan),
    ];
    table
        .map(|(command, with)| (command, with.to_owned()))
        .into()
}

#[test]
fn prefixes_that_no_node_could_share_are_refused_with_the_rule() {
    let mut world = crowded();
    for bad in ["10.60.0.0/24", "fd60::/48"] {
        let refusal = world.refused(1, pods_of_default(bad));
        assert_eq!(refusal.code(), "InvalidInputError");
        assert!(refusal.hint().contains("at most 23 bits"), "{refusal}");
    }
}

#[test]
fn a_peer_may_change_what_is_behind_it_within_what_it_has() {
    let mut world = crowded();
    let narrower = Command::SetPeer {
        node: name(2),
        network: "blue".into(),
        hub: Some(true),
        lan_subnets: Some(prefixes(&["192.168.7.0/25", "fd99:7::/48"])),
    };
    world.ok(1, narrower.clone());
    assert_eq!(world.kinds(), [EventKind::PeerChanged]);
    world.ignored(1, narrower);
    let (blue, _) = world.agreed().find_network("blue").unwrap();
    let peer = &world.agreed().peers[&(*blue, id(2))];
    assert!(peer.hub && peer.lan_subnets.len() == 2);
    world.ok(1, lan_of_first(&["192.168.7.128/25"]));
    let absent = Command::SetPeer {
        node: name(3),
        network: "blue".into(),
        hub: None,
        lan_subnets: None,
    };
    assert_eq!(world.refused(1, absent).code(), "SdwanPeerNotFoundError");
    let many: Vec<_> = (0..=LAN_SUBNETS_MAX)
        .map(|n| format!("10.9.{n}.0/24"))
        .collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    assert_eq!(
        world.refused(1, lan_of_first(&many)).code(),
        "TooLargeError"
    );
    world.ok(1, lan_of_first(&many[1..]));
}

#[test]
fn a_network_is_made_with_addresses_of_its_own_and_deleted_when_nobody_is_in_it() {
    let mut world = World::of(1, 2);
    let new = new_network(&world, "blue");
    assert_eq!(
        (new.wireguard_port, new.ipv4.to_string()),
        (7450, "100.97.0.0/16".into())
    );
    world.ok(1, Command::CreateNetwork(new.clone()));
    assert_eq!(world.kinds(), [EventKind::NetworkCreated]);
    assert_ne!(
        world.agreed().networks[&NETWORK].ipv6,
        world.agreed().networks[&new.id].ipv6
    );
    world.ok(1, attach_to(2, "blue"));
    let delete = Command::DeleteNetwork {
        network: "blue".into(),
    };
    let refusal = world.refused(1, delete.clone());
    assert_eq!(refusal.to_string(), "network blue is in use by n2");
    world.ok(
        1,
        Command::DetachPeer {
            node: name(2),
            network: "blue".into(),
        },
    );
    world.ok(1, delete.clone());
    assert_eq!(world.kinds(), [EventKind::NetworkDeleted]);
    assert_eq!(world.refused(1, delete).code(), "NetworkNotFoundError");
    assert_eq!(new_network(&world, "green").ipv4, new.ipv4, "free again");
}

#[test]
fn the_first_network_stays() {
    let mut world = World::of(1, 1);
    world.ok(1, detach(1));
    let delete = Command::DeleteNetwork {
        network: "default".into(),
    };
    assert_eq!(world.refused(1, delete).code(), "NetworkInUseError");
}

#[test]
fn a_further_place_never_moves_what_listens_at_the_oldest() {
    let mut world = World::of(1, 2);
    let mut first = new_network(&world, "aaa");
    // Sorted before the first network, wherever ids decide.
    first.id = crate::NetworkId::from_bytes([0; 16]);
    world.ok(1, Command::CreateNetwork(first));
    world.docker_ready(2, "d1");
    world.ok(1, attach_to(2, "aaa"));
    let oldest = world
        .agreed()
        .first_peer(&id(2))
        .map(|(network, _)| *network);
    assert_eq!(oldest, Some(NETWORK));
    // The further one may go while dockerd runs; the oldest may not.
    assert_eq!(world.refused(1, detach(2)).code(), "SdwanPeerInUseError");
    let further = Command::DetachPeer {
        node: name(2),
        network: "aaa".into(),
    };
    world.ok(1, further);
}

#[test]
fn a_network_changes_its_routing_and_gives_up_a_prefix() {
    let mut world = crowded();
    let change = NetworkChange {
        routing_mode: Some(RoutingMode::Hub),
        pod_subnet_prefix: Some(PrefixChange::Clear),
        ..NetworkChange::default()
    };
    let set = Command::SetNetwork {
        network: "blue".into(),
        change,
    };
    world.ok(1, set.clone());
    assert_eq!(world.kinds(), [EventKind::NetworkChanged]);
    world.ignored(1, set);
    let (_, blue) = world.agreed().find_network("blue").unwrap();
    assert_eq!(blue.routing_mode, RoutingMode::Hub);
    assert_eq!(blue.pod_subnet_prefix, None);
    assert!(blue.container_subnet_prefix.is_some());
    world.ok(1, pods_of_default("10.42.0.0/16"));
}

#[test]
fn a_mesh_has_room_for_thirty_two_networks_all_with_a_port_and_a_prefix() {
    let mut world = World::of(1, 1);
    for n in 1..NETWORKS_MAX {
        let new = new_network(&world, &format!("n{n}"));
        world.ok(1, Command::CreateNetwork(new));
    }
    let ports: std::collections::BTreeSet<_> = world
        .agreed()
        .networks
        .values()
        .map(|network| network.wireguard_port)
        .collect();
    assert_eq!(ports.len(), NETWORKS_MAX);
    let refusal = world.refused(1, Command::CreateNetwork(new_network(&world, "more")));
    assert_eq!(refusal.code(), "TooLargeError");
    world.join(2, Role::Agent);
}

#[test]
fn a_port_of_the_system_or_of_another_network_is_refused() {
    let mut world = crowded();
    let on = |port| created(&world, |new| new.wireguard_port = port);
    let (system, taken) = (on(1023), on(7450));
    assert_eq!(world.refused(1, system).code(), "InvalidInputError");
    let refusal = world.refused(1, taken);
    assert_eq!(
        refusal.to_string(),
        "the WireGuard port 7450 is taken by network blue"
    );
}
