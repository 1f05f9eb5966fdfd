//! A cluster's kubeconfig for people elsewhere.
//!
//! Decides: that it leads to the API's virtual IP, and is called like the cluster, so that several
//! can be merged (SPEC 5.8). Never: changes who it speaks for.

use kube::config::{Kubeconfig, KubeconfigError};

/// K3s's own names for cluster, user and context.
const DEFAULT: &str = "default";

/// What K3s wrote is not what it usually writes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("K3s's kubeconfig is not understood: {reason}")]
pub struct Strange {
    /// Why.
    pub reason: String,
}

impl Strange {
    /// Stable text for programs.
    pub const fn code(&self) -> &'static str {
        "K3sKubeconfigError"
    }
}

/// The administrator's kubeconfig as K3s wrote it, for use from anywhere in the network.
///
/// # Errors
/// It is no kubeconfig of one cluster.
pub fn for_elsewhere(written: &str, endpoint: &str, cluster: &str) -> Result<String, Strange> {
    let text: String = written
        .lines()
        .map(|line| format!("{}\n", renamed(line, endpoint, cluster)))
        .collect();
    // What comes out is looked at as its readers will.
    let strange = |reason: String| Strange { reason };
    let read = Kubeconfig::from_yaml(&text).map_err(|error| strange(what_is_wrong(&error)))?;
    let [one] = read.clusters.as_slice() else {
        return Err(strange(format!(
            "it names {} clusters",
            read.clusters.len()
        )));
    };
    let server = one.cluster.as_ref().and_then(|one| one.server.as_deref());
    match (server, read.current_context.as_deref()) {
        (Some(server), Some(context)) if server == endpoint && context == cluster => Ok(text),
        (server, context) => Err(strange(format!(
            "it leads to {}, in context {}",
            server.unwrap_or("nowhere"),
            context.unwrap_or("none")
        ))),
    }
}

/// What is wrong with a kubeconfig, without a word of it: its parser shows the lines around, and one of them may
/// be a key.
pub(crate) fn what_is_wrong(error: &KubeconfigError) -> String {
    match matches!(error, KubeconfigError::Parse(_)) {
        true => "it is not written as kubeconfigs are".to_owned(),
        false => error.to_string(),
    }
}

/// Lines such as `    server: https://127.0.0.1:6443` and `- name: default`.
fn renamed(line: &str, endpoint: &str, cluster: &str) -> String {
    let Some((key, value)) = line.split_once(": ") else {
        return line.to_owned();
    };
    let word = key.trim_start_matches([' ', '-']);
    match (word, value.trim()) {
        ("server", _) => format!("{key}: {endpoint}"),
        ("name" | "cluster" | "user" | "current-context", DEFAULT) => format!("{key}: {cluster}"),
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As K3s 1.31 writes it.
    const WRITTEN: &str = "apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: Q0E=
    server: https://127.0.0.1:6443
  name: default
contexts:
- context:
    cluster: default
    user: default
  name: default
current-context: default
kind: Config
preferences: {}
users:
- name: default
  user:
    client-certificate-data: Q0VSVA==
    client-key-data: S0VZ
";

    #[test]
    fn it_leads_to_the_virtual_ip_by_the_clusters_name() {
        let endpoint = "https://[fd00::f]:6443";
        let text = for_elsewhere(WRITTEN, endpoint, "prod").unwrap();
        let read = Kubeconfig::from_yaml(&text).unwrap();
        assert_eq!(read.current_context.as_deref(), Some("prod"));
        assert_eq!(read.clusters[0].name, "prod");
        assert_eq!(read.auth_infos[0].name, "prod");
        let context = read.contexts[0].context.as_ref().unwrap();
        assert_eq!(
            (context.cluster.as_str(), read.contexts[0].name.as_str()),
            ("prod", "prod")
        );
        assert!(text.contains("client-key-data: S0VZ\n"));
        assert!(!text.contains("127.0.0.1") && !text.contains("default"));
    }

    #[test]
    fn what_is_no_kubeconfig_is_not_handed_out() {
        for strange in ["", "kind: Config\n", "server: https://127.0.0.1:6443\n"] {
            assert!(for_elsewhere(strange, "https://[::1]:6443", "prod").is_err());
        }
    }

    #[test]
    fn a_damaged_kubeconfig_is_told_of_without_its_keys() {
        let damaged = format!("{WRITTEN}  '}}: [\n");
        let error = for_elsewhere(&damaged, "https://[::1]:6443", "prod").unwrap_err();
        assert!(!error.to_string().contains("S0VZ"), "{error}");
    }
}
