//! Networks beside the first: apart from each other, with routes of their own.

use std::time::Duration;

use shoal_tests::{Host, Lab, Mesh, text, wait_until};

const SOON: Duration = Duration::from_secs(20);
/// dockerd itself takes one to three seconds here.
const PROVISIONED: Duration = Duration::from_secs(60);

/// A node's addresses in a network, IPv6 first.
#[track_caller]
fn place(host: &Host, network: &str, node: &str) -> [String; 2] {
    let shown = host.shoal_json(&["network", "show", network]);
    let peers = shown["peers"].as_array().expect("peers are a list");
    let peer = peers.iter().find(|peer| peer["node"] == node);
    let peer = peer.unwrap_or_else(|| panic!("{node} is no peer in {shown}"));
    [text(peer, "ipv6"), text(peer, "ipv4")]
}

#[track_caller]
fn answers(from: &Host, addresses: &[String; 2]) {
    for address in addresses {
        wait_until(SOON, &format!("{} reaches {address}", from.name()), || {
            from.pings(address)
        });
    }
}

#[test]
fn a_node_has_places_in_several_networks_and_loses_them_one_by_one() {
    let Some(lab) = Lab::for_test("networks") else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 1, 1);
    let server = mesh.node("s1").host.clone();
    let made = server.shoal_json(&["network", "create", "production-east"]);
    let network = &made["network"];
    let interface = text(network, "interface");
    assert!(
        interface.starts_with("shoal-prod-") && interface.len() == 15,
        "{network}"
    );
    assert_eq!(network["wireguard_port"], 7450);
    assert_eq!(network["ipv4_prefix"], "100.97.0.0/16");
    server
        .shoal(&["network", "create", "b-2", "--port", "7460"])
        .ok();
    for name in ["production-east", "b-2"] {
        for node in ["s1", "a1"] {
            mesh.node("a1")
                .host
                .shoal(&["network", "attach", node, name])
                .ok();
        }
        answers(&server, &place(&server, name, "a1"));
    }
    let row = server.node_row("a1");
    assert_eq!(
        text(&row, "overlay_ipv4"),
        place(&server, "default", "a1")[1],
        "a further place moves nothing"
    );
    for (network, refused) in [
        (&["production-east"][..], "NetworkInUseError"),
        (&["default"], "NetworkInUseError"),
        (&["nowhere"], "NetworkNotFoundError"),
    ] {
        let refusal = server.shoal_refused(&[&["network", "delete"], network].concat());
        assert_eq!(refusal["code"], refused);
    }
    // Interfaces outlive a daemon, and one that starts anew knows them all.
    mesh.node("a1").daemon.kill9();
    mesh.node_mut("a1").restart_daemon();
    for name in ["default", "production-east", "b-2"] {
        answers(&server, &place(&server, name, "a1"));
    }
    let elsewhere = place(&server, "production-east", "a1");
    for node in ["s1", "a1"] {
        server
            .shoal(&["network", "detach", node, "production-east"])
            .ok();
    }
    let host = mesh.node("a1").host.clone();
    wait_until(SOON, "the interface is gone", || {
        !host.run(&["ip", "link", "show", &interface]).success()
    });
    assert!(!server.pings(&elsewhere[0]));
    server.shoal(&["network", "delete", "production-east"]).ok();
    answers(&server, &place(&server, "b-2", "a1"));
}

#[test]
fn an_interface_of_a_network_that_is_no_more_goes_and_a_strangers_stays() {
    let Some(lab) = Lab::for_test("leftover-if") else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 1, 0);
    let host = mesh.node("s1").host.clone();
    wait_until(SOON, "the overlay is up", || {
        host.sh("test -e /run/shoal/shoal-default.endpoints")
            .success()
    });
    mesh.node("s1").daemon.kill9();
    // As a daemon leaves it that dies between the agreement and the interface.
    let _device = host.spawn(&[
        "shoald",
        "wireguard-device",
        "--interface",
        "shoal-old-1",
        "--pidfile",
        "/run/shoal/shoal-old-1.pid",
    ]);
    let there = |name: &str| host.run(&["ip", "link", "show", name]).success();
    wait_until(SOON, "the device is up", || there("shoal-old-1"));
    host.sh(
        "cp /run/shoal/shoal-default.endpoints /run/shoal/shoal-old-1.endpoints && \
         ip link add shoal-mine type veth peer name other",
    )
    .ok();
    mesh.node_mut("s1").restart_daemon();
    wait_until(SOON, "the leftover is gone", || !there("shoal-old-1"));
    assert!(there("shoal-mine") && there("shoal-default"));
}

