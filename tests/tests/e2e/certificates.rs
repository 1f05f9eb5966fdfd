//! A certificate never surprises anyone: it is renewed unnoticed, taken back at once, replaced root
//! and all under traffic, and its end is survived.
//!
//! The hosts' wall clock is the lab's. dockerd and docker are written in Go, ask the kernel
//! themselves and have the machine's time; so what they see is made in the lab's past, and the
//! lab's time catches up with the machine's.

use std::{collections::BTreeMap, fs, io::Write as _, slice, time::Duration};

use serde_json::Value;
use shoal_tests::{Host, IMAGE, Lab, Mesh, Node, Process, Standing, image_tar, text, wait_until};

/// Longer than an election, a renewal and a reconnection take on a busy machine.
const SOON: Duration = Duration::from_secs(60);
/// The same for a whole mesh that starts, or changes its root.
const LATER: Duration = Duration::from_secs(150);

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// A leaf of 24 h is renewed after 16 h with up to 1.2 h of jitter; after this it is due.
const LEAF_STEP: i64 = 17 * HOUR + HOUR / 2;

/// What is revoked is to be refused everywhere within a second; a machine that does other things at
/// the same time is given more. The figure itself is printed.
const ENFORCED_WITHIN_MS: u64 = 5000;

const TAR: &str = "/run/lab/files/image.tar";

#[test]
fn everything_is_renewed_in_time_and_nothing_is_dropped() {
    // An intermediate is due two thirds into its seven days, at the last of these steps.
    let Some(lab) = Lab::for_test_at("renewal", -7 * LEAF_STEP) else {
        return;
    };
    let mesh = Mesh::new(&lab, 3, 1);
    let server = mesh.node("s1").host.clone();
    let writes = writes_on(&server);
    let first = authorities(&server);
    for step in (1..7).rev() {
        pass(&lab, &server, -step * LEAF_STEP);
        // What was renewed is shown to every peer before the next leap.
        wait_for_more(slice::from_ref(&writes));
    }
    // dockerd's certificate is made now, and due at the last step.
    let container = docker_host(&lab, &server);
    let docker = [listing_on(&server), plain_docker_on(&server, "plain")];
    wait_for_more(&docker);
    let agent = mesh.node("a1").host.clone();
    let before = (page_server(&agent), dockerd_shows(&server));
    let lost = lost_connections(&mesh);
    pass(&lab, &server, 0);
    wait_until(LATER, "every server has a new authority", || {
        all_later(&authorities(&server), &first)
    });
    wait_until(LATER, "dockerd shows a new certificate", || {
        dockerd_shows(&server) != before.1
    });
    wait_for_more(&docker);
    // The leaves that the connections began with have ended.
    lab.set_clock(7 * HOUR);
    wait_for_more(&docker);
    let [listing, plain] = docker;
    for traffic in [writes, listing, plain] {
        traffic.ends_without_failure();
    }
    assert_eq!(lost_connections(&mesh), lost, "connections were lost");
    let page_server = page_server(&agent);
    assert_eq!(page_server, before.0, "the container was restarted");
    assert_eq!(running_container(&server), container);
}

#[test]
fn who_was_off_past_every_end_comes_back_unless_removed_and_ends_are_told_before() {
    let Some(lab) = Lab::for_test_at("return", 0) else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 3, 3);
    let server = mesh.node("s1").host.clone();
    for name in ["a1", "a2"] {
        mesh.node(name).host.power_off();
    }
    let removed = server.shoal_json(&["node", "remove", "a2", "--yes", "--reason", "sold to Bob"]);
    let told = removed["enforcement"]["enforced"].as_u64();
    assert_eq!(told, Some(4), "four of five nodes are on: {removed}");
    let mut gone = mesh.nodes.remove(4);
    assert_eq!(gone.name(), "a2");

    let mut before = leaves(&server, "node");
    before.remove("a1");
    lab.set_clock(LEAF_STEP);
    nudge(&server);
    wait_until(LATER, "whoever is on has a new leaf", || {
        all_later(&leaves(&server, "node"), &before)
    });
    // Five sixths of a1's leaf are over.
    lab.set_clock(21 * HOUR);
    nudge(&server);
    ends_are_told(&server);
    everybody_returns(&lab, &mut mesh);
    gone.host.power_on();
    gone.restart_daemon();
    wait_until_told(&gone.host, &["removed from the mesh at 20", "sold to Bob"]);

    // As if every machine was suspended: the daemons run on, years of a certificate's life later.
    lab.set_clock(20 * DAY);
    wait_until(LATER, "a mesh that slept has renewed everything", || {
        let leaves = leaves(&server, "node");
        mesh.nodes
            .iter()
            .all(|node| leaves.contains_key(node.name()))
    });
    wait_until_whole(&mesh);
    server.shoal(&["node", "label", "a3", "slept=yes"]).ok();
}

