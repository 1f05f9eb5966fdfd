//! A node is emptied and lets work come again: what it holds moves, what runs stops in order and
//! comes back, whoever waits is told for what, and nothing that shoal does is told as a drift.

use std::time::Duration;

use serde_json::Value;
use shoal_tests::{Host, IMAGE, Lab, Mesh, Micros, SOCKET, image_tar, text, wait_until};

use crate::vip::{SOON, Watched, candidate};

/// dockerd itself takes one to three seconds here, a container that does not heed ten.
const PROVISIONED: Duration = Duration::from_secs(60);
/// Where the image's archive lies for hosts.
const TAR: &str = "/run/lab/files/image.tar";

/// How far a drain is.
#[track_caller]
fn drain_of(host: &Host, node: &str) -> Value {
    let url = format!("http://shoal/v1/nodes/{node}/drain");
    let asked = host.run(&["curl", "-sS", "--unix-socket", SOCKET, &url]);
    asked.ok().json()
}

#[track_caller]
pub(crate) fn wait_for_drain(host: &Host, node: &str, state: &str, reason: &str) -> Value {
    let mut drain = Value::Null;
    wait_until(SOON, &format!("{node} is {state}: {reason}"), || {
        drain = drain_of(host, node);
        let said = drain["reason"].as_str().unwrap_or_default();
        drain["state"] == state && said.contains(reason)
    });
    drain
}

/// The kinds of what happened to a node, oldest first.
#[track_caller]
fn kinds_of(host: &Host, node: &str, prefix: &str) -> Vec<String> {
    let command = ["events", "--json", "--kind-prefix", prefix];
    let rows = host.shoal(&command).ok().json_rows();
    let own = rows.iter().filter(|row| row["node"] == node);
    own.map(|row| text(row, "kind")).collect()
}

#[test]
fn a_virtual_ip_leaves_a_node_that_is_drained_and_returns_only_when_it_is_told_to() {
    let Some(lab) = Lab::for_test("drain-vip") else {
        return;
    };
    let mut web = Watched::new(Mesh::new(&lab, 3, 1), "a1", "s1,s2,s3", "safe");
    let calm = web.host("a1");
    is_kept_where_only_new_work_is_kept_away(&mut web);

    let before = web.wait_until_served(None);
    let first = text(&before, "holder");
    web.moves_from("drained", &before, None, |_, holder| {
        calm.patient().shoal(&["node", "drain", holder]).ok();
    });
    assert_eq!(calm.node_row(&first)["state"], "drained");
    assert_eq!(candidate(&calm, &first)["reason"], "draining");
    let told = kinds_of(&calm, &first, "node.drain");
    assert_eq!(told[told.len() - 2..], ["node.draining", "node.drained"]);

    let before = web.wait_until_served(None);
    let second = text(&before, "holder");
    web.moves_from("drained as well", &before, None, |_, holder| {
        calm.patient().shoal(&["node", "drain", holder]).ok();
    });
    let last = stays_where_nobody_else_can_take_it(&mut web);
    goes_on_where_it_was_when_its_daemon_was_killed(&mut web, &last, &second);

    // Nobody asked for it to go back.
    let held = web.wait_until_served(None);
    for name in [&first, &last] {
        calm.shoal(&["node", "uncordon", name]).ok();
        web.wait_until_fit(name, true);
        assert_eq!(calm.node_row(name)["state"], "running");
    }
    let refused = calm.shoal_refused(&["node", "uncordon", &first]);
    assert_eq!(refused["code"], "NotDrainedError", "{refused}");
    assert_eq!(web.wait_until_served(None)["holder"], held["holder"]);
    web.judge("drain");
}

#[track_caller]
fn is_kept_where_only_new_work_is_kept_away(web: &mut Watched) {
    let calm = web.host("a1");
    let before = web.wait_until_served(None);
    let holder = text(&before, "holder");
    for name in ["s1", "s2", "s3"] {
        calm.shoal(&["node", "drain", name, "--cordon-only"]).ok();
    }
    for name in ["s1", "s2", "s3"] {
        let row = candidate(&calm, name);
        assert_eq!(row["fit"], *name == *holder, "{row}");
        assert_eq!(calm.node_row(name)["state"], "running");
    }
    let refused = calm.shoal_refused(&["vip", "failover", "web"]);
    assert_eq!(refused["code"], "VirtualIpNoCandidateError", "{refused}");
    let after = web.wait_until_served(None);
    assert_eq!(
        (&after["holder"], &after["epoch"]),
        (&before["holder"], &before["epoch"])
    );
    for name in ["s1", "s2", "s3"] {
        calm.shoal(&["node", "uncordon", name]).ok();
        web.wait_until_fit(name, true);
    }
}

