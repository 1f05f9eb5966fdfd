//! Access grants: what is sent, and what becomes of a key that is made here.

use std::{fs, os::unix::fs::PermissionsExt};

use serde_json::{Value, json};

use crate::fake_daemon::{Server, refusal};

/// A WireGuard public key, as a user gives one.
const KEY: &str = "DD5yKRfzExcV5+kDnTroDgCU15latdMjiQ59j1hEuk8=";

fn granted() -> Value {
    json!({
        "name": "ann", "network": "default", "gateway": "n1", "public_key": KEY,
        "ipv6": "fd00::7", "ipv4": "100.96.0.7", "state": "active",
        "expires_at_ms": null, "created_at_ms": 0,
        "tunnel": {
            "public_key": "bm90IGEga2V5", "endpoints": ["203.0.113.5:7441"],
            "allowed_ips": ["fd00::/64", "100.96.0.0/16"], "mtu": 1420,
        },
        "device_endpoint": null, "handshake_s": null, "warnings": ["n1 is far away"],
    })
}

fn daemon() -> Server {
    Server::answering(|_, _| (200, granted().to_string()))
}

/// The body of the last request.
fn sent(server: &Server) -> Value {
    let asked = server.asked();
    let (line, body) = asked.last().unwrap().split_once(" {").unwrap();
    assert_eq!(line, "POST /v1/access-grants");
    serde_json::from_str(&format!("{{{body}")).unwrap()
}

/// The private key in a configuration.
fn private_key(text: &str) -> &str {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("PrivateKey = "));
    line.unwrap_or_else(|| panic!("no private key in {text}"))
}

#[test]
fn a_key_that_is_made_here_is_shown_once_and_never_sent() {
    let server = daemon();
    let shown = server.run(&["access", "grant", "ann"]);
    assert_eq!(
        (shown.code, shown.err.as_str()),
        (0, "Warning: n1 is far away\n")
    );
    let private = private_key(&shown.out);
    assert_eq!(private.len(), 44, "{shown}");
    assert!(
        shown.out.contains("\nEndpoint = 203.0.113.5:7441\n"),
        "{shown}"
    );
    let body = sent(&server);
    let public = body["public_key"].as_str().unwrap();
    assert!(public.len() == 44 && public != private);
    assert!(!server.asked().concat().contains(private), "it was sent");
    let again = server.run(&["access", "grant", "ann"]);
    assert_ne!(private_key(&again.out), private, "every time another");
    let program = server.run(&["access", "grant", "ann", "--json"]);
    let document = program.json();
    assert_eq!(document["ipv4"], "100.96.0.7");
    private_key(document["configuration"].as_str().unwrap());
}

#[test]
fn a_configuration_is_written_to_a_file_of_its_owner_and_not_shown() {
    let server = daemon();
    let path = server.directory.path().join("wg0.conf");
    let file = path.to_str().unwrap();
    let said = server.run(&[
        "access",
        "grant",
        "ann",
        "--out",
        file,
        "--endpoint",
        "gw.example.org:99",
    ]);
    assert_eq!(said.code, 0, "{said}");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("\nEndpoint = gw.example.org:99\n"), "{text}");
    assert!(!said.out.contains(private_key(&text)), "{said}");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    // What is there is not overwritten, and nothing is asked for.
    let before = server.asked().len();
    let refused = server.run(&["access", "grant", "ann", "--out", file, "--json"]);
    assert_eq!(
        (refused.code, refused.json()["code"].as_str()),
        (1, Some("FileExistsError"))
    );
    assert_eq!(server.asked().len(), before);
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn a_refused_grant_leaves_no_file() {
    let server = Server::answering(|_, _| (409, refusal("AccessGrantExistsError")));
    let path = server.directory.path().join("wg0.conf");
    let file = path.to_str().unwrap();
    let refused = server.run(&["access", "grant", "ann", "--out", file, "--json"]);
    assert_eq!(refused.json()["code"], "AccessGrantExistsError");
    assert!(!path.exists());
}

#[test]
fn a_key_of_the_devices_own_is_passed_on_and_its_place_is_marked() {
    let server = daemon();
    let line = format!("access grant ann --public-key {KEY} --network blue --via n2 --ttl 30d");
    let shown = server.run(&line.split(' ').collect::<Vec<_>>());
    assert_eq!(shown.code, 0, "{shown}");
    assert!(shown.out.contains("\n# PrivateKey = "), "{shown}");
    assert_eq!(
        sent(&server),
        json!({
            "name": "ann", "network": "blue", "public_key": KEY, "gateway": "n2",
            "ttl_s": 30 * 86_400,
        })
    );
}

#[test]
fn a_qr_code_is_drawn_instead_of_the_text() {
    let server = daemon();
    let drawn = server.run(&["access", "grant", "ann", "--qr"]);
    assert_eq!(drawn.code, 0, "{drawn}");
    assert!(!drawn.out.contains("PrivateKey"), "{drawn}");
    assert!(
        drawn.out.lines().count() > 25 && drawn.out.contains('▄'),
        "{drawn}"
    );
}

#[test]
fn a_grant_is_shown_moved_suspended_resumed_and_revoked() {
    let server = daemon();
    for (line, asked) in [
        ("access show ann", "GET /v1/access-grants/ann "),
        (
            "access move ann --via n2",
            r#"PUT /v1/access-grants/ann/gateway {"gateway":"n2"}"#,
        ),
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let shown = server.run(&words);
        assert_eq!(
            (shown.code, shown.err.as_str()),
            (0, "Warning: n1 is far away\n")
        );
        assert!(shown.out.contains("Gateway:    n1\n"), "{shown}");
        assert!(
            shown
                .out
                .contains("\nAllowedIPs = fd00::/64, 100.96.0.0/16\n"),
            "{shown}"
        );
        assert_eq!(server.asked().last().unwrap(), asked);
    }
    let changed = json!({ "raft_index": 7, "warnings": [] }).to_string();
    let server = Server::answering(move |_, _| (200, changed.clone()));
    for (verb, asked) in [
        ("suspend", "POST /v1/access-grants/ann/suspend "),
        ("resume", "POST /v1/access-grants/ann/resume "),
        ("revoke", "DELETE /v1/access-grants/ann "),
    ] {
        let said = server.run(&["access", verb, "ann"]);
        assert_eq!((said.code, said.out.lines().count()), (0, 1), "{said}");
        assert!(
            server.asked().last().unwrap().starts_with(asked),
            "{:?}",
            server.asked()
        );
    }
}

#[test]
fn what_is_no_grant_is_a_wrong_command_line_and_nobody_is_asked() {
    let server = daemon();
    for words in [
        &["access", "grant", ""][..],
        &["access", "grant", "ann", "--public-key", "short"],
        &["access", "grant", "ann", "--public-key", KEY, "--qr"],
        &[
            "access",
            "grant",
            "ann",
            "--endpoint",
            "gw:1\nPostUp = reboot",
        ],
        &["access", "grant", "ann", "--ttl", "0s"],
        &["access", "move", "ann"],
        &["access", "suspend"],
    ] {
        let refused = server.run(&[words, &["--json"]].concat());
        assert_eq!(
            (refused.code, refused.json()["code"].as_str()),
            (2, Some("UsageError")),
            "{words:?}"
        );
    }
    assert!(server.asked().is_empty());
}
