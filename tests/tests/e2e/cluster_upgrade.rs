//! A K3s cluster gets another K3s: one server at a time, saved and without the API's address, then its
//! workers, emptied; and nothing further once one of them cannot.

use std::time::Duration;

use serde_json::Value;
use shoal_tests::{Host, K3S, Lab, Mesh, Output, budget, patient, pod, text, wait_until};

const SOON: Duration = Duration::from_secs(60);
/// Four turns of a node, on a machine that builds at the same time.
const ROUND: Duration = Duration::from_secs(240);
const CLUSTER: &str = "prod";
const VIP: &str = "k3s-prod";
const FOUNDED: [&str; 6] = patient(CLUSTER);
const JOINED: [&str; 2] = ["--cluster", CLUSTER];
/// What an upgrade is refused for while a node is not heard.
const UNHEARD: &str = "has nodes that are not heard of";
const NEW: &str = "v1.33.1+k3s1";
const NEW_BINARY: &str = "/run/lab/files/k3s-new";

struct Cluster {
    mesh: Mesh,
}

impl Cluster {
    #[track_caller]
    fn new(lab: &Lab, servers: &[&str], agents: &[&str]) -> Self {
        Self::of(Mesh::new(lab, servers.len(), agents.len()), servers, agents)
    }

    /// Of these nodes of a mesh, looked at from `s1`.
    #[track_caller]
    fn of(mesh: Mesh, servers: &[&str], agents: &[&str]) -> Self {
        let from = mesh.node("s1").host.clone();
        for name in servers {
            let flags: &[&str] = if *name == servers[0] {
                &FOUNDED
            } else {
                &JOINED
            };
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

    /// What was agreed of clusters and of their addresses, oldest first.
    #[track_caller]
    fn events(&self) -> Vec<Value> {
        let list = ["events", "--kind-prefix", "system.", "--json"];
        self.host("s1").shoal(&list).ok().json_rows()
    }

    /// Has a command carried out that is refused as long as any node is not heard, which one that has
    /// much to do may not be for a moment.
    #[track_caller]
    fn runs(&self, command: &[&str]) -> Output {
        let host = self.host("s1").patient();
        let mut ended = None;
        wait_until(SOON, "every node is heard", || {
            let output = host.shoal(command);
            let silent = !output.success() && output.to_string().contains(UNHEARD);
            ended = Some(output);
            !silent
        });
        ended.expect("it ran")
    }

    /// A pod on each of these nodes, none of which their budget gives away.
    #[track_caller]
    fn keeps_a_pod_on(&self, nodes: &[&str]) {
        let pods = nodes.iter().map(|node| pod("kept", node));
        let all: String = pods.chain([budget("kept", nodes.len())]).collect();
        self.host("s1").kubectl_creates_all(CLUSTER, &all);
    }

    #[track_caller]
    fn budget_gives_way(&self) {
        wait_until(SOON, "the budget is taken away", || {
            let delete = ["delete", "pdb", "kept", "--ignore-not-found"];
            self.host("s1").kubectl(CLUSTER, &delete).success()
        });
    }

    /// Whose turn it is, once it is that of so many.
    #[track_caller]
    fn turn_of(&self, count: usize) -> Vec<String> {
        let mut turn = Vec::new();
        wait_until(ROUND, &format!("it is the turn of {count}"), || {
            let shown = self.show();
            let rollout = &shown["rollout"];
            assert!(rollout["failed_at"].is_null(), "{shown}");
            let nodes = rollout["turn"].as_array().cloned().unwrap_or_default();
            turn = nodes
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            turn.len() == count
        });
        turn.sort();
        turn
    }

    /// Waits until all nodes have it, and nothing stops it.
    #[track_caller]
    fn goes_round(&self) {
        wait_until(ROUND, "all of them have it", || {
            let shown = self.show();
            assert!(shown["rollout"]["failed_at"].is_null(), "{shown}");
            shown["rollout"].is_null()
        });
    }
}

/// A node's turn, as the events tell it.
#[derive(Debug)]
struct Turn {
    node: String,
    /// Who held the API's address when the turn was given.
    holder: String,
    /// Whether another server could have had it then: one whose turn was still to come.
    was_a_choice: bool,
    /// Whether the address left this node during its turn.
    let_go: bool,
}

fn is_new(event: &Value) -> bool {
    event["kind"] == "system.k3s.handshake.ready" && event["payload"]["version"] == NEW
}

/// The nodes that became ready with the new version, in the order in which they did.
#[track_caller]
fn order(events: &[Value]) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    for event in events.iter().filter(|event| is_new(event)) {
        let node = text(event, "node");
        if !order.contains(&node) {
            order.push(node);
        }
    }
    order
}

/// Every turn, in their order. The next one is given when a node is ready with the new version.
#[track_caller]
fn turns(events: &[Value]) -> Vec<Turn> {
    let order = order(events);
    let mut holder = String::new();
    let mut turns: Vec<Turn> = Vec::new();
    for event in events {
        let mine = event["payload"]["vip"] == VIP;
        // Neither who is changed nor who is not fails meanwhile.
        assert_ne!(event["kind"], "system.k3s.failed", "{event}");
        let begins = match text(event, "kind").replace("system.", "").as_str() {
            "sdwan.virtual_ip.allocated" | "sdwan.virtual_ip.moved" if mine => {
                holder = text(&event["payload"], "to");
                false
            }
            "sdwan.virtual_ip.released" if mine => {
                holder.clear();
                false
            }
            "k3s.handshake.ready" => {
                let done = turns.last().is_some_and(|turn| event["node"] == *turn.node);
                done && is_new(event)
            }
            "k3s.rollout.started" => turns.is_empty(),
            _ => false,
        };
        if let Some(turn) = turns.last_mut() {
            turn.let_go |= turn.holder == turn.node && holder != turn.node;
        }
        let Some(node) = order.get(turns.len()).filter(|_| begins) else {
            continue;
        };
        let mut later = order[turns.len() + 1..].iter();
        turns.push(Turn {
            node: node.clone(),
            holder: holder.clone(),
            was_a_choice: later.any(|other| other.starts_with('s')),
            let_go: false,
        });
    }
    turns
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
    s1.kubectl_creates_all(CLUSTER, &pod("free", "a1"));
    wait_until(SOON, "somebody holds the API's address", || {
        s1.shoal_json(&["vip", "show", VIP])["state"] == "held"
    });
    let old = cluster.versions();
    assert_ne!(old[0], NEW);

    let begin = [upgrade(NEW_BINARY, NEW).as_slice(), &["--no-wait"]].concat();
    cluster.runs(&begin).ok();
    let refused = s1.shoal_refused(&upgrade(NEW_BINARY, NEW));
    assert_eq!(refused["code"], "ClusterBusyError", "{refused}");
    cluster.goes_round();
    assert_eq!(cluster.versions(), [NEW; 4].map(str::to_owned));
    assert_eq!(cluster.show()["version"], NEW);
    let turns = turns(&cluster.events());
    assert_eq!(turns.len(), 4, "{turns:?}");
    assert_eq!(turns[3].node, "a1", "{turns:?}");
    assert!(!turns[0].holder.is_empty(), "{turns:?}");
    for turn in &turns {
        let holds = turn.node == turn.holder;
        assert!(!(holds && turn.was_a_choice), "not last: {turns:?}");
        assert!(
            !holds || turn.let_go,
            "restarted with the address: {turns:?}"
        );
    }
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
    wait_until(SOON, "the pod was evicted", || {
        let pod = s1.kubectl(CLUSTER, &["get", "pod", "free-a1"]);
        pod.stderr.contains("NotFound")
    });
    // Where it is is said for every node, not for this one's shell.
    let again = s1.shoal_refused(&upgrade("relative", NEW));
    assert_eq!(again["code"], "InvalidInputError", "{again}");
}

#[test]
fn workers_are_upgraded_as_many_at_once_as_it_is_asked_for() {
    let Some(lab) = Lab::for_test("cluster-upgrade-batch") else {
        return;
    };
    let cluster = Cluster::new(&lab, &["s1"], &["a1", "a2"]);
    cluster.keeps_a_pod_on(&["a1", "a2"]);
    let both = ["--batch", "2", "--no-wait"];
    let begin = [upgrade(NEW_BINARY, NEW).as_slice(), &both].concat();
    cluster.runs(&begin).ok();
    // Neither can end its turn, and both have it.
    assert_eq!(cluster.turn_of(2), ["a1", "a2"]);
    cluster.budget_gives_way();
    cluster.goes_round();
    assert_eq!(cluster.versions(), [NEW; 3].map(str::to_owned));
}

/// While a server waits for its pod to go, another one is lost: what it was about to do is not done then.
#[test]
fn a_server_that_etcd_cannot_spare_is_left_as_it_is_until_the_others_are_back() {
    let Some(lab) = Lab::for_test("cluster-upgrade-quorum") else {
        return;
    };
    let servers = ["a1", "a2", "a3"];
    let mut cluster = Cluster::of(Mesh::new(&lab, 1, 3), &servers, &[]);
    let s1 = cluster.host("s1");
    cluster.keeps_a_pod_on(&servers);
    cluster
        .runs(&[upgrade(NEW_BINARY, NEW).as_slice(), &["--no-wait"]].concat())
        .ok();
    let first = cluster.turn_of(1).remove(0);
    let host = cluster.host(&first);
    host.wait_for_status(SOON, "it tells what its turn waits for", |status| {
        let conditions = status["conditions"].to_string();
        ["its turn waits", "pod default/kept-", "disruption budget"]
            .iter()
            .all(|words| conditions.contains(words))
    });

    let holder = text(&s1.shoal_json(&["vip", "show", VIP]), "holder");
    let spared = |name: &&&str| **name != first && **name != holder;
    let lost = *servers.iter().find(spared).expect("there are three");
    cluster.host(lost).power_off();
    wait_until(SOON, "it is missed where the turn is", || {
        host.shoal_json(&["node", "show", lost])["silent"] == true
    });
    let process = host.k3s_process();
    assert_ne!(process, "");
    cluster.budget_gives_way();

    wait_until(ROUND, "the upgrade stops", || {
        !cluster.show()["rollout"]["failed_at"].is_null()
    });
    let shown = cluster.show();
    assert_eq!(shown["rollout"]["failed_at"], first.as_str(), "{shown}");
    let why = ["no majority of 3", lost, "bring them back"];
    let reason = text(&shown["rollout"], "reason");
    assert!(why.iter().all(|words| reason.contains(words)), "{reason}");
    host.wait_for_status(SOON, "it tells that itself", |status| {
        let conditions = status["conditions"].to_string();
        why.iter().all(|words| conditions.contains(words))
    });
    let events = cluster.events();
    let mut failed = events
        .iter()
        .filter(|event| event["kind"] == "system.k3s.failed");
    let failed = failed.next().expect("it is told");
    assert_eq!(failed["node"], first.as_str(), "{failed}");
    assert_eq!(
        failed["payload"]["code"], "K3sQuorumAtRiskError",
        "{failed}"
    );
    // What it had is what it has: its K3s, which serves, and its pod.
    s1.wait_for_k3s(CLUSTER, &first, "ready");
    assert_eq!(host.k3s_process(), process);
    let kept = format!("kept-{first}");
    let get = ["get", "pod", &kept, "-o", "jsonpath={.spec.nodeName}"];
    wait_until(SOON, "its pod is there", || {
        s1.kubectl(CLUSTER, &get).text() == first
    });

    // Nothing but that is needed for the upgrade to go on.
    cluster.host(lost).power_on();
    cluster.mesh.node_mut(lost).restart_daemon();
    wait_until(ROUND, "it goes on by itself", || {
        cluster.show()["rollout"]["failed_at"].is_null()
    });
    let row = s1.k3s_row(CLUSTER, &first).expect("it is in");
    assert_eq!(row["version"], NEW, "{row}");
    assert_ne!(host.k3s_process(), process);
}

#[test]
fn an_upgrade_stops_where_it_failed_and_another_one_goes_on_there() {
    let Some(lab) = Lab::for_test("cluster-upgrade-fails") else {
        return;
    };
    let cluster = Cluster::new(&lab, &["s1"], &["a1"]);
    let s1 = cluster.host("s1");
    let before = cluster.processes();
    let wrong = upgrade(NEW_BINARY, "v9.9.9+k3s1");
    let wrong = [wrong.as_slice(), &["--json"]].concat();
    let refused = cluster.runs(&wrong).refusal();
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
    wait_until(SOON, "pods may come to s1", || {
        let shown = s1.kubectl(CLUSTER, &cordoned);
        shown.success() && shown.text().is_empty()
    });
    let again = cluster.runs(&wrong).refusal();
    assert_eq!(again["code"], "ClusterUpgradeStoppedError", "{again}");

    let done = cluster.runs(&upgrade(NEW_BINARY, NEW)).ok();
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
