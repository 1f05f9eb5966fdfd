//! Operators may do over the network what their present role allows, and nobody else anything.

use std::{io::Write as _, time::Duration};

use node_api::{Access, AccessRole, RULES};
use serde_json::Value;
use shoal_tests::{Bundle, Host, Lab, Mesh, Node, Output, text, wait_until};

/// Longer than a renewal takes on a busy machine.
const LATER: Duration = Duration::from_secs(150);

const HOUR: i64 = 3600;
/// After so long every leaf was renewed.
const LEAF_STEP: i64 = 17 * HOUR + HOUR / 2;

/// What says that an operator may not.
const REFUSALS: [&str; 3] = [
    "RoleInsufficientError",
    "SocketOnlyError",
    "OperatorUnknownError",
];

#[test]
fn every_verb_is_for_the_roles_that_the_table_says() {
    let Some(lab) = Lab::for_test("roles-table") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 1);
    let server = mesh.node("s1").host.clone();
    let client = mesh.node("a1").host.clone();
    let [address, _] = mesh.node("s1").overlay();
    let mut wrong = Vec::new();
    for role in AccessRole::ALL {
        let name = format!("the-{}", role.as_str());
        let bundle = server.operator(&name, role.as_str(), &[]);
        server.operator(&format!("victim-of-{name}"), "viewer", &[]);
        let answers = ask_everything(&client, &bundle, &address, &format!("victim-of-{name}"));
        assert_eq!(answers.len(), RULES.len());
        for (rule, answer) in RULES.iter().zip(answers) {
            let expected = match rule.access {
                Access::Socket => Some("SocketOnlyError"),
                Access::Role(needed) if needed > role => Some("RoleInsufficientError"),
                Access::Role(_) => None,
            };
            let said = REFUSALS.into_iter().find(|code| answer.contains(code));
            let answered = !answer.is_empty() && !answer.contains("RouteNotFoundError");
            if said != expected || !answered {
                wrong.push(format!(
                    "{} {} ({}) as {}: expected {expected:?}: {answer}",
                    rule.method,
                    rule.path,
                    rule.verb,
                    role.as_str()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let cells = RULES.len() * AccessRole::ALL.len();
    let _ = writeln!(std::io::stderr(), "{cells} cells of verb and role hold");
}

#[test]
fn only_this_meshs_operators_with_a_certificate_in_force_are_let_in() {
    let Some(lab) = Lab::for_test_at("operators", -2 * LEAF_STEP) else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 1);
    let server = mesh.node("s1").host.clone();
    let client = mesh.node("a1").host.clone();
    let [address, _] = mesh.node("s1").overlay();
    let status = |bundle: &Bundle| client.ask_api(bundle, &address, "GET", "/v1/status");
    let ann = server.operator("ann", "viewer", &[]);
    let brief = server.operator("brief", "admin", &["--days", "1"]);
    status(&ann).ok();
    status(&brief).ok();
    let connect = format!("https://[{address}]:{}", node_api::OVERLAY_API_PORT);
    let second = ["operator", "renew", "ann", "--out", "/run/lab/files/ann2"];
    server.shoal(&second).ok();
    let theirs = ["--connect", &connect, "--tls-dir", "/run/lab/files/ann2"];
    client
        .shoal(&[["status"].as_slice(), &theirs].concat())
        .ok();

    // Another mesh's operator, its name and role the same, and a node's own certificate.
    let other = Node::new(&lab, "x1");
    other.host.shoal(&["init", "--name", "other"]).ok();
    let foreign = other.host.operator("foreign", "admin", &[]);
    let node = node_bundle(&lab, &server, &ann);
    let nobody = "curl -sS --max-time 20 -k";
    let url = format!("'{connect}/v1/status'");
    for (who, flags) in [
        ("nobody", String::new()),
        ("another mesh's operator", shown(&foreign)),
        ("a node", shown(&node)),
    ] {
        let answer = client.sh(&format!("{nobody} {flags} {url}"));
        assert_let_out(who, &answer);
    }

    roles_count_at_once(&server, &client, &ann, &address);

    // Both live as long as a leaf or longer; one has ended then, the other has not.
    for to in [-LEAF_STEP, 0] {
        let before = newest_leaf(&server, "s1");
        lab.set_clock(to);
        server.shoal(&["node", "label", "s1", "nudge=x"]);
        wait_until(LATER, "the servers' leaf is renewed", || {
            newest_leaf(&server, "s1") > before
        });
    }
    wait_until(LATER, "the operator is still let in", || {
        status(&ann).success()
    });
    let answer = client.sh(&format!("{nobody} {} {url}", shown(&brief)));
    assert_let_out("an operator whose certificate has ended", &answer);
    server.shoal(&["operator", "remove", "ann", "--yes"]).ok();
    let answer = client.sh(&format!("{nobody} {} {url}", shown(&ann)));
    assert_let_out("a removed operator", &answer);
}

/// A role that was given or taken counts at the next request, and events tell who did what.
#[track_caller]
fn roles_count_at_once(server: &Host, client: &Host, ann: &Bundle, address: &str) {
    let label = |value: &str| {
        client.sh(&format!(
            "curl -sS --max-time 20 {} -X POST -H 'content-type: application/json' \
             -d '{{\"set\":{{\"by\":\"{value}\"}}}}' \
             'https://[{address}]:{}/v1/nodes/a1/labels'",
            ann.curl_flags(),
            node_api::OVERLAY_API_PORT
        ))
    };
    let refused = label("viewer").ok().json();
    assert_eq!(refused["code"], "RoleInsufficientError", "{refused}");
    for key in ["message", "hint"] {
        assert!(text(&refused, key).contains("ann"), "{refused}");
    }
    server.shoal(&["operator", "role", "ann", "operator"]).ok();
    let done = label("operator").ok().json();
    assert!(done["raft_index"].is_u64(), "{done}");
    assert_eq!(server.node_row("a1")["labels"]["by"], "operator");
    server.shoal(&["operator", "role", "ann", "viewer"]).ok();
    let refused = label("viewer").ok().json();
    assert_eq!(refused["code"], "RoleInsufficientError", "{refused}");
    server.shoal(&["operator", "role", "ann", "admin"]).ok();
    let connect = format!("https://[{address}]:{}", node_api::OVERLAY_API_PORT);
    let theirs = ["--connect", &connect, "--tls-dir", &ann.dir];
    client
        .shoal(&[["token", "create"].as_slice(), &theirs].concat())
        .ok();
    let rows = server.shoal(&["events", "--json"]).ok().json_rows();
    let named = |row: &Value| row["kind"] == "token.created" && row["payload"]["by"] == "ann";
    assert!(rows.iter().any(named), "{rows:?}");
}

/// The answers to every route, in the order of the table. What could do harm is asked with a body
/// that means nothing, about a node that is none.
#[track_caller]
fn ask_everything(client: &Host, bundle: &Bundle, address: &str, victim: &str) -> Vec<String> {
    let flags = bundle.curl_flags();
    let port = node_api::OVERLAY_API_PORT;
    let mut script = String::new();
    for rule in RULES {
        let path = (rule.path.split('/'))
            .map(|part| match part {
                "{operator}" => victim,
                part if part.starts_with('{') => "nobody",
                part => part,
            })
            .collect::<Vec<_>>()
            .join("/");
        let body = if rule.method == "GET" {
            ""
        } else {
            "-d nonsense"
        };
        script += &format!(
            "curl -sS --max-time 20 {flags} -X {} {body} 'https://[{address}]:{port}{path}' 2>&1 \
             | tr '\\n' ' ' | head -c 2000; echo\n",
            rule.method
        );
    }
    let output = client.sh(&script).ok();
    output.stdout.lines().map(ToOwned::to_owned).collect()
}

fn shown(bundle: &Bundle) -> String {
    format!("--cert {0}/cert.pem --key {0}/key.pem", bundle.dir)
}

/// A node's own key and certificate, as if they were an operator's.
#[track_caller]
fn node_bundle(lab: &Lab, node: &Host, like: &Bundle) -> Bundle {
    let dir = "/run/lab/files/node-as-operator";
    let membership = std::fs::read(node.disk("/var/lib/shoal/mesh.json")).expect("it is a member");
    let membership: Value = serde_json::from_slice(&membership).expect("it is JSON");
    let chain = membership["chain"].as_array().expect("a chain");
    std::fs::create_dir_all(lab.files().join("node-as-operator")).expect("writable");
    for (at, certificate) in chain.iter().enumerate() {
        let hex = certificate.as_str().expect("hexadecimal");
        let der: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal"))
            .collect();
        let file = lab.files().join(format!("node-as-operator/{at}.der"));
        std::fs::write(file, der).expect("writable");
    }
    // RFC 8410: what comes before the seed in an Ed25519 key.
    let mut key = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
    key.extend(std::fs::read(node.disk("/var/lib/shoal/node.key")).expect("it has a key"));
    std::fs::write(lab.files().join("node-as-operator/key.der"), key).expect("writable");
    node.sh(&format!(
        "set -e; cd {dir}; for der in ?.der; do openssl x509 -inform der -in $der; done > cert.pem; \
         cp {}/ca.pem .; \
         openssl pkey -inform der -in key.der -out key.pem",
        like.dir
    ))
    .ok();
    Bundle {
        dir: dir.to_owned(),
    }
}

/// Neither did the connection hold, nor was anything told.
#[track_caller]
fn assert_let_out(who: &str, answer: &Output) {
    let told = answer.stdout.contains("mesh_id");
    let refused = answer.stderr.contains("alert") || answer.stdout.contains("OperatorUnknownError");
    assert!(refused && !told, "{who} was let in: {answer}");
}

#[track_caller]
fn newest_leaf(from: &Host, node: &str) -> u64 {
    let status = from.shoal_json(&["ca", "status"]);
    let rows = status["certificates"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    (rows.iter())
        .filter(|row| row["profile"] == "node" && row["holder"] == node)
        .filter_map(|row| row["not_after_ms"].as_u64())
        .max()
        .expect("the node has a leaf")
}
