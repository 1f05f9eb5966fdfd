//! Virtual IPs: what is asked of the daemon, and how its answers are told.

use serde_json::{Value, json};

use crate::{
    changed,
    fake_daemon::{Server, refusal},
};

fn failover(moved: bool) -> Value {
    json!({
        "raft_index": 7, "moved": moved, "from": "n1", "to": moved.then_some("n2"),
        "epoch": moved.then_some(4), "took_us": moved.then_some(31_480), "warnings": [],
    })
}

fn drill(moved: bool) -> Value {
    let saw = json!({
        "node": "n3", "outage_us": 24_210, "sent": 312, "answers": 301, "pause_us": 6_120,
        "answering": true, "reason": null,
    });
    let blind = json!({
        "node": "n4", "outage_us": null, "sent": 0, "answers": 0, "pause_us": null,
        "answering": false, "reason": "not heard of",
    });
    json!({
        "vip": "web", "address": "fd00::a", "killed": true, "moved": moved, "from": "n1",
        "to": moved.then_some("n2"), "epoch": moved.then_some(4), "took_us": 431_480,
        "outage_us": 24_210, "every_us": 5_000, "peers": [saw, blind], "warnings": [],
    })
}

#[test]
fn changes_of_a_virtual_ip_send_what_was_written() {
    let server = Server::answering(changed);
    for (line, asked) in [
        (
            "vip candidates web n2,n1",
            r#"PUT /v1/vips/web/candidates {"candidates":["n2","n1"]}"#,
        ),
        (
            "vip check web tcp:80",
            r#"PUT /v1/vips/web/check {"probe":"tcp:80","interval_ms":null,"timeout_ms":null}"#,
        ),
        (
            "vip check web none",
            r#"PUT /v1/vips/web/check {"probe":null,"interval_ms":null,"timeout_ms":null}"#,
        ),
        ("vip delete web --yes", "DELETE /v1/vips/web "),
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        let human = server.run(&args);
        assert_eq!((human.code, human.out.lines().count()), (0, 1), "{human}");
        assert_eq!(server.asked().last().unwrap(), asked);
        let program = server.run(&[&args[..], &["--json"]].concat());
        assert_eq!(program.json()["raft_index"], 7, "{line}");
    }
}

#[test]
fn a_virtual_ip_is_made_of_all_that_was_written() {
    let server = Server::answering(|_, _| {
        let vip = json!({
            "name": "web", "network": "blue", "address": "fd00::a", "holder": "n1", "epoch": 1,
            "state": "held", "candidates": ["n1", "n2"], "id": "00", "profile": "lan",
            "check": "tcp:80", "check_interval_ms": 1000, "check_timeout_ms": 1000,
            "lease_left_ms": null, "open": null, "lease_voters": ["n1"],
            "lease_voters_next": null, "wanted_on": null, "readiness": [], "moves": [],
        });
        (200, vip.to_string())
    });
    let line = "vip create web --network blue --candidates n1,n2 --check tcp:80 --profile lan";
    let made = server.run(&line.split(' ').collect::<Vec<_>>());
    assert_eq!(
        (made.code, made.out.as_str()),
        (0, "web is fd00::a, on n1\n")
    );
    let asked = concat!(
        r#"POST /v1/vips {"name":"web","network":"blue","candidates":["n1","n2"],"#,
        r#""check":{"probe":"tcp:80","interval_ms":null,"timeout_ms":null},"profile":"lan"}"#
    );
    assert_eq!(server.asked(), [asked]);
    let shown = server.run(&["vip", "show", "web"]);
    assert!(
        shown
            .out
            .contains("Lease left:   unknown: n1 does not tell\n"),
        "{shown}"
    );
}

#[test]
fn a_failover_waits_unless_told_not_to() {
    let server = Server::answering(|_, body| {
        let asked: Value = serde_json::from_slice(body).unwrap();
        (200, failover(asked["wait"] == true).to_string())
    });
    let waited = server.run(&["vip", "failover", "web"]);
    assert_eq!(
        waited.out, "web moved from n1 to n2 in 31.4 ms\n",
        "{waited}"
    );
    let ordered = server.run(&["vip", "failover", "web", "--to", "n2", "--no-wait"]);
    assert!(
        ordered.out.starts_with("web is to move to n2; "),
        "{ordered}"
    );
    let program = server.run(&["vip", "failover", "web", "--json"]);
    assert_eq!(program.json()["took_us"], 31_480);
    assert_eq!(
        server.asked()[..2],
        [
            r#"POST /v1/vips/web/failover {"to":null,"wait":true}"#,
            r#"POST /v1/vips/web/failover {"to":"n2","wait":false}"#,
        ]
    );
}

#[test]
fn a_move_that_did_not_come_is_a_failure() {
    let server = Server::answering(|_, _| (422, refusal("VirtualIpNotMovedError")));
    let late = server.run(&["vip", "failover", "web", "--json"]);
    assert_eq!(late.code, 1, "{late}");
    assert_eq!(late.json()["code"], "VirtualIpNotMovedError");
}

#[test]
fn a_drill_kills_nothing_without_consent() {
    let server = Server::answering(|_, _| (200, drill(true).to_string()));
    let refused = server.run(&["vip", "drill", "web", "--kill", "--json"]);
    assert_eq!(refused.code, 1, "{refused}");
    assert_eq!(refused.json()["code"], "ConfirmationRequiredError");
    let usage = server.run(&["vip", "drill", "web", "--kill", "--to", "n2", "--yes"]);
    assert_eq!(usage.code, 2, "{usage}");
    assert!(server.asked().is_empty());
    let killed = server.run(&["vip", "drill", "web", "--kill", "--yes"]);
    assert_eq!(killed.code, 0, "{killed}");
    assert!(
        killed
            .out
            .contains("n4    -        -     -        -       not heard of\n"),
        "{killed}"
    );
    assert!(
        killed
            .out
            .ends_with("The daemon of n1 is dead until it is started again.\n")
    );
    server.run(&["vip", "drill", "web", "--to", "n2"]);
    assert_eq!(
        server.asked(),
        [
            r#"POST /v1/vips/web/drill/kill {"to":null}"#,
            r#"POST /v1/vips/web/drill {"to":"n2"}"#,
        ]
    );
}

#[test]
fn a_drill_that_moved_nothing_fails_and_tells_what_was_seen() {
    let server = Server::answering(|_, _| (200, drill(false).to_string()));
    let stuck = server.run(&["vip", "drill", "web"]);
    assert_eq!(stuck.code, 1, "{stuck}");
    assert!(
        stuck.out.contains("web has not moved in 431.4 ms"),
        "{stuck}"
    );
    let program = server.run(&["vip", "drill", "web", "--json"]);
    assert_eq!(
        (program.code, program.json()["moved"].clone()),
        (1, json!(false))
    );
}
