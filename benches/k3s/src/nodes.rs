//! A node as the API of Kubernetes gives it. Decides whether it is ready.

use serde_json::Value;

/// Whether the node of this document is ready: its condition `Ready` is true.
pub fn is_ready(document: &[u8]) -> bool {
    let node: Value = serde_json::from_slice(document).unwrap_or_default();
    let conditions = node["status"]["conditions"].as_array();
    let ready = |condition: &&Value| condition["type"] == "Ready";
    let found = conditions.and_then(|conditions| conditions.iter().find(ready));
    found.is_some_and(|condition| condition["status"] == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ready_when_that_condition_is_true() {
        let node = |status: &str| {
            let conditions = format!(
                r#"[{{"type":"DiskPressure","status":"True"}},{{"type":"Ready","status":"{status}"}}]"#
            );
            format!(r#"{{"status":{{"conditions":{conditions}}}}}"#)
        };
        assert!(is_ready(node("True").as_bytes()));
        for status in ["False", "Unknown"] {
            assert!(!is_ready(node(status).as_bytes()), "{status}");
        }
        for document in ["", "{}", r#"{"status":{"conditions":[]}}"#, "no"] {
            assert!(!is_ready(document.as_bytes()), "{document}");
        }
    }
}
