//! Containers on different hosts reach each other by address and by name, inside the overlay only.

use std::time::Duration;

use shoal_tests::{Host, IMAGE, Lab, Mesh, Output, PAGE, Process, image_tar, text, wait_until};

const SOON: Duration = Duration::from_secs(20);
/// dockerd itself takes one to three seconds here.
const PROVISIONED: Duration = Duration::from_secs(60);
/// Where containers are to have their addresses.
const PREFIX: &str = "10.43.0.0/16";
/// Where the image's archive lies for hosts.
const TAR: &str = "/run/lab/files/image.tar";
/// The numbers up to 200,000, each with its line end.
const LARGE_BYTES: usize = 1_288_895;
/// What all that hosts said to each other is written to.
const CAPTURE: &str = "/run/lab/files/wire.pcap";

/// Answers every question for an address with 192.0.2.77, and every other with nothing.
const RESOLVER: &str = "
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 53))
while True:
    q, peer = s.recvfrom(4096)
    end = q.index(0, 12) + 5
    is_a = q[end - 4:end - 2] == b'\\0\\1'
    head = q[:2] + b'\\x81\\x80\\0\\1' + (b'\\0\\1' if is_a else b'\\0\\0') + b'\\0\\0\\0\\0'
    record = b'\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\1\\0\\4' + bytes([192, 0, 2, 77])
    s.sendto(head + q[12:end] + (record if is_a else b''), peer)
";

#[test]
fn containers_of_two_hosts_talk_by_address_and_name_and_the_wire_shows_wireguard_only() {
    let Some(lab) = Lab::for_test("containers") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 2);
    let subnets = provision(&lab, &mesh, &["a1", "a2"]);
    assert_ne!(subnets[0], subnets[1]);
    let (one, other) = (mesh.node("a1").host.clone(), mesh.node("a2").host.clone());
    let capture = capture(&one);
    run(&one, "shoal-default", "client", &["sleep", "600"]);
    let web = [
        "docker",
        "run",
        "a2",
        IMAGE,
        "--name",
        "web",
        "--network",
        "default",
        "--",
    ];
    let serve = ["httpd", "-f", "-p", "80", "-h", "/www"];
    one.shoal(&[web.as_slice(), &serve].concat()).ok();
    let elsewhere = ["docker", "run", "s1", IMAGE, "--network", "default"];
    one.shoal_refused(&elsewhere);
    let link = one.run(&["ip", "-o", "link", "show", "br-sh-default"]).ok();
    assert!(link.stdout.contains("mtu 1420"), "{link}");
    let web = address(&other, "web");
    assert!(in_subnet(&web, &subnets[1]), "{web} of {}", subnets[1]);
    let names = [
        "web",
        "web.default.shoal.internal",
        "web.a2.default.shoal.internal",
    ];
    for target in [web.as_str()].iter().chain(&names) {
        wait_until(SOON, &format!("the page is served to {target}"), || {
            page(&one, "client", target).stdout == PAGE
        });
    }
    // No host in between puts its own address in the place of the container's.
    let seen = exec(
        &other,
        "web",
        &["busybox", "ping", "-c", "1", "-W", "2", "client"],
    );
    let client = address(&one, "client");
    assert!(seen.stdout.contains(&client), "{seen}");
    // A large page needs every packet to fit.
    let large = "busybox wget -qO- http://web/large | busybox wc -c";
    exec(
        &other,
        "web",
        &["sh", "-c", "busybox seq 1 200000 > /www/large"],
    )
    .ok();
    let got = exec(&one, "client", &["sh", "-c", large]).ok();
    assert_eq!(got.text(), LARGE_BYTES.to_string());
    let node = exec(
        &one,
        "client",
        &["busybox", "nslookup", "a2.default.shoal.internal"],
    );
    let [ipv6, ipv4] = mesh.node("a2").overlay();
    assert!(
        node.stdout.contains(&ipv4) && node.stdout.contains(&ipv6),
        "{node}"
    );
    two_of_one_name(&one, &other, &web);
    capture.sigterm();
    capture.wait(SOON);
    only_wireguard_is_on_the_wire(&one, &mesh, &subnets);
}

