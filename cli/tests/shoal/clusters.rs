//! K3s clusters: what is asked of the daemon, and how its answers are told.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};

use crate::{
    changed,
    fake_daemon::{Server, mode, refusal},
};

const KUBECONFIG: &str = "apiVersion: v1\nclusters:\n- name: prod\n";

fn cluster(rollout: &Value, version: &str) -> Value {
    json!({
        "id": "0f", "name": "prod", "status": "active", "api_endpoint": "https://[fd00::f]:6443",
        "network": "default", "cni": "flannel", "node_count": 3, "reason": null,
        "version": version, "pod_subnet_prefix": null, "virtual_ip": "k3s-prod", "founder": "n1",
        "created_ms": 0, "rollout": rollout, "nodes": [], "warnings": [],
    })
}

fn rollout(turn: &[&str], done: u64, failed: Option<(&str, &str)>) -> Value {
    json!({
        "kind": "upgrade", "version": "v2", "turn": turn, "done": done,
        "failed_at": failed.map(|(node, _)| node), "reason": failed.map(|(_, why)| why),
    })
}

/// Takes a change, and then tells one after another of what it is like.
fn going_on(told: Vec<(u16, String)>) -> Server {
    let next = Arc::new(AtomicUsize::new(0));
    Server::answering(move |request, body| {
        if request.starts_with("POST") {
            return changed(request, body);
        }
        let at = next.fetch_add(1, Ordering::Relaxed).min(told.len() - 1);
        told[at].clone()
    })
}

fn upgrading(told: Vec<Value>) -> Server {
    going_on(told.iter().map(|told| (200, told.to_string())).collect())
}

fn drain(state: &str, reason: Option<&str>, heard: bool) -> (u16, String) {
    let told = json!({
        "node": "n4", "state": state, "cordon_only": false, "reason": reason, "heard": heard,
    });
    (200, told.to_string())
}

#[test]
fn what_is_asked_for_is_sent_as_it_was_written() {
    let server = Server::answering(changed);
    let sum = "0f".repeat(32);
    let url = format!(
        "k3s provision n2 --role agent --cluster prod --k3s-url http://f/k3s --sha256 {sum}"
    );
    let asked_url = format!(
        concat!(
            r#"POST /v1/k3s/n2/provision {{"role":"agent","cluster":"prod","network":null,"#,
            r#""cni":null,"binary":{{"path":null,"url":"http://f/k3s","sha256":"{sum}","#,
            r#""version":null,"images":null}},"vip_profile":null}}"#
        ),
        sum = sum
    );
    for (line, asked) in [
        (
            "k3s provision n1 --role server --cluster prod --network blue --cni flannel --vip-profile safe --k3s-binary /srv/k3s",
            concat!(
                r#"POST /v1/k3s/n1/provision {"role":"server","cluster":"prod","network":"blue","#,
                r#""cni":"flannel","binary":{"path":"/srv/k3s","url":null,"sha256":null,"#,
                r#""version":null,"images":null},"vip_profile":"safe"}"#
            ),
        ),
        (url.as_str(), asked_url.as_str()),
        (
            "cluster upgrade prod --binary /srv/k3s --version v2 --batch 2 --no-wait",
            concat!(
                r#"POST /v1/clusters/prod/upgrade {"binary":{"path":"/srv/k3s","url":null,"#,
                r#""sha256":null,"version":"v2","images":null},"batch":2}"#
            ),
        ),
        (
            "cluster decommission prod --yes",
            "DELETE /v1/clusters/prod ",
        ),
        (
            "module assign n3 k3s-agent --cluster prod",
            r#"POST /v1/modules/assign {"module":"k3s-agent","node":"n3","selector":null,"cluster":"prod"}"#,
        ),
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        let human = server.run(&args);
        assert_eq!((human.code, human.out.lines().count()), (0, 1), "{human}");
        assert!(human.err.starts_with("Warning: two servers"), "{human}");
        assert_eq!(server.asked().last().unwrap(), asked);
    }
}

#[test]
fn a_binary_comes_from_one_place_and_with_its_sum() {
    let server = Server::answering(changed);
    for line in [
        "k3s provision n1",
        "k3s provision n1 --role king",
        "k3s provision n1 --role server --vip-profile fast",
        "k3s provision n1 --role server --k3s-url http://f/k3s",
        "k3s provision n1 --role server --sha256 00",
        "k3s provision n1 --role server --k3s-binary /k --k3s-url http://f/k3s --sha256 00",
        "cluster upgrade prod --version v2",
        "cluster upgrade prod --binary /srv/k3s",
        "cluster upgrade prod --binary /srv/k3s --url http://f/k3s --sha256 00 --version v2",
        "cluster upgrade prod --url http://f/k3s --version v2",
        "module unassign n1 k3s-agent --cluster prod",
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        let ended = server.run(&args);
        assert_eq!((ended.code, ended.out.as_str()), (2, ""), "{line}: {ended}");
    }
    let undecided = server.run(&["cluster", "decommission", "prod", "--json"]);
    assert_eq!(undecided.json()["code"], "ConfirmationRequiredError");
    assert!(server.asked().is_empty());
}

