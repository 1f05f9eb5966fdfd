//! Workloads: deployments and daemon sets become pods, pods find nodes, orphans go.
//!
//! Follows the controllers of Kubernetes as far as `drain` depends on them: an evicted pod of a
//! deployment comes back on another node, one of a daemon set on the same, cordoned or not.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{all, create, remove, replace, text};
use crate::{
    apiserver::{eviction, table},
    clock,
    etcd::state::{Command, State},
};

/// All that is to be done about pods.
pub(crate) fn plan(state: &State) -> Vec<Command> {
    let mut plan = orphans(state);
    for (key, deployment) in all(state, "apps/deployments/") {
        plan.extend(deployment_plan(state, key, deployment));
    }
    for (key, set) in all(state, "apps/replicasets/") {
        plan.extend(replica_plan(state, key, set));
    }
    for (key, set) in all(state, "apps/daemonsets/") {
        plan.extend(daemon_plan(state, key, set));
    }
    plan.extend(schedule(state));
    plan.extend(budgets(state));
    plan
}

fn owner(kind: &str, object: &Value) -> Value {
    json!([{
        "apiVersion": "apps/v1",
        "kind": kind,
        "name": object["metadata"]["name"],
        "uid": object["metadata"]["uid"],
        "controller": true,
        "blockOwnerDeletion": true,
    }])
}

fn owned<'a>(
    state: &'a State,
    prefix: &'a str,
    owner: &'a Value,
) -> impl Iterator<Item = (&'a String, &'a Value)> {
    all(state, prefix).filter(|(_, object)| {
        object["metadata"]["ownerReferences"][0]["uid"] == owner["metadata"]["uid"]
    })
}

/// Objects whose owner or namespace is gone.
fn orphans(state: &State) -> Vec<Command> {
    let owners: BTreeSet<&str> = (state.objects.values())
        .map(|object| text(object, &["metadata", "uid"]))
        .collect();
    let mut plan = Vec::new();
    for (key, object) in &state.objects {
        let owner = text(&object["metadata"]["ownerReferences"][0], &["uid"]);
        let namespace = text(object, &["metadata", "namespace"]);
        let homeless = !namespace.is_empty()
            && !state
                .objects
                .contains_key(&format!("/namespaces//{namespace}"));
        let ending = !object["metadata"]["deletionTimestamp"].is_null();
        if (owner.is_empty() || owners.contains(owner)) && !homeless || ending {
            continue;
        }
        let on_node = key.starts_with("/pods/") && !object["spec"]["nodeName"].is_null();
        if on_node {
            plan.push(ended(key, object));
        } else {
            plan.push(remove(key));
        }
    }
    plan
}

/// The pod, marked as ending; its kubelet does the rest.
fn ended(key: &str, pod: &Value) -> Command {
    let mut pod = pod.clone();
    pod["metadata"]["deletionTimestamp"] = json!(clock::now());
    replace(key, pod)
}

fn deployment_plan(state: &State, key: &str, deployment: &Value) -> Vec<Command> {
    let (namespace, name) = (
        text(deployment, &["metadata", "namespace"]),
        text(deployment, &["metadata", "name"]),
    );
    let prefix = format!("apps/replicasets/{namespace}/");
    let found = owned(state, &prefix, deployment).next();
    let spec = json!({
        "replicas": deployment["spec"]["replicas"].as_u64().unwrap_or(1),
        "selector": deployment["spec"]["selector"],
        "template": deployment["spec"]["template"],
    });
    let Some((set_key, set)) = found else {
        let set_name = format!("{name}-{:08x}", rand::random::<u32>());
        let set = json!({
            "kind": "ReplicaSet",
            "apiVersion": "apps/v1",
            "metadata": {
                "name": set_name,
                "namespace": namespace,
                "ownerReferences": owner("Deployment", deployment),
            },
            "spec": spec,
            "status": {},
        });
        return vec![create(&format!("{prefix}{set_name}"), set)];
    };
    let mut plan = Vec::new();
    if set["spec"] != spec {
        let mut new = set.clone();
        new["spec"] = spec;
        plan.push(replace(set_key, new));
    }
    if deployment["status"] != set["status"] {
        let mut new = deployment.clone();
        new["status"] = set["status"].clone();
        plan.push(replace(key, new));
    }
    plan
}

