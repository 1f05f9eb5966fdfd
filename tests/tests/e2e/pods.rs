//! Pods of K3s clusters: their packets stay inside the overlay, and inside of their cluster's network;
//! what a cluster's pods get is settled when it is founded.

use std::time::Duration;

use shoal_tests::{Host, K3S, Lab, Mesh, Process, patient, text, wait_until};

use crate::cluster_operating::http_status;

const SOON: Duration = Duration::from_secs(60);
/// A change goes round three nodes, each of which is emptied, restarted and waited for.
const ROUND: Duration = Duration::from_secs(240);
/// Where pods are to have their addresses: what K3s gives them anyway.
const PREFIX: &str = "10.42.0.0/16";
/// Another place for them.
const OTHER_PREFIX: &str = "10.52.0.0/16";
/// What all that a host and the others said to each other is written to.
const CAPTURE: &str = "/run/lab/files/pods.pcap";
const FLANNEL: [&str; 6] = patient("prod");

/// A namespace that stands for a pod, on the bridge that K3s makes for them.
struct Pod {
    host: Host,
    address: String,
    gateway: String,
}

impl Pod {
    /// On a node whose K3s is ready, with the address of that number in the node's subnet.
    #[track_caller]
    fn on(host: &Host, cluster: &str, number: u8) -> Self {
        let subnet = pod_subnet(host, cluster, host.name());
        let at = |last: u8| subnet.replace(".0/24", &format!(".{last}"));
        wait_until(SOON, "K3s has made its bridge", || {
            let shown = host.run(&["ip", "-o", "address", "show", "dev", "cni0"]);
            shown.stdout.contains(&at(1))
        });
        let (address, gateway) = (at(number), at(1));
        host.sh(&format!(
            "ip netns add pod && ip link add veth-pod type veth peer name eth0 netns pod && \
             ip link set veth-pod master cni0 up && \
             nsenter --net=/run/netns/pod bash -c 'ip link set lo up; \
             ip address add {address}/24 dev eth0; ip link set eth0 up; \
             ip route add default via {gateway}'"
        ))
        .ok();
        Self {
            host: host.clone(),
            address,
            gateway,
        }
    }

    fn run(&self, command: &[&str]) -> shoal_tests::Output {
        let enter = ["nsenter", "--net=/run/netns/pod"];
        self.host.run(&[enter.as_slice(), command].concat())
    }

    fn pings(&self, address: &str) -> bool {
        let ping = ["ping", "-n", "-c", "1", "-W", "1", address];
        self.run(&ping).success()
    }

    /// Serves its one page until the lab ends.
    fn serves(&self) -> Process {
        self.host.spawn(&[
            "nsenter",
            "--net=/run/netns/pod",
            "python3",
            "-m",
            "http.server",
            "--bind",
            &self.address,
            "--directory",
            "/run/lab/files/pages",
            "8000",
        ])
    }
}

/// The command that says where pods of clusters in `default` have their addresses.
const fn pods_of_default(prefix: &str) -> [&str; 5] {
    ["network", "set", "default", "--pod-subnet-prefix", prefix]
}

/// Where a node's pods have their addresses, once the mesh knows.
#[track_caller]
fn pod_subnet(host: &Host, cluster: &str, node: &str) -> String {
    let mut subnet = String::new();
    wait_until(SOON, "the mesh knows where the node's pods are", || {
        let row = host.k3s_row(cluster, node);
        let known = row.and_then(|row| row["pod_subnets"][0].as_str().map(str::to_owned));
        subnet = known.unwrap_or_default();
        !subnet.is_empty()
    });
    subnet
}

#[track_caller]
fn capture(host: &Host) -> Process {
    let capture = host.spawn(&["tcpdump", "-i", "eth0", "-U", "-w", CAPTURE]);
    // The file has its header once packets are taken.
    wait_until(SOON, "packets are taken", || {
        host.sh(&format!("test -s {CAPTURE}")).success()
    });
    capture
}