#[test]
fn names_come_back_with_the_daemon_and_containers_never_lack_the_outside() {
    let Some(lab) = Lab::for_test("names") else {
        return;
    };
    let outside = lab.outside();
    let _resolver = outside.spawn(&["python3", "-c", RESOLVER, &outside.ipv4()]);
    let mut mesh = Mesh::new(&lab, 1, 2);
    for name in ["a1", "a2"] {
        let line = format!("echo nameserver {} > /etc/resolv.conf", outside.ipv4());
        mesh.node(name).host.sh(&line).ok();
    }
    provision(&lab, &mesh, &["a1", "a2"]);
    let (one, other) = (mesh.node("a1").host.clone(), mesh.node("a2").host.clone());
    run(&one, "shoal-default", "client", &["sleep", "600"]);
    run(&one, "bridge", "bystander", &["sleep", "600"]);
    run(
        &other,
        "shoal-default",
        "web",
        &["httpd", "-f", "-p", "80", "-h", "/www"],
    );
    let web = address(&other, "web");
    let finds_web = |from: &Host| resolves(from, "client", "web", &web);
    let finds_outside = |container: &str| resolves(&one, container, "example.org", "192.0.2.77");
    wait_until(SOON, "the container is found", || finds_web(&one));
    wait_until(SOON, "the outside is found", || finds_outside("client"));
    wait_until(
        SOON,
        "the outside is found from Docker's own bridge",
        || finds_outside("bystander"),
    );
    let secret = "web.default.shoal.internal";
    assert!(
        !resolves(&one, "bystander", secret, &web),
        "a stranger finds it"
    );

    mesh.node("a1").daemon.kill9();
    assert!(
        finds_outside("client"),
        "the outside is lost with the daemon"
    );
    assert_eq!(page(&one, "client", &web).stdout, PAGE);
    mesh.node_mut("a1").restart_daemon();
    wait_until(SOON, "the container is found again", || finds_web(&one));
    other.sh("docker rm -f web").ok();
    wait_until(SOON, "a container that is gone is found no more", || {
        !finds_web(&one)
    });
    // The same name at another address, seconds later.
    run(&other, "shoal-default", "spacer", &["sleep", "600"]);
    run(&other, "shoal-default", "web", &["sleep", "600"]);
    let moved = address(&other, "web");
    wait_until(SOON, "the container is found where it is now", || {
        resolves(&one, "client", "web", &moved)
    });
}

#[test]
fn networks_are_kept_apart_and_taken_out_of_docker_when_nobody_is_in_them() {
    let Some(lab) = Lab::for_test("apart") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 2);
    let server = mesh.node("s1").host.clone();
    let blue = ["network", "create", "blue", "--container-subnet-prefix"];
    server
        .shoal(&[blue.as_slice(), &["10.44.0.0/16"]].concat())
        .ok();
    for node in ["a1", "a2"] {
        server.shoal(&["network", "attach", node, "blue"]).ok();
    }
    provision(&lab, &mesh, &["a1", "a2"]);
    let (one, other) = (mesh.node("a1").host.clone(), mesh.node("a2").host.clone());
    for host in [&one, &other] {
        wait_until(SOON, "the network is there", || {
            has_network(host, "shoal-blue")
        });
    }
    run(&one, "shoal-default", "client", &["sleep", "600"]);
    run(&one, "shoal-blue", "painter", &["sleep", "600"]);
    run(
        &other,
        "shoal-blue",
        "web",
        &["httpd", "-f", "-p", "80", "-h", "/www"],
    );
    let web = address(&other, "web");
    wait_until(SOON, "a container of the network gets the page", || {
        page(&one, "painter", "web").stdout == PAGE
    });
    for name in [
        "web",
        "web.blue.shoal.internal",
        "web.a2.blue.shoal.internal",
    ] {
        assert!(!resolves(&one, "client", name, &web), "{name} is found");
    }
    for target in [&web, &address(&one, "painter")] {
        let ping = ["busybox", "ping", "-c", "1", "-W", "1", target];
        let got = exec(&one, "client", &ping);
        assert!(!got.success(), "another network is reached: {got}");
    }

    // A network that somebody needs stays, and the node says so.
    server.shoal(&["network", "detach", "a1", "blue"]).ok();
    let conditions = || one.shoal(&["status"]).stdout;
    wait_until(SOON, "the node says what keeps the network", || {
        conditions().contains("shoal-blue") && conditions().contains("painter")
    });
    assert!(has_network(&one, "shoal-blue"));
    one.sh("docker rm -f painter").ok();
    wait_until(SOON, "the empty network is gone", || {
        !has_network(&one, "shoal-blue")
            && !one.run(&["ip", "link", "show", "br-sh-blue"]).success()
    });
    wait_until(SOON, "nothing is wrong any more", || {
        !conditions().contains("shoal-blue")
    });
    one.sh("docker rm -f client").ok();
    server
        .shoal(&["module", "unassign", "a1", "docker-engine"])
        .ok();
    wait_until(PROVISIONED, "the bridge is gone with the module", || {
        !one.run(&["ip", "link", "show", "br-sh-default"]).success()
    });
}