/// Returns who has it.
#[track_caller]
fn stays_where_nobody_else_can_take_it(web: &mut Watched) -> String {
    let calm = web.host("a1");
    let before = web.wait_until_served(None);
    let last = text(&before, "holder");
    let from = Micros::now();
    let refused = calm.shoal_refused(&["node", "drain", &last, "--timeout", "3s"]);
    assert_eq!(refused["code"], "DrainFailedError", "{refused}");
    let why = text(&refused, "message");
    for words in [
        "virtual IP web, which no other candidate can take",
        "draining",
    ] {
        assert!(why.contains(words), "{why}");
    }
    let after = web.wait_until_served(None);
    assert_eq!(after["holder"], before["holder"], "{after}");
    web.report("nobody else could take it", None, from);
    assert_eq!(drain_of(&calm, &last)["state"], "failed");
    last
}

/// A drain that waits ends when what it waits for comes, also under another daemon.
#[track_caller]
fn goes_on_where_it_was_when_its_daemon_was_killed(web: &mut Watched, last: &str, freed: &str) {
    let calm = web.host("a1");
    calm.shoal(&["node", "drain", last, "--no-wait"]).ok();
    wait_for_drain(&calm, last, "draining", "virtual IP web");
    web.mesh.node(last).daemon.kill9();
    web.mesh.node_mut(last).restart_daemon();
    wait_for_drain(&calm, last, "draining", "virtual IP web");
    calm.shoal(&["node", "uncordon", freed]).ok();
    wait_for_drain(&calm, last, "drained", "");
    assert_eq!(web.wait_until_served(None)["holder"], *freed);
}

/// What a container is to do when it is to run until it is told to stop.
const HEEDS: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";
/// The same, but it does not heed, and so takes all the time that it has.
const HEEDS_NOT: &str = "trap '' TERM; while :; do sleep 1; done";

#[track_caller]
fn run(from: &Host, name: &str, restart: &str, script: &str) {
    let what = ["docker", "run", "a1", IMAGE, "--name", name];
    let how = ["--restart", restart, "--", "sh", "-c", script];
    from.shoal(&[what.as_slice(), &how].concat()).ok();
}

#[track_caller]
fn provision(lab: &Lab, server: &Host) {
    server
        .shoal(&["module", "assign", "a1", "docker-engine"])
        .ok();
    wait_until_docker(server, "connected");
    image_tar(&lab.files().join("image.tar"));
    server
        .shoal(&["docker", "import", "a1", "--file", TAR, "--tag", IMAGE])
        .ok();
}

#[track_caller]
fn wait_until_docker(server: &Host, status: &str) {
    wait_until(PROVISIONED, &format!("the Docker host is {status}"), || {
        server
            .docker_row("a1")
            .is_some_and(|row| row["status"] == status)
    });
}

/// The states of the containers, by the order of their names.
#[track_caller]
fn states(server: &Host) -> Vec<(String, String)> {
    let listed = server.shoal(&["docker", "ps", "a1", "--json"]);
    let mut states: Vec<_> = (listed.ok().json_rows().iter())
        .map(|row| (text(row, "name"), text(row, "state")))
        .collect();
    states.sort();
    states
}

fn dockerds(host: &Host) -> String {
    let found = host.run(&["pgrep", "--exact", "dockerd"]);
    found.text().to_owned()
}

#[test]
fn a_docker_host_is_emptied_in_order_and_comes_back_with_what_ran_there() {
    let Some(lab) = Lab::for_test("drain-docker") else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 1, 1);
    let server = mesh.node("s1").host.clone();
    let host = mesh.node("a1").host.clone();
    provision(&lab, &server);
    for (name, restart) in [
        ("job", "no"),
        ("cache", "unless-stopped"),
        ("db", "always"),
        ("web", "always"),
    ] {
        run(&server, name, restart, HEEDS);
    }

    let drained = server.patient().shoal(&["node", "drain", "a1"]).ok();
    assert_eq!(drained.text().lines().last(), Some("a1 is empty"));
    assert_eq!(dockerds(&host), "");
    let row = server.docker_row("a1").expect("the row is kept");
    assert_eq!(
        (&row["status"], &row["phase"]),
        (&"disconnected".into(), &"drained".into()),
        "{row}"
    );
    assert_eq!(server.node_row("a1")["state"], "drained");
    let refused = server.shoal_refused(&["docker", "run", "a1", IMAGE]);
    assert_eq!(refused["code"], "NodeDrainedError", "{refused}");
    let told = kinds_of(&server, "a1", "");
    for kind in ["node.draining", "system.docker.stopped", "node.drained"] {
        assert!(told.iter().any(|told| told == kind), "{kind}: {told:?}");
    }

    // Another daemon finds it emptied, and leaves it so.
    mesh.node("a1").daemon.kill9();
    mesh.node_mut("a1").restart_daemon();
    mesh.wait_until_settled(1);
    assert_eq!(dockerds(&host), "");
    assert_eq!(drain_of(&server, "a1")["state"], "drained");

    server.shoal(&["node", "uncordon", "a1"]).ok();
    wait_until_docker(&server, "connected");
    let expected = [
        ("cache", "running"),
        ("db", "running"),
        ("job", "exited"),
        ("web", "running"),
    ];
    let expected = expected.map(|(name, state)| (name.to_owned(), state.to_owned()));
    wait_until(SOON, "what Docker keeps running is back", || {
        states(&server) == expected
    });
    stopped_first(&host, &["web", "db"], &["cache", "job"]);
    what_shoal_changed_for_the_rest_is_no_drift(&server);
}

