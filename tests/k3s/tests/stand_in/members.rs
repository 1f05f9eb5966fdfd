//! Several servers: joining, losing, removing, replacing; snapshots.

use shoal_tests::{Host, wait_until};

use crate::cluster::{
    SOON, UP, agent, get, is_ready, kubectl, lab, refused, server, spawn_server, status_of, token,
    url, wait_until_up,
};

fn is_healthy(host: &Host) -> bool {
    kubectl(host, &["get", "--raw", "/readyz"]).success()
}

fn write(host: &Host, name: &str) -> bool {
    kubectl(host, &["create", "configmap", name, "--from-literal=a=b"]).success()
}

/// Whose controllers lead, once it is one of these.
#[track_caller]
fn leads(host: &Host, servers: &[&str]) -> String {
    let lease = [
        "-n",
        "kube-system",
        "get",
        "lease",
        "kube-controller-manager",
    ];
    let path = ["-o", "jsonpath={.spec.holderIdentity}"];
    let mut holder = String::new();
    wait_until(SOON, &format!("one of {servers:?} leads"), || {
        let shown = kubectl(host, &[lease.as_slice(), &path].concat());
        let server = shown.text().split('_').next();
        holder = server.unwrap_or_default().to_owned();
        shown.success() && servers.contains(&holder.as_str())
    });
    holder
}

#[test]
fn three_servers_outlive_the_first_and_not_the_second_loss() {
    let Some(lab) = lab("stand-in-three") else {
        return;
    };
    let (a, b, c, d) = (lab.host("a"), lab.host("b"), lab.host("c"), lab.host("d"));
    let first = server(&a, &["--cluster-init"]);
    let (join, key) = (["--server".to_owned(), url(&a)], token(&a));
    let join = [join[0].as_str(), join[1].as_str(), "--token", &key];
    let second = server(&b, &join);
    let third = server(&c, &join);
    assert_eq!(token(&c), key);
    agent(&d, &a, &key);
    wait_until(SOON, "d is ready", || is_ready(&b, "d"));
    assert!(write(&c, "before"));
    assert!(kubectl(&a, &["get", "configmap", "before"]).success());

    first.kill9();
    let outage = wait_until(SOON, "b serves without a", || write(&b, "after"));
    assert!(kubectl(&c, &["get", "configmap", "after"]).success());
    wait_until(SOON, "a is missed and d is not", || {
        status_of(&b, "a", "Ready") == "Unknown" && is_ready(&b, "d")
    });
    wait_until(SOON, "a is no endpoint any more", || {
        let found = get(&b, &["endpoints", "kubernetes"]);
        found["subsets"][0]["addresses"]
            .as_array()
            .map_or(0, Vec::len)
            == 2
    });
    println!("writes went on {outage:?} after the first server's end");

    let (leader, led, other, killed) = match leads(&b, &["b", "c"]) == "b" {
        true => (&b, second, &c, third),
        false => (&c, third, &b, second),
    };
    killed.kill9();
    wait_until(SOON, "one is not ready alone", || !is_healthy(leader));
    assert!(
        !kubectl(leader, &["get", "nodes", "--request-timeout=2s"]).success(),
        "no majority, no answer"
    );
    // Its controllers cannot say any more that they lead, and end all of it.
    assert_eq!(led.wait(SOON).code(), Some(1));
    let said = leader.log("k3s");
    let last = said.lines().last().unwrap_or_default();
    assert!(last.ends_with("] \"leaderelection lost\""), "{last}");
    // Started again it waits for the other.
    let waits = spawn_server(leader, &join);
    let again = spawn_server(other, &join);
    wait_until_up(other, &again);
    wait_until_up(leader, &waits);
}

