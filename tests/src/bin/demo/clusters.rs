//! The demo's second act: three servers and a worker of a K3s cluster, which outlives the server that
//! answers for it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use shoal_tests::{Host, text, wait_until};

use super::{Demo, heading, seconds};

/// K3s is up in some 20 s on a real machine; on a slow disk and four times on one machine it takes
/// longer.
const DEADLINE: Duration = Duration::from_secs(300);
/// What the cluster is called.
const CLUSTER: &str = "demo";
/// The virtual IP of its API.
const VIP: &str = "k3s-demo";
/// Where hosts find the program.
const BINARY: &str = "/run/lab/files/k3s";
/// Where a1 keeps the cluster's kubeconfig.
const KUBECONFIG: &str = "/tmp/demo.kubeconfig";

/// The K3s that was given, if one was.
pub(super) fn given() -> Option<PathBuf> {
    let path = env::var_os("K3S").filter(|path| !path.is_empty())?;
    let path = PathBuf::from(path);
    assert!(path.is_file(), "K3S={} is no file", path.display());
    Some(path)
}

/// How to see the second act.
pub(super) fn say_how_to_get_one(why: &str) {
    heading("Second act: a K3s cluster");
    println!("  Left out: {why}. As root,");
    println!("    make demo K3S=/path/to/k3s");
    println!(
        "  makes a cluster of three servers and a worker, and takes one server away. K3s is one"
    );
    println!(
        "  file, at https://github.com/k3s-io/k3s/releases, to be compared with the list of sums"
    );
    println!(
        "  beside it. Without the network, `make demo K3S=target/debug/k3s` shows the same with"
    );
    println!("  the program that stands in for K3s in shoal's own tests.");
}

impl Demo {
    pub(super) fn make_a_cluster(&mut self, binary: &Path) {
        heading("Second act: a K3s cluster of three servers and a worker");
        let copy = self.lab.files().join("k3s");
        fs::copy(binary, copy).expect("the binary can be read");
        for (node, role) in [
            ("s1", "server"),
            ("s2", "server"),
            ("s3", "server"),
            ("a1", "agent"),
        ] {
            let begin = Instant::now();
            let more: &[&str] = match node {
                "s1" => &["--cni", "flannel"],
                _ => &[],
            };
            let provision = ["k3s", "provision", node, "--role", role];
            let which = ["--cluster", CLUSTER, "--k3s-binary", BINARY];
            self.shoal("s1", &[provision.as_slice(), &which, more].concat());
            self.wait_until_active(node);
            self.done(&format!(
                "{node} is {role} of cluster {CLUSTER}, {} after `k3s provision`",
                seconds(begin.elapsed())
            ));
        }
        self.show("a1", &["cluster", "ls"]);
        self.show("a1", &["cluster", "nodes", CLUSTER]);
        let keep = ["cluster", "kubeconfig", CLUSTER, "--out", KUBECONFIG];
        self.shoal("a1", &keep);
        let host = self.node("a1").host.clone();
        let get = ["get", "nodes", "-o", "wide"];
        println!("  a1$ KUBECONFIG={KUBECONFIG} kubectl {}", get.join(" "));
        for line in kubectl(&host, &get).ok().stdout.lines() {
            println!("    {line}");
        }
        self.done("kubectl on the worker reaches the API through its virtual IP");
    }

    pub(super) fn take_the_apis_holder_away(&mut self) {
        heading("The server that answers for the cluster loses its power");
        let agent = self.node("a1").host.clone();
        let holder = text(&agent.shoal_json(&["vip", "show", VIP]), "holder");
        let lost = self.node(&holder).host.clone();
        let write = ["create", "configmap", "written-without-it"];
        let begin = Instant::now();
        lost.power_off();
        println!("  {holder} is off");
        wait_until(DEADLINE, "the API takes a write", || {
            let written = kubectl(&agent, &write);
            // The answer to one that went through may have been lost.
            written.success() || written.stderr.contains("AlreadyExists")
        });
        let took = begin.elapsed();
        let now = text(&agent.shoal_json(&["vip", "show", VIP]), "holder");
        self.done(&format!(
            "{holder} is off; {now} answers, and kubectl's next write was done {} after",
            seconds(took)
        ));
        lost.power_on();
        let node = (self.nodes.iter_mut().find(|node| node.name() == holder)).expect("it is ours");
        node.restart_daemon();
        wait_until(
            DEADLINE,
            "the server is a node of the cluster again",
            || {
                let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
                let shown = kubectl(&agent, &["get", "node", &holder, "-o", path]);
                shown.success() && shown.text() == "True"
            },
        );
        self.show("a1", &["vip", "show", VIP]);
        self.done(&format!(
            "{holder} is back, and {now} goes on answering: nothing moves without a reason"
        ));
    }

    fn wait_until_active(&self, node: &str) {
        let host = &self.node("a1").host;
        let list = ["cluster", "nodes", CLUSTER, "--json"];
        wait_until(
            DEADLINE,
            &format!("{node} is active in the cluster"),
            || {
                let shown = host.shoal(&list);
                let rows = match shown.success() {
                    true => shown.json_rows(),
                    false => Vec::new(),
                };
                let row = rows.iter().find(|row| row["node"] == node);
                row.is_some_and(|row| row["status"] == "active")
            },
        );
    }
}

/// kubectl of its own, or the one that K3s has in it.
fn kubectl(host: &Host, args: &[&str]) -> shoal_tests::Output {
    let own = host.run(&["which", "kubectl"]).success();
    let program: &[&str] = match own {
        true => &["kubectl"],
        false => &["/usr/local/bin/k3s", "kubectl"],
    };
    let flags = ["--request-timeout=2s", "--cache-dir=/tmp/kube"];
    let command = [program, &flags, args].concat();
    host.run_with(&command, &[("KUBECONFIG", KUBECONFIG)])
}