/// By an event before a leaf ends without a successor, and by a metric at all times.
fn ends_are_told(server: &Host) {
    wait_until(SOON, "a1's end is told", || {
        let command = ["events", "--json", "--kind-prefix", "ca.expiry_warning"];
        let rows = server.shoal(&command).ok().json_rows();
        rows.iter().any(|row| row["node"] == "a1")
    });
    let metrics = server
        .sh("curl -sS --unix-socket /run/shoal/shoald.sock http://shoal/metrics")
        .ok()
        .stdout;
    for (kind, holder) in [("node", "a1"), ("intermediate", "s2"), ("root", "active")] {
        let row = format!("shoal_certificate_expiry_seconds{{kind=\"{kind}\",holder=\"{holder}\"");
        let line = metrics.lines().find(|line| line.starts_with(&row));
        let left = line.and_then(|line| line.rsplit(' ').next()?.parse::<i64>().ok());
        assert!(left > Some(0), "{row} in {metrics}");
    }
}

/// Every machine is switched off until every certificate has ended, and then on again.
fn everybody_returns(lab: &Lab, mesh: &mut Mesh) {
    for node in &mesh.nodes {
        node.host.power_off();
    }
    lab.set_clock(10 * DAY);
    for name in ["s1", "s2", "s3"] {
        mesh.node(name).host.power_on();
        mesh.node_mut(name).restart_daemon();
    }
    let server = mesh.node("s1").host.clone();
    server.wait_for_status(LATER, "the servers have a leader", |status| {
        status["leader"].is_string() && status["reachable"] == 3
    });
    wait_until(
        LATER,
        "every server has a new leaf and a new authority",
        || {
            let (leaves, own) = (leaves(&server, "node"), authorities(&server));
            ["s1", "s2", "s3"]
                .iter()
                .all(|name| leaves.contains_key(*name) && own.contains_key(*name))
        },
    );
    for name in ["a1", "a3"] {
        mesh.node(name).host.power_on();
        mesh.node_mut(name).restart_daemon();
    }
    wait_until(LATER, "every agent has a new leaf", || {
        let leaves = leaves(&server, "node");
        ["a1", "a3"].iter().all(|name| leaves.contains_key(*name))
    });
    wait_until_whole(mesh);
    mesh.node("a1")
        .host
        .shoal(&["node", "label", "a1", "back=yes"])
        .ok();
    wait_until(SOON, "the overlay is back", || {
        let [ipv6, _] = mesh.node("a1").overlay();
        server.pings(&ipv6)
    });
}

