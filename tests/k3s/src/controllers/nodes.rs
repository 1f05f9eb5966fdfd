//! Nodes: their pod networks, their silence, their end; servers among them as etcd members.
//!
//! Follows the node lifecycle and IPAM controllers of Kubernetes, and K3s's
//! `pkg/etcd/member_controller.go`: deleting a server's node, or annotating it with
//! `etcd.k3s.cattle.io/remove=true`, removes its member.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{all, create, remove, replace, text};
use crate::{
    apiserver::table,
    cli::settings::{self, ServerSettings},
    clock,
    etcd::state::{Command, State},
};

/// Kubernetes' share of a node.
const NODE_BITS_V4: u8 = 24;
/// Kubernetes' share of a node.
const NODE_BITS_V6: u8 = 64;
/// An API server whose lease is older is no endpoint any more.
const ENDPOINT_AGE: Duration = Duration::from_secs(15);
/// Holds a server's node until its etcd member is gone.
pub(crate) const ETCD_FINALIZER: &str = "wrangler.cattle.io/managed-etcd-controller";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// When each lease was last seen to change; other machines' clocks do not matter.
#[derive(Debug, Default)]
pub(crate) struct Health {
    seen: BTreeMap<String, (String, Instant)>,
}

impl Health {
    /// How long ago the lease changed.
    pub(super) fn age(&mut self, key: &str, renewed: &str) -> Duration {
        let now = Instant::now();
        let entry = self
            .seen
            .entry(key.to_owned())
            .or_insert_with(|| (renewed.to_owned(), now));
        if entry.0 != renewed {
            *entry = (renewed.to_owned(), now);
        }
        now.duration_since(entry.1)
    }
}

/// All that is to be done about nodes.
pub(crate) fn plan(
    state: &State,
    settings: &ServerSettings,
    health: &mut Health,
    leases: &mut Health,
) -> Vec<Command> {
    let mut plan = Vec::new();
    for (key, node) in all(state, "/nodes/") {
        if let Some(command) = end(state, key, node) {
            plan.push(command);
            continue;
        }
        let mut new = node.clone();
        give_network(state, settings, &mut new);
        judge(state, settings, health, &mut new);
        taint(&mut new);
        if let Some(command) = remove_member_on_request(state, &mut new) {
            plan.push(command);
        }
        if new != *node {
            plan.push(replace(key, new));
        }
    }
    plan.extend(forget(state));
    plan.extend(endpoints(state, settings, leases));
    plan
}

/// What a deleted node waits for.
fn end(state: &State, key: &str, node: &Value) -> Option<Command> {
    if node["metadata"]["deletionTimestamp"].is_null() {
        return None;
    }
    let held = node["metadata"]["finalizers"].as_array()?;
    let member = text(
        node,
        &["metadata", "annotations", "etcd.k3s.cattle.io/node-name"],
    );
    if held.iter().any(|finalizer| finalizer == ETCD_FINALIZER)
        && state.members.contains_key(member)
    {
        return Some(Command::RemoveMember {
            name: member.to_owned(),
        });
    }
    Some(remove(key))
}

fn remove_member_on_request(state: &State, node: &mut Value) -> Option<Command> {
    let annotations = &node["metadata"]["annotations"];
    let asked = text(annotations, &["etcd.k3s.cattle.io/remove"]).eq_ignore_ascii_case("true");
    let removed = text(annotations, &["etcd.k3s.cattle.io/removed-node-name"]).to_owned();
    let member = text(annotations, &["etcd.k3s.cattle.io/node-name"]).to_owned();
    if !asked || member.is_empty() {
        return None;
    }
    let annotations = node["metadata"]["annotations"].as_object_mut()?;
    if !removed.is_empty() && removed != member {
        // It has joined anew since.
        annotations.remove("etcd.k3s.cattle.io/removed-node-name");
        annotations.insert("etcd.k3s.cattle.io/remove".to_owned(), json!("false"));
        return None;
    }
    if state.members.contains_key(&member) {
        return Some(Command::RemoveMember { name: member });
    }
    annotations.remove("etcd.k3s.cattle.io/node-name");
    annotations.remove("etcd.k3s.cattle.io/node-address");
    annotations.insert(
        "etcd.k3s.cattle.io/removed-node-name".to_owned(),
        json!(member),
    );
    None
}

/// Gives a new node the lowest free network of each family.
fn give_network(state: &State, settings: &ServerSettings, node: &mut Value) {
    if !node["spec"]["podCIDR"].is_null() {
        return;
    }
    let taken: Vec<&str> = all(state, "/nodes/")
        .flat_map(|(_, other)| other["spec"]["podCIDRs"].as_array().into_iter().flatten())
        .filter_map(Value::as_str)
        .collect();
    let mut own = Vec::new();
    for cidr in &settings.critical.cluster_cidrs {
        let free = (0..=u16::MAX)
            .map_while(|number| subnet(cidr, number))
            .find(|candidate| !taken.contains(&candidate.as_str()));
        own.extend(free);
    }
    if own.len() == settings.critical.cluster_cidrs.len() {
        node["spec"]["podCIDR"] = json!(own.first());
        node["spec"]["podCIDRs"] = json!(own);
    }
}

