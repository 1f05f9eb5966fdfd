//! Tables, which is how `kubectl get` wants lists: the server chooses the columns.

use serde_json::{Value, json};

use super::kinds::Kind;
use crate::clock;

/// Whether the client asked for a table.
pub(crate) fn wanted(accept: &str) -> bool {
    accept.split(',').any(|kind| kind.contains("as=Table"))
}

/// One row per object.
pub(crate) fn of(kind: &Kind, items: &[Value], revision: &str) -> Value {
    let names = columns(kind);
    let definitions: Vec<Value> = names
        .iter()
        .map(|(name, priority)| {
            json!({
                "name": name,
                "type": "string",
                "format": if *name == "Name" { "name" } else { "" },
                "description": "",
                "priority": priority,
            })
        })
        .collect();
    let rows: Vec<Value> = items
        .iter()
        .map(|item| {
            json!({
                "cells": cells(kind, item),
                "object": {
                    "kind": "PartialObjectMetadata",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": item["metadata"],
                },
            })
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": revision},
        "columnDefinitions": definitions,
        "rows": rows,
    })
}

/// Names, and 1 for those of `-o wide`.
fn columns(kind: &Kind) -> Vec<(&'static str, u8)> {
    match kind.kind {
        "Node" => vec![
            ("Name", 0),
            ("Status", 0),
            ("Roles", 0),
            ("Age", 0),
            ("Version", 0),
            ("Internal-IP", 1),
        ],
        "Pod" => vec![
            ("Name", 0),
            ("Ready", 0),
            ("Status", 0),
            ("Restarts", 0),
            ("Age", 0),
            ("IP", 1),
            ("Node", 1),
        ],
        _ => vec![("Name", 0), ("Age", 0)],
    }
}

fn cells(kind: &Kind, item: &Value) -> Vec<Value> {
    let name = item["metadata"]["name"].clone();
    match kind.kind {
        "Node" => vec![
            name,
            json!(node_status(item)),
            json!(node_roles(item)),
            age(item),
            item["status"]["nodeInfo"]["kubeletVersion"].clone(),
            json!(internal_ip(item)),
        ],
        "Pod" => {
            let ready = condition(item, "Ready") == "True";
            let ending = !item["metadata"]["deletionTimestamp"].is_null();
            let phase = item["status"]["phase"].as_str().unwrap_or("Pending");
            vec![
                name,
                json!(if ready { "1/1" } else { "0/1" }),
                json!(if ending { "Terminating" } else { phase }),
                json!(0),
                age(item),
                item["status"]["podIP"].clone(),
                item["spec"]["nodeName"].clone(),
            ]
        }
        _ => vec![name, age(item)],
    }
}

/// The status of a condition.
pub(crate) fn condition<'a>(item: &'a Value, kind: &str) -> &'a str {
    let conditions = item["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten();
    let mut found = conditions.filter(|condition| condition["type"] == kind);
    found
        .next()
        .and_then(|condition| condition["status"].as_str())
        .unwrap_or("Unknown")
}

fn node_status(node: &Value) -> String {
    let mut status = match condition(node, "Ready") {
        "True" => "Ready".to_owned(),
        _ => "NotReady".to_owned(),
    };
    if node["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn node_roles(node: &Value) -> String {
    let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
    let roles: Vec<&str> = labels
        .filter_map(|(label, _)| label.strip_prefix("node-role.kubernetes.io/"))
        .collect();
    if roles.is_empty() {
        "<none>".to_owned()
    } else {
        roles.join(",")
    }
}

/// A node's address.
pub(crate) fn internal_ip(node: &Value) -> String {
    let addresses = node["status"]["addresses"].as_array().into_iter().flatten();
    let mut found = addresses.filter(|address| address["type"] == "InternalIP");
    let first = found.next().and_then(|address| address["address"].as_str());
    first.unwrap_or("<none>").to_owned()
}

fn age(item: &Value) -> Value {
    let created = item["metadata"]["creationTimestamp"]
        .as_str()
        .and_then(clock::parse);
    let Some(created) = created else {
        return json!("<unknown>");
    };
    let seconds = clock::unix_seconds().saturating_sub(created);
    json!(match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    })
}