#[test]
fn what_is_revoked_is_cut_off_everywhere_at_once() {
    let Some(lab) = Lab::for_large_test("revoked", 6) else {
        return;
    };
    let mesh = Mesh::new(&lab, 3, 3);
    let server = mesh.node("s1").host.clone();
    let ann = server.operator("ann", "viewer", &[]);
    let [address, _] = mesh.node("s1").overlay();
    let standing = Standing::open(&mesh.node("s2").host, &address, &ann);
    for _ in 0..2 {
        let answer = standing.get("/v1/status");
        assert!(answer.contains(" 200 OK"), "{answer}");
    }
    let revoked = server.shoal_json(&["ca", "revoke", "--operator", "ann", "--yes"]);
    assert_enforced("ca revoke --operator", &revoked, 6);
    let answer = standing.get("/v1/status");
    assert!(answer.contains("OperatorUnknownError"), "{answer}");

    // a3 is not told to leave its host. a2's daemon is dead, but its WireGuard device has every key that it had.
    let others: Vec<[String; 2]> = mesh.nodes.iter().map(Node::overlay).collect();
    for name in ["a2", "a3"] {
        for [ipv6, _] in &others {
            let host = &mesh.node(name).host;
            wait_until(SOON, "the overlay is up", || host.pings(ipv6));
        }
    }
    let stolen = [
        "node",
        "remove",
        "a3",
        "--yes",
        "--compromised",
        "--reason",
        "stolen",
    ];
    let removed = server.shoal_json(&stolen);
    assert_enforced("node remove --compromised", &removed, 5);
    wait_until_told(&mesh.node("a3").host, &["removed"]);

    mesh.node("a2").daemon.kill9();
    let removed = server.shoal_json(&["node", "remove", "a2", "--yes", "--compromised"]);
    assert_enforced("node remove --compromised", &removed, 4);
    let (stay, gone) = others.split_at(4);
    let stay: Vec<&str> = stay.iter().flatten().map(String::as_str).collect();
    for name in ["a2", "a3"] {
        let reached = mesh.node(name).host.reached(&stay);
        assert!(reached.is_empty(), "{name} still reaches {reached:?}");
    }
    for node in &mesh.nodes[..4] {
        for address in gone.iter().flatten() {
            let route = node.host.run(&["ip", "route", "show", address]);
            let shown = node.host.run(&["ip", "-6", "route", "show", address]);
            assert!(
                route.text().is_empty() && shown.text().is_empty(),
                "{} still has a way to {address}",
                node.name()
            );
        }
    }
}

#[test]
fn a_compromised_founder_takes_nobody_with_it_not_even_who_was_late_to_hear_of_it() {
    let Some(lab) = Lab::for_test("compromised") else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 3, 1);
    let host = mesh.node("s2").host.clone();
    let root = roots(&host);
    // The founder has signed the certificates of everyone.
    let before = serials(&host);
    let by_founder = listed(&host, "certificates")
        .iter()
        .filter(|row| row["profile"] == "node" && row["issuer"] == "s1")
        .count();
    assert_eq!(by_founder, 4);
    let removal = ["node", "remove", "s1", "--yes", "--compromised"];
    // One that hears nothing of it in time is let in by nobody who has heard, and without it nothing more can
    // be agreed.
    let late = mesh.node("s3").host.clone();
    late.signal_program("shoald run", "STOP");
    let told = host.shoal(&removal);
    late.signal_program("shoald run", "CONT");
    if !told.success() {
        // The founder has cut it off before it said that this is agreed.
        assert!(told.stderr.contains("may be agreed yet"), "{told}");
        wait_until(LATER, "the founder is removed", || {
            let nodes = host.shoal(&["node", "ls", "--json"]);
            nodes.success() && nodes.json_rows().iter().all(|row| row["name"] != "s1")
        });
    }
    let gone = mesh.nodes.remove(0);
    wait_until(
        LATER,
        "everyone else has a certificate of another's",
        || {
            let now = host.shoal(&["ca", "status", "--json"]);
            now.success() && {
                let rows = now.json()["certificates"].as_array().cloned();
                let holds = |name: &str| {
                    rows.iter().flatten().any(|row| {
                        row["profile"] == "node"
                            && row["holder"] == name
                            && !before.contains(&text(row, "serial"))
                    })
                };
                ["s2", "s3", "a1"].into_iter().all(holds)
            }
        },
    );
    wait_until_whole(&mesh);
    let agent = mesh.node("a1").host.clone();
    wait_until(LATER, "commands are agreed again", || {
        agent.shoal(&["node", "label", "a1", "whole=yes"]).success()
    });
    wait_until_told(&gone.host, &["removed"]);
    // It could open the root's key, so that is replaced without anybody's asking.
    wait_until(LATER, "there is another root", || {
        let roots = roots(&host);
        roots.len() == 1 && roots != root
    });
}

