//! Cordon, drain, disruption budgets, and what a node may do of it to itself.

use serde_json::json;
use shoal_tests::wait_until;

use crate::cluster::{
    SOON, agent, apply, get, is_ready, kubectl, lab, server, token, turn_back, turn_knob,
};

const DRAIN: [&str; 5] = [
    "drain",
    "b",
    "--ignore-daemonsets",
    "--force",
    "--timeout=60s",
];

/// `kubectl` renamed the flag.
fn drain(host: &shoal_tests::Host, more: &[&str]) -> shoal_tests::Output {
    let with = |flag| [&DRAIN[..], &[flag], more].concat();
    let new = kubectl(host, &with("--delete-emptydir-data"));
    if !new.stderr.contains("unknown flag") {
        return new;
    }
    kubectl(host, &with("--delete-local-data"))
}

#[test]
fn a_drain_obeys_the_budget_and_moves_the_pods() {
    let Some(lab) = lab("stand-in-drain") else {
        return;
    };
    let (a, b) = (lab.host("a"), lab.host("b"));
    server(&a, &[]);
    agent(&b, &a, &token(&a));
    wait_until(SOON, "b is ready", || is_ready(&a, "b"));
    kubectl(&a, &["cordon", "a"]).ok();
    let web = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "none"}]},
            },
        },
    });
    apply(&a, &lab, &web).ok();
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}},
    });
    apply(&a, &lab, &budget).ok();
    let on = |node: &str| {
        let field = format!("--field-selector=spec.nodeName={node},status.phase=Running");
        get(&a, &["pods", "-l", "app=web", &field])["items"]
            .as_array()
            .map_or(0, Vec::len)
    };
    wait_until(SOON, "both run on b, a is cordoned", || on("b") == 2);
    kubectl(&a, &["uncordon", "a"]).ok();

    let stalled = drain(&a, &["--timeout=3s"]);
    assert!(
        !stalled.success()
            && stalled
                .stderr
                .contains("violate the pod's disruption budget"),
        "{stalled}"
    );
    assert_eq!(get(&a, &["node", "b"])["spec"]["unschedulable"], true);
    assert_eq!(on("b"), 2);

    kubectl(
        &a,
        &[
            "patch",
            "pdb",
            "web",
            "--type=merge",
            "-p",
            "{\"spec\":{\"minAvailable\":1}}",
        ],
    )
    .ok();
    drain(&a, &[]).ok();
    wait_until(SOON, "both run on a", || on("a") == 2);
    let left = get(&a, &["pods", "-A", "--field-selector=spec.nodeName=b"]);
    let left = left["items"].as_array().unwrap();
    assert!(
        left.iter()
            .all(|pod| pod["metadata"]["ownerReferences"][0]["kind"] == "DaemonSet"),
        "{left:?}"
    );
    assert!(!left.is_empty(), "daemon sets stay");
    kubectl(&a, &["uncordon", "b"]).ok();
}

#[test]
fn a_pod_that_does_not_end_stalls_the_drain() {
    let Some(lab) = lab("stand-in-stuck") else {
        return;
    };
    let (a, b) = (lab.host("a"), lab.host("b"));
    server(&a, &[]);
    agent(&b, &a, &token(&a));
    wait_until(SOON, "b is ready", || is_ready(&a, "b"));
    turn_knob(&b, "stuck-pods", "lonely");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "lonely", "namespace": "default"},
        "spec": {"nodeName": "b", "containers": [{"name": "x", "image": "none"}]},
    });
    apply(&a, &lab, &pod).ok();
    wait_until(SOON, "it runs", || {
        get(&a, &["pod", "lonely"])["status"]["phase"] == "Running"
    });
    let stalled = drain(&a, &["--timeout=4s"]);
    assert!(!stalled.success(), "{stalled}");
    assert!(!get(&a, &["pod", "lonely"])["metadata"]["deletionTimestamp"].is_null());
    turn_back(&b, "stuck-pods");
    drain(&a, &[]).ok();
    assert!(!kubectl(&a, &["get", "pod", "lonely"]).success());
}

/// Asks by the agent's own way to the API, as its kubelet.
fn as_kubelet(host: &shoal_tests::Host, method: &str, path: &str, body: &str) -> String {
    let agent = "/var/lib/rancher/k3s/agent";
    let kind = match method {
        "PATCH" => "application/merge-patch+json",
        _ => "application/json",
    };
    let answer = host.sh(&format!(
        "curl -s -X {method} -H 'content-type: {kind}' -d '{body}' -w ' %{{http_code}}' \
         --cacert {agent}/server-ca.crt --cert {agent}/client-kubelet.crt \
         --key {agent}/client-kubelet.key 'https://127.0.0.1:6444{path}'"
    ));
    answer.ok().text().to_owned()
}

#[test]
fn a_node_may_empty_itself_and_nobody_else() {
    let Some(lab) = lab("stand-in-kubelet") else {
        return;
    };
    let (a, b) = (lab.host("a"), lab.host("b"));
    server(&a, &[]);
    agent(&b, &a, &token(&a));
    wait_until(SOON, "b is ready", || is_ready(&a, "b"));
    for node in ["a", "b"] {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("on-{node}"), "namespace": "default"},
            "spec": {"nodeName": node, "containers": [{"name": "x", "image": "none"}]},
        });
        apply(&a, &lab, &pod).ok();
    }
    let pods = "/api/v1/namespaces/default/pods";
    let eviction = |name: &str| {
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}})
            .to_string()
    };
    let another = json!({
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "on-b"},
        "deleteOptions": {"preconditions": {"uid": "another"}},
    });
    let cordon = json!({"spec": {"unschedulable": true}}).to_string();
    let taint = json!({"spec": {"taints": [{"key": "x", "effect": "NoSchedule"}]}}).to_string();
    let own = "/api/v1/pods?fieldSelector=spec.nodeName%3Db";
    for (method, path, body, code) in [
        ("PATCH", "/api/v1/nodes/b", cordon.as_str(), "200"),
        ("PATCH", "/api/v1/nodes/a", &cordon, "403"),
        ("PATCH", "/api/v1/nodes/b", &taint, "403"),
        ("DELETE", "/api/v1/nodes/b", "", "403"),
        ("GET", own, "", "200"),
        ("GET", "/api/v1/pods", "", "403"),
        ("GET", &format!("{pods}/on-a"), "", "403"),
        (
            "POST",
            &format!("{pods}/on-a/eviction"),
            &eviction("on-a"),
            "403",
        ),
        (
            "POST",
            &format!("{pods}/on-b/eviction"),
            &another.to_string(),
            "409",
        ),
        (
            "POST",
            &format!("{pods}/on-b/eviction"),
            &eviction("on-b"),
            "201",
        ),
    ] {
        let said = as_kubelet(&b, method, path, body);
        assert!(said.ends_with(code), "{method} {path}: {said}");
    }
    assert_eq!(get(&a, &["node", "b"])["spec"]["unschedulable"], true);
    wait_until(SOON, "the pod is gone", || {
        !kubectl(&a, &["get", "pod", "on-b"]).success()
    });
}