/// Neither K3s nor a pod has said anything on the wire that is not WireGuard's. What was tried from the
/// wire itself, to ping that address, is there.
#[track_caller]
fn only_wireguard_is_on_the_wire(host: &Host, tried: &str) {
    let all = |filter: &str| {
        let shown = host.run(&["tcpdump", "-n", "-r", CAPTURE, filter]).ok();
        shown.stdout.lines().count()
    };
    let tried = format!("icmp[icmptype] == icmp-echo and dst host {tried}");
    assert!(all(&tried) > 0, "the attempt is not on the wire");
    let count = |filter: &str| all(&format!("({filter}) and not ({tried})"));
    assert!(count("udp port 7441") > 0, "nothing was captured");
    for plain in [
        "net 10.42.0.0/16",
        "net 100.64.0.0/10",
        "port 6443",
        "port 2380",
    ] {
        assert_eq!(count(plain), 0, "{plain} is on the wire");
    }
    // Besides, the daemons' own port, neighbours being looked for, mDNS, and who listens to what.
    let known =
        "udp port 7441 or port 7440 or arp or icmp6 or port 5353 or igmp or dst host ff02::16";
    let rest = format!("not ({known}) and not ({tried})");
    let rest = host.run(&["tcpdump", "-n", "-r", CAPTURE, &rest]).ok();
    assert_eq!(rest.stdout, "", "something else is on the wire");
    let found = host.sh(&format!(
        "LC_ALL=C grep -ca -- 'the page of a pod' {CAPTURE}"
    ));
    assert_eq!(found.text(), "0", "a page is on the wire");
}

fn route_to<'a>(routes: &'a str, subnet: &str) -> Vec<&'a str> {
    let routes = routes.lines();
    routes
        .filter(|line| line.split(' ').next() == Some(subnet))
        .collect()
}

#[test]
fn pods_of_two_nodes_talk_in_mesh_and_hub_mode_and_the_wire_shows_wireguard_only() {
    let Some(lab) = Lab::for_test("pods") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 2);
    let host = |name: &str| mesh.node(name).host.clone();
    let (outsider, one, other) = (host("s1"), host("a1"), host("a2"));
    let capture = capture(&other);
    outsider.shoal(&pods_of_default(PREFIX)).ok();
    one.provision_k3s(&one, "server", &FLANNEL);
    one.wait_for_k3s("prod", "a1", "ready");
    one.provision_k3s(&other, "agent", &[]);
    one.wait_for_k3s("prod", "a2", "ready");
    let settings = one
        .sh("cat /etc/rancher/k3s/config.yaml.d/50-shoal.yaml")
        .ok();
    for line in [
        "\"flannel-backend\": \"host-gw\"",
        "\"cluster-cidr\": \"10.42.0.0/16\"",
        "\"flannel-iface\": \"shoal-default\"",
    ] {
        assert!(settings.stdout.contains(line), "{line}: {settings}");
    }
    std::fs::create_dir_all(lab.files().join("pages")).expect("the lab's directory is writable");
    std::fs::write(lab.files().join("pages/index.html"), "the page of a pod\n")
        .expect("the lab's directory is writable");

    let (here, there) = (Pod::on(&one, "prod", 50), Pod::on(&other, "prod", 60));
    let _page = there.serves();
    let url = format!("http://{}:8000/", there.address);
    let got = || here.run(&["curl", "-s", "--max-time", "3", &url]).stdout;
    wait_until(SOON, "a pod gets the other's page", || {
        got() == "the page of a pod\n"
    });
    wait_until(SOON, "and the other way round", || {
        there.pings(&here.address)
    });
    // A member of the network that is in no cluster has a route of shoal's, a node of it flannel's alone.
    wait_until(SOON, "a member of the network reaches the pod", || {
        outsider.pings(&there.address)
    });
    let subnet = pod_subnet(&one, "prod", "a2");
    let routes = one.run(&["ip", "-4", "route"]).ok();
    let [route] = route_to(&routes.stdout, &subnet)[..] else {
        panic!("one route to {subnet}: {routes}");
    };
    assert!(route.contains(" via 100."), "{route}");
    let routes = outsider.run(&["ip", "-4", "route"]).ok();
    let [route] = route_to(&routes.stdout, &subnet)[..] else {
        panic!("one route to {subnet}: {routes}");
    };
    assert!(route.contains("dev shoal-default"), "{route}");
    // Nobody's packets but the overlay's come to a pod.
    outsider
        .sh(&format!(
            "ip route replace {} via {} dev eth0",
            there.address,
            other.ipv4()
        ))
        .ok();
    assert!(
        !outsider.pings(&there.address),
        "a pod is reached from the wire"
    );
    outsider.sh(&format!("ip route del {}", there.address)).ok();

    by_a_hub(&outsider, &here, &there);
    capture.sigterm();
    capture.wait(SOON);
    only_wireguard_is_on_the_wire(&other, &there.address);
}

