//! What somebody thinks better of: a label that a node's place in a cluster hangs on, a K3s that never comes;
//! and settings of K3s that somebody else thought better of.

use std::time::Duration;

use serde_json::Value;
use shoal_tests::{Host, K3S, Lab, Mesh, PATIENT, SOCKET, patient, text, wait_until};

const SOON: Duration = Duration::from_secs(60);
const CLUSTER: &str = "prod";

#[test]
fn a_label_takes_no_node_out_of_its_cluster_unasked() {
    let Some(lab) = Lab::for_test("k3s-label") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 1);
    let [server, agent] = ["s1", "a1"].map(|name| mesh.node(name).host.clone());
    server.provision_k3s(&server, "server", &patient(CLUSTER));
    server.wait_for_k3s(CLUSTER, "s1", "ready");
    agent.sh(&format!("install {K3S} /usr/local/bin/k3s")).ok();
    agent.hasten_k3s("agent");
    server.shoal(&label(&["role=worker"])).ok();
    let selector = ["module", "assign", "--selector", "role=worker", "k3s-agent"];
    server.shoal(&selector).ok();
    server.wait_for_k3s(CLUSTER, "a1", "ready");

    for change in ["role=idle", "role-"] {
        let refused = server.shoal_refused(&label(&[change]));
        assert_eq!(refused["code"], "ConfirmationRequiredError", "{refused}");
    }
    let refused = unlabels(&server);
    assert_eq!(refused["code"], "ConsentRequiredError", "{refused}");
    assert!(
        text(&refused, "message").contains("a1 (agent of prod)"),
        "{refused}"
    );
    server.shoal(&label(&["zone=b"])).ok();
    settings_that_somebody_changed_are_told_of(&server, &agent);
    assert!(!agent.k3s_process().is_empty());
    let row = server.k3s_row(CLUSTER, "a1").expect("it is in its cluster");
    assert_ne!(row["status"], "leaving", "{row}");

    server.shoal(&label(&["role-", "--yes"])).ok();
    server.wait_until_not_in(CLUSTER, "a1");
    assert_eq!(agent.k3s_process(), "");
}

/// Changes the worker's labels.
fn label<'a>(changes: &[&'a str]) -> Vec<&'a str> {
    [["node", "label", "a1"].as_slice(), changes].concat()
}

/// Takes the label away as a program does that speaks to the API.
#[track_caller]
fn unlabels(host: &Host) -> Value {
    let json = "content-type: application/json";
    let asked = ["-H", json, "-d", r#"{"unset":["role"]}"#];
    let url = "http://shoal/v1/nodes/a1/labels";
    let curl = ["curl", "-s", "--unix-socket", SOCKET, url];
    host.run(&[curl.as_slice(), &asked].concat()).ok().json()
}

#[track_caller]
fn settings_that_somebody_changed_are_told_of(from: &Host, agent: &Host) {
    agent
        .sh("echo 'node-label: [a=b]' >>/etc/rancher/k3s/config.yaml.d/50-shoal.yaml")
        .ok();
    let drifts = ["events", "--json", "--kind-prefix", "module.drift_detected"];
    let mut told = Vec::new();
    wait_until(SOON, "it is told that K3s's settings were changed", || {
        told = from.shoal(&drifts).ok().json_rows();
        !told.is_empty()
    });
    assert_eq!(told[0]["node"], "a1", "{told:?}");
    assert_eq!(told[0]["payload"]["module"], "k3s-agent", "{told:?}");
}

/// Sends a file that has no end, slowly.
const ENDLESS: &str = "
import http.server, time
class Endless(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        open('/tmp/asked', 'w').close()
        self.send_response(200)
        self.end_headers()
        while True:
            self.wfile.write(b'x')
            self.wfile.flush()
            time.sleep(0.2)
http.server.ThreadingHTTPServer(('0.0.0.0', 8000), Endless).serve_forever()
";

#[test]
fn a_k3s_that_is_fetched_without_end_keeps_nobody_waiting() {
    let Some(lab) = Lab::for_test("k3s-endless") else {
        return;
    };
    let mesh = Mesh::new(&lab, 1, 1);
    let [server, node] = ["s1", "a1"].map(|name| mesh.node(name).host.clone());
    let files = server.spawn(&["python3", "-c", ENDLESS]);
    wait_until(SOON, "the file server listens", || {
        !server.sh("ss -Hltn sport = :8000").stdout.is_empty()
    });
    let url = format!("http://{}:8000/k3s", server.ipv4());
    let sum = "0".repeat(64);
    let provision = ["k3s", "provision", "a1", "--role", "server"];
    let source = ["--cluster", CLUSTER, "--k3s-url", &url, "--sha256", &sum];
    let provision = [provision.as_slice(), &PATIENT, &source].concat();
    let is_asked = || server.sh("rm /tmp/asked").success();
    server.shoal(&provision).ok();
    wait_until(SOON, "the file is asked for", is_asked);
    server.wait_for_k3s(CLUSTER, "a1", "installing");
    // It would go on for half an hour.
    let unassign = ["module", "unassign", "a1", "k3s-server", "--yes"];
    server.shoal(&unassign).ok();
    server.wait_until_not_in(CLUSTER, "a1");
    let left = "ls -d /usr/local/bin/k3s /var/lib/shoal/k3s 2>/dev/null";
    assert_eq!(node.sh(left).text(), "");

    // Nor does it keep out what is wanted instead.
    server.shoal(&provision).ok();
    wait_until(SOON, "the file is asked for again", is_asked);
    let instead = [provision.as_slice(), &["--k3s-version", "v1.31.9+k3s1"]].concat();
    server.shoal(&instead).ok();
    wait_until(SOON, "and for what is wanted instead", is_asked);
    files.kill9();
}