#[test]
fn neither_a_firewall_of_the_host_nor_a_bridge_by_another_name_keeps_containers_from_the_mesh() {
    let Some(lab) = Lab::for_test("walled") else {
        return;
    };
    let outside = lab.outside();
    let _resolver = outside.spawn(&["python3", "-c", RESOLVER, &outside.ipv4()]);
    let mesh = Mesh::new(&lab, 1, 1);
    let (server, one) = (mesh.node("s1").host.clone(), mesh.node("a1").host.clone());
    let resolvers = format!("echo nameserver {} > /etc/resolv.conf", outside.ipv4());
    one.sh(&resolvers).ok();
    one.sh(WALL).ok();
    let subnets = provision(&lab, &mesh, &["a1"]);
    let named = "docker network create --subnet 172.30.7.0/24 \
                 -o com.docker.network.bridge.name=tenants ours";
    one.sh(named).ok();
    for (network, name) in [
        ("shoal-default", "client"),
        ("bridge", "bystander"),
        ("ours", "tenant"),
    ] {
        run(&one, network, name, &["sleep", "600"]);
    }
    let asks = subnets[0].replace("0/24", "1");
    let all_are_answered = || {
        ["client", "bystander", "tenant"].iter().all(|container| {
            let ask = ["busybox", "nslookup", "example.org", &asks];
            exec(&one, container, &ask).stdout.contains("192.0.2.77")
        })
    };
    wait_until(SOON, "everybody's questions come through", all_are_answered);
    let own = mesh.node("a1").overlay();
    assert!(resolves(
        &one,
        "client",
        "a1.default.shoal.internal",
        &own[1]
    ));
    let rules = let_in(&one);
    assert_eq!(
        rules.len(),
        6,
        "by each bridge, over UDP and TCP: {rules:?}"
    );
    let narrow = |rule: &String| rule.contains(&format!("-d {asks}/32 -i "));
    assert!(rules.iter().all(narrow), "{rules:?}");
    // Whoever flushes the chain takes it away for a moment.
    one.sh(&format!("iptables -F INPUT; {WALL}")).ok();
    wait_until(SOON, "questions come through again", all_are_answered);
    assert_eq!(let_in(&one), rules);

    // Containers on a bridge that Docker was told to call so are the host's own.
    let [_, target] = mesh.node("s1").overlay();
    let ping = ["busybox", "ping", "-c", "1", "-W", "2", &target];
    wait_until(SOON, "the mesh is reached from it", || {
        exec(&one, "tenant", &ping).success()
    });
    one.sh("docker rm -f tenant && docker network rm ours").ok();
    wait_until(SOON, "nothing is let in from a bridge that is gone", || {
        let_in(&one).len() == 4
    });
    // dockerd was told of the server for names when it was started, and not anew.
    let log = one.log("shoald");
    assert!(log.contains("step=\"start\"") && !log.contains("step=\"restart\""));
    server
        .shoal(&["module", "unassign", "a1", "docker-engine"])
        .ok();
    wait_until(PROVISIONED, "nothing is let in without containers", || {
        let_in(&one).is_empty()
    });
}

