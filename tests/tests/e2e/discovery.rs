//! Members found without their addresses: on the local network, and at configured seeds.

use std::time::Duration;

use shoal_tests::{Host, Lab, Mesh, Node, wait_until};

/// A restart, a discovery and a handshake, on a machine that builds at the same time.
const SOON: Duration = Duration::from_secs(60);

/// A token whose addresses are dead: whoever made it has moved since.
#[track_caller]
fn outdated_token(mesh: &mut Mesh, moved_to: &str) -> String {
    let token = mesh.token("outdated.token", &["--role", "agent"]);
    let first = mesh.node_mut("s1");
    first.host.shoal(&["status"]).ok();
    first.daemon.stop();
    first.daemon = first.host.daemon(&["--listen", moved_to]);
    token
}

fn join(host: &Host, token: &str) {
    host.shoal(&["join", "--token-file", token]).ok();
}

#[test]
fn a_machine_joins_by_mdns_when_no_address_of_its_token_answers() {
    let Some(lab) = Lab::for_test("mdns-join") else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 1, 0);
    let moved_to = format!("{}:7555", mesh.node("s1").host.ipv4());
    let token = outdated_token(&mut mesh, &moved_to);
    let host = lab.host("a1");
    let daemon = host.daemon(&[]);
    join(&host, &token);
    mesh.nodes.push(Node { host, daemon });
    mesh.wait_until_settled(1);
    assert!(
        mesh.node("a1")
            .host
            .log("shoald")
            .contains("looked for members on the local network")
    );
}

#[test]
fn a_machine_without_mdns_is_told_that_nobody_answers_and_joins_by_a_seed() {
    let Some(lab) = Lab::for_test("seed-join") else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 1, 0);
    let moved_to = format!("{}:7555", mesh.node("s1").host.ipv4());
    let token = outdated_token(&mut mesh, &moved_to);
    let host = lab.host("a1");
    let daemon = host.daemon(&["--mdns", "false"]);
    let refusal = host.shoal_refused(&["join", "--token-file", &token]);
    assert_eq!(refusal["code"], "EnrolNoAnswerError", "{refusal}");
    daemon.stop();
    let daemon = host.daemon(&["--mdns", "false", "--seed", &moved_to]);
    join(&host, &token);
    mesh.nodes.push(Node { host, daemon });
    mesh.wait_until_settled(1);
}

#[test]
fn a_node_probes_another_when_it_is_asked_to() {
    let Some(lab) = Lab::for_test("node-ping") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 2);
    let asker = &mesh.node("s1").host;
    let ping = || asker.shoal(&["node", "ping", "a1", "a2", "--json"]);
    let answer = ping().ok().json();
    assert_eq!(answer["answered"], true, "{answer}");
    assert_eq!(answer["path"], "direct", "{answer}");
    assert!(
        answer["rtt_us"].as_u64().is_some_and(|rtt| rtt > 0),
        "{answer}"
    );
    mesh.node("a2").host.power_off();
    wait_until(SOON, "a1 says that a2 does not answer", || {
        let answer = ping();
        !answer.success() && answer.json()["answered"] == false
    });
}
