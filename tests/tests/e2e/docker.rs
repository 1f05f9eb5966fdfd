//! A node becomes a Docker host that the mesh reaches, and nobody else.

use std::time::Duration;

use serde_json::Value;
use shoal_tests::{Host, IMAGE, Lab, Mesh, PAGE, image_tar, text, wait_until};

const SOON: Duration = Duration::from_secs(20);
/// dockerd itself takes one to three seconds here.
const PROVISIONED: Duration = Duration::from_secs(60);

/// Where the image's archive lies for hosts.
const TAR: &str = "/run/lab/files/image.tar";
/// The port that the page is published on.
const PORT: &str = "8080:80";

#[test]
fn an_assigned_node_is_a_docker_host_for_any_node_and_the_plain_docker_cli_and_nobody_outside() {
    let Some(lab) = Lab::for_test("docker") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 2);
    let row = provision(&mesh, "a1");
    has_its_containers_and_images_worked_with_from_any_node(&lab, &mesh);
    takes_the_plain_docker_cli_with_certificates_and_only_with_them(&mesh, &row);
    serves_pages_to_the_mesh_only(&lab, &mesh, &row);
}

#[track_caller]
fn has_its_containers_and_images_worked_with_from_any_node(lab: &Lab, mesh: &Mesh) {
    let from = mesh.node("a2").host.clone();
    image_tar(&lab.files().join("image.tar"));
    from.shoal(&["docker", "import", "a1", "--file", TAR, "--tag", IMAGE])
        .ok();
    let greeting = [
        "docker", "run", "a1", IMAGE, "--name", "hi", "--", "echo", "a", "b c",
    ];
    from.shoal(&greeting).ok();
    wait_until(SOON, "the container has spoken and ended", || {
        container(&from, "a1", "hi").is_some_and(|row| row["state"] == "exited")
    });
    let row = container(&from, "a1", "hi").expect("an ended container is still listed");
    assert_eq!(row["image"], IMAGE);
    assert!(!text(&row, "id").is_empty());
    let logs = from.shoal(&["docker", "logs", "a1", "hi"]).ok();
    assert_eq!(logs.text(), "a b c");
    let taken = from.shoal_refused(&greeting);
    assert!(text(&taken, "message").contains("hi"), "{taken}");
    from.shoal_refused(&["docker", "rmi", "a1", IMAGE]);
    from.shoal(&["docker", "rm", "a1", "hi"]).ok();
    assert!(container(&from, "a1", "hi").is_none());
    from.shoal(&["docker", "rmi", "a1", IMAGE]).ok();
    from.shoal_refused(&["docker", "run", "a1", IMAGE]);
}

#[track_caller]
fn takes_the_plain_docker_cli_with_certificates_and_only_with_them(mesh: &Mesh, row: &Value) {
    let server = mesh.node("s1").host.clone();
    let script = "set -e; vars=$(shoal docker env a1); eval \"$vars\"; docker";
    let version = server.sh(&format!("{script} version -f '{{{{.Server.Version}}}}'"));
    assert_eq!(version.ok().text(), text(row, "version"));
    server.sh(&format!("{script} import {TAR} {IMAGE}")).ok();
    let said = server
        .sh(&format!("{script} run --rm {IMAGE} echo plain"))
        .ok();
    assert_eq!(said.text(), "plain");

    let endpoint = text(row, "api_endpoint").replace("tcp:", "https:");
    let url = format!("{endpoint}/version");
    let anonymous = server.run(&["curl", "-sSk", "--max-time", "5", &url]);
    assert!(
        !anonymous.success(),
        "dockerd asked for no certificate: {anonymous}"
    );
    let unencrypted = server.run(&[
        "curl",
        "-sS",
        "--max-time",
        "5",
        &url.replace("https", "http"),
    ]);
    assert!(!unencrypted.stdout.contains("ApiVersion"), "{unencrypted}");
    let foreign = server.sh(&format!(
        "cd /tmp && openssl req -x509 -newkey ed25519 -nodes -keyout k.pem -out c.pem -subj /CN=x \
         2>/dev/null && curl -sSk --max-time 5 --cert c.pem --key k.pem {url}"
    ));
    assert!(
        !foreign.success(),
        "dockerd took a foreign certificate: {foreign}"
    );
}

