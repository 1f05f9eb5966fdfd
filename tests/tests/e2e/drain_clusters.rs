//! Nodes of a K3s cluster are emptied: pods go as their budgets allow, a server's address goes before
//! its API, and everything comes back.

use std::time::Duration;

use serde_json::Value;
use shoal_tests::{Host, Lab, Mesh, budget, pod, text, wait_until};

use crate::drain::wait_for_drain;

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

/// What every node runs.
const EVERYWHERE: &str = "---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere}
spec:
  selector: {matchLabels: {app: everywhere}}
  template:
    metadata: {labels: {app: everywhere}}
    spec: {containers: [{name: c, image: x}]}
";

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
    let (free, kept) = (pod("free", "a1"), pod("web", "a1"));
    let pods = [EVERYWHERE, &free, &kept, &budget("web", 1)].concat();
    server.kubectl_creates_all(CLUSTER, &pods);
    let all = ["everywhere", "free", "web"].map(str::to_owned);
    wait_until(SOON, "the pods are there", || pods_on(&server, "a1") == all);

    server.shoal(&["node", "drain", "a1", "--cordon-only"]).ok();
    assert!(is_cordoned(&server, "a1"));
    assert_eq!(pods_on(&server, "a1"), all);
    comes_back(&server, "a1");

    let refused = server.shoal_refused(&["node", "drain", "a1", "--timeout", "20s"]);
    assert_eq!(refused["code"], "DrainFailedError", "{refused}");
    let why = text(&refused, "message");
    for words in KEPT {
        assert!(why.contains(words), "{why}");
    }
    assert_eq!(pods_on(&server, "a1"), ["everywhere", "web"]);
    assert!(is_cordoned(&server, "a1"));

    ends_once_the_budget_gives_way(&server);
    assert_eq!(pods_on(&server, "a1"), ["everywhere", "guest"]);
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

/// In which words the pod is told that its budget keeps.
const KEPT: [&str; 2] = ["pod default/web-a1", "disruption budget"];

/// One and the same drain is held back, tells by what, and goes on when that gives way.
#[track_caller]
fn ends_once_the_budget_gives_way(server: &Host) {
    let drain = server.spawn(&["bash", "-c", "exec shoal node drain a1 >/tmp/drain"]);
    let said = || std::fs::read_to_string(server.disk("/tmp/drain")).unwrap_or_default();
    wait_until(SOON, "the command tells what it waits for", || {
        KEPT.iter().all(|words| said().contains(words))
    });
    wait_for_drain(server, "a1", "draining", KEPT[0]);
    assert!(drain.is_running());
    assert_eq!(pods_on(server, "a1"), ["everywhere", "web"]);
    // One that names the node itself comes back as often as it is evicted: it is left there in the end.
    wait_until(
        SOON,
        "a pod that comes again and again is no reason to wait",
        || {
            server.kubectl_creates_all(CLUSTER, &pod("guest", "a1"));
            said().contains("pod default/guest-a1 came after the cordon")
        },
    );
    let delete = ["delete", "pdb", "web", "--ignore-not-found"];
    told(server, &delete);
    let status = drain.wait(SOON);
    assert!(status.success(), "{status}");
    let left = "a1 is drained; pod default/guest-a1 came after the cordon, and stays";
    assert_eq!(said().lines().last(), Some(left));
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
    let before = vip();
    let holder = text(&before, "holder");
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
    from.kubectl_creates(CLUSTER, &["configmap", "after"]);
    assert!(is_cordoned(&from, &holder));
    // Nor does it go back when it is told to.
    let back = ["vip", "failover", "k3s-prod", "--to", &holder];
    let refused = from.shoal_refused(&back);
    assert_eq!(refused["code"], "VirtualIpNoCandidateError", "{refused}");

    // Another daemon finds it at rest, and leaves it so.
    mesh.node(&holder).daemon.kill9();
    mesh.node_mut(&holder).restart_daemon();
    mesh.wait_until_settled(3);
    assert_eq!(host.k3s_process(), "");
    assert!(!had_it_since(&vip(), &holder, &before));

    from.shoal(&["node", "uncordon", &holder]).ok();
    from.wait_for_k3s(CLUSTER, &holder, "ready");
    wait_until(SOON, "pods may come to it", || !is_cordoned(&from, &holder));
    wait_until(SOON, "it may have the API's address again", || {
        let shown = vip();
        let candidates = shown["readiness"].as_array().expect("they are a list");
        let mut own = candidates.iter().filter(|one| one["node"] == *holder);
        own.any(|one| one["fit"] == true)
    });
    // Nobody asked for it to go back.
    assert!(!had_it_since(&vip(), &holder, &before));
    from.shoal(&back).ok();
    wait_until(SOON, "it has it when it is asked for", || {
        vip()["holder"] == *holder
    });
}

/// Whether a node has come to hold a virtual IP since it was seen like that. As many moves are kept as a
/// test does not make.
#[track_caller]
fn had_it_since(shown: &Value, node: &str, before: &Value) -> bool {
    let moves = shown["moves"].as_array().expect("they are a list");
    let epoch = |of: &Value| of["epoch"].as_u64();
    let mut later = moves.iter().filter(|done| epoch(done) > epoch(before));
    later.any(|done| done["to"] == *node)
}
