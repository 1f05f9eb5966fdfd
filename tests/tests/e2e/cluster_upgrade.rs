//! A K3s cluster gets another K3s: one server at a time, saved and without the API's address, then its
//! workers, emptied; and nothing further once one of them cannot.

use std::time::Duration;

use serde_json::Value;
use shoal_tests::{Host, K3S, Lab, Mesh, text, wait_until};

const SOON: Duration = Duration::from_secs(60);
/// Four turns of a node, on a machine that builds at the same time.
const ROUND: Duration = Duration::from_secs(240);
const CLUSTER: &str = "prod";
const VIP: &str = "k3s-prod";
const FOUNDED: [&str; 4] = ["--cluster", CLUSTER, "--cni", "flannel"];
const JOINED: [&str; 2] = ["--cluster", CLUSTER];
const NEW: &str = "v1.33.1+k3s1";
const NEW_BINARY: &str = "/run/lab/files/k3s-new";

/// A pod on `a1` that nobody makes anew.
const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: free}
spec:
  nodeName: a1
  containers: [{name: c, image: x}]
"#;

struct Cluster {
    mesh: Mesh,
}

impl Cluster {
    #[track_caller]
    fn new(lab: &Lab, servers: &[&str], agents: &[&str]) -> Self {
        let mesh = Mesh::new(lab, servers.len(), agents.len());
        let from = mesh.node("s1").host.clone();
        for name in servers {
            let flags: &[&str] = if *name == "s1" { &FOUNDED } else { &JOINED };
            from.provision_k3s(&mesh.node(name).host, "server", flags);
            from.wait_for_k3s(CLUSTER, name, "ready");
        }
        for name in agents {
            from.provision_k3s(&mesh.node(name).host, "agent", &JOINED);
            from.wait_for_k3s(CLUSTER, name, "ready");
        }
        // An executable's version is what stands at its end.
        let copy = format!("cp {K3S} {NEW_BINARY}");
        let mark = format!("printf '\\nK3S-STAND-IN-VERSION={NEW}\\n' >>{NEW_BINARY}");
        from.sh(&format!("{copy} && {mark} && {NEW_BINARY} --version"))
            .ok();
        from.keep_kubeconfig(CLUSTER);
        Self { mesh }
    }

    fn host(&self, name: &str) -> Host {
        self.mesh.node(name).host.clone()
    }

    /// The version of each node, in their order.
    #[track_caller]
    fn versions(&self) -> Vec<String> {
        let list = ["cluster", "nodes", CLUSTER, "--json"];
        let rows = self.host("s1").shoal(&list).ok().json_rows();
        rows.iter().map(|row| text(row, "version")).collect()
    }

    #[track_caller]
    fn show(&self) -> Value {
        self.host("s1").shoal_json(&["cluster", "show", CLUSTER])
    }

    /// What each node's K3s is, told apart from one that was started anew.
    fn processes(&self) -> Vec<String> {
        let nodes = self.mesh.nodes.iter();
        nodes.map(|node| node.host.k3s_process()).collect()
    }

    /// The nodes that became ready with the new version, in the order in which they did.
    #[track_caller]
    fn order(&self) -> Vec<String> {
        let list = [
            "events",
            "--kind-prefix",
            "system.k3s.handshake.ready",
            "--json",
        ];
        let mut order: Vec<String> = Vec::new();
        for event in self.host("s1").shoal(&list).ok().json_rows() {
            let node = text(&event, "node");
            if event["payload"]["version"] == NEW && !order.contains(&node) {
                order.push(node);
            }
        }
        order
    }
}

fn upgrade<'a>(binary: &'a str, version: &'a str) -> [&'a str; 7] {
    let upgrade = ["cluster", "upgrade", CLUSTER];
    let [a, b, c] = upgrade;
    [a, b, c, "--binary", binary, "--version", version]
}