/// What Docker itself keeps running stopped before everything else. Docker tells when a container was
/// made to the second only, so there is no other order to be seen.
#[track_caller]
fn stopped_first(host: &Host, first: &[&str], then: &[&str]) {
    let ends = |names: &[&str]| -> Vec<String> {
        let format = "{{.State.FinishedAt}}";
        let shown = names
            .iter()
            .map(|name| host.run(&["docker", "inspect", "-f", format, name]).ok());
        shown.map(|shown| shown.text().to_owned()).collect()
    };
    let (first, then) = (ends(first), ends(then));
    assert!(
        first.iter().max() < then.iter().min(),
        "{first:?}, {then:?}"
    );
}

/// One daemon sees dockerd's configuration right, changes it so that dockerd stops its containers, and finds it
/// so afterwards.
#[track_caller]
fn what_shoal_changed_for_the_rest_is_no_drift(server: &Host) {
    server.patient().shoal(&["node", "drain", "a1"]).ok();
    server.shoal(&["node", "uncordon", "a1"]).ok();
    wait_until_docker(server, "connected");
    no_drift_was_told(server);
}

/// Nobody else is said to have changed Docker's files. To be asked when the host is connected: what a node finds
/// changed it tells before that.
#[track_caller]
fn no_drift_was_told(from: &Host) {
    let drifts = ["events", "--json", "--kind-prefix", "module.drift_detected"];
    let told = from.shoal(&drifts).ok().json_rows();
    assert!(told.is_empty(), "{told:?}");
}

#[test]
fn a_drain_of_a_docker_host_tells_what_it_waits_for_and_survives_its_daemon() {
    let Some(lab) = Lab::for_test("drain-stall") else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 1, 1);
    let server = mesh.node("s1").host.clone();
    let host = mesh.node("a1").host.clone();
    provision(&lab, &server);
    run(&server, "web", "always", HEEDS);

    server.shoal(&["node", "drain", "a1", "--cordon-only"]).ok();
    let refused = server.shoal_refused(&["docker", "run", "a1", IMAGE]);
    assert_eq!(refused["code"], "NodeDrainedError", "{refused}");
    assert_eq!(states(&server), [("web".to_owned(), "running".to_owned())]);
    server.shoal(&["node", "uncordon", "a1"]).ok();
    run(&server, "deaf", "always", HEEDS_NOT);

    // It has ten seconds to end, and takes them.
    let refused = server.shoal_refused(&["node", "drain", "a1", "--timeout", "8s"]);
    assert_eq!(refused["code"], "DrainFailedError", "{refused}");
    let why = text(&refused, "message");
    assert!(
        why.contains("after 8 s it still waits for container deaf to stop"),
        "{why}"
    );
    assert_ne!(dockerds(&host), "");
    let failed = kinds_of(&server, "a1", "node.drain_failed");
    assert_eq!(failed.len(), 1, "{failed:?}");

    // Its time was up: nothing more was stopped.
    let web = ("web".to_owned(), "running".to_owned());
    assert!(states(&server).contains(&web));
    wait_until(SOON, "Docker has ended it by itself", || {
        states(&server).contains(&("deaf".to_owned(), "exited".to_owned()))
    });
    host.run(&["docker", "start", "deaf"]).ok();

    server.shoal(&["node", "drain", "a1", "--no-wait"]).ok();
    wait_for_drain(&server, "a1", "draining", "container deaf to stop");
    mesh.node("a1").daemon.kill9();
    mesh.node_mut("a1").restart_daemon();
    wait_for_drain(&server, "a1", "drained", "");
    assert_eq!(dockerds(&host), "");
    server.shoal(&["node", "uncordon", "a1"]).ok();
    wait_until_docker(&server, "connected");
    let all = [
        ("deaf".to_owned(), "running".to_owned()),
        ("web".to_owned(), "running".to_owned()),
    ];
    wait_until(SOON, "both are back", || states(&server) == all);
    no_drift_was_told(&server);
}

#[test]
fn a_drain_of_a_dead_node_is_not_waited_for_for_ever() {
    let Some(lab) = Lab::for_test("drain-dead") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 1);
    let server = mesh.node("s1").host.clone();
    mesh.node("a1").host.power_off();
    let refused = server.shoal_refused(&["node", "drain", "a1", "--timeout", "1s"]);
    assert_eq!(refused["code"], "DrainUnansweredError", "{refused}");
    assert!(text(&refused, "hint").contains("shoal node remove a1"));
}
