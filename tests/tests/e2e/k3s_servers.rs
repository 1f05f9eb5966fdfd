//! A K3s cluster of three servers outlives each of them, by the virtual IP of its API; and all of its
//! traffic is on the overlay.

use std::time::Duration;

use serde_json::Value;
use shoal_tests::{Host, Lab, Mesh, Nat, text, wait_until};

use crate::nat::join;

/// Longer than a move, an election of etcd and a missed node, on a machine that builds at the same
/// time.
const SOON: Duration = Duration::from_secs(60);
/// A lost machine is missed by whom its connections led to when the kernel gives them up.
const MISSED: Duration = Duration::from_secs(180);

const CLUSTER: &str = "prod";
const VIP: &str = "k3s-prod";
const FOUNDED: [&str; 4] = ["--cluster", CLUSTER, "--cni", "flannel"];
const JOINED: [&str; 2] = ["--cluster", CLUSTER];

/// A cluster with these servers and agents, in the order in which they came; looked at from `a1`,
/// which has its kubeconfig.
struct Cluster {
    mesh: Mesh,
}

impl Cluster {
    #[track_caller]
    fn new(mesh: Mesh, servers: &[&str], agents: &[&str]) -> Self {
        let cluster = Self { mesh };
        for (number, server) in servers.iter().enumerate() {
            let flags: &[&str] = if number == 0 { &FOUNDED } else { &JOINED };
            cluster.add(server, "server", flags);
        }
        for agent in agents {
            cluster.add(agent, "agent", &JOINED);
        }
        cluster.seen_from().keep_kubeconfig(CLUSTER);
        cluster
    }

    fn host(&self, name: &str) -> Host {
        self.mesh.node(name).host.clone()
    }

    fn seen_from(&self) -> Host {
        self.host("a1")
    }

    #[track_caller]
    fn add(&self, node: &str, role: &str, flags: &[&str]) {
        let from = self.seen_from();
        from.provision_k3s(&self.host(node), role, flags);
        from.wait_for_k3s(CLUSTER, node, "ready");
    }

    #[track_caller]
    fn vip(&self) -> Value {
        self.seen_from().shoal_json(&["vip", "show", VIP])
    }

    #[track_caller]
    fn holder(&self) -> String {
        let mut holder = String::new();
        wait_until(SOON, "somebody holds the virtual IP", || {
            let shown = self.vip();
            holder = shown["holder"].as_str().unwrap_or_default().to_owned();
            !holder.is_empty() && shown["state"] == "held"
        });
        holder
    }

    /// Waits until another one than `before` holds it, and a write goes through.
    #[track_caller]
    fn moves_from(&self, before: &str, what: &str) -> String {
        wait_until(SOON, &format!("it moves when {what}"), || {
            self.vip()["holder"]
                .as_str()
                .is_some_and(|holder| holder != before)
        });
        self.takes_writes(what);
        self.holder()
    }

    /// The API takes a write through the virtual IP.
    #[track_caller]
    fn takes_writes(&self, what: &str) {
        let name: String = what.replace(' ', "-");
        let create = ["create", "configmap", &name];
        wait_until(SOON, &format!("kubectl goes on when {what}"), || {
            let written = self.seen_from().kubectl(CLUSTER, &create);
            // The answer to one that went through may have been lost.
            written.success() || written.stderr.contains("AlreadyExists")
        });
    }

    /// Moves it by a drill, once another server is fit for it. From whom, and to whom.
    #[track_caller]
    fn drill(&self) -> [String; 2] {
        let mut drilled = Value::Null;
        wait_until(SOON, "a drill moves it", || {
            let output = self.host("s3").shoal(&["vip", "drill", VIP, "--json"]);
            if output.success() {
                drilled = output.json();
            }
            output.success()
        });
        assert_eq!(drilled["moved"], true, "{drilled}");
        ["from", "to"].map(|key| text(&drilled, key))
    }

    #[track_caller]
    fn candidates(&self) -> Vec<String> {
        let shown = self.vip();
        let candidates = shown["candidates"].as_array().expect("a list");
        candidates
            .iter()
            .filter_map(|candidate| candidate.as_str().map(str::to_owned))
            .collect()
    }
}