/// The n-th node's share of a cluster's network; `None` beyond its end.
fn subnet(cidr: &str, number: u16) -> Option<String> {
    let (address, length) = settings::prefix(cidr)?;
    match address {
        IpAddr::V4(address) => {
            let bits = NODE_BITS_V4.max(length);
            let room = 1_u32
                .checked_shl(u32::from(bits - length))
                .unwrap_or(u32::MAX);
            let step = 1_u32.checked_shl(u32::from(32 - bits)).unwrap_or(0);
            let first = u32::from(address).checked_add(u32::from(number).checked_mul(step)?)?;
            (u32::from(number) < room).then(|| format!("{}/{bits}", Ipv4Addr::from(first)))
        }
        IpAddr::V6(address) => {
            let bits = NODE_BITS_V6.max(length);
            let room = 1_u128
                .checked_shl(u32::from(bits - length))
                .unwrap_or(u128::MAX);
            let step = 1_u128.checked_shl(u32::from(128 - bits)).unwrap_or(0);
            let first = u128::from(address).checked_add(u128::from(number).checked_mul(step)?)?;
            (u128::from(number) < room).then(|| format!("{}/{bits}", Ipv6Addr::from(first)))
        }
    }
}

/// A node that was silent for too long is not known to be ready.
fn judge(state: &State, settings: &ServerSettings, health: &mut Health, node: &mut Value) {
    let name = text(node, &["metadata", "name"]).to_owned();
    let key = format!("coordination.k8s.io/leases/kube-node-lease/{name}");
    let renewed = state
        .objects
        .get(&key)
        .map_or("", |lease| text(lease, &["spec", "renewTime"]));
    if health.age(&name, renewed) < settings.monitor_grace
        || table::condition(node, "Ready") == "Unknown"
    {
        return;
    }
    let now = clock::now();
    for condition in node["status"]["conditions"]
        .as_array_mut()
        .into_iter()
        .flatten()
    {
        condition["status"] = json!("Unknown");
        condition["reason"] = json!("NodeStatusUnknown");
        condition["message"] = json!("Kubelet stopped posting node status.");
        condition["lastTransitionTime"] = json!(now);
    }
}

/// Taints follow from what is known of the node.
fn taint(node: &mut Value) {
    let unreachable =
        table::condition(node, "Ready") == "Unknown" && !node["status"]["conditions"].is_null();
    let cordoned = node["spec"]["unschedulable"] == true;
    let old = node["spec"]["taints"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let mut taints: Vec<Value> = old
        .iter()
        .filter(|taint| taint["key"] != UNREACHABLE && taint["key"] != UNSCHEDULABLE)
        .cloned()
        .collect();
    if cordoned {
        taints.push(json!({"key": UNSCHEDULABLE, "effect": "NoSchedule"}));
    }
    if unreachable {
        taints.push(json!({"key": UNREACHABLE, "effect": "NoSchedule"}));
        taints.push(json!({"key": UNREACHABLE, "effect": "NoExecute"}));
    }
    if taints != old {
        if taints.is_empty() {
            if let Some(spec) = node["spec"].as_object_mut() {
                spec.remove("taints");
            }
        } else {
            node["spec"]["taints"] = json!(taints);
        }
    }
}

/// What outlives a node and should not: its password, its lease, its pods.
fn forget(state: &State) -> Vec<Command> {
    let gone = |name: &str| !state.objects.contains_key(&format!("/nodes//{name}"));
    let mut plan = Vec::new();
    for (key, lease) in all(state, "coordination.k8s.io/leases/kube-node-lease/") {
        // Written by a running kubelet, whose node is registered first.
        let name = text(lease, &["metadata", "name"]);
        if gone(name) {
            plan.push(remove(key));
            let secret = format!("/secrets/kube-system/{name}.node-password.k3s");
            if state.objects.contains_key(&secret) {
                plan.push(remove(&secret));
            }
        }
    }
    for (key, pod) in all(state, "/pods/") {
        let node = text(pod, &["spec", "nodeName"]);
        if !node.is_empty() && gone(node) {
            plan.push(remove(key));
        }
    }
    plan
}

/// The API servers that renew their leases, as the service's endpoints.
fn endpoints(state: &State, settings: &ServerSettings, leases: &mut Health) -> Vec<Command> {
    let mut addresses = Vec::new();
    let mut plan = Vec::new();
    for (key, lease) in all(state, "coordination.k8s.io/leases/kube-system/apiserver-") {
        if leases.age(key, text(lease, &["spec", "renewTime"])) > ENDPOINT_AGE {
            plan.push(remove(key));
            continue;
        }
        addresses.push(json!({"ip": text(lease, &["spec", "holderIdentity"])}));
    }
    let key = "/endpoints/default/kubernetes";
    let subsets = json!([{
        "addresses": addresses,
        "ports": [{"name": "https", "port": settings.port, "protocol": "TCP"}],
    }]);
    match state.objects.get(key) {
        Some(known) if known["subsets"] == subsets || addresses.is_empty() => {}
        Some(known) => {
            let mut new = known.clone();
            new["subsets"] = subsets;
            plan.push(replace(key, new));
        }
        None if addresses.is_empty() => {}
        None => {
            let object = json!({
                "kind": "Endpoints",
                "apiVersion": "v1",
                "metadata": {"name": "kubernetes", "namespace": "default"},
                "subsets": subsets,
            });
            plan.push(create(key, object));
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_of_nodes_follow_each_other() {
        assert_eq!(subnet("10.42.0.0/16", 0).unwrap(), "10.42.0.0/24");
        assert_eq!(subnet("10.42.0.0/16", 255).unwrap(), "10.42.255.0/24");
        assert_eq!(subnet("10.42.0.0/16", 256), None);
        assert_eq!(subnet("fd00:42::/56", 2).unwrap(), "fd00:42:0:2::/64");
    }

    #[test]
    fn a_cordoned_node_is_tainted_and_loses_the_taint() {
        let mut node = json!({
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        taint(&mut node);
        assert_eq!(node["spec"]["taints"][0]["key"], UNSCHEDULABLE);
        node["spec"]["unschedulable"] = json!(false);
        taint(&mut node);
        assert!(node["spec"]["taints"].is_null());
    }
}
