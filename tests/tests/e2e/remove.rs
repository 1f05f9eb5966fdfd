//! A node is removed: everything of shoal leaves its host, and whoever depended on it goes on.

use std::{collections::BTreeSet, time::Duration};

use shoal_tests::{Host, Lab, Mesh, Node, patient, text, wait_until};

use crate::vip::Watched;

const SOON: Duration = Duration::from_secs(60);
/// dockerd itself takes one to three seconds here.
const PROVISIONED: Duration = Duration::from_secs(60);
/// All that a daemon gives its containers and its K3s to end, and its own end.
const GONE: Duration = Duration::from_secs(320);

/// Everything that a program may leave on a host, one line each: interfaces, addresses, routes,
/// rules, mounts, processes, files. `/run/lab` is the lab's own.
const LOOK: &str = r#"
ip -o link show | awk -F': ' '{sub(/@.*/, "", $2); print "interface " $2}'
ip -o addr show scope global | awk '{print "address " $2, $4}'
{ ip -4 route show table all; ip -6 route show table all; } | grep -v fe80 | sed 's/expires.*//; s/^/route /'
{ ip -4 rule show; ip -6 rule show; } | sed 's/^/rule /'
nft list tables | sed 's/^/nft /'
{ iptables-save; ip6tables-save; } 2>/dev/null | grep -oE '(KUBE|FLANNEL|CNI)-[A-Z0-9-]+' | sort -u | sed 's/^/chain /'
awk '{print "mount " $2}' /proc/self/mounts
# Nothing of this script but the shell itself runs beside `ps`.
processes=$(ps -eo ppid,args --no-headers)
awk '$1 != 0 {$1 = ""; print "process" $0}' <<<"$processes" | grep -vE 'process (bash -c|ps -eo|env )'
find /etc /run /var/lib /var/log /usr/local/bin -path /run/lab -prune -o -path /var/lib/dpkg -prune -o -print |
  sed 's/^/file /'
"#;

/// What K3s leaves by way of iptables, which keeps its lock, and its tables without a chain in them,
/// for good.
const OF_K3S: [&str; 3] = ["nft table ip ", "nft table ip6 ", "file /run/xtables.lock"];

/// What dockerd itself leaves when it stops, and what its images and containers are in.
const OF_DOCKER: [&str; 9] = [
    "docker0",
    "/var/lib/docker",
    "/var/lib/containerd",
    "/run/docker",
    "/run/containerd",
    "/etc/docker",
    "nft table ip ",
    "nft table ip6 ",
    "/run/xtables.lock",
];

#[track_caller]
fn seen_on(host: &Host) -> BTreeSet<String> {
    let seen = host.sh(LOOK).ok();
    seen.stdout
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

/// Joins a new host, and says what was on it before.
#[track_caller]
fn join(host: &Host, mesh: &mut Mesh) -> BTreeSet<String> {
    // The cable may still be coming up.
    wait_until(SOON, "the host's own addresses are there", || {
        let link = host.sh("ip -o link show dev eth0 up").ok();
        let pending = host.sh("ip -o -6 addr show dev eth0 tentative").ok();
        link.text().contains("LOWER_UP") && pending.text().is_empty()
    });
    let before = seen_on(host);
    let daemon = host.daemon(&[]);
    let token = mesh.token(&format!("{}.token", host.name()), &["--role", "agent"]);
    host.shoal(&["join", "--token-file", &token]).ok();
    let node = Node {
        host: host.clone(),
        daemon,
    };
    mesh.nodes.push(node);
    before
}

/// Has a node removed, and its daemon end by itself. What the operator is told of are these parts.
#[track_caller]
fn remove(mesh: &mut Mesh, from: &Host, name: &str, warnings: &[&str]) {
    let removed = from.shoal_json(&["node", "remove", name, "--yes"]);
    let told = removed["warnings"].as_array().cloned().unwrap_or_default();
    assert_eq!(told.len(), warnings.len(), "{removed}");
    for (told, part) in told.iter().zip(warnings) {
        assert!(told.to_string().contains(part), "{removed}");
    }
    let position = mesh.nodes.iter().position(|node| node.name() == name);
    let node = mesh.nodes.remove(position.expect("it was a member"));
    let status = node.daemon.process().wait(GONE);
    assert!(status.success(), "{status}");
}

#[track_caller]
fn as_before(host: &Host, before: &BTreeSet<String>, but: &[&str]) {
    let after = seen_on(host);
    let counts = |line: &&String| !but.iter().any(|word| line.contains(word));
    let left: Vec<&String> = after.difference(before).filter(counts).collect();
    let lost: Vec<&String> = before.difference(&after).filter(counts).collect();
    assert!(left.is_empty(), "left behind: {left:#?}");
    assert!(lost.is_empty(), "taken away: {lost:#?}");
}

#[test]
fn a_removed_node_gives_its_virtual_ip_away_and_leaves_nothing_on_its_host() {
    let Some(lab) = Lab::for_test("remove") else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 3, 1);
    let host = lab.host("a2");
    let before = join(&host, &mut mesh);
    mesh.wait_until_settled(3);
    let mut web = Watched::new(mesh, "a1", "a2,s1,s2", "safe");
    let calm = web.host("a1");
    assert_eq!(web.wait_until_served(None)["holder"], "a2");
    // Its own watch would be seen as left behind.
    host.sh("pkill vip-watch; pkill vip-responder").ok();
    let (from, mut mesh) = (
        web.show(),
        std::mem::replace(&mut web.mesh, Mesh { nodes: Vec::new() }),
    );
    remove(&mut mesh, &calm, "a2", &[]);
    web.mesh = mesh;
    as_before(&host, &before, &["file /run/lab"]);
    wait_until(SOON, "another one has it", || {
        let shown = web.show();
        web.observers.learn(&shown);
        shown["holder"] != from["holder"] && shown["holder"].is_string()
    });
    web.wait_until_served(None);
    assert!(!calm.shoal(&["node", "show", "a2"]).success());
    web.judge("remove");

    // The machine is as good as new.
    let daemon = host.daemon(&[]);
    assert!(daemon.process().is_running());
}

