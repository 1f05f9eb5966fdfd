//! Agents: who may join, under which name, and what stays when they are gone.

use shoal_tests::wait_until;

use crate::cluster::{
    SOON, agent, get, is_ready, kubectl, lab, server, status_of, token, turn_knob, url,
};

#[test]
fn only_the_right_token_joins_and_only_the_cluster_it_names() {
    let Some(lab) = lab("stand-in-token") else {
        return;
    };
    let (a, b) = (lab.host("a"), lab.host("b"));
    server(&a, &["--agent-token=for-agents"]);
    let full = token(&a);
    let hash = &full[3..67];

    let foreign = full.replace(hash, &"0".repeat(64));
    let process = agent(&b, &a, &foreign);
    wait_until(SOON, "the agent says that it is another cluster", || {
        b.log("k3s")
            .contains("token CA hash does not match the Cluster CA certificate hash")
    });
    assert!(process.is_running(), "K3s tries again and again");
    process.kill9();

    // The servers' password is not the agents'.
    let process = agent(&b, &a, &full);
    wait_until(SOON, "the agent says that it was not let in", || {
        b.log("k3s")
            .contains("failed to retrieve configuration from server")
            && b.log("k3s").contains("401 Unauthorized")
    });
    process.kill9();
    assert!(!kubectl(&a, &["get", "node", "b"]).success());

    let agents = a
        .run(&["cat", "/var/lib/rancher/k3s/server/agent-token"])
        .ok();
    assert!(agents.text().ends_with("::node:for-agents"), "{agents}");
    agent(&b, &a, agents.text());
    wait_until(SOON, "b is ready", || is_ready(&a, "b"));
    let node = get(&a, &["node", "b"]);
    assert_eq!(node["status"]["addresses"][0]["address"], b.ipv4());
    assert!(
        node["metadata"]["annotations"]["k3s.io/node-args"]
            .as_str()
            .unwrap()
            .contains("********")
    );
    assert_ne!(
        node["spec"]["podCIDR"],
        get(&a, &["node", "a"])["spec"]["podCIDR"]
    );

    // Another machine under the same name.
    let c = lab.host("c");
    let thief = c.spawn(&[
        "k3s",
        "agent",
        "--server",
        &url(&a),
        "--token",
        agents.text(),
        "--node-name=b",
        "--node-ip",
        &c.ipv4(),
    ]);
    wait_until(SOON, "the name is b's", || {
        c.log("k3s")
            .contains("Node password rejected, duplicate hostname")
    });
    thief.kill9();
    kubectl(&a, &["delete", "node", "b"]).ok();
    wait_until(SOON, "the name's password is forgotten", || {
        !kubectl(
            &a,
            &["get", "secret", "-n", "kube-system", "b.node-password.k3s"],
        )
        .success()
    });
}

#[test]
fn a_bootstrap_token_lets_an_agent_in() {
    let Some(lab) = lab("stand-in-bootstrap-token") else {
        return;
    };
    let (a, b) = (lab.host("a"), lab.host("b"));
    server(&a, &[]);
    let made = a
        .run(&["k3s", "token", "create", "--ttl=1h", "--description=test"])
        .ok();
    assert!(made.text().starts_with("K10"), "{made}");
    let listed = a.run(&["k3s", "token", "list"]).ok();
    assert!(listed.text().contains("test"), "{listed}");
    agent(&b, &a, made.text());
    wait_until(SOON, "b is ready", || is_ready(&a, "b"));
}

#[test]
fn pods_networks_are_routed_and_all_of_it_stays_when_the_agent_ends() {
    let Some(lab) = lab("stand-in-leftovers") else {
        return;
    };
    let (a, b) = (lab.host("a"), lab.host("b"));
    server(&a, &[]);
    let process = agent(&b, &a, &token(&a));
    wait_until(SOON, "b is ready", || is_ready(&a, "b"));
    let network = get(&a, &["node", "b"])["spec"]["podCIDR"]
        .as_str()
        .unwrap()
        .to_owned();
    let first = network.replace(".0/24", ".1");
    wait_until(SOON, "a reaches b's pod network", || {
        a.run(&["ping", "-c1", "-W1", &first]).success()
    });
    wait_until(SOON, "a pod runs on b", || {
        b.run(&["pgrep", "-f", "containerd-shim-runc-v2 -namespace k8s.io"])
            .success()
    });

    process.sigterm();
    assert_eq!(process.wait(SOON).code(), Some(0));
    b.run(&["pgrep", "-f", "containerd-shim-runc-v2 -namespace k8s.io"])
        .ok();
    b.run(&["ip", "link", "show", "cni0"]).ok();
    assert!(
        b.run(&["ip", "route"])
            .ok()
            .text()
            .contains("via 10.77.0.1"),
        "routes stay"
    );
    assert!(
        b.run(&["cat", "/proc/mounts"])
            .ok()
            .text()
            .contains("/var/lib/kubelet/pods/"),
        "mounts stay"
    );
    wait_until(SOON, "b is no longer known to be ready", || {
        status_of(&a, "b", "Ready") == "Unknown"
    });
}

#[test]
fn an_agent_waits_for_its_interface_and_its_cni() {
    let Some(lab) = lab("stand-in-interface") else {
        return;
    };
    let (a, b) = (lab.host("a"), lab.host("b"));
    server(&a, &[]);
    b.spawn(&[
        "k3s",
        "agent",
        "--server",
        &url(&a),
        "--token",
        &token(&a),
        "--node-ip",
        &b.ipv4(),
        "--flannel-iface=wg0",
    ]);
    wait_until(SOON, "the agent misses the interface", || {
        b.log("k3s")
            .contains("unable to find interface wg0: route ip+net: no such network interface")
    });
    assert!(!kubectl(&a, &["get", "node", "b"]).success());
    b.sh("ip link add wg0 type veth peer name wg1 && ip link set wg0 up")
        .ok();
    turn_knob(&b, "not-ready", "kaput");
    wait_until(SOON, "b is there and not ready", || {
        status_of(&a, "b", "Ready") == "False"
    });
}

#[test]
fn without_flannel_a_node_is_ready_when_somebody_else_brings_a_cni() {
    let Some(lab) = lab("stand-in-cni") else {
        return;
    };
    let a = lab.host("a");
    let process =
        crate::cluster::spawn_server(&a, &["--flannel-backend=none", "--disable-network-policy"]);
    wait_until(SOON, "the node is there", || {
        kubectl(&a, &["get", "node", "a"]).success()
    });
    wait_until(SOON, "it is not ready", || {
        status_of(&a, "a", "Ready") == "False"
    });
    a.sh("mkdir -p /etc/cni/net.d && echo '{}' > /etc/cni/net.d/10-ovn.conflist")
        .ok();
    crate::cluster::wait_until_up(&a, &process);
    assert!(
        !a.run(&["ip", "link", "show", "cni0"]).success(),
        "flannel makes nothing"
    );
}
