//! The overlay carries everyone to everyone, whatever becomes of the daemons, and no one else.

use std::{collections::BTreeSet, time::Duration};

use rustix::process::Signal;
use serde_json::Value;
use shoal_tests::{Host, Lab, Mesh, Process, text, wait_until};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn everyone_answers_everyone_over_both_protocols() {
    let Some(lab) = Lab::for_test("pings") else {
        return;
    };
    let mesh = Mesh::new(&lab, 3, 1);
    mesh.wait_until_everyone_answers_everyone(SOON);
}

#[test]
fn no_packet_is_lost_while_a_daemon_restarts() {
    let Some(lab) = Lab::for_test("restart") else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 1, 1);
    let [ipv6, _] = mesh.node("a1").overlay();
    let pinger = mesh.node("s1").host.clone();
    wait_until(SOON, "the overlay is up", || pinger.pings(&ipv6));
    let script = format!("exec ping -n -i 0.05 {ipv6} > /tmp/pings 2>&1");
    let ping = pinger.spawn(&["bash", "-c", &script]);
    let path = pinger.disk("/tmp/pings");
    let answers = || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        text.lines()
            .filter(|line| line.contains("bytes from"))
            .count()
    };
    wait_until(SOON, "pings are answered", || answers() > 10);
    // Once cleanly, once not, on either end.
    for (name, kill) in [("a1", false), ("a1", true), ("s1", false), ("s1", true)] {
        if kill {
            mesh.node(name).daemon.kill9();
        } else {
            mesh.node(name).daemon.stop();
        }
        mesh.node_mut(name).restart_daemon();
        let seen = answers();
        wait_until(SOON, "pings go on", || answers() > seen + 20);
    }
    ping.signal(Signal::INT);
    ping.wait(SOON);
    let said = std::fs::read_to_string(&path).expect("ping wrote its report");
    // The last question may have been on its way when ping was ended.
    let answered = said.split("icmp_seq=").skip(1);
    let answered = answered.filter_map(|rest| rest.split(' ').next()?.parse().ok());
    let answered: BTreeSet<usize> = answered.collect();
    let last = answered.last().copied().unwrap_or_default();
    assert_eq!(answered.len(), last, "none is missing: {said}");
}

#[test]
fn interface_and_addresses_are_as_agreed() {
    let Some(lab) = Lab::for_test("interface") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 1);
    for node in &mesh.nodes {
        let [ipv6, ipv4] = node.overlay();
        let shown = node
            .host
            .run(&["ip", "-o", "addr", "show", "shoal-default"])
            .ok();
        // The kernel makes one of its own for the link, and waits for whoever else has it.
        let agreed = |line: &&str| line.contains("scope global");
        let global: Vec<&str> = shown.stdout.lines().filter(agreed).collect();
        assert_eq!(global.len(), 2, "{shown}");
        assert!(shown.stdout.contains(&format!("{ipv6}/128")), "{shown}");
        assert!(shown.stdout.contains(&format!("{ipv4}/32")), "{shown}");
        let usable = |line: &&str| !line.contains("tentative");
        assert!(global.iter().all(usable), "{shown}");
    }
}

#[test]
fn an_outsider_with_a_route_reaches_nothing_on_the_overlay() {
    let Some(lab) = Lab::for_test("outsider") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 1);
    let [ipv6, ipv4] = mesh.node("a1").overlay();
    let agent = mesh.node("a1").host.clone();
    let inside = mesh.node("s1").host.clone();
    wait_until(SOON, "the overlay is up", || {
        inside.pings(&ipv6) && inside.pings(&ipv4)
    });
    let outside = lab.outside();
    assert!(outside.pings(&agent.ipv4()) && outside.pings(&agent.ipv6()));
    // Linux answers on any interface for any address of the machine, unless it is told not to.
    outside
        .sh(&format!("ip route add {ipv6} via {}", agent.ipv6()))
        .ok();
    outside
        .sh(&format!("ip route add {ipv4} via {}", agent.ipv4()))
        .ok();
    assert!(!outside.pings(&ipv6), "an outsider reaches {ipv6}");
    assert!(!outside.pings(&ipv4), "an outsider reaches {ipv4}");
    assert!(inside.pings(&ipv6) && inside.pings(&ipv4));
}

#[test]
fn a_detached_node_is_cut_off_and_comes_back_when_attached() {
    let Some(lab) = Lab::for_test("detached") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 1);
    let host = mesh.node("s1").host.clone();
    let [ipv6, _] = mesh.node("a1").overlay();
    wait_until(SOON, "the overlay is up", || host.pings(&ipv6));
    host.shoal(&["network", "detach", "a1", "default"]).ok();
    wait_until(SOON, "the detached node is cut off", || !host.pings(&ipv6));
    host.shoal(&["network", "attach", "a1", "default"]).ok();
    wait_until(SOON, "the attached node is back", || {
        let row = host.node_row("a1");
        row["overlay_ipv6"]
            .as_str()
            .is_some_and(|ipv6| host.pings(ipv6))
    });
}

