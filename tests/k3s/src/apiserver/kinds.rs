//! The kinds of objects that there are, and the paths they have.

/// A kind of objects.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// Empty: the core group.
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) short: &'static [&'static str],
    pub(crate) namespaced: bool,
}

const fn kind(
    group: &'static str,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
    short: &'static [&'static str],
    namespaced: bool,
) -> Kind {
    Kind {
        group,
        version: "v1",
        plural,
        singular,
        kind,
        short,
        namespaced,
    }
}

/// All kinds, in the order of discovery.
pub(crate) const KINDS: &[Kind] = &[
    kind("", "configmaps", "configmap", "ConfigMap", &["cm"], true),
    kind("", "endpoints", "endpoints", "Endpoints", &["ep"], true),
    kind("", "events", "event", "Event", &["ev"], true),
    kind("", "namespaces", "namespace", "Namespace", &["ns"], false),
    kind("", "nodes", "node", "Node", &["no"], false),
    kind("", "pods", "pod", "Pod", &["po"], true),
    kind("", "secrets", "secret", "Secret", &[], true),
    kind(
        "",
        "serviceaccounts",
        "serviceaccount",
        "ServiceAccount",
        &["sa"],
        true,
    ),
    kind("", "services", "service", "Service", &["svc"], true),
    kind(
        "apps",
        "daemonsets",
        "daemonset",
        "DaemonSet",
        &["ds"],
        true,
    ),
    kind(
        "apps",
        "deployments",
        "deployment",
        "Deployment",
        &["deploy"],
        true,
    ),
    kind(
        "apps",
        "replicasets",
        "replicaset",
        "ReplicaSet",
        &["rs"],
        true,
    ),
    kind(
        "apps",
        "statefulsets",
        "statefulset",
        "StatefulSet",
        &["sts"],
        true,
    ),
    kind(
        "policy",
        "poddisruptionbudgets",
        "poddisruptionbudget",
        "PodDisruptionBudget",
        &["pdb"],
        true,
    ),
    kind("coordination.k8s.io", "leases", "lease", "Lease", &[], true),
    kind(
        "rbac.authorization.k8s.io",
        "clusterrolebindings",
        "clusterrolebinding",
        "ClusterRoleBinding",
        &[],
        false,
    ),
    kind(
        "rbac.authorization.k8s.io",
        "clusterroles",
        "clusterrole",
        "ClusterRole",
        &[],
        false,
    ),
    kind(
        "k3s.cattle.io",
        "etcdsnapshotfiles",
        "etcdsnapshotfile",
        "ETCDSnapshotFile",
        &[],
        false,
    ),
];

/// Groups, each once, in order.
pub(crate) fn groups() -> Vec<&'static str> {
    let mut groups: Vec<&'static str> = KINDS.iter().map(|kind| kind.group).collect();
    groups.dedup();
    groups.retain(|group| !group.is_empty());
    groups
}

impl Kind {
    /// `v1`, `apps/v1`.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Where one object is kept.
    pub(crate) fn key(&self, namespace: &str, name: &str) -> String {
        format!("{}/{}/{namespace}/{name}", self.group, self.plural)
    }

    /// Where all objects of the kind are kept, or all of a namespace.
    pub(crate) fn prefix(&self, namespace: Option<&str>) -> String {
        match namespace {
            Some(namespace) => format!("{}/{}/{namespace}/", self.group, self.plural),
            None => format!("{}/{}/", self.group, self.plural),
        }
    }

    /// `deployments.apps`, as errors name it.
    pub(crate) fn resource(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }
}

/// The kind with this plural name.
pub(crate) fn find(group: &str, plural: &str) -> Option<&'static Kind> {
    KINDS
        .iter()
        .find(|kind| kind.group == group && kind.plural == plural)
}

/// What a path is about.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) kind: &'static Kind,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
}

/// Takes `/api/v1/namespaces/default/pods/a/eviction` and its like apart.
pub(crate) fn target(path: &str) -> Option<Target> {
    let mut parts = path.trim_matches('/').split('/');
    let group = match parts.next()? {
        "api" => "",
        "apis" => parts.next()?,
        _ => return None,
    };
    let version = parts.next()?;
    let rest: Vec<&str> = parts.collect();
    let (namespace, rest) = match rest.as_slice() {
        ["namespaces", namespace, plural, rest @ ..]
            if find(group, plural).is_some_and(|kind| kind.namespaced) =>
        {
            (Some((*namespace).to_owned()), [&[*plural], rest].concat())
        }
        other => (None, other.to_vec()),
    };
    let kind = find(group, rest.first()?).filter(|kind| kind.version == version)?;
    if rest.len() > 3 || (rest.len() > 1 && kind.namespaced && namespace.is_none()) {
        return None;
    }
    Some(Target {
        kind,
        namespace,
        name: rest.get(1).map(ToString::to_string),
        subresource: rest.get(2).map(ToString::to_string),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart() {
        let eviction = target("/api/v1/namespaces/default/pods/web-1/eviction").unwrap();
        assert_eq!(eviction.kind.kind, "Pod");
        assert_eq!(eviction.namespace.as_deref(), Some("default"));
        assert_eq!(eviction.name.as_deref(), Some("web-1"));
        assert_eq!(eviction.subresource.as_deref(), Some("eviction"));
        let namespace = target("/api/v1/namespaces/default").unwrap();
        assert_eq!(
            (namespace.kind.kind, namespace.namespace),
            ("Namespace", None)
        );
        assert_eq!(
            target("/apis/apps/v1/daemonsets").unwrap().kind.kind,
            "DaemonSet"
        );
        for nothing in [
            "/api/v1/widgets",
            "/apis/apps/v2/daemonsets",
            "/version",
            "/api/v1/pods/a",
        ] {
            assert_eq!(target(nothing), None, "{nothing}");
        }
    }
}
