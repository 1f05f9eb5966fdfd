//! The program as an operator runs it, against a server that answers as a daemon would.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod access;
mod certificates;
mod clusters;
mod fake_daemon;
mod recovery;
mod simulations;
mod terminal;
mod vips;

use std::{
    fs,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use fake_daemon::{Ended, Server, ended, refusal, shoal};

fn changed(_: &str, _: &[u8]) -> (u16, String) {
    let warning = "two servers have no majority to lose";
    (
        200,
        json!({ "raft_index": 7, "warnings": [warning] }).to_string(),
    )
}

/// Every command that asks a daemon and writes no file before it does.
const EVERY_COMMAND: &[&str] = &[
    "init",
    "token create",
    "status",
    "node ls",
    "node show n",
    "node label n a=b",
    "node promote n",
    "node demote n",
    "node rotate-key n",
    "node remove n --yes",
    "token ls",
    "token revoke 1f",
    "ca status",
    "ca rotate --yes",
    "ca revoke --operator alice --yes",
    "operator ls",
    "operator role alice viewer",
    "operator remove alice --yes",
    "recover",
    "network ls",
    "network show default",
    "network attach n default",
    "network detach n default",
    "vip ls",
    "vip show web",
    "vip create web --network default --candidates n",
    "vip candidates web n",
    "vip check web none",
    "vip failover web",
    "vip drill web --kill --yes",
    "vip delete web --yes",
    "access ls",
    "access show ann",
    "access grant ann",
    "access move ann --via n",
    "access suspend ann",
    "access resume ann",
    "access revoke ann",
    "module ls",
    "module assign n docker-engine",
    "module unassign n docker-engine",
    "docker ls",
    "docker provision n",
    "docker decommission n",
    "docker register x ssh://x",
    "docker unregister x",
    "docker ps n",
    "docker images n",
    "docker pull n i",
    "docker run n i",
    "docker logs n c",
    "docker rm n c",
    "docker rmi n i",
    "docker env n",
    "k3s provision n --role server",
    "cluster ls",
    "cluster show prod",
    "cluster nodes prod",
    "cluster kubeconfig prod",
    "cluster snapshot prod",
    "cluster upgrade prod --binary /k3s --version v1",
    "cluster upgrade --binary /k3s --version v1",
    "cluster decommission prod --yes",
    "events",
    "events --follow",
];

#[test]
fn without_a_daemon_every_command_says_so_with_exit_code_3() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("unix://{}/none.sock", directory.path().display());
    for words in EVERY_COMMAND {
        let words: Vec<&str> = words.split(' ').collect();
        let human = ended(shoal(&[&["--connect", &url], &words[..]].concat()));
        assert_eq!(
            (human.code, human.out.as_str()),
            (3, ""),
            "{words:?} {human}"
        );
        assert!(
            human.err.starts_with("Error: no daemon listens on "),
            "{human}"
        );
        assert!(
            human.err.contains("\nHint: start it with `shoal run "),
            "{human}"
        );
        let program = ended(shoal(
            &[&["--connect", &url, "--json"], &words[..]].concat(),
        ));
        assert_eq!(
            (program.code, program.err.as_str()),
            (3, ""),
            "{words:?} {program}"
        );
        let error = program.json();
        assert_eq!(error["code"], "DaemonUnreachableError");
        assert!(
            error["message"].is_string() && error["hint"].is_string(),
            "{error}"
        );
    }
}

#[test]
fn a_wrong_command_line_is_exit_code_2_in_words_or_json() {
    let human = ended(shoal(&["node", "show"]));
    assert_eq!((human.code, human.out.as_str()), (2, ""));
    assert!(human.err.contains("<NODE>"), "{human}");
    for args in [
        &["--json", "node", "show"][..],
        &["--json", "token", "create", "--ttl", "1w"],
        &["--json", "node", "label", "n", "a=1", "a-"],
        &["--json", "node", "show", ""],
        &["--json"],
        &["--json", "ca", "revoke", "--yes"],
        &["--json", "ca", "revoke", "--node", "a", "--operator", "b"],
        &["--json", "ca", "revoke", "--serial", "xyz"],
        &["--json", "operator", "create", "a", "--out", "/tmp/x"],
        &["--json", "operator", "role", "a", "root"],
        &[
            "--json", "operator", "renew", "a", "--out", "/tmp/x", "--days", "91",
        ],
        &[
            "--json", "operator", "renew", "a", "--out", "/tmp/x", "--days", "0",
        ],
        &[
            "--json",
            "backup",
            "create",
            "/tmp/x",
            "--recipient",
            "age1x",
        ],
        &["--json", "backup", "show", "/tmp/x"],
        &["--json", "backup", "restore", "/tmp/x", "--yes"],
        &["--json", "recover", "--confirm", ""],
    ] {
        let program = ended(shoal(args));
        assert_eq!(
            (program.code, program.err.as_str()),
            (2, ""),
            "{args:?} {program}"
        );
        assert_eq!(program.json()["code"], "UsageError", "{program}");
    }
    let endpoint = ended(shoal(&["--json", "--connect", "http://x", "status"]));
    assert_eq!(endpoint.code, 2);
    assert_eq!(endpoint.json()["code"], "EndpointInvalidError");
}

