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

/// Takes an upgrade, and then tells one after another of what it is like.
fn upgrading(told: Vec<Value>) -> Server {
    let next = Arc::new(AtomicUsize::new(0));
    Server::answering(move |request, body| {
        if request.starts_with("POST") {
            return changed(request, body);
        }
        let at = next.fetch_add(1, Ordering::Relaxed).min(told.len() - 1);
        (200, told[at].to_string())
    })
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
            r#""version":null,"images":null}}}}"#
        ),
        sum = sum
    );
    for (line, asked) in [
        (
            "k3s provision n1 --role server --cluster prod --network blue --cni flannel --k3s-binary /srv/k3s",
            concat!(
                r#"POST /v1/k3s/n1/provision {"role":"server","cluster":"prod","network":"blue","#,
                r#""cni":"flannel","binary":{"path":"/srv/k3s","url":null,"sha256":null,"#,
                r#""version":null,"images":null}}"#
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
