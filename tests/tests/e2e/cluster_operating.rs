//! What operators do with a K3s cluster: look at it, reach it, save it and bring it back, give it up.

use std::time::Duration;

use serde_json::Value;
use shoal_tests::{Host, K3S, Lab, Mesh, SOCKET, patient, text, wait_until};

const SOON: Duration = Duration::from_secs(60);
const CLUSTER: &str = "prod";
const FOUNDED: [&str; 6] = patient(CLUSTER);
const JOINED: [&str; 2] = ["--cluster", CLUSTER];

fn keys(row: &Value) -> Vec<&str> {
    let row = row.as_object().expect("an object");
    let mut keys: Vec<&str> = row.keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// The rows of a list.
#[track_caller]
fn rows(host: &Host, args: &[&str]) -> Vec<Value> {
    let command = [args, &["--json"]].concat();
    host.shoal(&command).ok().json_rows()
}

/// The HTTP status of a request with a body to a host's daemon.
#[track_caller]
pub(crate) fn http_status(host: &Host, path: &str, body: &str) -> String {
    let url = format!("http://shoal/v1/{path}");
    let request = ["curl", "-s", "--unix-socket", SOCKET, "-d", body, &url];
    let shown = ["-o", "/dev/null", "-w", "%{http_code}"];
    let answer = host.run(&[request.as_slice(), &shown].concat()).ok();
    answer.text().to_owned()
}

/// How modules are listed: where each is assigned, and which nodes that comes to.
#[track_caller]
fn module(host: &Host, name: &str) -> [Value; 2] {
    let all = rows(host, &["module", "ls"]);
    let row = all.iter().find(|row| row["name"] == name);
    let row = row.expect("every module is listed");
    [row["assigned_to"].clone(), row["nodes"].clone()]
}

#[test]
fn a_cluster_is_looked_at_reached_and_given_up_from_any_node() {
    let Some(lab) = Lab::for_test("cluster") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 2);
    let host = |name: &str| mesh.node(name).host.clone();
    let (s1, a1, a2) = (host("s1"), host("a1"), host("a2"));
    s1.turn_knob("fail-readyz", "");
    a2.provision_k3s(&s1, "server", &FOUNDED);
    a2.wait_for_k3s(CLUSTER, "s1", "bootstrap");
    nothing_is_told_of_one_that_is_on_its_way(&a2);
    s1.turn_back("fail-readyz");
    a2.wait_for_k3s(CLUSTER, "s1", "ready");

    let listed = rows(&a2, &["cluster", "ls"]);
    let mut named = [
        "id",
        "name",
        "status",
        "api_endpoint",
        "network",
        "cni",
        "node_count",
    ];
    named.sort_unstable();
    assert_eq!(keys(&listed[0]), named, "{listed:?}");
    let by_id = text(&listed[0], "id");
    let shown = a2.shoal_json(&["cluster", "show", &by_id]);
    assert_eq!(shown["name"], CLUSTER, "{shown}");
    let nodes = rows(&a2, &["cluster", "nodes", CLUSTER]);
    let row = (nodes[0]["node"].clone(), nodes[0]["role"].clone());
    assert_eq!(row, ("s1".into(), "server".into()), "{nodes:?}");
    assert_eq!(nodes[0]["status"], "active", "{nodes:?}");
    assert_eq!(nodes[0]["version"], shown["version"], "{nodes:?}");

    a_kubeconfig_may_go_into_a_file_of_its_own(&a2);
    modules_are_assigned_taken_back_and_listed(&a2);
    // A second server is worse than one.
    a1.hasten_k3s("server");
    let provision = ["k3s", "provision", "a1", "--role", "server"];
    let provision = [provision.as_slice(), &["--k3s-binary", K3S], &JOINED].concat();
    let warned = a2.shoal_json(&provision);
    assert!(warned["warnings"].to_string().contains("two servers"));
    a2.wait_for_k3s(CLUSTER, "a1", "ready");
    let shown = a2.shoal_json(&["cluster", "show", CLUSTER]);
    assert!(shown["warnings"].to_string().contains("two servers"));
    a_server_that_leaves_has_its_cluster_saved_by_one_that_stays(&a2, &s1);

    a2.shoal(&["cluster", "decommission", CLUSTER, "--yes"])
        .ok();
    assert!(rows(&a2, &["cluster", "ls"]).is_empty());
    assert!(rows(&a2, &["vip", "ls"]).is_empty());
    for host in [&s1, &a1, &a2] {
        wait_until(SOON, &format!("K3s is off {}", host.name()), || {
            host.k3s_process().is_empty()
        });
    }
    assert_eq!(module(&a2, "k3s-server")[0], Value::from(vec!["s1"]));
    assert_eq!(module(&a2, "k3s-server")[1], Value::Array(Vec::new()));
    a2.shoal(&["module", "unassign", "s1", "k3s-server"]).ok();
}

