//! The node's object: registered once at start, kept ready by a heartbeat.
//!
//! Follows the kubelet: a node that was deleted while it runs is not registered again before the
//! next start; its address must be one of this machine's; it is ready only with a CNI.

use std::{path::Path, time::Duration};

use hyper::Method;
use serde_json::{Value, json};

use super::{agent::Node, api::Change, interfaces};
use crate::{apiserver::table, clock, knobs, logline, version};

/// How often something that is not there yet is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// A kubelet that exits is started again after this.
const RESTART_AFTER: Duration = Duration::from_secs(2);
const NO_CNI: &str = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized";

impl Node {
    pub(crate) fn path(&self) -> String {
        format!("/api/v1/nodes/{}", self.settings.name)
    }
}

/// Makes the node's object, or brings the one that is there up to date.
pub(crate) async fn register(node: &Node) {
    loop {
        let foreign = node
            .settings
            .ips
            .iter()
            .find(|ip| !interfaces::is_local(**ip));
        if let Some(ip) = foreign {
            logline::error(format!(
                "Kubelet exited: failed to validate nodeIP: node IP: \"{ip}\" not found in the host's network interfaces"
            ));
        } else {
            match try_to_register(node).await {
                Ok(()) => return,
                Err(why) => {
                    logline::error(format!("Unable to register node with API server: {why}"))
                }
            }
        }
        let rest = if foreign.is_some() {
            RESTART_AFTER
        } else {
            AGAIN_AFTER
        };
        tokio::time::sleep(rest).await;
    }
}

async fn try_to_register(node: &Node) -> Result<(), String> {
    let mut object = object(node);
    let said = |error: crate::wire::client::RequestError| error.to_string();
    match node
        .api
        .create("/api/v1/nodes", &object)
        .await
        .map_err(said)?
    {
        200..300 => logline::info(format!(
            "Successfully registered node {}",
            node.settings.name
        )),
        409 => {
            // Taints and schedulability are the operator's by now.
            object["spec"] = json!({"providerID": object["spec"]["providerID"]});
            let code = node.api.patch(&node.path(), &object).await.map_err(said)?;
            if !(200..300).contains(&code) {
                return Err(format!("the API server answered {code}"));
            }
        }
        code => return Err(format!("the API server answered {code}")),
    }
    let status = json!({"status": status(node)});
    let path = format!("{}/status", node.path());
    let code = node.api.patch(&path, &status).await.map_err(said)?;
    if !(200..300).contains(&code) {
        return Err(format!("the API server answered {code}"));
    }
    logline::info(format!(
        "Annotations and labels have been set successfully on node: {}",
        node.settings.name
    ));
    Ok(())
}

fn object(node: &Node) -> Value {
    let settings = &node.settings;
    let name = &settings.name;
    let mut labels = json!({
        "beta.kubernetes.io/arch": "amd64",
        "beta.kubernetes.io/instance-type": "k3s",
        "beta.kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "node.kubernetes.io/instance-type": "k3s",
    });
    for (key, value) in settings.labels.iter().chain(&node.role.labels) {
        labels[key] = json!(value);
    }
    let role = if node.role.server { "server" } else { "agent" };
    let arguments: Vec<&str> = std::iter::once(role)
        .chain(settings.arguments.iter().map(String::as_str))
        .collect();
    let mut annotations = json!({
        "alpha.kubernetes.io/provided-node-ip": joined(&settings.ips),
        "k3s.io/hostname": name,
        "k3s.io/internal-ip": joined(&settings.ips),
        "k3s.io/node-args": json!(arguments).to_string(),
    });
    if !settings.external_ips.is_empty() {
        annotations["k3s.io/external-ip"] = json!(joined(&settings.external_ips));
    }
    for (key, value) in &node.role.annotations {
        annotations[key] = json!(value);
    }
    let mut finalizers = vec!["wrangler.cattle.io/node".to_owned()];
    finalizers.extend(node.role.finalizers.iter().cloned());
    let taints: Vec<Value> = settings.taints.iter().map(|text| taint(text)).collect();
    let mut object = json!({
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "labels": labels,
            "annotations": annotations,
            "finalizers": finalizers,
        },
        "spec": {"providerID": format!("k3s://{name}")},
        "status": {},
    });
    if !taints.is_empty() {
        object["spec"]["taints"] = json!(taints);
    }
    object
}