#[test]
fn the_virtual_ip_of_the_api_leaves_a_server_that_fails_and_kubectl_goes_on() {
    let Some(lab) = Lab::for_test("k3s-vip") else {
        return;
    };
    let mesh = Mesh::new(&lab, 3, 1);
    let cluster = Cluster::new(mesh, &["s1"], &[]);
    assert_eq!(cluster.candidates(), ["s1"]);
    cluster.add("s2", "server", &JOINED);
    assert_eq!(cluster.candidates(), ["s1", "s2"]);
    cluster.add("s3", "server", &JOINED);
    cluster.add("a1", "agent", &JOINED);
    assert_eq!(cluster.candidates(), ["s1", "s2", "s3"]);

    let first = cluster.holder();
    cluster.host(&first).turn_knob("fail-readyz", "");
    let second = cluster.moves_from(&first, "it is not ready");
    cluster.host(&first).turn_back("fail-readyz");

    let [from, to] = cluster.drill();
    assert_eq!(from, second);
    assert_ne!(to, second);
    let third = cluster.moves_from(&from, "it is drilled");

    // With all that is on it.
    cluster.host(&third).power_off();
    cluster.moves_from(&third, "its host is lost");
    let seen_from = cluster.seen_from();
    wait_until(MISSED, "the lost server is missed", || {
        let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        let seen = seen_from.kubectl(CLUSTER, &["get", "node", &third, "-o", path]);
        seen.success() && ["Unknown", "False"].contains(&seen.text())
    });
    wait_until(SOON, "the worker goes on without it", || {
        seen_from.sees_ready(CLUSTER, "a1")
    });
}

#[test]
fn a_lost_server_is_removed_from_etcd_and_another_takes_its_place() {
    let Some(lab) = Lab::for_test("k3s-ha") else {
        return;
    };
    // The lost one has no say in the mesh, so that the mesh is not what is tested.
    let mesh = Mesh::new(&lab, 1, 3);
    let mut cluster = Cluster::new(mesh, &["s1", "a2"], &[]);
    let from = cluster.seen_from();
    let warnings = |cluster: &Cluster| {
        let shown = cluster
            .seen_from()
            .shoal_json(&["cluster", "show", CLUSTER]);
        shown["warnings"].to_string()
    };
    assert!(warnings(&cluster).contains("two servers"));
    cluster.add("a3", "server", &JOINED);
    assert_eq!(warnings(&cluster), "[]");
    let s1 = cluster.host("s1");
    let has_members = |count: usize| {
        wait_until(SOON, &format!("etcd has {count} members"), || {
            s1.etcd_members() == count
        });
    };
    has_members(3);

    cluster.host("a3").power_off();
    from.shoal(&["node", "remove", "a3", "--yes"]).ok();
    has_members(2);
    assert!(warnings(&cluster).contains("two servers"));
    wait_until(SOON, "its cluster has forgotten it", || {
        let nodes = from.kubectl(CLUSTER, &["get", "nodes", "-o", "name"]);
        nodes.success() && !nodes.stdout.contains("a3")
    });
    assert!(!cluster.candidates().contains(&"a3".to_owned()));

    cluster.mesh.add(&lab, "a4", "agent");
    wait_until(SOON, "the new node is known", || {
        from.shoal(&["node", "show", "a4", "--json"]).success()
    });
    cluster.add("a4", "server", &JOINED);
    has_members(3);
    assert_eq!(warnings(&cluster), "[]");

    // One that leaves in peace takes itself out first: the other two are a majority throughout.
    from.shoal(&["module", "unassign", "a4", "k3s-server", "--yes"])
        .ok();
    from.wait_until_not_in(CLUSTER, "a4");
    has_members(2);
    from.shoal(&["module", "unassign", "a2", "k3s-server", "--yes"])
        .ok();
    from.wait_until_not_in(CLUSTER, "a2");
    has_members(1);
    cluster.takes_writes("one server is left");
}