/// The network's mode changes under the pods: the server passes their packets on.
#[track_caller]
fn by_a_hub(server: &Host, here: &Pod, there: &Pod) {
    let passed = || {
        let counted = server.sh("awk '/shoal-default:/ {print $3}' /proc/net/dev");
        counted.text().parse::<u64>().unwrap_or(0)
    };
    server
        .shoal(&["network", "set-peer", "s1", "default", "--hub"])
        .ok();
    server
        .shoal(&["network", "set", "default", "--routing-mode", "hub"])
        .ok();
    wait_until(SOON, "the hub passes the pods' packets on", || {
        let before = passed();
        let pings = (0..10).filter(|_| here.pings(&there.address)).count();
        pings == 10 && passed() >= before + 20
    });
    server
        .shoal(&["network", "set", "default", "--routing-mode", "mesh"])
        .ok();
    wait_until(SOON, "the pods talk without a hub again", || {
        here.pings(&there.address)
    });
}

#[test]
fn two_clusters_in_two_networks_do_not_see_each_other() {
    let Some(lab) = Lab::for_test("clusters-apart") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 2);
    let host = |name: &str| mesh.node(name).host.clone();
    let (server, one, other) = (host("s1"), host("a1"), host("a2"));
    server.shoal(&pods_of_default(PREFIX)).ok();
    let blue = [
        "network",
        "create",
        "blue",
        "--pod-subnet-prefix",
        OTHER_PREFIX,
    ];
    server.shoal(&blue).ok();
    for node in ["a1", "a2"] {
        server.shoal(&["network", "attach", node, "blue"]).ok();
    }
    one.provision_k3s(&one, "server", &FLANNEL);
    let in_blue = [patient("lab").as_slice(), &["--network", "blue"]].concat();
    other.provision_k3s(&other, "server", &in_blue);
    one.wait_for_k3s("prod", "a1", "ready");
    other.wait_for_k3s("lab", "a2", "ready");

    for (cluster, node) in [("prod", "a1"), ("lab", "a2")] {
        one.keep_kubeconfig(cluster);
        wait_until(SOON, "the cluster has its own node and no other", || {
            let nodes = one.kubectl(cluster, &["get", "nodes", "-o", "name"]);
            nodes.text() == format!("node/{node}")
        });
    }
    let (prod, lab_pod) = (Pod::on(&one, "prod", 50), Pod::on(&other, "lab", 50));
    assert!(lab_pod.address.starts_with("10.52."), "{}", lab_pod.address);
    wait_until(SOON, "a member of the network reaches its pod", || {
        server.pings(&prod.address)
    });
    wait_until(SOON, "the other one's pod is there", || {
        other.pings(&lab_pod.address)
    });
    assert!(!server.pings(&lab_pod.address), "the other one's");
    // Root on the nodes, who are in both networks, adds what shoal does not.
    for (from, to, network) in [(&prod, &lab_pod, "blue"), (&lab_pod, &prod, "default")] {
        let subnet = pod_subnet(
            &one,
            if network == "blue" { "lab" } else { "prod" },
            to.host.name(),
        );
        let route = format!("ip route replace {subnet} dev shoal-{network}");
        from.host.sh(&route).ok();
        wait_until(SOON, "the pod has a way out", || from.pings(&from.gateway));
        assert!(!from.pings(&to.address), "{network} is open to other pods");
    }
    // The API of the other cluster is in a network that the server is not in.
    server.keep_kubeconfig("lab");
    let version = server.kubectl("lab", &["get", "nodes"]);
    assert!(!version.success(), "{version}");
    server.keep_kubeconfig("prod");
    server.kubectl("prod", &["get", "nodes"]).ok();
}