#[test]
fn servers_are_upgraded_one_after_another_the_apis_holder_last_and_then_the_worker() {
    let Some(lab) = Lab::for_test("cluster-upgrade") else {
        return;
    };
    let cluster = Cluster::new(&lab, &["s1", "s2", "s3"], &["a1"]);
    let s1 = cluster.host("s1");
    std::fs::write(s1.disk("/tmp/pod.yaml"), POD).expect("the host's disk is writable");
    s1.kubectl(
        CLUSTER,
        &["create", "--validate=false", "-f", "/tmp/pod.yaml"],
    )
    .ok();
    let holder = text(&s1.shoal_json(&["vip", "show", VIP]), "holder");
    let old = cluster.versions();
    assert_ne!(old[0], NEW);

    let begin = [upgrade(NEW_BINARY, NEW).as_slice(), &["--no-wait"]].concat();
    s1.shoal(&begin).ok();
    let refused = s1.shoal_refused(&upgrade(NEW_BINARY, NEW));
    assert_eq!(refused["code"], "ClusterBusyError", "{refused}");
    wait_until(ROUND, "all of them have it", || {
        let shown = cluster.show();
        let failed = &shown["rollout"]["failed_at"];
        assert!(failed.is_null(), "{shown}");
        shown["rollout"].is_null()
    });
    assert_eq!(cluster.versions(), [NEW; 4].map(str::to_owned));
    assert_eq!(cluster.show()["version"], NEW);
    let order = cluster.order();
    assert_eq!(order.len(), 4, "{order:?}");
    assert_eq!((&order[2], order[3].as_str()), (&holder, "a1"), "{order:?}");
    for server in ["s1", "s2", "s3"] {
        let saved = cluster
            .host(server)
            .sh("ls /var/lib/rancher/k3s/server/db/snapshots");
        assert!(saved.stdout.contains("shoal-before-change-"), "{saved}");
    }
    for node in ["s1", "s2", "s3", "a1"] {
        let path = "jsonpath={.spec.unschedulable} {.status.nodeInfo.kubeletVersion}";
        wait_until(SOON, &format!("pods may come to {node}"), || {
            let get = ["get", "node", node, "-o", path];
            let shown = s1.kubectl(CLUSTER, &get);
            let told = shown.text();
            shown.success() && told.ends_with(NEW) && !told.starts_with("true")
        });
    }
    let pod = s1.kubectl(CLUSTER, &["get", "pod", "free"]);
    assert!(pod.stderr.contains("NotFound"), "it was evicted: {pod}");
    // Where it is is said for every node, not for this one's shell.
    let again = s1.shoal_refused(&upgrade("relative", NEW));
    assert_eq!(again["code"], "InvalidInputError", "{again}");
}

#[test]
fn an_upgrade_stops_where_it_failed_and_another_one_goes_on_there() {
    let Some(lab) = Lab::for_test("cluster-upgrade-fails") else {
        return;
    };
    let cluster = Cluster::new(&lab, &["s1"], &["a1"]);
    let s1 = cluster.host("s1");
    let before = cluster.processes();
    let refused = s1.shoal_refused(&upgrade(NEW_BINARY, "v9.9.9+k3s1"));
    assert_eq!(refused["code"], "ClusterUpgradeStoppedError", "{refused}");
    let message = text(&refused, "message");
    for word in ["s1", NEW, "v9.9.9+k3s1"] {
        assert!(message.contains(word), "{message}");
    }
    // A program of no use has cost nobody anything.
    assert_eq!(cluster.processes(), before);
    let shown = cluster.show();
    assert_eq!(shown["rollout"]["failed_at"], "s1", "{shown}");
    let cordoned = ["get", "node", "s1", "-o", "jsonpath={.spec.unschedulable}"];
    assert_eq!(s1.kubectl(CLUSTER, &cordoned).ok().text(), "");
    let again = s1.shoal_refused(&upgrade(NEW_BINARY, "v9.9.9+k3s1"));
    assert_eq!(again["code"], "ClusterUpgradeStoppedError", "{again}");

    let done = s1.shoal(&upgrade(NEW_BINARY, NEW)).ok();
    let last = done.stdout.lines().last().unwrap_or_default();
    assert_eq!(last, format!("prod runs {NEW} on 2 nodes"), "{done}");
    assert_eq!(cluster.versions(), [NEW; 2].map(str::to_owned));
    assert_eq!(cluster.show()["status"], "active");
}

#[test]
fn a_cluster_with_a_node_that_is_not_heard_is_not_upgraded() {
    let Some(lab) = Lab::for_test("cluster-upgrade-lost") else {
        return;
    };
    let cluster = Cluster::new(&lab, &["s1"], &["a1"]);
    let s1 = cluster.host("s1");
    cluster.mesh.node("a1").daemon.kill9();
    wait_until(SOON, "it is missed", || {
        s1.shoal_json(&["node", "show", "a1"])["silent"] == true
    });
    let refused = s1.shoal_refused(&upgrade(NEW_BINARY, NEW));
    assert_eq!(refused["code"], "ClusterBusyError", "{refused}");
    assert!(text(&refused, "message").contains("a1"), "{refused}");
    assert!(cluster.show()["rollout"].is_null());
}
