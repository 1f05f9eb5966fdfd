//! Whether a pod may be evicted: disruption budgets of `policy/v1`.
//!
//! Follows `pkg/registry/core/pod/storage/eviction.go` of Kubernetes: no budget, yes; one budget,
//! only while it allows a disruption (else 429, try later); two budgets, never (500). A pod that is
//! ending or has ended is no disruption.

use serde_json::{Value, json};

use super::selector;
use crate::etcd::state::{Refusal, State};

/// The pod, if it may be evicted now.
pub(crate) fn allow(state: &State, key: &str) -> Result<Value, Refusal> {
    let pod = state
        .objects
        .get(key)
        .ok_or_else(|| Refusal::not_found(key))?;
    if !disturbs(pod) {
        return Ok(pod.clone());
    }
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
    let prefix = format!("policy/poddisruptionbudgets/{namespace}/");
    let budgets: Vec<&Value> = (state.objects.range(prefix.clone()..))
        .take_while(|(key, _)| key.starts_with(&prefix))
        .map(|(_, budget)| budget)
        .filter(|budget| selector::of_spec(&budget["spec"]["selector"]).matches(pod))
        .collect();
    match budgets.as_slice() {
        [] => Ok(pod.clone()),
        [budget] => {
            let standing = standing(state, budget);
            if standing.allowed == 0 {
                return Err(refusal(budget, &standing));
            }
            Ok(pod.clone())
        }
        _ => Err(Refusal::new(
            500,
            "InternalError",
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        )),
    }
}

fn disturbs(pod: &Value) -> bool {
    let ended = matches!(
        pod["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed" | "Pending")
    );
    pod["metadata"]["deletionTimestamp"].is_null() && !ended
}

/// How a budget stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) expected: u64,
    pub(crate) healthy: u64,
    pub(crate) desired: u64,
    pub(crate) allowed: u64,
}

/// Counts a budget's pods.
pub(crate) fn standing(state: &State, budget: &Value) -> Standing {
    let namespace = budget["metadata"]["namespace"].as_str().unwrap_or_default();
    let selector = selector::of_spec(&budget["spec"]["selector"]);
    let prefix = format!("/pods/{namespace}/");
    let pods: Vec<&Value> = (state.objects.range(prefix.clone()..))
        .take_while(|(key, _)| key.starts_with(&prefix))
        .map(|(_, pod)| pod)
        .filter(|pod| selector.matches(pod))
        .collect();
    let count = |pods: usize| u64::try_from(pods).unwrap_or(u64::MAX);
    let expected = count(pods.len());
    let healthy = count(pods.iter().filter(|pod| is_ready(pod)).count());
    let spec = &budget["spec"];
    let desired = if spec["maxUnavailable"].is_null() {
        of(&spec["minAvailable"], expected)
    } else {
        expected.saturating_sub(of(&spec["maxUnavailable"], expected))
    };
    Standing {
        expected,
        healthy,
        desired,
        allowed: healthy.saturating_sub(desired),
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let mut ready = conditions.filter(|condition| condition["type"] == "Ready");
    pod["metadata"]["deletionTimestamp"].is_null()
        && ready.any(|condition| condition["status"] == "True")
}

/// A number, or a share rounded up.
fn of(amount: &Value, whole: u64) -> u64 {
    match amount {
        Value::Number(number) => number.as_u64().unwrap_or(0),
        Value::String(text) => {
            let percent = text.trim_end_matches('%').parse::<u64>().unwrap_or(0);
            (whole * percent).div_ceil(100)
        }
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => 0,
    }
}

fn refusal(budget: &Value, standing: &Standing) -> Refusal {
    let name = budget["metadata"]["name"].as_str().unwrap_or_default();
    let mut refusal = Refusal::new(
        429,
        "TooManyRequests",
        "Cannot evict pod as it would violate the pod's disruption budget.",
    );
    refusal.details = json!({
        "causes": [{
            "reason": "DisruptionBudget",
            "message": format!(
                "The disruption budget {name} needs {} healthy pods and has {} currently",
                standing.desired, standing.healthy
            ),
        }],
    });
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(pods: usize, budgets: &[Value]) -> State {
        let mut state = State::default();
        for number in 0..pods {
            let pod = json!({
                "metadata": {"name": format!("web-{number}"), "namespace": "default", "labels": {"app": "web"}},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
            });
            state
                .objects
                .insert(format!("/pods/default/web-{number}"), pod);
        }
        for (number, spec) in budgets.iter().enumerate() {
            let mut spec = spec.clone();
            spec["selector"] = json!({"matchLabels": {"app": "web"}});
            let budget = json!({"metadata": {"name": "b", "namespace": "default"}, "spec": spec});
            let key = format!("policy/poddisruptionbudgets/default/b{number}");
            state.objects.insert(key, budget);
        }
        state
    }

    #[test]
    fn budgets_allow_and_refuse() {
        for (pods, budgets, code) in [
            (1, vec![], None),
            (2, vec![json!({"minAvailable": 1})], None),
            (1, vec![json!({"minAvailable": 1})], Some(429)),
            (3, vec![json!({"minAvailable": "67%"})], Some(429)),
            (3, vec![json!({"maxUnavailable": 1})], None),
            (3, vec![json!({"maxUnavailable": 0})], Some(429)),
            (
                3,
                vec![json!({"minAvailable": 1}), json!({"minAvailable": 1})],
                Some(500),
            ),
        ] {
            let state = state(pods, &budgets);
            let refused = allow(&state, "/pods/default/web-0").err();
            assert_eq!(
                refused.map(|refusal| refusal.code),
                code,
                "{pods} {budgets:?}"
            );
        }
    }

    #[test]
    fn a_pod_that_is_ending_counts_as_gone() {
        let mut state = state(2, &[json!({"minAvailable": 1})]);
        let first = state.objects.get_mut("/pods/default/web-0").unwrap();
        first["metadata"]["deletionTimestamp"] = json!("2025-01-01T00:00:00Z");
        assert_eq!(allow(&state, "/pods/default/web-1").unwrap_err().code, 429);
        assert!(allow(&state, "/pods/default/web-0").is_ok());
    }
}