#[test]
fn a_server_that_was_removed_while_it_was_off_does_not_sign_its_own_way_back() {
    let Some(lab) = Lab::for_test_at("signs", 0) else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 3, 0);
    let host = mesh.node("s1").host.clone();
    mesh.node("s3").host.power_off();
    host.shoal(&["node", "remove", "s3", "--yes", "--reason", "scrapped"])
        .ok();
    let mut gone = mesh.nodes.remove(2);
    for step in 1..3 {
        pass(&lab, &host, step * LEAF_STEP);
        nudge(&host);
    }
    gone.host.power_on();
    gone.restart_daemon();
    wait_until_told(&gone.host, &["removed from the mesh at 20", "scrapped"]);
    wait_until_whole(&mesh);
}

#[test]
fn the_root_is_replaced_under_traffic_and_who_slept_follows() {
    let Some(lab) = Lab::for_test_at("rotation", -20 * HOUR) else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 3, 2);
    let server = mesh.node("s1").host.clone();
    let container = docker_host(&lab, &server);
    let old = roots(&server);
    mesh.node("a2").host.power_off();
    let traffic = [
        writes_on(&server),
        listing_on(&server),
        plain_docker_on(&server, "stale"),
    ];
    wait_for_more(&traffic);
    server.shoal(&["ca", "rotate", "--yes", "--no-wait"]).ok();
    wait_until(LATER, "the new root issues", || {
        server.shoal_json(&["ca", "status"])["rotation"]["step"] == "issuing"
    });
    wait_until(
        LATER,
        "all but old clients and the sleeper rest on the new root",
        || {
            let status = server.shoal_json(&["ca", "status"]);
            let waits = status["rotation"]["waiting_for"].as_array().cloned();
            let patient = |what: &Value| {
                let what = what.as_str().unwrap_or_default();
                what.contains("docker-client") || what.contains("a2")
            };
            waits.is_some_and(|waits| waits.iter().all(patient))
        },
    );
    // Day by day what nobody fetched anew ends by itself, and with it the old root.
    let dockerd = leaves(&server, "docker-server");
    lab.set_clock(0);
    nudge(&server);
    wait_until(LATER, "dockerd has its next certificate", || {
        all_later(&leaves(&server, "docker-server"), &dockerd)
            && server
                .docker_row("a1")
                .is_some_and(|row| row["phase"] == "ready")
    });
    // A person's docker CLI asks for a certificate each day; dockerd takes both meanwhile.
    let fresh = plain_docker_on(&server, "fresh");
    let [writes, listing, stale] = traffic;
    stale.ends_without_failure();
    lab.set_clock(5 * HOUR);
    nudge(&server);
    wait_until(LATER, "the old root is dropped", || {
        let roots = roots(&server);
        roots.len() == 1 && roots != old
    });
    let traffic = [writes, listing, fresh];
    wait_for_more(&traffic);
    for traffic in traffic {
        traffic.ends_without_failure();
    }
    assert_eq!(running_container(&server), container);
    for own in listed(&server, "intermediates") {
        assert_ne!(own["root"], old[0].as_str(), "{own}");
    }

    mesh.node("a2").host.power_on();
    mesh.node_mut("a2").restart_daemon();
    wait_until(LATER, "the sleeper was led to the new root", || {
        leaves(&server, "node").contains_key("a2")
    });
    wait_until_whole(&mesh);
}

/// Lets time pass until that moment, and waits until every node has a new leaf.
#[track_caller]
fn pass(lab: &Lab, server: &Host, to: i64) {
    let before = leaves(server, "node");
    lab.set_clock(to);
    nudge(server);
    wait_until(LATER, "every node has a new leaf", || {
        all_later(&leaves(server, "node"), &before)
    });
}

/// Serial numbers of all certificates in force.
#[track_caller]
fn serials(from: &Host) -> Vec<String> {
    let rows = listed(from, "certificates");
    rows.iter().map(|row| text(row, "serial")).collect()
}

/// Waits until each of them was done a few times more.
#[track_caller]
fn wait_for_more(traffic: &[Traffic]) {
    let before: Vec<_> = traffic.iter().map(Traffic::done).collect();
    wait_until(SOON, "there is traffic", || {
        for one in traffic {
            let said = one.said();
            let failed = said.lines().find(|line| *line != "ok");
            assert_eq!(failed, None, "{}", one.name);
        }
        (traffic.iter().zip(&before)).all(|(traffic, before)| traffic.done() > before + 3)
    });
}