#[test]
fn a_node_that_is_aimed_at_another_cluster_goes_there_under_the_same_daemon() {
    let Some(lab) = Lab::for_test("retarget") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 3);
    let host = |name: &str| mesh.node(name).host.clone();
    let (server, one, two, worker) = (host("s1"), host("a1"), host("a2"), host("a3"));
    one.provision_k3s(&one, "server", &FLANNEL);
    two.provision_k3s(&two, "server", &patient("lab"));
    one.wait_for_k3s("prod", "a1", "ready");
    two.wait_for_k3s("lab", "a2", "ready");
    server.keep_kubeconfig("prod");
    server.keep_kubeconfig("lab");
    server.provision_k3s(&worker, "agent", &["--cluster", "prod"]);
    server.wait_for_k3s("prod", "a3", "ready");
    wait_until(SOON, "the first cluster has it", || {
        server.sees_ready("prod", "a3")
    });
    let daemon = mesh.node("a3").daemon.process().pid();

    let id = text(&server.shoal_json(&["cluster", "show", "lab"]), "id");
    server.provision_k3s(&worker, "agent", &["--cluster", &id, "--yes"]);
    server.wait_until_not_in("prod", "a3");
    server.wait_for_k3s("lab", "a3", "ready");
    wait_until(SOON, "the second cluster has it", || {
        server.sees_ready("lab", "a3")
    });
    wait_until(SOON, "the first cluster has forgotten it", || {
        let nodes = server.kubectl("prod", &["get", "nodes", "-o", "name"]);
        nodes.text() == "node/a1"
    });
    assert!(mesh.node("a3").daemon.process().is_running());
    assert_eq!(mesh.node("a3").daemon.process().pid(), daemon);
    let vip = text(&server.shoal_json(&["vip", "show", "k3s-lab"]), "address");
    let settings = worker
        .sh("cat /etc/rancher/k3s/config.yaml.d/50-shoal.yaml")
        .ok();
    assert!(settings.stdout.contains(&vip), "{settings}");
}

#[test]
fn a_prefix_that_comes_later_goes_round_the_nodes_and_is_fixed_from_then_on() {
    let Some(lab) = Lab::for_test("prefix-later") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 2);
    let host = |name: &str| mesh.node(name).host.clone();
    let (one, other) = (host("a1"), host("a2"));
    one.provision_k3s(&one, "server", &FLANNEL);
    one.wait_for_k3s("prod", "a1", "ready");
    one.provision_k3s(&other, "agent", &[]);
    one.wait_for_k3s("prod", "a2", "ready");
    // K3s gave these nodes' pods their addresses when they came, and for good.
    let refusal = one.shoal_refused(&pods_of_default(OTHER_PREFIX));
    assert_eq!(refusal["code"], "ClusterFixedError", "{refusal}");

    one.shoal(&pods_of_default(PREFIX)).ok();
    wait_until(ROUND, "every node has its turn", || {
        let shown = one.shoal_json(&["cluster", "show", "prod"]);
        let rows = shown["nodes"].as_array().cloned().unwrap_or_default();
        let routed = |row: &serde_json::Value| row["pod_subnets"][0].is_string();
        shown["rollout"].is_null() && rows.len() == 2 && rows.iter().all(routed)
    });
    let (here, there) = (Pod::on(&one, "prod", 50), Pod::on(&other, "prod", 60));
    wait_until(SOON, "pods of both nodes talk", || {
        here.pings(&there.address)
    });
    for prefix in [OTHER_PREFIX, "none"] {
        let refusal = one.shoal_refused(&pods_of_default(prefix));
        assert_eq!(refusal["code"], "ClusterFixedError", "{prefix}: {refusal}");
    }
}

