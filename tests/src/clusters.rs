//! K3s clusters, made in a lab the way an operator makes them, of the `k3s` beside the programs under
//! test.

use std::time::Duration;

use serde_json::Value;

use crate::{
    host::Host,
    process::Output,
    wait::{poll, wait_until},
};

/// Where hosts find a `k3s` to install.
pub const K3S: &str = "/run/lab/bin/k3s";
/// With which a cluster is founded whose test is not about its API's address: leases of 1.2 s. Those of
/// the default, 0.4 s, are lost now and then on a machine that runs another lab at the same time.
pub const PATIENT: [&str; 4] = ["--cni", "flannel", "--vip-profile", "safe"];

/// The same, under a name.
pub const fn patient(cluster: &'static str) -> [&'static str; 6] {
    let [cni, flannel, profile, safe] = PATIENT;
    ["--cluster", cluster, cni, flannel, profile, safe]
}

/// Every way into a cluster ends before that, on a machine that builds at the same time.
const IN_TIME: Duration = Duration::from_secs(60);
/// And every way out, with the minute in which a server may wait for etcd to let it go.
const OUT_IN_TIME: Duration = Duration::from_secs(150);
/// Where faults are put into the `k3s` of a host.
const KNOBS: &str = "/run/k3s-stand-in";
/// An operator's own settings, which K3s reads before shoal's.
const OWN_SETTINGS: &str = "/etc/rancher/k3s/config.yaml";
/// With which a host's K3s misses others sooner than an operator's would. All of it is K3s's own.
const QUICK_NODE: &str = "kubelet-arg: [node-status-update-frequency=1s]";
const QUICK_SERVER: &str = "kube-controller-manager-arg: [node-monitor-grace-period=4s]";

impl Host {
    /// Makes a node a server or an agent, with the lab's `k3s`, on this host's word.
    #[track_caller]
    pub fn provision_k3s(&self, node: &Host, role: &str, flags: &[&str]) {
        self.require_program("k3s");
        node.hasten_k3s(role);
        let command = ["k3s", "provision", node.name(), "--role", role];
        let binary = ["--k3s-binary", K3S];
        self.shoal(&[command.as_slice(), &binary, flags].concat())
            .ok();
    }

    /// Gives this host's K3s, before its first start, times that a test does not wait out.
    #[track_caller]
    pub fn hasten_k3s(&self, role: &str) {
        let more = if role == "server" { QUICK_SERVER } else { "" };
        self.sh(&format!(
            "mkdir -p $(dirname {OWN_SETTINGS}) && printf '%s\\n' '{QUICK_NODE}' '{more}' >{OWN_SETTINGS}"
        ))
        .ok();
    }

    /// The row of a node in `cluster nodes`, if it is there.
    #[track_caller]
    pub fn k3s_row(&self, cluster: &str, node: &str) -> Option<Value> {
        let shown = self.shoal(&["cluster", "nodes", cluster, "--json"]);
        // Before it is founded, and after it is given up, there is none.
        let rows = shown.success().then(|| shown.json_rows())?;
        rows.into_iter().find(|row| row["node"] == node)
    }

    /// Waits until a node of a cluster is in that phase.
    #[track_caller]
    pub fn wait_for_k3s(&self, cluster: &str, node: &str, phase: &str) {
        let mut last = None;
        let reached = poll(IN_TIME, || {
            last = self.k3s_row(cluster, node);
            (last.as_ref()?["phase"] == phase).then_some(())
        });
        assert!(
            reached.is_some(),
            "{node} is not {phase} after {IN_TIME:?}: {last:?}"
        );
    }

    /// Waits until the row of a node says that it failed, with that code or those words; returns all of
    /// the reason.
    #[track_caller]
    pub fn k3s_fails_with(&self, cluster: &str, node: &str, expected: &str) -> String {
        let mut said = String::new();
        wait_until(IN_TIME, &format!("{node} fails with {expected}"), || {
            let row = self.k3s_row(cluster, node).unwrap_or_default();
            said = row["reason"].as_str().unwrap_or_default().to_owned();
            row["status"] == "failed" && said.contains(expected)
        });
        said
    }