/// A loop of one command on a host, and what became of it.
struct Traffic {
    host: Host,
    name: String,
    process: Process,
}

impl Traffic {
    /// After `first`, runs `command` again and again.
    fn on(host: &Host, name: &str, first: &str, command: &str) -> Self {
        let script = format!(
            "{first}\nwhile [ ! -e /tmp/{name}.stop ]; do i=$((i+1)); \
             if said=$({command} 2>&1); then echo ok; \
             else echo \"failed at $(date -Is): $said\" | tr '\\n' ' '; echo; fi; \
             sleep 0.1; done >> /tmp/{name}.out"
        );
        Self {
            host: host.clone(),
            name: name.to_owned(),
            process: host.spawn(&["bash", "-c", &script]),
        }
    }

    fn said(&self) -> String {
        let path = self.host.disk(&format!("/tmp/{}.out", self.name));
        fs::read_to_string(path).unwrap_or_default()
    }

    /// How often the command has succeeded.
    fn done(&self) -> usize {
        self.said().lines().filter(|line| *line == "ok").count()
    }

    #[track_caller]
    fn ends_without_failure(self) {
        let stop = self.host.disk(&format!("/tmp/{}.stop", self.name));
        fs::write(stop, "").expect("the host's disk is writable");
        self.process.wait(SOON);
        let said = self.said();
        let failed: Vec<_> = said.lines().filter(|line| *line != "ok").collect();
        say(&format!(
            "{}: {} requests, {} failed",
            self.name,
            self.done(),
            failed.len()
        ));
        assert!(failed.is_empty(), "{}: {}", self.name, failed.join("\n"));
        assert!(self.done() > 0, "{} was never done", self.name);
    }
}

fn writes_on(host: &Host) -> Traffic {
    Traffic::on(host, "writes", "", "shoal node label s1 count=$i")
}

/// Containers listed through the mesh.
fn listing_on(host: &Host) -> Traffic {
    Traffic::on(host, "listing", "", "shoal docker ps a1 --json")
}

/// Containers listed by the plain docker CLI, with a certificate of its own.
#[track_caller]
fn plain_docker_on(host: &Host, name: &str) -> Traffic {
    let first = format!("vars=$(shoal docker env a1 --dir /tmp/{name}); eval \"$vars\"");
    host.sh(&format!("set -e; {first}")).ok();
    Traffic::on(host, name, &first, "docker ps -q")
}

/// Makes `a1` a Docker host with a container that runs on; returns the container's id.
#[track_caller]
fn docker_host(lab: &Lab, from: &Host) -> String {
    from.shoal(&["docker", "provision", "a1"]).ok();
    wait_until(LATER, "the Docker host is connected", || {
        (from.docker_row("a1")).is_some_and(|row| row["status"] == "connected")
    });
    image_tar(&lab.files().join("image.tar"));
    from.shoal(&["docker", "import", "a1", "--file", TAR, "--tag", IMAGE])
        .ok();
    let command = ["docker", "run", "a1", IMAGE, "--name", "web", "--"];
    let server = ["httpd", "-f", "-p", "80", "-h", "/www"];
    from.shoal(&[command.as_slice(), server.as_slice()].concat())
        .ok();
    running_container(from)
}

/// The id of the container that runs; panics when it does not.
#[track_caller]
fn running_container(from: &Host) -> String {
    let rows = from
        .shoal(&["docker", "ps", "a1", "--json"])
        .ok()
        .json_rows();
    let row = rows.iter().find(|row| row["name"] == "web");
    let row = row.unwrap_or_else(|| panic!("no container in {rows:?}"));
    assert_eq!(row["state"], "running", "{row}");
    text(row, "id")
}

/// The serial number of the certificate that a1's dockerd shows.
#[track_caller]
fn dockerd_shows(from: &Host) -> String {
    let [ipv6, _] = ["overlay_ipv6", "overlay_ipv4"].map(|key| text(&from.node_row("a1"), key));
    let shown = from.sh(&format!(
        "openssl s_client -connect '[{ipv6}]:2376' </dev/null 2>/dev/null \
         | openssl x509 -noout -serial"
    ));
    shown.ok().text().to_owned()
}

