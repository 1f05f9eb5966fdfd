//! A mesh forms, keeps its word while machines die, and takes commands anywhere.

use std::{collections::BTreeSet, time::Duration};

use shoal_tests::{Lab, Mesh, text, wait_until};

/// Longer than an election or a reconnection takes on a busy machine.
const SOON: Duration = Duration::from_secs(20);
/// Suspicion takes its time on purpose.
const NOTICED: Duration = Duration::from_secs(45);

#[test]
fn a_mesh_forms_outlives_its_leader_and_any_server_and_without_a_majority_still_answers_reads() {
    let Some(lab) = Lab::for_test("mesh-outlives") else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 3, 1);
    is_one_for_three_servers_and_an_agent(&mesh);
    outlives_its_leader_and_takes_it_back(&mut mesh);
    outlives_any_one_of_its_servers_in_turn(&mut mesh);
    finds_its_agent_another_server(&mesh);
    reads_without_a_majority_and_says_who_is_missing_to_writes(&mut mesh);
}

#[track_caller]
fn is_one_for_three_servers_and_an_agent(mesh: &Mesh) {
    let mut mesh_ids = BTreeSet::new();
    for node in &mesh.nodes {
        let status = node.host.shoal_json(&["status"]);
        mesh_ids.insert(text(&status, "mesh_id"));
        assert_eq!(status["node"], node.name());
        let agent = node.name() == "a1";
        assert_eq!(status["role"], if agent { "agent" } else { "server" });
        assert!(status["raft_index"].as_u64() > Some(0), "{status}");
        let rows = node.host.shoal(&["node", "ls", "--json"]).ok().json_rows();
        let names: Vec<_> = rows.iter().map(|row| text(row, "name")).collect();
        assert_eq!(BTreeSet::from_iter(names), names_of(mesh));
        for row in rows {
            assert_eq!(row["silent"], false, "{row}");
            for key in [
                "id",
                "role",
                "state",
                "labels",
                "overlay_ipv6",
                "overlay_ipv4",
            ] {
                assert!(!row[key].is_null(), "{key} is missing in {row}");
            }
            assert!(row.get("last_seen_ms").is_some(), "{row}");
        }
    }
    assert_eq!(mesh_ids.len(), 1);
    for other in ["s1", "s2", "s3"] {
        wait_until(SOON, "a1 has heard of everyone and all run", || {
            let row = mesh.node("a1").host.node_row(other);
            row["last_seen_ms"].is_u64() && row["state"] == "running"
        });
    }
}

#[track_caller]
fn outlives_its_leader_and_takes_it_back(mesh: &mut Mesh) {
    let old = mesh.leader_seen_by("a1");
    mesh.node(&old).daemon.kill9();
    let agent = mesh.node("a1").host.clone();
    wait_until(SOON, "the agent's command reaches a new leader", || {
        agent
            .shoal(&["node", "label", "a1", "after=kill"])
            .success()
    });
    agent.wait_for_status(SOON, "the agent knows of the new leader", |status| {
        status["leader"].as_str().is_some_and(|new| new != old)
    });
    mesh.node_mut(&old).restart_daemon();
    mesh.wait_until_settled(3);
    let host = mesh.node(&old).host.clone();
    wait_until(SOON, "the returned server has what was decided", || {
        host.node_row("a1")["labels"]["after"] == "kill"
    });
}

#[track_caller]
fn outlives_any_one_of_its_servers_in_turn(mesh: &mut Mesh) {
    for victim in ["s1", "s2", "s3"] {
        let asked = if victim == "s1" { "s2" } else { "s1" };
        mesh.node(victim).daemon.kill9();
        let host = mesh.node(asked).host.clone();
        let label = format!("without={victim}");
        wait_until(SOON, "two of three still decide", || {
            host.shoal(&["node", "label", asked, &label]).success()
        });
        mesh.node_mut(victim).restart_daemon();
        mesh.wait_until_settled(3);
        let host = mesh.node(victim).host.clone();
        wait_until(SOON, "the returned server has what was decided", || {
            host.node_row(asked)["labels"]["without"] == victim
        });
    }
}

#[track_caller]
fn finds_its_agent_another_server(mesh: &Mesh) {
    let agent = mesh.node("a1").host.clone();
    // Whichever server feeds it: after two rounds each of two servers has been away once.
    for victim in ["s1", "s2"] {
        mesh.node(victim).host.cut();
        let label = format!("without={victim}");
        wait_until(SOON, "the agent's command is carried out", || {
            agent.shoal(&["node", "label", "a1", &label]).success()
        });
        wait_until(SOON, "the agent is told of it", || {
            agent.node_row("a1")["labels"]["without"] == victim
        });
        mesh.node(victim).host.heal();
        mesh.wait_until_settled(3);
    }
}

#[track_caller]
fn reads_without_a_majority_and_says_who_is_missing_to_writes(mesh: &mut Mesh) {
    mesh.node("s2").daemon.kill9();
    mesh.node("s3").daemon.kill9();
    let host = mesh.node("s1").host.clone();
    let rows = host.shoal(&["node", "ls", "--json"]).ok().json_rows();
    assert_eq!(rows.len(), mesh.nodes.len());
    let refusal = host.shoal_refused(&["node", "label", "s1", "a=b"]);
    assert_eq!(refusal["code"], "NoMajorityError", "{refusal}");
    mesh.node_mut("s2").restart_daemon();
    wait_until(SOON, "with a majority writes work again", || {
        host.shoal(&["node", "label", "s1", "a=b"]).success()
    });
}