#[test]
fn help_and_version_are_no_errors() {
    for args in [
        &["--help"][..],
        &["--version"],
        &["docker", "run", "--help", "--json"],
    ] {
        let ended = ended(shoal(args));
        assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{ended}");
        assert!(!ended.out.is_empty());
    }
}

#[test]
fn json_is_the_daemons_document_and_words_are_a_table() {
    let server = Server::answering(|_, _| {
        let text = r#"[{"name":"docker-engine","variety":"subscription","assigned_to":[],
            "nodes":["n1"], "later": 1}]"#;
        (200, text)
    });
    let program = server.run(&["--json", "module", "ls"]);
    assert_eq!(program.code, 0, "{program}");
    assert_eq!(program.json()[0]["later"], 1);
    let human = server.run(&["module", "ls"]);
    assert_eq!(
        human.out,
        "MODULE         VARIETY       ASSIGNED TO  NODES\n\
         docker-engine  subscription  -            n1\n"
    );
    assert_eq!((human.code, human.err.as_str()), (0, ""));
    assert_eq!(server.asked(), ["GET /v1/modules ", "GET /v1/modules "]);
}

#[test]
fn a_refusal_is_shown_as_the_daemon_worded_it_with_exit_code_1() {
    let server = Server::answering(|_, _| {
        let error = json!({
            "code": "NodeNotFoundError", "message": "there is no node x\u{1b}", "hint": "see node ls",
            "caused_by": ["behind it"],
        });
        (404, error.to_string())
    });
    let human = server.run(&["node", "show", "x"]);
    assert_eq!((human.code, human.out.as_str()), (1, ""));
    assert_eq!(
        human.err,
        "Error: there is no node x\\u{1b}\nCaused by: behind it\nHint: see node ls\n"
    );
    let program = server.run(&["node", "show", "x", "--json"]);
    assert_eq!((program.code, program.err.as_str()), (1, ""));
    assert_eq!(program.json()["code"], "NodeNotFoundError");
    assert_eq!(server.asked()[0], "GET /v1/nodes/x ");
}

#[test]
fn changes_send_what_was_written_and_show_warnings_beside_the_answer() {
    let server = Server::answering(changed);
    for (line, asked) in [
        (
            "node label n1 zone=a old-",
            r#"POST /v1/nodes/n1/labels {"set":{"zone":"a"},"unset":["old"]}"#,
        ),
        (
            "node promote n1",
            r#"POST /v1/nodes/n1/role {"role":"server","force":false}"#,
        ),
        (
            "node promote n1 --force",
            r#"POST /v1/nodes/n1/role {"role":"server","force":true}"#,
        ),
        (
            "node demote n1",
            r#"POST /v1/nodes/n1/role {"role":"agent","force":false}"#,
        ),
        ("token revoke 1f", "DELETE /v1/tokens/1f "),
        (
            "operator role alice admin",
            r#"POST /v1/operators/alice/role {"role":"admin"}"#,
        ),
        (
            "ca rotate --no-wait --yes --reason stolen",
            r#"POST /v1/ca/rotate {"reason":"stolen"}"#,
        ),
        (
            "network attach n1 default",
            r#"PUT /v1/networks/default/peers/n1 {"hub":false,"lan_subnets":[]}"#,
        ),
        (
            "network detach n1 default",
            "DELETE /v1/networks/default/peers/n1 ",
        ),
        (
            "module assign n1 docker-engine",
            r#"POST /v1/modules/assign {"module":"docker-engine","node":"n1","selector":null}"#,
        ),
        (
            "module unassign --selector zone=a docker-engine",
            r#"POST /v1/modules/unassign {"module":"docker-engine","node":null,"selector":{"zone":"a"}}"#,
        ),
        ("docker provision n1", "POST /v1/docker/hosts/n1/provision "),
        ("docker decommission n1", "DELETE /v1/docker/hosts/n1 "),
        (
            "docker register nas ssh://nas",
            r#"PUT /v1/docker/external/nas {"endpoint":"ssh://nas"}"#,
        ),
        ("docker unregister nas", "DELETE /v1/docker/external/nas "),
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        let human = server.run(&args);
        assert_eq!(human.code, 0, "{line} {human}");
        assert_eq!(human.out.lines().count(), 1, "{line} {human}");
        assert_eq!(
            human.err, "Warning: two servers have no majority to lose\n",
            "{line}"
        );
        assert_eq!(server.asked().last().unwrap(), asked);
        let program = server.run(&[&args[..], &["--json"]].concat());
        assert_eq!(program.json()["raft_index"], 7, "{line}");
        assert_eq!(program.err, "", "{line}");
    }
}

