//! Nodes, certificates and operators, as an operator takes them back and hands them out.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use rcgen::{
    CertificateSigningRequestParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData,
};
use serde_json::{Value, json};

use crate::fake_daemon::{Server, mode, names, refusal};

fn revoked(_: &str, _: &[u8]) -> (u16, String) {
    let revoked = json!({
        "raft_index": 7, "serials": ["0a", "0b", "0c"], "warnings": ["two servers are left"],
        "enforcement": { "nodes": 12, "enforced": 11, "last_ms": 214, "each": [
            { "node": "n2", "after_ms": 214, "reason": null },
            { "node": "n3", "after_ms": null, "reason": "silent for 3 min" },
        ]},
    });
    (200, revoked.to_string())
}

#[test]
fn what_is_taken_back_is_sent_as_written_and_the_answer_says_who_enforced_it() {
    let server = Server::answering(revoked);
    for (line, asked) in [
        (
            "node remove n1 --yes",
            r#"POST /v1/nodes/n1/remove {"force":false,"compromised":false,"reason":null}"#,
        ),
        (
            "node remove n1 -y --force --compromised --reason stolen",
            r#"POST /v1/nodes/n1/remove {"force":true,"compromised":true,"reason":"stolen"}"#,
        ),
        (
            "ca revoke --serial 0A:1B --yes",
            r#"POST /v1/ca/revoke {"serial":"0a1b","node":null,"operator":null}"#,
        ),
        (
            "ca revoke --node n1 --yes",
            r#"POST /v1/ca/revoke {"serial":null,"node":"n1","operator":null}"#,
        ),
        (
            "ca revoke --operator alice --yes",
            r#"POST /v1/ca/revoke {"serial":null,"node":null,"operator":"alice"}"#,
        ),
        ("operator remove alice --yes", "DELETE /v1/operators/alice "),
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        let human = server.run(&args);
        assert_eq!(human.code, 0, "{line} {human}");
        let (_, reach) = human.out.split_once('\n').unwrap();
        assert_eq!(
            reach,
            "revoked 3 certificates; enforced on 11 of 12 nodes, the last after 0.21 s\n  \
             not on n3: silent for 3 min\n",
            "{line}"
        );
        assert_eq!(human.err, "Warning: two servers are left\n", "{line}");
        assert_eq!(server.asked().last().unwrap(), asked);
        let program = server.run(&[&args[..], &["--json"]].concat());
        assert_eq!(program.json()["enforcement"]["last_ms"], 214, "{line}");
        assert_eq!(program.err, "", "{line}");
    }
}

#[test]
fn nothing_is_taken_back_without_consent() {
    let server = Server::answering(revoked);
    for line in [
        "node remove n1",
        "ca revoke --operator alice",
        "ca rotate",
        "operator remove alice",
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        let refused = server.run(&[&args[..], &["--json"]].concat());
        assert_eq!(refused.code, 1, "{refused}");
        assert_eq!(refused.json()["code"], "ConfirmationRequiredError");
        let refused = server.run(&args);
        assert!(refused.err.contains("Hint: give --yes"), "{refused}");
    }
    assert!(server.asked().is_empty());
}

fn ca(rotation: &Value) -> String {
    let root = json!({
        "fingerprint": "ab12", "words": "one two", "state": "active",
        "not_after_ms": 4_000_000_000_000_u64, "sealed_to": ["n1", "recovery"],
    });
    let status = json!({
        "roots": [root], "intermediates": [], "certificates": [], "rotation": rotation,
        "recovery_recipient": "age1example", "warnings": ["operator alice ends soon"],
    });
    status.to_string()
}

#[test]
fn ca_status_is_tables_with_warnings_beside_them() {
    let server = Server::answering(|_, _| (200, ca(&Value::Null)));
    let human = server.run(&["ca", "status"]);
    assert_eq!(human.code, 0, "{human}");
    assert!(human.out.contains("one two"), "{human}");
    assert!(human.out.contains("Rotation: none under way"), "{human}");
    assert_eq!(human.err, "Warning: operator alice ends soon\n");
    let program = server.run(&["ca", "status", "--json"]);
    assert_eq!((program.code, program.err.as_str()), (0, ""));
    assert_eq!(program.json()["roots"][0]["words"], "one two");
    assert_eq!(server.asked()[0], "GET /v1/ca ");
}