fn joined(addresses: &[std::net::IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    texts.join(",")
}

/// `key=value:effect`.
fn taint(text: &str) -> Value {
    let (pair, effect) = text.rsplit_once(':').unwrap_or((text, "NoSchedule"));
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    json!({"key": key, "value": value, "effect": effect})
}

/// Whether a CNI has left its settings where containerd looks for them.
fn has_cni(node: &Node) -> bool {
    let own = node.layout.agent("etc/cni/net.d");
    let places = [own.as_path(), Path::new("/etc/cni/net.d")];
    let files = places
        .into_iter()
        .filter_map(|place| std::fs::read_dir(place).ok())
        .flatten();
    let mut names = files.flatten().map(|file| file.file_name());
    names.any(|name| {
        let name = name.to_string_lossy().into_owned();
        name.ends_with(".conf") || name.ends_with(".conflist")
    })
}

fn status(node: &Node) -> Value {
    let settings = &node.settings;
    let (ready, reason, message) = match knobs::not_ready() {
        Some(why) => ("False", "KubeletNotReady", why),
        None if !has_cni(node) => ("False", "KubeletNotReady", NO_CNI.to_owned()),
        None => (
            "True",
            "KubeletReady",
            "kubelet is posting ready status".to_owned(),
        ),
    };
    let now = clock::now();
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message,
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        })
    };
    let mut addresses: Vec<Value> = settings
        .ips
        .iter()
        .map(|ip| json!({"type": "InternalIP", "address": ip.to_string()}))
        .collect();
    let external = settings.external_ips.iter();
    addresses.extend(external.map(|ip| json!({"type": "ExternalIP", "address": ip.to_string()})));
    addresses.push(json!({"type": "Hostname", "address": settings.name}));
    json!({
        "addresses": addresses,
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            condition("Ready", ready, reason, &message),
        ],
        "capacity": {"cpu": "2", "memory": "4Gi", "pods": "110"},
        "allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110"},
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "nodeInfo": {
            "architecture": "amd64",
            "operatingSystem": "linux",
            "kubeletVersion": version::kubernetes(),
            "kubeProxyVersion": version::kubernetes(),
            "containerRuntimeVersion": "containerd://2.0.5-k3s1.32",
        },
    })
}

/// Renews the lease and corrects the status, at the kubelet's pace, sooner when it changes.
pub(crate) async fn heartbeat(node: std::sync::Arc<Node>) {
    let mut told = Value::Null;
    let mut next = tokio::time::Instant::now();
    loop {
        let now = status(&node);
        let summary = json!([now["conditions"][3]["status"], now["addresses"]]);
        if tokio::time::Instant::now() >= next || summary != told {
            next = tokio::time::Instant::now() + node.settings.status_every;
            if beat(&node, &now).await.is_ok() {
                told = summary;
            }
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

async fn beat(node: &Node, now: &Value) -> Result<(), crate::wire::client::RequestError> {
    let name = &node.settings.name;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let lease = json!({
        "kind": "Lease",
        "metadata": {"name": name, "namespace": "kube-node-lease"},
        "spec": {
            "holderIdentity": name,
            "leaseDurationSeconds": 40,
            "renewTime": clock::now_micro(),
        },
    });
    let renewed = node.api.patch(&format!("{leases}/{name}"), &lease).await?;
    if renewed == 404 {
        node.api.create(leases, &lease).await?;
    }
    let known = node.api.get(&node.path()).await?;
    let Some(known) = known else {
        logline::error(format!(
            "Error updating node status, will retry: nodes \"{name}\" not found"
        ));
        return Ok(());
    };
    let ready = now["conditions"][3]["status"].as_str().unwrap_or_default();
    if table::condition(&known, "Ready") != ready {
        let path = format!("{}/status", node.path());
        node.api.patch(&path, &json!({"status": now})).await?;
    }
    Ok(())
}

/// Returns when the API says that this node is registered.
pub(crate) async fn until_ready(node: &Node) {
    loop {
        if let Ok(Some(_)) = node.api.get(&node.path()).await {
            return;
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

/// The pod networks of this node, once it has been given some.
pub(crate) async fn pod_networks(node: &Node) -> Vec<String> {
    loop {
        if let Ok(Some(found)) = node.api.get(&node.path()).await {
            let networks = found["spec"]["podCIDRs"].as_array().into_iter().flatten();
            let networks: Vec<String> = networks
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            if !networks.is_empty() {
                return networks;
            }
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

/// Deletes a pod for good, as a kubelet does when its containers have ended.
pub(crate) async fn finish(node: &Node, pod: &Value) {
    let text = |name: &str| {
        pod["metadata"][name]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let path = format!(
        "/api/v1/namespaces/{}/pods/{}",
        text("namespace"),
        text("name")
    );
    let body = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": text("uid")}});
    let change = Change {
        method: Method::DELETE,
        path: &path,
        content_type: "application/json",
        body: &body,
    };
    let _ = node.api.change(change).await;
}