#[test]
fn a_bad_token_file_is_refused_before_any_daemon_is_asked() {
    let server = Server::answering(changed);
    let path = server.directory.path().join("token");
    let file = path.to_str().unwrap();
    let join = |code: &str| {
        let refused = server.run(&["--json", "join", "--token-file", file]);
        assert_eq!(refused.code, 1, "{refused}");
        assert_eq!(refused.json()["code"], code, "{refused}");
    };
    join("TokenFileError");
    for (text, code) in [
        ("", "TokenFileError"),
        (&"x".repeat(10_000), "TokenFileError"),
        ("two words", "BootstrapTokenInvalidError"),
    ] {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        join(code);
    }
    assert!(server.asked().is_empty());
}

#[test]
fn join_sends_the_token_and_labels_and_shows_what_the_machine_became() {
    let server = Server::answering(|_, _| {
        let joined = json!({
            "mesh_id": "00", "mesh": "home", "node": "n2", "role": "agent",
            "overlay_ipv6": "fd00::2", "overlay_ipv4": "100.96.0.2",
            "root_fingerprint": "ab", "root_words": "one two", "warnings": [],
        });
        (200, joined.to_string())
    });
    let path = server.directory.path().join("token");
    fs::write(&path, "shoal1.abc\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let file = path.to_str().unwrap();
    let words = [
        "join",
        "--token-file",
        file,
        "--label",
        "a=1",
        "--lifecycle-class",
        "spot",
    ];
    let human = server.run(&words);
    assert_eq!(human.code, 0, "{human}");
    assert!(human.out.contains("Overlay IPv6:     fd00::2\n"), "{human}");
    assert!(
        human
            .err
            .contains("Warning: others on this machine may read"),
        "{human}"
    );
    assert!(!human.err.contains("shoal1"), "{human}");
    let asked = server.asked();
    let body = asked[0].strip_prefix("POST /v1/join ").unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["token"], "shoal1.abc");
    assert_eq!(body["labels"], json!({ "a": "1" }));
    assert_eq!(body["lifecycle_class"], "spot");
    assert_eq!(
        (&body["network_profile"], &body["tmpfs_store"]),
        (&Value::Null, &Value::Null)
    );
}

fn token(_: &str, _: &[u8]) -> (u16, String) {
    let created = json!({
        "token": "shoal1.secret", "id": "1f", "role": "server", "expires": "2026-01-01T00:00:00Z",
        "join_command": "shoal join --token-file FILE", "root_fingerprint": "ab",
        "root_words": "one two",
    });
    (200, created.to_string())
}