/// A mesh whose root is being replaced: every look finds the next of these, the last one for ever.
fn rotating(looks: Vec<(u16, String)>) -> Server {
    let looked = Arc::new(AtomicUsize::new(0));
    Server::answering(move |request, _| match request {
        "POST /v1/ca/rotate" => (200, json!({ "raft_index": 7, "warnings": [] }).to_string()),
        "GET /v1/ca" => {
            let at = looked.fetch_add(1, Ordering::SeqCst);
            looks[at.min(looks.len() - 1)].clone()
        }
        other => panic!("{other}"),
    })
}

fn step(step: &str, waiting_for: &[&str]) -> (u16, String) {
    let rotation = json!({
        "step": step, "reason": "", "began_ms": 0, "waiting_for": waiting_for,
    });
    (200, ca(&rotation))
}

#[test]
fn a_rotation_is_followed_to_its_end_through_an_election() {
    let looks = vec![
        step("trusting", &["n1", "n2"]),
        step("trusting", &["n2"]),
        (503, refusal("NoMajorityError")),
        step("trusting", &["n2"]),
        step("issuing", &["n1", "n2"]),
        (200, ca(&Value::Null)),
    ];
    let human = rotating(looks.clone()).run(&["ca", "rotate", "--yes", "--stale"]);
    assert_eq!(
        human.out,
        "the rotation has begun\n\
         trusting: every node is to trust the new root beside the old one; waiting for n1, n2\n\
         trusting: waiting for n2\n\
         issuing: every certificate is issued anew under the new root; waiting for n1, n2\n\
         the rotation is over; the root is ab12 (one two)\n"
    );
    assert_eq!(human.code, 0, "{human}");
    assert_eq!(human.err, "Warning: operator alice ends soon\n");
    let program = rotating(looks).run(&["--json", "ca", "rotate", "--yes"]);
    let lines: Vec<Value> = program
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!((program.code, program.err.as_str()), (0, ""));
    assert_eq!(lines[0]["raft_index"], 7);
    let steps: Vec<&Value> = lines[1..]
        .iter()
        .map(|line| &line["rotation"]["step"])
        .collect();
    assert_eq!(
        steps,
        ["trusting", "trusting", "issuing", "null"]
            .map(|step| match step {
                "null" => Value::Null,
                step => step.into(),
            })
            .each_ref()
    );
}

#[test]
fn a_refusal_while_following_does_not_look_like_the_rotations_end() {
    let looks = vec![
        step("trusting", &["n1"]),
        (403, refusal("AccessDeniedError")),
    ];
    let human = rotating(looks).run(&["ca", "rotate", "--yes"]);
    assert_eq!(human.code, 1, "{human}");
    assert!(!human.out.contains("over"), "{human}");
    assert!(
        human.err.contains("Hint: the rotation goes on by itself"),
        "{human}"
    );
}

