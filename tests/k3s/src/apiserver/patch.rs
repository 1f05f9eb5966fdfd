//! Patches: RFC 6902, RFC 7386, and Kubernetes' strategic merge.
//!
//! The strategic merge knows the merge keys of lists that are patched on nodes and pods; other
//! lists are replaced. A server-side apply is taken as a merge without owners of fields.

use serde_json::{Map, Value, json};

use crate::etcd::state::Refusal;

/// The keys by which elements of a list are told apart, by the list's name.
const MERGE_KEYS: &[(&str, &str)] = &[
    ("addresses", "type"),
    ("conditions", "type"),
    ("containers", "name"),
    ("env", "name"),
    ("initContainers", "name"),
    ("ownerReferences", "uid"),
    ("ports", "containerPort"),
    ("taints", "key"),
    ("volumeMounts", "mountPath"),
    ("volumes", "name"),
];

/// Lists whose elements are added, not replaced.
const SETS: &[&str] = &["finalizers", "podCIDRs"];

/// Applies a patch of this content type.
pub(crate) fn apply(content_type: &str, patch: &Value, target: &mut Value) -> Result<(), Refusal> {
    match content_type.split(';').next().unwrap_or_default().trim() {
        "application/json-patch+json" => json_patch(patch, target),
        "application/merge-patch+json" => {
            merge(patch, target);
            Ok(())
        }
        "application/strategic-merge-patch+json" | "application/apply-patch+yaml" => {
            strategic(patch, target);
            Ok(())
        }
        other => Err(Refusal::new(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml; got {other}"
            ),
        )),
    }
}

fn merge(patch: &Value, target: &mut Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    for (name, change) in changes {
        if change.is_null() {
            object(target).remove(name);
        } else {
            merge(change, object(target).entry(name).or_insert(Value::Null));
        }
    }
}

/// The value as an object, whatever it was.
fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    match value {
        Value::Object(map) => map,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            unreachable!("it was made one above")
        }
    }
}

fn strategic(patch: &Value, target: &mut Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if changes.get("$patch").is_some_and(|how| how == "replace") {
        let mut new = changes.clone();
        new.remove("$patch");
        *target = Value::Object(new);
        return;
    }
    for (name, change) in changes {
        if let Some(list) = name.strip_prefix("$deleteFromPrimitiveList/") {
            let gone = change.as_array().cloned().unwrap_or_default();
            if let Some(Value::Array(old)) = object(target).get_mut(list) {
                old.retain(|element| !gone.contains(element));
            }
        } else if name.starts_with('$') {
            // Orders of elements and keys to retain: neither matters to anybody here.
        } else if change.is_null() {
            object(target).remove(name);
        } else {
            let old = object(target).entry(name).or_insert(Value::Null);
            match change {
                Value::Array(elements) => strategic_list(name, elements, old),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                    *old = change.clone();
                }
                Value::Object(_) => strategic(change, old),
            }
        }
    }
}

fn strategic_list(name: &str, elements: &[Value], target: &mut Value) {
    let key = MERGE_KEYS
        .iter()
        .find(|(list, _)| *list == name)
        .map(|(_, key)| *key);
    let old = target.as_array().cloned().unwrap_or_default();
    if SETS.contains(&name) {
        let mut all = old;
        all.extend(
            elements
                .iter()
                .filter(|element| !all.contains(element))
                .cloned()
                .collect::<Vec<_>>(),
        );
        *target = Value::Array(all);
        return;
    }
    let (Some(key), true) = (key, elements.iter().all(Value::is_object)) else {
        *target = Value::Array(elements.to_vec());
        return;
    };
    let mut all = if elements
        .iter()
        .any(|element| element["$patch"] == "replace")
    {
        Vec::new()
    } else {
        old
    };
    for element in elements {
        if element["$patch"] == "replace" {
            continue;
        }
        let place = all.iter().position(|other| other[key] == element[key]);
        match (place, element["$patch"] == "delete") {
            (Some(place), true) => {
                all.remove(place);
            }
            (None, true) => {}
            (Some(place), false) => strategic(element, &mut all[place]),
            (None, false) => all.push(element.clone()),
        }
    }
    *target = Value::Array(all);
}