#[test]
fn a_token_alone_goes_to_standard_output() {
    let server = Server::answering(token);
    let human = server.run(&["token", "create", "--role", "server", "--ttl", "15m"]);
    assert_eq!((human.code, human.out.as_str()), (0, "shoal1.secret\n"));
    for part in [
        "shoal join --token-file FILE",
        "one two",
        "2026-01-01T00:00:00Z",
    ] {
        assert!(human.err.contains(part), "{human}");
    }
    assert_eq!(
        server.asked(),
        [r#"POST /v1/tokens {"role":"server","ttl_s":900,"reusable":false}"#]
    );
    let program = server.run(&["token", "create", "--json"]).json();
    for key in ["token", "role", "expires", "join_command"] {
        assert!(program[key].is_string(), "{program}");
    }
}

#[test]
fn a_token_in_a_file_is_nowhere_else() {
    let server = Server::answering(token);
    let path = server.directory.path().join("token");
    let file = path.to_str().unwrap();
    let human = server.run(&["token", "create", "--out", file]);
    assert_eq!(human.code, 0, "{human}");
    assert!(!format!("{human}").contains("secret"), "{human}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "shoal1.secret\n");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);

    let again = server.run(&["--json", "token", "create", "--out", file]);
    assert_eq!(again.code, 1);
    assert_eq!(again.json()["code"], "FileExistsError");
    assert_eq!(server.asked().len(), 1);

    fs::remove_file(&path).unwrap();
    let program = server
        .run(&["--json", "token", "create", "--out", file])
        .json();
    assert_eq!(
        (&program["token"], &program["token_file"]),
        (&Value::Null, &json!(file))
    );
}

#[test]
fn a_refused_token_leaves_no_file() {
    let server = Server::answering(|_, _| (422, refusal("NoMeshError")));
    let path = server.directory.path().join("token");
    let refused = server.run(&["token", "create", "--out", path.to_str().unwrap()]);
    assert_eq!(refused.code, 1, "{refused}");
    assert!(!path.exists());
}

#[test]
fn status_answers_with_0_and_check_tells_what_is_not_well() {
    let server = Server::answering(|_, _| {
        let status = json!({
            "mesh_id": null, "mesh": null, "node": "n1", "node_id": "12D3", "role": null,
            "leader": null, "raft_index": 0, "voters": [], "reachable": 1, "members": 0,
            "issuers": [], "freshness": "gossip, 0.0 s old", "version": "0.1.0", "listen": [],
            "wireguard": null, "certificate_expires_ms": null, "conditions": [],
        });
        (200, status.to_string())
    });
    let human = server.run(&["status"]);
    assert_eq!(human.code, 0, "{human}");
    assert!(
        human.out.starts_with("This machine is in no mesh."),
        "{human}"
    );
    let check = server.run(&["--json", "status", "--check"]);
    assert_eq!((check.code, check.err.as_str()), (1, ""));
    assert_eq!(check.json()["node"], "n1");
}

#[test]
fn followed_events_come_one_a_line_until_the_daemon_stops() {
    let server = Server::answering(|_, _| {
        let event = |index| json!({ "index": index, "time": "t", "kind": "node.joined", "node": "n1", "payload": {} });
        (200, format!("{}\n{}\n", event(1), event(2)))
    });
    let words = ["events", "--follow", "--kind-prefix", "node."];
    let human = server.run(&words);
    assert_eq!(human.out, "1  t  node.joined  n1\n2  t  node.joined  n1\n");
    assert!(
        human.err.starts_with("Error: the daemon ended the stream"),
        "{human}"
    );
    assert_eq!(human.code, 1);
    let program = server.run(&[&words[..], &["--json"]].concat());
    let lines: Vec<Value> = program
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        (&lines[0]["index"], &lines[1]["index"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(lines[2]["code"], "ConnectionLostError");
    assert_eq!(
        server.asked()[0],
        "GET /v1/events?kind_prefix=node.&follow=true "
    );
}

#[test]
fn a_pull_shows_changes_as_lines_and_ends_with_its_error() {
    let server = Server::answering(|request, _| {
        let line = |status: &str, bytes: u64| json!({ "id": "aa", "status": status, "current_bytes": bytes, "total_bytes": 9 });
        let mut text = format!("{}\n{}\n", line("Downloading", 1), line("Downloading", 2));
        text += &match request.contains("broken") {
            true => {
                let error =
                    json!({ "code": "ImagePullError", "message": "no such image", "hint": "h" });
                format!("{}\n", json!({ "error": error }))
            }
            false => format!("{}\n", line("Pull complete", 9)),
        };
        (200, text)
    });
    let good = server.run(&["docker", "pull", "n1", "busybox"]);
    assert_eq!(
        good.out,
        "aa: Downloading\naa: Pull complete\nbusybox is on n1\n"
    );
    assert_eq!((good.code, good.err.as_str()), (0, ""));
    let bad = server.run(&["docker", "pull", "broken", "busybox"]);
    assert_eq!((bad.code, bad.out.as_str()), (1, "aa: Downloading\n"));
    assert!(bad.err.starts_with("Error: no such image\n"), "{bad}");
    let program = server.run(&["--json", "docker", "pull", "broken", "busybox"]);
    let last: Value = serde_json::from_str(program.out.lines().last().unwrap()).unwrap();
    assert_eq!((program.code, &last["code"]), (1, &json!("ImagePullError")));
}

#[test]
fn containers_and_images_are_asked_for_by_their_whole_names() {
    let server = Server::answering(|request, body| match request {
        "POST /v1/docker/hosts/n1/containers" => {
            let asked: Value = serde_json::from_slice(body).unwrap();
            (200, json!({ "id": asked["command"][0] }).to_string())
        }
        "GET /v1/docker/hosts/n1/containers/web/logs?follow=true&tail=5" => {
            (200, "one\ntwo".into())
        }
        "DELETE /v1/docker/hosts/n1/containers/web?force=true" => (204, String::new()),
        "DELETE /v1/docker/hosts/n1/images/reg%3A5000%2Fa%3Ab" => {
            (200, "{\"raft_index\":1}".into())
        }
        "POST /v1/docker/hosts/n1/import?tag=a%3Ab" => (
            200,
            json!({ "id": format!("{} bytes", body.len()) }).to_string(),
        ),
        other => panic!("{other}"),
    });
    let said = |words: &str, out: &str| {
        let args: Vec<&str> = words.split(' ').collect();
        let ended = server.run(&args);
        assert_eq!(
            (ended.code, ended.out.as_str()),
            (0, out),
            "{words} {ended}"
        );
    };
    said("docker run n1 a:b -p 80:80 -e A=b -- httpd -f", "httpd\n");
    said("docker logs n1 web --follow --tail 5", "one\ntwo");
    said(
        "--json docker logs n1 web --follow --tail 5",
        "{\"line\":\"one\"}\n{\"line\":\"two\"}\n",
    );
    said("docker rm n1 web --force", "web is removed\n");
    said("--json docker rm n1 web --force", "{}\n");
    said("docker rmi n1 reg:5000/a:b", "reg:5000/a:b is removed\n");
    said("--json docker rmi n1 reg:5000/a:b", "{\"raft_index\":1}\n");
    let path = server.directory.path().join("t.tar");
    fs::write(&path, vec![1; 100_000]).unwrap();
    let words = format!("docker import n1 --file {} --tag a:b", path.display());
    said(&words, "a:b is 100000 bytes\n");
    let mut piped = server.command(&["docker", "import", "n1", "--file", "-", "--tag", "a:b"]);
    piped.stdin(fs::File::open(&path).unwrap());
    assert_eq!(ended(piped).out, "a:b is 100000 bytes\n");
}

fn docker_hosts(request: &str, _: &[u8]) -> (u16, String) {
    let host = |node: &str, status: &str, managed: bool| {
        json!({
            "node": node, "status": status, "api_endpoint": "tcp://[fd00::1]:2376", "version": "1",
            "managed": managed, "phase": null, "reason": null,
        })
    };
    match request {
        "GET /v1/docker/hosts" => {
            let hosts = [
                host("n1", "connected", true),
                host("n2", "pending", true),
                host("nas", "external", false),
            ];
            (200, json!(hosts).to_string())
        }
        "GET /v1/status" => {
            let status = json!({
                "mesh_id": "00ff", "mesh": "home", "node": "n1", "node_id": "12D3", "role": "server",
                "leader": "n1", "raft_index": 0, "voters": [], "reachable": 1, "members": 1,
                "issuers": [], "freshness": "raft, index 7", "version": "0.1.0", "listen": [],
                "wireguard": null, "certificate_expires_ms": null, "conditions": [],
            });
            (200, status.to_string())
        }
        "POST /v1/docker/client-certificate" => {
            let certificate = json!({ "certificate_pem": "CERT", "ca_pem": "CA", "expires_ms": 99_999_999_999_999_u64 });
            (200, certificate.to_string())
        }
        _ => (
            404,
            json!({ "code": "NodeNotFoundError", "message": "m", "hint": "h" }).to_string(),
        ),
    }
}

#[test]
fn docker_env_keeps_a_certificate_and_uses_it_again() {
    let server = Server::answering(docker_hosts);
    let state = server.directory.path().join("state");
    let env = |args: &[&str]| {
        let mut command = server.command(args);
        command.env("XDG_STATE_HOME", &state);
        ended(command)
    };
    let certificates = || {
        let asked = server.asked();
        asked
            .iter()
            .filter(|asked| asked.contains("CERTIFICATE REQUEST"))
            .count()
    };
    let directory = state.join("shoal/docker/home-n1");
    for _ in 0..2 {
        let human = env(&["docker", "env", "n1"]);
        assert_eq!(human.code, 0, "{human}");
        assert_eq!(
            human.out,
            format!(
                "export DOCKER_HOST='tcp://[fd00::1]:2376'\nexport DOCKER_TLS_VERIFY=1\n\
                 export DOCKER_CERT_PATH='{}'\n",
                directory.display()
            )
        );
        assert_eq!(certificates(), 1);
    }
    assert_eq!(
        directory.metadata().unwrap().permissions().mode() & 0o777,
        0o700
    );
    let key = fs::read_to_string(directory.join("key.pem")).unwrap();
    assert!(key.contains("PRIVATE KEY"));
    assert!(
        server
            .asked()
            .iter()
            .all(|asked| !asked.contains("PRIVATE"))
    );

    let elsewhere = server.directory.path().join("x");
    let program = env(&[
        "--json",
        "docker",
        "env",
        "n1",
        "--dir",
        elsewhere.to_str().unwrap(),
    ]);
    assert_eq!(
        program.json()["DOCKER_CERT_PATH"],
        elsewhere.to_str().unwrap()
    );
    assert_eq!(fs::read_to_string(elsewhere.join("ca.pem")).unwrap(), "CA");
    assert_eq!(certificates(), 2);
}

#[test]
fn docker_env_is_refused_for_what_is_no_connected_host() {
    let server = Server::answering(docker_hosts);
    for (node, code) in [
        ("n2", "DockerHostNotConnectedError"),
        ("n9", "NodeNotFoundError"),
    ] {
        let refused = server.run(&["--json", "docker", "env", node]);
        assert_eq!(refused.code, 1, "{refused}");
        assert_eq!(refused.json()["code"], code);
    }
    let external = server.run(&["docker", "env", "nas"]);
    assert!(
        external
            .out
            .ends_with("unset DOCKER_TLS_VERIFY DOCKER_CERT_PATH\n"),
        "{external}"
    );
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let server = Server::answering(|_, _| (200, "x\n".repeat(1 << 20)));
    let mut child = server
        .command(&["docker", "logs", "n1", "c"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut err = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut err)
        .unwrap();
    assert_eq!((child.wait().unwrap().code(), err.as_str()), (Some(0), ""));
}

/// A directory on the file system that the program is on.
fn directory_of_programs() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// The program in a directory of its own, so that nothing but the test puts a daemon beside it.
/// Linked, not copied: a program cannot be executed while anybody has it open for writing, and
/// what a test has open another one's child has too, for a moment.
fn alone(directory: &Path) -> PathBuf {
    let program = directory.join("shoal");
    fs::hard_link(env!("CARGO_BIN_EXE_shoal"), &program).unwrap();
    program
}

/// A script, written by a process of its own for the same reason.
fn script(path: &Path, text: &str) {
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "printf '%s' \"$1\" > \"$2\" && chmod 755 \"$2\"",
        "sh",
        text,
    ]);
    assert!(command.arg(path).status().unwrap().success());
}

#[test]
fn run_becomes_the_daemon_beside_it_with_untouched_arguments() {
    let directory = directory_of_programs();
    let program = alone(directory.path());
    let daemon = directory.path().join("shoald");
    script(&daemon, "#!/bin/sh\necho $$ \"$@\"\nexit 7\n");
    let mut command = Command::new(program);
    command.args(["run", "--config", "a b", "--help", "--json", "--", "x"]);
    command.stdout(Stdio::piped());
    let child = command.spawn().unwrap();
    let pid = child.id();
    let ended = Ended::from(child.wait_with_output().unwrap());
    assert_eq!(
        ended.out,
        format!("{pid} run --config a b --help --json -- x\n")
    );
    assert_eq!(ended.code, 7);
}

#[test]
fn run_without_a_daemon_program_says_where_it_looked() {
    let directory = directory_of_programs();
    let program = alone(directory.path());
    let run = |args: &[&str]| {
        let mut command = Command::new(&program);
        command.args(args).env("PATH", directory.path());
        ended(command)
    };
    let human = run(&["run", "--config", "x"]);
    assert_eq!(human.code, 1, "{human}");
    assert!(
        human
            .err
            .starts_with("Error: there is no shoald, neither beside"),
        "{human}"
    );
    assert_eq!(
        run(&["--json", "run"]).json()["code"],
        "DaemonProgramNotFoundError"
    );
    fs::write(directory.path().join("shoald"), "").unwrap();
    assert_eq!(run(&["--json", "run"]).json()["code"], "DaemonProgramError");
}