#[test]
fn a_cluster_on_ovn_is_there_for_its_owner_before_he_has_brought_ovn() {
    let Some(lab) = Lab::for_test("ovn") else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 1, 0);
    let node = shoal_tests::Node::new(&lab, "strong");
    let token = mesh.token("strong.token", &["--role", "agent"]);
    let join = [
        "join",
        "--token-file",
        &token,
        "--network-profile",
        "heavyweight",
    ];
    node.host.shoal(&join).ok();
    mesh.nodes.push(node);
    let strong = mesh.node("strong").host.clone();
    let of_prod = ["--cluster", "prod"];
    strong.provision_k3s(&strong, "server", &of_prod);
    strong.wait_for_k3s("prod", "strong", "ready");
    let shown = strong.shoal_json(&["cluster", "show", "prod"]);
    assert_eq!(shown["cni"], "ovn_kubernetes", "{shown}");
    assert_eq!(shown["status"], "active", "{shown}");
    strong.keep_kubeconfig("prod");
    strong.kubectl("prod", &["get", "node", "strong"]).ok();
    assert!(!strong.sees_ready("prod", "strong"), "nobody brought a CNI");
    assert!(!strong.run(&["ip", "link", "show", "cni0"]).success());
    // What its owner installs leaves its settings where containerd looks for them.
    strong
        .sh("mkdir -p /etc/cni/net.d && echo '{}' >/etc/cni/net.d/10-ovn.conflist")
        .ok();
    wait_until(SOON, "the node is ready for Kubernetes too", || {
        strong.sees_ready("prod", "strong")
    });
}

/// `k3s provision` with these words is refused with a code, and says `part`.
fn refuses(server: &Host, words: &str, code: &str, part: &str) {
    // Some of it would move a node, which is asked about first.
    let words_given = words.split(' ').chain(["--yes"]);
    let command: Vec<&str> = ["k3s", "provision"]
        .into_iter()
        .chain(words_given)
        .collect();
    let refusal = server.shoal_refused(&command);
    assert_eq!(refusal["code"], code, "{words}: {refusal}");
    let said = refusal["message"].as_str().unwrap_or_default();
    assert!(said.contains(part), "{words}: {refusal}");
}

/// A server, an agent, and an agent each of the lightweight and the heavyweight profile.
fn of_all_profiles(lab: &Lab) -> Mesh {
    let mut mesh = Mesh::new(lab, 1, 1);
    for (name, profile) in [("weak", "lightweight"), ("strong", "heavyweight")] {
        let node = shoal_tests::Node::new(lab, name);
        let token = mesh.token(&format!("{name}.token"), &["--role", "agent"]);
        let join = ["join", "--token-file", &token, "--network-profile", profile];
        node.host.shoal(&join).ok();
        mesh.nodes.push(node);
    }
    mesh
}