#[test]
fn all_of_a_clusters_traffic_is_on_the_overlay_also_where_the_underlay_leads_nowhere() {
    let Some(lab) = Lab::for_test("k3s-overlay") else {
        return;
    };
    // Each behind a router that lets nobody in: they reach each other by a hub alone.
    let mut mesh = Mesh::new(&lab, 2, 0);
    let sites = [
        lab.behind(Nat::Symmetric, "a1", 21),
        lab.behind(Nat::Symmetric, "a2", 22),
    ];
    for site in &sites {
        join(&mut mesh, site);
    }
    let [founder, worker] = ["a1", "a2"].map(|name| mesh.node(name).host.clone());
    mesh.wait_until_everyone_answers_everyone(SOON);
    assert!(!worker.pings("192.168.21.2") && !founder.pings("192.168.22.2"));
    let cluster = Cluster::new(mesh, &["a1"], &["a2"]);
    let places = ["a1", "a2"].map(|name| cluster.mesh.node(name).overlay());
    let address = text(&cluster.vip(), "address");

    let path = "jsonpath={.status.addresses[?(@.type=='InternalIP')].address}";
    for (node, [_, ipv4]) in ["a1", "a2"].iter().zip(&places) {
        let shown = founder.kubectl(CLUSTER, &["get", "node", node, "-o", path]);
        assert_eq!(shown.ok().text(), ipv4);
    }
    let path = "jsonpath={.subsets[*].addresses[*].ip}";
    let shown = founder.kubectl(CLUSTER, &["get", "endpoints", "kubernetes", "-o", path]);
    assert_eq!(shown.ok().text(), places[0][1], "what workers dial");
    let names = founder.sh(
        "openssl s_client -connect 127.0.0.1:6443 </dev/null 2>/dev/null \
         | openssl x509 -noout -ext subjectAltName",
    );
    let names = names.ok().stdout.to_lowercase();
    for name in [&places[0][1], &"a1".to_owned()] {
        assert!(names.contains(name), "{name}: {names}");
    }
    for ipv6 in [&address, &places[0][0]] {
        // openssl writes all groups, without leading zeros.
        assert!(names.contains(&groups(ipv6)), "{ipv6}: {names}");
    }
    let tunnel = worker.run(&["ip", "-d", "link", "show", "flannel.1"]).ok();
    assert!(tunnel.stdout.contains(&places[1][1]), "{tunnel}");

    // It stays, and nobody talks to anybody past the overlay.
    let lease = || {
        let path = "jsonpath={.spec.renewTime}";
        let get = ["-n", "kube-node-lease", "get", "lease", "a2", "-o", path];
        let shown = founder.kubectl(CLUSTER, &get);
        shown.success().then(|| shown.text().to_owned())
    };
    let mut before = None;
    wait_until(SOON, "the worker's lease is there", || {
        before = lease();
        before.is_some()
    });
    wait_until(SOON, "the worker is heard again", || {
        lease().is_some_and(|lease| Some(lease) != before)
    });
    for host in [&founder, &worker] {
        wait_until(SOON, "K3s's connections are on the overlay", || {
            connections(host)
                .iter()
                .any(|[_, peer]| peer.starts_with("100."))
        });
        for ends in connections(host) {
            let past = |end: &String| {
                ["10.77.0.", "192.168.", "fd77:"]
                    .iter()
                    .any(|underlay| end.trim_start_matches('[').starts_with(underlay))
            };
            assert!(!ends.iter().any(past), "{}: {ends:?}", host.name());
        }
    }
    wait_until(SOON, "the worker is ready", || {
        founder.sees_ready(CLUSTER, "a2")
    });
}

/// Both ends of every connection of K3s's on a host.
#[track_caller]
fn connections(host: &Host) -> Vec<[String; 2]> {
    let ports = "( sport = :6443 or dport = :6443 or sport = :2380 or dport = :2380 )";
    let shown = host
        .run(&["ss", "-Htn", "state", "established", ports])
        .ok();
    let lines = shown.stdout.lines().map(|line| {
        let mut fields = line.split_whitespace().skip(2);
        let mut end = || fields.next().unwrap_or_default().to_owned();
        [end(), end()]
    });
    lines.collect()
}

/// As openssl writes an address.
fn groups(ipv6: &str) -> String {
    let address: std::net::Ipv6Addr = ipv6.parse().expect("an address");
    let groups = address.segments().map(|group| format!("{group:x}"));
    groups.join(":")
}