/// The WireGuard key with which the others expect a node.
fn key_of(host: &Host, node: &str) -> String {
    let shown = host.shoal_json(&["network", "show", "default"]);
    let peers = shown["peers"].as_array().expect("peers are a list");
    let peer = peers.iter().find(|peer| peer["node"] == node);
    text(peer.expect("the node is a peer"), "public_key")
}

/// One connection over which `from` receives all the while, told in tenths of a second.
struct Stream {
    client: Process,
    report: std::path::PathBuf,
}

impl Stream {
    const TENTHS_PER_SECOND: usize = 10;

    fn start(from: &Host, server: &Host, address: &str, port: u16, seconds: u32) -> Self {
        server.spawn(&["iperf3", "-s", "-1", "-p", &port.to_string()]);
        wait_until(SOON, "iperf3 listens", || {
            let listening = server.sh(&format!("ss -Hltn sport = :{port}"));
            !listening.stdout.is_empty()
        });
        let file = format!("/tmp/iperf3-{port}.json");
        let script = format!(
            "exec iperf3 -c {address} -p {port} -R -t {seconds} -i 0.1 -b 20M --json >{file} 2>&1"
        );
        Self {
            client: from.spawn(&["bash", "-c", &script]),
            report: from.disk(&file),
        }
    }

    /// The longest that nothing came, in tenths of a second, of a connection that went on to its
    /// end.
    #[track_caller]
    fn longest_gap(self) -> usize {
        let status = self.client.wait(Duration::from_secs(40));
        let said = std::fs::read_to_string(&self.report).expect("iperf3 wrote its report");
        assert!(status.success(), "{said}");
        let report: Value = serde_json::from_str(&said).expect("iperf3 wrote JSON");
        let connected = report["start"]["connected"].as_array();
        assert_eq!(connected.map(Vec::len), Some(1), "one connection");
        let intervals = report["intervals"].as_array().expect("there are intervals");
        assert!(intervals.len() > Self::TENTHS_PER_SECOND, "{said}");
        let bytes = |interval: &Value| interval["sum"]["bytes"].as_u64();
        let silent = intervals.iter().map(|interval| bytes(interval) == Some(0));
        let runs = silent.scan(0, |run, silent| {
            *run = if silent { *run + 1 } else { 0 };
            Some(*run)
        });
        runs.max().unwrap_or(0)
    }
}

/// Straight from agent to agent, and by a hub: of one end, of both at once, of the hub.
#[test]
fn connections_outlive_new_wireguard_keys_of_both_ends_and_of_the_hub() {
    let Some(lab) = Lab::for_test("newkeys") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 2);
    let server = mesh.node("s1").host.clone();
    let (one, two) = (mesh.node("a1").host.clone(), mesh.node("a2").host.clone());
    server
        .shoal(&["network", "create", "blue", "--routing-mode", "hub"])
        .ok();
    server
        .shoal(&["network", "attach", "s1", "blue", "--hub"])
        .ok();
    for spoke in ["a1", "a2"] {
        server.shoal(&["network", "attach", spoke, "blue"]).ok();
    }
    let straight = mesh.node("a2").overlay()[1].clone();
    let shown = server.shoal_json(&["network", "show", "blue"]);
    let peers = shown["peers"].as_array().expect("peers are a list");
    let spoke = peers.iter().find(|peer| peer["node"] == "a2");
    let by_hub = text(spoke.expect("a2 is a peer"), "ipv4");
    for address in [&straight, &by_hub] {
        wait_until(SOON, "the overlay is up", || one.pings(address));
    }
    let names = ["a1", "a2", "s1"];
    let before = names.map(|name| key_of(&server, name));
    let streams = [
        Stream::start(&one, &two, &straight, 5301, 8),
        Stream::start(&one, &two, &by_hub, 5302, 8),
    ];
    let rotate = |node: &str| {
        let rotated = server.shoal_json(&["node", "rotate-key", node]);
        assert!(rotated["took_ms"].is_u64(), "{rotated}");
        assert_eq!(text(&rotated, "public_key"), key_of(&server, node));
        println!("{node}: {} ms", rotated["took_ms"]);
    };
    rotate("a2");
    for node in ["a1", "a2"] {
        server
            .shoal(&["node", "rotate-key", node, "--no-wait"])
            .ok();
    }
    wait_until(SOON, "both have new keys", || {
        ["a1", "a2"]
            .iter()
            .all(|node| server.node_row(node)["key_rotation"].is_null())
    });
    rotate("s1");
    rotate("a1");
    let gaps = streams.map(Stream::longest_gap);
    println!("longest silence, tenths of a second: straight and by hub {gaps:?}");
    // A handshake that nobody answers is repeated after five seconds.
    assert!(gaps.iter().all(|gap| *gap < 20), "{gaps:?}");
    for (name, before) in names.iter().zip(before) {
        assert_ne!(key_of(&server, name), before, "{name}");
    }
    mesh.wait_until_everyone_answers_everyone(SOON);
}