/// The process of the container, as its host numbers it.
#[track_caller]
fn page_server(host: &Host) -> String {
    let found = host.run(&["pgrep", "--exact", "httpd"]);
    found.ok().text().to_owned()
}

/// The rows of a list in `ca status`.
#[track_caller]
fn listed(from: &Host, list: &str) -> Vec<Value> {
    let status = from.shoal_json(&["ca", "status"]);
    let rows = status[list].as_array().cloned();
    rows.unwrap_or_else(|| panic!("no {list} in {status}"))
}

/// When each holder's newest certificate of a profile ends. Those that have ended are not listed.
#[track_caller]
fn leaves(from: &Host, profile: &str) -> BTreeMap<String, u64> {
    let rows = listed(from, "certificates");
    newest(
        rows.iter().filter(|row| row["profile"] == profile),
        "holder",
    )
}

/// When each server's authority ends.
#[track_caller]
fn authorities(from: &Host) -> BTreeMap<String, u64> {
    let rows = listed(from, "intermediates");
    newest(rows.iter().filter(|row| row["state"] == "current"), "node")
}

fn newest<'a>(rows: impl Iterator<Item = &'a Value>, whose: &str) -> BTreeMap<String, u64> {
    let mut ends = BTreeMap::new();
    for row in rows {
        let end = ends.entry(text(row, whose)).or_default();
        *end = row["not_after_ms"].as_u64().unwrap_or_default().max(*end);
    }
    ends
}

/// Whether every one of these has a later one now.
fn all_later(now: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>) -> bool {
    (before.iter()).all(|(name, end)| now.get(name).is_some_and(|now| now > end))
}

/// The fingerprints of the roots that are trusted.
#[track_caller]
fn roots(from: &Host) -> Vec<String> {
    let rows = listed(from, "roots");
    rows.iter().map(|row| text(row, "fingerprint")).collect()
}

/// How often a node has lost its last connection to another, or cut one, so far. Of several
/// connections between two nodes the surplus is closed in its own time.
fn lost_connections(mesh: &Mesh) -> usize {
    let lost = |line: &&str| {
        line.contains("cutting a connection")
            || line.contains("connection closed") && line.ends_with("left=0")
    };
    let logs = mesh.nodes.iter().map(|node| node.host.log("shoald"));
    logs.map(|log| log.lines().filter(lost).count()).sum()
}

/// Makes the daemons look at the clock now instead of within a minute.
#[track_caller]
fn nudge(from: &Host) {
    wait_until(SOON, "a write is agreed", || {
        from.shoal(&["node", "label", "s1", "nudge=x"]).success()
            && from.shoal(&["node", "label", "s1", "nudge=y"]).success()
    });
}

/// Waits until a node says all of this of itself.
#[track_caller]
fn wait_until_told(host: &Host, parts: &[&str]) {
    let what = format!("{} knows {parts:?}", host.name());
    host.wait_for_status(LATER, &what, |status| {
        let conditions = status["conditions"].to_string();
        parts.iter().all(|part| conditions.contains(part))
    });
}

/// Waits until every node sees every other one.
#[track_caller]
fn wait_until_whole(mesh: &Mesh) {
    for node in &mesh.nodes {
        node.host
            .wait_for_status(LATER, "everyone sees everyone", |status| {
                status["reachable"] == mesh.nodes.len() && status["leader"].is_string()
            });
    }
}

/// Checks that a revocation is in force on that many nodes, and says how long it took.
#[track_caller]
fn assert_enforced(what: &str, answer: &Value, nodes: u64) {
    let told = &answer["enforcement"];
    assert_eq!(told["nodes"], nodes, "{answer}");
    assert_eq!(told["enforced"], nodes, "{answer}");
    let last_ms = told["last_ms"].as_u64().expect("the last one has a time");
    say(&format!(
        "{what}: in force on {nodes} nodes after {last_ms} ms"
    ));
    assert!(last_ms <= ENFORCED_WITHIN_MS, "{answer}");
}

/// A figure for whoever reads the test's output.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