/// Refusals of SPEC 5.4 and 5.6, none of which leaves anything behind.
#[test]
fn a_cluster_that_cannot_be_meant_is_refused_by_name() {
    let Some(lab) = Lab::for_test("targets") else {
        return;
    };
    let mut mesh = of_all_profiles(&lab);
    let server = mesh.node("s1").host.clone();
    let refused = |words: &str, code: &str, part: &str| refuses(&server, words, code, part);
    let nowhere = "a1 --role agent --cluster nowhere";
    refused("a1 --role agent", "NoClusterError", "");
    refused(nowhere, "ClusterNotFoundError", "nowhere");
    let strange = "a1 --role server --network nowhere";
    refused(strange, "NetworkNotFoundError", "nowhere");
    let weak = "weak --role server --cni ovn_kubernetes";
    refused(weak, "CniProfileMismatchError", "weak");
    let clusters = server.shoal(&["cluster", "ls", "--json"]).ok();
    assert!(clusters.json_rows().is_empty());

    server.shoal(&pods_of_default(PREFIX)).ok();
    // A K3s that is nowhere is never found: these clusters do not become more than rows.
    let founds = |node: &str, name: &str| {
        let words = ["k3s", "provision", node, "--role", "server"];
        let more = ["--k3s-binary", "/nowhere/k3s", "--cluster", name];
        server.shoal(&[words.as_slice(), &more].concat()).ok();
    };
    founds("strong", "ovn");
    founds("weak", "small");
    let cni = |cluster: &str| text(&server.shoal_json(&["cluster", "show", cluster]), "cni");
    assert_eq!([cni("ovn"), cni("small")], ["ovn_kubernetes", "flannel"]);
    refused("a1 --role agent", "ClusterAmbiguousError", "ovn, small");
    let unnamed = http_status(&server, "k3s/a1/provision", r#"{"role": "agent"}"#);
    assert_eq!(unnamed, "422");
    refused(nowhere, "ClusterNotFoundError", "nowhere");
    let weak = "weak --role agent --cluster ovn";
    refused(weak, "CniProfileMismatchError", "ovn_kubernetes");
    let other = "s1 --role server --cluster ovn --cni flannel";
    refused(other, "ClusterFixedError", "CNI");
    server.shoal(&["network", "create", "blue"]).ok();
    let moved = "s1 --role server --cluster small --network blue";
    refused(moved, "ClusterFixedError", "network");
    let stranger = "s1 --role server --cluster new --network blue";
    refused(stranger, "SdwanPeerNotFoundError", "blue");
    the_prefix_is_flannels_alone(&server);
    a_founder_that_is_gone_before_it_was_ready_ends_its_cluster(&mut mesh);
}

/// The cluster `ovn` ignores the network's pod prefix and says so; `small` has it for good.
fn the_prefix_is_flannels_alone(server: &Host) {
    let kind = "system.cluster_bootstrap.pod_subnet_prefix_ignored";
    let events = server
        .shoal(&["events", "--json", "--kind-prefix", kind])
        .ok();
    let [event] = &events.json_rows()[..] else {
        panic!("one event for the one cluster on OVN: {events}");
    };
    assert!(event.to_string().contains("\"ovn\""), "{event}");
    let given = |cluster: &str| {
        server.shoal_json(&["cluster", "show", cluster])["pod_subnet_prefix"].clone()
    };
    assert!(given("ovn").is_null());
    assert_eq!(given("small"), PREFIX);
    for to in [OTHER_PREFIX, "none"] {
        let refusal = server.shoal_refused(&pods_of_default(to));
        assert_eq!(refusal["code"], "ClusterFixedError", "{to}: {refusal}");
    }
}

/// Somebody waits to join `small`: nobody can bring it up any more.
fn a_founder_that_is_gone_before_it_was_ready_ends_its_cluster(mesh: &mut Mesh) {
    let server = mesh.node("s1").host.clone();
    let waiting = ["k3s", "provision", "a1", "--role", "agent"];
    let small = ["--cluster", "small", "--k3s-binary", K3S];
    server.shoal(&[waiting.as_slice(), &small].concat()).ok();
    let last = server.shoal_refused(&["module", "unassign", "weak", "k3s-server", "--yes"]);
    assert_eq!(last["code"], "ClusterLastServerError", "{last}");
    mesh.node("weak").daemon.kill9();
    server
        .shoal(&["node", "remove", "weak", "--yes", "--force"])
        .ok();
    wait_until(SOON, "the cluster is in error", || {
        server.shoal_json(&["cluster", "show", "small"])["status"] == "error"
    });
    let late = "s1 --role agent --cluster small";
    refuses(&server, late, "ClusterInErrorError", "small");
    let late = r#"{"role": "agent", "cluster": "small"}"#;
    assert_eq!(http_status(&server, "k3s/s1/provision", late), "409");
}
