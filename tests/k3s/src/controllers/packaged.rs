//! What a new cluster contains: namespaces, the service of the API, K3s's packaged components.
//!
//! `--disable` leaves components out, as with K3s.

use serde_json::{Value, json};

use super::create;
use crate::{
    cli::settings::{self, ServerSettings},
    etcd::state::{Command, State},
};

/// Kubernetes' own namespaces.
const NAMESPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

/// What is missing.
pub(crate) fn plan(state: &State, settings: &ServerSettings) -> Vec<Command> {
    let mut wanted: Vec<(String, Value)> = Vec::new();
    for name in NAMESPACES {
        let namespace = json!({
            "kind": "Namespace",
            "apiVersion": "v1",
            "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
            "status": {"phase": "Active"},
        });
        wanted.push((format!("/namespaces//{name}"), namespace));
    }
    let service_cidr = settings.critical.service_cidrs.first();
    let address = service_cidr.map_or_else(String::new, |cidr| settings::nth(cidr, 1));
    let service = json!({
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {"name": "kubernetes", "namespace": "default"},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address,
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": settings.port}],
        },
    });
    wanted.push(("/services/default/kubernetes".to_owned(), service));
    let on = |name: &str| !settings.disabled.iter().any(|item| item == name);
    for (component, name) in [
        ("coredns", "coredns"),
        ("local-storage", "local-path-provisioner"),
        ("metrics-server", "metrics-server"),
        ("traefik", "traefik"),
    ] {
        if on(component) {
            wanted.push((
                format!("apps/deployments/kube-system/{name}"),
                deployment(name),
            ));
        }
    }
    if on("servicelb") && on("traefik") {
        let key = "apps/daemonsets/kube-system/svclb-traefik".to_owned();
        wanted.push((key, daemonset("svclb-traefik")));
    }
    let missing = wanted
        .into_iter()
        .filter(|(key, _)| !state.objects.contains_key(key));
    missing.map(|(key, object)| create(&key, object)).collect()
}

fn template(name: &str) -> Value {
    let mut spec = json!({"containers": [{"name": name, "image": format!("rancher/{name}")}]});
    // The one that makes `kubectl drain` ask for --delete-emptydir-data on every K3s.
    if name == "metrics-server" {
        spec["volumes"] = json!([{"name": "tmp-dir", "emptyDir": {}}]);
    }
    json!({"metadata": {"labels": {"k8s-app": name}}, "spec": spec})
}

fn deployment(name: &str) -> Value {
    json!({
        "kind": "Deployment",
        "apiVersion": "apps/v1",
        "metadata": {"name": name, "namespace": "kube-system", "labels": {"k8s-app": name}},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"k8s-app": name}},
            "template": template(name),
        },
        "status": {},
    })
}

fn daemonset(name: &str) -> Value {
    json!({
        "kind": "DaemonSet",
        "apiVersion": "apps/v1",
        "metadata": {"name": name, "namespace": "kube-system", "labels": {"k8s-app": name}},
        "spec": {
            "selector": {"matchLabels": {"k8s-app": name}},
            "template": template(name),
        },
        "status": {},
    })
}