fn new_pod(kind: &str, set: &Value) -> (String, Value) {
    let namespace = text(set, &["metadata", "namespace"]);
    let name = format!(
        "{}-{:05x}",
        text(set, &["metadata", "name"]),
        rand::random_range(0..0x10_0000_u32)
    );
    let template = &set["spec"]["template"];
    let pod = json!({
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": template["metadata"]["labels"],
            "ownerReferences": owner(kind, set),
        },
        "spec": template["spec"],
        "status": {"phase": "Pending"},
    });
    (format!("/pods/{namespace}/{name}"), pod)
}

fn replica_plan(state: &State, key: &str, set: &Value) -> Vec<Command> {
    let prefix = format!("/pods/{}/", text(set, &["metadata", "namespace"]));
    let living: Vec<(&String, &Value)> = owned(state, &prefix, set)
        .filter(|(_, pod)| pod["metadata"]["deletionTimestamp"].is_null())
        .collect();
    let wanted = set["spec"]["replicas"].as_u64().unwrap_or(1);
    let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
    let mut plan = Vec::new();
    for _ in living.len()..wanted {
        let (key, pod) = new_pod("ReplicaSet", set);
        plan.push(create(&key, pod));
    }
    for (key, pod) in living.iter().skip(wanted) {
        plan.push(ended(key, pod));
    }
    let ready = living
        .iter()
        .filter(|(_, pod)| table::condition(pod, "Ready") == "True")
        .count();
    let status = json!({
        "replicas": living.len(),
        "readyReplicas": ready,
        "availableReplicas": ready,
        "updatedReplicas": living.len(),
    });
    if set["status"] != status {
        let mut new = set.clone();
        new["status"] = status;
        plan.push(replace(key, new));
    }
    plan
}

fn daemon_plan(state: &State, key: &str, set: &Value) -> Vec<Command> {
    let prefix = format!("/pods/{}/", text(set, &["metadata", "namespace"]));
    let covered: BTreeSet<&str> = owned(state, &prefix, set)
        .map(|(_, pod)| text(pod, &["spec", "nodeName"]))
        .collect();
    let mut plan = Vec::new();
    for (_, node) in all(state, "/nodes/") {
        let name = text(node, &["metadata", "name"]);
        if !covered.contains(name) && table::condition(node, "Ready") == "True" {
            let (key, mut pod) = new_pod("DaemonSet", set);
            pod["spec"]["nodeName"] = json!(name);
            plan.push(create(&key, pod));
        }
    }
    let status =
        json!({"desiredNumberScheduled": covered.len(), "currentNumberScheduled": covered.len()});
    if set["status"] != status {
        let mut new = set.clone();
        new["status"] = status;
        plan.push(replace(key, new));
    }
    plan
}

/// Puts pods without a node on the ready node with the fewest.
fn schedule(state: &State) -> Vec<Command> {
    let mut loads: BTreeMap<&str, usize> = all(state, "/nodes/")
        .map(|(_, node)| node)
        .filter(|node| {
            let taints = node["spec"]["taints"]
                .as_array()
                .is_some_and(|taints| !taints.is_empty());
            table::condition(node, "Ready") == "True"
                && node["spec"]["unschedulable"] != true
                && !taints
        })
        .map(|node| (text(node, &["metadata", "name"]), 0))
        .collect();
    for (_, pod) in all(state, "/pods/") {
        if let Some(load) = loads.get_mut(text(pod, &["spec", "nodeName"])) {
            *load += 1;
        }
    }
    let mut plan = Vec::new();
    for (key, pod) in all(state, "/pods/") {
        if !pod["spec"]["nodeName"].is_null() || !pod["metadata"]["deletionTimestamp"].is_null() {
            continue;
        }
        let Some((name, load)) = loads.iter_mut().min_by_key(|(_, load)| **load) else {
            break;
        };
        *load += 1;
        let mut new = pod.clone();
        new["spec"]["nodeName"] = json!(name);
        plan.push(replace(key, new));
    }
    plan
}

/// Budgets say how they stand.
fn budgets(state: &State) -> Vec<Command> {
    let mut plan = Vec::new();
    for (key, budget) in all(state, "policy/poddisruptionbudgets/") {
        let standing = eviction::standing(state, budget);
        let status = json!({
            "currentHealthy": standing.healthy,
            "desiredHealthy": standing.desired,
            "disruptionsAllowed": standing.allowed,
            "expectedPods": standing.expected,
        });
        if budget["status"] != status {
            let mut new = budget.clone();
            new["status"] = status;
            plan.push(replace(key, new));
        }
    }
    plan
}