#[test]
fn a_new_key_is_taken_although_the_daemon_dies_at_each_step_and_somebody_is_away() {
    let Some(lab) = Lab::for_test("keycrash") else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 1, 2);
    let server = mesh.node("s1").host.clone();
    mesh.wait_until_everyone_answers_everyone(SOON);
    let before = key_of(&server, "a1");
    let step = |name: &str| server.node_row(name)["key_rotation"].clone();
    // Asked for while the daemon is away; refused a second time, which changes nothing.
    mesh.node("a1").daemon.kill9();
    server
        .shoal(&["node", "rotate-key", "a1", "--no-wait"])
        .ok();
    let refusal = server.shoal_refused(&["node", "rotate-key", "a1"]);
    assert_eq!(refusal["code"], "KeyRotationUnderWayError");
    assert_eq!(
        (step("a1"), key_of(&server, "a1")),
        ("wanted".into(), before.clone())
    );
    // Announced, and not taken while somebody who lives does not know it.
    mesh.node("a2").daemon.process().signal(Signal::STOP);
    mesh.node_mut("a1").restart_daemon();
    wait_until(SOON, "the key is announced", || step("a1") == "announced");
    mesh.node("a1").daemon.kill9();
    assert_eq!(key_of(&server, "a1"), before);
    mesh.node_mut("a1").restart_daemon();
    mesh.node("a2").daemon.process().signal(Signal::CONT);
    wait_until(SOON, "the key is taken", || {
        step("a1").is_null() && key_of(&server, "a1") != before
    });
    mesh.node("a1").daemon.kill9();
    mesh.node_mut("a1").restart_daemon();
    mesh.wait_until_everyone_answers_everyone(SOON);
    // Who has left is not waited for, and finds the new key when it is back.
    let before = key_of(&server, "a1");
    mesh.node("a2").daemon.stop();
    wait_until(SOON, "a2 is gone", || {
        server.node_row("a2")["silent"] == true
    });
    server
        .shoal(&["node", "rotate-key", "a1", "--no-wait"])
        .ok();
    wait_until(SOON, "the key is taken", || {
        step("a1").is_null() && key_of(&server, "a1") != before
    });
    mesh.node_mut("a2").restart_daemon();
    mesh.wait_until_everyone_answers_everyone(SOON);
    let shown = mesh.node("a1").host.sh("ls /var/lib/shoal").stdout;
    assert!(shown.contains("wireguard.key"), "{shown}");
    assert!(!shown.contains("wireguard.next"), "{shown}");
    let after = key_of(&server, "a1");
    assert_eq!(key_of(&mesh.node("a2").host, "a1"), after);
}

/// What an older copy of a node's directory has for keys was given up since, perhaps because somebody
/// else had it.
#[test]
fn a_node_whose_directory_was_put_back_has_a_key_agreed_that_it_never_had() {
    let Some(lab) = Lab::for_test("oldkey") else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 1, 2);
    let (server, host) = (mesh.node("s1").host.clone(), mesh.node("a1").host.clone());
    mesh.wait_until_everyone_answers_everyone(SOON);
    let mut had = vec![key_of(&server, "a1")];
    mesh.node("a1").daemon.stop();
    host.sh("cp -a /var/lib/shoal /tmp/copy").ok();
    mesh.node_mut("a1").restart_daemon();
    for _ in 0..2 {
        server.shoal(&["node", "rotate-key", "a1"]).ok();
        had.push(key_of(&server, "a1"));
    }
    let last = had[2].clone();
    mesh.node("a1").daemon.stop();
    host.sh("rm -r /var/lib/shoal/* && cp -a /tmp/copy/. /var/lib/shoal/")
        .ok();
    mesh.node_mut("a1").restart_daemon();
    wait_until(SOON, "it has another key", || {
        let key = key_of(&server, "a1");
        assert!(key == last || !had.contains(&key), "an old key is back");
        key != last
    });
    mesh.wait_until_everyone_answers_everyone(SOON);
}