    /// Waits until a node is in that cluster no more.
    #[track_caller]
    pub fn wait_until_not_in(&self, cluster: &str, node: &str) {
        wait_until(OUT_IN_TIME, &format!("{node} has left {cluster}"), || {
            self.k3s_row(cluster, node).is_none()
        });
    }

    /// Keeps the kubeconfig of a cluster on this host, for [`Self::kubectl`].
    #[track_caller]
    pub fn keep_kubeconfig(&self, cluster: &str) {
        let file = self.disk(&kubeconfig(cluster));
        // Its server's daemon may just have been started, and is not heard yet.
        wait_until(IN_TIME, "a server gives its kubeconfig", || {
            let config = self.shoal(&["cluster", "kubeconfig", cluster]);
            config.success() && std::fs::write(&file, &config.stdout).is_ok()
        });
    }

    /// Runs `kubectl` with the kubeconfig that was kept.
    #[track_caller]
    pub fn kubectl(&self, cluster: &str, args: &[&str]) -> Output {
        let command = ["kubectl", "--request-timeout=3s", "--cache-dir=/tmp/kube"];
        self.run_with(
            &[command.as_slice(), args].concat(),
            &[("KUBECONFIG", &kubeconfig(cluster))],
        )
    }

    /// Has `kubectl create` make something, once the API takes it.
    #[track_caller]
    pub fn kubectl_creates(&self, cluster: &str, what: &[&str]) {
        let command = [["create"].as_slice(), what].concat();
        wait_until(IN_TIME, &format!("kubectl creates {what:?}"), || {
            let created = self.kubectl(cluster, &command);
            // The answer to an attempt that went through may have been lost.
            let mut said = created.stderr.lines().filter(|line| !line.is_empty());
            let made = |line: &str| line.contains("AlreadyExists");
            created.success() || (!created.stderr.is_empty() && said.all(made))
        });
    }

    /// The same with all that a manifest says.
    #[track_caller]
    pub fn kubectl_creates_all(&self, cluster: &str, manifest: &str) {
        let path = "/tmp/manifest.yaml";
        std::fs::write(self.disk(path), manifest).expect("the host's disk is writable");
        self.kubectl_creates(cluster, &["--validate=false", "-f", path]);
    }

    /// Whether a node is ready, as `kubectl` sees it.
    #[track_caller]
    pub fn sees_ready(&self, cluster: &str, node: &str) -> bool {
        let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        let output = self.kubectl(cluster, &["get", "node", node, "-o", path]);
        output.success() && output.text() == "True"
    }

    /// Puts a fault into this host's `k3s`.
    #[track_caller]
    pub fn turn_knob(&self, name: &str, content: &str) {
        self.sh(&format!(
            "mkdir -p {KNOBS} && echo '{content}' >{KNOBS}/{name}"
        ))
        .ok();
    }

    /// Takes a fault out again.
    #[track_caller]
    pub fn turn_back(&self, name: &str) {
        self.sh(&format!("rm {KNOBS}/{name}")).ok();
    }

    /// Members of etcd, as this host's K3s counts them; 0 while it does not answer.
    #[track_caller]
    pub fn etcd_members(&self) -> usize {
        let shown = self.sh("curl -sk https://127.0.0.1:6443/db/info");
        let info = (shown.success() && shown.text().starts_with('{')).then(|| shown.json());
        let members = info.and_then(|info| info["members"].as_array().map(Vec::len));
        members.unwrap_or_default()
    }

    /// The process of this host's K3s, empty without one.
    #[track_caller]
    pub fn k3s_process(&self) -> String {
        let found = self.run(&["pgrep", "--full", "^/usr/local/bin/k3s (server|agent)"]);
        found.text().to_owned()
    }
}

fn kubeconfig(cluster: &str) -> String {
    format!("/tmp/{cluster}.kubeconfig")
}

/// The manifest of a pod of an app on a node, called after both, which nobody makes anew.
pub fn pod(app: &str, node: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {app}-{node}, labels: {{app: {app}}}}}\n\
         spec: {{nodeName: {node}, containers: [{{name: c, image: x}}]}}\n"
    )
}

/// The manifest of a budget that keeps so many pods of an app.
pub fn budget(app: &str, kept: usize) -> String {
    format!(
        "---\napiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {{name: {app}}}\n\
         spec: {{minAvailable: {kept}, selector: {{matchLabels: {{app: {app}}}}}}}\n"
    )
}