#[test]
fn a_rotation_that_is_refused_is_not_followed() {
    let server = Server::answering(|_, _| (409, refusal("RotationExistsError")));
    let refused = server.run(&["--json", "ca", "rotate", "--yes"]);
    assert_eq!(refused.json()["code"], "RotationExistsError");
    assert_eq!(server.asked(), [r#"POST /v1/ca/rotate {"reason":null}"#]);
}

/// The certificate that comes back is the request itself, so that a test can look at it.
fn operators(request: &str, body: &[u8]) -> (u16, String) {
    let asked: Value = serde_json::from_slice(body).unwrap();
    if !matches!(
        request,
        "POST /v1/operators" | "POST /v1/operators/alice/certificate"
    ) {
        return (404, refusal("OperatorNotFoundError"));
    }
    let bundle = json!({
        "name": "alice", "role": "viewer", "certificate_pem": asked["csr_pem"], "ca_pem": "CA",
        "expires_ms": 4_000_000_000_000_u64, "endpoints": ["https://[fd00::1]:7443"],
    });
    (200, bundle.to_string())
}

#[test]
fn an_operators_key_is_made_here_and_stays_in_its_directory() {
    for (line, request, days, algorithm) in [
        (
            "operator create alice --role viewer --days 30",
            "POST /v1/operators ",
            Some(30),
            &PKCS_ED25519,
        ),
        (
            "operator create alice --role viewer --p256",
            "POST /v1/operators ",
            None,
            &PKCS_ECDSA_P256_SHA256,
        ),
        (
            "operator renew alice",
            "POST /v1/operators/alice/certificate ",
            None,
            &PKCS_ED25519,
        ),
    ] {
        let server = Server::answering(operators);
        let directory = server.directory.path().join("alice");
        let out = directory.to_str().unwrap();
        let args: Vec<&str> = line.split(' ').chain(["--out", out]).collect();
        let human = server.run(&args);
        assert_eq!((human.code, human.err.as_str()), (0, ""), "{human}");
        let command = format!("shoal --tls-dir {out} --connect 'https://[fd00::1]:7443' status\n");
        assert!(human.out.contains(&command), "{human}");

        assert_eq!(mode(&directory), 0o700);
        assert_eq!(names(&directory), ["ca.pem", "cert.pem", "key.pem"]);
        assert_eq!(mode(&directory.join("key.pem")), 0o600);
        assert_eq!(fs::read_to_string(directory.join("ca.pem")).unwrap(), "CA");
        let key = fs::read_to_string(directory.join("key.pem")).unwrap();
        let key = KeyPair::from_pem(&key).unwrap();
        let signed = fs::read_to_string(directory.join("cert.pem")).unwrap();
        let signed = CertificateSigningRequestParams::from_pem(&signed).unwrap();
        assert!(key.is_compatible(algorithm), "{line}");
        assert_eq!(signed.public_key.der_bytes(), key.public_key_raw());

        let asked = server.asked();
        assert_eq!(asked.len(), 1);
        assert!(!asked[0].contains("PRIVATE"), "{line}");
        let body: Value = serde_json::from_str(asked[0].strip_prefix(request).unwrap()).unwrap();
        assert_eq!(body["ttl_s"], json!(days.map(|days| days * 86_400)));
        if request == "POST /v1/operators " {
            assert_eq!(
                (&body["name"], &body["role"]),
                (&json!("alice"), &json!("viewer"))
            );
        }

        // What is there is never overwritten, and nobody is asked.
        let again = server.run(&[&args[..], &["--json"]].concat());
        assert_eq!(again.json()["code"], "FileExistsError", "{again}");
        assert_eq!(server.asked().len(), 1);
    }
}

#[test]
fn an_operator_in_json_is_where_its_files_are_and_no_key() {
    let server = Server::answering(operators);
    let directory = server.directory.path().join("alice");
    let out = directory.to_str().unwrap();
    let program = server.run(&[
        "--json", "operator", "create", "alice", "--role", "viewer", "--out", out,
    ]);
    assert_eq!((program.code, program.err.as_str()), (0, ""), "{program}");
    assert_eq!(program.json()["directory"], out);
    assert!(!program.out.contains("PRIVATE") && !program.out.contains("REQUEST"));
}

#[test]
fn an_operator_that_is_refused_leaves_nothing_behind() {
    let server = Server::answering(operators);
    let above = server.directory.path().join("above");
    fs::create_dir_all(above.join("empty")).unwrap();
    for name in ["new", "empty"] {
        let out = above.join(name);
        let refused = server.run(&[
            "--json",
            "operator",
            "renew",
            "bob",
            "--out",
            out.to_str().unwrap(),
        ]);
        assert_eq!(refused.json()["code"], "OperatorNotFoundError");
    }
    assert_eq!(names(&above), ["empty"]);
    assert!(names(&above.join("empty")).is_empty());
}

#[test]
fn lists_of_tokens_and_operators_are_tables() {
    let server = Server::answering(|request, _| {
        let list = match request {
            "GET /v1/tokens" => json!([{
                "id": "1f", "role": "agent", "expires_ms": 1_000, "reusable": true,
                "used_by": null,
            }]),
            "GET /v1/operators" => json!([{
                "name": "alice", "role": "viewer", "created_ms": 0, "serials": ["0a"],
                "expires_ms": null,
            }]),
            other => panic!("{other}"),
        };
        (200, list.to_string())
    });
    let tokens = server.run(&["token", "ls"]);
    assert!(
        tokens.out.starts_with("ID  ROLE   USES        EXPIRES"),
        "{tokens}"
    );
    assert!(tokens.out.contains("ended "), "{tokens}");
    let operators = server.run(&["operator", "ls"]);
    assert!(operators.out.contains("\nalice  viewer  "), "{operators}");
    for noun in ["token", "operator"] {
        let program = server.run(&[noun, "ls", "--json"]);
        assert_eq!(program.json().as_array().unwrap().len(), 1, "{program}");
    }
}