#[test]
fn a_kubeconfig_is_printed_or_becomes_a_file_of_its_owners() {
    let server = Server::answering(|_, _| (200, json!({ "kubeconfig": KUBECONFIG }).to_string()));
    let printed = server.run(&["cluster", "kubeconfig", "prod"]);
    assert_eq!((printed.code, printed.out.as_str()), (0, KUBECONFIG));
    let path = server.directory.path().join("kubeconfig");
    let name = path.to_str().unwrap();
    let written = server.run(&["cluster", "kubeconfig", "prod", "--out", name, "--json"]);
    assert_eq!(written.json()["path"], name);
    assert!(!written.out.contains("apiVersion"), "{written}");
    assert_eq!(fs::read_to_string(&path).unwrap(), KUBECONFIG);
    assert_eq!(mode(&path), 0o600);
    let again = server.run(&["cluster", "kubeconfig", "prod", "--out", name, "--json"]);
    assert_eq!(again.json()["code"], "FileExistsError");
    assert_eq!(server.asked().len(), 2);
}

#[test]
fn a_cluster_that_is_on_its_way_has_no_kubeconfig_and_leaves_no_file() {
    let server = Server::answering(|_, _| (422, refusal("ClusterNotReadyError")));
    let path = server.directory.path().join("kubeconfig");
    let early = server.run(&[
        "cluster",
        "kubeconfig",
        "prod",
        "--out",
        path.to_str().unwrap(),
    ]);
    assert_eq!((early.code, early.out.as_str()), (1, ""), "{early}");
    assert!(!path.exists());
}

#[test]
fn an_upgrade_is_followed_to_its_end() {
    let server = upgrading(vec![
        cluster(&rollout(&["n2"], 0, None), "v1"),
        cluster(&rollout(&["n1"], 1, None), "v1"),
        cluster(&rollout(&["n1"], 1, None), "v1"),
        cluster(&Value::Null, "v2"),
    ]);
    let line = "cluster upgrade prod --binary /srv/k3s --version v2";
    let human = server.run(&line.split(' ').collect::<Vec<_>>());
    assert_eq!(human.code, 0, "{human}");
    assert_eq!(
        human.out,
        "upgrade to v2: 0 done, now n2\nupgrade to v2: 1 done, now n1\nprod runs v2 on 3 nodes\n"
    );
}

/// Takes a change in a mesh with these clusters.
fn with_clusters(names: &'static [&'static str]) -> Server {
    Server::answering(move |request, body| {
        if request != "GET /v1/clusters" {
            return changed(request, body);
        }
        let row = |name: &&str| {
            json!({
                "id": "0f", "name": *name, "status": "active", "api_endpoint": null,
                "network": "default", "cni": "flannel", "node_count": 3,
            })
        };
        let rows: Vec<Value> = names.iter().map(row).collect();
        (200, Value::from(rows).to_string())
    })
}

#[test]
fn an_upgrade_that_names_no_cluster_is_the_only_ones_and_of_several_nobodys() {
    let line = "cluster upgrade --binary /srv/k3s --version v2 --no-wait";
    let args: Vec<&str> = line.split(' ').collect();
    let server = with_clusters(&["prod"]);
    let human = server.run(&args);
    assert_eq!(human.code, 0, "{human}");
    assert!(human.out.starts_with("prod is upgraded"), "{human}");
    let asked = server.asked();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(
        asked[1].starts_with("POST /v1/clusters/prod/upgrade {"),
        "{asked:?}"
    );
    let refused = [
        (
            with_clusters(&["lab", "prod"]),
            "ClusterAmbiguousError",
            "lab, prod",
        ),
        (with_clusters(&[]), "NoClusterError", ""),
    ];
    for (server, code, part) in refused {
        let refused = server.run(&[&args[..], &["--json"]].concat());
        let told = refused.json();
        assert_eq!(refused.code, 1, "{refused}");
        assert_eq!(told["code"], code, "{refused}");
        assert!(told["message"].to_string().contains(part), "{refused}");
        // Nothing was given to any of them.
        assert_eq!(server.asked(), ["GET /v1/clusters "]);
    }
}

