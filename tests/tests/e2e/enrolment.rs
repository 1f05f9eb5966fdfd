//! Who may become a member, and that a refusal changes nothing.

use std::{collections::BTreeSet, fs, time::Duration};

use shoal_tests::{Host, Lab, Mesh, Node, text, wait_until};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_stranger_is_refused() {
    let Some(lab) = Lab::for_test("stranger") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 0);
    let stranger = Node::new(&lab, "n2");
    let token = mesh.token("real", &[]);
    // The right mesh and the right root, but a secret that the mesh never gave out.
    let real = fs::read_to_string(lab.files().join("real")).expect("the token was written");
    fs::write(lab.files().join("forged"), forged(&real)).expect("the lab's files are writable");
    let code = refused_join(&mesh, &stranger.host, "/run/lab/files/forged");
    let codes = [
        "BootstrapTokenUnknownError",
        "BootstrapTokenInvalidError",
        "BootstrapTokenMalformedError",
    ];
    assert!(codes.contains(&code.as_str()), "{code}");
    stranger.host.shoal(&["join", "--token-file", &token]).ok();
}

#[test]
fn an_expired_token_is_refused() {
    let Some(lab) = Lab::for_test("expired") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 0);
    let late = Node::new(&lab, "n2");
    let created = mesh.nodes[0]
        .host
        .shoal_json(&["token", "create", "--ttl", "1s"]);
    fs::write(lab.files().join("late"), text(&created, "token")).expect("writable");
    let expires = text(&created, "expires");
    let over = format!("[ $(date +%s%N) -gt $(date -d '{expires}' +%s%N) ]");
    wait_until(SOON, "the token's time is over", || {
        late.host.sh(&over).success()
    });
    let code = refused_join(&mesh, &late.host, "/run/lab/files/late");
    assert_eq!(code, "BootstrapTokenExpiredError");
}

#[test]
fn a_used_token_is_refused_unless_it_is_reusable() {
    let Some(lab) = Lab::for_test("used") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 0);
    let (second, third) = (Node::new(&lab, "n2"), Node::new(&lab, "n3"));
    let token = mesh.token("once", &[]);
    second.host.shoal(&["join", "--token-file", &token]).ok();
    let code = refused_join(&mesh, &third.host, &token);
    assert_eq!(code, "BootstrapTokenUsedError");

    let fourth = Node::new(&lab, "n4");
    let token = mesh.token("often", &["--reusable"]);
    third.host.shoal(&["join", "--token-file", &token]).ok();
    fourth.host.shoal(&["join", "--token-file", &token]).ok();
}

#[test]
fn a_token_of_another_mesh_is_refused() {
    let Some(lab) = Lab::for_test("wrong-mesh") else {
        return;
    };
    let mut first = Node::new(&lab, "s1");
    first.host.shoal(&["init", "--name", "old"]).ok();
    first
        .host
        .shoal(&["token", "create", "--out", "/run/lab/files/old"])
        .ok();
    // The same address, but another mesh by now.
    first.daemon.stop();
    first.host.power_off();
    fs::remove_dir_all(first.host.disk("/var/lib/shoal")).expect("the old mesh can be deleted");
    first.host.power_on();
    first.restart_daemon();
    first.host.shoal(&["init", "--name", "new"]).ok();
    let mesh = Mesh { nodes: vec![first] };
    let joiner = Node::new(&lab, "n2");
    let code = refused_join(&mesh, &joiner.host, "/run/lab/files/old");
    assert!(code.starts_with("EnrolWrong"), "{code}");
}

#[test]
fn a_member_joins_no_second_mesh_and_makes_none() {
    let Some(lab) = Lab::for_test("member") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 1);
    let token = mesh.token("again", &[]);
    let before = mesh.node("a1").host.shoal_json(&["status"])["mesh_id"].clone();
    for command in [
        ["join", "--token-file", &token],
        ["init", "--name", "other"],
    ] {
        mesh.node("a1").host.shoal_refused(&command);
    }
    let after = mesh.node("a1").host.shoal_json(&["status"])["mesh_id"].clone();
    assert_eq!(before, after);
}

#[test]
fn a_failed_join_does_not_use_the_token_up() {
    let Some(lab) = Lab::for_test("retry") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 0);
    let token = mesh.token("token", &[]);
    let host = lab.host("n2");
    let namesake = host.daemon(&["--name", "s1"]);
    let code = refused_join(&mesh, &host, &token);
    assert!(code.contains("Name"), "{code}");
    namesake.stop();
    host.daemon(&[]);
    host.shoal(&["join", "--token-file", &token]).ok();
}

#[test]
fn the_printed_command_and_file_are_all_a_joiner_needs() {
    let Some(lab) = Lab::for_test("printed") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 0);
    let created = (mesh.nodes[0].host).shoal_json(&["token", "create", "--role", "server"]);
    assert_eq!(created["role"], "server");
    assert!(text(&created, "join_command").contains("--token-file"));
    let out = mesh.token("token", &[]);
    let mode = mesh.nodes[0].host.run(&["stat", "-c", "%a", &out]).ok();
    assert_eq!(mode.text(), "600", "a token is a secret");
    let command = text(&created, "join_command");
    assert!(
        !command.contains(&text(&created, "token")),
        "a secret in a command line is seen by everyone on the machine"
    );
}

/// Tries to join and returns the code of the refusal; checks that neither side changed.
#[track_caller]
fn refused_join(mesh: &Mesh, joiner: &Host, token_file: &str) -> String {
    let before = members(mesh);
    let refusal = joiner.shoal_refused(&["join", "--token-file", token_file]);
    assert_eq!(members(mesh), before, "a refused join changed the mesh");
    let status = joiner.shoal_json(&["status"]);
    assert!(status["mesh_id"].is_null(), "{status}");
    text(&refusal, "code")
}

fn members(mesh: &Mesh) -> BTreeSet<String> {
    let rows = mesh.nodes[0].host.shoal(&["node", "ls", "--json"]).ok();
    rows.json_rows()
        .iter()
        .map(|row| text(row, "name"))
        .collect()
}

/// The token with one character of its secret's middle changed.
fn forged(token: &str) -> String {
    let token = token.trim_end();
    let at = token.len() - 12;
    let old = &token[at..=at];
    let new = if old == "a" { "b" } else { "a" };
    format!("{}{new}{}\n", &token[..at], &token[at + 1..])
}