/// Gives a host a network that no overlay knows of.
fn wan(address: &str) -> String {
    format!(
        "ip link add wan0 type veth peer name wan1 && ip addr add {address} dev wan0 \
         && ip link set wan0 up && ip link set wan1 up"
    )
}

#[test]
fn prefixes_that_somebody_has_are_refused_by_name() {
    let Some(lab) = Lab::for_test("prefixes") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 1);
    let server = mesh.node("s1").host.clone();
    let create = |flags: &[&str]| {
        let command = [&["network", "create", "blue"], flags].concat();
        server.shoal_refused(&command)
    };
    // A route of this machine.
    server.sh(&wan("100.97.3.1/24")).ok();
    let refusal = create(&["--ipv4", "100.97.0.0/16"]);
    assert_eq!(refusal["code"], "PrefixOverlapError");
    assert!(text(&refusal, "message").contains("100.97.3.0/24 via wan0"));
    for (flags, code) in [
        (["--ipv4", "100.96.4.0/22"], "PrefixOverlapError"),
        (["--ipv4", "10.1.0.0/16"], "InvalidInputError"),
        (["--port", "7441"], "WireguardPortTakenError"),
        (["--routing-mode", "star"], "InvalidInputError"),
        (
            ["--pod-subnet-prefix", "100.96.0.0/16"],
            "PrefixOverlapError",
        ),
        (["--pod-subnet-prefix", "10.42.0.0/24"], "InvalidInputError"),
    ] {
        assert_eq!(create(&flags)["code"], code, "{flags:?}");
    }
    // What this machine routes elsewhere is not picked either.
    let made = server.shoal_json(&["network", "create", "blue"]);
    assert_eq!(made["network"]["ipv4_prefix"], "100.98.0.0/16");
    // A route of the machine that is attached: it says so itself, and has no interface.
    let agent = mesh.node("a1").host.clone();
    agent.sh(&wan("100.98.3.1/24")).ok();
    let refusal = agent.shoal_refused(&["network", "attach", "a1", "blue"]);
    assert_eq!(refusal["code"], "PrefixOverlapError");
    server.shoal(&["network", "attach", "a1", "blue"]).ok();
    agent.wait_for_condition(SOON, "100.98.3.0/24 via wan0");
    assert!(!agent.run(&["ip", "link", "show", "shoal-blue"]).success());
    agent.run(&["ip", "link", "del", "wan0"]).ok();
    server.shoal(&["network", "attach", "s1", "blue"]).ok();
    answers(&server, &place(&server, "blue", "a1"));
}

