//! A K3s cluster outlives its servers: one that is lost is replaced, one that leaves goes in peace; and all
//! of its traffic is on the overlay.

use std::time::Duration;

use serde_json::Value;
use shoal_tests::{Host, Lab, Mesh, Nat, patient, text, wait_until};

use crate::nat::join;

/// Longer than a move, an election of etcd and a missed node, on a machine that builds at the same
/// time.
pub(crate) const SOON: Duration = Duration::from_secs(60);

pub(crate) const CLUSTER: &str = "prod";
pub(crate) const VIP: &str = "k3s-prod";
const JOINED: [&str; 2] = ["--cluster", CLUSTER];

/// A cluster with these servers and agents, in the order in which they came; looked at from `a1`,
/// which has its kubeconfig.
pub(crate) struct Cluster {
    mesh: Mesh,
}

impl Cluster {
    #[track_caller]
    fn new(mesh: Mesh, servers: &[&str], agents: &[&str]) -> Self {
        let cluster = Self::founded(mesh, servers[0], &patient(CLUSTER));
        for server in &servers[1..] {
            cluster.add(server, "server");
        }
        for agent in agents {
            cluster.add(agent, "agent");
        }
        cluster
    }

    /// By that node, with these flags.
    #[track_caller]
    pub(crate) fn founded(mesh: Mesh, founder: &str, flags: &[&str]) -> Self {
        let cluster = Self { mesh };
        let from = cluster.seen_from();
        from.provision_k3s(&cluster.host(founder), "server", flags);
        from.wait_for_k3s(CLUSTER, founder, "ready");
        from.keep_kubeconfig(CLUSTER);
        cluster
    }

    pub(crate) fn host(&self, name: &str) -> Host {
        self.mesh.node(name).host.clone()
    }

    pub(crate) fn seen_from(&self) -> Host {
        self.host("a1")
    }

    #[track_caller]
    pub(crate) fn add(&self, node: &str, role: &str) {
        let from = self.seen_from();
        from.provision_k3s(&self.host(node), role, &JOINED);
        from.wait_for_k3s(CLUSTER, node, "ready");
    }

    #[track_caller]
    pub(crate) fn vip(&self) -> Value {
        self.seen_from().shoal_json(&["vip", "show", VIP])
    }

    /// The API takes a write through the virtual IP.
    #[track_caller]
    pub(crate) fn takes_writes(&self, what: &str) {
        let name: String = what.replace(' ', "-");
        self.seen_from()
            .kubectl_creates(CLUSTER, &["configmap", &name]);
    }

    #[track_caller]
    pub(crate) fn candidates(&self) -> Vec<String> {
        let shown = self.vip();
        let candidates = shown["candidates"].as_array().expect("a list");
        candidates
            .iter()
            .filter_map(|candidate| candidate.as_str().map(str::to_owned))
            .collect()
    }
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
    cluster.add("a3", "server");
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
    cluster.add("a4", "server");
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
    // `DNS:a1, …, IP Address:100.96.0.1, …`, in a line of their own.
    let names = names.ok().stdout.to_lowercase();
    let names: Vec<&str> = names.lines().flat_map(|line| line.split(", ")).collect();
    let named = |name: &str| names.iter().any(|written| written.trim() == name);
    assert!(named("dns:a1"), "{names:?}");
    // openssl writes all groups, without leading zeros.
    for ip in [&places[0][1], &groups(&address), &groups(&places[0][0])] {
        assert!(named(&format!("ip address:{ip}")), "{ip}: {names:?}");
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