#[test]
fn a_lost_server_is_removed_and_a_new_one_takes_its_name() {
    let Some(lab) = lab("stand-in-replace") else {
        return;
    };
    let (a, b, c) = (lab.host("a"), lab.host("b"), lab.host("c"));
    server(&a, &["--cluster-init"]);
    let (place, key) = (url(&a), token(&a));
    let join = ["--server", place.as_str(), "--token", &key];
    server(&b, &join);
    server(&c, &join);

    // The disk of c is lost.
    c.power_off();
    let _ = std::fs::remove_dir_all(c.disk("/var/lib/rancher"));
    c.power_on();
    let taken = refused(&c, &join);
    assert!(
        taken
            .stderr
            .contains("etcd cluster join failed: duplicate node name found"),
        "{taken}"
    );
    kubectl(&a, &["delete", "node", "c"]).ok();
    c.sh("rm -rf /var/lib/rancher").ok();
    let process = spawn_server(&c, &join);
    wait_until_up(&c, &process);

    // A member that lives is told that it is none any more, and joins anew at its next start.
    kubectl(
        &a,
        &["annotate", "node", "c", "etcd.k3s.cattle.io/remove=true"],
    )
    .ok();
    assert_eq!(process.wait(UP).code(), Some(1));
    assert!(
        c.log("k3s")
            .contains("please restart k3s to rejoin the cluster"),
        "{}",
        c.log("k3s")
    );
    wait_until(SOON, "the annotation says so", || {
        let node = get(&a, &["node", "c"]);
        node["metadata"]["annotations"]["etcd.k3s.cattle.io/removed-node-name"].is_string()
    });
    let process = spawn_server(&c, &join);
    wait_until_up(&c, &process);
    let members = a.sh("curl -sk https://127.0.0.1:6443/db/info").ok().json();
    assert_eq!(
        members["members"].as_array().map(Vec::len),
        Some(3),
        "{members}"
    );
}

#[test]
fn servers_must_agree_in_what_matters_and_have_the_servers_token() {
    let Some(lab) = lab("stand-in-mismatch") else {
        return;
    };
    let (a, b) = (lab.host("a"), lab.host("b"));
    server(&a, &["--cluster-init", "--agent-token=agents"]);
    let (place, key) = (url(&a), token(&a));
    let other = refused(
        &b,
        &[
            "--server",
            &place,
            "--token",
            &key,
            "--cluster-cidr=10.99.0.0/16",
        ],
    );
    assert!(
        other
            .stderr
            .contains("critical configuration value mismatch"),
        "{other}"
    );
    let agents = refused(&b, &["--server", &place, "--token=agents"]);
    assert!(
        agents.stderr.contains("server-bootstrap: 401 Unauthorized"),
        "{agents}"
    );
    let foreign = key.replace(&key[3..67], &"0".repeat(64));
    let foreign = refused(&b, &["--server", &place, "--token", &foreign]);
    assert!(
        foreign.stderr.contains("token CA hash does not match"),
        "{foreign}"
    );
}

#[test]
fn a_snapshot_brings_a_cluster_back() {
    let Some(lab) = lab("stand-in-snapshot") else {
        return;
    };
    let a = lab.host("a");
    let first = server(&a, &["--cluster-init"]);
    let key = token(&a);
    assert!(write(&a, "kept"));
    let saved = a
        .run(&["k3s", "etcd-snapshot", "save", "--name=before"])
        .ok();
    assert!(saved.stderr.contains("Snapshot before-a-"), "{saved}");
    let listed = a
        .run(&["k3s", "etcd-snapshot", "ls", "-o", "json"])
        .ok()
        .json();
    let file = listed["items"][0]["location"]
        .as_str()
        .unwrap()
        .trim_start_matches("file://")
        .to_owned();
    assert!(write(&a, "lost"));
    first.sigterm();
    assert_eq!(first.wait(SOON).code(), Some(0));

    a.sh(&format!(
        "cp {file} /tmp/snapshot && rm -rf /var/lib/rancher /etc/rancher/k3s"
    ))
    .ok();
    let ip = a.ipv4();
    let reset = |token: &str| {
        a.run(&[
            "k3s",
            "server",
            "--node-ip",
            &ip,
            "--cluster-reset",
            "--cluster-reset-restore-path=/tmp/snapshot",
            "--token",
            token,
        ])
    };
    let done = reset(&key).ok();
    assert!(
        done.stderr
            .contains("restart without --cluster-reset flag now"),
        "{done}"
    );
    let twice = reset(&key);
    assert!(
        twice
            .stderr
            .contains("cluster-reset was successfully performed"),
        "{twice}"
    );
    server(&a, &["--cluster-init"]);
    assert_eq!(token(&a), key);
    assert!(kubectl(&a, &["get", "configmap", "kept"]).success());
    assert!(!kubectl(&a, &["get", "configmap", "lost"]).success());
}
