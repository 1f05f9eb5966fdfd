//! One server: its files, its certificates, its refusals, its API.

use serde_json::json;
use shoal_tests::{Host, wait_until};

use crate::cluster::{
    KUBECONFIG, SOON, TOKEN, apply, curl, get, kubectl, lab, refused, server, spawn_server, token,
    turn_back, turn_knob, url,
};

#[test]
fn a_server_hands_out_what_k3s_hands_out() {
    let Some(lab) = lab("stand-in-server") else {
        return;
    };
    let host = lab.host("a");
    server(
        &host,
        &[
            "--cluster-init",
            "--tls-san=fd77::ff",
            "--tls-san",
            "api.mesh",
            "--write-kubeconfig-mode=0640",
        ],
    );

    let text = token(&host);
    let hash = host
        .sh("sha256sum /var/lib/rancher/k3s/server/tls/server-ca.crt | cut -c1-64")
        .ok();
    assert!(
        text.starts_with(&format!("K10{}::server:", hash.text())),
        "{text}"
    );
    assert_eq!(
        host.run(&["readlink", "-f", "/var/lib/rancher/k3s/server/node-token"])
            .ok()
            .text(),
        TOKEN
    );
    let modes = host
        .run(&[
            "stat",
            "-Lc",
            "%a",
            TOKEN,
            KUBECONFIG,
            "/etc/rancher/node/password",
        ])
        .ok();
    assert_eq!(modes.text(), "600\n640\n600");

    let names = host.sh("openssl s_client -connect 127.0.0.1:6443 </dev/null 2>/dev/null | openssl x509 -noout -ext subjectAltName").ok();
    for name in [
        "DNS:api.mesh",
        "FD77:0:0:0:0:0:0:FF",
        "10.77.0.1",
        "10.43.0.1",
        "127.0.0.1",
        "DNS:a,",
    ] {
        assert!(
            format!("{},", names.text()).contains(name),
            "{name} is missing in {names}"
        );
    }
    anonymous(&host);
    let version = host.run(&["k3s", "--version"]).ok();
    assert!(version.text().starts_with("k3s version v1."), "{version}");
}

/// What is for everybody, and what is not.
#[track_caller]
fn anonymous(host: &Host) {
    assert_eq!(curl(host, "/ping").text(), "pong 200");
    let cas = curl(host, "/cacerts");
    assert!(
        cas.text().starts_with("-----BEGIN CERTIFICATE") && cas.text().ends_with("200"),
        "{cas}"
    );
    for path in ["/readyz", "/version", "/api/v1/nodes"] {
        assert!(
            curl(host, path).text().ends_with("401"),
            "{path} is for nobody"
        );
    }
    assert!(
        curl(host, "/v1-k3s/server-bootstrap")
            .text()
            .ends_with("403")
    );
}