#[test]
fn dockerd_is_told_of_the_server_for_names_only_where_containers_can_ask_it() {
    let Some(lab) = Lab::for_test("blocked") else {
        return;
    };
    let outside = lab.outside();
    let _resolver = outside.spawn(&["python3", "-c", RESOLVER, &outside.ipv4()]);
    let mesh = Mesh::new(&lab, 1, 1);
    let one = mesh.node("a1").host.clone();
    let resolvers = format!("echo nameserver {} > /etc/resolv.conf", outside.ipv4());
    one.sh(&resolvers).ok();
    // The machine has these addresses elsewhere: there can be no bridge.
    let elsewhere = format!("{PREFIX} via {}", outside.ipv4());
    one.sh(&format!("ip route add {elsewhere}")).ok();
    assign(&lab, &mesh, &["a1"]);
    wait_until(SOON, "the node says what is in the way", || {
        one.shoal(&["status"]).stdout.contains("PrefixOverlapError")
    });
    let told = || one.sh("grep -c '\"dns\"' /etc/shoal/docker/daemon.json");
    assert_eq!(told().text(), "0", "{}", told());
    run(&one, "bridge", "bystander", &["sleep", "600"]);
    assert!(resolves(&one, "bystander", "example.org", "192.0.2.77"));

    one.sh(&format!("ip route del {elsewhere}")).ok();
    wait_until(
        PROVISIONED,
        "the network is there, and dockerd is told",
        || has_network(&one, "shoal-default") && told().text() == "1",
    );
    let [_, own] = mesh.node("a1").overlay();
    wait_until(PROVISIONED, "containers have names of the mesh", || {
        // Until dockerd has started anew a container may have the old resolvers.
        one.sh("docker rm -f client").success();
        let start =
            format!("docker run -d --network shoal-default --name client {IMAGE} sleep 600");
        one.sh(&start).success() && resolves(&one, "client", "a1.default.shoal.internal", &own)
    });
}

/// Drops questions for names, as a firewall does that lets in only what it was told of.
const WALL: &str = "for p in udp tcp; do iptables -A INPUT -p $p --dport 53 -j DROP; done";

/// What shoal has the host's own firewall let in.
fn let_in(host: &Host) -> Vec<String> {
    let listed = host.run(&["iptables", "-S", "INPUT"]).ok();
    let rules = listed.stdout.lines().map(str::to_owned);
    let mut rules: Vec<String> = rules
        .filter(|rule| rule.contains("--comment shoal"))
        .collect();
    rules.sort();
    rules
}

/// Gives `default` a prefix, makes these nodes Docker hosts with the image, and returns their subnets.
#[track_caller]
fn provision(lab: &Lab, mesh: &Mesh, nodes: &[&str]) -> Vec<String> {
    assign(lab, mesh, nodes);
    let server = &mesh.node("s1").host;
    for node in nodes {
        let host = &mesh.node(node).host;
        wait_until(SOON, "the network is there", || {
            has_network(host, "shoal-default")
        });
    }
    let shown = server.shoal_json(&["network", "show", "default"]);
    let peers = shown["peers"]
        .as_array()
        .expect("a network has peers")
        .iter();
    let subnet = |node: &str| {
        let mut peers = peers.clone();
        let row = peers.find(|peer| peer["node"] == node);
        text(row.expect("the node is a peer"), "container_subnet")
    };
    nodes.iter().map(|node| subnet(node)).collect()
}

/// The same, whether or not the network can be made.
#[track_caller]
fn assign(lab: &Lab, mesh: &Mesh, nodes: &[&str]) {
    let server = &mesh.node("s1").host;
    let prefix = [
        "network",
        "set",
        "default",
        "--container-subnet-prefix",
        PREFIX,
    ];
    server.shoal(&prefix).ok();
    for node in nodes {
        server
            .shoal(&["module", "assign", node, "docker-engine"])
            .ok();
    }
    image_tar(&lab.files().join("image.tar"));
    for node in nodes {
        wait_until(PROVISIONED, "the Docker host is connected", || {
            let row = server.docker_row(node);
            row.is_some_and(|row| row["status"] == "connected")
        });
        let host = &mesh.node(node).host;
        host.sh(&format!("docker import {TAR} {IMAGE}")).ok();
    }
}

