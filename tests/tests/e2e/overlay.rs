//! The overlay carries everyone to everyone, whatever becomes of the daemons, and no one else.

use std::time::Duration;

use rustix::process::Signal;
use shoal_tests::{Lab, Mesh, wait_until};

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
    assert!(said.contains(" 0% packet loss"), "{said}");
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
        assert!(shown.stdout.contains(&format!("{ipv6}/128")), "{shown}");
        assert!(shown.stdout.contains(&format!("{ipv4}/32")), "{shown}");
        assert!(!shown.stdout.contains("tentative"), "{shown}");
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