#[test]
fn kubectl_uses_the_api() {
    let Some(lab) = lab("stand-in-kubectl") else {
        return;
    };
    let host = lab.host("a");
    server(&host, &["--cluster-init"]);

    let nodes = kubectl(&host, &["get", "nodes"]).ok();
    let row = nodes.text().lines().last().unwrap_or_default().to_owned();
    assert!(
        row.starts_with("a ") && row.contains(" Ready ") && row.contains("control-plane,etcd"),
        "{nodes}"
    );
    assert_eq!(
        kubectl(&host, &["get", "--raw", "/readyz"]).ok().text(),
        "ok"
    );

    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "default"}, "data": {"x": "1"}});
    apply(&host, &lab, &map).ok();
    let mut changed = map.clone();
    changed["data"] = json!({"y": "2"});
    apply(&host, &lab, &changed).ok();
    assert_eq!(get(&host, &["configmap", "m"])["data"], json!({"y": "2"}));
    kubectl(&host, &["label", "node", "a", "disk=fast"]).ok();
    assert_eq!(
        get(&host, &["nodes", "-l", "disk=fast"])["items"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
    kubectl(&host, &["delete", "configmap", "m"]).ok();
    let gone = kubectl(&host, &["get", "configmap", "m"]);
    assert!(gone.stderr.contains("\"m\" not found"), "{gone}");

    let files = "/var/lib/rancher/k3s/agent";
    let own = host.sh(&format!(
        "curl -s --cacert {files}/server-ca.crt --cert {files}/client-kubelet.crt --key {files}/client-kubelet.key \
         https://127.0.0.1:6443/api/v1/namespaces/kube-system/secrets"
    ));
    assert!(
        own.text()
            .contains("secrets is forbidden: User \\\"system:node:a\\\" cannot list"),
        "{own}"
    );

    turn_knob(&host, "fail-readyz", "");
    let failing = kubectl(&host, &["get", "--raw", "/readyz"]);
    assert!(!failing.success(), "{failing}");
    assert_eq!(
        kubectl(&host, &["get", "--raw", "/livez"]).ok().text(),
        "ok"
    );
    turn_back(&host, "fail-readyz");
    wait_until(SOON, "it is ready again", || {
        kubectl(&host, &["get", "--raw", "/readyz"]).success()
    });
}

#[test]
fn what_k3s_would_not_start_with_is_refused() {
    let Some(lab) = lab("stand-in-refusals") else {
        return;
    };
    let host = lab.host("a");
    for (arguments, words) in [
        (
            vec!["--node-nam=x"],
            "flag provided but not defined: -node-nam",
        ),
        (
            vec!["--token=K10abc::server:x"],
            "invalid token CA hash length",
        ),
        (
            vec!["--server=https://10.77.0.1:6443"],
            "K3S_TOKEN is required to join a cluster",
        ),
        (
            vec!["--server=http://10.77.0.1:6443", "--token=x"],
            "only https:// URLs are supported",
        ),
        (
            vec!["--datastore-endpoint=mysql://x"],
            "does nothing of the kind",
        ),
    ] {
        let output = refused(&host, &arguments);
        assert!(
            output.stderr.contains(words) && output.code == Some(1),
            "{arguments:?}: {output}"
        );
    }
    let elsewhere = host.run(&["k3s", "server", "--cluster-init", "--node-ip=10.77.0.77"]);
    let words = "10.77.0.77:2380: bind: cannot assign requested address";
    assert!(elsewhere.stderr.contains(words), "{elsewhere}");
    host.sh("rm -rf /var/lib/rancher").ok();
    let interface = host.run(&["k3s", "server", "--flannel-iface=wg9"]);
    assert!(
        interface.stderr.contains("no such network interface"),
        "{interface}"
    );
    host.sh("mkdir -p /etc/rancher/k3s/config.yaml.d && echo 'flannel-ifac: eth0' > /etc/rancher/k3s/config.yaml.d/9.yaml").ok();
    let key = refused(&host, &[]);
    assert!(
        key.stderr.contains("Unknown flag --flannel-ifac found in"),
        "{key}"
    );
    host.sh("rm -r /etc/rancher/k3s/config.yaml.d").ok();

    server(&host, &[]);
    let second = refused(&host, &[]);
    assert!(
        second.stderr.contains("bind: address already in use"),
        "{second}"
    );
    let other = lab.host("b");
    let alone = refused(&other, &["--server", &url(&host), "--token", &token(&host)]);
    assert!(
        alone.stderr.contains("400 Bad Request"),
        "no cluster without --cluster-init: {alone}"
    );
}

#[test]
fn settings_come_from_files_and_survive_a_restart() {
    let Some(lab) = lab("stand-in-settings") else {
        return;
    };
    let host = lab.host("a");
    let notified = host.sh("cat > /tmp/listen.py <<'E'\nimport socket\ns=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM)\ns.bind('/tmp/notify')\ns.settimeout(60)\nopen('/tmp/said','wb').write(s.recv(100))\nE\npython3 --version");
    notified.ok();
    host.spawn(&["python3", "/tmp/listen.py"]);
    wait_until(SOON, "somebody listens", || {
        host.run(&["test", "-S", "/tmp/notify"]).success()
    });
    host.sh("mkdir -p /etc/rancher/k3s/config.yaml.d; cat > /etc/rancher/k3s/config.yaml.d/10-mesh.yaml <<'E'\ncluster-init: true\nnode-label:\n  - rack=r1\ndisable: [traefik, metrics-server]\ntoken-file: /etc/rancher/k3s/join\nE\necho secret > /etc/rancher/k3s/join").ok();
    let process = host.spawn(&[
        "env",
        "NOTIFY_SOCKET=/tmp/notify",
        "k3s",
        "server",
        "--node-ip",
        &host.ipv4(),
    ]);
    crate::cluster::wait_until_up(&host, &process);
    wait_until(SOON, "it has said READY=1", || {
        host.run(&["cat", "/tmp/said"]).text() == "READY=1"
    });
    assert!(token(&host).ends_with("::server:secret"));
    assert_eq!(
        get(&host, &["node", "a"])["metadata"]["labels"]["rack"],
        "r1"
    );
    let deployments = kubectl(
        &host,
        &["get", "deployments", "-n", "kube-system", "-o", "name"],
    )
    .ok();
    assert_eq!(
        deployments.text(),
        "deployment.apps/coredns\ndeployment.apps/local-path-provisioner"
    );

    let ca = host
        .run(&["cat", "/var/lib/rancher/k3s/server/tls/server-ca.crt"])
        .ok();
    process.kill9();
    host.sh("rm -r /etc/rancher/k3s/config.yaml.d").ok();
    let wrong = refused(&host, &["--token=another"]);
    let words = "bootstrap data already found and encrypted with different token";
    assert!(wrong.stderr.contains(words), "{wrong}");
    let process = spawn_server(&host, &[]);
    crate::cluster::wait_until_up(&host, &process);
    let again = host.run(&["cat", "/var/lib/rancher/k3s/server/tls/server-ca.crt"]);
    assert_eq!(again.ok().stdout, ca.stdout);
}