#[track_caller]
fn serves_pages_to_the_mesh_only(lab: &Lab, mesh: &Mesh, row: &Value) {
    let server = mesh.node("s1").host.clone();
    let other = mesh.node("a2").host.clone();
    let host = mesh.node("a1").host.clone();
    let [ipv6, ipv4] = mesh.node("a1").overlay();
    assert_eq!(row["api_endpoint"], format!("tcp://[{ipv6}]:2376"));
    assert_eq!(row["managed"], true);
    assert!(text(row, "version").starts_with(char::is_numeric), "{row}");
    run_page(lab, &other, "a1", "web");

    for from in [&server, &other] {
        assert_eq!(fetch(from, &format!("[{ipv6}]")).stdout, PAGE);
        assert_eq!(fetch(from, &ipv4).stdout, PAGE);
    }
    only_the_overlay_is_listened_on(&host, &ipv6);

    let outside = lab.outside();
    outside
        .sh(&format!("ip route add {ipv6} via {}", host.ipv6()))
        .ok();
    outside
        .sh(&format!("ip route add {ipv4} via {}", host.ipv4()))
        .ok();
    let underlay = format!("[{}]", host.ipv6());
    for address in [&format!("[{ipv6}]"), &ipv4, &host.ipv4(), &underlay] {
        let output = fetch(&outside, address);
        assert!(!output.success(), "an outsider got the page: {output}");
    }
}

#[test]
fn a_docker_host_is_made_in_one_call_put_right_when_it_drifts_or_dies_and_outlives_shoald() {
    let Some(lab) = Lab::for_test("docker-care") else {
        return;
    };
    let mut mesh = Mesh::new(&lab, 1, 1);
    is_refused_without_an_overlay_peer_with_how_to_attach_one(&mesh);
    is_made_in_one_call_and_events_tell_the_story(&mesh);
    has_its_configuration_put_back_and_that_told_once(&mesh);
    has_a_killed_dockerd_started_again(&mesh);
    outlives_the_daemon_with_its_containers(&lab, &mut mesh);
}

#[track_caller]
fn is_refused_without_an_overlay_peer_with_how_to_attach_one(mesh: &Mesh) {
    let server = mesh.node("s1").host.clone();
    server.shoal(&["network", "detach", "a1", "default"]).ok();
    for command in [
        ["module", "assign", "a1", "docker-engine"].as_slice(),
        ["docker", "provision", "a1"].as_slice(),
    ] {
        let refusal = server.shoal_refused(command);
        assert_eq!(refusal["code"], "MissingSdwanPeerError", "{refusal}");
        let hint = text(&refusal, "hint");
        assert!(hint.contains("shoal network attach a1"), "{hint}");
    }
    assert!(server.docker_row("a1").is_none());
    server.shoal(&["network", "attach", "a1", "default"]).ok();
}

#[track_caller]
fn is_made_in_one_call_and_events_tell_the_story(mesh: &Mesh) {
    let server = mesh.node("s1").host.clone();
    server.shoal(&["docker", "provision", "a1"]).ok();
    wait_until(PROVISIONED, "the host is connected", || {
        connected(&server, "a1")
    });
    let command = ["events", "--json", "--kind-prefix", "system.docker."];
    let rows = server.shoal(&command).ok().json_rows();
    let kinds: Vec<String> = rows.iter().map(|row| text(row, "kind")).collect();
    let mut told = kinds.iter();
    for kind in [
        "module.assigned",
        "runtime.installing",
        "handshake.wants_cert",
        "handshake.cert_signed",
        "handshake.ready",
    ] {
        let kind = format!("system.docker.{kind}");
        assert!(
            told.any(|told| *told == kind),
            "no {kind} in its place in {kinds:?}"
        );
    }
    assert!(
        kinds.contains(&"system.docker.provisioned".to_owned()),
        "{kinds:?}"
    );
}

