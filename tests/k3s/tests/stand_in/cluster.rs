//! Starting servers and agents, and asking them.

use std::{io::Write, path::Path, time::Duration};

use serde_json::Value;
use shoal_tests::{Host, Lab, Output, Process, wait_until};

/// A server is up within this, beside a machine that builds.
pub(crate) const UP: Duration = Duration::from_secs(40);
/// Anything that follows from something else has followed by then.
pub(crate) const SOON: Duration = Duration::from_secs(30);
pub(crate) const KUBECONFIG: &str = "/etc/rancher/k3s/k3s.yaml";
pub(crate) const TOKEN: &str = "/var/lib/rancher/k3s/server/token";

/// A lab with a `kubectl`; `None` where either cannot be had, unless nothing may be skipped.
pub(crate) fn lab(name: &str) -> Option<Lab> {
    if !Path::new(&kubectl_program()).exists() {
        let reason = format!("{} is missing (kubernetes-client)", kubectl_program());
        assert!(
            std::env::var_os("SHOAL_NO_SKIP").is_none(),
            "{name} may not be skipped here, but {reason}"
        );
        let _ = writeln!(std::io::stderr(), "\nSKIPPED {name}: {reason}\n");
        return None;
    }
    Lab::for_test(name)
}

fn kubectl_program() -> String {
    std::env::var("STAND_IN_KUBECTL").unwrap_or_else(|_| "/usr/bin/kubectl".to_owned())
}

/// Flags with which tests do not wait as long as operators do. All of them are K3s's own.
fn quick<'a>(ip: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let own = [
        "k3s",
        "server",
        "--node-ip",
        ip,
        "--flannel-iface=eth0",
        "--flannel-backend=host-gw",
        "--etcd-arg=heartbeat-interval=100",
        "--etcd-arg=election-timeout=1000",
        "--kubelet-arg=node-status-update-frequency=1s",
        "--kube-controller-manager-arg=node-monitor-grace-period=4s",
    ];
    own.iter().chain(more).copied().collect()
}

/// Starts a server without waiting for it.
#[track_caller]
pub(crate) fn spawn_server(host: &Host, more: &[&str]) -> Process {
    let ip = host.ipv4();
    host.spawn(&quick(&ip, more))
}

/// Starts a server and waits for its node to be ready.
#[track_caller]
pub(crate) fn server(host: &Host, more: &[&str]) -> Process {
    let process = spawn_server(host, more);
    wait_until_up(host, &process);
    process
}

#[track_caller]
pub(crate) fn wait_until_up(host: &Host, process: &Process) {
    wait_until(UP, &format!("the node of {} is ready", host.name()), || {
        assert!(process.is_running(), "k3s ended: {}", host.log("k3s"));
        is_ready(host, host.name())
    });
}

/// A server that ends by itself: what it says.
#[track_caller]
pub(crate) fn refused(host: &Host, more: &[&str]) -> Output {
    let ip = host.ipv4();
    let output = host.run(&quick(&ip, more));
    assert!(!output.success(), "this should have been refused: {output}");
    output
}

/// Starts an agent without waiting for it.
#[track_caller]
pub(crate) fn agent(host: &Host, server: &Host, token: &str) -> Process {
    host.spawn(&[
        "k3s",
        "agent",
        "--server",
        &url(server),
        "--token",
        token,
        "--node-ip",
        &host.ipv4(),
        "--flannel-iface=eth0",
        "--kubelet-arg=node-status-update-frequency=1s",
    ])
}

pub(crate) fn url(server: &Host) -> String {
    format!("https://{}:6443", server.ipv4())
}

/// The full token of a server.
#[track_caller]
pub(crate) fn token(server: &Host) -> String {
    server.run(&["cat", TOKEN]).ok().text().to_owned()
}

/// Runs `kubectl` on a server with the administrator's kubeconfig.
#[track_caller]
pub(crate) fn kubectl(host: &Host, args: &[&str]) -> Output {
    let program = kubectl_program();
    let timeout = ["--request-timeout=20s", "--cache-dir=/tmp/kube-cache"];
    let command: Vec<&str> = [program.as_str()]
        .iter()
        .chain(&timeout)
        .chain(args)
        .copied()
        .collect();
    host.run_with(&command, &[("KUBECONFIG", KUBECONFIG)])
}

/// `kubectl get … -o json`.
#[track_caller]
pub(crate) fn get(host: &Host, args: &[&str]) -> Value {
    let command: Vec<&str> = ["get"]
        .iter()
        .chain(args)
        .chain(&["-o", "json"])
        .copied()
        .collect();
    kubectl(host, &command).ok().json()
}

/// Whether a node is ready, as `kubectl` sees it.
#[track_caller]
pub(crate) fn is_ready(host: &Host, node: &str) -> bool {
    status_of(host, node, "Ready") == "True"
}

/// A condition of a node; empty where there is no node, or nobody to ask.
#[track_caller]
pub(crate) fn status_of(host: &Host, node: &str, condition: &str) -> String {
    let path = format!("jsonpath={{.status.conditions[?(@.type=='{condition}')].status}}");
    let output = kubectl(host, &["get", "node", node, "-o", &path]);
    if output.success() {
        output.text().to_owned()
    } else {
        String::new()
    }
}

/// Applies an object.
#[track_caller]
pub(crate) fn apply(host: &Host, lab: &Lab, object: &Value) -> Output {
    std::fs::write(lab.files().join("object.json"), object.to_string())
        .expect("the lab's directory is writable");
    kubectl(
        host,
        &[
            "apply",
            "--validate=false",
            "-f",
            "/run/lab/files/object.json",
        ],
    )
}

/// Puts a fault into a host's stand-in.
#[track_caller]
pub(crate) fn turn_knob(host: &Host, name: &str, content: &str) {
    host.sh(&format!(
        "mkdir -p /run/k3s-stand-in && echo '{content}' > /run/k3s-stand-in/{name}"
    ))
    .ok();
}

#[track_caller]
pub(crate) fn turn_back(host: &Host, name: &str) {
    host.sh(&format!("rm /run/k3s-stand-in/{name}")).ok();
}

/// Asks the server on the same host over TLS without any credentials.
#[track_caller]
pub(crate) fn curl(host: &Host, path: &str) -> Output {
    let url = format!("https://127.0.0.1:6443{path}");
    host.run(&["curl", "-sk", "-w", " %{http_code}", &url])
}