fn has_network(host: &Host, name: &str) -> bool {
    host.run(&["docker", "network", "inspect", name]).success()
}

#[track_caller]
fn run(host: &Host, network: &str, name: &str, command: &[&str]) {
    let head = [
        "docker",
        "run",
        "-d",
        "--network",
        network,
        "--name",
        name,
        IMAGE,
    ];
    host.run(&[head.as_slice(), command].concat()).ok();
}

fn exec(host: &Host, container: &str, command: &[&str]) -> Output {
    host.run(&[["docker", "exec", container].as_slice(), command].concat())
}

fn page(host: &Host, container: &str, target: &str) -> Output {
    let url = format!("http://{target}/");
    let get = ["busybox", "timeout", "3", "busybox", "wget", "-qO-", &url];
    exec(host, container, &get)
}

#[track_caller]
fn address(host: &Host, container: &str) -> String {
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let shown = host
        .run(&["docker", "inspect", "-f", format, container])
        .ok();
    shown.text().to_owned()
}

fn resolves(host: &Host, container: &str, name: &str, expected: &str) -> bool {
    let said = exec(host, container, &["busybox", "nslookup", name]);
    // The server's own address comes first.
    let mut answers = said.stdout.lines().skip(3);
    answers.any(|line| line.split_whitespace().any(|word| word == expected))
}

fn in_subnet(address: &str, subnet: &str) -> bool {
    let beginning = subnet.trim_end_matches("0/24");
    beginning.ends_with('.') && address.starts_with(beginning)
}

/// A name that two containers have means both.
#[track_caller]
fn two_of_one_name(one: &Host, other: &Host, web: &str) {
    run(one, "shoal-default", "helper", &["sleep", "600"]);
    one.sh("docker rename helper web").ok();
    let own = address(one, "web");
    let name = "web.default.shoal.internal";
    for from in [(one, "client"), (other, "web")] {
        for expected in [own.as_str(), web] {
            wait_until(SOON, "both containers of the name are found", || {
                resolves(from.0, from.1, name, expected)
            });
        }
    }
    one.sh("docker rm -f web").ok();
}

fn capture(host: &Host) -> Process {
    let capture = host.spawn(&["tcpdump", "-i", "eth0", "-U", "-w", CAPTURE]);
    // The file has its header once packets are taken.
    wait_until(SOON, "packets are taken", || {
        host.sh(&format!("test -s {CAPTURE}")).success()
    });
    capture
}

#[track_caller]
fn only_wireguard_is_on_the_wire(host: &Host, mesh: &Mesh, subnets: &[String]) {
    let show = |filter: &str| {
        let shown = host.run(&["tcpdump", "-n", "-r", CAPTURE, filter]).ok();
        shown.stdout.lines().count()
    };
    // Its packets leave the machine in trains.
    let wireguard = format!("udp port 7441 and host {}", mesh.node("a2").host.ipv4());
    let shown = host.run(&["tcpdump", "-n", "-r", CAPTURE, &wireguard]).ok();
    let lengths = shown.stdout.lines().filter_map(|line| {
        let (_, length) = line.rsplit_once(" length ")?;
        length.parse::<usize>().ok()
    });
    assert!(
        lengths.sum::<usize>() > LARGE_BYTES,
        "the large page went another way"
    );
    for subnet in subnets {
        assert_eq!(show(&format!("net {subnet}")), 0, "{subnet} is on the wire");
    }
    assert_eq!(
        show("net 100.64.0.0/10"),
        0,
        "overlay addresses are on the wire"
    );
    assert_eq!(
        show("port 53 or port 80"),
        0,
        "names or pages are on the wire"
    );
    // Besides, the daemons' own port, neighbours being looked for, and mDNS.
    let known = "udp port 7441 or port 7440 or arp or icmp6 or port 5353 or igmp";
    assert_eq!(
        show(&format!("not ({known})")),
        0,
        "something else is on the wire"
    );
    for plain in [PAGE.trim(), "shoal.internal", "\\x05shoal\\x08internal"] {
        let script = format!("LC_ALL=C grep -caP -- '{plain}' {CAPTURE}");
        let found = host.sh(&script);
        assert_eq!(found.text(), "0", "{plain:?} is on the wire");
    }
}
