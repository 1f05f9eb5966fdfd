//! What `kubectl` asks first: groups, kinds, verbs, version.

use serde_json::{Value, json};

use super::kinds::{self, KINDS, Kind};
use crate::version;

const VERBS: [&str; 7] = [
    "create", "delete", "get", "list", "patch", "update", "watch",
];

/// The answer to a path of discovery.
pub(crate) fn answer(path: &str) -> Option<Value> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match parts.as_slice() {
        ["version"] => Some(version_info()),
        ["api"] => Some(json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [],
        })),
        ["apis"] => Some(json!({
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": kinds::groups().into_iter().map(group).collect::<Vec<_>>(),
        })),
        ["api", "v1"] => Some(resources("")),
        ["apis", name] if kinds::groups().contains(name) => {
            let mut answer = group(name);
            answer["kind"] = json!("APIGroup");
            answer["apiVersion"] = json!("v1");
            Some(answer)
        }
        ["apis", name, "v1"] if kinds::groups().contains(name) => Some(resources(name)),
        _ => None,
    }
}

fn group(name: &str) -> Value {
    let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
    json!({"name": name, "versions": [version], "preferredVersion": version})
}

fn resources(group: &str) -> Value {
    let mut resources = Vec::new();
    for kind in KINDS.iter().filter(|kind| kind.group == group) {
        resources.push(json!({
            "name": kind.plural,
            "singularName": kind.singular,
            "namespaced": kind.namespaced,
            "kind": kind.kind,
            "verbs": VERBS,
            "shortNames": kind.short,
        }));
        resources.extend(subresources(kind));
    }
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") },
        "resources": resources,
    })
}

fn subresources(kind: &Kind) -> Vec<Value> {
    let part = |name: &str, group: &str, version: &str, of: &str, verbs: &[&str]| {
        json!({
            "name": format!("{}/{name}", kind.plural),
            "singularName": "",
            "namespaced": kind.namespaced,
            "group": group,
            "version": version,
            "kind": of,
            "verbs": verbs,
        })
    };
    let mut found = vec![part(
        "status",
        kind.group,
        "v1",
        kind.kind,
        &["get", "patch", "update"],
    )];
    if kind.kind == "Pod" {
        found.push(part("eviction", "policy", "v1", "Eviction", &["create"]));
    }
    found
}

fn version_info() -> Value {
    let version = version::kubernetes();
    let mut numbers = version.trim_start_matches('v').split('.');
    json!({
        "major": numbers.next().unwrap_or("1"),
        "minor": numbers.next().unwrap_or("0"),
        "gitVersion": version,
        "gitCommit": "stand-in",
        "gitTreeState": "clean",
        "buildDate": "2025-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": "linux/amd64",
    })
}