#[track_caller]
fn nothing_is_told_of_one_that_is_on_its_way(host: &Host) {
    for what in ["kubeconfig", "snapshot"] {
        let refused = host.shoal_refused(&["cluster", what, CLUSTER]);
        assert_eq!(refused["code"], "ClusterNotReadyError", "{refused}");
        assert!(
            text(&refused, "message").contains("not yet available"),
            "{refused}"
        );
        let status = http_status(host, &format!("clusters/{CLUSTER}/{what}"), "");
        assert_eq!(status, "422", "{what}");
    }
    let unknown = http_status(host, "clusters/nothing/kubeconfig", "");
    assert_eq!(unknown, "404");
    // Nor is a node assigned to one that is not there, or is another than was said.
    let strange = r#"{"module": "k3s-agent", "node": "a1", "cluster": "nothing"}"#;
    assert_eq!(http_status(host, "modules/assign", strange), "404");
    let other = format!(r#"{{"role": "agent", "cluster": "{CLUSTER}", "network": "blue"}}"#);
    assert_eq!(http_status(host, "k3s/a1/provision", &other), "409");
    let upgrade = ["cluster", "upgrade", CLUSTER, "--binary", "/k3s"];
    let refused = host.shoal_refused(&[upgrade.as_slice(), &["--version", "v1.33.1"]].concat());
    assert_eq!(refused["code"], "ClusterBusyError", "{refused}");
}

#[track_caller]
fn a_kubeconfig_may_go_into_a_file_of_its_own(host: &Host) {
    let path = "/tmp/own.kubeconfig";
    host.shoal(&["cluster", "kubeconfig", CLUSTER, "--out", path])
        .ok();
    let mode = host.run(&["stat", "-c", "%a", path]).ok();
    assert_eq!(mode.text(), "600");
    let get = ["kubectl", "--request-timeout=3s", "get", "nodes"];
    wait_until(SOON, "kubectl reaches the cluster with it", || {
        host.run_with(&get, &[("KUBECONFIG", path)]).success()
    });
    let logged = host.log("shoald");
    for secret in ["client-key-data", "certificate-authority-data"] {
        assert!(!logged.contains(secret), "{secret} is in the log");
    }
}

#[track_caller]
fn a_server_that_leaves_has_its_cluster_saved_by_one_that_stays(from: &Host, stays: &Host) {
    from.shoal(&["module", "unassign", "a1", "k3s-server", "--yes"])
        .ok();
    let saved = stays.sh("ls /var/lib/rancher/k3s/server/db/snapshots");
    assert!(saved.stdout.contains("shoal-before-removal-s1-"), "{saved}");
    from.wait_until_not_in(CLUSTER, "a1");
}

#[track_caller]
fn modules_are_assigned_taken_back_and_listed(host: &Host) {
    host.sh(&format!("install {K3S} /usr/local/bin/k3s")).ok();
    host.hasten_k3s("agent");
    let assign = ["module", "assign", host.name(), "k3s-agent"];
    host.shoal(&assign).ok();
    host.wait_for_k3s(CLUSTER, host.name(), "ready");
    let here = Value::from(vec![host.name()]);
    assert_eq!(module(host, "k3s-agent"), [here.clone(), here]);
    let refused = host.shoal_refused(&assign);
    assert_eq!(refused["code"], "ModuleAssignedError", "{refused}");
    let both = ["module", "assign", host.name(), "k3s-server"];
    let refused = host.shoal_refused(&both);
    assert_eq!(refused["code"], "K3sRoleTakenError", "{refused}");
    let unassign = ["module", "unassign", host.name(), "k3s-agent"];
    let refused = host.shoal_refused(&unassign);
    assert_eq!(refused["code"], "ConfirmationRequiredError", "{refused}");
    host.shoal(&[unassign.as_slice(), &["--yes"]].concat()).ok();
    host.wait_until_not_in(CLUSTER, host.name());
    assert_eq!(module(host, "k3s-agent")[0], Value::Array(Vec::new()));
}

/// The way that docs/clusters.md describes.
#[test]
fn a_snapshot_brings_back_what_a_cluster_had() {
    let Some(lab) = Lab::for_test("cluster-restore") else {
        return;
    };
    is_brought_back(&lab, &["a1"]);
}

/// The same way: the others join anew what was restored.
#[test]
fn a_snapshot_brings_back_what_a_cluster_of_three_servers_had() {
    let Some(lab) = Lab::for_test("cluster-restore-servers") else {
        return;
    };
    is_brought_back(&lab, &["a1", "a2", "a3"]);
}

/// Where hosts find the snapshot: it is to be on the founder, and may have been taken elsewhere.
const SNAPSHOT: &str = "/run/lab/files/snapshot";

#[track_caller]
fn is_brought_back(lab: &Lab, servers: &[&str]) {
    let mut mesh = Mesh::new(lab, 1, servers.len());
    let host = |mesh: &Mesh, name: &str| mesh.node(name).host.clone();
    let (s1, founder) = (host(&mesh, "s1"), host(&mesh, servers[0]));
    for name in servers {
        let flags: &[&str] = if *name == servers[0] {
            &FOUNDED
        } else {
            &JOINED
        };
        s1.provision_k3s(&host(&mesh, name), "server", flags);
        s1.wait_for_k3s(CLUSTER, name, "ready");
    }
    s1.keep_kubeconfig(CLUSTER);
    s1.kubectl_creates(CLUSTER, &["configmap", "before"]);
    let taken = s1.shoal_json(&["cluster", "snapshot", CLUSTER]);
    let (on, path) = (text(&taken, "node"), text(&taken, "path"));
    assert!(servers.contains(&on.as_str()), "{taken}");
    assert!(text(&taken, "name").starts_with(&format!("shoal-on-demand-{on}-")));
    let copy = format!("test -s {path} && cp {path} {SNAPSHOT}");
    host(&mesh, &on).sh(&copy).ok();
    let delete = ["delete", "configmap", "before", "--ignore-not-found"];
    wait_until(SOON, "what was there before is gone", || {
        s1.kubectl(CLUSTER, &delete).success()
    });
    s1.kubectl_creates(CLUSTER, &["configmap", "after"]);

    for name in servers {
        mesh.node(name).daemon.stop();
    }
    for name in servers {
        let host = host(&mesh, name);
        // One whose etcd has lost its majority by now may have ended by itself.
        host.run(&["kill", &host.k3s_process()]);
        wait_until(SOON, "K3s has ended", || host.k3s_process().is_empty());
    }
    let restore = format!("--cluster-reset-restore-path={SNAPSHOT}");
    founder
        .run(&["k3s", "server", "--cluster-reset", &restore])
        .ok();
    for name in &servers[1..] {
        host(&mesh, name)
            .sh("mv /var/lib/rancher/k3s/server/db /var/lib/rancher/k3s/server/db.before")
            .ok();
    }
    for name in servers {
        mesh.node_mut(name).restart_daemon();
    }
    wait_until(SOON, "the cluster has what it had", || {
        let shown = s1.kubectl(CLUSTER, &["get", "configmaps", "-o", "name"]);
        let has = |name: &str| shown.stdout.contains(&format!("configmap/{name}\n"));
        shown.success() && has("before") && !has("after")
    });
    for name in servers {
        s1.wait_for_k3s(CLUSTER, name, "ready");
        wait_until(SOON, "the node is back", || s1.sees_ready(CLUSTER, name));
    }
    for name in servers {
        let host = host(&mesh, name);
        wait_until(SOON, "etcd has them all again", || {
            host.etcd_members() == servers.len()
        });
    }
    s1.kubectl_creates(CLUSTER, &["configmap", "later"]);
}
