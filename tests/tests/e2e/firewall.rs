//! Firewall rules, by real connections between hosts.

use std::time::Duration;

use serde_json::Value;
use shoal_tests::{Host, Lab, Mesh, Node, wait_until};

const SOON: Duration = Duration::from_secs(20);
/// A port that rules are about, and one that they are not.
const PORTS: [&str; 2] = ["8000", "8001"];
/// The API's, on the IPv6 address.
const API: &str = "7443";
/// Takes connections of both families at every port that it is given.
const LISTENER: &str = "
import socket, sys, threading
def serve(port):
    s = socket.socket(socket.AF_INET6)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    s.bind(('::', port))
    s.listen(64)
    while True:
        s.accept()[0].close()
for port in sys.argv[1:]:
    threading.Thread(target=serve, args=[int(port)]).start()
";

/// Whether a connection is opened.
fn connects(from: &Host, address: &str, port: &str) -> bool {
    let open = format!("exec 3<>/dev/tcp/{address}/{port}");
    from.run(&["timeout", "0.5", "bash", "-c", &open]).success()
}

/// Waits until connections to a node's two addresses are opened, or until none is.
#[track_caller]
fn settles(from: &Node, to: &Node, port: &str, open: bool) {
    let what = format!("{} to {} at {port}: {open}", from.name(), to.name());
    wait_until(SOON, &what, || {
        let addresses = to.overlay();
        let mut each = addresses.iter();
        each.all(|address| connects(&from.host, address, port) == open)
    });
}

#[track_caller]
fn rule(host: &Host, words: &str) -> u64 {
    let words = format!("network rule add default {words}");
    let words: Vec<&str> = words.split(' ').collect();
    host.shoal_json(&words)["number"]
        .as_u64()
        .expect("a number")
}

/// The numbers of the rules, in the order in which they are asked.
fn order(host: &Host) -> Vec<u64> {
    let shown = host.shoal_json(&["network", "rule", "ls", "default"]);
    let rules = shown["rules"].as_array().expect("a list");
    let numbers = rules.iter().filter_map(|rule| rule["number"].as_u64());
    numbers.collect()
}

#[test]
fn the_first_rule_that_fits_decides_and_a_flush_takes_none_away() {
    let Some(lab) = Lab::for_test("firewall") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 2);
    let [s1, a1, a2] = ["s1", "a1", "a2"].map(|name| mesh.node(name));
    let _listener = (s1.host).spawn(&[&["python3", "-c", LISTENER], &PORTS[..]].concat());
    for from in [a1, a2] {
        for port in PORTS {
            settles(from, s1, port, true);
        }
    }
    // By port.
    let denied = rule(&a2.host, "--to node:s1 --proto tcp --port 7990-8000 --deny");
    assert_eq!(denied, 1);
    for from in [a1, a2] {
        settles(from, s1, PORTS[0], false);
        settles(from, s1, PORTS[1], true);
    }
    // By label, before it: the first that fits decides.
    let allowed = rule(
        &s1.host,
        "--from label:role=web --to node:s1 --port 8000 --allow --before 1",
    );
    assert_eq!(order(&a1.host), [allowed, denied]);
    s1.host.shoal(&["node", "label", "a1", "role=web"]).ok();
    settles(a1, s1, PORTS[0], true);
    settles(a2, s1, PORTS[0], false);

    // What no rule fits. The mesh goes on, and says whether a node is there.
    let default = |verdict| {
        let set = ["network", "set", "default", "--default", verdict];
        a1.host.shoal(&set).ok();
    };
    default("deny");
    settles(a2, s1, PORTS[1], false);
    settles(a1, s1, PORTS[0], true);
    assert!(connects(&a2.host, &s1.overlay()[0], API));
    assert!(a2.host.pings(&s1.overlay()[0]) && a2.host.pings(&s1.overlay()[1]));

    flushed(&s1.host);
    settles(a2, s1, PORTS[1], false);
    settles(a1, s1, PORTS[0], true);

    // Who loses the label loses what it opened; without rules all is as it was.
    s1.host.shoal(&["node", "label", "a1", "role-"]).ok();
    settles(a1, s1, PORTS[0], false);
    for number in [allowed, denied] {
        let number = number.to_string();
        let gone = ["network", "rule", "rm", "default", &number];
        a2.host.shoal(&gone).ok();
    }
    let unknown = ["network", "rule", "rm", "default", "1"];
    let refusal = a2.host.shoal_refused(&unknown);
    assert_eq!(refusal["code"], "FirewallRuleNotFoundError");
    default("allow");
    for from in [a1, a2] {
        for port in PORTS {
            settles(from, s1, port, true);
        }
    }
    let shown = s1.host.shoal_json(&["network", "show", "default"]);
    assert_eq!(shown["firewall_rules"], Value::from(0), "{shown}");
}

/// Somebody empties the host's rules: they are back at once, all of them.
#[track_caller]
fn flushed(host: &Host) {
    let rules = || host.run(&["nft", "-s", "list", "table", "inet", "shoal_filter"]);
    let before = rules().ok().stdout;
    host.sh("nft flush ruleset").ok();
    wait_until(SOON, "the rules are back", || rules().stdout == before);
}

#[test]
fn a_device_and_a_lan_are_behind_the_rules_of_their_gateway() {
    let Some(lab) = Lab::for_test("fw-gateway") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 2);
    let [s1, a1, a2] = ["s1", "a1", "a2"].map(|name| mesh.node(name));
    let file = "/run/lab/files/lap0.conf";
    let grant = (s1.host).shoal_json(&["access", "grant", "ann", "--via", "s1", "--out", file]);
    let laptop = lab.host("laptop");
    let device = [("WG_QUICK_USERSPACE_IMPLEMENTATION", "wireguard-go")];
    laptop.run_with(&["wg-quick", "up", file], &device).ok();
    // The laptop is in the network's prefixes, and nothing but its address tells it.
    let own = shoal_tests::text(&grant, "ipv6");
    let _listener = (a1.host).spawn(&[&["python3", "-c", LISTENER], &PORTS[..]].concat());
    let target = a1.overlay()[0].clone();
    wait_until(SOON, "the device reaches the node", || {
        connects(&laptop, &target, PORTS[0])
    });
    let _its = laptop.spawn(&["python3", "-c", LISTENER, PORTS[0]]);
    wait_until(SOON, "the node reaches the device", || {
        connects(&a1.host, &own, PORTS[0])
    });
    rule(&s1.host, &format!("--from cidr:{own}/128 --deny"));
    wait_until(SOON, "the device is kept out", || {
        !connects(&laptop, &target, PORTS[0])
    });
    settles(a2, a1, PORTS[0], true);
    // It has no daemon to carry rules out: its gateway does.
    rule(&s1.host, "--from node:a1 --port 8000 --deny");
    wait_until(SOON, "the device is left alone", || {
        !connects(&a1.host, &own, PORTS[0])
    });
    assert!(connects(&a2.host, &own, PORTS[0]), "by nobody else");
}