#[test]
fn a_removed_docker_host_leaves_nothing_but_what_is_docker_s_own() {
    let Some(lab) = Lab::for_test("remove-docker") else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 1, 0);
    let server = mesh.node("s1").host.clone();
    let host = lab.host("a1");
    let before = join(&host, &mut mesh);
    server
        .shoal(&["module", "assign", "a1", "docker-engine"])
        .ok();
    wait_until(PROVISIONED, "the Docker host is connected", || {
        server
            .docker_row("a1")
            .is_some_and(|row| row["status"] == "connected")
    });
    remove(&mut mesh, &server, "a1", &[]);
    as_before(&host, &before, &OF_DOCKER);
    assert!(server.docker_row("a1").is_none());
}

#[test]
fn a_removed_node_of_a_cluster_is_forgotten_by_it_and_leaves_nothing_on_its_host() {
    let Some(lab) = Lab::for_test("remove-k3s") else {
        return;
    };
    leaves_its_cluster_and_nothing_on_its_host(&lab, &["s1"], "agent", &[]);
}

#[test]
fn a_removed_server_of_a_cluster_is_forgotten_by_it_and_leaves_nothing_on_its_host() {
    let Some(lab) = Lab::for_test("remove-k3s-server") else {
        return;
    };
    let warnings = ["cluster prod now has two servers"];
    leaves_its_cluster_and_nothing_on_its_host(&lab, &["s1", "a2"], "server", &warnings);
}

/// A node that lives, with a pod on it, is removed from the mesh and so from its cluster, whose other
/// servers go on.
#[track_caller]
fn leaves_its_cluster_and_nothing_on_its_host(
    lab: &Lab,
    servers: &[&str],
    role: &str,
    warnings: &[&str],
) {
    let mut mesh = Mesh::new(lab, 1, 0);
    let server = mesh.node("s1").host.clone();
    let host = lab.host("a1");
    // What the operator himself has written for K3s was there before, and stays.
    host.hasten_k3s(role);
    let before = join(&host, &mut mesh);
    for name in &servers[1..] {
        mesh.add(lab, name, "agent");
    }
    mesh.wait_until_settled(1);
    let joined = ["--cluster", "prod"];
    for name in servers {
        let founded = patient("prod");
        let flags = if *name == "s1" { &founded[..] } else { &joined };
        server.provision_k3s(&mesh.node(name).host, "server", flags);
        server.wait_for_k3s("prod", name, "ready");
    }
    server.provision_k3s(&host, role, &joined);
    server.wait_for_k3s("prod", "a1", "ready");
    server.keep_kubeconfig("prod");
    // Every node has one of K3s's own.
    wait_until(SOON, "a pod runs on it", || {
        let shim = host.sh("readlink /proc/$(pgrep --oldest --full ^/.*/containerd-shim)/exe");
        shim.text().starts_with("/var/lib/rancher/k3s/data/")
    });
    remove(&mut mesh, &server, "a1", warnings);
    as_before(&host, &before, &OF_K3S);
    wait_until(SOON, "its cluster has forgotten it", || {
        let nodes = server.kubectl("prod", &["get", "nodes", "-o", "name"]);
        let known = nodes.text().lines().count();
        nodes.success() && known == servers.len() && !nodes.stdout.contains("node/a1")
    });
    let rows = server.shoal(&["cluster", "nodes", "prod", "--json"]).ok();
    let rows = rows.json_rows();
    let mut left: Vec<String> = rows.iter().map(|row| text(row, "node")).collect();
    left.sort_by_key(|name| name != "s1");
    assert_eq!(left, servers);
    wait_until(SOON, "etcd has the others", || {
        server.etcd_members() == servers.len()
    });
    server.kubectl_creates("prod", &["configmap", "after"]);
}

#[test]
fn a_dead_node_is_removed_and_it_is_said_what_stays_on_its_host() {
    let Some(lab) = Lab::for_test("remove-dead") else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 1, 1);
    let server = mesh.node("s1").host.clone();
    let host = mesh.node("a1").host.clone();
    mesh.node("a1").daemon.kill9();
    let removed = server.shoal_json(&["node", "remove", "a1", "--yes"]);
    let warnings = removed["warnings"].to_string();
    assert!(
        warnings.contains("what shoal put on that host stays there"),
        "{warnings}"
    );
    // It was never told: it comes back, and says why it is shut out.
    mesh.node_mut("a1").restart_daemon();
    host.wait_for_status(SOON, "it says that it was removed", |status| {
        status["conditions"].to_string().contains("removed")
    });
    assert!(mesh.node("a1").daemon.process().is_running());
}