#[test]
fn a_host_of_another_network_reaches_no_dockerd_although_its_certificate_is_valid() {
    let Some(lab) = Lab::for_test("isolation") else {
        return;
    };
    // a1 is a Docker host of `default`; b1 is in `blue` alone; s1 is in both, and forwards.
    let mut mesh = Mesh::new(&lab, 1, 1);
    mesh.add(&lab, "b1", "agent");
    let server = mesh.node("s1").host.clone();
    let stranger = mesh.node("b1").host.clone();
    server.shoal(&["network", "create", "blue"]).ok();
    for node in ["s1", "b1"] {
        server.shoal(&["network", "attach", node, "blue"]).ok();
    }
    let between = place(&server, "blue", "s1");
    answers(&stranger, &between);
    // With a place in `default` the certificate is good for both.
    let clients = ["a1", "s1"].map(|name| docker_client(&mesh, name, &stranger));
    server.shoal(&["network", "detach", "b1", "default"]).ok();
    wait_until(SOON, "b1 has left", || {
        !stranger
            .run(&["ip", "link", "show", "shoal-default"])
            .success()
    });
    answers(&stranger, &between);
    // By every way that root on b1 can make: through the node that is in both, though it forwards,
    // and over the underlay.
    server
        .sh("sysctl -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
        .ok();
    let forbidden = ["a1", "s1"]
        .map(|name| place(&server, "default", name))
        .concat();
    let ways = ways_of_root(&mesh.node("a1").host, &server);
    let key = text(&peer_of(&server, "blue", "s1"), "public_key");
    let allowed = [&between[..], &forbidden].concat().join(",");
    // shoald takes back what it did not write itself, so that each attempt allows it anew.
    let by = |way: &[String; 2], attempt: &str| {
        let routes = forbidden.iter().map(|address| {
            let way = &way[usize::from(!address.contains(':'))];
            format!("ip route replace {address} {way}")
        });
        let routes: Vec<_> = routes.collect();
        let allow = format!("wg set shoal-blue peer {key} allowed-ips {allowed}");
        stranger.sh(&format!(
            "{} && {allow} || exit 77\n{attempt}",
            routes.join(" && ")
        ))
    };
    for way in &ways {
        let set = by(way, "true");
        assert!(set.success(), "{set}");
        for client in &clients {
            let reached = by(way, client);
            assert!(!reached.success(), "{way:?}: {reached}");
        }
        for address in &forbidden {
            let reached = by(way, &format!("ping -n -c 1 -W 1 {address}"));
            assert!(!reached.success(), "{way:?}: {reached}");
        }
    }
    // The attempt is a real one: without the filter of the node that is in both, it succeeds. Its
    // daemon would put it back.
    let attempt = format!("ping -n -c 1 -W 1 {}", forbidden[2]);
    mesh.node("s1").daemon.kill9();
    server.sh("nft delete table inet shoal_filter").ok();
    wait_until(SOON, "the unfenced address answers", || {
        by(&ways[0], &attempt).success()
    });
}

/// Makes a node a Docker host, and gives a script with which a stranger has reached it once.
#[track_caller]
fn docker_client(mesh: &Mesh, name: &str, stranger: &Host) -> String {
    let server = &mesh.node("s1").host;
    server.shoal(&["docker", "provision", name]).ok();
    wait_until(PROVISIONED, "it is a Docker host", || {
        let row = server.docker_row(name);
        row.is_some_and(|row| row["status"] == "connected")
    });
    let folder = format!("/run/tls-{name}");
    let environment = stranger.shoal(&["docker", "env", name, "--dir", &folder]);
    let script = format!("{}\nexec timeout 5 docker version", environment.ok().stdout);
    stranger.sh(&script).ok();
    let [ipv6, _] = place(server, "default", name);
    only_the_place_is_listened_on(&mesh.node(name).host, &ipv6);
    script
}

/// Routes that a stranger can make, for IPv6 and IPv4: over the network that it is in, and over the
/// underlay.
fn ways_of_root(inside: &Host, between: &Host) -> [[String; 2]; 3] {
    let by = |host: &Host| {
        [
            format!("via {}", host.ipv6()),
            format!("via {}", host.ipv4()),
        ]
    };
    let over = "dev shoal-blue".to_owned();
    [[over.clone(), over], by(inside), by(between)]
}

/// A peer as a host's daemon shows it.
#[track_caller]
fn peer_of(host: &Host, network: &str, node: &str) -> serde_json::Value {
    let shown = host.shoal_json(&["network", "show", network]);
    let peers = shown["peers"].as_array().expect("peers are a list");
    let peer = peers.iter().find(|peer| peer["node"] == node);
    peer.unwrap_or_else(|| panic!("{node} is no peer")).clone()
}

#[track_caller]
fn only_the_place_is_listened_on(host: &Host, ipv6: &str) {
    let sockets = host.run(&["ss", "-Hltn"]).ok();
    let on_port = |line: &&str| {
        line.split_whitespace()
            .nth(3)
            .is_some_and(|at| at.ends_with(":2376"))
    };
    let listeners: Vec<_> = sockets.stdout.lines().filter(on_port).collect();
    assert_eq!(listeners.len(), 1, "{sockets}");
    assert!(
        listeners[0].contains(&format!("[{ipv6}]:2376")),
        "{sockets}"
    );
}

#[test]
fn spokes_reach_each_other_through_a_hub_only_and_by_another_when_it_dies() {
    let Some(lab) = Lab::for_test("hubs") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 4);
    let server = mesh.node("s1").host.clone();
    server
        .shoal(&["network", "create", "blue", "--routing-mode", "hub"])
        .ok();
    for hub in ["a3", "a4"] {
        server
            .shoal(&["network", "attach", hub, "blue", "--hub"])
            .ok();
    }
    for spoke in ["a1", "a2"] {
        server.shoal(&["network", "attach", spoke, "blue"]).ok();
    }
    let spoke = mesh.node("a1").host.clone();
    let other = place(&server, "blue", "a2");
    answers(&spoke, &other);
    // Only hubs are peers, and one of them counts what passes.
    let shown = spoke.shoal_json(&["network", "show", "blue"]);
    let has_endpoint = |node: &str| {
        let peers = shown["peers"].as_array().expect("peers are a list");
        let peer = peers.iter().find(|peer| peer["node"] == node);
        peer.is_some_and(|peer| peer["endpoint"].is_string())
    };
    assert!(!has_endpoint("a2"), "{shown}");
    assert!(has_endpoint("a3") || has_endpoint("a4"), "{shown}");
    // Whichever the pair has drawn: each is away once.
    for hub in ["a3", "a4"] {
        mesh.node(hub).host.cut();
        for address in &other {
            wait_until(
                Duration::from_secs(60),
                "the other hub carries the pair",
                || spoke.pings(address),
            );
        }
        mesh.node(hub).host.heal();
        mesh.wait_until_settled(1);
    }
    server
        .shoal(&["network", "set", "blue", "--routing-mode", "mesh"])
        .ok();
    wait_until(SOON, "a2 is a peer of its own again", || {
        let peer = peer_of(&spoke, "blue", "a2");
        peer["handshake_s"].is_u64() || !spoke.pings(&other[0])
    });
    answers(&spoke, &other);
}