#[test]
fn an_upgrade_that_stops_is_a_failure_that_says_where_and_why() {
    let server = upgrading(vec![
        cluster(&rollout(&["n2"], 0, None), "v1"),
        cluster(&rollout(&["n2"], 0, Some(("n2", "no etcd"))), "v1"),
    ]);
    let line = "cluster upgrade prod --binary /srv/k3s --version v2";
    let args: Vec<&str> = line.split(' ').collect();
    let human = server.run(&args);
    assert_eq!(human.code, 1, "{human}");
    let told = "Error: the upgrade of prod stopped at n2 after 0 nodes: no etcd\nHint: ";
    assert!(human.err.starts_with(told), "{human}");
    let lost = upgrading(vec![cluster(&Value::Null, "v1")]);
    let lost = lost.run(&[&args[..], &["--json"]].concat());
    assert_eq!(lost.json()["code"], "ClusterUpgradeAbandonedError");
}

/// A mesh whose word is that the change would wipe K3s off a node.
pub(crate) fn wiping(request: &str, body: &[u8]) -> (u16, String) {
    let asked: Value = serde_json::from_slice(body).unwrap();
    match asked["consent"] == true {
        true => changed(request, body),
        false => {
            let message = "this wipes K3s off n1 (server of prod)";
            let refused =
                json!({ "code": "ConsentRequiredError", "message": message, "hint": "h" });
            (422, refused.to_string())
        }
    }
}

#[test]
fn what_wipes_k3s_off_a_node_needs_consent() {
    for line in [
        "module unassign n1 k3s-server",
        "module unassign --selector zone=b k3s-agent",
        "k3s provision n1 --role server --cluster lab",
        "module assign n2 k3s-agent --cluster lab",
        "module assign --selector zone=b k3s-agent",
        "node label n1 role=idle",
        "node label n1 role-",
    ] {
        let server = Server::answering(wiping);
        let args: Vec<&str> = line.split(' ').collect();
        let refused = server.run(&[&args[..], &["--json"]].concat());
        let code = refused.json()["code"].clone();
        assert_eq!(code, "ConfirmationRequiredError", "{line}: {refused}");
        assert_eq!(refused.code, 1, "{line}");
        let done = server.run(&[&args[..], &["--yes"]].concat());
        assert_eq!(done.code, 0, "{line}: {done}");
        // Asked once, and given with consent once.
        let asked = server.asked();
        let consents: Vec<bool> = asked.iter().map(|one| one.contains("consent")).collect();
        assert_eq!(consents, [false, true], "{line}: {asked:?}");
        assert!(asked[1].ends_with(r#","consent":true}"#), "{asked:?}");
    }
}

#[test]
fn nothing_else_is_taken_for_a_question() {
    let server = Server::answering(|_, _| (422, refusal("ClusterLastServerError")));
    for line in [
        "module unassign n1 k3s-server",
        "k3s provision n1 --role agent",
        "node label n1 role-",
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        let before = server.asked().len();
        let refused = server.run(&[&args[..], &["--json"]].concat());
        assert_eq!(refused.json()["code"], "ClusterLastServerError", "{line}");
        assert_eq!(server.asked().len(), before + 1, "{line}");
    }
}

#[test]
fn a_drain_is_followed_in_plain_lines_through_an_election() {
    let election = (503, refusal("NoMajorityError"));
    let server = going_on(vec![
        drain("draining", None, true),
        election.clone(),
        drain("draining", Some("container db to stop"), true),
        drain("draining", Some("container db to stop"), true),
        election,
        drain("draining", Some("n4 is not heard of"), false),
        drain("drained", None, true),
    ]);
    let human = server.run(&["node", "drain", "n4", "--stale"]);
    assert_eq!(human.code, 0, "{human}");
    assert_eq!(
        human.out,
        concat!(
            "n4 waits for its runtimes\n",
            "n4 waits for container db to stop\n",
            "n4 is not heard of\n",
            "n4 is empty\n"
        )
    );
    assert!(!human.err.contains('\x1b'), "{human}");
    // An earlier drain's end is not taken for this one's.
    let asked = server.asked();
    assert!(asked[0].starts_with("POST /v1/nodes/n4/drain"), "{asked:?}");
    assert!(
        asked[1..]
            .iter()
            .all(|one| one == "GET /v1/nodes/n4/drain "),
        "{asked:?}"
    );
}

#[test]
fn a_drain_that_fails_says_what_is_left_and_one_that_somebody_ended_is_over() {
    let server = going_on(vec![
        drain("draining", None, true),
        drain("failed", Some("after 60 s it still waits for a pod"), true),
    ]);
    let human = server.run(&["node", "drain", "n4"]);
    let told = "\nError: n4 could not be emptied: after 60 s it still waits for a pod\nHint: ";
    assert!(human.err.contains(told), "{human}");
    assert_eq!(human.code, 1);
    let ended = going_on(vec![
        drain("draining", None, true),
        (409, refusal("NotDrainedError")),
    ]);
    let ended = ended.run(&["node", "drain", "n4", "--json"]);
    assert_eq!(ended.json()["code"], "NotDrainedError");
}