fn json_patch(patch: &Value, target: &mut Value) -> Result<(), Refusal> {
    let wrong = |what: String| {
        Refusal::new(
            422,
            "Invalid",
            format!("the server rejected our request due to an error in our request: {what}"),
        )
    };
    let operations = patch
        .as_array()
        .ok_or_else(|| wrong("no list of operations".to_owned()))?;
    for operation in operations {
        let path = operation["path"].as_str().unwrap_or_default().to_owned();
        let missing = || wrong(format!("{path} does not exist"));
        let value = operation["value"].clone();
        match operation["op"].as_str().unwrap_or_default() {
            "test" => {
                if target.pointer(&path) != Some(&value) {
                    return Err(wrong(format!("testing value {path} failed")));
                }
            }
            "replace" => *target.pointer_mut(&path).ok_or_else(missing)? = value,
            how @ ("add" | "remove") => {
                let (parent, last) = path.rsplit_once('/').ok_or_else(missing)?;
                let last = last.replace("~1", "/").replace("~0", "~");
                let parent = target.pointer_mut(parent).ok_or_else(missing)?;
                let done = match (parent, how) {
                    (Value::Object(map), "add") => {
                        map.insert(last, value);
                        true
                    }
                    (Value::Object(map), _) => map.remove(&last).is_some(),
                    (Value::Array(list), "add") if last == "-" => {
                        list.push(value);
                        true
                    }
                    (Value::Array(list), _) => change_list(list, &last, how, value),
                    (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_), _) => {
                        false
                    }
                };
                if !done {
                    return Err(missing());
                }
            }
            other => return Err(wrong(format!("unknown operation {other}"))),
        }
    }
    Ok(())
}

fn change_list(list: &mut Vec<Value>, place: &str, how: &str, value: Value) -> bool {
    let Some(place) = place
        .parse::<usize>()
        .ok()
        .filter(|place| *place < list.len())
    else {
        return false;
    };
    if how == "add" {
        list.insert(place, value);
    } else {
        list.remove(place);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strategic_merge_keeps_the_elements_it_does_not_name() {
        let mut node = json!({
            "metadata": {"labels": {"a": "1", "b": "2"}},
            "spec": {"taints": [{"key": "x", "effect": "NoSchedule"}]},
            "status": {"conditions": [{"type": "Ready", "status": "False"}, {"type": "DiskPressure", "status": "False"}]},
        });
        let patch = json!({
            "metadata": {"labels": {"a": null, "c": "3"}},
            "spec": {"unschedulable": true},
            "status": {"$setElementOrder/conditions": [], "conditions": [{"type": "Ready", "status": "True"}]},
        });
        apply("application/strategic-merge-patch+json", &patch, &mut node).unwrap();
        assert_eq!(node["metadata"]["labels"], json!({"b": "2", "c": "3"}));
        assert_eq!(node["spec"]["unschedulable"], true);
        assert_eq!(node["status"]["conditions"][0]["status"], "True");
        assert_eq!(node["status"]["conditions"][1]["type"], "DiskPressure");
        let delete = json!({"spec": {"taints": [{"key": "x", "$patch": "delete"}]}});
        apply("application/strategic-merge-patch+json", &delete, &mut node).unwrap();
        assert_eq!(node["spec"]["taints"], json!([]));
    }

    #[test]
    fn a_merge_patch_replaces_lists() {
        let mut object = json!({"a": [1, 2], "b": {"c": 1}});
        let patch = json!({"a": [3], "b": {"c": null, "d": 2}});
        apply("application/merge-patch+json", &patch, &mut object).unwrap();
        assert_eq!(object, json!({"a": [3], "b": {"d": 2}}));
    }

    #[test]
    fn a_json_patch_does_as_it_says_or_fails() {
        let mut object = json!({"metadata": {"annotations": {}}, "list": [1]});
        let patch = json!([
            {"op": "add", "path": "/metadata/annotations/etcd.k3s.cattle.io~1remove", "value": "true"},
            {"op": "add", "path": "/list/-", "value": 2},
            {"op": "remove", "path": "/list/0"},
        ]);
        apply("application/json-patch+json", &patch, &mut object).unwrap();
        assert_eq!(
            object["metadata"]["annotations"]["etcd.k3s.cattle.io/remove"],
            "true"
        );
        assert_eq!(object["list"], json!([2]));
        let test = json!([{"op": "test", "path": "/list/0", "value": 1}]);
        assert!(apply("application/json-patch+json", &test, &mut object).is_err());
    }
}