#[test]
fn two_networks_with_one_hub_both_pass_it_and_never_meet() {
    let Some(lab) = Lab::for_test("twohubs") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 4);
    let server = mesh.node("s1").host.clone();
    for (network, spokes) in [("blue", ["a1", "a2"]), ("green", ["a3", "a4"])] {
        server
            .shoal(&["network", "create", network, "--routing-mode", "hub"])
            .ok();
        server
            .shoal(&["network", "attach", "s1", network, "--hub"])
            .ok();
        for spoke in spokes {
            server.shoal(&["network", "attach", spoke, network]).ok();
        }
    }
    let (blue, green) = (place(&server, "blue", "a2"), place(&server, "green", "a4"));
    answers(&mesh.node("a1").host, &blue);
    answers(&mesh.node("a3").host, &green);
    answers(&mesh.node("a1").host, &blue);
    // Root on a1 sends into the other network by the hub that is in both.
    let host = mesh.node("a1").host.clone();
    host.sh(&format!(
        "ip route replace {} dev shoal-blue; ip route replace {} dev shoal-blue",
        green[0], green[1]
    ))
    .ok();
    for address in &green {
        assert!(!host.pings(address), "{address} answers across networks");
    }
}

#[test]
fn a_lan_behind_a_peer_is_reached_by_the_others_until_it_is_taken_away() {
    let Some(lab) = Lab::for_test("lan") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 2);
    let owner = mesh.node("a1").host.clone();
    let other = mesh.node("a2").host.clone();
    // A machine on a network of its own behind a1. It knows nothing of any overlay.
    owner
        .sh("ip link add lan0 type veth peer name eth0 netns $(unshare -n sh -c 'sleep 1000 >/dev/null 2>&1 & echo $!') \
             && ip addr add 192.168.7.1/24 dev lan0 && ip addr add fd99:7::1/64 dev lan0 nodad && ip link set lan0 up \
             && pid=$(pgrep -n -f 'sleep 1000') \
             && nsenter -t $pid -n sh -c 'ip link set lo up; ip addr add 192.168.7.2/24 dev eth0; ip addr add fd99:7::2/64 dev eth0 nodad; ip link set eth0 up'")
        .ok();
    let machines = ["192.168.7.2".to_owned(), "fd99:7::2".to_owned()];
    for machine in &machines {
        wait_until(SOON, "the owner reaches its LAN", || owner.pings(machine));
    }
    let set = ["network", "set-peer", "a1", "default"];
    let refused = other.shoal_refused(&[&set[..], &["--lan-subnet", "0.0.0.0/0"]].concat());
    assert_eq!(refused["code"], "InvalidInputError");
    let lan = [
        "--lan-subnet",
        "192.168.7.0/24",
        "--lan-subnet",
        "fd99:7::/64",
    ];
    other.shoal(&[&set[..], &lan].concat()).ok();
    answers(&other, &machines);
    // The other way round stays shut: the fence lets nobody in but the overlay.
    let [_, ipv4] = place(&other, "default", "a2");
    let inward = format!(
        "nsenter -t $(pgrep -n -f 'sleep 1000') -n sh -c \
         'ip route replace {ipv4} via 192.168.7.1; ping -n -c 1 -W 1 {ipv4}'"
    );
    assert!(!owner.sh(&inward).success(), "the LAN reaches the overlay");
    let claimed = other.shoal_refused(&[
        "network",
        "set-peer",
        "a2",
        "default",
        "--lan-subnet",
        "192.168.0.0/16",
    ]);
    assert_eq!(claimed["code"], "PrefixOverlapError");
    // A daemon that comes back leaves it so.
    other
        .shoal(&[&set[..], &["--no-lan-subnets"]].concat())
        .ok();
    for machine in &machines {
        wait_until(SOON, "the LAN is shut again", || !other.pings(machine));
    }
}
