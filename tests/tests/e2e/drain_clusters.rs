//! Nodes of a K3s cluster are emptied: pods go as their budgets allow, a server's address goes before
//! its API, and everything comes back.

use std::time::Duration;

use shoal_tests::{Host, Lab, Mesh, text, wait_until};

const SOON: Duration = Duration::from_secs(60);
const CLUSTER: &str = "prod";
/// With the longest leases: what is planned waits for none, and a busy machine costs nobody the address.
const FOUNDED: [&str; 6] = [
    "--cluster",
    CLUSTER,
    "--cni",
    "flannel",
    "--vip-profile",
    "wan",
];
const JOINED: [&str; 2] = ["--cluster", CLUSTER];

/// A pod on `a1` that nobody makes anew; one that a budget keeps there, and one of every node's.
const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: free, labels: {app: free}}
spec:
  nodeName: a1
  containers: [{name: c, image: x}]
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  nodeName: a1
  containers: [{name: c, image: x}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec:
  minAvailable: 1
  selector: {matchLabels: {app: web}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere}
spec:
  selector: {matchLabels: {app: everywhere}}
  template:
    metadata: {labels: {app: everywhere}}
    spec:
      containers: [{name: c, image: x}]
"#;

/// What `kubectl` says, once it gets an answer.
#[track_caller]
fn told(from: &Host, command: &[&str]) -> String {
    let mut told = String::new();
    wait_until(SOON, &format!("kubectl answers {command:?}"), || {
        let shown = from.kubectl(CLUSTER, command);
        told = shown.text().to_owned();
        shown.success()
    });
    told
}

/// Whether pods are kept away from a node.
#[track_caller]
fn is_cordoned(from: &Host, node: &str) -> bool {
    let path = "jsonpath={.spec.unschedulable}";
    told(from, &["get", "node", node, "-o", path]) == "true"
}

/// The names of the pods in the default namespace on a node, without what is made up at their ends.
#[track_caller]
fn pods_on(from: &Host, node: &str) -> Vec<String> {
    let selector = format!("--field-selector=spec.nodeName={node}");
    let names = "jsonpath={.items[*].metadata.labels.app}";
    let told = told(from, &["get", "pods", &selector, "-o", names]);
    let mut pods: Vec<String> = told.split_whitespace().map(str::to_owned).collect();
    pods.sort();
    pods
}

#[track_caller]
fn provision(from: &Host, node: &Host, role: &str, flags: &[&str]) {
    from.provision_k3s(node, role, flags);
    from.wait_for_k3s(CLUSTER, node.name(), "ready");
}

#[test]
fn pods_leave_a_node_as_their_budgets_allow_and_the_only_server_stays() {
    let Some(lab) = Lab::for_test("drain-pods") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 1);
    let (server, agent) = (mesh.node("s1").host.clone(), mesh.node("a1").host.clone());
    provision(&server, &server, "server", &FOUNDED);
    provision(&server, &agent, "agent", &JOINED);
    server.keep_kubeconfig(CLUSTER);
    std::fs::write(server.disk("/tmp/pods.yaml"), PODS).expect("the host's disk is writable");
    let create = ["create", "--validate=false", "-f", "/tmp/pods.yaml"];
    wait_until(SOON, "kubectl makes the pods", || {
        let created = server.kubectl(CLUSTER, &create);
        // What an attempt without an answer has made is refused.
        let left = created
            .stderr
            .lines()
            .filter(|line| !line.contains("AlreadyExists"));
        created.success() || !created.stderr.is_empty() && left.count() == 0
    });
    let all = ["everywhere", "free", "web"].map(str::to_owned);
    wait_until(SOON, "the pods are there", || pods_on(&server, "a1") == all);

    server.shoal(&["node", "drain", "a1", "--cordon-only"]).ok();
    assert!(is_cordoned(&server, "a1"));
    assert_eq!(pods_on(&server, "a1"), all);
    comes_back(&server, "a1");

    let refused = server.shoal_refused(&["node", "drain", "a1", "--timeout", "20s"]);
    assert_eq!(refused["code"], "DrainFailedError", "{refused}");
    let why = text(&refused, "message");
    for words in ["pod default/web", "disruption budget"] {
        assert!(why.contains(words), "{why}");
    }
    assert_eq!(pods_on(&server, "a1"), ["everywhere", "web"]);
    assert!(is_cordoned(&server, "a1"));

    let delete = ["delete", "pdb", "web", "--ignore-not-found"];
    told(&server, &delete);
    let drained = server.patient().shoal(&["node", "drain", "a1"]).ok();
    assert_eq!(drained.text().lines().last(), Some("a1 is empty"));
    assert_eq!(pods_on(&server, "a1"), ["everywhere"]);
    assert_ne!(agent.k3s_process(), "");
    comes_back(&server, "a1");

    let refused = server.shoal_refused(&["node", "drain", "s1"]);
    assert_eq!(refused["code"], "ClusterLastServerError", "{refused}");
    let force = ["node", "drain", "s1", "--force"];
    server.patient().shoal(&force).ok();
    assert_eq!(server.k3s_process(), "");
    server.shoal(&["node", "uncordon", "s1"]).ok();
    server.wait_for_k3s(CLUSTER, "s1", "ready");
    wait_until(SOON, "pods may come to s1", || !is_cordoned(&server, "s1"));
}

#[track_caller]
fn comes_back(server: &Host, node: &str) {
    server.shoal(&["node", "uncordon", node]).ok();
    wait_until(SOON, &format!("pods may come to {node}"), || {
        !is_cordoned(server, node)
    });
}

#[test]
fn a_drained_server_gives_the_api_away_first_and_joins_its_cluster_again_when_it_may_work() {
    let Some(lab) = Lab::for_test("drain-server") else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 3, 1);
    let from = mesh.node("a1").host.clone();
    for (number, name) in ["s1", "s2", "s3"].into_iter().enumerate() {
        let host = mesh.node(name).host.clone();
        let flags: &[&str] = if number == 0 { &FOUNDED } else { &JOINED };
        provision(&from, &host, "server", flags);
    }
    from.keep_kubeconfig(CLUSTER);
    let vip = || from.shoal_json(&["vip", "show", "k3s-prod"]);
    wait_until(SOON, "somebody holds the API's address", || {
        vip()["holder"].is_string()
    });
    let holder = text(&vip(), "holder");
    let host = mesh.node(&holder).host.clone();

    from.patient().shoal(&["node", "drain", &holder]).ok();
    assert_ne!(vip()["holder"], holder.as_str());
    wait_until(SOON, "another one holds the API's address", || {
        let now = vip()["holder"].clone();
        now.is_string() && now != holder.as_str()
    });
    assert_eq!(host.k3s_process(), "");
    let row = from.k3s_row(CLUSTER, &holder).expect("it is still in");
    assert_eq!(row["phase"], "drained", "{row}");
    wait_until(SOON, "the others serve the API", || {
        let created = from.kubectl(CLUSTER, &["create", "configmap", "after"]);
        created.success() || created.stderr.contains("AlreadyExists")
    });
    assert!(is_cordoned(&from, &holder));

    // Another daemon finds it at rest, and leaves it so.
    mesh.node(&holder).daemon.kill9();
    mesh.node_mut(&holder).restart_daemon();
    mesh.wait_until_settled(3);
    assert_eq!(host.k3s_process(), "");

    from.shoal(&["node", "uncordon", &holder]).ok();
    from.wait_for_k3s(CLUSTER, &holder, "ready");
    wait_until(SOON, "pods may come to it", || !is_cordoned(&from, &holder));
}