#[test]
fn an_agent_that_dies_is_silent_one_that_is_promoted_votes_and_one_that_is_removed_stays_out() {
    let Some(lab) = Lab::for_test("mesh-agent") else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 3, 1);
    is_silent_while_it_is_dead_and_no_longer(&mut mesh);
    becomes_a_server_and_an_agent_again(&mesh);
    is_gone_and_stays_out_once_removed(&mesh);
}

#[track_caller]
fn is_silent_while_it_is_dead_and_no_longer(mesh: &mut Mesh) {
    let host = mesh.node("s1").host.clone();
    wait_until(SOON, "the agent runs", || {
        host.node_row("a1")["state"] == "running"
    });
    mesh.node("a1").daemon.kill9();
    for server in ["s1", "s2", "s3"] {
        let host = mesh.node(server).host.clone();
        wait_until(NOTICED, "the dead agent is silent", || {
            host.node_row("a1")["silent"] == true
        });
        assert_eq!(
            host.node_row("a1")["state"],
            "running",
            "silence changes no state"
        );
    }
    mesh.node_mut("a1").restart_daemon();
    for server in ["s1", "s2", "s3"] {
        let host = mesh.node(server).host.clone();
        wait_until(NOTICED, "the returned agent is not silent", || {
            host.node_row("a1")["silent"] == false
        });
    }
    let kinds = kinds(mesh, "node.");
    for kind in ["node.joined", "node.silent", "node.recovered"] {
        assert!(kinds.contains(kind), "{kind} is missing in {kinds:?}");
    }
}

#[track_caller]
fn becomes_a_server_and_an_agent_again(mesh: &Mesh) {
    let host = mesh.node("s1").host.clone();
    host.shoal(&["node", "promote", "a1"]).ok();
    wait_until(SOON, "there are four voters", || {
        host.shoal_json(&["status"])["voters"]
            .as_array()
            .map(Vec::len)
            == Some(4)
    });
    host.shoal(&["node", "demote", "a1"]).ok();
    wait_until(SOON, "there are three voters", || {
        host.shoal_json(&["status"])["voters"]
            .as_array()
            .map(Vec::len)
            == Some(3)
    });
    let agent = mesh.node("a1").host.clone();
    wait_until(SOON, "the agent still takes commands", || {
        agent
            .shoal(&["node", "label", "a1", "role=again"])
            .success()
    });
}

#[track_caller]
fn is_gone_and_stays_out_once_removed(mesh: &Mesh) {
    let host = mesh.node("s1").host.clone();
    let [ipv6, _] = mesh.node("a1").overlay();
    wait_until(SOON, "the overlay is up", || host.pings(&ipv6));
    host.shoal(&["node", "remove", "a1", "--yes"]).ok();
    for server in ["s1", "s2", "s3"] {
        let host = mesh.node(server).host.clone();
        wait_until(SOON, "the node's row is gone everywhere", || {
            let rows = host.shoal(&["node", "ls", "--json"]).ok().json_rows();
            rows.iter().all(|row| row["name"] != "a1")
        });
        wait_until(SOON, "nobody hears the removed node", || !host.pings(&ipv6));
    }
    assert!(kinds(mesh, "node.").contains("node.removed"));
}

#[test]
fn events_are_followed_two_servers_are_warned_of_and_one_of_them_can_be_removed() {
    let Some(lab) = Lab::for_test("mesh-two") else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 1, 0);
    has_its_events_followed_as_they_happen(&lab, &mut mesh);
    warns_of_two_servers(&mesh);
    lets_one_of_two_servers_be_removed(&mesh);
}

#[track_caller]
fn has_its_events_followed_as_they_happen(lab: &Lab, mesh: &mut Mesh) {
    let script = "shoal events --follow --json --kind-prefix node. > /tmp/events";
    let follower = mesh.node("s1").host.spawn(&["bash", "-c", script]);
    mesh.add(lab, "a1", "agent");
    let path = mesh.node("s1").host.disk("/tmp/events");
    wait_until(SOON, "the follower has seen a1 join", || {
        assert!(follower.is_running());
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        (text.lines()).any(|line| line.contains("node.joined") && line.contains("\"a1\""))
    });
    let rows = (mesh.node("a1").host)
        .shoal(&["events", "--json"])
        .ok()
        .json_rows();
    for row in rows {
        for key in ["index", "time", "kind", "payload"] {
            assert!(!row[key].is_null(), "{key} is missing in {row}");
        }
    }
}

#[track_caller]
fn warns_of_two_servers(mesh: &Mesh) {
    let output = (mesh.node("s1").host)
        .shoal(&["node", "promote", "a1", "--json"])
        .ok();
    let warnings = output.json()["warnings"].to_string();
    assert!(warnings.contains("two servers"), "{output}");
}

#[track_caller]
fn lets_one_of_two_servers_be_removed(mesh: &Mesh) {
    mesh.wait_until_settled(2);
    let stays = mesh.node("s1").host.clone();
    stays.shoal(&["node", "remove", "a1", "--yes"]).ok();
    // Its own vote is needed for its removal, so it must not be cut off before.
    stays.wait_for_status(SOON, "one server is left", |status| {
        status["voters"]
            .as_array()
            .is_some_and(|all| all.len() == 1)
    });
    stays.shoal(&["node", "label", "s1", "alone=yes"]).ok();
}

fn names_of(mesh: &Mesh) -> BTreeSet<String> {
    (mesh.nodes.iter().map(|node| node.name().to_owned())).collect()
}

fn kinds(mesh: &Mesh, prefix: &str) -> BTreeSet<String> {
    let command = ["events", "--json", "--kind-prefix", prefix];
    let rows = mesh.node("s1").host.shoal(&command).ok().json_rows();
    let kinds: BTreeSet<String> = rows.iter().map(|row| text(row, "kind")).collect();
    assert!(kinds.iter().all(|kind| kind.starts_with(prefix)));
    kinds
}