#[track_caller]
fn has_its_configuration_put_back_and_that_told_once(mesh: &Mesh) {
    let server = mesh.node("s1").host.clone();
    let host = mesh.node("a1").host.clone();
    let dockerd = dockerd_of(&host);
    let file = "/etc/shoal/docker/daemon.json";
    let sum = || {
        let sum = host.sh(&format!("sha256sum <{file}"));
        sum.text().to_owned()
    };
    let told = || {
        let drifts = ["events", "--json", "--kind-prefix", "module.drift_detected"];
        let rows = server.shoal(&drifts).ok().json_rows();
        let what = rows.iter().map(|row| text(&row["payload"], "what"));
        what.collect::<Vec<String>>()
    };
    let left = sum();
    assert_eq!(told(), Vec::<String>::new());
    for (change, words) in [
        (format!("echo '{{\"debug\": true}}' >{file}"), "was changed"),
        (format!("rm {file}"), "is missing"),
    ] {
        let before = told().len();
        host.sh(&change).ok();
        wait_until(SOON, "the file is as it was", || sum() == left);
        wait_until(SOON, "that is told", || told().len() > before);
        let said = told();
        assert_eq!(said.len(), before + 1, "{said:?}");
        assert!(said[before].contains(words), "{said:?}");
    }
    assert_eq!(dockerd_of(&host), dockerd, "what runs was right");
}

#[track_caller]
fn has_a_killed_dockerd_started_again(mesh: &Mesh) {
    let server = mesh.node("s1").host.clone();
    let host = mesh.node("a1").host.clone();
    let old = dockerd_of(&host);
    host.sh(&format!("kill -9 {old}")).ok();
    wait_until(PROVISIONED, "another dockerd serves", || {
        dockerd_of(&host) != old && server.shoal(&["docker", "ps", "a1", "--json"]).success()
    });
    wait_until(PROVISIONED, "the host is connected again", || {
        connected(&server, "a1")
    });
}

#[track_caller]
fn outlives_the_daemon_with_its_containers(lab: &Lab, mesh: &mut Mesh) {
    let server = mesh.node("s1").host.clone();
    run_page(lab, &server, "a1", "web");
    let host = mesh.node("a1").host.clone();
    let dockerd = dockerd_of(&host);
    for kill in [false, true] {
        if kill {
            mesh.node("a1").daemon.kill9();
        } else {
            mesh.node("a1").daemon.stop();
        }
        let [_, ipv4] = server_view(&server, "a1");
        assert_eq!(fetch(&server, &ipv4).stdout, PAGE);
        mesh.node_mut("a1").restart_daemon();
        wait_until(SOON, "the Docker host is connected", || {
            connected(&server, "a1")
        });
        assert_eq!(dockerd_of(&host), dockerd);
    }
}

#[test]
fn what_keeps_a_node_from_being_a_docker_host_is_named_and_one_that_was_keeps_no_keys() {
    let Some(lab) = Lab::for_test("docker-ends") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 2);
    names_a_taken_port_and_tries_again(&mesh);
    names_a_missing_dockerd(&mesh);
    is_stopped_when_unassigned_and_loses_row_and_keys_when_decommissioned(&mesh);
}

#[track_caller]
fn names_a_taken_port_and_tries_again(mesh: &Mesh) {
    let server = mesh.node("s1").host.clone();
    let [ipv6, _] = mesh.node("a1").overlay();
    let squatter = "import socket,sys,time; s=socket.socket(socket.AF_INET6); \
                    s.bind((sys.argv[1],2376)); s.listen(); time.sleep(600)";
    let squatter = mesh
        .node("a1")
        .host
        .spawn(&["python3", "-c", squatter, &ipv6]);
    server
        .shoal(&["module", "assign", "a1", "docker-engine"])
        .ok();
    wait_for_reason(&server, "a1", "2376");
    squatter.kill9();
    wait_until(Duration::from_secs(90), "it tries again by itself", || {
        connected(&server, "a1")
    });
}

#[track_caller]
fn names_a_missing_dockerd(mesh: &Mesh) {
    let server = &mesh.node("s1").host;
    // No dockerd on this machine, and nowhere to get one from.
    mesh.node("a2")
        .host
        .sh(
            "mkdir -p /run/u /run/w && mount -t tmpfs x /run/u && mkdir /run/u/u /run/u/w \
             && mount -t overlay o -o lowerdir=/usr/sbin,upperdir=/run/u/u,workdir=/run/u/w \
             /usr/sbin && rm /usr/sbin/dockerd",
        )
        .ok();
    let assigned = server.shoal(&["module", "assign", "a2", "docker-engine", "--json"]);
    if assigned.success() {
        wait_for_reason(server, "a2", "docker");
    } else {
        assigned.refusal();
    }
}

#[track_caller]
fn is_stopped_when_unassigned_and_loses_row_and_keys_when_decommissioned(mesh: &Mesh) {
    let server = mesh.node("s1").host.clone();
    let host = mesh.node("a1").host.clone();
    server
        .shoal(&["module", "unassign", "a1", "docker-engine"])
        .ok();
    wait_until(PROVISIONED, "the row says disconnected", || {
        server.docker_row("a1").expect("the row is kept")["status"] == "disconnected"
    });
    wait_until(SOON, "dockerd is gone", || dockerd_of(&host).is_empty());
    server.shoal_refused(&["docker", "ps", "a1"]);

    server
        .shoal(&["module", "assign", "a1", "docker-engine"])
        .ok();
    wait_until(PROVISIONED, "the host is connected again", || {
        connected(&server, "a1")
    });
    server.shoal(&["docker", "decommission", "a1"]).ok();
    wait_until(SOON, "the row is gone", || {
        server.docker_row("a1").is_none()
    });
    wait_until(SOON, "dockerd is gone", || dockerd_of(&host).is_empty());
    let leftovers = "find /etc/shoal /var/lib/shoal/docker -name '*.pem' 2>/dev/null";
    wait_until(
        SOON,
        "keys of a Docker host that is none any more are gone",
        || host.sh(leftovers).text().is_empty(),
    );
}

/// Assigns the module and waits for the host.
#[track_caller]
fn provision(mesh: &Mesh, node: &str) -> Value {
    let server = &mesh.node("s1").host;
    server
        .shoal(&["module", "assign", node, "docker-engine"])
        .ok();
    wait_until(PROVISIONED, "the Docker host is connected", || {
        connected(server, node)
    });
    server.docker_row(node).expect("a connected host has a row")
}

fn connected(from: &Host, node: &str) -> bool {
    from.docker_row(node)
        .is_some_and(|row| row["status"] == "connected")
}

#[track_caller]
fn wait_for_reason(from: &Host, node: &str, expected: &str) {
    wait_until(PROVISIONED, "the row says why it failed", || {
        let row = from.docker_row(node).unwrap_or_default();
        assert_ne!(row["status"], "connected", "{row}");
        row["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains(expected))
    });
}

/// Imports the image and serves its page on the host's overlay addresses.
#[track_caller]
fn run_page(lab: &Lab, from: &Host, node: &str, name: &str) {
    image_tar(&lab.files().join("image.tar"));
    from.shoal(&["docker", "import", node, "--file", TAR, "--tag", IMAGE])
        .ok();
    let command = [
        "docker", "run", node, IMAGE, "--name", name, "-p", PORT, "--",
    ];
    let server = ["httpd", "-f", "-p", "80", "-h", "/www"];
    from.shoal(&[command.as_slice(), server.as_slice()].concat())
        .ok();
    let [_, ipv4] = server_view(from, node);
    wait_until(SOON, "the page is served", || {
        fetch(from, &ipv4).stdout == PAGE
    });
}

fn server_view(from: &Host, node: &str) -> [String; 2] {
    let row = from.node_row(node);
    ["overlay_ipv6", "overlay_ipv4"].map(|key| text(&row, key))
}

fn fetch(from: &Host, address: &str) -> shoal_tests::Output {
    let url = format!("http://{address}:8080/");
    from.run(&["curl", "-sS", "--max-time", "2", &url])
}

fn container(from: &Host, node: &str, name: &str) -> Option<Value> {
    let rows = from
        .shoal(&["docker", "ps", node, "--json"])
        .ok()
        .json_rows();
    rows.into_iter().find(|row| row["name"] == name)
}

/// The process id of the host's dockerd, empty without one. The oldest: asking for its version
/// takes a short-lived second one.
fn dockerd_of(host: &Host) -> String {
    let found = host.run(&["pgrep", "--oldest", "--exact", "dockerd"]);
    found.text().to_owned()
}

/// dockerd's port is open on the overlay address and on no other.
#[track_caller]
fn only_the_overlay_is_listened_on(host: &Host, ipv6: &str) {
    let shown = host.run(&["ss", "-Hltn", "sport", "=", "2376"]).ok();
    let listening: Vec<&str> = (shown.stdout.lines())
        .filter_map(|line| line.split_whitespace().nth(3))
        .collect();
    assert_eq!(listening, [format!("[{ipv6}]:2376")], "{shown}");
}
